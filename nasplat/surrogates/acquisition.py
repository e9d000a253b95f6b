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
"""Number of architectures whose hypervolume is sampled: those whose upper bounds would add most."""


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """The expected improvement over `best`, `[n]` (Jones et al., 1998, "Efficient global optimization")."""
    from scipy.special import ndtr

    deviation = np.maximum(deviation, LEAST)
    z = (mean - best) / deviation
    improvement: Floats = deviation * (z * ndtr(z) + _density(z))
    return improvement


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


def hypervolume_gains(points: Floats, front: Floats, reference: Floats) -> Floats:
    """The hypervolume above a reference point that each point adds to that of a front, `[n]`.

    Args:
        points: `[n, objectives]`.
        front: `[m, objectives]`.
        reference: `[objectives]`.
    """
    from pymoo.indicators.hv import HV

    volume = HV(ref_point=-reference)
    before = float(volume(-front)) if len(front) else 0.0
    above = np.maximum(points, reference)
    return np.array([float(volume(-np.vstack([front, point]))) - before for point in above], dtype=np.float64)


def expected_hypervolume_improvement(
    means: Floats, deviations: Floats, front: Floats, reference: Floats, rng: Generator
) -> Floats:
    """The expected increase of the hypervolume that a front dominates above a reference point, `[n]`.

    With two objectives the integral is exact (Emmerich et al., 2011, "Hypervolume-based expected improvement"), strip
    by strip. With more, it is the mean over `SAMPLES` samples of each candidate on a shortlist: those of the first
    fronts of upper bounds that would add the most volume if the bounds were reached. A candidate that is not on it has
    a value close to zero, lower for later fronts. A candidate of the first fronts whose values are all exact needs no
    samples.

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
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    optimistic = means + deviations
    worth = np.full(len(means), LEAST / (2 + len(means)))
    ranked: list[int] = []
    for place, members in enumerate(NonDominatedSorting().do(-optimistic, n_stop_if_ranked=SHORTLIST)):
        worth[members] = LEAST / (2 + place)
        ranked += members.tolist()
    bounds = hypervolume_gains(optimistic[ranked], front, reference)
    uncertain = deviations[ranked].any(axis=1)
    for i, bound in zip(np.array(ranked)[~uncertain], bounds[~uncertain], strict=True):
        worth[i] = max(bound, LEAST)
    if uncertain.any():
        noise = rng.standard_normal((SAMPLES, means.shape[1]))
        order = np.argsort(-bounds[uncertain], kind="stable")[:SHORTLIST]
        for i in np.array(ranked)[uncertain][order]:
            gains = hypervolume_gains(means[i] + noise * deviations[i], front, reference)
            worth[i] = max(float(gains.mean()), LEAST)
    return worth


def _density(z: Floats) -> Floats:
    density: Floats = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return density
