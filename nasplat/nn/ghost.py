"""Ghost modules and bottlenecks (Han et al., 2020, "GhostNet: More features from cheap operations", CVPR).

Structure, order and defaults follow the authors' published code, whose parameter counts and outputs they reproduce.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.nn.supernet import Part, new_part


@dataclass(frozen=True, slots=True)
class Operator:
    """How a convolution's maps are made.

    Args:
        ratio: Of so many maps one is made by the convolution and the others, its ghosts, are made of that one: s in
            the paper. 1 is an ordinary convolution.
        kernel: The side of the depth-wise convolution that makes ghosts: d in the paper.
    """

    ratio: int = 2
    kernel: int = 3

    def __str__(self) -> str:
        return "plain" if self.ratio == 1 else f"ghost {self.ratio} {self.kernel}"


PLAIN = Operator(1, 1)
GHOST = Operator()


def make_divisible(channels: float, divisor: int = 4) -> int:
    """The nearest multiple of the divisor, at least one; the next one up where that would take more than a tenth off.

    The rule that MobileNetV2 and its successors round scaled widths by.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_bn(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, relu: bool = False
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU if wanted; `[B, inputs, H, W]` to `[B, outputs, ⌈H/s⌉, ⌈W/s⌉]`."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *[nn.ReLU(inplace=True)] * relu)


@dataclass(frozen=True, slots=True)
class Widest:
    """The most that any path of a supernet wants of a Ghost module.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        cheap_kernel: The side of the depth-wise convolution.
    """

    inputs: int
    outputs: int
    cheap_kernel: int


class GhostModule(nn.Module):
    """Maps by a convolution, and further maps, their ghosts, each by a small convolution of one of them (sec. 3.1).

    `[B, inputs, H, W]` becomes `[B, outputs, ⌈H/stride⌉, ⌈W/stride⌉]`: first ⌈outputs/ratio⌉ maps of the primary
    convolution, then their ghosts, as many as are wanted. The cheap operation has stride 1 always. Batch norm, and
    ReLU if wanted, follow on both.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out; any number.
        operator: How many ghosts, and by what kernel; `PLAIN` makes none.
        kernel: The side of the primary convolution.
        stride: Its stride.
        relu: Whether there are ReLUs.
        place: What its parts are called by.
        part: Where they come from.
        widest: What they must hold where others share them.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        operator: Operator = GHOST,
        *,
        kernel: int = 1,
        stride: int = 1,
        relu: bool = True,
        place: str = "ghost",
        part: Part = new_part,
        widest: Widest | None = None,
    ) -> None:
        super().__init__()
        widest = widest or Widest(inputs, outputs, operator.kernel)
        self.outputs = outputs
        ratio = operator.ratio
        intrinsic = -(-outputs // ratio)
        primary = partial(conv_bn, kernel=kernel, stride=stride, relu=relu)
        self.primary = part(
            f"{place} primary",
            partial(primary, inputs, intrinsic),
            partial(primary, widest.inputs, widest.outputs),
        )
        self.cheap: nn.Module | None = None
        if ratio > 1:
            most = -(-widest.outputs // ratio)
            self.cheap = part(
                f"{place} cheap {ratio}",
                partial(_ghosts, intrinsic, ratio, operator.kernel, relu=relu),
                partial(_ghosts, most, ratio, widest.cheap_kernel, relu=relu),
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        if self.cheap is None:
            return x
        return torch.cat([x, self.cheap(x)], dim=1)[:, : self.outputs]


def _ghosts(channels: int, ratio: int, kernel: int, *, relu: bool) -> nn.Module:
    return conv_bn(channels, channels * (ratio - 1), kernel, groups=channels, relu=relu)


def squeezed(channels: int) -> int:
    """The width inside of squeeze-and-excitation: a quarter, divisible by four."""
    return make_divisible(channels * 0.25)


class SqueezeExcite(nn.Module):
    """Weights channels by what all of the image says of them (Hu et al., 2018); the gate is a hard sigmoid.

    Args:
        channels: `[B, channels, H, W]` keeps its shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed(channels), 1)
        self.expand = nn.Conv2d(squeezed(channels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * functional.hardsigmoid(self.expand(gate))


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The shape of a bottleneck.

    Args:
        inputs: Channels that come in.
        expanded: Channels in the middle.
        outputs: Channels that go out.
        kernel: The side of the depth-wise convolution in the middle; 0 for none, which only stride 1 permits.
        stride: Its stride, and the shortcut's.
        squeeze: Whether there is squeeze-and-excitation.
        expand: The operator of the first convolution.
        project: The operator of the second.
        shortcut_kernel: The side of the shortcut's depth-wise convolution, where there is one.
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


class GhostBottleneck(nn.Module):
    """Expand by a Ghost module, filter, weight channels, project by another; and add the shortcut (sec. 3.2).

    `[B, inputs, H, W]` becomes `[B, outputs, ⌈H/stride⌉, ⌈W/stride⌉]`. There is a ReLU after the first Ghost module
    alone. The shortcut is the identity where shapes permit it, else a depth-wise and a pointwise convolution. In the
    paper's bottlenecks there is a depth-wise convolution only where the stride is 2; with one everywhere and plain
    operators this is the inverted residual of MobileNetV2, but for the latter's missing shortcuts and ReLUs.

    Args:
        shape: Its shape.
        place: What its parts are called by.
        part: Where they come from.
        largest: A shape at least as large in every respect, where others share them.
    """

    def __init__(
        self, shape: Bottleneck, *, place: str = "block", part: Part = new_part, largest: Bottleneck | None = None
    ) -> None:
        super().__init__()
        largest = largest or shape
        inputs, expanded, outputs, stride = shape.inputs, shape.expanded, shape.outputs, shape.stride
        self.expand = GhostModule(
            inputs, expanded, shape.expand, place=f"{place} expand", part=part,
            widest=Widest(largest.inputs, largest.expanded, largest.expand.kernel),
        )  # fmt: skip
        self.depthwise: nn.Module | None = None
        if shape.kernel:
            self.depthwise = part(
                f"{place} depthwise",
                partial(depthwise, expanded, shape.kernel, stride),
                partial(depthwise, largest.expanded, largest.kernel, stride),
            )
        self.squeeze: nn.Module | None = None
        if shape.squeeze:
            self.squeeze = part(
                f"{place} squeeze",
                partial(SqueezeExcite, expanded),
                partial(SqueezeExcite, largest.expanded),
            )
        self.project = GhostModule(
            expanded, outputs, shape.project, relu=False, place=f"{place} project", part=part,
            widest=Widest(largest.expanded, largest.outputs, largest.project.kernel),
        )  # fmt: skip
        self.shortcut: nn.Module | None = None
        if not shape.identity:
            self.shortcut = part(
                f"{place} shortcut",
                partial(shortcut, inputs, outputs, shape.shortcut_kernel, stride),
                partial(shortcut, largest.inputs, largest.outputs, largest.shortcut_kernel, stride),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.expand(x)
        if self.depthwise is not None:
            out = self.depthwise(out)
        if self.squeeze is not None:
            out = self.squeeze(out)
        out = self.project(out)
        result: Tensor = out + (x if self.shortcut is None else self.shortcut(x))
        return result


def depthwise(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution of each channel by itself, and batch norm."""
    return conv_bn(channels, channels, kernel, stride, groups=channels)


def shortcut(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """What stands for the identity where a bottleneck changes its input's shape."""
    return nn.Sequential(depthwise(inputs, kernel, stride), conv_bn(inputs, outputs))
