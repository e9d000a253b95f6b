"""Every registered plug-in keeps its contract."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.stats import kendalltau

from nasplat.architecture import IO
from nasplat.benchmark import Benchmark
from nasplat.config import Workload
from nasplat.evolution.race import RaceOptions
from nasplat.objective import Goal
from nasplat.options import construct
from nasplat.problem import Problem
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES, STRATEGIES, TRANSFORMS
from nasplat.retraining import Retraining
from nasplat.search_space import SearchSpace
from nasplat.strategy import Strategy
from nasplat.testing import (
    BENCHMARK_CHECKS,
    PREDICTOR_CHECKS,
    SEARCH_SPACE_CHECKS,
    STRATEGY_CHECKS,
    SUPERNET_CHECKS,
    TRANSFORM_CHECKS,
    ToyBenchmark,
    ToySpace,
    strategies,
)
from nasplat.testing.search_spaces import graphs_are_well_formed, tensors_have_one_shape
from nasplat.testing.toy import toy_accuracy

# Options that make a plug-in cheap enough to be measured many times in a test.
SMALL: dict[str, dict[str, Any]] = {
    "nasbench101": {"channels": 8, "cells": 1},
    "nasbench201": {"channels": 4, "cells": 1},
    "darts": {"channels": 2, "cells": 4},
    "ghost/imagenet": {"dropout": 0.0},  # or training would not repeat
    "classification": {"epochs": 2, "subset": 300},  # an epoch to leave a state, one to continue from it
    "super_resolution": {
        "epochs": 2,
        "steps": 2,
        "batch_size": 2,
        "patch": 8,
        "training_pictures": 2,
        "validation_pictures": 1,
        "width": 32,
        "height": 24,
    },
    "generation": {"epochs": 2, "samples": 64, "recipe": {"steps": 3, "batch_size": 8}},
    "zero_cost": {"batch": 4, "side": 8},
    "cars": {"population": 4},
    "regularized_evolution": {"population": 8, "sample": 3},
    "auto": {"parts": ("isotropic_gaussian_process", "gradient_boosting")},
    "graph_network": {"members": 4, "epochs": 80},
    "ensemble": {"predictor": "random_forest", "members": 3},
    "renas": {"epochs": 30},
}
FEW_TRIALS = {"predictor_guided": 50}
"""In place of `strategies.TRIALS`, for what needs long to ask and is past all its phases early."""
PREFILTER: dict[str, Any] = {"prescreen": 3, "predictor": "isotropic_gaussian_process"}
"""With a predictor that learns in milliseconds."""
LARGE = {"esrn/1m", "esrn/light", "esrn/small", "ghost/cifar", "ghost/imagenet"}
"""Presets of classes of which a smaller one is held to everything with each commit."""
TOLD_WHICH = {"proposals_are_feasible_members", "narrow_constraints_do_not_hang_it", "finished_is_finished"}
"""The checks that set limits, which members that are given may lie beyond."""
TRAINED = {"auto", "ensemble", "graph_network", "renas"}
"""Predictors that take tenths of a second to learn."""
EXTRAS = {"lightgbm": "lightgbm"}
"""The packages of the predictors that not every installation has."""
PER_STAGE = {"per": "stage", "filters": [2, 4]}
TRANSFORMED: list[tuple[str, dict[str, Any]]] = [
    ("nasbench201+full_stack", {"transform": {"filters": 2}}),
    ("nasbench201+full_stack", {"transform": PER_STAGE}),
    ("nasbench201+ghost+full_stack", {"transform": {"per": "stage"}}),
    ("nasbench201+balanced_binary", {"transform": {"per": "stage", "gated": [True, False]}}),
    ("ghost/small+balanced_binary+full_stack", {"transform": {"per": "stage"}}),
    ("esrn/tiny+balanced_binary", {"transform": {"balanced": False}}),
    ("nasbench201+instance_pruning", {"transform": {"per": "stage"}}),
    ("ghost/small+instance_pruning", {"transform": {"decay": 0.5}}),
    ("esrn/tiny+instance_pruning", {"transform": {}}),
    ("nasbench101+full_stack", {"transform": PER_STAGE, "channels": 20}),  # four for each of five vertices
    ("darts+full_stack", {"transform": {"filters": 2}}),
    ("ghost/small+full_stack", {"transform": {"per": "stage"}}),
    ("esrn/tiny+full_stack", {"transform": PER_STAGE}),
]
"""Names of spaces with transforms, and their options."""
SHAPES = {"classification": IO.image(channels=3, side=8, outputs=5), "super-resolution": IO.upscaled(7, 8, 2)}
"""Small shapes for the networks of a space; generators have small ones anyway."""
MEASURED_ON = {
    "nasbench101": "nasbench101",
    "nasbench201": "nasbench201",
    "classification": "nasbench201",
    "generation": "generator",
    "super_resolution": "esrn/tiny",
    "super_resolution_table": "esrn/tiny",
    "zero_cost": "nasbench201",
}


@pytest.fixture
def few_trials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lowers the number of trials in one check of a strategy, but not with --whole."""

    def lower(trials: int) -> None:
        if not request.config.option.whole:
            monkeypatch.setattr(strategies, "TRIALS", min(trials, strategies.TRIALS))

    return lower


