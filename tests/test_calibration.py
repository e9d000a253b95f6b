"""Calibration against brute force, numerical integration and other implementations."""

import itertools
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import expit, log_softmax, softmax
from scipy.stats import norm, truncnorm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from nasplat.calibration import recommendation
from nasplat.calibration.calibrators import NAMES, fit
from nasplat.calibration.clusters import k_medoids, nearest
from nasplat.calibration.operational import PAPER, USUAL, Operational, Process, Recipe, log_odds, median_distance
from nasplat.calibration.outputs import Outputs, rights
from nasplat.calibration.recommendation import Score, held_out_errors, recommend, recommended
from nasplat.calibration.reliability import decision_costs, diagram, figures
from nasplat.calibration.rivals import Isotonic, Platt, Temperature, smoothed_share
from nasplat.calibration.selection import choose, doubt, nearness, spread_out
from nasplat.calibration.truncated import truncated_normal
from nasplat.errors import InputError
from nasplat.proportion import wilson

Floats = NDArray[np.float64]
CLASSES = 4


def world(n: int, seed: int, *, heat: float = 3.0, local: bool = False) -> tuple[Outputs, NDArray[np.int64]]:
    """Outputs of a classifier that is `heat` times too confident; or, if `local`, that errs in half of the space."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (n, 3))
    logits = features @ np.array([[2.0, 0, 0, -2], [0, 2, -2, 0], [0, 0, 1, 1]]) * 1.5
    if local:
        wrong = (features[:, 2] > 0.2) & (rng.random(n) < 0.85)
        labels = np.where(wrong, (logits.argmax(1) + 1) % CLASSES, logits.argmax(1))
    else:
        labels = (logits / heat + rng.gumbel(size=logits.shape)).argmax(1)
    return Outputs(logits, features), labels.astype(np.int64)


def alike(right: bool, n: int = 12) -> tuple[Outputs, NDArray[np.int64]]:
    """Labelled pictures that are all predicted right, or all wrong."""
    outputs, _ = world(n, 3)
    return outputs, outputs.predicted if right else (outputs.predicted + 1) % CLASSES


# The truncated normal distribution


def integrated(mean: float, deviation: float) -> tuple[float, float]:
    """Both moments by adaptive integration, from the place of the highest density as far as there is any."""
    mode = min(max(mean, 0.0), 1.0)
    # At a distance t from the mode, the exponent falls by t * away + t * t / 2 in units of the deviation.
    away = abs(mean - mode) / deviation
    far = 90 / (away + math.sqrt(away**2 + 90)) * deviation
    below, above = -min(far, mode), min(far, 1 - mode)

    def density(t: float) -> float:
        return math.exp(-((t / deviation) ** 2) / 2 - abs(t) / deviation * away)

    def moment(power: int, about: float = 0.0) -> float:
        parts = [each for each in ((below, 0.0), (0.0, above)) if each[0] < each[1]]
        scale = max(-below, above)
        found: float = sum(
            quad(lambda u: density(u * scale) * (u - about) ** power, a / scale, b / scale, epsabs=0, epsrel=1e-12)[0]
            for a, b in parts
        )
        return found

    scale, whole = max(-below, above), moment(0)
    first = moment(1) / whole
    return mode + scale * first, scale * math.sqrt(moment(2, first) / whole)


MEANS = (-1e6, -1e3, -40.0, -3.0, -0.2, -1e-7, 0.0, 1e-9, 0.1, 0.5, 0.73, 0.999999, 1.0, 1.3, 8.0, 500.0, 1e6)
DEVIATIONS = (1e-6, 1e-4, 1e-2, 0.05, 0.1, 0.3, 1.0, 5.0, 30.0, 1e3)


def test_truncated_moments_agree_with_integration_for_extreme_parameters() -> None:
    pairs = np.array(list(itertools.product(MEANS, DEVIATIONS)))
    means, deviations = truncated_normal(pairs[:, 0], pairs[:, 1])
    true = np.array([integrated(*map(float, pair)) for pair in pairs])
    np.testing.assert_allclose(means, true[:, 0], rtol=1e-8, atol=0)  # also of the tiny means far outside
    np.testing.assert_allclose(deviations, true[:, 1], rtol=1e-8, atol=0)


def test_truncated_moments_agree_with_the_closed_form_where_it_has_digits() -> None:
    pairs = np.array(list(itertools.product((-0.4, 0.0, 0.3, 0.5, 0.8, 1.2), (0.1, 0.3, 1.0))))
    mean, deviation = pairs.T
    a, b = -mean / deviation, (1 - mean) / deviation
    share, slope = norm.cdf(b) - norm.cdf(a), norm.pdf(a) - norm.pdf(b)
    variance = deviation**2 * (1 + (a * norm.pdf(a) - b * norm.pdf(b)) / share - (slope / share) ** 2)
    found = truncated_normal(mean, deviation)
    np.testing.assert_allclose(found[0], mean + deviation * slope / share, atol=1e-10)
    np.testing.assert_allclose(found[1], np.sqrt(variance), atol=1e-10)
    library = truncnorm.stats(a, b, mean, deviation)
    np.testing.assert_allclose(found[0], library[0], atol=1e-8)
    np.testing.assert_allclose(found[1] ** 2, library[1], atol=1e-8)


def test_truncated_moments_are_numbers_within_their_bounds_for_all_parameters() -> None:
    rng = np.random.default_rng(0)
    means = rng.choice([-1, 1], 5000) * 10 ** rng.uniform(-300, 300, 5000)
    deviations = 10 ** rng.uniform(-300, 300, 5000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, deviation = truncated_normal(means, deviations)
    assert np.isfinite(mean).all() and np.isfinite(deviation).all()
    assert (mean >= 0).all() and (mean <= 1).all() and (deviation >= 0).all() and (deviation <= 0.2886752).all()
    mirrored = truncated_normal(1 - np.array([0.1, 0.9, 7]), [0.2, 1e-3, 1])
    np.testing.assert_allclose(1 - mirrored[0], truncated_normal([0.1, 0.9, 7], [0.2, 1e-3, 1])[0], atol=1e-15)


def test_without_a_deviation_the_mean_goes_to_the_nearest_end() -> None:
    mean, deviation = truncated_normal([-3.0, 0.0, 0.25, 1.0, 4.0], 0.0)
    assert mean.tolist() == [0, 0, 0.25, 1, 1] and not deviation.any()
    for wrong in ((math.nan, 1.0), (0.0, -1.0), (0.0, math.inf)):
        with pytest.raises(InputError, match="must be"):
            truncated_normal(*wrong)


# Outputs


def test_confidence_is_the_largest_softmax_and_log_odds_keep_their_digits() -> None:
    outputs, labels = world(50, 0)
    np.testing.assert_allclose(outputs.confidence, softmax(outputs.logits, axis=1).max(1))
    np.testing.assert_allclose(outputs.log_odds, np.log(outputs.confidence / (1 - outputs.confidence)), rtol=1e-6)
    sure = Outputs(np.array([[0.0, 100.0, 3.0]]), np.zeros((1, 2)))
    assert sure.confidence[0] == 1 and sure.log_odds[0] == pytest.approx(100 - math.log(1 + math.exp(3)))
    assert (rights(outputs, labels) == (outputs.logits.argmax(1) == labels)).all()
    some = outputs.take(np.array([4, 1]))
    assert (some.logits == outputs.logits[[4, 1]]).all() and (some.features == outputs.features[[4, 1]]).all()


@pytest.mark.parametrize(
    ("logits", "features", "said"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), "same n"),
        (np.zeros((2, 3)), np.zeros(2), "same n"),
        (np.zeros((2, 1)), np.zeros((2, 3)), "two classes"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), "finite"),
        (np.zeros((2, 3)), np.full((2, 3), np.inf), "finite"),
    ],
)
def test_outputs_that_do_not_go_together_are_refused(logits: Floats, features: Floats, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Outputs(logits, features)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0], "at least two"),
        ([0, 1, 4], "from 0 to 3"),
        ([0, -1, 2], "from 0 to 3"),
        ([0, 1], "one label"),
        ([0.5, 1, 2], "int"),
    ],
)
def test_every_calibrator_refuses_one_label_and_labels_of_no_class(name: str, labels: list[Any], said: str) -> None:
    outputs, _ = world(1 if len(labels) == 1 else 3, 0)
    with pytest.raises(InputError, match=said):
        fit(name, outputs, np.array(labels))


def test_an_unknown_calibrator_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'isotonic'"):
        fit("isotonc", *world(9, 0))


# Temperature, Platt and isotonic against scikit-learn's CalibratedClassifierCV, which shares no code with the first two


class Logits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose input is its decision."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, x: Floats, y: Floats) -> "Logits":
        """Nothing to learn."""
        return self

    def decision_function(self, x: Floats) -> Floats:
        return x[:, 0] if self.classes == 2 else x

    def predict(self, x: Floats) -> NDArray[Any]:
        """The larger one."""
        return x[:, 0] > 0 if self.classes == 2 else x.argmax(1)


def by_library(method: str, classes: int, x: Floats, y: NDArray[Any], new: Floats) -> Floats:
    calibrated = CalibratedClassifierCV(FrozenEstimator(Logits(classes)), method=method).fit(x, y)
    found: Floats = calibrated.predict_proba(new)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_temperature_scaling_is_that_of_the_library(seed: int) -> None:
    outputs, labels = world(80, seed)
    new, _ = world(40, 100 + seed)
    found = Temperature.fit(outputs, labels)
    losses = [
        -log_softmax(outputs.logits / t, axis=1)[np.arange(80), labels].mean() for t in np.geomspace(0.02, 50, 4001)
    ]
    assert found.value == pytest.approx(np.geomspace(0.02, 50, 4001)[np.argmin(losses)], rel=2e-3)
    library = by_library("temperature", CLASSES, outputs.logits, labels, new.logits).max(1)
    np.testing.assert_allclose(found(new), library, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_platt_is_that_of_the_library_and_the_best_of_its_loss(seed: int) -> None:
    outputs, labels = world(60, seed)
    right, (new, _) = rights(outputs, labels), world(40, 100 + seed)
    found = Platt.fit(outputs, labels)
    library = by_library("sigmoid", 2, outputs.log_odds[:, None], right.astype(int), new.log_odds[:, None])[:, 1]
    np.testing.assert_allclose(found(new), library, atol=1e-4)
    hits = right.sum()
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (60 - hits + 2))

    def loss(at: Floats) -> float:
        p = expit(at[0] * outputs.log_odds + at[1])
        return float(-(target * np.log(p) + (1 - target) * np.log1p(-p)).sum())

    best = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    np.testing.assert_allclose([found.slope, found.intercept], best, atol=1e-4)


def test_isotonic_regression_is_the_largest_of_smallest_means() -> None:
    outputs, labels = world(40, 5)
    right = rights(outputs, labels)
    order = np.argsort(outputs.confidence)
    hits = right[order].astype(float)
    # The min-max formula: at place i, the largest over a <= i of the smallest over b >= i of the mean from a to b.
    wanted = [max(min(hits[a : b + 1].mean() for b in range(i, 40)) for a in range(i + 1)) for i in range(40)]
    found = Isotonic.fit(outputs, labels)
    np.testing.assert_allclose(found(outputs)[order], wanted, atol=1e-12)
    new, _ = world(30, 6)
    library = by_library("isotonic", 2, outputs.log_odds[:, None], right.astype(int), new.log_odds[:, None])[:, 1]
    np.testing.assert_allclose(found(new), library, atol=1e-12)


@pytest.mark.parametrize("right", [True, False])
def test_where_all_are_right_or_all_wrong_confidence_is_the_smoothed_share(right: bool) -> None:
    outputs, labels = alike(right)
    share = smoothed_share(rights(outputs, labels))
    assert share == pytest.approx(13 / 14 if right else 1 / 14)
    new, _ = world(30, 9)
    for rival in (Platt.fit(outputs, labels), Isotonic.fit(outputs, labels)):
        np.testing.assert_allclose(rival(new), share, atol=1e-6)
    temperature = Temperature.fit(outputs, labels)
    if right:
        assert temperature(outputs).mean() == pytest.approx(share, abs=1e-6)
    else:  # no temperature gives less than one in so many classes
        assert temperature.value == pytest.approx(50) and temperature(outputs).mean() > 1 / CLASSES
    calibrated = fit("operational", outputs, labels)(outputs)
    assert ((calibrated > 0.6) if right else (calibrated < 0.4)).all()
    assert (calibrated.mean() > 0.9) if right else (calibrated.mean() < 0.2)
    assert (fit("none", outputs, labels)(new) == new.confidence).all()


# K-medoids


def cost(distances: Floats, medoids: tuple[int, ...]) -> float:
    return float(distances[:, list(medoids)].min(1).sum())


def test_medoids_are_the_best_of_all_subsets_or_no_exchange_makes_them_better() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        blobs = rng.normal(0, 0.3, (14, 2)) + np.repeat([[0, 0], [4, 0], [0, 5]], (4, 5, 5), axis=0)
        distances = cdist(blobs, blobs)
        found = k_medoids(blobs, 3, seed)
        best = min(itertools.combinations(range(14), 3), key=lambda each: cost(distances, each))
        assert tuple(found) == best
        spread = rng.normal(0, 1, (40, 3))
        distances, medoids = cdist(spread, spread), k_medoids(spread, 4, seed)
        assert len(set(medoids)) == 4
        for gone, come in itertools.product(range(4), range(40)):
            exchanged = tuple(np.concatenate([np.delete(medoids, gone), [come]]))
            assert cost(distances, exchanged) >= cost(distances, tuple(medoids)) - 1e-9
    assert (nearest(spread, spread[medoids]) == distances[:, medoids].argmin(1)).all()


def test_medoids_are_repeatable_and_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(0, 1, (60, 2))
    assert k_medoids(features, 60, 0).tolist() == list(range(60))
    assert (k_medoids(features, 5, 1) == k_medoids(features, 5, 1)).all()
    for count in (0, 61):
        with pytest.raises(InputError, match="from 1 to"):
            k_medoids(features, count, 0)
    monkeypatch.setattr("nasplat.calibration.clusters.MOST", 20)
    drawn = k_medoids(features, 5, 1)
    assert len(set(drawn)) == 5 and (np.diff(drawn) > 0).all()
    assert len(set(k_medoids(features, 20, 1))) == 20


# The operational calibrator against the equations


def by_equations(process: Process, new: Floats) -> tuple[Floats, Floats]:
    """The posterior by the inverse of the kernel matrix (Rasmussen and Williams, 2006, eq. 2.25 and 2.26)."""

    def kernel(a: Floats, b: Floats) -> Floats:
        found: Floats = process.variance * np.exp(-(cdist(a, b) ** 2) / (2 * process.length**2))
        return found

    inverse = np.linalg.inv(kernel(process.features, process.features) + process.noise * np.eye(len(process.features)))
    near = kernel(new, process.features)
    variance = process.variance - np.einsum("nm,mk,nk->n", near, inverse, near)
    return near @ inverse @ process.corrections, np.sqrt(variance)


def likelihood(process: Process, variance: float, length: float, noise: float) -> float:
    """The logarithm of the marginal likelihood."""
    squared = cdist(process.features, process.features) ** 2
    kernel = variance * np.exp(-squared / (2 * length**2)) + noise * np.eye(len(squared))
    solved = np.linalg.solve(kernel, process.corrections)
    return float(-0.5 * process.corrections @ solved - 0.5 * np.linalg.slogdet(kernel)[1])


def test_the_usual_calibrator_is_the_truncated_posterior_of_what_temperature_leaves() -> None:
    outputs, labels = world(60, 1, local=True)
    new, _ = world(25, 2)
    found = fit("operational", outputs, labels)
    assert isinstance(found, Operational) and len(found.processes) == 1
    process, temperature = found.processes[0], Temperature.fit(outputs, labels)
    cooled = softmax(outputs.logits / temperature.value, axis=1).max(1)
    np.testing.assert_allclose(process.corrections, rights(outputs, labels) - cooled, atol=1e-12)
    pairs = [math.dist(a, b) for a, b in itertools.combinations(outputs.features.tolist(), 2)]
    assert process.length == pytest.approx(np.median(pairs))
    correction, deviation = by_equations(process, new.features)
    mean, posterior = truncated_normal(temperature(new) + correction, deviation)
    slope, intercept = sharpening(outputs, labels, process, temperature)
    wanted = expit(slope * log_odds(mean) + intercept)
    assert slope > 1  # what truncation drew towards 0.5 is drawn back
    np.testing.assert_allclose(found.posterior(new), [wanted, posterior], atol=1e-6)
    np.testing.assert_allclose(found(new), wanted, atol=1e-6)
    plain = Operational.fit(outputs, labels, recipe=Recipe(sharpened=False))
    np.testing.assert_allclose(plain.posterior(new), [mean, posterior], atol=1e-8)


def sharpening(
    outputs: Outputs, labels: NDArray[np.int64], process: Process, temperature: Temperature
) -> tuple[float, float]:
    """Platt's sigmoid of what each labelled picture has by a process without it, by a general optimizer."""
    left_out = []
    for row in range(len(labels)):
        others = np.arange(len(labels)) != row
        without = replace(process, features=process.features[others], corrections=process.corrections[others])
        correction, deviation = by_equations(without, outputs.features[row : row + 1])
        left_out.append(truncated_normal(temperature(outputs)[row] + correction, deviation)[0][0])
    odds, right = log_odds(np.array(left_out)), rights(outputs, labels)
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))

    def loss(line: Floats) -> float:
        shown = line[0] * odds + line[1]
        return float((np.logaddexp(0, shown) - target * shown).mean())

    slope, intercept = minimize(loss, [1.0, 0.0], tol=1e-12).x
    return float(slope), float(intercept)


