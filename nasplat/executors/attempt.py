"""One attempt at a task on Ray workers, and the answers of the workers that share it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray.exceptions import RayError

from nasplat.executors.worker_pool import Slot
from nasplat.task import Failure, Outcome, Task


@dataclass(eq=False, slots=True)
class Attempt:
    """One attempt at a task: the slots of the workers that share it, rank 0 first, and the answer from each.

    A task that is not shared has one slot. In a shared task, the success of rank 0 is the success of the attempt.
    Without it, a worker failure takes precedence over the outcomes that workers report, and a cause over its effects.
    """

    task: Task
    slots: list[Slot]
    until: float  # when workers that still run the task are killed
    since: float = field(default_factory=time.monotonic)
    answers: dict[Slot, Outcome | RayError] = field(default_factory=dict)
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    first_to_fail: Slot | None = None  # the first worker that reported a failure

    @property
    def complete(self) -> bool:
        return len(self.answers) == len(self.slots)

    @property
    def decided(self) -> bool:
        """Whether the answers that are still missing can hardly change the result."""
        failed = any(isinstance(answer, Failure | RayError) for answer in self.answers.values())
        return self.slots[0] in self.answers or failed

    @property
    def succeeded(self) -> bool:
        return not isinstance(self.answers.get(self.slots[0], None), Failure | RayError | None)

    def worker_failures(self) -> list[tuple[Slot, RayError]]:
        """The failed workers and their errors, in the order in which they became known."""
        return [(slot, answer) for slot, answer in self.answers.items() if isinstance(answer, RayError)]

    def seconds(self) -> float:
        """Device time of all workers that share the task."""
        elapsed = time.monotonic() - self.since
        answers = [self.answers.get(slot) for slot in self.slots]
        return sum(
            elapsed if answer is None or isinstance(answer, RayError) else answer.spent.seconds for answer in answers
        )
