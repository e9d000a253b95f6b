"""The contract of a benchmark: what turns an architecture into a measurement."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.errors import InputError
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement, Split, Trained, TrainSupernet

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a picture becomes a network's input: resized, scaled to `white`, less `mean`, divided by `std`.

    Args:
        channels: 3 for red, green and blue, 1 for grey.
        height: What it is resized to, in pixels; None if any will do.
        width: Likewise.
        mean: For each channel, in 0..white.
        std: Likewise.
        white: The value of the brightest pixel.
        classes: The names of the outputs, in order; none for networks that enlarge pictures.
    """

    channels: int
    height: int | None
    width: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float = 255.0
    classes: tuple[str, ...] = ()


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

    trains: ClassVar[bool] = True
    """Whether measuring trains a network, and leaves its weights; a table's figures are looked up."""

    distills: bool = False
    """Whether a network can learn from the teacher that a task names; else such a task fails before it is begun."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @property
    def protocol(self) -> str:
        """How the metrics are computed, where that goes without saying for nobody: a line that reports repeat."""
        return ""

    @property
    @abstractmethod
    def io(self) -> IO:
        """What the data asks of a network."""

    @property
    @abstractmethod
    def fidelity(self) -> int:
        """The fidelity of a full measurement, in epochs."""

    @property
    def fidelities(self) -> Sequence[int]:
        """All that a task may ask for, rising to the full one; by default every number of epochs from 1."""
        return range(1, self.fidelity + 1)

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

    def known(self, architecture: Architecture) -> Mapping[str, float]:
        """Metrics that are known without measuring, such as a latency from a table; the same ones for all that is
        feasible. They can be objectives, and constraints that a strategy keeps beforehand, as costs are.
        """
        return {}

    @property
    def offered(self) -> Sequence[Architecture] | None:
        """All that is feasible, where that is only part of the space and can be listed, as in a partial table.

        A search then draws from the list, rather than at random until something feasible comes.
        """
        return None

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

    def state_dict(self, measurement: Measurement, *, artifacts: Artifacts) -> "dict[str, Tensor]":
        """The weights and statistics of the very network that was measured, as `space.build` names them.

        Exports ask for them, without the data: it must do without `prepare`.

        Raises:
            InputError: The measurement left none.
            ArtifactError: They are gone, or damaged.
        """
        if "weights" not in measurement.artifacts:
            raise InputError(
                f"trial {measurement.id} left no weights, since the benchmark does not train, "
                "or the answer came from memory"
            )
        return artifacts.get_tensors(measurement.artifacts["weights"])

    def inputs(self, count: int) -> "Tensor | None":
        """At most so many inputs of the validation split, as networks take them: `[n, *shape]`, on the CPU.

        Exports are compared with torch on them. By default there are none.

        Raises:
            InputError: The data is missing.
        """
        return None

    def preprocessing(self) -> Preprocessing | None:
        """How pictures become inputs, for those who use an exported network; by default nobody knows.

        Raises:
            InputError: The data, whose mean and deviation are asked for, is missing.
        """
        return None


class SupernetBenchmark(Benchmark):
    """A benchmark that can also train the shared weights of a supernet, and measure architectures with them.

    A task with `weights` is measured with what `train` left, as it is: nothing is trained for it. Its fidelity is
    the number of epochs behind those weights. Batch-norm statistics that such a measurement computes are left
    among its artifacts, and serve as long as the weights do.
    """

    def check_supernet(self) -> None:
        """Refuse, cheaply, what would make every training of a supernet fail.

        Raises:
            InputError: What is missing, and the remedy.
        """

    @property
    def members(self) -> int:
        """Among how many processes the training of given paths can be divided; that of the whole space is not."""
        return 1

    @abstractmethod
    def train(
        self, task: TrainSupernet, *, device: str, artifacts: Artifacts, group: "ProcessGroup | None" = None
    ) -> Trained:
        """Train shared weights on the task's paths, going on from `task.weights` if it names any.

        Args:
            task: The paths, or none for paths drawn from the whole space; and for how many epochs.
            device: A torch device.
            artifacts: Where weights are kept and found; what any member but the first puts there is forgotten.
            group: The processes that share the work, all of which are given the same task; None to work alone. What
                counts is the outcome of the first, which speaks for all.

        Raises:
            TrialFailed: Training gave no usable weights.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One figure that a table has for many architectures: an accuracy after one training schedule.

    Args:
        dataset: What the networks were trained on.
        split: What they were measured on.
        epochs: The length of the schedule: the fidelity.
        architectures: How many have a value.
        seeds: The seeds whose single values the table has as well.
        single_seed: Whether it has the value of one training run beside the mean.
        best: The highest value, a fraction.
        best_code: The first architecture that reaches it.
    """

    dataset: str
    split: Split
    epochs: int
    architectures: int
    seeds: tuple[int, ...]
    single_seed: bool
    best: float
    best_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """A file in the folder of a benchmark's tables.

    Args:
        path: Where it lies.
        rows: How many architectures it has.
        series: What it knows of them.
        metrics: What it tells of them besides, which searches know without measuring.
        problem: Why it cannot be used; empty if it can.
    """

    path: Path
    rows: int = 0
    series: tuple[Series, ...] = ()
    metrics: tuple[str, ...] = ()
    problem: str = ""


class TableBenchmark(Benchmark):
    """A benchmark that looks figures up in tables in the data folder, and can make them of the official files.

    What its authors published is converted once into a compact table, which every process that measures can
    load in seconds.
    """

    trains: ClassVar[bool] = False

    datasets: ClassVar[tuple[str, ...]]
    """All data sets that a table can be of."""

    imported: ClassVar[str]
    """The name of the file that an import writes unless told otherwise."""

    @classmethod
    @abstractmethod
    def folder(cls) -> Path:
        """Where the tables lie; it need not exist."""

    @classmethod
    @abstractmethod
    def convert(cls, source: Path, target: Path, progress: Callable[[int, int], None]) -> TableFile:
        """Make a compact table of an official file.

        The target appears complete or not at all, and so do the folders above it. Nothing in the source is
        executed.

        Args:
            source: The official file, or the folder of official files.
            target: The table to write.
            progress: Told now and then how much is done, and of how much, in whatever unit.

        Returns:
            What was written.

        Raises:
            InputError: The source is missing, damaged, of another structure or would run code, or the target
                exists or cannot be written.
        """

    @classmethod
    @abstractmethod
    def tables(cls) -> list[TableFile]:
        """What lies in the folder; a damaged file says so instead of hiding the others."""
