"""The check of everything on a GPU, run through on a processor, where its figures mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / "performance" / "gpu_check.py"


def check(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(CHECK), "--device", "cpu", "--tiny", "--folder", str(folder), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.slow
def test_every_step_runs_through_and_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "check"
    first = check(folder, "--json")
    assert first.returncode == 0, first.stderr[-4000:]
    known = json.loads(first.stdout)
    assert known["where"]["device"] and known["where"]["tiny"]
    assert {name: row["passed"] for name, row in known["steps"].items()} == dict.fromkeys(
        ("throughput", "supernet_step", "workers", "latency", "cars", "super_resolution"), True
    ), known
    steps = known["steps"]
    assert steps["throughput"]["figures"]["float32"]["pictures_per_second"] > 0
    assert steps["workers"]["figures"]["2 workers"]["trials"] == 4
    assert set(steps["cars"]["figures"]["verified"]["formats"]) == {"onnx", "pt2", "source"}
    assert [each["final"]["split"] for each in steps["cars"]["figures"]["tested"]] == ["test"]
    again = check(folder)
    assert again.returncode == 0 and "…" not in again.stderr  # nothing was left to do
    assert again.stdout.count("passed") == 6


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "torch sees no CUDA device" in done.stderr
    assert not list(tmp_path.iterdir())
