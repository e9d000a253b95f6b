"""Where and with what a run was made, so that it can be made again."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("nasplat", "numpy", "torch", "torchvision", "ray", "pymoo", "scikit-learn", "onnx", "onnxruntime")


def environment() -> dict[str, Any]:
    """Versions, platform, command line, and the git revision of the working directory and of the code."""
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
    """The commit of this code, where it is a checkout and not installed inside of somebody else's."""
    here = Path(__file__).resolve()
    try:
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
    except (OSError, subprocess.SubprocessError):
        return None
    return _revision(here.parent)


def _revision(folder: Path) -> str | None:
    """The commit checked out in a folder, with ``+changes`` where the work tree differs; None outside of git."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()
