"""A normal distribution truncated to [0, 1]: its mean and its deviation, for any parameters."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nasplat.errors import InputError

Floats = NDArray[np.float64]

NODES = 48
"""Nodes of the Gauss-Legendre rule. With 40, the largest relative error of a deviation is 3e-13."""
FARTHEST = 9.0
"""The integral goes this many deviations to each side of the mean, and as far down where the mean is outside: beyond,
the density is below exp(-40) of its largest value."""
LEAST_DEVIATION = 1e-150
"""Smaller deviations count as this; the distribution is then a point for all that float64 can tell."""
STEEPEST = 1e300
"""The largest slope of the logarithm of the density, in units of the deviation."""


def truncated_normal(mean: ArrayLike, deviation: ArrayLike) -> tuple[Floats, Floats]:
    """The mean and the standard deviation of a normal distribution that is truncated to [0, 1].

    The closed form (arXiv:1910.02352, where it bounds the posterior of the confidence) divides differences that vanish:
    it is 0/0 where [0, 1] is far in a tail, and loses all digits of the deviation where the normal distribution is much
    wider than [0, 1]. Here both moments are integrals over the part of [0, 1] that has density, by a Gauss-Legendre
    rule. All terms are positive, so nothing cancels.

    Args:
        mean: The mean before truncation, of any size, finite.
        deviation: The standard deviation before truncation, at least 0, of a shape that goes with that of the mean. At
            0, the mean is moved to the nearest end of [0, 1] and the deviation is 0.

    Returns:
        The mean, between 0 and 1, and the standard deviation, at most that of a uniform distribution, in
        the common shape; both finite.

    Raises:
        InputError: A value is not finite, or a deviation is negative.
    """
    given, spread = np.broadcast_arrays(np.asarray(mean, np.float64), np.asarray(deviation, np.float64))
    if not (np.isfinite(given).all() and np.isfinite(spread).all()):
        raise InputError("means and deviations must be finite, but some are not; check what the network gives for them")
    if (spread < 0).any():
        raise InputError(f"a deviation must be at least 0, but one is {spread.min():g}; give standard deviations")
    mirrored = given > 0.5  # by symmetry, the mean is at most 0.5, and the mode is 0 or inside
    centre = np.where(mirrored, 1 - given, given)
    unit = np.maximum(spread, LEAST_DEVIATION)
    mode = np.maximum(centre, 0.0)
    # x = mode + unit * z, with a density of exp(-z * (z / 2 + slope)); beyond `end`, its exponent is below -40.5.
    with np.errstate(over="ignore"):
        slope = np.minimum(np.maximum(-centre, 0.0) / unit, STEEPEST)
    end = FARTHEST**2 / (slope + np.hypot(slope, FARTHEST))
    low = np.maximum(-mode / unit, -FARTHEST)
    width = np.minimum((1 - mode) / unit, end) - low
    places, weights = np.polynomial.legendre.leggauss(NODES)
    places = (1 + places) / 2
    z = low[..., None] + width[..., None] * places
    density = weights * np.exp(-z * (z / 2 + slope[..., None]))
    density /= density.sum(-1, keepdims=True)
    first = (density * places).sum(-1)
    second = (density * (places - first[..., None]) ** 2).sum(-1)
    found = np.where(spread > 0, np.clip(mode + unit * (low + width * first), 0.0, 1.0), np.clip(centre, 0.0, 1.0))
    whole: Floats = np.where(spread > 0, unit * width * np.sqrt(second), 0.0)
    return np.where(mirrored, 1 - found, found), whole
