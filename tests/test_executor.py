"""What an executor makes of a benchmark's work, whatever the benchmark does."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasplat.artifact import Artifacts, MemoryArtifacts
from nasplat.errors import StorageError
from nasplat.executors.executor import perform
from nasplat.run.directory import RunDirectory
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Spent, decode_outcome, encode_outcome
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.strategies import toy_problem


def performed(measure: Callable[[Evaluate], Any]) -> Outcome:
    """The outcome of a task whose benchmark measures so."""

    class Odd(ToyBenchmark):
        """Measures in its own way."""

        def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
            result: Measurement = measure(task)
            return result

    problem = toy_problem()
    return perform(problem.evaluate(problem.sample()), Odd(ToySpace()), device="cpu", artifacts=MemoryArtifacts())


def test_numbers_of_numpy_are_as_good_as_plain_ones() -> None:
    outcome = performed(
        lambda task: Measurement(
            task=task,
            metrics={"accuracy": np.float32(0.5), "epochs": np.int64(3)},  # type: ignore[dict-item]
            spent=Spent(images=np.int64(7)),  # type: ignore[arg-type]
        )
    )
    body = json.loads(json.dumps(encode_outcome(outcome)))
    assert (body["metrics"], body["spent"]["images"]) == ({"accuracy": 0.5, "epochs": 3.0}, 7)
    assert decode_outcome(body) == outcome


@pytest.mark.parametrize("result", [None, 0.5, {"accuracy": 0.5}])
def test_what_is_no_measurement_is_a_failure_that_says_so(result: Any) -> None:
    outcome = performed(lambda task: result)
    assert isinstance(outcome, Failure)
    assert repr(result) in outcome.message


def test_a_metric_that_is_no_number_is_a_failure() -> None:
    outcome = performed(lambda task: Measurement(task=task, metrics={"accuracy": None}))  # type: ignore[dict-item]
    assert isinstance(outcome, Failure)
    assert outcome.kind == "TypeError"


def test_a_benchmark_that_exits_ends_its_trial_and_not_the_search() -> None:
    def leave(task: Evaluate) -> Measurement:
        raise SystemExit(3)

    outcome = performed(leave)
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.message) == ("SystemExit", "3")


@pytest.mark.slow
def test_a_search_on_a_full_disk_stops_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    search = (
        "search --space nasbench201 --set space.channels=2 --set space.cells=1 --benchmark classification "
        "--set benchmark.epochs=1 --set benchmark.subset=200 --strategy random_search --objective accuracy:max "
        "--evaluations 200 --out run"
    )

    def nasplat(arguments: str, limit: str) -> subprocess.CompletedProcess[str]:
        # Files may not grow beyond so many blocks, which to a program is a disk that is full.
        command = f"{limit}exec {shlex.quote(sys.executable)} -m nasplat {arguments}"
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)

    stopped = nasplat(search, "ulimit -f 100; ")
    assert stopped.returncode == 1, stopped.stderr
    assert stopped.stderr.count("\n") == 1 and stopped.stderr.endswith("go on with: nasplat resume run\n")
    history = RunDirectory(tmp_path / "run").history()
    # On a slow machine the log is synced, and its side file emptied, before that fills: then the log itself is full. A
    # trial takes two events of some 700 bytes.
    assert 0 < len(history.measured) < 100
    assert not history.failures
    going_on = nasplat(f"resume run --evaluations {history.spending.evaluations + 1}", "")
    assert going_on.returncode == 0, going_on.stderr
    assert RunDirectory(tmp_path / "run").history().outcomes[: len(history.outcomes)] == history.outcomes


def test_a_full_disk_is_no_fault_of_the_trial(tmp_path: Path) -> None:
    class Keeping(ToyBenchmark):
        """Keeps something with every measurement."""

        def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
            return Measurement(task=task, metrics={"accuracy": 0.5}, artifacts={"weights": artifacts.put(b"weights")})

    (tmp_path / "file").write_text("in the way of a folder")
    problem = toy_problem()
    with pytest.raises(StorageError, match="cannot be written"):
        perform(
            problem.evaluate(problem.sample()),
            Keeping(ToySpace()),
            device="cpu",
            artifacts=ArtifactStore(tmp_path / "file"),
        )


@pytest.mark.parametrize("flags", [["--trial-seconds", "5"], ["--retries", "1"], ["--workers", "2"]])
def test_what_only_ray_can_do_is_refused_inline(flags: list[str], command: Callable[..., Any], tmp_path: Path) -> None:
    done = command(
        "search", "--space", "nasbench201", "--benchmark", "classification", "--strategy", "random_search",
        "--objective", "accuracy:max", "--evaluations", "2", *flags,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{flags[0][2:].replace('-', '_')} belongs to the ray executor" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_memory_that_ran_out_has_one_name_whoever_says_so() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch calls it on a GPU."""

    on_the_cpu = RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    for error in (MemoryError("no room"), OutOfMemoryError("no room on the device"), on_the_cpu):

        def raising(task: Evaluate, error: Exception = error) -> Any:
            raise error

        outcome = performed(raising)
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.message) == ("out of memory", str(error))
