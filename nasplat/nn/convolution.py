"""The geometry of a two-dimensional convolution, for layers that compute its weights."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a convolution has besides its weights and bias.

    Args:
        inputs: The input channels.
        outputs: The output channels.
        kernel_size: Height and width of the kernel.
        stride: Steps along height and width.
        padding: Added rows and columns on each side, or ``same`` or ``valid``.
        dilation: Distances of kernel elements.
        groups: The number of groups of channels.
        padding_mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.
        sides: The padding as `torch.nn.functional.pad` takes it, last axis first.
    """

    inputs: int
    outputs: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    sides: tuple[int, ...]

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Self:
        """The geometry of a convolution."""
        return cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.padding_mode,
            tuple(layer._reversed_padding_repeated_twice),
        )

    def made(self, *, bias: bool) -> nn.Conv2d:
        """A convolution of this geometry, with drawn weights; torch's global generator is left as it was."""
        options: dict[str, Any] = {
            name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")
        }
        with torch.random.fork_rng(devices=[]):
            return nn.Conv2d(self.inputs, self.outputs, self.kernel_size, bias=bias, **options)  # type: ignore[arg-type]

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Maps `[B, inputs, H, W]` convolved with weights `[outputs, inputs / groups, height, width]`."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = functional.pad(x, self.sides, mode=self.padding_mode), 0
        return functional.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def __str__(self) -> str:
        text = f"{self.inputs}, {self.outputs}, kernel_size={self.kernel_size}, stride={self.stride}"
        plain = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
        others = {name: getattr(self, name) for name in plain}
        return "".join([text, *(f", {name}={value}" for name, value in others.items() if value != plain[name])])
