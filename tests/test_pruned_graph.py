"""Pruned graphs, features and expressions agree with what enumerating all ways by hand gives."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from math import erf, exp, log, pi, sqrt
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from scipy.integrate import quad

from nasplat.encodings.features import ANGLES, POOLED, describe, names
from nasplat.encodings.pruned_graph import PrunedGraphs, roles
from nasplat.encodings.weisfeiler_lehman import NOTHING, Vocabulary, hashed
from nasplat.errors import InputError
from nasplat.graph import ABSENT, Graphs, Operation, Role
from nasplat.registry import SEARCH_SPACES
from nasplat.testing import ToySpace

OPERATIONS = (
    Operation("input", Role.INPUT),
    Operation("conv1", Role.CONVOLUTION),
    Operation("conv3", Role.CONVOLUTION, kernel=3),
    Operation("conv5", Role.CONVOLUTION, kernel=5),
    Operation("pool", Role.POOLING, kernel=3),
    Operation("skip", Role.IDENTITY),
    Operation("none", Role.ZERO),
    Operation("output", Role.OUTPUT),
)
LETTERS = "i135psno"
"""A letter for each; a dot is a place without a node."""
PLACES = 8

Edge: TypeAlias = tuple[int, int]
Way: TypeAlias = tuple[int, ...]


def drawn(letters: str, *edges: Edge, costs: NDArray[np.int64] | None = None) -> Graphs:
    """One graph, with a letter of `LETTERS` for each place."""
    types = np.array([[LETTERS.find(letter) for letter in letters]], dtype=np.int16)
    adjacency = np.zeros((1, len(letters), len(letters)), dtype=bool)
    for i, j in edges:
        adjacency[0, i, j] = True
    costs = np.zeros((2, 1, len(letters)), dtype=np.int64) if costs is None else costs * (types != ABSENT)
    return Graphs(OPERATIONS, types, adjacency, costs[0], costs[1])


def random_graph(rng: Generator) -> Graphs:
    """One or two inputs that nothing leads to, one or two outputs, anything between."""
    first, last = rng.integers(1, 3, size=2)
    inner = "".join(rng.choice(list("135pssn."), size=PLACES - first - last))
    letters = "i" * first + inner + "o" * last
    density = rng.uniform(0.2, 0.9)
    nodes = [place for place in range(PLACES) if letters[place] != "."]
    edges = [(i, j) for i in nodes for j in nodes if i < j and j >= first and rng.random() < density]
    return drawn(letters, *edges, costs=rng.integers(10**7, size=(2, 1, PLACES)))


RANDOM = Graphs.stack([random_graph(default_rng(seed)) for seed in range(120)])


@dataclass
class Slow:
    """What there is to know of one graph, by enumeration."""

    letters: str
    edges: list[Edge]

    @classmethod
    def of(cls, graphs: Graphs, row: int) -> "Slow":
        letters = "".join("." if kind == ABSENT else LETTERS[kind] for kind in graphs.types[row])
        found = [(i, j) for i in range(len(letters)) for j in range(len(letters)) if graphs.adjacency[row, i, j]]
        return cls(letters, found)

    def onward(self, way: Way) -> Iterator[Way]:
        """All ways that begin as the given one and meet no zero."""
        yield way
        for i, j in self.edges:
            if i == way[-1] and self.letters[j] != "n":
                yield from self.onward((*way, j))

    @cached_property
    def ways(self) -> list[Way]:
        """All from an input to an output, without their skips; a way that two chains of skips make is there twice."""
        starts = [place for place, letter in enumerate(self.letters) if letter == "i"]
        whole = [way for start in starts for way in self.onward((start,)) if self.letters[way[-1]] == "o"]
        return [tuple(place for place in way if self.letters[place] != "s") for way in whole]

    @cached_property
    def live(self) -> set[int]:
        return {place for way in self.ways for place in way}

    @cached_property
    def joined(self) -> Counter[Edge]:
        """How many ways over skips alone lead from a live node to another."""
        return Counter(
            (i, way[-1])
            for i in self.live
            for way in self.onward((i,))
            if len(way) > 1 and way[-1] in self.live and all(self.letters[place] == "s" for place in way[1:-1])
        )

    @cached_property
    def walks(self) -> list[tuple[float, Way]]:
        """Random walks from the outputs back to an input, with their chances."""
        ends = [place for place in self.live if self.letters[place] == "o"]
        return [walk for end in ends for walk in self.back((end,), 1 / len(ends))]

    def back(self, way: Way, chance: float) -> Iterator[tuple[float, Way]]:
        if self.letters[way[0]] == "i":
            yield chance, way
            return
        into = {i: times for (i, j), times in self.joined.items() if j == way[0]}
        for i, times in into.items():
            yield from self.back((i, *way), chance * times / sum(into.values()))

    def count(self, way: Way, kinds: str) -> int:
        return sum(self.letters[place] in kinds for place in way)

    def power_and_cosine(self, cosine: float) -> tuple[float, float]:
        """At the outputs together: signals as sums of independent ones of power 1, those of inputs and convolutions."""
        angle: dict[int, float] = {}  # of each independent signal
        made_of: dict[int, dict[int, float]] = {}
        for j in sorted(self.live):
            total: dict[int, float] = {}
            for (i, k), times in self.joined.items():
                for source, factor in made_of[i].items() if k == j else ():
                    total[source] = total.get(source, 0) + times * factor
            if self.letters[j] in "i135":
                common = sum(factor**2 * angle[source] for source, factor in total.items())
                power = sum(factor**2 for factor in total.values())
                angle[j] = cosine if self.letters[j] == "i" else after_convolution(common / power)
                made_of[j] = {j: 1}
            else:
                scale = POOLED if self.letters[j] == "p" else 1
                made_of[j] = {source: scale * factor for source, factor in total.items()}
        met = [part for j in self.live if self.letters[j] == "o" for part in made_of[j].items()]
        power = sum(factor**2 for _, factor in met)
        return power, sum(factor**2 * angle[source] for source, factor in met) / power if met else 0.0


@cache
def relu_product(cosine: float) -> float:
    """The mean product of the ReLUs of two standard normals with this correlation, by quadrature, over that of equals.

    Given the first, the second is normal, and the mean of its ReLU known.
    """
    rest = sqrt(max(1 - cosine**2, 0.0))

    def density(x: float) -> float:
        return exp(-(x**2) / 2) / sqrt(2 * pi)

    def weighted(u: float) -> float:
        mean = cosine * u
        second = mean * (1 + erf(mean / rest / sqrt(2))) / 2 + rest * density(mean / rest) if rest else mean
        return u * second * density(u)

    return 2 * float(quad(weighted, 0, 12)[0])


def after_convolution(cosine: float) -> float:
    return (relu_product(cosine) - relu_product(0)) / (1 - relu_product(0))


def featured(graphs: Graphs) -> dict[str, NDArray[np.float64]]:
    return dict(zip(names(graphs), describe(graphs).T, strict=True))


CONVOLUTIONS, WIDE, NARROW, POOLING, INNER = "135", "35", "1", "p", "135p"
REACH = {"3": 1, "5": 2, "p": 1}
KINDS = {"convolution": CONVOLUTIONS, "wide convolution": WIDE, "narrow convolution": NARROW, "pooling": POOLING}


# PrunedGraphs graphs ---------------------------------------------------------------------------------------------


def test_random_graphs_are_of_all_kinds() -> None:
    slow = [Slow.of(RANDOM, row) for row in range(len(RANDOM))]
    RANDOM.check()
    assert sum(not each.ways for each in slow) > 3, "too few graphs without any way"
    assert sum(len(each.ways) > 8 for each in slow) > 20, "too few graphs of many ways"
    assert sum(max(each.joined.values(), default=0) > 1 for each in slow) > 20, "too few ways over skips in parallel"


def test_live_nodes_and_contracted_edges_are_those_on_enumerated_ways() -> None:
    effective = PrunedGraphs.of(RANDOM)
    for row in range(len(RANDOM)):
        slow = Slow.of(RANDOM, row)
        assert set(np.flatnonzero(effective.live[row]).tolist()) == slow.live
        edges = {(int(i), int(j)): int(effective.edges[row, i, j]) for i, j in np.argwhere(effective.edges[row])}
        assert edges == dict(slow.joined)


def test_graphs_are_left_as_they_were() -> None:
    before = RANDOM.adjacency.copy()
    effective = PrunedGraphs.of(RANDOM)
    assert effective.graphs is RANDOM and np.array_equal(RANDOM.adjacency, before)


def test_roles_are_those_of_nodes_alone() -> None:
    graph = drawn("i3.po", (0, 1), (1, 3), (3, 4))
    for role, places in ((Role.CONVOLUTION, [1]), (Role.OUTPUT, [4]), (Role.OTHER, [])):
        assert np.flatnonzero(roles(graph, role)[0]).tolist() == places


# Features -----------------------------------------------------------------------------------------------------


def test_lengths_and_ways_are_those_of_enumerated_ways() -> None:
    found = featured(RANDOM)
    for row in range(len(RANDOM)):
        slow = Slow.of(RANDOM, row)

        def reach(way: Way, kinds: str, slow: Slow = slow) -> int:
            return sum(REACH.get(slow.letters[place], 0) for place in way if slow.letters[place] in kinds)

        measures: dict[str, list[int]] = {
            "nodes": [slow.count(way, INNER) for way in slow.ways],
            "convolutions": [slow.count(way, CONVOLUTIONS) for way in slow.ways],
            "pooling": [slow.count(way, POOLING) for way in slow.ways],
            "pixels seen": [reach(way, INNER) for way in slow.ways],
        }
        expected: dict[str, float] = {}
        for name, lengths in measures.items():
            expected[f"most {name} on a way"] = max(lengths, default=-1)
            expected[f"fewest {name} on a way"] = min(lengths, default=-1)
        by_convolutions = (reach(way, CONVOLUTIONS) for way in slow.ways)
        expected["most pixels seen by convolutions"] = max(by_convolutions, default=-1)
        expected["log ways"] = log(1 + len(slow.ways))
        bare = [way for way in slow.ways if not slow.count(way, CONVOLUTIONS)]
        expected["log ways without convolution"] = log(1 + len(bare))
        expected["direct ways"] = sum(len(way) == 2 for way in slow.ways)
        for name, kinds in {"convolutions": CONVOLUTIONS, "wide convolutions": WIDE, "pooling": POOLING}.items():
            met = sum(slow.count(way, kinds) for way in slow.ways)
            expected[f"{name} per way"] = met / max(len(slow.ways), 1)
        assert {name: found[name][row] for name in expected} == pytest.approx(expected)


def test_random_walks_meet_what_enumerated_ones_do() -> None:
    found = featured(RANDOM)
    for row in range(len(RANDOM)):
        slow = Slow.of(RANDOM, row)
        assert sum(chance for chance, _ in slow.walks) == pytest.approx(1 if slow.ways else 0)
        for name, kinds in KINDS.items():
            counts = [(chance, slow.count(way, kinds)) for chance, way in slow.walks]
            assert found[f"chance of no {name}"][row] == pytest.approx(sum(p for p, count in counts if not count))
            assert found[f"half to the number of {name}"][row] == pytest.approx(sum(p * 0.5**c for p, c in counts))
            if name != "narrow convolution":
                mean = sum(p * count for p, count in counts)
                variance = sum(p * (count - mean) ** 2 for p, count in counts)
                assert found[f"mean number of {name}"][row] == pytest.approx(mean, abs=1e-4)
                assert found[f"variance of the number of {name}"][row] == pytest.approx(variance, abs=1e-4)


def test_amounts_ends_and_places_are_what_is_counted() -> None:
    found = featured(RANDOM)
    for row in range(len(RANDOM)):
        slow, params, macs = Slow.of(RANDOM, row), RANDOM.params[row], RANDOM.macs[row]

        def nodes(kinds: str, slow: Slow = slow) -> list[int]:
            return [place for place in slow.live if slow.letters[place] in kinds]

        def pairs(sources: str, targets: str, slow: Slow = slow) -> int:
            return sum(slow.letters[i] in sources and slow.letters[j] in targets for i, j in slow.joined)

        everything, inner = "i135po", len(nodes(INNER))
        of = {OPERATIONS[LETTERS.index(letter)].name: len(nodes(letter)) for letter in INNER}
        expected: dict[str, float] = {f"{name} nodes": count for name, count in of.items()}
        expected |= {
            "nodes": inner,
            "edges": len(slow.joined),
            "edges, with multiplicity": sum(slow.joined.values()),
            "log params": log(sum(params[list(slow.live)]) + 1e4),
            "log macs": log(sum(macs[list(slow.live)]) + 1e6),
            "log macs of the largest node": log(max(macs[list(slow.live)], default=0) + 1e5),
            "log params beside convolutions": log(sum(params[nodes("ipo")]) + 1e4),
            "share of pooling": len(nodes("p")) / max(inner, 1),
            "nodes fed by an input": pairs("i", everything),
            "nodes that feed an output": pairs(everything, "o"),
        }
        for name in ("wide convolution", "narrow convolution", "pooling"):
            expected[f"log params in {name}"] = log(sum(params[nodes(KINDS[name])]) + 1e4)
            shares = []
            for end in nodes("o"):
                into = {i: times for (i, j), times in slow.joined.items() if j == end}
                shares += [n / sum(into.values()) for i, n in into.items() if slow.letters[i] in KINDS[name]]
            expected[f"share of {name} in outputs"] = sum(shares)
        for name in ("convolution", "pooling"):
            expected[f"input to {name}"] = pairs("i", KINDS[name])
            expected[f"{name} to output"] = pairs(KINDS[name], "o")
            for after in ("convolution", "pooling"):
                expected[f"{name} to {after}"] = pairs(KINDS[name], KINDS[after])
        before = {p: max(slow.count(w[: w.index(p) + 1], CONVOLUTIONS) for w in slow.ways if p in w) for p in slow.live}
        behind = {p: max(slow.count(w[w.index(p) :], CONVOLUTIONS) for w in slow.ways if p in w) for p in slow.live}
        weights = {"macs": {p: float(macs[p]) for p in slow.live}}
        for name in ("wide convolution", "narrow convolution", "pooling"):
            weights[name] = {p: 1.0 for p in nodes(KINDS[name])}
        for name, weight in weights.items():
            total = max(sum(weight.values()), 1)
            expected[f"depth of {name}"] = sum(before[p] * w for p, w in weight.items()) / total
            expected[f"height of {name}"] = sum(behind[p] * w for p, w in weight.items()) / total
        assert {name: found[name][row] for name in expected} == pytest.approx(expected)


def test_relu_product_is_known_at_right_angles() -> None:
    assert relu_product(0) == pytest.approx(1 / pi) and relu_product(1) == pytest.approx(1)


def spread(letters: str, *edges: Edge) -> tuple[float, list[float]]:
    """The power of a graph's output, and the cosine there for each of `ANGLES`."""
    found = featured(drawn(letters, *edges))
    return np.exp(found["log power at the output"][0]), [found[f"cosine at the output of {c:g}"][0] for c in ANGLES]


