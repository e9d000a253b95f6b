"""A search space: its genes, the cost of a member, and the network of a member."""

from typing import TYPE_CHECKING, ClassVar

from nasplat import IO, Architecture, Cost, Gene, GeneSpace
from nasplat.nn import costs

if TYPE_CHECKING:
    from torch import nn

WIDTHS = ("4", "8", "16", "32")


class MLP(GeneSpace):
    """Perceptrons with two hidden layers of one of four widths: 16 members."""

    name: ClassVar[str] = "example_mlp"
    genes: ClassVar[tuple[Gene, ...]] = (Gene("first width", WIDTHS), Gene("second width", WIDTHS))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        inputs, first, second = self._widths(architecture, io)
        layers = {"first": (inputs, first), "second": (first, second), "head": (second, io.outputs)}
        return Cost.total({name: costs.linear(*widths) for name, widths in layers.items()})

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        from torch import nn

        inputs, first, second = self._widths(architecture, io)
        hidden = (nn.Linear(inputs, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(second, io.outputs))

    def _widths(self, architecture: Architecture, io: IO) -> tuple[int, int, int]:
        channels, height, width = io.input_shape
        first, second = (int(WIDTHS[choice]) for choice in self.choices(architecture))
        return channels * height * width, first, second
