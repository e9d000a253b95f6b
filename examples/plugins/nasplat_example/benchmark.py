"""A benchmark: what it measures, on which inputs, and how one architecture is measured."""

from typing import ClassVar

from nasplat import IO, Benchmark, Evaluate, Measurement
from nasplat.artifact import Artifacts


class Formula(Benchmark):
    """Accuracy by a formula: the mean choice of an architecture's genes."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    @property
    def io(self) -> IO:
        return IO.image(channels=1, side=4, outputs=3)

    @property
    def fidelity(self) -> int:
        return 1

    def prepare(self) -> None:
        """Nothing to load."""

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        choices = [int(symbol, 36) for symbol in task.architecture.code]
        return Measurement(task=task, metrics={"accuracy": sum(choices) / (1 + 36 * len(choices))})
