"""The NAS-Bench-101 network: a stem, stacks of one repeated cell with max pooling between them, a linear classifier.

Ying et al., 2019, "NAS-Bench-101: Towards reproducible neural architecture search", sec. 2; the addition, truncation
and projection in a cell follow the networks of the published table, whose parameter counts this network reproduces.
Batch norm and initial weights are torch's defaults instead: the published running statistics move by 0.003 a step, and
would not converge in a short training.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from nasplat.architecture import IO


def conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; `[B, inputs, H, W]` to `[B, outputs, H, W]`."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def operation(name: str, channels: int) -> nn.Module:
    """An inner vertex by the name of its operation. The shape `[B, channels, H, W]` does not change."""
    match name:
        case "conv1x1-bn-relu":
            return conv_bn_relu(channels, channels, 1)
        case "conv3x3-bn-relu":
            return conv_bn_relu(channels, channels, 3)
        case "maxpool3x3":
            return nn.MaxPool2d(3, stride=1, padding=1)
    raise ValueError(f"no operation of NAS-Bench-101 is named {name!r}")


class Cell(nn.Module):
    """A directed acyclic graph of operations.

    The input of an inner vertex is the sum of its predecessors: the first channels of a wider vertex, and a projection
    of the cell's input. The output is the concatenation of its predecessors, plus a projection of the cell's input if
    that is a predecessor too.

    Args:
        edges: Pairs of vertices, each from a lower to a higher number; 0 is the input.
        operations: The operations of the inner vertices, in order. The vertex after them is the output.
        widths: The channels of every inner vertex and of the output.
        inputs: The channels of the input.
    """

    def __init__(
        self, edges: Collection[tuple[int, int]], operations: Sequence[str], widths: Sequence[int], inputs: int
    ) -> None:
        super().__init__()
        self.output = len(operations) + 1
        self.widths = list(widths)
        self.sources = [[i for i in range(1, v) if (i, v) in edges] for v in range(1, self.output + 1)]
        self.projections = nn.ModuleDict(
            {str(v): conv_bn_relu(inputs, width, 1) for v, width in enumerate(widths, 1) if (0, v) in edges}
        )
        self.vertices = nn.ModuleList(
            operation(name, width) for name, width in zip(operations, widths[:-1], strict=True)
        )

    @property
    def drop_path_branches(self) -> list[nn.Module]:
        """The drop-path branches: modules whose outputs are only used as terms of sums.

        These are the projections that are added to other terms, and the vertices that only lead to sums of several
        terms. A vertex that leads to the output is concatenated there, not summed.
        """
        beside = [bool(sources) for sources in self.sources]
        several = [len(sources) + (str(v) in self.projections) > 1 for v, sources in enumerate(self.sources, 1)]
        several[-1] = False
        projections = [self.projections[v] for v in self.projections if beside[int(v) - 1]]
        added = {
            source: all(several[v] for v, sources in enumerate(self.sources) if source in sources)
            for source in range(1, self.output)
        }
        return [*projections, *(vertex for source, vertex in enumerate(self.vertices, 1) if added[source])]

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for v, (vertex, sources, width) in enumerate(zip(self.vertices, self.sources, self.widths, strict=False), 1):
            terms = [values[source][:, :width] for source in sources]
            values.append(vertex(self._sum(terms, v, x)))
        ends = [values[source] for source in self.sources[-1]]
        return self._sum([torch.cat(ends, dim=1)] if ends else [], self.output, x)

    def _sum(self, terms: list[Tensor], vertex: int, x: Tensor) -> Tensor:
        if str(vertex) in self.projections:
            terms = [*terms, self.projections[str(vertex)](x)]
        return sum(terms[1:], start=terms[0])


class CellNetwork(nn.Module):
    """Stem, stacks of cells with halved sides between them, global average pooling, and a linear classifier.

    Args:
        edges: The edges of the cell, as in `Cell`.
        operations: The operations of the cell, as in `Cell`.
        widths: The widths of the cells of every stack; the last one is the output width of the stack.
        cells: The number of cells in each stack.
        channels: The width of the stem.
        io: Image shape and number of classes.
    """

    def __init__(
        self,
        edges: Collection[tuple[int, int]],
        operations: Sequence[str],
        widths: Sequence[Sequence[int]],
        *,
        cells: int,
        channels: int,
        io: IO,
    ) -> None:
        super().__init__()
        self.stem = conv_bn_relu(io.input_shape[0], channels, 3)
        body: list[nn.Module] = []
        for stack, each in enumerate(widths):
            if stack:
                body.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
            for _ in range(cells):
                body.append(Cell(edges, operations, each, channels))
                channels = each[-1]
        self.body = nn.Sequential(*body)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, io.outputs))

    @property
    def auxiliary_position(self) -> nn.Module:
        """The position of the auxiliary head: at two thirds of the depth; with three stacks, at the beginning of the
        last."""
        return self.body[2 * len(self.body) // 3]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.stem(images)))
        return logits
