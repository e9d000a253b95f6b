"""The inline executor: tasks run in this process, one after another."""

from collections import deque

from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark
from nasplat.executors.executor import Executor, perform
from nasplat.task import Outcome, Task


class InlineExecutor(Executor):
    """Runs each task inside `wait`; a search repeats exactly.

    Args:
        benchmark: The benchmark; it is prepared here.
        artifacts: The artifact store for weights.
        device: A torch device.
    """

    def __init__(self, benchmark: Benchmark, artifacts: Artifacts, *, device: str = "cpu") -> None:
        self._benchmark = benchmark
        self._artifacts = artifacts
        self._device = device
        self._queue: deque[Task] = deque()
        benchmark.prepare()

    @property
    def capacity(self) -> int:
        return 1

    def submit(self, task: Task) -> None:
        self._queue.append(task)

    def wait(self, timeout: float) -> list[Outcome]:
        if not self._queue:
            return []
        task = self._queue.popleft()
        return [perform(task, self._benchmark, device=self._device, artifacts=self._artifacts)]

    def close(self) -> None:
        self._queue.clear()
