"""Acquisition functions against sampling, quadrature and hand-made cases."""

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray
from pymoo.indicators.hv import HV
from scipy.integrate import quad
from scipy.stats import norm

from nasplat.surrogates.acquisition import (
    drawn,
    expected_hypervolume_improvement,
    expected_improvement,
    non_dominated,
)

Floats = NDArray[np.float64]
FRONT = np.array([[1.0, 3.0], [2.0, 2.0], [2.5, 0.5], [0.5, 0.2], [2.0, 2.0]])  # one dominated, one twice
REFERENCE = np.array([0.0, 0.1])


def volume(points: Floats, reference: Floats) -> float:
    return float(HV(ref_point=-reference)(-np.maximum(points, reference)))


def gain(point: Floats, front: Floats, reference: Floats) -> float:
    return volume(np.vstack([front, point]), reference) - volume(front, reference)


@pytest.mark.parametrize(("mean", "deviation", "best"), [(0.0, 1.0, 0.5), (2.0, 0.3, 1.0), (-3.0, 2.0, 0.0)])
def test_expected_improvement_is_its_integral(mean: float, deviation: float, best: float) -> None:
    def integrand(y: float) -> float:
        return float((y - best) * norm.pdf(y, mean, deviation))

    integral, _ = quad(integrand, best, mean + 12 * deviation)
    found = expected_improvement(np.array([mean]), np.array([deviation]), best)
    assert found[0] == pytest.approx(integral, rel=1e-8)


def test_a_certain_figure_improves_by_what_it_exceeds_the_best_by() -> None:
    found = expected_improvement(np.array([1.0, 3.0]), np.zeros(2), 2.0)
    assert found == pytest.approx([0.0, 1.0])


def test_the_front_is_what_nothing_exceeds_each_once() -> None:
    assert non_dominated(FRONT).tolist() == [[1.0, 3.0], [2.0, 2.0], [2.5, 0.5]]
    assert non_dominated(np.zeros((0, 2))).shape == (0, 2)


def test_of_certain_figures_the_volume_added_is_exact() -> None:
    points = default_rng(0).uniform(-0.5, 3.5, (200, 2))
    found = expected_hypervolume_improvement(points, np.zeros((200, 2)), FRONT, REFERENCE, default_rng(0))
    assert found == pytest.approx([gain(point, FRONT, REFERENCE) for point in points], abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("certain", [None, 0, 1])
def test_the_expected_volume_is_the_mean_over_draws(certain: int | None) -> None:
    rng = default_rng(1)
    means, deviations = rng.uniform(0, 3, (6, 2)), rng.uniform(0.2, 1, (6, 2))
    if certain is not None:
        deviations[:, certain] = 0.0
    found = expected_hypervolume_improvement(means, deviations, FRONT, REFERENCE, rng)
    for each, mean, deviation in zip(found, means, deviations, strict=True):
        gains = [gain(mean + deviation * rng.standard_normal(2), FRONT, REFERENCE) for _ in range(3000)]
        assert each == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / 3000**0.5 + 1e-3)


def test_without_a_front_all_volume_above_the_reference_is_new() -> None:
    points = np.array([[1.0, 1.1], [-1.0, 5.0]])
    found = expected_hypervolume_improvement(points, np.zeros((2, 2)), np.zeros((0, 2)), REFERENCE, default_rng(0))
    assert found == pytest.approx([1.0, 0.0])


def test_of_three_certain_figures_the_volume_added_is_exact_and_the_hopeless_come_last() -> None:
    rng = default_rng(2)
    front, reference = rng.uniform(0, 1, (8, 3)), np.full(3, -0.1)
    points = rng.uniform(0, 1.1, (60, 3))
    found = expected_hypervolume_improvement(points, np.zeros((60, 3)), front, reference, rng)
    exact = np.array([gain(point, front, reference) for point in points])
    improving = exact > 1e-9
    assert improving.any() and not improving.all()
    assert found[improving] == pytest.approx(exact[improving], abs=1e-9)
    assert (found[~improving] > 0).all() and found[~improving].max() < 1e-11


def on_one_front(count: int, seed: int) -> Floats:
    """Points of the positive part of a sphere: none dominates another."""
    points = np.abs(default_rng(seed).standard_normal((count, 3)))
    found: Floats = points / np.linalg.norm(points, axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("deviation", [0.0, 0.05])
def test_the_best_of_many_on_one_front_is_found_wherever_it_stands(deviation: float) -> None:
    points, reference = on_one_front(300, 0), np.zeros(3)
    front = 0.9 * on_one_front(30, 1)
    exact = np.array([gain(point, front, reference) for point in points])
    by_worth = np.argsort(exact)
    deviations = np.full(points.shape, deviation)
    found = expected_hypervolume_improvement(points[by_worth], deviations, front, reference, default_rng(0))
    assert found.argmax() >= 300 - 3, "the best, or nearly so, stands last"
    if not deviation:
        assert found == pytest.approx(exact[by_worth], abs=1e-12)


def test_certain_figures_take_one_volume_each(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, compute = list[int](), HV.do

    def counted(self: HV, points: Floats) -> float:
        computed.append(len(points))
        return float(compute(self, points))

    monkeypatch.setattr(HV, "do", counted)
    points = on_one_front(100, 0)
    expected_hypervolume_improvement(points, np.zeros((100, 3)), 0.9 * on_one_front(5, 1), np.zeros(3), default_rng(0))
    assert len(computed) <= 100 + 1


@pytest.mark.slow
def test_joint_draws_have_the_covariance_that_they_were_asked_for() -> None:
    root = default_rng(3).standard_normal((4, 2))  # of rank two: rounding makes eigenvalues negative
    covariance, mean = root @ root.T, np.arange(4.0)
    rng = default_rng(4)
    draws = np.array([drawn(mean, covariance, rng) for _ in range(20_000)])
    assert draws.mean(axis=0) == pytest.approx(mean, abs=0.06)
    assert np.cov(draws.T) == pytest.approx(covariance, abs=0.12)
