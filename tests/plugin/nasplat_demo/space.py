"""Perceptrons with two hidden layers."""

from typing import TYPE_CHECKING, ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.cost import Cost
from nasplat.nn import costs
from nasplat.search_space import Gene, GeneSpace

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (2, 4, 8, 16, 32)


class Perceptron(GeneSpace):
    """25 perceptrons: two hidden layers of one of five widths.

    Args:
        factor: Multiplies both widths.
    """

    name: ClassVar[str] = "demo_perceptron"
    genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(f"layer {i}", tuple(map(str, WIDTHS))) for i in (1, 2))

    def __init__(self, *, factor: int = 1) -> None:
        self.factor = factor

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        inputs, first, second = self._widths(architecture, io)
        return Cost.total(
            {
                "layer 1": costs.linear(inputs, first),
                "layer 2": costs.linear(first, second),
                "head": costs.linear(second, io.outputs),
            }
        )

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        from torch import nn

        inputs, first, second = self._widths(architecture, io)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, io.outputs),
        )

    def _widths(self, architecture: Architecture, io: IO) -> tuple[int, int, int]:
        channels, height, width = io.input_shape
        first, second = (self.factor * WIDTHS[choice] for choice in self.choices(architecture))
        return channels * height * width, first, second
