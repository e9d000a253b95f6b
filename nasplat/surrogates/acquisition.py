"""Acquisition functions: the value of measuring an architecture, given its predictions.

All values are gains: higher is better. Predictions are normal distributions with a mean and a deviation.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST = 1e-12
"""Minimum deviation; smaller deviations are raised to it."""
SAMPLES = 128
"""Number of samples of the predictions, with three or more objectives."""
SHORTLIST = 64
"""Number of architectures whose hypervolume is sampled; the others rank below them, by the front of upper bounds."""


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """The expected improvement over `best`, `[n]` (Jones et al., 1998, "Efficient global optimization")."""
    from scipy.special import ndtr

    deviation = np.maximum(deviation, LEAST)
    z = (mean - best) / deviation
    improvement: Floats = deviation * (z * ndtr(z) + _density(z))
    return improvement


def upper_bound(mean: Floats, deviation: Floats, width: float) -> Floats:
    """The upper confidence bound, `[n]` (Srinivas et al., 2010, "Gaussian process optimization in the bandit
    setting").

    Args:
        mean: `[n]`.
        deviation: `[n]`.
        width: Number of deviations above the mean.
    """
    return mean + width * deviation


def drawn(mean: Floats, covariance: Floats, rng: Generator) -> Floats:
    """A joint sample from the posterior, `[n]`: Thompson sampling takes its best (Thompson, 1933).

    Args:
        mean: `[n]`.
        covariance: `[n, n]`, symmetric.
        rng: Draws the sample.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    scale = np.sqrt(np.maximum(values, 0.0))  # rounding can make the smallest negative
    draw: Floats = mean + vectors @ (scale * rng.standard_normal(len(mean)))
    return draw


def non_dominated(points: Floats) -> Floats:
    """The non-dominated points of `[n, objectives]`, each once, sorted by the first objective."""
    if not len(points):
        return points
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    distinct = np.unique(points, axis=0)
    front: Floats = distinct[np.sort(NonDominatedSorting().do(-distinct, only_non_dominated_front=True))]
    return front


def expected_hypervolume_improvement(
    means: Floats, deviations: Floats, front: Floats, reference: Floats, rng: Generator
) -> Floats:
    """The expected increase of the hypervolume that a front dominates above a reference point, `[n]`.

    With two objectives the integral is exact (Emmerich et al., 2011, "Hypervolume-based expected improvement"), strip
    by strip. With more, the hypervolume is computed for `SAMPLES` samples of each candidate on a shortlist, selected by
    upper bounds. A candidate that is not on it has a value close to zero, lower for later fronts.

    Args:
        means: `[n, objectives]`, independent normal distributions; a deviation of 0 means an exact value.
        deviations: `[n, objectives]`.
        front: The points to improve on, `[m, objectives]`; dominated points have no effect.
        reference: The reference point of the hypervolume, `[objectives]`.
        rng: Draws the samples, with three or more objectives.
    """
    above = front[(front > reference).all(axis=1)] if len(front) else front.reshape(0, len(reference))
    kept = non_dominated(above)
    if len(reference) == 2:
        return _two_objectives(means, deviations, kept, reference)
    return _more_objectives(means, deviations, kept, reference, rng)


def _two_objectives(means: Floats, deviations: Floats, front: Floats, reference: Floats) -> Floats:
    """Between two neighbors of the front, the new volume lies above the second coordinate of the lower one.

    On the strip of first coordinates between `edges[i]` and `edges[i + 1]`, a point (x, y) adds the part of the strip
    below x, times the excess of y over `floors[i]`. The two factors are independent, so their expectations multiply.
    Each is a difference of expected improvements.
    """
    edges = np.concatenate([[reference[0]], front[:, 0], [np.inf]])
    floors = np.concatenate([front[:, 1], [reference[1]]])
    total = np.zeros(len(means))
    first, second = means.T
    spread, other = deviations.T
    beyond = expected_improvement(first, spread, float(edges[0]))
    for low, floor in zip(edges[1:], floors, strict=True):
        further = expected_improvement(first, spread, float(low)) if np.isfinite(low) else np.zeros(len(means))
        total += (beyond - further) * expected_improvement(second, other, float(floor))
        beyond = further
    return np.maximum(total, 0.0)


def _more_objectives(means: Floats, deviations: Floats, front: Floats, reference: Floats, rng: Generator) -> Floats:
    from pymoo.indicators.hv import HV
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    optimistic = means + deviations
    worth = np.full(len(means), LEAST / (2 + len(means)))
    chosen: list[int] = []
    for place, members in enumerate(NonDominatedSorting().do(-optimistic, n_stop_if_ranked=SHORTLIST)):
        worth[members] = LEAST / (2 + place)
        chosen += members.tolist()
    volume = HV(ref_point=-reference)
    before = float(volume(-front)) if len(front) else 0.0
    noise = rng.standard_normal((SAMPLES, means.shape[1]))
    for i in chosen[:SHORTLIST]:
        points = means[i] + noise * deviations[i]
        gains = [float(volume(-np.vstack([front, point]))) - before for point in np.maximum(points, reference)]
        worth[i] = max(float(np.mean(gains)), LEAST)
    return worth


def _density(z: Floats) -> Floats:
    density: Floats = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return density