def test_signals_spread_as_closed_forms_say() -> None:
    one = [after_convolution(c) for c in ANGLES]
    two = [after_convolution(c) for c in one]
    mixed = [(c + after_convolution(c)) / 2 for c in ANGLES]
    fork = [(0, 1), (0, 2), (1, 3), (2, 3)]
    cases: list[tuple[tuple[Any, ...], float, Any]] = [
        (("isso", (0, 1), (1, 2), (2, 3)), 1, ANGLES),  # skips keep what they are given
        (("i3o", (0, 1), (1, 2)), 1, one),
        (("i3po", (0, 1), (1, 2), (2, 3)), POOLED**2, one),
        (("i35o", (0, 1), (1, 2), (2, 3)), 1, two),
        (("isso", *fork), 4, ANGLES),  # twice the same
        (("i33o", *fork), 2, one),  # two that have nothing to do with each other
        (("i3so", *fork), 2, mixed),
        (("i3pso", (0, 1), (1, 2), (1, 3), (2, 4), (3, 4)), (1 + POOLED) ** 2, one),  # agreeing, but for the shrinking
        (("i3s1o", (0, 1), (0, 2), (1, 3), (2, 3), (3, 4)), 1, [after_convolution(c) for c in mixed]),
    ]
    for graph, power, cosines in cases:
        found = spread(*graph)
        assert found[0] == pytest.approx(power) and found[1] == pytest.approx(cosines, abs=1e-7), graph


