"""The goal of a search: objectives to improve, constraints to satisfy, and the non-dominated front."""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np

from nasplat.errors import InputError
from nasplat.metric import COST_UNITS, FRACTION, Metric
from nasplat.task import Measurement


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric and the direction that is better.

    Args:
        metric: The name of a cost or of a measured metric.
        maximize: Whether higher values are better.
    """

    metric: str
    maximize: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``accuracy:max`` or ``params:min``.

        >>> Objective.parse("params:min")
        Objective(metric='params', maximize=False)

        Raises:
            InputError: The text has another form.
        """
        match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*:\s*(max|min)\s*", text)
        if match is None:
            raise InputError(f"an objective must be METRIC:max or METRIC:min, such as accuracy:max, but got {text!r}")
        return cls(match[1], match[2] == "max")

    def __str__(self) -> str:
        return f"{self.metric}:{'max' if self.maximize else 'min'}"

    def check_direction(self) -> None:
        """Check that the direction does not contradict the metric's name, for a new search.

        Costs may be maximized: more parameters are a simple proxy of accuracy.

        Raises:
            InputError: It does, as in ``loss:max``.
        """
        known = Metric.known(self.metric)
        if known is not None and known.maximize != self.maximize and known.unit not in COST_UNITS:
            raise InputError(
                f"{known.comparative} {self.metric} is better, but the objective is {self}; write "
                f"{self.metric}:{'max' if known.maximize else 'min'}"
            )

    def loss(self, metrics: Mapping[str, float]) -> float:
        """The metric's value, negated if higher is better, so that lower is always better."""
        value = metrics[self.metric]
        return -value if self.maximize else value


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on a metric.

    Args:
        metric: The name of a cost or of a measured metric.
        upper: Whether the bound is the largest allowed value; if not, it is the smallest.
        bound: The bound; a value equal to it is allowed.
    """

    metric: str
    upper: bool
    bound: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``params<=5e6`` or ``accuracy>=0.9``.

        >>> Constraint.parse("params <= 5e6")
        Constraint(metric='params', upper=True, bound=5000000.0)

        Raises:
            InputError: The text has another form, or the bound is not a finite number, or not a possible fraction.
        """
        match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*(<=|>=)\s*(\S+)\s*", text)
        try:
            bound = float(match[3]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or not math.isfinite(bound):
            raise InputError(
                "a constraint must be METRIC<=NUMBER or METRIC>=NUMBER, such as 'params<=5e6' (in quotes), "
                f"but got {text!r}"
            )
        known = Metric.known(match[1])
        if known is not None and known.unit == FRACTION and "accuracy" in match[1] and not 0 <= bound <= 1:
            raise InputError(
                f"{match[1]} must be a fraction between 0 and 1, but got {text!r}; "
                f"for {bound:g} % write {match[1]}{match[2]}{bound / 100:g}"
            )
        return cls(match[1], match[2] == "<=", bound)

    def __str__(self) -> str:
        return f"{self.metric}{'<=' if self.upper else '>='}{self.bound:.15g}"

    def excess(self, metrics: Mapping[str, float]) -> float:
        """How far the metric exceeds the bound, relative to the bound's size; 0 if the constraint is satisfied."""
        value = metrics[self.metric]
        if math.isnan(value):
            return math.inf
        beyond = value - self.bound if self.upper else self.bound - value
        return max(0.0, beyond) / max(abs(self.bound), 1e-12)


@dataclass(frozen=True, slots=True)
class Goal:
    """Objectives, together with the constraints that act in selection.

    Args:
        objectives: At least one; single-objective strategies use the first.
        constraints: Bounds that a measurement should satisfy.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if not self.objectives:
            raise InputError(
                "a search needs at least one objective, such as --objective accuracy:max (objectives='accuracy:max')"
            )
        names = [objective.metric for objective in self.objectives]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise InputError(f"a metric can be an objective only once, but {', '.join(sorted(twice))} is given twice")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics in objectives and constraints."""
        return tuple(wanted.metric for wanted in self.objectives) + tuple(wanted.metric for wanted in self.constraints)

    def losses(self, measurement: Measurement) -> tuple[float, ...]:
        """The loss of each objective; lower is better."""
        return tuple(objective.loss(measurement.metrics) for objective in self.objectives)

    def violation(self, measurement: Measurement) -> float:
        """The sum of all relative excesses; 0 for a measurement that satisfies every constraint."""
        return sum(constraint.excess(measurement.metrics) for constraint in self.constraints)

    def better(self, a: Measurement, b: Measurement) -> bool:
        """Whether `a` dominates `b`: lower violation; or equal violation, no objective worse and one better.

        This is constrained domination (Deb et al., 2002, "A fast and elitist multiobjective genetic
        algorithm: NSGA-II", sec. VI). With one objective and no constraint it means: strictly better.
        """
        if self.constraints:
            excess_a, excess_b = self.violation(a), self.violation(b)
            if excess_a != excess_b:
                return excess_a < excess_b
        losses_a, losses_b = self.losses(a), self.losses(b)
        return losses_a != losses_b and all(map(operator.le, losses_a, losses_b))

    def better_first(self, a: Measurement, b: Measurement) -> bool:
        """Whether `a` comes before `b`: by fidelity, then by constraint violation, then by the first objective."""
        return self._place(a)[:3] < self._place(b)[:3]

    def ranked(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        """Sort, best first: by fidelity, then by constraint violation, then by the objectives in order."""
        return sorted(measurements, key=self._place)

    def _place(self, m: Measurement) -> tuple[float, ...]:
        return (-m.task.fidelity, self.violation(m), *self.losses(m))

    def front(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        """The non-dominated measurements that satisfy every constraint, sorted by the first objective.

        Only those at the highest fidelity among them are compared: a network in the middle of its training does not
        show its final metrics. Cache hits are left out, since they repeat a measurement. Of architectures with equal
        metrics only the first stays.
        """
        highest = max((m.task.fidelity for m in measurements), default=0)
        kept = [
            m for m in measurements if m.task.fidelity == highest and m.cached_from is None and not self.violation(m)
        ]
        if not kept:
            return []
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

        losses, first = np.unique(np.array([self.losses(m) for m in kept]), axis=0, return_index=True)
        best = NonDominatedSorting().do(losses, only_non_dominated_front=True)
        return sorted((kept[first[i]] for i in best), key=self.losses)


def knee(goal: Goal, front: Sequence[Measurement]) -> Measurement:
    """The member of a front that is nearest to the ideal point, with each objective scaled to [0, 1] over the front.

    Counts and times span orders of magnitude, so their logarithms are compared. Metrics that can be zero or negative
    are compared without the logarithm.

    Raises:
        InputError: The front is empty.
    """
    if not front:
        raise InputError("an empty front has no knee")
    losses = np.array([goal.losses(m) for m in front])
    for column, objective in enumerate(goal.objectives):
        if not objective.maximize and (losses[:, column] > 0).all():
            losses[:, column] = np.log(losses[:, column])
    span = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)
    return front[int(np.argmin((scaled**2).sum(axis=1)))]


def bins(goal: Goal, front: Sequence[Measurement], number: int) -> list[Measurement]:
    """Members of a front from the smallest to the largest: the best of each range of sizes, and both ends.

    The first objective decides which member is best; the second is the size. The sizes from the smallest to the
    largest, both included, are cut into equal ranges; a size on an edge belongs to the range above. A range without
    a member gives none. The smallest and the largest member are included even if they are not the best of their
    ranges. With two objectives one of them always is the best, so there are at most `number` + 1 members; with more
    objectives at most `number` + 2.

    Args:
        goal: At least two objectives.
        front: Members that do not dominate one another.
        number: Number of ranges, at least 1.

    Raises:
        InputError: There is no second objective, there is no range, or the front is empty.
    """
    if len(goal.objectives) < 2:
        raise InputError(
            f"bins are ranges of the second objective, but the only objective is {goal.objectives[0]}; pick best"
        )
    if number < 1:
        raise InputError(f"the number of bins must be at least 1, but got {number}")
    if not front:
        raise InputError("an empty front has no bins")
    metric = goal.objectives[1].metric

    def size(m: Measurement) -> Fraction:
        return Fraction(m.metrics[metric])  # exact, so that rounding neither moves an edge nor drops an end

    best_first = sorted(front, key=goal.losses)
    smallest, largest = min(map(size, front)), max(map(size, front))
    step = (largest - smallest) / number or Fraction(1)  # any step, if all members have one size
    taken: dict[int, Measurement] = {}
    for m in best_first:
        taken.setdefault(min(int((size(m) - smallest) / step), number - 1), m)
    ends = [next(m for m in best_first if size(m) == end) for end in (smallest, largest)]
    picked = {m.id: m for m in (*taken.values(), *ends)}
    return sorted(picked.values(), key=lambda m: (m.metrics[metric], goal.losses(m)))
