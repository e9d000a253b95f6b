"""Initial design: members far apart from one another that represent a space, measured before the first fit."""

import warnings

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nasplat.encodings.encoding import Encodings

Floats = NDArray[np.float64]


def medoids(members: Encodings, number: int, rng: Generator) -> NDArray[np.intp]:
    """Indices of different members, each next to the center of one of `number` clusters: `[number]`.

    Distances are between `Encodings.features`, each scaled by its deviation among the members; clusters are of k-means
    with spread-out seeds (Arthur and Vassilvitskii, 2007, "k-means++"). The order is random.

    Args:
        members: At least `number` members.
        number: Number of clusters.
        rng: Seeds the clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    scale = members.features.std(axis=0)
    points = members.features * np.where(scale > 1e-9, 1 / np.maximum(scale, 1e-9), 0.0)
    clusters = KMeans(number, n_init=1, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # raised for fewer distinct points than clusters
        centers = clusters.fit(points).cluster_centers_
    chosen: list[int] = []
    for center in rng.permutation(centers):
        nearest = np.argsort(((points - center) ** 2).sum(axis=1), kind="stable")
        chosen.append(next(int(place) for place in nearest if int(place) not in chosen))
    return np.array(chosen)
