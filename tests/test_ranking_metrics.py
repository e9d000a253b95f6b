"""Figures of rankings against brute force, and what learning curves are drawn from."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from typing import ClassVar, Self

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import FittedState, Predictor
from nasplat.surrogates import ranking_metrics
from nasplat.surrogates.ranking_metrics import Interval, Ranking, cross_validated, evaluate, splits
from nasplat.testing.toy import ToySpace, toy_accuracy


class Nearest(Predictor):
    """The score of the nearest code it has seen; refuses to learn from exactly 13."""

    name: ClassVar[str] = "nearest"

    def __init__(self, space: ToySpace) -> None:
        super().__init__(space)
        self.seen: list[tuple[str, float]] = []

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        if len(architectures) == 13:
            raise InputError("thirteen is too many")
        self.seen = [(a.code, float(score)) for a, score in zip(architectures, scores, strict=True)]
        return self

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        def nearest(code: str) -> float:
            return min(self.seen, key=lambda each: sum(a != b for a, b in zip(each[0], code, strict=True)))[1]

        return np.array([nearest(a.code) for a in architectures])

    def get_state(self) -> FittedState:
        return FittedState({"seen": self.seen})

    def set_state(self, state: FittedState) -> None:
        self.seen = state.values["seen"]


class Mirrored(ToySpace):
    """A code and its reverse count as the same function."""

    def canonical_key(self, architecture: Architecture) -> str:
        return min(architecture.code, architecture.code[::-1])


def members(space: ToySpace) -> list[Architecture]:
    """All 256 of the toy space."""
    return [space.member([i // 64, i // 16 % 4, i // 4 % 4, i % 4]) for i in range(256)]


def drawn(n: int, levels: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two related rankings with ties."""
    rng = default_rng(seed)
    truth = rng.integers(levels, size=n).astype(np.float64)
    return truth + rng.integers(-levels // 2, levels // 2 + 1, size=n), truth


@pytest.mark.parametrize(("n", "levels", "seed"), [(2, 2, 3), (7, 3, 0), (40, 5, 1), (60, 1000, 2)])
def test_tau_is_that_of_all_pairs(n: int, levels: int, seed: int) -> None:
    predicted, truth = drawn(n, levels, seed)
    right = wrong = distinct_a = distinct_b = 0
    for i, j in combinations(range(n), 2):
        a, b = np.sign(predicted[i] - predicted[j]), np.sign(truth[i] - truth[j])
        right, wrong = right + (a * b > 0), wrong + (a * b < 0)
        distinct_a, distinct_b = distinct_a + (a != 0), distinct_b + (b != 0)
    expected = (right - wrong) / math.sqrt(distinct_a * distinct_b) if distinct_a and distinct_b else 0.0
    assert ranking_metrics.kendall_tau(predicted, truth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "levels", "seed"), [(7, 3, 0), (40, 5, 1), (60, 1000, 2)])
