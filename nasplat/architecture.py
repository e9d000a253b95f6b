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
        outputs: The number of outputs, for classification the number of classes.
    """

    input_shape: tuple[int, ...]
    outputs: int

    @classmethod
    def image(cls, channels: int, side: int, outputs: int) -> Self:
        """Square images of `side` pixels."""
        return cls((channels, side, side), outputs)
