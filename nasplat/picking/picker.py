"""The picker: a score of images by features of a trained network, learned from positives and unlabelled images."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nasplat.training.seeding import seeded

REDUCTION = 16
"""How many times fewer numbers the attention has inside, as in squeeze-and-excitation (Hu et al., 2018)."""

CONSTANT = 1e-6
"""A feature that deviates by no more than so many times its mean is constant."""


@dataclass(frozen=True, slots=True)
class PickerRecipe:
    """How a picker is trained: by AdamW, with a rate that falls to 0 by a cosine.

    Args:
        steps: The number of steps.
        batch: The largest number of positives, and of unlabelled images, in a step.
        learning_rate: The rate of the first step.
        weight_decay: The weight decay.
    """

    steps: int = 300
    batch: int = 512
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2


class Picker(nn.Module):
    """Attention over the features of several depths, and one score for each image; above 0 it belongs to the task.

    After arXiv:1909.09757, sec. 3.1. The features are the teacher's as they are: the paper trains the teacher's layers
    too, which needs many passes over the pool. They are standardised by the unlabelled images.

    Args:
        dimensions: The number of features of an image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        inner = max(dimensions // REDUCTION, 4)
        self.attention = nn.Sequential(
            nn.Linear(dimensions, inner, bias=False), nn.ReLU(), nn.Linear(inner, dimensions, bias=False), nn.Sigmoid()
        )
        self.score = nn.Linear(dimensions, 1)
        self.register_buffer("mean", torch.zeros(dimensions))
        self.register_buffer("std", torch.ones(dimensions))

    def forward(self, features: Tensor) -> Tensor:
        """The scores `[n]` of features `[n, dimensions]`."""
        standard = (features - self.mean) / self.std
        scores: Tensor = self.score(standard * self.attention(standard))
        return scores.squeeze(1)


def risk(positives: Tensor, unlabelled: Tensor, prior: float) -> Tensor:
    """The non-negative risk of scores, a scalar whose gradient is to be followed.

    With the sigmoid loss l(z) = sigmoid(-z), the risk is R+ + R-, where R+ = prior * mean l(g) over positives, and
    R- = mean l(-g) over unlabelled images - prior * mean l(-g) over positives (Kiryo et al., 2017, "Positive-unlabeled
    learning with non-negative risk estimator", sec. 3, with beta = 0 and gamma = 1; arXiv:1909.09757, sec. 3.1). Where
    R- is negative, which only overfitting explains, the gradient is that of -R- alone, so that a step undoes it.

    Args:
        positives: The scores of positives `[p]`.
        unlabelled: The scores of unlabelled images `[u]`.
        prior: The share of unlabelled images that belong to the positives, between 0 and 1.

    Returns:
        The value of max(R-, 0) + R+, with the gradient of R+ + R-, or of -R- where R- is negative.
    """
    right, wrong = torch.sigmoid(-positives).mean(), torch.sigmoid(positives).mean()
    positive = prior * right
    negative = torch.sigmoid(unlabelled).mean() - prior * wrong
    if negative.item() >= 0:
        return positive + negative
    return positive.detach() - negative + negative.detach()


def fit(
    positives: Tensor, unlabelled: Tensor, prior: float, generator: torch.Generator, recipe: PickerRecipe | None = None
) -> Picker:
    """A picker for features.

    Args:
        positives: The features of positives `[p, dimensions]`.
        unlabelled: Those of unlabelled images `[u, dimensions]`.
        prior: The share of unlabelled images that belong to the positives.
        generator: Draws first weights and batches.
        recipe: How it is trained.
    """
    recipe = recipe or PickerRecipe()
    with seeded(0):  # whatever it is made with is replaced
        picker = Picker(positives.shape[1])
    for parameter in picker.parameters():
        bound = parameter.shape[-1] ** -0.5
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    mean, std = unlabelled.mean(0), unlabelled.std(0)
    picker.mean.copy_(mean)
    # What hardly varies is rounding: divided by its deviation it would outweigh all that tells images apart.
    picker.std.copy_(torch.where(std > CONSTANT * mean.abs(), std, 1.0))
    optimizer = torch.optim.AdamW(picker.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    for _ in range(recipe.steps):
        scores = [picker(_drawn(each, recipe.batch, generator)) for each in (positives, unlabelled)]
        optimizer.zero_grad()
        torch.autograd.backward(risk(scores[0], scores[1], prior))
        optimizer.step()
        schedule.step()
    return picker.eval().requires_grad_(False)


def _drawn(features: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(features) <= most:
        return features
    return features[torch.randint(len(features), (most,), generator=generator)]
