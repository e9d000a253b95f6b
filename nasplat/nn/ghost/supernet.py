"""Ghost modules and bottlenecks (Han et al., 2020, "GhostNet: More features from cheap operations", CVPR).

Structure, order and defaults follow the authors' published code, whose parameter counts and outputs they reproduce.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO
from nasplat.nn.ghost.shapes import GHOST, Bottleneck, GhostShape, Operator, squeezed
from nasplat.nn.supernet import Part, new_part


def conv_bn(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, relu: bool = False
) -> nn.Sequential:
    """Convolution without bias, batch norm, optional ReLU; `[B, inputs, H, W]` to `[B, outputs, ⌈H/s⌉, ⌈W/s⌉]`."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *[nn.ReLU(inplace=True)] * relu)


@dataclass(frozen=True, slots=True)
class Widest:
    """The maximum sizes of a Ghost module over all paths of a supernet.

    Args:
        inputs: The input channels.
        outputs: The output channels.
        cheap_kernel: The side of the depth-wise convolution.
    """

    inputs: int
    outputs: int
    cheap_kernel: int


class GhostModule(nn.Module):
    """Maps from a convolution, and further maps, the ghosts, each from one of them by a small convolution (sec. 3.1).

    `[B, inputs, H, W]` becomes `[B, outputs, ⌈H/stride⌉, ⌈W/stride⌉]`: first ⌈outputs/ratio⌉ maps of the primary
    convolution, then as many ghosts as needed. The cheap operation always has stride 1. Batch norm and an optional
    ReLU follow both.

    Args:
        inputs: The input channels.
        outputs: The output channels; any number.
        operator: The ratio of ghosts and their kernel; `PLAIN` has no ghosts.
        kernel: The side of the primary convolution.
        stride: The stride of the primary convolution.
        relu: Whether there are ReLUs.
        place: The prefix of the names of its parts.
        part: Provides the parts.
        widest: The maximum sizes of the parts, if paths share them.
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


class SqueezeExcite(nn.Module):
    """Weights channels by their averages over the whole image (Hu et al., 2018); the gate is a hard sigmoid.

    Args:
        channels: The number of channels; the shape `[B, channels, H, W]` does not change.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed(channels), 1)
        self.expand = nn.Conv2d(squeezed(channels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * functional.hardsigmoid(self.expand(gate))


class GhostBottleneck(nn.Module):
    """Expand with a Ghost module, filter, weight channels, project with a Ghost module; add the shortcut (sec. 3.2).

    `[B, inputs, H, W]` becomes `[B, outputs, ⌈H/stride⌉, ⌈W/stride⌉]`. Only the first Ghost module has a ReLU. The
    shortcut is the identity if shapes permit it, else a depth-wise and a pointwise convolution. The paper's
    bottlenecks have a depth-wise convolution only for stride 2. With a depth-wise convolution everywhere and plain
    operators, this is the inverted residual of MobileNetV2, except that MobileNetV2 lacks some shortcuts and ReLUs.

    Args:
        shape: Its shape.
        place: The prefix of the names of its parts.
        part: Provides the parts.
        largest: A shape at least as large in every size, if paths share the parts.
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

    @property
    def drop_path_branches(self) -> list[nn.Module]:
        """The drop-path branches: the last module, if its output is added to an identity."""
        return [self.project] if self.shortcut is None else []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.expand(x)
        if self.depthwise is not None:
            out = self.depthwise(out)
        if self.squeeze is not None:
            out = self.squeeze(out)
        out = self.project(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return out


def depthwise(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A depth-wise convolution and batch norm."""
    return conv_bn(channels, channels, kernel, stride, groups=channels)


def shortcut(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """The shortcut of a bottleneck that changes its input's shape."""
    return nn.Sequential(depthwise(inputs, kernel, stride), conv_bn(inputs, outputs))


class GhostNetwork(nn.Module):
    """A stem, bottlenecks, and a head with global average pooling before its last two layers (sec. 3.3).

    Images `[batch, *io.input_shape]` to `[batch, io.outputs]`. Any image size works, with or without resizing.

    Args:
        shape: Its shape.
        io: The images' channels, the number of classes, and the side that needs no resizing.
        dropout: The dropout rate on the features in training.
        part: Provides all parts with weights; by default they are new.
        largest: A shape at least as large in every size, with a bottleneck in every place, if paths share the parts.
    """

    def __init__(
        self,
        shape: GhostShape,
        io: IO,
        *,
        dropout: float = 0.0,
        part: Part = new_part,
        largest: GhostShape | None = None,
    ) -> None:
        super().__init__()
        largest = largest or shape
        channels, *sides = io.input_shape
        resized = any(side != shape.side for side in sides)
        self.resize = nn.Upsample(size=(shape.side, shape.side), mode="bilinear") if resized else nn.Identity()
        first = partial(conv_bn, channels, kernel=3, stride=shape.stem_stride, relu=True)
        self.stem = part("stem", partial(first, shape.stem), partial(first, largest.stem))
        self.blocks = nn.Sequential(
            *(
                GhostBottleneck(block, place=place, part=part, largest=largest.blocks[place])
                for place, block in shape.blocks.items()
            )
        )
        self.head = part(
            "head",
            partial(conv_bn, _last(shape), shape.head, relu=True),
            partial(conv_bn, _last(largest), largest.head, relu=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.features = part(
            "features",
            partial(nn.Conv2d, shape.head, shape.features, 1),
            partial(nn.Conv2d, largest.head, largest.features, 1),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = part(
            "classifier",
            partial(nn.Linear, shape.features, io.outputs),
            partial(nn.Linear, largest.features, io.outputs),
        )

    @property
    def auxiliary_position(self) -> nn.Module:
        """The position of the auxiliary head: the bottleneck at two thirds of the depth."""
        return self.blocks[2 * len(self.blocks) // 3]

    def forward(self, images: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(self.resize(images))))
        x = functional.relu(self.features(self.pool(x))).flatten(1)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


def _last(shape: GhostShape) -> int:
    return [block.outputs for block in shape.blocks.values()][-1]


@torch.no_grad()
def begin_as_identities(parts: nn.ModuleDict) -> None:
    """Initialize shared bottlenecks as their shortcuts, and shortcuts as the identity.

    The scale of the batch norm that ends a bottleneck's body becomes zero (Goyal et al., 2017, "Accurate, large
    minibatch SGD", sec. 5.1); a shortcut's filters copy the middle pixel, and its first channels are the input
    channels. So all paths of a new supernet compute nearly the same function. Otherwise very different paths have
    little to learn together: trained on uniformly drawn paths, `ghost/small` stays at chance level for epochs.

    Args:
        parts: The parts of a supernet, under the names of `GhostBottleneck`.
    """
    for name, part in parts.items():
        match part, name.split():
            case nn.Sequential(), [*_, "project", "primary"] | [*_, "project", "cheap", _]:
                nn.init.zeros_(part.get_parameter("1.weight"))
            case nn.Sequential(), [*_, "shortcut"]:
                nn.init.dirac_(part.get_parameter("0.0.weight"), groups=len(part.get_parameter("0.0.weight")))
                mixing = part.get_parameter("1.0.weight")
                known = min(mixing.shape[:2])
                nn.init.dirac_(mixing[:known])
