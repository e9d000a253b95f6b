"""One set of weights for all architectures of a space, of which only the chosen path ever runs."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nasplat.architecture import Architecture
from nasplat.nn.nested import NestedBatchNorm2d, nested

PATHS = 64
"""How many paths are remembered, put together as they are; a population is drawn from again and again."""

SIZES = 4096
"""How many sizes of parts are remembered likewise."""


class Part(Protocol):
    """Gives the module that stands at a named place: a new one, or the one that all paths through it share."""

    def __call__(
        self, name: str, make: Callable[[], nn.Module], largest: Callable[[], nn.Module] | None = None, /
    ) -> nn.Module:
        """The module called `name`, which `make` makes where there is none yet; a `partial` is quickest.

        Where paths want it in different sizes, `largest` makes the one that holds them all, and each path uses the
        part of it that is as large as what `make` makes (see `nasplat.nn.nested`).
        """


def new_part(name: str, make: Callable[[], nn.Module], largest: Callable[[], nn.Module] | None = None, /) -> nn.Module:
    """Every part is new: what assembles a path out of shared parts then builds a network of its own."""
    return make()


class Assemble(Protocol):
    """Puts the network of an architecture together from parts, all that have weights asked for by name."""

    def __call__(self, architecture: Architecture, part: Part, /) -> nn.Module:
        """The network: images `[batch, *input_shape]` in, `[batch, outputs]` out."""


class Supernet(nn.Module):
    """The weights of every architecture of a space, shared wherever architectures have a part in common.

    A path is the very network that the space builds, put together from shared parts instead of new ones. So what
    is trained and measured here is what is extracted and exported, and a step costs what it costs there: no
    operation runs that the architecture does not have. Architectures of different widths share the leading channels
    of one layer, those with different kernels its middle, as in once-for-all networks.

    Batch norm's running statistics are shared as well, and fit no path in particular; a path is to run on batch
    statistics, or to be extracted and recalibrated.

    Args:
        assemble: What the space builds its networks with.
        covering: Architectures that have every part of the space between them; their order and torch's global
            generator decide the first weights.
    """

    def __init__(self, assemble: Assemble, covering: Iterable[Architecture]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self._assemble = assemble
        self._sizes: OrderedDict[Hashable, nn.Module] = OrderedDict()  # smaller parts of shared ones
        self._paths: OrderedDict[Architecture, list[nn.Module]] = OrderedDict()  # all modules, the network first
        for architecture in covering:
            assemble(architecture, self._added)

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """Images `[batch, *input_shape]` through one path: `[batch, outputs]`."""
        logits: Tensor = self.path(architecture)(images)
        return logits

    def path(self, architecture: Architecture) -> nn.Module:
        """The architecture's network, made of the shared parts: to train and run, not to keep.

        It is in training mode exactly if the supernet is.
        """
        modules = self._paths.pop(architecture, None)
        if modules is None:
            modules = list(self._assemble(architecture, self._shared).modules())
            while len(self._paths) >= PATHS:
                self._paths.popitem(last=False)
        self._paths[architecture] = modules
        network = modules[0]
        if any(module.training is not self.training for module in modules):  # another path may have left parts so
            network.train(self.training)
        return network

    def extract(self, architecture: Architecture) -> nn.Module:
        """The architecture's network with a copy of its weights, independent of the supernet from now on."""
        return copy.deepcopy(self.path(architecture))

    def _added(
        self, name: str, make: Callable[[], nn.Module], largest: Callable[[], nn.Module] | None = None, /
    ) -> nn.Module:
        if name not in self.parts:
            self.parts[name] = (largest or make)()
        return self._shared(name, make, largest)

    def _shared(
        self, name: str, make: Callable[[], nn.Module], largest: Callable[[], nn.Module] | None = None, /
    ) -> nn.Module:
        whole = self.parts[name]
        if largest is None:
            return whole
        if not isinstance(make, partial):
            return nested(whole, make)
        key = name, make.func, make.args, tuple(sorted(make.keywords.items()))
        sized = self._sizes.pop(key, None) or nested(whole, make)
        while len(self._sizes) >= SIZES:
            self._sizes.popitem(last=False)
        self._sizes[key] = sized
        return sized


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make batch norm's running statistics the mean over some batches `[batch, *input_shape]`; leaves it evaluating.

    Every batch counts alike, whatever its size.

    Shared statistics follow whichever paths ran last and mislead every one of them (Yu and Huang, 2019, "Universally
    slimmable networks and improved training techniques", sec. 3.3, recompute them for each network as here).
    """
    norms = _batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    forget_statistics(network)
    for norm in norms:
        norm.momentum = None  # which stands for the mean of all batches
    network.train()
    for images in batches:
        network(images)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def use_batch_statistics(network: nn.Module) -> None:
    """Make batch norm use the statistics of each batch, evaluating too; its running statistics are taken away."""
    for norm in _batch_norms(network):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None


def forget_statistics(network: nn.Module) -> None:
    """Make batch norm's running statistics those of a new network."""
    for norm in _batch_norms(network):
        norm.reset_running_stats()


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    modules = (module.whole if isinstance(module, NestedBatchNorm2d) else module for module in network.modules())
    return [module for module in modules if isinstance(module, _BatchNorm)]
