"""Parts of long sweeps: the same for a text, all of them together the whole, and nothing left out with --whole."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def conftest(request: pytest.FixtureRequest) -> Any:
    """The module that chooses."""
    return request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))


def case(name: str, *counts: int, ray: bool = False) -> Any:
    """What pytest collects of a test, as far as the choice looks at it; the closest mark comes first."""
    marks = {"sweep": SimpleNamespace(args=counts)} if counts else {}
    return SimpleNamespace(nodeid=name, get_closest_marker=(marks | ({"ray": True} if ray else {})).get)


def kept(conftest: Any, items: list[Any], *, part: str = "abc", whole: bool = False) -> list[str]:
    """The names of the cases that remain, in their order."""
    left_out: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    config = SimpleNamespace(option=SimpleNamespace(part=part, whole=whole), hook=hook)
    names = {item.nodeid for item in items}
    conftest.pytest_collection_modifyitems(config, items)
    assert {item.nodeid for item in items} | {item.nodeid for item in left_out} == names
    return [item.nodeid for item in items]


def test_a_part_is_the_same_for_a_text_and_the_parts_together_are_the_whole(conftest: Any) -> None:
    cases = [f"a.py::sweep[{number}]" for number in range(20)]

    def part(text: str) -> list[str]:
        return kept(conftest, [case(name, 4) for name in cases], part=text)

    assert part("abc") == part("abc") != part("abd")
    assert all(
        len(part(str(text))) == 4 and part(str(text)) == sorted(part(str(text)), key=cases.index) for text in range(9)
    )
    assert {name for text in range(100) for name in part(str(text))} == set(cases)


def test_counts_are_of_their_own_and_other_tests_stay(conftest: Any) -> None:
    def items() -> list[Any]:
        large = [case(f"a.py::both[{number}]", 1) for number in range(5)]
        never = [case(f"a.py::both[{number}]", 0) for number in range(5, 8)]
        return [
            *large,
            *never,
            case("a.py::both[8]"),
            case("b.py::other"),
            case("b.py::few[0]", 3),
            case("b.py::few[1]", 3),
        ]

    names = kept(conftest, items())
    assert names[1:] == ["a.py::both[8]", "b.py::other", "b.py::few[0]", "b.py::few[1]"] and names[0] in {
        i.nodeid for i in items()[:5]
    }
    assert len(kept(conftest, items(), whole=True)) == len(items())
    assert kept(conftest, [case("a.py::both[6]", 0), case("b.py::other")]) == ["a.py::both[6]", "b.py::other"]


def test_what_starts_ray_comes_first(conftest: Any) -> None:
    assert kept(conftest, [case("a.py::one"), case("b.py::two", ray=True), case("c.py::three")]) == [
        "b.py::two", "a.py::one", "c.py::three",
    ]  # fmt: skip


def test_members_are_chosen_in_their_order(part: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    chosen = part(range(100), 7)
    assert chosen == part(range(100), 7) == sorted(chosen)
    assert len(chosen) == (100 if request.config.option.whole else 7)
    assert part(range(3), 7) == [0, 1, 2]
