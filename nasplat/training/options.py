"""The options of a training that a benchmark takes: the recipe, and what concerns shared weights."""

from typing import Annotated, Literal

from pydantic import Field

from nasplat.options import Options


class RecipeOptions(Options):
    """How a classifier is trained.

    Args:
        batch_size: Images in each step.
        learning_rate: The highest.
        optimizer: SGD, or Adam with the usual moments (.9, .999).
        momentum: Of SGD.
        weight_decay: L2 penalty on all parameters.
        schedule: `one_cycle` raises the learning rate and lowers it again; `cosine` lowers it to 1/25.
        gradient_norm: The largest norm of a step's gradient, which is scaled down to it; 0 for no limit.
        augment: Whether training images are cropped at random after padding by an eighth of their side and, unless
            they are of digits, flipped.
        cutout: The side, in pixels, of the square that is covered in each training image, augmented or not, with the
            mean of them all; 0 for none.
        drop_path: The highest probability that a term of a sum in the network is left out for an image, which rises
            linearly over the training; 0 for none.
        auxiliary: The weight of the loss of an auxiliary head at two thirds of the depth, which is trained along and
            not kept; 0 for none.
        ema: The decay of the moving average of weights and statistics that is measured and kept in their place; 0
            for none. In step t, from 0, it is no more than (1 + t) / (10 + t).
        label_smoothing: The part of each label that is spread over all classes while training.
        distillation: The part of the loss that the teacher of a task gives, where it names one; with 0 no task may.
        temperature: What logits are divided by where they are compared with the teacher's.
        precision: How training computes; `auto` is bfloat16 where a CUDA device does it natively, else float32.
            Metrics are always computed in float32.
    """

    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    gradient_norm: Annotated[float, Field(ge=0)] = 0.0
    augment: bool = False
    cutout: Annotated[int, Field(ge=0)] = 0
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    auxiliary: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class SuperResolutionRecipeOptions(Options):
    """How a super-resolution network is trained: by Adam, on patches.

    Args:
        steps: Batches in each epoch.
        batch_size: Patches in each step.
        patch: The side of a small patch, in pixels; its large one has `scale` times as many.
        learning_rate: The highest.
        schedule: `one_cycle` raises the learning rate and lowers it again, `cosine` lowers it to 1/25, `halving` halves
            it four times.
        ema: The decay of the moving average of weights that is measured and kept in their place; 0 for none. In step
            t, from 0, it is no more than (1 + t) / (10 + t).
        augment: Whether patches are turned by quarters and mirrored at random.
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
        paths: Of a supernet's given paths, how many are trained on each batch, with the mean of their gradients; so
            many workers can share its training. Without given paths, as in a warm-up, one is.
        statistics: What batch norm uses with shared weights: the mean over training images, computed for each
            network, or the statistics of each batch that is measured, which no network to be exported has.
        calibration: Training images for the former.
    """

    paths: Annotated[int, Field(ge=1)] = 1
    statistics: Literal["recalibrated", "batch"] = "recalibrated"
    calibration: Annotated[int, Field(ge=2)] = 512
