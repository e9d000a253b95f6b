"""What surrounds the program: shares without chmod, locks or shared memory, full disks, notebooks and terminals."""

import errno
import fcntl
import gzip
import json
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import filelock
import numpy as np
import pytest

from nasplat.benchmark import Preprocessing
from nasplat.cli.app import main
from nasplat.config import SearchConfig
from nasplat.data import pictures
from nasplat.errors import InputError, RunError, StorageError
from nasplat.export.predicting import predict_script
from nasplat.registry import BENCHMARKS, SEARCH_SPACES, Plugin
from nasplat.report.curves import learning_curves
from nasplat.report.drawing import default_style
from nasplat.run import environment
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import LOCK, LOG
from nasplat.run.recovery import salvage
from nasplat.storage import event_log
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.event_log import EventLog
from nasplat.storage.files import new_folder, refusal, scratch_folder, write_atomically
from nasplat.storage.locking import held, lacks_locks
from nasplat.testing.runs import event_trace, searched

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> SearchConfig:
    """A search of an instant, whose parts are known by name in this process."""
    monkeypatch.setitem(SEARCH_SPACES._plugins, "toy", Plugin("toy", "nasplat.testing:ToySpace", "tests"))
    monkeypatch.setitem(BENCHMARKS._plugins, "toy", Plugin("toy", "nasplat.testing:ToyBenchmark", "tests"))
    return config(12)


def config(evaluations: int) -> SearchConfig:
    return SearchConfig.read({
        "space": "toy", "benchmark": "toy", "strategy": "regularized_evolution", "objectives": ["accuracy:max"],
        "budget": {"evaluations": evaluations},
    })  # fmt: skip


SEARCH = ["search", "--space", "toy", "--benchmark", "toy", "--strategy", "random_search", "--objective",
          "accuracy:max", "--evaluations", "2", "--out", "new/run"]  # fmt: skip


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    return refuse


