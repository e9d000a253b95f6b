"""Intervals of shares: of how many of all that were counted something holds."""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def half_width(level: float) -> float:
    """Half the width of the normal central interval of a level, in deviations."""
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(share: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's interval of binomial shares among n (Wilson, 1927, Journal of the American Statistical Association 22).

    Unlike share ± deviation it stays within 0..1 and holds the share, and has a width at the shares 0 and 1.

    Args:
        share: Shares, from 0 to 1.
        n: The counts, above 0, of a shape that goes with that of the shares.
        level: The level of the interval.

    Returns:
        The lower and the upper ends.
    """
    part, count = np.asarray(share, np.float64), np.asarray(n, np.float64)
    z = half_width(level)
    shrunk = 1 + z**2 / count
    middle = (part + z**2 / (2 * count)) / shrunk
    half = z * np.sqrt(part * (1 - part) / count + z**2 / (4 * count**2)) / shrunk
    return np.clip(middle - half, 0.0, part), np.clip(middle + half, part, 1.0)
