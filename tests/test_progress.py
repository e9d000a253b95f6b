"""Progress shows the epochs of the trial in work, and never disturbs it."""

from pathlib import Path
from typing import Any

import pytest

import nasplat
from nasplat import curve
from nasplat.authoring.function import Function


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """The fractions and texts of the bar of a terminal, in their order."""
    updates: list[tuple[float, str]] = []

    def update(self: object, fraction: float, text: str, *, at_once: bool) -> None:
        updates.append((fraction, text))

    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich takes standard error for a terminal
    monkeypatch.setattr("nasplat.interface.progress._TerminalBar.update", update)
    return updates


def search(benchmark: Function | str, folder: Path, **further: Any) -> nasplat.Run:
    """A random search on cells of NAS-Bench-201."""
    given: dict[str, Any] = {
        "space": "nasbench201",
        "benchmark": benchmark,
        "strategy": "random_search",
        "objectives": "accuracy:max",
    }
    return nasplat.search(out=folder / "run", **given, **further)


def from_zero(choices: object, *, epochs: int = 3, report: nasplat.Reporter) -> dict[str, float]:
    """Report as `range` counts."""
    for epoch in range(epochs):
        report(epoch, {"accuracy": 0.5})
    return {"accuracy": 0.5}


def from_one(choices: object, *, epochs: int = 3, report: nasplat.Reporter) -> dict[str, float]:
    """Report the number of complete epochs."""
    for epoch in range(epochs):
        report(epoch + 1, {"accuracy": 0.5})
    return {"accuracy": 0.5}


def without_epochs(choices: object, *, report: nasplat.Reporter) -> dict[str, float]:
    """Report as many epochs as it likes."""
    return from_zero(choices, report=report)


def unheard(choices: object) -> dict[str, float]:
    """Fail if somebody listens."""
    assert curve._OF_TRIAL.get() is None
    return {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("function", "epochs"),
    [
        (from_zero, ["2 of 3", "3 of 3", "3 of 3"]),
        (from_one, ["2 of 3", "3 of 3", "3 of 3"]),
        (without_epochs, ["2", "3", "4"]),
    ],
)
def test_the_epochs_that_a_function_reports_are_shown(
    function: Function, epochs: list[str], drawn: list[tuple[float, str]], tmp_path: Path
) -> None:
    search(function, tmp_path, evaluations=1)
    texts = [text for _, text in drawn]
    assert [text.partition("  1 running (epoch ")[2].partition(")")[0] for text in texts[1:-1]] == epochs
    assert texts[0] == "0 done  1 running  0 failed", "before the first report"
    assert texts[-1].startswith("1 done  0 running  0 failed"), "epochs of a trial end with it"


def test_the_bar_moves_with_the_epochs_of_an_evaluation(drawn: list[tuple[float, str]], tmp_path: Path) -> None:
    search(from_zero, tmp_path, evaluations=2)
    fractions = [fraction for fraction, _ in drawn]
    assert sorted({round(6 * fraction, 9) for fraction in fractions}) == list(range(7))
    assert fractions == sorted(fractions)


def test_the_bar_is_not_moved_by_epochs_whose_number_is_unknown(drawn: list[tuple[float, str]], tmp_path: Path) -> None:
    search(without_epochs, tmp_path, evaluations=2)
    assert {fraction for fraction, _ in drawn} == {0.0, 0.5, 1.0}


def test_a_display_that_fails_is_no_failure_of_a_trial(
    drawn: list[tuple[float, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, fraction: float, text: str, *, at_once: bool) -> None:
        drawn.append((fraction, text))
        if "epoch" in text:
            raise ValueError(text)

    monkeypatch.setattr("nasplat.interface.progress._TerminalBar.update", broken)
    run = search(from_zero, tmp_path, evaluations=2)
    assert sum("epoch" in text for _, text in drawn) == 6
    assert [type(trial) for trial in run.trials()] == [nasplat.Measurement] * 2


def test_no_code_of_the_strategy_runs_within_a_trial(
    drawn: list[tuple[float, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(strategy: object) -> None:
        assert curve._OF_TRIAL.get() is None

    monkeypatch.setattr("nasplat.strategies.random_search.RandomSearch.progress", property(progress), raising=False)
    run = search(from_zero, tmp_path, evaluations=1)
    assert sum("epoch" in text for _, text in drawn) == 3
    assert [type(trial) for trial in run.trials()] == [nasplat.Measurement]


@pytest.mark.slow
def test_the_epochs_of_a_training_are_shown(drawn: list[tuple[float, str]], tmp_path: Path) -> None:
    options = {"benchmark.epochs": 2, "space.channels": 2, "space.cells": 1}
    search("classification", tmp_path, evaluations=1, options=options)
    assert [(fraction, text) for fraction, text in drawn if "epoch" in text] == [
        (fraction, f"0 done  1 running (epoch {epoch} of 2)  0 failed")
        for fraction, epoch in ((0, 1), (0.5, 2), (1, 2))
    ]


def test_nobody_listens_where_nothing_is_shown(tmp_path: Path) -> None:
    search(unheard, tmp_path, evaluations=1)


def test_a_listener_is_told_of_the_trial_alone_and_not_of_trials_in_it() -> None:
    told: list[tuple[str, int]] = []

    def listener(name: str) -> curve.Listener:
        return lambda epoch, epochs: told.append((name, epoch))

    with curve.listening(listener("outer")):
        curve.reached(1, 8)  # as a strategy that trains a predictor
        with curve.trial():
            curve.reached(2, 8)
            with curve.trial():  # as a benchmark that searches
                curve.reached(3, 8)
            with curve.listening(listener("inner")), curve.trial():
                curve.reached(4, 8)
            curve.reached(5, 8)
    with curve.trial():
        curve.reached(6, 8)
    assert told == [("outer", 2), ("inner", 4), ("outer", 5)]


def test_an_exception_of_a_listener_stays_within() -> None:
    def broken(epoch: int, epochs: int | None) -> None:
        raise ValueError(epoch)

    with curve.listening(broken), curve.trial():
        curve.reached(1, 8)
