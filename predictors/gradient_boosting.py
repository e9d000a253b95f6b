"""Gradient boosting: small trees, each fitted to the residuals of those before it (Friedman, 2001, 2002)."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.predictor import FittedState
from nasplat.predictors.tabular import ProxyNames, TabularPredictor, unfitted
from nasplat.search_space import SearchSpace
from nasplat.surrogates.trees import Evaluate, Trees


class GradientBoosting(TabularPredictor):
    """Gradient-boosted trees of squared error, on scores made normal by rank.

    Args:
        space: The space of the architectures to score.
        trees: Number of trees.
        rate: The learning rate: the factor on the output of each tree.
        depth: Maximum depth of a tree.
        leaf: Minimum number of architectures in a leaf.
        share: The fraction of the features that each split chooses from.
        sample: The fraction of the architectures that each tree is fitted to.
        seed: The seed of samples and splits.
        linear: Whether the trees are fitted to the residuals of ridge regression on the same features, instead of the
            targets; by default where the roles of operations are not known.
        proxies: Zero-cost proxies to use as further features, such as ``[nwot, synflow]``; each architecture is then
            built, and run on noise, once in a process.
    """

    name: ClassVar[str] = "gradient_boosting"

    def __init__(
        self,
        space: SearchSpace,
        *,
        trees: int = 400,
        rate: float = 0.04,
        depth: int = 6,
        leaf: int = 3,
        share: float = 0.25,
        sample: float = 0.6,
        seed: int = 0,
        linear: bool | None = None,
        proxies: ProxyNames = (),
    ) -> None:
        super().__init__(space)
        self.trees = trees
        self.rate = rate
        self.depth = depth
        self.leaf = leaf
        self.share = share
        self.sample = sample
        self.seed = seed
        self.linear = linear
        self.proxies = tuple(proxies)
        self._trees: Trees | None = None
        self._evaluate: Evaluate | None = None

    def learn(self, features: NDArray[np.float32], targets: NDArray[np.float64]) -> None:
        from sklearn.ensemble import GradientBoostingRegressor

        model = GradientBoostingRegressor(
            n_estimators=self.trees,
            learning_rate=self.rate,
            max_depth=self.depth,
            min_samples_leaf=self.leaf,
            max_features=self.share,
            subsample=self.sample,
            init="zero",
            random_state=self.seed,
        ).fit(features, targets)  # their mean is 0, so boosting starts from 0
        grown = [tree.tree_ for tree in model.estimators_[:, 0]]
        self._become(Trees.of_sklearn(grown, lambda tree: self.rate * tree.value[:, :, 0]))

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        if self._evaluate is None:
            raise unfitted()
        features = self.table(architectures)
        return self.baseline(features) + self._evaluate(features)[:, 0]

    def get_trees(self) -> FittedState:
        if self._trees is None:
            raise unfitted()
        return FittedState(arrays=self._trees.arrays())

    def set_trees(self, state: FittedState) -> None:
        self._become(Trees.of_arrays(state.arrays))

    def _become(self, trees: Trees) -> None:
        self._trees, self._evaluate = trees, trees.evaluator(base=(0.0,))
