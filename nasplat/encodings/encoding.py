"""Encodings of architectures, computed once and shared by all predictors."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, wraps
from typing import ClassVar, TypeVar, overload

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.encodings.features import CHUNK, describe
from nasplat.encodings.pruned_graph import PrunedGraphs
from nasplat.encodings.weisfeiler_lehman import Hashes, hashed
from nasplat.errors import InputError
from nasplat.graph import Graphs, Role
from nasplat.search_space import SearchSpace

T = TypeVar("T")


def _computed(compute: Callable[["Encodings"], T]) -> cached_property[T]:
    """A property that is computed once, and for a view on the whole."""

    @wraps(compute)
    def get(encodings: "Encodings") -> T:
        if encodings._whole is None:
            return compute(encodings)
        whole, chosen = encodings._whole
        found: T = getattr(whole, compute.__name__)[chosen]
        return found

    return cached_property(get)


class Encodings(Sequence[Architecture]):
    """Architectures with their graphs, features and Weisfeiler-Lehman hashes, each computed at its first use.

    It can be used as a sequence of architectures. Predictors that are given the same object share its results.

    Args:
        space: Their search space.
        architectures: The architectures.
    """

    COMPUTED: ClassVar[frozenset[str]] = frozenset({"graphs", "description", "features", "hashes"})

    def __init__(self, space: SearchSpace, architectures: Sequence[Architecture]) -> None:
        self.space = space
        self.architectures = architectures
        self._whole: tuple[Encodings, NDArray[np.intp]] | None = None

    @classmethod
    def of(cls, space: SearchSpace, architectures: Sequence[Architecture]) -> "Encodings":
        """The argument itself if it is an `Encodings`, or a new one."""
        if isinstance(architectures, Encodings) and architectures.space is space:
            return architectures
        return cls(space, architectures)

    @_computed
    def graphs(self) -> Graphs:
        """As `SearchSpace.graphs`."""
        return self.space.graphs(self.architectures)

    @_computed
    def description(self) -> NDArray[np.float64]:
        """As `nasplat.encodings.features.describe`, `[n, features]`."""
        return describe(self.graphs)

    @_computed
    def features(self) -> NDArray[np.float64]:
        """The description, `[n, features]`; with the space's own features if it has little information on operations.

        The space's own features are added if the space gives only the names of operations. Otherwise they would add
        noise, since they differ between codes of one network.
        """
        if all(operation.role is not Role.OTHER for operation in self.graphs.operations):
            return self.description
        width = self.space.features(self.space.sample(default_rng(0))).size  # even if there are no architectures
        own = np.array([self.space.features(a).ravel() for a in self.architectures]).reshape(-1, width)
        if not np.isfinite(own).all():
            architecture = self.architectures[int(np.argmin(np.isfinite(own).all(axis=1)))]
            raise InputError(f"the features of {architecture} must be finite, but are not; correct {self.space.name}")
        return np.concatenate([self.description, own], axis=1)

    @_computed
    def hashes(self) -> Hashes:
        """As `nasplat.encodings.weisfeiler_lehman.hashed`, `[n, nodes, 4]`."""
        parts = [self.graphs[start : start + CHUNK] for start in range(0, len(self), CHUNK)] or [self.graphs]
        return np.concatenate([hashed(PrunedGraphs.of(part)) for part in parts])

    def take(self, chosen: NDArray[np.intp]) -> "Encodings":
        """The architectures at the given indices `[m]`, with what has been computed already."""
        taken = Encodings(self.space, [self.architectures[int(i)] for i in chosen])
        for name in self.COMPUTED & vars(self).keys():
            vars(taken)[name] = vars(self)[name][chosen]
        return taken

    def view(self, chosen: NDArray[np.intp]) -> "Encodings":
        """The architectures at the given indices `[m]`; what they need is computed for all, once for all views."""
        view = Encodings(self.space, [self.architectures[int(i)] for i in chosen])
        view._whole = self, chosen
        return view

    def chunks(self, size: int) -> Iterator["Encodings"]:
        """Slices of at most `size`; the object itself, if it is not larger. Those of a view are views."""
        if len(self) <= size:
            yield self
            return
        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            yield self.view(rows) if self._whole else self.take(rows)

    def __len__(self) -> int:
        return len(self.architectures)

    @overload
    def __getitem__(self, index: int) -> Architecture: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Architecture]: ...
    def __getitem__(self, index: int | slice) -> Architecture | Sequence[Architecture]:
        return self.architectures[index]
