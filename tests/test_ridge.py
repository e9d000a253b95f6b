"""Ridge regression, from which trees begin: its errors, its arrays, and what it is for."""

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray
from sklearn.linear_model import Ridge as SklearnRidge

from nasplat.architecture import IO, Architecture
from nasplat.cost import Cost
from nasplat.predictor import Predictor, UncertainPredictor
from nasplat.predictors.ridge import PENALTIES, Ridge
from nasplat.predictors.tabular import TabularPredictor
from nasplat.registry import PREDICTORS, SEARCH_SPACES
from nasplat.search_space import Gene, GeneSpace
from nasplat.surrogates.ranking_metrics import kendall_tau
from nasplat.target import normal_scores

Floats = NDArray[np.float64]


class Sums(GeneSpace):
    """Eight genes whose effects add up."""

    builds = False
    genes = tuple(Gene(f"part {i}", ("a", "b", "c", "d")) for i in range(8))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        return Cost(counted=False)

    def build(self, architecture: Architecture, io: IO) -> Any:
        raise NotImplementedError


def summed(count: int, seed: int) -> tuple[Sums, list[Architecture], Floats]:
    space, rng = Sums(), default_rng(seed)
    effects = rng.standard_normal((8, 4))
    members = [space.sample(rng) for _ in range(count)]
    worth = np.array([effects[np.arange(8), space.choices(a)].sum() for a in members])
    return space, members, worth + 0.5 * rng.standard_normal(count)


def test_errors_are_those_of_models_that_did_not_see_the_example() -> None:
    rng = default_rng(0)
    features = rng.standard_normal((20, 5)).astype(np.float32)
    targets = features @ np.arange(5.0) + rng.standard_normal(20)
    model, errors = Ridge.fitted(features, targets)
    points = (features - model.mean) * model.scale

    def by_hand(penalty: float) -> Floats:
        found = []
        for i in range(20):
            others = np.arange(20) != i
            fitted = SklearnRidge(penalty).fit(points[others], targets[others])
            found.append(targets[i] - fitted.predict(points[i : i + 1])[0])
        return np.array(found)

    best = min(PENALTIES, key=lambda penalty: (by_hand(penalty) ** 2).sum())
    assert errors == pytest.approx(by_hand(best), abs=1e-6)
    assert model.predict(features) == pytest.approx(SklearnRidge(best).fit(points, targets).predict(points))


def test_constant_features_have_no_effect_and_arrays_give_the_model_back() -> None:
    rng = default_rng(1)
    features = rng.standard_normal((12, 3)).astype(np.float32)
    features[:, 1] = 7.0
    model, _ = Ridge.fitted(features, features[:, 0].astype(np.float64))
    other = features.copy()
    other[:, 1] = -1e6
    np.testing.assert_array_equal(model.predict(other), model.predict(features))
    again = Ridge.of_arrays(model.arrays())
    assert again is not None
    np.testing.assert_array_equal(again.predict(features), model.predict(features))
    assert Ridge.of_arrays({}) is None
    with pytest.raises(ValueError, match="shapes that do not fit"):
        Ridge.of_arrays({**model.arrays(), "ridge weights": np.zeros(2)})


def test_without_roles_boosting_begins_with_ridge_regression() -> None:
    for space, linear in ((Sums(), True), (SEARCH_SPACES.get("nasbench201")(), False)):
        rng = default_rng(0)
        members = [space.sample(rng) for _ in range(6)]
        kind: Any = PREDICTORS.get("gradient_boosting")
        made = kind(space, trees=2)
        made.fit(members, np.arange(6.0))
        assert made.linear is None and (made._ridge is not None) is linear
        assert isinstance(made, TabularPredictor)
        made.set_state(made.get_state())
        assert made.linear is linear


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "less"),
    [
        ("random_forest", 0.03),
        ("gradient_boosting", 0.03),
        ("gaussian_process", 0.03),
        ("isotropic_gaussian_process", 0.06),  # its target emphasizes the best; the peer's scores are the sums
    ],
)
def test_a_sum_of_effects_is_ranked_nearly_as_by_a_process_on_one_hot_genes(name: str, less: float) -> None:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    taus: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in range(3):
        space, members, scores = summed(380, seed)
        rows = np.array([space.features(each) for each in members])
        kernel = ConstantKernel() * Matern(3.0, nu=2.5) + WhiteKernel(0.1)
        peer = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of a noise at its bound
            peer.fit(rows[:80], scores[:80])
        made: Predictor = PREDICTORS.get(name)(space)
        taus["ours"].append(kendall_tau(made.fit(members[:80], scores[:80]).predict(members[80:]), scores[80:]))
        taus["peer"].append(kendall_tau(peer.predict(rows[80:]), scores[80:]))
    assert np.mean(taus["ours"]) > np.mean(taus["peer"]) - less, taus


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 50, 100])
def test_deviations_of_a_forest_are_as_large_as_its_errors(count: int) -> None:
    ratios = []
    for seed in range(3):
        space, members, scores = summed(count + 300, seed)
        forest: Any = PREDICTORS.get("random_forest")(space)
        assert isinstance(forest, UncertainPredictor)
        mean, deviation = forest.fit(members[:count], scores[:count]).predict_with_deviation(members[count:])
        errors = np.interp(scores[count:], np.sort(scores[:count]), np.sort(normal_scores(scores[:count]))) - mean
        ratios.append(float(np.sqrt(np.mean(errors**2)) / deviation.mean()))
    assert 0.5 < np.mean(ratios) < 2, ratios
