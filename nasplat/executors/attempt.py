"""One attempt at a task on Ray workers, and how often workers failed under it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError

from nasplat.task import Failure, Outcome, Task


@dataclass(eq=False, slots=True)
class Slot:
    """A worker slot: the actor, the worker's name once it is up, and the time since which it works or is idle."""

    actor: Any  # an actor's methods are made at run time, which types cannot follow
    worker: str = ""
    prepared: bool = False
    since: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """How long the worker has been at work, or idle."""
        return time.monotonic() - self.since


@dataclass(eq=False, slots=True)
class Attempt:
    """One attempt at a task: the slots of the workers that share it, rank 0 first, and the outcome from each.

    A task that is not shared has one slot. In a shared task, the success of rank 0 is the success of the attempt.
    Without it, a worker failure takes precedence over the outcomes that workers report, and a cause over its effects.
    """

    task: Task
    slots: list[Slot]
    until: float  # when workers that still run the task are killed
    since: float = field(default_factory=time.monotonic)
    told: dict[Slot, Outcome | RayError] = field(default_factory=dict)
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    culprit: Slot | None = None  # the worker that failed first

    @property
    def complete(self) -> bool:
        return len(self.told) == len(self.slots)

    @property
    def decided(self) -> bool:
        """Whether the outcomes that are still missing can hardly change the result."""
        return self.slots[0] in self.told or any(isinstance(said, Failure | RayError) for said in self.told.values())

    @property
    def succeeded(self) -> bool:
        return not isinstance(self.told.get(self.slots[0], None), Failure | RayError | None)

    def worker_failures(self) -> list[tuple[Slot, RayError]]:
        """The failed workers and their errors, in the order in which they became known."""
        return [(slot, said) for slot, said in self.told.items() if isinstance(said, RayError)]

    def seconds(self) -> float:
        """Device time of all workers that share the task."""
        said = [self.told.get(slot) for slot in self.slots]
        elapsed = time.monotonic() - self.since
        return sum(elapsed if told is None or isinstance(told, RayError) else told.spent.seconds for told in said)


@dataclass(slots=True)
class WorkerFailures:
    """Number of workers that died, and of nodes that were lost, under one task."""

    deaths: int = 0
    losses: int = 0
