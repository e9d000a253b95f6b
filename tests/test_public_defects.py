"""The nine defects of the only public implementation of CARS, by the letters of their list; ours has none of them."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import nn

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.config import Workload
from nasplat.evolution.selection import ProtectedSorting
from nasplat.executors.executor import perform
from nasplat.nn.supernet import Supernet
from nasplat.objective import Goal, Objective, bins
from nasplat.problem import Problem
from nasplat.search_spaces.darts import DARTS, OPERATIONS
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.strategies.cars import CARS
from nasplat.task import Evaluate, Measurement, Task, Trained, TrainSupernet, encode_task
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.training.fit import MODEL, below
from nasplat.training.seeding import seeded

SPACE, IMAGES = DARTS(channels=2, cells=3), IO.image(channels=3, side=8, outputs=5)
GOAL = Goal((Objective("accuracy", maximize=True), Objective("params", maximize=False)))
SKIPS = [["skip_connect", 0], ["skip_connect", 1]] * 4


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    with seeded(0):
        return SPACE.supernet(IMAGES).double().eval()


def member(normal: list[list[Any]], reduce: list[list[Any]]) -> Architecture:
    return SPACE.parse(json.dumps({"normal": normal, "reduce": reduce}))


@contextmanager
def noted_runs(supernet: Supernet) -> Iterator[list[str]]:
    """The names of the operations that run within, in order."""
    ran: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, given, found: ran.append(name)

    hooks = [
        part.register_forward_hook(note(name)) for name, part in supernet.parts.items() if name.endswith(OPERATIONS)
    ]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_normal_genes_make_normal_cells_and_reduction_genes_reduction_cells(supernet: Supernet) -> None:
    """There, the supernet gives each cell the other's genes, and export does not."""
    convolutions = [["sep_conv_3x3", 0], ["dil_conv_5x5", 1]] * 4
    network = supernet.path(member(convolutions, SKIPS))
    inputs: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_hook(lambda module, given, found: inputs.append(tuple(found.shape[2:])))
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1  # of separable and dilated convolutions alone
    ]
    network(images())
    for hook in hooks:
        hook.remove()
    # Of three cells the last two reduce, to 4 and to 2 pixels: the only normal cell is the one with 8.
    assert inputs and set(inputs) == {(8, 8)}
    assert SPACE.genotype(member(convolutions, SKIPS))["reduce"] == SKIPS


@pytest.mark.exports
def test_b_none_is_an_operation_like_others_from_the_search_to_the_export(supernet: Supernet) -> None:
    """There, `none` is searched with, and export puts another operation in its place."""
    nothing = member([["none", 0], ["sep_conv_3x3", 1], *SKIPS[2:]], SKIPS)
    assert SPACE.genotype(nothing)["normal"][0] == ["none", 0]
    with seeded(1):
        built = SPACE.build(nothing, IMAGES).double().eval()
    built.load_state_dict(supernet.path(nothing).state_dict())
    assert torch.equal(built(images()), supernet(images(), nothing))
    assert SPACE.cost(nothing, IMAGES).params == sum(p.numel() for p in supernet.extract(nothing).parameters())
    for other in OPERATIONS[1:]:
        something = member([[other, 0], ["sep_conv_3x3", 1], *SKIPS[2:]], SKIPS)
        assert not torch.equal(supernet(images(), something), supernet(images(), nothing)), other


def test_c_eight_operations_run_in_a_cell_and_no_more(supernet: Supernet) -> None:
    """There, all eight on all fourteen edges run, multiplied by zero: 112."""
    convolutions = [["sep_conv_3x3", 0], ["dil_conv_5x5", 1]] * 4
    with noted_runs(supernet) as ran:
        supernet(images(), member(convolutions, convolutions))
    assert len(ran) == len(set(ran)) == 3 * 8


def test_d_the_two_cells_mutate_and_cross_independently() -> None:
    """There, a node of the normal cell and the same node of the reduction cell always change together."""
    rng = default_rng(0)
    half = len(SPACE.genes) // 2
    together = np.zeros((2, 2))
    for _ in range(400):
        one, other = SPACE.sample(rng), SPACE.sample(rng)
        child = SPACE.crossover(one, other, rng)
        for gene in range(half):
            if one.code[gene] != other.code[gene] and one.code[half + gene] != other.code[half + gene]:
                together[
                    int(child.code[gene] == one.code[gene]), int(child.code[half + gene] == one.code[half + gene])
                ] += 1
        mutant = SPACE.mutate(one, rng)
        assert (mutant.code[:half] == one.code[:half]) != (mutant.code[half:] == one.code[half:])
    assert together.min() > 0.2 * together.sum(), together


def toy_problem(goal: Goal = GOAL, seed: int = 0) -> Problem:
    benchmark = ToyBenchmark(ToySpace())
    return Problem(benchmark.space, goal, io=benchmark.io, fidelity=12, seed=seed)


def play(strategy: CARS, metrics: Callable[[Evaluate], dict[str, float]]) -> list[Any]:
    """All tasks of a search, told metrics by formula."""
    asked: list[Any] = []
    while tasks := strategy.ask(10_000):
        asked += map(encode_task, tasks)
        for task in tasks:
            strategy.tell(outcome(task, strategy.problem, metrics))
    return asked


def outcome(task: Task, problem: Problem, metrics: Callable[[Evaluate], dict[str, float]]) -> Trained | Measurement:
    if isinstance(task, TrainSupernet):
        return Trained(task=task, weights=Handle.of(str(task.id).encode()))
    return Measurement(task=task, metrics=problem.cost(task.architecture).metrics() | metrics(task))


