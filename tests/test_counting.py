"""What a built network has is compared with what its space computes for it, wherever a network is built."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from torch import Tensor, nn

from nasplat.architecture import IO, Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.cost import Cost, counted_macs, counted_params
from nasplat.data.options import DataOptions
from nasplat.errors import TrialFailed
from nasplat.executors.executor import perform
from nasplat.latency.building import Plan, build_table
from nasplat.nn import counting
from nasplat.nn.counting import built
from nasplat.search_spaces.esrn import ESRNTiny
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.surrogates.zero_cost import Proxies
from nasplat.task import Evaluate, Failure, Measurement, Trained, TrainSupernet
from nasplat.testing.toy import ToySpace

CommandLine = Callable[..., CompletedProcess[str]]
SPACE = NASBench201(channels=4, cells=1)
CODE = "300300"


@pytest.fixture
def two_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The space claims that every network has two parameters."""
    costs = NASBench201.cost
    monkeypatch.setattr(NASBench201, "cost", lambda self, a, io: replace(costs(self, a, io), params=2, parts={}))


def evaluation(architecture: Architecture) -> Evaluate:
    return Evaluate(id=0, seed=0, architecture=architecture, fidelity=1)


def failed(benchmark: Classification, task: Evaluate, artifacts: MemoryArtifacts) -> Failure:
    outcome = perform(task, benchmark, device="cpu", artifacts=artifacts)
    assert isinstance(outcome, Failure), outcome
    return outcome


def test_a_network_that_memory_cannot_hold_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = NASBench201(channels=100_000)
    monkeypatch.setattr(space, "build", lambda *_: pytest.fail("it was built"))
    params = space.cost(space.parse(CODE), IO.image(3, 32, 10)).params
    with pytest.raises(TrialFailed, match=rf"has {params:,} parameters, .* GB of memory; choose") as failure:
        built(space, space.parse(CODE), IO.image(3, 32, 10))
    assert failure.value.kind == "too large"

    needed = 4 * SPACE.cost(SPACE.parse(CODE), IO.image(3, 32, 10)).params
    monkeypatch.setattr(counting, "CONTAINER_LIMIT", tmp_path / "memory.max")
    for limit, fits in ((f"{needed}\n", True), (f"{needed - 1}\n", False), ("max\n", True)):
        (tmp_path / "memory.max").write_text(limit)
        with nullcontext() if fits else pytest.raises(TrialFailed):
            built(SPACE, SPACE.parse(CODE), IO.image(3, 32, 10))


@pytest.mark.usefixtures("two_parameters")
def test_a_trial_of_a_network_that_costs_more_than_its_space_says_fails_and_names_both() -> None:
    benchmark = Classification(SPACE, epochs=1, data=DataOptions(subset=60))
    counted = sum(tensor.numel() for tensor in SPACE.build(SPACE.parse(CODE), benchmark.io).parameters())
    failure = failed(benchmark, evaluation(SPACE.parse(CODE)), MemoryArtifacts())
    assert failure.kind == "wrong cost"
    for said in ("nasbench201", " 2 parameters", CODE, f"{counted:,}"):
        assert said in failure.message


@pytest.mark.slow
def test_the_path_of_shared_weights_is_counted_too(request: pytest.FixtureRequest) -> None:
    benchmark, artifacts = Classification(SPACE, epochs=1, data=DataOptions(subset=60)), MemoryArtifacts()
    architecture = SPACE.parse(CODE)
    training = TrainSupernet(id=0, seed=0, architectures=(architecture,), epochs=1)
    trained = perform(training, benchmark, device="cpu", artifacts=artifacts)
    assert isinstance(trained, Trained), trained
    task = replace(evaluation(architecture), weights=trained.weights)
    assert isinstance(perform(task, benchmark, device="cpu", artifacts=artifacts), Measurement)
    request.getfixturevalue("two_parameters")
    assert failed(benchmark, task, artifacts).kind == "wrong cost"


@pytest.mark.usefixtures("two_parameters")
def test_zero_cost_proxies_count() -> None:
    with pytest.raises(TrialFailed, match="computes 2 parameters for 300300"):
        Proxies(SPACE, IO.image(channels=3, side=8, outputs=10), names=("synflow",))(SPACE.parse(CODE))


def test_super_resolution_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    space = ESRNTiny()
    monkeypatch.setattr(type(space), "cost", lambda self, a, io: Cost(params=2))
    benchmark = SuperResolution(space)
    monkeypatch.setattr(SuperResolution, "_patches", None)
    architecture = next(iter(space.members() or ()))
    with pytest.raises(TrialFailed, match="computes 2 parameters"):
        benchmark.training(architecture, device="cpu", seed=0)


class TwoParameters(ToySpace):
    """Perceptrons, said to have two parameters each."""

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        return Cost(params=2)


def test_a_table_of_latency_counts(tmp_path: Path) -> None:
    space = TwoParameters()
    plan = Plan(points=1, rounds=2, calibration=2, checked=2)
    with pytest.raises(TrialFailed, match="computes 2 parameters"):
        build_table(space, IO.image(channels=1, side=2, outputs=3), plan, tmp_path / "table.csv")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), [("params", "2 parameters"), ("macs", "2 multiply-accumulates")])
def test_nothing_is_exported_whose_cost_is_wrong(
    name: str, said: str, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ["--set", "space.channels=1", "--set", "space.cells=1", "--set", "benchmark.proxies=[synflow]"]
    done = command(
        "search", "--space", "nasbench201", "--benchmark", "zero_cost", *sets, "--set", "benchmark.data.side=4",
        "--strategy", "random_search", "--objective", "synflow:max", "--evaluations", "1", "--out", "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    costs = NASBench201.cost

    def claimed(self: NASBench201, architecture: Architecture, io: IO) -> Cost:
        cost = costs(self, architecture, io)
        return replace(cost, params=2, parts={}) if name == "params" else replace(cost, macs=2, parts={})

    monkeypatch.setattr(NASBench201, "cost", claimed)
    done = command("export", "run", "--untrained", "--out", "network")
    assert done.returncode == 1
    error = " ".join(done.stderr.split())
    assert said in error and "nasbench201" in error and "nothing was exported" in error
    assert not Path("network").exists()
    if name == "params":
        done = command("show", "run", "--front", "--latency")
        assert done.returncode == 1 and said in " ".join(done.stderr.split())


class Looks(nn.Module):
    """A convolution, and a look at values, for which a meta tensor has none."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 2, bias=False)
        self.frozen = nn.Parameter(torch.zeros(5), requires_grad=False)
        self.shared = self.convolution

    def forward(self, images: Tensor) -> Tensor:
        if images.sum().item() > 1:
            return images
        result: Tensor = self.convolution(images)
        return result


def test_counts_are_of_trainable_parameters_and_of_products() -> None:
    network, io = Looks(), IO((2, 3, 4), 3)
    assert counted_params(network) == 2 * 3 * 2 * 2
    assert counted_macs(network, io) == 2 * 3 * 2 * 2 * (2 * 3)  # at 2 x 3 positions
    assert network.training


def test_a_network_that_costs_what_its_space_says_is_as_from_its_space() -> None:
    architecture, io = ToySpace().parse("0123"), IO.image(channels=1, side=2, outputs=3)
    network = built(ToySpace(), architecture, io)
    assert str(network) == str(ToySpace().build(architecture, io))
