"""Comparisons of fronts: hypervolumes, differences, and CARS beside searches that train candidates by themselves."""

import math
from pathlib import Path

import break_even
import numpy as np
import pytest
from break_even import Comparison, compared, picked
from fronts import Gain, hypervolumes, nearest, spread
from numpy.random import default_rng
from scipy import stats


def test_hypervolumes_are_the_part_of_points_that_are_dominated() -> None:
    rng = default_rng(0)
    groups = {name: [(float(a), float(p)) for a, p in rng.uniform(0.1, 1, (6, 2))] for name in ("one", "other")}
    losses = {name: np.array([[1 - a, math.log(p)] for a, p in pairs]) for name, pairs in groups.items()}
    everything = np.concatenate(list(losses.values()))
    beaten = [any((b <= a).all() and (b < a).any() for b in everything) for a in everything]
    front = everything[~np.array(beaten)]
    ideal, nadir = front.min(0), front.max(0)
    drawn = rng.uniform(0, 1.1, (200_000, 2))
    for name, volume in hypervolumes(groups).items():
        scaled = (losses[name] - ideal) / (nadir - ideal)
        share = np.mean([(drawn >= point).all(1) for point in scaled if (point <= 1.1).all()] or [[False]], axis=0) > 0
        assert volume == pytest.approx(share.mean() * 1.1**2, abs=0.01)


def test_a_front_of_one_point_has_all_of_the_volume() -> None:
    volumes = hypervolumes({"best": [(0.9, 10.0)], "worse": [(0.8, 20.0)]})
    assert volumes["best"] == pytest.approx(1.1**2) and volumes["worse"] < volumes["best"]


def test_ends_stand_for_a_front_whatever_lies_between() -> None:
    prices = {"a": 1.0, "b": 1.1, "c": 10.0, "d": 90.0, "e": 100.0}
    assert spread(prices, 3) == ["a", "c", "e"]
    assert set(spread(prices, 9)) == set(prices)
    assert nearest(prices, [9.0, 11.0]) == ["c", "d"]  # each is taken once


def test_a_gain_is_that_of_a_paired_test() -> None:
    ours, theirs = [0.9, 0.8, 0.95], [0.7, 0.79, 0.8]
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    gain = Gain.of(ours, theirs)
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))
    assert gain.mean == pytest.approx(0.12) and gain.baseline == pytest.approx(np.mean(theirs))
    assert not gain.at_least_equal  # three seeds that differ so much say little
    assert Gain.of([0.9, 0.91, 0.92], [0.8, 0.81, 0.82001]).better
    assert not Gain.of([0.9], [0.8]).at_least_equal


def test_the_next_fronts_fill_up_what_a_front_lacks() -> None:
    found = {"small": {"loss": 0.9, "params": 10.0}, "large": {"loss": 0.1, "params": 99.0}}
    beaten = {"beaten": {"loss": 0.95, "params": 30.0}}
    assert picked(found | beaten, most=2) == ["small", "large"]
    assert picked(found | beaten, most=5) == ["small", "large", "beaten"]


@pytest.mark.slow
def test_the_comparison_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"dataset": "digits", "data": {"subset": 300}, "recipe": {"gradient_norm": 5.0}}
    small = Comparison({"channels": 2, "cells": 1}, data, images=224, epochs=3, supernet={})
    monkeypatch.setitem(break_even.SPACES, "nasbench201", small)
    file, arms = tmp_path / "rows.jsonl", ["cars", "random_search", "asha", "chance"]
    whole = compared("nasbench201", [3], arms, [3], 1, file, 1)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:20])
    assert compared("nasbench201", [3], arms, [3], 1, file, 1).volumes == whole.volumes
    searches = whole.searches[3]
    assert searches["random_search"][0]["images"] == 3 * 3 * small.images
    assert 0 < searches["cars"][0]["images"] <= 3 * 3 * small.images
    assert abs(searches["asha"][0]["images"] - 3 * 3 * small.images) <= small.epochs * small.images
    assert set(whole.gains[3]) == {"random_search", "asha", "chance"}
