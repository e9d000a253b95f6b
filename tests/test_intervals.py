"""Coverage of predictors' intervals, the factor that corrects deviations, and how the command reports both."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.random import default_rng
from scipy.integrate import quad
from scipy.optimize import brentq
from typer.testing import CliRunner

from nasplat.architecture import Architecture
from nasplat.cli import evaluating
from nasplat.cli.evaluation_record import TRIALS, _trial
from nasplat.predictor import Predictor
from nasplat.proportion import half_width, wilson
from nasplat.registry import SEARCH_SPACES
from nasplat.surrogates import intervals
from nasplat.surrogates.intervals import (
    CORRECTED_LEVEL,
    FOLDS,
    LEVELS,
    Coverage,
    covered,
    cross_fitted,
    fitted_factor,
    folds_of,
    ratios,
)
from nasplat.surrogates.ranking_metrics import evaluate, splits

app = typer.Typer()
app.command("evaluate")(evaluating.evaluate)


def drawn(n: int, *, error: float = 1.0, seed: int = 0) -> tuple[Any, Any, Any]:
    """Estimates, their deviations, and scores whose true deviations are `error` times as large."""
    rng = default_rng(seed)
    values, deviations = rng.normal(size=n), rng.uniform(0.1, 3, n)
    return values, deviations, values + error * deviations * rng.normal(size=n)


# The parts, against independent computations


@pytest.mark.parametrize("level", LEVELS)
def test_an_interval_holds_its_level_of_a_normal_distribution(level: float) -> None:
    half = half_width(level)
    mass, _ = quad(lambda x: math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), -half, half)
    assert mass == pytest.approx(level, abs=1e-9)


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (3, 10), (450, 500)])
def test_wilson_s_ends_are_where_the_score_test_begins_to_reject(hits: int, n: int) -> None:
    share = hits / n

    def score(p: float) -> float:
        return abs(share - p) - 1.959963984540054 * math.sqrt(p * (1 - p) / n)

    low, high = wilson(share, n)
    assert low == pytest.approx(0 if hits == 0 else brentq(score, 1e-12, share - 1e-6, xtol=1e-13), abs=1e-9)
    assert high == pytest.approx(1 if hits == n else brentq(score, share + 1e-6, 1 - 1e-12, xtol=1e-13), abs=1e-9)
    assert 0 <= low <= share <= high <= 1


@pytest.mark.parametrize("n", [9, 10, 19, 29, 30, 99, 250])
def test_the_factor_is_the_smallest_that_covers_enough(n: int) -> None:
    errors = np.abs(default_rng(n).standard_t(2, n))
    factor = fitted_factor(errors)
    # Of all candidates, the smallest for which the interval reaches 9/10 of the errors and one further error.
    wanted = min(
        f for f in errors / half_width(0.9) if 10 * sum(errors <= f * half_width(0.9) * 1.000001) >= 9 * (n + 1)
    )
    assert factor == pytest.approx(wanted, rel=1e-12)


def test_too_few_errors_have_no_factor() -> None:
    assert fitted_factor(np.ones(8)) == math.inf and fitted_factor(np.ones(9)) < 1


def test_a_further_error_is_covered_as_often_as_the_level_says() -> None:
    """On average over fits, for any distribution: here one with heavy tails, and few errors."""
    rng = default_rng(0)
    shares = []
    for _ in range(1000):
        factor = fitted_factor(np.abs(rng.standard_t(1.5, 19)))
        shares.append(float((np.abs(rng.standard_t(1.5, 200)) <= factor * half_width(0.9)).mean()))
    assert np.mean(shares) == pytest.approx(18 / 20, abs=0.01)  # exactly ⌈.9 · 20⌉ / 20


def test_a_deviation_of_zero_covers_only_an_exact_value() -> None:
    errors = ratios(np.array([1.0, 1.0, 2.0]), np.array([0.0, 0.0, 0.5]), np.array([1.0, 1.1, 3.0]))
    assert errors.tolist() == [0.0, math.inf, 2.0]
    assert covered(errors).tolist() == [[True] * 3, [False] * 3, [False] * 3]
    assert covered(errors, 2.0).tolist() == [[True] * 3, [False] * 3, [False, True, True]]


def test_folds_keep_groups_together_and_take_turns() -> None:
    groups = default_rng(1).integers(0, 40, 200)
    fold = folds_of(groups)
    assert all(len(set(fold[groups == group])) == 1 for group in groups)
    order = list(dict.fromkeys(groups.tolist()))
    assert [int(fold[groups == group][0]) for group in order] == [i % FOLDS for i in range(len(order))]


# Coverage before and after the correction


def test_counts_and_factors_are_those_of_a_loop() -> None:
    values, deviations, scores = drawn(83, error=1.7, seed=3)
    groups = default_rng(2).integers(0, 50, 83)
    found = Coverage.of(values, deviations, scores, groups)
    z = [0.6744897501960817, 1.6448536269514722, 1.959963984540054]
    errors = [abs(s - v) / d for v, d, s in zip(values, deviations, scores, strict=True)]
    order = list(dict.fromkeys(groups.tolist()))
    fold = [order.index(group) % 5 for group in groups]
    factors = []
    for each in range(5):
        others = sorted(e for e, f in zip(errors, fold, strict=True) if f != each)
        factors.append(others[-(-9 * (len(others) + 1) // 10) - 1] / z[1])
    assert found.n == 83 and found.problem == ""
    assert found.inside == tuple(sum(e <= half for e in errors) for half in z)
    assert found.corrected == tuple(
        sum(e <= half * factors[f] for e, f in zip(errors, fold, strict=True)) for half in z
    )
    assert found.factor == pytest.approx(np.mean(factors))


def test_normal_scores_are_covered_nominally() -> None:
    found = Coverage.of(*drawn(20_000), np.arange(20_000))
    assert found.inside is not None and found.corrected is not None
    for counts in (found.inside, found.corrected):
        assert np.array(counts) / found.n == pytest.approx(LEVELS, abs=0.01)
    assert found.factor == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("error", [2.0, 0.5])
def test_wrong_deviations_are_detected_and_corrected(error: float) -> None:
    """Deviations half as large as they should be get the factor 2; those twice as large get ½."""
    found = Coverage.of(*drawn(20_000, error=error), np.arange(20_000))
    assert found.inside is not None and found.corrected is not None
    nominal = [1 - math.erfc(half_width(level) / error / math.sqrt(2)) for level in LEVELS]
    assert np.array(found.inside) / found.n == pytest.approx(nominal, abs=0.015)
    low, high = wilson(found.inside[1] / found.n, found.n)
    assert not low <= 0.9 <= high
    assert found.factor == pytest.approx(error, rel=0.02)
    assert np.array(found.corrected) / found.n == pytest.approx(LEVELS, abs=0.01)


def test_corrected_coverage_is_never_computed_on_what_the_factor_was_fitted_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each error is named by its own value; neither it nor one of its group is among those of its factor."""
    errors = default_rng(4).permutation(np.arange(1.0, 61.0))
    groups = default_rng(5).integers(0, 30, 60)
    seen: list[set[float]] = []
    fit = intervals.fitted_factor

    def recorded(others: Any) -> float:
        seen.append(set(others.tolist()))
        return fit(others)

    monkeypatch.setattr(intervals, "fitted_factor", recorded)
    fold = folds_of(groups)
    factors = cross_fitted(errors, fold)
    assert len(seen) == FOLDS
    for error, group, each, factor in zip(errors, groups, fold, factors, strict=True):
        fitted = seen[each]
        assert not fitted & set(errors[groups == group].tolist()) and error not in fitted
        assert factor == fit(np.array(sorted(fitted)))


