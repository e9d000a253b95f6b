"""What an executor makes of a benchmark's work, whatever the benchmark does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasplat.artifact import Artifacts, Parcel
from nasplat.errors import StorageError
from nasplat.executors.executor import perform
from nasplat.run.shelf import Shelf
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
    return perform(problem.evaluate(problem.sample()), Odd(ToySpace()), device="cpu", artifacts=Parcel())


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


def test_a_full_disk_is_no_fault_of_the_trial(tmp_path: Path) -> None:
    class Keeping(ToyBenchmark):
        """Keeps something with every measurement."""

        def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
            return Measurement(task=task, metrics={"accuracy": 0.5}, artifacts={"weights": artifacts.put(b"weights")})

    (tmp_path / "file").write_text("in the way of a folder")
    problem = toy_problem()
    with pytest.raises(StorageError, match="cannot be written"):
        perform(
            problem.evaluate(problem.sample()), Keeping(ToySpace()), device="cpu", artifacts=Shelf(tmp_path / "file")
        )
