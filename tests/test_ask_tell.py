"""Ask and tell: searches whose networks the caller measures."""

from pathlib import Path
from typing import Any

import pytest

import nasplat
from nasplat.task import Evaluate

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
        ):
            with pytest.raises(nasplat.InputError, match=said):
                search.tell(trial, metrics)  # type: ignore[arg-type]
        search.tell(trial, {"loss": 0.5})
    failures = [outcome for outcome in search.run.trials() if isinstance(outcome, nasplat.Failure)]
    assert failures[0].message == "the board did not answer"
    assert "accuracy is missing from loss" in failures[1].message


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
