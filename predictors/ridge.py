"""Ridge regression on features, from which trees begin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PENALTIES = np.logspace(-1, 4, 16)
"""The candidates for the penalty; the one with the least error when each example is left out is used."""
FARTHEST = 5.0
"""Features are clipped at this number of deviations from the mean of the examples."""
NAMES = ("ridge mean", "ridge scale", "ridge weights", "ridge offset")


@dataclass(frozen=True)
class Ridge:
    """A linear model of standardized features.

    Args:
        mean: The mean of each feature over the examples, `[features]`.
        scale: The inverse deviation of each feature, `[features]`; 0 for a constant feature.
        weights: The weight of each feature in units of its deviation, `[features]`.
        offset: The value at the mean, `[1]`.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    offset: Floats

    @classmethod
    def fitted(cls, features: NDArray[np.float32], targets: Floats) -> tuple[Self, Floats]:
        """The model with the penalty of the least leave-one-out error, and these errors.

        Args:
            features: `[n, features]`.
            targets: `[n]`.

        Returns:
            The model, and for each example its target less what the model fitted to the others predicts, `[n]`.
        """
        from sklearn.linear_model import RidgeCV

        mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
        start = cls(mean, scale, np.zeros_like(mean), np.zeros(1))
        points = start._standardized(features)
        model = RidgeCV(PENALTIES, store_cv_results=True).fit(points, targets)
        residuals = targets - model.predict(points)
        squared = model.cv_results_[:, int(np.argmin(np.abs(PENALTIES - model.alpha_)))]
        left_out = np.sign(residuals) * np.sqrt(squared)  # leaving an example out enlarges its residual
        return cls(mean, scale, model.coef_, np.array([model.intercept_])), left_out

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self | None:
        """The model with the arrays of `arrays`; None if there are none."""
        if NAMES[0] not in arrays:
            return None
        found = [np.asarray(arrays[name], dtype=np.float64) for name in NAMES]
        shapes = [array.shape for array in found]
        if shapes != [shapes[0]] * 3 + [(1,)]:
            raise ValueError(f"the arrays of a linear model have shapes that do not fit: {shapes}")
        return cls(*found)

    def arrays(self) -> dict[str, Floats]:
        """Its arrays, by names that trees do not use."""
        return dict(zip(NAMES, (self.mean, self.scale, self.weights, self.offset), strict=True))

    def predict(self, features: NDArray[np.float32]) -> Floats:
        """The values of features `[n, features]`, `[n]`."""
        values: Floats = self._standardized(features) @ self.weights + self.offset
        return values

    def _standardized(self, features: NDArray[np.float32]) -> Floats:
        clipped: Floats = np.clip((features - self.mean) * self.scale, -FARTHEST, FARTHEST)
        return clipped
