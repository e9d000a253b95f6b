"""How well figures rank architectures: Kendall's tau-b over chosen pairs, bootstrap intervals, and the noise ceiling.

Every view of a sample is a set of pairs, a symmetric mask `[n, n]`: all pairs, pairs within strata, pairs of the best.
A bootstrap resample is how often it has each architecture; two copies of one are a tie and count for nothing, so that
tau-b of a resample is a ratio of quadratic forms in these counts.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.random import default_rng
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Pairs = NDArray[np.bool_]
Statistic = Callable[[Floats], Floats]
"""A figure for each row of counts `[resamples, n]`."""

RESAMPLES = 10_000
STRATA = 5
BEST = 0.25


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of the sample, with its 95 % interval by the percentiles of bootstrap resamples of the architectures."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, statistic: Statistic, size: int) -> "Estimate":
        """Of a sample of so many architectures. Resamples in which the figure is undefined are left out."""
        drawn = statistic(default_rng(0).multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(np.float64))
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (math.nan, math.nan)
        return cls(float(statistic(np.ones((1, size)))[0]), float(low), float(high))


def every(size: int) -> Pairs:
    """All pairs of a sample."""
    return np.ones((size, size), dtype=np.bool_)


def within_strata(costs: ArrayLike, parts: int = STRATA) -> Pairs:
    """The pairs in the same of at most `parts` strata, bounded by quantiles of the costs; equal costs stay together."""
    costs = np.asarray(costs, dtype=np.float64)
    edges = np.quantile(costs, np.arange(1, parts) / parts, method="inverted_cdf")
    stratum = np.searchsorted(edges, costs, side="left")  # an edge is the last cost of its stratum
    same: Pairs = stratum[:, None] == stratum
    return same


def among_best(truth: ArrayLike, share: float = BEST) -> Pairs:
    """The pairs within the best share of the sample; whatever ties with the last of them is in it too."""
    truth = np.asarray(truth, dtype=np.float64)
    least = np.sort(truth)[-math.ceil(share * len(truth))]
    best = truth >= least
    both: Pairs = best[:, None] & best
    return both


def tau(first: ArrayLike, second: ArrayLike, pairs: Pairs) -> Statistic:
    """Kendall's tau-b over some pairs: (C - D) / sqrt(P1 P2).

    C and D are the numbers of concordant and discordant pairs, P1 and P2 of those that are not tied in the first and in
    the second figure. With several strata, all of their pairs count alike. NaN where P1 or P2 is 0.
    """
    signs = [np.sign(np.subtract.outer(figure, figure)) * pairs for figure in map(np.asarray, (first, second))]
    agreeing, *untied = (signs[0] * signs[1], *map(np.abs, signs))

    def statistic(counts: Floats) -> Floats:
        def total(form: Floats) -> Floats:
            summed: Floats = ((counts @ form) * counts).sum(axis=1)
            return summed

        with np.errstate(invalid="ignore"):
            found: Floats = total(agreeing) / np.sqrt(total(untied[0]) * total(untied[1]))
        return found

    return statistic


def mean_tau(figures: Floats, truth: ArrayLike, pairs: Pairs) -> Statistic:
    """The mean of the tau of each of several rows of figures, `[rows, n]`."""
    each = [tau(row, truth, pairs) for row in figures]
    return lambda counts: np.mean([statistic(counts) for statistic in each], axis=0)


def above(figures: Floats, control: ArrayLike, truth: ArrayLike, pairs: Pairs) -> Statistic:
    """`mean_tau` less the tau of a control, such as the number of parameters, in the same resamples."""
    ours, theirs = mean_tau(figures, truth, pairs), tau(control, truth, pairs)
    return lambda counts: ours(counts) - theirs(counts)


def partial_tau(figures: Floats, control: ArrayLike, truth: ArrayLike, pairs: Pairs) -> Statistic:
    """The mean of Kendall's partial rank correlations, with a control z held fixed.

    For figures x and the truth y, (t_xy - t_xz t_yz) / sqrt((1 - t_xz^2)(1 - t_yz^2)) (Kendall, 1942, "Partial rank
    correlation").
    """
    truths = tau(control, truth, pairs)
    each = [(tau(row, truth, pairs), tau(row, control, pairs)) for row in figures]

    def statistic(counts: Floats) -> Floats:
        yz, found = truths(counts), []
        with np.errstate(invalid="ignore", divide="ignore"):
            for ours, controls in each:
                xy, xz = ours(counts), controls(counts)
                found.append((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))
        mean: Floats = np.mean(found, axis=0)
        return mean

    return statistic


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What noise lets a ranking reach.

    Args:
        between: The tau between two disjoint groups of seeds, the mean over all ways to choose them.
        reach: The tau that figures without any error would have with the mean of all seeds.
    """

    between: float
    reach: float


def single(seeds: Floats, of: Callable[[Floats], Pairs]) -> float:
    """The mean tau of one training alone with the mean of the others: what as many full trainings as architectures buy.

    Args:
        seeds: The truth of each training, `[seeds, n]`, two at least.
        of: The pairs for the mean of the others.
    """
    taus = []
    for i, one in enumerate(seeds):
        others = np.delete(seeds, i, axis=0).mean(axis=0)
        taus.append(float(tau(one, others, of(others))(np.ones((1, len(one))))[0]))
    return float(np.mean(taus))


def ceiling(seeds: Floats, view: Callable[[Floats], Pairs]) -> Ceiling:
    """The noise ceiling of the mean of seeds `[seeds, n]`, by the formula of Spearman and Brown for tau.

    Of S seeds, two groups have (S - 1) // 2 each, at least one; `view` gives the pairs for the mean of the seeds that
    are left over, since a group that chose the best itself would agree with others about them by less than it does.
    With two seeds none is left; then `view` gets NaN, and the ceiling of a view that depends on the truth is undefined.

    Between normal figures, tau is (2 / pi) arcsin r of Pearson's r. So with r = sin(pi tau / 2) between groups of h,
    the mean of all S has the reliability R = k r / (1 + (k - 1) r), k = S / h, and errorless figures correlate with it
    by sqrt(R): the ceiling is (2 / pi) arcsin sqrt(R). It is 0 where groups agree by less than chance. Accuracies are
    not normal, so this is an approximation. The noise is that of training alone: the validation images are the same
    for all seeds and for shared weights.

    Raises:
        ValueError: There are fewer than two seeds.
    """
    number = len(seeds)
    if number < 2:
        raise ValueError(f"a ceiling takes at least 2 seeds, but got {number}; train every architecture again")
    ones = np.ones((1, seeds.shape[1]))
    found = []
    for first, second, rest in splits(number):
        chosen = seeds[rest].mean(axis=0) if rest else np.full(seeds.shape[1], np.nan)
        pairs = view(chosen)
        found.append(tau(seeds[first].mean(axis=0), seeds[second].mean(axis=0), pairs)(ones)[0])
    between = float(np.mean(found))
    r = max(math.sin(math.pi * between / 2), 0.0)
    factor = number / max((number - 1) // 2, 1)
    reliability = factor * r / (1 + (factor - 1) * r)
    return Ceiling(between, 2 / math.pi * math.asin(math.sqrt(reliability)))


def splits(seeds: int) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """All ways to choose two equal groups of seeds, with those left over; each pair of groups once."""
    half = max((seeds - 1) // 2, 1)
    for first in combinations(range(seeds), half):
        others = [seed for seed in range(seeds) if seed not in first]
        for second in combinations(others, half):
            if first < second:
                yield list(first), list(second), [seed for seed in others if seed not in second]
