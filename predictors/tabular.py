"""Base class of predictors that are fitted to a table: one row of features for each architecture."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.errors import InputError
from nasplat.predictor import Predictor, checked_scores
from nasplat.predictors.proxy_features import proxy_features, proxy_names
from nasplat.target import NormalScores, normal_scores

FEWEST = 2

ProxyNames: TypeAlias = Annotated[tuple[str, ...], AfterValidator(proxy_names)]
"""The option of these predictors that names the zero-cost proxies among their features."""


class TabularPredictor(Predictor):
    """Turns architectures into rows of features, and scores into normal scores; a subclass fits these targets.

    Attributes:
        proxies: The names of the zero-cost proxies that are further features.
    """

    proxies: tuple[str, ...] = ()

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        scores = checked_scores(self.name, architectures, scores, FEWEST)
        self.learn(self.table(architectures), normal_scores(scores))
        self.target_transform = NormalScores.of(scores)
        return self

    def table(self, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
        """`Encodings.features` of each architecture, and its zero-cost proxies if any: `[n, features]`."""
        features = Encodings.of(self.space, architectures).features.astype(np.float32)
        if not self.proxies:
            return features
        return np.concatenate([features, proxy_features(self.space, architectures, self.proxies)], axis=1)

    @abstractmethod
    def learn(self, features: NDArray[np.float32], targets: NDArray[np.float64]) -> None:
        """Fit normal scores `[n]` to features `[n, features]`."""


def unfitted() -> InputError:
    """The error for a predictor that is not fitted."""
    return InputError("this predictor is not fitted; call fit first")
