"""The contract of an executor, and the work on a task, which is the same for all of them."""

import os
import socket
import time
import traceback
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark, SupernetBenchmark
from nasplat.errors import ArtifactError, StorageError, TrialFailed
from nasplat.task import Evaluate, Failure, Incident, Measurement, Outcome, Spent, Task, Trained

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

OUT_OF_MEMORY = "out of memory"
ARTIFACT_LOST = "artifact lost"


class Executor(ABC):
    """Runs tasks; a context manager that ends what it started and nothing else.

    The loop keeps about `capacity` tasks submitted; more of them queue. Every submitted task has exactly one
    outcome, a `Failure` where the work or its worker failed.
    """

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many tasks are worked on at once."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Start a task, or queue it until a worker is free."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Outcome]:
        """The outcomes that have come in, in their order; empty if none came within `timeout` seconds.

        Raises:
            RunError: No task can be run any more.
        """

    def incidents(self) -> list[Incident]:
        """What went wrong around the work since the last call; an executor without workers that can fail has none."""
        return []

    @abstractmethod
    def close(self) -> None:
        """End what this executor started; tasks in flight are given up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def perform(
    task: Task, benchmark: Benchmark, *, device: str, artifacts: Artifacts, group: "ProcessGroup | None" = None
) -> Outcome:
    """Do a task's work; whatever exception ends it becomes a `Failure` with its traceback.

    Args:
        task: The work.
        benchmark: What does it; prepared.
        device: A torch device.
        artifacts: Where the benchmark keeps and finds weights.
        group: The processes that share the work of a training; None for one that works alone.
    """
    started, clock = time.time(), time.perf_counter()
    try:
        outcome = _sound(_dispatch(task, benchmark, device, artifacts, group), task)
    except StorageError:
        raise  # no fault of the trial
    except (Exception, SystemExit) as error:  # noqa: BLE001  a benchmark is foreign code, its trial ends with it
        outcome = Failure(task=task, kind=_kind(error), message=str(error), traceback=traceback.format_exc())
    spent = Spent(
        seconds=time.perf_counter() - clock,
        images=outcome.spent.images,
        device=device,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        started=started,
    )
    return replace(outcome, spent=spent)


def _kind(error: BaseException) -> str:
    """A failure's short name; memory runs out under a name of its own in every library."""
    if isinstance(error, TrialFailed):
        return error.kind
    if isinstance(error, ArtifactError):
        return ARTIFACT_LOST
    name = type(error).__name__
    return OUT_OF_MEMORY if isinstance(error, MemoryError) or name == "OutOfMemoryError" else name


def _sound(outcome: Outcome, task: Task) -> Outcome:
    """An outcome of the very task, with plain numbers, whatever kind of numbers the benchmark computes with."""
    if not isinstance(outcome, Measurement | Trained | Failure):
        raise TypeError(f"a benchmark is to return a Measurement or Trained, but returned {outcome!r}")
    images = replace(outcome.spent, images=int(outcome.spent.images))
    if isinstance(outcome, Measurement):
        assert isinstance(task, Evaluate)
        metrics = {str(name): float(value) for name, value in outcome.metrics.items()}
        return replace(outcome, task=task, metrics=metrics, spent=images)
    return replace(outcome, spent=images)


def _dispatch(
    task: Task, benchmark: Benchmark, device: str, artifacts: Artifacts, group: "ProcessGroup | None"
) -> Outcome:
    if isinstance(task, Evaluate):
        if task.teacher is not None and not benchmark.distills:
            raise TrialFailed("no teacher", f"the benchmark {type(benchmark).__name__} has no use for a teacher")
        return benchmark.measure(task, device=device, artifacts=artifacts)
    if not isinstance(benchmark, SupernetBenchmark):
        raise TrialFailed("no supernet", f"the benchmark {type(benchmark).__name__} cannot train a supernet")
    return benchmark.train(task, device=device, artifacts=artifacts, group=group)


def cuda_is_available() -> bool:
    """Whether torch sees a CUDA device; torch is only loaded where there is a driver that could serve one."""
    if os.name == "posix" and not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()