def named(check: Callable[..., None]) -> str:
    """A check's name, as pytest shows it."""
    return check.__name__


@pytest.mark.slow
@pytest.mark.parametrize("check", SEARCH_SPACE_CHECKS, ids=named)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.sweep(16) if name in LARGE else ()) for name in SEARCH_SPACES.names()]
)
def test_search_space(name: str, check: Callable[..., None]) -> None:
    space = SEARCH_SPACES.get(name)(**SMALL.get(name, {}))
    check(space, SHAPES.get(space.reference_io.purpose, space.reference_io))


@pytest.mark.slow
@pytest.mark.sweep(10)
@pytest.mark.parametrize("check", SEARCH_SPACE_CHECKS, ids=named)
@pytest.mark.parametrize(("name", "options"), TRANSFORMED, ids=str)
def test_transformed_space(name: str, options: dict[str, Any], check: Callable[..., None]) -> None:
    below = SMALL.get(name.partition("+")[0], {})
    space: SearchSpace = construct("space", SEARCH_SPACES.get(name), **{**below, **options})
    check(space, SHAPES.get(space.reference_io.purpose, space.reference_io))


@pytest.mark.parametrize("check", SEARCH_SPACE_CHECKS, ids=named)
def test_toy_space(check: Callable[..., None]) -> None:
    check(ToySpace(), IO.image(channels=1, side=4, outputs=3))


class Graphless(ToySpace):
    """A space whose author wrote no graphs, not even of genes."""

    graphs = SearchSpace.graphs


@pytest.mark.parametrize("check", [graphs_are_well_formed, tensors_have_one_shape], ids=named)
def test_a_space_needs_no_graphs(check: Callable[..., None]) -> None:
    assert "graphs" not in SearchSpace.__abstractmethods__
    check(Graphless(), IO.image(channels=1, side=4, outputs=3))
    assert len(Graphless().graphs([])) == 0


@pytest.mark.slow
def test_without_graphs_predictors_that_need_them_rank_by_features_and_costs() -> None:
    space = Graphless()
    codes = sorted({space.sample(default_rng(seed)).code for seed in range(120)})
    members = [space.parse(code) for code in default_rng(0).permutation(codes)]
    accuracies = np.array([toy_accuracy(each) for each in members])
    predictor = PREDICTORS.get("gaussian_process")(space).fit(members[:50], accuracies[:50])
    assert kendalltau(predictor.predict(members[50:]), accuracies[50:]).statistic > 0.4


@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
@pytest.mark.parametrize("name", STRATEGIES.names())
def test_strategy(name: str, check: Callable[..., None], few_trials: Callable[[int], None]) -> None:
    few_trials(FEW_TRIALS.get(name, strategies.TRIALS))
    check(partial(STRATEGIES.get(name), **SMALL.get(name, {})))


@pytest.mark.sweep(60)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
@pytest.mark.parametrize("duplicates", ["cache", "redraw", "measure"])
@pytest.mark.parametrize(
    "name", ["random_search", "local_search", "regularized_evolution", "nsga2", "credit_evolution"]
)
def test_strategy_with_every_policy_on_repeats(name: str, duplicates: str, check: Callable[..., None]) -> None:
    make: Callable[..., Strategy] = STRATEGIES.get(name)
    check(partial(make, duplicates=duplicates))


@pytest.mark.sweep(24)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
@pytest.mark.parametrize("base_strategy", ["local_search", "nsga2", "regularized_evolution"])
@pytest.mark.parametrize("name", ["asha", "successive_halving"])
def test_halving_around_any_strategy(name: str, base_strategy: str, check: Callable[..., None]) -> None:
    make: Callable[..., Strategy] = STRATEGIES.get(name)
    check(partial(make, base_strategy=base_strategy, options=SMALL.get(base_strategy)))


