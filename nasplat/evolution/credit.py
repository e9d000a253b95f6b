"""Credit of building blocks: the estimated effect of each choice of a gene, and mutation probabilities from it.

In Song et al. (2020, "Efficient residual dense block search for image super-resolution", AAAI), the credits from
evaluated models are the weights by which a mutation selects a block. Their rule was never released. The two rules here
are reconstructions; ``performance/credits.py`` compares them with mutation without credit.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.search_space import Gene, GeneSpace, Prior

Scope: TypeAlias = Literal["position", "global"]

ROUNDING = 1e-9
"""Credits of a gene that differ by less than this part of the largest credit are equal."""


class Terms:
    """The terms that get credit in a space: the choices of its genes, or the parts of choices.

    An inactive gene has no term in an architecture. The credit of a choice is the sum of the credits of its terms.

    Args:
        space: The search space.
        scope: With ``position``, a choice has a separate term in every gene; with ``global``, genes with equal choices
            share their terms.
        factorized: Whether a choice with parts has a term for each part, instead of one term.

    Attributes:
        number: Number of terms.
        of: The terms of an architecture, gene by gene.
    """

    def __init__(self, space: GeneSpace, *, scope: Scope, factorized: bool) -> None:
        self.space = space
        self.scope = scope
        self.factorized = factorized
        numbers: dict[tuple[object, ...], int] = {}
        self._table = [
            [tuple(numbers.setdefault(term, len(numbers)) for term in self._names(place, choice)) for choice in choices]
            for place, choices in enumerate(gene.choices for gene in space.genes)
        ]
        self.number = len(numbers)
        self.of = lru_cache(maxsize=65536)(self._of)

    def counts(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """The count of each term in each architecture, `[n, number]`."""
        places = [
            row * self.number + term
            for row, architecture in enumerate(architectures)
            for terms in self.of(architecture)
            for term in terms
        ]
        size = len(architectures) * self.number
        return np.bincount(places, minlength=size).reshape(-1, self.number).astype(np.float64)

    def by_choice(self, credits: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The credits of the choices of every gene, each `[choices]`, from the credits of the terms, `[number]`."""
        return [credits[np.array(rows)].sum(axis=1) for rows in self._table]

    def _names(self, place: int, choice: str) -> Iterator[tuple[object, ...]]:
        gene: Gene = self.space.genes[place]
        pool: object = place if self.scope == "position" else gene.choices
        if not (self.factorized and gene.parts):
            yield pool, choice
            return
        for part, value in zip(gene.parts, choice.split("_"), strict=True):
            yield pool, part, value

    def _of(self, architecture: Architecture) -> tuple[tuple[int, ...], ...]:
        chosen, active = self.space.choices(architecture), set(self.space.active_genes(architecture))
        return tuple(
            rows[choice] if gene in active else ()
            for gene, (rows, choice) in enumerate(zip(self._table, chosen, strict=True))
        )


def regression(counts: NDArray[np.float64], scores: NDArray[np.float64], *, ridge: float = 1.0) -> NDArray[np.float64]:
    """Credit by regression: the coefficient of each term over all evaluated architectures, `[terms]`.

    Ridge regression of the scores on the counts, both centered. A term that no architecture has, or all have, gets the
    credit 0.

    Args:
        counts: How often each term stands in each architecture, `[n, terms]`.
        scores: Theirs, more being better, `[n]`.
        ridge: Ridge penalty, in units of evaluations.
    """
    x, y = counts - counts.mean(axis=0), scores - scores.mean()
    n, terms = x.shape
    worth: NDArray[np.float64]
    if terms <= n:
        worth = np.linalg.solve(x.T @ x + ridge * np.eye(terms), x.T @ y)
    else:  # the same solution, from the smaller linear system
        worth = x.T @ np.linalg.solve(x @ x.T + ridge * np.eye(n), y)
    return worth


def founding(counts: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Credit of the initial population: the mean score of architectures with a term minus the mean of all, `[terms]`.

    Args:
        counts: How often each term stands in each architecture, `[n, terms]`.
        scores: Theirs, more being better, `[n]`.
    """
    has = counts > 0
    means = (has * scores[:, None]).sum(axis=0) / np.maximum(has.sum(axis=0), 1)
    return np.where(has.any(axis=0), means - scores.mean(), 0.0)


def difference(
    credits: NDArray[np.float64],
    parent: Sequence[tuple[int, ...]],
    child: Sequence[tuple[int, ...]],
    gain: float,
    *,
    decay: float = 0.9,
) -> NDArray[np.float64]:
    """Credit by difference: a child's gain over its parent is shared among the genes in which they differ.

    A term that was added gets its share, and a term that was removed loses it. If several parts of one gene changed,
    they get equal shares.

    Args:
        credits: The credits so far, moving averages, `[terms]`.
        parent: The terms of the parent, gene by gene.
        child: The terms of the child, gene by gene.
        gain: The child's score minus the parent's.
        decay: The part of a credit that stays when a share is added.

    Returns:
        The new credits; the old ones are left as they were.
    """
    credits = credits.copy()
    changed = [(set(before), set(after)) for before, after in zip(parent, child, strict=True) if before != after]
    for before, after in changed:
        came, went = after - before, before - after
        share = gain / len(changed) / max(len(came), len(went))
        for terms, earned in ((came, share), (went, -share)):
            for term in terms:
                credits[term] = decay * credits[term] + (1 - decay) * earned
    return credits


def preference(credits: Sequence[NDArray[np.float64]], *, temperature: float = 0.5, floor: float = 0.3) -> Prior:
    """The probability of each choice in a mutation of its gene; it grows with the credit of the choice.

    It is proportional to `exp(credit / T)`, with `T` the temperature times the standard deviation of the credits of
    the gene's choices, so that the unit of the score does not matter. Equal credits give equal probabilities.

    Args:
        credits: The credits of the choices of every gene, each `[choices]`.
        temperature: A higher temperature is closer to equal probabilities.
        floor: The part of the probability that is uniform, independent of the credits.
    """
    rounding = ROUNDING * max(float(np.abs(credit).max()) for credit in credits)
    chances = []
    for credit in credits:
        spread = float(credit.std())
        steepness = 1.0 / (temperature * spread) if spread > rounding else 0.0
        weights = np.exp((credit - credit.max()) * steepness)
        chances.append((1 - floor) * weights / weights.sum() + floor / len(credit))
    return chances
