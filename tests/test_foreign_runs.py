"""Any mutation of a run, any command: nothing outside is touched, no trial is lost without a word, no exception.

Commands run in this process, so that an exception that is none of nasplat's own ends the test.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from nasplat.architecture import IO
from nasplat.config import SearchConfig
from nasplat.errors import NasplatError
from nasplat.predictors.random_forest import RandomForest
from nasplat.registry import SEARCH_SPACES
from nasplat.run.directory import RunDirectory
from nasplat.storage import carving, write_ahead
from nasplat.storage.event_log import EventLog
from nasplat.testing.exports import write_export
from nasplat.testing.runs import searched

Command = Callable[..., CompletedProcess[str]]
SECRET = "a line of the user's own, which no output may have"
LARGEST = 1 << 24
"""Bytes of a file; files with holes have more."""
TREE = {
    "space": {"name": "nasbench201", "channels": 1, "cells": 1},
    "benchmark": {"name": "classification", "epochs": 1, "data": {"subset": 60}, "recipe": {"batch_size": 32}},
    "strategy": "regularized_evolution",
    "objectives": ["accuracy:max", "params:min"],
    "budget": {"evaluations": 4},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with weights, and folders of the user's own beside it."""
    place = tmp_path_factory.mktemp("foreign")
    searched(place / "run", SearchConfig.read(TREE))
    space, io = SEARCH_SPACES.get("esrn/tiny")(), IO.upscaled(8, 8, 2)
    architecture = space.parse("S_4_8_16,C_1_8_16")
    write_export(place / "shipped", architecture, io, space.build(architecture, io))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 8, 3), np.uint8)).save(place / "picture.png")
    cells = SEARCH_SPACES.get("nasbench201")()
    members = [cells.parse(f"{number:06d}") for number in (0, 11111, 123, 3210, 1032, 2301)]
    RandomForest(cells, trees=2).fit(members, np.linspace(0.2, 0.9, 6)).save(place / "saved")
    for folder in (place / "mine", place / "mine" / "ab", place / "mine" / "ab" / "cd"):
        folder.mkdir()
        (folder / "note.txt").write_text(SECRET)
        (folder / f"{'ab' * 32}.safetensors").write_text(SECRET)
    (place / "mine" / "config.yaml").write_text(f"{SECRET}: [\n")
    return place


def seen(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_of(run: Path) -> list[Path]:
    """The regular files of a run, but those with holes, which no memory would hold."""
    found = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path for path in found if path.stat().st_size < LARGEST)


def flip(run: Path, rng: np.random.Generator) -> None:
    path = files_of(run)[int(rng.integers(len(files_of(run))))]
    data = bytearray(path.read_bytes())
    if data:
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))


def cut(run: Path, rng: np.random.Generator) -> None:
    path = files_of(run)[int(rng.integers(len(files_of(run))))]
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size + 1))])


def remove(run: Path, rng: np.random.Generator) -> None:
    files_of(run)[int(rng.integers(len(files_of(run))))].unlink()


def link_a_file(run: Path, rng: np.random.Generator) -> None:
    path = files_of(run)[int(rng.integers(len(files_of(run))))]
    path.unlink()
    targets = [run.parent / "mine" / "note.txt", run.parent / "mine" / "config.yaml", run.parent / "mine" / "absent"]
    path.symlink_to(targets[int(rng.integers(len(targets)))])


def link_the_store(run: Path, rng: np.random.Generator) -> None:
    shutil.rmtree(run / "artifacts", ignore_errors=True)
    if not (run / "artifacts").exists():
        (run / "artifacts").symlink_to(run.parent / "mine")


def link_a_shelf(run: Path, rng: np.random.Generator) -> None:
    inner = sorted((run / "artifacts").iterdir()) if (run / "artifacts").is_dir() else []
    if inner and inner[0].is_dir() and not inner[0].is_symlink():
        shutil.rmtree(inner[0])
        inner[0].symlink_to(run.parent / "mine" / "ab")


def configure(run: Path, rng: np.random.Generator) -> None:
    path = run / "config.yaml"
    if path not in files_of(run):
        return
    text = path.read_bytes().decode(errors="replace")
    changes = [
        ("address: null", "address: 127.0.0.1:9"),
        ("evaluations: 4", "evaluations: 6"),
        ("folder: null", f"folder: {run.parent / 'mine'}"),
        ("table: null", f"table: {run.parent / 'mine' / 'note.txt'}"),
        ("epochs: 1", "epochs: 2"),
        ("dataset: digits", "dataset: image_folder"),
        ("name: nasbench201", "name: os:system"),
        ("accuracy:max", "\x1b[2J:max"),
        ("channels: 1", "channels: 100000000"),
        ("channels: 1", f"channels: 1{'0' * 320}"),
        ("dataset: digits", "dataset: cifar10"),
    ]
    old, new = changes[int(rng.integers(len(changes)))]
    text = text.replace("name: inline", "name: ray") if old.startswith("address") else text
    text = text.replace("download: false", "download: true") if "cifar10" in new else text
    path.write_text(text.replace(old, new))


def as_killed(run: Path) -> tuple[Path, bytes]:
    """Leave the second half of a run's log in its side file, as a kill does; returns that, and what it then holds."""
    path = run / "events.sqlite"
    with closing(EventLog.open(path)) as log:
        events = list(log.events())
    path.unlink()
    log = EventLog.create(path)
    for number, event in enumerate(events):
        if number == len(events) // 2:
            log.close()
            log = EventLog.open(path, write=True)
            log._connection.execute("PRAGMA wal_autocheckpoint = 0")
            log.sync = lambda: None  # type: ignore[method-assign]  # it would move the events into the log
        log.append(event.kind, event.body, elapsed=event.elapsed)
    side = path.with_name("events.sqlite-wal")
    kept = {each: each.read_bytes() for each in (path, side)}
    log.close()
    for each, content in kept.items():
        each.write_bytes(content)
    return side, kept[side]


