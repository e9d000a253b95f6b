"""What a foreign folder may cause: the rows of `docs/trust.md`, each held by a test."""

import os
import subprocess
from pathlib import Path

import pytest

from nasplat.run import environment
from nasplat.run.environment import _revision

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