def test_signals_spread_as_sums_of_independent_ones() -> None:
    found = featured(RANDOM)
    for row in range(60):
        slow = Slow.of(RANDOM, row)
        for cosine in ANGLES:
            power, expected = slow.power_and_cosine(cosine)
            assert np.exp(found["log power at the output"][row]) == pytest.approx(max(power, 1e-2))
            assert found[f"cosine at the output of {cosine:g}"][row] == pytest.approx(expected, abs=1e-6)


def test_graphs_that_carry_nothing_are_described() -> None:
    nothing = Graphs.stack([drawn("ino", (0, 1), (1, 2)), drawn("i.o"), drawn("i3o", (0, 1))])
    values = describe(nothing)
    assert np.isfinite(values).all() and (values == values[0]).all()
    found = featured(nothing)
    assert found["nodes"][0] == 0 and found["most nodes on a way"][0] == -1


def test_no_graphs_have_no_features() -> None:
    assert describe(RANDOM[:0]).shape == (0, len(names(RANDOM)))


def test_features_do_not_depend_on_company(monkeypatch: pytest.MonkeyPatch) -> None:
    together = describe(RANDOM)
    monkeypatch.setattr("nasplat.encodings.features.CHUNK", 7)
    np.testing.assert_allclose(describe(RANDOM), together)


