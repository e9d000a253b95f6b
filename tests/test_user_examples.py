"""The examples with a network, a training and data of the user's own do what they say."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import nasplat
from nasplat.artifact import MemoryArtifacts
from nasplat.authoring.function import function_benchmark
from nasplat.authoring.space import space
from nasplat.objective import Goal, Objective
from nasplat.options import construct
from nasplat.problem import Problem

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NEEDS = {"own_training": "sklearn", "lightning_module": "pytorch_lightning", "hugging_face_dataset": "datasets"}


@pytest.fixture(params=NEEDS)
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An example as a module."""
    pytest.importorskip(NEEDS[request.param], reason="install the extra that the example names")
    monkeypatch.setattr(nasplat, "space", space, raising=False)
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module(request.param)
    del sys.modules[request.param]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*log_every_n_steps")
def test_an_example_trains_and_tests(example: ModuleType) -> None:
    benchmark = construct("benchmark", function_benchmark(example.evaluate), example.space, epochs=2)
    goal = Goal((Objective("accuracy", True), Objective("params", False)))
    problem = Problem(benchmark.space, goal, io=benchmark.io, fidelity=benchmark.fidelity)
    largest = benchmark.space.parse("".join(gene.symbols[-1] for gene in example.space.genes))
    task, artifacts = problem.evaluate(largest), MemoryArtifacts()
    measurement = benchmark.measure(task, device="cpu", artifacts=artifacts)
    final = benchmark.final(measurement, device="cpu", artifacts=artifacts)
    chance = 1 / benchmark.io.outputs
    assert measurement.metrics["accuracy"] > 1.2 * chance and final.metrics["accuracy"] > 1.2 * chance
    assert benchmark.state_dict(measurement, artifacts=artifacts).keys() <= set(
        benchmark.space.build(task.architecture, benchmark.io).state_dict()
    )
