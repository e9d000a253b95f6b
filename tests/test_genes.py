"""Genes with many choices, and spaces in which not every combination of choices is a member."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import pytest
from numpy.random import default_rng

from nasplat.architecture import IO, Architecture
from nasplat.config import SearchConfig
from nasplat.errors import InputError
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import Gene, SearchSpace
from nasplat.testing import SEARCH_SPACE_CHECKS, ToySpace

MANY = tuple(f"S_{depth}_{growth}" for depth in range(1, 6) for growth in range(1, 11))
BLOCK = Gene("block", MANY, parts=("type", "depth", "growth"))


class Wide(ToySpace):
    """The toy with a gene of fifty choices that decides nothing, between its own."""

    name: ClassVar[str] = "wide"
    genes: ClassVar[tuple[Gene, ...]] = (*ToySpace.genes[:2], BLOCK, *ToySpace.genes[2:])

    def _widths(self, architecture: Architecture, io: IO) -> list[int]:
        narrow = [c for i, c in enumerate(self.choices(architecture)) if i != 2]
        return [16, *(int(ToySpace.genes[0].choices[choice]) for choice in narrow), io.outputs]


class Rising(ToySpace):
    """The toy whose layers never become narrower: 35 of 256."""

    name: ClassVar[str] = "rising"

    def violation(self, choices: Sequence[int]) -> str | None:
        return None if list(choices) == sorted(choices) else "becomes narrower"


UNSHARED = [check for check in SEARCH_SPACE_CHECKS if not check.__name__.startswith("supernet")]
"""The toy's supernet is not these spaces'."""


@pytest.mark.parametrize("check", UNSHARED, ids=lambda check: check.__name__)
@pytest.mark.parametrize("space", [Wide, Rising])
def test_such_spaces_keep_the_contract(space: type[ToySpace], check: Callable[[SearchSpace, IO], None]) -> None:
    check(space(), IO.image(channels=1, side=4, outputs=3))


def test_a_gene_of_many_choices_takes_two_symbols() -> None:
    space = Wide()
    architecture = space.member([3, 0, 41, 1, 2])
    assert architecture.code == "301512"
    assert space.choices(space.parse("301512")) == [3, 0, 41, 1, 2]
    assert BLOCK.symbols[0] == "00" and BLOCK.symbols[35:38] == ("0z", "10", "11")
    assert space.features(architecture).shape == (4 * 4 + 50,)


def test_a_stranger_in_two_symbols_is_named() -> None:
    with pytest.raises(
        InputError, match=r"gene 3 \(block\) of wide code '301e12' is '1e'; it must be one of 00 \(S_1_1\), 01"
    ):
        Wide().parse("301e12")


def test_the_prior_steers_a_gene_of_many_choices() -> None:
    space, rng = Wide(), default_rng(0)
    prior = [np.ones(len(gene.choices)) for gene in space.genes]
    prior[2] = np.zeros(50)
    prior[2][[7, 44]] = 1.0
    start = space.member([0, 0, 7, 0, 0])
    mutants = [space.choices(space.mutate(start, rng, prior)) for _ in range(200)]
    assert {choices[2] for choices in mutants} == {7, 44}


def test_names_of_choices_have_the_parts_of_their_gene() -> None:
    with pytest.raises(InputError, match="must be type_growth, but 'S_1_2' has 3 parts"):
        Gene("block", ("S_1", "S_1_2"), parts=("type", "growth"))


def test_what_the_space_refuses_is_refused_with_its_reason() -> None:
    with pytest.raises(InputError, match="rising code '1032' becomes narrower"):
        Rising().parse("1032")


def test_a_space_that_refuses_nearly_everything_ends_in_an_error() -> None:
    class Never(ToySpace):
        """Has no members."""

        def violation(self, choices: Sequence[int]) -> str | None:
            return "is none"

    space, rng = Never(), default_rng(0)
    architecture = space.member([0, 0, 0, 0])
    attempts: list[Callable[[], Architecture]] = [
        lambda: space.sample(rng),
        lambda: space.mutate(architecture, rng),
        lambda: space.crossover(architecture, architecture, rng),
    ]
    for attempt in attempts:
        with pytest.raises(InputError, match="no member of toy was found in 10,000 attempts"):
            attempt()
    assert space.neighbors(architecture) == []


def test_a_search_keeps_the_limits_of_its_space_unless_it_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SEARCH_SPACES.get("nasbench201"), "limits", ("params>=1000", "macs<=5e6"))
    tree = {
        "space": "nasbench201",
        "benchmark": "classification",
        "strategy": "random_search",
        "objectives": ["accuracy:max"],
        "constraints": ["macs<=1e6"],
    }
    resolved = SearchConfig.read(tree).resolved()
    assert resolved.constraints == ["macs<=1e6", "params>=1000"]
    assert resolved.resolved() == resolved


def test_spaces_are_for_classes_or_for_pictures() -> None:
    space = ToySpace()
    space.check_io(IO.image(1, 4, 3))
    with pytest.raises(
        InputError, match="networks of the search space toy classify images, but the data is for super-resolution"
    ):
        space.check_io(IO.upscaled(4, 4, 2))
    assert IO.upscaled(4, 6, 3).output_shape == (3, 12, 18) and IO.image(1, 4, 3).output_shape == (3,)


def test_genes_that_differ_in_numbers_have_equal_operations_for_equal_choices() -> None:
    space = ToySpace()
    graphs = space.graphs([space.member([0, 1, 1, 3])])
    named = [graphs.operations[number].name for number in graphs.types[0]]
    assert named == ["input", "width=2", "width=4", "width=4", "width=16", "output"]