def test_a_sigmoid_that_would_fall_is_the_share_of_right_predictions() -> None:
    # Labels at random: what is left out says the opposite of each, as their mean without it moves the other way.
    outputs = Outputs(np.tile([[2.0, 0.0]], (20, 1)), np.ones((20, 2)))
    labels = np.arange(20) % 2
    found = Operational.fit(outputs, labels)
    assert found.sigmoid == Platt(0.0, 0.0)
    np.testing.assert_allclose(found(outputs), 0.5)


@pytest.mark.slow
def test_hyperparameters_are_the_likeliest_within_their_bounds() -> None:
    for local in (True, False):
        outputs, labels = world(60, 1, local=local)
        process = Operational.fit(outputs, labels).processes[0]
        grid = itertools.product(np.geomspace(1e-5, 1, 41), np.geomspace(1e-3, 0.5, 41))
        best = max(likelihood(process, variance, process.length, noise) for variance, noise in grid)
        assert likelihood(process, process.variance, process.length, process.noise) >= best - 0.01
        assert 1e-5 * 0.999 <= process.variance <= 1.0001 and 0.999e-3 <= process.noise <= 0.5001


def test_one_label_says_nothing_of_hyperparameters_and_two_do() -> None:
    features, corrections = np.array([[0.0], [0.1]]), np.array([0.9, 0.9])
    alone = Process.fit(features[:1], corrections[:1], 2.0, USUAL)
    assert (alone.variance, alone.length, alone.noise) == (USUAL.variance, 2.0, USUAL.noise)
    both = Process.fit(features, corrections, 2.0, USUAL)
    assert both.variance > 0.5 and both.noise < 0.01


