"""The process for few examples: against scikit-learn's, and where there is next to nothing to learn from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.errors import InputError
from nasplat.graph import Graphs
from nasplat.predictors.isotropic_gaussian_process import JITTER, IsotropicGaussianProcess, _misfit
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SearchSpace

Floats = NDArray[np.float64]


@pytest.fixture(name="space")
def nasbench201() -> SearchSpace:
    return SEARCH_SPACES.get("nasbench201")()


def drawn(space: SearchSpace, count: int, seed: int) -> tuple[list[Architecture], Floats]:
    rng = default_rng(seed)
    architectures = [space.sample(rng) for _ in range(count)]
    macs = np.array([space.cost(a, space.reference_io).macs for a in architectures], dtype=np.float64)
    return architectures, np.log(macs) + 0.1 * rng.standard_normal(count)


def test_means_deviations_and_covariances_are_those_of_scikit_learn(space: SearchSpace) -> None:
    architectures, scores = drawn(space, 40, 0)
    fresh, _ = drawn(space, 30, 1)
    process = IsotropicGaussianProcess(space).fit(architectures, scores)
    arrays, values = process.get_state().arrays, process.get_state().values
    variance, length, noise = np.exp(arrays["log"])
    kernel = ConstantKernel(variance) * Matern(length, nu=2.5) + WhiteKernel(noise + JITTER)
    peer = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(arrays["points"], arrays["residuals"])
    points = process._scaled(Encodings(space, fresh))
    mean, covariance = peer.predict(points, return_cov=True)
    covariance -= (noise + JITTER) * np.eye(len(points))  # of a measurement, which the process itself has not
    unit = values["unit"]
    means, deviations = process.predict_with_deviation(fresh)
    assert means == pytest.approx(values["center"] + unit * mean, abs=1e-9)
    assert process.predict(fresh) == pytest.approx(means, abs=1e-12)
    assert process.covariance(fresh, fresh) == pytest.approx(unit**2 * covariance, abs=1e-9)
    assert deviations**2 == pytest.approx(np.diagonal(process.covariance(fresh, fresh)), abs=1e-9)


def test_the_gradient_is_that_of_the_misfit() -> None:
    rng = default_rng(0)
    points = rng.standard_normal((12, 3))
    squared = ((points[:, None] - points) ** 2).sum(axis=2)
    residuals = rng.standard_normal(12)
    at = np.log([0.7, 1.3, 0.2])
    _, gradient = _misfit(at, squared, residuals)
    numeric = approx_fprime(at, lambda log: _misfit(log, squared, residuals)[0], 1e-6)
    assert gradient == pytest.approx(numeric, rel=1e-4)


def test_it_is_the_less_sure_the_further_away(space: SearchSpace) -> None:
    near = [space.parse(code) for code in ("333333", "333332", "333313")]
    process = IsotropicGaussianProcess(space).fit(near, np.array([3.0, 2.0, 1.0]))
    _, deviations = process.predict_with_deviation([*near, space.parse("333323"), space.parse("000400")])
    assert deviations[:3].max() < deviations[3] < deviations[4]


def test_equal_scores_and_equal_architectures_are_learnt_from(space: SearchSpace) -> None:
    architectures, _ = drawn(space, 6, 2)
    process = IsotropicGaussianProcess(space).fit([*architectures, architectures[0]], np.ones(7))
    mean, deviation = process.predict_with_deviation(architectures)
    assert np.isfinite(mean).all() and np.isfinite(deviation).all()
    assert np.ptp(mean) < 1e-9
    architectures, _ = drawn(space, 26, 2)
    _, deviation = (
        IsotropicGaussianProcess(space).fit(architectures, np.full(26, 0.1)).predict_with_deviation(architectures)
    )
    assert deviation.max() > 1e-4  # the spread of equal figures is rounding, and no unit


def test_of_too_many_examples_the_best_are_kept(space: SearchSpace) -> None:
    architectures, scores = drawn(space, 50, 3)
    best = np.argsort(-scores)[:20]
    fewer = IsotropicGaussianProcess(space, most=20).fit(architectures, scores)
    chosen = np.sort(best)
    those = IsotropicGaussianProcess(space).fit([architectures[i] for i in chosen], scores[chosen])
    assert fewer.predict(architectures) == pytest.approx(those.predict(architectures))


def test_options_out_of_range_are_refused(space: SearchSpace) -> None:
    with pytest.raises(InputError, match="headroom must be above 0"):
        IsotropicGaussianProcess(space, headroom=0.0)
    with pytest.raises(InputError, match="most at least 2"):
        IsotropicGaussianProcess(space, most=1)


def test_views_that_are_taken_are_those_computed_anew(space: SearchSpace) -> None:
    architectures, _ = drawn(space, 9, 4)
    views = Encodings(space, architectures)
    _ = views.features, views.hashes
    chosen = np.array([7, 0, 3])
    taken, anew = views.take(chosen), Encodings(space, [architectures[i] for i in chosen])
    assert set(vars(taken)) >= {"features", "hashes"}
    np.testing.assert_array_equal(taken.features, anew.features)
    np.testing.assert_array_equal(taken.hashes, anew.hashes)
    assert list(taken) == list(anew)


def test_views_compute_what_they_need_once_for_all(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    architectures, _ = drawn(space, 9, 4)
    anew = Encodings(space, [architectures[i] for i in (7, 0, 3)])
    wanted = anew.features, anew.hashes
    compute, rows = type(space).graphs, list[int]()

    def counted(self: SearchSpace, some: Sequence[Architecture]) -> Graphs:
        rows.append(len(some))
        return compute(self, some)

    monkeypatch.setattr(type(space), "graphs", counted)
    whole = Encodings(space, architectures)
    some, others = whole.view(np.array([7, 0, 3])), whole.view(np.array([8, 7, 1, 0, 3]))
    for views in (some, others.view(np.array([1, 3, 4]))):
        np.testing.assert_array_equal(views.features, wanted[0])
        np.testing.assert_array_equal(views.hashes, wanted[1])
    (two, one) = some.chunks(2)
    np.testing.assert_array_equal(np.concatenate([two.features, one.features]), wanted[0])
    assert rows == [9], "graphs were computed again"


def test_a_saved_process_loads(space: SearchSpace, tmp_path: Path) -> None:
    architectures, scores = drawn(space, 20, 5)
    process = IsotropicGaussianProcess(space).fit(architectures, scores)
    process.save(tmp_path / "saved")
    again = IsotropicGaussianProcess.load(tmp_path / "saved", space)
    np.testing.assert_array_equal(again.predict(architectures), process.predict(architectures))
    np.testing.assert_array_equal(
        again.covariance(architectures, architectures), process.covariance(architectures, architectures)
    )
