"""Ridge regression on a space's features."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge as LinearModel

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import FittedState, Predictor
from nasplat.search_space import SearchSpace


class Ridge(Predictor):
    """Linear in the features.

    Args:
        space: Whose architectures are scored.
        alpha: The weight of the penalty.
    """

    name: ClassVar[str] = "demo_ridge"

    def __init__(self, space: SearchSpace, *, alpha: float = 1.0) -> None:
        super().__init__(space)
        self.alpha = alpha
        self.weights_: NDArray[np.float64] | None = None

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        model = LinearModel(alpha=self.alpha).fit(self._features(architectures), scores)
        self.weights_ = np.append(model.coef_, model.intercept_)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        if self.weights_ is None:
            raise InputError("this predictor is not fitted; call fit first")
        scores: NDArray[np.float64] = self._features(architectures) @ self.weights_[:-1] + self.weights_[-1]
        return scores

    def get_state(self) -> FittedState:
        if self.weights_ is None:
            raise InputError("this predictor is not fitted; call fit first")
        return FittedState(arrays={"weights": self.weights_})

    def set_state(self, state: FittedState) -> None:
        self.weights_ = state.arrays["weights"]

    def _features(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        return np.stack([self.space.features(a) for a in architectures])
