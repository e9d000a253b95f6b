"""The software environment of a run, recorded so that the run can be reproduced."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("nasplat", "numpy", "torch", "torchvision", "ray", "pymoo", "scikit-learn", "onnx", "onnxruntime")


def environment() -> dict[str, Any]:
    """The package versions, the platform, the command line, and the git revisions of code and working directory."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "command": sys.argv,
        "git": {"code": _revision_of_code(), "working_directory": _revision(Path.cwd())},
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
    """The commit checked out in a folder, with ``+changes`` if tracked files were changed; None outside of git."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()
