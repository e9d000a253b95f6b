"""Test data: nothing reads it before the final measurement, which is made once for each network, and recorded."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nasplat.architecture import IO
from nasplat.config import SearchConfig
from nasplat.data.dataset import Dataset
from nasplat.data.datasets import DATASETS
from nasplat.data.examples import Splits
from nasplat.data.pictures import Pictures, Rows
from nasplat.data.splitting import Parts
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.executors.inline import InlineExecutor
from nasplat.export.card import escaped
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import LOG
from nasplat.run.recovery import BEYOND, salvage
from nasplat.storage.event_log import EventLog
from nasplat.task import Measurement, encode_outcome
from nasplat.testing.runs import searched

CommandLine = Callable[..., subprocess.CompletedProcess[str]]

SPACE = ["--space", "nasbench201", "--set", "space.channels=2", "--set", "space.cells=1"]
TRAINED = [*SPACE, "--benchmark", "classification", "--objective", "accuracy:max", "--objective", "params:min"]
COUNTS = {"train": 120, "val": 40, "test": 50}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each picture of each part of the data set `watched` was read."""
    counted: Counter[tuple[str, int]] = Counter()

    def part(name: str, seed: int) -> Pictures:
        pixels = np.random.default_rng(seed).integers(0, 256, (COUNTS[name], 1, 8, 8), dtype=np.uint8)
        labels = np.arange(COUNTS[name], dtype=np.int64) % 4
        pixels[np.arange(len(labels)), 0, labels] //= 4  # so that there is something to learn

        def read(rows: Rows) -> Any:
            import torch

            counted.update((name, int(row)) for row in rows)
            return torch.from_numpy(pixels[rows])

        return Pictures(labels, read)

    def load() -> Splits:
        training, validation = part("train", 0), part("val", 1)
        return Parts.of(training, validation=validation, test=lambda: part("test", 2), held_out=0, subset=None).read()

    monkeypatch.setitem(DATASETS, "watched", Dataset("watched", IO.image(1, 8, 4), load))
    return counted


def looked_at(reads: Counter[tuple[str, int]]) -> dict[int, int]:
    """How often each test picture was read, of those that were."""
    return {row: count for (part, row), count in reads.items() if part == "test"}


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


WATCHED = ["--set", "benchmark.dataset=watched"]
STRATEGIES: dict[str, list[str]] = {
    "random": ["--strategy", "random_search", "--set", "benchmark.epochs=1", "--evaluations", "12"],
    "shared": [
        *("--strategy", "cars", "--set", "strategy.population=4", "--set", "strategy.warmup=1"),
        *("--set", "strategy.interval=1", "--set", "benchmark.epochs=3", "--evaluations", "20"),
    ],
}  # fmt: skip


@pytest.mark.sweep(1)
@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_test_picture_is_read_before_the_final_measurement_and_each_once_by_it(
    strategy: str, reads: Counter[tuple[str, int]], command: CommandLine
) -> None:
    done(command("search", *TRAINED, *WATCHED, *STRATEGIES[strategy], "--out", "run"))
    done(command("resume", "run", "--evaluations", "24"))
    done(command("retrain", "run", "--pick", "front", "--epochs", "2", "--seeds", "2", "--out", "new"))
    done(command("resume", "new"))
    for run in ("run", "new"):
        done(command("show", run))
        done(command("show", run, "--front", "--json"))
        done(command("report", run))
        done(command("recover", run, "--json"))
    done(command("export", "new" if strategy == "random" else "run", "--out", "exported"))
    done(command("runs", "."))
    done(command("predictor", "fit", "run", "--predictor", "random_forest", "--folds", "0", "--out", "predictor"))
    assert {part for part, _ in reads} == {"train", "val"}

    once = {row: 1 for row in range(COUNTS["test"])}
    first = json.loads(done(command("test", "new", "--pick", "all", "--json")))
    assert looked_at(reads) == once
    assert {each["before"] for each in first["tested"]} == {False}
    assert {each["final"]["split"] for each in first["tested"]} == {"test"}
    again = json.loads(done(command("test", "new", "--pick", "all", "--pick", "best", "--json")))
    assert {each["before"] for each in again["tested"]} == {True}
    assert [each["final"] for each in again["tested"]] == [each["final"] for each in first["tested"]]
    assert [each["measured"] for each in again["tested"]] == [each["measured"] for each in first["tested"]]
    done(command("show", "new", "--front", "--test"))
    done(command("report", "new"))
    assert looked_at(reads) == once