def test_one_wild_error_is_not_in_its_own_factor() -> None:
    """Nine errors of 1 in other folds and a wild one: a factor that had seen it would cover it."""
    n = 12
    scores = np.ones(n)
    scores[0] = 1000.0
    found = Coverage.of(np.zeros(n), np.ones(n), scores, np.arange(n))
    assert found.corrected is not None and found.corrected[1] == n - 1
    alone = cross_fitted(scores, np.array([0] + [1] * (n - 1)))
    assert alone[0] == pytest.approx(1 / half_width(CORRECTED_LEVEL))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 10}, "too few held-out"),
        ({"deviation": 0.0}, "deviations are 0"),
        ({"deviation": -1.0}, "negative"),
        ({"deviation": math.nan}, "not every"),
        ({"n": 0}, "every held-out architecture has a duplicate"),
    ],
)
def test_what_cannot_be_computed_says_why(change: dict[str, Any], said: str) -> None:
    values, deviations, scores = drawn(change.get("n", 40))
    if "deviation" in change:
        deviations[:20] = change["deviation"]
    found = Coverage.of(values, deviations, scores, np.arange(len(values)))
    assert said in found.problem and found.corrected is None and found.factor is None
    assert (found.inside is None) == (said not in ("too few held-out", "deviations are 0"))


