"""Search spaces whose networks are sequences of blocks."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.search_space import SearchSpace

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Block:
    """One of the blocks that a network runs in sequence.

    Args:
        kind: Its type without its widths, and the side of its input, such as ``expand ghost 2 3 at 16``. Blocks of
            one kind with equal widths take the same time at any position.
        widths: Its numbers of channels, input channels first.
        make: Makes the block with any weights; its input is `[batch, *input_shape]`.
        input_shape: The input shape of one example.
    """

    kind: str
    widths: tuple[int, ...]
    make: "Callable[[], nn.Module]"
    input_shape: tuple[int, ...]


class BlockSpace(SearchSpace):
    """A search space whose networks are sequences of blocks, so that a table of blocks gives a network's latency."""

    untimed: ClassVar[frozenset[str]] = frozenset()
    """Options without an effect in evaluation mode, such as dropout; one table is valid for all their values."""

    @abstractmethod
    def blocks(self, architecture: Architecture, io: IO) -> list[Block]:
        """The blocks of the architecture's network, in order; every parameter is in one of them."""
