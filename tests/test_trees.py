"""Trees as arrays decide as the libraries that grew them, and the predictors made of them rank real cells."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor, RandomForestRegressor

from nasplat.encodings.features import describe
from nasplat.errors import InputError
from nasplat.predictor import Predictor, UncertainPredictor
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES
from nasplat.surrogates.ranking_metrics import kendall_tau
from nasplat.surrogates.trees import ROWS, Trees, rounded_down
from nasplat.testing.toy import ToySpace, toy_accuracy

NAMES = ["random_forest", "gradient_boosting", "lightgbm"]


def predictor(name: str, **options: Any) -> Predictor:
    """A predictor for the toy space."""
    if name == "lightgbm":
        pytest.importorskip("lightgbm")
    make: Callable[..., Predictor] = PREDICTORS.get(name)
    return make(ToySpace(), **options)


def mean(trees: int) -> Callable[[Any], NDArray[np.float64]]:
    """What a tree adds to the mean of so many."""
    return lambda tree: tree.value[:, :, 0] / trees


def reals(n: int = 400, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Features of which many are neighbors in single precision, and something to learn."""
    rng = default_rng(seed)
    features = rng.normal(size=(n, 6)).astype(np.float32)
    features[:, 1] = 1024 * (1 + rng.integers(0, 5, size=n) * np.finfo(np.float32).eps)
    features[:, 2] = rng.integers(0, 4, size=n) / np.float32(3)
    return features, np.sin(3 * features[:, 0]) + 1e3 * (features[:, 1] - 1024) + features[:, 2] * features[:, 3]


