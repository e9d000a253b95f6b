"""Image classification, measured by training each architecture from scratch."""

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from nasplat.architecture import IO
from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark
from nasplat.data.datasets import Dataset, Source, Splits, dataset
from nasplat.errors import TrialFailed
from nasplat.search_space import SearchSpace
from nasplat.task import STATE, Evaluate, Measurement, Spent

if TYPE_CHECKING:
    from torch import Tensor, nn

ARCHITECTURE = "architecture"
"""What the state calls the code of the network it is of, since networks of one shape may differ."""

LATENCY = ("latency_ms", "latency_iqr_ms", "latency_batch", "latency_threads")
"""What a measured latency says: its median and interquartile range, and what they were measured with."""


def _absolute(folder: str | None) -> str | None:
    """The same folder for workers in other directories."""
    return None if folder is None else str(Path(folder).expanduser().absolute())


class Classification(Benchmark):
    """Trains on the training split and measures accuracy on the validation split; test images wait for the end.

    Fidelity is the number of epochs out of the whole training's `epochs`, which the learning rate's cycle always
    spans. The trained weights are kept with the measurement, so that the network that was measured is the one
    that is exported. A measurement of less than the whole also leaves its `state`; a task that continues from it
    gives, to the bit on one CPU, what an uninterrupted one gives.

    Args:
        space: Where the networks come from.
        dataset: The data set's name; `nasplat list datasets` shows them.
        epochs: Passes over the training images in a full measurement.
        batch_size: Images in each step.
        learning_rate: The peak of the one-cycle schedule.
        momentum: Of SGD.
        weight_decay: L2 penalty on all parameters.
        data_folder: Holds the files of the data set; by default the data folder, `NASPLAT_DATA`.
        download: Whether missing files may be downloaded into the folder.
        subset: So many training and validation images in all, drawn once for everybody with every class in its
            share; test stays whole.
        side: What the pictures of `image_folder` are resized to, in pixels; by default the side of the first one.
        augment: Whether training images are cropped at random after padding by an eighth of their side and, unless
            they are of digits, flipped.
        precision: How training computes; `auto` is bfloat16 where a CUDA device does it natively, else float32.
            Metrics are always computed in float32.
        latency_batch: If not 0, latency is measured too, with so many images in each pass; the benchmark is then
            `alone`, and its measurements have ``latency_ms`` (median) and ``latency_iqr_ms`` (spread).
        latency_threads: Threads of torch while latency is measured.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "loss")

    def __init__(
        self,
        space: SearchSpace,
        *,
        dataset: str = "digits",
        epochs: Annotated[int, Field(ge=1)] = 10,
        batch_size: Annotated[int, Field(ge=2)] = 64,
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        weight_decay: Annotated[float, Field(ge=0)] = 5e-4,
        data_folder: Annotated[str | None, AfterValidator(_absolute)] = None,
        download: bool = False,
        subset: Annotated[int, Field(ge=1)] | None = None,
        side: Annotated[int, Field(ge=1)] | None = None,
        augment: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        latency_batch: Annotated[int, Field(ge=0)] = 0,
        latency_threads: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        super().__init__(space)
        self.dataset = dataset
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.data_folder = data_folder
        self.download = download
        self.subset = subset
        self.side = side
        self.augment = augment
        self.precision = precision
        self.latency_batch = latency_batch
        self.latency_threads = latency_threads
        if latency_batch:
            self.metrics = (*type(self).metrics, *LATENCY[:2])  # type: ignore[misc]  # which there are is an option's
            self.alone = True
        self._loaded: dict[str, Splits] = {}

    @cached_property
    def _dataset(self) -> Dataset:
        folder = None if self.data_folder is None else Path(self.data_folder)
        return dataset(self.dataset, Source(folder, self.download, self.subset, self.side))

    @property
    def io(self) -> IO:
        return self._dataset.io

    @property
    def fidelity(self) -> int:
        return self.epochs

    def check(self) -> None:
        self._dataset.check()

    def prepare(self) -> None:
        self._splits("cpu")

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.training.augmentation import augmentation
        from nasplat.training.fit import Recipe, Training, bfloat16_suits, evaluate
        from nasplat.training.seeding import seeded

        if task.weights is not None:
            raise TrialFailed("not supported", "this benchmark trains every architecture from scratch")
        if not 1 <= task.fidelity <= self.epochs:
            raise TrialFailed(
                "no such fidelity", f"the fidelity is to be between 1 and epochs={self.epochs}, but is {task.fidelity}"
            )
        bfloat16 = self.precision == "bfloat16" or (self.precision == "auto" and bfloat16_suits(device))
        recipe = Recipe(self.batch_size, self.learning_rate, self.momentum, self.weight_decay, bfloat16)
        splits = self._splits(device)
        images = splits.training.images
        augment = augmentation(images, mirrored=self._dataset.mirrored) if self.augment else None
        left = {}
        with seeded(task.seed, device):
            model = self.space.build(task.architecture, self.io).to(device)
            training = Training(model, splits.training, recipe, epochs=self.epochs, seed=task.seed, augment=augment)
            if task.continues is not None:
                training.restore(_state(task, artifacts))
                if training.done >= task.fidelity:
                    raise TrialFailed(
                        "already past it",
                        f"the state to continue from is of {training.done} epochs, "
                        f"but the task asks for {task.fidelity}; ask for more, or start afresh",
                    )
            processed = training.until(task.fidelity)
            if task.fidelity < self.epochs:
                left = training.state() | {ARCHITECTURE: _spelt(task)}
        metrics = evaluate(model, splits.validation)
        if not math.isfinite(metrics["loss"]):  # the last steps went astray, after their own loss was taken
            raise TrialFailed("diverged", f"the validation loss is {metrics['loss']}")
        if self.latency_batch:
            metrics |= self._latency(model, device)
        return Measurement(
            task=task,
            metrics=metrics,
            artifacts={
                "weights": artifacts.put_tensors(model.state_dict()),
                **({STATE: artifacts.put_tensors(left)} if left else {}),
            },
            spent=Spent(images=processed),
        )

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.training.fit import evaluate

        model = self._trained(measurement, artifacts).to(device)
        latency = {name: measurement.metrics[name] for name in LATENCY if name in measurement.metrics}
        return Measurement(
            task=measurement.task,
            metrics=evaluate(model, self._splits(device).test) | latency,  # which is of no split
            split="test",
            artifacts=measurement.artifacts,
        )

    def _latency(self, model: "nn.Module", device: str) -> dict[str, float]:
        from nasplat.nn.latency import measure_latency

        found = measure_latency(model, self.io, batch=self.latency_batch, threads=self.latency_threads, device=device)
        return dict(zip(LATENCY, (found.median_ms, found.iqr_ms, found.batch, found.threads), strict=True))

    def _trained(self, measurement: Measurement, artifacts: Artifacts) -> "nn.Module":
        from nasplat.training.seeding import seeded

        with seeded(measurement.task.seed):
            model = self.space.build(measurement.architecture, self.io)
        model.load_state_dict(self.state_dict(measurement, artifacts=artifacts))
        return model

    def _splits(self, device: str) -> Splits:
        """The data set on a device; read once, wherever it is needed."""
        if device not in self._loaded:
            self._loaded[device] = (self._loaded.get("cpu") or self._dataset.load()).to(device)
        return self._loaded[device]


def _spelt(task: Evaluate) -> "Tensor":
    import torch

    return torch.tensor(list(str(task.architecture).encode()), dtype=torch.uint8)


def _state(task: Evaluate, artifacts: Artifacts) -> "dict[str, Tensor]":
    """The state that the task continues from; of the same architecture."""
    from safetensors import SafetensorError

    assert task.continues is not None
    try:
        state = artifacts.get_tensors(task.continues)
    except SafetensorError as error:
        raise TrialFailed("not a state", f"the artifact to continue from is no safetensors file: {error}") from None
    if ARCHITECTURE not in state:
        raise TrialFailed("not a state", "the artifact to continue from is no state of a training")
    of = bytes(state.pop(ARCHITECTURE).tolist()).decode(errors="replace")
    if of != str(task.architecture):
        raise TrialFailed(
            "another network", f"the state to continue from is of {of}, but the task is to measure {task.architecture}"
        )
    return state
