"""Training of shared weights on sampled paths, in one process or several, and preparation of single paths."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from nasplat.architecture import Architecture
from nasplat.data.examples import Examples
from nasplat.errors import TrialFailed
from nasplat.nn.supernet import Supernet, forget_statistics, recalibrate, use_batch_statistics
from nasplat.training.distillation import divergence
from nasplat.training.fit import EPOCHS, GENERATOR, MODEL, ClassifierTraining, below
from nasplat.training.recipe import Recipe
from nasplat.training.unused_parts import untouched, unused_parts

if TYPE_CHECKING:
    from nasplat.sampling.drawn import Sampler

Statistics: TypeAlias = Literal["recalibrated", "batch"]
Decay: TypeAlias = Literal["all", "used"]


class SupernetTraining(ClassifierTraining):
    """Shared weights in training. Each step uses the mean gradient of a few paths on one batch.

    Only the layers on these paths, and their momentum, change: dW = (1/N_b) Σ dW_j ∘ C_j (Yang et al., 2020,
    "CARS: Continuous evolution for efficient neural architecture search", sec. 3.2). Where paths use parts of a larger
    layer, only these parts have gradients, but momentum and weight decay change the whole layer.

    With `decay="used"` the parts that no path of the batch uses keep their weights and their momentum, as layers on no
    path do anyway. So a part is decayed as often as it learns, after Bender et al. (2018), "Understanding and
    simplifying one-shot architecture search", who regularize only what the current architecture uses. Adam's
    number of steps, which corrects its moments, counts the steps of the whole layer.

    A process group divides the paths of each batch among its ranks. All ranks use the same batches and end with the
    same weights. These equal the weights of a single process up to the rounding of sums.

    With `ends`, each batch trains the largest and the smallest path besides drawn ones: the sandwich rule. The largest
    learns from the labels, all others from its outputs on the same batch: in-place distillation (Yu and Huang, 2019,
    "Universally slimmable networks and improved training techniques", sec. 3; Yu et al., 2020, "BigNAS: Scaling up
    neural architecture search with big single-stage models", sec. 3). The loss of the others is the Kullback-Leibler
    divergence. Its gradient is that of the cross-entropy with the outputs as soft labels, which are constants in it.
    Gradients are averaged over the paths, not summed as in these papers.

    A step takes a forward and a backward pass of each of its `paths` paths. With `ends`, two of these are the largest
    and the smallest path, so it costs more than paths drawn at random; distillation itself adds nothing, except that
    in a group every rank but the first computes the largest path's outputs again, without their gradient. With
    `decay="used"`, a step also copies the weights and moments of layers that are used in part, and puts the unused
    parts back; that takes time in the number of these layers and weights, but not of the images.

    Args:
        supernet: Trained in place.
        examples: The training examples.
        recipe: The recipe of the training.
        draw: Gives a path for a seed.
        paths: The number of paths of each batch: N_b.
        epochs: Passes over the examples in the whole training, which the learning rate's schedule spans.
        seed: The seed of the shuffling and of the draws.
        augment: As for `ClassifierTraining`.
        group: The processes that share the work.
        ends: The largest and the smallest path, which are among the paths of each batch; only the others are drawn, so
            `paths` must be at least 2.
        decay: Whether weight decay and momentum change all of a layer that paths use in part, or only what they use.
        sampler: Draws paths instead of `draw`. At the start of each epoch it learns from the norms of the gradients of
            paths on the first batch; in a group, from those that rank 0 computes.
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
        ends: tuple[Architecture, Architecture] | None = None,
        decay: Decay = "all",
        sampler: "Sampler[list[Architecture]] | None" = None,
    ) -> None:
        super().__init__(supernet, examples, recipe, epochs=epochs, seed=seed, augment=augment)
        self._draw = draw
        self._paths = paths
        self._group = group
        self._ends = ends
        self._decay = decay
        self._sampler = sampler
        self.scored = 0
        """The images that paths were scored on, a pass each, besides the images of steps."""
        self._unused: dict[nn.Parameter, Tensor] = {}  # in the current step
        self._member, self._members = (0, 1) if group is None else (group.rank(), group.size())

    def further(self, epochs: int) -> int:
        """Train for so many more epochs.

        Returns:
            The images of all passes: those of each path of a step, and those that paths were scored on.

        Raises:
            TrialFailed: The whole training is shorter, or the loss of an epoch is not finite.
        """
        if self.done + epochs > self.epochs:
            raise TrialFailed(
                "past the plan",
                f"the weights have been trained for {self.done} epochs and the task asks for {epochs} more, but the "
                f"whole training has epochs={self.epochs}",
            )
        scored = self.scored
        return self.until(self.done + epochs) * self._paths + self.scored - scored

    def state(self) -> dict[str, Tensor]:
        """The state for `go_on_from`: weights, momentum, learning rate and epochs.

        Generators are not included, since each task has its own seed. Running statistics are not included either,
        since they only reflect the last paths in this process.
        """
        forget_statistics(self.model)
        return {name: kept for name, kept in super().state().items() if not name.startswith(GENERATOR)}

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Store the mean gradient over the batch's paths in the parameters of these paths."""
        fixed = self._ends or ()
        drawn = [self.model.path(each) for each in (*fixed, *self._drawn(self._paths - len(fixed), images, targets))]
        if self._decay == "used":
            self._unused = unused_parts(drawn)
        total = torch.zeros((), device=self.device)
        losses = self._label_losses if self._ends is None else self._sandwich_losses
        for each in losses(drawn, images, targets):
            loss = each / self._paths
            torch.autograd.backward(loss)
            total += loss.detach()
        if self._group is not None:
            _add_up(drawn, total, self._group)
        return total

    def _drawn(self, count: int, images: Tensor, targets: Tensor) -> list[Architecture]:
        """The paths of a batch that are drawn."""
        if self._sampler is None:
            return [self._draw(seed) for seed in torch.randint(2**62, (count,), generator=self._generator).tolist()]
        if self.step % self._steps == 0:
            self._sampler.fit(lambda paths: self._gradient_norms(paths, images, targets))
        return self._sampler.sample(count).items

    def _gradient_norms(self, paths: list[Architecture], images: Tensor, targets: Tensor) -> Tensor:
        """How far a step on each path alone would move the weights `[n]`: the norm of its gradient on a batch."""
        norms = torch.zeros(len(paths), device=self.device)
        if self._member == 0:
            for number, architecture in enumerate(paths):
                path = self.model.path(architecture)
                parameters = [each for each in path.parameters() if each.requires_grad]
                loss = self.loss(path, images, targets)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                squares = [each.square().sum() for each in gradients if each is not None]
                norms[number] = torch.stack(squares).sum().sqrt()
        if self._group is not None:
            self._group.broadcast([norms], 0).wait()
        self.scored += len(paths) * len(images)
        return norms

    def update(self) -> None:
        with untouched(self._unused, self._optimizer):
            super().update()

    def _label_losses(self, drawn: list[nn.Module], images: Tensor, targets: Tensor) -> Iterator[Tensor]:
        """The loss of each of this rank's paths on the labels."""
        for path in drawn[self._member :: self._members]:
            yield self.penalized(self.loss(path, images, targets), path)

    def _sandwich_losses(self, drawn: list[nn.Module], images: Tensor, targets: Tensor) -> Iterator[Tensor]:
        """The loss of each of this rank's paths: the first drawn on the labels, the others on the first's outputs."""
        largest, smoothing = drawn[0], self._recipe.label_smoothing
        with torch.set_grad_enabled(self._member == 0), self._precision():
            logits = largest(images)
            loss = functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        if self._member == 0:
            yield self.penalized(loss, largest)
        wanted = logits.detach()
        for path in drawn[self._member or self._members :: self._members]:
            with self._precision():
                loss = divergence(path(images), wanted, temperature=1.0)
            yield self.penalized(loss, path)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._recipe.bfloat16)