# Expressions --------------------------------------------------------------------------------------------------


def spelled(slow: Slow, place: int, *, depth: int, back: bool = True) -> str:
    """What a node computes from what is up to `depth` nodes before it, as text; or, onward, what becomes of it."""
    terms = [
        (i if back else j, times) for (i, j), times in slow.joined.items() if depth and (j if back else i) == place
    ]
    inner = sorted(t for p, times in terms for t in [spelled(slow, p, depth=depth - 1, back=back)] * times)
    return f"{slow.letters[place]}({','.join(inner)})"


def test_hashes_are_equal_where_expressions_are() -> None:
    hashes = hashed(PrunedGraphs.of(RANDOM))
    for kind, (depth, back) in enumerate([(PLACES, True), (PLACES, False), (1, True), (2, True)]):
        seen = set()
        for row in range(len(RANDOM)):
            slow = Slow.of(RANDOM, row)
            assert {int(p) for p in np.flatnonzero(hashes[row, :, kind] != NOTHING)} == slow.live
            seen |= {(spelled(slow, p, depth=depth, back=back), int(hashes[row, p, kind])) for p in slow.live}
        texts, numbers = {text for text, _ in seen}, {number for _, number in seen}
        assert len(texts) == len(numbers) == len(seen) > 30


def renumbered(graphs: Graphs, rng: Generator) -> Graphs:
    """One graph with its places in another order in which every edge leads to a higher number."""
    adjacency, order = graphs.adjacency[0], list[int]()
    while len(order) < len(adjacency):
        left = [p for p in range(len(adjacency)) if p not in order]
        free = [p for p in left if not adjacency[left, p].any()]
        order.append(int(rng.choice(free)))
    new = np.array(order)
    types, params, macs = graphs.types[:, new], graphs.params[:, new], graphs.macs[:, new]
    return Graphs(graphs.operations, types, graphs.adjacency[:, new][:, :, new], params, macs)


