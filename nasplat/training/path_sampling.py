"""Which paths of a supernet are trained: how they are drawn, and the largest and the smallest of them."""

from collections.abc import Callable, Sequence
from operator import neg, pos
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.search_space import GeneSpace, SearchSpace

Sampling: TypeAlias = Literal["uniform", "fair", "importance"]

ATTEMPTS = 200
"""Maximum number of combinations that a fair draw tries before it takes one that the space draws itself."""

PASSES = 10
"""Maximum number of passes over the genes in the search for the largest or the smallest member."""


def sampler(sampling: Sampling, space: SearchSpace, given: Sequence[Architecture]) -> Callable[[int], Architecture]:
    """A function that draws a path for a seed. Fair ones remember what they drew, so each training needs a new one.

    Args:
        sampling: How paths are drawn; those of importance sampling are uniform here, see `nasplat.sampling.paths`.
        space: The search space.
        given: The paths to draw from; empty for all of the space.

    Raises:
        InputError: Fair paths of the whole space are wanted, but the space is no product of genes.
    """
    if sampling == "fair":
        return FairPaths(given) if given else FairChoices(product_of_genes(space, "shared_weights.sampling=fair"))

    def draw(seed: int) -> Architecture:
        rng = default_rng(seed)
        return given[int(rng.integers(len(given)))] if given else space.sample(rng)

    return draw


def product_of_genes(space: SearchSpace, option: str) -> GeneSpace:
    """The space, if it is a product of genes.

    Args:
        space: The search space.
        option: The option that needs one, as ``NAME=VALUE``.

    Raises:
        InputError: It is not.
    """
    if not isinstance(space, GeneSpace):
        raise InputError(
            f"{option} needs a search space that is a product of genes (a GeneSpace), since it changes paths of the "
            f"whole space gene by gene, but {space.name} is none; leave benchmark.{option.partition('=')[0]} out"
        )
    return space


class FairPaths:
    """Draws given paths without replacement: in each round of as many draws as there are paths, each path once.

    Args:
        given: The paths.
    """

    def __init__(self, given: Sequence[Architecture]) -> None:
        self._given = given
        self._times = np.zeros(len(given), dtype=np.int64)

    def __call__(self, seed: int) -> Architecture:
        """The next path."""
        number = _least_used(self._times, default_rng(seed))
        self._times[number] += 1
        return self._given[number]


class FairChoices:
    """Draws paths that use every choice of a gene equally often.

    After the strict fairness of Chu et al. (2021), "FairNAS: Rethinking evaluation fairness of weight sharing neural
    architecture search", sec. 3. Each gene takes its choices in random order without replacement, independently of
    the other genes. So a gene with k choices takes each of them once in every round of k paths, and after any number
    of paths none has been taken twice more than another. In FairNAS all genes have k choices, and the k paths of a
    round are trained in one step; so are they here if a batch has k paths. Otherwise a round spans several batches.

    A gene that is inactive in a path is not counted for it: its choice would train nothing. Where a combination is not
    a member, further ones are drawn, and each attempt frees more genes, at random, from their order. If none of
    `ATTEMPTS` combinations is a member, the space draws the path. The following paths make up for what such
    paths have taken too often, as far as members permit.

    Args:
        space: The search space.
    """

    def __init__(self, space: GeneSpace) -> None:
        self._space = space
        self._times = [np.zeros(len(gene.choices), dtype=np.int64) for gene in space.genes]

    def __call__(self, seed: int) -> Architecture:
        """The next path.

        Raises:
            InputError: The space finds no member.
        """
        path = self._drawn(default_rng(seed))
        choices = self._space.choices(path)
        for gene in self._space.active_genes(path):
            self._times[gene][choices[gene]] += 1
        return path

    def _drawn(self, rng: Generator) -> Architecture:
        for attempt in range(ATTEMPTS):
            freed = rng.random(len(self._times)) < attempt / ATTEMPTS  # none at first
            choices = [
                int(rng.integers(len(times))) if free else _least_used(times, rng)
                for times, free in zip(self._times, freed, strict=True)
            ]
            if self._space.violation(choices) is None:
                return self._space.member(choices)
        return self._space.sample(rng)


def _least_used(times: NDArray[np.int64], rng: Generator) -> int:
    """One of the numbers that were used least often, drawn uniformly."""
    return int(rng.choice(np.flatnonzero(times == times.min())))


def largest_and_smallest(
    space: SearchSpace, io: IO, given: Sequence[Architecture]
) -> tuple[Architecture, Architecture]:
    """The largest and the smallest of the given paths, by multiply-accumulates and then parameters.

    Without given paths, those of the whole space, found by coordinate search: from one member, each gene in turn takes
    the choice with the extreme cost, again and again until nothing changes, at most `PASSES` times. This
    is exact where costs are sums over genes. Elsewhere no change of a single gene gives a larger or smaller member. Of
    choices with equal cost the last one counts, since the first is often ``none``, and zeros teach nothing.

    Args:
        space: The search space.
        io: The shapes that costs are for.
        given: The paths to choose from; empty for all of the space.

    Raises:
        InputError: The whole space is meant, but it is no product of genes; or a network cannot be built.
    """

    def size(architecture: Architecture) -> tuple[int, int]:
        cost = space.cost(architecture, io)
        return cost.macs, cost.params

    if given:
        return max(given, key=size), min(given, key=size)
    genes = product_of_genes(space, "shared_weights.sandwich=true")
    start = genes.choices(genes.sample(default_rng(0)))
    largest, smallest = (_extreme(genes, start, size, sign) for sign in (pos, neg))
    return largest, smallest


def _extreme(
    space: GeneSpace, start: list[int], size: Callable[[Architecture], tuple[int, int]], sign: Callable[[int], int]
) -> Architecture:
    """The member at the end of a coordinate search for the highest `sign(macs), sign(params)`."""

    def rank(choices: list[int]) -> tuple[int, ...]:
        return tuple(map(sign, size(space.member(choices))))

    choices = start
    for _ in range(PASSES):
        before = choices
        for position, gene in enumerate(space.genes):
            others = ([*choices[:position], new, *choices[position + 1 :]] for new in range(len(gene.choices)))
            members = (other for other in others if space.violation(other) is None)
            *_, choices = max((rank(other), other[position], other) for other in members)
        if choices == before:
            break
    return space.member(choices)
