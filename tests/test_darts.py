"""The search space of DARTS: published cells and sizes, other people's counters, and what canonical keys promise."""

import itertools
import json
import math
import os
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.nn.darts import DARTSNetwork
from nasplat.search_spaces.darts import DARTS, OPERATIONS

CIFAR = IO.image(3, 32, 10)
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
    "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
    "reduce_concat=range(2, 6))"
)
CARS_I = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_5x5', 1), "
    "('skip_connect', 2), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)], "
    "normal_concat=range(2, 6), reduce=[('dil_conv_3x3', 0), ('skip_connect', 1), ('max_pool_3x3', 0), "
    "('max_pool_3x3', 2), ('skip_connect', 1), ('sep_conv_5x5', 3), ('dil_conv_3x3', 1), ('max_pool_3x3', 4)], "
    "reduce_concat=range(2, 6))"
)
PUBLISHED_MILLIONS = {DARTS_V2: 3.3, CARS_I: 3.6}
Cells = dict[str, list[list[Any]]]


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """The cells that papers have printed, and the sizes they gave."""
    path = Path(os.environ.get("NASPLAT_DATA", "")) / "darts" / "genotypes.json"
    if not path.is_file():
        pytest.skip(f"the published cells {path} are missing; set NASPLAT_DATA to the folder above darts/")
    cells: dict[str, Any] = json.loads(path.read_text())
    return cells


def printed(cells: Cells) -> str:
    """Cells as Python prints the named tuple of the published code."""
    fields = [
        f"{cell}={[(name, source) for name, source in cells[cell]]!r}, {cell}_concat=range(2, 6)" for cell in cells
    ]
    return f"Genotype({', '.join(fields)})"


def by_node(edges: Sequence[Sequence[Any]]) -> list[set[tuple[Any, ...]]]:
    """The edges of one cell, without their order in a node."""
    return [set(map(tuple, edges[first : first + 2])) for first in range(0, 8, 2)]


# Genes and genotypes


def test_the_space_is_as_large_as_published() -> None:
    genes = DARTS().genes
    assert len(genes) == 22
    assert math.prod(len(gene.choices) for gene in genes[:11]) == 180 * 64**4
    assert [gene.choices for gene in genes[:11]] == [gene.choices for gene in genes[11:]]
    assert {gene.name.split()[0] for gene in genes[:11]} == {"normal"}
    assert {gene.name.split()[0] for gene in genes[11:]} == {"reduce"}


def test_every_code_is_a_genotype_and_back() -> None:
    space, rng = DARTS(), default_rng(0)
    for _ in range(200):
        architecture = space.sample(rng)
        genotype = space.genotype(architecture)
        for edges in genotype.values():
            for node, (first, second) in enumerate(zip(edges[::2], edges[1::2], strict=True), 2):
                assert 0 <= int(first[1]) < int(second[1]) < node
        assert space.parse(json.dumps(genotype)) == architecture
        assert space.parse(printed(genotype)) == architecture


def test_published_cells_come_back_unchanged(published: dict[str, Any]) -> None:
    space = DARTS(channels=2, cells=3)
    assert len(published["cells"]) >= 10
    for name, cells in published["cells"].items():
        architecture = space.parse(json.dumps(cells))
        assert space.parse(printed(cells)) == architecture
        genotype = space.genotype(architecture)
        for cell in ("normal", "reduce"):
            assert by_node(genotype[cell]) == by_node(cells[cell]), name
        with torch.no_grad():
            assert space.build(architecture, CIFAR).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_genotype_is_read_as_people_write_it() -> None:
    space = DARTS()
    expected = space.parse(DARTS_V2)
    for text in (
        DARTS_V2.replace("range(2, 6)", "[2, 3, 4, 5]"),
        DARTS_V2.replace("range(2, 6)", "range(2,6)"),
        DARTS_V2.replace("'", '"').replace("=", " = ").replace("), (", "),\n    ("),
        DARTS_V2.replace("),", ") ,").replace(")]", "),\n  ]").replace("reduce_concat=range(2, 6))", "\n)"),
        f"\n{DARTS_V2} ",
        DARTS_V2.replace("('sep_conv_3x3', 0), ('sep_conv_3x3', 1)", "('sep_conv_3x3', 1), ('sep_conv_3x3', 0)"),
    ):
        assert space.parse(text) == expected


