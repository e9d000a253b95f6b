"""The contract of a benchmark: what turns an architecture into a measurement."""

from abc import ABC, abstractmethod
from typing import ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement, Trained, TrainSupernet


class Benchmark(ABC):
    """Measures architectures of one search space.

    Life cycle. The constructor takes the space and keyword-only options, stores them under their own names
    and does no work. The driver calls `check` before anything is created, and `feasible` as it goes. Every
    process that measures calls `prepare` once, which does the heavy part (tables, data sets); then `measure`
    is called for one task after another, from one thread.

    A measurement below full fidelity may leave a ``state`` among its artifacts. A task that continues from it
    goes on from there, in any process, and gives what an uninterrupted measurement gives.

    All randomness comes from the task's seed; global generators are left as they were. A trial that cannot
    give a result raises `TrialFailed`; whatever else it raises is recorded as well.
    """

    metrics: ClassVar[tuple[str, ...]]
    """The metrics that every measurement has."""

    alone: bool = False
    """Whether measuring needs the device to itself, as for latency; such a search has one worker."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @property
    @abstractmethod
    def io(self) -> IO:
        """What the data asks of a network."""

    @property
    @abstractmethod
    def fidelity(self) -> int:
        """The fidelity of a full measurement, in epochs."""

    def check(self) -> None:  # noqa: B027  most benchmarks have nothing to refuse
        """Refuse, cheaply, what would make every trial fail: a missing file, a space it cannot measure.

        Raises:
            InputError: What is missing, where it was looked for, and the remedy.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Load what measuring needs; a second call does nothing."""

    def feasible(self, architecture: Architecture) -> bool:
        """Whether the architecture can be measured at all; a partial table says no to what it lacks."""
        return True

    @abstractmethod
    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        """Measure one architecture on the validation split.

        Args:
            task: What to measure.
            device: A torch device, ``cpu`` or ``cuda``.
            artifacts: Where weights are kept and found.

        Returns:
            The measurement with all of `metrics`. The executor adds time, device and worker.

        Raises:
            TrialFailed: This architecture cannot be measured.
        """

    @abstractmethod
    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        """Measure on the test split what an earlier measurement left behind; the one place that touches it.

        Raises:
            InputError: The measurement left nothing that could be tested.
        """


class SupernetBenchmark(Benchmark):
    """A benchmark that can also train the shared weights of a supernet."""

    @abstractmethod
    def train(self, task: TrainSupernet, *, device: str, artifacts: Artifacts) -> Trained:
        """Train shared weights on the task's paths.

        Raises:
            TrialFailed: Training gave no usable weights.
        """
