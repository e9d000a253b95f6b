"""A check of search spaces whose genes nothing but the built networks explains."""

import warnings
from typing import TYPE_CHECKING

from numpy.random import default_rng

from nasplat.architecture import IO, Architecture
from nasplat.search_space import GeneSpace, SearchSpace
from nasplat.testing.common import does_not_apply

if TYPE_CHECKING:
    from torch import nn

SAMPLES, MEMBERS = 30, 5


def genes_have_an_effect(space: SearchSpace, io: IO) -> None:
    """Each gene changes the network of some member; it is a warning if none was found, since chance may have it so.

    It applies where costs are counted on networks, since a cost by formula names the genes that it depends on.
    """
    if not (isinstance(space, GeneSpace) and space.counts_its_networks):
        does_not_apply(f"{space.name} has no counted costs")
    rng = default_rng(0)
    samples = [space.sample(rng) for _ in range(SAMPLES)]
    for number, gene in enumerate(space.genes):
        members = [member for member in samples if number in space.active_genes(member)][:MEMBERS]
        if not members:
            warnings.warn(
                f"a gene should change the networks, but {gene.name!r} is active in none of {SAMPLES} samples of "
                f"{space.name}; name it in active wherever it has an effect, or leave it out",
                stacklevel=2,
            )
        elif not any(_matters(space, member, number, io) for member in members):
            warnings.warn(
                f"a gene should change the networks, but none of {len(members)} networks of {space.name} changes with "
                f"{gene.name!r}; use it in build, or leave it out",
                stacklevel=2,
            )


def _matters(space: GeneSpace, member: Architecture, number: int, io: IO) -> bool:
    """Whether another choice of a gene gives another network."""
    found = _behaviour(space, member, io)
    choices = space.choices(member)
    for other in range(len(space.genes[number].choices)):
        changed = [*choices[:number], other, *choices[number + 1 :]]
        if space.violation(changed) is None and _behaviour(space, space.member(changed), io) != found:
            return True
    return False


def _behaviour(space: GeneSpace, member: Architecture, io: IO) -> tuple[object, ...]:
    """What a network is from outside: its layers, and its outputs in training and in evaluation, for one seed."""
    import torch

    from nasplat.training.seeding import seeded

    with seeded(0), torch.no_grad():
        network: nn.Module = space.build(member, io)
        images = torch.randn(3, *io.input_shape)
        training, evaluated = network.train()(images), network.eval()(images)
    return str(network), training.numpy().tobytes(), evaluated.numpy().tobytes()