# Rights of files


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_files_and_folders_have_the_rights_that_the_umask_gives(mask: int, tmp_path: Path, toy: SearchConfig) -> None:
    with umask(mask):
        RunDirectory.create(tmp_path / "new" / "run", toy)
        with new_folder(tmp_path / "export") as draft:
            write_atomically(draft / "file", "text")
    paths = [tmp_path / "new", *(tmp_path / "new").rglob("*"), tmp_path / "export", tmp_path / "export" / "file"]
    assert len(paths) == 8
    # Versions of filelock before 3.21 gave a lock 0644, whatever the umask.
    for path in paths:
        if path.name != LOCK:
            assert rights(path) == (0o777 if path.is_dir() else 0o666) & ~mask, path


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EACCES], ids=errno.errorcode.get)
def test_a_folder_that_refuses_chmod_can_be_written(
    code: int, tmp_path: Path, toy: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = raising(OSError(code, os.strerror(code)))
    for owner, name in ((os, "chmod"), (os, "fchmod"), (Path, "chmod")):
        monkeypatch.setattr(owner, name, refuse)
    searched(tmp_path / "run", toy)
    run = RunDirectory(tmp_path / "run")
    assert run.artifacts.get(run.artifacts.put(b"weights")) == b"weights"
    assert len(run.history().measurements) == 12


# Places without shared memory


def unshared(database: Any, **options: Any) -> sqlite3.Connection:
    """As `sqlite3.connect` for a file system where SQLite knows of no shared memory."""
    return CONNECT(f"{Path(database).resolve().as_uri()}?vfs=unix-dotfile", uri=True, **options)


CONNECT: Callable[..., sqlite3.Connection] = sqlite3.connect


def journal_mode(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        found: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
        return found


@pytest.fixture
def rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log without write-ahead mode."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", unshared)
        EventLog.create(tmp_path / LOG).close()
    assert journal_mode(tmp_path / LOG) == "delete"
    return tmp_path / LOG


def test_without_a_file_for_shared_memory_the_log_keeps_a_rollback_journal(tmp_path: Path) -> None:
    (tmp_path / f"{LOG}-shm").mkdir()
    with closing(EventLog.create(tmp_path / LOG)) as log:
        log.append("ask", {}, elapsed=0.0)
    assert journal_mode(tmp_path / LOG) == "delete"
    (tmp_path / f"{LOG}-shm").rmdir()
    EventLog.create(tmp_path / "other").close()
    assert journal_mode(tmp_path / "other") == "wal"


def test_a_finished_log_is_read_where_there_is_no_file_for_shared_memory(tmp_path: Path) -> None:
    with closing(EventLog.create(tmp_path / LOG)) as log:
        log.append("ask", {}, elapsed=0.0)
    (tmp_path / f"{LOG}-shm").mkdir()
    with closing(EventLog.open(tmp_path / LOG)) as log:
        assert [event.kind for event in log.events()] == ["ask"]
    with pytest.raises(InputError, match="local disk"):
        EventLog.open(tmp_path / LOG, write=True)


def test_with_a_rollback_journal_a_slow_reader_stops_no_writer(rollback: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "PIECE", 7)
    with closing(EventLog.open(rollback, write=True)) as writer:
        for number in range(20):
            writer.append("ask" if number % 3 else "outcome", {"id": number}, elapsed=0.0)
        with closing(EventLog.open(rollback)) as reader:
            events = reader.events()
            assert next(events).seq == 1
            writer._connection.execute("PRAGMA busy_timeout=0")  # who waits for the reader is refused at once
            for _ in range(5):
                writer.append("ask", {}, elapsed=0.0)
            writer.save_snapshot({"at": writer.last})
            assert [event.seq for event in events] == list(range(2, 21))  # the log as it was when reading began
            assert [event.body["id"] for event in reader.events("outcome", after=1)] == [3, 6, 9, 12, 15, 18]
            assert reader.snapshot() == (25, {"at": 25})
            assert len(list(reader.events())) == 25


KILLED = """
import os, sys
from pathlib import Path
from nasplat.storage.event_log import EventLog
log = EventLog.open(Path(sys.argv[1]), write=True)
for number in range(5):
    log.append("ask", {"id": number}, elapsed=0.0)
log._connection.execute("PRAGMA cache_size=1")  # the next event is half written when the process ends
log._connection.execute("BEGIN")
for number in range(6, 500):
    log._connection.execute("INSERT INTO events VALUES (?, 'ask', 0.0, ?)", (number, '{"id": "%s"}' % ("x" * 900)))
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("read", ["reader", "writer", "recover"])
def test_with_a_rollback_journal_a_killed_writer_loses_nothing(
    read: str, tmp_path: Path, toy: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", unshared)
        run = RunDirectory.create(tmp_path / "run", toy)
    log = run.folder / LOG
    subprocess.run([sys.executable, "-c", KILLED, str(log)], check=True)
    assert (run.folder / f"{LOG}-journal").stat().st_size > 1000
    if read == "recover":
        found = salvage(run.folder)
        assert found.problem == "" and sorted(found.events) == [1, 2, 3, 4, 5]
        return
    with closing(EventLog.open(log, write=read == "writer")) as opened:
        assert [event.body["id"] for event in opened.events()] == [0, 1, 2, 3, 4]
        assert opened.last == 5


@pytest.mark.slow
def test_a_run_without_shared_memory_is_complete_resumes_and_is_read_meanwhile(
    tmp_path: Path, toy: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched(tmp_path / "usual", toy)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", unshared)
        RunDirectory.create(tmp_path / "run", config(7))
    append, seen = EventLog.append, []

    def watched(log: EventLog, *given: Any, **options: Any) -> int:
        seq = append(log, *given, **options)
        with closing(EventLog.open(tmp_path / "run" / LOG)) as reader:
            seen.append(reader.last == seq)
        return seq

    monkeypatch.setattr(EventLog, "append", watched)
    searched(tmp_path / "run", config(7))
    first = event_trace(tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    with run.writing():
        run.keep(run.config.model_copy(update={"budget": toy.budget}))
    searched(tmp_path / "run", toy)
    assert len(seen) > 25 and all(seen)
    trace = event_trace(tmp_path / "run")
    assert trace[: len(first)] == first
    told = [each for each in trace if not isinstance(each, tuple)]
    assert told == [each for each in event_trace(tmp_path / "usual") if not isinstance(each, tuple)]
    assert journal_mode(tmp_path / "run" / LOG) == "delete"
    assert not [path for path in run.folder.iterdir() if path.name.startswith(f"{LOG}-")]


# Places without locks


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (sqlite3.SQLITE_PROTOCOL, InputError, "--out"),
        (sqlite3.SQLITE_IOERR_LOCK, InputError, "--out"),
        (sqlite3.SQLITE_IOERR_SHMMAP, InputError, "--out"),
        (sqlite3.SQLITE_CANTOPEN, InputError, "--out"),
        (sqlite3.SQLITE_FULL, StorageError, "free disk space"),
        (sqlite3.SQLITE_IOERR_WRITE, StorageError, "check the disk"),
        (sqlite3.SQLITE_READONLY, InputError, "--out"),
    ],
)
def test_an_error_of_the_log_names_its_own_remedy(
    code: int, kind: type[Exception], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EventLog.create(tmp_path / LOG).close()
    monkeypatch.setattr(sqlite3, "connect", raising(sqlite_error(code)))
    for act in (partial(EventLog.create, tmp_path / "new"), partial(EventLog.open, tmp_path / LOG, write=True)):
        with pytest.raises(kind) as found:
            act()
        assert remedy in str(found.value)
        assert ("free disk space" in str(found.value)) == (remedy == "free disk space")
        assert ("local disk" in str(found.value)) == (kind is InputError)
    assert not (tmp_path / "new").exists()
    with pytest.raises(RunError) as found:
        EventLog.open(tmp_path / LOG)
    assert ("local disk" in str(found.value)) == (kind is InputError)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN])
def test_a_log_that_may_not_be_written_is_no_fault_of_the_file_system(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EventLog.create(tmp_path / LOG).close()
    monkeypatch.setattr(sqlite3, "connect", raising(sqlite_error(code)))
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(StorageError, match=r"cannot be written: .*; make it writable$"):
        EventLog.open(tmp_path / LOG, write=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_used_up_quota_is_a_full_disk(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(EventLog.create(tmp_path / LOG)) as log:
        monkeypatch.setattr(log, "_connection", Refusing(log._connection, sqlite_error(sqlite3.SQLITE_IOERR_WRITE)))
        with pytest.raises(StorageError, match=r"check the disk or the mount$"):
            log.append("ask", {}, elapsed=0.0)
        monkeypatch.setattr(tempfile, "TemporaryFile", raising(OSError(code, os.strerror(code))))
        with pytest.raises(StorageError, match=r"free disk space$"):
            log.append("ask", {}, elapsed=0.0)


class Refusing:
    """A connection that does not write."""

    def __init__(self, connection: sqlite3.Connection, error: sqlite3.Error) -> None:
        self.close = connection.close
        self.execute = raising(error)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_place_without_locks_is_refused_before_a_run_is_there(
    code: int, command: Command, toy: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched(tmp_path / "old", toy)
    monkeypatch.setattr(fcntl, "flock", raising(OSError(code, os.strerror(code))))
    done = command(*SEARCH)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "locks" in done.stderr and "--out" in done.stderr and "local disk" in done.stderr
    assert "free disk space" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    done = command("resume", "old", "--evaluations", "13")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "locks" in done.stderr and "local disk" in done.stderr
    assert command("show", "old").returncode == 0


def test_filelock_may_say_itself_that_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filelock.FileLock, "acquire", raising(NotImplementedError()))
    with pytest.raises(OSError) as found, held(tmp_path / LOCK, seconds=0):
        pass
    assert lacks_locks(found.value)


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (errno.ENOSPC, StorageError, "free disk space"),
        (errno.EDQUOT, StorageError, "free disk space"),
        (errno.EIO, StorageError, "check the disk or the mount"),
        (errno.EACCES, InputError, "choose another --out"),
    ],
)
def test_only_a_full_disk_is_to_be_given_room(
    code: int, kind: type[Exception], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(code, os.strerror(code))
    found = refusal(tmp_path, "written", error)
    assert type(found) is kind and remedy in str(found)
    monkeypatch.setattr("nasplat.storage.artifact_store.write_atomically", raising(error))
    with pytest.raises(StorageError) as put:
        ArtifactStore(tmp_path).put(b"weights")
    for said in (str(found), str(put.value)):
        assert ("free disk space" in said) == (remedy == "free disk space")


# Temporary files


def test_pictures_are_read_where_there_is_no_room_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5), dtype=np.uint8)
    head = bytes((0, 0, 8, 3)) + np.array(images.shape, ">u4").tobytes()
    (tmp_path / "images.gz").write_bytes(gzip.compress(head + images.tobytes()))
    (tmp_path / "labels.gz").write_bytes(gzip.compress(bytes((0, 0, 8, 1, 0, 0, 0, 6, 0, 1, 2, 0, 1, 2))))
    full = raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    for name in ("NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, full)
    read = pictures.read_idx(tmp_path / "images.gz", tmp_path / "labels.gz", shape=(4, 5), classes=3, most=6)
    assert read.labels.tolist() == [0, 1, 2, 0, 1, 2] and read.labels.dtype == np.int64
    rows = np.array([4, 1])
    assert read.read(rows).numpy().tolist() == images[rows][:, None].tolist()


def test_a_full_temporary_folder_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="TMPDIR"), scratch_folder() as folder:
        folder.joinpath("there").write_bytes(b"")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), scratch_folder() as folder:
        (folder / "absent").read_bytes()
    assert not folder.exists()
    nowhere = raising(FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"))
    monkeypatch.setattr(tempfile, "TemporaryDirectory", nowhere)
    with pytest.raises(StorageError, match="TMPDIR"), scratch_folder():
        pass


# Notebooks and terminals

DRAWN = """
import sys
from nasplat.report.curves import learning_curves
sys.stdout.write(learning_curves([], title="t", metric="m", top=1))
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.slow
def test_figures_do_not_depend_on_what_a_notebook_or_a_user_has_set(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 9\naxes.facecolor: black\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRAWN],
        env={**os.environ, "MPLBACKEND": "module_that_is_not_there", "MATPLOTLIBRC": str(tmp_path)},
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == learning_curves([], title="t", metric="m", top=1)


def test_a_backend_that_is_not_there_stays_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module_that_is_not_there")
    with default_style():
        assert os.environ["MPLBACKEND"] == "module_that_is_not_there"


NETWORK = """
import types, sys
runtime = types.ModuleType("onnxruntime")  # a stand-in that takes no second to load
class InferenceSession:
    def __init__(self, path): pass
    def get_outputs(self): return [types.SimpleNamespace(name="logits")]
    def run(self, names, inputs):
        import numpy
        return [numpy.array([[0.0, 1.0]])]
runtime.InferenceSession = InferenceSession
sys.modules["onnxruntime"] = runtime
import runpy
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_the_script_prints_what_a_terminal_lacks_in_escapes(encoding: str, tmp_path: Path) -> None:
    from PIL import Image

    how = Preprocessing(channels=1, height=4, width=4, white=255.0, mean=(0.0,), std=(1.0,), classes=("cat", "😀 猫"))
    script = predict_script(how, None)
    assert script is not None
    (tmp_path / "predict.py").write_text(script, encoding="utf-8")
    Image.new("L", (4, 4)).save(tmp_path / "猫.png")
    done = subprocess.run(
        [sys.executable, "-c", NETWORK, tmp_path / "predict.py", tmp_path / "猫.png", tmp_path / "犬.png"],
        env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, encoding=encoding,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.endswith("\\u732b.png: \\U0001f600 \\u732b 73.1 %, cat 26.9 %")
    (error,) = done.stderr.splitlines()
    assert "\\u72ac.png cannot be read" in error


@pytest.mark.slow
def test_the_command_line_prints_what_a_terminal_lacks_in_escapes(nasplat: Command) -> None:
    done = nasplat("show", "猫", PYTHONIOENCODING="ascii", COLUMNS="80")
    assert done.returncode == 2 and done.stderr.startswith("error: \\u732b does not exist")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.slow
def test_output_that_has_no_room_is_an_error_of_one_line() -> None:
    words = [sys.executable, "-m", "nasplat", "--version"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device; free disk space\n"


def test_a_working_directory_that_is_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["nasplat", "runs"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: the working directory has been deleted; change to one that exists\n"


# Threads


def test_the_environment_records_threads(tmp_path: Path, toy: SearchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    run = RunDirectory.create(tmp_path / "run", toy)
    expected = {"cpus": 2, "torch": 7, "variables": {"OMP_NUM_THREADS": "3"}}
    assert json.loads((run.folder / "environment.json").read_text())["threads"] == expected
    assert environment.spelt_threads(run.environment) == "2 CPUs, torch with 7 threads, OMP_NUM_THREADS=3"
    monkeypatch.delitem(sys.modules, "torch")
    assert environment.environment()["threads"] == {**expected, "torch": None}
    assert "torch" not in sys.modules
    assert environment.spelt_threads(environment.environment()) == "2 CPUs, OMP_NUM_THREADS=3"


@pytest.mark.parametrize("recorded", [{}, {"threads": 3}, {"threads": {"cpus": "two", "torch": 1, "variables": {}}}])
def test_a_run_without_threads_is_reported_without_them(recorded: dict[str, Any]) -> None:
    assert environment.spelt_threads(recorded) == ""
