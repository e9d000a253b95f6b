"""What all tests share: where real tables lie, and a hand on the command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if "NASPLAT_DATA" not in os.environ and _SHARED.is_dir():
    os.environ["NASPLAT_DATA"] = str(_SHARED)

# Tests run beside each other and beside Ray workers; more threads than cores would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def nasplat(tmp_path: Path) -> CommandLine:
    """Runs `nasplat ARGUMENTS` as a user would: a process of its own, in an empty directory."""

    def run(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nasplat", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def table() -> Path:
    """The real NAS-Bench-201 table of CIFAR-10."""
    path = Path(os.environ.get("NASPLAT_DATA", "")) / "nasbench201" / "cifar10.csv.gz"
    if not path.is_file():
        pytest.skip(f"the table {path} is missing; set NASPLAT_DATA to the folder above nasbench201/")
    return path
