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


def squared_discrepancy(made: Floats, data: Floats, bandwidth: float) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy with a Gaussian kernel.

    Source: Gretton et al., 2012, "A kernel two-sample test", lemma 6. It is 0 on average if both are from one
    distribution, and may then be negative.

    Args:
        made: Generated samples `[m, dimensions]`, at least 2.
        data: Samples of data `[n, dimensions]`, at least 2.
        bandwidth: That of the kernel exp(-|x - y|² / (2 bandwidth²)).

    Raises:
        InputError: There are fewer than two samples, or a value is not finite.
    """
    _check(made, data)

    def kernel(these: Floats, others: Floats) -> Floats:
        found: Floats = np.exp(-cdist(these, others, "sqeuclidean") / (2 * bandwidth**2))
        return found

    def within(samples: Floats) -> float:
        count = len(samples)
        return float((kernel(samples, samples).sum() - count) / (count * (count - 1)))

    return within(made) + within(data) - 2 * float(kernel(made, data).mean())


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