def test_equal_errors_lie_in_the_interval_that_they_fix() -> None:
    found = Coverage.of(np.zeros(50), np.full(50, 0.1), np.full(50, 0.7), np.arange(50))
    assert found.inside == (0, 0, 0) and found.corrected == (0, 50, 50)


# The evaluation and the command


class Fixed(Predictor):
    """Estimates a half, with the deviations that a function gives for the number of architectures."""

    name = "tests:fixed"

    def __init__(self, space: Any, deviations: Any) -> None:
        super().__init__(space)
        self.given = deviations

    def fit(self, architectures: Sequence[Architecture], scores: Any) -> "Fixed":
        return self

    def predict(self, architectures: Sequence[Architecture]) -> Any:
        return np.full(len(architectures), 0.5)

    def predict_uncertain(self, architectures: Sequence[Architecture]) -> tuple[Any, Any]:
        return self.predict(architectures), self.given(len(architectures))

    def get_state(self) -> Any:
        raise NotImplementedError

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


def cells(n: int) -> list[Architecture]:
    space, rng = SEARCH_SPACES.get("nasbench201")(), default_rng(0)
    return sorted({space.sample(rng) for _ in range(n)}, key=lambda each: each.code)


def test_only_what_the_training_set_has_no_duplicate_of_counts() -> None:
    space, members = SEARCH_SPACES.get("nasbench201")(), cells(250)
    scores = default_rng(1).normal(0.5, 0.1, len(members))
    (split,) = splits(space, members, sizes=[100], number=1, seed=0)
    fresh = [i for i, duplicate in zip(split.test, split.duplicate, strict=True) if not duplicate]
    assert 0 < len(fresh) < len(split.test)
    keys = [space.canonical_key(members[i]) for i in split.test.tolist()]
    same = np.array(keys)[:, None] == np.array(keys)
    assert np.array_equal(split.group[:, None] == split.group, same)
    (trial,) = evaluate({"fixed": lambda: Fixed(space, lambda n: np.full(n, 0.1))}, members, scores, iter([split]))
    assert trial.intervals is not None and trial.intervals.n == len(fresh)
    assert trial.intervals.inside == tuple(
        int((np.abs(scores[fresh] - 0.5) <= half_width(level) * 0.1).sum()) for level in LEVELS
    )


@pytest.mark.parametrize(
    ("deviations", "said"),
    [
        (lambda n: None, "it predicts no deviations"),
        (lambda n: np.ones(1) if n == 1 else None, "only of some"),
        (lambda n: 1 / 0, "ZeroDivisionError"),
        (lambda n: np.full(n, np.inf), "not every"),
    ],
)
def test_a_ranking_remains_where_there_are_no_intervals(deviations: Any, said: str) -> None:
    space, members = SEARCH_SPACES.get("nasbench201")(), cells(30)
    drawn_splits = splits(space, members, sizes=[10], number=1, seed=0)
    scores = default_rng(1).normal(size=len(members))
    (trial,) = evaluate({"fixed": lambda: Fixed(space, deviations)}, members, scores, drawn_splits)
    assert trial.all is not None and not trial.problem
    assert trial.intervals is not None and trial.intervals.inside is None and said in trial.intervals.problem


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """An evaluation of a predictor with deviations and one without, four trials."""
    rows = [f"{each.code},{each.code.count('3') / 10 + int(each.code) / 1e9}\n" for each in cells(60)]
    (tmp_path / "scores.csv").write_text("architecture,accuracy\n" + "".join(rows))
    kinds = "--predictor isotropic_gaussian_process --predictor gradient_boosting --set gradient_boosting.trees=5"
    given = f"{tmp_path / 'scores.csv'} --space nasbench201 --sizes 20 --splits 2 --top 3 {kinds}"
    return given.split()


