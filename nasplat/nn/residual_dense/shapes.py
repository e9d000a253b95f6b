"""The sizes and costs of residual dense networks for super-resolution, by formula.

Song et al., 2020, "Efficient residual dense block search for image super-resolution" (ESRN), AAAI; blocks and network
follow the public code of that group, with two differences: every projection is counted, which that code omits from the
second block on, and the tail has the correct width for each scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self, TypeAlias, get_args

from nasplat.architecture import IO
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.nn.costs import conv2d, together

Kind: TypeAlias = Literal["S", "G", "C"]
"""Shrink, group and contextual residual dense blocks."""
KINDS: tuple[Kind, ...] = get_args(Kind)

RECURSIONS = 3
"""The number of times that a contextual block applies each of its 3x3 convolutions."""
MOST_GROUPS = 4
SCALES = 2, 3, 4


@dataclass(frozen=True, slots=True)
class DenseBlock:
    """A residual dense block, independent of its input channels.

    Args:
        kind: S reduces the gathered channels before every convolution, G convolves them in groups, C works at half the
            height and width and applies each convolution several times.
        depth: The number of 3x3 convolutions.
        growth: The channels that each convolution adds; a multiple of 4.
        outputs: The output channels.
    """

    kind: Kind
    depth: int
    growth: int
    outputs: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``G_8_16_24``: kind, depth, growth and outputs.

        >>> str(DenseBlock.parse("G_8_16_24"))
        'G_8_16_24'

        Raises:
            InputError: The text has another form.
        """
        given, *numbers = text.strip().split("_")
        kind = next((kind for kind in KINDS if kind == given), None)
        try:
            depth, growth, outputs = map(int, numbers)
        except ValueError:
            depth = growth = outputs = 0
        if kind is None or min(depth, growth, outputs) < 1 or growth % 4:
            raise InputError(
                "a residual dense block must be KIND_DEPTH_GROWTH_OUTPUTS, such as G_8_16_24, where the kind is S, G "
                f"or C and the growth is a multiple of 4, but got {text!r}"
            )
        return cls(kind, depth, growth, outputs)

    def __str__(self) -> str:
        return f"{self.kind}_{self.depth}_{self.growth}_{self.outputs}"

    @property
    def dense(self) -> int:
        """The gathered channels at the end: the input and the outputs of all convolutions."""
        return (self.depth + 1) * self.growth

    @property
    def reach(self) -> int:
        """The radius of the receptive field in pixels."""
        # At half the height and width, a pixel represents two by two pixels, and the output may be any of these.
        return 2 * RECURSIONS * self.depth + 1 if self.kind == "C" else self.depth

    def groups(self, layer: int) -> int:
        """The number of channel groups of a group block in convolution number `layer`, from 0."""
        return int(min(MOST_GROUPS, 1 << ((layer + 1).bit_length() - 1)))

    @lru_cache(maxsize=4096)  # noqa: B019  blocks are few, and compared by value
    def cost(self, inputs: int, height: int, width: int) -> Cost:
        """The cost of the block on a map `[inputs, height, width]`, including projections."""
        pixels = inside = height * width
        if self.kind == "C":
            inside = -(-height // 2) * -(-width // 2)
        growth, gathered = self.growth, [(layer + 1) * self.growth for layer in range(self.depth)]
        if self.kind == "G":
            layers = [
                conv2d(channels, growth, 3, inside, groups=self.groups(layer))
                for layer, channels in enumerate(gathered)
            ]
        else:
            shrinks = [conv2d(channels, growth, 1, inside) for channels in gathered[1:]]
            once = conv2d(growth, growth, 3, inside)
            times = RECURSIONS if self.kind == "C" else 1
            recursive = Cost(once.params, times * once.macs, once.memory_bits)
            layers = [*shrinks, *[recursive] * self.depth]
        last = conv2d(self.dense // 4 if self.kind == "C" else self.dense, self.outputs, 1, pixels)
        return together(*(conv2d(*pair, 1, pixels) for pair in self.projections(inputs)), *layers, last)

    def projections(self, inputs: int) -> list[tuple[int, int]]:
        """The input and output channels of each 1x1 convolution that projects the input to the growth or to the
        outputs."""
        found = [] if inputs == self.growth else [(inputs, self.growth)]
        if self.outputs not in (inputs, self.growth):
            found.append((inputs, self.outputs))
        return found


@dataclass(frozen=True, slots=True)
class ResidualDenseShape:
    """All sizes of a network.

    Args:
        features: The channels of the shallow features and of the fusion; a multiple of 4.
        blocks: At least one, in order.
    """

    features: int
    blocks: tuple[DenseBlock, ...]

    @property
    def inputs(self) -> list[int]:
        """The input channels of each block."""
        return [self.features, *(block.outputs for block in self.blocks[:-1])]

    @property
    def fused(self) -> int:
        """The channels of all blocks' outputs together."""
        return sum(block.outputs for block in self.blocks)

    def tail(self, scale: int) -> list[tuple[int, int, int]]:
        """The input and output channels of the convolution of each upscaling stage, and the factor of the stage.

        For scales 2 and 3 there is one stage, which keeps 3/4 of the features. For scale 4 there are two stages of 2,
        which keep all of them. The public code also states 3/4 for scale 3, but has too few channels for it.
        """
        if scale == 4:
            return [(self.features, 4 * self.features, 2)] * 2
        return [(self.features, scale**2 * (3 * self.features // 4), scale)]

    @property
    def reach(self) -> int:
        """The radius of the receptive field, in pixels of the low-resolution image, without the tail."""
        return 2 + sum(block.reach for block in self.blocks) + 1


def network_costs(shape: ResidualDenseShape, io: IO, names: Sequence[str]) -> dict[str, Cost]:
    """The cost of each part: ``shallow``, the blocks by their names, ``fusion`` and ``tail``.

    Raises:
        ValueError: There is no scale, or it is not 2, 3 or 4.
    """
    check_scale(io)
    channels, height, width = io.input_shape
    pixels, features = height * width, shape.features
    parts = {"shallow": together(conv2d(channels, features, 3, pixels), conv2d(features, features, 3, pixels))}
    for name, block, inputs in zip(names, shape.blocks, shape.inputs, strict=True):
        parts[name] = block.cost(inputs, height, width)
    parts["fusion"] = together(conv2d(shape.fused, features, 1, pixels), conv2d(features, features, 3, pixels))
    layers, last = [], features
    for inputs, outputs, scale in shape.tail(io.scale or 0):
        layers.append(conv2d(inputs, outputs, 3, pixels))
        pixels, last = pixels * scale**2, outputs // scale**2
    parts["tail"] = together(*layers, conv2d(last, io.outputs, 3, pixels))
    return parts


def check_scale(io: IO) -> None:
    """Refuse scales that the tails do not support.

    Raises:
        ValueError: There is no scale, or it is not 2, 3 or 4.
    """
    if io.scale not in SCALES:
        raise ValueError(f"residual dense networks upscale images 2, 3 or 4 times, but the scale is {io.scale}")
