"""Full-stack filters in place of filters (Han et al., 2019, "Full-stack filters to build minimum viable CNNs")."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from nasplat.convolution import ConvolutionShape
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.nn.costs import FLOAT_BITS
from nasplat.nn.full_stack import FullStack, FullStackConv2d, Masks
from nasplat.nn.rewriting import LayerTransform, squared_error


class FullStackFilters(LayerTransform):
    """Replaces the filters of convolutions by few real ones times binary masks.

    Masks are stored as bits. With trained weights, filters and masks are fitted to them by alternating least squares.
    The masks' latent values are trained straight through, kept in [-1, 1], and take no weight decay.

    Args:
        filters: Number of filters that share a real one, s of the paper; from 2.
        masks: Whether every filter has a mask of its own, or the filters of different real ones share them.
        orthogonality: The weight in the loss of the masks' deviation from orthogonal ones, for each layer.
        stem: Whether the first convolution is replaced too.
        classifier: Whether the last layer is replaced too, if it is a 1 x 1 convolution.
    """

    excludes: ClassVar[frozenset[str]] = frozenset({"balanced_binary", "ghost"})

    def __init__(
        self,
        *,
        filters: Annotated[int, Field(ge=2)] = 4,
        masks: Masks = "individual",
        orthogonality: Annotated[float, Field(ge=0)] = 0.0,
        stem: bool = False,
        classifier: bool = False,
    ) -> None:
        self.filters = filters
        self.masks = masks
        self.orthogonality = orthogonality
        self.stem = stem
        self.classifier = classifier

    def refusal(self, layer: nn.Conv2d) -> str:
        if layer.groups > 1:
            return "it is depth-wise" if layer.groups == layer.in_channels else f"it has {layer.groups} groups"
        if layer.in_channels == 1:
            return "its filters have a single channel, as those of depth-wise ones"
        return "it has a single filter" if layer.out_channels == 1 else ""

    def check(self, layers: Sequence[nn.Conv2d]) -> None:
        most = max(layer.out_channels for layer in layers)
        if self.filters > most:
            raise InputError(
                f"filters, the number of filters that share a real one, must be at most the {most} filters of the "
                f"widest layer, but got {self.filters}; set filters={most} or fewer"
            )

    def added(self, shape: ConvolutionShape) -> Cost:
        stack, outputs, macs = FullStack(self.filters, self.masks), shape.outputs, shape.macs
        real = stack.filters(outputs)
        return Cost(
            params=(real + stack.mask_count(outputs) - outputs) * shape.elements,
            memory_bits=stack.bits(outputs, shape.elements) - FLOAT_BITS * outputs * shape.elements,
            multiplications=macs * real // outputs - macs,
        )

    def replacement(self, layer: nn.Conv2d, *, fitted: bool) -> nn.Module:
        stack = FullStack(self.filters, self.masks)
        return FullStackConv2d(layer, stack, fitted=fitted, orthogonality=self.orthogonality)

    def error(self, layer: nn.Conv2d, replacement: nn.Module) -> float | None:
        assert isinstance(replacement, FullStackConv2d)
        return squared_error(layer.weight, replacement.weight)
