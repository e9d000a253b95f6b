"""Zero-cost proxies: metrics of an untrained network that are informative about its accuracy after training.

All proxies share one pass of one batch (Abdelfattah et al., 2021, "Zero-cost proxies for lightweight NAS"). For every
proxy, higher is better.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError, TrialFailed, unknown
from nasplat.nn.counting import built
from nasplat.nn.rewritten import jumping
from nasplat.search_space import SearchSpace
from nasplat.task import derive_seed
from nasplat.training.seeding import seeded

PROXIES = ("synflow", "nwot", "jacov", "snip", "grad_norm", "params", "macs")
"""The names of all proxies."""
COSTS = ("params", "macs")
"""The proxies that need no network."""

RELUS = frozenset(
    (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu, functional.relu_)  # all ways to call a ReLU
)
LEAST, MOST = math.log(sys.float_info.min), math.log(sys.float_info.max)
"""The range of the logarithm of float64 numbers."""
EPSILON = 1e-5
"""The constant that Mellor et al. add to eigenvalues."""


class Probe:
    """A network, a batch, and the results of passes of the batch through the network, each computed at its first use.

    The network is copied, so the given one does not change. Batch norm uses the statistics of the batch, because the
    running statistics of an untrained network carry no information; dropout is off.

    Args:
        network: An untrained network: input `[batch, …]`, output `[batch, outputs]` or images
            `[batch, outputs, height, width]`.
        images: The batch; at least 2 examples.
        targets: Class numbers `[batch]`, or images of the shape of the outputs.
        patterns: Whether `nwot` will be computed, which records ReLU patterns during the pass.
    """

    def __init__(self, network: nn.Module, images: Tensor, targets: Tensor, *, patterns: bool = True) -> None:
        self.network = deepcopy(network).eval()
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.train()
        self.images = images.detach().clone().requires_grad_()
        self.targets = targets
        self._patterns = _Patterns(images) if patterns else None

    @cached_property
    def weights(self) -> list[Tensor]:
        """The weights of convolutions and linear layers, without biases and batch-norm parameters."""
        return _weights(self.network)

    @cached_property
    def outputs(self) -> Tensor:
        """The outputs of the network for the batch."""
        if self._patterns is None:
            given: Tensor = self.network(self.images)
            return given
        with self._patterns:
            given = self.network(self.images)
        return given

    @cached_property
    def agreement(self) -> Tensor:
        """For each pair of examples, the number of ReLUs that are active for both or inactive for both.

        A float64 matrix `[batch, batch]`.
        """
        if self._patterns is None:
            raise ValueError("this probe was made without patterns")
        _ = self.outputs
        return self._patterns.agreement

    @cached_property
    def jacobian(self) -> Tensor:
        """The gradient of the sum of all outputs with respect to each example, `[batch, values]`."""
        (gradient,) = _gradients(self.outputs.sum(), [self.images])
        return gradient.flatten(1)

    @cached_property
    def gradients(self) -> list[Tensor]:
        """The gradients of the loss with respect to `weights`: cross-entropy, or the mean absolute error of images."""
        pictures = self.targets.is_floating_point()
        loss = (functional.l1_loss if pictures else functional.cross_entropy)(self.outputs, self.targets)
        return _gradients(loss, self.weights)


def synflow(probe: Probe) -> float:
    """The logarithm of the synaptic flow of all weights: log Σ |w · ∂R/∂w|.

    R is the sum of the outputs for an input of ones, with the absolute values of all parameters and without batch norm
    (Tanaka et al., 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow", sec. 6;
    the score as adapted by Abdelfattah et al., 2021, sec. 3.1.2). It is computed in float64; the logarithm is used
    because the sum has a hundred digits for deep networks. It is -708 if the flow is zero, and at most 709.

    Raises:
        TrialFailed: The network has signs of activations, whose outputs do not grow with weights.
    """
    if jumping(probe.network):
        raise TrialFailed(
            "no synflow",
            "synflow adds up what absolute weights let through, but signs of activations do not grow with weights; "
            "leave synflow out of the proxies, and choose another strategy.design than zero_cost",
        )
    network = deepcopy(probe.network).double()
    for name, module in list(network.named_modules()):
        if isinstance(module, _BatchNorm):
            _set_module(network, name, nn.Identity())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    weights = _weights(network)
    outputs = network(torch.ones_like(probe.images[:1], dtype=torch.float64, requires_grad=True))
    total = _contribution(weights, _gradients(outputs.sum(), weights))
    if math.isnan(total):
        return LEAST
    if math.isinf(total):
        return MOST
    return math.log(total) if total > sys.float_info.min else LEAST


def nwot(probe: Probe) -> float:
    """How well the patterns of active ReLUs separate examples: the logarithm of the determinant of their kernel.

    An entry of the kernel is the number of ReLUs that agree on two examples (Mellor et al., 2021, "Neural architecture
    search without training", third version, sec. 3). Unlike there, one is added on the diagonal, a thousand times
    less than its usual values. So the score is finite also for networks that do not distinguish some examples. It is 0
    without any ReLU.
    """
    kernel = probe.agreement + torch.eye(len(probe.images), dtype=torch.float64, device=probe.agreement.device)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def jacov(probe: Probe) -> float:
    """How weakly the gradients of different examples are correlated: -Σ (log(v + k) + 1 / (v + k)), k = 1e-5.

    v are the eigenvalues of the correlation matrix of the rows of the Jacobian (Mellor et al., 2020, "Neural
    architecture search without training", first version, sec. 3). Gradients that are the same for all
    examples, or zero, count as fully correlated, the worst case.
    """
    correlations = torch.corrcoef(probe.jacobian.double()).nan_to_num(nan=1.0)
    values = torch.linalg.eigvalsh(correlations).clamp(min=0) + EPSILON
    return -float((values.log() + 1 / values).sum())


def snip(probe: Probe) -> float:
    """The sensitivity of the loss to the presence of the weights: Σ |w · ∂L/∂w|.

    Lee et al., 2019, "SNIP: Single-shot network pruning based on connection sensitivity", sec. 4.1; summed over all
    weights as by Abdelfattah et al., 2021, sec. 3.1.2.
    """
    return _contribution(probe.weights, probe.gradients)


def grad_norm(probe: Probe) -> float:
    """The Euclidean norm of the gradient of the loss, summed over layers (Abdelfattah et al., 2021, sec. 3.1.1)."""
    return sum(float(gradient.norm()) for gradient in probe.gradients)


MEASURED: dict[str, Callable[[Probe], float]] = {
    "synflow": synflow,
    "nwot": nwot,
    "jacov": jacov,
    "snip": snip,
    "grad_norm": grad_norm,
}
"""The proxies that need a network."""


class Proxies:
    """Zero-cost proxies of the architectures of a space.

    All architectures use the same batch and the same seeds of initialization, so their proxies are comparable. The
    result for an architecture does not depend on earlier calls.

    Args:
        space: The space whose networks are built.
        io: The input and output shapes of the networks.
        names: The proxies to compute, from `PROXIES`; only the passes that they need are run.
        batch: Number of noise examples, if no images are given.
        initializations: Number of newly initialized networks that each proxy is averaged over.
        seed: The seed of noise, random labels and initial weights.
        images: Images `[n, *io.input_shape]`; by default standard normal noise.
        labels: Class numbers `[n]`, or images `[n, *io.output_shape]`; by default random ones.

    Raises:
        InputError: A name is unknown, the space's networks are for other data, there are fewer than 2 examples, or
            there is not one label for each example.
    """

    def __init__(
        self,
        space: SearchSpace,
        io: IO,
        *,
        names: Sequence[str] = PROXIES,
        batch: int = 32,
        initializations: int = 1,
        seed: int = 0,
        images: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        space.check_io(io)
        if images is None:
            images, drawn = noise(io, batch, seed)
        else:
            drawn = noise(io, len(images), seed)[1]
        labels = drawn.to(images.device) if labels is None else labels
        if len(images) < 2 or len(labels) != len(images) or initializations < 1:
            raise InputError(
                "zero-cost proxies need at least 2 images, a label for each, and at least 1 initialization, but got "
                f"{len(images)} images, {len(labels)} labels and initializations={initializations}"
            )
        self.space = space
        self.io = io
        self.names = checked_proxies(names)
        self.initializations = initializations
        self.seed = seed
        self.images = images
        self.labels = labels

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """The value of each proxy, by name.

        Raises:
            TrialFailed: The network has other parameters than its space computes.
        """
        measured = [name for name in self.names if name in MEASURED]
        sums = dict.fromkeys(measured, 0.0)
        for number in range(self.initializations if measured else 0):
            for name, value in self._once(architecture, measured, derive_seed(self.seed, number)).items():
                sums[name] += value / self.initializations
        costs = self.space.cost(architecture, self.io).metrics() if set(self.names) & set(COSTS) else {}
        return {name: sums[name] if name in sums else float(costs[name]) for name in self.names}

    def _once(self, architecture: Architecture, names: Sequence[str], seed: int) -> dict[str, float]:
        """The proxies of one newly initialized network."""
        with seeded(seed):
            network = built(self.space, architecture, self.io).to(self.images.device)
        probe = Probe(network, self.images, self.labels, patterns="nwot" in names)
        return {name: MEASURED[name](probe) for name in names}


def checked_proxies(names: Iterable[str]) -> tuple[str, ...]:
    """Validate the names of proxies.

    Raises:
        InputError: A name is unknown, or occurs twice.
    """
    names = tuple(names)
    for name in names:
        if name not in PROXIES:
            raise InputError(unknown("zero-cost proxy", name, PROXIES))
    if len(set(names)) < len(names):
        raise InputError(f"each zero-cost proxy must be named only once, but got {', '.join(names)}")
    return names


def noise(io: IO, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Standard normal examples `[count, *io.input_shape]`, with random class numbers or images of the output shape."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, *io.input_shape, generator=generator)
    if io.purpose == "classification":
        return images, torch.randint(io.outputs, (count,), generator=generator)
    return images, torch.randn(count, *io.output_shape, generator=generator)


def reduced(io: IO, side: int) -> IO:
    """The same shapes with images of at most `side` pixels a side, which makes proxies faster; other inputs stay."""
    if len(io.input_shape) != 3:
        return io
    channels, height, width = io.input_shape
    return replace(io, input_shape=(channels, min(side, height), min(side, width)))


class _Patterns(TorchFunctionMode):
    """Counts, for each pair of examples, the activations of all ReLUs within that are active or inactive for both."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.agreement = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in RELUS:
            active = (result.detach() > 0).flatten(1).float()
            counts = active.sum(1)
            # Both active, plus both inactive; the latter are all activations minus those where one is active.
            self.agreement += 2 * (active @ active.T) - counts[:, None] - counts + active.shape[1]
        return result


def _weights(network: nn.Module) -> list[Tensor]:
    return [parameter for parameter in network.parameters() if parameter.ndim > 1]


def _gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The gradients of a value with respect to its inputs; zero for inputs that it does not depend on."""
    if not inputs or not value.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = grad(value, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _contribution(weights: list[Tensor], gradients: list[Tensor]) -> float:
    return sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, gradients, strict=True))


def _set_module(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)
