"""Any mutation of a run, any command: nothing outside is touched, no trial is lost without a word, no traceback."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from nasplat.config import SearchConfig
from nasplat.run.directory import Run
from nasplat.testing.runs import searched

Command = Callable[..., CompletedProcess[str]]
STORED = re.compile(r"[0-9a-f]{2}/[0-9a-f]{62}\.safetensors")
SECRET = "a line of the user's own, which no output may have"
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
    for folder in (place / "mine", place / "mine" / "ab", place / "mine" / "ab" / "cd"):
        folder.mkdir()
        (folder / "note.txt").write_text(SECRET)
        (folder / f"{'ab' * 32}.safetensors").write_text(SECRET)
    (place / "mine" / "config.yaml").write_text(f"{SECRET}: [\n")
    return place


def seen(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_of(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())


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
    if path.is_symlink() or not path.is_file():
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
    ]
    old, new = changes[int(rng.integers(len(changes)))]
    text = text.replace("name: inline", "name: ray") if old.startswith("address") else text
    path.write_text(text.replace(old, new))


MUTATIONS = (flip, flip, cut, remove, link_a_file, link_the_store, link_a_shelf, configure)
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show", "run"), ("show", "run", "--json"), ("show", "run", "--front"), ("runs", "."), ("report", "run"),
    ("recover", "run"), ("recover", "run", "--out", "saved"), ("resume", "run", "--evaluations", "6"),
    ("test", "run"), ("test", "run", "--accept-changed-data"),
    ("retrain", "run", "--pick", "best", "--epochs", "1", "--out", "new"),
    ("export", "run", "--format", "source", "--no-latency", "--out", "network"),
    ("predictor", "fit", "run", "--score", "accuracy", "--predictor", "random_forest", "--folds", "0", "--out", "p"),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.sweep(8)
@pytest.mark.parametrize("number", range(500))
def test_no_mutated_run_reaches_beyond_itself(
    number: int, base: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(number)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    for _ in range(int(rng.integers(1, 4))):
        if files_of(run):
            MUTATIONS[int(rng.integers(len(MUTATIONS)))](run, rng)
    connected: list[object] = []
    monkeypatch.setattr("ray.init", lambda *given, **named: connected.append((given, named)))
    before, trials = seen(tmp_path / "mine"), [outcome.id for outcome in Run(base / "run").history().outcomes]
    said = ""
    words = COMMANDS[int(rng.integers(len(COMMANDS)))]
    done = command(*words)
    said += done.stdout + done.stderr
    assert done.returncode in (0, 1, 2), said
    assert "Traceback" not in said and SECRET not in said and "\x1b[2J" not in said
    assert not connected, "a cluster that only the run names"
    now = seen(tmp_path / "mine")
    assert {name: now.get(name) for name in before} == before
    # A store that is a link is said and goes on being used: it gains weights, and the mark that it is shared.
    gained = now.keys() - before.keys()
    assert not gained or words[0] in ("resume", "retrain")
    assert all(name == "shared" or STORED.fullmatch(name) for name in gained), gained
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink() and (tmp_path / "mine") not in path.parents:
            assert SECRET.encode() not in path.read_bytes(), path
    if words == ("show", "run", "--json") and done.returncode == 0 and "warning" not in done.stderr:
        assert json.loads(done.stdout)["outcomes"] == len(trials)
    if words[0] == "resume" and done.returncode == 0 and "warning" not in done.stderr:
        kept = json.loads(command("show", "run", "--json", "--top", "99").stdout)
        assert {each["trial"] for each in kept["best"]} | {each["trial"] for each in kept["failures"]} >= set(trials)
