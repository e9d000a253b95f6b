"""NAS-Bench-101: the search space against the published cells, against brute force and against a slow reference."""

import csv
import gzip
import itertools
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.graph import Graphs
from nasplat.search_spaces.nasbench101 import NASBench101

CIFAR = IO.image(3, 32, 10)
STEM, HEAD = 3 * 128 * 9 + 2 * 128, 512 * 10 + 10
"""Parameters of the published networks outside of their cells."""
NAMES = {"3": "conv3x3-bn-relu", "1": "conv1x1-bn-relu", "m": "maxpool3x3"}
PLACES = [(i, j) for i in range(7) for j in range(i + 1, 7)]
SPACE = NASBench101()
Row = dict[str, str]
Matrix = list[list[int]]


def real_data(name: str) -> Path:
    path = Path(os.environ.get("NASPLAT_DATA", "")) / "nasbench101" / name
    if not path.is_file():
        pytest.skip(f"{path} is missing; set NASPLAT_DATA to the folder above nasbench101/")
    return path


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The real cells of the sample, with the authors' figures."""
    with gzip.open(real_data("subset20k.csv.gz"), "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def code_of(row: Row) -> str:
    return f"{int(row['adj_bits']):06x}:{row['ops'][1:]}"


def matrix_of(code: str) -> tuple[Matrix, str]:
    """The adjacency matrix of a code and its letters, read bit by bit."""
    bits, letters = code.split(":")
    number, size = int(bits, 16), len(letters) + 2
    matrix = [[0] * size for _ in range(size)]
    for bit, (i, j) in enumerate(PLACES):
        if number >> bit & 1:
            matrix[i][j] = 1
    return matrix, letters


def code_from(matrix: Matrix, letters: str) -> str:
    edges = {(i, j) for i, row in enumerate(matrix) for j, value in enumerate(row) if value}
    return f"{sum(1 << bit for bit, place in enumerate(PLACES) if place in edges):06x}:{letters}"


def paths_cover(matrix: Matrix) -> bool:
    """Whether every vertex lies on a path from the first to the last; found by walking all paths."""
    last, seen = len(matrix) - 1, set()
    walks = [[0]]
    while walks:
        walk = walks.pop()
        if walk[-1] == last:
            seen |= set(walk)
        walks += [[*walk, j] for j in range(last + 1) if matrix[walk[-1]][j]]
    return len(seen) == last + 1


def all_codes(vertices: int) -> Iterator[str]:
    """Every member of so many vertices, by brute force."""
    pairs = [pair for pair in PLACES if pair[1] < vertices]
    for bits in itertools.product((0, 1), repeat=len(pairs)):
        matrix = [[0] * vertices for _ in range(vertices)]
        for (i, j), bit in zip(pairs, bits, strict=True):
            matrix[i][j] = bit
        if sum(bits) <= 9 and paths_cover(matrix):
            for letters in itertools.product("31m", repeat=vertices - 2):
                yield code_from(matrix, "".join(letters))


def samples(number: int, seed: int = 0) -> list[Architecture]:
    """Members of all sizes, most of them of seven vertices as in the whole space."""
    rng, members = default_rng(seed), []
    for _ in range(number):
        member = SPACE.sample(rng)
        for _ in range(int(rng.integers(12))):
            member = SPACE.mutate(member, rng)
        members.append(member)
    return members


# The real cells


@pytest.mark.slow
def test_hashes_are_the_official_ones_on_every_row(rows: list[Row]) -> None:
    for row in rows:
        assert SPACE.canonical_key(SPACE.parse(code_of(row))) == row["hash"]


@pytest.mark.slow
def test_parameters_are_the_published_ones_on_every_row(rows: list[Row]) -> None:
    for row in rows:
        assert SPACE.cost(SPACE.parse(code_of(row)), CIFAR).params == int(row["trainable_parameters"]), row["hash"]


def test_nodes_with_stem_and_head_are_the_published_parameters(rows: list[Row]) -> None:
    members = [SPACE.parse(code_of(row)) for row in rows]
    graphs = SPACE.graphs(members)
    graphs.check()
    published = np.array([int(row["trainable_parameters"]) for row in rows])
    assert (graphs.params.sum(axis=1) + STEM + HEAD == published).all()
    by_cell = SPACE.tensors(members[::20])[:, 2::2].max(axis=2)  # every vertex but the input has an edge into it
    given = by_cell.astype(np.float64).sum(axis=(1, 2)) * 1e5
    assert np.abs(given + STEM + HEAD - published[::20]).max() < 2  # single precision


@pytest.mark.slow
def test_hashes_of_different_cells_differ() -> None:
    with np.load(real_data("space.npz")) as space:
        held = {name: space[name] for name in ("num_vertices", "adj_bits", "ops")}
    assert Counter(held["num_vertices"].tolist()) == {2: 1, 3: 6, 4: 84, 5: 2_441, 6: 62_010, 7: 359_082}
    chosen = default_rng(0).choice(len(held["ops"]), size=12_000, replace=False)
    keys = set()
    for i in chosen:
        letters = "".join("31m"[each] for each in held["ops"][i, : held["num_vertices"][i] - 2])
        keys.add(SPACE.canonical_key(SPACE.parse(f"{held['adj_bits'][i]:06x}:{letters}")))
    assert len(keys) == len(chosen)


# What is a member, and which members are the same cell


@pytest.mark.parametrize(("vertices", "classes"), [(2, 1), (3, 6), (4, 84), (5, 2_441)])
def test_keys_are_equal_exactly_for_isomorphic_cells(vertices: int, classes: int) -> None:
    by_key, by_form = defaultdict(set), defaultdict(set)
    for code in all_codes(vertices):
        matrix, letters = matrix_of(code)
        forms = []
        for inner in itertools.permutations(range(1, vertices - 1)):
            order = [0, *inner, vertices - 1]
            forms.append((tuple(matrix[i][j] for i in order for j in order), "".join(letters[v - 1] for v in inner)))
        by_form[min(forms)].add(code)
        by_key[SPACE.canonical_key(SPACE.parse(code))].add(code)
    assert len(by_key) == classes
    assert set(map(frozenset, by_key.values())) == set(map(frozenset, by_form.values()))


def test_members_are_what_brute_force_finds() -> None:
    held = {code for vertices in (2, 3, 4) for code in all_codes(vertices)}
    for vertices in (2, 3, 4):
        for number in range(1 << 12):
            for letters in ("", "3", "1m")[vertices - 2 : vertices - 1]:
                code = f"{number:06x}:{letters}"
                try:
                    found = SPACE.parse(code).code == code
                except InputError:
                    found = False
                assert found == (code in held), code


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("43:m", "six lower-case hex digits"),
        ("00004A:m", "six lower-case hex digits"),
        ("000043:x", "six lower-case hex digits"),
        ("000043:333333", "six lower-case hex digits"),
        ("000043:m\n", "six lower-case hex digits"),
        ("000043:", "vertices are 0 to 1"),
        ("ffffff:33333", "vertices are 0 to 6"),
        ("1fffff:33333", "at most 9 edges, but '1fffff:33333' has 21"),
        ("000000:", "vertex 0"),
        ("000002:m", "vertex 1"),
        ("000003:m", "vertex 1"),
        ('{"matrix": [[0, 1], [0, 0]]}', "KeyError"),
        ('{"matrix": [[0, 1], [0, 0]], "ops": 5}', "TypeError"),
        ('{"matrix": [[0, 1], [0, 0]], "ops": ["input"]}', "a row and a column"),
        ('{"matrix": [[0, 2], [0, 0]], "ops": ["input", "output"]}', "0 and 1"),
        ('{"matrix": [[0, 1], [1, 0]], "ops": ["input", "output"]}', "above its diagonal"),
        ('{"matrix": [[0, 0], [0, 0]], "ops": ["input", "output"]}', "path from its input"),
        ('{"matrix": [[0, 1], [0, 0]], "ops": ["output", "input"]}', "the ops"),
        ('{"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", "conv5x5", "output"]}', "conv1x1-bn-relu"),
        ('{"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", [], "output"]}', "the ops"),
        ("{" * 100_000, "JSONDecodeError"),
        ('{"matrix": [[0, 1], [0, 0]], "ops": {"a": 1, "b": 2}}', "TypeError"),
        ('{"matrix": {"a": [0, 1], "b": [0, 0]}, "ops": ["input", "output"]}', "TypeError"),
        ('{"matrix": ' + "[" * 100_000, "RecursionError"),
    ],
)
def test_refusals_say_which_rule_is_broken(code: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        SPACE.parse(code)
    assert said in str(refused.value)
    assert code.encode("unicode_escape").decode() in str(refused.value)


def specification(matrix: Matrix, letters: str) -> str:
    return json.dumps({"matrix": matrix, "ops": ["input", *(NAMES[letter] for letter in letters), "output"]})


def test_official_specifications_come_back_unchanged() -> None:
    for member in samples(200):
        assert json.loads(SPACE.official(member)) == json.loads(specification(*matrix_of(member.code)))
        assert SPACE.parse(SPACE.official(member)) == member


def test_official_specifications_are_pruned() -> None:
    # 1 leads nowhere, 3 comes from nowhere; what remains is 0 -> 2 -> 4 and 0 -> 4.
    matrix = [[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert SPACE.parse(specification(matrix, "31m")).code == code_from([[0, 1, 1], [0, 0, 1], [0, 0, 0]], "1")
    wide = [[0] * 20 for _ in range(20)]
    wide[0][11] = wide[11][19] = wide[3][4] = 1
    assert SPACE.parse(specification(wide, "3" * 10 + "m" + "3" * 7)).code == "000041:m"
    deep = [[int(j == i + 1) for j in range(8)] for i in range(8)]
    with pytest.raises(InputError, match="at most 7 vertices"):
        SPACE.parse(specification(deep, "333333"))


# Steps


@pytest.mark.slow
def test_any_cell_is_reached_from_any_other_by_neighbors() -> None:
    reached = {SPACE.parse("000001:")}
    front = list(reached)
    while front:
        found = {b for a in front for b in SPACE.neighbors(a) if len(b.code) <= 10} - reached
        reached |= found
        front = list(found)
    assert {a.code for a in reached} == {code for vertices in (2, 3, 4, 5) for code in all_codes(vertices)}


@pytest.mark.slow
def test_neighbors_are_mutual_for_every_small_cell_and_many_large_ones() -> None:
    small = [SPACE.parse(code) for vertices in (2, 3, 4) for code in all_codes(vertices)]
    for member in [*small, *samples(60, seed=1)]:
        neighbors = SPACE.neighbors(member)
        assert member not in neighbors
        assert len(set(neighbors)) == len(neighbors)
        for neighbor in neighbors:
            assert SPACE.parse(neighbor.code) == neighbor
            assert member in SPACE.neighbors(neighbor), (member, neighbor)


@pytest.mark.slow
def test_mutants_grow_and_shrink() -> None:
    rng, member = default_rng(0), SPACE.parse("000001:")
    sizes: Counter[int] = Counter()
    for _ in range(1_500):
        mutant = SPACE.mutate(member, rng)
        assert mutant in SPACE.neighbors(member)
        member = mutant
        sizes[len(member.code) - 5] += 1
    assert sizes.keys() >= {4, 5, 6, 7}
    assert sizes[7] > sizes[5]


def test_a_prior_on_genes_is_refused() -> None:
    with pytest.raises(InputError, match="has no genes"):
        SPACE.mutate(SPACE.parse("000043:m"), default_rng(0), [np.ones(3)])


def test_children_have_only_what_a_parent_has() -> None:
    rng = default_rng(0)
    different = 0
    for a, b in itertools.pairwise(samples(200, seed=2)):
        if len(a.code) != 12 or len(b.code) != 12:
            continue
        child = SPACE.crossover(a, b, rng)
        assert SPACE.parse(child.code) == child
        if len(child.code) == 12:  # nothing was pruned, so that places are comparable
            of_child, of_a, of_b = (int(each.code[:6], 16) for each in (child, a, b))
            assert of_child & ~(of_a | of_b) == 0
            assert of_child & of_a & of_b == of_a & of_b
            assert all(x in (y, z) for x, y, z in zip(child.code[7:], a.code[7:], b.code[7:], strict=True))
            different += child not in (a, b)
    assert different > 10


def test_an_unusable_shape_is_refused() -> None:
    for shape in ({"channels": 4}, {"stacks": 0}, {"cells": 0}):
        with pytest.raises(InputError, match="at least"):
            NASBench101(**shape)


# Widths, prices and what predictors see


def slow_widths(matrix: Matrix, channels: int) -> list[int]:
    """The channels of every vertex but the input, by the rule's wording."""
    last = len(matrix) - 1
    ends = [v for v in range(1, last) if matrix[v][last]]
    widths = {last: channels}
    for number, v in enumerate(ends):
        widths[v] = channels // len(ends) + (number < channels % len(ends))
    for v in reversed(range(1, last)):
        if v not in ends:
            widths[v] = max(widths[w] for w in range(v + 1, last) if matrix[v][w])
    return [widths[v] for v in range(1, last + 1)]


def slow_cells(code: str, channels: int, stacks: int, cells: int, side: int) -> list[list[tuple[int, int]]]:
    """For each cell, the parameters and MACs of every vertex but the input."""
    matrix, letters = matrix_of(code)
    found, inputs = [], channels
    for stack in range(stacks):
        width = channels * 2**stack
        for _ in range(cells):
            vertices = []
            for v, own in enumerate(slow_widths(matrix, width), 1):
                kernel = {"3": 9, "1": 1}.get(letters[v - 1 : v], 0)
                weights = [kernel * own * own] * bool(kernel) + [inputs * own] * matrix[0][v]
                vertices.append((sum(weights) + 2 * own * len(weights), sum(weights) * side * side))
            found.append(vertices)
            inputs = width
        side = (side + 1) // 2
    return found


def slow_graph(member: Architecture) -> tuple[list[int], list[list[int]], Matrix]:
    """Types, matrix and places of one member: the output last, empty places right before it."""
    matrix, letters = matrix_of(member.code)
    places = [*range(len(letters) + 1), 6]
    types = [-1] * 7
    padded = [[0] * 7 for _ in range(7)]
    for v, place in enumerate(places):
        types[place] = 0 if v == 0 else 4 if place == 6 else {"1": 1, "3": 2, "m": 3}[letters[v - 1]]
        for w, other in enumerate(places):
            padded[place][other] = matrix[v][w]
    return types, padded, [places]


def test_graphs_and_tensors_are_those_of_a_slow_reference() -> None:
    members = [*samples(150, seed=3), SPACE.parse("000001:"), SPACE.parse("000043:m")]
    graphs, tensors = SPACE.graphs(members), SPACE.tensors(members)
    assert tensors.shape == (len(members), 19, 7, 7)
    assert tensors.dtype == np.float32
    names = [operation.name for operation in graphs.operations]
    assert names == ["input", "conv1x1", "conv3x3", "maxpool3x3", "output"]
    for row, member in enumerate(members):
        types, matrix, (places,) = slow_graph(member)
        cells = slow_cells(member.code, 128, 3, 3, 32)
        costs = np.zeros((9, 2, 7))
        for number, vertices in enumerate(cells):
            for place, (params, macs) in zip(places[1:], vertices, strict=True):
                costs[number, :, place] = macs, params
        assert graphs.types[row].tolist() == types
        assert graphs.adjacency[row].astype(int).tolist() == matrix
        assert graphs.macs[row].tolist() == costs[:, 0].sum(axis=0).tolist()
        assert graphs.params[row].tolist() == costs[:, 1].sum(axis=0).tolist()
        expected = np.zeros((19, 7, 7))
        for i, j in itertools.product(range(7), repeat=2):
            if matrix[i][j]:
                expected[0, i, j] = types[j] + 1
                expected[1::2, i, j] = costs[:, 0, j] / 1e7
                expected[2::2, i, j] = costs[:, 1, j] / 1e5
        np.testing.assert_allclose(tensors[row], expected, rtol=1e-6)


def test_many_graphs_are_those_of_few(rows: list[Row]) -> None:
    members = [SPACE.parse(code_of(row)) for row in rows[::50]]
    alone = Graphs.stack([SPACE.graphs([member]) for member in members])
    together = SPACE.graphs(members)
    for name in ("types", "adjacency", "params", "macs"):
        assert (getattr(together, name) == getattr(alone, name)).all(), name


def test_nothing_is_a_batch_as_well() -> None:
    assert len(SPACE.graphs([])) == 0
    assert SPACE.tensors([]).shape == (0, 19, 7, 7)


def test_features_tell_all_small_cells_apart() -> None:
    members = [SPACE.parse(code) for vertices in (2, 3, 4) for code in all_codes(vertices)]
    features = np.stack([SPACE.features(member) for member in members])
    assert features.shape == (len(members), 41)
    assert len({row.tobytes() for row in features}) == len(members)
    assert (features[:, 21:].reshape(-1, 5, 4).sum(axis=2) == 1).all()
    # 0 -> 1 -> output and 0 -> output; one max pooling and four empty places.
    edges = features[members.index(SPACE.parse("000043:m")), :21]
    assert [PLACES[bit] for bit in np.flatnonzero(edges)] == [(0, 1), (0, 6), (1, 6)]


SHAPES = [(8, 3, 2, 8), (5, 1, 1, 5), (13, 2, 3, 7)]


@pytest.mark.parametrize(("channels", "stacks", "cells", "side"), SHAPES)
def test_costs_are_those_of_a_slow_reference_and_of_the_network(
    channels: int, stacks: int, cells: int, side: int
) -> None:
    space, io = NASBench101(channels=channels, stacks=stacks, cells=cells), IO.image(2, side, 4)
    for member in samples(15, seed=channels):
        vertices = np.array(slow_cells(member.code, channels, stacks, cells, side)).sum(axis=0)
        cost = space.cost(member, io)
        last = channels * 2 ** (stacks - 1)
        fixed = {"stem": 18 * channels + 2 * channels, "head": 4 * last + 4}
        inner = [f"vertex {v}" for v in range(1, len(vertices))]
        assert {name: part.params for name, part in cost.parts.items()} == fixed | dict(
            zip([*inner, "output"], vertices[:, 0].tolist(), strict=True)
        )
        assert cost.macs == 18 * channels * side**2 + 4 * last + vertices[:, 1].sum()
        network = space.build(member, io)
        statistics = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
        assert cost.memory_bits == 32 * (cost.params + statistics)
        assert cost.params == sum(parameter.numel() for parameter in network.parameters())


# What the networks compute


def fill(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) / 2)


class Reference:
    """The network as the paper describes it, written with functions alone, in float64.

    Args:
        weights: The state dict of the network under test.
        code: Its cell.
        shape: Channels, stacks and cells.
        training: Whether batch norm takes the batch's statistics.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], code: str, shape: tuple[int, int, int], *, training: bool
    ) -> None:
        self.weights = weights
        self.matrix, self.letters = matrix_of(code)
        self.shape = shape
        self.training = training

    def __call__(self, images: Tensor) -> Tensor:
        channels, stacks, cells = self.shape
        x = self.conv_bn_relu(images, "stem")
        position = 0
        for stack in range(stacks):
            if stack:
                x = self.halved(x)
                position += 1
            for _ in range(cells):
                x = self.cell(x, f"body.{position}", slow_widths(self.matrix, channels * 2**stack))
                position += 1
        return x.mean(dim=(2, 3)) @ self.weights["head.2.weight"].T + self.weights["head.2.bias"]

    def cell(self, x: Tensor, name: str, widths: list[int]) -> Tensor:
        last = len(widths)
        values: dict[int, Tensor] = {}
        for v in range(1, last):
            total = torch.zeros(x.shape[0], widths[v - 1], *x.shape[2:], dtype=x.dtype)
            for w in range(1, v):
                if self.matrix[w][v]:
                    total = total + values[w][:, : widths[v - 1]]
            if self.matrix[0][v]:
                total = total + self.conv_bn_relu(x, f"{name}.projections.{v}")
            if self.letters[v - 1] == "m":
                values[v] = self.pooled(total)
            else:
                values[v] = self.conv_bn_relu(total, f"{name}.vertices.{v - 1}")
        ends = [values[v] for v in range(1, last) if self.matrix[v][last]]
        out = torch.cat(ends, dim=1) if ends else torch.zeros(1, dtype=x.dtype)
        return out + self.conv_bn_relu(x, f"{name}.projections.{last}") if self.matrix[0][last] else out

    def halved(self, x: Tensor) -> Tensor:
        """The largest of 2 x 2 pixels, where the image has them."""
        height, width = x.shape[2:]
        rows = [
            torch.stack([x[:, :, i : i + 2, j : j + 2].amax(dim=(2, 3)) for j in range(0, width, 2)], -1)
            for i in range(0, height, 2)
        ]
        return torch.stack(rows, -2)

    def pooled(self, x: Tensor) -> Tensor:
        """The largest of every pixel's 3 x 3 surroundings inside the image."""
        height, width = x.shape[2:]
        padded = functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
        shifts = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return torch.stack(shifts).amax(0)

    def conv_bn_relu(self, x: Tensor, name: str) -> Tensor:
        weight = self.weights[f"{name}.0.weight"]
        x = functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        mean, variance = self.weights[f"{name}.1.running_mean"], self.weights[f"{name}.1.running_var"]
        if self.training:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        scale = self.weights[f"{name}.1.weight"] / torch.sqrt(variance + 1e-5)
        shift = self.weights[f"{name}.1.bias"] - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
@pytest.mark.parametrize(("channels", "stacks", "cells", "side"), SHAPES)
def test_networks_compute_what_the_paper_describes(
    channels: int, stacks: int, cells: int, side: int, training: bool
) -> None:
    space, io = NASBench101(channels=channels, stacks=stacks, cells=cells), IO.image(2, side, 4)
    small = [space.parse(code) for code in ("000001:", "000043:m", "000041:3")]
    for number, member in enumerate([*small, *random.Random(4).sample(samples(60, seed=4), 12)]):
        network = space.build(member, io).double().train(training)
        fill(network, number)
        images = torch.randn(4, *io.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        expected = Reference(weights, member.code, (channels, stacks, cells), training=training)(images)
        with torch.no_grad():
            outputs: Tensor = network(images)
        assert (outputs - expected).abs().max().item() < 1e-10 * max(1.0, expected.abs().max().item()), member
