"""The report is one page that stands alone, tells what the run found, and cannot be taken over by what it shows."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.errors import InputError
from nasplat.executors.executor import Executor
from nasplat.executors.inline import InlineExecutor
from nasplat.report import page
from nasplat.report.page import render, write_report
from nasplat.run.directory import RunDirectory
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Spent, Task
from nasplat.units import figure

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
LOADING = {"script", "link", "base", "iframe", "object", "embed", "img", "audio", "video", "source", "form"}
REFERENCES = {"href", "src", "srcset", "xlink:href", "data", "action", "formaction", "poster", "background"}


class Page(HTMLParser):
    """A strict reader of a page.

    Attributes:
        opened: How often each tag was opened.
        references: What attributes point to.
        ids: All ids with how often they are given.
        tables: The text of all cells: tables, rows, cells.
        styles: The content of all style sheets and style attributes.
        text: All that a reader sees.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: Counter[str] = Counter()
        self.references: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tables: list[list[list[str]]] = []
        self.styles = ""
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened[tag] += 1
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag}> acts: {name}={value}"
            if name in REFERENCES:
                self.references.append(value or "")
            elif name == "id":
                self.ids[value or ""] += 1
            elif name == "style":
                self.styles += value or ""
            self.references += re.findall(r"url\(\s*['\"]?([^)'\"]*)", value or "")
        match tag:
            case "table":
                self.tables.append([])
            case "tr":
                self.tables[-1].append([])
            case "td" | "th":
                self.tables[-1][-1].append("")

    def handle_decl(self, decl: str) -> None:
        assert decl.lower() == "doctype html", decl
        assert not self._open

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"HTML has no <?{data}>")

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another tag, at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.styles += data
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data


def check_stands_alone(html: str) -> Page:
    """Read a page, and refuse one that loads or runs anything."""
    assert html.startswith("<!doctype html>")
    page = Page(html)
    assert not LOADING & set(page.opened)
    assert "@import" not in page.styles
    page.references += re.findall(r"url\(\s*['\"]?([^)'\"]*)", page.styles)
    for reference in page.references:
        if not reference.startswith("data:image/png;base64,"):
            assert reference.startswith("#"), reference
            assert page.ids[reference[1:]] == 1, f"{reference} names {page.ids[reference[1:]]} elements"
    return page


Answer = Callable[[Evaluate], Outcome]


