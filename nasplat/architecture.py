"""One member of a search space, and the interface of the network it becomes."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, order=True)
class Architecture:
    """One member of a search space: what is stored, looked up, priced, built and exported.

    Make one with `SearchSpace.parse` or `SearchSpace.sample`, which guarantee membership.

    Args:
        space: The registered name of the search space.
        code: The genotype as a short string of printable ASCII without white space.
    """

    space: str
    code: str

    def __str__(self) -> str:
        return f"{self.space}:{self.code}"


@dataclass(frozen=True, slots=True)
class IO:
    """What a data set asks of a network.

    Args:
        input_shape: One example's shape without the batch; ``(channels, height, width)`` for images.
        outputs: The number of outputs, for classification the number of classes, for pictures of channels.
        scale: How many times higher and wider than what comes in is the picture that comes out; None where what
            comes out is no picture but numbers. Such networks take pictures of any size; the one here is what costs
            are of.
    """

    input_shape: tuple[int, ...]
    outputs: int
    scale: int | None = None

    @classmethod
    def image(cls, channels: int, side: int, outputs: int) -> Self:
        """Square images of `side` pixels."""
        return cls((channels, side, side), outputs)

    @classmethod
    def upscaled(cls, height: int, width: int, scale: int, channels: int = 3) -> Self:
        """Pictures of `height` times `width` pixels, to be made `scale` times as high and wide."""
        return cls((channels, height, width), channels, scale)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """What comes out for one example: ``(outputs,)``, or ``(outputs, height, width)`` for a picture."""
        if self.scale is None:
            return (self.outputs,)
        _, height, width = self.input_shape
        return self.outputs, self.scale * height, self.scale * width
