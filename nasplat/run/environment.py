"""The software environment of a run, recorded so that the run can be reproduced."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("nasplat", "numpy", "torch", "torchvision", "ray", "pymoo", "scikit-learn", "onnx", "onnxruntime")

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""The variables that limit the threads of numerical libraries."""


def environment() -> dict[str, Any]:
    """The package versions, the platform, the command line, the threads, and the git revisions of code and folder."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "command": sys.argv,
        "threads": _threads(),
        "git": {"code": _revision_of_code(), "working_directory": _revision(Path.cwd())},
    }


def spelt_threads(recorded: Mapping[str, Any]) -> str:
    """The recorded threads as text; empty for a run of a version that did not record them."""
    match recorded.get("threads"):
        case {"cpus": int(cpus), "torch": int() | None as torch, "variables": dict(variables)}:
            words = [f"{cpus} CPU{'s' if cpus > 1 else ''}"]
            words += [] if torch is None else [f"torch with {torch} thread{'s' if torch > 1 else ''}"]
            return ", ".join([*words, *(f"{name}={value}" for name, value in variables.items())])
    return ""


def _threads() -> dict[str, Any]:
    """The CPUs that this process may use, its threads in torch, and the variables that limit them.

    Results in floating point depend on them. Workers of Ray have as many as the configuration gives them CPUs.
    """
    torch = sys.modules.get("torch")  # a search that does not need it is not to load it
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "torch": None if torch is None else torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in THREADS if name in os.environ},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision_of_code() -> str | None:
    """The commit of this code. None if git does not track it, for example if it is installed in another checkout."""
    here = Path(__file__).resolve()
    try:
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
    except (OSError, subprocess.SubprocessError):
        return None
    return _revision(here.parent)


def _revision(folder: Path) -> str | None:
    """The commit checked out in a folder, with ``+changes`` if tracked files were changed; None outside of git.

    A repository may be anybody's, and its configuration can name programs. None of them is run: where it names filters
    of files, which a comparison would run, the mark is ``+unknown``; so it is with a git before 2.26, which does not
    say whose configuration names them.
    """
    try:
        head = _git(folder, "rev-parse", "HEAD")
        if _has_filters(folder):
            return f"{head}+unknown"
        # Submodules have configurations of their own, so only their commits are compared.
        status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
        return head + ("+changes" if _git(folder, *status) else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _has_filters(folder: Path) -> bool:
    """Whether the configuration of the repository itself, not that of its user, has filters; True if unknown."""
    try:
        listed = _git(folder, "config", "--list", "--show-scope", "--name-only", "-z").split("\0")
    except subprocess.CalledProcessError:
        return True
    settings = zip(listed[::2], listed[1::2], strict=False)
    return any(scope in ("local", "worktree") and name.startswith("filter.") for scope, name in settings)


def _git(folder: Path, *arguments: str) -> str:
    """The output of a git command that runs no monitor and no hook, writes nothing and fetches nothing."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    harmless = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
    done = subprocess.run(
        ["git", *harmless, *arguments],
        cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=10,
    )  # fmt: skip
    return done.stdout.strip()
