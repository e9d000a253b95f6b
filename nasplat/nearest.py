"""Listed members by their distance from an architecture that is not among them."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.search_space import SearchSpace


class Nearest:
    """The members of a list, the nearest first.

    The distance is the sum of absolute differences of `SearchSpace.features`: with genes, twice the number of active
    genes that differ, and 1 for each gene that is active in one of both only.

    Args:
        space: The search space.
        members: The listed members.
    """

    def __init__(self, space: SearchSpace, members: Sequence[Architecture]) -> None:
        self._space = space
        self._members = members
        self._features: NDArray[np.float32] = np.array([self._row(member) for member in members])

    def __call__(self, architecture: Architecture, rng: Generator) -> Iterator[Architecture]:
        """All members, the nearest first; members at the same distance in random order."""
        distances = np.abs(self._features - self._row(architecture)).sum(axis=1)
        for i in np.lexsort((rng.random(len(distances)), distances)):
            yield self._members[int(i)]

    def _row(self, architecture: Architecture) -> NDArray[np.float32]:
        return self._space.features(architecture).ravel().astype(np.float32)