def changed(old: str, new: str) -> str:
    assert old in DARTS_V2
    return DARTS_V2.replace(old, new, 1)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (changed("sep_conv_3x3", "conv_3x3"), "node 2 of the cell 'normal' is 'conv_3x3'; it may be none, max_pool"),
        (changed("('skip_connect', 2)", "('skip_connect', 3)"), "node 3 of the cell 'reduce' is 3; it may be 0 to 2"),
        (changed("3', 0)", "3', -1)"), "node 2 of the cell 'normal' is -1; it may be 0 to 1"),
        (changed("('sep_conv_3x3', 0), ('sep", "('sep_conv_3x3', 1), ('sep"), "'normal' has the input 1 twice"),
        (changed("('max_pool_3x3', 0), ", ""), "8 pairs of operation and input, but 'reduce' has 7"),
        (changed("normal=[", "normal=[('none', 0), "), "but 'normal' has 9"),
        (changed("range(2, 6), reduce=", "range(2, 5), reduce="), r"normal_concat is 'range\(2, 5\)'; write range"),
        (changed("reduce_concat=range(2, 6)", "reduce_concat=[2, 3, 4]"), r"reduce_concat is \[2, 3, 4\]"),
        (changed("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0, 1)"), r"a pair of .* but is \['sep_conv_3x3', 0, 1\]"),
        (changed("('sep_conv_3x3', 0)", "('sep_conv_3x3', '0')"), r"a pair of .* but is \['sep_conv_3x3', '0'\]"),
        (changed("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0.0)"), "must be a pair of operation and input"),
        (changed("normal_concat", "normal_sum"), "no field 'normal_sum'; it has normal, normal_concat, reduce"),
        (changed("reduce=", "normal="), "each field once"),
        (changed("('sep_conv_3x3', 0)", "__import__('os')"), "a genotype of darts must be"),
        (changed("range(2, 6), reduce=", "2 + 3, reduce="), "a genotype of darts must be"),
        ("Genotype()", "8 pairs of operation and input, but 'normal' is None"),
        ("Genotype(", "a genotype of darts must be"),
        ("{", "a genotype of darts must be"),
        ('{"normal": 3}', "8 pairs of operation and input, but 'normal' is 3"),
        ('{"normal": ' + "[" * 3_000, "a genotype of darts must be"),
        ("Genotype(normal=[" + "(" * 3_000, "a genotype of darts must be"),
        (DARTS_V2 + " " * 4_000, "at most 4,000 characters"),
        ('{"normal": [], "normal": []}', "each field once"),
        (json.dumps({"normal": [["none", True]] * 8, "reduce": []}), "must be a pair"),
        (json.dumps({"normal": [["none", 10**30], ["none", 0]] * 4, "reduce": []}), "it may be 0 to 1"),
        ("4404403413611213113413"[:-1], "22 symbols"),
        ("4484403413611213113413", r"gene 3 \(normal 3 inputs\).*'8'; it must be one of 0 \(0 and 1\), 1 \(0 and 2\)"),
    ],
)
def test_what_is_no_member_is_refused(code: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        DARTS().parse(code)
    assert len(str(refused.value)) < 500


def test_an_unusable_shape_is_refused() -> None:
    for shape in ({"channels": 0}, {"cells": 2}):
        with pytest.raises(InputError, match="at least 1 and cells of at least 3"):
            DARTS(**shape)


# Sizes


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("text", PUBLISHED_MILLIONS, ids=["DARTS-V2", "CARS-I"])
def test_built_networks_have_the_published_size(text: str) -> None:
    space = DARTS(channels=36, cells=20)
    architecture = space.parse(text)
    params = parameters(space.build(architecture, CIFAR))
    assert round(params / 1e6, 1) == PUBLISHED_MILLIONS[text]
    assert space.cost(architecture, CIFAR).params == params


def test_all_published_sizes_are_met(published: dict[str, Any]) -> None:
    space = DARTS(channels=36, cells=20)
    for name, millions in published["params_M"].items():
        params = space.cost(space.parse(json.dumps(published["cells"][name])), CIFAR).params
        assert round(params / 1e6, 1) == millions, name


SHAPES = [
    (16, 8, IO.image(3, 32, 10)),
    (4, 4, IO.image(1, 8, 10)),
    (3, 3, IO((1, 7, 9), 4)),
    (2, 5, IO((2, 5, 6), 3)),
    (1, 6, IO((3, 13, 1), 2)),
    (5, 3, IO((1, 1, 1), 1)),
    (2, 7, IO((1, 3, 2), 100)),
]


def members(space: DARTS, number: int) -> list[Architecture]:
    """One of each operation everywhere, and some at random."""
    rng = default_rng(number)
    uniform = [space.member([0 if len(gene.choices) != 8 else i for gene in space.genes]) for i in range(8)]
    return uniform + [space.sample(rng) for _ in range(number)]


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "cells", "io"), SHAPES)
def test_costs_are_those_of_the_built_network(channels: int, cells: int, io: IO) -> None:
    space = DARTS(channels=channels, cells=cells)
    for architecture in members(space, 3):
        network = space.build(architecture, io).eval()
        cost = space.cost(architecture, io)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *io.input_shape))
        assert cost.params == parameters(network)
        assert 2 * cost.macs == counter.get_total_flops()
        statistics = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
        assert cost.memory_bits == 32 * (cost.params + statistics)
        operations = {cost.metrics()[name] for name in ("multiplications", "additions", "operations")}
        assert operations == {cost.macs} and cost.metrics()["bit_operations"] == 0


