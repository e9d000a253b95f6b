"""What a foreign folder may cause: the rows of `docs/trust.md`, each held by a test."""

import importlib.util
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from rich.markup import escape
from rich.progress import Progress

from nasplat.benchmark import Preprocessing
from nasplat.cli.app import _warnings_printed
from nasplat.config import SearchConfig
from nasplat.data.manifest import Manifest
from nasplat.errors import InputError, RunError, printable
from nasplat.export.card import escaped
from nasplat.export.predicting import predict_script
from nasplat.interface.bars import LineColumn
from nasplat.interface.console import SafeConsole
from nasplat.latency.table import read_table
from nasplat.run import environment, trust
from nasplat.run.directory import RunDirectory
from nasplat.run.environment import _revision
from nasplat.run.layout import CONFIG, ENVIRONMENT, LOG
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.testing.runs import searched

Command = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = "\x1b[2Jgone\x9b1m\u202etxt\nerror: forged\r[red]:bomb:[/]"
UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run."""
    config = SearchConfig.read({
        "space": {"name": "nasbench201", "channels": 4, "cells": 1}, "benchmark": "zero_cost",
        "strategy": "random_search", "objectives": ["synflow:max"], "budget": {"evaluations": 2},
    })  # fmt: skip
    searched(tmp_path / "run", config)
    return tmp_path / "run"


def change(run: Path, **sections: Any) -> None:
    """Change sections of a run's configuration, as somebody else may have."""
    tree = yaml.safe_load((run / CONFIG).read_text())
    for name, values in sections.items():
        tree[name] |= values
    (run / CONFIG).write_text(yaml.safe_dump(tree))


def test_a_run_cannot_name_where_its_trials_are_tracked(run: Path) -> None:
    tree = yaml.safe_load((run / CONFIG).read_text())
    for section in (tree, tree["executor"]):
        section["log_to"] = ["mlflow:https://elsewhere.example"]
        with pytest.raises(InputError, match="log_to"):
            SearchConfig.read(tree)
        del section["log_to"]


def test_usage_errors_are_printable(command: Command) -> None:
    done = command("\x1b[2J")
    assert done.returncode == 2 and "\\x1b[2J" in done.stderr and "\x1b" not in done.stderr


