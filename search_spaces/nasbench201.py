"""The topology search space of NAS-Bench-201 (Dong and Yang, 2020): cells of four nodes and six edges."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import IO, Architecture
from nasplat.convolution import Convolution, square
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.graph import Graphs, Operation, Role
from nasplat.nn import costs
from nasplat.search_space import Gene, GeneSpace, SupernetSpace

if TYPE_CHECKING:
    from torch import nn

    from nasplat.nn.supernet import Supernet

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = tuple((node, source) for node in (1, 2, 3) for source in range(node))
INPUT, OUTPUT = len(OPERATIONS), len(OPERATIONS) + 1
"""The types of the input and the output in a graph, after the operations."""
GRAPH_OPERATIONS = (
    Operation("none", Role.ZERO),
    Operation("skip_connect", Role.IDENTITY),
    Operation("nor_conv_1x1", Role.CONVOLUTION),
    Operation("nor_conv_3x3", Role.CONVOLUTION, kernel=3),
    Operation("avg_pool_3x3", Role.POOLING, kernel=3),
    Operation("input", Role.INPUT),
    Operation("output", Role.OUTPUT),
)


class NASBench201(GeneSpace, SupernetSpace):
    """Cells of 4 nodes; each of the 6 edges has one of 5 operations: 15,625 codes.

    After Dong and Yang (2020), "NAS-Bench-201", sec. 2.1.

    A code has one digit for each edge, in the order of the official string: ``0`` none, ``1`` skip_connect,
    ``2`` nor_conv_1x1, ``3`` nor_conv_3x3, ``4`` avg_pool_3x3. The defaults are the published outer shape.

    Args:
        channels: The width of the first of three stages; each later stage doubles it.
        cells: The number of cells in each stage.

    >>> space = NASBench201()
    >>> space.official(space.parse("334312"))
    '|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|nor_conv_3x3~0|skip_connect~1|nor_conv_1x1~2|'
    >>> space.parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|").code
    '000100'
    """

    name: ClassVar[str] = "nasbench201"
    genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(f"{node}<-{source}", OPERATIONS) for node, source in EDGES)

    def __init__(self, *, channels: int = 16, cells: int = 5) -> None:
        if channels < 1 or cells < 1:
            raise InputError(
                f"channels and cells of nasbench201 must be at least 1, but got channels={channels}, cells={cells}"
            )
        self.channels = channels
        self.cells = cells
        self._shape_costs = lru_cache(maxsize=8)(self._count)

    def parse(self, code: str) -> Architecture:
        """The architecture of a code or an official string."""
        return super().parse(_code_of(code) if code.startswith("|") else code)

    def official(self, architecture: Architecture) -> str:
        """The string in the format of NAS-Bench-201's own files and tools."""
        return "+".join(
            "|" + "|".join(f"{name}~{source}" for source, name in enumerate(operations)) + "|"
            for operations in self._nodes(architecture)
        )

    def canonical_key(self, architecture: Architecture) -> str:
        """Equal for codes in the same one of the 6,466 classes of the published table.

        A skip connection is replaced by the node that it copies. An edge out of a node that is always zero is zero.
        The terms of a sum are sorted as text. With equal weights for equal operations, networks of one class compute
        the same function, with one exception: a convolution on a node that is always zero still adds the learnt shift
        of its batch norm. This is a constant for each channel, which the published rule takes for zero. Trained
        networks of one class can differ more: the sum of two convolutions of one node shares a class with twice one
        convolution. Equal networks can also be in different classes: the rule keeps zeros as terms, and merges sums
        within sums only where their texts agree. The text form of the rule determines which networks it separates, so
        this form is kept.
        """
        nodes = ["0"]
        for operations in self._nodes(architecture):
            terms = []
            for operation, source in zip(operations, nodes, strict=True):
                if operation == "none" or source == "#":
                    terms.append("#")
                elif operation == "skip_connect":
                    terms.append(source)
                else:
                    terms.append(f"({source})@{operation}")
            nodes.append("+".join(sorted(terms)))
        return nodes[-1]

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """Eight nodes: the input, the six edges of the cell in the order of the code, and the output.

        An edge of the cell is a node of this graph. It leads to the edges out of its end node.
        """
        _, priced = self._shape_costs(self.reference_io)
        chosen = self._chosen(architectures)
        types = np.full((len(chosen), len(EDGES) + 2), INPUT, dtype=np.int16)
        types[:, 1:-1], types[:, -1] = chosen, OUTPUT
        wiring = np.zeros((len(EDGES) + 2, len(EDGES) + 2), dtype=bool)
        for i, (node, source) in enumerate(EDGES, 1):
            wiring[0, i], wiring[i, -1] = source == 0, node == 3
            wiring[i, 1:-1] = [other == node for _, other in EDGES]
        costs_ = {
            name: np.array([getattr(operation, name) for operation in priced] + [0, 0])[types]
            for name in ("params", "macs")
        }
        return Graphs(GRAPH_OPERATIONS, types, np.tile(wiring, (len(chosen), 1, 1)), **costs_)

    def tensors(self, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
        """`[n, 1 + 2 · 3 · cells, 4, 4]`: types, then MACs and parameters of each cell. Published networks have 31
        maps.

        An edge of the cell is an edge here. Types count from 1. MACs are in units of 1e7, parameters in units of 1e5.
        """
        kinds = self._operations_by_stage(self.reference_io)
        maps = [np.arange(1.0, len(OPERATIONS) + 1)]
        for stage in range(3):
            macs = np.array([kinds[name][stage].macs / 1e7 for name in OPERATIONS])
            params = np.array([kinds[name][stage].params / 1e5 for name in OPERATIONS])
            maps += [macs, params] * self.cells
        properties = np.stack(maps)  # [maps, operations]
        tensors = np.zeros((len(architectures), len(maps), 4, 4), dtype=np.float32)
        chosen = self._chosen(architectures)
        for edge, (node, source) in enumerate(EDGES):
            tensors[:, :, source, node] = properties[:, chosen[:, edge]].T
        return tensors

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """Parameters, MACs and bits by part: stem, reductions, head, and every edge over all cells.

        Also ``table_macs``, counted as in the published table. Edges that carry zeros are costed as well: the network
        has them.
        """
        fixed, operations = self._shape_costs(io)
        edges = {
            gene.name: operations[choice] for gene, choice in zip(self.genes, self.choices(architecture), strict=True)
        }
        return Cost.total(fixed | edges)

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The network of the published table: `[B, channels, height, width]` to `[B, classes]`."""
        from nasplat.nn.cells import CellNetwork

        return CellNetwork(self._nodes(architecture), channels=self.channels, cells=self.cells, io=io)

    def convolutions_of(self, architecture: Architecture, io: IO) -> Sequence[Convolution]:
        names = [OPERATIONS[choice] for choice in self.choices(architecture)]
        chosen = [
            (node - 1, source, int(name[-1]))
            for (node, source), name in zip(EDGES, names, strict=True)
            if "conv" in name
        ]
        _, height, width = io.input_shape
        found = [Convolution("stem.0", square(io.input_shape[0], self.channels, 3, (height, width)))]
        channels, place = self.channels, 0
        for stage in range(3):
            if stage:
                name = f"stages.{place}"
                halved = (height + 1) // 2, (width + 1) // 2
                found += [
                    Convolution(f"{name}.body.0.1", square(channels, 2 * channels, 3, (height, width), stride=2)),
                    Convolution(f"{name}.body.1.1", square(2 * channels, 2 * channels, 3, halved)),
                    Convolution(f"{name}.shortcut.1", square(channels, 2 * channels, 1, halved)),
                ]
                (height, width), channels, place = halved, 2 * channels, place + 1
            shapes = {kernel: square(channels, channels, kernel, (height, width)) for kernel in (1, 3)}
            for cell in range(place, place + self.cells):
                found += [
                    Convolution(f"stages.{cell}.nodes.{node}.{source}.1", shapes[kernel])
                    for node, source, kernel in chosen
                ]
            place += self.cells
        return found

    def stages_of(self, architecture: Architecture) -> Mapping[str, Sequence[str]]:
        """The cells of each stage, and the reduction before them."""
        found = {}
        for stage in range(3):
            first = stage * (self.cells + 1)
            reduction = [f"stages.{first - 1}"] if stage else []
            found[f"stage {stage + 1}"] = [*reduction, *(f"stages.{first + cell}" for cell in range(self.cells))]
        return found

    def supernet(self, io: IO) -> "Supernet":
        """Every operation on every edge of every cell, once. Stem, reductions and head are common to all paths."""
        from nasplat.nn.cells import CellNetwork
        from nasplat.nn.supernet import Part, Supernet

        def assemble(architecture: Architecture, part: Part, /) -> "nn.Module":
            nodes = self._nodes(architecture)
            return CellNetwork(nodes, channels=self.channels, cells=self.cells, io=io, part=part)

        uniform = (self.member([choice] * len(EDGES)) for choice in range(len(OPERATIONS)))
        return Supernet(assemble, covering=uniform)

    def _nodes(self, architecture: Architecture) -> list[list[str]]:
        """The operation on the edge from each earlier node, for every node after the input."""
        chosen = [OPERATIONS[choice] for choice in self.choices(architecture)]
        return [chosen[0:1], chosen[1:3], chosen[3:6]]

    def _count(self, io: IO) -> tuple[dict[str, Cost], list[Cost]]:
        """The cost of the fixed parts, and of each operation on one edge of every cell."""
        inputs, shapes = io.input_shape[0], self._shapes(io)
        first, (last, pixels) = self.channels, shapes[-1]
        side = round(pixels**0.5)
        stem = costs.conv2d(inputs, first, 3, shapes[0][1])
        parts = {"stem": costs.together(_counted(stem), _batch_norm(first, shapes[0][1]))}
        for i, ((before, pixels_before), (after, pixels_after)) in enumerate(pairwise(shapes)):
            parts[f"reduction {i + 1}"] = costs.together(
                _relu_conv_bn(before, after, 3, pixels_before, pixels_after),
                _relu_conv_bn(after, after, 3, pixels_after, pixels_after),
                _pool(before, pixels_after, 4),
                _counted(costs.conv2d(before, after, 1, pixels_after)),
            )
        parts["head"] = costs.together(
            _batch_norm(last, pixels),
            _relu(last, pixels),
            _pool(last, 1, (side + 1) ** 2),  # the remainder of the published total at 8 x 8 pixels
            _counted(costs.linear(last, io.outputs)),
        )
        each = self._operations_by_stage(io)
        return parts, [costs.together(*each[name]).scaled(self.cells) for name in OPERATIONS]

    def _shapes(self, io: IO) -> list[tuple[int, int]]:
        """Channels and pixels of the three stages."""
        _, height, width = io.input_shape
        shapes = []
        for stage in range(3):
            shapes.append((self.channels * 2**stage, height * width))
            height, width = (height + 1) // 2, (width + 1) // 2
        return shapes

    def _operations_by_stage(self, io: IO) -> dict[str, list[Cost]]:
        """The cost of each operation on one edge of one cell, in each of the three stages."""
        shapes = self._shapes(io)
        return {
            "none": [Cost()] * 3,
            "skip_connect": [Cost()] * 3,
            "nor_conv_1x1": [_relu_conv_bn(width, width, 1, area, area) for width, area in shapes],
            "nor_conv_3x3": [_relu_conv_bn(width, width, 3, area, area) for width, area in shapes],
            "avg_pool_3x3": [_pool(width, area, 9) for width, area in shapes],
        }

    @staticmethod
    def _chosen(architectures: Sequence[Architecture]) -> NDArray[np.int16]:
        """The choices of all genes, `[n, 6]`."""
        codes = "".join(architecture.code for architecture in architectures).encode()
        return (np.frombuffer(codes, dtype=np.uint8).reshape(-1, len(EDGES)) - ord("0")).astype(np.int16)


def _code_of(official: str) -> str:
    """The code of an official string."""
    pattern = r"\+".join(r"\|" + r"\|".join(rf"(\w+)~{source}" for source in range(node)) + r"\|" for node in (1, 2, 3))
    match = re.fullmatch(pattern, official)
    if match is None:
        raise InputError(
            "an official NAS-Bench-201 string must have the form |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, but got "
            f"{official!r}"
        )
    for (node, source), name in zip(EDGES, match.groups(), strict=True):
        if name not in OPERATIONS:
            raise InputError(f"edge {node}<-{source} of {official!r} is {name!r}; it may be {', '.join(OPERATIONS)}")
    return "".join(str(OPERATIONS.index(name)) for name in match.groups())


def _relu_conv_bn(inputs: int, outputs: int, kernel: int, pixels_in: int, pixels_out: int) -> Cost:
    return costs.together(
        _relu(inputs, pixels_in),
        _counted(costs.conv2d(inputs, outputs, kernel, pixels_out)),
        _batch_norm(outputs, pixels_out),
    )


def _batch_norm(channels: int, pixels: int) -> Cost:
    return _counted(costs.batch_norm(channels), touched=2 * channels * pixels)


def _relu(channels: int, pixels: int) -> Cost:
    return _counted(Cost(), touched=channels * pixels)


def _pool(channels: int, pixels: int, window: int) -> Cost:
    return _counted(Cost(), touched=channels * pixels * window)


def _counted(layer: Cost, *, touched: int = 0) -> Cost:
    """A layer with its share of ``table_macs``. This published column has its own rule of counting.

    Besides multiply-accumulates it counts every element processed by batch norm (two each), ReLU (one each) and
    pooling (one for each input of the window). The rule was derived from the column. It reproduces the column on all
    15,625 rows.
    """
    return replace(layer, published={"table_macs": layer.macs + touched})
