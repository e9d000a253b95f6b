"""Members far apart from one another: what to measure before anything is known."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nasplat.views import Views

Floats = NDArray[np.float64]


def farthest(members: Views, taken: Views, rng: Generator) -> int:
    """The place of the member whose nearest among the taken ones is farthest away; a random one if none is taken.

    Distances are between `Views.features`, each scaled by its deviation among the members (the greedy solution of
    the k-center problem, Gonzalez, 1985).
    """
    if not len(taken):
        return int(rng.integers(len(members)))
    scale = members.features.std(axis=0)
    scale = np.where(scale > 1e-9, 1 / np.maximum(scale, 1e-9), 0.0)
    points = members.features * scale
    nearest = np.full(len(members), np.inf)
    for point in taken.features * scale:
        np.minimum(nearest, ((points - point) ** 2).sum(axis=1), out=nearest)
    return int(np.argmax(nearest))
