"""The convolutions of a network, by their sizes: what transforms of a search space compute costs with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nasplat.architecture import IO
from nasplat.cost import Cost, count

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ConvolutionShape:
    """The sizes of a two-dimensional convolution: what its cost depends on.

    Args:
        inputs: The input channels.
        outputs: The output channels.
        sides: Height and width of its input.
        kernel: Height and width of the kernel.
        stride: Steps along height and width.
        padding: Added rows and columns on each side, or ``same`` or ``valid``.
        dilation: Distances of kernel elements along height and width.
        groups: The number of groups of channels.
        bias: Whether it has biases.
        mode: The padding mode.
    """

    inputs: int
    outputs: int
    sides: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: str | tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False
    mode: str = "zeros"

    @property
    def elements(self) -> int:
        """The number of weights of a filter."""
        return self.inputs // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def output_sides(self) -> tuple[int, int]:
        """Height and width of its output."""
        if self.padding == "same":
            return self.sides
        added = (0, 0) if isinstance(self.padding, str) else self.padding
        height, width = (
            (side + 2 * more - distance * (kernel - 1) - 1) // step + 1
            for side, more, distance, kernel, step in zip(
                self.sides, added, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return height, width

    @property
    def macs(self) -> int:
        """The multiply-accumulates of one call."""
        height, width = self.output_sides
        return height * width * self.outputs * self.elements

    def make(self) -> "nn.Conv2d":
        """The convolution with any weights."""
        from torch import nn

        geometry: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.bias,
            "padding_mode": self.mode,
        }
        return nn.Conv2d(self.inputs, self.outputs, self.kernel, **geometry)

    def cost(self, rewrite: "Callable[[nn.Conv2d], nn.Module]") -> Cost:
        """The cost of the layer that `rewrite` makes of the convolution, counted for one call."""
        io = _Map((self.inputs, *self.sides), self.outputs, sides=self.output_sides)
        return count(lambda: rewrite(self.make()), io)


@lru_cache(maxsize=8192)
def square(
    inputs: int,
    outputs: int,
    kernel: int,
    sides: tuple[int, int],
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> ConvolutionShape:
    """The shape of a convolution with an odd square kernel, whose padding keeps the sides but for the stride."""
    padding = dilation * (kernel // 2)
    return ConvolutionShape(
        inputs,
        outputs,
        sides,
        (kernel, kernel),
        (stride, stride),
        (padding, padding),
        (dilation, dilation),
        groups,
        bias,
    )


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution of a network.

    Args:
        name: Its name in the network's `named_modules`; of a shared one the first.
        shape: Its sizes.
        calls: How often it is computed for one example; 0 if the network has it, but does not use it in evaluation.
        last: Whether no layer with weights is behind it.
    """

    name: str
    shape: ConvolutionShape
    calls: int = 1
    last: bool = False


@dataclass(frozen=True, slots=True)
class _Map(IO):
    """The shapes of a layer, whose output is a map."""

    sides: tuple[int, int] = (1, 1)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.outputs, *self.sides


def found_by_running(network: "nn.Module", io: IO) -> list[Convolution]:
    """The convolutions of a network in the order of `named_modules`, found by evaluating one example.

    Args:
        network: The network, of ordinary convolutions. It is put in evaluation mode.
        io: Its input and output shapes.
    """
    import torch
    from torch import nn

    weighted = [layer for layer in network.modules() if next(layer.parameters(recurse=False), None) is not None]
    names = {layer: name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    found: dict[str, Convolution] = {}

    def note(layer: "nn.Module", given: "tuple[Tensor, ...]") -> None:
        assert isinstance(layer, nn.Conv2d)
        name = names[layer]
        now = found.get(name)
        found[name] = _described(name, layer, given[0], 1 if now is None else now.calls + 1, layer is weighted[-1])

    hooks = [layer.register_forward_pre_hook(note) for layer in names]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *io.input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in names.values() if name in found]


def _described(name: str, layer: "nn.Conv2d", given: "Tensor", calls: int, last: bool) -> Convolution:
    def pair(values: tuple[int, ...]) -> tuple[int, int]:
        first, second = values
        return first, second

    padding = layer.padding if isinstance(layer.padding, str) else pair(layer.padding)
    shape = ConvolutionShape(
        layer.in_channels,
        layer.out_channels,
        pair(tuple(given.shape[-2:])),
        pair(layer.kernel_size),
        pair(layer.stride),
        padding,
        pair(layer.dilation),
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
    )
    return Convolution(name, shape, calls, last)
