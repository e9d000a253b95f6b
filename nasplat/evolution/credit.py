"""Credit of building blocks: what each choice of a gene was worth so far, and which ones a mutation then prefers.

Song et al. (2020, "Efficient residual dense block search for image super-resolution", AAAI) let credits that are
earned while models are evaluated weigh which block a mutation puts in. Their rule was never released. The two here
are reconstructions, which ``performance/credits.py`` compares with no credit at all.
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
    """What there is to be credited in a space: the choices of its genes, or the parts of choices.

    A gene that decides nothing in an architecture has no term in it. The credit of a choice is the sum of its terms'.

    Args:
        space: Whose genes.
        scope: By ``position``, a choice is another term in every gene; ``global``, genes with equal choices share
            their terms.
        factorized: Whether a choice that is made of parts has a term for each part, rather than one.

    Attributes:
        number: How many terms there are.
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
        """How often each term stands in each of the architectures, `[n, number]`."""
        places = [
            row * self.number + term
            for row, architecture in enumerate(architectures)
            for terms in self.of(architecture)
            for term in terms
        ]
        size = len(architectures) * self.number
        return np.bincount(places, minlength=size).reshape(-1, self.number).astype(np.float64)

    def by_choice(self, credits: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The credits of the choices of every gene, each `[choices]`, from those of the terms, `[number]`."""
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
        chosen, expressed = self.space.choices(architecture), set(self.space.active_genes(architecture))
        return tuple(
            rows[choice] if gene in expressed else ()
            for gene, (rows, choice) in enumerate(zip(self._table, chosen, strict=True))
        )


def regression(counts: NDArray[np.float64], scores: NDArray[np.float64], *, ridge: float = 1.0) -> NDArray[np.float64]:
    """Credit by regression: what one more of a term is worth in all that was evaluated, `[terms]`.

    Ridge regression of the scores on the counts, both around their means. What no architecture has, or all have, gets
    nothing.

    Args:
        counts: How often each term stands in each architecture, `[n, terms]`.
        scores: Theirs, more being better, `[n]`.
        ridge: For how many evaluations the belief counts that a term is worth nothing.
    """
    x, y = counts - counts.mean(axis=0), scores - scores.mean()
    n, terms = x.shape
    worth: NDArray[np.float64]
    if terms <= n:
        worth = np.linalg.solve(x.T @ x + ridge * np.eye(terms), x.T @ y)
    else:  # the same, by the smaller of the two systems
        worth = x.T @ np.linalg.solve(x @ x.T + ridge * np.eye(n), y)
    return worth


def founding(counts: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Credit before there are parents: the mean score of those with a term less that of all, `[terms]`.

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
    """Credit by difference: what a child has gained over its parent is shared by the genes in which they differ.

    What came has gained it, what went has lost it; of several parts of one gene, those that changed share alike.

    Args:
        credits: Those so far, moving averages, `[terms]`.
        parent: The terms of the parent, gene by gene.
        child: Those of the child.
        gain: The child's score less the parent's.
        decay: How much of a credit stays where a share is added.

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
    """How likely a mutation of a gene is to put in each choice: more so, the more credit it has.

    The chance is proportional to `exp(credit / T)`, with `T` the temperature times the standard deviation of the
    credits of the gene's choices, so that the unit of the score does not matter. Equal credits give equal chances.

    Args:
        credits: Of the choices of every gene, each `[choices]`.
        temperature: The higher, the nearer to equal chances.
        floor: What part of a mutation is drawn uniformly whatever the credits.
    """
    rounding = ROUNDING * max(float(np.abs(credit).max()) for credit in credits)
    chances = []
    for credit in credits:
        spread = float(credit.std())
        steepness = 1.0 / (temperature * spread) if spread > rounding else 0.0
        weights = np.exp((credit - credit.max()) * steepness)
        chances.append((1 - floor) * weights / weights.sum() + floor / len(credit))
    return chances
