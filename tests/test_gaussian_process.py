"""The Gaussian processes: against scikit-learn's, and where there is next to nothing to learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.errors import InputError
from nasplat.graph import Graphs
from nasplat.options import complete
from nasplat.predictor import FittedState
from nasplat.predictors.gaussian_process import GaussianProcess, IsotropicGaussianProcess
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SearchSpace
from nasplat.surrogates.gaussian_process import (
    FARTHEST,
    JITTER,
    PRIOR_DEVIATION,
    PRIOR_MEAN,
    SCALE_DEVIATION,
    Process,
    misfit,
    squared_distances,
)
from nasplat.testing.toy import ToySpace, toy_accuracy

Floats = NDArray[np.float64]


@pytest.fixture(name="space")
def nasbench201() -> SearchSpace:
    return SEARCH_SPACES.get("nasbench201")()


def drawn(space: SearchSpace, count: int, seed: int) -> tuple[list[Architecture], Floats]:
    rng = default_rng(seed)
    architectures = [space.sample(rng) for _ in range(count)]
    macs = np.array([space.cost(a, space.reference_io).macs for a in architectures], dtype=np.float64)
    return architectures, np.log(macs) + 0.1 * rng.standard_normal(count)


KINDS: list[dict[str, Any]] = [
    {"isotropic": isotropic, "weisfeiler_lehman": expressions, "target": target}
    for isotropic, expressions, target in (
        (True, False, "log"),
        (True, True, "normal"),
        (False, False, "normal"),
        (False, True, "log"),
    )
]


@pytest.mark.parametrize("options", KINDS, ids=lambda options: "-".join(map(str, options.values())))
def test_means_deviations_and_covariances_are_those_of_scikit_learn(
    space: SearchSpace, options: dict[str, Any]
) -> None:
    architectures, scores = drawn(space, 40, 0)
    fresh, _ = drawn(space, 30, 1)
    process = GaussianProcess(space, **options).fit(architectures, scores)
    arrays, values = process.get_state().arrays, process.get_state().values
    variance, length, noise, *weight = np.exp(arrays["log"])
    factors = np.exp(arrays["scales"]) if "scales" in arrays else 1.0
    views = Encodings(space, fresh)
    counts = (
        [process._vocabulary.counted(of.hashes).toarray() for of in (Encodings(space, architectures), views)]
        if process._vocabulary
        else [np.zeros((40, 1)), np.zeros((30, 1))]
    )
    known = np.hstack([arrays["points"] * factors, counts[0]])
    asked = np.hstack([process._points(views) * factors, counts[1]])
    width = arrays["points"].shape[1]

    class Sum(Matern):  # type: ignore[misc]
        """The kernel on points and the one on counts, which are the last columns."""

        def __call__(self, a: Floats, b: Floats | None = None, eval_gradient: bool = False) -> Floats:
            b = a if b is None else b
            smooth: Floats = Matern(length, nu=2.5)(a[:, :width], b[:, :width])
            kernel: Floats = variance * smooth + (weight[0] if weight else 0.0) * a[:, width:] @ b[:, width:].T
            return kernel

        def diag(self, a: Floats) -> Floats:
            return np.diagonal(self(a)).copy()

    peer = GaussianProcessRegressor(Sum(), optimizer=None, alpha=noise + JITTER).fit(known, arrays["residuals"])
    mean, covariance = peer.predict(asked, return_cov=True)
    unit = values["unit"]
    means, deviations = process.predict_with_deviation(fresh)
    assert means == pytest.approx(values["center"] + unit * mean, abs=1e-8)
    assert process.predict(fresh) == pytest.approx(means, abs=1e-12)
    assert process.covariance(fresh, fresh) == pytest.approx(unit**2 * covariance, abs=1e-8)
    assert deviations**2 == pytest.approx(np.diagonal(process.covariance(fresh, fresh)), abs=1e-9)


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_the_gradient_is_that_of_the_misfit(scales: bool, counted: bool) -> None:
    rng = default_rng(0)
    points, residuals = rng.standard_normal((12, 3)), rng.standard_normal(12)
    counts = rng.standard_normal((12, 5))
    gram = counts @ counts.T if counted else None
    at = np.concatenate([np.log([0.7, 1.3, 0.2, 0.4])[: 3 + counted], 0.3 * rng.standard_normal(3 * scales)])

    def value(at: Floats) -> tuple[float, Floats]:
        return misfit(at[: 3 + counted], at[3 + counted :], points, residuals, gram)

    numeric = approx_fprime(at, lambda at: value(at)[0], 1e-6)
    assert value(at)[1] == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_the_misfit_is_the_negative_logarithm_of_the_posterior_density() -> None:
    from scipy.stats import multivariate_normal, norm

    rng = default_rng(1)
    points, residuals = rng.standard_normal((7, 3)), rng.standard_normal(7)

    def density(log: Floats, scales: Floats) -> float:
        variance, length, noise = np.exp(log)
        kernel = variance * Matern(length, nu=2.5)(points * np.exp(scales))
        evidence = multivariate_normal(cov=kernel + (noise + JITTER) * np.eye(7)).logpdf(residuals)
        prior = (
            norm(PRIOR_MEAN[:3], PRIOR_DEVIATION[:3]).logpdf(log).sum() + norm(0, SCALE_DEVIATION).logpdf(scales).sum()
        )
        return float(evidence + prior)

    ways = [(PRIOR_MEAN[:3] + 0.2, np.zeros(3)), (PRIOR_MEAN[:3] - 0.3, np.array([0.5, -0.1, 0.2]))]
    densities, misfits = zip(*((density(*way), misfit(*way, points, residuals)[0]) for way in ways), strict=True)
    assert misfits[0] - misfits[1] == pytest.approx(densities[1] - densities[0])


def test_tuning_lowers_the_misfit() -> None:
    rng = default_rng(2)
    points = rng.standard_normal((40, 4)) / 2
    residuals = np.sin(3 * points[:, 0]) + 0.1 * rng.standard_normal(40)
    for isotropic in (True, False):
        process = Process.tuned(points, residuals / residuals.std(), isotropic=isotropic)
        given = points, process.residuals
        tuned = misfit(process.log, process.scales, *given)
        assert tuned[0] < misfit(PRIOR_MEAN[:3], np.zeros_like(process.scales), *given)[0] - 5
        if not isotropic:
            assert process.scales[0] > process.scales[1:].max(), "the one feature that matters"


def test_points_that_nearly_coincide_have_a_factor() -> None:
    rng = default_rng(4)
    points = np.repeat(rng.standard_normal((4, 3)), 40, axis=0) + 1e-12 * rng.standard_normal((160, 3))
    residuals = default_rng(5).standard_normal(len(points))
    log = np.log([1e9, 3.0, 1e-12])  # rounding of the variance exceeds the noise
    value, gradient = misfit(log, np.zeros(0), points, residuals)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    process = Process(points, residuals, log, np.zeros(0))
    assert np.isfinite(process.mean(points)).all() and np.isfinite(process.deviation(points)).all()


def test_hyperparameters_stay_near_their_priors() -> None:
    rng = default_rng(6)
    points = rng.standard_normal((71, 60)) / 8
    process = Process.tuned(points, 1e6 * rng.standard_normal(71), isotropic=False)  # the first step would be far
    assert np.abs((process.log - PRIOR_MEAN[:3]) / PRIOR_DEVIATION[:3]).max() <= FARTHEST
    assert np.isfinite(process.mean(points)).all()


def test_known_distances_change_nothing() -> None:
    rng = default_rng(3)
    points, residuals = rng.standard_normal((9, 3)), rng.standard_normal(9)
    squared = squared_distances(points, points)
    assert squared == pytest.approx(((points[:, None] - points) ** 2).sum(axis=2), abs=1e-12)
    one, other = (misfit(PRIOR_MEAN[:3], np.zeros(0), points, residuals, None, known) for known in (None, squared))
    assert one[0] == other[0] and np.array_equal(one[1], other[1])


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


@pytest.mark.parametrize("options", [{"headroom": 0.0}, {"most": 1}])
@pytest.mark.parametrize("kind", [GaussianProcess, IsotropicGaussianProcess])
def test_options_out_of_range_are_refused(kind: type[GaussianProcess], options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        complete("predictor", kind, options)


def test_the_isotropic_process_is_one_with_other_options(space: SearchSpace) -> None:
    architectures, scores = drawn(space, 30, 6)
    options: dict[str, Any] = {"isotropic": True, "weisfeiler_lehman": False, "target": "log", "headroom": 0.25}
    same = GaussianProcess(space, **options).fit(architectures, scores)
    named = IsotropicGaussianProcess(space).fit(architectures, scores)
    np.testing.assert_array_equal(named.predict(architectures), same.predict(architectures))


def test_more_examples_than_are_learnt_from_are_drawn_from() -> None:
    rng = default_rng(0)
    architectures = [ToySpace().sample(rng) for _ in range(60)]
    scores = np.array([toy_accuracy(a) for a in architectures])
    first, again, other = (
        GaussianProcess(ToySpace(), most=30, tuned_on=10, seed=seed).fit(architectures, scores) for seed in (0, 0, 1)
    )
    assert len(first.get_state().arrays["residuals"]) == 30
    assert np.array_equal(first.predict(architectures), again.predict(architectures))
    assert not np.array_equal(first.predict(architectures), other.predict(architectures))


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


@pytest.mark.parametrize("target", ["normal", "log"])
def test_states_of_the_former_version_say_the_same(target: str, space: SearchSpace) -> None:
    architectures, scores = drawn(space, 30, 7)
    fresh, _ = drawn(space, 20, 8)
    options: dict[str, Any] = {"target": target}
    process = GaussianProcess(space, **options).fit(architectures, scores)
    state = process.get_state()
    arrays, values = dict(state.arrays), state.values
    mean, scale = arrays["usual"]
    views = Encodings(space, architectures)
    width = max(int((scale > 0).sum()), 1) ** 0.5
    variance, length, noise, linear = arrays["log"]
    former = {name: array for name, array in arrays.items() if name.startswith("expressions ")} | {
        "mean": mean,
        "scale": scale,
        "log_scales": arrays["scales"] - np.log(width) - length,
        "log_weights": np.array([variance, linear]) + 2 * np.log(values["unit"]),
        "log_noise": np.array([noise + 2 * np.log(values["unit"])]),
        "center": np.array([values["center"]]),
        "features": views.description,
        "hashes": views.hashes,
        "targets": values["center"] + values["unit"] * arrays["residuals"],
    }
    again = GaussianProcess(space, **options)
    again.set_state(FittedState(arrays=former))
    for one, other in zip(again.predict_with_deviation(fresh), process.predict_with_deviation(fresh), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)  # the jitter had another unit
    assert again.headroom == (0.5 if target == "log" else 0.25)  # what it was fitted with
    anew = GaussianProcess(space, **options, headroom=again.headroom).fit(architectures, scores)
    np.testing.assert_array_equal(again.fit(architectures, scores).predict(fresh), anew.predict(fresh))


def test_a_state_of_more_examples_than_are_fitted_is_refused(space: SearchSpace) -> None:
    architectures, scores = drawn(space, 20, 5)
    state = GaussianProcess(space).fit(architectures, scores).get_state()
    with pytest.raises(ValueError, match="at most 19 examples cannot have 20"):
        GaussianProcess(space, most=19).set_state(state)


@pytest.mark.parametrize("kind", [GaussianProcess, IsotropicGaussianProcess])
def test_a_saved_process_loads(kind: type[GaussianProcess], space: SearchSpace, tmp_path: Path) -> None:
    architectures, scores = drawn(space, 20, 5)
    process = kind(space).fit(architectures, scores)
    process.save(tmp_path / "saved")
    again = kind.load(tmp_path / "saved", space)
    np.testing.assert_array_equal(again.predict(architectures), process.predict(architectures))
    np.testing.assert_array_equal(
        again.covariance(architectures, architectures), process.covariance(architectures, architectures)
    )
