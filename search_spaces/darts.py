"""The search space of DARTS (Liu et al., 2019): a normal and a reduction cell of four nodes with two inputs each."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, combinations, pairwise, permutations
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from nasplat.architecture import IO, Architecture
from nasplat.convolution import Convolution, ConvolutionShape, square
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.graph import Graphs, Operation, Role
from nasplat.nn import costs
from nasplat.search_space import Gene, GeneSpace, SupernetSpace

if TYPE_CHECKING:
    from torch import nn

    from nasplat.nn.supernet import Part, Supernet

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CELLS = ("normal", "reduce")
NODES = (2, 3, 4, 5)
PAIRS = {node: tuple(combinations(range(node), 2)) for node in NODES}
OUTER = (False, True)
LONGEST = 4_000
"""The longest accepted text of a genotype, in characters. Longer texts are refused unread; a genotype has some 700."""

ROLES = {"none": Role.ZERO, "skip_connect": Role.IDENTITY, "max_pool_3x3": Role.POOLING, "avg_pool_3x3": Role.POOLING}
GRAPH_OPERATIONS = (
    Operation("older input", Role.INPUT),
    Operation("newer input", Role.INPUT),
    Operation("output", Role.OUTPUT),
    *(
        Operation(
            f"{cell} {name}", ROLES.get(name, Role.CONVOLUTION), kernel=int(name[-1]) if name[-1].isdigit() else 1
        )
        for cell in CELLS
        for name in OPERATIONS
    ),
)

Edge: TypeAlias = tuple[str, int]


def _genes(cell: str) -> list[Gene]:
    genes = []
    for node in NODES:
        if len(PAIRS[node]) > 1:
            genes.append(Gene(f"{cell} {node} inputs", tuple(f"{low} and {high}" for low, high in PAIRS[node])))
        genes += [Gene(f"{cell} {node} {which}", OPERATIONS) for which in ("lower", "higher")]
    return genes


class DARTS(GeneSpace, SupernetSpace):
    """Two cells of four nodes; each node sums two earlier ones, by eight operations.

    After Liu et al. (2019), "DARTS", sec. 3.1.

    Inputs 0 and 1 of a cell are the outputs of the two previous cells, and inputs 2 to 5 are its nodes. Its output is
    the concatenation of all four nodes. A code has eleven digits for the normal cell and eleven for the reduction
    cell. For each node from 3 on, the first digit gives the pair of inputs, in the order 01, 02, …, 12, …. For every
    node, the next two digits give the operations on its lower and its higher input: ``0`` none, ``1`` max_pool_3x3,
    ``2`` avg_pool_3x3, ``3`` skip_connect, ``4`` sep_conv_3x3, ``5`` sep_conv_5x5, ``6`` dil_conv_3x3, ``7``
    dil_conv_5x5. This makes 180 · 64⁴ cells of each kind. The published networks have 36 channels and 20 cells. The
    defaults are the outer shape of the search in DARTS.

    Args:
        channels: The width of a node in the first cells; each of two reductions doubles it.
        cells: The total number of normal and reduction cells.

    >>> space = DARTS()
    >>> cell = [["sep_conv_3x3", 0], ["none", 1]] * 3 + [["skip_connect", 4], ["dil_conv_5x5", 2]]
    >>> architecture = space.parse(json.dumps({"normal": cell, "reduce": cell}))
    >>> architecture.code
    '4004004087340040040873'
    >>> space.genotype(architecture)["normal"][-2:]
    [['dil_conv_5x5', 2], ['skip_connect', 4]]
    """

    name: ClassVar[str] = "darts"
    genes: ClassVar[tuple[Gene, ...]] = tuple(chain.from_iterable(map(_genes, CELLS)))

    def __init__(self, *, channels: int = 16, cells: int = 8) -> None:
        if channels < 1 or cells < 3:
            raise InputError(
                "darts must have channels of at least 1 and cells of at least 3, since two cells reduce, but got "
                f"channels={channels}, cells={cells}"
            )
        self.channels = channels
        self.cells = cells
        self._shape_costs = lru_cache(maxsize=8)(self._count)

    def parse(self, code: str) -> Architecture:
        """The architecture of a code or a genotype.

        A genotype is ``Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…],
        reduce_concat=range(2, 6))``, as printed by the published code, or the same as a JSON object.
        """
        if not code.strip().startswith(("Genotype", "{")):
            return super().parse(code)
        fields = _read(code)
        return self.member([choice for cell in CELLS for choice in _choices(_nodes(cell, fields))])

    def genotype(self, architecture: Architecture) -> dict[str, list[list[str | int]]]:
        """Both cells in the published form: for each node two pairs of operation and input, the lower input first."""
        return {
            cell: [[name, source] for edges in nodes for name, source in edges]
            for cell, nodes in self._cells(architecture).items()
        }

    def canonical_key(self, architecture: Architecture) -> str:
        """Equal for codes whose cells are the same graphs up to the numbering of nodes and edges that carry zeros.

        With weights named accordingly, such networks compute the same function. In detail: the nodes of a cell may be
        renumbered, since the next cells and the classifier mix all four with their own weights. The input of ``none``
        does not matter. A pool or a skip connection of a node that is always zero is equal to ``none``. A convolution
        of such a node still adds the learnt shift of its batch norms; it adds the same for any such node.

        Nothing else is merged. Every node counts, as each is part of the output. Two nodes with equal edges differ
        from one node used twice, since their weights differ. For safety, nodes that compute the same function without
        weights are also kept apart.
        """
        return "|".join(_canonical(nodes) for nodes in self._cells(architecture).values())

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """Both cells side by side, each with eleven nodes: two inputs, two edges for each node of the cell, the
        output.

        An edge of a cell is a node of this graph. It leads to the edges out of its end node, and to the output. A skip
        connection that halves the sides has weights, and still has the type of a skip connection.
        """
        number = {
            (cell, name): 3 + i * len(OPERATIONS) + j
            for i, cell in enumerate(CELLS)
            for j, name in enumerate(OPERATIONS)
        }
        size = 3 + 2 * len(NODES)
        n, places = len(architectures), size * len(CELLS)
        types = np.zeros((n, places), dtype=np.int16)
        adjacency = np.zeros((n, places, places), dtype=bool)
        params, macs = np.zeros((n, places), dtype=np.int64), np.zeros((n, places), dtype=np.int64)
        _, priced = self._shape_costs(self.reference_io)
        for row, architecture in enumerate(architectures):
            for first, (cell, nodes) in zip(range(0, places, size), self._cells(architecture).items(), strict=True):
                types[row, first : first + 2], types[row, first + size - 1] = (0, 1), 2
                for i, (name, source) in enumerate(chain.from_iterable(nodes)):
                    place = first + 2 + i
                    into = [first + source] if source < 2 else [first + 2 * source - 2, first + 2 * source - 1]
                    types[row, place] = number[cell, name]
                    adjacency[row, into, place] = adjacency[row, place, first + size - 1] = True
                    cost = priced[cell, source < 2][name]
                    params[row, place], macs[row, place] = cost.params, cost.macs
        return Graphs(GRAPH_OPERATIONS, types, adjacency, params, macs)

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """Parameters, MACs and bits by part: stem, input preprocessing of cells, head, and every edge over all cells.

        Edges that carry zeros are costed as well: the network has them.
        """
        fixed, operations = self._shape_costs(io)
        edges = {
            f"{cell} {node}<-{source}": operations[cell, source < 2][name]
            for cell, nodes in self._cells(architecture).items()
            for node, pair in zip(NODES, nodes, strict=True)
            for name, source in pair
        }
        return Cost.total(fixed | edges)

    def convolutions_of(self, architecture: Architecture, io: IO) -> Sequence[Convolution]:
        cells = self._cells(architecture)
        inputs, *at = io.input_shape
        before = after = at[0], at[1]
        channels, older, newer, reduction = self.channels, 3 * self.channels, 3 * self.channels, False
        found = [Convolution("stem.0", square(inputs, newer, 3, after))]
        for position in range(self.cells):
            after_reduction, reduction = reduction, position in (self.cells // 3, 2 * self.cells // 3)
            channels *= 1 + reduction
            halved = ((after[0] + 1) // 2, (after[1] + 1) // 2) if reduction else after
            layers = {
                "older": _factorized(older, channels, before)
                if after_reduction
                else {"1": square(older, channels, 1, before)},
                "newer": {"1": square(newer, channels, 1, after)},
            }
            for node, edges in enumerate(cells[CELLS[reduction]]):
                for edge, (name, source) in enumerate(edges):
                    outer = source < 2
                    layers[f"nodes.{node}.{edge}"] = _layers(
                        name, channels, after if outer else halved, halving=reduction and outer
                    )
            found += [
                Convolution(f"cells.{position}.{place}.{name}", shape)
                for place, shapes in layers.items()
                for name, shape in shapes.items()
            ]
            before, after, older, newer = after, halved, newer, len(NODES) * channels
        return found

    def stages_of(self, architecture: Architecture) -> Mapping[str, Sequence[str]]:
        """The cells of each size of images; the last two stages begin with a reduction."""
        ends = (0, self.cells // 3, 2 * self.cells // 3, self.cells)
        return {
            f"stage {number}": [f"cells.{cell}" for cell in range(*pair)]
            for number, pair in enumerate(pairwise(ends), 1)
        }

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The evaluation network of DARTS: `[B, channels, height, width]` to `[B, classes]`."""
        from nasplat.nn.supernet import new_part

        return self._assembled(architecture, new_part, io)

    def supernet(self, io: IO) -> "Supernet":
        """Every operation on every possible edge of a cell, once. The layers between cells are common to all paths."""
        from nasplat.nn.supernet import Supernet

        # Neighboring inputs, from the first, the third and the fourth, or the last there are: each edge is among them.
        covering = (
            [[(name, low), (name, low + 1)] for low in (min(first, node - 2) for node in NODES)]
            for name in OPERATIONS
            for first in (0, 2, 3)
        )
        members = (self.member(_choices(nodes) * len(CELLS)) for nodes in covering)
        return Supernet(partial(self._assembled, io=io), members)

    def _assembled(self, architecture: Architecture, part: "Part", /, io: IO) -> "nn.Module":
        from nasplat.nn.darts import DARTSNetwork

        cells = self._cells(architecture)
        channels, depth = self.channels, self.cells
        return DARTSNetwork(cells["normal"], cells["reduce"], channels=channels, cells=depth, io=io, part=part)

    def _cells(self, architecture: Architecture) -> dict[str, list[list[Edge]]]:
        """The two edges of every node of both cells, the lower input first."""
        choices = iter(self.choices(architecture))
        return {
            cell: [
                [(OPERATIONS[next(choices)], source) for source in pairs[next(choices) if len(pairs) > 1 else 0]]
                for pairs in PAIRS.values()
            ]
            for cell in CELLS
        }

    def _count(self, io: IO) -> tuple[dict[str, Cost], dict[tuple[str, bool], dict[str, Cost]]]:
        """The cost of the fixed parts, and of each operation over all cells of a kind, on nodes and (True) on the
        cell's inputs."""
        inputs, height, width = io.input_shape
        channels, older, newer = self.channels, 3 * self.channels, 3 * self.channels
        stem = costs.together(costs.conv2d(inputs, newer, 3, height * width), costs.batch_norm(newer))
        adapted = []
        each: dict[tuple[str, bool], list[dict[str, Cost]]] = {(cell, outer): [] for cell in CELLS for outer in OUTER}
        for position in range(self.cells):
            reduction = position in (self.cells // 3, 2 * self.cells // 3)
            channels *= 1 + reduction
            # If the older input is larger, two convolutions of half the width halve it, at the same cost.
            adapted += [_conv_bn(before, channels, height * width) for before in (older, newer)]
            if reduction:
                height, width = (height + 1) // 2, (width + 1) // 2
            for outer in OUTER:
                each[CELLS[reduction], outer].append(_operations(channels, height * width, halving=reduction and outer))
            older, newer = newer, len(NODES) * channels
        fixed = {"stem": stem, "inputs": costs.together(*adapted), "head": costs.linear(newer, io.outputs)}
        return fixed, {
            key: {name: costs.together(*(operations[name] for operations in cells)) for name in OPERATIONS}
            for key, cells in each.items()
        }


def _operations(channels: int, pixels: int, *, halving: bool) -> dict[str, Cost]:
    """The cost of each operation on one edge of one cell, with `pixels` output positions."""
    free = Cost()
    dilated = {kernel: _separable(channels, kernel, pixels) for kernel in (3, 5)}
    return {
        "none": free,
        "max_pool_3x3": free,
        "avg_pool_3x3": free,
        "skip_connect": _conv_bn(channels, channels, pixels) if halving else free,
        "sep_conv_3x3": dilated[3].scaled(2),
        "sep_conv_5x5": dilated[5].scaled(2),
        "dil_conv_3x3": dilated[3],
        "dil_conv_5x5": dilated[5],
    }


def _separable(channels: int, kernel: int, pixels: int) -> Cost:
    depthwise = costs.conv2d(channels, channels, kernel, pixels, groups=channels)
    return costs.together(depthwise, _conv_bn(channels, channels, pixels))


def _conv_bn(inputs: int, outputs: int, pixels: int) -> Cost:
    return costs.together(costs.conv2d(inputs, outputs, 1, pixels), costs.batch_norm(outputs))


def _factorized(inputs: int, outputs: int, sides: tuple[int, int]) -> dict[str, ConvolutionShape]:
    """The convolutions of a factorized reduction, by name; the second acts on the pixels diagonally between."""
    between = sides[0] - 1 + sides[0] % 2, sides[1] - 1 + sides[1] % 2
    return {name: square(inputs, outputs // 2, 1, at, stride=2) for name, at in (("even", sides), ("odd", between))}


@lru_cache(maxsize=1024)
def _layers(name: str, channels: int, sides: tuple[int, int], *, halving: bool) -> dict[str, ConvolutionShape]:
    """The convolutions of an operation, by name."""
    if name == "skip_connect" and halving:
        return _factorized(channels, channels, sides)
    if "conv" not in name:
        return {}
    kernel, dilation = int(name[-1]), 2 if name.startswith("dil") else 1
    halved = ((sides[0] + 1) // 2, (sides[1] + 1) // 2) if halving else sides
    first = square(channels, channels, kernel, sides, stride=1 + halving, dilation=dilation, groups=channels)
    mixing = square(channels, channels, 1, halved)
    found = {"1": first, "2": mixing}
    if name.startswith("sep"):
        found |= {"5": square(channels, channels, kernel, halved, groups=channels), "6": mixing}
    return found


def _choices(nodes: Sequence[Sequence[Edge]]) -> list[int]:
    """The choices of the genes of one cell. The edges of a node may be in any order."""
    choices = []
    for node, edges in zip(NODES, nodes, strict=True):
        (first, low), (second, high) = sorted(edges, key=lambda edge: edge[1])
        if len(PAIRS[node]) > 1:
            choices.append(PAIRS[node].index((low, high)))
        choices += [OPERATIONS.index(first), OPERATIONS.index(second)]
    return choices


def _canonical(nodes: Sequence[Sequence[Edge]]) -> str:
    """The lexicographically first text of a cell over all numberings of its nodes."""
    empty: set[int] = set()
    terms: dict[int, list[tuple[str, int | None]]] = {}
    for node, edges in zip(NODES, nodes, strict=True):
        terms[node] = [
            (str(OPERATIONS.index(name)), None if source in empty else source)
            for name, source in edges
            if name != "none" and (source not in empty or "conv" in name)
        ]
        if not terms[node]:
            empty.add(node)

    def spelled(order: Sequence[int]) -> str:
        number = {None: "-", 0: "0", 1: "1"} | {node: str(new) for new, node in enumerate(order, 2)}
        return ",".join("".join(sorted(name + number[source] for name, source in terms[node])) for node in order)

    return min(map(spelled, permutations(NODES)))


def _read(text: str) -> Mapping[str, Any]:
    """The fields of a genotype. Nothing in the text is evaluated."""
    document = text.strip()
    call = re.fullmatch(r"Genotype\((.*)\)", document, re.DOTALL)
    if call is not None:  # the same as JSON, except for the syntax
        body = re.sub(r",\s*(?=[)\]]|$)", "", call[1]).translate(str.maketrans("()'", '[]"'))
        body = re.sub(r"\brange\[(\d+),\s*(\d+)\]", r'"range(\1, \2)"', body)
        document = "{" + re.sub(r"(\w+)\s*=", r'"\1":', body) + "}"
    try:
        if len(text) > LONGEST:
            raise ValueError("too long")
        fields = json.loads(document, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(
            "a genotype of darts must be Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), "
            'reduce=[…], reduce_concat=range(2, 6)) or JSON {"normal": [["sep_conv_3x3", 0], …], "reduce": […]}, '
            f"with each field once and at most {LONGEST:,} characters, but got {_shown(text)}"
        ) from error
    known = [field for cell in CELLS for field in (cell, f"{cell}_concat")]
    for field in fields:
        if field not in known:
            raise InputError(f"a genotype of darts has no field {_shown(field)}; it has {', '.join(known)}")
    checked: Mapping[str, Any] = fields
    return checked


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field occurs twice")
    return fields


def _nodes(cell: str, fields: Mapping[str, Any]) -> list[list[Edge]]:
    """The nodes of one cell, checked for validity."""
    concat = fields.get(f"{cell}_concat", list(NODES))
    if concat not in (list(NODES), f"range({NODES[0]}, {NODES[-1] + 1})"):
        raise InputError(
            f"the output of a darts cell must concatenate all nodes, but {cell}_concat is {_shown(concat)}; write "
            "range(2, 6)"
        )
    edges = fields.get(cell)
    if not isinstance(edges, list) or len(edges) != 2 * len(NODES):
        given = f"has {len(edges)}" if isinstance(edges, list) else f"is {_shown(edges)}"
        raise InputError(
            f"a cell of darts must have {2 * len(NODES)} pairs of operation and input, but {cell!r} {given}"
        )
    nodes = []
    for node, pair in zip(NODES, zip(edges[::2], edges[1::2], strict=True), strict=True):
        nodes.append([_edge(f"node {node} of the cell {cell!r}", node, edge) for edge in pair])
        (_, first), (_, second) = nodes[-1]
        if first == second:
            raise InputError(
                f"node {node} of the cell {cell!r} has the input {first} twice; its two inputs must differ"
            )
    return nodes


def _edge(where: str, node: int, edge: Any) -> Edge:
    match edge:
        case [str(name), int(source)] if not isinstance(source, bool):
            if name not in OPERATIONS:
                raise InputError(f"an operation of {where} is {_shown(name)}; it may be {', '.join(OPERATIONS)}")
            if not 0 <= source < node:
                raise InputError(f"an input of {where} is {_shown(source)}; it may be 0 to {node - 1}")
            return name, source
    raise InputError(f"an edge of {where} must be a pair of operation and input, but is {_shown(edge)}")


def _shown(given: Any) -> str:
    """The given value as quoted in an error: at most one line."""
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}…"
