"""The training options of a benchmark: the recipe, and the options of shared weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.options import Options
from nasplat.search_space import SearchSpace
from nasplat.training.path_sampling import Sampling, product_of_genes

if TYPE_CHECKING:
    from torch import nn

    from nasplat.training.distillation import Distillation
    from nasplat.training.recipe import Recipe

LARGEST_BATCH, SMALLEST_BATCH = 64, 8
"""The default batch sizes for many and for few training images."""
LEAST_STEPS = 10
"""The number of steps in an epoch for which the default batch size is lowered."""


class RecipeOptions(Options):
    """How a classifier is trained.

    Args:
        batch_size: The number of images in each step; by default 64, or less if that gives fewer than 10 steps an
            epoch.
        learning_rate: The highest learning rate.
        optimizer: SGD, or Adam with the usual betas (.9, .999).
        momentum: The momentum of SGD, which is Nesterov's; papers that name plain momentum differ.
        weight_decay: L2 penalty on all parameters.
        schedule: `one_cycle` raises the learning rate and lowers it again; `cosine` lowers it to 1/25.
        warmup_steps: The number of steps in which the learning rate rises from 1/25 of its highest value; by default
            30 % of the whole training with `one_cycle`, and none with `cosine`. It must be below the steps of the whole
            training.
        gradient_norm: The largest norm of a step's gradient. Larger gradients are scaled down to it; 0 for no limit.
        augment: Whether training images are randomly cropped after padding by an eighth of their side and, unless they
            show digits, flipped.
        cutout: The side, in pixels, of the square that is covered with the mean of all training images. It applies to
            each training image, with or without `augment`; 0 for none.
        drop_path: The highest probability of dropping a term of a sum in the network for an image. The probability
            rises linearly over the training; 0 for none.
        auxiliary: The weight of the loss of an auxiliary head at two thirds of the depth. The head is trained with the
            network and not kept; 0 for none.
        ema: The decay of the moving average of weights and statistics, which is measured and kept instead of them; 0
            for none. In step t, from 0, it is no more than (1 + t) / (10 + t).
        label_smoothing: The fraction of each label that is distributed over all classes in training.
        distillation: The weight of the teacher's loss for tasks with a teacher, and for data that a network labelled,
            which is then the teacher of tasks without one. With 0, no task may have a teacher.
        temperature: The temperature of distillation: the logits of both networks are divided by it.
        class_weights: Whether the teacher's loss counts images of classes that it rarely answers more
            (arXiv:1909.09757, sec. 3.2); only with `distillation`.
        perturbations: The number of perturbed copies of the class weights. Each batch follows the largest of their
            losses.
        perturbation: The size of the perturbations: the largest number that is added to a class weight, before each
            copy is scaled to the mean weight of 1.
        precision: How training computes; `auto` is bfloat16 where a CUDA device does it natively, else float32.
            Metrics are always computed in float32.
    """

    batch_size: Annotated[int, Field(ge=2)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    warmup_steps: Annotated[int, Field(ge=1)] | None = None
    gradient_norm: Annotated[float, Field(ge=0)] = 0.0
    augment: bool = False
    cutout: Annotated[int, Field(ge=0)] = 0
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    auxiliary: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    class_weights: bool = False
    perturbations: Annotated[int, Field(ge=0)] = 1
    perturbation: Annotated[float, Field(ge=0)] = 0.1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def batch(self, images: int) -> int:
        """The number of images in each step for a number of training images.

        The default is a power of two from 8 to 64: the largest with at least `LEAST_STEPS` steps an epoch, since few
        steps leave a network untrained.
        """
        if self.batch_size is not None:
            return self.batch_size
        batch = LARGEST_BATCH
        while batch > SMALLEST_BATCH and images // batch < LEAST_STEPS:
            batch //= 2
        return batch

    def recipe(self, images: int, device: str) -> "Recipe":
        """The recipe for a number of training images on a device, without the aids of single networks."""
        from nasplat.training.fit import bfloat16_suits
        from nasplat.training.recipe import Recipe

        return Recipe(
            self.batch(images),
            self.learning_rate,
            self.momentum,
            self.weight_decay,
            bfloat16=self.precision == "bfloat16" or (self.precision == "auto" and bfloat16_suits(device)),
            schedule=self.schedule,
            gradient_norm=self.gradient_norm,
            optimizer=self.optimizer,
            warmup_steps=self.warmup_steps,
        )

    def aided(self, recipe: "Recipe") -> "Recipe":
        """The recipe with the aids of single networks that are part of a recipe."""
        return replace(
            recipe,
            ema=self.ema,
            label_smoothing=self.label_smoothing,
            drop_path=self.drop_path,
            auxiliary=self.auxiliary,
        )

    def taught_by(self, teacher: "nn.Module") -> "Distillation":
        """The distillation from a teacher."""
        from nasplat.training.distillation import Distillation, Perturbations

        perturbations = Perturbations(self.perturbations, self.perturbation) if self.class_weights else None
        return Distillation(teacher, self.distillation, self.temperature, perturbations=perturbations)

    def check(self) -> None:
        """Check that the options fit each other.

        Raises:
            InputError: They do not.
        """
        if self.class_weights and not self.distillation:
            raise InputError(
                "recipe.class_weights weighs the images in the teacher's loss, so recipe.distillation must be above 0, "
                f"but got class_weights=true with distillation={self.distillation:g}; add --set "
                "benchmark.recipe.distillation=0.5 (options={'benchmark.recipe.distillation': 0.5}), or leave out "
                "benchmark.recipe.class_weights"
            )

    def check_warmup(self, steps: int) -> None:
        """Check that the rise of the learning rate ends before the whole training, of a number of steps.

        Raises:
            InputError: It does not.
        """
        if self.warmup_steps is not None and self.warmup_steps >= steps:
            raise InputError(
                f"recipe.warmup_steps must be below the steps of the whole training, {steps:,} here, but got "
                f"{self.warmup_steps:,}; lower benchmark.recipe.warmup_steps, or raise benchmark.epochs"
            )

    def note(self, images: int) -> str:
        """One line for users if the default batch size is lowered for few training images; else empty."""
        batch = self.batch(images)
        if self.batch_size is not None or batch == LARGEST_BATCH:
            return ""
        return (
            f"batches have {batch} images: an epoch of {images:,} images has {images // batch} steps then, and "
            f"{images // LARGEST_BATCH} with {LARGEST_BATCH}; --set benchmark.recipe.batch_size={LARGEST_BATCH} "
            f"(options={{'benchmark.recipe.batch_size': {LARGEST_BATCH}}}) keeps {LARGEST_BATCH}"
        )


class SuperResolutionRecipeOptions(Options):
    """How a super-resolution network is trained: by Adam, on patches.

    Args:
        steps: The number of batches in each epoch.
        batch_size: The number of patches in each step.
        patch: The side of a low-resolution patch, in pixels; the high-resolution patch is `scale` times as large.
        learning_rate: The highest learning rate.
        schedule: `one_cycle` raises the learning rate and lowers it again, `cosine` lowers it to 1/25, `halving` halves
            it four times.
        ema: The decay of the moving average of weights, which is measured and kept instead of them; 0 for none. In
            step t, from 0, it is no more than (1 + t) / (10 + t).
        augment: Whether patches are randomly rotated by multiples of 90 degrees and mirrored.
        precision: How training computes; `auto` is bfloat16 where a CUDA device does it natively, else float32.
            Metrics are always computed in float32.
    """

    steps: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 16
    patch: Annotated[int, Field(ge=4)] = 24
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    schedule: Literal["one_cycle", "cosine", "halving"] = "one_cycle"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augment: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class SharedWeightsOptions(Options):
    """How the weights of a supernet are trained and used.

    Args:
        paths: The number of given paths of a supernet that are trained on each batch; their gradients are averaged.
            At most this many workers can share the training. Without given paths, as in a warm-up, one path is trained
            on each batch, or with `sandwich` as many as with given paths.
        statistics: The statistics of batch norm with shared weights: the mean over training images, computed for each
            network, or the statistics of each measured batch, which an exported network cannot have.
        calibration: The number of training images for recalibrated statistics.
        sampling: How paths are drawn. `uniform` draws each path independently. `fair` draws without replacement: each
            given path equally often, and on the whole space each choice of each gene equally often in rounds of
            as many paths as the gene has choices (Chu et al., 2021, "FairNAS", sec. 3). A training begins a new round.
            A step costs the same. `importance` draws half of the paths uniformly and half where gradients of earlier
            ones were large: at the start of each epoch 8 paths are scored on its first batch, which costs their passes.
        sandwich: Whether each batch trains the largest path on the labels, and the smallest and `paths` - 2 drawn ones
            on the outputs of the largest (Yu and Huang, 2019, "Universally slimmable networks", sec. 3; Yu et al.,
            2020, "BigNAS", sec. 3). The two are the extremes by MACs of the given paths, or of the whole space. Take 3
            paths or more, since with 2 none is drawn. A step costs the passes of its paths; every worker but the first
            runs the largest forward once more.
        decay: Where paths use parts of a larger layer: whether weight decay and momentum change `all` of it in each
            step, or only the parts that paths of the step have `used` (after Bender et al., 2018, "Understanding and
            simplifying one-shot architecture search"). Layers on no path of a step are never changed. With `used`, a
            step also copies these layers and their momentum, whatever the number of images; passes cost the same.
    """

    paths: Annotated[int, Field(ge=1)] = 1
    statistics: Literal["recalibrated", "batch"] = "recalibrated"
    calibration: Annotated[int, Field(ge=2)] = 512
    sampling: Sampling = "uniform"
    sandwich: bool = False
    decay: Literal["all", "used"] = "all"

    def paths_of(self, given: Sequence[Architecture]) -> int:
        """The number of paths that are trained on each batch: one without given paths, as in the paper of CARS."""
        return self.paths if given or self.sandwich else 1

    def check(self, space: SearchSpace) -> None:
        """Check that the paths of a space can be trained so.

        Raises:
            InputError: Some option does not fit another one, or the space.
        """
        if self.sandwich and self.paths < 2:
            raise InputError(
                "shared_weights.sandwich trains the largest and the smallest path on each batch, so "
                f"shared_weights.paths must be at least 2, but got {self.paths}; raise it, by --set "
                "benchmark.shared_weights.paths=3 (options={'benchmark.shared_weights.paths': 3})"
            )
        if self.sandwich or self.sampling != "uniform":
            name = "sandwich" if self.sandwich else "sampling"
            product_of_genes(space, f"shared_weights.{name}={getattr(self, name)}")
