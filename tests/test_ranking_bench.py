"""The ranking bench: strata, the best, resamples and the noise ceiling against brute force, and its files."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import shared_weights
from numpy.random import default_rng
from scipy import stats
from smoothing import smoothed

import rank_agreement
from nasplat.errors import InputError
from nasplat.testing import ToySpace
from nasplat.testing.toy import toy_accuracy
from rank_agreement import (
    Estimate,
    Floats,
    Pairs,
    above,
    among_best,
    ceiling,
    every,
    mean_tau,
    partial_tau,
    single,
    splits,
    tau,
    within_strata,
)

RNG = default_rng(0)
TRUTH = RNG.integers(12, size=30) / 12.0  # with ties
FIGURES = np.stack([TRUTH + RNG.normal(0, spread, size=30) for spread in (0.1, 0.5)])
COSTS = RNG.integers(9, size=30).astype(float)
ONCE = np.ones((1, 30))


def by_counting(first: Floats, second: Floats, pairs: Pairs) -> float:
    """Tau-b, pair by pair."""
    surplus = untied_first = untied_second = 0
    for i, j in combinations(range(len(first)), 2):
        if pairs[i, j]:
            one, other = np.sign(first[i] - first[j]), np.sign(second[i] - second[j])
            surplus += one * other
            untied_first += abs(one)
            untied_second += abs(other)
    return float(surplus / math.sqrt(untied_first * untied_second))


def test_over_all_pairs_it_is_scipys_tau() -> None:
    assert tau(FIGURES[0], TRUTH, every(30))(ONCE) == pytest.approx(stats.kendalltau(FIGURES[0], TRUTH).statistic)


@pytest.mark.parametrize("pairs", [within_strata(COSTS), among_best(TRUTH)], ids=["strata", "best"])
def test_over_some_pairs_it_is_what_counting_gives(pairs: Pairs) -> None:
    assert tau(FIGURES[1], TRUTH, pairs)(ONCE) == pytest.approx(by_counting(FIGURES[1], TRUTH, pairs))


def test_a_resample_by_counts_is_the_resample_itself() -> None:
    drawn = default_rng(1).integers(30, size=30)
    counts = np.bincount(drawn, minlength=30)[None].astype(float)
    pairs = within_strata(COSTS)
    expected = by_counting(FIGURES[0][drawn], TRUTH[drawn], pairs[np.ix_(drawn, drawn)])
    assert tau(FIGURES[0], TRUTH, pairs)(counts) == pytest.approx(expected)


def test_strata_are_quintiles_that_do_not_part_equal_costs() -> None:
    pairs = within_strata(np.arange(20.0))
    assert all(pairs[i, j] == (i // 4 == j // 4) for i in range(20) for j in range(20))
    tied = within_strata(COSTS)
    assert all(tied[i, j] for i in range(30) for j in range(30) if COSTS[i] == COSTS[j])
    assert 1 < len({tuple(row) for row in tied}) <= 5


def test_the_best_quarter_has_its_ties() -> None:
    assert np.flatnonzero(among_best([0.1, 0.9, 0.5, 0.9, 0.2, 0.3, 0.4, 0.9]).any(axis=0)).tolist() == [1, 3, 7]
    assert among_best(np.arange(9.0)).any(axis=0).sum() == 3


def test_several_supernets_count_by_their_mean_and_a_control_is_taken_off() -> None:
    pairs = every(30)
    each = [stats.kendalltau(row, TRUTH).statistic for row in FIGURES]
    control = stats.kendalltau(COSTS, TRUTH).statistic
    crossed = [stats.kendalltau(row, COSTS).statistic for row in FIGURES]
    partial = [
        (xy - xz * control) / math.sqrt((1 - xz**2) * (1 - control**2)) for xy, xz in zip(each, crossed, strict=True)
    ]
    assert mean_tau(FIGURES, TRUTH, pairs)(ONCE) == pytest.approx(np.mean(each))
    assert above(FIGURES, COSTS, TRUTH, pairs)(ONCE) == pytest.approx(np.mean(each) - control)
    assert partial_tau(FIGURES, COSTS, TRUTH, pairs)(ONCE) == pytest.approx(np.mean(partial))


def test_an_interval_is_that_of_resamples_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_agreement, "RESAMPLES", 2_000)
    found = Estimate.of(tau(FIGURES[1], TRUTH, every(30)), 30)
    rng, drawn = default_rng(2), []
    for _ in range(400):
        rows = rng.integers(30, size=30)
        drawn.append(stats.kendalltau(FIGURES[1][rows], TRUTH[rows]).statistic)
    assert found.value == pytest.approx(stats.kendalltau(FIGURES[1], TRUTH).statistic)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.06)


def test_what_is_undefined_is_no_number() -> None:
    found = Estimate.of(tau(np.zeros(4), np.arange(4.0), every(4)), 4)
    assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)


def test_seeds_are_split_in_every_way_once() -> None:
    assert list(splits(2)) == [([0], [1], [])]
    assert list(splits(3)) == [([0], [1], [2]), ([0], [2], [1]), ([1], [2], [0])]
    five = list(splits(5))
    assert len(five) == 15 == len({frozenset([tuple(a), tuple(b)]) for a, b, _ in five})
    assert all(sorted(a + b + rest) == list(range(5)) for a, b, rest in five)


@pytest.mark.parametrize("number", [2, 3, 6])
def test_the_ceiling_is_what_errorless_figures_reach(number: int) -> None:
    true = default_rng(3).normal(size=300)
    seeds = true + default_rng(4).normal(0, 1.0, size=(number, 300))
    found = ceiling(seeds, lambda truth: every(300))
    assert found.reach == pytest.approx(stats.kendalltau(true, seeds.mean(axis=0)).statistic, abs=0.05)
    assert found.between < found.reach


def test_one_training_is_compared_with_the_mean_of_the_others() -> None:
    seeds = default_rng(6).normal(size=(3, 40))
    taus = [
        stats.kendalltau(seeds[one], (seeds[first] + seeds[second]) / 2).statistic
        for one, first, second in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    ]
    assert single(seeds, lambda truth: every(40)) == pytest.approx(np.mean(taus))


@pytest.mark.slow
def test_smoothing_adds_the_rank_of_what_others_predict() -> None:
    space = ToySpace()
    sample = list(dict.fromkeys(space.sample(default_rng(i)) for i in range(60)))
    true = np.array([toy_accuracy(each) for each in sample])
    noisy = true + default_rng(7).normal(0, true.std(), len(sample))
    ranks = smoothed(space, sample, noisy, "random_forest")
    predicted = ranks - stats.rankdata(noisy)
    assert sorted(set(predicted)) == sorted(set(stats.rankdata(predicted)))
    gain = stats.kendalltau(ranks, true).statistic - stats.kendalltau(noisy, true).statistic
    assert gain > 0.05, "noise without a structure is what a predictor takes off"


def test_the_ceiling_of_the_best_is_by_seeds_that_did_not_choose_them() -> None:
    seeds = default_rng(5).normal(size=(3, 200))
    taus = [
        by_counting(seeds[first], seeds[second], among_best(seeds[rest]))
        for first, second, rest in ((0, 1, 2), (0, 2, 1), (1, 2, 0))
    ]
    assert ceiling(seeds, among_best).between == pytest.approx(np.mean(taus))
    assert math.isnan(ceiling(seeds[:2], among_best).reach)


def test_one_seed_has_no_ceiling() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds"):
        ceiling(np.zeros((1, 4)), lambda truth: every(4))


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "lines"
    shared_weights.Lines(file).add("whole")
    file.write_text(f"{file.read_text()}cut o")
    lines = shared_weights.Lines(file)
    assert lines.known == ["whole"]
    lines.add("cut off")
    assert shared_weights.Lines(file).known == ["whole", "cut off"] == lines.known


@pytest.mark.parametrize("file", sorted(shared_weights.TRUTHS.glob("*.csv")), ids=lambda file: file.stem)
def test_a_truth_in_the_project_is_that_of_its_setting(file: Path) -> None:
    (name,) = [name for name in shared_weights.SETTINGS if name.replace("/", "-") == file.stem]
    codes, seeds, params, macs = shared_weights.Truth(name).figures("accuracy")
    assert len(codes) == shared_weights.ARCHITECTURES == len(set(codes))
    assert (seeds >= 0).all() and (seeds <= 1).all()
    assert (params > 0).all() and (macs > 0).all()


def test_a_truth_of_another_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "TRUTHS", tmp_path)
    (tmp_path / "ghost-small.csv").write_text("# {}\ncode\n")
    with pytest.raises(InputError, match=r"must begin with .* but begins with # \{\} and code"):
        shared_weights.Truth("ghost/small")


def test_supernets_are_compared_by_options_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_agreement, "RESAMPLES", 20)
    name = "nasbench201/digits"
    setting = shared_weights.SETTINGS[name]
    codes, seeds, *_ = shared_weights.Truth(name).figures("accuracy")
    truth = dict(zip(codes, seeds.mean(axis=0), strict=True))
    lines = shared_weights.Lines(tmp_path / "lines")
    for paths, supernet, share in ((1, 0, 1.0), (2, 0, -1.0), (2, 1, 1.0), (2, 2, 1.0)):
        for code in codes[: 30 if supernet == 2 else None]:  # one was interrupted
            row = {
                "setting": name,
                "space": setting.space_options,
                "options": {**setting.training, **({"shared_weights.paths": paths} if paths > 1 else {})},
                "images": 1000,
                "supernet": supernet,
                "trained_images": 1024,
                "training_seconds": 1.0,
                "code": code,
                "accuracy": share * truth[code],
                "loss": -share * truth[code],
            }
            lines.add(json.dumps(row))
    for row in [json.loads(line) for line in lines.known[: len(codes)]]:
        lines.add(json.dumps({**row, "tuned": 3, "accuracy": -row["accuracy"]}))
    found = shared_weights.summary(name, lines, "accuracy")
    plain, tuned, paired = sorted(found["shared_weights"], key=lambda row: (len(row["options"]), row["tuned"]))
    assert (tuned["tuned"], tuned["accuracy"]["overall"]["value"]) == (3, pytest.approx(-1))
    assert "| defaults; then 3 epochs each | 1,024 | 1 | 1 | loss |" in shared_weights.text(found)
    assert (plain["options"], paired["options"]) == ({}, {"shared_weights.paths": 2})
    assert (plain["supernets"], paired["supernets"], plain["images"]) == (1, 2, 1024)
    for view in shared_weights.VIEWS:
        for figure in ("loss", "accuracy"):
            assert plain[figure][view]["value"] == pytest.approx(1)
            assert paired[figure][view]["value"] == pytest.approx(0)
    assert plain["loss"]["less_parameters"]["value"] == pytest.approx(1 - found["parameters"]["overall"]["value"])
    assert "| shared_weights.paths=2 | 1,024 | 1 | 2 | loss |" in shared_weights.text(found)
