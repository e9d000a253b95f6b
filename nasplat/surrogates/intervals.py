"""Coverage of a predictor's intervals, and the factor of its deviations that corrects it.

A predictor estimates a score by a value and a standard deviation. Its central interval of level p is the normal one:
value ± Phi⁻¹((1 + p) / 2) · deviation. The coverage is the share of held-out scores in it; of honest intervals it is p.

The correction is one factor of all deviations: locally weighted split conformal prediction (Lei, G'Sell, Rinaldo,
Tibshirani and Wasserman, 2018, Journal of the American Statistical Association 113) with the predictor's deviations as
weights. It is cross-fitted: the factor of a fold is fitted to the other folds.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasplat.proportion import half_width

Floats = NDArray[np.float64]

LEVELS = (0.5, 0.9, 0.95)
"""The levels of the intervals whose coverage is reported."""
CORRECTED_LEVEL = 0.9
"""The level that a factor is fitted for. A quantile does not depend on how wrong the worst estimates are."""
FOLDS = 5
"""Number of folds of the cross-fitting; fewer if there are fewer groups."""
ROUNDING = 1e-9
"""Relative tolerance at the ends of intervals, so that the example that fixes a factor lies in its own interval."""


def ratios(values: Floats, deviations: Floats, scores: Floats) -> Floats:
    """Absolute errors in units of the deviations, `[n]`. With a deviation of 0, 0 for an exact value, else infinity."""
    errors = np.abs(scores - values)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        divided: Floats = np.where(errors == 0, 0.0, errors / deviations)
    return divided


def covered(errors: Floats, factor: float | Floats = 1.0) -> NDArray[np.bool_]:
    """Whether errors, as `ratios`, lie in the intervals of all `LEVELS`, `[n, levels]`.

    Args:
        errors: The result of `ratios`, `[n]`.
        factor: What deviations are multiplied by: one number, or one for each error, `[n]`.
    """
    widths = np.array([half_width(level) for level in LEVELS])
    ends = np.broadcast_to(np.asarray(factor), errors.shape)[:, None] * widths * (1 + ROUNDING)
    inside: NDArray[np.bool_] = errors[:, None] <= ends
    return inside


def fitted_factor(errors: Floats, level: float = CORRECTED_LEVEL) -> float:
    """The factor of the deviations with which the interval of a level covers this share of further errors.

    The interval must reach the ⌈(n + 1) · level⌉-th smallest of n errors. Then it covers a further exchangeable error
    with at least this probability, whatever the distribution. Infinity if there are too few errors for the level, 9 for
    .9, or if too many are infinite.
    """
    n = len(errors)
    rank = ceil((n + 1) * Fraction(str(level)))  # .9 as a float is more than 9/10
    return inf if rank > n else float(np.partition(errors, rank - 1)[rank - 1]) / half_width(level)


def folds_of(groups: NDArray[Any], folds: int = FOLDS) -> NDArray[np.intp]:
    """The fold of each example, `[n]`: equal groups share a fold, and groups take turns in order of appearance.

    So the folds are as random as the order is.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))
    fold: NDArray[np.intp] = place[group] % folds
    return fold


def cross_fitted(errors: Floats, fold: NDArray[np.intp]) -> Floats:
    """For each error the factor that is fitted to all other folds, `[n]`."""
    factors = np.empty(len(errors))
    for each in np.unique(fold):
        factors[fold == each] = fitted_factor(errors[fold != each])
    return factors


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many held-out scores lie in a predictor's intervals, before and after the correction.

    Args:
        n: Number of held-out scores.
        inside: How many lie in the interval of each of `LEVELS`; None if there are no intervals.
        factor: Mean over the folds of the factor that deviations are multiplied by; None without a correction.
        corrected: As `inside`, each score with the factor of the other folds; None without a correction.
        problem: Why there are no intervals, or no correction; empty if there are both.
    """

    n: int = 0
    inside: tuple[int, ...] | None = None
    factor: float | None = None
    corrected: tuple[int, ...] | None = None
    problem: str = ""

    @classmethod
    def of(cls, values: Floats, deviations: Floats, scores: Floats, groups: NDArray[Any]) -> "Coverage":
        """Count the scores in intervals.

        Args:
            values: Estimates of the scores, `[n]`.
            deviations: Their standard deviations, in the same unit, `[n]`.
            scores: The measured scores, in random order, `[n]`.
            groups: Scores of one group, such as those of duplicates, are not independent, `[n]`: a factor is not fitted
                to one and applied to the other.
        """
        n = len(scores)
        if not n:
            return cls(problem="every held-out architecture has a duplicate in the training set")
        if not (np.isfinite(values).all() and np.isfinite(deviations).all() and (deviations >= 0).all()):
            return cls(n=n, problem="not every estimate and deviation is finite, or a deviation is negative")
        errors = ratios(values, deviations, scores)
        inside = _counts(covered(errors))
        fold = folds_of(groups)
        factors = cross_fitted(errors, fold)
        factor = float(np.mean([factors[fold == each][0] for each in np.unique(fold)]))
        if not isfinite(factor):
            few = "too few held-out architectures to fit a factor of the deviations"
            zero = "too many deviations are 0 to be corrected by a factor"
            return cls(n=n, inside=inside, problem=few if np.isfinite(errors).all() else zero)
        return cls(n=n, inside=inside, factor=factor, corrected=_counts(covered(errors, factors)))


def _counts(inside: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(inside.sum(axis=0).tolist())
