"""CARS: what it asks for, generation by generation, and whom it lets survive."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.evolution.selection import ProtectedSorting
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.strategies.cars import CARS, TRAININGS, Child
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task, Trained, TrainSupernet
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.toy import toy_accuracy

GOAL = Goal((Objective("accuracy", maximize=True), Objective("params", maximize=False)))
Accuracy = Callable[[Evaluate], float]


def problem(*, epochs: int = 9, seed: int = 0, goal: Goal = GOAL, space: ToySpace | None = None) -> Problem:
    benchmark = ToyBenchmark(space or ToySpace())
    return Problem(benchmark.space, goal, io=benchmark.io, fidelity=epochs, seed=seed)


def measured(task: Evaluate, problem: Problem, accuracy: float) -> Measurement:
    return Measurement(task=task, metrics={"accuracy": accuracy, **problem.cost(task.architecture).metrics()})


def generations(
    strategy: CARS, accuracy: Accuracy = lambda task: toy_accuracy(task.architecture)
) -> Iterable[list[Task]]:
    """The tasks of each half generation, told as they are taken."""
    while tasks := strategy.ask(10_000):
        yield tasks
        for task in tasks:
            strategy.tell(answer(task, strategy.problem, accuracy))


def answer(task: Task, problem: Problem, accuracy: Accuracy) -> Outcome:
    if isinstance(task, TrainSupernet):
        return Trained(task=task, weights=Handle.of(str(task.id).encode()))
    return measured(task, problem, accuracy(task))


def trainings(tasks: Sequence[Task]) -> list[TrainSupernet]:
    return [task for task in tasks if isinstance(task, TrainSupernet)]


def evaluations(tasks: Sequence[Task]) -> list[Evaluate]:
    return [task for task in tasks if isinstance(task, Evaluate)]


# What it asks for ----------------------------------------------------------------------------------------------


def test_the_warm_up_is_on_paths_of_the_whole_space_and_from_fresh_weights() -> None:
    (warmup,) = next(iter(generations(CARS(problem(), warmup=3, interval=2))))
    assert isinstance(warmup, TrainSupernet)
    assert (warmup.architectures, warmup.epochs, warmup.weights) == ((), 3, None)


def test_a_generation_trains_its_population_then_measures_parents_and_offspring_with_the_new_weights() -> None:
    strategy = CARS(problem(), population=5, warmup=1, interval=2, protection="inverse_size")
    parents: list[Architecture] = []
    weights, epochs = Handle.of(b"0"), 1
    halves = list(generations_with_parents(strategy))
    for (training, parents), (measuring, _) in zip(halves[2::2], halves[3::2], strict=True):
        (task,) = training
        assert isinstance(task, TrainSupernet)
        assert (task.architectures, task.epochs, task.weights) == (tuple(parents), 2, weights)
        weights, epochs = Handle.of(str(task.id).encode()), epochs + 2
        assert [e.architecture for e in evaluations(measuring)[:5]] == parents
        assert len(measuring) == len({e.architecture for e in evaluations(measuring)}) == 10
        assert all((e.weights, e.fidelity) == (weights, epochs) for e in evaluations(measuring))
    assert epochs == 9, "it ended before the whole training was done"


def generations_with_parents(strategy: CARS) -> Iterable[tuple[list[Task], list[Architecture]]]:
    for tasks in generations(strategy):
        yield tasks, [member.architecture for member in strategy.parents]


def test_nothing_is_ever_trained_from_scratch() -> None:
    tasks = [task for half in generations(CARS(problem(epochs=30), population=6)) for task in half]
    assert all(task.weights is not None for task in evaluations(tasks))
    assert [task.weights for task in trainings(tasks)].count(None) == 1


def test_every_training_goes_on_from_the_weights_of_the_one_before() -> None:
    tasks = trainings([task for half in generations(CARS(problem(epochs=30), population=6)) for task in half])
    assert sum(task.epochs for task in tasks) == 30
    assert all(after.weights == Handle.of(str(before.id).encode()) for before, after in pairwise(tasks))


def test_by_default_the_schedule_has_the_proportions_of_the_paper() -> None:
    tasks = trainings([task for half in generations(CARS(problem(epochs=500), population=2)) for task in half])
    assert [task.epochs for task in tasks] == [50] + [10] * 45


def test_the_last_generation_is_as_long_as_there_are_epochs_left() -> None:
    strategy = CARS(problem(epochs=9), warmup=2, interval=3)
    tasks = trainings([task for half in generations(strategy) for task in half])
    assert [task.epochs for task in tasks] == [2, 3, 3, 1]
    assert strategy.progress == 1


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"9 epochs for the warm-up and 1 for each.*has 9; raise it, .* to 10 or more"):
        CARS(problem(), warmup=9)
    with pytest.raises(InputError, match=r"at most 1.*0\.6.*0\.5"):
        CARS(problem(), mutation=0.6, crossover=0.5)


def test_offspring_are_mutants_crossings_and_fresh_ones_in_the_given_parts() -> None:
    space = NASBench201()
    whole = Problem(space, GOAL, io=IO.image(3, 32, 10), fidelity=60)
    origins: Counter[int] = Counter()
    strategy = CARS(whole, population=40, protection="none")
    for _ in generations(strategy, lambda task: int(task.architecture.code) * 7919 % 10_007 / 10_007):
        if strategy.parents:
            origins.update(len(child.parents) for child in strategy._children)
    total = sum(origins.values())
    assert total > 2_000
    for parents, share in ((1, 0.25), (2, 0.25), (0, 0.5)):
        assert origins[parents] / total == pytest.approx(share, abs=0.03), origins


def test_a_training_that_fails_is_tried_again_with_another_seed_and_not_for_ever() -> None:
    strategy = CARS(problem())
    seeds = []
    while tasks := strategy.ask(10):
        (task,) = tasks
        assert isinstance(task, TrainSupernet)
        seeds.append(task.seed)
        strategy.tell(Failure(task=task, kind="diverged", message="nan"))
    assert len(set(seeds)) == TRAININGS
    assert strategy.ask(10) == []


def test_whose_measurement_fails_leaves_the_population_and_without_one_all_paths_are_trained_again() -> None:
    strategy = CARS(problem(epochs=7), population=4, warmup=1)
    trained: list[TrainSupernet] = []
    struck: Architecture | None = None
    while tasks := strategy.ask(100):
        trained += trainings(tasks)
        lost = {2: 1, 3: 8}.get(len(trained), 0)  # one parent of the second training, then everybody
        failing = [task.id for task in evaluations(tasks)[:lost]]
        struck = evaluations(tasks)[0].architecture if failing and lost == 1 else struck
        for task in tasks:
            failed = Failure(task=task, kind="toy", message="as told")
            strategy.tell(failed if task.id in failing else answer(task, strategy.problem, by_formula))
    assert sum(task.epochs for task in trained) == 7
    assert struck in trained[1].architectures
    assert struck not in trained[2].architectures and len(trained[2].architectures) == 4
    assert [len(task.architectures) for task in trained[3:]] == [0, 4, 4, 4]
    assert trained[3].weights is not None


def by_formula(task: Evaluate) -> float:
    return toy_accuracy(task.architecture)


def test_with_measured_speeds_offspring_are_measured_with_the_weights_of_before_while_new_ones_are_trained() -> None:
    halves = list(generations(CARS(problem(), population=5, warmup=1, child_speed="measured")))
    before = halves[0][0]
    for training, measuring in zip(halves[2::2], halves[3::2], strict=True):
        first, *children = training
        assert isinstance(first, TrainSupernet)
        old = Handle.of(str(before.id).encode())
        assert all((e.weights, e.fidelity + 1) == (old, e2.fidelity) for e, e2 in pairs(children, measuring[5:]))
        assert [e.architecture for e in evaluations(children)] == [e.architecture for e in evaluations(measuring[5:])]
        before = first


def pairs(one: Sequence[Task], other: Sequence[Task]) -> list[tuple[Evaluate, Evaluate]]:
    return list(zip(evaluations(one), evaluations(other), strict=True))


# Whom it lets survive ------------------------------------------------------------------------------------------


def fronts(figures: Sequence[Sequence[float]]) -> list[int]:
    """The number of each one's front, by definition: peel off what nobody dominates."""
    ranks, left, rank = [0] * len(figures), set(range(len(figures))), 0
    while left:
        best = {i for i in left if not any(dominates(figures[j], figures[i]) for j in left)}
        for i in best:
            ranks[i] = rank
        left, rank = left - best, rank + 1
    return ranks


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and list(a) != list(b)


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_survivors_are_the_first_fronts_of_both_sortings(seed: int, objectives: int) -> None:
    rng = default_rng(seed)
    goal = Goal(tuple(Objective(f"m{i}", maximize=bool(i % 2)) for i in range(objectives)))
    toy = problem()
    pool = [
        Measurement(
            task=toy.evaluate(toy.sample()), metrics={f"m{i}": float(rng.integers(6)) for i in range(objectives)}
        )
        for _ in range(30)
    ]
    protected = [tuple(map(float, rng.integers(6, size=2))) for _ in pool]
    ranks = [min(pair) for pair in zip(fronts([goal.losses(m) for m in pool]), fronts(protected), strict=True)]
    for number in (1, 7, 15, 29, 30, 40):
        kept = ProtectedSorting(goal).survivors(pool, number, default_rng(0), protected=protected)
        assert len(kept) == len({m.id for m in kept}) == min(number, 30)
        given = sorted(ranks[pool.index(m)] for m in kept)
        assert given == sorted(ranks)[: len(kept)]


