"""Latency: what is timed, what is said beside the figure, and that nothing else shares the device meanwhile."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.cli import main
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.errors import InputError
from nasplat.executors.inline import InlineExecutor
from nasplat.latency.measuring import exported, measure_latency, onnx_passes, passes
from nasplat.options import construct
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate

IMAGES = IO.image(channels=2, side=5, outputs=3)
SPACE = NASBench201(channels=4, cells=1)


class Sleeper(nn.Module):
    """Sleeps so many milliseconds a call, and keeps under what conditions it was called."""

    def __init__(self, *milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds
        self.calls = 0
        self.taken: list[float] = []
        self.conditions: set[tuple[Any, ...]] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.conditions.add(
            (tuple(images.shape), self.training, torch.is_grad_enabled(), torch.get_num_threads(), images.device.type)
        )
        began = time.perf_counter()
        time.sleep(self.milliseconds[self.calls % len(self.milliseconds)] / 1e3)
        self.taken.append((time.perf_counter() - began) * 1e3)  # a busy machine wakes sleepers late
        self.calls += 1
        return images


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of a twentieth of a second."""
    monkeypatch.setattr("nasplat.latency.measuring.SECONDS", 0.05)


@pytest.mark.usefixtures("brief")
def test_the_figure_is_the_time_of_one_pass_under_the_conditions_that_are_stated() -> None:
    sleeper = Sleeper(4)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = measure_latency(sleeper, IMAGES, batch=3, threads=2, device="cpu")
    assert found.median_ms == pytest.approx(median(sleeper.taken), rel=0.3, abs=1)
    assert found.median_ms >= 4 and found.iqr_ms >= 0
    assert (found.batch, found.threads, found.device) == (3, 2, "cpu")
    assert sleeper.conditions == {((3, 2, 5, 5), False, False, 2, "cpu")}
    assert sleeper.training  # as it came
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert 5 <= found.runs < sleeper.calls  # and some passes to warm up


@pytest.mark.usefixtures("brief")
def test_a_slow_network_is_timed_more_than_once() -> None:
    sleeper = Sleeper(60, 70)  # one pass is longer than a whole measurement would be
    found = measure_latency(sleeper, IMAGES, batch=1, threads=1, device="cpu")
    assert found.runs >= 5
    assert found.median_ms == pytest.approx(median(sleeper.taken), rel=0.3)
    assert found.median_ms >= 60
    assert found.iqr_ms > 0


@pytest.mark.slow
def test_the_least_is_a_single_pass_as_in_tables_and_not_the_mean_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    @contextmanager
    def passes(*arguments: Any, **conditions: Any) -> Iterator[Callable[[int], list[float]]]:
        asked.append(conditions)
        yield lambda number: [1e6] * number  # longer than any block takes

    monkeypatch.setattr("nasplat.latency.measuring.passes", passes)
    monkeypatch.setattr("nasplat.latency.measuring.LEAST_SECONDS", 0.01)
    found = measure_latency(nn.Flatten(), IMAGES, batch=2, threads=1, device="cpu")
    assert found.least_ms == 1e6 > found.median_ms and asked == [{"batch": 2, "threads": 1, "device": "cpu"}]


@pytest.mark.parametrize("threads", [1, 2])
def test_passes_are_timed_one_by_one(threads: int) -> None:
    sleeper = Sleeper(3, 9)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    with passes(sleeper, (2, 5, 5), batch=3, threads=threads, device="cpu") as timed:
        times = timed(6)
    beyond = [outside - inside for outside, inside in zip(times, sleeper.taken, strict=True)]
    assert min(beyond) >= 0 and median(beyond) < 1  # a busy machine may interrupt some of them in between
    assert all(time >= least for time, least in zip(times, [3, 9] * 3, strict=True))
    assert sleeper.conditions == {((3, 2, 5, 5), False, False, threads, "cpu")}
    assert sleeper.training and torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_torch_is_left_as_it_was_by_a_network_that_fails() -> None:
    before = torch.get_num_threads()
    failing = nn.Linear(7, 7)
    with (
        pytest.raises(RuntimeError, match="shapes"),
        passes(failing, (2, 5), batch=1, threads=before + 1, device="cpu") as timed,
    ):
        timed(1)
    assert failing.training and torch.get_num_threads() == before and torch.is_grad_enabled()


