"""How a network is trained: a recipe, its optimizer, and the schedule of its learning rate."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from nasplat.errors import TrialFailed

Schedule: TypeAlias = Literal["one_cycle", "cosine", "halving"]
Optimizer: TypeAlias = Literal["sgd", "adam"]

COSINE_END = 1 / 25
"""The last learning rate of a cosine schedule as a fraction of the first: .025 becomes .001, as in DARTS and CARS."""

HALVINGS = 8 / 15, 12 / 15, 13.5 / 15, 14.5 / 15
"""When a halving schedule halves the learning rate, in fractions of the training: as in ESRN (Song et al., 2020)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    Args:
        batch_size: The number of images in each step. An incomplete last batch is dropped.
        learning_rate: The highest learning rate.
        momentum: The Nesterov momentum of SGD.
        weight_decay: L2 penalty on all parameters but those that take none.
        bfloat16: Whether forward passes and losses of training are computed in mixed precision.
        schedule: The schedule of the learning rate over the whole training: one cycle up and down, cosine, or halving.
        gradient_norm: The largest norm of a step's gradient. Larger gradients are scaled down to it; 0 for no limit.
        optimizer: SGD, or Adam with the usual betas (.9, .999).
        ema: The decay of the exponential moving average, which is kept instead of the weights; 0 for none.
        label_smoothing: The fraction of each label that is distributed over all classes. For classifiers.
        drop_path: The highest probability of drop-path. For classifiers.
        auxiliary: The weight of the auxiliary head's loss; 0 for no auxiliary head. For classifiers.
        warmup_steps: The number of steps in which the learning rate of one cycle or cosine rises from 1/25 of its
            highest value, from 1 to less than those of the whole training; None for 30 % of them in one cycle, and for
            none in a cosine.
    """

    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    bfloat16: bool = False
    schedule: Schedule = "one_cycle"
    gradient_norm: float = 0.0
    optimizer: Optimizer = "sgd"
    ema: float = 0.0
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    auxiliary: float = 0.0
    warmup_steps: int | None = None


def optimizer(parameters: list[nn.Parameter], recipe: Recipe, undecayed: set[int]) -> torch.optim.Optimizer:
    """The optimizer of a recipe.

    Args:
        parameters: What is trained.
        recipe: The recipe.
        undecayed: The object ids of parameters without weight decay.
    """
    groups: list[dict[str, Any]] = [{"params": [each for each in parameters if id(each) not in undecayed]}]
    if undecayed:
        groups.append({"params": [each for each in parameters if id(each) in undecayed], "weight_decay": 0.0})
    if recipe.optimizer == "adam":
        # Fused: separate steps over hundreds of small tensors take as long as the gradients of a small network.
        return torch.optim.Adam(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )


def schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a recipe.

    Args:
        optimizer: The optimizer.
        recipe: The recipe.
        steps: The number of steps of the whole training.

    Raises:
        TrialFailed: The warm-up does not end within the training.
    """
    if recipe.schedule == "halving":
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(part * steps) for part in HALVINGS], gamma=0.5)
    if recipe.warmup_steps is not None and recipe.warmup_steps >= steps:
        raise TrialFailed(
            "warm-up too long",
            f"the learning rate must rise in fewer steps than the whole training has, {steps:,}, but warmup_steps is "
            f"{recipe.warmup_steps:,}; lower it, or train for more epochs",
        )
    if recipe.schedule == "cosine" and recipe.warmup_steps is None:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, recipe.learning_rate * COSINE_END)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.learning_rate,
        total_steps=steps + 1,
        # The rise ends in step `pct_start * total_steps - 1`, from 0.
        pct_start=0.3 if recipe.warmup_steps is None else (recipe.warmup_steps + 1) / (steps + 1),
        cycle_momentum=False,
        # A cosine that rises first is a cycle that ends with its first rate, which is `COSINE_END` of the highest.
        final_div_factor=1.0 if recipe.schedule == "cosine" else 1e4,
    )
