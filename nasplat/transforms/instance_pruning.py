"""Channels left out by image (Liu et al., 2019, "Learning instance-wise sparsity for accelerating deep models")."""

import copy
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from nasplat.convolution import ConvolutionShape
from nasplat.cost import Cost
from nasplat.nn.costs import FLOAT_BITS
from nasplat.nn.instance_pruning import InstancePrunedConv2d
from nasplat.nn.rewriting import LayerTransform


class InstancePruning(LayerTransform):
    """Lets convolutions leave out, for each image, the input channels with little in them.

    Weights stay as they are. In training, the mean norm of the channels is added to the loss; afterwards, thresholds
    are calibrated on training images, so that the network takes a given part of its MACs in the mean.

    Args:
        decay: The weight in the loss of the mean channel norm of each layer's input.
        rise: The part of the training in which this weight rises from 0, from 0 to 1.
        stem: Whether the first convolution is rewritten too.
        classifier: Whether the last layer is rewritten too, if it is a 1 x 1 convolution.
    """

    excludes: ClassVar[frozenset[str]] = frozenset({"balanced_binary", "full_stack"})

    def __init__(
        self,
        *,
        decay: Annotated[float, Field(ge=0)] = 0.1,
        rise: Annotated[float, Field(ge=0, le=1)] = 0.5,
        stem: bool = False,
        classifier: bool = False,
    ) -> None:
        self.decay = decay
        self.rise = rise
        self.stem = stem
        self.classifier = classifier

    def refusal(self, layer: nn.Conv2d) -> str:
        if layer.groups > 1:
            return "it is depth-wise" if layer.groups == layer.in_channels else f"it has {layer.groups} groups"
        return "it has a single input channel" if layer.in_channels == 1 else ""

    def added(self, shape: ConvolutionShape) -> Cost:
        return Cost(memory_bits=FLOAT_BITS)

    def replacement(self, layer: nn.Conv2d, *, fitted: bool) -> nn.Module:
        if not fitted:
            layer = _drawn(layer)
        return InstancePrunedConv2d(layer, decay=self.decay, rise=self.rise)

    def error(self, layer: nn.Conv2d, replacement: nn.Module) -> float | None:
        return 0.0


def _drawn(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the same kind, with new weights from torch's global generator."""
    other = copy.deepcopy(layer)
    other.reset_parameters()
    return other
