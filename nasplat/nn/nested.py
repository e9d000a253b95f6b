"""Small layers as parts of large ones: the leading channels, and the middle of the kernel.

Cai et al., 2020, "Once-for-all: Train one network and specialize it for efficient deployment", sec. 3.2 and 3.3:
elastic width and kernel size. A small kernel is the unchanged middle of the large one. Once-for-all networks also
transform kernels by matrices, and sort channels between phases of training. Both are left out here.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from types import EllipsisType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.nn.binary import BinaryFilters, GatedResidual, NormalizedSign, evaluated, straight
from nasplat.nn.full_stack import FullStackConv2d, correlation
from nasplat.nn.instance_pruning import InstancePrunedConv2d, pruned, spared
from nasplat.nn.rewritten import Rewritten


def nested(whole: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """The module of `make`, with weights that are parts of the weights of `whole`.

    Its parameters are those of `whole`. Its state dict has only the parts, under the names and in the shapes of the
    module of `make`. A deep copy of it is an ordinary module with copies of the parts.

    Args:
        whole: A module of the same structure, with convolutions, batch norms and linear layers at least as large.
        make: Makes the small module, for which no memory is allocated.

    Raises:
        TypeError: A layer of another kind has weights.
    """
    with torch.device("meta"):
        small = make()
    return _within(whole, small)


def _within(whole: nn.Module, small: nn.Module) -> nn.Module:
    if type(small) in NESTED:
        ours, theirs = _tensors(whole), _tensors(small)
        if str(small) == str(whole) and all(tensor.shape == ours[name].shape for name, tensor in theirs.items()):
            return whole
        return NESTED[type(small)](whole, small, _cuts(ours, theirs))
    if next(small.parameters(recurse=False), None) is not None:
        raise TypeError(
            "only convolutions (ordinary, binary, pruned, of full-stack filters), batch norms and linear layers can be "
            f"nested, not {type(small).__name__}"
        )
    for name, child in small.named_children():
        setattr(small, name, _within(whole.get_submodule(name), child))
    return small


Cuts: TypeAlias = Mapping[str, tuple[slice, ...]]
"""The part of each tensor: leading channels, and the middle of the other axes."""


def parameter_parts(network: nn.Module) -> Iterator[tuple[nn.Parameter, tuple[slice, ...] | EllipsisType]]:
    """Each parameter in a network, with the index of the part of it that the network uses; ``...`` for all of it."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, _Nested):
                yield parameter, ...
            elif name in module._cuts:
                yield parameter, module._cuts[name]


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor for name, tensor in (*layer._parameters.items(), *layer._buffers.items()) if tensor is not None
    }