class Products(nn.Module):
    """So many products of large matrices one after another."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(torch.randn(400, 400, generator=torch.Generator()) for _ in range(times))

    def forward(self, images: Tensor) -> Tensor:
        for matrix in self.matrices:
            images = (images @ matrix).relu() * 0.05
        return images


@pytest.mark.exports
@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_onnxruntime_runs_the_network_as_it_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    made: list[Any] = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]  # it has no types
        """Keeps what it was made with."""

        def __init__(self, network: bytes, options: Any, **others: Any) -> None:
            made.append(options.intra_op_num_threads)
            super().__init__(network, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    few, many = Products(1), Products(24)
    rows = IO((64, 400), 400)
    times = [
        measure_latency(network, rows, batch=1, threads=2, device="cpu", engine="onnxruntime")
        for network in (few, many)
    ]
    assert made == [2, 2]
    assert times[1].median_ms > 2 * times[0].median_ms  # for 24 times the work, on a machine however busy
    for found in times:
        assert (found.batch, found.threads, found.device, found.engine) == (1, 2, "cpu", "onnxruntime")
        assert found.runs >= 5 and found.iqr_ms >= 0
    assert few.training


@pytest.mark.slow
def test_onnxruntime_is_refused_on_a_device_that_it_is_not_built_for() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is built for CUDA")
    network = exported(nn.Linear(3, 2).eval(), (3,))
    assert len(onnx_passes(network, batch=2, threads=1, device="cpu")(3)) == 3
    with pytest.raises(
        InputError, match=r"CUDAExecutionProvider .*, but the installed onnxruntime has .*; install onnxruntime-gpu"
    ):
        onnx_passes(network, batch=2, threads=1, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.usefixtures("brief")
def test_on_cuda_the_work_is_waited_for() -> None:
    class Squares(nn.Module):
        """A hundred products of large matrices, which are queued in a moment and computed in many."""

        def forward(self, images: Tensor) -> Tensor:
            matrix = images[0, 0]
            for _ in range(100):
                matrix = matrix @ matrix * 1e-3
            return matrix

    shape = IO.image(1, 4096, 1)
    found = measure_latency(Squares(), shape, batch=1, threads=1, device="cuda")
    network, images = Squares(), torch.randn(1, 1, 4096, 4096, device="cuda")
    network(images)
    torch.cuda.synchronize()
    started = time.perf_counter()
    network(images)
    torch.cuda.synchronize()
    expected = (time.perf_counter() - started) * 1e3
    assert found.device == "cuda"
    assert found.median_ms == pytest.approx(expected, rel=0.5)
    with passes(Squares(), shape.input_shape, batch=1, threads=1, device="cuda") as timed:
        timed(1)
        assert min(timed(5)) == pytest.approx(expected, rel=0.5)


# In a benchmark


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_a_measurement_has_latency_beside_accuracy_if_asked() -> None:
    benchmark = construct("benchmark", Classification, SPACE, epochs=2, latency_batch=4, latency_threads=2)
    assert benchmark.alone
    assert benchmark.metrics == ("accuracy", "loss", "latency_ms", "latency_iqr_ms", "latency_batch", "latency_threads")
    store = MemoryArtifacts()
    task = Evaluate(id=0, seed=0, architecture=SPACE.parse("233223"), fidelity=1)
    measurement = benchmark.measure(task, device="cpu", artifacts=store)
    metrics = dict(measurement.metrics)
    assert (metrics["latency_batch"], metrics["latency_threads"]) == (4, 2)
    assert metrics["latency_ms"] > 0
    plain = Classification(SPACE, epochs=2)
    assert not plain.alone
    assert plain.metrics == Classification.metrics == ("accuracy", "loss")
    without = plain.measure(task, device="cpu", artifacts=store)
    assert without.artifacts == measurement.artifacts  # timing changes neither weights nor statistics
    assert {name: metrics[name] for name in without.metrics} == without.metrics
    final = benchmark.final(measurement, device="cpu", artifacts=store)
    assert final.metrics["latency_ms"] == metrics["latency_ms"]
    assert final.metrics["accuracy"] == plain.final(without, device="cpu", artifacts=store).metrics["accuracy"]


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_a_benchmark_measures_in_onnxruntime_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[str] = []

    def measured(*arguments: Any, engine: Any, **others: Any) -> Any:
        engines.append(engine)
        return measure_latency(*arguments, engine=engine, **others)

    monkeypatch.setattr("nasplat.latency.measuring.measure_latency", measured)
    benchmark = construct(
        "benchmark", Classification, SPACE, epochs=1, subset=100, latency_batch=2, latency_engine="onnxruntime"
    )
    task = Evaluate(id=0, seed=0, architecture=SPACE.parse("233223"), fidelity=1)
    store = MemoryArtifacts()
    measurement = benchmark.measure(task, device="cpu", artifacts=store)
    assert measurement.metrics["latency_ms"] > 0
    assert engines == ["onnxruntime"]
    plain = construct("benchmark", Classification, SPACE, epochs=1, subset=100).measure(
        task, device="cpu", artifacts=store
    )
    assert plain.artifacts == measurement.artifacts  # exporting changes neither weights nor statistics


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "space": {"name": "nasbench201", "channels": 4, "cells": 1},
        "benchmark": {"name": "classification", "epochs": 1, "latency_batch": 1},
        "strategy": "random_search",
        "objectives": ["accuracy:max", "latency_ms:min"],
        "budget": {"evaluations": 2},
        **changes,
    }


@pytest.mark.parametrize(
    ("executor", "remedy"),
    [
        ({"name": "ray", "workers": 2}, "there are 2 workers; give --workers 1"),
        ({"name": "ray", "workers": 2, "gpus_per_worker": 1}, "there are 2 workers; give --workers 1"),
        ({"name": "ray", "gpus_per_worker": 0.5}, "a worker has only 0.5 of a GPU; give --gpus-per-worker 1"),
    ],
)
def test_workers_that_share_a_device_are_refused(executor: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InputError, match=f"needs exclusive use of the device, as for latency, but {remedy}"):
        Assembly.of(SearchConfig.read(tree(executor=executor)))
    Assembly.of(SearchConfig.read(tree(executor=executor, benchmark="classification", objectives=["accuracy:max"])))


@pytest.mark.parametrize("executor", ["inline", "ray", {"name": "ray", "gpus_per_worker": 1}])
def test_one_worker_with_a_device_to_itself_is_fine(executor: Any) -> None:
    assert Assembly.of(SearchConfig.read(tree(executor=executor))).benchmark.alone


def test_latency_is_no_objective_where_it_is_not_measured() -> None:
    with pytest.raises(InputError, match="latency_ms"):
        Assembly.of(SearchConfig.read(tree(benchmark="classification")))


# On the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which latency was not measured."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = tree(benchmark={"name": "classification", "epochs": 1}, objectives=["accuracy:max", "params:min"])
    assembly = Assembly.of(SearchConfig.read(config))
    run = RunDirectory.create(folder, assembly.config)
    with run.writing() as log, InlineExecutor(assembly.benchmark, run.artifacts) as executor:
        Search(assembly.problem, assembly.strategy, executor, log, assembly.budget).run()
    return folder


def show(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """What `nasplat show RUN OPTIONS` prints."""
    monkeypatch.setattr(sys, "argv", ["nasplat", "show", str(run), *options])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == (2 if printed.err else 0)
    return printed.out or printed.err


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_the_front_is_measured_here_and_now_and_the_run_left_as_it_is(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    front = RunDirectory(run).history().front
    text = show(run, capsys, monkeypatch, "--front", "--latency", "--latency-batch", "2")
    lines = text.splitlines()
    assert lines[1].split()[-1] == "latency"
    assert len(lines) == 3 + len(front)
    assert all(line.rstrip().endswith(" ms") and " ± " in line for line in lines[2:-1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert lines[-1].startswith(f"latency: median ± interquartile range; torch, 1 thread, batch 2, {device}; ")
    found = json.loads(show(run, capsys, monkeypatch, "--front", "--latency", "--latency-threads", "2", "--json"))[
        "trials"
    ]
    assert [member["trial"] for member in found] == [member.id for member in front]
    for member in found:
        assert set(member["latency"]) == {
            "median_ms",
            "iqr_ms",
            "least_ms",
            "runs",
            "batch",
            "threads",
            "device",
            "engine",
        }
        assert (member["latency"]["batch"], member["latency"]["threads"]) == (1, 2)
        assert member["latency"]["median_ms"] > 0
        assert "latency_ms" not in member["metrics"]
    assert "latency" not in show(run, capsys, monkeypatch, "--front")
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_latency_is_of_the_front_alone(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--latency measures the members of the front; give --front too" in show(
        run, capsys, monkeypatch, "--latency"
    )


@pytest.mark.slow
def test_importing_the_platform_loads_no_torch() -> None:
    code = (
        "import sys, nasplat.cli, nasplat.data.datasets; print({'torch', 'torchvision', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