def hurt_the_write_ahead_log(run: Path, rng: np.random.Generator) -> None:
    """Leave what a killed writer leaves, with one bit flipped."""
    path = run / "events.sqlite"
    if path.is_symlink() or not path.is_file() or os.path.lexists(path.with_name("events.sqlite-wal")):
        return
    try:
        side, content = as_killed(run)
    except NasplatError:
        return  # it is damaged already
    data = bytearray(content)
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    side.write_bytes(bytes(data))


def pipe(run: Path, rng: np.random.Generator) -> None:
    names = [path.relative_to(run).as_posix() for path in files_of(run)]
    names += ["events.sqlite-wal", "events.sqlite-journal", "events.sqlite-shm"]
    path = run / names[int(rng.integers(len(names)))]
    if not path.is_symlink():
        path.unlink(missing_ok=True)
        os.mkfifo(path)


def sparse(run: Path, rng: np.random.Generator) -> None:
    os.truncate(files_of(run)[int(rng.integers(len(files_of(run))))], 300 << 30)


def link_the_exports(run: Path, rng: np.random.Generator) -> None:
    if not (run / "export").exists():
        (run / "export").symlink_to(run.parent / "mine")


MUTATIONS = (
    flip, flip, cut, remove, pipe, sparse, link_a_file, link_the_store, link_a_shelf, link_the_exports, configure,
    hurt_the_write_ahead_log, hurt_the_write_ahead_log,
)  # fmt: skip
OF_FILES = (flip, flip, cut, remove, pipe, sparse, link_a_file)
"""The mutations of an export or of a predictor."""
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show", "run"), ("show", "run", "--json"), ("show", "run", "--front"), ("runs", "."), ("report", "run"),
    ("recover", "run"), ("recover", "run", "--out", "saved"), ("resume", "run", "--evaluations", "6"),
    ("test", "run"), ("test", "run", "--accept-changed-data"),
    ("retrain", "run", "--pick", "best", "--epochs", "1", "--out", "new"),
    ("export", "run", "--format", "source", "--no-latency", "--out", "network"),
    ("export", "run", "--format", "source", "--no-latency"),
    ("predictor", "fit", "run", "--score", "accuracy", "--predictor", "random_forest", "--folds", "0", "--out", "p"),
    ("predictor", "evaluate", "run", "--score", "accuracy", "--predictor", "random_forest", "--sizes", "2"),
    ("upscale", "shipped", "picture.png"), ("serve", "--predictor", "saved", "--port", "0"),
    ("predictor", "predict", "saved", "012301"), ("predictor", "rank", "saved", "012301", "111111"),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("never_waiting")
@pytest.mark.sweep(8)
@pytest.mark.parametrize("number", range(500))
def test_no_mutated_run_reaches_beyond_itself(
    number: int, base: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(number)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    words = COMMANDS[int(rng.integers(len(COMMANDS)))]
    run = tmp_path / "run"
    other = next((tmp_path / name for name in ("shipped", "saved") if name in words), None)
    for _ in range(int(rng.integers(1, 4))):
        if files_of(other or run):
            mutations = OF_FILES if other else MUTATIONS
            mutations[int(rng.integers(len(mutations)))](other or run, rng)
    connected: list[object] = []

    def connect(*given: object, **named: object) -> None:
        connected.append((given, named))
        raise ConnectionRefusedError

    for way in ("ray.init", "socket.create_connection", "socket.socket.connect", "urllib.request.urlopen"):
        monkeypatch.setattr(way, connect)
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(carving, "LARGEST", LARGEST)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    before, trials = seen(tmp_path / "mine"), [outcome.id for outcome in RunDirectory(base / "run").history().outcomes]
    done = command(*words)
    said = done.stdout + done.stderr
    assert done.returncode in (0, 1, 2), said
    assert SECRET not in said and "\x1b[2J" not in said
    assert not connected, "something that only the run names"
    now = seen(tmp_path / "mine")
    assert now == before
    for path in files_of(tmp_path):
        if (tmp_path / "mine") not in path.parents:
            assert SECRET.encode() not in path.read_bytes(), path
    if words == ("show", "run", "--json") and done.returncode == 0 and "warning" not in done.stderr:
        assert json.loads(done.stdout)["outcomes"] == len(trials)
    if words[0] == "resume" and done.returncode == 0 and "warning" not in done.stderr:
        kept = json.loads(command("show", "run", "--json", "--top", "99").stdout)
        assert {each["trial"] for each in kept["trials"]} | {each["trial"] for each in kept["failures"]} >= set(trials)


@pytest.mark.slow
@pytest.mark.parametrize("noticed", [True, False])
def test_a_hurt_write_ahead_log_loses_outcomes_and_is_noticed(
    noticed: bool, base: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the mutation can fail: without the check, trials are gone without a word."""
    run = shutil.copytree(base / "run", tmp_path / "run")
    side, whole = as_killed(run)
    assert json.loads(command("show", "run", "--json").stdout)["outcomes"] == 4
    side.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    if not noticed:
        monkeypatch.setattr(write_ahead, "damage", lambda side: "")
    done = command("show", "run", "--json")
    assert json.loads(done.stdout)["outcomes"] < 4
    assert ("warning" in done.stderr) == noticed
