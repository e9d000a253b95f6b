"""How far generated samples are from data: maximum mean discrepancy, Fréchet distance, modes covered."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from nasplat.errors import InputError

Floats = NDArray[np.float64]


def median_bandwidth(data: Floats) -> float:
    """The bandwidth of the kernel: the median distance of two samples of data; 1 if most coincide.

    Args:
        data: Samples `[n, dimensions]`, at least 2.
    """
    return float(np.median(pdist(data))) or 1.0


class Discrepancy:
    """The unbiased estimate of the squared maximum mean discrepancy from data, with a Gaussian kernel.

    Source: Gretton et al., 2012, "A kernel two-sample test", lemma 6. It is 0 on average if both are from one
    distribution, and may then be negative. What depends on data alone is computed once.

    Args:
        data: Samples of data `[n, dimensions]`, at least 2.
        bandwidth: That of the kernel exp(-|x - y|² / (2 bandwidth²)); by default the median distance of the data.

    Raises:
        InputError: There are fewer than two samples, or a value is not finite.
    """

    def __init__(self, data: Floats, bandwidth: float | None = None) -> None:
        _check(data, data)
        self.data = data
        self.bandwidth = median_bandwidth(data) if bandwidth is None else bandwidth
        self._within = self._mean_within(data)

    def __call__(self, made: Floats) -> float:
        """The discrepancy of generated samples `[m, dimensions]`, at least 2.

        Raises:
            InputError: There are fewer than two samples, or a value is not finite.
        """
        _check(made, self.data)
        return self._mean_within(made) + self._within - 2 * float(self._kernel(made, self.data).mean())

    def _mean_within(self, samples: Floats) -> float:
        count = len(samples)
        return float((self._kernel(samples, samples).sum() - count) / (count * (count - 1)))

    def _kernel(self, these: Floats, others: Floats) -> Floats:
        # By products of matrices, in float64: for images ten times as fast as distance by distance.
        squares = (these**2).sum(1)[:, None] + (others**2).sum(1) - 2 * these @ others.T
        if these is others:
            np.fill_diagonal(squares, 0.0)
        found: Floats = np.exp(-np.maximum(squares, 0.0) / (2 * self.bandwidth**2))
        return found


def frechet_distance(made: Floats, data: Floats) -> float:
    """The squared Fréchet distance of the normal distributions with the means and covariances of two sets of features.

    Source: Heusel et al., 2017, "GANs trained by a two time-scale update rule", eq. 6 (with Inception's features, the
    "FID"). The trace of the root of a product of covariances is the sum of the roots of its eigenvalues, which are
    those of a symmetric matrix.

    Args:
        made: Features of generated samples `[m, dimensions]`, at least 2.
        data: Those of data `[n, dimensions]`, at least 2.

    Raises:
        InputError: There are fewer than two samples, or a value is not finite.
    """
    _check(made, data)
    means = [each.mean(0) for each in (made, data)]
    spreads = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (made, data)]
    values, vectors = np.linalg.eigh(spreads[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ spreads[1] @ root)
    apart = float(((means[0] - means[1]) ** 2).sum())
    return apart + float(np.trace(spreads[0]) + np.trace(spreads[1]) - 2 * np.sqrt(np.maximum(product, 0.0)).sum())


def covered_modes(made: Floats, centres: Floats, radius: float, *, least: float = 0.025) -> tuple[int, float]:
    """How many modes generated samples cover, and the share of samples in one.

    Args:
        made: Generated samples `[m, dimensions]`.
        centres: The centres of the modes `[modes, dimensions]`.
        radius: The largest distance of a sample from the centre of its mode.
        least: The share of all samples that covers a mode.
    """
    distances = cdist(made, centres)
    inside = distances.min(1) <= radius
    counts = np.bincount(distances.argmin(1)[inside], minlength=len(centres))
    return int((counts >= max(least * len(made), 1)).sum()), float(inside.mean())


def _check(made: Floats, data: Floats) -> None:
    if min(len(made), len(data)) < 2 or made.ndim != 2 or made.shape[1:] != data.shape[1:]:
        raise InputError(
            f"a distance needs at least two samples [n, dimensions] on each side, but got {list(made.shape)} and "
            f"{list(data.shape)}; give more"
        )
    if not (np.isfinite(made).all() and np.isfinite(data).all()):
        raise InputError("a distance needs finite samples, but some are not; look for a training that diverged")