class Scripted(Executor):
    """Answers every task as a function says, without any work."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._queue: deque[Task] = deque()

    @property
    def capacity(self) -> int:
        return 1

    def submit(self, task: Task) -> None:
        self._queue.append(task)

    def wait(self, timeout: float) -> list[Outcome]:
        task = self._queue.popleft()
        assert isinstance(task, Evaluate)
        return [self._answer(task)]

    def close(self) -> None:
        self._queue.clear()


def accuracy_of(task: Evaluate) -> float:
    """A made-up accuracy that rises with the number of convolutions, but not always."""
    return round(0.5 + 0.05 * sum(task.architecture.code.count(digit) for digit in "23") + task.id % 7 / 100, 4)


def measure(task: Evaluate) -> Measurement:
    metrics = {"accuracy": accuracy_of(task), "loss": 1 - accuracy_of(task)}
    return Measurement(task=task, metrics=metrics, spent=Spent(seconds=0.25, images=64, device="cpu"))


def searched(folder: Path, answer: Answer = measure, *, evaluations: int = 12, **changes: Any) -> RunDirectory:
    """A finished run with scripted outcomes."""
    tree: dict[str, Any] = {
        "space": "nasbench201",
        "benchmark": "classification",
        "strategy": "random_search",
        "objectives": ["accuracy:max", "params:min"],
        "budget": {"evaluations": evaluations},
    }
    assembly = Assembly.of(SearchConfig.read(tree | changes))
    run = RunDirectory.create(folder, assembly.config)
    with run.writing() as log, Scripted(answer) as executor:
        Search(assembly.problem, assembly.strategy, executor, log, assembly.budget).run()
    return run


def page_of(run: RunDirectory) -> Page:
    return check_stands_alone(render(run, run.history()))


# What it shows


@pytest.mark.slow
def test_the_report_is_one_file_that_shows_every_front_member(tmp_path: Path) -> None:
    run = searched(tmp_path / "my-run")
    write_report(run, tmp_path / "report.html")
    page = check_stands_alone((tmp_path / "report.html").read_text(encoding="utf-8"))
    front = run.history().front
    assert 1 < len(front) < 12
    assert page.tables == [
        [["trial", "architecture", "accuracy", "params", "macs"]]
        + [
            [str(member.id), member.architecture.code]
            + [figure(metric, member.metrics[metric]) for metric in ("accuracy", "params", "macs")]
            for member in front
        ]
    ]
    assert page.opened["svg"] == 2
    assert page.opened["title"] >= 1
    for said in ("my-run", "random_search on nasbench201", "classification", "finished", "12 measured", "validation"):
        assert said in page.text
    assert {path.name for path in tmp_path.iterdir()} == {"my-run", "report.html"}


@pytest.mark.slow
def test_the_configuration_in_the_report_makes_the_same_search(tmp_path: Path) -> None:
    run = searched(tmp_path / "run", seed=5)
    assert run.config.to_yaml().strip() in page_of(run).text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objectives", "drawings"),
    [
        (["accuracy:max"], 1),
        (["loss:min", "macs:min"], 2),
        (["accuracy:max", "params:min", "macs:min"], 3),
        (["params:min", "loss:min", "memory_bits:max"], 3),
    ],
)
def test_any_objectives_are_drawn(tmp_path: Path, objectives: list[str], drawings: int) -> None:
    run = searched(tmp_path / "run", objectives=objectives)
    page = page_of(run)
    assert page.opened["svg"] == drawings
    names = [objective.split(":")[0] for objective in objectives]
    assert page.tables[0][0][: 2 + len(names)] == ["trial", "architecture", *names]
    assert len(page.tables[0]) == 1 + len(run.history().front)
    for name in names:
        assert name in page.text


@pytest.mark.slow
def test_the_search_by_test_labels_is_called_that(tmp_path: Path) -> None:
    def on_test(task: Evaluate) -> Measurement:
        return Measurement(task=task, metrics={"accuracy": accuracy_of(task), "loss": 0.1}, split="test")

    text = page_of(searched(tmp_path / "run", on_test)).text
    assert "the test labels guided the search" in text
    assert "validation" not in text


@pytest.mark.slow
def test_thousands_of_measurements_make_a_page_of_moderate_size(tmp_path: Path) -> None:
    run = searched(tmp_path / "run", evaluations=3_000)
    html = render(run, run.history())
    page = check_stands_alone(html)
    assert "3000 measured" in page.text
    assert page.opened["image"] == 2  # the measurements are pixels, the front is not
    assert len(html) < 250_000


@pytest.mark.slow
def test_answers_from_memory_are_counted_apart(tmp_path: Path) -> None:
    run = searched(tmp_path / "run", evaluations=200, strategy="regularized_evolution")
    cached = sum(outcome.cached_from is not None for outcome in run.history().measurements)
    assert cached > 0
    assert f"{200 - cached} measured, {cached} cached" in page_of(run).text


# Several fidelities


@pytest.fixture
def shared_run(shared_plugins: None, tmp_path: Path) -> RunDirectory:
    """Generations with shared weights, in which the early ones look better than all that follow."""
    names = {"space": "demo_perceptron", "benchmark": "demo_shared", "strategy": "demo_shared"}
    goal = {"objectives": ["accuracy:max", "params:min"], "budget": {"evaluations": 40}}
    assembly = Assembly.of(SearchConfig.read(names | goal))
    run = RunDirectory.create(tmp_path / "run", assembly.config)
    with run.writing() as log, InlineExecutor(assembly.benchmark, run.artifacts) as executor:
        Search(assembly.problem, assembly.strategy, executor, log, assembly.budget).run()
    return run


@pytest.mark.slow
def test_supernet_trainings_are_counted_as_such(shared_run: RunDirectory) -> None:
    trained = len(shared_run.history().trained)
    assert trained > 4
    assert f"40 measured, {trained} supernet trainings in" in page_of(shared_run).text


def drawn(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The drawings of a report before they are text."""
    drawings: list[Axes] = []

    def keep(drawing: Figure, title: str) -> str:
        drawings.extend(drawing.axes)
        return title

    monkeypatch.setattr(page, "_svg", keep)
    render(run, run.history())
    return drawings