@pytest.mark.sweep(24)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
@pytest.mark.parametrize("name", ["asha", "cars", "credit_evolution", "successive_halving", "nsga2"])
def test_strategy_with_a_single_objective(
    name: str, check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = strategies.toy_problem

    def single(*arguments: Any, **options: Any) -> Problem:
        two = whole(*arguments, **options)
        goal = Goal(two.goal.objectives[:1], two.limits)
        return Problem(two.space, goal, io=two.io, fidelity=two.fidelity, seed=two.seed)

    monkeypatch.setattr(strategies, "toy_problem", single)
    check(partial(STRATEGIES.get(name), **SMALL.get(name, {})))


@pytest.mark.slow
@pytest.mark.sweep(16)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
@pytest.mark.parametrize(
    "options",
    [
        {"child_speed": "measured"},
        {"protection": "inverse_size"},
        {"protection": "none"},
        PREFILTER,
        {"finish": "race", "race": RaceOptions(epochs=20, finalists=2)},
    ],
    ids=str,
)
def test_cars_with_every_protection_and_end(
    options: dict[str, Any], check: Callable[..., None], few_trials: Callable[[int], None]
) -> None:
    few_trials(70)  # nine generations
    make: Callable[..., Strategy] = STRATEGIES.get("cars")
    check(partial(make, population=4, **options))


@pytest.mark.slow
@pytest.mark.sweep(16)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
@pytest.mark.parametrize(
    "options",
    [
        {"credit": "regression"},
        {"credit": "none"},
        {"scope": "position", "factorized": False},
        {**PREFILTER, "population": 30},
    ],
    ids=str,
)
def test_credit_evolution_with_every_credit(
    options: dict[str, Any], check: Callable[..., None], few_trials: Callable[[int], None]
) -> None:
    few_trials(100)  # beyond the first generation, and the second
    make: Callable[..., Strategy] = STRATEGIES.get("credit_evolution")
    check(partial(make, **options))


@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=named)
@pytest.mark.parametrize(
    "options",
    [
        {"teacher": True, "seeds": 3},
        {"members": ["0123", "3333", "0000"], "seeds": 2, "checkpoints": 1},
        {"checkpoints": 4},
        {},
    ],
    ids=str,
)
def test_retraining_with_every_option(options: dict[str, Any], check: Callable[..., None]) -> None:
    if "members" in options and check.__name__ in TOLD_WHICH:
        pytest.skip("it is told which members, feasible or not")
    check(partial(Retraining, **options))


@pytest.mark.slow
@pytest.mark.parametrize("check", PREDICTOR_CHECKS, ids=named)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.sweep(16) if name in TRAINED else ()) for name in PREDICTORS.names()]
)
def test_every_predictor(name: str, check: Callable[..., None]) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    check(partial(PREDICTORS.get(name), **SMALL.get(name, {})))


@pytest.mark.slow
@pytest.mark.parametrize("check", BENCHMARK_CHECKS, ids=named)
@pytest.mark.parametrize("name", BENCHMARKS.names())
def test_benchmark(name: str, check: Callable[..., None], request: pytest.FixtureRequest) -> None:
    if name == "nasbench201":
        request.getfixturevalue("table")
    if name == "nasbench101":
        request.getfixturevalue("table101")
    space = MEASURED_ON[name]

    def make() -> Benchmark:
        if name == space:  # a table is of the published networks alone
            return Workload(space, name).make()
        return Workload(space, name, SMALL.get(space, {}), SMALL.get(name, {})).make()

    check(make)


@pytest.mark.sweep(6)
@pytest.mark.slow
@pytest.mark.parametrize("check", SUPERNET_CHECKS, ids=named)
@pytest.mark.parametrize("space", ["nasbench201", "darts", "ghost/small"])
def test_supernet_benchmark(space: str, check: Callable[..., None]) -> None:
    check(Workload(space, "classification", SMALL.get(space, {}), {"epochs": 2, "paths": 2, "subset": 100}).make)


@pytest.mark.slow
@pytest.mark.parametrize("check", TRANSFORM_CHECKS, ids=named)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in TRANSFORMS.names()),
        ("full_stack", {"filters": 3, "stem": True, "classifier": True}),
        ("full_stack", {"filters": 2, "masks": "shared", "orthogonality": 0.1}),
        ("ghost", {"ratio": 3, "kernel": 1, "stem": True, "classifier": True}),
    ],
    ids=str,
)
def test_transform(name: str, options: dict[str, Any], check: Callable[..., None]) -> None:
    check(partial(TRANSFORMS.get(name), **options))


@pytest.mark.parametrize("check", BENCHMARK_CHECKS, ids=named)
def test_toy_benchmark(check: Callable[..., None]) -> None:
    check(lambda: ToyBenchmark(ToySpace()))
