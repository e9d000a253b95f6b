"""Ridge regression on a space's features."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge as LinearModel

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import Predictor
from nasplat.search_space import SearchSpace


class Ridge(Predictor):
    """Linear in the features.

    Args:
        space: Whose architectures are scored.
        alpha: The weight of the penalty.
    """

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
            raise InputError("this predictor has learnt nothing yet; call fit first")
        scores: NDArray[np.float64] = self._features(architectures) @ self.weights_[:-1] + self.weights_[-1]
        return scores

    def save(self, folder: Path) -> None:
        if self.weights_ is None:
            raise InputError("this predictor has learnt nothing yet; call fit first")
        folder.mkdir(parents=True)
        content = {"alpha": self.alpha, "weights": self.weights_.tolist()}
        (folder / "ridge.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, space: SearchSpace) -> Self:
        try:
            content = json.loads((folder / "ridge.json").read_text(encoding="utf-8"))
            predictor = cls(space, alpha=content["alpha"])
            predictor.weights_ = np.array(content["weights"])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder} holds no predictor of this kind: {error}") from error
        return predictor

    def _features(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        return np.stack([self.space.features(a) for a in architectures])