def test_of_a_front_that_does_not_fit_the_ends_stay_first() -> None:
    toy, goal = problem(), Goal((Objective("a", maximize=False), Objective("b", maximize=False)))
    pool = [Measurement(task=toy.evaluate(toy.sample()), metrics={"a": i, "b": 20 - i}) for i in range(21)]
    kept = ProtectedSorting(goal).survivors(pool, 2, default_rng(0))
    assert {m.metrics["a"] for m in kept} == {0, 20}


def test_those_that_violate_a_constraint_come_last_the_least_violation_first() -> None:
    toy = problem()
    goal = Goal((Objective("a", maximize=True),), (Constraint.parse("b<=10"),))
    pool = [
        Measurement(task=toy.evaluate(toy.sample()), metrics={"a": a, "b": b})
        for a, b in ((9.0, 30.0), (1.0, 5.0), (8.0, 12.0), (2.0, 10.0))
    ]
    survivors = ProtectedSorting(goal).survivors
    assert [m.metrics["a"] for m in survivors(pool, 3, default_rng(0))] == [2.0, 1.0, 8.0]
    assert [m.metrics["a"] for m in survivors(pool[:1], 3, default_rng(0))] == [9.0]


def test_ties_are_broken_by_the_given_generator() -> None:
    toy, goal = problem(), Goal((Objective("a", maximize=True),))
    pool = [Measurement(task=toy.evaluate(toy.sample()), metrics={"a": 1.0}) for _ in range(20)]
    ids = [[m.id for m in ProtectedSorting(goal).survivors(pool, 5, default_rng(seed))] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def protected_figures(strategy: CARS, accuracy: Accuracy, generation: int) -> list[tuple[str, tuple[float, ...]]]:
    """What the second sorting of one generation went by."""
    seen: list[list[tuple[str, tuple[float, ...]]]] = []
    whole = strategy._protected

    def spying(measured: list[Measurement]) -> list[tuple[float, ...]] | None:
        figures = whole(measured)
        seen.append(list(zip((m.architecture.code for m in measured), figures or [()], strict=False)))
        return figures

    strategy._protected = spying  # type: ignore[method-assign]
    for _ in generations(strategy, accuracy):
        pass
    return seen[generation]


def rising(task: Evaluate) -> float:
    """Each architecture at a pace of its own: 1 to 4 thousandths an epoch, by its first symbol."""
    return 0.5 + 1e-3 * task.fidelity * (1 + int(task.architecture.code[0]))


def test_speed_is_what_an_architecture_gained_since_the_weights_before() -> None:
    strategy = CARS(problem(), population=6, warmup=1, child_speed="measured")
    figures = protected_figures(strategy, rising, generation=3)
    assert len(figures) == 12
    for code, (speed, size) in figures:
        params = strategy.problem.cost(Architecture("toy", code)).params
        assert speed == pytest.approx(1e-3 * (1 + int(code[0])))
        assert size == -params


def test_an_inherited_speed_is_the_mean_of_the_parents_or_of_all() -> None:
    strategy = CARS(problem(), population=2, child_speed="inherited")
    members = [ToySpace().parse(code) for code in ("0000", "1111", "2222", "3333")]
    outcomes = [
        measured(strategy.problem.evaluate(a), strategy.problem, accuracy)
        for a, accuracy in zip(members, (0.5, 0.7, 0.6, 0.6), strict=True)
    ]
    strategy._before = {"0000": -0.4, "1111": -0.4}
    strategy._children = [Child(members[2], ("0000", "1111")), Child(members[3])]
    speeds = strategy._measured_speeds(outcomes)
    assert speeds == pytest.approx({"0000": 0.1, "1111": 0.3, "2222": 0.2, "3333": 0.2})


def test_inverse_size_sorts_by_the_objective_and_the_negated_sizes() -> None:
    strategy = CARS(problem(), population=6, protection="inverse_size")
    for code, figures in protected_figures(strategy, lambda task: toy_accuracy(task.architecture), generation=2):
        architecture = Architecture("toy", code)
        assert figures == (-toy_accuracy(architecture), -strategy.problem.cost(architecture).params)


@pytest.mark.parametrize("protection", ["speed", "inverse_size"])
def test_with_a_single_objective_nothing_is_protected(protection: Any) -> None:
    strategy = CARS(problem(goal=Goal(GOAL.objectives[:1])), population=6, protection=protection)
    for _ in generations(strategy):
        pass
    everybody = sorted(map(toy_accuracy, all_toys()))
    kept = sorted(m.metrics["accuracy"] for m in strategy.parents)
    assert kept[0] > everybody[len(everybody) // 2], "half of the space is better than the worst of the population"


def all_toys() -> list[Architecture]:
    return [ToySpace().parse(f"{np.base_repr(i, 4):0>4}") for i in range(256)]


# The small-model trap ------------------------------------------------------------------------------------------


class Sized(ToySpace):
    """The size of a member, from 0.5 to 4, is its code read as a number; parameters are thousandths of it."""

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        return Cost(params=500 + int(architecture.code, 4) * 3_500 // 255)


def where_it_ends(params: float) -> float:
    return 1 - 0.5 * math.exp(-0.7 * params / 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"child_speed": "measured"}, {"protection": "inverse_size"}], ids=str)
def test_protection_keeps_large_networks_that_plain_sorting_loses(options: dict[str, Any]) -> None:
    for seed in range(5):
        ranges, best = [], []
        for arm in ({"protection": "none"}, options):
            toy = problem(epochs=13, seed=seed, space=Sized())

            def small_ones_learn_fast(task: Evaluate, toy: Problem = toy) -> float:
                params = toy.cost(task.architecture).params
                return where_it_ends(params) * (1 - math.exp(-task.fidelity / (3 + 6 * params / 1_000)))

            strategy = CARS(toy, population=24, warmup=1, interval=1, **arm)
            for _ in generations(strategy, small_ones_learn_fast):
                pass
            sizes = [toy.cost(m.architecture).params for m in strategy.parents]
            ranges.append(max(sizes) - min(sizes))
            best.append(max(map(where_it_ends, sizes)))
        assert ranges[1] >= 1.5 * ranges[0], f"seed {seed}: {ranges}"
        assert best[1] >= best[0]
