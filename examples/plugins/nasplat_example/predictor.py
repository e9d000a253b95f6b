"""A predictor: how it is fitted, how it scores architectures, and its fitted state for saving."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nasplat import Architecture, InputError, Predictor, SearchSpace
from nasplat.predictor import FittedState


class Nearest(Predictor):
    """The score of the nearest architecture that was measured, by the space's features."""

    name: ClassVar[str] = "example_nearest"

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.scores_: NDArray[np.float64] | None = None

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        self.features_ = self._features(architectures)
        self.scores_ = np.asarray(scores, dtype=np.float64)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        if self.scores_ is None:
            raise InputError("this predictor is not fitted yet; call fit first")
        distances = ((self._features(architectures)[:, None] - self.features_) ** 2).sum(axis=2)
        found: NDArray[np.float64] = self.scores_[distances.argmin(axis=1)]
        return found

    def get_state(self) -> FittedState:
        if self.scores_ is None:
            raise InputError("this predictor is not fitted yet; call fit first")
        return FittedState(arrays={"features": self.features_, "scores": self.scores_})

    def set_state(self, state: FittedState) -> None:
        self.features_, self.scores_ = state.arrays["features"], state.arrays["scores"]

    def _features(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        return np.stack([self.space.features(architecture).ravel() for architecture in architectures])
