"""What comparisons of fronts share: which members stand for one, their hypervolume, and how sure a difference is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from scipy import stats

ALLOWED = 0.02
"""Of the baseline's mean; a difference whose interval reaches no lower is "at least equal"."""


def spread(prices: Mapping[str, float], most: int) -> list[str]:
    """At most so many codes, those nearest to even steps in the logarithm of their prices, both ends included."""
    left = {code: math.log(price) for code, price in prices.items()}
    chosen = []
    for target in np.linspace(min(left.values()), max(left.values()), min(most, len(left))):
        chosen.append(min(left, key=lambda code: abs(left[code] - target)))
        del left[chosen[-1]]
    return chosen


def nearest(prices: Mapping[str, float], targets: Iterable[float]) -> list[str]:
    """For each target the code nearest to it in the logarithm of its price, each once."""
    left = {code: math.log(price) for code, price in prices.items()}
    chosen = []
    for target in targets:
        chosen.append(min(left, key=lambda code: abs(left[code] - math.log(target))))
        del left[chosen[-1]]
    return chosen


def hypervolumes(groups: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Each group's hypervolume, of pairs of an accuracy and a price.

    Accuracy and the logarithm of the price are scaled between the ideal and the nadir of the union of all groups'
    fronts; the reference point is 1.1 each.
    """
    losses = {name: _losses(pairs) for name, pairs in groups.items()}
    union = np.concatenate([_front(points) for points in losses.values()])
    ideal, span = union.min(axis=0), np.ptp(union, axis=0)
    span[span == 0] = 1.0  # of a front that is one point
    measure = HV(ref_point=np.array([1.1, 1.1]))
    return {name: float(measure((points - ideal) / span)) for name, points in losses.items()}


def _losses(pairs: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    return np.array([[1 - accuracy, math.log(price)] for accuracy, price in pairs])


def _front(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those that no other dominates."""
    front: NDArray[np.float64] = points[NonDominatedSorting().do(points, only_non_dominated_front=True)]
    return front


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much a group's figures are above a baseline's, seed by seed.

    Args:
        mean: Of the paired differences.
        low: Where their 95 % interval begins, by Student's t; not a number for one seed.
        high: Where it ends.
        baseline: The mean of the baseline's figures.
    """

    mean: float
    low: float
    high: float
    baseline: float

    @classmethod
    def of(cls, figures: Sequence[float], baseline: Sequence[float]) -> "Gain":
        """The gain of paired figures."""
        gains = np.array(figures) - np.array(baseline)
        low, high = math.nan, math.nan
        if len(gains) > 1:
            low, high = map(float, stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains)))
        return cls(float(gains.mean()), low, high, float(np.mean(baseline)))

    @property
    def at_least_equal(self) -> bool:
        return self.low > -ALLOWED * self.baseline

    @property
    def better(self) -> bool:
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"
