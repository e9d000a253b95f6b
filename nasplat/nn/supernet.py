"""One set of weights for all architectures of a space. Only the selected path is executed."""

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
"""The number of assembled paths in the cache. A population is sampled repeatedly."""

SIZES = 4096
"""The number of sizes of parts in the cache."""


class Part(Protocol):
    """Provides the module for a name: a new module, or the one that paths share."""

    def __call__(
        self, name: str, make: Callable[[], nn.Module], largest: Callable[[], nn.Module] | None = None, /
    ) -> nn.Module:
        """The module called `name`, made by `make` if there is none yet. A `partial` for `make` is fastest.

        If paths need different sizes, `largest` makes a module that contains all of them. Each path uses the part of
        the size of the module of `make` (see `nasplat.nn.nested`).
        """


def new_part(name: str, make: Callable[[], nn.Module], largest: Callable[[], nn.Module] | None = None, /) -> nn.Module:
    """Make every part new. The function that assembles paths from shared parts then builds an independent network."""
    return make()


class Assemble(Protocol):
    """Assembles the network of an architecture from parts. All parts with weights are requested by name."""

    def __call__(self, architecture: Architecture, part: Part, /) -> nn.Module:
        """The network: images `[batch, *input_shape]` to `[batch, outputs]`."""


class Supernet(nn.Module):
    """The weights of all architectures of a space, shared where architectures have a part in common.

    A path is the network that the space builds, but assembled from shared parts instead of new ones. So the trained
    and measured network is the extracted and exported one, and a step has the same cost: only the operations of the
    architecture are executed. Architectures of different widths share the leading channels of one layer, and those
    with different kernels share its middle, as in once-for-all networks.

    Batch norm's running statistics are shared as well, so they do not fit any particular path. A path must use batch
    statistics, or be extracted and recalibrated.

    Args:
        assemble: The function with which the space builds its networks.
        covering: Architectures that together have every part of the space. Their order and torch's global generator
            determine the initial weights.

    Attributes:
        assemble: The function.
        covering: The architectures.
    """

    def __init__(self, assemble: Assemble, covering: Iterable[Architecture]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self.assemble = assemble
        self.covering = tuple(covering)
        self._sizes: OrderedDict[Hashable, nn.Module] = OrderedDict()  # smaller parts of shared ones
        self._paths: OrderedDict[Architecture, list[nn.Module]] = OrderedDict()  # all modules, the network first
        for architecture in self.covering:
            assemble(architecture, self._added)

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """Images `[batch, *input_shape]` through one path: `[batch, outputs]`."""
        logits: Tensor = self.path(architecture)(images)
        return logits

    def path(self, architecture: Architecture) -> nn.Module:
        """The architecture's network of shared parts, for training and inference. Do not keep it.

        It is in the same mode, training or evaluation, as the supernet.
        """
        modules = self._paths.pop(architecture, None)
        if modules is None:
            modules = list(self.assemble(architecture, self._shared).modules())
            while len(self._paths) >= PATHS:
                self._paths.popitem(last=False)
        self._paths[architecture] = modules
        network = modules[0]
        if any(module.training is not self.training for module in modules):  # another path may have changed it
            network.train(self.training)
        return network

    def extract(self, architecture: Architecture) -> nn.Module:
        """The architecture's network with a copy of its weights, independent of the supernet."""
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
    """Set batch norm's running statistics to the mean over batches `[batch, *input_shape]`, and set evaluation mode.

    Every batch has equal weight, whatever its size.

    Shared statistics depend on the paths that ran last and are wrong for every path (Yu and Huang, 2019, "Universally
    slimmable networks and improved training techniques", sec. 3.3, recompute them for each network as here).
    """
    norms = _batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    forget_statistics(network)
    for norm in norms:
        norm.momentum = None  # None means the mean of all batches
    network.train()
    for images in batches:
        network(images)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def use_batch_statistics(network: nn.Module) -> None:
    """Make batch norm use the statistics of each batch, also in evaluation. Its running statistics are removed."""
    for norm in _batch_norms(network):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None


def forget_statistics(network: nn.Module) -> None:
    """Reset batch norm's running statistics to those of a new network."""
    for norm in _batch_norms(network):
        norm.reset_running_stats()


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    modules = (module.whole if isinstance(module, NestedBatchNorm2d) else module for module in network.modules())
    return [module for module in modules if isinstance(module, _BatchNorm)]
