"""Ask and tell: searches whose networks the caller measures."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nasplat
from nasplat.task import Evaluate

Command = Callable[..., subprocess.CompletedProcess[str]]
SPACE = {"name": "nasbench201", "channels": 2, "cells": 1}
GIVEN: dict[str, Any] = {"space": SPACE, "objectives": ["accuracy:max", "params:min"], "evaluations": 12}


def accuracy(trial: Evaluate) -> float:
    return sum(map(int, trial.architecture.code)) / 30


def searched(search: nasplat.AskTell, number: int = 99) -> list[str]:
    codes: list[str] = []
    while len(codes) < number and (trial := search.ask()) is not None:
        search.tell(trial, {"accuracy": accuracy(trial)})
        codes.append(trial.architecture.code)
    return codes


@pytest.mark.parametrize("strategy", ["random_search", "nsga2", "regularized_evolution"])
def test_a_search_is_asked_told_and_a_run_as_any_other(tmp_path: Path, strategy: str) -> None:
    with nasplat.AskTell(**GIVEN, strategy=strategy, seed=3, out=tmp_path / "run") as search:
        codes = searched(search)
        assert search.ask() is None and search.run.status == "finished"
    assert len(codes) == len(search.run.trials()) == 12
    best = max(search.run.front(), key=lambda m: m.metrics["accuracy"])
    assert best.metrics["accuracy"] == max(accuracy(m.task) for m in search.run.pick("all"))
    assert best.metrics["params"] > 0
    with nasplat.AskTell(**GIVEN, strategy=strategy, seed=3, out=tmp_path / "again") as again:
        assert searched(again) == codes


def test_it_goes_on_where_it_was_left_and_asks_again_for_what_was_not_told(tmp_path: Path) -> None:
    with nasplat.AskTell(**GIVEN, strategy="nsga2", out=tmp_path / "whole") as search:
        whole = searched(search)
    with nasplat.AskTell(**GIVEN, strategy="nsga2", out=tmp_path / "run") as search:
        begun = searched(search, 5)
        lost = search.ask()
    assert search.run.status == "interrupted" and lost is not None
    with nasplat.AskTell.open(tmp_path / "run", evaluations=14) as search:
        rest = searched(search)
    assert rest[0] == lost.architecture.code and [*begun, *rest][:12] == whole and len(begun + rest) == 14


def test_several_are_asked_before_one_is_told_and_some_fail(tmp_path: Path) -> None:
    with nasplat.AskTell(**GIVEN, strategy="random_search", out=tmp_path / "run") as search:
        first, second = search.ask(), search.ask()
        assert first is not None and second is not None and first != second
        search.tell(second, {"accuracy": 0.5})
        search.tell(first, failure="the board did not answer")
        with pytest.raises(nasplat.InputError, match="not waiting"):
            search.tell(first, {"accuracy": 0.5})
        trial = search.ask()
        assert trial is not None
        for metrics, said in (
            (None, "give one"),
            ({"accuracy": "high"}, "accuracy is 'high'"),
            ({"accuracy": 93.0}, "fraction"),
            (0.5, "its metrics by name"),
            ({"loss": 0.5}, "accuracy is missing from loss.*failure=WHY"),
            ({"accuracy": float("nan")}, "accuracy is nan"),
        ):
            with pytest.raises(nasplat.InputError, match=said):
                search.tell(trial, metrics)  # type: ignore[arg-type]
        search.tell(trial, {"accuracy": 0.5})
    failures = [outcome for outcome in search.run.trials() if isinstance(outcome, nasplat.Failure)]
    assert [each.message for each in failures] == ["the board did not answer"]


def test_once_all_are_asked_for_there_is_no_next_and_the_last_outcome_ends_the_search(tmp_path: Path) -> None:
    with nasplat.AskTell(**GIVEN | {"evaluations": 3}, strategy="random_search", out=tmp_path / "run") as search:
        trials = [search.ask() for _ in range(3)]
        assert search.ask() is None
        for trial in trials:
            assert trial is not None and search.run.status == "running"
            search.tell(trial, {"accuracy": accuracy(trial)})
        assert search.run.status == "finished"
        assert search.ask() is None
    with nasplat.AskTell.open(tmp_path / "run") as search:
        pass
    assert search.run.status == "finished"


def test_a_strategy_that_waits_says_so(tmp_path: Path) -> None:
    with nasplat.AskTell(**GIVEN, strategy={"name": "nsga2", "population": 4}, out=tmp_path / "run") as search:
        for _ in range(4):
            assert search.ask() is not None
        with pytest.raises(
            nasplat.InputError, match="asks for no more before it is told an outcome; tell that of trial 0"
        ):
            search.ask()


def test_a_closed_search_says_so_and_a_smaller_budget_is_refused(tmp_path: Path) -> None:
    with nasplat.AskTell(**GIVEN, strategy="random_search", out=tmp_path / "run") as search:
        searched(search, 5)
        trial = search.ask()
    assert trial is not None
    for act in (search.ask, lambda: search.tell(trial, {"accuracy": 0.5})):
        with pytest.raises(nasplat.InputError, match=r"is closed; go on with nasplat\.AskTell\.open\('.*run'\)"):
            act()
    with pytest.raises(nasplat.InputError, match="spent 6 evaluations already, but the new budget is 2"):
        nasplat.AskTell.open(tmp_path / "run", evaluations=2)
    with nasplat.AskTell.open(tmp_path / "run", evaluations=6) as search:
        assert len(searched(search)) == 1


def test_what_the_caller_measures_is_not_measured_here(tmp_path: Path, command: Command) -> None:
    with nasplat.AskTell(**GIVEN, strategy="random_search", out=tmp_path / "run") as search:
        searched(search, 2)
    run = nasplat.open_run(tmp_path / "run")
    before = (tmp_path / "run" / "events.sqlite").read_bytes()
    for act, said in (
        (run.resume, r"cannot be resumed: .* go on with nasplat\.AskTell\.open\('.*run'\)"),
        (run.retrain, "cannot be retrained: .* name a benchmark that trains"),
        (run.test, "cannot be tested: "),
    ):
        with pytest.raises(nasplat.InputError, match=said):
            act()
    assert (tmp_path / "run" / "events.sqlite").read_bytes() == before and run.status == "interrupted"
    done = command("resume", "run", "--trust-run")
    assert done.returncode == 2 and "go on with nasplat.AskTell.open('run')" in done.stderr
    assert "nasplat.AskTell.open('run')" in command("show", "run").stdout


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(nasplat.InputError, match="supernet"):
        nasplat.AskTell(**GIVEN, strategy="cars", out=tmp_path / "run")
    with nasplat.AskTell(**GIVEN, strategy="random_search", out=tmp_path / "run") as search:
        with pytest.raises(nasplat.InputError, match=r"another process|written"):
            nasplat.AskTell.open(tmp_path / "run")
        assert search.ask() is not None
    with pytest.raises(nasplat.InputError, match="exists"):
        nasplat.AskTell(**GIVEN, strategy="random_search", out=tmp_path / "run")
    other: dict[str, Any] = {"space": SPACE, "benchmark": "zero_cost", "objectives": "synflow:max", "evaluations": 1}
    run = nasplat.search(**other, strategy="random_search", out=tmp_path / "other", progress=False)
    with pytest.raises(nasplat.InputError, match="no run of nasplat"):
        nasplat.AskTell.open(run.folder)