def reductions(cells: int) -> tuple[int, int]:
    """Where the published code reduces."""
    return cells // 3, 2 * cells // 3


def network_with_parts(space: DARTS, architecture: Architecture, io: IO) -> tuple[nn.Module, dict[str, nn.Module]]:
    """A new network, and its parts by name."""
    parts: dict[str, nn.Module] = {}

    def part(name: str, make: Callable[[], nn.Module], largest: object = None, /) -> nn.Module:
        assert name not in parts
        parts[name] = make()
        return parts[name]

    nodes = {
        cell: [[(str(name), int(source)) for name, source in edges[i : i + 2]] for i in range(0, 8, 2)]
        for cell, edges in space.genotype(architecture).items()
    }
    network = DARTSNetwork(**nodes, channels=space.channels, cells=space.cells, io=io, part=part)
    return network, parts


@pytest.mark.parametrize(("channels", "cells", "io"), SHAPES[1:])
def test_parts_sum_to_the_whole_and_are_those_of_the_network(channels: int, cells: int, io: IO) -> None:
    space = DARTS(channels=channels, cells=cells)
    for architecture in members(space, 4):
        cost = space.cost(architecture, io)
        assert cost.metrics() == {
            name: sum(part.metrics().get(name, 0) for part in cost.parts.values()) for name in cost.metrics()
        }
        found: dict[str, int] = defaultdict(int)
        for name, module in network_with_parts(space, architecture, io)[1].items():
            match name.split():
                case ["cell", _, "input", _]:
                    found["inputs"] += parameters(module)
                case ["cell", position, edge, _]:
                    kind = "reduce" if int(position) in reductions(cells) else "normal"
                    found[f"{kind} {edge}"] += parameters(module)
                case [fixed]:
                    found[fixed] += parameters(module)
        assert len(found) == 3 + 16
        assert {name: part.params for name, part in cost.parts.items()} == found


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "io"), [(20, CIFAR), (8, IO((3, 15, 9), 4)), (4, IO.image(1, 8, 3))])
def test_images_shrink_and_widths_grow_at_the_reductions(cells: int, io: IO) -> None:
    space = DARTS(channels=2, cells=cells)
    _, height, width = io.input_shape
    expected, channels = [], 8
    for position in range(cells):
        if position in reductions(cells):
            channels, height, width = 2 * channels, math.ceil(height / 2), math.ceil(width / 2)
        expected.append((1, channels, height, width))
    for architecture in members(space, 2):
        network = space.build(architecture, io).eval()
        shapes: list[tuple[int, ...]] = []

        def note(_cell: nn.Module, _inputs: Any, output: Tensor, shapes: list[tuple[int, ...]] = shapes) -> None:
            shapes.append(tuple(output.shape))

        for cell in network.get_submodule("cells").children():
            cell.register_forward_hook(note)
        with torch.no_grad():
            network(torch.zeros(1, *io.input_shape))
        assert shapes == expected


