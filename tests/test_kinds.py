"""The kind of a run is part of its configuration: a retraining is no search, and its schedule no strategy."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import nasplat
from nasplat.architecture import Architecture
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.export.bundle import _found
from nasplat.interface.configuring import configured
from nasplat.registry import STRATEGIES, Registry
from nasplat.retraining import Retraining
from nasplat.run.source import Origin, Source
from nasplat.strategy import Strategy
from nasplat.task import Evaluate

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
REMEDY = "nasplat retrain RUN"

TREE: dict[str, Any] = {
    "space": {"name": "nasbench201", "channels": 2, "cells": 1},
    "benchmark": {"name": "zero_cost", "batch": 4},
    "objectives": ["synflow:max"],
    "budget": {"evaluations": 2},
}


def test_no_list_of_strategies_has_retraining(command: CommandLine) -> None:
    assert "retraining" not in STRATEGIES.names() and "retraining" not in command("list", "strategies").stdout
    done = command("list", "strategies", "retraining")
    assert (done.returncode, done.stdout) == (2, "") and REMEDY in done.stderr


@pytest.mark.parametrize("kept", [None, "a.yaml"])
@pytest.mark.parametrize("naming", [("--strategy", "retraining"), ("--set", "strategy.name=retraining")], ids=str)
def test_a_search_by_retraining_is_refused_with_the_command_to_use(
    naming: tuple[str, str], kept: str | None, command: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(TREE | {"kind": "retraining"}))
    given = [kept] if kept else ["--space", "nasbench201", "--benchmark", "zero_cost", "--objective", "synflow:max"]
    done = command("search", *given, *naming, "--out", "new")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert REMEDY in done.stderr and "kind: retraining" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "strategy",
    [
        "retraining",
        {"name": "retraining"},
        {"name": "asha", "base_strategy": "retraining"},
        Retraining,
        "nasplat.retraining:Retraining",
    ],
    ids=str,
)
def test_so_it_is_in_python(strategy: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {"space": "nasbench201", "benchmark": "zero_cost", "strategy": strategy}
    with pytest.raises(InputError, match=REMEDY):
        nasplat.search(**given, objectives="synflow:max", evaluations=2, out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_no_plugin_takes_the_name_that_earlier_runs_have() -> None:
    made: Registry[Strategy] = Registry("strategy", "nasplat.strategies", Strategy, elsewhere=STRATEGIES.elsewhere)  # type: ignore[type-abstract]
    with pytest.raises(InputError, match="reserved name 'retraining'"):
        made.register("retraining", "their.package:Retraining", "theirs")


def test_runs_of_earlier_versions_are_known_by_their_strategy() -> None:
    for strategy in ("retraining", {"name": "retraining", "seeds": 2}):
        config = SearchConfig.read({**TREE, "strategy": strategy})
        assert (config.kind, config.strategy_class) == ("retraining", Retraining)
        assert yaml.safe_load(config.to_yaml())["kind"] == "retraining"
        assert SearchConfig.read(yaml.safe_load(config.to_yaml())) == config
    assert SearchConfig.read({**TREE, "strategy": "nsga2"}).kind == "search"


def test_a_retraining_has_no_other_strategy() -> None:
    said = "a retraining has no strategy, but got nsga2; leave out strategy or kind"
    with pytest.raises(InputError, match=said):
        SearchConfig.read({**TREE, "kind": "retraining", "strategy": "nsga2"})
    with pytest.raises(InputError, match=r"kind.*'search' or 'retraining'"):
        SearchConfig.read({**TREE, "kind": "sleep", "strategy": "nsga2"})
    with pytest.raises(InputError, match=REMEDY):
        Assembly.of(SearchConfig.read({**TREE, "kind": "search", "strategy": "retraining"}))


def test_a_file_makes_a_retraining_of_any_codes_and_a_named_strategy_makes_it_a_search(tmp_path: Path) -> None:
    drawn, given = tmp_path / "drawn.yaml", tmp_path / "given.yaml"
    drawn.write_text(yaml.safe_dump(TREE | {"kind": "retraining"}))
    given.write_text(yaml.safe_dump(TREE | {"strategy": {"name": "retraining", "members": ["432110"]}}))
    for file, number in ((drawn, 5), (given, 1)):
        config = configured(file, plugins={})
        assert config.kind == "retraining"
        tasks = Assembly.of(config).strategy.ask(9)
        assert len({task.architecture for task in tasks if isinstance(task, Evaluate)}) == number
    named: list[dict[str, Any]] = [
        {"plugins": {"strategy": "random_search"}},
        {"plugins": {}, "assignments": [("strategy.name", "random_search")]},
    ]
    for each in named:
        searching = configured(drawn, **each)
        assert (searching.kind, searching.strategy.name) == ("search", "random_search")


@pytest.mark.slow
def test_the_kind_is_in_every_summary(command: CommandLine, tmp_path: Path) -> None:
    tree = {"space": "esrn/tiny", "benchmark": "super_resolution_table", "objectives": ["psnr_db:max"]}
    (tmp_path / "drawn.yaml").write_text(yaml.safe_dump(tree | {"kind": "retraining"}))
    (tmp_path / "searched.yaml").write_text(yaml.safe_dump(tree | {"budget": {"evaluations": 2}}))
    for kind, file in (("retraining", "drawn.yaml"), ("search", "searched.yaml")):
        done = command("search", file, "--out", kind, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["kind"] == kind
        assert json.loads(command("show", kind, "--json").stdout)["kind"] == kind
        assert nasplat.open_run(tmp_path / kind).kind == kind
    runs = json.loads(command("runs", ".", "--json").stdout)
    assert {each["run"]: each["kind"] for each in runs} == {"retraining": "retraining", "search": "search"}


def test_a_subclass_of_the_schedule_is_a_strategy_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on the kind of a run asks for the kind, and not for the class."""

    class Again(Retraining):
        """A strategy of others."""

    monkeypatch.setitem(STRATEGIES._adopted, "own:Again", Again)
    config = SearchConfig.read({**TREE, "strategy": {"name": "own:Again", "teacher": True}})
    assert config.kind == "search"
    assert type(Assembly.of(config).strategy) is Again
    retraining = SearchConfig.read({**TREE, "strategy": {"name": "retraining", "teacher": True}})
    with pytest.raises(InputError, match="the retraining uses a teacher, but"):
        Assembly.of(retraining)


def test_a_card_has_the_chosen_options_of_a_source_that_is_a_retraining() -> None:
    config = SearchConfig.read({**TREE, "strategy": {"name": "retraining", "seeds": 2}}).resolved()
    source = Source(
        run="found",
        strategy=config.strategy,
        space=config.space,
        benchmark=config.benchmark,
        objectives=config.objectives,
        evaluations=2,
        seed=0,
        members={"432110": Origin(trial=0, metrics={}, fidelity=1)},
    )
    run: Any = SimpleNamespace(config=config, source=source)
    measurement: Any = SimpleNamespace(
        architecture=Architecture("nasbench201", "432110"), task=SimpleNamespace(teacher=None, tuning=None)
    )
    assert _found(run, measurement)["search strategy"] == {"name": "retraining", "seeds": 2}
