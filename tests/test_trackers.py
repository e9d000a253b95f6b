"""Trials are tracked while a search goes on: all of them once, also over resumes, and no tool holds a search up."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import handmade
import numpy as np
import pytest

from nasplat.artifact import MemoryArtifacts
from nasplat.authoring.function import function_benchmark
from nasplat.driver.budget import Budget
from nasplat.driver.loop import Search, Watcher
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.executors.inline import InlineExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.results import tracking
from nasplat.results.tracking import Target, Tracker
from nasplat.results.trials import Trial
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.storage.event_log import EventLog
from nasplat.strategies.random_search import RandomSearch
from nasplat.task import Measurement
from nasplat.testing.toy import ToyBenchmark, ToySpace

CommandLine = Callable[..., CompletedProcess[str]]


class Recorder:
    """A sink in memory, which may fail or wait.

    Args:
        there: The numbers of the trials that it has already.
    """

    def __init__(self, there: set[int] | None = None) -> None:
        self.there = there or set()
        self.written: list[tuple[int, int, float | None]] = []
        self.failing: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.finished: bool | None = None

    def open(self) -> set[int]:
        return self.there

    def write(self, trial: Trial, place: int, best: float | None) -> None:
        self.gate.wait()
        if self.failing:
            raise self.failing
        self.written.append((trial.number, place, best))

    def close(self, *, finished: bool) -> None:
        self.finished = finished


def told(tracker: Tracker, outcomes: Any) -> None:
    """Tell a tracker of outcomes, as a search does."""
    unused: Any = None
    for outcome in outcomes:
        tracker.watch(unused, outcome)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return handmade.handmade(tmp_path / "run")


def test_every_trial_is_written_in_order_with_the_best_so_far(run: RunDirectory) -> None:
    sink, said = Recorder(), list[str]()
    with Tracker("it", sink, run, [], said.append) as tracker:
        told(tracker, [None, *handmade.OUTCOMES])
    third = 0.1 + 0.2
    assert sink.written == [
        *((0, 0, third), (2, 1, 0.99), (1, 2, 0.99), (4, 3, 0.99), (5, 4, 0.99), (6, 5, 0.99), (7, 6, 0.99))
    ]
    assert sink.finished is True and said == []


def test_what_is_there_already_is_not_written_again(run: RunDirectory) -> None:
    sink = Recorder(there={0, 1})
    with Tracker("it", sink, run, handmade.OUTCOMES[:4], print) as tracker:
        told(tracker, handmade.OUTCOMES[4:])
    assert [(number, place) for number, place, _ in sink.written] == [(2, 1), (4, 3), (5, 4), (6, 5), (7, 6)]


def test_a_failing_tool_is_told_of_once_and_left(run: RunDirectory) -> None:
    sink, said = Recorder(), list[str]()
    sink.failing = OSError(28, "No space\x1b left")
    with Tracker("it", sink, run, [], said.append) as tracker:
        told(tracker, handmade.OUTCOMES)
        tracker._thread.join()
        told(tracker, handmade.OUTCOMES)
    assert said == ["it is no longer written, and the search goes on: OSError: [Errno 28] No space\\x1b left"]
    assert sink.written == [] and sink.finished is None


def test_a_tool_that_cannot_keep_up_is_left(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WAITING", 3)
    sink, said = Recorder(), list[str]()
    sink.gate.clear()
    with Tracker("it", sink, run, [], said.append) as tracker:
        told(tracker, handmade.OUTCOMES * 2)
        sink.gate.set()
    assert len(said) == 1 and "cannot keep up" in said[0] and len(sink.written) <= 4


def test_an_interrupted_search_leaves_a_tool_that_hangs(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "INTERRUPTED_SECONDS", 0.0)
    sink, said = Recorder(), list[str]()
    sink.gate.clear()
    with contextlib.suppress(KeyboardInterrupt), Tracker("it", sink, run, [], said.append) as tracker:
        told(tracker, handmade.OUTCOMES)
        raise KeyboardInterrupt
    assert len(said) == 1 and "not written yet" in said[0]
    sink.gate.set()
    tracker._thread.join()


def test_a_search_that_ended_leaves_a_tool_that_hangs(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "STALLED_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "PATIENT_SECONDS", 0.0)
    sink, said = Recorder(), list[str]()
    sink.gate.clear()
    with Tracker("it", sink, run, [], said.append) as tracker:
        told(tracker, handmade.OUTCOMES)
    assert "still being written" in said[0] and "not written yet" in said[1]
    sink.gate.set()
    tracker._thread.join()


@pytest.mark.parametrize("text", ["tensorboard", "tensorboard:", "wandb:x", ""])
def test_another_target_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="tensorboard:DIR or mlflow:URI"):
        Target.parse(text)


def test_a_wrong_target_creates_nothing(command: CommandLine, tmp_path: Path) -> None:
    done = command(
        *("search", "--space", "nasbench201", "--benchmark", "classification", "--strategy", "random_search"),
        *("--objective", "accuracy:max", "--evaluations", "1", "--out", "new", "--log-to", "somewhere"),
    )
    assert done.returncode == 2 and "tensorboard:DIR" in done.stderr and not (tmp_path / "new").exists()


def test_several_watchers_of_a_search_are_told_the_same_and_what_is_running_before_it_ends(tmp_path: Path) -> None:
    seen: list[list[tuple[int | None, int, float]]] = [[], []]

    class Counting(Watcher):
        def __init__(self, numbers: list[tuple[int | None, int, float]]) -> None:
            self.numbers = numbers

        def watch(self, search: Search, outcome: Any) -> None:
            self.numbers.append((outcome and outcome.id, search.running, search.fraction))

    benchmark = ToyBenchmark(ToySpace())
    problem = Problem(
        benchmark.space, Goal((Objective("accuracy", maximize=True),)), io=benchmark.io, fidelity=benchmark.fidelity
    )
    log = EventLog.create(tmp_path / "events")
    watchers = [Counting(each) for each in seen]
    with InlineExecutor(benchmark, MemoryArtifacts()) as executor, contextlib.closing(log):
        Search(problem, RandomSearch(problem), executor, log, Budget(evaluations=2), watchers).run()
    assert seen[0] == seen[1] == [(None, 1, 0.0), (0, 0, 0.5), (None, 1, 0.5), (1, 0, 1.0)]


# The tools themselves


def session(run: RunDirectory, target: str, outcomes: Any, past: Any = ()) -> list[str]:
    """One session of a search that is tracked; returns the warnings."""
    said: list[str] = []
    parsed = Target.parse(target)
    with Tracker(parsed.tool, parsed.sink(run), run, past, said.append) as tracker:
        told(tracker, outcomes)
    return [each for each in said if "still being written" not in each]  # as on a busy machine


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each tag, of all event files of a folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(each.step, each.value) for each in accumulator.Scalars(tag)] for tag in tags}


@pytest.mark.slow
def test_tensorboard_goes_on_without_duplicates(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    target, outcomes = f"tensorboard:{tmp_path / 'logs'}", handmade.OUTCOMES
    assert session(run, target, outcomes[:4]) == []
    assert session(run, target, outcomes[6:], past=outcomes[:6]) == []  # the killed session wrote less than it logged
    found = scalars(tmp_path / "logs" / "run")
    assert [value for _, value in found["trial/number"]] == [0, 2, 1, 4, 5, 6, 7]
    assert [step for step, _ in found["trial/number"]] == list(range(7))
    assert found["best/accuracy"][0][1] == pytest.approx(0.3) and found["trial/failed"][2] == (2, 1.0)
    single = scalars(tmp_path / "logs" / "run" / "trial-6")
    assert single["accuracy"] == [(200, float(np.float32(1 / 3)))]
    folders = {path.name for path in (tmp_path / "logs" / "run").iterdir() if path.is_dir()}
    assert folders == {f"trial-{number}" for number in (0, 1, 2, 4, 5, 6, 7)}
    other = handmade.handmade(tmp_path / "elsewhere" / "run", outcomes[:1])
    (warning,) = session(other, target, outcomes[:1])
    assert "has another run" in warning


@pytest.fixture
def curve() -> Measurement:
    """A trial that reported while it trained."""
    measuring = function_benchmark(handmade.reporting)(NASBench201())
    task = replace(handmade.task(0, "000001"), fidelity=1)
    outcome = perform(task, measuring, device="cpu", artifacts=MemoryArtifacts())
    assert isinstance(outcome, Measurement) and len(outcome.curve) == 3
    return replace(outcome, metrics={**outcome.metrics, "params": 1.0, "macs": 1.0})


@pytest.mark.slow
def test_tensorboard_has_what_trials_report(run: RunDirectory, tmp_path: Path, curve: Measurement) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    assert session(run, f"tensorboard:{tmp_path / 'logs'}", [curve]) == []
    found = scalars(tmp_path / "logs" / "run" / "trial-0")
    assert found["loss"] == [(3, 1.0)]
    assert [step for step, _ in found["accuracy"]] == [1, 2, 1] and found["accuracy"][0] == (1, 0.25)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow's own
def test_mlflow_has_what_trials_report(run: RunDirectory, tmp_path: Path, curve: Measurement) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert session(run, f"mlflow:{uri}", [curve]) == []
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("nasplat").experiment_id
    found = next(each for each in client.search_runs([experiment]) if "nasplat.trial" in each.data.tags)
    assert [(each.step, each.value) for each in client.get_metric_history(found.info.run_id, "loss")] == [(3, 1.0)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow's own
def test_mlflow_goes_on_without_duplicates(run: RunDirectory, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    target, outcomes = f"mlflow:sqlite:///{tmp_path / 'mlflow.db'}", handmade.OUTCOMES
    assert session(run, target, outcomes[:3]) == []
    client = mlflow.MlflowClient(tracking_uri=target.removeprefix("mlflow:"))
    experiment = client.get_experiment_by_name("nasplat").experiment_id
    parent = next(each for each in client.search_runs([experiment]) if "nasplat.trial" not in each.data.tags)
    client.create_run(experiment, tags={"nasplat.run": run.identity, "nasplat.trial": "4"})  # the session was killed
    assert session(run, target, outcomes[6:], past=outcomes[:6]) == []
    found = {each.data.tags["nasplat.trial"]: each for each in client.search_runs([experiment]) if each != parent
             and "nasplat.trial" in each.data.tags}  # fmt: skip
    assert len(client.search_runs([experiment])) == 8 and set(found) == {"0", "1", "2", "4", "5", "6", "7"}
    assert {each.data.tags["mlflow.parentRunId"] for each in found.values()} == {parent.info.run_id}
    assert found["6"].data.metrics["accuracy"] == 1 / 3 and found["6"].data.params["1_-0"] == "avg_pool_3x3"
    assert found["6"].info.end_time - found["6"].info.start_time == 2000
    assert (found["1"].info.status, found["0"].info.status) == ("FAILED", "FINISHED")
    assert client.get_run(parent.info.run_id).data.metrics["best_accuracy"] == 0.99
