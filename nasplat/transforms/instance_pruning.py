"""Channels left out by image (Liu et al., 2019, "Learning instance-wise sparsity for accelerating deep models")."""

import copy
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from nasplat.convolution import ConvolutionShape
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.nn.costs import FLOAT_BITS
from nasplat.nn.instance_pruning import InstancePrunedConv2d, Pruning, Rule
from nasplat.nn.rewriting import LayerTransform

SLACK = 1e-9
"""The rounding of a sum."""


class InstancePruning(LayerTransform):
    """Lets convolutions leave out, for each image, input channels with little in them.

    Weights stay as they are. In training, the mean norm of the channels is added to the loss; afterwards, thresholds
    are calibrated on training images, so that the network takes a given part of its MACs in the mean.

    Args:
        macs: The part of the network's multiply-accumulates that images take in the mean.
        decay: The weight in the loss of the mean channel norm of each layer's input.
        rise: The part of the training, at its beginning, in which this weight rises from 0; from 0 to 1.
        rest: The part at its end in which the weight is 0 again, so that the network gets over the decay; from 0 to 1.
        thresholds: Whether all layers have one threshold, or each its own.
        variation: The least coefficient of variation of channel norms of a layer that is pruned.
        layers: The names of the layers that are pruned whatever their variation, with commas between; by default all
            that vary so much.
        images: The number of training images that thresholds are calibrated on.
        stem: Whether the first convolution is rewritten too.
        classifier: Whether the last layer is rewritten too, if it is a 1 x 1 convolution.
    """

    varies: ClassVar[bool] = True
    whole: ClassVar[frozenset[str]] = frozenset({"macs", "thresholds", "variation", "layers", "images"})
    excludes: ClassVar[frozenset[str]] = frozenset({"balanced_binary", "full_stack"})

    def __init__(
        self,
        *,
        macs: Annotated[float, Field(gt=0, le=1)] = 0.6,
        decay: Annotated[float, Field(ge=0)] = 0.2,
        rise: Annotated[float, Field(ge=0, le=1)] = 0.67,
        rest: Annotated[float, Field(ge=0, le=1)] = 0.33,
        thresholds: Rule = "common",
        variation: Annotated[float, Field(ge=0)] = 0.0,
        layers: str = "",
        images: Annotated[int, Field(ge=1)] = 512,
        stem: bool = False,
        classifier: bool = False,
    ) -> None:
        if rise + rest > 1 + SLACK:
            raise InputError(
                "rise and rest are parts of one training, so together at most 1, but got "
                f"transform.rise={rise:g} and transform.rest={rest:g}; lower one"
            )
        self.macs = macs
        self.decay = decay
        self.rise = rise
        self.rest = rest
        self.thresholds = thresholds
        self.variation = variation
        self.layers = layers
        self.images = images
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
        names = tuple(name.strip() for name in self.layers.split(",") if name.strip())
        pruning = Pruning(
            self.macs, self.decay, self.rise, self.rest, self.thresholds, self.variation, names, self.images
        )
        return InstancePrunedConv2d(layer, pruning)

    def error(self, layer: nn.Conv2d, replacement: nn.Module) -> float | None:
        return 0.0


def _drawn(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the same kind, with new weights from torch's global generator."""
    other = copy.deepcopy(layer)
    other.reset_parameters()
    return other
