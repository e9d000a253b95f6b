"""The blocks of a Ghost network, for latency tables."""

from functools import partial

from torch import nn

from nasplat.architecture import IO
from nasplat.block_space import Block
from nasplat.nn.ghost.shapes import Bottleneck, GhostShape
from nasplat.nn.ghost.supernet import GhostModule, SqueezeExcite, conv_bn, depthwise, shortcut


def network_blocks(shape: GhostShape, io: IO) -> list[Block]:
    """The blocks in order: stem with resizing, the layers of each bottleneck, head with pooling, and classifier."""
    first, *sides = shape.sides()
    pixels = io.input_shape[1]
    kind = f"stem stride {shape.stem_stride} at {shape.side}" + f" from {pixels}" * (pixels != shape.side)
    found = [Block(kind, (shape.stem,), partial(_stem, shape, io), io.input_shape)]
    outputs, before = shape.stem, first
    for block, after in zip(shape.blocks.values(), sides, strict=True):
        found += _layers(block, before, after)
        outputs, before = block.outputs, after
    head = partial(_head, outputs, shape.head)
    found.append(Block(f"head at {before}", (outputs, shape.head), head, (outputs, before, before)))
    found.append(Block("classifier", (shape.head,), partial(_classifier, shape, io), (shape.head, 1, 1)))
    return found


def _layers(block: Bottleneck, before: int, after: int) -> list[Block]:
    """The layers of a bottleneck with `before` input pixels and `after` output pixels."""
    inputs, expanded, outputs, stride = block.inputs, block.expanded, block.outputs, block.stride
    found = [
        Block(
            f"expand {block.expand} at {before}",
            (inputs, expanded),
            partial(GhostModule, inputs, expanded, block.expand),
            (inputs, before, before),
        )
    ]
    if block.kernel:
        found.append(
            Block(
                f"depthwise {block.kernel} stride {stride} at {before}",
                (expanded,),
                partial(depthwise, expanded, block.kernel, stride),
                (expanded, before, before),
            )
        )
    inner = (expanded, after, after)
    if block.squeeze:
        found.append(Block(f"squeeze at {after}", (expanded,), partial(SqueezeExcite, expanded), inner))
    found.append(
        Block(
            f"project {block.project} at {after}",
            (expanded, outputs),
            partial(GhostModule, expanded, outputs, block.project, relu=False),
            inner,
        )
    )
    if not block.identity:
        found.append(
            Block(
                f"shortcut {block.shortcut_kernel} stride {stride} at {before}",
                (inputs, outputs),
                partial(shortcut, inputs, outputs, block.shortcut_kernel, stride),
                (inputs, before, before),
            )
        )
    return found


def _stem(shape: GhostShape, io: IO) -> nn.Module:
    channels, *sides = io.input_shape
    resize = [nn.Upsample(size=(shape.side, shape.side), mode="bilinear")] if sides[0] != shape.side else []
    return nn.Sequential(*resize, conv_bn(channels, shape.stem, 3, shape.stem_stride, relu=True))


def _head(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(conv_bn(inputs, outputs, relu=True), nn.AdaptiveAvgPool2d(1))


def _classifier(shape: GhostShape, io: IO) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape.head, shape.features, 1), nn.ReLU(), nn.Flatten(), nn.Linear(shape.features, io.outputs)
    )
