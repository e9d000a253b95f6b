"""The default graph of a space of genes: a chain, with what choices add to the smallest network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from torch import nn

import nasplat
from nasplat.architecture import IO, Architecture
from nasplat.cost import Cost
from nasplat.interface import checking
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import Gene, GeneSpace
from nasplat.testing import search_spaces as checks


def perceptron(width: int, depth: int, bias: bool, input_shape: Sequence[int], outputs: int) -> nn.Module:
    """A few linear layers; `bias` is of the first."""
    inputs = int(np.prod(input_shape))
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(inputs, width, bias=bias)]
    layers += [nn.Linear(width, width) for _ in range(depth - 1)]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


GENES: dict[str, Any] = {"width": (8, 16, 4), "depth": (1, 3), "bias": (False, True)}


def made(**more: Any) -> GeneSpace:
    return nasplat.space(GENES, perceptron, input_shape=(1, 4, 4), outputs=3, **more)


def test_a_choice_costs_what_it_adds_to_the_smallest_network() -> None:
    space = made()
    graphs = space.graphs([space.parse("111")])
    names = [operation.name for operation in graphs.operations]
    assert [names[kind] for kind in graphs.types[0]] == ["input", "width=16", "depth=3", "bias=True", "output"]
    # The smallest network has the width 4, the depth 1 and no bias: 16 · 4 weights, and 4 · 3 + 3 of the last layer.
    assert graphs.params[0].tolist() == [0, (16 * 16 + 16 * 3 + 3) - (16 * 4 + 4 * 3 + 3), 2 * (4 * 4 + 4), 4, 0]
    assert graphs.macs[0].tolist() == [0, (16 * 16 + 16 * 3) - (16 * 4 + 4 * 3), 2 * 4 * 4, 0, 0]
    assert space.graphs([space.parse("200")]).params.tolist() == [[0] * 5]


def test_genes_that_differ_in_numbers_and_nothing_else_share_their_types() -> None:
    class Stages(GeneSpace):
        """Two stages."""

        builds = False
        genes = (
            Gene("kernel 1", ("3", "5")),
            Gene("conv3 count", ("1", "2")),
            Gene("kernel 2", ("3", "5")),
            Gene("conv5 count", ("1", "3")),
            Gene("7", ("1", "2")),
            Gene("8", ("1", "2")),
        )

        def cost(self, architecture: Architecture, io: IO) -> Cost:
            return Cost(counted=False)

        def build(self, architecture: Architecture, io: IO) -> nn.Module:
            raise NotImplementedError

    space = Stages()
    graphs = space.graphs([space.parse("010101")])
    names = [operation.name for operation in graphs.operations]
    assert len(set(names)) == len(names)
    assert [names[kind] for kind in graphs.types[0, 1:-1]] == [
        "kernel=3",
        "conv3 count=2",
        "kernel=3",
        "conv5 count=3",
        "7=1",
        "8=2",
    ]


def test_no_more_networks_are_counted_than_twice_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    space, counted = made(), list[str]()
    count = GeneSpace._counted_cost

    def counting(self: GeneSpace, architecture: Architecture, io: IO, seed: int = 0) -> Cost:
        counted.append(architecture.code)
        return count(self, architecture, io, seed)

    monkeypatch.setattr(GeneSpace, "_counted_cost", counting)
    members = space.members()
    assert members is not None
    space.graphs(members)
    space.graphs(members)
    assert 0 < len(counted) == len(set(counted)) <= 2 * sum(map(len, GENES.values()))


def test_choices_that_are_not_allowed_beside_the_smallest_network_are_looked_at_elsewhere() -> None:
    space = made(allowed=lambda width, depth: depth == 1 or width == 8)
    graphs = space.graphs([space.parse("010")])
    # The width adds nothing known for 16 and 4 at depth 3, and depth 3 adds two layers of 8 · 8 + 8.
    assert graphs.params[0].tolist() == [0, (16 * 8 + 8 * 3 + 3) - (16 * 4 + 4 * 3 + 3), 2 * (8 * 8 + 8), 0, 0]
    checks.graphs_are_well_formed(space, space.reference_io)


def test_genes_without_an_effect_in_the_smallest_network_are_looked_at_elsewhere() -> None:
    space = made(active=lambda depth: ["depth"] if depth == 1 else ["width", "depth", "bias"])
    assert space.graphs([space.parse("110")]).params[0, 1] > 0


def test_choices_that_share_what_they_add_keep_the_contract() -> None:
    def shared(left: int, right: int, input_shape: Sequence[int], outputs: int) -> nn.Module:
        return perceptron(max(left, right), 1, False, input_shape, outputs)

    space = nasplat.space({"left": (4, 64), "right": (4, 64)}, shared, input_shape=(1, 4, 4), outputs=3)
    checks.graphs_are_well_formed(space, space.reference_io)


def test_costs_that_are_known_for_some_members_only_stop_nothing() -> None:
    class Held(GeneSpace):
        """Its costs are looked up."""

        builds = False
        genes = (Gene("left", ("a", "b")), Gene("right", ("c", "d")))

        def cost(self, architecture: Architecture, io: IO) -> Cost:
            return Cost(params={"00": 5, "11": 9}[architecture.code])

        def build(self, architecture: Architecture, io: IO) -> nn.Module:
            raise NotImplementedError

    space = Held()
    assert space.graphs([space.parse("00"), space.parse("11")]).params.tolist() == [[0] * 4] * 2


def test_parts_of_a_formula_with_the_name_of_a_gene_are_the_cost_of_its_node() -> None:
    class Formula(GeneSpace):
        """Its costs need no networks."""

        genes = (Gene("body", ("small", "large")), Gene("head", ("none", "one")))

        def cost(self, architecture: Architecture, io: IO) -> Cost:
            body, head = self.choices(architecture)
            return Cost.total(
                {"stem": Cost(params=5), "body": Cost(params=100 * (1 + body)), "tail": Cost(params=head)}
            )

        def build(self, architecture: Architecture, io: IO) -> nn.Module:
            raise NotImplementedError

    space = Formula()
    assert space.graphs([space.parse("11")]).params.tolist() == [[0, 200, 1, 0]]


def test_who_keeps_the_default_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for space, keeps in ((made(), True), (SEARCH_SPACES.get("nasbench201")(), False)):
        assert isinstance(space, GeneSpace)
        assert space.has_default_graph is keeps
        rules = [(checks.graphs_are_well_formed, (space, space.reference_io))]
        monkeypatch.setattr(checking, "_checks", lambda *_, rules=rules: rules)
        (found,) = nasplat.check(type(space), kind="space")
        assert found.result == "passed" and ("default chain" in found.message) is keeps
