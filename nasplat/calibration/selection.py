"""Which pictures to label next: some at random, the others where the decision at the threshold is least sure."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from nasplat.calibration.outputs import Floats, Integers
from nasplat.errors import InputError

RANDOM_SHARE = 0.7
"""The share of a batch that is drawn at random: the rule alone makes decisions better, but the Brier score worse."""
NEAR = 0.02
"""Pictures are near-duplicates if their distance is below this quantile of all distances."""
SAMPLE = 1000
"""The quantile is that of at most this many pictures, drawn at random."""


def doubt(mean: Floats, deviation: Floats, threshold: float) -> Floats:
    """The distance of the confidence from the threshold, in units of its deviation `[n]` (arXiv:1910.02352, eq. 17).

    The smallest are labelled first. Without a deviation it is infinite: a label would change nothing.

    Args:
        mean: The means of the confidence, truncated to [0, 1] `[n]`.
        deviation: Their standard deviations `[n]`.
        threshold: The confidence from which predictions are acted on.
    """
    away = np.abs(threshold - mean)
    found: Floats = np.divide(away, deviation, out=np.full(away.shape, np.inf), where=deviation > 0)
    return found


def nearness(features: Floats, rng: np.random.Generator, quantile: float = NEAR) -> float:
    """The distance below which two pictures are near-duplicates: a quantile of the distances of all pairs.

    Args:
        features: The features of the operation pictures `[n, dimensions]`.
        rng: Draws the pictures whose distances count, if there are more than 1000.
        quantile: From 0, which lets all distances pass, to 1.
    """
    if len(features) < 2:
        return 0.0
    if len(features) > SAMPLE:
        features = features[rng.choice(len(features), SAMPLE, replace=False)]
    return float(np.quantile(pdist(features), quantile))


def spread_out(order: Integers, features: Floats, count: int, apart: float, picked: Integers | None = None) -> Integers:
    """The first pictures of an order that are not near one another or near those that are picked already.

    It is greedy: after each pick, later pictures that are nearer to it than `apart` are skipped. If too few are left,
    skipped ones follow, in their order.

    Args:
        order: The rows of candidates, the best first.
        features: The features of all pictures `[n, dimensions]`.
        count: How many to take, at most as many as candidates.
        apart: The least distance.
        picked: The rows that are picked already.

    Returns:
        The rows `[count]`, in the order of the picks.
    """
    others = features[[] if picked is None else picked]
    taken: list[int] = []
    skipped: list[int] = []
    for row in order.tolist():
        if len(taken) == count:
            break
        near = len(others) and cdist(features[row][None], others).min() < apart
        (skipped if near else taken).append(row)
        if not near:
            others = np.concatenate([others, features[row][None]])
    return np.array(taken + skipped[: count - len(taken)], np.int64)


def choose(
    count: int,
    features: Floats,
    labelled: Integers,
    rng: np.random.Generator,
    *,
    posterior: tuple[Floats, Floats] | None = None,
    threshold: float = 0.9,
    random_share: float = RANDOM_SHARE,
    quantile: float = NEAR,
) -> tuple[Integers, NDArray[np.bool_]]:
    """The pictures to label next.

    The first ones are drawn at random from all that have no label, near-duplicates too. They are a fair sample of the
    operation pictures, but for the few that the rule took in earlier batches. The others are those of the least
    `doubt`, without near-duplicates of one another or of the random ones.

    Args:
        count: How many.
        features: The features of the operation pictures `[n, dimensions]`.
        labelled: The rows that have a label.
        rng: Draws.
        posterior: The means and the deviations of the confidence of all operation pictures, each `[n]`; without it, as
            before the first labels, all are drawn at random.
        threshold: The confidence from which predictions are acted on.
        random_share: The share that is drawn at random, from 0 to 1.
        quantile: As of `nearness`.

    Returns:
        The rows `[count]`, and for each whether it was drawn at random.

    Raises:
        InputError: More pictures are asked for than have no label, or the share is not from 0 to 1.
    """
    open_ = np.setdiff1d(np.arange(len(features), dtype=np.int64), labelled)
    if not 1 <= count <= len(open_):
        raise InputError(
            f"from 1 to {len(open_)} pictures can be chosen, as many as have no label, but {count} are asked for; "
            "lower the budget or add pictures"
        )
    if not 0 <= random_share <= 1:
        raise InputError(f"the share that is drawn at random must be from 0 to 1, but is {random_share:g}; change it")
    drawn = count if posterior is None else round(random_share * count)
    if posterior is not None and drawn == count and random_share < 1:  # few at a time, of which the rule chooses some
        drawn = int(rng.binomial(count, random_share))
    fair = rng.choice(open_, drawn, replace=False)
    if posterior is None or drawn == count:
        return fair, np.ones(count, bool)
    rest = np.setdiff1d(open_, fair)
    order = rest[np.argsort(doubt(posterior[0][rest], posterior[1][rest], threshold), kind="stable")]
    apart = nearness(features, rng, quantile)
    ruled = spread_out(order, features, count - drawn, apart, fair)
    return np.concatenate([fair, ruled]), np.arange(count) < drawn
