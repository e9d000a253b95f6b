"""The contract of a benchmark: what turns an architecture into a measurement."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.cost import EXPECTED, SPREAD
from nasplat.errors import InputError
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement, Split, Trained, TrainSupernet

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an image becomes a network's input: resize, scale to `white`, subtract `mean`, divide by `std`.

    Args:
        channels: 3 for red, green and blue, 1 for grey.
        height: Height after resizing, in pixels; None if any height is accepted.
        width: Width after resizing, in pixels; None if any width is accepted.
        mean: The mean of each channel, in 0..white.
        std: The standard deviation of each channel, in 0..white.
        white: The value of the brightest pixel.
        classes: The names of the outputs, in order; empty for super-resolution.
        most_pixels: The largest number of pixels of an image before it is resized; None for the default of
            `nasplat.data.pixels`.
    """

    channels: int
    height: int | None
    width: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float = 255.0
    classes: tuple[str, ...] = ()
    most_pixels: int | None = None


class Benchmark(ABC):
    """Measures architectures of one search space.

    Life cycle. The constructor takes the space and keyword-only options, stores them under their own names
    and does no work. The driver calls `check` before anything is created, and `feasible` during the search. Every
    process that measures calls `prepare` once, which loads tables and data sets. Then `measure` is called for one
    task after another, from one thread.

    A measurement below full fidelity may leave a ``state`` among its artifacts. A task can continue from that state
    in any process, with the same result as an uninterrupted measurement.

    All randomness comes from the task's seed; global generators are left as they were. A trial that cannot
    give a result raises `TrialFailed`; any other exception is recorded as well.
    """

    metrics: ClassVar[tuple[str, ...]]
    """The metrics that every measurement has; empty if they are known only from a measurement. A goal may then name
    any metric, and a measurement that lacks it becomes a failure."""

    code_metrics: frozenset[str] = frozenset()
    """The measured metrics that depend on an architecture's code, not only on the function that it computes, such as
    a latency. A search for one of them measures every code, even if the canonical key was measured before."""

    alone: bool = False
    """Whether a measurement needs exclusive use of the device, as for latency; such a search has one worker."""

    trains: ClassVar[bool] = True
    """Whether a measurement trains a network and leaves its weights."""

    looks_up: ClassVar[bool] = False
    """Whether a measurement only looks figures up in a table, which takes no time; `trains` is then False."""

    distills: bool = False
    """Whether the benchmark supports knowledge distillation; if not, a task that names a teacher fails at once."""

    has_teacher: bool = False
    """Whether its data brings a teacher, which a benchmark that distills uses for tasks that name none."""

    fine_tunes: ClassVar[bool] = False
    """Whether tasks with a `tuning` from shared weights are supported; if not, they fail at once."""

    fits_originals: ClassVar[bool] = False
    """Whether tasks with a `tuning` from an original network are supported; if not, they fail at once."""

    reports: ClassVar[bool] = False
    """Whether measurements report figures while they train, and end early by the `stop` of their task."""

    recorded: Mapping[str, Any] | None = None
    """What `record_data` gave for the run that this benchmark measures for; None in a new run. It is set before any
    method is called. The data must then be what was recorded, and its split, classes and scaling are used."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @property
    def protocol(self) -> str:
        """One line on how the metrics are computed, repeated in reports; empty if nothing needs saying."""
        return ""

    @property
    @abstractmethod
    def io(self) -> IO:
        """The input and output shapes that the data requires."""

    @property
    @abstractmethod
    def fidelity(self) -> int:
        """The fidelity of a full measurement, in epochs."""

    @property
    def fidelities(self) -> Sequence[int]:
        """All fidelities that a task may have, rising to the full one; by default every number of epochs from 1."""
        return range(1, self.fidelity + 1)

    @property
    def varying_metrics(self) -> tuple[str, ...]:
        """The metrics of the MACs that images take, if some networks of the space compute less for some images."""
        return (EXPECTED, SPREAD) if self.space.varies else ()

    def varying_macs(self, architecture: Architecture) -> int | None:
        """The MACs that an image takes at most, if there are `varying_metrics`."""
        return self.space.cost(architecture, self.io).macs if self.varying_metrics else None

    def can_measure(self, metric: str) -> bool:
        """Whether a measurement may have the metric: one of `metrics`, or any if those are not known before."""
        return not self.metrics or metric in self.metrics

    def check(self) -> None:  # noqa: B027  most benchmarks have nothing to refuse
        """Cheap checks for what would make every trial fail: a missing file, a space that cannot be measured.

        Raises:
            InputError: What is missing, where it was looked for, and the remedy.
        """

    def data_notes(self) -> Sequence[str]:
        """What users may not expect of the data, a line each, such as files that are left out; by default nothing.

        A search tells it once at its start, after `check`.
        """
        return ()

    @abstractmethod
    def prepare(self) -> None:
        """Load what measurements need; a second call does nothing."""

    def record_data(self) -> dict[str, Any]:
        """Identify the data that measurements depend on: manifests as JSON, by the purpose of the data.

        It may read all of the data. A run keeps the result, so that later commands notice a change of the data.

        Raises:
            InputError: The data is missing or damaged.
        """
        return {}

    def accept_data(self) -> dict[str, Any]:
        """As `record_data`, for data that differs from `recorded`: what is still there keeps its part of the split.

        Raises:
            InputError: The difference cannot be accepted.
        """
        return self.record_data()

    def feasible(self, architecture: Architecture) -> bool:
        """Whether the architecture can be measured; False for architectures that a partial table lacks.

        By default, `enumerable_members` can, and if it is None, all. Override it only if other codes of the networks
        that are listed can be measured as well.
        """
        return self._enumerable is None or architecture in self._enumerable

    @cached_property
    def _enumerable(self) -> frozenset[Architecture] | None:
        members = self.enumerable_members
        return None if members is None else frozenset(members)

    def analytic_metrics(self, architecture: Architecture) -> Mapping[str, float]:
        """Analytic metrics, which need no measurement, such as a latency from a table. All feasible architectures have
        the same ones. Like costs, they can be objectives, or constraints that a strategy checks before measuring.
        """
        return {}

    @property
    def enumerable_members(self) -> Sequence[Architecture] | None:
        """All measurable members, if they are part of the space and can be listed, as in a partial table; else None.

        Each is listed once, and the list does not change. A search then draws from the list, instead of drawing at
        random until a member is measurable.
        """
        return None

    @abstractmethod
    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        """Measure one architecture on the validation split.

        Args:
            task: What to measure.
            device: A torch device, ``cpu`` or ``cuda``.
            artifacts: The store that weights are read from and written to.

        Returns:
            The measurement with all of `metrics`. The executor adds time, device and worker.

        Raises:
            TrialFailed: This architecture cannot be measured.
        """

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        """Measure the network of an earlier measurement on the test split; no other method uses that split.

        By default a benchmark has no such split.

        Raises:
            InputError: There is no test split, or the measurement left no network that could be tested.
        """
        raise InputError(
            f"the benchmark {type(self).__name__} has no test split; give it a method `final`, or train the network "
            "again with a benchmark that has one, by `nasplat retrain --benchmark` (retrain(benchmark=…))"
        )

    def state_dict(self, measurement: Measurement, *, artifacts: Artifacts) -> "dict[str, Tensor]":
        """The weights and statistics of exactly the network that was measured, under the names of `space.build`.

        Exports call it without the data, so it must work without `prepare`.

        Raises:
            InputError: The measurement left no weights.
            ArtifactError: The weights are missing or damaged.
        """
        if "weights" not in measurement.artifacts:
            raise InputError(
                f"trial {measurement.id} left no weights: the benchmark does not train networks, "
                "or the measurement was a cache hit"
            )
        return artifacts.get_tensors(measurement.artifacts["weights"])

    def inputs(self, count: int) -> "Tensor | None":
        """At most `count` network inputs of the validation split, `[n, *shape]`, on the CPU; by default None.

        Exported networks are compared with torch on them.

        Raises:
            InputError: The data is missing.
        """
        return None

    def preprocessing(self) -> Preprocessing | None:
        """How images become inputs, for users of an exported network; None, the default, if not known.

        Raises:
            InputError: The data, which mean and deviation are computed from, is missing.
        """
        return None


class SupernetBenchmark(Benchmark):
    """A benchmark that can also train the shared weights of a supernet, and measure architectures with them.

    A task with `weights` is measured with the weights that `train` left, unchanged and without further training. Its
    fidelity is the number of epochs that those weights were trained for. Such a measurement leaves the batch-norm
    statistics that it computes among its artifacts; they are usable as long as the weights are.

    A task with `tuning` is a training of one architecture like any other, but its weights begin as the shared ones, or
    fitted to those of the original network. Its schedule spans the epochs of the fine-tuning, and its fidelity is the
    number of both kinds of epochs.
    """

    def check_supernet(self) -> None:
        """Cheap checks for what would make every training of a supernet fail.

        Raises:
            InputError: What is missing, and the remedy.
        """

    @property
    def members(self) -> int:
        """Number of processes that can share the training of given paths; training on the whole space uses one."""
        return 1

    @abstractmethod
    def train(
        self, task: TrainSupernet, *, device: str, artifacts: Artifacts, group: "ProcessGroup | None" = None
    ) -> Trained:
        """Train shared weights on the task's paths, starting from `task.weights` if it is not None.

        Args:
            task: The number of epochs, and the paths; no paths means paths drawn from the whole space.
            device: A torch device.
            artifacts: The store that weights are read from and written to. Only what rank 0 writes is kept.
            group: The process group that shares the work; None to work alone. All ranks are given the same task, and
                the outcome of rank 0 is used.

        Raises:
            TrialFailed: Training gave no usable weights.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric that a table has for many architectures: an accuracy after one training schedule.

    Args:
        dataset: The data set that the networks were trained on.
        split: The split that they were measured on.
        epochs: The length of the schedule: the fidelity.
        architectures: Number of architectures that have a value.
        seeds: The seeds whose single values the table has as well.
        single_seed: Whether the table has the value of one training run in addition to the mean.
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
    """A file in the folder of tables of a benchmark.

    Args:
        path: The path of the file.
        rows: Number of architectures in the file.
        series: The accuracies that the file has.
        metrics: Further metrics in the file, which searches use as analytic metrics, without a measurement.
        problem: Why the file cannot be used; empty if it can.
    """

    path: Path
    rows: int = 0
    series: tuple[Series, ...] = ()
    metrics: tuple[str, ...] = ()
    problem: str = ""


