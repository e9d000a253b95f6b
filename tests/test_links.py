"""Runs that are copied, shared, linked and damaged: nothing outside a run is deleted or overwritten."""

import errno
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from nasplat.artifact import Handle
from nasplat.cli.evaluation_record import SETTINGS, TRIALS, Record
from nasplat.errors import InputError, StorageError
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import CONFIG, DATA, ENVIRONMENT, LOCK, LOG
from nasplat.run.recovery import salvage
from nasplat.storage.artifact_store import SHARED, ArtifactStore
from nasplat.storage.drafts import delete_abandoned, marked
from nasplat.storage.files import new_folder
from nasplat.storage.locking import held
from nasplat.task import Measurement, Trained

CommandLine = Callable[..., subprocess.CompletedProcess[str]]

SEARCH = [
    "search", "--space", "demo_perceptron", "--benchmark", "demo_shared", "--strategy", "demo_shared",
    "--objective", "accuracy:max", "--objective", "params:min", "--evaluations", "8",
]  # fmt: skip


class File(NamedTuple):
    """A file as a tree is compared by it."""

    kind: str
    content: bytes


def tree(folder: Path) -> dict[str, File]:
    """All that is below a folder, by path; links are not followed."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            if path.is_symlink():
                entry = File("link", os.fsencode(path.readlink()))
            else:
                entry = File("folder", b"") if path.is_dir() else File("file", path.read_bytes())
            found[str(path.relative_to(folder))] = entry
    return found


def logged(run: Path) -> set[str]:
    """The digests that the outcomes of a run's log name."""
    found = set()
    for outcome in RunDirectory(run).history().outcomes:
        if isinstance(outcome, Trained):
            found.add(outcome.weights.digest)
        elif isinstance(outcome, Measurement):
            found |= {handle.digest for handle in outcome.artifacts.values()}
    return found


def digest_of(path: str) -> str:
    """The digest that a path ends with the file of; empty if it does not."""
    found = re.search(r"([0-9a-f]{2})/\.?([0-9a-f]{62})\.safetensors(\.[0-9a-f]{8})?$", path)
    return "" if found is None else found[1] + found[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this module keep their template."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def template(place: Path, shared_plugins: None, command: CommandLine) -> Path:
    """A run of a few trials, whose later generations have replaced the shared weights of earlier ones."""
    if not (place / "run").exists():
        assert command(*SEARCH, "--out", place / "run").returncode == 0
    return place / "run"


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(template, tmp_path / "runs" / "own"))


def linked_store(run: Path, target: Path) -> Path:
    """Put the artifacts of a run elsewhere, and a link in their place."""
    (run / "artifacts").rename(target)
    (run / "artifacts").symlink_to(target)
    return target


