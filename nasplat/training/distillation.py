"""Distillation: a network learns from the outputs of a trained network and from the labels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Distillation:
    """A teacher and its loss weight (Hinton et al., 2015, "Distilling the knowledge in a neural network", sec. 2).

    Args:
        teacher: The trained network, on the device of the training. It is not changed.
        weight: The weight of the teacher's loss, 0..1.
        temperature: The divisor of logits. A higher value gives more weight to the less likely classes.
    """

    teacher: nn.Module
    weight: float
    temperature: float

    def __post_init__(self) -> None:
        self.teacher.requires_grad_(False).eval()

    def loss(self, images: Tensor, logits: Tensor, labels_loss: Tensor) -> Tensor:
        """The loss on labels combined with the teacher's loss, a scalar.

        Args:
            images: `[batch, ...]`; the teacher receives the same input as the network.
            logits: The output of the network for the images, `[batch, classes]`.
            labels_loss: The mean loss on the labels.
        """
        with torch.no_grad():
            wanted = self.teacher(images)
        return (1 - self.weight) * labels_loss + self.weight * divergence(logits, wanted, self.temperature)


def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(wanted / T) || softmax(logits / T)), the mean over a batch `[batch, classes]`, a scalar.

    The factor T² keeps the gradient as large as that of the loss on labels, at any temperature.
    """
    given, target = (functional.log_softmax(each / temperature, dim=1) for each in (logits, wanted))
    return temperature**2 * functional.kl_div(given, target, reduction="batchmean", log_target=True)
