"""A supernet of eight weights, trained in no time by one process or several, which misbehave on demand."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nasplat.architecture import IO
from nasplat.artifact import Artifacts
from nasplat.benchmark import SupernetBenchmark
from nasplat.errors import TrialFailed
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement, Spent, Trained, TrainSupernet

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

EXAMPLES = 64


class LinearSupernet(SupernetBenchmark):
    """Fits one linear layer, which all architectures share, by full gradient descent: one step an epoch.

    Args:
        space: Any space.
        notes: A folder in which every member of a training leaves a file that names task, rank, size and process.
        shares: Among how many processes a training can be divided.
        sleep: Seconds that a step or a measurement takes.
        mischief: What members do when they come to the middle of a training for the first time, ``die``, ``hang``,
            ``diverge`` or ``starve``, by the task's id and the member's rank: ``{"0.1": "die"}``.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "groups")

    def __init__(
        self,
        space: SearchSpace,
        *,
        notes: str = "",
        shares: int = 2,
        sleep: float = 0.0,
        mischief: dict[str, str] | None = None,
    ) -> None:
        super().__init__(space)
        self.notes = notes
        self.shares = shares
        self.sleep = sleep
        self.mischief = mischief

    @property
    def io(self) -> IO:
        return IO.image(channels=1, side=4, outputs=3)

    @property
    def fidelity(self) -> int:
        return 1

    @property
    def members(self) -> int:
        return self.shares

    def prepare(self) -> None:
        import torch.distributed  # noqa: F401  takes longer than all the rest, and is no part of any trial

    def train(
        self, task: TrainSupernet, *, device: str, artifacts: Artifacts, group: "ProcessGroup | None" = None
    ) -> Trained:
        import torch
        import torch.distributed as dist

        rank, size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        Path(self.notes, f"{task.id} {rank} {size} {os.getpid()}").touch()
        generator = torch.Generator().manual_seed(task.seed)
        examples = torch.randn(EXAMPLES, 8, generator=generator)
        targets = examples @ torch.arange(8.0)
        weight = torch.zeros(8) if task.weights is None else artifacts.get_tensors(task.weights)["weight"]
        for step in range(task.epochs):
            time.sleep(self.sleep)
            if step == task.epochs // 2:
                self._misbehave(f"{task.id}.{rank}")
            mine = slice(rank, None, size)
            gradient = examples[mine].T @ (examples[mine] @ weight - targets[mine]) / EXAMPLES
            if group is not None:
                dist.all_reduce(gradient, group=group)
            weight -= 0.1 * gradient
        artifacts.put(f"left by member {rank}".encode())
        return Trained(
            task=task, weights=artifacts.put_tensors({"weight": weight}), spent=Spent(images=EXAMPLES * task.epochs)
        )

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        import torch.distributed as dist

        time.sleep(self.sleep)
        assert task.weights is not None
        accuracy = float(artifacts.get_tensors(task.weights)["weight"].mean())
        return Measurement(task=task, metrics={"accuracy": accuracy, "groups": dist.is_initialized()})

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(task=measurement.task, metrics=measurement.metrics, split="test")

    def _misbehave(self, member: str) -> None:
        what = (self.mischief or {}).get(member)
        try:
            Path(self.notes, f"mischief of {member}").mkdir()
        except FileExistsError:
            return
        if what == "die":
            os._exit(1)
        if what == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Event().wait()
        if what == "diverge":
            raise TrialFailed("diverged", f"as member {member} was told to")
        if what == "starve":
            raise MemoryError(f"member {member} is out of memory")
