"""Zero-cost proxies: figures of an untrained network that say something of how good it will be when trained.

One pass of one batch serves them all (Abdelfattah et al., 2021, "Zero-cost proxies for lightweight NAS"). Of every
proxy more is better.
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
from nasplat.errors import InputError, unknown
from nasplat.search_space import SearchSpace
from nasplat.task import derive_seed
from nasplat.training.seeding import seeded

PROXIES = ("synflow", "nwot", "jacov", "snip", "grad_norm", "params", "macs")
"""The names of all proxies."""
COSTS = ("params", "macs")
"""Those that take no network."""

RELUS = frozenset(
    (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu, functional.relu_)  # all ways to call it
)
LEAST, MOST = math.log(sys.float_info.min), math.log(sys.float_info.max)
"""Between these lies the logarithm of whatever float64 can hold."""
EPSILON = 1e-5
"""What Mellor et al. add to eigenvalues."""


class Probe:
    """A network and a batch, and what passes through the one with the other leave; each is done when first asked for.

    The network is a copy, so that the given one stays as it is. Batch norm uses the statistics of the batch, as
    those of an untrained network say nothing; dropout is off.

    Args:
        network: Untrained; `[batch, …]` in, `[batch, outputs]` or pictures `[batch, outputs, height, width]` out.
        images: The batch; at least 2 examples.
        targets: Class numbers `[batch]`, or pictures like the outputs.
        patterns: Whether `nwot` will be asked for, which looks on during the pass.
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
        """The weights of convolutions and linear layers, without biases and what belongs to batch norm."""
        return _weights(self.network)

    @cached_property
    def outputs(self) -> Tensor:
        """What the network says of the batch."""
        if self._patterns is None:
            given: Tensor = self.network(self.images)
            return given
        with self._patterns:
            given = self.network(self.images)
        return given

    @cached_property
    def agreement(self) -> Tensor:
        """In how many ReLUs each two examples are both let through or both not, float64 `[batch, batch]`."""
        if self._patterns is None:
            raise ValueError("this probe was made without patterns")
        _ = self.outputs
        return self._patterns.agreement

    @cached_property
    def jacobian(self) -> Tensor:
        """The gradient of the sum of all outputs by each example, `[batch, values]`."""
        (gradient,) = _gradients(self.outputs.sum(), [self.images])
        return gradient.flatten(1)

    @cached_property
    def gradients(self) -> list[Tensor]:
        """The gradients of the loss by `weights`: of the cross-entropy, or of pictures the mean absolute difference."""
        pictures = self.targets.is_floating_point()
        loss = (functional.l1_loss if pictures else functional.cross_entropy)(self.outputs, self.targets)
        return _gradients(loss, self.weights)


def synflow(probe: Probe) -> float:
    """The logarithm of how much all weights contribute to all that flows through the network: log Σ |w · ∂R/∂w|.

    R is the sum of the outputs for an input of ones, all parameters made absolute and batch norm taken out (Tanaka et
    al., 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow", sec. 6; the score as
    adapted by Abdelfattah et al., 2021, sec. 3.1.2). In float64; the logarithm is taken since the sum has a hundred
    digits for deep networks. It is -708 where nothing flows, and at most 709.
    """
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
    """How well the patterns of active ReLUs tell examples apart: the logarithm of the determinant of their kernel.

    An entry of the kernel is the number of ReLUs that agree on two examples (Mellor et al., 2021, "Neural architecture
    search without training", third version, sec. 3). Unlike there, one is added on the diagonal: a thousand times
    less than what usually stands there, it makes the score of networks finite that take examples for the same. It is 0
    without any ReLU.
    """
    kernel = probe.agreement + torch.eye(len(probe.images), dtype=torch.float64, device=probe.agreement.device)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def jacov(probe: Probe) -> float:
    """How little the gradients by different examples are correlated: -Σ (log(v + k) + 1 / (v + k)), k = 1e-5.

    v are the eigenvalues of the matrix of correlations of the rows of the Jacobian (Mellor et al., 2020, "Neural
    architecture search without training", first version, sec. 3). Gradients that are the same for all
    examples, or zero, count as fully correlated, the worst there is.
    """
    correlations = torch.corrcoef(probe.jacobian.double()).nan_to_num(nan=1.0)
    values = torch.linalg.eigvalsh(correlations).clamp(min=0) + EPSILON
    return -float((values.log() + 1 / values).sum())


