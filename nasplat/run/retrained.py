"""The results of a retraining, compared with the metrics from the search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, mean, stdev
from typing import Self

from nasplat.architecture import Architecture
from nasplat.objective import Objective
from nasplat.retraining import RETRAINING
from nasplat.run.history import History
from nasplat.run.source import Origin
from nasplat.task import Evaluate
from nasplat.units import figure

LEAST_RANKED = 3
"""Minimum number of members for a rank correlation."""


@dataclass(frozen=True, slots=True)
class MeanStd:
    """One metric of several trainings of one network.

    Args:
        values: One for each seed, by replicate; at least one.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        try:
            return fmean(self.values)
        except OverflowError:  # of the sum
            return mean(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation of a sample, with n - 1; None of a single value, infinite beyond the largest float."""
        try:
            return stdev(self.values) if len(self.values) > 1 else None
        except OverflowError:
            return math.inf


@dataclass(frozen=True, slots=True)
class Retrained:
    """One member, searched and retrained.

    Args:
        architecture: The member.
        origin: The search's measurement of the member; None if the run was given its code only.
        params: Number of parameters; None before the first measurement.
        searched: The value of the search's first objective, as measured in the search.
        retrained: The first objective over all completed seeds; None if no seed is complete.
        tested: The same on test data; None unless every completed seed was tested.
        begun: Number of seeds whose training was begun.
        teaches: Whether the member is the teacher of the others.
        missing: The reason why not every seed was trained to the end; empty if every seed was.
    """

    architecture: Architecture
    origin: Origin | None
    params: float | None
    searched: float | None
    retrained: MeanStd | None
    tested: MeanStd | None
    begun: int
    teaches: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Comparison:
    """All members of a retraining.

    Args:
        objective: The first objective of the retraining.
        searched: The first objective of the search; None if it is not known.
        epochs: Number of epochs at which members are compared: the maximum measured; 0 before any measurement.
        seeds: Number of seeds for each member.
        members: The members, in the order in which they were picked or begun.
    """

    objective: Objective
    searched: Objective | None
    epochs: int
    seeds: int
    members: tuple[Retrained, ...]

    @classmethod
    def of(cls, history: History) -> Self | None:
        """The comparison for a run; None if the run is no retraining, or a compression, or its members are not known.

        Raises:
            RunError: The record of the search is damaged.
        """
        options = history.run.config.strategy.options
        if history.run.config.kind != RETRAINING or options.get("originals"):
            return None
        source = history.run.source
        seeds = int(options.get("seeds", 1))
        objective = history.run.config.goal.objectives[0]
        searched = Objective.parse(source.objectives[0]) if source else None
        asked = [task for task in history.asked.values() if isinstance(task, Evaluate)]
        # A configuration may name a space by its module, where architectures have the space's own name.
        space = asked[0].architecture.space if asked else history.run.config.space.name
        replicates: dict[Architecture, set[int]] = {
            Architecture(space, code): set() for code in (source.members if source else options.get("members") or ())
        }
        for task in asked:
            replicates.setdefault(task.architecture, set()).add(task.replicate)
        if not replicates:
            return None
        teacher = asked[0].architecture if asked and options.get("teacher") else None
        members = []
        for architecture, begun in replicates.items():
            measured = [m for m in history.measured if m.architecture == architecture]
            done = sorted(
                (m for m in history.complete if m.architecture == architecture), key=lambda m: m.task.replicate
            )
            finals = [history.tested[m.id] for m in done if m.id in history.tested]
            tested = [m.metrics[objective.metric] for m in finals if objective.metric in m.metrics]
            origin = source.members.get(architecture.code) if source else None
            members.append(
                Retrained(
                    architecture,
                    origin,
                    params=measured[0].metrics.get("params") if measured else None,
                    searched=origin.metrics.get(searched.metric) if origin and searched else None,
                    retrained=MeanStd(tuple(m.metrics[objective.metric] for m in done)) if done else None,
                    tested=MeanStd(tuple(tested)) if tested and len(tested) == len(done) else None,
                    begun=len(begun),
                    teaches=architecture == teacher,
                    missing="" if len(done) >= seeds else _why_missing(history, architecture, teacher),
                )
            )
        return cls(objective, searched, max(history.fidelities, default=0), seeds, tuple(members))

    @property
    def done(self) -> int:
        """How many members were trained to the end with every seed."""
        return sum(not member.missing for member in self.members)

    @property
    def paired(self) -> list[tuple[float, float]]:
        """The searched and the mean retrained value of every member that has both."""
        return [(m.searched, m.retrained.mean) for m in self.members if m.searched is not None and m.retrained]

    @cached_property
    def spearman(self) -> float | None:
        """Spearman's rank correlation of searched and retrained values; None for fewer than three members.

        Both rankings are from best to worst, so 1 means the same order.
        """
        from scipy.stats import spearmanr

        ranked = self._ranked
        return None if ranked is None else float(spearmanr(*ranked).statistic)

    @cached_property
    def kendall(self) -> float | None:
        """Kendall's tau-b of the same values."""
        from scipy.stats import kendalltau

        ranked = self._ranked
        return None if ranked is None else float(kendalltau(*ranked).statistic)

    @property
    def _ranked(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Searched and retrained values, where lower is better; None if they cannot be ranked."""
        if self.searched is None or len(self.paired) < LEAST_RANKED:
            return None
        before = [-value if self.searched.maximize else value for value, _ in self.paired]
        after = [-value if self.objective.maximize else value for _, value in self.paired]
        if len(set(before)) == 1 or len(set(after)) == 1 or not all(map(math.isfinite, (*before, *after))):
            return None
        return before, after


def _why_missing(history: History, architecture: Architecture, teacher: Architecture | None) -> str:
    """Why a member was not trained to the end with every seed."""
    failed = {
        task.architecture: f"trial {f.id} failed ({f.kind})"
        for f in reversed(history.failures)
        if isinstance(task := f.task, Evaluate)
    }
    if architecture in failed:
        return failed[architecture]
    if history.ended is None:
        return "not yet trained to the end"
    if history.ended == "budget":
        return "the budget was spent before"
    if teacher is not None and teacher != architecture:
        return f"left out, since the teacher cannot be used: {failed.get(teacher, 'it left no weights')}"
    return "it was never measured to the end"


def title_of(comparison: Comparison) -> str:
    """How many members were trained, in a line."""
    members, epochs = len(comparison.members), comparison.epochs
    number = str(members) if comparison.done == members else f"{comparison.done} of {members}"
    after = f" after {epochs} epoch{'s' * (epochs != 1)}" if epochs else ""
    return f"Retrained: {number} member{'s' * (members != 1)}{after}"


def missing_of(comparison: Comparison) -> list[str]:
    """Which members were not trained to the end with every seed and why, in a line for each reason."""
    codes: dict[str, list[str]] = {}
    for member in comparison.members:
        if member.missing:
            codes.setdefault(member.missing, []).append(member.architecture.code)
    return [f"not trained to the end: {', '.join(of)}: {why}" for why, of in codes.items()]


def side_by_side(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The comparison as a table for people: the columns' names, and a row for each member."""
    metric = comparison.objective.metric
    searched = comparison.searched.metric if comparison.searched else None
    tested = any(member.tested for member in comparison.members)
    taught = any(member.teaches for member in comparison.members)
    columns = ["architecture", "params", f"retrained {metric}", "seeds", *(["part"] if taught else [])]
    if tested:
        columns.insert(3, f"test {metric}")
    if searched is not None:
        columns.insert(2, f"searched {searched}")
        columns.insert(0, "from trial")
    rows = []
    for member in comparison.members:
        done = len(member.retrained.values) if member.retrained else 0
        row = [
            member.architecture.code,
            "" if member.params is None else figure("params", member.params),
            spelt(metric, member.retrained),
            str(done) if done == comparison.seeds else f"{done} of {comparison.seeds}",
            *(["teacher" if member.teaches else "learner"] if taught else []),
        ]
        if tested:
            row.insert(3, spelt(metric, member.tested))
        if searched is not None:
            row.insert(2, "" if member.searched is None else figure(searched, member.searched))
            row.insert(0, str(member.origin.trial) if member.origin else "")
        rows.append(row)
    return columns, rows


def agreement_of(comparison: Comparison) -> str:
    """How well the search had ranked its members, in a line; empty where they are too few to say."""
    if comparison.spearman is None or comparison.kendall is None:
        return ""
    return (
        f"rank correlation of searched and retrained values: Spearman {comparison.spearman:.2f}, "
        f"Kendall {comparison.kendall:.2f} ({len(comparison.paired)} members)"
    )


def spelt(metric: str, values: MeanStd | None) -> str:
    """A mean over seeds with its standard deviation; empty where there is none."""
    if values is None:
        return ""
    deviation = "" if values.deviation is None else f" ± {figure(metric, values.deviation)}"
    return figure(metric, values.mean) + deviation
