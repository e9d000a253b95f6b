"""Values of files and flags are read by the type of their option."""

from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from nasplat.config import SearchConfig, yaml_value
from nasplat.errors import InputError
from nasplat.options import Options, complete

TREE: dict[str, Any] = {
    "space": "nasbench201",
    "benchmark": "zero_cost",
    "strategy": "random_search",
    "objectives": ["synflow:max"],
}


class Group(Options):
    """A group.

    Args:
        rate: A rate.
    """

    rate: float = 0.5


class Plugin:
    """A plug-in."""

    def __init__(
        self,
        *,
        number: int = 1,
        rate: Annotated[float, Field(ge=0)] = 0.5,
        flag: bool = False,
        name: str = "",
        names: tuple[str, ...] = (),
        numbers: list[int] = [],  # noqa: B006  never called
        mode: Literal["no", "yes"] = "no",
        group: Group = Group(),  # noqa: B008  frozen
        either: bool | int = 0,
        anything: Any = None,
    ) -> None:
        raise NotImplementedError


def read(text: str) -> Any:
    """The value of one option."""
    name, _, value = text.partition("=")
    return complete("plugin", Plugin, {name: yaml_value(value)})[name]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("names=[014124, 432113]", ["014124", "432113"]),
        ("name=014124", "014124"),
        ("name=432113", "432113"),
        ("name=12:30", "12:30"),
        ("name=2026-11-29", "2026-11-29"),
        ("name=1_000", "1_000"),
        ("name=0x1f", "0x1f"),
        ("name=no", "no"),
        ("name=+5", "+5"),
        ("name=-0", "-0"),
        ("name=1.5e5", "1.5e5"),
        ("name=-.5", "-.5"),
        ("number=+5", 5),
        ("rate=1.5e5", 1.5e5),
        ("name='true'", "true"),
        ("mode=no", "no"),
        ("mode=yes", "yes"),
        ("flag=true", True),
        ("flag=yes", True),
        ("flag=off", False),
        ("number=12", 12),
        ("number=-3", -3),
        ("number=2.0", 2),
        ("rate=1e-5", 1e-5),
        ("rate=.5", 0.5),
        ("rate=2", 2.0),
        ("either=true", True),
        ("either=3", 3),
        ("anything=true", True),
        ("anything=null", None),
    ],
)
def test_a_value_is_what_its_option_takes(text: str, value: Any) -> None:
    found = read(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("number=true", "plugin.number"),
        ("rate=false", "plugin.rate"),
        ("numbers=[1, true]", "plugin.numbers.1"),
        ("group={rate: true}", "plugin.group.rate"),
    ],
)
def test_a_truth_value_is_no_number(text: str, place: str) -> None:
    with pytest.raises(InputError, match=f"^{place} must be a number, but got (true|false); give a number"):
        read(text)


@pytest.mark.parametrize("text", ["name=1.10", "names=[a, 2.50]"])
def test_a_number_whose_spelling_would_be_lost_is_no_text(text: str) -> None:
    with pytest.raises(InputError, match=r"must be a text, but got the number \d.\d; put it in quotes"):
        read(text)


def test_a_truth_value_is_no_budget_and_no_seed() -> None:
    for section in ({"seed": True}, {"budget": {"evaluations": True}}, {"executor": {"workers": True}}):
        with pytest.raises(InputError, match="must be a number, but got true; give a number"):
            SearchConfig.read({**TREE, **section})


def test_what_is_written_is_read_back() -> None:
    texts = ["014124", "1e5", "no", "12:30", "0x10", "1_0", "null", "~", "2026-1-1", "1.5e5", "-1.5e3", ".5e3", "-.5"]
    texts += ["+.5", "+5", "-0", "1.0", "1.0e+5", ".inf", "true", "<<", "="]
    config = SearchConfig.read({**TREE, "strategy": {"name": "retraining", "members": texts}})
    assert SearchConfig.read(yaml_value(config.to_yaml())) == config
    assert yaml_value(config.to_yaml()) == yaml.safe_load(config.to_yaml()), "an earlier version reads the same"
