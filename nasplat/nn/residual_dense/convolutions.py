"""The convolutions of residual dense networks by formula, under their names in `nasplat.nn.residual_dense.network`."""

from collections.abc import Iterator

from nasplat.architecture import IO
from nasplat.convolution import Convolution, square
from nasplat.nn.residual_dense.shapes import RECURSIONS, DenseBlock, ResidualDenseShape


def network_convolutions(shape: ResidualDenseShape, io: IO) -> list[Convolution]:
    """All convolutions of a network in order: shallow features, those of each block, fusion and tail."""
    channels, *at = io.input_shape
    features, sides = shape.features, (at[0], at[1])
    found = [
        Convolution("shallow.0", square(channels, features, 3, sides)),
        Convolution("shallow.1", square(features, features, 3, sides)),
    ]
    for number, (block, inputs) in enumerate(zip(shape.blocks, shape.inputs, strict=True)):
        found += _block(f"blocks.{number}", block, inputs, sides)
    found += [
        Convolution("fusion.0", square(shape.fused, features, 1, sides)),
        Convolution("fusion.1", square(features, features, 3, sides)),
    ]
    last, place = features, 0
    for inputs, outputs, scale in shape.tail(io.scale or 0):
        found.append(Convolution(f"tail.{place}", square(inputs, outputs, 3, sides)))
        last, sides, place = outputs // scale**2, (scale * sides[0], scale * sides[1]), place + 2
    return [*found, Convolution(f"tail.{place}", square(last, io.outputs, 3, sides), last=True)]


def _block(place: str, block: DenseBlock, inputs: int, sides: tuple[int, int]) -> Iterator[Convolution]:
    growth, inside, calls, gathered = block.growth, sides, 1, block.dense
    if inputs != growth:
        yield Convolution(f"{place}.project", square(inputs, growth, 1, sides))
    if block.kind == "C":
        inside, calls, gathered = (-(-sides[0] // 2), -(-sides[1] // 2)), RECURSIONS, block.dense // 4
    for layer in range(block.depth):
        channels, groups = ((layer + 1) * growth, block.groups(layer)) if block.kind == "G" else (growth, 1)
        shape = square(channels, growth, 3, inside, groups=groups)
        yield Convolution(f"{place}.body.convolutions.{layer}", shape, calls)
    for layer in range(2, block.depth + 1) if block.kind != "G" else ():
        yield Convolution(f"{place}.body.shrinks.{layer - 2}", square(layer * growth, growth, 1, inside))
    yield Convolution(f"{place}.body.last", square(gathered, block.outputs, 1, sides))
    if block.outputs not in (inputs, growth):
        yield Convolution(f"{place}.shortcut", square(inputs, block.outputs, 1, sides))
