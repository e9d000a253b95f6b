"""Zero-cost proxies as a benchmark: metrics of untrained networks instead of training."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from nasplat.architecture import IO
from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark
from nasplat.data.dataset import Dataset
from nasplat.data.datasets import DATASETS, dataset
from nasplat.data.manifest import DATA, manifest_of, manifests
from nasplat.data.options import ImageOptions
from nasplat.errors import InputError, TrialFailed, unknown
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from nasplat.surrogates.zero_cost import Proxies

Name: TypeAlias = Literal["synflow", "nwot", "jacov", "snip", "grad_norm"]

NOISE = "noise"
"""The name of the random-noise input, in place of a data set."""
NOISE_SIDE = 32
"""The default side of noise images, in pixels."""
CODE_PROXIES = frozenset({"nwot"})
"""The proxies that depend on the code: nwot counts the ReLUs of dead edges too, by which no gradient passes."""


class ZeroCost(Benchmark):
    """Zero-cost proxies of untrained networks: no training, no test data.

    One batch and the same seeds of initialization are used for all architectures, so the values are comparable. The
    seeds of tasks have no effect. The batch has training images, or noise. Noise needs no data and suits every space,
    also super-resolution spaces. For each proxy, more is better; see `nasplat.surrogates.zero_cost` for their
    definitions. Two more proxies, `params` and `macs`, are free metrics of every search.

    Costs are for the image size of the data set; with noise, for the default image size of the space.

    Args:
        space: The search space of the networks.
        dataset: The name of a data set (`nasplat list datasets` shows them), or ``noise``.
        proxies: The proxies to compute; one alone takes less time.
        batch: The number of images in the batch; all training images if there are fewer.
        initializations: The number of new networks over which each proxy is averaged.
        seed: The seed for drawing images and initial weights.
        data: The location of the files of the data set. For noise, `data.side` is the side in pixels; the default is
            32, or the space's own side if it is smaller.
    """

    trains: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("synflow", "nwot", "jacov", "snip", "grad_norm")
    former_options: ClassVar[Mapping[str, str]] = {
        "data_folder": "data.folder",
        "download": "data.download",
        "side": "data.side",
    }

    def __init__(
        self,
        space: SearchSpace,
        *,
        dataset: str = NOISE,
        proxies: tuple[Name, ...] = ("synflow", "nwot", "jacov", "snip", "grad_norm"),
        batch: Annotated[int, Field(ge=2)] = 32,
        initializations: Annotated[int, Field(ge=1)] = 1,
        seed: Annotated[int, Field(ge=0)] = 0,
        data: ImageOptions = ImageOptions(),
    ) -> None:
        super().__init__(space)
        self.dataset = dataset
        self.proxies = tuple(proxies)
        self.batch = batch
        self.initializations = initializations
        self.seed = seed
        self.data = data
        self.code_metrics = CODE_PROXIES.intersection(self.proxies)
        self.metrics = self.proxies  # type: ignore[misc]  # an option decides which there are
        self._proxies: dict[str, Proxies] = {}

    @property
    def protocol(self) -> str:
        pictures = "examples of noise" if self._data is None else f"training images of {self.dataset}"
        return (
            f"Zero-cost proxies of untrained networks: {self.batch} {pictures}, mean of {self.initializations} "
            f"initialization{'s' * (self.initializations > 1)}, seed {self.seed}."
        )

    @cached_property
    def _data(self) -> Dataset | None:
        """The data set; None for noise."""
        if self.dataset == NOISE:
            return None
        if self.dataset not in DATASETS:
            raise InputError(unknown("data set", self.dataset, [*DATASETS, NOISE]))
        return dataset(self.dataset, self.data.source(manifest_of(self.recorded, DATA)))

    @property
    def io(self) -> IO:
        return self.space.reference_io if self._data is None else self._data.io

    @property
    def fidelity(self) -> int:
        return 1

    def check(self) -> None:
        if not self.proxies or len(set(self.proxies)) < len(self.proxies):
            raise InputError(
                "benchmark.proxies must name at least one proxy, and each only once, but got "
                f"{', '.join(self.proxies) or 'none'}; the default is {', '.join(type(self).metrics)}"
            )
        if self._data is not None:
            self._data.check()

    def data_notes(self) -> Sequence[str]:
        return () if self._data is None else self._data.survey().notes()

    def record_data(self) -> dict[str, Any]:
        return manifests(DATA, self._data.record if self._data else None)

    def accept_data(self) -> dict[str, Any]:
        return manifests(DATA, self._data.accept if self._data else None)

    def prepare(self) -> None:
        self._ready("cpu")

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        if task.fidelity != 1 or task.weights is not None:
            raise TrialFailed("no such fidelity", "zero-cost proxies measure untrained networks: ask for fidelity 1")
        metrics = self._ready(device)(task.architecture)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise TrialFailed("not finite", f"{name} of the untrained network is {value}")
        return Measurement(task=task, metrics=metrics)

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        raise InputError(
            f"trial {measurement.id} has only zero-cost proxies; an untrained network cannot be measured on test "
            "images; train the architecture with the benchmark classification or super_resolution"
        )

    def _ready(self, device: str) -> "Proxies":
        """The proxies with their batch on a device. They are made once."""
        from nasplat.surrogates.zero_cost import Proxies, reduced

        if device not in self._proxies:
            images, labels = (part.to(device) for part in self._pictures())
            io = self.io if self._data is not None else reduced(self.io, self.data.side or NOISE_SIDE)
            self._proxies[device] = Proxies(
                self.space,
                io,
                names=self.proxies,
                initializations=self.initializations,
                seed=self.seed,
                images=images,
                labels=labels,
            )
        return self._proxies[device]

    def _pictures(self) -> "tuple[Tensor, Tensor]":
        """The batch and its labels."""
        import torch

        from nasplat.data.splitting import stratified_order
        from nasplat.surrogates.zero_cost import noise, reduced

        if self._data is None:
            return noise(reduced(self.io, self.data.side or NOISE_SIDE), self.batch, self.seed)
        examples = self._data.load().training
        rows = stratified_order(examples.labels.numpy(), self.seed)[: self.batch]
        return examples.batch(torch.from_numpy(rows))
