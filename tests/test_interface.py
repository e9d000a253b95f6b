"""Searches and runs from Python: what the command line does, by the same code."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import nasplat
from nasplat.config import SearchConfig
from nasplat.interface import searching
from nasplat.interface.adoption import adopt
from nasplat.interface.configuring import configured
from nasplat.interface.running import Interrupted, Stopped
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.strategies.random_search import RandomSearch

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL: dict[str, Any] = {
    "space": {"name": "nasbench201", "channels": 1, "cells": 1},
    "benchmark": {"name": "classification", "epochs": 1, "data": {"subset": 60}, "recipe": {"batch_size": 32}},
    "strategy": "random_search",
    "objectives": ["accuracy:max", "params:min"],
    "evaluations": 3,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> nasplat.Run:
    return nasplat.search(**SMALL, out=tmp_path_factory.mktemp("runs") / "run", progress=False)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (
            ["--space", "nasbench201", "--benchmark", "zero_cost", "--objective", "synflow:max", "--evaluations", "9"],
            {"space": "nasbench201", "benchmark": "zero_cost", "objectives": "synflow:max", "evaluations": 9},
        ),
        (
            ["--space", "nasbench201", "--set", "space.channels=4", "--benchmark", "classification",
             "--strategy", "cars", "--set", "benchmark.recipe.ema=.9", "--objective", "accuracy:max",
             "--objective", "macs:min", "--seed", "3",
             "--constraint", "params<=9000", "--executor", "ray", "--workers", "2", "--trial-seconds", "60"],
            {"space": NASBench201(channels=4), "benchmark": {"name": "classification", "recipe": {"ema": 0.9}},
             "strategy": "cars", "objectives": ["accuracy:max", "macs:min"], "constraints": "params<=9000", "seed": 3,
             "executor": "ray", "workers": 2, "trial_seconds": 60},
        ),
        (
            ["--space", "ghost/small", "--benchmark", "classification", "--strategy", "random_search",
             "--objective", "loss:min", "--seconds", "5", "--images", "100"],
            {"space": "ghost/small", "benchmark": "classification", "strategy": RandomSearch,
             "objectives": ["loss:min"], "seconds": 5, "images": 100},
        ),
        (["file.yaml", "--evaluations", "7"], {"config": "file.yaml", "evaluations": 7}),
    ],
    ids=["defaults", "options", "objects", "file"],
)  # fmt: skip
def test_command_line_and_python_give_one_configuration(
    words: list[str], given: dict[str, Any], command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {**SMALL, "budget": {"evaluations": SMALL["evaluations"]}}
    del config["evaluations"]
    (tmp_path / "file.yaml").write_text(SearchConfig.read(config).to_yaml())
    seen: list[SearchConfig] = []

    def stop(config: SearchConfig, *_: object, **__: object) -> None:
        seen.append(config.resolved())
        raise nasplat.InputError("seen")

    monkeypatch.setattr(searching, "search", stop)
    assert "seen" in command("search", *words).stderr
    with pytest.raises(nasplat.InputError, match="seen"):
        nasplat.search(**given)
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_a_run_is_searched_resumed_tested_exported_and_loaded(finished: nasplat.Run, tmp_path: Path) -> None:
    run = finished
    assert run.status == "finished" and len(run.trials()) == 3
    assert run.best in run.front() and run.pick("best") == [run.best] == run.pick(run.best.id)
    assert run.resume(evaluations=4, progress=False) is run and len(run.trials()) == 4
    (final,) = run.test()
    assert final.split == "test" and final.architecture == run.best.architecture
    folder = run.export(out=tmp_path / "network", latency=False)
    network = nasplat.load(folder)
    with torch.no_grad():
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    several = run.export("front", out=tmp_path / "several", latency=False, format="source")
    assert {path.name for path in several.iterdir()} == {f"trial-{member.id}" for member in run.front()}
    assert "<svg" in run.report(tmp_path / "report.html").read_text()
    assert run.best.architecture.code in run._repr_html_() and "finished, 4 trials" in repr(run)
    assert nasplat.open_run(run.folder).front() == run.front()
    assert run.latency("best", threads=1)[run.best.id].median_ms > 0


@pytest.mark.slow
def test_networks_are_retrained_in_a_new_run(finished: nasplat.Run, tmp_path: Path) -> None:
    new = finished.retrain("best", epochs=2, out=tmp_path / "new", progress=False)
    assert new.config.strategy.name == "retraining" and new.best.task.fidelity == 2
    assert new.comparison is not None and len(new.comparison.members) == 1


@pytest.mark.slow
def test_a_predictor_is_fitted_to_runs_and_opened_again(finished: nasplat.Run, tmp_path: Path) -> None:
    fitted = nasplat.fit_predictor(finished, "random_forest", score="accuracy", out=tmp_path / "saved", folds=0)
    codes = [outcome.architecture.code for outcome in finished.front()]
    values = [each.value for each in fitted.estimate(codes)]
    assert all(0 <= value <= 1 for value in values)
    assert [each.value for each in nasplat.open_predictor(tmp_path / "saved").estimate(codes)] == values
    assert fitted.rank(codes)[0] == codes[values.index(max(values))]
    unsaved = nasplat.fit_predictor([finished.folder], "random_forest", score="accuracy", folds=0)
    assert [each.value for each in unsaved.estimate(codes)] == values


def test_what_is_missing_or_wrong_is_told_before_anything_is_created(tmp_path: Path) -> None:
    for given, said in (
        ({}, "a search needs space, benchmark, objectives"),
        (SMALL | {"space": 3}, "the space must be the name of a search space"),
        (SMALL | {"space": "nasbnech201"}, "did you mean 'nasbench201'"),
        (SMALL | {"benchmark": torch.nn.Linear}, "the benchmark must be"),
        (SMALL | {"strategy": lambda: 0}, "the strategy must be"),
        (SMALL | {"objectives": "accuracy"}, "accuracy"),
        (SMALL | {"options": {"benchmark.epcohs": 3}}, "epochs"),
        (SMALL | {"options": {"epochs": 3}}, "the name of an option is"),
        (SMALL | {"space": "absent_module:Space"}, "No module named 'absent_module'"),
    ):
        with pytest.raises(nasplat.InputError, match=said):
            nasplat.search(**given, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_is_given_twice_with_different_values_is_refused(
    tmp_path: Path, command: Command, finished: nasplat.Run
) -> None:
    zero_cost = {"name": "zero_cost", "dataset": "noise"}
    for given, said in (
        ({"options": {"budget.evaluations": 5}}, "budget.evaluations is given twice, as 3 and as 5; leave one out"),
        ({"executor": "inline", "options": {"executor.name": "ray"}}, "executor.name is given twice"),
        ({"executor": "ray", "ray_address": "auto", "options": {"executor.address": "local"}}, "executor.address is"),
        (
            {"options": {"benchmark.recipe.batch_size": 16}},
            "benchmark.recipe.batch_size is given twice, as 32 and as 16",
        ),
        ({"options": {"benchmark.batch_size": 16}}, "benchmark.recipe.batch_size is given twice"),  # its former name
        ({"benchmark": zero_cost, "options": {"benchmark.name": "classification"}}, "benchmark.name is given twice"),
    ):
        with pytest.raises(nasplat.InputError, match=said):
            nasplat.search(**SMALL | given, out=tmp_path / "run", progress=False)
    with pytest.raises(nasplat.InputError, match=r"benchmark.epochs is given twice, as 2 and as 3"):
        finished.retrain(epochs=2, options={"benchmark.epochs": 3}, out=tmp_path / "run", progress=False)
    words = ["search", "--space", "nasbench201", "--benchmark", "zero_cost", "--objective", "synflow:max"]
    done = command(*words, "--evaluations", "2", "--set", "budget.evaluations=5", "--out", "run")
    assert done.returncode == 2 and "budget.evaluations is given twice, as 2 and as 5" in done.stderr
    assert not (tmp_path / "run").exists()
    read = configured(
        plugins={section: SMALL[section] for section in ("space", "benchmark", "strategy")},
        objectives=SMALL["objectives"],
        budget={"evaluations": 3},
        assignments=[("budget.evaluations", 3), ("benchmark.recipe.batch_size", 32)],
    )
    assert read.budget.evaluations == 3


def test_a_module_that_searches_while_it_is_imported_is_told_so(tmp_path: Path, command: Command) -> None:
    (tmp_path / "eager.py").write_text(
        "import nasplat\n\ndef evaluate(network): ...\n\n"
        "nasplat.search(space='nasbench201', benchmark=evaluate, objectives='accuracy:max', evaluations=1)\n"
    )
    words = ["--space", "nasbench201", "--benchmark", "eager:evaluate", "--objective", "accuracy:max"]
    done = command("search", *words, "--evaluations", "1")
    assert done.returncode == 2 and "eager starts a search while it is imported" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_working_directory_is_searched_first_for_what_is_named_and_last_for_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    (tmp_path / "pytest_timeout.py").write_text("def evaluate(network): ...")  # an installed module has this name
    monkeypatch.delitem(sys.modules, "pytest_timeout", raising=False)
    before = list(sys.path)
    assert adopt("benchmark", "pytest_timeout:evaluate")[0] == "pytest_timeout:evaluate"
    assert sys.path == [*before, str(tmp_path)]


@pytest.mark.slow
def test_an_interrupted_search_says_how_to_go_on_and_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tells = RandomSearch.tell

    def interrupt(self: RandomSearch, outcome: nasplat.Outcome) -> None:
        tells(self, outcome)
        if outcome.id == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(RandomSearch, "tell", interrupt)
        with pytest.raises(Interrupted, match=r"nasplat\.open_run\('.*run'\)\.resume\(\)"):
            nasplat.search(**SMALL, out=tmp_path / "run", progress=False)
    run = nasplat.open_run(tmp_path / "run")
    assert run.status == "interrupted"
    assert len(run.resume(progress=False).trials()) == 3
    whole = nasplat.search(**SMALL, out=tmp_path / "whole", progress=False)
    assert [m.metrics for m in run.front()] == [m.metrics for m in whole.front()]


def swallow(network: torch.nn.Module, seed: int) -> dict[str, float]:
    """A training within a bare except, as people write it, which is interrupted."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except:  # noqa: E722
        return {"accuracy": 0.0}
    return {"accuracy": 0.5}


