"""Search spaces of generators."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.search_space import SearchSpace

if TYPE_CHECKING:
    from torch import nn

SAMPLES = "samples"
"""The role of an artifact with some samples of a generator: images `[n, channels, height, width]` of bytes, or points
`[n, dimensions]`."""


class GenerativeSpace(SearchSpace):
    """A search space of generators, which know how they are told from data.

    All networks of a space take latent vectors of `latents` numbers, so that they are exchanged without a change
    around them. A network may use the first few of these alone.
    """

    latents: ClassVar[int]
    """The dimensions of the latent vectors that every network takes."""

    @abstractmethod
    def used_latents(self, architecture: Architecture) -> int:
        """How many of the first dimensions of a latent vector the network uses."""

    @abstractmethod
    def discriminator(self, io: IO, like: Architecture | None = None) -> "nn.Module":
        """A new discriminator: samples `[batch, *io.sample_shape]` to logits `[batch, 1]`.

        Args:
            io: The shapes of the generator.
            like: The generator whose depth and widths it has, in reverse; None for one that is the same for all.
        """
