"""What is known, or expected, of everything a goal is about: what strategies that learn look at."""

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
"""Deviations below this count as it."""
FEWEST = 2
"""From fewer measurements nothing is learnt."""


class Candidates:
    """Architectures that are looked at again and again, with what never changes about them.

    Args:
        problem: Whose costs count.
        architectures: The architectures.
    """

    def __init__(self, problem: Problem, architectures: Sequence[Architecture]) -> None:
        self.problem = problem
        self.architectures = architectures
        self.encodings = Encodings(problem.space, architectures)

    def __len__(self) -> int:
        return len(self.architectures)

    @cached_property
    def keys(self) -> list[str]:
        """As `Problem.deduplication_key`, `[n]`."""
        return [self.problem.deduplication_key(architecture) for architecture in self.architectures]

    @cached_property
    def free_gains(self) -> Floats:
        """Gains of objectives that are costs, `[n, objectives]`; zeros for those that must be measured."""
        gains = np.zeros((len(self), len(self.problem.goal.objectives)))
        free = [(i, o) for i, o in enumerate(self.problem.goal.objectives) if o.metric in self.problem.free_metrics]
        if free:
            for row, architecture in enumerate(self.architectures):
                metrics = self.problem.cost(architecture).metrics()
                gains[row, [i for i, _ in free]] = [-objective.loss(metrics) for _, objective in free]
        return gains

    def take(self, chosen: NDArray[np.intp]) -> "Candidates":
        """Those at the given places `[m]`, with whatever has been computed already."""
        taken = Candidates(self.problem, [self.architectures[int(i)] for i in chosen])
        taken.encodings = self.encodings.take(chosen)
        if "free_gains" in vars(self):
            vars(taken)["free_gains"] = self.free_gains[chosen]
        return taken


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is expected of candidates; more is better throughout.

    Args:
        means: Of each objective, in the unit of its predictor or, of a cost, its own, `[n, objectives]`.
        deviations: Likewise; 0 where a figure is known.
        margins: Of each measured constraint, how far its metric keeps clear of the bound, `[n, constraints]`, in the
            unit of its predictor.
        margin_deviations: Likewise.
    """

    means: Floats
    deviations: Floats
    margins: Floats
    margin_deviations: Floats

    def feasibility(self) -> Floats:
        """The chance that every measured constraint is kept, `[n]`; 1 without any."""
        chance: Floats = np.exp(self.log_feasibility())
        return chance

    def log_feasibility(self) -> Floats:
        """Its logarithm, which tells the hopeless from the more so."""
        from scipy.special import log_ndtr

        logs: Floats = log_ndtr(self.margins / np.maximum(self.margin_deviations, LEAST)).sum(axis=1)
        return logs


class Surrogate:
    """A predictor for every metric that must be measured, and the exact figures of those that need not.

    Predictors give scores of no particular unit. What is measured is therefore looked at through them as well: a
    front that is to be improved on is that of the predictions for what was measured, which also keeps single lucky
    measurements from counting for more than they are; and the bound of a constraint is put where predictions best
    tell those that keep it from those that break it.

    Args:
        problem: What is searched.
        predictor: The registered name of what learns.
        options: Its options.

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
        """Learn from measurements, at least `FEWEST`; what was learnt before is forgotten."""
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
        """What is expected of candidates.

        Args:
            candidates: Whom to look at.
            pending: What is being measured. Outcomes as predicted would change no mean, but leave less to be unsure
                of (Ginsbourger et al., 2010, "Kriging is well-suited to parallelize optimization": the believer).
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
        """For each objective how far candidates vary together, `[n, n]`; None for one that is known exactly."""
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
    """Where to cut predictions so that the fewest keep a bound but lie below, or break it but lie above."""
    order = np.argsort(predicted, kind="stable")
    wrong = np.concatenate([[0], np.cumsum(np.where(kept[order], 1, -1))])  # kept ones below less broken ones below
    cut = int(np.argmin(wrong))
    values = predicted[order]
    span = max(float(values[-1] - values[0]), 1e-9)
    edges = np.concatenate([[values[0] - span], values, [values[-1] + span]])
    return float((edges[cut] + edges[cut + 1]) / 2)