FUNCTION: dict[str, Any] = {
    "space": SMALL["space"],
    "benchmark": swallow,
    "strategy": "random_search",
    "objectives": "accuracy:max",
    "evaluations": 3,
}


def test_an_interruption_that_the_users_code_catches_ends_the_search_after_the_outcome(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"\.resume\(\)"):
        nasplat.search(**FUNCTION, out=tmp_path / "run", progress=False)
    run = nasplat.open_run(tmp_path / "run", benchmark=swallow)
    assert run.status == "interrupted" and len(run.trials()) == 1


def test_a_search_runs_in_any_thread(tmp_path: Path) -> None:
    given = FUNCTION | {"benchmark": lambda network: {"accuracy": 0.5}}
    with ThreadPoolExecutor() as pool:
        run = pool.submit(nasplat.search, **given, out=tmp_path / "run", progress=False).result()
    assert run.status == "finished" and len(run.trials()) == 3


def test_a_search_that_cannot_go_on_says_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise nasplat.errors.RunError("the workers are gone")

    monkeypatch.setattr("nasplat.driver.loop.Search.run", fail)
    with pytest.raises(Stopped, match=r"the workers are gone; go on with nasplat\.open_run"):
        nasplat.search(
            **SMALL | {"benchmark": "zero_cost", "objectives": "synflow:max"}, out=tmp_path / "run", progress=False
        )