def foreign(folder: Path) -> dict[str, File]:
    """Files of others, two levels below a folder."""
    for name in ("ab/notes.txt", f"ab/{'c' * 62}.safetensors", "Photos/summer.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return tree(folder)


# The store


def test_a_store_that_is_a_link_is_said_and_nothing_below_it_is_deleted(
    run: Path, command: CommandLine, tmp_path: Path
) -> None:
    target = linked_store(run, tmp_path / "elsewhere")
    foreign(target)
    before = tree(target)
    refused = command("resume", run, "--evaluations", "16")
    assert (refused.returncode, tree(target)) == (2, before)
    assert "leave their weights outside the run" in refused.stderr and "--trust-run" in refused.stderr
    done = command("resume", run, "--evaluations", "16", "--trust-run")
    assert done.returncode == 0
    assert f"stay in {run / 'artifacts'}: it is a link to {target}" in " ".join(done.stderr.split())
    after = tree(target)
    assert before.items() <= after.items()
    new = {path for path in after.keys() - before.keys() if after[path].kind == "file"}
    assert {digest_of(path) for path in new - {SHARED}} <= logged(run)


def test_a_folder_in_the_store_that_is_a_link_is_left_alone(run: Path, command: CommandLine, tmp_path: Path) -> None:
    before = foreign(tmp_path / "others")
    (run / "artifacts" / "zz").symlink_to(tmp_path / "others")
    done = command("resume", run)
    assert done.returncode == 0 and f"{run / 'artifacts' / 'zz'}: it is a link" in " ".join(done.stderr.split())
    assert tree(tmp_path / "others") == before


def test_a_run_leaves_files_of_others_in_its_store(run: Path, command: CommandLine) -> None:
    foreign(run / "artifacts")
    before = tree(run / "artifacts")
    assert command("resume", run, "--evaluations", "16").returncode == 0
    gone = before.keys() - tree(run / "artifacts").keys()
    assert gone and {digest_of(path) for path in gone} <= logged(run)


@pytest.mark.slow
def test_two_runs_with_one_store_keep_the_weights_of_both(run: Path, command: CommandLine, tmp_path: Path) -> None:
    """The copy links to the store of the first, which is a folder as any other; the copy leaves a mark there."""
    copy = shutil.copytree(run, tmp_path / "runs" / "copy", ignore=shutil.ignore_patterns("artifacts"))
    (copy / "artifacts").symlink_to(run / "artifacts")
    before = tree(run / "artifacts")
    assert command("resume", copy, "--evaluations", "16", "--trust-run").returncode == 0
    done = command("resume", run, "--evaluations", "24")
    assert done.returncode == 0 and f"delete {run / 'artifacts' / SHARED} when" in " ".join(done.stderr.split())
    both = tree(run / "artifacts")
    assert before.items() <= both.items()
    (copy / "artifacts").unlink()
    (run / "artifacts" / SHARED).unlink()
    assert command("resume", run).returncode == 0
    assert len(tree(run / "artifacts")) < len(both) - 1


def test_a_mount_point_is_not_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(tmp_path / "run" / "artifacts")
    handle = store.put(b"weights")
    lstat = Path.lstat

    def mounted(path: Path) -> Any:
        status = lstat(path)
        return SimpleNamespace(st_dev=-1, st_mode=status.st_mode) if path == at else status

    monkeypatch.setattr(Path, "lstat", mounted)
    at = store.folder
    store.collect(set(), {handle.digest})
    assert store.get(handle) == b"weights" and "mount point" in store.notes()[0]
    at = store.path(handle).parent
    store.collect(set(), {handle.digest})
    assert store.get(handle) == b"weights"
    at = tmp_path
    store.collect(set(), {handle.digest})
    assert not store.path(handle).exists()


def test_a_hard_link_to_weights_keeps_its_content(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    handle = store.put(b"weights")
    (tmp_path / "other").hardlink_to(store.path(handle))
    store.collect(set(), {handle.digest})
    assert not store.path(handle).exists() and (tmp_path / "other").read_bytes() == b"weights"


def test_names_in_upper_case_are_none_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file system takes both names for one, the file that is spelt otherwise is somebody else's."""
    store = ArtifactStore(tmp_path / "artifacts")
    handle = store.put(b"weights")
    name = store.path(handle).name
    store.path(handle).rename(store.path(handle).with_name(name.upper()))
    folder = handle.digest[:2]
    store.collect(set(), {handle.digest})
    assert [path.name for path in (store.folder / folder).iterdir()] == [name.upper()]


def test_nothing_is_written_through_a_link_in_the_store(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    data, target = b"weights", tmp_path / "target"
    path = store.path(Handle.of(data))
    target.mkdir()
    store.folder.mkdir()
    path.parent.symlink_to(target)
    with pytest.raises(StorageError, match="which is a link"):
        store.put(data)
    assert not list(target.iterdir())
    path.parent.unlink()
    path.parent.mkdir()
    (target / "file").write_bytes(b"of another")
    path.symlink_to(target / "file")
    store.put(data)
    assert path.read_bytes() == data and (target / "file").read_bytes() == b"of another"


def test_a_damaged_artifact_is_written_again_but_not_in_a_store_that_is_a_link(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    handle = store.put(b"weights")
    store.path(handle).write_bytes(b"damage.")
    assert store.get(store.put(b"weights")) == b"weights"
    store.path(handle).write_bytes(b"damage.")
    store.folder.rename(tmp_path / "elsewhere")
    store.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="a damaged file has its name"):
        store.put(b"weights")
    assert store.path(handle).read_bytes() == b"damage."


def test_a_recovered_run_takes_no_weights_of_others_from_a_shared_store(run: Path, tmp_path: Path) -> None:
    other = ArtifactStore(linked_store(run, tmp_path / "elsewhere")).put(b"of another run")
    found = salvage(run)
    assert found.healthy and other.digest not in found.artifacts
    found.save(tmp_path / "saved")
    assert not RunDirectory(tmp_path / "saved").artifacts.path(other).exists()


def test_a_store_that_is_a_link_to_anywhere_is_not_searched(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path / "others")
    shutil.rmtree(run / "artifacts")
    (run / "artifacts").symlink_to(tmp_path / "others")
    named = sorted(logged(run))[0]
    mine = tmp_path / "others" / named[:2] / f"{named[2:]}.safetensors"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("of another run")
    read: list[Path] = []

    def recorded(path: Path, *most: int) -> bytes:
        read.append(path)
        return path.read_bytes()

    monkeypatch.setattr("nasplat.run.recovery.read_file", recorded)
    found = salvage(run)
    assert read == [run / "artifacts" / named[:2] / mine.name]
    assert not found.spoilt and not found.artifacts and found.missing_artifacts


def test_an_export_into_a_linked_folder_of_the_run_is_refused(run: Path, command: CommandLine, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with marked(target / ".network.0123abcd"):
        (target / ".network.0123abcd").mkdir(parents=True)
        with marked(target / ".network.0123abcd"):
            abandoned = {path.name for path in target.iterdir()}
    for name in abandoned - {".network.0123abcd"}:
        (target / name).touch()
    (run / "export").symlink_to(target)
    before = tree(target)
    assert len(before) == 2
    done = command("export", run)
    assert done.returncode == 2 and f"{run / 'export'} is a link to {target}" in " ".join(done.stderr.split())
    assert "--out" in done.stderr and tree(target) == before


def test_lost_weights_are_named_with_trial_and_remedy(run: Path, command: CommandLine, tmp_path: Path) -> None:
    best = RunDirectory(run).history().pick("best")
    assert best.task.weights is not None
    RunDirectory(run).artifacts.path(best.task.weights).unlink()
    done = command("export", run, "--out", tmp_path / "network")
    said = " ".join(done.stderr.split())
    assert done.returncode == 1 and f"trial {best.id}" in said and f"{best.task.weights} is missing" in said
    assert f"nasplat retrain {run} --pick {best.id}" in said


# Other files of a run


@pytest.mark.parametrize("name", [CONFIG, ENVIRONMENT, DATA, LOG, f"{LOG}-wal", LOCK])
@pytest.mark.parametrize("which", ["show", "resume", "recover"])
def test_a_file_of_a_run_that_is_a_link_is_refused(
    name: str, which: str, run: Path, command: CommandLine, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes((run / name).read_bytes() if (run / name).exists() else b"{}")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    before = target.read_bytes()
    done = command(which, run)
    assert done.returncode == 2 and f"{run / name} is a link" in " ".join(done.stderr.split())
    assert target.read_bytes() == before


def test_a_log_with_two_names_is_read_but_not_written(run: Path, command: CommandLine, tmp_path: Path) -> None:
    """As after `cp -al`: SQLite writes in place, and so into the run that the copy was made of."""
    (tmp_path / "copy").hardlink_to(run / LOG)
    before = (run / LOG).read_bytes()
    assert command("show", run).returncode == 0
    done = command("resume", run, "--evaluations", "16")
    assert done.returncode == 2 and "it is a hard link" in done.stderr
    assert (run / LOG).read_bytes() == before


def test_a_lock_that_is_a_link_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("of another")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    (tmp_path / "second").hardlink_to(tmp_path / "target")
    for name in ("lock", "second"):
        with pytest.raises(OSError, match="link"), held(tmp_path / name, seconds=0):
            pass
    assert (tmp_path / "target").read_text() == "of another"


@pytest.mark.parametrize("name", [SETTINGS, TRIALS])
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_an_evaluation_writes_into_no_file_of_others(name: str, link: Callable[..., None], tmp_path: Path) -> None:
    settings = {"scores": {"digest": ""}}
    Record.open(tmp_path / "record", settings)
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "record" / name).unlink(missing_ok=True)
    link(tmp_path / "record" / name, tmp_path / "target")
    with pytest.raises(InputError, match=r"it is a (hard )?link"):
        Record.open(tmp_path / "record", settings)


# Drafts


KILLED = """
import os, signal, sys
from pathlib import Path
from nasplat.storage.files import new_folder

with new_folder(Path(sys.argv[1])) as draft:
    (draft / "weights.safetensors").write_bytes(b"weights")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_the_draft_of_a_killed_process_goes_with_the_next_new_folder(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "network")], check=False)
    assert list(tmp_path.glob(".network.*/weights.safetensors"))
    with new_folder(tmp_path / "another"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_drafts_of_living_processes_and_folders_of_others_stay(tmp_path: Path) -> None:
    for name in (".network.0123abcd", ".foreign.0123abcd", ".linked.0123abcd", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".linked.0123abcd").rename(tmp_path / "kept")
    (tmp_path / ".linked.0123abcd").symlink_to(tmp_path / "target")
    linked = f".linked.0123abcd.nasplat-draft-{socket.gethostname()}"
    (tmp_path / linked).touch()
    (tmp_path / ".foreign.0123abcd.nasplat-draft").write_text("not a marker, markers are empty")
    before = tree(tmp_path)
    with marked(tmp_path / ".network.0123abcd"):
        with new_folder(tmp_path / "new"):
            pass
        during = tree(tmp_path)
    assert before.items() - during.items() == {(linked, File("file", b""))}
    assert during.keys() - before.keys() == {"new", linked.replace("linked", "network")}


def test_a_draft_of_another_host_stays_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock may be unknown here."""
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere/1")
    with marked(tmp_path / ".network.0123abcd"):
        marker = next(tmp_path.iterdir()).name
    assert marker.endswith("-elsewhere_1")
    monkeypatch.undo()
    (tmp_path / ".network.0123abcd").mkdir()
    (tmp_path / marker).touch()
    delete_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    os.utime(tmp_path / marker, (1, 1))
    delete_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_there_are_no_locks_folders_appear_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("nasplat.storage.drafts.held", refused)
    with new_folder(tmp_path / "first"), new_folder(tmp_path / "second"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


# A closed pipe


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--version"], ["runs", ".", "--json"], ["list"]])
def test_a_closed_pipe_ends_a_command_quietly_as_sigpipe_would(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run([sys.executable, "-m", "nasplat", *words], stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, b"")


# Any tree


def tangle(rng: random.Random, run: Path, outside: Path) -> None:
    """Put links, hard links, foreign files and names in upper case into a run's store, or share it."""
    own = [path for path in (run / "artifacts").glob("*/*") if path.is_file()]
    (outside / "deep" / "deeper").mkdir(parents=True)
    for number, path in enumerate(rng.sample(own, 3)):  # what looks like the run's own, but is elsewhere
        copy = outside / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        (outside / "deep" / "deeper" / f"{number}.txt").write_text("of others")
    store = run / "artifacts"
    for _ in range(rng.randrange(1, 7)):
        path = rng.choice(own)
        free = store / f"{rng.randrange(256):02x}" / f"{rng.randbytes(31).hex()}.safetensors"
        match rng.randrange(9):
            case 0 if not store.is_symlink():
                store.rename(outside / "store")
                store.symlink_to(outside / "store")
            case 1 if not (store / "zz").exists():
                (store / "zz").symlink_to(outside / "deep")
            case 2 if not free.parent.exists():
                free.parent.symlink_to(rng.choice([outside, outside / "deep", outside / path.parent.name]))
            case 3 if path.parent.is_dir() and not path.parent.is_symlink() and not store.is_symlink():
                path.parent.symlink_to(path.parent.rename(outside / f"moved-{rng.random()}"))
            case 4 if path.is_file() and not path.is_symlink():
                (outside / f"hard-{rng.random()}").hardlink_to(path)
            case 5 if path.is_file():
                shutil.copy(path, path.with_name(path.name.upper()))
            case 6 if not free.parent.is_symlink():
                free.parent.mkdir(exist_ok=True)
                free.write_bytes(rng.randbytes(8))
            case 7 if path.is_file() and not path.parent.is_symlink() and not store.is_symlink():
                path.symlink_to(path.rename(outside / f"file-{rng.random()}"))
            case 8 if not store.is_symlink():
                (store / "notes").mkdir(exist_ok=True)
                (store / "notes" / "read me.txt").write_text("of others")


@pytest.mark.sweep(20)
@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_linked_a_run_deletes_only_what_its_log_wrote(
    seed: int, run: Path, command: CommandLine, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    outside = tmp_path / "outside"
    outside.mkdir()
    tangle(rng, run, outside)
    before_outside, before = tree(outside), tree(run / "artifacts")
    budget = 0
    if rng.random() < 0.8:
        budget = rng.choice([8, 12, 16, 24])
        done = command("resume", run, "--evaluations", budget, "--trust-run")
        said = " ".join(done.stderr.split())
        # What is missing where a link was put is lost to its trials, and nothing is written through links in a store.
        assert done.returncode == 0 or (done.returncode == 1 and "which is a link: the folders of a store" in said), (
            said
        )
    if rng.random() < 0.5:
        RunDirectory(run).artifacts.collect(set(rng.sample(sorted(logged(run)), 2)), logged(run))
    after_outside, after = tree(outside), tree(run / "artifacts")
    written = logged(run)
    assert before_outside.items() <= after_outside.items(), "something outside the run is gone or changed"
    new = {path for path in after_outside.keys() - before_outside.keys() if after_outside[path].kind == "file"}
    assert all(path == f"store/{SHARED}" or digest_of(path) in written for path in new)
    assert not new or (run / "artifacts").is_symlink(), "a file was put through a link inside the store"
    gone = before.keys() - after.keys()
    assert {digest_of(path) for path in gone} <= written
    assert all(before[path].kind == "file" for path in gone)
    if budget > 8 and done.returncode == 0 and not (run / "artifacts").is_symlink():
        assert gone, "a run's own store is collected"
    changed = {path for path in before.keys() & after.keys() if before[path] != after[path]}
    assert {digest_of(path) for path in changed} <= written