def test_e_a_search_repeats_and_its_whole_state_is_kept() -> None:
    """There, nothing is seeded, and population, generators and epoch are not saved."""

    def metrics(task: Evaluate) -> dict[str, float]:
        return {"accuracy": int(task.architecture.code, 4) * (77 + 13 * task.fidelity) % 256 / 256}

    plays = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  to show that it makes no difference
        plays.append(play(CARS(toy_problem(), population=6), metrics))
    assert plays[0] == plays[1]
    strategy = CARS(toy_problem(), population=6)
    told = []
    for _ in range(7):
        for task in strategy.ask(10_000):
            told.append(encode_task(task))
            strategy.tell(outcome(task, strategy.problem, metrics))
    other = CARS(toy_problem(), population=6)
    other.restore(json.loads(json.dumps(strategy.state())))
    assert told + play(other, metrics) == plays[0]


def test_f_no_network_is_picked_twice_and_none_falls_out_of_the_bins() -> None:
    """There, an empty bin gives the first network again, and the smallest network is in no bin."""
    problem = toy_problem()
    front = [
        Measurement(task=problem.evaluate(problem.sample()), metrics={"accuracy": accuracy, "params": params})
        for accuracy, params in ((0.5, 100.0), (0.6, 110.0), (0.9, 1_000.0))
    ]
    for number in (1, 2, 4, 50):
        picked = bins(GOAL, front, number)
        assert len({m.id for m in picked}) == len(picked)
        assert picked[0] is front[0] and picked[-1] is front[2]


@pytest.mark.parametrize("child_speed", ["measured", "inherited"])
@pytest.mark.parametrize("protection", ["speed", "inverse_size", "none"])
@pytest.mark.parametrize("maximize", [True, False])
def test_g_an_accuracy_of_zero_and_negative_figures_are_figures_like_others(
    maximize: bool, protection: Any, child_speed: Any
) -> None:
    """There, selection is by 1/accuracy, which has no value at zero and turns negative figures around.

    Where only the order and the differences of figures count, a constant added to all of them changes nothing.
    """
    goal = Goal((Objective("score", maximize=maximize), Objective("params", maximize=False)))

    def shifted(by: float) -> list[Any]:
        def metrics(task: Evaluate) -> dict[str, float]:
            value = int(task.architecture.code, 4) * (1 + task.fidelity % 3)
            return {"score": by + (value if maximize else -value)}

        strategy = CARS(toy_problem(goal), population=6, protection=protection, child_speed=child_speed)
        return play(strategy, metrics)

    above_zero = shifted(10_000.0)
    assert shifted(-128.0) == above_zero, "across zero"
    assert shifted(-10_000.0) == above_zero, "below zero"


def test_h_of_three_objectives_the_best_in_each_always_survive() -> None:
    """There, reference points lack a corner of three, and distances to them are not perpendicular."""
    goal = Goal(tuple(Objective(name, maximize=False) for name in "abc"))
    problem = toy_problem()
    for seed in range(20):
        rng = default_rng(seed)
        points = rng.dirichlet((1, 1, 1), size=40)  # a front: no one is better in everything
        pool = [
            Measurement(
                task=problem.evaluate(problem.sample()), metrics=dict(zip("abc", map(float, point), strict=True))
            )
            for point in points
        ]
        kept = ProtectedSorting(goal).survivors(pool, 10, rng)
        for name in "abc":
            assert min(m.metrics[name] for m in kept) == min(m.metrics[name] for m in pool)


@pytest.mark.slow
@pytest.mark.ray
def test_i_a_generation_is_measured_by_several_workers_at_once(cluster: Any, tmp_path: Any) -> None:
    """There, a single device trains, and measures one candidate after another."""
    strategy = CARS(toy_problem(), population=6, protection="none")
    for task in strategy.ask(10):
        strategy.tell(outcome(task, strategy.problem, lambda task: {"accuracy": 0.5}))
    founders = strategy.ask(10)
    assert len(founders) == 6, "the whole generation is to be had at once"

    from nasplat.executors.ray import RayExecutor

    workload = Workload("nasbench201", "classification", {"channels": 2, "cells": 1}, {"epochs": 2, "paths": 2})
    benchmark = workload.make()
    problem = Problem(benchmark.space, GOAL, io=benchmark.io, fidelity=2)
    store = ArtifactStore(tmp_path)
    with RayExecutor(workload, store, workers=2, address=cluster.address) as executor:
        executor.submit(problem.train_supernet(tuple(problem.sample() for _ in range(3)), epochs=1))
        (trained,) = _all(executor, 1)
        assert isinstance(trained, Trained), trained
        for _ in range(6):
            executor.submit(problem.evaluate(problem.sample(), fidelity=1, weights=trained.weights))
        measured = _all(executor, 6)
    assert all(isinstance(m, Measurement) for m in measured)
    assert len({m.spent.worker for m in measured}) == 2
    alone = perform(trained.task, prepared(benchmark), device="cpu", artifacts=(other := MemoryArtifacts()))
    assert isinstance(alone, Trained)
    together, expected = (below(MODEL, place.get_tensors(t.weights)) for place, t in ((store, trained), (other, alone)))
    for name, tensor in expected.items():
        assert torch.allclose(together[name], tensor, rtol=0, atol=1e-5), name


def prepared(benchmark: Benchmark) -> Benchmark:
    benchmark.prepare()
    return benchmark


def _all(executor: Any, number: int) -> list[Any]:
    outcomes: list[Any] = []
    for _ in range(3000):  # a bound for what hangs: workers load torch first, which takes long on a busy machine
        outcomes += executor.wait(0.1)
        if len(outcomes) == number:
            break
    return outcomes
