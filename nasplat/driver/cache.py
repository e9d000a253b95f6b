"""The cache of a search: results by work, so that no work is done twice."""

from typing import TypeAlias

from nasplat.problem import Problem
from nasplat.task import Evaluate, Measurement, Task, needed_by

Work: TypeAlias = tuple[str, int, int]
"""The measurement key of an architecture, a fidelity and a replicate."""


class Cache:
    """The measurements so far, and the tasks that wait for equal work in flight.

    Two evaluations are the same work if measurement key, fidelity and replicate agree and neither uses the weights of
    other tasks. The measurement key is the canonical key; with the code, if the goal names a metric of the code.

    Args:
        problem: Decides which architectures are duplicates.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._measured: dict[Work, Measurement] = {}
        self._waiting: dict[Work, list[Evaluate]] = {}

    def work(self, task: Task) -> Work | None:
        """The cache key of a task; None for a task that is never the same work as another."""
        if not isinstance(task, Evaluate) or needed_by(task):
            return None
        return self.problem.measurement_key(task.architecture), task.fidelity, task.replicate

    def hit(self, task: Task) -> Measurement | None:
        """The measurement that answers a task, on a cache hit; else None.

        The answer repeats the metrics, not the network: weights, costs and metrics of the code belong to the code
        that was measured.
        """
        work = self.work(task)
        if work is None or work not in self._measured or not isinstance(task, Evaluate):
            return None
        found = self._measured[work]
        metrics = found.metrics
        if found.architecture != task.architecture:
            metrics = {name: value for name, value in metrics.items() if name not in self.problem.code_metrics}
        return Measurement(task=task, metrics=metrics, split=found.split, cached_from=found.id)

    def waits(self, task: Task) -> bool:
        """Whether the task waits for equal work in flight; if not, its own work is in flight from now on."""
        work = self.work(task)
        if work is None or not isinstance(task, Evaluate):
            return False
        if work in self._waiting:
            self._waiting[work].append(task)
            return True
        self._waiting[work] = []
        return False

    def release(self, task: Task) -> list[Evaluate]:
        """The tasks that waited for the work of a task that has ended."""
        work = self.work(task)
        return [] if work is None else self._waiting.pop(work, [])

    def add(self, measurement: Measurement) -> None:
        """Add a measurement; the first one for each key is kept."""
        work = self.work(measurement.task)
        if work is not None:
            self._measured.setdefault(work, measurement)
