"""An accuracy by formula that can take its time, and misbehave on demand."""

import os
import signal
import threading
import time
from typing import ClassVar

from nasplat.architecture import IO
from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark
from nasplat.errors import TrialFailed
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement


class Formula(Benchmark):
    """Scores a code by its symbols.

    Args:
        space: Any space.
        sleep: Seconds that a measurement takes.
        fail_every: Every so manyth task fails; 0 for none.
        exit_every: Every so manyth task ends its whole process; 0 for none.
        exit_at: The task that ends every process it runs in; -1 for none.
        hang_at: The task that never ends; -1 for none.
        eat_at: The task that takes all the memory there is; -1 for none.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(
        self,
        space: SearchSpace,
        *,
        sleep: float = 0.0,
        fail_every: int = 0,
        exit_every: int = 0,
        exit_at: int = -1,
        hang_at: int = -1,
        eat_at: int = -1,
    ) -> None:
        super().__init__(space)
        self.sleep = sleep
        self.fail_every = fail_every
        self.exit_every = exit_every
        self.exit_at = exit_at
        self.hang_at = hang_at
        self.eat_at = eat_at

    @property
    def io(self) -> IO:
        return IO.image(channels=1, side=4, outputs=3)

    @property
    def fidelity(self) -> int:
        return 1

    def prepare(self) -> None:
        pass

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        time.sleep(self.sleep)
        if self.fail_every and task.id % self.fail_every == self.fail_every - 1:
            raise TrialFailed("demo", f"task {task.id} fails because fail_every={self.fail_every}")
        if task.id == self.exit_at or (self.exit_every and task.id % self.exit_every == self.exit_every - 1):
            os._exit(1)
        if task.id == self.hang_at:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a hang that no polite request ends
            threading.Event().wait()
        if task.id == self.eat_at:
            eaten = []
            while True:
                eaten.append(b"1" * 100_000_000)
                time.sleep(0.01)
        if task.weights is not None:  # stands for evaluation with shared weights
            kept = artifacts.put(artifacts.get(task.weights) + b" seen")
            return Measurement(task=task, metrics={"accuracy": 1.0}, artifacts={"weights": kept})
        values = [int(symbol, 36) for symbol in task.architecture.code]
        return Measurement(task=task, metrics={"accuracy": sum(values) / (1 + 36 * len(values))})

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(task=measurement.task, metrics={"accuracy": measurement.metrics["accuracy"]}, split="test")
