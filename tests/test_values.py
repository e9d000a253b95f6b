"""Values of files and flags are read by the type of their option."""

from typing import Annotated, Any, Literal, Self

import numpy as np
import pytest
import yaml
from pydantic import AfterValidator, BaseModel, Field, model_validator

from nasplat.config import SearchConfig, yaml_value
from nasplat.errors import InputError
from nasplat.options import Options, complete, validated

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


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


def _even(value: int) -> int:
    if value % 2:
        raise AssertionError("must be even")  # as `assert` does, whose message pytest would replace
    return value


def _unsaid(value: int) -> int:
    if value:
        raise AssertionError
    return value


class Whole(BaseModel):
    """A model with a rule between its fields."""

    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must be at most high")
        return self


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
        several: set[int] = set(),  # noqa: B006  never called
        rates: frozenset[float] = frozenset(),
        pair: tuple[int, float] = (0, 0.0),
        by_number: dict[int, int] = {},  # noqa: B006  never called
        codes: set[str] = set(),  # noqa: B006  never called
        odd: Annotated[int, AfterValidator(_odd)] = 1,
        even: Annotated[int, AfterValidator(_even)] = 0,
        unsaid: Annotated[int, AfterValidator(_unsaid)] = 0,
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
        ("several=[2, 1]", [1, 2]),
        ("pair=[1, 2]", [1, 2.0]),
        ("by_number={'3': 4}", {"3": 4}),
        ("codes=['014']", ["014"]),
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
        ("several=[2, true]", "plugin.several.1"),
        ("rates=[true]", "plugin.rates.0"),
        ("pair=[true, 1]", "plugin.pair.0"),
        ("by_number={'3': true}", "plugin.by_number.3"),
    ],
)
def test_a_truth_value_is_no_number(text: str, place: str) -> None:
    with pytest.raises(InputError, match=f"^{place} must be a number, but got (true|false); give a number"):
        read(text)


@pytest.mark.parametrize("values", [{True}, frozenset([True]), (True,), [True]])
def test_a_truth_value_is_no_number_in_what_python_gives(values: Any) -> None:
    with pytest.raises(InputError, match=r"^plugin\.several\.0 must be a number, but got true; give a number$"):
        complete("plugin", Plugin, {"several": values})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"odd": 2}, "plugin.odd: must be odd"),
        ({"even": 3}, "plugin.even: must be even, but got 3"),
        ({"unsaid": 3}, "plugin.unsaid: the value is not valid, but got 3"),
    ],
)
def test_what_a_validator_says_is_told_without_words_of_pydantic(given: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as raised:
        complete("plugin", Plugin, given)
    assert str(raised.value) == message


def test_a_rule_between_fields_is_told_without_a_place() -> None:
    with pytest.raises(InputError, match=r"^low must be at most high$"):
        validated(Whole, {"low": 2})


def test_an_option_of_a_type_without_values_in_files_is_refused() -> None:
    class Odd:
        def __init__(self, *, table: np.ndarray[Any, Any]) -> None:
            raise NotImplementedError

    with pytest.raises(InputError, match=r"Odd cannot be read: .*ndarray.* is no type of options; use int, str, "):
        complete("plugin", Odd, {})


@pytest.mark.parametrize("text", ["name=1.10", "names=[a, 2.50]", "codes=[2.50]"])
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
