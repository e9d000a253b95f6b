"""The convolutions of Ghost networks by formula, under their names in `nasplat.nn.ghost.supernet`."""

from collections.abc import Iterator

from nasplat.architecture import IO
from nasplat.convolution import Convolution, square
from nasplat.nn.ghost.shapes import Bottleneck, GhostShape, Operator, squeezed


def network_convolutions(shape: GhostShape, io: IO) -> list[Convolution]:
    """All convolutions of a network in order: stem, those of each bottleneck, head and features."""
    sides = list(shape.sides())
    found = [
        Convolution("stem.0", square(io.input_shape[0], shape.stem, 3, (shape.side,) * 2, stride=shape.stem_stride))
    ]
    outputs = shape.stem
    for number, (block, before, after) in enumerate(zip(shape.blocks.values(), sides[:-1], sides[1:], strict=True)):
        found += _bottleneck(f"blocks.{number}", block, (before, before), (after, after))
        outputs = block.outputs
    found.append(Convolution("head.0", square(outputs, shape.head, 1, (sides[-1], sides[-1]))))
    return [*found, Convolution("features", square(shape.head, shape.features, 1, (1, 1), bias=True))]


def _bottleneck(
    place: str, shape: Bottleneck, before: tuple[int, int], after: tuple[int, int]
) -> Iterator[Convolution]:
    inputs, expanded, outputs, stride = shape.inputs, shape.expanded, shape.outputs, shape.stride
    yield from _ghost_module(f"{place}.expand", inputs, expanded, shape.expand, before)
    if shape.kernel:
        filters = square(expanded, expanded, shape.kernel, before, stride=stride, groups=expanded)
        yield Convolution(f"{place}.depthwise.0", filters)
    if shape.squeeze:
        reduced = squeezed(expanded)
        yield Convolution(f"{place}.squeeze.reduce", square(expanded, reduced, 1, (1, 1), bias=True))
        yield Convolution(f"{place}.squeeze.expand", square(reduced, expanded, 1, (1, 1), bias=True))
    yield from _ghost_module(f"{place}.project", expanded, outputs, shape.project, after)
    if not shape.identity:
        filters = square(inputs, inputs, shape.shortcut_kernel, before, stride=stride, groups=inputs)
        yield Convolution(f"{place}.shortcut.0.0", filters)
        yield Convolution(f"{place}.shortcut.1.0", square(inputs, outputs, 1, after))


def _ghost_module(
    place: str, inputs: int, outputs: int, operator: Operator, sides: tuple[int, int]
) -> Iterator[Convolution]:
    intrinsic = -(-outputs // operator.ratio)
    yield Convolution(f"{place}.primary.0", square(inputs, intrinsic, 1, sides))
    if operator.ratio > 1:
        ghosts = intrinsic * (operator.ratio - 1)
        yield Convolution(f"{place}.cheap.0", square(intrinsic, ghosts, operator.kernel, sides, groups=intrinsic))
