"""What a sampler gives, and the prior."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

Items = TypeVar("Items")
"""Draws: latent vectors `[n, dimensions]`, or a list of architectures."""

Score: TypeAlias = Callable[[Items], Tensor]
"""Gives how much training learns of each draw `[n]`, at least 0."""


@dataclass(frozen=True, slots=True)
class Drawn(Generic[Items]):
    """Draws and their weights.

    Args:
        items: The draws.
        weights: What the loss of each is multiplied by `[n]`; their mean over many draws is 1.
    """

    items: Items
    weights: Tensor


class Sampler(Protocol[Items]):
    """Draws what training sees next, and learns where to draw."""

    def sample(self, count: int) -> Drawn[Items]:
        """So many draws."""
        ...

    def fit(self, score: Callable[[Items], Tensor]) -> None:
        """Learn from scores of what the prior draws; after that, draws are others."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that goes on, by name, but for the generator of random numbers."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        ...


class Prior:
    """Draws from the standard normal distribution, all of weight 1.

    Args:
        dimensions: The dimensions of a draw.
        generator: Draws.
    """

    def __init__(self, dimensions: int, generator: torch.Generator) -> None:
        self.dimensions, self._generator = dimensions, generator

    def sample(self, count: int) -> Drawn[Tensor]:
        """So many draws."""
        items = torch.randn(count, self.dimensions, generator=self._generator)
        return Drawn(items, torch.ones(count))

    def fit(self, score: Score[Tensor]) -> None:
        """Nothing: the prior stays as it is."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing.

        Raises:
            ValueError: The state is of another sampler.
        """
        if state:
            raise ValueError(f"the prior has no state, but got {', '.join(sorted(state)[:3])}")