def _add_up(drawn: list[nn.Module], total: Tensor, group: ProcessGroup) -> None:
    """Sum gradients and loss over the group, in one message, for the parameters on any drawn path."""
    parameters = list(dict.fromkeys(parameter for path in drawn for parameter in path.parameters()))
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    # Parameters without a path to the output have no gradient, so they are neither updated nor decayed. Keep None, not
    # zero.
    reached = torch.tensor([p.grad is not None for p in parameters], dtype=total.dtype, device=total.device)
    message = torch.cat([*(gradient.flatten() for gradient in gradients), reached, total.reshape(1)])
    group.allreduce([message]).wait()
    *summed, reached, loss = torch.split(message, [*(g.numel() for g in gradients), len(parameters), 1])
    for parameter, gradient, times in zip(parameters, summed, reached.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter) if times else None
    total.copy_(loss[0])


def epochs_behind(state: Mapping[str, Tensor]) -> int:
    """The number of completed epochs in a state of `SupernetTraining`."""
    return int(state[EPOCHS])


def load(supernet: Supernet, state: Mapping[str, Tensor]) -> None:
    """Load the weights of a state of `SupernetTraining` into a supernet.

    Raises:
        RuntimeError: The weights belong to another supernet.
    """
    supernet.load_state_dict(below(MODEL, state))


def recalibrate_path(network: nn.Module, statistics: Statistics, examples: Examples, images: int) -> None:
    """Prepare the batch-norm statistics of an extracted path for its measurement.

    Args:
        network: The network with a copy of the shared weights.
        statistics: The mean over a stratified sample of training images, or the statistics of each measured batch.
        examples: The training examples.
        images: The number of training examples to use.
    """
    if statistics == "batch":
        use_batch_statistics(network)
        return
    recalibrate(network, examples.sample(images))
