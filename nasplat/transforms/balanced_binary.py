"""Binary weights and activations (Shen et al., 2020, "Balanced binary neural networks with gated residual")."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from nasplat.convolution import Convolution, ConvolutionShape
from nasplat.cost import Cost
from nasplat.nn.binary import BinaryConv2d, keeps_sides
from nasplat.nn.convolution import Geometry
from nasplat.nn.costs import FLOAT_BITS
from nasplat.nn.rewriting import LayerTransform, squared_error

SQUEEZE_EXCITE = frozenset({"SqueezeExcite", "SqueezeExcitation", "SEModule", "SELayer"})
"""The names of classes that are taken for squeeze-excite layers: those of this package, torchvision and timm."""


class BalancedBinary(LayerTransform):
    """Replaces convolutions by ones whose weights and activations are plus or minus one.

    Weights are stored as bits, with a real scale for each filter. Activations are the signs of batch-normalized inputs.
    The real inputs are carried around by a gated residual. Latent weights and gates take no weight decay.
    Squeeze-excite layers stay as they are by default; they are known by the names of their classes.

    Args:
        balanced: Whether the latent weights of a filter are centred, so that half of its signs are plus one.
        gated: Whether the real inputs are added to the outputs, each channel times a learned gate.
        warmup: The number of training steps in which activations are real. Weights become binary first, activations
            after; with 0, both at once. It must be shorter than the training, since what is measured is binary.
        stem: Whether the first convolution is replaced too.
        classifier: Whether the last layer is replaced too, if it is a 1 x 1 convolution.
        squeeze_excite: Whether convolutions in squeeze-excite layers are replaced too.
    """

    excludes: ClassVar[frozenset[str]] = frozenset({"full_stack", "ghost"})

    def __init__(
        self,
        *,
        balanced: bool = True,
        gated: bool = True,
        warmup: Annotated[int, Field(ge=0)] = 0,
        stem: bool = False,
        classifier: bool = False,
        squeeze_excite: bool = False,
    ) -> None:
        self.balanced = balanced
        self.gated = gated
        self.warmup = warmup
        self.stem = stem
        self.classifier = classifier
        self.squeeze_excite = squeeze_excite

    def leaves_alone(self, module: nn.Module) -> bool:
        excites = not self.squeeze_excite and type(module).__name__ in SQUEEZE_EXCITE
        return excites or super().leaves_alone(module)

    def eligible_of(self, convolutions: Sequence[Convolution]) -> list[str] | None:
        if not self.squeeze_excite and any(each.shape.sides == (1, 1) for each in convolutions):
            return None  # such a convolution may be in a squeeze-excite layer
        return self.eligible_by_sizes(convolutions)

    def refusal(self, layer: nn.Conv2d) -> str:
        if layer.in_channels == layer.groups:
            return "it is depth-wise" if layer.groups > 1 else "its filters have a single channel, as depth-wise ones"
        if torch.finfo(layer.weight.dtype).bits < FLOAT_BITS:
            return f"its weights are {layer.weight.dtype}, in which scales would be rounded; make them float32 first"
        if self.gated and not keeps_sides(Geometry.of(layer)):
            return "its padding changes the sides of maps, so that inputs cannot be added; set gated=false"
        return ""

    def added(self, shape: ConvolutionShape) -> Cost:
        n, weights = shape.outputs, shape.outputs * shape.elements
        outputs = shape.macs // shape.elements
        gates = n * self.gated
        return Cost(
            params=2 * shape.inputs + gates,
            memory_bits=weights * (1 - FLOAT_BITS) + FLOAT_BITS * (n + gates) + (FLOAT_BITS + 1) * shape.inputs,
            multiplications=outputs * (1 + self.gated) - shape.macs,
            additions=outputs * self.gated - shape.macs,
            bit_operations=shape.macs,
        )

    def replacement(self, layer: nn.Conv2d, *, fitted: bool) -> nn.Module:
        return BinaryConv2d(layer, balanced=self.balanced, gated=self.gated, warmup=self.warmup, fitted=fitted)

    def error(self, layer: nn.Conv2d, replacement: nn.Module) -> float | None:
        assert isinstance(replacement, BinaryConv2d)
        return squared_error(layer.weight, replacement.filters.weight)
