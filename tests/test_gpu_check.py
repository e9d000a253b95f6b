"""The check of everything on a GPU, run through on a processor, where its figures mean nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpu_check

CHECK = Path(__file__).parents[1] / "performance" / "gpu_check.py"


def check(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(CHECK), "--device", "cpu", "--tiny", "--folder", str(folder), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


STEPS: dict[str, Callable[[Any], bool]] = {
    "throughput": lambda figures: figures["float32"]["pictures_per_second"] > 0,
    "supernet_step": bool,
    "workers": lambda figures: figures["2 workers"]["trials"] == 4,
    "latency": bool,
    "cars": lambda figures: (
        set(figures["verified"]["formats"]) == {"onnx", "pt2", "source"}
        and [each["final"]["split"] for each in figures["tested"]] == ["test"]
    ),
    "super_resolution": bool,
    "full_stack": lambda figures: figures["packed_is_equal"] and figures["largest_difference_of_errors"] < 1e-6,
    "balanced_binary": lambda figures: figures["packed_is_equal"] and figures["largest_difference_of_errors"] < 1e-6,
    "instance_pruning": lambda figures: 0.5 < figures["share"] == figures["share_on_the_cpu"] <= 0.7,
    "calibration": lambda figures: figures["largest_difference"] < 1e-6,
    "generation": lambda figures: figures["largest_relative_difference"] < 1e-6 and figures["frechet"] > 0,
    "picking": lambda figures: figures["largest_difference"] < 1e-4 and figures["loss"] > 0,
}
"""The steps by name, with what is seen of their figures."""


ONE = pytest.mark.sweep(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        *(pytest.param([name], marks=[ONE, pytest.mark.ray] if name == "workers" else ONE, id=name) for name in STEPS),
        pytest.param([*STEPS], marks=[pytest.mark.ray, pytest.mark.sweep(0)], id="all"),
    ],
)
def test_every_step_runs_through_and_is_kept(steps: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "check"
    first = check(folder, "--json", "--only", *steps)
    assert first.returncode == 0, first.stderr[-4000:]
    known = json.loads(first.stdout)
    assert known["where"]["device"] and known["where"]["tiny"]
    assert {name: row["passed"] for name, row in known["steps"].items()} == dict.fromkeys(steps, True), known
    assert all(STEPS[step](known["steps"][step]["figures"]) for step in steps)
    again = check(folder, "--only", *steps)
    assert again.returncode == 0 and "…" not in again.stderr  # nothing was left to do
    assert again.stdout.count("passed") == len(steps)


def test_the_steps_are_all_there_are() -> None:
    assert set(STEPS) == set(gpu_check.STEPS)


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "torch sees no CUDA device" in done.stderr
    assert not list(tmp_path.iterdir())
