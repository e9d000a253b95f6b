"""Target transforms: their inverses give the scores back, in any unit, with deviations in it."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.stats import norm

from nasplat.predictors.gaussian_process import GaussianProcess
from nasplat.target import (
    KNOTS,
    Line,
    LogDistance,
    MeanTransform,
    NormalScores,
    TargetTransform,
    normal_scores,
    transform_of,
)
from nasplat.testing.toy import ToySpace, toy_accuracy

SCORES = default_rng(0).beta(8, 1, 200)
"""Like accuracies: most of them near the best, and a long tail."""


def test_the_logarithm_of_a_distance_is_inverted_exactly() -> None:
    transform = LogDistance.of(SCORES, 0.25)
    targets = transform.targets(SCORES)
    best, median = max(SCORES), float(np.median(SCORES))
    by_hand = [-math.log((best - s) / (best - median) + 0.25) for s in SCORES]
    assert targets == pytest.approx(by_hand, rel=1e-12)
    assert transform.inverse(targets) == pytest.approx(SCORES, rel=1e-12)
    assert transform.inverse(np.array([50.0]))[0] == pytest.approx(best + 0.25 * (best - median))  # the point above


def test_normal_scores_are_inverted_at_the_examples_and_between_them() -> None:
    scores = np.round(SCORES, 2)  # with ties
    transform = NormalScores.of(scores)
    targets = normal_scores(scores)
    assert transform.inverse(targets) == pytest.approx(scores, rel=1e-12)
    between = transform.inverse(np.linspace(-6, 6, 1001))
    assert (np.diff(between) > 0).all(), "a higher prediction is a higher score, beyond the examples too"
    assert between[-1] < 2 * scores.max()


def test_many_examples_are_thinned_out_and_still_their_quantiles() -> None:
    scores = default_rng(1).normal(3, 2, 20 * KNOTS)
    transform = NormalScores.of(scores)
    assert len(transform.scores) == KNOTS
    inner = np.sort(scores)[KNOTS:-KNOTS]
    assert transform.inverse(np.sort(normal_scores(scores))[KNOTS:-KNOTS]) == pytest.approx(inner, abs=0.02)
    assert (transform.scores[0], transform.scores[-1]) == (scores.min(), scores.max())


def test_deviations_cover_what_the_distribution_of_the_score_covers() -> None:
    """The reference: half the distance of the quantiles of simulated scores at one deviation to either side."""
    for transform in (LogDistance.of(SCORES, 0.5), NormalScores.of(SCORES)):
        target, deviation = np.array([-0.2]), np.array([0.4])
        drawn = transform.inverse(default_rng(2).normal(target[0], deviation[0], 200_000))
        low, high = np.quantile(drawn, [norm.cdf(-1), norm.cdf(1)])
        assert transform.deviations(target, deviation)[0] == pytest.approx((high - low) / 2, rel=0.02)


def test_a_line_is_of_least_squares_and_never_falls() -> None:
    targets = default_rng(3).normal(size=50)
    scores = 3 * targets + default_rng(4).normal(size=50)
    line = Line.fitted(targets, scores)
    slope, offset = np.polyfit(targets, scores, 1)
    assert [line.slope, line.offset] == pytest.approx([slope, offset])
    falling = Line.fitted(targets, -scores)
    assert falling.slope == pytest.approx(scores.std() / targets.std())
    assert falling.inverse(targets).mean() == pytest.approx(-scores.mean())
    assert Line.fitted(np.zeros(3), np.arange(3.0)).inverse(np.zeros(1)) == pytest.approx([1.0])


@pytest.mark.parametrize("scores", [np.full(5, 0.7), np.array([0.2, 0.7]), np.array([0.7, 0.7, 0.7, 0.1])], ids=str)
@pytest.mark.parametrize("make", [NormalScores.of, lambda s: LogDistance.of(s, 0.25)], ids=["normal", "log"])
def test_few_or_equal_scores_are_inverted_too(make: Callable[..., TargetTransform], scores: np.ndarray) -> None:
    transform = make(scores)
    targets = transform.targets(scores) if isinstance(transform, LogDistance) else normal_scores(scores)
    assert transform.inverse(targets) == pytest.approx(scores, rel=1e-12)


ALL: list[TargetTransform] = [
    Line(),
    Line(2.5, -1.0),
    LogDistance.of(SCORES, 0.25),
    NormalScores.of(SCORES),
    MeanTransform((NormalScores.of(SCORES[:90]), NormalScores.of(SCORES[90:]))),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda each: each.kind)
def test_json_says_what_it_is(transform: TargetTransform) -> None:
    assert transform_of(json.loads(json.dumps(transform.as_json()))) == transform


@pytest.mark.parametrize(
    "tree",
    [
        None,
        {"kind": "square"},
        {"kind": "line", "slope": -1, "offset": 0},
        {"kind": "line", "slope": "1", "offset": 0},
        {"kind": "log distance", "best": 1, "unit": 0, "headroom": 1},
        {"kind": "normal scores", "targets": [], "scores": []},
        {"kind": "normal scores", "targets": [0, 1], "scores": [1, 0]},
        {"kind": "mean", "parts": []},
    ],
    ids=str,
)
def test_what_is_no_increasing_function_is_refused(tree: object) -> None:
    with pytest.raises(ValueError, match="target transform"):
        transform_of(tree)


@pytest.mark.slow
def test_a_process_on_logarithms_estimates_what_it_was_fitted_to() -> None:
    """Half of the estimates of unseen architectures are nearer than half a deviation of the scores."""
    space, rng = ToySpace(), default_rng(0)
    architectures = [space.sample(rng) for _ in range(80)]
    scores = np.array([toy_accuracy(a) for a in architectures])
    process = GaussianProcess(space, target="log", tuned_on=30)
    values, deviations = process.fit(architectures[:50], scores[:50]).estimate(architectures[50:])
    assert np.median(np.abs(values - scores[50:])) < scores.std() / 2
    assert deviations is not None and 0 < np.median(deviations) < 2 * scores.std()