def curve_of(line: Line2D) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def number_of(dots: Collection) -> int:
    return len(np.asarray(dots.get_offsets()))


def labels_of(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_the_best_so_far_begins_anew_where_more_epochs_are_reached(
    shared_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = shared_run.history()
    progress, front = drawn(shared_run, monkeypatch)
    curves = list(map(curve_of, progress.lines))
    curves = [curve for curve in curves if len(curve[0])]
    assert len(curves) == len(history.fidelities) > 3
    begin = 1
    for (across, up), epochs in zip(curves, history.fidelities, strict=True):
        accuracies = [m.metrics["accuracy"] for m in history.measured if m.task.fidelity == epochs]
        assert up.tolist() == [*np.maximum.accumulate(accuracies), max(accuracies)]
        assert across[0] == begin, "a training is no evaluation"
        begin += len(accuracies)
        assert across[-1] == min(begin, 40)
    for axes in (progress, front):
        fewer, most = map(number_of, axes.collections)
        assert (fewer, most) == (40 - len(accuracies), len(accuracies))
        labels = labels_of(axes)
        assert "after fewer epochs" in labels and any(f"after {epochs} epochs" in label for label in labels)


def test_the_best_so_far_of_one_fidelity_is_one_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = searched(tmp_path / "run", lambda task: measure(task) if task.id % 3 else fail("diverged")(task))
    axes = drawn(run, monkeypatch)[0]
    across, up = curve_of(axes.lines[0])
    accuracies = [m.metrics["accuracy"] for m in run.history().measured]
    assert up.tolist() == [*np.maximum.accumulate(accuracies), max(accuracies)]
    assert across.tolist() == [2, 3, 5, 6, 8, 9, 11, 12, 12]
    assert [number_of(dots) for dots in axes.collections] == [len(accuracies)]
    assert labels_of(axes) == ["each", "best so far"]


# Runs that found little


def test_a_run_without_any_outcome_has_a_report(tmp_path: Path) -> None:
    tree = {"space": "nasbench201", "benchmark": "classification", "strategy": "random_search"}
    config = SearchConfig.read(tree | {"objectives": ["accuracy:max"], "budget": {"evaluations": 3}})
    page = page_of(RunDirectory.create(tmp_path / "run", Assembly.of(config).config))
    assert "nothing measured yet" in page.text
    assert "interrupted" in page.text
    assert not page.tables
    assert not page.opened["svg"]


def fail(kind: str) -> Answer:
    return lambda task: Failure(task=task, kind=kind, message=f"a message about {kind}", traceback="<trace>")


def test_a_run_with_failures_only_lists_their_kinds(tmp_path: Path) -> None:
    def answer(task: Evaluate) -> Outcome:
        return fail("worker died" if task.id % 3 else "diverged")(task)

    page = page_of(searched(tmp_path / "run", answer))
    assert [[row[:2] for row in table] for table in page.tables] == [
        [["kind", "trials"], ["diverged", "4"], ["worker died", "8"]]
    ]
    assert page.tables[0][1][2].startswith("trial 0: ")
    assert "12 failed" in page.text
    assert "Nothing was measured." in page.text
    assert not page.opened["svg"]


@pytest.mark.slow
def test_a_run_in_which_nothing_keeps_the_constraints_has_drawings_but_no_front(tmp_path: Path) -> None:
    page = page_of(searched(tmp_path / "run", constraints=["accuracy>=0.99"]))
    assert "Nothing was measured that satisfies accuracy>=0.99." in page.text
    assert not page.tables
    assert page.opened["svg"] == 2


@pytest.mark.slow
def test_a_single_measurement_has_a_report(tmp_path: Path) -> None:
    page = page_of(searched(tmp_path / "run", evaluations=1, objectives=["accuracy:max", "params:min", "macs:min"]))
    assert page.opened["svg"] == 3
    assert len(page.tables[0]) == 2


@pytest.mark.slow
def test_values_that_are_zero_negative_or_all_equal_are_drawn(tmp_path: Path) -> None:
    for name, value in (("zero", 0.0), ("negative", -3.5), ("tiny", 1e-300), ("huge", 1e300)):

        def answer(task: Evaluate, value: float = value) -> Measurement:
            return Measurement(task=task, metrics={"accuracy": value, "loss": value * (1 + task.id % 2)})

        page = page_of(searched(tmp_path / name, answer, objectives=["accuracy:max", "loss:min"]))
        assert page.opened["svg"] == 2


@pytest.mark.slow
def test_values_near_the_limit_of_floats_are_drawn_without_a_warning(tmp_path: Path) -> None:
    extremes = [1.7e308, -1.7e308, 5e-324, 0.0, 1e300, -1e300, 1.0, 2.0]

    def answer(task: Evaluate) -> Measurement:
        return Measurement(
            task=task, metrics={"accuracy": extremes[task.id % 8], "loss": abs(extremes[(task.id + 3) % 8])}
        )

    for goal in (["accuracy:max", "loss:min"], ["loss:min", "accuracy:max"]):
        assert page_of(searched(tmp_path / goal[0], answer, objectives=goal)).opened["svg"] == 2


# Hostile text


HOSTILE = "<script>alert(1)<script>&amp;\"'--></style><img src=x onerror=alert(2)>{{ 7 * 7 }}"


@pytest.mark.slow
def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "\u2215")
    run = searched(
        tmp_path / name,
        lambda task: fail(HOSTILE)(task) if task.id % 2 else measure(task),
        executor={"name": "ray", "address": f"</pre>{HOSTILE}"},
    )
    page = page_of(run)
    assert ["kind", "trials", "for example"] in page.tables[1]
    assert [HOSTILE, "6"] in [row[:2] for row in page.tables[1]]
    assert page.text.count(name) == 2  # heading and title
    assert f"</pre>{HOSTILE}" in " ".join(page.text.split())  # YAML breaks long lines


@pytest.mark.slow
def test_the_strict_reader_would_notice(tmp_path: Path) -> None:
    html = render(run := searched(tmp_path / "run"), run.history())
    check_stands_alone(html)
    for bad in (
        "<script>1</script>",
        '<img src="x">',
        "<b>",
        "</p>",
        '<a href="https://example.org">x</a>',
        '<p style="background: url(http://example.org/x.png)">x</p>',
        '<p onclick="x()">x</p>',
        "<style>@import 'x.css'</style>",
        '<svg><use xlink:href="#nowhere"/></svg>',
        '<?xml version="1.0"?>',
        "<!doctype html>",
    ):
        with pytest.raises(AssertionError):
            check_stands_alone(html.replace("<h2>Front</h2>", f"<h2>Front</h2>{bad}"))


# The same again


RENDER = """
import sys
from pathlib import Path
from nasplat.report.page import write_report
from nasplat.run.directory import RunDirectory

write_report(RunDirectory(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    run = searched(tmp_path / "run", objectives=["accuracy:max", "params:min", "macs:min"])
    first = render(run, run.history())
    assert render(run, run.history()) == first
    (tmp_path / "elsewhere").mkdir()
    copied = shutil.copytree(run.folder, tmp_path / "elsewhere" / "run")
    subprocess.run(
        [sys.executable, "-c", RENDER, str(copied), str(tmp_path / "report.html")],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "123"},
    )
    assert (tmp_path / "report.html").read_bytes() == first.encode()


def test_writing_replaces_an_old_report_and_reading_changes_nothing_in_the_run(tmp_path: Path) -> None:
    run = searched(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    target = tmp_path / "report.html"
    target.write_text("old")
    write_report(run, target)
    assert "old" not in target.read_text(encoding="utf-8")[:10]
    assert {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    run = searched(tmp_path / "run")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "nowhere" / "report.html", tmp_path / "folder"):
        with pytest.raises(InputError, match=r"cannot be written.*--out"):
            write_report(run, target)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "folder"}