def test_the_usual_amplitude_is_at_most_one() -> None:
    features = np.linspace(0, 3, 10)[:, None]
    corrections = 5 * np.sin(features[:, 0])  # larger than real ones, so that the likeliest variance is too
    assert Process.fit(features, corrections, 1.0, USUAL).variance == pytest.approx(1)
    assert Process.fit(features, corrections, 1.0, Recipe(variances=(1e-5, 100))).variance > 2


def test_the_papers_settings_have_a_process_for_each_cluster() -> None:
    pool, classes = world(300, 4, local=True)
    medoids = pool.features[k_medoids(pool.features, 10, 0)]
    rows = np.arange(80)
    found = fit("operational", pool.take(rows), classes[rows], paper=True, medoids=medoids)
    assert isinstance(found, Operational) and len(found.processes) == 10 and found.temperature.value == 1
    cluster = cdist(pool.features, medoids).argmin(1)
    right = pool.predicted == classes
    for number, process in enumerate(found.processes):
        own = rows[cluster[rows] == number]
        assert (process.features == pool.features[own]).all() and process.noise == PAPER.noise == 0.1
        np.testing.assert_allclose(process.corrections, (right - pool.confidence)[own], atol=1e-12)
        members = pool.take(cluster == number)
        correction, deviation = by_equations(process, members.features)
        wanted = truncated_normal(members.confidence + correction, deviation)
        np.testing.assert_allclose(found.posterior(members), wanted, atol=1e-7)
        if len(own) > 2:
            here = likelihood(process, process.variance, process.length, 0.1)
            assert here >= likelihood(process, 1.0, 10.0, 0.1)
    with pytest.raises(InputError, match="k_medoids"):
        fit("operational", pool, classes, paper=True)


