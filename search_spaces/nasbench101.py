"""The cell search space of NAS-Bench-101 (Ying et al., 2019): small graphs with operations on their vertices."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import md5
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nasplat.architecture import IO, Architecture
from nasplat.convolution import Convolution, square
from nasplat.cost import Cost
from nasplat.errors import InputError, RunError
from nasplat.graph import ABSENT, Graphs, Operation, Role
from nasplat.nn import costs
from nasplat.search_space import Prior, SearchSpace
from nasplat.search_spaces.nasbench101_cell import (
    BIT,
    EDGES,
    LAST,
    OPERATIONS,
    PAIRS,
    VERTICES,
    Edge,
    cell_of,
    check_edges,
    edges_of,
    pruned,
    read_specification,
    steps,
)

if TYPE_CHECKING:
    from torch import nn

GRAPH_OPERATIONS = (
    Operation("input", Role.INPUT),
    Operation("conv1x1", Role.CONVOLUTION),
    Operation("conv3x3", Role.CONVOLUTION, kernel=3),
    Operation("maxpool3x3", Role.POOLING, kernel=3),
    Operation("output", Role.OUTPUT),
)
INPUT, CONV1X1, CONV3X3, MAXPOOL, OUTPUT = range(len(GRAPH_OPERATIONS))
MIN_CHANNELS = VERTICES - 2
"""The largest number of vertices among which the channels of the output may be divided."""
SAMPLE_ATTEMPTS = 10_000
"""The maximum number of random matrices per sample; three in four are pruned to a valid cell."""
ATTEMPTS = 100
"""The number of crossover attempts before the child is a copy of the first parent."""
FORM = "six lower-case hex digits for the edges, a colon, and one of 3, 1, m for each of up to 5 inner vertices"

_OUT_OF = [sum(bit for pair, bit in BIT.items() if pair[0] == v) for v in range(VERTICES)]
_INTO = [sum(bit for pair, bit in BIT.items() if pair[1] == v) for v in range(VERTICES)]
_AMONG = [sum(bit for pair, bit in BIT.items() if pair[1] < n) for n in range(VERTICES + 1)]
"""The bits of all edges among the first n vertices."""
_TYPES = np.full(256, ABSENT, dtype=np.int16)
_TYPES[list(b"31m")] = CONV3X3, CONV1X1, MAXPOOL
_DIGITS = np.zeros(256, dtype=np.int64)
_DIGITS[list(b"0123456789abcdef")] = range(16)


class _Cells(NamedTuple):
    """Cells of one kind in the outer shape: of one stack, with one input width."""

    stack: int
    inputs: int
    channels: int
    pixels: int
    times: int


class NASBench101(SearchSpace):
    """Cells of up to 7 vertices and 9 edges; each inner vertex has one of 3 operations.

    After Ying et al. (2019), "NAS-Bench-101".

    A code such as ``154859:3m331`` has the edges as a hexadecimal number, and a letter for each inner vertex in order:
    ``3`` conv3x3-bn-relu, ``1`` conv1x1-bn-relu, ``m`` maxpool3x3. Bit b of the number is the edge `PAIRS[b]`. Vertex
    0 is the input, and the vertex after the last letter is the output. Every vertex lies on a path from input to
    output, as in the published table; other vertices would not be part of the network. The space has 423,624
    architectures up to isomorphism.

    The defaults are the published outer shape.

    Args:
        channels: The width of the first stack; each later stack doubles it.
        stacks: The number of stacks; the sides are halved between them.
        cells: The number of cells in each stack.

    >>> space = NASBench101()
    >>> space.parse('{"matrix": [[0, 1, 1], [0, 0, 1], [0, 0, 0]], "ops": ["input", "maxpool3x3", "output"]}').code
    '000043:m'
    >>> space.canonical_key(space.parse("154859:3m331"))
    '00005c142e6f48ac74fdcf73e3439874'
    """

    name: ClassVar[str] = "nasbench101"

    def __init__(self, *, channels: int = 128, stacks: int = 3, cells: int = 3) -> None:
        if channels < MIN_CHANNELS or stacks < 1 or cells < 1:
            raise InputError(
                f"nasbench101 must have at least {MIN_CHANNELS} channels, since up to {MIN_CHANNELS} vertices share "
                f"them, and at least 1 stack and 1 cell, but got channels={channels}, stacks={stacks}, cells={cells}"
            )
        self.channels = channels
        self.stacks = stacks
        self.cells = cells
        self._tables = lru_cache(maxsize=8)(self._count)

    def sample(self, rng: Generator) -> Architecture:
        """A random matrix of 7 vertices with random operations, pruned; it is redrawn until the result is a valid
        cell.

        This is the sampling of the published baselines (Ying et al., 2019, sec. 4). It is not quite uniform: a cell is
        more likely if more matrices are pruned to it.
        """
        for _ in range(SAMPLE_ATTEMPTS):
            bits, letters = int(rng.integers(1 << len(PAIRS))), rng.integers(len(OPERATIONS), size=VERTICES - 2)
            cell = pruned(edges_of(bits), [list(OPERATIONS)[letter] for letter in letters])
            if cell is not None and len(cell[0]) <= EDGES:
                return self._member(*cell)
        raise RunError(f"none of {SAMPLE_ATTEMPTS:,} random matrices is a cell; the generator is not random")

    def parse(self, code: str) -> Architecture:
        """The architecture of a code, or of an official specification as JSON, which is pruned first.

        The specification has the keys ``matrix``, with rows of 0 and 1, and ``ops``, with ``input`` and ``output``
        included.
        """
        if code.lstrip().startswith("{"):
            return self._member(*read_specification(code))
        if not re.fullmatch(r"[0-9a-f]{6}:[31m]{0,5}", code):
            raise InputError(f"a code of nasbench101 must be {FORM}, but got {code!r}")
        bits, vertices = int(code[:6], 16), len(code) - 5
        if bits & ~_AMONG[vertices]:
            raise InputError(
                f"{code!r} has {vertices - 2} operations, so its vertices are 0 to {vertices - 1}, but it has edges of "
                "other vertices; leave these edges out, or add operations for their vertices"
            )
        check_edges(bits.bit_count(), code)
        for v in range(vertices):
            if not ((v == 0 or bits & _INTO[v]) and (v == vertices - 1 or bits & _OUT_OF[v])):
                raise InputError(
                    f"every vertex of a cell must lie on a path from the input to the output, but vertex {v} of "
                    f"{code!r} does not; leave it out"
                )
        return Architecture(self.name, code)

    def official(self, architecture: Architecture) -> str:
        """The matrix and the operations as JSON, in the format of NAS-Bench-101's own tools."""
        edges, letters = cell_of(architecture)
        vertices = range(len(letters) + 2)
        matrix = [[int((i, j) in edges) for j in vertices] for i in vertices]
        return json.dumps({"matrix": matrix, "ops": ["input", *(OPERATIONS[each] for each in letters), "output"]})

    def mutate(self, architecture: Architecture, rng: Generator, prior: Prior | None = None) -> Architecture:
        """A neighbor drawn uniformly: one operation, one edge, or one vertex with its two edges is changed.

        The published baselines flip edges and operations of an unpruned matrix. A code has no unused vertices that a
        new edge could reconnect. With such steps alone, cells would only ever shrink. Mutation therefore uses the
        steps of `neighbors`.

        Raises:
            InputError: A prior is given. A prior weights the choices of genes, and a graph has no genes.
        """
        if prior is not None:
            raise InputError(
                "a prior weights the choices of genes, but nasbench101 has no genes; mutate without a prior"
            )
        neighbors = self.neighbors(architecture)
        return neighbors[int(rng.integers(len(neighbors)))]

    def crossover(self, a: Architecture, b: Architecture, rng: Generator) -> Architecture:
        """Both parents are padded to 7 vertices. Each edge and operation is from either with equal probability; the
        result is pruned.

        A vertex of only one parent keeps that parent's operation. If no child in `ATTEMPTS` attempts is valid, the
        child is `a`.
        """
        types, adjacency = _padded([a, b])
        for _ in range(ATTEMPTS):
            chosen = np.where(rng.integers(2, size=(VERTICES, VERTICES)), adjacency[0], adjacency[1])
            mixed = np.where(rng.integers(2, size=VERTICES), types[0], types[1])
            mixed = np.where(mixed == ABSENT, types.max(axis=0), mixed)[1:-1]
            letters = ["?" if each == ABSENT else _LETTERS[each] for each in mixed]
            cell = pruned([(i, j) for i, j in PAIRS if chosen[i, j]], letters)
            if cell is not None and len(cell[0]) <= EDGES:
                return self._member(*cell)
        return a

    def neighbors(self, architecture: Architecture) -> list[Architecture]:
        """All architectures that one step leads to: first changed operations, then edges, then vertices.

        A step changes the operation of a vertex, adds an edge, or removes an edge that no vertex needs for its path.
        Or it divides an edge by a new vertex with any operation, at every place in the order that the edge allows. The
        inverse step replaces a vertex with a single incoming and a single outgoing edge by one edge that did not
        exist.
        """
        found = (self._member(*cell) for cell in steps(*cell_of(architecture)))
        return list(dict.fromkeys(found))  # two places for a new vertex may give the same cell

    def canonical_key(self, architecture: Architecture) -> str:
        """The official hash, which identifies the cell in the published table. It is equal for isomorphic cells.

        It starts from the MD5 of the degrees and the operation of every vertex. These hashes are refined by the hashes
        of the neighbors, as many times as there are vertices. The result is the MD5 of all hashes, sorted (Ying et
        al., 2019, sec. 2 and its published code). The costs of isomorphic cells may differ a little, since the first
        vertices before the output take the remainder of the divided channels.
        """
        edges, letters = cell_of(architecture)
        labels = [-1, *map(list(OPERATIONS).index, letters), -2]
        vertices = range(len(labels))
        sources = [[i for i, j in edges if j == v] for v in vertices]
        targets = [[j for i, j in edges if i == v] for v in vertices]
        hashes = [_md5(str((len(targets[v]), len(sources[v]), labels[v]))) for v in vertices]
        for _ in vertices:
            hashes = [
                _md5(
                    f"{''.join(sorted([hashes[i] for i in sources[v]]))}|"
                    f"{''.join(sorted([hashes[j] for j in targets[v]]))}|{hashes[v]}"
                )
                for v in vertices
            ]
        return _md5(str(sorted(hashes)))

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """The 21 edges, then the operation of each of 5 inner places, one-hot among conv1x1, conv3x3, maxpool, absent.

        Places are those of `graphs`: empty places are right before the output.
        """
        types, adjacency = _padded([architecture])
        operations = types[0, 1:-1, None] == [CONV1X1, CONV3X3, MAXPOOL, ABSENT]
        return np.concatenate([adjacency[0][np.triu_indices(VERTICES, 1)], operations.ravel()]).astype(np.float64)

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """The cells themselves, in 7 places. The empty places of smaller cells are right before the output.

        The cost of a vertex is that of its operation plus that of the projection of the cell's input into it, if any.
        """
        types, adjacency = _padded(architectures)
        params, macs = np.zeros(types.shape, dtype=np.int64), np.zeros(types.shape, dtype=np.int64)
        for cells, (vertex_params, vertex_macs, _) in self._priced(types, adjacency, self.reference_io):
            params += cells.times * vertex_params
            macs += cells.times * vertex_macs
        return Graphs(GRAPH_OPERATIONS, types, adjacency, params, macs)

    def tensors(self, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
        """`[n, 1 + 2 · stacks · cells, 7, 7]`: types, then MACs and parameters of each cell (Xu et al., 2021, "ReNAS").

        Published networks have 19 maps. Types are 1 input, 2 conv1x1, 3 conv3x3, 4 maxpool, 5 output. MACs are in
        units of 1e7, parameters in units of 1e5. Places are those of `graphs`. Types and units follow a later
        implementation of the tensor, since the authors' own is unpublished.
        """
        types, adjacency = _padded(architectures)
        maps = np.empty((len(types), 1 + 2 * self.stacks * self.cells, VERTICES), dtype=np.float32)
        maps[:, 0] = types + 1
        cell = 0
        for cells, (params, macs, _) in self._priced(types, adjacency, self.reference_io):
            for _ in range(cells.times):
                maps[:, 1 + 2 * cell], maps[:, 2 + 2 * cell] = macs / 1e7, params / 1e5
                cell += 1
        return adjacency[:, None].astype(np.float32) * maps[:, :, None, :]

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """Parameters, MACs and bits by part: stem, head, and every vertex over all cells."""
        types, adjacency = _padded([architecture])
        fixed, _ = self._tables(io)
        figures = np.zeros((3, VERTICES), dtype=np.int64)
        for cells, each in self._priced(types, adjacency, io):
            figures += cells.times * np.concatenate(each)
        params, macs, bits = figures.tolist()
        vertices = {
            "output" if v == LAST else f"vertex {v}": Cost(params[v], macs[v], bits[v])
            for v in range(1, VERTICES)
            if types[0, v] != ABSENT
        }
        return Cost.total(fixed | vertices)

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The network of the published table: `[B, channels, height, width]` to `[B, classes]`."""
        from nasplat.nn.nasbench101 import CellNetwork

        edges, letters = cell_of(architecture)
        return CellNetwork(
            edges,
            [OPERATIONS[letter] for letter in letters],
            self._vertices(architecture),
            cells=self.cells,
            channels=self.channels,
            io=io,
        )

    def convolutions_of(self, architecture: Architecture, io: IO) -> Sequence[Convolution]:
        edges, letters = cell_of(architecture)
        inputs, height, width = io.input_shape
        found = [Convolution("stem.0", square(inputs, self.channels, 3, (height, width)))]
        inputs = self.channels
        for cells, widths in zip(self.stages_of(architecture).values(), self._vertices(architecture), strict=True):
            for cell in cells:
                for v, channels in enumerate(widths, 1):
                    if (0, v) in edges:
                        shape = square(inputs, channels, 1, (height, width))
                        found.append(Convolution(f"{cell}.projections.{v}.0", shape))
                for v, (letter, channels) in enumerate(zip(letters, widths, strict=False)):
                    if letter != "m":
                        shape = square(channels, channels, int(letter), (height, width))
                        found.append(Convolution(f"{cell}.vertices.{v}.0", shape))
                inputs = widths[-1]
            height, width = (height + 1) // 2, (width + 1) // 2
        return found

    def stages_of(self, architecture: Architecture) -> Mapping[str, Sequence[str]]:
        """The stacks of cells."""
        size = self.cells + 1  # with the pooling after it
        return {
            f"stack {stack + 1}": [f"body.{stack * size + cell}" for cell in range(self.cells)]
            for stack in range(self.stacks)
        }

    def _vertices(self, architecture: Architecture) -> list[list[int]]:
        """The channels of every vertex after the input, for each stack."""
        types, adjacency = _padded([architecture])
        found: list[list[int]] = _widths(adjacency, self._widest)[0][:, 1:][:, types[0, 1:] != ABSENT].tolist()
        return found

    @property
    def _widest(self) -> list[int]:
        """The channels of each stack."""
        return [self.channels * 2**stack for stack in range(self.stacks)]

    def _member(self, edges: Iterable[Edge], letters: Iterable[str]) -> Architecture:
        return Architecture(self.name, f"{sum(BIT[edge] for edge in edges):06x}:{''.join(letters)}")

    def _priced(
        self, types: NDArray[np.int16], adjacency: NDArray[np.bool_], io: IO
    ) -> Iterator[tuple[_Cells, list[NDArray[np.int64]]]]:
        """For each kind of cell, in the order from the stem: the parameters, the MACs and the bits of every vertex in
        one cell, `[n, 7]` each."""
        widths = _widths(adjacency, self._widest)
        fed = adjacency[:, 0].astype(np.intp)
        for cells, prices in self._tables(io)[1]:
            yield cells, [table[types, fed, widths[:, cells.stack]] for table in prices]

    def _count(self, io: IO) -> tuple[dict[str, Cost], list[tuple[_Cells, NDArray[np.int64]]]]:
        """The cost of the fixed parts; for each kind of cell the cost of a vertex, `[3, types, fed by the input,
        width]`.

        The rows of costs are parameters, MACs and bits of memory. The cost at width 0, which empty places and the
        input have, is 0.
        """
        inputs, height, width = io.input_shape
        parts = {"stem": _conv_bn(inputs, self.channels, 3, height * width)}
        kinds: list[_Cells] = []
        inputs = self.channels
        for stack, channels in enumerate(self._widest):
            if stack:
                height, width = (height + 1) // 2, (width + 1) // 2
            changes = int(inputs != channels)
            kinds += [_Cells(stack, inputs, channels, height * width, 1)] * changes
            if self.cells > changes:
                kinds.append(_Cells(stack, channels, channels, height * width, self.cells - changes))
            inputs = channels
        parts["head"] = costs.linear(inputs, io.outputs)
        return parts, [(cells, _prices(cells)) for cells in kinds]


_LETTERS = {CONV3X3: "3", CONV1X1: "1", MAXPOOL: "m"}


def _padded(architectures: Sequence[Architecture]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Types `[n, 7]` and edges `[n, 7, 7]`, with the output in the last place."""
    codes = np.array([architecture.code for architecture in architectures], dtype="S12")
    text = codes.view(np.uint8).reshape(-1, 12)
    types = np.full((len(text), VERTICES), ABSENT, dtype=np.int16)
    types[:, 0], types[:, 1:-1], types[:, -1] = INPUT, _TYPES[text[:, 7:]], OUTPUT
    bits = _DIGITS[text[:, :6]] @ 16 ** np.arange(5, -1, -1)
    adjacency = np.zeros((len(text), VERTICES, VERTICES), dtype=np.bool_)
    for b, (i, j) in enumerate(PAIRS):
        adjacency[:, i, j] = bits >> b & 1
    outputs = (types[:, 1:-1] != ABSENT).sum(axis=1) + 1
    for output in range(1, LAST):
        smaller = np.flatnonzero(outputs == output)
        adjacency[smaller, :, LAST] = adjacency[smaller, :, output]
        adjacency[smaller, :, output] = False
    return types, adjacency


def _widths(adjacency: NDArray[np.bool_], channels: Sequence[int]) -> NDArray[np.int64]:
    """The channels of every vertex, `[n, len(channels), 7]`, for each of several output widths.

    The inner vertices that lead to the output divide its channels among them; the first vertices take the remainder,
    one channel each. Any other vertex is as wide as the widest vertex that it leads to (Ying et al., 2019, sec. 2).
    The input, whose width does not depend on the cell, has 0 here, as do empty places.
    """
    ends = adjacency[:, :LAST, LAST].copy()
    ends[:, 0] = False
    whole = np.asarray(channels, dtype=np.int64)
    share, rest = np.divmod(whole, np.maximum(ends.sum(axis=1, dtype=np.int64), 1)[:, None])
    widths = np.empty((len(ends), len(whole), VERTICES), dtype=np.int64)
    before = np.cumsum(ends, axis=1) - 1
    widths[..., :LAST] = ends[:, None] * (share[..., None] + (before[:, None] < rest[..., None]))
    widths[..., LAST] = whole
    for v in range(LAST - 2, 0, -1):
        widest = (adjacency[:, None, v, :LAST] * widths[..., :LAST]).max(axis=-1)
        widths[..., v] = np.where(ends[:, None, v], widths[..., v], widest)
    return widths


def _prices(cells: _Cells) -> NDArray[np.int64]:
    """The cost of a vertex in one of these cells, `[3, types, fed by the input, width]`; see `NASBench101._count`."""
    prices = np.zeros((3, len(GRAPH_OPERATIONS), 2, cells.channels + 1), dtype=np.int64)
    for vertices in range(1, VERTICES - 1):
        for width in {cells.channels // vertices, -(-cells.channels // vertices)}:
            projection = _conv_bn(cells.inputs, width, 1, cells.pixels)
            for kind, cost in (
                (CONV1X1, _conv_bn(width, width, 1, cells.pixels)),
                (CONV3X3, _conv_bn(width, width, 3, cells.pixels)),
                (MAXPOOL, Cost()),
                (OUTPUT, Cost()),
            ):
                fed = costs.together(cost, projection)
                rows = ([getattr(each, figure) for each in (cost, fed)] for figure in ("params", "macs", "memory_bits"))
                prices[:, kind, :, width] = list(rows)
    return prices


def _conv_bn(inputs: int, outputs: int, kernel: int, pixels: int) -> Cost:
    return costs.together(costs.conv2d(inputs, outputs, kernel, pixels), costs.batch_norm(outputs))


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()
