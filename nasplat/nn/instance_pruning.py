"""Convolutions that leave out, for each image, the input channels with little in them.

Liu et al., 2019, "Learning Instance-wise Sparsity for Accelerating Deep Models" (arXiv:1907.11840). No code of the
authors was found, and only the abstract, the introduction and a summary could be read. Reconstructed are: the exact
form of the feature decay, its schedule, thresholds relative to the mean norm of the image's own channels, and how they
are calibrated.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nasplat.nn.convolution import Geometry
from nasplat.nn.rewritten import Rewritten


class InstancePrunedConv2d(Rewritten):
    """A convolution that in evaluation computes with the input channels whose norm is high for the image.

    The norm of a channel is the root of the mean square of its map. A channel is left out if its norm is at most the
    threshold times the mean norm of the image's channels. It is minus infinity until it is calibrated: nothing is left
    out then. In training all channels are used, and the mean norm is added to the loss, so that images do with few.

    Args:
        convolution: The convolution to replace, without groups. Its weights are taken over.
        decay: The weight of the mean norm in the loss.
        rise: The part of the training in which this weight rises from 0, from 0 to 1.
    """

    threshold: Tensor
    steps: Tensor

    def __init__(self, convolution: nn.Conv2d, *, decay: float = 0.0, rise: float = 0.5) -> None:
        super().__init__()
        self.geometry, self.decay, self.rise = Geometry.of(convolution), decay, rise
        weight, bias = convolution.weight, convolution.bias
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.register_buffer("threshold", weight.new_full((), -math.inf))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=weight.device))
        self._rising = 0.0
        self._norm: Tensor | None = None
        self.train(convolution.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(x, self.weight, self.bias)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of maps `[B, inputs, H, W]` with other weights and biases of the same shapes."""
        if not self.training:
            return pruned(self.geometry, x, weight, bias, self.threshold)
        if self.decay and torch.is_grad_enabled():
            # Its gradient is zero for a channel of zeros, where that of a root is not a number.
            self._norm = torch.linalg.vector_norm(x, dim=(2, 3)).mean() / (x.shape[2] * x.shape[3]) ** 0.5
        return self.geometry.convolved(x, weight, bias)

    def penalty(self) -> Tensor | None:
        """The feature decay of the last batch, which is told once."""
        norm, self._norm = self._norm, None
        if norm is None:
            return None
        risen = 1.0 if self._rising <= 0 else (self.steps / self._rising).clamp(max=1.0)
        return self.decay * (risen * norm)

    def before_training(self, steps: int) -> None:
        """Learn how long the weight of the decay rises."""
        self._rising = self.rise * steps

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the step."""
        self.steps += 1

    def stored_bits(self) -> int:
        """Weights, biases and the threshold."""
        biases = 0 if self.bias is None else self.bias.numel()
        return (self.weight.numel() + biases + 1) * torch.finfo(self.weight.dtype).bits

    def packed(self) -> "PackedInstancePrunedConv2d":
        return PackedInstancePrunedConv2d(self)

    @torch.no_grad()
    def unpack(self, packed: nn.Module) -> None:
        assert isinstance(packed, PackedInstancePrunedConv2d)
        self.weight.copy_(packed.weight)
        self.threshold.copy_(packed.threshold)
        if self.bias is not None and packed.bias is not None:
            self.bias.copy_(packed.bias)

    def extra_repr(self) -> str:
        """The shape in few words."""
        return f"{self.geometry}, decay={self.decay:g}"

    def __getstate__(self) -> dict[str, Any]:
        """Without the norm of the last batch, which belongs to its graph."""
        return {**self.__dict__, "_norm": None}


class PackedInstancePrunedConv2d(nn.Module):
    """A convolution that computes with the input channels whose norm is high for the image.

    Args:
        layer: The layer that was trained.
    """

    threshold: Tensor

    def __init__(self, layer: InstancePrunedConv2d) -> None:
        super().__init__()
        self.geometry = layer.geometry
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.register_buffer("threshold", layer.threshold.clone())
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return pruned(self.geometry, x, self.weight, self.bias, self.threshold)


def norms(x: Tensor) -> Tensor:
    """The norm of each channel of maps `[B, C, H, W]`, divided by the root of their size, `[B, C]`."""
    return x.square().mean((2, 3)).sqrt()


def kept(x: Tensor, threshold: Tensor) -> Tensor:
    """Which channels of maps `[B, C, H, W]` are computed with, `[B, C]`; those that are not numbers are."""
    found = norms(x)
    # Minus infinity times zero is not a number either, so that maps of zeros are kept with it.
    return ~(found <= threshold * found.mean(1, keepdim=True))


def pruned(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None, threshold: Tensor) -> Tensor:
    """The convolution of maps `[B, inputs, H, W]` with channels left out.

    The channels that no image of the batch keeps are not computed with; the others are zero for the images that leave
    them out. At least one channel is computed with, so that a convolution remains.
    """
    keep = kept(x, threshold)
    needed = keep.any(0)
    index = torch.cat((needed[:1] | ~needed.any(), needed[1:])).nonzero()[:, 0]
    chosen = x.index_select(1, index) * keep.index_select(1, index)[:, :, None, None]
    return geometry.convolved(chosen, weight.index_select(1, index), bias)


@contextmanager
def watched(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """A context in which the MACs that each image is spared are kept, by layer: `[B]` for each batch, in order.

    They are those of the image alone; in a batch, channels that another image needs are computed with for all.
    """
    spared: dict[str, list[Tensor]] = {}

    def look(layer: nn.Module, given: tuple[Tensor], result: Tensor, *, into: list[Tensor]) -> None:
        assert isinstance(layer, InstancePrunedConv2d | PackedInstancePrunedConv2d)
        channels = kept(given[0], layer.threshold).sum(1).clamp(min=1)
        outputs, sides = result[0].numel(), layer.geometry.kernel_size[0] * layer.geometry.kernel_size[1]
        into.append((layer.geometry.inputs - channels) * outputs * sides)

    with ExitStack() as undo:
        for name, layer in network.named_modules():
            if isinstance(layer, InstancePrunedConv2d | PackedInstancePrunedConv2d):
                into = spared.setdefault(name, [])
                undo.callback(layer.register_forward_hook(partial(look, into=into)).remove)
        yield spared