def test_a_cluster_without_labels_keeps_its_prior_which_truncation_draws_to_the_middle() -> None:
    pool, classes = world(40, 0)
    near = pool.features[:, 0] < 0
    medoids = np.array([[-1.0, 0, 0], [1.0, 0, 0]])
    for variance, most in ((1.0, 0.56), (1e-4, 1.0)):
        recipe = Recipe(
            clusters=2, temperature=False, variance=variance, variances=(variance / 2, variance * 2), sharpened=False
        )
        found = Operational.fit(pool.take(near), classes[near], recipe=recipe, medoids=medoids)
        assert len(found.processes[1].features) == 0
        mean, deviation = found.posterior(pool.take(~near))
        wanted = truncated_normal(pool.confidence[~near], math.sqrt(variance))
        np.testing.assert_allclose([mean, deviation], wanted, atol=1e-9)
        assert mean.max() <= most


def test_the_usual_calibrator_wins_where_errors_are_local() -> None:
    outputs, labels = world(600, 0, local=True)
    rows = np.arange(80)
    right = (outputs.predicted == labels)[80:]
    score = {name: np.mean((fit(name, outputs.take(rows), labels[rows])(outputs)[80:] - right) ** 2) for name in NAMES}
    assert score["operational"] < 0.75 * min(score[name] for name in NAMES if name != "operational")


