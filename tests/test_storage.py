"""Disks that are full, places that cannot be written, and two processes on one run."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import nasplat.driver.loop
from nasplat.cli.app import main
from nasplat.export import bundle
from nasplat.export.verification import Verification
from nasplat.report import page
from nasplat.run import directory, recovery
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import LOG
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.event_log import EventLog
from nasplat.task import Outcome, Spent

PATIENCE = 300.0
"""Seconds after which a test stops waiting for a process."""

VERIFIED = {"random": asdict(Verification(0.0, 1.0, (1,))), "real": None}
"""What is said of an export that is not in question."""

Done: TypeAlias = subprocess.CompletedProcess[str]
CommandLine: TypeAlias = Callable[..., Done]

SEARCH = [
    "search", "--space", "nasbench201", "--set", "space.channels=1", "--set", "space.cells=1", "--benchmark",
    "classification", "--set", "benchmark.epochs=1", "--set", "benchmark.batch_size=512", "--strategy",
    "regularized_evolution", "--set", "strategy.population=4", "--set", "strategy.sample=2",
    "--objective", "accuracy:max",
]  # fmt: skip
EVALUATIONS = "10"


def call(*arguments: str) -> int:
    before, sys.argv = sys.argv, ["nasplat", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `nasplat ARGUMENTS` in this process, in an empty directory, with a snapshot every few events."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nasplat.driver.loop, "SNAPSHOT_EVENTS", 6)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = call(*arguments)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nothing disturbed."""
    run = tmp_path_factory.mktemp("template") / "run"
    assert call(*SEARCH, "--evaluations", EVALUATIONS, "--out", str(run)) == 0
    return run


def trials(run: Path) -> list[Outcome]:
    """The outcomes of a run without what they took."""
    return [replace(outcome, spent=Spent()) for outcome in RunDirectory(run).history().outcomes]