def test_spearman_is_the_correlation_of_mean_ranks(n: int, levels: int, seed: int) -> None:
    def ranks(values: NDArray[np.float64]) -> list[Fraction]:
        return [Fraction(int((values < v).sum() * 2 + (values == v).sum() + 1), 2) for v in values]

    predicted, truth = drawn(n, levels, seed)
    a, b = ranks(predicted), ranks(truth)
    middle = Fraction(n + 1, 2)
    covariance = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    scale = math.sqrt(sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b))
    assert ranking_metrics.spearman_rho(predicted, truth) == pytest.approx(float(covariance) / scale, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_what_is_constant_ranks_nothing() -> None:
    rising, flat = np.arange(5.0), np.ones(5)
    for a, b in ((flat, rising), (rising, flat), (flat, flat)):
        assert ranking_metrics.kendall_tau(a, b) == ranking_metrics.spearman_rho(a, b) == 0.0


def test_a_large_ranking_takes_little_time() -> None:
    rng = default_rng(0)
    truth = rng.normal(size=423_624)
    tau = ranking_metrics.kendall_tau(truth + rng.normal(size=len(truth)), truth)
    # Jointly normal with correlation 1/sqrt(2): tau is 2/pi arcsin(rho), 1/2 (Kendall & Gibbons, 1990, sec. 9).
    assert tau == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("top", [1, 3, 10, 50])
def test_precision_and_regret_of_the_best(top: int) -> None:
    predicted, truth = drawn(40, 1000, 4)
    by_prediction = sorted(range(40), key=lambda i: -predicted[i])[:top]
    by_truth = sorted(range(40), key=lambda i: -truth[i])[:top]
    expected = len(set(by_prediction) & set(by_truth)) / min(top, 40)
    assert ranking_metrics.precision_at(top, predicted, truth) == pytest.approx(expected)
    lost = max(truth) - max(truth[i] for i in by_prediction)
    assert ranking_metrics.regret_at(top, predicted, truth) == lost


def test_whatever_ties_with_the_last_of_the_best_is_one_of_them() -> None:
    truth = np.array([3.0, 2.0, 2.0, 2.0, 1.0])
    predicted = np.array([0.0, 0.0, 5.0, 4.0, 1.0])
    assert ranking_metrics.precision_at(2, predicted, truth) == 1.0
    assert ranking_metrics.regret_at(2, predicted, truth) == 1.0
    assert ranking_metrics.precision_at(3, predicted, truth) == pytest.approx(2 / 3)


def test_bad_rankings_are_refused() -> None:
    two, three = np.arange(2.0), np.arange(3.0)
    for call in (
        lambda: ranking_metrics.kendall_tau(two, three),
        lambda: ranking_metrics.spearman_rho(two[:1], two[:1]),
        lambda: ranking_metrics.precision_at(0, two, two),
        lambda: ranking_metrics.regret_at(2, three, two),
        lambda: Interval.of([]),
    ):
        with pytest.raises(InputError):
            call()


def test_an_interval_is_student_s() -> None:
    # t(0.975; 4 degrees of freedom) = 2.776445 from printed tables; s = sqrt(2.5)
    found = Interval.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert math.isnan(Interval.of([1.0]).half)


def test_an_interval_holds_the_mean_19_times_in_20() -> None:
    rng = default_rng(0)
    intervals = [Interval.of(rng.normal(7.0, 2.0, size=5)) for _ in range(2000)]
    held = np.mean([abs(each.mean - 7.0) <= each.half for each in intervals])
    assert 0.94 < held < 0.96


def test_cross_validation_predicts_each_by_one_that_had_not_seen_it() -> None:
    space = ToySpace()
    architectures = members(space)[:50]
    scores = np.array([toy_accuracy(a) for a in architectures])
    found = cross_validated(lambda: Nearest(space), architectures, scores, 4, default_rng(0))
    assert sorted(np.bincount(found.fold)) == [12, 12, 13, 13]
    for i in range(50):
        others = [j for j in range(50) if found.fold[j] != found.fold[i]]
        again = Nearest(space).fit([architectures[j] for j in others], scores[others]).predict([architectures[i]])
        assert found.predicted[i] == again[0]
    for fold in range(4):
        held = found.fold == fold
        assert found.taus[fold] == ranking_metrics.kendall_tau(found.predicted[held], scores[held])
    assert found.tau.mean == pytest.approx(found.taus.mean())
    with pytest.raises(InputError, match="fewer folds"):
        cross_validated(lambda: Nearest(space), architectures[:7], scores[:7], 4, default_rng(0))


def test_splits_are_apart_reproducible_and_independent_of_each_other() -> None:
    space = Mirrored()
    architectures = members(space)
    few = list(splits(space, architectures, sizes=[30], number=2, seed=1, test=100))
    many = list(splits(space, architectures, sizes=[20, 30], number=3, seed=1, test=100))
    assert [(s.size, s.number) for s in many] == [(20, 0), (20, 1), (20, 2), (30, 0), (30, 1), (30, 2)]
    for a, b in zip(few, many[3:], strict=False):
        assert np.array_equal(a.training, b.training) and np.array_equal(a.test, b.test)
    for split in many:
        assert len(set(split.training)) == split.size and len(set(split.test)) == 100
        assert not set(split.training) & set(split.test)
        seen = {architectures[i].code for i in split.training}
        for i, twin in zip(split.test, split.duplicate, strict=True):
            assert twin == (architectures[i].code[::-1] in seen)
    assert any(split.duplicate.any() for split in many)
    assert not np.array_equal(many[0].training, many[1].training)
    (whole,) = splits(space, architectures, sizes=[30], number=1, seed=1)
    assert sorted([*whole.training, *whole.test]) == list(range(256))


def test_every_member_is_drawn_equally_often() -> None:
    space = ToySpace()
    counts = np.zeros(256)
    for split in splits(space, members(space), sizes=[64], number=400, seed=0):
        counts[split.training] += 1
    assert abs(counts.mean() - 100) < 1e-9
    assert counts.min() > 60 and counts.max() < 140  # 4.6 standard deviations of a binomial


@pytest.mark.parametrize(
    ("sizes", "number", "test"), [([255], 1, None), ([0], 1, None), ([5], 0, None), ([5], 1, 1)], ids=str
)
def test_impossible_splits_are_refused(sizes: list[int], number: int, test: int | None) -> None:
    space = ToySpace()
    with pytest.raises(InputError):
        list(splits(space, members(space), sizes=sizes, number=number, seed=0, test=test))


def test_learning_curves_rank_what_was_not_learnt_with_and_without_twins() -> None:
    space = Mirrored()
    architectures = members(space)
    scores = np.array([toy_accuracy(a) for a in architectures])

    def drawn() -> list[ranking_metrics.Split]:
        return list(splits(space, architectures, sizes=[13, 40], number=2, seed=3))

    makes = {"a": lambda: Nearest(space), "b": lambda: Nearest(space)}
    trials = list(evaluate(makes, architectures, scores, iter(drawn()), top=5))
    assert [(t.size, t.split, t.predictor) for t in trials] == [
        (size, split, name) for size in (13, 40) for split in (0, 1) for name in "ab"
    ]
    assert all("thirteen" in t.problem and t.all is None for t in trials if t.size == 13)
    for split, trial in zip(drawn()[2:], trials[4::2], strict=True):
        predictor = Nearest(space).fit([architectures[i] for i in split.training], scores[split.training])
        predicted = predictor.predict([architectures[i] for i in split.test])
        truth, fresh = scores[split.test], ~split.duplicate
        assert trial.all == Ranking.of(predicted, truth, top=5)
        assert trial.fresh == Ranking.of(predicted[fresh], truth[fresh], top=5)
        assert trial.ranked == 216 and trial.duplicates == split.duplicate.sum() > 0
        assert trial.fit_seconds >= 0 and trial.predict_seconds > 0
    left = list(evaluate(makes, architectures, scores, iter(drawn()), top=5, done=[("a", 40, 0), ("b", 13, 1)]))
    assert len(left) == 6 and ("a", 40, 0) not in [(t.predictor, t.size, t.split) for t in left]
