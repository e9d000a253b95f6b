"""What can be said of a picking without labels of the pool: the prior, how well the picker tells, how many belong."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasplat.picking.picker import PickerRecipe, fit
from nasplat.proportion import wilson

Floats = NDArray[np.float64]

FOLDS = 5
WORKING_PRIOR = 0.3
"""The prior of pickers that estimate the prior; the order of the scores hardly depends on it."""
HALF = 0.5
"""The share of held-out positives above the score from which the prior is estimated."""
RESAMPLES = 2000
LEAST_PRIOR, MOST_PRIOR = 0.001, 0.95
WIDE = 2.0
"""An interval of the prior is wide if its upper end is more than this many times the lower one."""
MOST_ALIKE = 0.5
"""If more of the pool scores like the positives, choosing is of no use: most of it belongs, or the picker is blind."""
LEAST_SEPARATION = 0.75
"""Below this, the pool has much that scores like the positives but does not belong, by the prior."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def held_out_ranks(
    positives: Tensor, unlabelled: Tensor, prior: float | None, seed: int, recipe: PickerRecipe | None = None
) -> Floats:
    """For each positive the share of unlabelled images that score as high as it, by pickers that saw neither.

    Both are split into folds. A positive that belongs among the picked has a small rank: if a picker told all that
    belong from all that do not, ranks would be uniform between 0 and the prior.

    Args:
        positives: The features of positives `[p, dimensions]`, at least two.
        unlabelled: Those of unlabelled images `[u, dimensions]`.
        prior: The prior, if it is known.
        seed: Splits the folds, and draws for the pickers.
        recipe: How pickers are trained.

    Returns:
        The ranks `[p]`, between 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    folds = min(FOLDS, len(positives))
    of_positive = torch.randperm(len(positives), generator=generator) % folds
    of_unlabelled = torch.randperm(len(unlabelled), generator=generator) % folds
    ranks = torch.empty(len(positives), dtype=torch.float64)
    for fold in range(folds):
        out, beside = of_positive == fold, of_unlabelled == fold
        picker = fit(positives[~out], unlabelled[~beside], prior or WORKING_PRIOR, generator, recipe)
        scores = picker(unlabelled[beside]).sort().values
        below = torch.searchsorted(scores, picker(positives[out]))
        ranks[out] = 1 - below.double() / len(scores)
    return ranks.numpy()


def prior_of(ranks: Floats, seed: int) -> Estimate:
    """The share of unlabelled images that belong to the positives, by the upper half of the held-out positives.

    At any score, the share of unlabelled images above it, divided by the share of positives above it, is at least the
    prior, and equals it if none of the others score so high (Blanchard et al., 2010, "Semi-supervised novelty
    detection", sec. 4; Garg et al., 2021, "Mixture proportion estimation and PU learning", sec. 3, choose the score by
    a bound). Here the score is the median of the positives, since few of them are known. The interval is a bootstrap
    over the positives. What others share with the upper half of the positives makes the estimate too large.
    """
    drawn = np.random.default_rng(seed).choice(ranks, (RESAMPLES, len(ranks)))
    low, high = np.quantile(np.median(drawn, 1) / HALF, (0.025, 0.975))
    value, low, high = np.clip((np.median(ranks) / HALF, low, high), LEAST_PRIOR, MOST_PRIOR)
    return Estimate(float(value), float(low), float(high))


def is_wide(prior: Estimate) -> bool:
    """Whether an interval of the prior leaves more than a factor of two open."""
    return prior.high > WIDE * prior.low


def separation(ranks: Floats, prior: float) -> float:
    """How well scores tell what belongs from what does not: the share of held-out positives among the best of the pool.

    The best are as many as belong, by the prior. If the picker told all that belong from everything else, all held-out
    positives would be among them; each image that does not belong but scores high pushes one out.
    """
    return float((ranks <= prior).mean())


def belonging(ranks: Floats, share: float, prior: Estimate) -> tuple[Estimate, Estimate]:
    """What a picking of the highest scores holds: its recall, and the share of it that belongs (its precision).

    Args:
        ranks: The ranks of held-out positives.
        share: The share of unlabelled images that is picked.
        prior: The share that belongs.

    Returns:
        The recall, with Wilson's interval, and the precision = recall * prior / share, at most 1, with the ends of
        both intervals multiplied, which is wider than 95 %.
    """
    count, hits = len(ranks), float((ranks <= share).mean())
    low, high = wilson(hits, count)
    recall = Estimate(hits, float(low), float(high))
    precision = [
        min(r * p / share, 1.0)
        for r, p in ((recall.value, prior.value), (recall.low, prior.low), (recall.high, prior.high))
    ]
    return recall, Estimate(precision[0], precision[1], precision[2])
