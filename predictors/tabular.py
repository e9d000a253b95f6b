"""Base class of predictors whose trees are fitted to a table: one row of features for each architecture."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Self, TypeAlias

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from pydantic import AfterValidator

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.errors import InputError
from nasplat.graph import Role
from nasplat.predictor import FittedState, Predictor, checked_scores
from nasplat.predictors.proxy_features import proxy_features, proxy_names
from nasplat.predictors.ridge import Ridge
from nasplat.target import NormalScores, normal_scores

FEWEST = 2

ProxyNames: TypeAlias = Annotated[tuple[str, ...], AfterValidator(proxy_names)]
"""The option of these predictors that names the zero-cost proxies among their features."""


class TabularPredictor(Predictor):
    """Turns architectures into rows of features, and scores into normal scores; a subclass fits trees to these targets.

    Trees are constant beyond the examples and need many splits for a sum. So by default they are fitted to what ridge
    regression on the same features leaves over: a regression-enhanced forest (Zhang, Nettleton and Zhu, 2019,
    arXiv:1904.10416).

    Attributes:
        linear: Whether the trees are fitted to the residuals of ridge regression, instead of the targets; None if they
            are where the roles of operations are not known.
        proxies: The names of the zero-cost proxies that are further features.
    """

    linear: bool | None = True
    proxies: tuple[str, ...] = ()
    leaves_out: ClassVar[bool] = False
    """Whether the trees are fitted to errors on examples that are left out; needed for a deviation."""
    _ridge: Ridge | None = None

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        scores = checked_scores(self.name, architectures, scores, FEWEST)
        features, targets = self.table(architectures), normal_scores(scores)
        if self._begins_linear():
            self._ridge, left_out = Ridge.fitted(features, targets)
            residuals = left_out if self.leaves_out else targets - self.baseline(features)
        else:
            self._ridge, residuals = None, targets
        self.learn(features, residuals)
        self.target_transform = NormalScores.of(scores)
        return self

    def table(self, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
        """`Encodings.features` of each architecture, and its zero-cost proxies if any: `[n, features]`."""
        features = Encodings.of(self.space, architectures).features.astype(np.float32)
        if not self.proxies:
            return features
        return np.concatenate([features, proxy_features(self.space, architectures, self.proxies)], axis=1)

    def _begins_linear(self) -> bool:
        if self.linear is not None:
            return self.linear
        operations = self.space.graphs([self.space.sample(default_rng(0))]).operations
        return any(operation.role is Role.OTHER for operation in operations)

    def baseline(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """What trees add to, `[n]`: the values of ridge regression, or zeros."""
        return np.zeros(len(features)) if self._ridge is None else self._ridge.predict(features)

    def get_state(self) -> FittedState:
        state = self.get_trees()
        return state if self._ridge is None else FittedState(state.values, {**state.arrays, **self._ridge.arrays()})

    def set_state(self, state: FittedState) -> None:
        self._ridge = Ridge.of_arrays(state.arrays)  # earlier versions had none
        self.linear = self._ridge is not None
        self.set_trees(state)

    @abstractmethod
    def learn(self, features: NDArray[np.float32], targets: NDArray[np.float64]) -> None:
        """Fit trees to targets `[n]` of features `[n, features]`."""

    @abstractmethod
    def get_trees(self) -> FittedState:
        """The fitted trees.

        Raises:
            InputError: There are none yet.
        """

    @abstractmethod
    def set_trees(self, state: FittedState) -> None:
        """Restore what `get_trees` gave; the state may have further arrays."""


def unfitted() -> InputError:
    """The error for a predictor that is not fitted."""
    return InputError("this predictor is not fitted; call fit first")
