"""The default graph of a space of genes: a chain of choices, with what each adds to the cost of a network."""

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.graph import Graphs

if TYPE_CHECKING:
    from nasplat.search_space import GeneSpace

Added: TypeAlias = Sequence[Sequence[tuple[int, int]]]
"""For each gene and choice: the parameters and multiply-accumulates that the choice adds."""

FIGURES = ("params", "macs")


def gene_chain(space: "GeneSpace", architectures: Sequence[Architecture], added: Added) -> Graphs:
    """The input, one node for every active gene in order, the output.

    A node's type is its gene with its choice, whose name may mean something else in another gene. Genes whose names
    differ in numbers alone, as ``kernel 1`` and ``kernel 2``, are one decision in several places, and have the same
    types. Roles are not known.

    A node's cost is that of the part with the gene's name, if the space computes costs by formula and has such a part.
    Else it is what the choice adds.

    Args:
        space: The space.
        architectures: Its members, `[n]`.
        added: As from `added_costs`.
    """
    names = [[f"{_family(gene.name)}={choice}" for choice in gene.choices] for gene in space.genes]
    kinds = {name: number for number, name in enumerate(dict.fromkeys(chain.from_iterable(names)))}
    chains = []
    for architecture in architectures:
        choices = space.choices(architecture)
        parts = {} if space.counts_its_networks else space.reference_cost(architecture).parts
        nodes = {}
        for gene in sorted(space.active_genes(architecture)):
            choice, part = choices[gene], parts.get(space.genes[gene].name)
            params, macs = added[gene][choice] if part is None else (part.params, part.macs)
            nodes[gene] = kinds[names[gene][choice]], params, macs
        chains.append(nodes)
    return Graphs.chains(list(kinds), len(space.genes), chains)


def _family(name: str) -> str:
    """A gene's name without numbers."""
    return re.sub(r"\d+", "", name)


def added_costs(space: "GeneSpace") -> Added:
    """What each choice adds to the smallest network, beside the cheapest choice of its gene.

    If the networks have a part with the gene's name, as those of models with choices, it is what this part costs.

    Only networks that differ from the smallest one in a single gene are counted: no more than there are choices, and as
    many to find the smallest. What is not a member, or cannot be built, adds nothing; nor does a gene that has no
    effect in the smallest network.
    """
    smallest = space.choices(space.sample(default_rng(0)))
    for number in range(len(space.genes)):
        costs = _costs(space, smallest, number)
        by_size = sorted(costs, key=lambda choice: (costs[choice].macs, costs[choice].params))
        smallest[number] = next(iter(by_size), smallest[number])
    added: list[list[tuple[int, int]]] = []
    for number, gene in enumerate(space.genes):
        costs = _costs(space, smallest, number)
        if all(gene.name in cost.parts for cost in costs.values()):
            known, least = {choice: cost.parts[gene.name] for choice, cost in costs.items()}, Cost()
        else:
            known, least = costs, Cost(*(min(getattr(cost, name) for cost in costs.values()) for name in FIGURES))
        figures = (known.get(choice, least) for choice in range(len(gene.choices)))
        added.append([(cost.params - least.params, cost.macs - least.macs) for cost in figures])
    return added


def _costs(space: "GeneSpace", choices: Sequence[int], gene: int) -> dict[int, Cost]:
    """Costs by the choice of one gene; without choices that give no network."""
    found = {}
    for choice in range(len(space.genes[gene].choices)):
        other = [*choices[:gene], choice, *choices[gene + 1 :]]
        if space.violation(other) is None:
            with suppress(InputError):
                found[choice] = space.cost(space.member(other), space.reference_io)
    return found