def listing(folder: Path) -> dict[str, bytes]:
    """The files below a folder, but the lock, and what SQLite may leave beside a log that says nothing."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != "writer.lock"
        and not path.name.endswith("-shm")
        and (path.stat().st_size or not path.name.endswith("-wal"))
    }


def hidden(folder: Path) -> list[Path]:
    """What has a temporary name."""
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


# Full disks


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow, which to a program is a disk that is full; the system itself says so, not a stand-in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_at(patch: pytest.MonkeyPatch, owner: Any, name: str, nth: int) -> list[int]:
    """From the nth call of a function on the disk is full while it runs; the list has an item for each such call."""
    original = getattr(owner, name)
    before: list[int] = []
    struck: list[int] = []

    def limited(*arguments: Any, **options: Any) -> Any:
        before.append(1)
        if len(before) < nth:
            return original(*arguments, **options)
        struck.append(len(before))
        with full_disk():
            return original(*arguments, **options)

    patch.setattr(owner, name, limited)
    return struck


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "nth"),
    [
        pytest.param(EventLog, "append", 1, id="the first event"),
        pytest.param(EventLog, "append", 2, id="the first ask"),
        pytest.param(EventLog, "append", 9, id="an outcome"),
        pytest.param(EventLog, "save_snapshot", 1, id="the first snapshot"),
        pytest.param(EventLog, "save_snapshot", 2, id="a snapshot"),
        pytest.param(ArtifactStore, "put", 1, id="the first artifact"),
        pytest.param(ArtifactStore, "put", 4, id="an artifact"),
    ],
)
def test_a_search_on_a_full_disk_stops_and_goes_on_to_the_same_trials(
    owner: Any, name: str, nth: int, template: Path, command: CommandLine, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        struck = fill_at(patch, owner, name, nth)
        done = command(*SEARCH, "--evaluations", EVALUATIONS, "--out", "run")
        assert struck
    assert done.returncode == 1
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
    assert done.stderr.endswith("free disk space, then go on with: nasplat resume run\n")
    assert not hidden(tmp_path)
    reached = trials(tmp_path / "run")
    assert len(reached) < int(EVALUATIONS)
    assert reached == trials(template)[: len(reached)]
    done = command("resume", "run")
    assert done.returncode == 0, done.stderr
    assert trials(tmp_path / "run") == trials(template)
    run = RunDirectory(tmp_path / "run")
    for measurement in run.history().measurements:
        for handle in measurement.artifacts.values():
            run.artifacts.get(handle)  # which refuses what is not whole


@pytest.mark.parametrize(
    ("owner", "name"),
    [(directory, "write_atomically"), (EventLog, "open")],
    ids=["rewriting the configuration", "opening the log"],
)
def test_resuming_on_a_full_disk_stops_and_goes_on_when_there_is_room(
    owner: Any, name: str, template: Path, command: CommandLine, tmp_path: Path
) -> None:
    shutil.copytree(template, "run")
    before = listing(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        # Reading opens the log too, which a full disk does not keep it from where nothing is to be written.
        struck = fill_at(patch, owner, name, 2 if name == "open" else 1)
        done = command("resume", "run", "--evaluations", "12")
        assert struck
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.endswith("free disk space, then go on with: nasplat resume run\n")
    assert listing(tmp_path) == before
    assert not hidden(tmp_path)
    assert command("resume", "run", "--evaluations", "12").returncode == 0
    assert trials(tmp_path / "run")[:10] == trials(template)
    assert RunDirectory(tmp_path / "run").config.budget.evaluations == 12


@pytest.mark.parametrize(("owner", "name"), [(directory, "write_atomically"), (EventLog, "create")])
def test_a_run_is_not_begun_on_a_full_disk(owner: Any, name: str, command: CommandLine, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert isinstance(fill_at(patch, owner, name, 1), list)
        done = command(*SEARCH, "--evaluations", "1", "--out", "new/deep/run")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "cannot be created" in done.stderr and "free disk space" in done.stderr
    assert not list(tmp_path.iterdir())


def write_weights(network: Any, io: Any, path: Path, **how: Any) -> None:
    path.write_bytes(b"onnx")


@pytest.mark.parametrize(
    ("owner", "name", "arguments"),
    [
        pytest.param(page, "write_atomically", ["report", "run"], id="report"),
        pytest.param(bundle, "verified", ["export", "run"], id="export, at its end"),
        pytest.param(bundle, "_network", ["export", "run", "--out", "new/deep"], id="export, at its weights"),
        pytest.param(recovery, "write_atomically", ["recover", "run", "--out", "new/deep"], id="recover"),
        pytest.param(shutil, "copyfile", ["recover", "run", "--out", "new"], id="recover, at its copy"),
    ],
)
def test_a_result_is_whole_or_not_there_on_a_full_disk(
    owner: Any, name: str, arguments: list[str], template: Path, command: CommandLine, tmp_path: Path
) -> None:
    shutil.copytree(template, "run")
    before = listing(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "write_onnx", write_weights)
        patch.setattr(bundle, "verified", lambda *given, **how: VERIFIED)
        patch.setattr(bundle, "measured_latency", lambda *given, **how: None)
        if owner is bundle:  # what follows the call is what has no room
            original = getattr(bundle, name)
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)

            def then_full(*given: Any, **options: Any) -> Any:
                result = original(*given, **options)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1, limit[1]))
                return result

            patch.setattr(bundle, name, then_full)
            try:
                done = command(*arguments)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        else:
            struck = fill_at(patch, owner, name, 1)
            done = command(*arguments)
            assert struck
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "free disk space" in done.stderr
    assert listing(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "export").exists()


# Places that cannot be written


@contextmanager
def sealed(folder: Path) -> Iterator[None]:
    """Nothing below a folder can be written: by its permissions, or for the superuser by a mount that is read-only."""
    if os.geteuid() != 0:
        paths = [folder, *folder.rglob("*")]
        modes = {path: path.stat().st_mode for path in paths}
        for path in reversed(paths):
            path.chmod(modes[path] & ~0o222)
        try:
            yield
        finally:
            for path in paths:
                path.chmod(modes[path])
        return
    for options in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
        if shutil.which("mount") is None or subprocess.run(["mount", *options], capture_output=True).returncode:
            subprocess.run(["umount", str(folder)], capture_output=True, check=False)
            pytest.skip("the superuser can write everywhere, and mounting read-only is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_in_a_read_only_folder_reading_works_and_writing_is_refused(
    template: Path, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "write_onnx", write_weights)
    monkeypatch.setattr(bundle, "verified", lambda *given, **how: VERIFIED)
    monkeypatch.setattr(bundle, "measured_latency", lambda *given, **how: None)
    (tmp_path / "sealed").mkdir()
    shutil.copytree(template, tmp_path / "sealed" / "run")
    (tmp_path / "config.yaml").write_text((template / "config.yaml").read_text())
    before = listing(tmp_path / "sealed")
    with sealed(tmp_path / "sealed"):
        for arguments in (
            ["show", "sealed/run"],
            ["show", "sealed/run", "--front"],
            ["runs", "sealed"],
            ["recover", "sealed/run"],
            ["recover", "sealed/run", "--out", "copy"],
            ["report", "sealed/run", "--out", "report.html"],
            ["export", "sealed/run", "--out", "network"],
        ):
            done = command(*arguments)
            assert (done.returncode, done.stderr) == (0, ""), (arguments, done.stderr)
        assert json.loads(command("runs", "sealed", "--json").stdout)[0]["status"] == "finished"
        outside = sorted(path.name for path in tmp_path.iterdir())
        for arguments in (
            ["resume", "sealed/run", "--evaluations", "12"],
            ["show", "sealed/run", "--front", "--test"],  # a final measurement is recorded, or not made
            ["test", "sealed/run"],
            ["report", "sealed/run"],
            ["export", "sealed/run"],
            ["recover", "sealed/run", "--out", "sealed/new"],
            ["search", "config.yaml", "--out", "sealed/new"],
            ["search", "config.yaml", "--out", "sealed/new/deep"],
        ):
            done = command(*arguments)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), (arguments, done.stderr)
            assert done.stderr.startswith("error: sealed/"), done.stderr
        monkeypatch.chdir(tmp_path / "sealed")
        done = command("search", "../config.yaml")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        monkeypatch.chdir(tmp_path)
        assert listing(tmp_path / "sealed") == before
        assert sorted(path.name for path in tmp_path.iterdir()) == outside
    assert not hidden(tmp_path)


# Two processes


@pytest.mark.slow
def test_a_run_has_one_writer_and_any_number_of_readers(command: CommandLine, tmp_path: Path) -> None:
    words = [*SEARCH, "--evaluations", "100000", "--out", "run"]
    with subprocess.Popen(
        [sys.executable, "-m", "nasplat", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        try:
            until = time.monotonic() + PATIENCE
            while not (tmp_path / "run").exists() or not RunDirectory(tmp_path / "run").history().outcomes:
                assert time.monotonic() < until
                time.sleep(0.1)
            for arguments in (["resume", "run"], ["search", *words[1:]], ["recover", "run", "--out", "new"]):
                done = command(*arguments)
                assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
                assert done.stderr.startswith("error: run "), done.stderr
            assert not (tmp_path / "new").exists()
            for arguments in (["show", "run"], ["show", "run", "--front"], ["runs", "."], ["report", "run"]):
                done = command(*arguments)
                assert (done.returncode, done.stderr) == (0, ""), done.stderr
            assert json.loads(command("runs", ".", "--json").stdout)[0]["status"] == "running"
            assert writer.poll() is None  # nothing of this has disturbed it
            writer.send_signal(signal.SIGINT)
            _, said = writer.communicate(timeout=PATIENCE)
        finally:
            writer.kill()
    assert writer.returncode == 130
    assert "nasplat resume run" in said
    seen = len(RunDirectory(tmp_path / "run").history().asked)
    assert command("resume", "run", "--evaluations", str(seen)).returncode == 0


def test_a_run_that_appears_in_the_meantime_is_left_alone(
    template: Path, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "runs" / "regularized_evolution-nasbench201-1"

    def overtaken() -> dict[str, Any]:
        shutil.copytree(template, target)
        return {}

    monkeypatch.setattr(directory, "environment", overtaken)
    done = command(*SEARCH, "--evaluations", "1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "exists; choose another --out" in done.stderr
    assert listing(target) == listing(template)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [target.name]


@pytest.mark.slow
def test_two_searches_at_the_same_instant_get_a_folder_each_or_one_is_refused(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "nasplat", *SEARCH, "--evaluations", "2"]
    both = [
        subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE)[1] for process in both]
    codes = [process.returncode for process in both]
    assert set(codes) <= {0, 2}, said
    made = sorted((tmp_path / "runs").iterdir())
    assert len(made) == codes.count(0) >= 1
    for code, text in zip(codes, said, strict=True):
        assert (text.count("\n"), "exists; choose another --out" in text) == ((0, False) if code == 0 else (1, True))
    for run in made:
        assert len(RunDirectory(run).history().outcomes) == 2
        assert (run / LOG).exists()
