"""Progress shows the epochs of the trial in work."""

from pathlib import Path
from typing import Any

import pytest

import nasplat
from nasplat import curve
from nasplat.authoring.function import Function


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts beside the bar of a terminal, in their order."""
    texts: list[str] = []
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich takes standard error for a terminal
    monkeypatch.setattr(
        "nasplat.interface.progress._TerminalBar.update", lambda self, fraction, text: texts.append(text)
    )
    return texts


def search(benchmark: Function | str, folder: Path, **further: Any) -> None:
    """A random search on cells of NAS-Bench-201."""
    given: dict[str, Any] = {
        "space": "nasbench201",
        "benchmark": benchmark,
        "strategy": "random_search",
        "objectives": "accuracy:max",
    }
    nasplat.search(out=folder / "run", **given, **further)


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
    assert curve._LISTENER.get() is None
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
    function: Function, epochs: list[str], drawn: list[str], tmp_path: Path
) -> None:
    search(function, tmp_path, evaluations=1)
    assert [text.partition("  1 running (epoch ")[2].partition(")")[0] for text in drawn[1:-1]] == epochs
    assert drawn[0] == "0 done  1 running  0 failed", "before the first report"
    assert drawn[-1].startswith("1 done  0 running  0 failed"), "epochs of a trial end with it"


@pytest.mark.slow
def test_the_epochs_of_a_training_are_shown(drawn: list[str], tmp_path: Path) -> None:
    options = {"benchmark.epochs": 2, "space.channels": 2, "space.cells": 1}
    search("classification", tmp_path, evaluations=1, options=options)
    assert [text for text in drawn if "epoch" in text] == [
        f"0 done  1 running (epoch {epoch} of 2)  0 failed" for epoch in (1, 2, 2)
    ]


def test_nobody_listens_where_nothing_is_shown(tmp_path: Path) -> None:
    search(unheard, tmp_path, evaluations=1)


def test_a_listener_is_told_in_its_context_alone() -> None:
    told: list[tuple[int, int | None]] = []
    with curve.listening(lambda *each: told.append(each)):
        curve.reached(1, 8)
    curve.reached(2, 8)
    assert told == [(1, 8)]