def test_many_pictures_are_computed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, labels = world(50, 0)
    found = fit("operational", outputs, labels)
    whole = found(outputs)
    monkeypatch.setattr("nasplat.calibration.operational.CHUNK", 7)
    np.testing.assert_allclose(found(outputs), whole, atol=1e-12)


def test_pictures_that_coincide_have_a_length_scale_too() -> None:
    outputs = Outputs(np.tile([[2.0, 0.0]], (6, 1)), np.ones((6, 2)))
    assert median_distance(outputs.features) == 1
    calibrated = fit("operational", outputs, np.array([0, 0, 0, 1, 0, 1]))(outputs)
    np.testing.assert_allclose(calibrated, 4 / 6, atol=0.05)
    assert USUAL.clusters == 1


# Which to label next


def test_doubt_is_the_distance_to_the_threshold_over_the_deviation() -> None:
    found = doubt(np.array([0.9, 0.8, 0.5, 0.9, 0.2]), np.array([0.1, 0.2, 0.1, 0.0, 0.0]), 0.9)
    assert found.tolist() == pytest.approx([0, 0.5, 4, math.inf, math.inf])


def brute_force(order: list[int], features: Floats, count: int, apart: float, picked: list[int]) -> list[int]:
    taken: list[int] = []
    for row in order:
        if len(taken) < count and all(math.dist(features[row], features[o]) >= apart for o in taken + picked):
            taken.append(row)
    return taken + [row for row in order if row not in taken][: count - len(taken)]


