"""The NAS-Bench-201 network: a stem, and three stages of one repeated cell with residual reductions between them.

Dong and Yang, 2020, "NAS-Bench-201: Extending the scope of reproducible neural architecture search", sec. 2.1
and appendix; layer order and padding as in the networks behind the published table, whose parameter counts
this network reproduces.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.nn.supernet import Part, new_part


class Zero(nn.Module):
    """The operation ``none``: its output is zero for every input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def relu_conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution without bias, batch norm; `[B, inputs, H, W]` to `[B, outputs, H/stride, W/stride]`."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


def operation(name: str, channels: int) -> nn.Module:
    """One edge of a cell by its published name. The shape `[B, channels, H, W]` does not change."""
    match name:
        case "none":
            return Zero()
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return relu_conv_bn(channels, channels, 1)
        case "nor_conv_3x3":
            return relu_conv_bn(channels, channels, 3)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    raise ValueError(f"no operation of NAS-Bench-201 is named {name!r}")


class Cell(nn.Module):
    """A directed acyclic graph in which every node sums the outputs of its incoming edges.

    Args:
        nodes: For every node after the input, the operation on the edge from each earlier node, in order.
        channels: The width of all nodes.
        place: The prefix of the names of the cell's parts.
        part: Provides the parts.
    """

    def __init__(
        self, nodes: Sequence[Sequence[str]], channels: int, *, place: str = "cell", part: Part = new_part
    ) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                part(f"{place} {node}<-{source} {name}", partial(operation, name, channels))
                for source, name in enumerate(operations)
            )
            for node, operations in enumerate(nodes, 1)
        )

    @property
    def drop_path_branches(self) -> list[nn.Module]:
        """The drop-path branches: the operations other than identities."""
        edges = (edge for node in self.nodes for edge in node.children())
        return [edge for edge in edges if not isinstance(edge, nn.Identity | Zero)]

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for edges in self.nodes:
            assert isinstance(edges, nn.ModuleList)
            terms = [edge(state) for edge, state in zip(edges, states, strict=True)]
            states.append(sum(terms[1:], start=terms[0]))
        return states[-1]


class Reduction(nn.Module):
    """A residual block that halves the sides and doubles the width.

    Args:
        channels: The input width; `[B, channels, H, W]` becomes `[B, 2·channels, ⌈H/2⌉, ⌈W/2⌉]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            relu_conv_bn(channels, 2 * channels, 3, stride=2),
            relu_conv_bn(2 * channels, 2 * channels, 3),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(channels, 2 * channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class CellNetwork(nn.Module):
    """Stem, three stages of cells with reductions between them, and a linear classifier.

    Args:
        nodes: The cell, as `Cell` takes it.
        channels: The width of the first stage; each later stage doubles it.
        cells: The number of cells in each stage.
        io: Image shape and number of classes.
        part: Provides all parts with weights; by default they are new.
    """

    def __init__(
        self, nodes: Sequence[Sequence[str]], *, channels: int, cells: int, io: IO, part: Part = new_part
    ) -> None:
        super().__init__()
        self.stem = part("stem", partial(_stem, io.input_shape[0], channels))
        stages: list[nn.Module] = []
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                stages.append(part(f"reduction {stage}", partial(Reduction, width // 2)))
            stages.extend(Cell(nodes, width, place=f"stage {stage} cell {cell}", part=part) for cell in range(cells))
        self.stages = nn.Sequential(*stages)
        self.head = part("head", partial(_head, width, io.outputs))

    @property
    def auxiliary_position(self) -> nn.Module:
        """The position of the auxiliary head: the second reduction."""
        return self.stages[2 * len(self.stages) // 3]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(images)))
        return logits


def _stem(inputs: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


def _head(channels: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs)
    )
