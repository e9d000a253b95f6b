"""The DARTS network: a stem, a repeated normal cell, a reduction cell at two places, and a linear classifier.

Liu et al., 2019, "DARTS: Differentiable architecture search", sec. 2.1 and 3.1: the evaluation network. With
`channels` 36 and `cells` 20 it is the published network, and reproduces its parameter counts. Training aids (auxiliary
head, drop-path) are not part of it; it only defines where they act.

The same network is used for search and for evaluation, so the measured network is the exported one. This is the only
deviation from the published search network, in which batch norm has no learnt scale and shift, and also follows pools.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO
from nasplat.nn.cells import relu_conv_bn
from nasplat.nn.supernet import Part, new_part

Nodes: TypeAlias = Sequence[Sequence[tuple[str, int]]]
"""The edges of every node of a cell: an operation, and the input it acts on.

Inputs 0 and 1 are the outputs of the cell before last and of the last one; 2 and up are the nodes, in order.
"""


class Zero(nn.Module):
    """The operation ``none``: zeros for every input; `[B, C, H, W]` to `[B, C, ⌈H/stride⌉, ⌈W/stride⌉]`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorizedReduction(nn.Module):
    """Halves the sides: one convolution for every second pixel, and another for the pixels diagonally between.

    Sides may be odd. The last of the pixels between are then outside of the image and are zero.

    Args:
        inputs: The input width.
        outputs: The output width, even; `[B, inputs, H, W]` becomes `[B, outputs, ⌈H/2⌉, ⌈W/2⌉]`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        height, width = x.shape[2:]
        between = x[:, :, 1:, 1:]
        if height % 2 or width % 2:
            between = functional.pad(between, (0, width % 2, 0, height % 2))
        out: Tensor = self.norm(torch.cat([self.even(x), self.odd(between)], dim=1))
        return out


def operation(name: str, channels: int, stride: int) -> nn.Module:
    """One edge of a cell by its published name; `[B, channels, H, W]` to `[B, channels, ⌈H/stride⌉, ⌈W/stride⌉]`."""
    match name:
        case "none":
            return Zero(stride)
        case "max_pool_3x3":
            return nn.MaxPool2d(3, stride, padding=1)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels)
        case "sep_conv_3x3":
            return nn.Sequential(*_separable(channels, 3, stride), *_separable(channels, 3))
        case "sep_conv_5x5":
            return nn.Sequential(*_separable(channels, 5, stride), *_separable(channels, 5))
        case "dil_conv_3x3":
            return nn.Sequential(*_separable(channels, 3, stride, dilation=2))
        case "dil_conv_5x5":
            return nn.Sequential(*_separable(channels, 5, stride, dilation=2))
    raise ValueError(f"no operation of DARTS is named {name!r}")


class Cell(nn.Module):
    """A directed acyclic graph in which every node sums two earlier ones. Its output is the concatenation of all
    nodes.

    Args:
        nodes: The graph.
        channels: The width of each node. The output width is the sum over all nodes.
        inputs: The widths of the two previous cells.
        after_reduction: Whether the sides of the older of the two are twice those of the newer.
        reduction: Whether this cell halves the sides, in the operations on its inputs.
        place: The prefix of the names of the cell's parts.
        part: Provides the parts.
    """

    def __init__(
        self,
        nodes: Nodes,
        channels: int,
        inputs: tuple[int, int],
        *,
        after_reduction: bool,
        reduction: bool,
        place: str = "cell",
        part: Part = new_part,
    ) -> None:
        super().__init__()
        older = FactorizedReduction if after_reduction else _pointwise
        self.older = part(f"{place} input 0", partial(older, inputs[0], channels))
        self.newer = part(f"{place} input 1", partial(_pointwise, inputs[1], channels))
        self.sources = [[source for _, source in edges] for edges in nodes]
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                part(
                    f"{place} {node}<-{source} {name}",
                    partial(operation, name, channels, 2 if reduction and source < 2 else 1),
                )
                for name, source in edges
            )
            for node, edges in enumerate(nodes, 2)
        )

    @property
    def drop_path_branches(self) -> list[nn.Module]:
        """The drop-path branches: the operations other than identities."""
        edges = (edge for node in self.nodes for edge in node.children())
        return [edge for edge in edges if not isinstance(edge, nn.Identity | Zero)]

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        states = [self.older(older), self.newer(newer)]
        for edges, sources in zip(self.nodes, self.sources, strict=True):
            assert isinstance(edges, nn.ModuleList)
            terms = [edge(states[source]) for edge, source in zip(edges, sources, strict=True)]
            states.append(sum(terms[1:], start=terms[0]))
        return torch.cat(states[2:], dim=1)


class DARTSNetwork(nn.Module):
    """Stem, cells, global average pooling and a linear classifier. Reductions are at one and two thirds of the depth.

    Args:
        normal: The cell that keeps the image size.
        reduce: The cell that halves the sides and doubles the width.
        channels: The width of the first cell's nodes.
        cells: The number of cells, including reductions.
        io: Image shape and number of classes.
        part: Provides all parts with weights; by default they are new.
    """

    def __init__(
        self, normal: Nodes, reduce: Nodes, *, channels: int, cells: int, io: IO, part: Part = new_part
    ) -> None:
        super().__init__()
        older = newer = 3 * channels
        self.stem = part("stem", partial(_stem, io.input_shape[0], newer))
        self.cells = nn.ModuleList()
        reduction = False
        for position in range(cells):
            after_reduction, reduction = reduction, position in (cells // 3, 2 * cells // 3)
            nodes = reduce if reduction else normal
            channels *= 1 + reduction
            self.cells.append(
                Cell(
                    nodes,
                    channels,
                    (older, newer),
                    after_reduction=after_reduction,
                    reduction=reduction,
                    place=f"cell {position}",
                    part=part,
                )
            )
            older, newer = newer, len(nodes) * channels
        self.head = part("head", partial(_head, newer, io.outputs))

    @property
    def auxiliary_position(self) -> nn.Module:
        """The position of the auxiliary head: the second reduction cell, as published."""
        return self.cells[2 * len(self.cells) // 3]

    def forward(self, images: Tensor) -> Tensor:
        older = newer = self.stem(images)
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
        logits: Tensor = self.head(newer)
        return logits


def _stem(inputs: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


def _head(channels: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    return relu_conv_bn(inputs, outputs, 1)


def _separable(channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """ReLU, depth-wise convolution, pointwise convolution, batch norm."""
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]