def assert_same_but_for_order(first: Graphs, second: Graphs) -> None:
    second.check()
    np.testing.assert_allclose(describe(first), describe(second), rtol=1e-9, atol=1e-8)
    mine, theirs = (np.sort(hashed(PrunedGraphs.of(each)), axis=1) for each in (first, second))
    assert np.array_equal(mine, theirs)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1))
def test_numbering_makes_no_difference(seed: int) -> None:
    rng = default_rng(seed)
    graph = random_graph(rng)
    assert_same_but_for_order(graph, renumbered(graph, rng))


@pytest.mark.slow
def test_numbering_of_nasbench101_cells_makes_no_difference() -> None:
    space, rng = SEARCH_SPACES.get("nasbench101")(), default_rng(0)
    moved = 0
    for _ in range(40):
        graph = space.graphs([space.sample(rng)])
        other = renumbered(graph, rng)
        assert_same_but_for_order(graph, other)
        moved += not np.array_equal(graph.adjacency, other.adjacency)
    assert moved > 10


@pytest.mark.slow
def test_nasbench201_has_as_many_effective_graphs_as_are_known() -> None:
    space = SEARCH_SPACES.get("nasbench201")()
    graphs = space.graphs([space.parse("".join(code)) for code in product("01234", repeat=6)])
    hashes = np.sort(hashed(PrunedGraphs.of(graphs))[:, :, 0], axis=1)
    _, first, which = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    assert len(first) == 5425
    features = describe(graphs)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features, features[first][which.ravel()], rtol=1e-9, atol=1e-8)


