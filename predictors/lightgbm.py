"""Gradient boosting by LightGBM: histograms and leaf-wise growth, best split first (Ke et al., 2017)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import FittedState
from nasplat.predictors.tabular import ProxyNames, TabularPredictor, unfitted
from nasplat.search_space import SearchSpace

if TYPE_CHECKING:
    from lightgbm import Booster

THREADS = 2


class LightGBM(TabularPredictor):
    """LightGBM on scores made normal by rank; needs the extra `lightgbm`.

    Args:
        space: The space of the architectures to score.
        trees: Number of trees.
        rate: The learning rate: the factor on the output of each tree.
        leaves: Maximum number of leaves of a tree.
        leaf: Minimum number of architectures in a leaf.
        share: The fraction of the features that each tree uses.
        sample: The fraction of the architectures that each tree is fitted to.
        seed: The seed of the samples.
        linear: Whether the trees are fitted to the residuals of ridge regression on the same features, instead of the
            targets; by default where the roles of operations are not known.
        proxies: Zero-cost proxies to use as further features, such as ``[nwot, synflow]``; each architecture is then
            built, and run on noise, once in a process.
    """

    name: ClassVar[str] = "lightgbm"

    def __init__(
        self,
        space: SearchSpace,
        *,
        trees: int = 400,
        rate: float = 0.04,
        leaves: int = 31,
        leaf: int = 5,
        share: float = 0.3,
        sample: float = 0.6,
        seed: int = 0,
        linear: bool | None = None,
        proxies: ProxyNames = (),
    ) -> None:
        super().__init__(space)
        self.trees = trees
        self.rate = rate
        self.leaves = leaves
        self.leaf = leaf
        self.share = share
        self.sample = sample
        self.seed = seed
        self.linear = linear
        self.proxies = tuple(proxies)
        self._booster: Booster | None = None
        self._text = ""

    def learn(self, features: NDArray[np.float32], targets: NDArray[np.float64]) -> None:
        lightgbm = _lightgbm()
        options = {
            "objective": "regression",
            "boost_from_average": False,  # the mean is 0
            "learning_rate": self.rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.leaf,
            "min_sum_hessian_in_leaf": 0.0,
            "min_data_in_bin": 1,
            "feature_fraction": self.share,
            "bagging_fraction": self.sample,
            "bagging_freq": 1,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        data = lightgbm.Dataset(features, targets, params=options)
        self._become(lightgbm.train(options, data, num_boost_round=self.trees).model_to_string())

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        if self._booster is None:
            raise unfitted()
        features = self.table(architectures)
        grown = np.asarray(self._booster.predict(features, num_threads=THREADS), dtype=np.float64)
        return self.baseline(features) + grown

    def get_trees(self) -> FittedState:
        if self._booster is None:
            raise unfitted()
        return FittedState({"model": self._text})

    def set_trees(self, state: FittedState) -> None:
        self._become(str(state.values["model"]))

    def _become(self, text: str) -> None:
        """Predict from the model text alone, so that a saved predictor equals the fitted one."""
        lightgbm = _lightgbm()
        try:
            self._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(f"LightGBM cannot read its model: {error}") from error
        self._text = text


def _lightgbm() -> Any:
    """Import the library, if it is installed."""
    try:
        import lightgbm
    except ImportError as error:
        raise InputError(
            "the predictor lightgbm needs the package lightgbm, which is not installed; "
            "install it with: pip install 'nasplat[lightgbm]'"
        ) from error
    return lightgbm