def test_the_names_of_the_package_are_found_and_cheap() -> None:
    assert set(nasplat.__all__) <= set(dir(nasplat))
    assert all(getattr(nasplat, name) is not None for name in nasplat.__all__)
    code = "import nasplat, sys; nasplat.InputError; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


class Cell:
    """What IPython shows below a cell."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Cell":
        self.update(data, raw=raw)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        self.lines.append(data["text/plain"])


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """The cell of a notebook that this process takes itself to be."""
    cell, module = Cell(), ModuleType("IPython.display")
    monkeypatch.setattr(module, "display", cell.display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    return cell


def test_a_notebook_shows_the_first_epoch_of_a_trial_however_soon_it_begins(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(choices: object, *, epochs: int = 4, report: nasplat.Reporter) -> dict[str, float]:
        for epoch in range(epochs):
            report(epoch, {"accuracy": 0.5})
        return {"accuracy": 0.5}

    monkeypatch.setattr("nasplat.interface.progress.PER_SECOND", 1e-9)
    nasplat.search(
        **SMALL | {"benchmark": trained, "objectives": "accuracy:max", "evaluations": 2}, out=tmp_path / "run"
    )
    shown = [line.partition(" (")[2].partition(")")[0] for line in cell.lines]
    assert shown == ["", "", "epoch 2 of 4", "epoch 2 of 4", ""]  # all others come too soon after the one before


def test_a_notebook_shows_the_progress_in_one_line(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasplat.interface.progress.PER_SECOND", 1e9)
    nasplat.search(
        **SMALL | {"benchmark": "zero_cost", "objectives": "synflow:max", "evaluations": 3}, out=tmp_path / "run"
    )
    assert cell.lines[0] == "starting" and cell.lines[-1] == ""
    assert any("done" in line and "best synflow" in line and "%" in line for line in cell.lines)