class TableBenchmark(Benchmark):
    """A benchmark that looks metrics up in tables in the data folder, and can convert the official files to tables.

    The published files are converted once into a compact table, which every measuring process can load in seconds.
    """

    trains: ClassVar[bool] = False
    looks_up: ClassVar[bool] = True

    datasets: ClassVar[tuple[str, ...]]
    """All data sets that a table can cover."""

    imported: ClassVar[str]
    """The default name of the file that an import writes."""

    @classmethod
    @abstractmethod
    def folder(cls) -> Path:
        """The folder of the tables; it need not exist."""

    @classmethod
    @abstractmethod
    def convert(cls, source: Path, target: Path, progress: Callable[[int, int], None]) -> TableFile:
        """Convert an official file to a compact table.

        The target and its missing parent folders are created completely or not at all. Nothing in the source is
        executed.

        Args:
            source: The official file, or the folder of official files.
            target: The table to write.
            progress: Called from time to time with the amount done and the total, in any unit.

        Returns:
            The file that was written.

        Raises:
            InputError: The source is missing or damaged, has another structure, or would run code; or the target
                exists or cannot be written.
        """

    @classmethod
    @abstractmethod
    def tables(cls) -> list[TableFile]:
        """The files in the folder; a damaged file is listed with its problem and does not hide the others."""