def snip(probe: Probe) -> float:
    """How much the loss depends on the presence of the weights: Σ |w · ∂L/∂w|.

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
"""The proxies that take a network."""


class Proxies:
    """Zero-cost proxies of the architectures of a space.

    The same batch and the same seeds of initialization serve all architectures, so that they compare. The result for an
    architecture does not depend on what was asked before.

    Args:
        space: Whose networks are built.
        io: What data ask of them.
        names: Which proxies, of `PROXIES`; only what they take is computed.
        batch: Examples of noise, where no images are given.
        initializations: Over so many fresh networks each proxy is averaged.
        seed: What noise, random labels and initial weights are drawn from.
        images: Pictures `[n, *io.input_shape]`; by default standard normal noise.
        labels: Class numbers `[n]`, or pictures `[n, *io.output_shape]`; by default random ones.

    Raises:
        InputError: A name is unknown, the space's networks are for other data, there are fewer than 2 examples, or not
            one label for each.
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
                "zero-cost proxies take at least 2 pictures, a label for each, and an initialization, but got "
                f"{len(images)} pictures, {len(labels)} labels and initializations={initializations}"
            )
        self.space = space
        self.io = io
        self.names = known(names)
        self.initializations = initializations
        self.seed = seed
        self.images = images
        self.labels = labels

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """The figure of each proxy by its name."""
        measured = [name for name in self.names if name in MEASURED]
        sums = dict.fromkeys(measured, 0.0)
        for number in range(self.initializations if measured else 0):
            for name, value in self._once(architecture, measured, derive_seed(self.seed, number)).items():
                sums[name] += value / self.initializations
        costs = self.space.cost(architecture, self.io).metrics() if set(self.names) & set(COSTS) else {}
        return {name: sums[name] if name in sums else float(costs[name]) for name in self.names}

    def _once(self, architecture: Architecture, names: Sequence[str], seed: int) -> dict[str, float]:
        """The proxies of one fresh network."""
        with seeded(seed):
            network = self.space.build(architecture, self.io).to(self.images.device)
        probe = Probe(network, self.images, self.labels, patterns="nwot" in names)
        return {name: MEASURED[name](probe) for name in names}


def known(names: Iterable[str]) -> tuple[str, ...]:
    """The names of proxies, seen to be such.

    Raises:
        InputError: One is unknown, or is there twice.
    """
    names = tuple(names)
    for name in names:
        if name not in PROXIES:
            raise InputError(unknown("zero-cost proxy", name, PROXIES))
    if len(set(names)) < len(names):
        raise InputError(f"each zero-cost proxy is named once, but got {', '.join(names)}")
    return names


def noise(io: IO, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Standard normal examples `[count, *io.input_shape]` and random class numbers, or pictures like the outputs."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, *io.input_shape, generator=generator)
    if io.scale is None:
        return images, torch.randint(io.outputs, (count,), generator=generator)
    return images, torch.randn(count, *io.output_shape, generator=generator)


def reduced(io: IO, side: int) -> IO:
    """The same with pictures of `side` pixels, or less where they have less; proxies of them take less time."""
    channels, height, width = io.input_shape
    return replace(io, input_shape=(channels, min(side, height), min(side, width)))


class _Patterns(TorchFunctionMode):
    """Counts, wherever within a ReLU is applied, in how many places each two examples agree on being let through."""

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
            # Both active, and both not: all that are left when those are taken away where one is active.
            self.agreement += 2 * (active @ active.T) - counts[:, None] - counts + active.shape[1]
        return result


def _weights(network: nn.Module) -> list[Tensor]:
    return [parameter for parameter in network.parameters() if parameter.ndim > 1]


def _gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The gradients of a value by what went in, zero for what it does not depend on."""
    if not inputs or not value.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = grad(value, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _contribution(weights: list[Tensor], gradients: list[Tensor]) -> float:
    return sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, gradients, strict=True))


def _set_module(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)
