"""Convolutions that leave out, for each image, the input channels with little in them.

Liu et al., 2019, "Learning Instance-wise Sparsity for Accelerating Deep Models" (arXiv:1907.11840). No code of the
authors was found, and only the abstract, the introduction and a summary could be read. Reconstructed are: the exact
form of the feature decay, its schedule, thresholds relative to the mean norm of the image's own channels, and how they
are calibrated.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.nn.convolution import Geometry
from nasplat.nn.rewritten import Packed, Rewritten

Rule: TypeAlias = Literal["common", "layer"]


@dataclass(frozen=True, slots=True)
class Pruning:
    """How convolutions of a network are pruned.

    Args:
        macs: The part of the network's multiply-accumulates that images take in the mean, above 0 and at most 1.
        decay: The weight of the mean norm of each layer's channels in the loss.
        rise: The part of the training, at its beginning, in which this weight rises from 0; from 0 to 1.
        rest: The part at its end in which the weight is 0 again, so that the network gets over the decay; from 0 to 1.
        thresholds: ``common``, all layers have one; or ``layer``, each has its own.
        variation: The least coefficient of variation of channel norms of a layer that is pruned.
        layers: The names of the layers that are pruned, whatever their variation; empty for all that vary so much.
        images: The number of training images that thresholds are calibrated on.
    """

    macs: float = 0.6
    decay: float = 0.0
    rise: float = 0.5
    rest: float = 0.0
    thresholds: Rule = "common"
    variation: float = 0.0
    layers: tuple[str, ...] = ()
    images: int = 512


class InstancePrunedConv2d(Rewritten):
    """A convolution that in evaluation computes with the input channels whose norm is high for the image.

    The norm of a channel is the root of the mean square of its map. A channel is left out if its norm is at most the
    threshold times the mean norm of the image's channels. It is minus infinity until it is calibrated: nothing is left
    out then. In training all channels are used, and the mean norm is added to the loss, so that images do with few.

    Args:
        convolution: The convolution to replace, without groups. Its weights are taken over.
        pruning: How the network is pruned.
    """

    jumps: ClassVar[bool] = True
    threshold: Tensor
    steps: Tensor

    def __init__(self, convolution: nn.Conv2d, pruning: Pruning = Pruning()) -> None:
        super().__init__()
        self.geometry, self.pruning = Geometry.of(convolution), pruning
        weight, bias = convolution.weight, convolution.bias
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.register_buffer("threshold", weight.new_full((), -math.inf))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=weight.device))
        self._planned = 0
        self._norm: Tensor | None = None
        self._statistics: dict[str, Tensor] = {}
        self.train(convolution.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return pruned(self.geometry, x, self.weight, self.bias, self.threshold)
        self._norm = self.decaying(x)
        return self.geometry.convolved(x, self.weight, self.bias)

    def decaying(self, x: Tensor) -> Tensor | None:
        """The mean norm of channels that decays, a scalar; None if it does not count."""
        if not self.pruning.decay or not torch.is_grad_enabled():
            return None
        # Its gradient is zero for a channel of zeros, where that of a root is not a number.
        found: Tensor = torch.linalg.vector_norm(x, dim=(2, 3))
        return found.mean() / math.sqrt(x.shape[2] * x.shape[3])

    def decayed(self, norm: Tensor | None) -> Tensor | None:
        """The term of the loss for a mean norm."""
        if norm is None:
            return None
        if not self._planned:
            return self.pruning.decay * norm
        done = self.steps / self._planned
        risen = (done / self.pruning.rise).clamp(max=1.0) if self.pruning.rise else 1.0
        return self.pruning.decay * (risen * (done < 1 - self.pruning.rest) * norm)

    def penalty(self) -> Tensor | None:
        """The feature decay of the last batch, or of the last place of a layer in several; it is told once."""
        norm, self._norm = self._norm, None
        return self.decayed(norm)

    def before_training(self, steps: int) -> None:
        """Learn how many steps the schedule of the decay is for."""
        self._planned = steps

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the step."""
        self.steps += 1

    @classmethod
    def check(cls, network: nn.Module, io: IO) -> None:
        """Check the options against the network, and that so few MACs can be reached."""
        from nasplat.nn.thresholds import check

        check(network, io)

    @classmethod
    def calibrate(cls, network: nn.Module, images: Callable[[int], Sequence[Tensor]]) -> None:
        """Set the thresholds of all such layers."""
        from nasplat.nn.thresholds import calibrated

        calibrated(network, images)

    def keep(self, statistics: dict[str, Tensor]) -> None:
        """Take what was seen in a calibration."""
        self._statistics = statistics

    def statistics(self) -> Mapping[str, Tensor]:
        return self._statistics

    def spared(self, x: Tensor, result: Tensor) -> Tensor:
        """The multiply-accumulates that images `[B, inputs, H, W]` are spared, `[B]`."""
        return spared(self.geometry, x, result, self.threshold)

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
        return f"{self.geometry}, macs={self.pruning.macs:g}"

    def __getstate__(self) -> dict[str, Any]:
        """Without the norm of the last batch, which belongs to its graph."""
        return {**self.__dict__, "_norm": None}


class PackedInstancePrunedConv2d(Packed):
    """A convolution that computes with the input channels whose norm is high for the image.

    Args:
        layer: The layer that was trained.
    """

    jumps: ClassVar[bool] = True
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

    def spared(self, x: Tensor, result: Tensor) -> Tensor:
        """The multiply-accumulates that images `[B, inputs, H, W]` are spared, `[B]`."""
        return spared(self.geometry, x, result, self.threshold)


def norms(x: Tensor) -> Tensor:
    """The norm of each channel of maps `[B, C, H, W]`, divided by the root of their size, `[B, C]`."""
    return x.square().mean((2, 3)).sqrt()


def kept(x: Tensor, threshold: Tensor) -> Tensor:
    """Which channels of maps `[B, C, H, W]` are computed with, `[B, C]`; those whose norms are not finite are."""
    found = norms(x)
    # The difference of infinities is not a number, nor is minus infinity times zero; what is none is kept.
    return ~(found - threshold * found.mean(1, keepdim=True) <= 0)


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


def spared(geometry: Geometry, x: Tensor, result: Tensor, threshold: Tensor) -> Tensor:
    """The multiply-accumulates that each image is spared, `[B]`, as if it were evaluated alone.

    Args:
        geometry: Of the convolution.
        x: Its inputs, `[B, inputs, H, W]`.
        result: Its outputs.
        threshold: Its threshold.
    """
    left_out = geometry.inputs - kept(x, threshold).sum(1).clamp(min=1)
    return left_out * (result[0].numel() * math.prod(geometry.kernel_size))