@pytest.mark.parametrize("apart", [0.0, 0.3, 1.0, 9.0])
def test_a_batch_is_that_of_brute_force_without_near_duplicates(apart: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        features, order = rng.normal(0, 1, (40, 2)), rng.permutation(40)
        picked, order = order[:3], order[3:]
        found = spread_out(order, features, 12, apart, picked)
        assert found.tolist() == brute_force(order.tolist(), features, 12, apart, picked.tolist())
    assert sorted(spread_out(order, features, len(order), apart, picked)) == sorted(order)


def test_pictures_as_far_apart_as_they_must_be_are_no_near_duplicates() -> None:
    line = np.arange(6.0)[:, None]
    assert spread_out(np.arange(6), line, 3, 1.0).tolist() == [0, 1, 2]
    assert spread_out(np.arange(6), line, 3, 1.5).tolist() == [0, 2, 4]
    assert spread_out(np.arange(6), line, 3, 1.5, np.array([0, 2])).tolist() == [4, 0, 1]


def test_seven_of_ten_are_drawn_at_random_and_the_others_are_in_most_doubt() -> None:
    rng = np.random.default_rng(0)
    features, labelled = rng.normal(0, 1, (200, 3)), np.array([3, 50, 120])
    posterior = rng.random(200), rng.uniform(0.05, 0.2, 200)
    rows, fair = choose(20, features, labelled, np.random.default_rng(1), posterior=posterior, threshold=0.8)
    assert len(set(rows) | set(labelled)) == 23 and fair.tolist() == [True] * 14 + [False] * 6
    left = sorted(set(range(200)) - set(labelled) - set(rows[:14]))
    order = sorted(left, key=lambda row: abs(0.8 - posterior[0][row]) / posterior[1][row])
    pairs = [math.dist(a, b) for a, b in itertools.combinations(features, 2)]
    apart = float(np.quantile(pairs, 0.02))
    assert nearness(features, rng) == pytest.approx(apart)
    assert rows[14:].tolist() == brute_force(order, features, 6, apart, rows[:14].tolist())
    again, _ = choose(20, features, labelled, np.random.default_rng(1), posterior=posterior, threshold=0.8)
    assert (again == rows).all()
    wide, _ = choose(20, features, labelled, np.random.default_rng(1), posterior=posterior, threshold=0.8, quantile=0.2)
    apart = float(np.quantile(pairs, 0.2))
    assert wide[14:].tolist() == brute_force(order, features, 6, apart, wide[:14].tolist())
    assert wide[14:].tolist() != brute_force(order, features, 6, apart, [])
    ruled, _ = choose(5, features, labelled, rng, posterior=posterior, threshold=0.8, random_share=0, quantile=0)
    assert ruled.tolist() == sorted(set(range(200)) - set(labelled), key=lambda r: doubt(*posterior, 0.8)[r])[:5]


def test_random_labels_are_a_fair_sample_and_no_more_than_there_are() -> None:
    features, labelled = np.zeros((12, 1)), np.array([0, 1])
    counts = np.zeros(12)
    for seed in range(600):
        rows, fair = choose(5, features, labelled, np.random.default_rng(seed))
        counts[rows] += 1
        assert fair.all() and len(set(rows)) == 5
    assert not counts[:2].any() and np.abs(counts[2:] - 300).max() < 5 * math.sqrt(600 / 4)
    rows, _ = choose(10, features, labelled, np.random.default_rng(0))
    assert sorted(rows) == list(range(2, 12))
    with pytest.raises(InputError, match="from 1 to 10 pictures"):
        choose(11, features, labelled, np.random.default_rng(0))
    with pytest.raises(InputError, match="from 0 to 1"):
        choose(2, features, labelled, np.random.default_rng(0), random_share=1.5)


# What may be believed


def observed(n: int, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 1.5, n)
    return confidence, rng.random(n) < confidence**1.7


def one_by_one(confidence: Floats, right: NDArray[np.bool_], threshold: float, bins: int) -> dict[str, float]:
    """The figures by loops over pictures and bins."""
    n, overall = len(right), sum(right) / len(right)
    found = dict.fromkeys(("reliability", "resolution", "within_bins", "calibration_error"), 0.0)
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        rows = [i for i, c in enumerate(confidence) if low <= c < high or (c == 1 and number == bins - 1)]
        if rows:
            said, hits = sum(confidence[rows]) / len(rows), sum(right[rows]) / len(rows)
            found["reliability"] += len(rows) / n * (said - hits) ** 2
            found["resolution"] += len(rows) / n * (hits - overall) ** 2
            found["calibration_error"] += len(rows) / n * abs(said - hits)
            for i in rows:
                found["within_bins"] += (
                    (confidence[i] - said) ** 2 - 2 * (confidence[i] - said) * (right[i] - hits)
                ) / n
    high_errors = sum(bool(c >= threshold and not r) for c, r in zip(confidence, right, strict=True))
    high_rights = sum(bool(c >= threshold and r) for c, r in zip(confidence, right, strict=True))
    low_rights = sum(bool(c < threshold and r) for c, r in zip(confidence, right, strict=True))
    return found | {
        "brier": sum((c - r) ** 2 for c, r in zip(confidence, right.astype(float), strict=True)) / n,
        "uncertainty": overall * (1 - overall),
        "decision_cost": (threshold * high_errors + (1 - threshold) * low_rights) / n,
        "high_confidence_errors": high_errors,
        "high_confidence_rights": high_rights,
    }


@pytest.mark.parametrize("bins", [1, 7, 10])
def test_figures_are_those_of_loops_and_the_parts_add_up_to_the_score(bins: int) -> None:
    confidence, right = observed(150, 0)
    confidence[:6] = [0, 1, 0.9, 0.5, 3 / 7, 0.3]
    found = figures(confidence, right, 0.9, seed=0, bins=bins, resamples=50)
    wanted = one_by_one(confidence, right, 0.9, bins)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(wanted, abs=1e-12)
    assert str(found["high_confidence_errors"]).startswith(f"{wanted['high_confidence_errors']:g} (")
    value = {name: figure.value for name, figure in found.items()}
    assert value["brier"] == pytest.approx(
        value["reliability"] - value["resolution"] + value["uncertainty"] + value["within_bins"], abs=1e-12
    )
    assert all(figure.low <= figure.value <= figure.high for figure in found.values())


def test_confidences_that_are_equal_in_bins_leave_nothing_within_them() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.choice([0.25, 0.55, 0.85], 90)
    assert abs(figures(confidence, rng.random(90) < 0.6, 0.5, seed=0, resamples=9)["within_bins"].value) < 1e-12


def test_the_cost_of_decisions_is_that_of_the_papers_table() -> None:
    # Task 1 of table 3: 900 pictures, 68 % right, 417 right and 74 wrong ones acted on at .9; printed: .096.
    right = np.arange(900) < 612
    confidence = np.where(np.arange(900) < 417, 0.95, 0.2)
    confidence[612 : 612 + 74] = 0.9  # the threshold itself is acted on
    assert decision_costs(confidence, right, 0.9).mean() == pytest.approx(0.0957, abs=5e-5)


def test_intervals_are_quantiles_of_resampled_figures() -> None:
    confidence, right = observed(60, 1)
    found = figures(confidence, right, 0.8, seed=3, resamples=40)
    rows = np.random.default_rng(3).integers(60, size=(40, 60))
    drawn = [one_by_one(confidence[each], right[each], 0.8, 10) for each in rows]
    for name, figure in found.items():
        low, high = np.quantile([each[name] for each in drawn], (0.025, 0.975))
        if name in ("reliability", "resolution", "within_bins", "calibration_error"):
            low, high = 2 * figure.value - high, 2 * figure.value - low
            if name != "within_bins":
                low = max(low, 0)
        assert (figure.low, figure.high) == pytest.approx((min(low, figure.value), max(high, figure.value)), abs=1e-12)


def test_resamples_are_the_same_in_one_go_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    confidence, right = observed(60, 1)
    whole = figures(confidence, right, 0.8, seed=3, resamples=40)
    monkeypatch.setattr("nasplat.calibration.reliability.CELLS", 60 * 7)
    parts = figures(confidence, right, 0.8, seed=3, resamples=40)
    for name, figure in whole.items():
        assert (parts[name].low, parts[name].high) == pytest.approx((figure.low, figure.high))


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    true, _ = observed(200_000, 0)
    risk, hits = np.mean((true - true**1.7) ** 2 + true**1.7 * (1 - true**1.7)), np.mean((true >= 0.9) * true**1.7)
    held = np.zeros(2)
    for seed in range(200):
        found = figures(*observed(150, seed + 1), 0.9, seed=seed, resamples=300)
        held += [
            found["brier"].low <= risk <= found["brier"].high,
            found["high_confidence_rights"].low <= 150 * hits <= found["high_confidence_rights"].high,
        ]
    assert (held >= 0.9 * 200).all() and (held <= 0.99 * 200).all()


def test_no_error_among_few_pictures_is_no_proof_of_none() -> None:
    found = figures(np.full(20, 0.95), np.ones(20, bool), 0.9, seed=0)
    assert found["high_confidence_errors"].value == 0 and found["high_confidence_errors"].low == 0
    assert found["high_confidence_errors"].high == pytest.approx(20 * 1.96**2 / (20 + 1.96**2), rel=1e-3)
    assert found["high_confidence_rights"].high == 20 > found["high_confidence_rights"].low > 16


def test_the_diagram_has_counts_and_wilsons_intervals() -> None:
    found = diagram(np.array([0.05, 0.1, 0.12, 0.95, 1.0]), np.array([False, True, False, True, True]))
    assert found.counts.tolist() == [1, 2, 2] and found.right.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(found.lower, [0, 0.1, 0.9])
    np.testing.assert_allclose(found.upper, [0.1, 0.2, 1])
    np.testing.assert_allclose(found.confidence, [0.05, 0.11, 0.975])
    for hits, count, low, high in zip([0, 1, 2], [1, 2, 2], found.low, found.high, strict=True):
        # The ends are the shares whose normal test at 5 % the observed share just passes.
        for end in (low, high):
            away = abs(hits / count - end) - 1.959964 * math.sqrt(end * (1 - end) / count)
            assert away == pytest.approx(0, abs=1e-6) or (end in (0, 1) and end == hits / count)
    assert wilson(0.5, 10)[0] == pytest.approx(0.2366, abs=1e-4)


def test_figures_of_nothing_or_of_no_confidence_are_refused() -> None:
    for confidence, right, said in (
        (np.zeros(0), np.zeros(0, bool), "at least one"),
        (np.zeros(2), np.zeros(3, bool), "at least one"),
        (np.array([1.2]), np.array([True]), "between 0 and 1"),
        (np.array([np.nan]), np.array([True]), "between 0 and 1"),
    ):
        with pytest.raises(InputError, match=said):
            figures(confidence, right, 0.9, seed=0)
    with pytest.raises(InputError, match="threshold"):
        figures(np.ones(3), np.ones(3, bool), 1.9, seed=0)


# The recommendation


def scores(**given: tuple[float, float]) -> dict[str, Score]:
    usual = given["operational"][0]
    return {name: Score(brier, usual - brier, error) for name, (brier, error) in given.items()}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"none": (0.3, 0.01), "operational": (0.2, 0), "platt": (0.19, 0.01)}, "operational"),
        ({"none": (0.3, 0.01), "operational": (0.2, 0), "platt": (0.17, 0.01)}, "platt"),
        ({"none": (0.3, 0.01), "operational": (0.2, 0), "platt": (0.18, 0.01), "isotonic": (0.17, 0.02)}, "platt"),
        ({"none": (0.2, 0.01), "operational": (0.2, 0), "platt": (0.21, 0.01)}, "none"),
        ({"none": (0.1, 0.01), "operational": (0.2, 0), "platt": (0.15, 0.01)}, "none"),
        ({"none": (0.2, 0.01), "operational": (0.21, 0), "platt": (0.19, 0.05), "isotonic": (0.195, 0.05)}, "platt"),
        ({"none": (0.15, 0.01), "operational": (0.2, 0), "platt": (0.16, 0.01), "isotonic": (0.149, 0.1)}, "isotonic"),
    ],
)
def test_the_usual_one_is_recommended_unless_another_is_surely_better_or_nothing_helps(
    given: dict[str, tuple[float, float]], wanted: str
) -> None:
    assert recommend(scores(**given)).name == wanted


