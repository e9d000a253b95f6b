"""Training shared weights along sampled paths, alone or with others, and measuring single paths with them."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from nasplat.architecture import Architecture
from nasplat.data.examples import Examples
from nasplat.nn.supernet import Supernet, forget_statistics, recalibrate, use_batch_statistics
from nasplat.training.fit import EPOCHS, GENERATOR, MODEL, ClassifierTraining, Recipe, below

Statistics: TypeAlias = Literal["recalibrated", "batch"]

CALIBRATION_BATCH = 256
"""At most so many images in each batch that statistics are computed of."""


class SupernetTraining(ClassifierTraining):
    """Shared weights in training; each step takes the mean gradient of a few paths on one batch.

    Only layers on these paths change, and only their momentum: dW = (1/N_b) Σ dW_j ∘ C_j (Yang et al., 2020,
    "CARS: Continuous evolution for efficient neural architecture search", sec. 3.2). Where paths use parts of a larger
    layer, gradients are of these parts, but momentum and weight decay move all of the layer.

    A group divides the paths of each batch among its members. All see the same batches and end with the same
    weights, those that one member would end with but for the rounding of sums.

    Args:
        supernet: Trained in place.
        examples: What it learns from.
        recipe: How.
        draw: A path for a seed.
        paths: How many are drawn for each batch: N_b.
        epochs: Passes over the examples in the whole training, which the learning rate's schedule spans.
        seed: Shuffles, and seeds the draws.
        augment: As for `ClassifierTraining`.
        group: The processes that share the work.
    """

    model: Supernet

    def __init__(
        self,
        supernet: Supernet,
        examples: Examples,
        recipe: Recipe,
        *,
        draw: Callable[[int], Architecture],
        paths: int = 1,
        epochs: int,
        seed: int,
        augment: Callable[[Tensor], Tensor] | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(supernet, examples, recipe, epochs=epochs, seed=seed, augment=augment)
        self._draw = draw
        self._paths = paths
        self._group = group
        self._member, self._members = (0, 1) if group is None else (group.rank(), group.size())

    def state(self) -> dict[str, Tensor]:
        """Everything that `go_on_from` needs: weights, momentum, learning rate and epochs.

        Not in it are generators, since each task brings a seed, and running statistics, which say only what paths ran
        here last.
        """
        forget_statistics(self.model)
        return {name: kept for name, kept in super().state().items() if not name.startswith(GENERATOR)}

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Leave the mean gradient over the batch's paths in the parameters that lie on any of them."""
        seeds = torch.randint(2**62, (self._paths,), generator=self._generator).tolist()
        drawn = [self.model.path(self._draw(seed)) for seed in seeds]
        total = torch.zeros((), device=self.device)
        for path in drawn[self._member :: self._members]:
            loss = self.loss(path, images, targets) / self._paths
            torch.autograd.backward(loss)
            total += loss.detach()
        if self._group is not None:
            _add_up(drawn, total, self._group)
        return total


def _add_up(drawn: list[nn.Module], total: Tensor, group: ProcessGroup) -> None:
    """Sum gradients and loss over the group, in one message, for the parameters on any path that was drawn."""
    parameters = list(dict.fromkeys(parameter for path in drawn for parameter in path.parameters()))
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    # What leads nowhere has no gradient, and is neither moved nor decayed: nobody may turn that into a zero.
    reached = torch.tensor([p.grad is not None for p in parameters], dtype=total.dtype, device=total.device)
    message = torch.cat([*(gradient.flatten() for gradient in gradients), reached, total.reshape(1)])
    group.allreduce([message]).wait()
    *summed, reached, loss = torch.split(message, [*(g.numel() for g in gradients), len(parameters), 1])
    for parameter, gradient, times in zip(parameters, summed, reached.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter) if times else None
    total.copy_(loss[0])


def epochs_behind(state: Mapping[str, Tensor]) -> int:
    """How many epochs of training are behind a state of `SupernetTraining`."""
    return int(state[EPOCHS])


def load(supernet: Supernet, state: Mapping[str, Tensor]) -> None:
    """Give a supernet the weights of a state of `SupernetTraining`.

    Raises:
        RuntimeError: They are of another supernet.
    """
    supernet.load_state_dict(below(MODEL, state))


def settle(network: nn.Module, statistics: Statistics, examples: Examples, images: int) -> None:
    """Make an extracted path ready to be measured: see to the batch-norm statistics it runs with.

    Args:
        network: Has a copy of the shared weights.
        statistics: The mean over the first training images, or those of each batch that is measured.
        examples: The training examples.
        images: How many of them serve.
    """
    if statistics == "batch":
        use_batch_statistics(network)
        return
    last = min(images, len(examples))
    # All batches count alike, so none may be much smaller than the others.
    number = -(-last // CALIBRATION_BATCH)
    edges = [last * i // number for i in range(number + 1)]
    recalibrate(network, (examples.batch(slice(*edge))[0] for edge in pairwise(edges)))