# Canonical keys

Edge = tuple[str, int, str]
"""An operation, its input, and the edge of another cell whose weights it has."""
WEIGHTLESS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")


def draw_cell(chance: random.Random) -> list[list[Edge]]:
    """A random cell, with more of what carries nothing than sampling gives."""
    names = [*OPERATIONS, *["none"] * chance.choice([0, 6])]
    cell = []
    for node in range(2, 6):
        sources = chance.sample(range(node), 2)
        drawn = zip(sources, chance.choices(names, k=2), strict=True)
        cell.append([(name, source, f"{node}<-{source} {name}") for source, name in drawn])
    return cell


def twin_of(cell: list[list[Edge]], chance: random.Random) -> tuple[list[list[Edge]], list[int]]:
    """The same function otherwise: nodes in another order, nothing taken from elsewhere; and each node's new number."""
    empty = {node for node in range(2, 6) if all(name == "none" for name, _, _ in cell[node - 2])}
    for node in range(2, 6):  # a node also carries nothing if pools and skip connections pass nothing on
        if all(name == "none" or (source in empty and name in WEIGHTLESS) for name, source, _ in cell[node - 2]):
            empty.add(node)
    orders = [
        order
        for order in itertools.permutations(range(2, 6))
        if all(s < 2 or order[s - 2] < order[n - 2] for n in range(2, 6) for _, s, _ in cell[n - 2])
    ]
    order = chance.choice(orders)
    twin: list[list[Edge]] = [[] for _ in cell]
    for node in range(2, 6):
        edges: list[Edge] = []
        for name, source, origin in cell[node - 2]:
            new = source if source < 2 else order[source - 2]
            if source in empty and name in WEIGHTLESS and chance.random() < 0.5:
                name = chance.choice(WEIGHTLESS)
                origin = "none"
            edges.append((name, new, origin))
        for i, (name, _, origin) in enumerate(edges):
            other = edges[1 - i][1]
            mine = edges[i][1]
            elsewhere = [s for s in range(order[node - 2]) if s != other]
            nothing = [s for s in elsewhere if s > 1 and order.index(s) + 2 in empty]
            if name == "none":
                edges[i] = (name, chance.choice(elsewhere), origin)
            elif mine > 1 and order.index(mine) + 2 in empty:
                edges[i] = (name, chance.choice(nothing), origin)
        twin[order[node - 2] - 2] = edges
    return twin, list(order)


def text_of(cells: Mapping[str, list[list[Edge]]]) -> str:
    return json.dumps({kind: [[n, s] for edges in cell for n, s, _ in edges] for kind, cell in cells.items()})


