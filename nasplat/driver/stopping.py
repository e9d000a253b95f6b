"""Trials that end early: rules for new tasks, from what earlier trials reported while they trained."""

from bisect import insort
from dataclasses import replace
from typing import Self

from nasplat.benchmark import Benchmark
from nasplat.config import StoppingConfig
from nasplat.curve import StopRule
from nasplat.errors import InputError
from nasplat.objective import Goal, Objective
from nasplat.task import Evaluate, Measurement, Outcome, Task


class MedianStopping:
    """The median rule: a trial ends if its best value so far is worse than the median of earlier trials at that epoch.

    After Golovin et al. (2017), "Google Vizier", sec. 3.2.2, with the values at the epoch itself instead of their
    running averages, as in Optuna's `MedianPruner`. Only trials that were measured to their end count. Unlike there, a
    trial is held against the trials that had ended when it was asked for, so that its worker decides alone; and no
    trial ends at its last epoch, when all of it has been paid for.

    Args:
        objective: The reported metric, and its direction.
        startup_trials: The number of trials that must have ended before the first rule.
        warmup_epochs: The epochs for which every trial trains.
    """

    def __init__(self, objective: Objective, *, startup_trials: int = 5, warmup_epochs: int = 0) -> None:
        self.objective = objective
        self.startup_trials = startup_trials
        self.warmup_epochs = warmup_epochs
        self._trials = 0
        self._values: dict[int, list[float]] = {}  # of all trials at an epoch, sorted

    @classmethod
    def of(cls, config: StoppingConfig, goal: Goal, benchmark: Benchmark, *, free: frozenset[str]) -> Self | None:
        """The rule of a configuration; None if it has none.

        Args:
            config: The section of the configuration.
            goal: The goal of the search.
            benchmark: The benchmark that is to stop trials.
            free: The metrics that need no measurement.

        Raises:
            InputError: There are several objectives, the objective is known without training, or the benchmark cannot
                stop trials.
        """
        if config.rule == "none":
            return None
        if len(goal.objectives) > 1 or goal.objectives[0].metric in free:
            raise InputError(
                f"stopping.rule={config.rule} compares trials by one measured objective, since a network that is worse "
                f"in one may be better in another, but the objectives are {', '.join(map(str, goal.objectives))}; "
                "leave the rule out, or search for one of them and make the others constraints"
            )
        if not benchmark.reports:
            raise InputError(
                f"stopping.rule={config.rule} needs a benchmark that reports figures while it trains, but "
                f"{type(benchmark).__name__} does not; leave the rule out, or call `report` in a function of your own"
            )
        return cls(goal.objectives[0], startup_trials=config.startup_trials, warmup_epochs=config.warmup_epochs)

    def enter(self, outcome: Outcome) -> None:
        """Take in an outcome; those of a log in its order."""
        if not isinstance(outcome, Measurement) or outcome.cached_from is not None:
            return
        self._trials += 1
        for epoch, metrics in outcome.curve.items():
            value = metrics.get(self.objective.metric)
            if value is not None and value == value:  # NaN is no value
                insort(self._values.setdefault(epoch, []), value)

    def ruled(self, task: Task) -> Task:
        """The task with the rule of now; unchanged if there is none yet."""
        if not isinstance(task, Evaluate) or self._trials < self.startup_trials:
            return task
        thresholds = tuple(
            (epoch, _median(values))
            for epoch, values in sorted(self._values.items())
            if self.warmup_epochs <= epoch < task.fidelity
        )
        if not thresholds:
            return task
        return replace(
            task, stop=StopRule(metric=self.objective.metric, maximize=self.objective.maximize, thresholds=thresholds)
        )


def _median(ordered: list[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else ordered[middle - 1] / 2 + ordered[middle] / 2
