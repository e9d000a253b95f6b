"""Generation of points and images, measured by training each generator against a discriminator."""

import math
import time
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark, Preprocessing
from nasplat.curve import reached
from nasplat.data.dataset import Dataset
from nasplat.data.datasets import dataset
from nasplat.data.manifest import DATA, manifest_of, manifests
from nasplat.data.options import DataOptions
from nasplat.errors import InputError, TrialFailed
from nasplat.generation.options import GenerationRecipeOptions, SamplerOptions
from nasplat.generation.space import SAMPLES, GenerativeSpace
from nasplat.search_space import SearchSpace
from nasplat.task import STATE, Evaluate, Measurement, Spent, derive_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nasplat.generation.comparison import Comparison
    from nasplat.generation.data import Samples
    from nasplat.generation.training import GanTraining

RING = "ring"
TO_TARGET = ("steps_to_target", "seconds_to_target")
"""The metrics that a measurement has only if there is a target, and it was reached."""
SHOWN = 64
"""The number of samples that a measurement leaves for reports."""
SEED, STEPS, SECONDS, REACHED = "seed", "target.steps", "target.seconds", "target.reached"
"""The names of what a state has besides the training; the last three only if there is a target."""
FRESH, FINAL, STATISTICS = range(3)
"""What latent vectors are for: each purpose has its own seed."""


