"""The results of a search by the work that they are of, so that no work is done twice."""

from typing import TypeAlias

from nasplat.problem import Problem
from nasplat.task import Evaluate, Measurement, Task, needed_by

Work: TypeAlias = tuple[str, int, int]
"""The deduplication key of an architecture, a fidelity and a replicate."""


class Cache:
    """What was measured, and which tasks wait for work that is being done.

    Two evaluations are the same work if canonical key, fidelity and replicate agree and neither builds on weights of
    others.

    Args:
        problem: Says which architectures are equal.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._measured: dict[Work, Measurement] = {}
        self._waiting: dict[Work, list[Evaluate]] = {}

    def work(self, task: Task) -> Work | None:
        """What makes two evaluations the same work; None for work that is never the same."""
        if not isinstance(task, Evaluate) or needed_by(task):
            return None
        return self.problem.key(task.architecture), task.fidelity, task.replicate

    def hit(self, task: Task) -> Measurement | None:
        """The measurement that answers a task, if its work has been done.

        The answer repeats metrics, not the network: weights and costs stay with the code they belong to.
        """
        work = self.work(task)
        if work is None or work not in self._measured or not isinstance(task, Evaluate):
            return None
        found = self._measured[work]
        return Measurement(task=task, metrics=found.metrics, split=found.split, remembered=found.id)

    def waits(self, task: Task) -> bool:
        """Whether equal work is in flight, and the task waits for it; if not, its own is in flight from now on."""
        work = self.work(task)
        if work is None or not isinstance(task, Evaluate):
            return False
        if work in self._waiting:
            self._waiting[work].append(task)
            return True
        self._waiting[work] = []
        return False

    def release(self, task: Task) -> list[Evaluate]:
        """The tasks that waited for the work of a task, which has ended."""
        work = self.work(task)
        return [] if work is None else self._waiting.pop(work, [])

    def add(self, measurement: Measurement) -> None:
        """Enter a measurement; the first of each work stands."""
        work = self.work(measurement.task)
        if work is not None:
            self._measured.setdefault(work, measurement)