def by_hand(trees: Trees, row: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sum over trees, walked one by one."""
    total = np.zeros(trees.value.shape[1])
    for start in trees.starts:
        node = 0
        while trees.feature[start + node] >= 0:
            at = start + node
            node = trees.left[at] if row[trees.feature[at]] <= trees.threshold[at] else trees.right[at]
        total += trees.value[start + node]
    return total


def test_rounding_down_never_exceeds_and_misses_nothing_between() -> None:
    rng = default_rng(0)
    numbers = np.concatenate([rng.normal(size=1000), [0.0, 1.0, -1.0, 0.1, 1 / 3, 16777217.0, -16777217.0]])
    down = rounded_down(numbers)
    assert down.dtype == np.float32
    assert (down.astype(np.float64) <= numbers).all()
    assert (np.nextafter(down, np.float32(np.inf)).astype(np.float64) > numbers).all()


@pytest.mark.parametrize("kind", [RandomForestRegressor, ExtraTreesRegressor])
def test_forests_predict_as_scikit_learn_does(kind: Any) -> None:
    features, targets = reals()
    model = kind(30, random_state=0).fit(features, targets)
    trees = Trees.of_sklearn([tree.tree_ for tree in model.estimators_], mean(30))
    fresh = np.concatenate([features, reals(seed=1)[0]])
    np.testing.assert_allclose(trees.evaluator([0.0])(fresh)[:, 0], model.predict(fresh), atol=1e-6)


def test_thresholds_between_neighbors_in_single_precision_are_kept_apart() -> None:
    low = np.float32(1024)
    high = np.nextafter(low, np.float32(2048))
    higher = np.nextafter(high, np.float32(2048))
    # The middle of the last two rounds up, to the number that is to go right.
    features = np.array([[low], [high], [higher]] * 5, dtype=np.float32)
    model = RandomForestRegressor(1, bootstrap=False, random_state=0).fit(features, features[:, 0] > high)
    (threshold,) = {t for t in model.estimators_[0].tree_.threshold if t > 0}
    assert np.float32(threshold) == higher
    trees = Trees.of_sklearn([model.estimators_[0].tree_], mean(1))
    assert trees.evaluator([0.0])(features[:3]).ravel().tolist() == [0.0, 0.0, 1.0]


def test_boosting_predicts_as_scikit_learn_does() -> None:
    features, targets = reals()
    model = GradientBoostingRegressor(n_estimators=80, random_state=0).fit(features, targets)
    trees = Trees.of_sklearn(
        [tree.tree_ for tree in model.estimators_[:, 0]], lambda tree: model.learning_rate * tree.value[:, :, 0]
    )
    found = trees.evaluator([float(model.init_.constant_.item())])(features)[:, 0]
    np.testing.assert_allclose(found, model.predict(features), atol=1e-5)


@pytest.mark.slow
def test_a_row_is_evaluated_the_same_alone_in_company_and_by_hand() -> None:
    features, targets = reals()
    model = RandomForestRegressor(100, random_state=0).fit(features, targets)
    trees = Trees.of_sklearn(
        [tree.tree_ for tree in model.estimators_], lambda tree: np.stack([tree.value[:, 0, 0], tree.impurity], axis=1)
    )
    many = reals(2 * ROWS + 7, seed=2)[0]
    evaluate = trees.evaluator([1.0, -2.0])
    together = evaluate(many)
    assert together.shape == (len(many), 2)
    for i in (0, 1, ROWS - 1, ROWS, 2 * ROWS + 6):
        assert np.array_equal(evaluate(many[i : i + 1])[0], together[i])
        np.testing.assert_allclose(together[i], by_hand(trees, many[i]) + np.array([1.0, -2.0]), rtol=1e-5, atol=1e-5)


def test_arrays_that_are_no_trees_are_refused() -> None:
    features, targets = reals(60)
    model = RandomForestRegressor(3, random_state=0).fit(features, targets)
    sound = Trees.of_sklearn([tree.tree_ for tree in model.estimators_], mean(3)).arrays()
    Trees.of_arrays(sound)
    circle = {**sound, "left": np.zeros_like(sound["left"])}
    outside = {**sound, "right": sound["right"] + 1000}
    short = {**sound, "threshold": sound["threshold"][:-1]}
    late = {**sound, "starts": sound["starts"] + 1}
    endless = {**sound, "value": sound["value"] * np.float32(np.inf)}
    for broken in (circle, outside, short, late, endless):
        with pytest.raises(ValueError):
            Trees.of_arrays(broken)
    with pytest.raises(KeyError):
        Trees.of_arrays({name: array for name, array in sound.items() if name != "starts"})


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_predictor_predicts_exactly_the_same(name: str, tmp_path: Path) -> None:
    space, rng = ToySpace(), default_rng(0)
    architectures = [space.sample(rng) for _ in range(80)]
    fitted = predictor(name).fit(architectures, np.array([toy_accuracy(a) for a in architectures]))
    fitted.save(tmp_path / "saved")
    loaded = type(fitted).load(tmp_path / "saved", space)
    assert np.array_equal(loaded.predict(architectures), fitted.predict(architectures))
    if isinstance(fitted, UncertainPredictor) and isinstance(loaded, UncertainPredictor):
        for a, b in zip(
            loaded.predict_with_deviation(architectures), fitted.predict_with_deviation(architectures), strict=True
        ):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_or_equal_scores_break_nothing(name: str) -> None:
    space, rng = ToySpace(), default_rng(0)
    architectures = [space.sample(rng) for _ in range(5)]
    with pytest.raises(InputError, match="at least 2"):
        predictor(name).fit(architectures[:1], np.ones(1))
    assert np.ptp(predictor(name).fit(architectures, np.ones(5)).predict(architectures)) == 0
    assert np.isfinite(predictor(name).fit(architectures[:2], np.arange(2.0)).predict(architectures)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_trees_learn_an_order_and_no_distances(name: str) -> None:
    space, rng = ToySpace(), default_rng(0)
    architectures = [space.sample(rng) for _ in range(60)]
    scores = np.array([toy_accuracy(a) for a in architectures])
    plain, bent = predictor(name).fit(architectures, scores), predictor(name).fit(architectures, np.exp(9 * scores))
    assert np.array_equal(plain.predict(architectures), bent.predict(architectures))


@pytest.mark.parametrize("extra", [True, False])
def test_the_deviation_is_that_of_all_leaves(extra: bool) -> None:
    space, rng = ToySpace(), default_rng(0)
    architectures = [space.sample(rng) for _ in range(80)]
    scores = 50 + 10 * np.array([toy_accuracy(a) for a in architectures]) + rng.normal(size=80)
    forest = predictor("random_forest", trees=40, leaf=5, extra=extra, linear=False).fit(architectures, scores)
    assert isinstance(forest, UncertainPredictor)
    fresh = [space.sample(rng) for _ in range(50)]
    found, deviation = forest.predict_with_deviation(fresh)
    kind = ExtraTreesRegressor if extra else RandomForestRegressor
    model = kind(40, min_samples_leaf=5, max_features=forest.options()["share"], random_state=0)
    table, rows = (
        np.hstack([describe(space.graphs(each)), [space.features(a) for a in each]]).astype(np.float32)
        for each in (architectures, fresh)
    )
    model.fit(table, norm.ppf((rankdata(scores) - 0.375) / 80.25))  # Blom's approximation
    means = np.stack([tree.predict(rows) for tree in model.estimators_])
    noise = np.stack([tree.tree_.impurity[tree.apply(rows)] for tree in model.estimators_])
    np.testing.assert_allclose(found, means.mean(axis=0), atol=1e-5)
    expected = np.sqrt(means.var(axis=0) + noise.mean(axis=0))
    np.testing.assert_allclose(deviation, expected, rtol=1e-3)
    assert np.array_equal(forest.predict(fresh), found)


def test_a_missing_lightgbm_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[..., Predictor] = PREDICTORS.get("lightgbm")
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    architectures = [ToySpace().parse(code) for code in ("0000", "1111", "2222")]
    with pytest.raises(InputError, match=r"pip install 'nasplat\[lightgbm\]'"):
        make(ToySpace()).fit(architectures, np.arange(3.0))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("random_forest", 0.80), ("gradient_boosting", 0.83), ("lightgbm", 0.82)])
def test_real_cells_are_ranked(name: str, least: float, table: Path) -> None:
    if name == "lightgbm":
        pytest.importorskip("lightgbm")
    space = SEARCH_SPACES.get("nasbench201")()
    make_benchmark: Callable[..., Any] = BENCHMARKS.get("nasbench201")
    benchmark = make_benchmark(space, search_column="test")
    benchmark.prepare()
    rng = default_rng(0)
    codes = [np.base_repr(i, 5).zfill(6) for i in rng.permutation(5**6)[:2156]]
    cells = [space.parse(code) for code in codes]
    scores = np.array([benchmark._rows[cell.code]["search", 200] for cell in cells])
    make: Callable[..., Predictor] = PREDICTORS.get(name)
    fitted = make(space).fit(cells[:156], scores[:156])
    assert kendall_tau(fitted.predict(cells[156:]), scores[156:]) > least
