"""The shapes of Ghost networks, and their costs by formula. No network is built.

The rules follow GhostNet's published code (Han et al., 2020, "GhostNet: More features from cheap operations").
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nasplat.architecture import IO
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.nn import costs


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator that makes a convolution's maps.

    Args:
        ratio: The ratio of all maps to the maps of the primary convolution: s in the paper. The other maps, the
            ghosts, are made from these. 1 is an ordinary convolution.
        kernel: The side of the depth-wise convolution that makes ghosts: d in the paper. It is odd, so ghosts keep the
            size of their input.

    Raises:
        InputError: The ratio is not positive, or the kernel is not both positive and odd.
    """

    ratio: int = 2
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.ratio < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(
                f"an operator must have a ratio of at least 1 and an odd kernel, but got {self.ratio} and "
                f"{self.kernel}; try Operator(ratio=2, kernel=3)"
            )

    def __str__(self) -> str:
        return "plain" if self.ratio == 1 else f"ghost {self.ratio} {self.kernel}"


PLAIN = Operator(1, 1)
GHOST = Operator()


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The shape of a bottleneck.

    Args:
        inputs: The input channels.
        expanded: The channels in the middle.
        outputs: The output channels.
        kernel: The side of the depth-wise convolution in the middle; 0 for none, which requires stride 1.
        stride: The stride of this convolution and of the shortcut.
        squeeze: Whether there is squeeze-and-excitation.
        expand: The operator of the first convolution.
        project: The operator of the second.
        shortcut_kernel: The side of the shortcut's depth-wise convolution, if there is one.
    """

    inputs: int
    expanded: int
    outputs: int
    kernel: int = 0
    stride: int = 1
    squeeze: bool = False
    expand: Operator = GHOST
    project: Operator = GHOST
    shortcut_kernel: int = 3

    @property
    def identity(self) -> bool:
        """Whether the shortcut is the input itself."""
        return self.inputs == self.outputs and self.stride == 1


@dataclass(frozen=True, slots=True)
class GhostShape:
    """The shape of a network of bottlenecks.

    Args:
        side: The side to which images are resized, in pixels.
        stem: The width of the first convolution.
        stem_stride: The stride of the first convolution.
        blocks: The bottlenecks in order, by the name of their place.
        head: The width of the last convolution before global average pooling.
        features: The width between the pooling and the classifier.
    """

    side: int
    stem: int
    stem_stride: int
    blocks: Mapping[str, Bottleneck]
    head: int
    features: int

    def sides(self) -> Iterator[int]:
        """The input side of each bottleneck, and the output side of the last one."""
        side = -(-self.side // self.stem_stride)
        yield side
        for block in self.blocks.values():
            side = -(-side // block.stride)
            yield side


def make_divisible(channels: float, divisor: int = 4) -> int:
    """The nearest multiple of the divisor, at least the divisor; the next larger one if the reduction exceeds a tenth.

    MobileNetV2 and its successors round scaled widths by this rule.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def squeezed(channels: int) -> int:
    """The inner width of squeeze-and-excitation: a quarter, divisible by four."""
    return make_divisible(channels * 0.25)


def conv_bn_cost(inputs: int, outputs: int, kernel: int, pixels: int, groups: int = 1) -> Cost:
    """A convolution and batch norm, with `pixels` output positions."""
    return costs.together(costs.conv2d(inputs, outputs, kernel, pixels, groups=groups), costs.batch_norm(outputs))


def ghost_cost(inputs: int, outputs: int, operator: Operator, pixels: int, kernel: int = 1) -> Cost:
    """A Ghost module: n·c·k²/s and (s-1)·n·d²/s multiply-accumulates for each output position (sec. 3.1), n rounded up.

    If s does not divide the number of maps, some ghosts are computed and dropped.
    """
    intrinsic = -(-outputs // operator.ratio)
    primary = conv_bn_cost(inputs, intrinsic, kernel, pixels)
    if operator.ratio == 1:
        return primary
    ghosts = intrinsic * (operator.ratio - 1)
    return costs.together(primary, conv_bn_cost(intrinsic, ghosts, operator.kernel, pixels, groups=intrinsic))


def squeeze_cost(channels: int) -> Cost:
    """Squeeze-and-excitation."""
    reduced = squeezed(channels)
    return costs.together(
        costs.conv2d(channels, reduced, 1, 1, bias=True), costs.conv2d(reduced, channels, 1, 1, bias=True)
    )


def bottleneck_costs(shape: Bottleneck, side: int) -> dict[str, Cost]:
    """The costs of the layers of a bottleneck with input side `side` in pixels, by name, in order."""
    before, after = side**2, (-(-side // shape.stride)) ** 2
    parts = {"expand": ghost_cost(shape.inputs, shape.expanded, shape.expand, before)}
    if shape.kernel:
        parts["depthwise"] = conv_bn_cost(shape.expanded, shape.expanded, shape.kernel, after, groups=shape.expanded)
    if shape.squeeze:
        parts["squeeze"] = squeeze_cost(shape.expanded)
    parts["project"] = ghost_cost(shape.expanded, shape.outputs, shape.project, after)
    if not shape.identity:
        inner = conv_bn_cost(shape.inputs, shape.inputs, shape.shortcut_kernel, after, groups=shape.inputs)
        parts["shortcut"] = costs.together(inner, conv_bn_cost(shape.inputs, shape.outputs, 1, after))
    return parts


def network_costs(shape: GhostShape, io: IO) -> dict[str, Cost]:
    """The costs of a network's layers by name, in order: stem, the layers of each bottleneck under its place, head,
    classifier."""
    sides = list(shape.sides())
    parts = {"stem": conv_bn_cost(io.input_shape[0], shape.stem, 3, sides[0] ** 2)}
    outputs = shape.stem
    for (place, block), side in zip(shape.blocks.items(), sides, strict=False):
        parts |= {f"{place} {name}": cost for name, cost in bottleneck_costs(block, side).items()}
        outputs = block.outputs
    parts["head"] = conv_bn_cost(outputs, shape.head, 1, sides[-1] ** 2)
    parts["classifier"] = costs.together(
        costs.conv2d(shape.head, shape.features, 1, 1, bias=True), costs.linear(shape.features, io.outputs)
    )
    return parts