def test_vocabularies_count_what_they_know() -> None:
    hashes = hashed(PrunedGraphs.of(RANDOM))
    known = hashes[:40]
    vocabulary = Vocabulary.of(known)
    table = vocabulary.counted(hashes).toarray()
    for row, of_graph in enumerate(hashes):
        expected: list[int] = []
        for kind in range(4):
            words = sorted({NOTHING, *known[:, :, kind].ravel()})
            counts = Counter(each for each in of_graph[:, kind] if each != NOTHING)
            expected += [counts[word] for word in words]
        size = sum(count**2 for count in expected)
        np.testing.assert_allclose(table[row], np.array(expected) / (1 + size) ** 0.5)
        assert np.linalg.norm(table[row]) < 1
    assert (table[:40].any(axis=1) == (known != NOTHING).any(axis=(1, 2))).all()


def test_unknown_expressions_are_ignored() -> None:
    learnt = hashed(PrunedGraphs.of(drawn("i1o", (0, 1), (1, 2))))
    strange = hashed(PrunedGraphs.of(drawn("ip.", (0, 1))))  # nothing at all
    other = hashed(PrunedGraphs.of(drawn("ipo", (0, 1), (1, 2))))
    vocabulary = Vocabulary.of(learnt)
    assert not vocabulary.counted(strange).nnz
    shared = vocabulary.counted(other).toarray()[0]
    assert 0 < shared.sum() < vocabulary.counted(learnt).toarray()[0].sum()  # both begin with an input
    empty = Vocabulary.of(strange)
    assert empty.counted(learnt).shape == (1, 4) and not empty.counted(learnt).nnz


# Graphs -------------------------------------------------------------------------------------------------------


def altered(**fields: Any) -> Graphs:
    return replace(drawn("i3.o", (0, 1), (1, 3)), **fields)


@pytest.mark.parametrize(
    ("said", "graphs"),
    [
        ("adjacency of 1 graphs of 4 nodes", altered(adjacency=np.zeros((1, 3, 3), dtype=bool))),
        ("macs of 1 graphs of 4 nodes", altered(macs=np.zeros((2, 4), dtype=np.int64))),
        ("a type is -1 to 7", altered(types=np.array([[0, 8, -1, 7]], dtype=np.int16))),
        ("a type is -1 to 7", altered(types=np.array([[0, -2, -1, 7]], dtype=np.int16))),
        ("leads to a higher number", altered(adjacency=np.eye(4, k=-1, dtype=bool)[None])),
        ("leads to a higher number", altered(adjacency=np.eye(4, dtype=bool)[None])),
        ("an edge joins two nodes", drawn("i3.o", (1, 2))),
        ("an edge joins two nodes", drawn("i3.o", (2, 3))),
        ("is not negative", altered(params=np.array([[0, -1, 0, 0]]))),
        ("is not negative", altered(macs=np.array([[0, -1, 0, 0]]))),
        ("places without a node cost nothing", altered(params=np.array([[0, 0, 1, 0]]))),
        ("places without a node cost nothing", altered(macs=np.array([[0, 0, 1, 0]]))),
    ],
)
def test_what_is_no_graph_is_refused(said: str, graphs: Graphs) -> None:
    altered().check()
    with pytest.raises(InputError, match=said):
        graphs.check()


@pytest.mark.parametrize("space", [SEARCH_SPACES.get("darts")(), ToySpace()], ids=["darts", "toy"])
def test_graphs_of_spaces_are_well_formed_and_described(space: Any) -> None:
    rng = default_rng(3)
    graphs = space.graphs([space.sample(rng) for _ in range(10)])
    graphs.check()
    assert np.isfinite(describe(graphs)).all() and PrunedGraphs.of(graphs).live.any(axis=1).all()


def test_stacked_graphs_are_the_parts_in_order() -> None:
    for again in (Graphs.stack([RANDOM[:3], RANDOM[3:]]), RANDOM[np.arange(len(RANDOM))]):
        assert len(again) == len(RANDOM)
        for name in ("types", "adjacency", "params", "macs"):
            assert np.array_equal(getattr(again, name), getattr(RANDOM, name))
    picked = RANDOM[np.array([5, 2])]
    assert np.array_equal(picked.types, RANDOM.types[[5, 2]]) and np.array_equal(picked.macs, RANDOM.macs[[5, 2]])


@pytest.mark.parametrize(
    ("said", "graphs"),
    [
        ("got none", []),
        ("different operations or sizes", [drawn("io"), drawn("i.o")]),
        ("different operations or sizes", [drawn("io"), replace(drawn("io"), operations=OPERATIONS[:-1])]),
    ],
)
def test_what_cannot_be_stacked_is_refused(said: str, graphs: list[Graphs]) -> None:
    with pytest.raises(InputError, match=said):
        Graphs.stack(graphs)
