"""A third party's package: installed, found through its entry points, held to the contracts, and used."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from nasplat_demo.benchmark import Formula
from nasplat_demo.predictor import Ridge
from nasplat_demo.space import Perceptron
from nasplat_demo.strategy import Generations

from nasplat import registry
from nasplat.errors import InputError
from nasplat.registry import STRATEGIES, Registry
from nasplat.strategy import Strategy
from nasplat.testing import BENCHMARK_CHECKS, PREDICTOR_CHECKS, SEARCH_SPACE_CHECKS, STRATEGY_CHECKS


def named(check: Callable[..., None]) -> str:
    """A check's name, as pytest shows it."""
    return check.__name__


@pytest.mark.parametrize("check", SEARCH_SPACE_CHECKS, ids=named)
def test_its_space_keeps_the_contract(check: Callable[..., None]) -> None:
    check(Perceptron(), Formula(Perceptron()).io)


@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
def test_its_strategy_keeps_the_contract(check: Callable[..., None]) -> None:
    check(Generations)


@pytest.mark.parametrize("check", PREDICTOR_CHECKS, ids=named)
def test_its_predictor_keeps_the_contract(check: Callable[..., None]) -> None:
    check(Ridge)


@pytest.mark.parametrize("check", BENCHMARK_CHECKS, ids=named)
def test_its_benchmark_keeps_the_contract(check: Callable[..., None]) -> None:
    check(lambda: Formula(Perceptron()))


def run(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `nasplat ARGUMENTS` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "nasplat", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_an_installed_package_is_listed_and_searched_with(installed: dict[str, str], tmp_path: Path) -> None:
    listed = json.loads(run(installed, tmp_path, "list", "--json").stdout)
    origins = {
        kind: [entry["name"] for entry in entries if entry["origin"] == "nasplat-demo"]
        for kind, entries in listed.items()
    }
    assert origins == {
        "search-spaces": ["demo_perceptron"],
        "strategies": ["demo_generations"],
        "predictors": ["demo_ridge"],
        "benchmarks": ["demo_formula", "demo_supernet"],
        "transforms": [],
        "datasets": [],
    }
    done = run(
        installed, tmp_path, "search", "--space", "demo_perceptron", "--benchmark", "demo_formula", "--strategy",
        "demo_generations", "--objective", "accuracy:max", "--evaluations", "24", "--set", "strategy.size=4",
        "--set", "space.factor=2", "--json", "--out", "found",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["evaluations"] == 24
    assert result["front"][0]["space"] == "demo_perceptron"
    assert "factor: 2" in (tmp_path / "found" / "config.yaml").read_text()


@pytest.mark.slow
def test_without_it_the_names_are_unknown(nasplat: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    listed = json.loads(nasplat("list", "--json").stdout)
    assert "demo_generations" not in [entry["name"] for entry in listed["strategies"]]


def entry(name: str, value: str) -> EntryPoint:
    """An entry point as a third party would declare it."""
    return EntryPoint(name, value, "nasplat.strategies")


def fresh(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> Registry[Strategy]:
    """A registry of strategies that discovers the given entry points beside one built-in."""
    monkeypatch.setattr(registry, "entry_points", lambda group: list(entries))
    made: Registry[Strategy] = Registry("strategy", "nasplat.strategies", Strategy)  # type: ignore[type-abstract]
    made.register("random_search", "nasplat.strategies.random_search:RandomSearch")
    return made


def test_two_plugins_of_one_name_are_refused_by_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh(monkeypatch, entry("random_search", "other.package:Search"))
    with pytest.raises(
        InputError, match=r"random_search.*nasplat\.strategies\.random_search:RandomSearch.*other\.package:Search"
    ):
        made.names()


def test_a_broken_plugin_harms_only_those_who_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh(monkeypatch, entry("broken", "no_such_package:Search"))
    assert made.names() == ["broken", "random_search"]
    assert made.get("random_search").__name__ == "RandomSearch"
    with pytest.raises(InputError, match=r"'broken' \(no_such_package:Search.*ModuleNotFoundError"):
        made.get("broken")


def test_a_plugin_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh(monkeypatch, entry("wrong", "nasplat_demo.space:Perceptron"))
    with pytest.raises(InputError, match=r"is not a subclass of nasplat\.strategy\.Strategy"):
        made.get("wrong")


def test_an_unknown_name_lists_near_matches() -> None:
    with pytest.raises(InputError, match="did you mean 'local_search'"):
        STRATEGIES.get("locale_search")
