"""The minimal plug-in of each kind in `examples/plugins`: it is installed, keeps its contract, and is searched with."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from numpy.random import default_rng

from nasplat.artifact import MemoryArtifacts
from nasplat.errors import InputError
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.testing import BENCHMARK_CHECKS, PREDICTOR_CHECKS, SEARCH_SPACE_CHECKS, STRATEGY_CHECKS
from nasplat_example.benchmark import Formula
from nasplat_example.predictor import Nearest
from nasplat_example.space import MLP
from nasplat_example.strategy import Mutation

PLUGINS = Path(__file__).resolve().parents[1] / "examples" / "plugins"


def named(check: Callable[..., None]) -> str:
    """A check's name, as pytest shows it."""
    return check.__name__


@pytest.mark.parametrize("check", SEARCH_SPACE_CHECKS, ids=named)
def test_the_search_space_keeps_its_contract(check: Callable[..., None]) -> None:
    check(MLP(), Formula(MLP()).io)


@pytest.mark.parametrize("check", BENCHMARK_CHECKS, ids=named)
def test_the_benchmark_keeps_its_contract(check: Callable[..., None]) -> None:
    check(lambda: Formula(MLP()))


def test_a_benchmark_needs_no_test_split() -> None:
    benchmark, artifacts = Formula(MLP()), MemoryArtifacts()
    problem = Problem.of(benchmark, Goal((Objective("accuracy", True),)))
    task = problem.evaluate(benchmark.space.sample(default_rng(0)))
    measurement = benchmark.measure(task, device="cpu", artifacts=artifacts)
    with pytest.raises(InputError, match=r"the benchmark Formula has no test split; .* `nasplat retrain --benchmark`"):
        benchmark.final(measurement, device="cpu", artifacts=artifacts)


@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
def test_the_strategy_keeps_its_contract(check: Callable[..., None]) -> None:
    check(Mutation)


@pytest.mark.parametrize("check", PREDICTOR_CHECKS, ids=named)
def test_the_predictor_keeps_its_contract(check: Callable[..., None]) -> None:
    check(Nearest)


@pytest.mark.slow
def test_they_are_installed_and_used_by_their_names(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PLUGINS, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(source)], check=True)
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]

    def nasplat(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "nasplat", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    described = json.loads(nasplat("list", "strategies", "example_mutation", "--json"))
    assert (described["origin"], described["options"]) == ("nasplat-example", [])
    found = json.loads(
        nasplat(
            "search", "--space", "example_mlp", "--benchmark", "example_formula", "--strategy", "example_mutation",
            "--objective", "accuracy:max", "--objective", "params:min", "--evaluations", "8", "--out", "run", "--json",
        )
    )  # fmt: skip
    assert found["outcomes"]["measured"] >= 5 and found["front"]  # it ends where every mutant of the best is known
    fitted = json.loads(
        nasplat("predictor", "fit", "run", "--predictor", "example_nearest", "--folds", "0", "--out", "p", "--json")
    )
    assert fitted["predictor"] == "example_nearest"
