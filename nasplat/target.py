"""Target transforms: between the scores that a predictor is fitted to and the targets that it regresses on.

A predictor predicts targets. Their inverse puts a prediction into the unit of the scores again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KNOTS = 1000
"""Maximum number of knots of `NormalScores`; more examples are thinned out."""
OUTER = 10
"""The outer one in this number of knots gives the slope beyond the ends."""


class TargetTransform(ABC):
    """An increasing function from targets to scores, `[n]` each, that JSON can represent."""

    kind: str

    @abstractmethod
    def inverse(self, targets: Floats) -> Floats:
        """The scores of targets."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """The parameters, for `transform_of`."""

    def deviations(self, targets: Floats, deviations: Floats) -> Floats:
        """The deviations of scores: half the distance from the score at one deviation below to that at one above."""
        half: Floats = (self.inverse(targets + deviations) - self.inverse(targets - deviations)) / 2
        return half


@dataclass(frozen=True)
class Line(TargetTransform):
    """Scores are `slope` · target + `offset`; by default they are the targets."""

    slope: float = 1.0
    offset: float = 0.0
    kind = "line"

    @classmethod
    def fitted(cls, targets: Floats, scores: Floats) -> Self:
        """The least-squares line. If it falls, the line that gives the targets the mean and deviation of the scores.

        So a higher target is a higher score in any case.
        """
        spread, deviation = float(targets.std()), float(scores.std())
        centered = (targets - targets.mean()) / (spread or 1.0)
        slope = float(centered @ (scores - scores.mean())) / len(scores)
        slope = (slope if slope > 0 else deviation) / (spread or 1.0)
        return cls(slope, float(scores.mean() - slope * targets.mean()))

    def inverse(self, targets: Floats) -> Floats:
        return self.slope * targets + self.offset

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "slope": self.slope, "offset": self.offset}


@dataclass(frozen=True)
class LogDistance(TargetTransform):
    """Targets are minus the logarithm of the distance to a point above the best score, in units of `unit`.

    Args:
        best: The best score.
        unit: The distance of the best score to the median.
        headroom: How far above the best the point is, in units of `unit`.
    """

    best: float
    unit: float
    headroom: float
    kind = "log distance"

    @classmethod
    def of(cls, scores: Floats, headroom: float) -> Self:
        best, median, worst = (float(each) for each in np.quantile(scores, [1, 0.5, 0]))
        return cls(best, best - median or best - worst or 1.0, headroom)

    def targets(self, scores: Floats) -> Floats:
        """The targets of scores, which are at most the best."""
        target: Floats = -np.log((self.best - scores) / self.unit + self.headroom)
        return target

    def inverse(self, targets: Floats) -> Floats:
        scores: Floats = self.best + self.unit * (self.headroom - np.exp(-targets))
        return scores

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "best": self.best, "unit": self.unit, "headroom": self.headroom}


@dataclass(frozen=True)
class NormalScores(TargetTransform):
    """Targets are `normal_scores`; the inverse interpolates between the examples, the quantiles of the scores.

    Beyond the examples it continues with the mean slope of the outer tenth of them.

    Args:
        targets: Targets of examples, increasing.
        scores: Their scores, increasing; as many.
    """

    targets: tuple[float, ...]
    scores: tuple[float, ...]
    kind = "normal scores"

    @classmethod
    def of(cls, scores: Floats) -> Self:
        values, first = np.unique(scores, return_index=True)
        targets = normal_scores(scores)[first]
        kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), KNOTS)).round().astype(int))
        return cls(tuple(targets[kept].tolist()), tuple(values[kept].tolist()))

    def inverse(self, targets: Floats) -> Floats:
        knots, values = np.array(self.targets), np.array(self.scores)
        scores: Floats = np.interp(targets, knots, values)
        if len(knots) > 1:
            outer = max(1, len(knots) // OUTER)
            lowest = (values[outer] - values[0]) / (knots[outer] - knots[0])
            highest = (values[-1] - values[-1 - outer]) / (knots[-1] - knots[-1 - outer])
            scores += lowest * np.minimum(targets - knots[0], 0.0) + highest * np.maximum(targets - knots[-1], 0.0)
        return scores

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "targets": list(self.targets), "scores": list(self.scores)}


@dataclass(frozen=True)
class MeanTransform(TargetTransform):
    """The mean of the scores by several transforms, for an ensemble whose members share a kind of target.

    Args:
        parts: The transforms of the members, at least one.
    """

    parts: tuple[TargetTransform, ...]
    kind = "mean"

    def inverse(self, targets: Floats) -> Floats:
        scores: Floats = np.mean([each.inverse(targets) for each in self.parts], axis=0)
        return scores

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "parts": [each.as_json() for each in self.parts]}


def transform_of(tree: Any) -> TargetTransform:
    """The transform that `as_json` described.

    Raises:
        ValueError: It is none, or its numbers are not those of an increasing function.
    """
    match tree:
        case {"kind": "line", "slope": slope, "offset": offset}:
            slope, offset = _numbers([slope, offset])
            if slope >= 0:
                return Line(slope, offset)
        case {"kind": "log distance", "best": best, "unit": unit, "headroom": headroom}:
            best, unit, headroom = _numbers([best, unit, headroom])
            if unit > 0 and headroom > 0:
                return LogDistance(best, unit, headroom)
        case {"kind": "normal scores", "targets": list(targets), "scores": list(scores)}:
            knots, values = _numbers(targets), _numbers(scores)
            if len(knots) == len(values) > 0 and _increase(knots) and _increase(values):
                return NormalScores(knots, values)
        case {"kind": "mean", "parts": [_, *_] as parts}:
            return MeanTransform(tuple(map(transform_of, parts)))
    raise ValueError("it has no target transform that can be read")


def normal_scores(scores: Floats) -> Floats:
    """The quantiles of a normal distribution at the ranks of scores, with ranks of ties averaged (Blom, 1958).

    So only the order is fitted, and a collapsed training is only the last in order, not far from all others.
    """
    from scipy.stats import norm, rankdata

    quantiles: Floats = norm.ppf((rankdata(scores) - 3 / 8) / (len(scores) + 1 / 4))
    return quantiles


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        raise ValueError("the parameters of a target transform are numbers")
    return tuple(map(float, values))


def _increase(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))
