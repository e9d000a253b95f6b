"""The default graph of a space of genes: a chain of choices, with what each adds to the cost of a network."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.graph import ABSENT, Graphs, Operation, Role

if TYPE_CHECKING:
    from nasplat.search_space import GeneSpace

Added: TypeAlias = Sequence[Sequence[tuple[int, int]]]
"""For each gene and choice: the parameters and multiply-accumulates that the choice adds."""

FIGURES = ("params", "macs")


def gene_chain(space: "GeneSpace", architectures: Sequence[Architecture], added: Added) -> Graphs:
    """The input, one node for every active gene in order, the output.

    A node's type is its gene with its choice, whose name may mean something else in another gene; its role is not
    known. A node's cost is that of the part with the gene's name, if the space computes costs by formula and has such a
    part. Else it is what the choice adds.

    Args:
        space: The space.
        architectures: Its members, `[n]`.
        added: As from `added_costs`.
    """
    genes = space.genes
    first = np.cumsum([1, *(len(gene.choices) for gene in genes)])  # the type of each gene's first choice
    operations = (
        Operation("input", Role.INPUT),
        *(Operation(f"{gene.name}={choice}", Role.OTHER) for gene in genes for choice in gene.choices),
        Operation("output", Role.OUTPUT),
    )
    nodes, n = len(genes) + 2, len(architectures)
    types = np.full((n, nodes), ABSENT, dtype=np.int16)
    types[:, 0], types[:, -1] = 0, len(operations) - 1
    params, macs = np.zeros((n, nodes), dtype=np.int64), np.zeros((n, nodes), dtype=np.int64)
    adjacency = np.zeros((n, nodes, nodes), dtype=bool)
    for row, architecture in enumerate(architectures):
        choices, active = space.choices(architecture), sorted(space.active_genes(architecture))
        parts = _parts(space, architecture)
        for gene in active:
            choice, part = choices[gene], parts.get(genes[gene].name)
            types[row, 1 + gene] = first[gene] + choice
            cost = added[gene][choice] if part is None else (part.params, part.macs)
            params[row, 1 + gene], macs[row, 1 + gene] = cost
        chain = [0, *(1 + gene for gene in active), nodes - 1]
        adjacency[row, chain[:-1], chain[1:]] = True
    return Graphs(operations, types, adjacency, params, macs)


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


def _parts(space: "GeneSpace", architecture: Architecture) -> Mapping[str, Cost]:
    """The parts of a cost by formula; none if a network would have to be built."""
    if space.counts_its_networks:
        return {}
    with suppress(InputError):  # what cannot be built has choices all the same, and predictors may meet it
        return space.cost(architecture, space.reference_io).parts
    return {}


def _costs(space: "GeneSpace", choices: Sequence[int], gene: int) -> dict[int, Cost]:
    """Costs by the choice of one gene; without choices that give no network."""
    found = {}
    for choice in range(len(space.genes[gene].choices)):
        other = [*choices[:gene], choice, *choices[gene + 1 :]]
        if space.violation(other) is None:
            with suppress(InputError):
                found[choice] = space.cost(space.member(other), space.reference_io)
    return found
