"""One attempt at a task on Ray workers, and how often workers failed under it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError

from nasplat.task import Failure, Outcome, Task


@dataclass(eq=False, slots=True)
class Slot:
    """A worker slot: the actor, the worker's name once it is up, and since when it works or is idle."""

    actor: Any  # an actor's methods are made at run time, which types cannot follow
    worker: str = ""
    prepared: bool = False
    since: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """How long the worker has been at work, or idle."""
        return time.monotonic() - self.since


@dataclass(eq=False, slots=True)
class Attempt:
    """One attempt at a task: the slots of the workers that share it, rank 0 first, and what each has told of it.

    A task that is not shared has one slot. Where it is, the success of rank 0 is that of all; otherwise the failure
    of a worker counts before what any of them tells, and the cause before its effects.
    """

    task: Task
    slots: list[Slot]
    until: float  # when those that are still at it are killed
    since: float = field(default_factory=time.monotonic)
    told: dict[Slot, Outcome | RayError] = field(default_factory=dict)
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    culprit: Slot | None = None  # who failed first

    @property
    def complete(self) -> bool:
        return len(self.told) == len(self.slots)

    @property
    def decided(self) -> bool:
        """Whether what the others may still tell can hardly change anything."""
        return self.slots[0] in self.told or any(isinstance(said, Failure | RayError) for said in self.told.values())

    @property
    def succeeded(self) -> bool:
        return not isinstance(self.told.get(self.slots[0], None), Failure | RayError | None)

    def worker_failures(self) -> list[tuple[Slot, RayError]]:
        """Which workers failed, and by what error, in the order in which it became known."""
        return [(slot, said) for slot, said in self.told.items() if isinstance(said, RayError)]

    def seconds(self) -> float:
        """Device time of all who share it."""
        said = [self.told.get(slot) for slot in self.slots]
        elapsed = time.monotonic() - self.since
        return sum(elapsed if told is None or isinstance(told, RayError) else told.spent.seconds for told in said)


@dataclass(slots=True)
class WorkerFailures:
    """How often workers died, and nodes were lost, under one task."""

    deaths: int = 0
    losses: int = 0
