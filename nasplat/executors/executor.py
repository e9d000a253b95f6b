"""The contract of an executor, and the work on a task, which is the same for all of them."""

import os
import socket
import sysconfig
import time
import traceback
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark, SupernetBenchmark
from nasplat.curve import trial
from nasplat.errors import ArtifactError, NasplatError, StorageError, TrialFailed
from nasplat.task import Evaluate, Failure, Incident, Measurement, Outcome, Spent, Task, Trained

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

PACKAGE = __name__.partition(".")[0]
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<"})
"""Where code lies that no user has written, and how names of code without a file begin."""
OUT_OF_MEMORY = "out of memory"
ARTIFACT_LOST = "artifact lost"


class Executor(ABC):
    """Runs tasks; a context manager that ends only what it started.

    The loop keeps about `capacity` tasks submitted; further tasks queue. Every submitted task has exactly one
    outcome, which is a `Failure` if the work or its worker failed.
    """

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Number of tasks that run at once."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Start a task, or queue it until a worker is free."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Outcome]:
        """The new outcomes, in the order of their arrival; empty if none arrived within `timeout` seconds.

        Raises:
            RunError: No task can be run any more.
        """

    def incidents(self) -> list[Incident]:
        """The incidents since the last call; an executor without workers that can fail has none."""
        return []

    @abstractmethod
    def close(self) -> None:
        """End what this executor started; tasks in flight are abandoned."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def perform(
    task: Task, benchmark: Benchmark, *, device: str, artifacts: Artifacts, group: "ProcessGroup | None" = None
) -> Outcome:
    """Do a task's work; an exception that ends it becomes a `Failure` with its traceback.

    Args:
        task: The task.
        benchmark: The benchmark, prepared.
        device: A torch device.
        artifacts: The store that weights are read from and written to.
        group: The process group that shares a training; None to work alone.
    """
    started, clock = time.time(), time.perf_counter()
    try:
        with trial():
            outcome = _sound(_dispatch(task, benchmark, device, artifacts, group), task)
    except StorageError:
        raise  # no fault of the trial
    except (Exception, SystemExit) as error:  # noqa: BLE001  a benchmark is foreign code, its trial ends with it
        curve = error.curve if isinstance(error, TrialFailed) else {}
        outcome = Failure(
            task=task,
            kind=failure_kind(error),
            message=f"{error}{_place(error) if failure_kind(error) == type(error).__name__ else ''}",
            traceback=traceback.format_exc(),
            curve=curve,
        )
    spent = Spent(
        seconds=time.perf_counter() - clock,
        images=outcome.spent.images,
        device=device,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        started=started,
    )
    return replace(outcome, spent=spent)


def _place(error: BaseException) -> str:
    """Where an error was raised in the code of a user, `` (FILE:LINE)``; empty if no such code is in the traceback.

    That is code neither of this package nor of installed ones.
    """
    if isinstance(error, NasplatError | SystemExit):
        return ""  # these say themselves what is wrong
    own = [
        (Path(frame.f_code.co_filename).name, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] != PACKAGE
        and not frame.f_code.co_filename.startswith(INSTALLED)
    ]
    return f" ({own[-1][0]}:{own[-1][1]})" if own else ""


def failure_kind(error: BaseException) -> str:
    """A failure's short name from its exception; every library has its own exception for out of memory."""
    if isinstance(error, TrialFailed):
        return error.kind
    if isinstance(error, ArtifactError):
        return ARTIFACT_LOST
    name = type(error).__name__
    full = isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return OUT_OF_MEMORY if full else name


def _sound(outcome: Outcome, task: Task) -> Outcome:
    """Check that the outcome is of this task, and convert the benchmark's numbers to plain Python numbers."""
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
        if (tuning := task.tuning) is not None:
            able = benchmark.fine_tunes if tuning.original is None else benchmark.fits_originals
            if not able:
                what = "trains from scratch only" if tuning.original is None else "fits no network to an original"
                raise TrialFailed("no fine-tuning", f"the benchmark {type(benchmark).__name__} {what}")
        return benchmark.measure(task, device=device, artifacts=artifacts)
    if not isinstance(benchmark, SupernetBenchmark):
        raise TrialFailed("no supernet", f"the benchmark {type(benchmark).__name__} cannot train a supernet")
    return benchmark.train(task, device=device, artifacts=artifacts, group=group)


def cuda_is_available() -> bool:
    """Whether torch finds a CUDA device; torch is only imported if there is a driver."""
    if os.name == "posix" and not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()
