"""Clusters of features by k-medoids."""

import kmedoids
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist, squareform

from nasplat.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST = 5000
"""Medoids are sought among at most this many pictures, drawn at random: their distances take 200 MB."""


def k_medoids(features: Floats, count: int, seed: int) -> Integers:
    """The rows of the medoids: pictures to whose nearest one the sum of Euclidean distances is small.

    It is FasterPAM of the package `kmedoids` (Schubert and Rousseeuw, 2021): no exchange of one medoid for another
    picture makes the sum smaller.

    Args:
        features: The features of pictures `[n, dimensions]`. Of more than 5000, as many are drawn.
        count: The number of clusters.
        seed: Draws the pictures, and the order in which exchanges are tried.

    Returns:
        The rows `[count]`, rising.

    Raises:
        InputError: There are fewer pictures than clusters, or no cluster is asked for.
    """
    if not 1 <= count <= len(features):
        raise InputError(
            f"the number of clusters must be from 1 to that of pictures, {len(features)}, but is {count}; give fewer "
            "clusters or more pictures"
        )
    rows = np.arange(len(features), dtype=np.int64)
    if len(features) > MOST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max(MOST, count), replace=False))
    if count == len(rows):
        return rows
    distances = squareform(pdist(np.asarray(features[rows], np.float64)))
    found = kmedoids.fasterpam(distances, count, init="build", random_state=seed, n_cpu=1)
    medoids: Integers = np.sort(rows[found.medoids.astype(np.int64)])
    return medoids


def nearest(features: Floats, medoids: Floats) -> Integers:
    """The number of the nearest medoid of each picture `[n]`, the first of equally near ones.

    Args:
        features: The features of pictures `[n, dimensions]`.
        medoids: Those of medoids `[count, dimensions]`.
    """
    found: Integers = cdist(features, medoids).argmin(1)
    return found
