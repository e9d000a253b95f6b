"""Training of a network that can be checkpointed and resumed; training and evaluation of a classifier."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.curve import reached
from nasplat.data.examples import Examples
from nasplat.errors import TrialFailed
from nasplat.nn.rewritten import expected_macs, penalty, rewritten, sparing
from nasplat.training.auxiliary import Auxiliary
from nasplat.training.averaging import Average
from nasplat.training.distillation import NOT_GIVEN, Distillation
from nasplat.training.drop_path import DropPath
from nasplat.training.recipe import Optimizer, Recipe, optimizer, schedule

EVALUATION_BATCH = 1024

MODEL, BESIDE, AVERAGE = "model.", "beside.", "average."
_PLAN, EPOCHS, _RATE = "plan", "epochs", "learning_rate"
_CLASS_WEIGHTS = "class_weights"
GENERATOR = "generator."
_SHUFFLE, _CPU, _CUDA = (GENERATOR + name for name in ("shuffle", "cpu", "cuda"))


_KEPT: dict[Optimizer, dict[str, str]] = {
    "sgd": {"momentum_buffer": "momentum."},
    "adam": {"step": "step.", "exp_avg": "momentum.", "exp_avg_sq": "square."},
}
"""The tensors that optimizers keep for each parameter, and their names in a state."""


class Training(ABC):
    """A network in training. It can be trained for some epochs, checkpointed, and resumed exactly.

    Rewritten layers add their penalties to the loss, act after each step, and may have parameters without weight decay.

    It must be created and used within `seeded`, whose generators are part of its state. A subclass defines the batches
    and the loss.

    Args:
        model: Trained in place.
        recipe: The recipe of the training.
        device: The device of the model and of the computation.
        epochs: The epochs of the whole training, which the learning rate's schedule spans.
        steps: The number of steps in each epoch.
        batch: The number of images in each step.
        seed: The seed of a generator that batches may use besides torch's global ones.
        beside: A module that is trained together with the model but is not part of it, on the device.

    Raises:
        TrialFailed: A warm-up does not end within the training.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        device: torch.device,
        epochs: int,
        steps: int,
        batch: int,
        seed: int,
        beside: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self._recipe = recipe
        self.epochs = epochs
        self.done = 0
        self.step = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._batch = batch
        self._steps = steps
        self._beside = beside
        self._average = Average(model, recipe.ema) if recipe.ema else None
        extra = {} if beside is None else dict(beside.named_parameters(BESIDE[:-1]))
        self._parameters = dict(model.named_parameters()) | extra
        self._rewritten = [layer for _, layer in rewritten(model)]
        for layer in self._rewritten:
            layer.before_training(epochs * steps)
        undecayed = {id(getattr(layer, name)) for layer in self._rewritten for name in layer.undecayed}
        self._optimizer = optimizer(list(self._parameters.values()), recipe, undecayed)
        self._schedule = schedule(self._optimizer, recipe, epochs * steps)

    @property
    def network(self) -> nn.Module:
        """The current network, to be measured and kept: the model or its moving average."""
        return self.model if self._average is None else self._average.network

    @property
    def progress(self) -> float:
        """The completed fraction of the whole training, from 0 to 1."""
        return self.step / (self.epochs * self._steps)

    def aids(self) -> AbstractContextManager[None]:
        """A context that acts on the model during training steps only."""
        return nullcontext()

    @abstractmethod
    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, one for each step: the inputs, and their targets or labels."""

    @abstractmethod
    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def until(self, epoch: int) -> int:
        """Train until the given number of epochs of the whole training is complete.

        Returns:
            The number of images processed, without those of earlier calls and of the restored state.

        Raises:
            TrialFailed: The loss of an epoch is not finite.
        """
        begun = self.done
        self.model.train()
        with self.aids():
            reached(begun, epoch)
            while self.done < epoch:
                total = torch.zeros((), device=self.device)
                for images, targets in self.batches():
                    total += self._take(images, targets)
                # Checked once an epoch, since every check makes a GPU wait.
                if not torch.isfinite(total):
                    raise TrialFailed(
                        "diverged",
                        f"the training loss of epoch {self.done + 1} of {epoch} is {total.item() / self._steps}",
                    )
                self.done += 1
                reached(self.done, epoch)
        return (self.done - begun) * self._steps * self._batch

    def _take(self, images: Tensor, targets: Tensor) -> Tensor:
        """Make a step. Returns the loss before the step."""
        self._optimizer.zero_grad()
        loss = self.backward(images, targets)
        if self._recipe.gradient_norm:
            nn.utils.clip_grad_norm_(self._parameters.values(), self._recipe.gradient_norm)
        self.update()
        for layer in self._rewritten:
            layer.after_step()
        self._schedule.step()
        if self._average is not None:
            self._average.update(self.step)
        self.step += 1
        return loss

    def update(self) -> None:
        """Change the weights by the gradients that are stored in them."""
        self._optimizer.step()

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Store the gradients of a batch's mean loss in the parameters. Returns the loss, a scalar."""
        loss = self.penalized(self.loss(self.model, images, targets), self.model)
        torch.autograd.backward(loss)
        return loss.detach()

    def penalized(self, loss: Tensor, network: nn.Module) -> Tensor:
        """A loss of a network with the penalties of its layers, a scalar."""
        more = penalty(network) if self._rewritten else None
        return loss if more is None else loss + more

    def state(self) -> dict[str, Tensor]:
        """The state for `restore`, which continues as if there had been no interruption."""
        moments = {
            prefix + name: kept
            for name, parameter in self._parameters.items()
            for what, prefix in _KEPT[self._recipe.optimizer].items()
            if (kept := self._optimizer.state.get(parameter, {}).get(what)) is not None
        }
        generators = {_SHUFFLE: self._generator.get_state(), _CPU: torch.get_rng_state()}
        if self.device.type == "cuda":
            generators[_CUDA] = torch.cuda.get_rng_state(self.device)
        return {
            _PLAN: torch.tensor(self._plan),
            EPOCHS: torch.tensor(self.done),
            _RATE: torch.tensor(self._optimizer.param_groups[0]["lr"], dtype=torch.float64),
            **{
                prefix + name: tensor
                for prefix, module in self._modules.items()
                for name, tensor in module.state_dict().items()
            },
            **moments,
            **generators,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume the training of the state, generators included.

        Raises:
            TrialFailed: The state is of another network, of another plan, or of a training with other aids.
        """
        try:
            shuffle, cpu = state[_SHUFFLE], state[_CPU]
        except KeyError as error:
            raise TrialFailed("not a state", f"the artifact to continue from has no {error}") from None
        self.go_on_from(state)
        self._generator.set_state(shuffle)
        torch.set_rng_state(cpu)
        if _CUDA in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state[_CUDA], self.device)

    def go_on_from(self, state: Mapping[str, Tensor]) -> None:
        """Resume the training of the state, but with new randomness from here on.

        Raises:
            TrialFailed: The state is of another network, of another plan, or of a training with other aids.
        """
        try:
            plan, done, rate = state[_PLAN].tolist(), int(state[EPOCHS]), float(state[_RATE])
        except KeyError as error:
            raise TrialFailed("not a state", f"the artifact to continue from has no {error}") from None
        if plan != self._plan:
            raise TrialFailed(
                "another plan",
                "the state to continue from is of a training of {} epochs with {} steps of {} images, "
                "but this one has {} epochs with {} steps of {}".format(*plan, *self._plan),
            )
        aids = {BESIDE: "an auxiliary head", AVERAGE: "a moving average", _CLASS_WEIGHTS: "a weighting of classes"}
        for prefix, aid in aids.items():
            had, has = bool(below(prefix, state)), prefix in self._parts
            if had is not has:
                raise TrialFailed(
                    "another recipe",
                    f"the state to continue from is of a training {_with(had)} {aid}, but this one is {_with(has)} it; "
                    "continue with the recipe of the earlier training",
                )
        try:
            for prefix, module in self._modules.items():
                module.load_state_dict(below(prefix, state))
            for what, prefix in _KEPT[self._recipe.optimizer].items():
                moments = below(prefix, state)
                for name, parameter in self._parameters.items():
                    if name in moments:
                        self._optimizer.state[parameter][what] = _like(parameter, moments[name])
        except RuntimeError as error:  # torch refuses weights of another shape so
            reason = " ".join(str(error).split())
            raise TrialFailed(
                "another network", f"the state to continue from is of another network: {reason}"
            ) from None
        self.done = done
        self.step = done * self._steps
        groups = len(self._optimizer.param_groups)
        self._schedule.load_state_dict(
            {"last_epoch": self.step, "_step_count": self.step + 1, "_last_lr": [rate] * groups}
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    @property
    def _modules(self) -> dict[str, nn.Module]:
        """The modules with weights, by their prefix in a state."""
        average = None if self._average is None else self._average.network
        found = {MODEL: self.model, BESIDE: self._beside, AVERAGE: average}
        return {prefix: module for prefix, module in found.items() if module is not None}

    @property
    def _parts(self) -> set[str]:
        """The prefixes in a state of what some recipes have and others do not, and of the model."""
        return set(self._modules)

    @property
    def _plan(self) -> list[int]:
        return [self.epochs, self._steps, self._batch]


class ClassifierTraining(Training):
    """A classifier in training with cross-entropy on shuffled examples.

    With a distillation, the loss on labels leaves out those that people did not give. They are the answers of a
    teacher, and the teacher's loss already has its answers. If the distillation is to have class weights, they are
    drawn before the first epoch, from the teacher's answers for all examples without augmentation. They are part of
    the state.

    Args:
        model: Trained in place; on the device of the examples' labels.
        examples: The training examples.
        recipe: The recipe of the training.
        epochs: Passes over the examples in the whole training.
        seed: The seed of the shuffling.
        augment: Changes the images of a batch; may draw from torch's global generators.
        distillation: The teacher besides the labels, and its weight.

    Raises:
        TrialFailed: The recipe has an aid that the model does not support, or a warm-up that does not end.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        recipe: Recipe,
        *,
        epochs: int,
        seed: int,
        augment: Callable[[Tensor], Tensor] | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        device = examples.labels.device
        self._auxiliary = Auxiliary(model, examples.images.shape[1:], device) if recipe.auxiliary else None
        self._drop_path = DropPath(model, recipe.drop_path) if recipe.drop_path else None
        batch = min(recipe.batch_size, len(examples))
        super().__init__(
            model,
            recipe,
            device=device,
            epochs=epochs,
            steps=len(examples) // batch,
            batch=batch,
            seed=seed,
            beside=None if self._auxiliary is None else self._auxiliary.head,
        )
        self.examples = examples
        self._augment = augment
        self._distillation = distillation
        self._given = None if distillation is None else examples.given
        if self._given is not None and self._given.all():
            self._given = None

    @contextmanager
    def aids(self) -> Iterator[None]:
        with ExitStack() as acting:
            if self._auxiliary is not None:
                acting.enter_context(self._auxiliary.watching())
            if self._drop_path is not None:
                acting.enter_context(self._drop_path.acting(lambda: self.progress))
            yield

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._draw_class_weights()
        order = torch.randperm(len(self.examples), generator=self._generator)
        order = order[: self._steps * self._batch].to(self.examples.images.device)
        for rows in torch.split(order, self._batch):
            images, labels = self.examples.batch(rows, self._augment)
            if self._given is not None:
                labels = labels.masked_fill(~self._given[rows.to(self.device)], NOT_GIVEN)
            yield images, labels

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._recipe.bfloat16):
            logits = network(images)
            loss = self._labels_loss(logits, targets)
            if self._distillation is not None:
                loss = self._distillation.loss(images, logits, loss)
            if self._auxiliary is not None:
                early = self._labels_loss(self._auxiliary.logits(), targets)
                loss = loss + self._recipe.auxiliary * early
        return loss

    def state(self) -> dict[str, Tensor]:
        self._draw_class_weights()  # before the generators, which are then beyond the draw
        kept, distillation = super().state(), self._distillation
        if distillation is not None and distillation.class_weights is not None:
            kept[_CLASS_WEIGHTS] = distillation.class_weights
        return kept

    def go_on_from(self, state: Mapping[str, Tensor]) -> None:
        super().go_on_from(state)
        if self._distillation is not None and (rows := state.get(_CLASS_WEIGHTS)) is not None:
            self._distillation = replace(self._distillation, class_weights=rows.to(self.device))

    @property
    def _parts(self) -> set[str]:
        weighs = self._distillation is not None and self._distillation.weighs_classes
        return super()._parts | ({_CLASS_WEIGHTS} if weighs else set())

    def _draw_class_weights(self) -> None:
        """Draw the class weights of the distillation, if it is to have some and has none yet."""
        if self._distillation is not None:
            firsts = range(0, len(self.examples), EVALUATION_BATCH)
            images = (self.examples.batch(slice(first, first + EVALUATION_BATCH))[0] for first in firsts)
            self._distillation = self._distillation.drawn(images, self._generator)

    def _labels_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss on the given labels of a batch, a scalar; 0 if none is given."""
        smoothing = self._recipe.label_smoothing
        if self._given is None:
            return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        total = functional.cross_entropy(
            logits, targets, ignore_index=NOT_GIVEN, reduction="sum", label_smoothing=smoothing
        )
        return total / (targets != NOT_GIVEN).sum().clamp(min=1)


def _with(there: bool) -> str:
    return "with" if there else "without"


def _like(parameter: nn.Parameter, kept: Tensor) -> Tensor:
    """A copy of an optimizer's tensor in the memory layout of the parameter. The number of steps is a scalar."""
    if not kept.ndim:
        return kept.to(parameter.device, copy=True)
    return torch.empty_like(parameter, requires_grad=False).copy_(kept)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, under names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def evaluate(
    model: nn.Module, examples: Examples, *, stratified: bool = False, macs: int | None = None
) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross-entropy (nats) of a classifier, with its running statistics.

    Computed in float32, at any training precision, since the network is stored and exported in float32.

    Args:
        model: The classifier.
        examples: The examples.
        stratified: Whether every batch is a sample of all classes, for networks that use the statistics of the batch.
        macs: The multiply-accumulates of an image that is spared nothing; those that images take are then told too.
    """
    model.eval()
    correct, loss = 0.0, 0.0
    with sparing(model) as spared:
        for first in range(0, len(examples), EVALUATION_BATCH):
            rows = slice(first, first + EVALUATION_BATCH)
            images, labels = examples.batch(examples.order[rows] if stratified else rows)
            logits = model(images)
            correct += (logits.argmax(1) == labels).sum().item()
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
    found = {"accuracy": correct / len(examples), "loss": loss / len(examples)}
    return found if macs is None else found | expected_macs(spared, macs)


def bfloat16_suits(device: str) -> bool:
    """Whether a device computes in bfloat16 natively and faster: CUDA devices since 2020."""
    return device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
