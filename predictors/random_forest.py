"""Random forests: the mean of many trees, each fitted to its own sample (Breiman, 2001)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.predictor import FittedState, UncertainPredictor
from nasplat.predictors.tabular import ProxyNames, TabularPredictor, unfitted
from nasplat.search_space import SearchSpace
from nasplat.surrogates.trees import Evaluate, Trees


class RandomForest(TabularPredictor, UncertainPredictor):
    """Random forest with a deviation, on scores made normal by rank.

    The deviation has two parts: the deviation between trees, and the deviation of scores within a leaf (Hutter et
    al., 2014, "Algorithm runtime prediction", sec. 4.3.2). Both are in the unit of normal scores. With `linear` they
    are those of the errors of ridge regression on examples that it was not fitted to.

    Args:
        space: The space of the architectures to score.
        trees: Number of trees.
        leaf: Minimum number of architectures in a leaf.
        share: The fraction of the features that each split chooses from.
        extra: Whether to use extremely randomized trees (Geurts et al., 2006): each feature's threshold is random, on
            all architectures, instead of the best on a bootstrap sample.
        seed: The seed of samples and splits.
        linear: Whether the trees are fitted to the residuals of ridge regression on the same features, instead of the
            targets.
        proxies: Zero-cost proxies to use as further features, such as ``[nwot, synflow]``; each architecture is then
            built, and run on noise, once in a process.
    """

    name: ClassVar[str] = "random_forest"
    leaves_out: ClassVar[bool] = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        trees: int = 100,
        leaf: int = 1,
        share: float = 0.33,
        extra: bool = False,
        seed: int = 0,
        linear: bool = True,
        proxies: ProxyNames = (),
    ) -> None:
        super().__init__(space)
        self.trees = trees
        self.leaf = leaf
        self.share = share
        self.extra = extra
        self.seed = seed
        self.linear = linear
        self.proxies = tuple(proxies)
        self._trees: Trees | None = None
        self._evaluate: Evaluate | None = None

    def learn(self, features: NDArray[np.float32], targets: NDArray[np.float64]) -> None:
        from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

        kind = ExtraTreesRegressor if self.extra else RandomForestRegressor
        forest = kind(self.trees, min_samples_leaf=self.leaf, max_features=self.share, n_jobs=1, random_state=self.seed)
        forest.fit(features, targets)
        self._become(Trees.of_sklearn([tree.tree_ for tree in forest.estimators_], self._moments))

    def predict_with_deviation(
        self, architectures: Sequence[Architecture]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._evaluate is None:
            raise unfitted()
        features = self.table(architectures)
        first, second = self._evaluate(features).T
        return self.baseline(features) + first, np.sqrt(np.maximum(second - first**2, 0))

    def get_trees(self) -> FittedState:
        if self._trees is None:
            raise unfitted()
        return FittedState(arrays=self._trees.arrays())

    def set_trees(self, state: FittedState) -> None:
        self._become(Trees.of_arrays(state.arrays))

    def _moments(self, tree: Any) -> NDArray[np.float64]:
        """The values that a tree adds to the forest's mean and to its mean square, including the variance in leaves."""
        mean = tree.value[:, 0, 0]
        return np.stack([mean, mean**2 + tree.impurity], axis=1) / self.trees

    def _become(self, trees: Trees) -> None:
        self._trees, self._evaluate = trees, trees.evaluator(base=(0.0, 0.0))
