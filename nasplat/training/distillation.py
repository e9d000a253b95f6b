"""Distillation: a network learns from the answers of a trained one beside the labels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Distillation:
    """How much is learnt from whom (Hinton et al., 2015, "Distilling the knowledge in a neural network", sec. 2).

    Args:
        teacher: The trained network, on the device of the training; it is only asked.
        weight: The part of the loss that is the teacher's, 0..1.
        temperature: What logits are divided by, so that more than the likeliest class counts.
    """

    teacher: nn.Module
    weight: float
    temperature: float

    def __post_init__(self) -> None:
        self.teacher.requires_grad_(False).eval()

    def loss(self, images: Tensor, logits: Tensor, labels_loss: Tensor) -> Tensor:
        """The loss by labels with the teacher's part in it, of no dimension.

        Args:
            images: `[batch, ...]`; the teacher is shown what the network was.
            logits: What the network made of them, `[batch, classes]`.
            labels_loss: The mean loss by the labels.
        """
        with torch.no_grad():
            wanted = self.teacher(images)
        return (1 - self.weight) * labels_loss + self.weight * divergence(logits, wanted, self.temperature)


def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(wanted / T) || softmax(logits / T)), the mean over a batch `[batch, classes]`, of no dimension.

    T² keeps the gradient as large as that of the labels' loss, whatever the temperature.
    """
    given, target = (functional.log_softmax(each / temperature, dim=1) for each in (logits, wanted))
    return temperature**2 * functional.kl_div(given, target, reduction="batchmean", log_target=True)
