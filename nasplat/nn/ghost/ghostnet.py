"""GhostNet (Han et al., 2020, "GhostNet: More features from cheap operations", CVPR, table 1) and its weights in timm.

The layers and their order follow the authors' published code. It differs from the paper's table in one place: there is
no batch norm after the pooling.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nasplat.architecture import IO
from nasplat.errors import InputError
from nasplat.nn.ghost.shapes import Bottleneck, GhostShape, make_divisible
from nasplat.nn.ghost.supernet import GhostNetwork

# for each bottleneck: kernel of the depth-wise convolutions, expanded width, output width, squeeze-excite, stride
STAGES = (
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2),),
    ((3, 72, 24, False, 1),),
    ((5, 72, 40, True, 2),),
    ((5, 120, 40, True, 1),),
    ((3, 240, 80, False, 2),),
    (
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
    ),
    ((5, 672, 160, True, 2),),
    (
        (5, 960, 160, False, 1),
        (5, 960, 160, True, 1),
        (5, 960, 160, False, 1),
        (5, 960, 160, True, 1),
    ),
)
STEM, HEAD, FEATURES = 16, 960, 1280

TIMM = {0.5: "ghostnet_050", 1.0: "ghostnet_100", 1.3: "ghostnet_130"}
"""The widths in timm, and their names there."""


def ghostnet_shape(width: float = 1.0, side: int = 224) -> GhostShape:
    """GhostNet's shape: all widths except the last are multiplied by `width` and rounded to a multiple of four."""

    def scaled(channels: int) -> int:
        return make_divisible(channels * width)

    blocks, inputs = {}, scaled(STEM)
    for stage, rows in enumerate(STAGES):
        for number, (kernel, expanded, outputs, squeeze, stride) in enumerate(rows):
            blocks[f"{stage} {number}"] = Bottleneck(
                inputs,
                scaled(expanded),
                scaled(outputs),
                kernel=kernel if stride > 1 else 0,
                stride=stride,
                squeeze=squeeze,
                shortcut_kernel=kernel,
            )
            inputs = scaled(outputs)
    return GhostShape(side, scaled(STEM), 2, blocks, scaled(HEAD), FEATURES)


def ghostnet(width: float = 1.0, *, classes: int = 1000, dropout: float = 0.2, channels: int = 3) -> GhostNetwork:
    """GhostNet: `[batch, channels, H, W]` to `[batch, classes]`; designed for 224 x 224, but any size works.

    The published widths are 0.5, 1.0 and 1.3.

    Args:
        width: The multiplier of the widths in the table.
        classes: The number of classes.
        dropout: The dropout rate on the features before the classifier in training.
        channels: The number of image channels.

    Raises:
        InputError: The width is not positive.
    """
    if not width > 0:
        raise InputError(f"GhostNet's width must be positive, but is {width}; the published ones are 0.5, 1.0 and 1.3")
    shape = ghostnet_shape(width)
    return GhostNetwork(shape, IO.image(channels, shape.side, classes), dropout=dropout)


def from_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of timm's `ghostnet_050`, `_100` or `_130`, renamed for `ghostnet`.

    Args:
        state_dict: The weights, for any number of classes and of image channels.

    Returns:
        The same tensors, for `load_state_dict` of a `ghostnet` of the same width, classes and channels.

    Raises:
        InputError: The weights are from another network: names are missing or unknown, or shapes differ.
    """
    hint = f"only whole state dicts of timm's {', '.join(TIMM.values())} can be loaded"
    with torch.device("meta"):
        theirs = {name: _timm_name(name) for name in ghostnet().state_dict()}
    expected, given = set(theirs.values()), set(state_dict)
    for wrong, names in (("has no", expected - given), ("has an unknown", given - expected)):
        if names:
            others = f" and {len(names) - 1} more" * (len(names) > 1)
            raise InputError(f"a state dict of timm's GhostNet {wrong} {min(names)!r}{others}; {hint}")
    stem, classes = state_dict["conv_stem.weight"].shape, state_dict["classifier.bias"].numel()
    widths = {(ghostnet_shape(width).stem, 3, 3): width for width in TIMM}
    width = widths.get((stem[0], *stem[2:])) if len(stem) == 4 else None
    if width is None:
        raise InputError(f"'conv_stem.weight' has the shape {list(stem)}, which no GhostNet of timm has; {hint}")
    with torch.device("meta"):
        ours = ghostnet(width, classes=classes, channels=stem[1]).state_dict()
    for name, tensor in ours.items():
        shape = state_dict[theirs[name]].shape
        if shape != tensor.shape:
            raise InputError(
                f"{theirs[name]!r} has the shape {list(shape)}, but must have {list(tensor.shape)} in "
                f"{TIMM[width]}; {hint}"
            )
    return {name: state_dict[theirs[name]] for name in ours}


_PLACES = [f"{stage}.{number}" for stage, rows in enumerate(STAGES) for number in range(len(rows))]

_OUTSIDE = {
    "stem.0": "conv_stem",
    "stem.1": "bn1",
    "head.0": f"blocks.{len(STAGES)}.0.conv",
    "head.1": f"blocks.{len(STAGES)}.0.bn1",
    "features": "conv_head",
    "classifier": "classifier",
}

_INSIDE = {
    "expand.primary": "ghost1.primary_conv",
    "expand.cheap": "ghost1.cheap_operation",
    "depthwise.0": "conv_dw",
    "depthwise.1": "bn_dw",
    "squeeze.reduce": "se.conv_reduce",
    "squeeze.expand": "se.conv_expand",
    "project.primary": "ghost2.primary_conv",
    "project.cheap": "ghost2.cheap_operation",
    "shortcut.0.0": "shortcut.0",
    "shortcut.0.1": "shortcut.1",
    "shortcut.1.0": "shortcut.2",
    "shortcut.1.1": "shortcut.3",
}


def _timm_name(name: str) -> str:
    """The name in timm of a tensor of `ghostnet`."""
    if name.startswith("blocks."):
        _, number, inner = name.split(".", 2)
        return f"blocks.{_PLACES[int(number)]}.{_renamed(inner, _INSIDE)}"
    return _renamed(name, _OUTSIDE)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    ours = next(prefix for prefix in prefixes if name.startswith(f"{prefix}."))
    return prefixes[ours] + name.removeprefix(ours)