def fill(module: nn.Module, generator: torch.Generator) -> None:
    """Give all weights and statistics of a module random values."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) / 2)


def mixed_anew(weight: Tensor, order: Sequence[int]) -> Tensor:
    """Weights `[outputs, 4 · width, …]` for input nodes in another order."""
    blocks = weight.chunk(4, dim=1)
    return torch.cat([blocks[order.index(node)] for node in range(2, 6)], dim=1)


@pytest.mark.slow
def test_twins_share_a_key_and_with_their_weights_a_function() -> None:
    space, io, chance = DARTS(channels=2, cells=5), IO((2, 6, 5), 3), random.Random(0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, *io.input_shape, dtype=torch.float64, generator=generator)
    renumbered = respelled = 0
    for _ in range(60):
        cells = {kind: draw_cell(chance) for kind in ("normal", "reduce")}
        twins = {kind: twin_of(cell, chance) for kind, cell in cells.items()}
        first = space.parse(text_of(cells))
        second = space.parse(text_of({kind: twin for kind, (twin, _) in twins.items()}))
        assert space.canonical_key(first) == space.canonical_key(second)
        respelled += first != second
        renumbered += any(order != [2, 3, 4, 5] for _, order in twins.values())
        network, parts = network_with_parts(space, first, io)
        twin, of_twin = network_with_parts(space, second, io)
        network.double()
        twin.double()
        for module in parts.values():
            fill(module, generator)
        kinds = ["reduce" if position in reductions(5) else "normal" for position in range(5)]
        of_twin["stem"].load_state_dict(parts["stem"].state_dict())
        for position, kind in enumerate(kinds):
            for i, before in ((0, position - 2), (1, position - 1)):
                states = parts[f"cell {position} input {i}"].state_dict()
                if before >= 0:
                    order = twins[kinds[before]][1]
                    states = {k: mixed_anew(v, order) if v.dim() == 4 else v for k, v in states.items()}
                of_twin[f"cell {position} input {i}"].load_state_dict(states)
            for node, edges in enumerate(twins[kind][0], 2):
                for name, source, origin in edges:
                    if name not in WEIGHTLESS or source < 2:
                        target = of_twin[f"cell {position} {node}<-{source} {name}"]
                        if name != "none":
                            target.load_state_dict(parts[f"cell {position} {origin}"].state_dict())
        head = parts["head"].state_dict()
        order = twins[kinds[-1]][1]
        of_twin["head"].load_state_dict({k: mixed_anew(v, order) if v.dim() == 2 else v for k, v in head.items()})
        for training in (False, True):
            with torch.no_grad():
                expected, given = network.train(training)(images), twin.train(training)(images)
            assert (given - expected).abs().max().item() < 1e-9 * max(1.0, expected.abs().max().item())
    assert respelled > 40
    assert renumbered > 20


def same_graph(a: Sequence[Sequence[Edge]], b: Sequence[Sequence[Edge]]) -> bool:
    """Whether some numbering of nodes makes one cell the other."""

    def edges(cell: Sequence[Sequence[Edge]], number: Sequence[int]) -> set[tuple[int, int, str]]:
        return {(number[node], number[s], name) for node, pair in enumerate(cell, 2) for name, s, _ in pair}

    orders = ((0, 1, *order) for order in itertools.permutations(range(2, 6)))
    return any(edges(a, order) == edges(b, range(6)) for order in orders)


@pytest.mark.slow
def test_keys_are_equal_exactly_for_equal_graphs_where_everything_carries_something() -> None:
    space, chance = DARTS(), random.Random(1)

    def draw() -> list[list[Edge]]:
        return [
            [(chance.choice(["skip_connect", "sep_conv_3x3"]), s, "") for s in chance.sample(range(node), 2)]
            for node in range(2, 6)
        ]

    fixed, equal = draw(), 0
    cells = [draw() for _ in range(120)]
    cells += [twin_of(cell, chance)[0] for cell in cells[:30]]
    keys = [space.canonical_key(space.parse(text_of({"normal": cell, "reduce": fixed}))) for cell in cells]
    for (a, key_a), (b, key_b) in itertools.combinations(zip(cells, keys, strict=True), 2):
        assert (key_a == key_b) is same_graph(a, b)
        equal += key_a == key_b
    assert equal >= 30


def outputs_of_kinds(space: DARTS, architecture: Architecture, io: IO) -> Tensor:
    """Outputs of a network whose weights depend on an edge's operation, not on its node, and that mixes nodes alike."""
    network, parts = network_with_parts(space, architecture, io)
    network.double()
    for name, module in parts.items():
        words = name.split()
        kind = OPERATIONS.index(words[3]) if words[-1] in OPERATIONS else sum(map(ord, name))
        fill(module, torch.Generator().manual_seed(kind + (1000 * int(words[1]) if len(words) > 1 else 0)))
        mixes_nodes = words[0] == "head" or (words[2:3] == ["input"] and int(words[1]) + int(words[3]) > 1)
        for weight in module.state_dict().values():
            if mixes_nodes and weight.dim() > 1:
                weight.copy_(weight.chunk(4, dim=1)[0].repeat(1, 4, *[1] * (weight.dim() - 2)))
    images = torch.randn(3, *io.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        outputs: Tensor = network.train()(images)
    return outputs


@pytest.mark.slow
def test_what_shares_a_key_computes_the_same_where_weights_depend_on_operations_alone() -> None:
    space, io, chance = DARTS(channels=2, cells=3), IO((2, 6, 5), 3), random.Random(3)
    same = other = 0
    for _ in range(12):
        architecture = space.parse(text_of({kind: draw_cell(chance) for kind in ("normal", "reduce")}))
        key, expected = space.canonical_key(architecture), outputs_of_kinds(space, architecture, io)
        twins = [a for a in space.neighbors(architecture) if space.canonical_key(a) == key]
        others = chance.sample([a for a in space.neighbors(architecture) if space.canonical_key(a) != key], 4)
        for neighbor in twins:
            difference = (outputs_of_kinds(space, neighbor, io) - expected).abs().max().item()
            assert difference < 1e-9 * max(1.0, expected.abs().max().item())
            same += 1
        for neighbor in others:
            other += (outputs_of_kinds(space, neighbor, io) - expected).abs().max().item() > 1e-6
    assert same > 40
    assert other > 30  # the comparison can tell


def test_a_convolution_of_nothing_is_not_nothing() -> None:
    nothing = [[("none", 0, ""), ("none", 1, "")]] * 2
    space, keys = DARTS(), []
    for name, source in (
        ("none", 2),
        ("max_pool_3x3", 2),
        ("skip_connect", 3),
        ("sep_conv_3x3", 2),
        ("sep_conv_3x3", 3),
    ):
        cell = [*nothing, [(name, source, ""), ("skip_connect", 0, "")], [("skip_connect", 0, ""), ("none", 1, "")]]
        keys.append(space.canonical_key(space.parse(text_of({"normal": cell, "reduce": cell}))))
    assert keys[0] == keys[1] == keys[2]
    assert keys[3] == keys[4] != keys[0]


def test_a_changed_operation_is_another_key() -> None:
    space, chance = DARTS(), random.Random(2)
    for _ in range(40):
        cells = {kind: draw_cell(chance) for kind in ("normal", "reduce")}
        cells = {
            kind: [[("skip_connect" if n == "none" else n, s, o) for n, s, o in edges] for edges in cell]
            for kind, cell in cells.items()
        }
        key = space.canonical_key(space.parse(text_of(cells)))
        kind, node, edge = chance.choice(["normal", "reduce"]), chance.randrange(4), chance.randrange(2)
        name, source, _ = cells[kind][node][edge]
        for other in set(OPERATIONS) - {name}:
            cell = [list(edges) for edges in cells[kind]]
            cell[node][edge] = (other, source, "")
            changed = space.canonical_key(space.parse(text_of(cells | {kind: cell})))
            assert (key == changed) is (other != "none" and same_graph(cell, cells[kind]))


def test_two_nodes_with_equal_edges_are_not_one_node_twice() -> None:
    both = [[("sep_conv_3x3", 0, ""), ("sep_conv_3x3", 1, "")]] * 2
    once = [[("skip_connect", 2, ""), ("skip_connect", 0, "")], [("skip_connect", 3, ""), ("skip_connect", 1, "")]]
    twice = [once[0], [("skip_connect", 2, ""), ("skip_connect", 1, "")]]
    space = DARTS()
    keys = {
        space.canonical_key(space.parse(text_of(dict.fromkeys(("normal", "reduce"), both + x)))) for x in (once, twice)
    }
    assert len(keys) == 2


def test_the_two_cells_are_told_apart() -> None:
    space = DARTS()
    architecture = space.parse(DARTS_V2)
    exchanged = space.parse(architecture.code[11:] + architecture.code[:11])
    assert space.canonical_key(architecture) != space.canonical_key(exchanged)
    assert space.cost(architecture, CIFAR).params != space.cost(exchanged, CIFAR).params
