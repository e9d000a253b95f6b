"""The DARTS network: a stem, one repeated cell, another that halves the image at two places, and a linear classifier.

Liu et al., 2019, "DARTS: Differentiable architecture search", sec. 2.1 and 3.1: the evaluation network, with
`channels` 36 and `cells` 20 the published one, whose parameter counts it reproduces. Training aids (auxiliary head,
drop-path) are not part of it; it says only where they act.

One network serves for searching and for evaluating, so that what is measured is what is exported. That is the one
deviation from the published search network, whose batch norm learns no scale and shift, and also follows its pools.
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
"""For every node of a cell its edges: an operation, and the input it acts on.

Inputs 0 and 1 are the outputs of the cell before last and of the last one; 2 and up are the nodes, in order.
"""


class Zero(nn.Module):
    """The operation ``none``: zeros, whatever comes in; `[B, C, H, W]` to `[B, C, ⌈H/stride⌉, ⌈W/stride⌉]`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorizedReduction(nn.Module):
    """Halves the sides: every second pixel through one convolution, and the pixels diagonally between through another.

    Sides may be odd; the last of the pixels between then lie outside of the image and are zero.

    Args:
        inputs: The width that comes in.
        outputs: An even width; `[B, inputs, H, W]` becomes `[B, outputs, ⌈H/2⌉, ⌈W/2⌉]`.
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
    """A directed acyclic graph in which every node sums two of what comes before it; all nodes together are its output.

    Args:
        nodes: The graph.
        channels: The width of each node; the output is as wide as all of them.
        inputs: The widths of the two previous cells.
        after_reduction: Whether the older of them is twice as large as the newer.
        reduction: Whether this cell halves the sides, by what acts on its inputs.
        place: What the cell's parts are called by.
        part: Where they come from.
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
    def branches(self) -> list[nn.Module]:
        """The operations that training may leave out: those that do not only pass on."""
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
    """Stem, cells, global average pooling and a linear classifier; at one and two thirds of the depth stand reductions.

    Args:
        normal: The cell that keeps the image's size.
        reduce: The cell that halves its sides; there the width doubles.
        channels: The width of the first cell's nodes.
        cells: How many there are, reductions among them.
        io: Image shape and number of classes.
        part: Where all that has weights comes from; by default it is new.
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
    def tap(self) -> nn.Module:
        """Where an auxiliary head belongs: the second cell that halves the image, as published."""
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
    """ReLU, a convolution of each channel by itself, a mixture of the channels at each pixel, batch norm."""
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]
