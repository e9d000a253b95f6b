"""Checks of a search space's formulas: costs, and convolutions, are those of the networks that it builds."""

from numpy.random import default_rng

from nasplat.architecture import IO, Architecture
from nasplat.search_space import SearchSpace
from nasplat.testing.common import does_not_apply, needs_networks

SAMPLES = 8


def cost_is_what_is_built(space: SearchSpace, io: IO) -> None:
    """Parameters, MACs, bits and operations are those of the built network; parts sum to the whole.

    Parameters and MACs are compared with what torch counts.
    """
    needs_networks(space)
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from nasplat.cost import count, unfused_attention
    from nasplat.training.seeding import seeded

    for architecture in _some(space):
        cost = space.cost(architecture, io)
        with seeded(0):
            network = space.build(architecture, io).eval()
        params = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert cost.params == params, f"{architecture} has {params} params, but its cost says {cost.params}"
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), unfused_attention(), counter:
            network(torch.zeros(1, *io.input_shape))
        macs = counter.get_total_flops() / 2
        assert cost.macs == macs, f"{architecture} needs {macs:g} MACs, but its cost says {cost.macs}"
        whole, known = count(lambda: network, io).metrics(), cost.metrics()  # noqa: B023  called at once
        for name in ("memory_bits", "multiplications", "additions", "bit_operations", "operations"):
            assert known[name] == whole[name], (
                f"{architecture} has {whole[name]:g} {name}, but its cost says {known[name]:g}"
            )
        for name, figure in known.items() if cost.parts else ():
            parts = sum(part.metrics().get(name, 0) for part in cost.parts.values())
            assert parts == figure, f"the parts of {architecture} sum to {parts} {name}, not {figure}"


def convolutions_are_what_is_built(space: SearchSpace, io: IO) -> None:
    """The convolutions by formula are those of the built network, with their sizes.

    One that evaluation does not use is told with 0 calls.
    """
    needs_networks(space)
    if space.convolutions_of(_some(space)[0], io) is None:
        does_not_apply(f"{space.name} has no formula for its convolutions")
    import torch

    from nasplat.convolution import found_by_running
    from nasplat.training.seeding import seeded

    for architecture in _some(space):
        with seeded(0):
            network = space.build(architecture, io)
        built = {each.name: each for each in found_by_running(network, io)}
        told = {each.name: each for each in space.convolutions_of(architecture, io) or ()}
        names = [name for name, layer in network.named_modules() if isinstance(layer, torch.nn.Conv2d)]
        assert list(told) == names, f"the convolutions of {architecture} are {names}, but it tells {list(told)}"
        for name, each in told.items():
            same = each == built[name] if name in built else each.calls == 0
            assert same, f"a convolution of {architecture} is {built.get(name, 'not used')}, but it tells {each}"


def _some(space: SearchSpace) -> list[Architecture]:
    rng = default_rng(0)
    return [space.sample(rng) for _ in range(SAMPLES)]
