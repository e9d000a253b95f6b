"""The sequential blocks of a residual dense network, for latency tables."""

from functools import partial

from nasplat.architecture import IO
from nasplat.block_space import Block
from nasplat.nn.residual_dense.network import Projected, fusion, shallow, tail
from nasplat.nn.residual_dense.shapes import DenseBlock, ResidualDenseShape


def network_blocks(shape: ResidualDenseShape, io: IO) -> list[Block]:
    """Shallow features, each residual dense block, fusion and tail.

    Raises:
        ValueError: There is no scale, or it is not 2, 3 or 4.
    """
    channels, height, width = io.input_shape
    features, at = shape.features, f"at {height}x{width}"
    found = [Block(f"shallow {at}", (channels, features), partial(shallow, shape, io), io.input_shape)]
    for block, inputs in zip(shape.blocks, shape.inputs, strict=True):
        widths = inputs, block.growth, block.outputs
        found.append(
            Block(f"{_kind(block, inputs)} {at}", widths, partial(Projected, block, inputs), (inputs, height, width))
        )
    fused = shape.fused, height, width
    found.append(Block(f"fusion {at}", (shape.fused, features), partial(fusion, shape), fused))
    ahead = features, height, width
    found.append(Block(f"tail x{io.scale} {at}", (features, io.outputs), partial(tail, shape, io), ahead))
    return found


def _kind(block: DenseBlock, inputs: int) -> str:
    """The kind of a block, without widths: its type, its depth, and its projections."""
    projections = len(block.projections(inputs))
    around = ("plain", "projected")[inputs != block.growth] + " aside" * (projections == 1 + (inputs != block.growth))
    return f"{block.kind} {block.depth} {around}"
