"""A network of the user with choices, as a space with transforms."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nasplat
from nasplat.architecture import IO
from nasplat.options import construct
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SearchSpace
from nasplat.search_spaces.transformed import TransformedSpace
from nasplat.testing import SEARCH_SPACE_CHECKS

NAME = "choices:Net"
IMAGES = IO.image(channels=3, side=8, outputs=5)
STAGES: dict[str, Any] = {"per": "stage", "filters": [2, 4], "stem": True}
"""The stem is one of two stages, so that it is rewritten too."""


@pytest.fixture
def adopted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The network of an example, known by its name as in a configuration."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "examples"))
    from choices import Net  # type: ignore[import-not-found]

    before = SEARCH_SPACES.adopted(NAME)
    SEARCH_SPACES.adopt(NAME, type(nasplat.space(model=Net)))
    yield
    SEARCH_SPACES.restore(NAME, before)
    del sys.modules["choices"]


def transformed(**transform: Any) -> TransformedSpace:
    made: SearchSpace = construct("space", SEARCH_SPACES.get(f"{NAME}+full_stack"), transform=transform)
    assert isinstance(made, TransformedSpace)
    return made


@pytest.mark.slow
@pytest.mark.sweep(12)
@pytest.mark.usefixtures("adopted")
@pytest.mark.filterwarnings("ignore:a gene should change the networks")  # few samples have a chosen layer
@pytest.mark.parametrize("check", SEARCH_SPACE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("transform", [{"filters": 2, "stem": True}, STAGES], ids=["network", "stage"])
def test_it_keeps_the_contract(transform: dict[str, Any], check: Callable[..., None]) -> None:
    check(transformed(**transform), IMAGES)


@pytest.mark.usefixtures("adopted")
def test_a_code_without_a_point_means_that_every_stage_is_plain() -> None:
    space = transformed(**STAGES)
    assert space.name.endswith("+full_stack") and space.known_as == f"{NAME}+full_stack"
    base = space.below.sample(np.random.default_rng(0))
    plain = space.parse(base.code)
    assert plain.code.partition(".") == (base.code, ".", "0" * len(space.stage_genes))
    assert space.base(plain) == base
    assert space.cost(plain, IMAGES).metrics() == space.below.cost(base, IMAGES).metrics()
    network, other = space.build(plain, IMAGES), space.below.build(base, IMAGES)
    assert str(network) == str(other)
