"""The surrogate of a goal: exact or predicted values of every metric in objectives and constraints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.objective import Constraint, Objective
from nasplat.options import complete
from nasplat.predictor import Predictor, UncertainPredictor
from nasplat.problem import Problem
from nasplat.registry import PREDICTORS

Floats = NDArray[np.float64]

LEAST = 1e-12
"""Minimum deviation; smaller deviations are raised to it."""
FEWEST = 2
"""Minimum number of measurements for a fit."""


class Candidates:
    """Architectures that are scored repeatedly, with their constant properties cached.

    Args:
        problem: The problem that defines the costs.
        architectures: The architectures.
    """

    def __init__(self, problem: Problem, architectures: Sequence[Architecture]) -> None:
        self.problem = problem
        self.architectures = architectures
        self.encodings = Encodings(problem.space, architectures)
        self._whole: tuple[Candidates, NDArray[np.intp]] | None = None

    def __len__(self) -> int:
        return len(self.architectures)

    @cached_property
    def keys(self) -> list[str]:
        """The `Problem.deduplication_key` of each, `[n]`."""
        return [self.problem.deduplication_key(architecture) for architecture in self.architectures]

    @cached_property
    def free_gains(self) -> Floats:
        """Gains of analytic (free) objectives, `[n, objectives]`; zeros for objectives that must be measured."""
        if self._whole:
            whole, chosen = self._whole
            return whole.free_gains[chosen]
        gains = np.zeros((len(self), len(self.problem.goal.objectives)))
        free = [(i, o) for i, o in enumerate(self.problem.goal.objectives) if o.metric in self.problem.free_metrics]
        if free:
            for row, architecture in enumerate(self.architectures):
                metrics = self.problem.cost(architecture).metrics()
                gains[row, [i for i, _ in free]] = [-objective.loss(metrics) for _, objective in free]
        return gains

    def view(self, chosen: NDArray[np.intp]) -> "Candidates":
        """The candidates at the given indices `[m]`; what they need is computed for all, once for all views."""
        view = Candidates(self.problem, [self.architectures[int(i)] for i in chosen])
        view.encodings = self.encodings.view(chosen)
        view._whole = self, chosen
        return view


@dataclass(frozen=True, slots=True)
class Posterior:
    """Predictions for candidates; higher is always better.

    Args:
        means: The mean of each objective, `[n, objectives]`, in the unit of its predictor; a cost has its own unit.
        deviations: The deviation of each objective, `[n, objectives]`; 0 for exact values.
        margins: The constraint margin of each measured constraint, `[n, constraints]`: the distance of its metric from
            the bound, in the unit of its predictor.
        margin_deviations: The deviation of each constraint margin, `[n, constraints]`.
    """

    means: Floats
    deviations: Floats
    margins: Floats
    margin_deviations: Floats

    def feasibility(self) -> Floats:
        """Probability of feasibility: that every measured constraint is satisfied, `[n]`; 1 without constraints."""
        chance: Floats = np.exp(self.log_feasibility())
        return chance

    def log_feasibility(self) -> Floats:
        """Logarithm of the probability of feasibility; it still differs where the probability is close to 0."""
        from scipy.special import log_ndtr

        logs: Floats = log_ndtr(self.margins / np.maximum(self.margin_deviations, LEAST)).sum(axis=1)
        return logs


class Surrogate:
    """A predictor for every metric that must be measured, and the exact values of analytic (free) metrics.

    The scores of predictors have no fixed unit. So measured architectures are represented by their predictions, too.
    The front to improve on is the front of the predictions for the measured architectures; this also limits the effect
    of single lucky measurements. The bound of a constraint is placed where predictions best separate architectures
    that satisfy it from those that violate it.

    Args:
        problem: The search problem.
        predictor: The registered name of the predictor.
        options: The options of the predictor.

    Raises:
        InputError: The name or an option is unknown.
    """

    def __init__(self, problem: Problem, predictor: str, options: Mapping[str, Any]) -> None:
        self.problem = problem
        kind = PREDICTORS.get(predictor)
        given = complete("predictor_options", kind, dict(options))
        wanted: list[Objective | Constraint] = [*problem.goal.objectives, *problem.goal.constraints]
        self._learnt: dict[str, Predictor] = {
            _name(each): kind(problem.space, **given) for each in wanted if each.metric not in problem.free_metrics
        }
        self._thresholds: dict[str, float] = {}

    def fit(self, measured: Candidates, metrics: Sequence[Mapping[str, float]]) -> None:
        """Fit to measurements, at least `FEWEST`; an earlier fit is replaced."""
        for objective in self.problem.goal.objectives:
            if _name(objective) in self._learnt:
                scores = np.array([-objective.loss(each) for each in metrics], dtype=np.float64)
                self._learnt[_name(objective)].fit(measured.encodings, scores)
        for constraint in self.problem.goal.constraints:
            values = np.array([each[constraint.metric] for each in metrics], dtype=np.float64)
            scores = -values if constraint.upper else values
            predictor = self._learnt[_name(constraint)].fit(measured.encodings, scores)
            kept = np.array([constraint.excess(each) == 0 for each in metrics])
            self._thresholds[_name(constraint)] = _threshold(predictor.predict(measured.encodings), kept)

    def posterior(self, candidates: Candidates, pending: Candidates | None = None) -> Posterior:
        """The posterior of candidates.

        Args:
            candidates: The candidates.
            pending: The architectures in work. They use the kriging believer (Ginsbourger et al., 2010, "Kriging is
                well-suited to parallelize optimization"): outcomes equal to the predictions change no mean, but lower
                the variance.
        """
        goal, n = self.problem.goal, len(candidates)
        means, deviations = candidates.free_gains.copy(), np.zeros((n, len(goal.objectives)))
        for i, objective in enumerate(goal.objectives):
            if _name(objective) in self._learnt:
                means[:, i], deviations[:, i] = self._predicted(_name(objective), candidates, pending)
        margins, unsure = np.zeros((2, n, len(goal.constraints)))
        for i, constraint in enumerate(goal.constraints):
            margins[:, i], unsure[:, i] = self._predicted(_name(constraint), candidates, pending)
            margins[:, i] -= self._thresholds[_name(constraint)]
        return Posterior(means, deviations, margins, unsure)

    def covariance(self, candidates: Candidates) -> list[Floats | None]:
        """For each objective the covariance of the candidates, `[n, n]`; None for an exact (analytic) objective."""
        found: list[Floats | None] = []
        for objective in self.problem.goal.objectives:
            predictor, views = self._learnt.get(_name(objective)), candidates.encodings
            found.append(predictor.covariance(views, views) if isinstance(predictor, UncertainPredictor) else None)
        return found

    def _predicted(self, name: str, candidates: Candidates, pending: Candidates | None) -> tuple[Floats, Floats]:
        predictor = self._learnt[name]
        if not isinstance(predictor, UncertainPredictor):
            mean = predictor.predict(candidates.encodings)
            return mean, np.zeros_like(mean)
        mean, deviation = predictor.predict_with_deviation(candidates.encodings)
        if pending:
            shared = predictor.covariance(candidates.encodings, pending.encodings)  # [n, pending]
            among = predictor.covariance(pending.encodings, pending.encodings)
            among += max(float(among.diagonal().max()), 1e-12) * 1e-6 * np.eye(len(pending))
            told = np.einsum("np,np->n", shared, np.linalg.solve(among, shared.T).T)
            deviation = np.sqrt(np.maximum(deviation**2 - told, 0.0))
        return mean, deviation


def _name(wanted: Objective | Constraint) -> str:
    return str(wanted)


def _threshold(predicted: Floats, kept: NDArray[np.bool_]) -> float:
    """The threshold of predictions with the fewest errors: bound kept but below it, or violated but above it."""
    order = np.argsort(predicted, kind="stable")
    wrong = np.concatenate([[0], np.cumsum(np.where(kept[order], 1, -1))])  # kept below minus violated below
    cut = int(np.argmin(wrong))
    values = predicted[order]
    span = max(float(values[-1] - values[0]), 1e-9)
    edges = np.concatenate([[values[0] - span], values, [values[-1] + span]])
    return float((edges[cut] + edges[cut + 1]) / 2)