# Clusters, folders and plug-ins that a run names


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("resume", "--evaluations", "3"), ("retrain", "--benchmark", "classification", "--objective", "accuracy:max")],
    ids=lambda words: words[0],
)
def test_a_cluster_counts_only_if_its_user_names_it(
    command: Command, run: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    theirs = "192.0.2.1:6379"
    change(run, executor={"name": "ray", "address": theirs})
    connected: list[str] = []

    def connect(assembly: Any, *_: object) -> None:
        connected.append(assembly.config.executor.address)
        raise InputError("connected")

    monkeypatch.setattr("nasplat.interface.running._executor", connect)
    name, *options = words
    for environment_ in ("", "192.0.2.2:6379"):
        monkeypatch.setenv(trust.RAY_ADDRESS, environment_)
        done = command(name, run, *options)
        assert done.returncode == 2 and not connected
        assert all(word in done.stderr for word in (repr(theirs), "--ray-address ADDRESS", "--trust-run"))
    command(name, run, *options, "--trust-run")
    command(name, run, *options, "--ray-address", "192.0.2.3:1")
    monkeypatch.setenv(trust.RAY_ADDRESS, theirs)
    command(name, run, *options)
    assert connected == [theirs, "192.0.2.3:1", theirs]


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The folders into which data would have been downloaded; there is no data."""
    folders: list[Path] = []

    def download(archives: object, folder: Path, *_: object, **__: object) -> None:
        folders.append(folder)
        raise InputError("downloaded")

    monkeypatch.setattr("nasplat.data.pictures.download", download)
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "data"))
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True], ids=["the data folder", "a folder of the run"])
def test_a_run_downloads_only_if_trusted(
    command: Command, run: Path, tmp_path: Path, downloaded: list[Path], named: bool
) -> None:
    folder = tmp_path / ("place" if named else "data")
    options = {"download": True, "folder": str(folder) if named else None, "side": None}
    change(run, benchmark={"dataset": "cifar10", "data": options})
    assert not RunDirectory(run).benchmark().data.download  # type: ignore[attr-defined]
    refused = command("resume", run, "--evaluations", "3")
    assert refused.returncode == 2 and "--trust-run" in refused.stderr
    for words in (("test",), ("recover",), ("export", "--format", "source", "--no-latency", "--untrained")):
        command(*words, run)
        assert not downloaded and not folder.exists(), words
    command("resume", run, "--evaluations", "3", "--trust-run")
    assert downloaded == [folder]


@pytest.mark.slow
def test_a_retraining_downloads_only_what_its_user_asks_for(
    command: Command, run: Path, tmp_path: Path, downloaded: list[Path]
) -> None:
    tree = yaml.safe_load((run / CONFIG).read_text())
    tree["benchmark"] = {"name": "classification", "dataset": "cifar10", "download": True}  # by its former name
    (run / CONFIG).write_text(yaml.safe_dump(tree))
    words = ("retrain", run, "--benchmark", "classification", "--objective", "accuracy:max", "--out", tmp_path / "new")
    done = command(*words)
    assert done.returncode == 2 and "--set benchmark.data.download=true" in done.stderr and not downloaded
    assert command(*words, "--accept-changed-data").returncode == 2 and not downloaded
    command(*words, "--set", "benchmark.data.download=true")
    command(*words, "--trust-run")
    assert downloaded == [tmp_path / "data"] * 2


@pytest.mark.slow
def test_data_that_is_there_is_used_without_a_question(command: Command, run: Path, tmp_path: Path) -> None:
    change(run, benchmark={"data": {"folder": str(tmp_path / "place"), "download": True, "side": None}})
    assert command("resume", run, "--evaluations", "3").returncode == 0
    assert yaml.safe_load((run / CONFIG).read_text())["benchmark"]["data"]["download"], "what the run says stays"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["address", "store", "module"])
def test_show_names_the_command_that_resume_takes(
    command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.delenv(trust.RAY_ADDRESS, raising=False)
    tree = yaml.safe_load((run / CONFIG).read_text())
    tree["budget"]["evaluations"] = 3
    match what:
        case "address":
            tree["executor"] = {"name": "ray", "address": "192.0.2.1:6379"}
        case "store":
            (tmp_path / "elsewhere").mkdir()
            (run / "artifacts").symlink_to(tmp_path / "elsewhere")
        case "module":
            tree["strategy"]["name"] = "nasplat.strategies.random_search:RandomSearch"
    (run / CONFIG).write_text(yaml.safe_dump(tree))
    events = sqlite3.connect(run / LOG)
    events.execute("DELETE FROM events WHERE kind = 'end'")
    events.commit()
    events.close()
    started: list[object] = []

    def executor(assembly: Any, *_: object) -> None:
        started.append(assembly)
        raise InputError("started")

    monkeypatch.setattr("nasplat.interface.running._executor", executor)
    told = re.search(r"go on with nasplat (resume .*)", command("show", run).stdout)
    assert told is not None
    assert command("resume", run).returncode == 2 and not started
    done = command(*shlex.split(told[1]))
    assert started and "started" in done.stderr
    said = command("recover", run, "--out", "new").stdout
    assert ("go on with: nasplat resume new" in said) and ("--trust-run" in said) == (what == "module")
    assert ("--ray-address 192.0.2.1:6379" in said) == (what == "address")


@pytest.mark.parametrize("what", ["a dangling link", "a pipe"])
def test_a_store_that_is_no_folder_is_said(command: Command, run: Path, what: str) -> None:
    if what == "a pipe":
        os.mkfifo(run / "artifacts")
    else:
        (run / "artifacts").symlink_to("absent")
    done = command("resume", run, "--evaluations", "3", "--trust-run")
    assert done.returncode == 2 and "no folder" in done.stderr and "delete it" in done.stderr
    assert ("link to absent" in done.stderr) == (what != "a pipe")


@pytest.mark.slow
@pytest.mark.parametrize("section", ["space", "benchmark", "strategy"])
def test_names_of_plug_ins_import_only_what_is_installed(
    command: Command, run: Path, tmp_path: Path, section: str
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    change(run, **{section: {"name": "evil:Evil"}})
    done = command("resume", run)
    assert done.returncode == 2 and "evil:Evil" in done.stderr and "evil" not in sys.modules


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png"])
def test_files_of_data_lie_below_its_folder(name: str) -> None:
    document = Manifest("image_folder").to_json() | {"parts": {"training": [[name, 1, 1, "00", 0]]}}
    with pytest.raises(RunError, match="must lie below the folder of the data"):
        Manifest.of_json(document)


def test_an_error_about_a_table_quotes_nothing_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush-1234567890,kind\nline,two\n")
    space = NASBench201()
    with pytest.raises(InputError, match="of these this one has kind") as refused:
        read_table(tmp_path / "secret", space, space.reference_io)
    assert "hush" not in str(refused.value) and "1234567890" not in str(refused.value)


# Texts that a run carries


def test_a_console_prints_a_string_as_one_line_and_keeps_its_own_markup() -> None:
    file = StringIO()
    terminal = SafeConsole(file=file, force_terminal=True, color_system="standard", soft_wrap=True)
    terminal.print(f"\n[yellow]note:[/] {escape(HOSTILE)}\n")
    assert file.getvalue() == (
        "\n\x1b[33mnote:\x1b[0m \\x1b[2Jgone\\x9b1m\\u202etxt\\nerror: forged\\r[red]:bomb:[/]\n\n"
    )


def test_a_bar_of_progress_names_files_in_one_line() -> None:
    terminal = SafeConsole(file=StringIO(), force_terminal=True, width=200)
    bar = Progress(LineColumn("{task.description}"), console=terminal)
    bar.add_task(f"reading {escape(HOSTILE)}")
    (line,) = terminal.render_lines(bar.get_renderable(), pad=False)
    assert "".join(segment.text for segment in line) == f"reading {printable(HOSTILE)}"


def test_warnings_of_packages_are_shown_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(message))
    with _warnings_printed():
        warnings.showwarning(HOSTILE, UserWarning, "module.py", 1)
    assert shown == ["\\x1b[2Jgone\\x9b1m\\u202etxt error: forged [red]:bomb:[/]"]


@pytest.mark.slow
def test_texts_of_a_run_are_printable_wherever_they_are_shown(
    command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {
        "verification": {"largest_difference": 0.0, "allowed": 0.0, "batches": [1]}, "cost": {"params": 1, "macs": 1},
        "analytic_metrics": {HOSTILE: 1.0}, "measured": {"split": HOSTILE, HOSTILE: 1.0}, "files": {},
        "protocol": HOSTILE, "unverified": HOSTILE,
    }  # fmt: skip
    monkeypatch.setattr("nasplat.export.bundle.export", lambda *_, **__: document)
    run = run.rename(tmp_path / f"run{HOSTILE.replace('/', '-')}")
    recorded = json.loads((run / ENVIRONMENT).read_text())
    recorded |= {"protocol": HOSTILE, "choice": HOSTILE}
    recorded["versions"]["numpy"] = HOSTILE
    (run / ENVIRONMENT).write_text(json.dumps(recorded))
    for words in (
        ("show", run), ("show", run, "--front"), ("runs", tmp_path), ("report", run), ("resume", run), ("test", run),
        ("export", run), ("recover", run), ("search", "--out", run),
    ):  # fmt: skip
        done = command(*words)
        said = done.stdout + done.stderr
        assert said and not UNPRINTABLE.search(said), words
        assert not any(line.startswith("error: forged") for line in said.splitlines()), words
    assert not UNPRINTABLE.search((run / "report.html").read_text())
    assert not UNPRINTABLE.search(escaped(HOSTILE))


@pytest.mark.slow
def test_a_script_prints_names_of_classes_and_files_in_a_printable_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = Preprocessing(channels=1, height=2, width=2, mean=(0.0,), std=(1.0,), classes=(HOSTILE,))
    (tmp_path / "predict.py").write_text(predict_script(how, None) or "")
    spec = importlib.util.spec_from_file_location("foreign_predict", tmp_path / "predict.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "foreign_predict", module)
    spec.loader.exec_module(module)

    class Session:
        def __init__(self, path: Path) -> None: ...

        def get_outputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="logits")]

        def run(self, outputs: list[str], given: dict[str, Any]) -> Any:
            return [np.zeros((1, 1))]

    monkeypatch.setattr(module.onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(module, "read", lambda path: None)
    monkeypatch.setattr(sys, "argv", ["predict.py", HOSTILE])
    assert module.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and printed.count("\\x1b") == 2 and not UNPRINTABLE.search(printed)


# A foreign repository as the working directory


def git(folder: Path, *arguments: str) -> str:
    """The output of a git command, with an author whom no configuration has to know."""
    author = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder, env=os.environ | author, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one committed file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file.txt").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def marking(tmp_path: Path) -> tuple[str, Path]:
    """A program that leaves a mark and passes its input on, and the mark."""
    program, mark = tmp_path / "program.sh", tmp_path / "mark"
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)
    return str(program), mark


@pytest.mark.slow
def test_a_revision_says_whether_tracked_files_were_changed(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    (repository / "untracked").touch()
    assert _revision(repository) == head
    (repository / "file.txt").write_text("two\n")
    assert _revision(repository) == f"{head}+changes"
    assert _revision(repository.parent) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["monitor", "filter", "process", "hook", "submodule"])
def test_a_revision_is_found_without_running_what_a_repository_names(
    repository: Path, tmp_path: Path, kind: str
) -> None:
    program, mark = marking(tmp_path)
    wanted = "+changes"
    match kind:
        case "monitor":
            git(repository, "config", "core.fsmonitor", program)
        case "filter" | "process":
            wanted = "+unknown"
            (repository / ".gitattributes").write_text("* filter=evil\n")
            git(repository, "config", f"filter.evil.{'clean' if kind == 'filter' else kind}", program)
        case "hook":
            (repository / "same.txt").write_text("one\n")
            git(repository, "add", "same.txt")
            git(repository, "commit", "-qm", "second")
            os.utime(repository / "same.txt", (1, 1))  # so that git writes the index anew, whatever the clock says
            hook = repository / ".git" / "hooks" / "post-index-change"
            hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
            hook.chmod(0o755)
        case "submodule":
            git(repository, "submodule", "add", "-q", str(repository), "inner")
            git(repository, "commit", "-qm", "second")
            git(repository / "inner", "config", "core.fsmonitor", program)
    (repository / "file.txt").write_text("two\n")
    os.utime(repository / "file.txt", (1, 1))
    expected = git(repository, "rev-parse", "HEAD") + wanted
    mark.unlink(missing_ok=True)
    assert _revision(repository) == expected
    assert not mark.exists()
    # What the test sets is what an unguarded git runs.
    subprocess.run(["git", "status"], cwd=repository, capture_output=True, check=False)
    assert mark.exists()


def test_a_git_that_does_not_say_whose_a_filter_is_still_tells_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before version 2.26."""

    def run(folder: Path, *words: str) -> str:
        if "--show-scope" in words:
            raise subprocess.CalledProcessError(129, "git")
        return "0123"

    monkeypatch.setattr(environment, "_git", run)
    assert _revision(Path()) == "0123+unknown"


@pytest.mark.slow
def test_a_missing_object_is_not_fetched(repository: Path, tmp_path: Path) -> None:
    program, mark = marking(tmp_path)
    Path(program).write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")  # a remote that answers nothing
    tree = git(repository, "rev-parse", "HEAD^{tree}")
    (repository / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    for name, value in {
        "extensions.partialClone": "origin", "remote.origin.promisor": "true", "remote.origin.url": f"ext::{program}",
        "protocol.ext.allow": "always", "core.repositoryFormatVersion": "1",
    }.items():  # fmt: skip
        git(repository, "config", name, value)
    assert _revision(repository) is None
    assert not mark.exists()
    subprocess.run(["git", "status"], cwd=repository, capture_output=True, check=False)
    assert mark.exists()


def test_the_revision_of_the_code_is_asked_for_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], dict[str, str]]] = []

    def run(words: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        assert isinstance(how["env"], dict)
        asked.append((words, how["env"]))
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    environment._revision_of_code()
    assert len(asked) == 4
    for words, given in asked:
        assert "core.fsmonitor=false" in words
        assert given["GIT_OPTIONAL_LOCKS"] == "0"