def test_scores_are_of_pictures_that_the_calibrator_did_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, labels = world(43, 0)
    seen: list[tuple[str, int, Floats]] = []

    def spied(name: str, inside: Outputs, own: NDArray[np.int64], **more: Any) -> Any:
        calibrator = fit(name, inside, own, **more)

        def calibrated(held_out: Outputs) -> Floats:
            assert not {tuple(row) for row in inside.logits} & {tuple(row) for row in held_out.logits}
            assert len(inside) + len(held_out) == 43
            seen.append((name, len(held_out), rights(inside, own).mean()))
            return calibrator(held_out)

        return calibrated

    monkeypatch.setattr(recommendation, "fit", spied)
    errors = held_out_errors(outputs, labels, ("none", "temperature"), 0)
    assert [count for name, count, _ in seen if name == "temperature"] == [9, 9, 9, 8, 8]
    assert np.ptp([share for _, _, share in seen]) < 0.04, "folds have about as many right ones"
    np.testing.assert_allclose(errors["none"], (outputs.confidence - rights(outputs, labels)) ** 2)


@pytest.mark.slow
def test_recommendations_follow_the_data() -> None:
    found = recommended(*world(100, 0, local=True), seed=0)
    assert found.name == "operational" and set(found.scores) == set(NAMES)
    assert found.scores["operational"].gain == 0 < found.scores["none"].error
    errors = held_out_errors(*world(100, 0, local=True), NAMES, 0)
    gains = errors["operational"] - errors["temperature"]
    assert found.scores["temperature"].brier == pytest.approx(errors["temperature"].mean())
    assert found.scores["temperature"].gain == pytest.approx(gains.mean())
    assert found.scores["temperature"].error == pytest.approx(gains.std(ddof=1) / 10)
    sure, _ = world(60, 1)  # a network that is right throughout, and says so
    certain = Outputs(sure.logits * 1000, sure.features)
    assert recommended(certain, certain.predicted, seed=0).name == "none"


@pytest.mark.slow
def test_pictures_that_were_chosen_at_the_threshold_do_not_count() -> None:
    outputs, labels = world(60, 0)
    fair = np.arange(60) < 40
    found = recommended(outputs, labels, seed=0, names=("none", "operational"), fair=fair)
    errors = held_out_errors(outputs, labels, ("none", "operational"), 0)
    assert found.scores["none"].brier == pytest.approx(errors["none"][:40].mean())
    few = recommended(outputs, labels, seed=0, names=("none", "operational"), fair=np.arange(60) < 9)
    assert few.scores["none"].brier == pytest.approx(errors["none"].mean())


def test_recommendations_without_enough_to_compare_are_refused() -> None:
    outputs, labels = world(9, 0)
    with pytest.raises(InputError, match="at least 10"):
        recommended(outputs, labels, seed=0)
    with pytest.raises(InputError, match="left out"):
        recommended(outputs, labels, seed=0, names=("none", "platt"))
    with pytest.raises(InputError, match="no calibrator"):
        recommended(outputs, labels, seed=0, names=("nothing",))