def run(*arguments: object) -> str:
    """Run the command, and give what it prints on standard output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_the_command_reports_coverage_and_correction(arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    document = json.loads(run(*arguments, "--out", folder, "--correct-intervals", "--json"))
    by_name = {row["predictor"]: row["intervals"] for row in document["results"]}
    none, found = by_name["gradient_boosting"], by_name["isotropic_gaussian_process"]
    assert none == {
        "n": None, "splits": 0, "coverage": None, "problems": ["it predicts no deviations"],
        "corrected": {"factor": None, "splits": 0, "coverage": None},
    }  # fmt: skip
    assert found["splits"] == found["corrected"]["splits"] == 2 and found["problems"] == []
    with (folder / "trials.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["predictor"] == "isotropic_gaussian_process"]
    assert found["n"] == pytest.approx(np.mean([float(row["interval_scores"]) for row in rows]))
    assert found["corrected"]["factor"]["mean"] == pytest.approx(
        np.mean([float(row["interval_factor"]) for row in rows])
    )
    for part, column in ((found, "coverage"), (found["corrected"], "corrected_coverage")):
        assert [share["level"] for share in part["coverage"]] == list(LEVELS)
        for share in part["coverage"]:
            mean = float(np.mean([float(row[f"{column}_{100 * share['level']:.0f}"]) for row in rows]))
            assert share["share"] == pytest.approx(mean)
            assert (share["low"], share["high"]) == pytest.approx(wilson(mean, found["n"]))

    # The same folder, without the correction and as text: nothing is fitted again.
    before = (folder / TRIALS).read_text()
    plain = json.loads(run(*arguments, "--out", folder, "--json"))
    assert all("corrected" not in row["intervals"] for row in plain["results"])
    assert {row["predictor"]: row["intervals"]["coverage"] for row in plain["results"]} == {
        name: each["coverage"] for name, each in by_name.items()
    }
    text = run(*arguments, "--out", folder)
    shown = found["coverage"][1]
    assert f"{shown['share']:.3f} ({shown['low']:.3f} to {shown['high']:.3f})" in text
    assert "Intervals are normal: estimate ± 0.67, 1.64, 1.96 deviations." in text
    assert "gradient_boosting: it predicts no deviations" in text and "factor" not in text
    text = run(*arguments, "--out", folder, "--correct-intervals")
    shown = found["corrected"]["coverage"][1]
    assert f"{shown['share']:.3f} ({shown['low']:.3f} to {shown['high']:.3f})" in text
    assert "The factor multiplies the deviations" in text
    assert f"{found['corrected']['factor']['mean']:.3g} ±" in text
    assert (folder / TRIALS).read_text() == before


@pytest.mark.slow
def test_trials_of_earlier_versions_have_no_coverage_and_say_so(arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    run(*arguments, "--out", folder)
    lines = [json.loads(line) for line in (folder / TRIALS).read_text().splitlines()]
    assert all(_trial(dict(line)).intervals is not None for line in lines)
    for line in lines:
        del line["intervals"]
    (folder / TRIALS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = json.loads(run(*arguments, "--out", folder, "--json"))["results"]
    assert all(row["splits"] == 2 and row["intervals"]["coverage"] is None for row in results)
    assert all("recorded by a version" in row["intervals"]["problems"][0] for row in results)
    assert "recorded by a version" in run(*arguments, "--out", folder, "--correct-intervals")