@pytest.mark.slow
def test_every_way_to_a_final_measurement_records_the_same_one(
    reads: Counter[tuple[str, int]], command: CommandLine, tmp_path: Path
) -> None:
    done(command("search", *TRAINED, *WATCHED, *STRATEGIES["random"], "--out", "run"))
    for name in ("shown", "exported"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
    done(command("test", "run"))
    done(command("show", "shown", "--front", "--test"))
    exported = json.loads(done(command("export", "exported", "--test", "--json")))
    assert looked_at(reads) == {row: 3 for row in range(COUNTS["test"])}  # once for each of the copies
    done(command("test", "exported"))
    assert looked_at(reads) == {row: 3 for row in range(COUNTS["test"])}
    best = RunDirectory(tmp_path / "run").history().pick("best")
    final = RunDirectory(tmp_path / "run").history().tested[best.id]
    assert (final.split, final.task, final.artifacts) == ("test", best.task, best.artifacts)
    assert datetime.now(UTC).timestamp() - 600 < final.spent.started < datetime.now(UTC).timestamp()
    others = [RunDirectory(tmp_path / name).history().tested for name in ("shown", "exported")]
    assert [tested[best.id].metrics for tested in others] == [final.metrics] * 2
    assert set(others[0]) == {m.id for m in RunDirectory(tmp_path / "run").history().front}
    assert exported["final"]["accuracy"] == final.metrics["accuracy"]


@pytest.mark.slow
def test_a_tested_run_goes_on_and_keeps_what_was_recorded(
    reads: Counter[tuple[str, int]], command: CommandLine, tmp_path: Path
) -> None:
    done(command("search", *TRAINED, *WATCHED, *STRATEGIES["random"], "--out", "run"))
    shutil.copytree(tmp_path / "run", tmp_path / "untested")
    done(command("test", "run"))
    tested = RunDirectory(tmp_path / "run").history().tested
    for name in ("run", "untested"):
        done(command("resume", name, "--evaluations", "16"))
    histories = [RunDirectory(tmp_path / name).history() for name in ("run", "untested")]
    assert histories[0].tested == tested
    assert [m.metrics for m in histories[0].measurements] == [m.metrics for m in histories[1].measurements]
    assert histories[0].status == "finished"
    assert histories[0].spending.images == histories[1].spending.images
    assert "1 on test data, each once" in done(command("show", "run"))
    assert json.loads(done(command("show", "run", "--json")))["tested"][0]["split"] == "test"
    done(command("report", "run"))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Final measurement</h2>" in page
    assert "<h2>Final measurement</h2>" not in _report_of(command, "untested", tmp_path)


def _report_of(command: CommandLine, run: str, folder: Path) -> str:
    done(command("report", run))
    return (folder / run / "report.html").read_text()


# What is recorded, recovered and refused


def config() -> SearchConfig:
    return SearchConfig.read(
        {
            "space": {"name": "nasbench201", "channels": 2, "cells": 1},
            "benchmark": {"name": "classification", "epochs": 1, "subset": 200},
            "strategy": "random_search",
            "objectives": ["accuracy:max"],
            "budget": {"evaluations": 4},
        }
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tested") / "run"
    searched(folder, config())
    run = RunDirectory(folder)
    run.final(run.history().measurements[1], run.benchmark())
    return folder


@pytest.fixture
def tested(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "run")
    return tmp_path / "run"


def change(run: Path, statement: str) -> None:
    with closing(sqlite3.connect(run / LOG, isolation_level=None)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE events SET body = replace(body, '\"test\"', '\"validation\"') WHERE kind = 'test'", "another split"),
        (
            "UPDATE events SET body = replace(body, '\"id\":1', '\"id\":9') WHERE kind = 'test'",
            "trial 9, which has no",
        ),
        (
            "INSERT INTO events SELECT seq + 1, kind, elapsed, body FROM events WHERE kind = 'test'",
            "trial 1 a second time",
        ),
    ],
)
def test_a_record_that_cannot_be_is_damage(statement: str, said: str, tested: Path, command: CommandLine) -> None:
    change(tested, statement)
    refused = command("show", "run")
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "nasplat recover" in refused.stderr
    done(command("recover", "run", "--out", "new"))
    assert (
        RunDirectory(tested.with_name("new")).history().measurements
        == RunDirectory(tested.with_name("new")).history().outcomes
    )


@pytest.mark.parametrize("whole", [True, False])
def test_recovery_keeps_what_was_tested(whole: bool, tested: Path, command: CommandLine) -> None:
    before = RunDirectory(tested).history().tested
    if not whole:  # SQLite does not know the tables any more, and the rows are found in the bytes
        content = bytearray((tested / LOG).read_bytes())
        content[:100] = bytes(100)
        (tested / LOG).write_bytes(content)
    assert salvage(tested).validator.tested == before
    done(command("recover", "run", "--out", "new"))
    assert RunDirectory(tested.with_name("new")).history().tested == before


def test_what_was_tested_beyond_a_gap_is_kept_beside_the_log(tested: Path, command: CommandLine) -> None:
    before = RunDirectory(tested).history().tested[1]
    change(tested, "UPDATE events SET body = '{' WHERE seq = 5")
    done(command("recover", "run", "--out", "new"))
    lines = [json.loads(line)["outcome"] for line in (tested.with_name("new") / BEYOND).read_text().splitlines()]
    assert encode_outcome(before, with_task=False) in lines


def test_a_run_that_is_being_written_is_not_tested(tested: Path, command: CommandLine) -> None:
    with RunDirectory(tested).writing():
        refused = command("test", "run")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "being written by another process" in refused.stderr
        assert "already measured" in done(command("test", "run", "--pick", "1"))  # which needs no measuring
    done(command("test", "run"))


def test_a_run_that_cannot_be_written_is_not_tested(
    tested: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("nasplat.run.directory.held", denied)
    refused = command("test", "run")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "run cannot be written" in refused.stderr
    assert set(RunDirectory(tested).history().tested) == {1}


def test_a_second_process_does_not_measure_again(
    tested: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tested)
    measurement = run.history().measurements[1]
    stale = run.history()
    stale.tested = {}
    histories = iter([stale])
    actual = RunDirectory.history

    def history(self: RunDirectory) -> Any:
        return next(histories, None) or actual(self)

    monkeypatch.setattr(RunDirectory, "history", history)
    events = _events(tested)
    assert run.finals([measurement], run.benchmark()) == {1: actual(run).tested[1]}
    assert _events(tested) == events


def test_each_final_measurement_is_safe_before_the_next_begins(tested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, order = RunDirectory(tested), []
    benchmark = run.benchmark()
    measure, sync = benchmark.final, EventLog.sync

    def final(measurement: Measurement, **how: Any) -> Measurement:
        order.append(f"trial {measurement.id}")
        return measure(measurement, **how)

    def synced(log: EventLog) -> None:
        order.append("sync")
        sync(log)

    monkeypatch.setattr(benchmark, "final", final)
    monkeypatch.setattr(EventLog, "sync", synced)
    run.finals(run.history().measurements[2:4], benchmark)
    assert order.index("sync") < order.index("trial 3")
    assert order[-1] == "sync"


def _events(run: Path) -> int:
    with closing(EventLog.open(run / LOG)) as log:
        return log.last


@pytest.mark.exports
@pytest.mark.slow
def test_an_export_tells_what_was_tested_before(tested: Path, command: CommandLine) -> None:
    final = RunDirectory(tested).history().tested[1]
    told = json.loads(done(command("export", "run", "--pick", "1", "--out", "told", "--no-latency", "--json")))
    assert told["final"] == {"split": "test", **final.metrics}
    assert "not measured on test data" not in (tested.with_name("told") / "README.md").read_text()
    other = json.loads(done(command("export", "run", "--pick", "0", "--out", "other", "--no-latency", "--json")))
    fresh = json.loads(
        done(command("export", "run", "--pick", "1", "--untrained", "--out", "fresh", "--no-latency", "--json"))
    )
    assert "final" not in other
    assert "final" not in fresh
    assert "not measured on test data" in (tested.with_name("other") / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://a.bc/d", r"see https\://a.bc/d"),
        ("HTTP://a.bc", r"HTTP\://a.bc"),
        ("www.a.bc", r"www\.a.bc"),
        ("$x$ and $$y$$", r"\$x\$ and \$\$y\$\$"),
        ("at 10:30, a.b", "at 10:30, a.b"),
    ],
)
def test_addresses_and_formulas_are_plain_text_in_cards(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.slow
def test_cards_tell_the_teacher_and_what_is_unfinished(command: CommandLine, tmp_path: Path) -> None:
    strategy = {"name": "retraining", "members": ["432110", "000434"], "checkpoints": 2, "teacher": True}
    benchmark = {"name": "classification", "epochs": 2, "subset": 200, "distillation": 0.5}
    changes = {"kind": "retraining", "strategy": strategy, "benchmark": benchmark, "budget": {"evaluations": 3}}
    searched(tmp_path / "run", SearchConfig.read(config().model_dump() | changes))
    teacher, part = RunDirectory(tmp_path / "run").history().measurements[1:]
    assert (teacher.task.fidelity, part.task.fidelity) == (2, 1)
    cards = {}
    for measurement in (teacher, part):
        done(command("export", "run", "--pick", str(measurement.id), "--no-latency"))
        folder = tmp_path / "run" / "export" / f"trial-{measurement.id}"
        cards[measurement.id] = (folder / "README.md").read_text()
    assert f"- learned from: {teacher.architecture.code}, the largest" in cards[part.id]
    assert "Its training is unfinished: these are the weights after 1 of 2 epochs." in cards[part.id]
    assert "learned from" not in cards[teacher.id]
    assert "unfinished" not in cards[teacher.id]


@pytest.mark.slow
def test_no_part_of_a_retraining_is_tested(command: CommandLine, tmp_path: Path) -> None:
    strategy = {"name": "retraining", "members": ["432110"], "checkpoints": 2}
    benchmark = {"name": "classification", "epochs": 2, "subset": 200}
    changes = {"kind": "retraining", "strategy": strategy, "benchmark": benchmark, "budget": {}}
    searched(tmp_path / "run", SearchConfig.read(config().model_dump() | changes))
    whole = RunDirectory(tmp_path / "run").history().pick("best")
    assert whole.id == 1
    refused = command("test", "run", "--pick", "0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "trial 0 of run is after 1 of 2 epochs; pick a trial after 2" in refused.stderr
    refused = command("export", "run", "--pick", "0", "--test")  # whose weights are gone besides
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "take --pick 1" in refused.stderr
    assert not RunDirectory(tmp_path / "run").history().tested
    assert not (tmp_path / "run" / "export").exists()
    assert "epochs" not in done(command("test", "run")).splitlines()[1]


@pytest.mark.slow
def test_trials_of_a_search_with_fewer_epochs_are_tested_with_a_warning(command: CommandLine, tmp_path: Path) -> None:
    strategy = {"name": "successive_halving", "eta": 2}
    benchmark = {"name": "classification", "epochs": 2, "subset": 200}
    budget = {"evaluations": 8}
    tree = config().model_dump() | {"strategy": strategy, "benchmark": benchmark, "budget": budget}
    searched(tmp_path / "run", SearchConfig.read(tree))
    tested = command("test", "run", "--pick", "0", "--pick", "best")
    lines = done(tested).splitlines()
    assert "fewer epochs than the run's 2" in tested.stderr
    assert "trial 0 (1)" in tested.stderr
    assert lines[1].split()[:4] == ["trial", "architecture", "epochs", "accuracy"]
    assert [line.split()[2] for line in lines[2:4]] == ["1", "2"]
    assert command("test", "run").stderr == ""


@pytest.mark.parametrize("pick", ["best", "knee", "front", "all"])
def test_where_every_trial_failed_picks_say_so(
    pick: str, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasplat.benchmarks.classification.Classification.measure", None)
    searched(tmp_path / "run", config())
    for words in (["test"], ["retrain"], ["export"]):
        refused = command(*words, "run", "--pick", pick)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "no measurement to pick: all 4 finished trials failed, such as trial 0 (TypeError)" in refused.stderr
        assert "constraints" not in refused.stderr


@pytest.mark.slow
def test_what_left_nothing_to_test_is_refused(tmp_path: Path, command: CommandLine) -> None:
    config_ = Assembly.of(config())
    run = RunDirectory.create(tmp_path / "run", config_.config)
    refused = command("test", "run")
    assert refused.returncode == 2
    assert "no measurement to pick" in refused.stderr
    with InlineExecutor(config_.benchmark, run.artifacts) as executor, run.writing() as log:
        Search(config_.problem, config_.strategy, executor, log, config_.budget).run()
    for words, said in (
        (["--pick", "77"], "no finished trial 77"),
        (["--pick", "bins:3"], "second objective"),
        (["--pick", "some"], "--pick must be best, knee"),
    ):
        refused = command("test", "run", *words)
        assert refused.returncode == 2, refused.stdout
        assert said in refused.stderr
    shutil.rmtree(run.folder / "artifacts")
    refused = command("test", "run")
    assert refused.returncode == 1
    assert not RunDirectory(run.folder).history().tested


# Damaged test files


def idx(values: NDArray[np.uint8]) -> bytes:
    """The idx format: two zeros, 8 for bytes, the number of axes, each axis as a big-endian integer, the bytes."""
    axes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + axes + values.tobytes()


@pytest.mark.slow
def test_garbage_for_test_pictures_stands_in_the_way_of_the_test_alone(
    tmp_path: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rng = tmp_path / "data" / "fashion_mnist", np.random.default_rng(0)
    folder.mkdir(parents=True)
    monkeypatch.setenv("NASPLAT_DATA", str(folder.parent))
    pixels = rng.integers(0, 256, (240, 28, 28), dtype=np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(pixels))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx((np.arange(240) % 10).astype(np.uint8)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx((np.arange(30) % 10).astype(np.uint8)))
    (folder / "t10k-images-idx3-ubyte").write_bytes(rng.bytes(5000))
    fashion = ["--set", "benchmark.dataset=fashion_mnist", "--set", "benchmark.epochs=1"]
    search = ["search", *TRAINED, *fashion, "--strategy", "random_search", "--evaluations", "2", "--out", "run"]
    done(command(*search))
    done(command("retrain", "run", "--pick", "best", "--out", "new"))
    done(command("export", "new"))
    refused = command("test", "new")
    assert refused.returncode == 2
    assert "t10k-images-idx3-ubyte is damaged" in refused.stderr
    assert not RunDirectory(tmp_path / "new").history().tested
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(pixels[:30]))
    assert "1 changed (fashion_mnist/t10k-images-idx3-ubyte)" in command("test", "new").stderr
    done(command("test", "new", "--accept-changed-data"))
    (final,) = RunDirectory(tmp_path / "new").history().tested.values()
    body = encode_outcome(final)
    assert (body["split"], set(final.metrics)) == ("test", {"accuracy", "loss"})
