"""The default graph of a space of genes: a chain of choices, with what each adds to the cost of a network."""

import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.cost import Cost
from nasplat.graph import Graphs

if TYPE_CHECKING:
    from nasplat.search_space import GeneSpace

Added: TypeAlias = Sequence[Sequence[tuple[int, int]]]
"""For each gene and choice: the parameters and multiply-accumulates that the choice adds."""

COUNTS = ("params", "macs")
SAMPLES = 5
"""Number of random networks that are looked at beside the small one."""


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
        added: What each choice adds, from `added_costs`.
    """
    names = [
        [f"{family}={choice}" for choice in gene.choices]
        for family, gene in zip(_families(space), space.genes, strict=True)
    ]
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


def _families(space: "GeneSpace") -> list[str]:
    """For each gene, its name without numbers if all genes of that name have the same choices; else its name."""
    short = [" ".join(re.sub(r"\d+", " ", gene.name).split()) for gene in space.genes]
    choices: dict[str, set[tuple[str, ...]]] = {}
    for name, gene in zip(short, space.genes, strict=True):
        choices.setdefault(name, set()).add(gene.choices)
    return [
        name if name and len(choices[name]) == 1 else gene.name for name, gene in zip(short, space.genes, strict=True)
    ]


def added_costs(space: "GeneSpace") -> Added:
    """What each choice adds to a small network, beside the cheapest choice of its gene.

    If the networks have a part with the gene's name, as those of models with choices, it is what this part costs.

    The small network is found by one pass over the genes. A gene that has no effect in it, or whose choices are not all
    allowed, is looked at in one of a few random networks instead. So no more than a few networks are counted for each
    choice. What cannot be counted adds nothing. These are estimates: two choices may share what they add.
    """
    samples = [space.choices(space.sample(default_rng(seed))) for seed in range(SAMPLES)]
    small = list(next((choices for choices in samples if _cost(space, choices)), samples[0]))
    for number in range(len(space.genes)):
        costs = _costs(space, small, number)
        by_size = sorted(costs, key=lambda choice: (costs[choice].macs, costs[choice].params))
        small[number] = next(iter(by_size), small[number])
    return [_added(space, [small, *samples], number) for number in range(len(space.genes))]


def _added(space: "GeneSpace", networks: Sequence[list[int]], number: int) -> list[tuple[int, int]]:
    gene, costs = space.genes[number], dict[int, Cost]()
    for choices in networks:
        if number in space.active_genes(space.member(choices)):
            found = _costs(space, choices, number)
            costs = max(costs, found, key=len)
            if len(costs) == len(gene.choices):
                break
    if all(gene.name in cost.parts for cost in costs.values()):
        known, least = {choice: cost.parts[gene.name] for choice, cost in costs.items()}, Cost()
    else:
        known, least = costs, Cost(*(min(getattr(cost, name) for cost in costs.values()) for name in COUNTS))
    counted = (known.get(choice, least) for choice in range(len(gene.choices)))
    return [(cost.params - least.params, cost.macs - least.macs) for cost in counted]


def _costs(space: "GeneSpace", choices: Sequence[int], gene: int) -> dict[int, Cost]:
    """Costs by the choice of one gene; without choices that give no network."""
    others = ([*choices[:gene], choice, *choices[gene + 1 :]] for choice in range(len(space.genes[gene].choices)))
    costs = {choice: _cost(space, other) for choice, other in enumerate(others) if space.violation(other) is None}
    return {choice: cost for choice, cost in costs.items() if cost is not None}


def _cost(space: "GeneSpace", choices: Sequence[int]) -> Cost | None:
    """The cost of a network; None if it cannot be counted, as where a space knows some of its members only."""
    try:
        return space.cost(space.member(choices), space.reference_io)
    except Exception:  # noqa: BLE001  code of an author, on a network that no search has asked for
        return None
