"""Enlarging pictures, measured by training each architecture from scratch."""

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.benchmark import Preprocessing
from nasplat.data.location import absolute, data_folder
from nasplat.data.picture_sets import Picture, PictureSet, picture_set
from nasplat.data.resolution import PROTOCOL, WINDOW
from nasplat.errors import InputError, TrialFailed
from nasplat.latency.table import LatencyKnown
from nasplat.search_space import SearchSpace
from nasplat.task import STATE, Evaluate, Measurement, Spent

if TYPE_CHECKING:
    from torch import Tensor

    from nasplat.training.fit import Recipe
    from nasplat.training.super_resolution import EnlargerTraining, Pair, Patches

VALIDATION_SIDE = 256
"""Of larger validation pictures the middle is taken, so many pixels in height and width."""


class SuperResolution(LatencyKnown):
    """Image super-resolution: trains networks, measures PSNR and SSIM.

    Networks train on patches and are measured on whole images; test images wait for the final measurement.

    A network is given pictures that were shrunk by bicubic with antialiasing, and learns by Adam to give back what
    they were, with the mean absolute difference as its loss. What the metrics are says the `protocol`; on validation
    they are of the middle of each picture, at most 256 pixels in height and width, on test pictures of the whole. A
    network is given one picture at a time, so that the largest decides how much memory that takes.

    Fidelity is the number of epochs out of the whole training's `epochs`, each of so many `steps`. The trained
    weights are kept with the measurement. A measurement of less than the whole also leaves its `state`; a task that
    continues from it gives, to the bit on one CPU, what an uninterrupted one gives.

    Args:
        space: Where the networks come from.
        dataset: The name of a set of pictures; `nasplat list datasets` shows them.
        scale: How many times higher and wider the networks make a picture.
        epochs: Of a full measurement.
        steps: Batches in each epoch.
        batch_size: Patches in each step.
        patch: The side of a small patch, in pixels; its large one has `scale` times as many.
        learning_rate: The highest, of Adam.
        schedule: Whether the learning rate goes up and down again, down a cosine to 1/25, or is halved four times.
        ema: The decay of the moving average of weights that is measured and kept in their place; 0 for none. In step
            t, from 0, it is no more than (1 + t) / (10 + t).
        augment: Whether patches are turned by quarters and mirrored at random.
        data_folder: Holds the pictures; by default the data folder, `NASPLAT_DATA`.
        training_pictures: At most so many of the training pictures, spread over the set, for a set that is larger
            than the memory.
        validation_pictures: Likewise of the validation pictures.
        tests: Further sets that the final measurement is done on, such as ``set5``, whose metrics begin with their
            names. A data set without test pictures needs one; the first gives the figures without a name.
        precision: How training computes; `auto` is bfloat16 where a CUDA device does it natively, else float32.
            Metrics are always computed in float32.
        width: Of the enlarged picture that costs and latency are of, in pixels; less what is over a multiple of
            `scale`.
        height: Likewise.
        latency_table: A file that tells latency, as `nasplat benchmark build latency` makes them; ``latency_ms`` is
            then known without measuring, and only what the table tells of is feasible.
    """

    metrics: ClassVar[tuple[str, ...]] = ("psnr_db", "ssim", "gain_db")

    def __init__(
        self,
        space: SearchSpace,
        *,
        dataset: str = "photos",
        scale: Annotated[int, Field(ge=2, le=4)] = 2,
        epochs: Annotated[int, Field(ge=1)] = 10,
        steps: Annotated[int, Field(ge=1)] = 100,
        batch_size: Annotated[int, Field(ge=1)] = 16,
        patch: Annotated[int, Field(ge=4)] = 24,
        learning_rate: Annotated[float, Field(gt=0)] = 2e-3,
        schedule: Literal["one_cycle", "cosine", "halving"] = "one_cycle",
        ema: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        augment: bool = True,
        data_folder: Annotated[str | None, AfterValidator(absolute)] = None,
        training_pictures: Annotated[int, Field(ge=1)] | None = None,
        validation_pictures: Annotated[int, Field(ge=1)] | None = None,
        tests: tuple[str, ...] = (),
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        width: Annotated[int, Field(ge=16)] = 1280,
        height: Annotated[int, Field(ge=16)] = 720,
        latency_table: Annotated[str | None, AfterValidator(absolute)] = None,
    ) -> None:
        super().__init__(space)
        self.dataset = dataset
        self.scale = scale
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.patch = patch
        self.learning_rate = learning_rate
        self.schedule: Literal["one_cycle", "cosine", "halving"] = schedule
        self.ema = ema
        self.augment = augment
        self.data_folder = data_folder
        self.training_pictures = training_pictures
        self.validation_pictures = validation_pictures
        self.tests = tuple(tests)
        self.precision = precision
        self.width = width
        self.height = height
        self.latency_table = latency_table

    @property
    def protocol(self) -> str:
        return (
            f"Enlarged x{self.scale}: {PROTOCOL.format(scale=self.scale)}. Validation pictures: the middle, at most "
            f"{VALIDATION_SIDE} pixels in height and width; test pictures whole."
        )

    @property
    def io(self) -> IO:
        return IO.enlarged(self.height // self.scale, self.width // self.scale, self.scale)

    @property
    def fidelity(self) -> int:
        return self.epochs

    def check(self) -> None:
        for what, pictures in (("training", self._pictures.training), ("validation", self._pictures.validation)):
            if not pictures:
                raise InputError(
                    f"{self.dataset} is a set to test with and has no {what} pictures; name it in benchmark.tests, and "
                    "another, such as photos, as the dataset"
                )
        if not any(self._tests.values()):
            raise InputError(
                f"{self.dataset} has no test pictures; name a set that has, such as --set benchmark.tests=[set5]"
            )
        self.check_table()

    def prepare(self) -> None:
        _ = self._patches, self.validation  # read for the first time

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.training.seeding import seeded
        from nasplat.training.states import named, train_for
        from nasplat.training.super_resolution import evaluate

        if task.weights is not None:
            raise TrialFailed("no shared weights", "super_resolution trains every network by itself; name no weights")
        if not 1 <= task.fidelity <= self.epochs:
            raise TrialFailed(
                "no such fidelity", f"the fidelity is to be between 1 and epochs={self.epochs}, but is {task.fidelity}"
            )
        with seeded(task.seed, device):
            training = self.training(task.architecture, device=device, seed=task.seed)
            processed = train_for(task, training, artifacts)
            left = {"weights": training.network.state_dict()}
            if task.fidelity < self.epochs:
                left[STATE] = named(training.state(), str(task.architecture))
        metrics = evaluate(training.network, self.validation, self.scale, device)
        if not math.isfinite(metrics["psnr_db"]):  # the last steps went astray, after their own loss was taken
            raise TrialFailed("diverged", f"the validation PSNR is {metrics['psnr_db']}")
        kept = {role: artifacts.put_tensors(tensors) for role, tensors in left.items()}
        return Measurement(task=task, metrics=metrics, artifacts=kept, spent=Spent(images=processed))

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.training.seeding import seeded
        from nasplat.training.super_resolution import Pair, evaluate

        with seeded(measurement.task.seed):
            network = self.space.build(measurement.architecture, self.io)
        network.load_state_dict(self.state_dict(measurement, artifacts=artifacts))
        network = network.to(device)
        metrics: dict[str, float] = {}
        for name, pictures in self._tests.items():
            found = evaluate(network, (Pair.of(each, self.scale) for each in pictures), self.scale, device)
            if not metrics:
                metrics |= found
            if name in self.tests:
                metrics |= {f"{name}_{metric}": value for metric, value in found.items()}
        return Measurement(task=measurement.task, metrics=metrics, split="test", artifacts=measurement.artifacts)

    def inputs(self, count: int) -> "Tensor | None":
        import torch

        from nasplat.training.super_resolution import Pair

        chosen = _spread(self._pictures.validation, count)
        pictures = [Pair.of(each, self.scale, side=VALIDATION_SIDE).small for each in chosen]
        if not pictures:
            return None
        height, width = (min(picture.shape[axis] for picture in pictures) for axis in (1, 2))
        return torch.stack([picture[:, :height, :width] for picture in pictures])

    def preprocessing(self) -> Preprocessing | None:
        channels = self.io.input_shape[0]
        return Preprocessing(
            channels=channels, height=None, width=None, mean=(0.0,) * channels, std=(255.0,) * channels
        )

    def training(self, architecture: Architecture, *, device: str, seed: int) -> "EnlargerTraining":
        """A training of an architecture's network from its beginning; to be called and used within `seeded`."""
        from nasplat.training.super_resolution import EnlargerTraining

        network = self.space.build(architecture, self.io).to(device)
        return EnlargerTraining(
            network,
            self._patches,
            self._recipe(device),
            device=device,
            epochs=self.epochs,
            steps=self.steps,
            seed=seed,
        )

    def _recipe(self, device: str) -> "Recipe":
        from nasplat.training.fit import Recipe, bfloat16_suits

        return Recipe(
            self.batch_size,
            self.learning_rate,
            momentum=0.0,
            weight_decay=0.0,
            bfloat16=self.precision == "bfloat16" or (self.precision == "auto" and bfloat16_suits(device)),
            schedule=self.schedule,
            optimizer="adam",
            ema=self.ema,
        )

    @cached_property
    def _pictures(self) -> PictureSet:
        return picture_set(self.dataset, *self._folders)

    @property
    def _folders(self) -> list[Path]:
        return [] if self.data_folder is None else [Path(self.data_folder)]

    @cached_property
    def _tests(self) -> dict[str, tuple[Picture, ...]]:
        """The test pictures by the name of their set, the data set's own first if it has any."""
        own = {self.dataset: self._pictures.test} if self._pictures.test else {}
        others = {}
        for name in self.tests:
            others[name] = picture_set(name, *self._folders, data_folder()).test
            if not others[name]:
                raise InputError(f"{name} has no test pictures, but is named in benchmark.tests; leave it out")
        return own | others

    @cached_property
    def _patches(self) -> "Patches":
        from nasplat.training.super_resolution import Pair, Patches

        chosen = _spread(self._pictures.training, self.training_pictures)
        pairs = [Pair.of(each, self.scale) for each in chosen]
        return Patches(pairs, scale=self.scale, side=self.patch, augment=self.augment)

    @cached_property
    def validation(self) -> "list[Pair]":
        from nasplat.training.super_resolution import Pair

        chosen = _spread(self._pictures.validation, self.validation_pictures)
        pairs = [Pair.of(each, self.scale, side=VALIDATION_SIDE) for each in chosen]
        least = WINDOW + 2 * self.scale
        for pair in pairs:  # or every trial would fail by it, after its training
            height, width = pair.large.shape[1:]
            if min(height, width) < least:
                raise InputError(
                    f"a validation picture is to have at least {least} pixels a side to be compared at this scale, but "
                    f"{pair.name} has {width} x {height}; remove it"
                )
        return pairs


def _spread(pictures: tuple[Picture, ...], most: int | None) -> tuple[Picture, ...]:
    """At most so many pictures, taken at equal distances."""
    if most is None or most >= len(pictures):
        return pictures
    return tuple(pictures[number * len(pictures) // most] for number in range(most))
