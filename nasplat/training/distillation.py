"""Distillation: a network learns from the outputs of a trained network and from the labels."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

NOT_GIVEN = -100
"""The label of images that people did not label, in a training with a teacher. Losses on labels leave them out."""


@dataclass(frozen=True, slots=True)
class Perturbations:
    """How class weights are perturbed.

    Args:
        copies: The number of perturbed copies.
        size: The largest number that is added to a weight. The mean weight is 1.
    """

    copies: int
    size: float


@dataclass(frozen=True, slots=True)
class Distillation:
    """A teacher and its loss weight (Hinton et al., 2015, "Distilling the knowledge in a neural network", sec. 2).

    With class weights the distillation is robust to unbalanced classes and to errors of the weights
    (arXiv:1909.09757, sec. 3.2): the divergence of an image counts as much as the weight of the class that the teacher
    answers. Each row of weights gives a loss of the batch, and the largest of them is the teacher's loss.

    Args:
        teacher: The trained network, on the device of the training. It is not changed.
        weight: The weight of the teacher's loss, 0..1.
        temperature: The divisor of logits. A higher value gives more weight to the less likely classes.
        class_weights: `[copies + 1, classes]`, float64, on the same device; None for an unweighted loss, or if the
            training is to draw them.
        perturbations: How the training is to draw the class weights; None if it is not.
    """

    teacher: nn.Module
    weight: float
    temperature: float
    class_weights: Tensor | None = None
    perturbations: Perturbations | None = None

    def __post_init__(self) -> None:
        self.teacher.requires_grad_(False)
        try:
            self.teacher.eval()
        except NotImplementedError:  # by a program of torch.export, which was written in evaluation mode
            for module in self.teacher.modules():
                module.training = False

    @property
    def weighs_classes(self) -> bool:
        """Whether the training has class weights, drawn or still to be drawn."""
        return self.class_weights is not None or self.perturbations is not None

    @torch.no_grad()
    def drawn(self, images: Iterable[Tensor], generator: torch.Generator) -> "Distillation":
        """The distillation with its class weights. If they are missing, they are drawn.

        Args:
            images: All training images in batches, as the teacher gets them. Not read if nothing is drawn.
            generator: Draws the perturbations, on the CPU.
        """
        if self.class_weights is not None or self.perturbations is None:
            return self
        weights = class_weights(self.teacher(batch) for batch in images)
        rows = perturbed(weights.cpu(), self.perturbations.copies, self.perturbations.size, generator)
        return replace(self, class_weights=rows.to(weights.device))

    def loss(self, images: Tensor, logits: Tensor, labels_loss: Tensor) -> Tensor:
        """The loss on labels combined with the teacher's loss, a scalar.

        Args:
            images: `[batch, ...]`; the teacher receives the same input as the network.
            logits: The output of the network for the images, `[batch, classes]`.
            labels_loss: The mean loss on the labels.
        """
        with torch.no_grad():
            wanted = self.teacher(images)
        if self.class_weights is None:
            teachers_loss = divergence(logits, wanted, self.temperature)
        else:
            teachers_loss = largest_divergence(logits, wanted, self.temperature, self.class_weights)
        return (1 - self.weight) * labels_loss + self.weight * teachers_loss


def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(wanted / T) || softmax(logits / T)), the mean over a batch `[batch, classes]`, a scalar.

    The factor T² keeps the gradient as large as that of the loss on labels, at any temperature.
    """
    given, target = (functional.log_softmax(each / temperature, dim=1) for each in (logits, wanted))
    return temperature**2 * functional.kl_div(given, target, reduction="batchmean", log_target=True)


def largest_divergence(logits: Tensor, wanted: Tensor, temperature: float, weights: Tensor) -> Tensor:
    """The largest of the weighted means of a batch's divergences, a scalar. Its gradient is that of this mean alone.

    Args:
        logits: The output of the network, `[batch, classes]`.
        wanted: The output of the teacher, likewise.
        temperature: As for `divergence`.
        weights: `[rows, classes]`. In the mean of row j, an image whose likeliest class by the teacher is k counts
            `weights[j, k]` times.
    """
    given, target = (functional.log_softmax(each / temperature, dim=1) for each in (logits, wanted))
    each = temperature**2 * functional.kl_div(given, target, reduction="none", log_target=True).sum(1)
    means = (weights[:, wanted.argmax(1)] * each).mean(1)
    # Over a dimension, so that among equal means one has all of the gradient.
    return means.max(0).values.to(each.dtype)


@torch.no_grad()
def class_weights(batches: Iterable[Tensor]) -> Tensor:
    """The weights of classes `[classes]`, float64: inverse to how often a teacher answers them, with sum `classes`.

    w_k is proportional to 1 / Σ p_k(x) over all images x, where p is the softmax of the teacher's logits
    (arXiv:1909.09757, sec. 3.2). A sum counts as at least 1 / `classes` of an image, so that a class that the teacher
    hardly ever answers has no unbounded weight.

    Args:
        batches: The teacher's logits for the images, each `[batch, classes]`; one batch at least.
    """
    answers = torch.stack([functional.softmax(logits.double(), dim=1).sum(0) for logits in batches]).sum(0)
    classes = len(answers)
    weights = 1 / answers.clamp(min=1 / classes)
    return classes * weights / weights.sum()


def perturbed(weights: Tensor, copies: int, size: float, generator: torch.Generator) -> Tensor:
    """Class weights and perturbed copies of them, `[copies + 1, classes]`. The sum of each row is `classes`.

    Row 0 is the weights. Each other row is w + size · u with u uniform in [0, 1] for each class, scaled to the sum of
    the weights. The published description (arXiv:1909.09757, sec. 3.2) does not scale. Every perturbed copy would then
    be above the weights, and the largest loss would always be that of a copy.

    Args:
        weights: `[classes]`, with sum `classes`, on the device of the generator.
        copies: The number of perturbed copies.
        size: The largest number that is added to a weight.
        generator: Draws the perturbations.
    """
    drawn = torch.rand(copies, len(weights), dtype=weights.dtype, device=weights.device, generator=generator)
    others = weights + size * drawn
    return torch.cat([weights[None], len(weights) * others / others.sum(1, keepdim=True)])
