"""Image super-resolution, measured by training each architecture from scratch."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.benchmark import Preprocessing
from nasplat.cost import counted_macs
from nasplat.data.location import data_folder
from nasplat.data.manifest import DATA, manifest_of, manifests
from nasplat.data.options import SuperResolutionDataOptions
from nasplat.data.picture_files import MOST_PIXELS, Survey, collected
from nasplat.data.picture_sets import Picture, PictureSet, accepted, check_recorded, picture_set
from nasplat.data.resolution import PROTOCOL, WINDOW
from nasplat.errors import InputError, TrialFailed
from nasplat.latency.known import LatencyKnown
from nasplat.latency.options import LatencyTableOptions
from nasplat.search_space import SearchSpace
from nasplat.task import LAYERS, STATE, Evaluate, Measurement, Spent
from nasplat.training.options import SuperResolutionRecipeOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nasplat.training.recipe import Recipe
    from nasplat.training.super_resolution import Pair, Patches, SuperResolutionTraining

VALIDATION_SIDE = 256
"""Larger validation images are center-cropped to this height and width, in pixels."""


class SuperResolution(LatencyKnown):
    """Image super-resolution: trains networks, measures PSNR and SSIM.

    Networks train on patches and are measured on whole images. Test images are used only in the final measurement.

    The inputs are images downscaled by bicubic interpolation with antialiasing. The targets are the original images.
    The optimizer is Adam, and the loss is the mean absolute difference. `protocol` defines the metrics. Validation
    metrics are computed on the center of each image, at most 256 pixels in height and width; test metrics on the whole
    image. A network processes one image at a time, so the largest image determines the memory.

    Fidelity is the number of epochs, at most `epochs`; each epoch has `steps` steps. The trained weights are kept with
    the measurement. A measurement at a lower fidelity also leaves its `state`. A task that continues from this state
    gives the same result, to the bit on one CPU, as an uninterrupted one.

    Args:
        space: The search space of the networks.
        dataset: The name of an image set; `nasplat list datasets` shows them.
        scale: The factor by which networks upscale the height and width of an image.
        epochs: The epochs of a full measurement.
        width: The width, in pixels, of the upscaled image for costs and latency, rounded down to a multiple of
            `scale`.
        height: The height, in pixels, likewise.
        data: The location of the images, and which of them are used.
        recipe: How networks are trained.
        latency: The table from which latency is read.
    """

    fits_originals: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("psnr_db", "ssim", "gain_db")
    former_options: ClassVar[Mapping[str, str]] = {
        "data_folder": "data.folder",
        "training_pictures": "data.training_images",
        "validation_pictures": "data.validation_images",
        "tests": "data.tests",
        **{name: f"recipe.{name}" for name in SuperResolutionRecipeOptions.model_fields},
        "latency_table": "latency.table",
    }

    def __init__(
        self,
        space: SearchSpace,
        *,
        dataset: str = "photos",
        scale: Annotated[int, Field(ge=2, le=4)] = 2,
        epochs: Annotated[int, Field(ge=1)] = 10,
        width: Annotated[int, Field(ge=16)] = 1280,
        height: Annotated[int, Field(ge=16)] = 720,
        data: SuperResolutionDataOptions = SuperResolutionDataOptions(),
        recipe: SuperResolutionRecipeOptions = SuperResolutionRecipeOptions(),
        latency: LatencyTableOptions = LatencyTableOptions(),
    ) -> None:
        super().__init__(space)
        self.dataset = dataset
        self.scale = scale
        self.epochs = epochs
        self.width = width
        self.height = height
        self.data = data
        self.recipe = recipe
        self.latency = latency
        self.latency_table = latency.table
        self.metrics = (*self.metrics, *self.varying_metrics)  # type: ignore[misc]  # which there are is the space's

    @property
    def protocol(self) -> str:
        images = (
            f"Upscaled x{self.scale}: {PROTOCOL.format(scale=self.scale)}. Validation images: the center, at most "
            f"{VALIDATION_SIDE} pixels in height and width. Test images: whole."
        )
        return f"{images} {self.latency_protocol}".rstrip()

    @property
    def io(self) -> IO:
        return IO.upscaled(self.height // self.scale, self.width // self.scale, self.scale)

    @property
    def fidelity(self) -> int:
        return self.epochs

    def check(self) -> None:
        check_recorded(self.dataset, *self._folders, recorded=manifest_of(self.recorded, DATA))
        for what, pictures in (("training", self._pictures.training), ("validation", self._pictures.validation)):
            if not pictures:
                raise InputError(
                    f"{self.dataset} is a test set and has no {what} images; name it in benchmark.data.tests, and name "
                    "another set, such as photos, as benchmark.dataset"
                )
        if not any(self._tests.values()):
            raise InputError(
                f"{self.dataset} has no test images; name a set with test images, such as --set "
                "benchmark.data.tests=[set5] (options={'benchmark.data.tests': ['set5']})"
            )
        self.check_table()
        _ = self._survey  # opens all files

    def data_notes(self) -> Sequence[str]:
        return self._survey.notes()

    def prepare(self) -> None:
        collected(lambda part: getattr(self, part), ("_patches", "validation"))  # both are read now

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.nn.rewritten import calibrate, check
        from nasplat.training.seeding import seeded
        from nasplat.training.states import named, train_for, transformed_network

        if task.weights is not None:
            raise TrialFailed(
                "no shared weights",
                "super_resolution trains every network from scratch; leave the shared weights out of the task",
            )
        tuning = task.tuning
        least, most = (1, self.epochs) if tuning is None else (0, tuning.epochs)
        if not least <= task.fidelity <= most:
            raise TrialFailed(
                "no such fidelity", f"the fidelity must be between {least} and {most} epochs, but is {task.fidelity}"
            )
        with seeded(task.seed, device):
            network = None
            if tuning is not None and task.continues is None:
                network = transformed_network(task, self.space, self.io, device, artifacts)
            training = self.training(task.architecture, device=device, seed=task.seed, network=network)
            check(training.network, self.io)
            processed = train_for(task, training, artifacts)
            layers = calibrate(training.network, lambda n: self._patches.sample(n, seed=task.seed, device=device))
            left = {"weights": training.network.state_dict(), **({LAYERS: layers} if layers else {})}
            if task.fidelity < most:
                left[STATE] = named(training.state(), str(task.architecture))
        metrics = self._measured(task.architecture, training.network, self.validation, device)
        if not math.isfinite(metrics["psnr_db"]):  # the last steps can diverge after their own loss was computed
            raise TrialFailed("diverged", f"the validation PSNR is {metrics['psnr_db']}")
        kept = {role: artifacts.put_tensors(tensors) for role, tensors in left.items()}
        return Measurement(task=task, metrics=metrics, artifacts=kept, spent=Spent(images=processed))

    def _measured(
        self, architecture: Architecture, network: "nn.Module", pairs: "Iterable[Pair]", device: str
    ) -> dict[str, float]:
        """How well images are upscaled, and the MACs of one of the size of costs, where images differ in them."""
        from nasplat.nn.rewritten import expected_macs, sparing
        from nasplat.training.super_resolution import evaluate

        macs = self.varying_macs(architecture)
        if macs is None:
            return evaluate(network, pairs, self.scale, device)
        shapes: list[tuple[int, ...]] = []

        def seen() -> "Iterator[Pair]":
            for pair in pairs:
                shapes.append(tuple(pair.small.shape))
                yield pair

        with sparing(network) as spared:
            found = evaluate(network, seen(), self.scale, device)
        dense = {shape: counted_macs(network, replace(self.io, input_shape=shape)) for shape in set(shapes)}
        return found | expected_macs(spared, macs, [dense[shape] for shape in shapes])

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.nn.counting import built
        from nasplat.training.seeding import seeded
        from nasplat.training.super_resolution import Pair

        with seeded(measurement.task.seed):
            network = built(self.space, measurement.architecture, self.io)
        network.load_state_dict(self.state_dict(measurement, artifacts=artifacts))
        network = network.to(device)
        metrics: dict[str, float] = {}
        for name, pictures in self._tests.items():
            pairs = (Pair.of(each, self.scale) for each in pictures)
            found = self._measured(measurement.task.architecture, network, pairs, device)
            if not metrics:
                metrics |= found
            if name in self.data.tests:
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
            channels=channels,
            height=None,
            width=None,
            mean=(0.0,) * channels,
            std=(255.0,) * channels,
            # The user's one image, not several at a time as in training.
            most_pixels=max(self.data.most_pixels, MOST_PIXELS),
        )

    def training(
        self, architecture: Architecture, *, device: str, seed: int, network: "nn.Module | None" = None
    ) -> "SuperResolutionTraining":
        """A new training of an architecture's network, or of the given one; created and used within `seeded`."""
        from nasplat.nn.counting import built
        from nasplat.training.super_resolution import SuperResolutionTraining

        network = built(self.space, architecture, self.io).to(device) if network is None else network
        return SuperResolutionTraining(
            network,
            self._patches,
            self._recipe(device),
            device=device,
            epochs=self.epochs,
            steps=self.recipe.steps,
            seed=seed,
        )

    def _recipe(self, device: str) -> "Recipe":
        from nasplat.training.fit import bfloat16_suits
        from nasplat.training.recipe import Recipe

        return Recipe(
            self.recipe.batch_size,
            self.recipe.learning_rate,
            momentum=0.0,
            weight_decay=0.0,
            bfloat16=self.recipe.precision == "bfloat16"
            or (self.recipe.precision == "auto" and bfloat16_suits(device)),
            schedule=self.recipe.schedule,
            optimizer="adam",
            ema=self.recipe.ema,
        )

    @cached_property
    def _pictures(self) -> PictureSet:
        recorded = manifest_of(self.recorded, DATA)
        return picture_set(self.dataset, *self._folders, recorded=recorded, most=self.data.most_pixels)

    def record_data(self) -> dict[str, Any]:
        found = {**super().record_data(), **manifests(DATA, self._pictures.manifest)}
        for name, pictures in self._test_sets.items():
            found |= manifests(name, pictures.manifest)
        return found

    def accept_data(self) -> dict[str, Any]:
        places = {DATA: (self.dataset, self._folders)}
        places |= {name: (name, [*self._folders, data_folder()]) for name in self.data.tests}
        found = super().accept_data()
        for purpose, (name, folders) in places.items():
            found[purpose] = accepted(name, *folders, recorded=manifest_of(self.recorded, purpose)).to_json()
        return found

    @cached_property
    def _survey(self) -> Survey:
        return self._pictures.survey()

    @property
    def _folders(self) -> list[Path]:
        return [] if self.data.folder is None else [Path(self.data.folder)]

    @cached_property
    def _tests(self) -> dict[str, tuple[Picture, ...]]:
        """The test images by the name of their set. The data set's own test images come first, if it has any."""
        own = {self.dataset: self._pictures.test} if self._pictures.test else {}
        return own | {name: found.test for name, found in self._test_sets.items()}

    @cached_property
    def _test_sets(self) -> dict[str, PictureSet]:
        """The further sets for the final measurement, by name."""
        found = {}
        for name in self.data.tests:
            recorded = manifest_of(self.recorded, name)
            found[name] = picture_set(
                name, *self._folders, data_folder(), recorded=recorded, most=self.data.most_pixels
            )
            if not found[name].test:
                raise InputError(f"{name} has no test images, but is named in benchmark.data.tests; leave it out")
        return found

    @cached_property
    def _patches(self) -> "Patches":
        from nasplat.training.super_resolution import Pair, Patches

        chosen = _spread(self._pictures.training, self.data.training_images)
        pairs = collected(lambda each: Pair.of(each, self.scale), chosen)
        return Patches(pairs, scale=self.scale, side=self.recipe.patch, augment=self.recipe.augment)

    @cached_property
    def validation(self) -> "list[Pair]":
        from nasplat.training.super_resolution import Pair

        chosen = _spread(self._pictures.validation, self.data.validation_images)
        pairs = collected(lambda each: Pair.of(each, self.scale, side=VALIDATION_SIDE), chosen)
        least = WINDOW + 2 * self.scale
        for pair in pairs:  # otherwise every trial would fail on it after its training
            height, width = pair.large.shape[1:]
            if min(height, width) < least:
                raise InputError(
                    f"a validation image must have at least {least} pixels a side for the metrics at this scale, but "
                    f"{pair.name} has {width} x {height}; remove it"
                )
        return pairs


def _spread(pictures: tuple[Picture, ...], most: int | None) -> tuple[Picture, ...]:
    """At most `most` images, evenly spaced in the sequence."""
    if most is None or most >= len(pictures):
        return pictures
    return tuple(pictures[number * len(pictures) // most] for number in range(most))