def _cuts(whole: Mapping[str, Tensor], small: Mapping[str, Tensor]) -> Cuts:
    """The parts of a layer's tensors in a smaller layer."""
    return {
        name: tuple(
            slice(n) if axis < 2 else slice((m - n) // 2, (m + n) // 2)
            for axis, (n, m) in enumerate(zip(tensor.shape, whole[name].shape, strict=True))
        )
        for name, tensor in small.items()
    }


class _Nested(nn.Module):
    """A layer whose tensors are parts of those of a larger one.

    Args:
        whole: The larger layer.
        small: A layer of the right size. Its tensors are not read.
        cuts: The parts.
    """

    def __init__(self, whole: nn.Module, small: nn.Module, cuts: Cuts) -> None:
        super().__init__()
        for name, parameter in whole.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        # Not registered, to avoid duplicates. Buffers are looked up in `whole`, since moving a module replaces them.
        self._layers = (whole, small)
        self._cuts = cuts

    @property
    def whole(self) -> nn.Module:
        """The layer that this one is a part of."""
        return self._layers[0]

    def part(self, name: str) -> Tensor | None:
        """This layer's part of a tensor; None if there is no such tensor, such as a bias."""
        if name not in self._cuts:
            return None
        tensor: Tensor | None = getattr(self.whole, name)
        return tensor if tensor is None or not tensor.dim() else tensor[self._cuts[name]]

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The parts, under the names of the small layer."""
        destination = {} if destination is None else destination
        for name in self._cuts:
            part = self.part(name)
            if part is not None:
                destination[prefix + name] = part if keep_vars else part.detach()
        return destination

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """An independent layer of the small size, unless the larger layer is copied too."""
        whole, small = self._layers
        if id(whole) in memo:  # the whole module is being copied, and copies share parts as the originals do
            return type(self)(memo[id(whole)], small, self._cuts).train(self.training)
        kept = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        layer = copy.copy(small)
        # Assigned instead of loaded: the small layer has no memory to load into.
        layer._parameters, layer._buffers = dict(small._parameters), dict(small._buffers)
        layer.load_state_dict(kept, assign=True)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(whole.get_parameter(name).requires_grad)
        return layer.train(self.training)


class NestedConv2d(_Nested):
    """A part of a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        small = self._layers[1]
        assert isinstance(small, nn.Conv2d)
        weight, bias = self.part("weight"), self.part("bias")
        assert weight is not None
        result: Tensor = small._conv_forward(x, weight, bias)
        return result


class NestedBatchNorm2d(_Nested):
    """A part of a batch norm. Running statistics are parts as well."""

    def forward(self, x: Tensor) -> Tensor:
        whole, small = self._layers
        assert isinstance(small, nn.BatchNorm2d) and isinstance(whole, nn.BatchNorm2d)
        mean, variance = self.part("running_mean"), self.part("running_var")
        by_batch = self.training or mean is None
        momentum = whole.momentum
        if self.training and whole.num_batches_tracked is not None:
            whole.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(whole.num_batches_tracked)
        return functional.batch_norm(
            x, mean, variance, self.part("weight"), self.part("bias"), by_batch, momentum or 0.0, small.eps
        )


class NestedLinear(_Nested):
    """A part of a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.part("weight")
        assert weight is not None
        return functional.linear(x, weight, self.part("bias"))


class NestedFullStackConv2d(_Nested, Rewritten):
    """A part of a convolution of full-stack filters: the leading filters and masks, and the middle of both.

    With f filters in the part and F in the whole, filter j is made of filter j mod f here and of j mod F there. So wide
    and narrow paths share filters and masks, but not which belong together.
    """

    def forward(self, x: Tensor) -> Tensor:
        small, filters, latent = self._layers[1], self.part("filters"), self.part("latent")
        assert isinstance(small, FullStackConv2d) and filters is not None and latent is not None
        return small.convolved(x, filters, latent, self.part("bias"))

    def penalty(self) -> Tensor | None:
        small, latent = self._layers[1], self.part("latent")
        assert isinstance(small, FullStackConv2d) and latent is not None
        return small.orthogonality * correlation(latent) if small.orthogonality else None


class NestedBinaryFilters(_Nested, Rewritten):
    """A part of a convolution of binary filters: the leading filters and channels, and the middle of the kernel.

    The part of a filter is balanced by itself, and has a scale of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        small, latent = self._layers[1], self.part("latent")
        assert isinstance(small, BinaryFilters) and latent is not None
        return small.convolved(x, latent, self.part("bias"))


class NestedNormalizedSign(NestedBatchNorm2d):
    """A part of a batch norm and sign."""

    def forward(self, x: Tensor) -> Tensor:
        whole, small = self._layers
        assert isinstance(small, NormalizedSign) and isinstance(whole, NormalizedSign)
        if self.training or whole.running_mean is None:
            return whole.activated(super().forward(x), training=self.training)
        parts = [self.part(name) for name in ("weight", "bias", "running_mean", "running_var")]
        weight, bias, mean, variance = parts
        assert weight is not None and bias is not None and mean is not None and variance is not None
        activations = evaluated(x, weight, bias, mean, variance, small.eps)
        return straight(activations, super().forward(x)) if torch.is_grad_enabled() else activations


class NestedGatedResidual(_Nested, Rewritten):
    """A part of a gated residual."""

    def forward(self, x: Tensor) -> Tensor:
        small, gate = self._layers[1], self.part("gate")
        assert isinstance(small, GatedResidual) and gate is not None
        return small.gated(x, gate)


class NestedInstancePrunedConv2d(_Nested, Rewritten):
    """A part of a convolution that leaves out channels for each image. It has the threshold of the whole."""

    def __init__(self, whole: nn.Module, small: nn.Module, cuts: Cuts) -> None:
        super().__init__(whole, small, cuts)
        self._norm: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        whole, small = self._pair()
        weight, bias = self.part("weight"), self.part("bias")
        assert weight is not None
        if not self.training:
            return pruned(small.geometry, x, weight, bias, whole.threshold)
        self._norm = whole.decaying(x)
        return small.geometry.convolved(x, weight, bias)

    def penalty(self) -> Tensor | None:
        norm, self._norm = self._norm, None
        return self._pair()[0].decayed(norm)

    def spared(self, x: Tensor, result: Tensor) -> Tensor:
        """The multiply-accumulates that images `[B, inputs, H, W]` are spared, `[B]`."""
        whole, small = self._pair()
        return spared(small.geometry, x, result, whole.threshold)

    def _pair(self) -> tuple[InstancePrunedConv2d, InstancePrunedConv2d]:
        whole, small = self._layers
        assert isinstance(whole, InstancePrunedConv2d) and isinstance(small, InstancePrunedConv2d)
        return whole, small


NESTED: dict[type[nn.Module], type[_Nested]] = {
    nn.Conv2d: NestedConv2d,
    nn.BatchNorm2d: NestedBatchNorm2d,
    nn.Linear: NestedLinear,
    FullStackConv2d: NestedFullStackConv2d,
    BinaryFilters: NestedBinaryFilters,
    NormalizedSign: NestedNormalizedSign,
    GatedResidual: NestedGatedResidual,
    InstancePrunedConv2d: NestedInstancePrunedConv2d,
}
