"""What measuring an architecture promises, given what is predicted of it: acquisition functions.

Throughout, figures are gains: more is better, and predictions are normal distributions with a mean and a deviation.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST = 1e-12
"""Deviations below this count as it."""
SAMPLES = 128
"""How many draws stand for the predictions of three or more objectives."""
SHORTLIST = 64
"""How many architectures the volume is sampled for; the others lie below them by the optimistic front."""


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """By how much each is expected to exceed `best`, `[n]` (Jones et al., 1998, "Efficient global optimization")."""
    from scipy.special import ndtr

    deviation = np.maximum(deviation, LEAST)
    z = (mean - best) / deviation
    improvement: Floats = deviation * (z * ndtr(z) + _density(z))
    return improvement


def upper_bound(mean: Floats, deviation: Floats, width: float) -> Floats:
    """What each may reach with luck, `[n]` (Srinivas et al., 2010, "Gaussian process optimization in the bandit
    setting").

    Args:
        mean: `[n]`.
        deviation: `[n]`.
        width: How many deviations above the mean.
    """
    return mean + width * deviation


def drawn(mean: Floats, covariance: Floats, rng: Generator) -> Floats:
    """One joint draw of what all may be, `[n]`: Thompson sampling takes its best (Thompson, 1933).

    Args:
        mean: `[n]`.
        covariance: `[n, n]`, symmetric.
        rng: Draws.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    scale = np.sqrt(np.maximum(values, 0.0))  # rounding makes the smallest negative
    draw: Floats = mean + vectors @ (scale * rng.standard_normal(len(mean)))
    return draw


def non_dominated(points: Floats) -> Floats:
    """Those of `[n, objectives]` that no other exceeds, each once, by the first objective."""
    if not len(points):
        return points
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    distinct = np.unique(points, axis=0)
    front: Floats = distinct[np.sort(NonDominatedSorting().do(-distinct, only_non_dominated_front=True))]
    return front


def expected_hypervolume_improvement(
    means: Floats, deviations: Floats, front: Floats, reference: Floats, rng: Generator
) -> Floats:
    """How much each is expected to add to the volume that a front dominates above a reference point, `[n]`.

    Of two objectives the integral is exact (Emmerich et al., 2011, "Hypervolume-based expected improvement"), strip
    by strip. Of more, the volume is computed for `SAMPLES` draws of each on a shortlist, by upper bounds; what is not
    on it is worth next to nothing, the less the later its front.

    Args:
        means: `[n, objectives]`, independent normal distributions; a deviation of 0 is a figure known exactly.
        deviations: `[n, objectives]`.
        front: The points to improve on, `[m, objectives]`; dominated ones among them count for nothing.
        reference: The point from which volume counts, `[objectives]`.
        rng: Draws the samples, of three or more objectives.
    """
    above = front[(front > reference).all(axis=1)] if len(front) else front.reshape(0, len(reference))
    kept = non_dominated(above)
    if len(reference) == 2:
        return _two_objectives(means, deviations, kept, reference)
    return _more_objectives(means, deviations, kept, reference, rng)


def _two_objectives(means: Floats, deviations: Floats, front: Floats, reference: Floats) -> Floats:
    """Between two neighbors of the front, what exceeds the lower one's second figure is new volume.

    A point (x, y) adds, on the strip of first figures between `edges[i]` and `edges[i + 1]`, the part of the strip
    below x times what y exceeds `floors[i]` by. Both factors are of independent figures, so their expectations
    multiply: each is a difference of expected improvements.
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
