"""Training a classifier on a data set that fits on the device, and measuring it."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from nasplat.data.datasets import Examples
from nasplat.errors import TrialFailed

EVALUATION_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a classifier is trained: SGD with Nesterov momentum and a one-cycle learning rate.

    Args:
        batch_size: Images in each step; an incomplete last batch is left out.
        learning_rate: The peak of the cycle.
        momentum: Of SGD.
        weight_decay: L2 penalty on all parameters.
    """

    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float


def fit(model: nn.Module, examples: Examples, recipe: Recipe, *, epochs: int, generator: torch.Generator) -> int:
    """Train a classifier in place with cross-entropy.

    Args:
        model: On the device of the examples.
        examples: What it learns from.
        recipe: How.
        epochs: Passes over the examples.
        generator: Shuffles; on the CPU.

    Returns:
        The number of images processed.

    Raises:
        TrialFailed: The loss of an epoch is not finite.
    """
    batch = min(recipe.batch_size, len(examples))
    steps = len(examples) // batch
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=epochs * steps + 1, cycle_momentum=False
    )
    device = examples.images.device
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(examples), generator=generator)[: steps * batch].to(device)
        total = torch.zeros((), device=device)
        for rows in torch.split(order, batch):
            loss = functional.cross_entropy(model(examples.images[rows]), examples.labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        # Looked at once an epoch, since every look makes a GPU wait.
        if not torch.isfinite(total):
            raise TrialFailed(
                "diverged", f"the training loss of epoch {epoch + 1} of {epochs} is {total.item() / steps}"
            )
    return epochs * steps * batch


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross-entropy (nats) of a classifier, with its running statistics."""
    model.eval()
    correct, loss = 0.0, 0.0
    for images, labels in zip(
        torch.split(examples.images, EVALUATION_BATCH), torch.split(examples.labels, EVALUATION_BATCH), strict=True
    ):
        logits = model(images)
        correct += (logits.argmax(1) == labels).sum().item()
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
    return {"accuracy": correct / len(examples), "loss": loss / len(examples)}
