"""How far a confidence can be trusted: reliability diagram, Brier score and its parts, cost of decisions, intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasplat.errors import InputError
from nasplat.proportion import wilson

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

BINS = 10
RESAMPLES = 1000
CELLS = 2**22
"""The resamples that are drawn at once have at most this many pictures together."""
SKEWED = ("reliability", "resolution", "within_bins", "calibration_error")
"""Figures of bins, which resampling makes larger or smaller; their intervals are mirrored at the value."""
COUNTS = ("high_confidence_errors", "high_confidence_rights")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Diagram:
    """A reliability diagram: the bins that hold pictures, each an array `[filled bins]`.

    Args:
        lower: The lower ends of the bins; a confidence there belongs to the bin.
        upper: The upper ends; only 1 belongs to the bin below it.
        counts: The numbers of pictures.
        confidence: The mean confidences.
        right: The shares of right predictions.
        low: The lower ends of Wilson's intervals of 95 % of the shares.
        high: The upper ends.
    """

    lower: Floats
    upper: Floats
    counts: NDArray[np.int64]
    confidence: Floats
    right: Floats
    low: Floats
    high: Floats


def diagram(confidence: Floats, right: Booleans, bins: int = BINS) -> Diagram:
    """The reliability diagram of bins of equal width.

    Args:
        confidence: Confidences between 0 and 1 `[n]`.
        right: Whether each prediction is right `[n]`.
        bins: The number of bins.

    Raises:
        InputError: There are no pictures, the lengths differ, or a confidence is not between 0 and 1.
    """
    counts, said, hits, _, _ = _bin_sums(confidence, right, bins).sum(0)[: 5 * bins].reshape(5, bins)
    filled = counts > 0
    n, ends = counts[filled], np.arange(bins + 1) / bins
    low, high = wilson(hits[filled] / n, n)
    return Diagram(
        ends[:-1][filled], ends[1:][filled], n.astype(np.int64), said[filled] / n, hits[filled] / n, low, high
    )


def decision_costs(confidence: Floats, right: Booleans, threshold: float) -> Floats:
    """What the decision on each picture costs `[n]`; the mean is the cost at the threshold.

    A prediction is acted on from the threshold up. A wrong one that is costs `threshold`; a right one that is not costs
    `1 - threshold`, since at a true confidence of `threshold` both choices cost the same (arXiv:1910.02352, the loss
    due to confidence errors; the formula is derived from the counts in the paper's table 3).
    """
    acted = confidence >= threshold
    costs: Floats = threshold * (acted & ~right) + (1 - threshold) * (~acted & right)
    return costs


def figures(
    confidence: Floats,
    right: Booleans,
    threshold: float,
    *,
    seed: int,
    bins: int = BINS,
    resamples: int = RESAMPLES,
) -> dict[str, Figure]:
    """The figures of a confidence, each with a bootstrap interval of 95 % over pictures.

    `brier = reliability - resolution + uncertainty + within_bins` is exact. The first three are the parts for
    confidences that are equal in each bin (Murphy, 1973, "A new vector partition of the probability score");
    `within_bins` is the rest, the variance of confidences in bins minus twice their covariance with being right
    (Stephenson et al., 2008, "Two extra components in the Brier score decomposition").

    Intervals are between quantiles of resamples. Those of `reliability`, `resolution`, `within_bins` and
    `calibration_error` are mirrored at the value (the basic bootstrap), since fewer different pictures in a bin make
    these figures larger. Every interval is widened to hold its value. A count of 0 has no spread among resamples; its
    upper end is Wilson's, and so is the lower end of a count of all pictures.

    Args:
        confidence: Confidences between 0 and 1 `[n]`, of pictures whose labels were not used for the calibrator.
        right: Whether each prediction is right `[n]`.
        threshold: The confidence from which predictions are acted on, between 0 and 1.
        seed: Draws the resamples.
        bins: The number of bins of equal width.
        resamples: Their number.

    Returns:
        By name: `brier`, `reliability`, `resolution`, `uncertainty`, `within_bins`, `calibration_error` (expected),
        `decision_cost`, `high_confidence_errors` and `high_confidence_rights` (numbers of pictures).

    Raises:
        InputError: There are no pictures, the lengths differ, or a confidence or the threshold is not between 0 and 1.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"a threshold must be between 0 and 1, but is {threshold:g}; give one, such as 0.9")
    sums = _bin_sums(confidence, right, bins)
    n = len(sums)
    acted = confidence >= threshold
    sums = np.column_stack([sums, decision_costs(confidence, right, threshold), acted & ~right, acted & right])
    values = _figures(sums.sum(0)[None], bins)
    rng, drawn = np.random.default_rng(seed), []
    for start in range(0, resamples, max(CELLS // n, 1)):
        some = min(max(CELLS // n, 1), resamples - start)
        rows = rng.integers(n, size=(some, n)) + n * np.arange(some)[:, None]
        weights = np.bincount(rows.ravel(), minlength=some * n).reshape(some, n)
        drawn.append(weights.astype(np.float64) @ sums)
    resampled = _figures(np.concatenate(drawn), bins)
    found = {}
    for name, (value,) in values.items():
        low, high = np.quantile(resampled[name], (0.025, 0.975))
        if name in SKEWED:
            low, high = 2 * value - high, 2 * value - low
            if name != "within_bins":  # it alone may be negative
                low, high = max(low, 0.0), max(high, 0.0)
        if name in COUNTS and value in (0, n):
            ends = wilson(value / n, n)
            low, high = n * ends[0], n * ends[1]
        found[name] = Figure(float(value), min(float(low), float(value)), max(float(high), float(value)))
    return found


def _bin_sums(confidence: Floats, right: Booleans, bins: int) -> Floats:
    """For each picture, in the columns of its bin: 1, confidence c, right r, c * c, c * r `[n, 5 * bins]`."""
    if not len(confidence) or np.shape(confidence) != np.shape(right) or np.ndim(confidence) != 1:
        raise InputError(
            f"each of at least one picture needs a confidence and whether it is right, but there are "
            f"{list(np.shape(confidence))} and {list(np.shape(right))}; give two arrays [n]"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise InputError("confidences must be between 0 and 1, but some are not; give those of a calibrator")
    n = len(confidence)
    number = np.minimum(np.searchsorted(np.arange(bins + 1) / bins, confidence, "right") - 1, bins - 1)
    sums = np.zeros((n, 5, bins))
    sums[np.arange(n), :, number] = np.stack(
        [np.ones(n), confidence, right, confidence * confidence, confidence * right], axis=1
    )
    return sums.reshape(n, 5 * bins)


def _figures(sums: Floats, bins: int) -> dict[str, Floats]:
    """The figures of sums over pictures `[b, 5 * bins + 3]`, each `[b]`."""
    counts, said, hits, squares, products = sums[:, : 5 * bins].reshape(len(sums), 5, bins).transpose(1, 0, 2)
    n, divisor = counts.sum(1), np.maximum(counts, 1)
    confidence, share, overall = said / divisor, hits / divisor, hits.sum(1) / n
    within = squares - said * confidence - 2 * (products - said * share)
    cost, errors, rights = sums[:, 5 * bins :].T
    return {
        "brier": (squares - 2 * products + hits).sum(1) / n,
        "reliability": (counts * (confidence - share) ** 2).sum(1) / n,
        "resolution": (counts * (share - overall[:, None]) ** 2).sum(1) / n,
        "uncertainty": overall * (1 - overall),
        "within_bins": within.sum(1) / n,
        "calibration_error": (counts * np.abs(confidence - share)).sum(1) / n,
        "decision_cost": cost / n,
        "high_confidence_errors": errors,
        "high_confidence_rights": rights,
    }