class Generation(Benchmark):
    """Generation of images or points: measures the distances of samples to data.

    The data is `ring`, points of eight Gaussians on a circle, or images of `digits` or `fashion_mnist`. All metrics are
    of fresh samples of the prior, whatever training drew from, against validation data; those of the final measurement
    against test data.

    - `frechet` is the squared Fréchet distance between the normal distributions of features (Heusel et al., 2017). Of
      images, features are those of a small classifier that is part of the package; of the ring, the points themselves.
    - `mmd_squared` is the unbiased squared maximum mean discrepancy of points or pixels with a Gaussian kernel, whose
      bandwidth is the median distance of the data. It may be negative.
    - `modes` counts the Gaussians, or the classes that the classifier sees, with at least 2.5 % of the samples.

    With a `target`, `steps_to_target` and `seconds_to_target` tell after how many steps, and seconds of training, a
    distance first was at most that; a measurement that does not reach it lacks them.

    Fidelity is the number of epochs, at most `epochs`. Batch norm's statistics are computed anew from the prior before
    anything is measured. A measurement at a lower fidelity also leaves its `state`; a task that continues from it gives
    the same result, to the bit on one CPU, as an uninterrupted one.

    Args:
        space: The search space of the generators.
        dataset: What they learn from.
        epochs: The epochs of a full measurement.
        samples: The number of generated samples, and at most of real ones, that are compared.
        target: The distance that steps and seconds are counted to; None counts none.
        target_metric: The metric that is the distance.
        target_interval: The steps between two comparisons with the target. They take time that is not counted.
        data: The location of the files of images, and how much of them is used.
        recipe: How networks are trained.
        sampler: Where latent vectors are drawn from in training.
    """

    metrics: ClassVar[tuple[str, ...]] = ("frechet", "mmd_squared", "modes")

    def __init__(
        self,
        space: SearchSpace,
        *,
        dataset: Literal["ring", "digits", "fashion_mnist"] = "digits",
        epochs: Annotated[int, Field(ge=1)] = 10,
        samples: Annotated[int, Field(ge=64)] = 2000,
        target: float | None = None,
        target_metric: Literal["frechet", "mmd_squared"] = "frechet",
        target_interval: Annotated[int, Field(ge=1)] = 100,
        data: DataOptions = DataOptions(),
        recipe: GenerationRecipeOptions = GenerationRecipeOptions(),
        sampler: SamplerOptions = SamplerOptions(),
    ) -> None:
        super().__init__(space)
        self.dataset = dataset
        self.epochs = epochs
        self.samples = samples
        self.target = target
        self.target_metric = target_metric
        self.target_interval = target_interval
        self.data = data
        self.recipe = recipe
        self.sampler = sampler

    @property
    def protocol(self) -> str:
        features = "points"
        if self.dataset != RING:
            from nasplat.generation.features import FEATURES, digest

            features = f"{FEATURES} features of the classifier {self.dataset} {digest(self.dataset)}"
        return (
            f"{self.samples:,} samples of the prior against at most as many of {self.dataset}: squared Fréchet "
            f"distance of {features}; unbiased squared maximum mean discrepancy, Gaussian kernel of the median "
            "distance."
        )

    @property
    def io(self) -> IO:
        shape = (2,) if self._images is None else self._images.io.input_shape
        return IO.generated(getattr(self.space, "latents", 1), shape)

    @property
    def fidelity(self) -> int:
        return self.epochs

    def can_measure(self, metric: str) -> bool:
        return super().can_measure(metric) or (self.target is not None and metric in TO_TARGET)

    def check(self) -> None:
        if not isinstance(self.space, GenerativeSpace):
            raise InputError(
                f"generation needs a search space of generators, but {self.space.name} is none; take --space generator "
                "(space='generator')"
            )
        self.sampler.check()
        if self._images is not None:
            self._images.check()
        elif given := sorted(name for name in ("folder", "subset", "side") if getattr(self.data, name) is not None):
            raise InputError(f"data.{given[0]} has no effect on the ring, which is computed; leave it out")
        self.space.check_io(self.io)

    def record_data(self) -> dict[str, Any]:
        record = None if self._images is None else self._images.record
        return {**super().record_data(), **manifests(DATA, record)}

    def accept_data(self) -> dict[str, Any]:
        accept = None if self._images is None else self._images.accept
        return {**super().accept_data(), **manifests(DATA, accept)}

    def prepare(self) -> None:
        _ = self._validation

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.training.states import named, named_state

        if task.weights is not None or task.tuning is not None:
            raise TrialFailed(
                "no shared weights",
                "generation trains every generator from scratch; leave shared weights and originals out of the task",
            )
        if not 1 <= task.fidelity <= self.epochs:
            raise TrialFailed(
                "no such fidelity",
                f"the fidelity must be between 1 and {self.epochs} epochs, but is {task.fidelity}",
            )
        training, course = self.training(task.architecture, device=device, seed=task.seed), Course(task.seed)
        begun = 0
        if task.continues is not None:
            state = named_state(task.continues, str(task.architecture), artifacts)
            course = Course.of(state)
            training.load_state(state)
            begun = training.steps // self.recipe.steps
            if begun >= task.fidelity:
                raise TrialFailed(
                    "already past it",
                    f"the state to continue from is of {begun} epochs, but the task asks for {task.fidelity}; ask for "
                    "more epochs, or start without the state",
                )
        reached(begun, task.fidelity)
        for epoch in range(begun + 1, task.fidelity + 1):
            self._train_until(training, epoch * self.recipe.steps, course)
            reached(epoch, task.fidelity)
        left: dict[str, dict[str, Tensor]] = {}
        if task.fidelity < self.epochs:
            left[STATE] = named({**training.state(), **course.tensors(self.target)}, str(task.architecture))
        generator = self._calibrated(training, course.seed)
        left["weights"] = generator.state_dict()
        metrics, shown = self._compared(generator, self._validation, derive_seed(course.seed, FRESH))
        left[SAMPLES] = {SAMPLES: shown}
        if course.reached:
            metrics |= dict(zip(TO_TARGET, (course.steps, course.seconds), strict=True))
        kept = {role: artifacts.put_tensors(tensors) for role, tensors in left.items()}
        images = (task.fidelity - begun) * self.recipe.steps * self.recipe.batch_size
        return Measurement(task=task, metrics=metrics, artifacts=kept, spent=Spent(images=images))

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.nn.counting import built
        from nasplat.training.seeding import seeded

        task = measurement.task
        with seeded(task.seed):
            generator = built(self.space, measurement.architecture, self.io)
        generator.load_state_dict(self.state_dict(measurement, artifacts=artifacts))
        metrics, _ = self._compared(generator.to(device), self._test, derive_seed(task.seed, FINAL))
        metrics |= {name: measurement.metrics[name] for name in TO_TARGET if name in measurement.metrics}
        return Measurement(task=task, metrics=metrics, split="test", artifacts=measurement.artifacts)

    def inputs(self, count: int) -> "Tensor | None":
        """Latent vectors of the prior: there is no other input."""
        import torch

        return torch.randn(count, *self.io.input_shape, generator=torch.Generator().manual_seed(0))

    def preprocessing(self) -> Preprocessing | None:
        """How an image became what generators learn from; of their samples, the reverse gives images."""
        if self._images is None:
            return None
        channels, height, width = self._images.io.input_shape
        half = (255 / 2,) * channels
        return Preprocessing(channels=channels, height=height, width=width, mean=half, std=half)

    def training(self, architecture: Architecture, *, device: str, seed: int) -> "GanTraining":
        """A new training of an architecture's generator against a new discriminator."""
        import torch

        from nasplat.generation.training import GanRecipe, GanTraining
        from nasplat.nn.counting import built
        from nasplat.sampling.drawn import Prior
        from nasplat.sampling.importance import Importance, ImportanceRecipe
        from nasplat.training.seeding import seeded

        assert isinstance(self.space, GenerativeSpace)
        recipe, how = self.recipe, self.sampler
        with seeded(seed, device):
            generator = built(self.space, architecture, self.io).to(device)
            like = architecture if recipe.discriminator == "alike" else None
            discriminator = self.space.discriminator(self.io, like).to(device)
            if recipe.spectral_norm:
                discriminator.apply(_with_spectral_norm)
        random = torch.Generator().manual_seed(seed)
        dimensions = self.space.used_latents(architecture)
        follows = ImportanceRecipe(
            share=how.share,
            corrected=how.corrected,
            instances=how.instances,
            spread=how.spread,
            steps=how.fit_steps,
            batch=min(how.instances, 256),
        )
        sampler = (
            Prior(dimensions, random)
            if how.name == "prior"
            else Importance(dimensions, follows, random, seed=derive_seed(seed, 0))
        )
        gan = GanRecipe(
            batch=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            betas=(recipe.first_decay, recipe.second_decay),
            score=how.score,
            probes=how.probes,
            warmup=how.warmup,
            interval=how.interval,
        )
        return GanTraining(generator, discriminator, self._samples.training.to(device), gan, sampler, random)

    def current(self, training: "GanTraining", seed: int) -> dict[str, float]:
        """The metrics of a training as it is now, which goes on as if nothing had been measured.

        Raises:
            TrialFailed: Samples are not finite.
        """
        metrics, _ = self._compared(self._calibrated(training, seed), self._validation, derive_seed(seed, FRESH))
        return metrics

    def _train_until(self, training: "GanTraining", steps: int, course: "Course") -> None:
        """Train until so many steps were taken, and look for the target on the way."""
        while training.steps < steps:
            until = steps
            if self.target is not None and not course.reached:
                until = min(steps, (training.steps // self.target_interval + 1) * self.target_interval)
            began = time.perf_counter()
            training.until(until)
            course.seconds += (time.perf_counter() - began) * (not course.reached)
            if self.target is not None and not course.reached and until % self.target_interval == 0:
                distance = self.current(training, course.seed)[self.target_metric]
                course.reached, course.steps = distance <= self.target, until

    def _calibrated(self, training: "GanTraining", seed: int) -> "nn.Module":
        """A copy of the generator, whose batch norm has the statistics of the prior, in evaluation mode."""
        import copy

        import torch

        from nasplat.nn.supernet import recalibrate

        generator = copy.deepcopy(training.generator)
        random = torch.Generator().manual_seed(derive_seed(seed, STATISTICS))
        with torch.no_grad():
            recalibrate(
                generator,
                (
                    torch.randn(self.recipe.batch_size, *self.io.input_shape, generator=random).to(training.data.device)
                    for _ in range(16)
                ),
            )
        return generator

    def _compared(self, generator: "nn.Module", data: "Comparison", seed: int) -> "tuple[dict[str, float], Tensor]":
        """The metrics of fresh samples of the prior, and some of them to be shown."""
        import torch

        from nasplat.generation.training import generated

        made = generated(generator, self.samples, self.io.input_shape[0], seed).cpu()
        if not torch.isfinite(made).all():
            raise TrialFailed("diverged", "samples of the generator are not finite")
        metrics = data(made)
        if not all(map(math.isfinite, metrics.values())):  # the features of huge values are not finite
            raise TrialFailed("diverged", f"the metrics of the generator's samples are {metrics}")
        shown = made[:SHOWN]
        if self.dataset != RING:
            shown = ((shown + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return metrics, shown.contiguous()

    @cached_property
    def _images(self) -> Dataset | None:
        if self.dataset == RING:
            return None
        return dataset(self.dataset, self.data.source(manifest_of(self.recorded, DATA)))

    @cached_property
    def _samples(self) -> "Samples":
        from nasplat.generation.data import images, ring

        return ring() if self._images is None else images(self._images)

    @cached_property
    def _validation(self) -> "Comparison":
        return self._comparison(self._samples.validation)

    @cached_property
    def _test(self) -> "Comparison":
        return self._comparison(self._samples.test())

    def _comparison(self, data: "Tensor") -> "Comparison":
        from nasplat.generation.comparison import Comparison

        return Comparison.of(self.dataset, data[: self.samples])


class Course:
    """What a training has besides its networks: its first seed, and how far it is on its way to the target.

    Args:
        seed: The seed of the first task: later ones that continue it have others.
        steps: The steps at the last comparison.
        seconds: The seconds of training so far, until the target is reached.
        reached: Whether it was.
    """

    def __init__(self, seed: int, steps: int = 0, seconds: float = 0.0, *, reached: bool = False) -> None:
        self.seed, self.steps, self.seconds, self.reached = seed, steps, seconds, reached

    @classmethod
    def of(cls, state: "dict[str, Tensor]") -> "Course":
        """That of a state; taken out of it.

        Raises:
            TrialFailed: It is no state of a generator's training.
        """
        if SEED not in state:
            raise TrialFailed("not a state", f"the artifact to continue from has no {SEED}")
        steps, seconds, was = (float(state.pop(name, 0.0)) for name in (STEPS, SECONDS, REACHED))
        return cls(int(state.pop(SEED)), int(steps), seconds, reached=bool(was))

    def tensors(self, target: float | None) -> "dict[str, Tensor]":
        """As part of a state. Without a target there are no seconds, so that states do not depend on time."""
        import torch

        values = {} if target is None else {STEPS: self.steps, SECONDS: self.seconds, REACHED: self.reached}
        return {
            SEED: torch.tensor(self.seed),
            **{name: torch.tensor(float(value), dtype=torch.float64) for name, value in values.items()},
        }


def _with_spectral_norm(layer: "nn.Module") -> None:
    from torch import nn
    from torch.nn.utils.parametrizations import spectral_norm

    if isinstance(layer, nn.Conv2d | nn.Linear):
        spectral_norm(layer)
