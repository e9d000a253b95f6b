"""Importance sampling of a supernet's paths: those from which training still learns more are drawn more often.

The idea is that of `nasplat.sampling.importance` with architectures for latent vectors. It is this project's own; no
publication is known that measures it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from torch import Tensor

from nasplat.architecture import Architecture
from nasplat.sampling.drawn import Drawn
from nasplat.search_space import GeneSpace, SearchSpace
from nasplat.training.path_sampling import Sampling, product_of_genes

SHARE = 0.5
"""The share of draws that follow scores; the rest is from the prior, so that every path stays in training."""
SCORED = 8
"""The paths of the prior that are scored at each fit."""
KEPT = 0.8
"""The weight of earlier fits in the running means, at each fit."""
ATTEMPTS = 200
"""Maximum number of combinations of choices that are tried before one is taken that the space draws itself."""


class PathImportance:
    """Draws paths from a mixture of the prior and of what scores of earlier ones say; weights are always 1.

    Of given paths the prior is uniform, and each path has a running mean of its scores. Of a whole space the prior is
    what the space draws, and each choice of each gene has the running mean of the scores of paths that have it; choices
    are then drawn independently, in proportion to these means. Where combinations are refused, others are tried. So
    the density of a draw is unknown there, and weights that undo the change are not offered.

    Until it was fitted once, all draws are from the prior.

    Args:
        space: The search space; if no paths are given, a product of genes.
        given: The paths to draw from; empty for all of the space.
        seed: Draws.
    """

    def __init__(self, space: GeneSpace | None, given: Sequence[Architecture], seed: int) -> None:
        assert given or space is not None
        self._space, self._given = space, given
        self._rng = default_rng(seed)
        sizes = [len(given)] if given or space is None else [len(gene.choices) for gene in space.genes]
        self._means = [np.full(size, np.nan) for size in sizes]
        """The mean score of each path, or of each choice of each gene; NaN before one was scored."""

    def sample(self, count: int) -> Drawn[list[Architecture]]:
        """So many paths."""
        return Drawn([self._one() for _ in range(count)], torch.ones(count))

    def fit(self, score: Callable[[list[Architecture]], Tensor]) -> None:
        """Learn from scores of paths that the prior draws. Scores that are all 0, or not finite, teach nothing."""
        paths = [self._prior() for _ in range(min(SCORED, len(self._given) or SCORED))]
        scores = score(paths).to(torch.float64).cpu().numpy()
        if not np.isfinite(scores).all() or not scores.sum() > 0:
            return
        sums = [np.zeros((2, len(means))) for means in self._means]
        for path, value in zip(paths, scores, strict=True):
            for each, choice in zip(sums, self._choices(path), strict=True):
                each[:, choice] += value, 1
        for means, (total, times) in zip(self._means, sums, strict=True):
            seen = times > 0
            new = total[seen] / times[seen]
            old = np.where(np.isnan(means[seen]), new, means[seen])
            means[seen] = KEPT * old + (1 - KEPT) * new

    def probabilities(self) -> list[NDArray[np.float64]]:
        """Of what follows scores: for each path, or for each choice of each gene. Unscored ones have the mean score."""
        return [_shares(means) for means in self._means]

    def state(self) -> dict[str, Tensor]:
        """The mean scores, by number."""
        return {str(number): torch.from_numpy(means.copy()) for number, means in enumerate(self._means)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            KeyError: The state is of another sampler.
        """
        self._means = [state[str(number)].numpy().copy() for number in range(len(self._means))]

    def _one(self) -> Architecture:
        if self._rng.random() >= SHARE or all(np.isnan(means).all() for means in self._means):
            return self._prior()
        shares = self.probabilities()
        if self._given:
            return self._given[int(self._rng.choice(len(self._given), p=shares[0]))]
        assert self._space is not None
        for _ in range(ATTEMPTS):
            choices = [int(self._rng.choice(len(each), p=each)) for each in shares]
            if self._space.violation(choices) is None:
                return self._space.member(choices)
        return self._prior()

    def _prior(self) -> Architecture:
        if self._given:
            return self._given[int(self._rng.integers(len(self._given)))]
        assert self._space is not None
        return self._space.sample(self._rng)

    def _choices(self, path: Architecture) -> list[int]:
        if self._given:
            return [self._given.index(path)]
        assert self._space is not None
        return self._space.choices(path)


def path_sampler(
    sampling: Sampling, space: SearchSpace, given: Sequence[Architecture], seed: int
) -> PathImportance | None:
    """The sampler of paths for a training; None if paths are drawn without regard to scores.

    Raises:
        InputError: Paths of the whole space are wanted, but it is no product of genes.
    """
    if sampling != "importance":
        return None
    genes = None if given else product_of_genes(space, "shared_weights.sampling=importance")
    return PathImportance(genes, given, seed)


def _shares(means: NDArray[np.float64]) -> NDArray[np.float64]:
    known = means[~np.isnan(means)]
    if not len(known) or not known.sum() > 0:
        return np.full(len(means), 1 / len(means))
    filled = np.where(np.isnan(means), known.mean(), means)
    shares: NDArray[np.float64] = filled / filled.sum()
    return shares
