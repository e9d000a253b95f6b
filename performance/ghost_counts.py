"""What GhostNet and the networks with Ghost modules count, beside the published figures.

    python performance/ghost_counts.py [--json]

Nothing is trained, and no network gets memory; a few seconds.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasplat.nn.ghost.ghostify import GhostConv2d
from nasplat.nn.ghost.ghostnet import ghostnet
from nasplat.nn.ghost.shapes import Operator
from nasplat.nn.reference_networks import ghost_resnet50, ghost_resnet56, ghost_vgg16, resnet56, vgg16

UNITS = {"M": 1e6, "B": 1e9}
VGG_HEAD = 512 * 512 + 512 * 10
FEATURES, CLASSES = 2048, 1000
DEFINITIONS = """\
Parameters are summed over the network's tensors without buffers. Multiply-accumulates (MACs) are those of convolutions
and linear layers, half of what torch's FlopCounterMode counts in one forward pass of one image; VGG-16's without the
head of 512-512-10. "published" is Han et al., 2020, sec. 4. Where ours does not round to it, the difference follows."""


@dataclass(frozen=True)
class Figure:
    """A count, and the published one.

    Args:
        counted: In ones.
        published: In millions (M) or billions (B), as printed.
    """

    counted: int
    published: str

    @property
    def agrees(self) -> bool:
        """Whether ours rounds to the published one."""
        number, digits = self.published[:-1], len(self.published[:-1].partition(".")[2])
        return round(self.counted / UNITS[self.published[-1]], digits) == float(number)

    def __str__(self) -> str:
        unit = self.published[-1]
        ours = self.counted / UNITS[unit]
        text = f"{f'{ours:.3f}{unit}':>9} {self.published:>6}"
        return text + (" " * 8 if self.agrees else f" {ours - float(self.published[:-1]):+7.2f}")


@dataclass(frozen=True)
class Row:
    """A network.

    Args:
        network: Its name.
        params: Its parameters.
        macs: Its multiply-accumulates.
        remark: What differences come from, as far as one can tell.
    """

    network: str
    params: Figure
    macs: Figure
    remark: str = ""


def count(make: Callable[[], nn.Module], side: int) -> tuple[int, int]:
    """Parameters, and multiply-accumulates for an image of `side` pixels."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        network = make().eval()
        with counter:
            network(torch.zeros(1, 3, side, side))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


def without_ghosts(make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose ghosts cost nothing, as they are copies."""
    network = make()
    for module in network.modules():
        if isinstance(module, GhostConv2d):
            module.cheap = nn.Identity()  # type: ignore[assignment]
    return network


def row(
    network: str, make: Callable[[], nn.Module], side: int, params: str, macs: str, remark: str = "", left_out: int = 0
) -> Row:
    """Count one network, some of its multiply-accumulates left out."""
    counted_params, counted_macs = count(make, side)
    return Row(network, Figure(counted_params, params), Figure(counted_macs - left_out, macs), remark)


def ghost_classifier(ratio: int) -> int:
    """The weights of ResNet-50's classifier if it were a Ghost module as well."""
    primary = -(-CLASSES // ratio)
    return primary * FEATURES + primary * (ratio - 1) * 9


def rows() -> list[Row]:
    """All networks with published sizes."""
    found = [
        row(f"GhostNet {width}x", partial(ghostnet, width), 224, params, macs)
        for width, params, macs in ((0.5, "2.6M", "42M"), (1.0, "5.2M", "141M"), (1.3, "7.3M", "226M"))
    ]
    found.append(row("VGG-16", vgg16, 32, "15M", "313M", left_out=VGG_HEAD))
    for ratio, kernel, params, macs in (
        (2, 3, "7.7M", "158M"), (3, 3, "5.2M", "107M"), (4, 3, "4.0M", "80M"), (5, 3, "3.3M", "65M"),
        (2, 1, "7.6M", "157M"), (2, 5, "7.7M", "160M"), (2, 7, "7.7M", "163M"),
    ):  # fmt: skip
        make = partial(ghost_vgg16, Operator(ratio, kernel))
        found.append(row(f"Ghost-VGG-16 s={ratio} d={kernel}", make, 32, params, macs, left_out=VGG_HEAD))
    found.append(row("ResNet-56", resnet56, 32, "0.85M", "125M"))
    bare_params, bare_macs = count(partial(without_ghosts, ghost_resnet56), 32)
    remark = f"without the ghosts' own convolutions: {bare_params / 1e6:.3f}M, {bare_macs / 1e6:.2f}M"
    found.append(row("Ghost-ResNet-56 s=2 d=3", ghost_resnet56, 32, "0.43M", "63M", remark))
    for ratio, params, macs in ((2, "13M", "2.2B"), (4, "6.5M", "1.2B")):
        make = partial(ghost_resnet50, Operator(ratio, 3))
        plain, _ = count(make, 224)
        with_ghosts = plain - CLASSES * FEATURES + ghost_classifier(ratio)
        remark = f"with the classifier a Ghost module too: {with_ghosts / 1e6:.2f}M"
        found.append(row(f"Ghost-ResNet-50 s={ratio} d=3", make, 224, params, macs, remark))
    return found


def main() -> None:
    """Count all, and print one line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    found = rows()
    if arguments.json:
        json.dump([asdict(each) for each in found], sys.stdout, indent=2)
        print()
        return
    print(f"{DEFINITIONS}\n\n{'':24} {'params':>9} {'publ.':>6} {'':7} {'MACs':>10} {'publ.':>6}")
    for each in found:
        print(f"{each.network:24} {each.params} {each.macs} {each.remark}".rstrip())


if __name__ == "__main__":
    main()
