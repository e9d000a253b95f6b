"""NSGA-II: who survives and who mates, on cases worked by hand."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.evolution.selection import RankAndCrowding
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Measurement, encode_task
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.strategies import answer, toy_problem

TWO = (Objective("accuracy", True), Objective("params", False))


def make(name: str, problem: Problem, **options: Any) -> Strategy:
    strategy: Callable[..., Strategy] = STRATEGIES.get(name)
    return strategy(problem, **options)


def measured(number: int, accuracy: float, params: float, **more: float) -> Measurement:
    task = Evaluate(id=number, seed=0, architecture=Architecture("toy", f"{number:04d}"), fidelity=1)
    return Measurement(task=task, metrics={"accuracy": accuracy, "params": params, **more})


def survivors(goal: Goal, pool: Sequence[Measurement], number: int) -> set[int]:
    return {m.id for m in RankAndCrowding(goal).survivors(pool, number, default_rng(0))}


def test_fronts_survive_in_order_and_the_crowded_of_the_last_one_go() -> None:
    pool = [
        measured(0, 0.9, 100),  # the first front: 0 and 1
        measured(1, 0.5, 10),
        measured(2, 0.85, 120),  # the second: 2 to 5; 4 and 5 are its ends or stand alone, 3 sits right beside 2
        measured(3, 0.84, 118),
        measured(4, 0.6, 60),
        measured(5, 0.4, 11),
        measured(6, 0.3, 130),  # dominated by all of the second but one
    ]
    goal = Goal(TWO)
    assert survivors(goal, pool, 2) == {0, 1}
    assert survivors(goal, pool, 5) == {0, 1, 2, 4, 5}
    assert survivors(goal, pool, 6) == {0, 1, 2, 3, 4, 5}
    assert survivors(goal, pool, 99) == set(range(7))
    assert survivors(goal, [], 3) == set()


def test_a_measured_constraint_comes_before_every_objective() -> None:
    goal = Goal(TWO, (Constraint.parse("latency_ms<=10"),))
    pool = [
        measured(0, 0.99, 1, latency_ms=12),
        measured(1, 0.98, 1, latency_ms=30),
        measured(2, 0.10, 900, latency_ms=10),
        measured(3, 0.11, 950, latency_ms=9),
    ]
    assert survivors(goal, pool, 2) == {2, 3}
    assert survivors(goal, pool, 3) == {0, 2, 3}
    pairs = RankAndCrowding(goal).pairs(pool, 200, default_rng(1))
    for a, b in itertools.chain(pairs):
        assert {a.id, b.id} != {1}  # the worst wins against itself at most, which a tournament never offers
    wins = [m.id for pair in pairs for m in pair]
    assert wins.count(1) == 0 and wins.count(0) < wins.count(2)


def test_winners_of_tournaments_dominate_or_stand_apart() -> None:
    pool = [measured(0, 0.9, 10), measured(1, 0.8, 20), measured(2, 0.7, 30), measured(3, 0.6, 40)]
    wins = [m.id for pair in RankAndCrowding(Goal(TWO)).pairs(pool, 400, default_rng(0)) for m in pair]
    assert wins.count(3) == 0, "the one that all others dominate has won"
    assert wins.count(0) / len(wins) == pytest.approx(3 / 6, abs=0.05)  # it wins all three of six possible pairings
    assert wins.count(1) / len(wins) == pytest.approx(2 / 6, abs=0.05)


def test_sorting_agrees_with_brute_force() -> None:
    rng = default_rng(7)
    pool = [measured(i, float(a), float(p)) for i, (a, p) in enumerate(rng.integers(0, 12, size=(80, 2)))]
    goal = Goal(TWO)
    left, expected = list(pool), []
    while left:
        front = [m for m in left if not any(goal.better(other, m) for other in left)]
        expected.append({m.id for m in front})
        left = [m for m in left if m not in front]
    taken = 0
    for front_ids in expected:
        taken += len(front_ids)
        assert survivors(goal, pool, taken) == set().union(*expected[: expected.index(front_ids) + 1])


def test_a_generation_waits_for_all_of_its_trials_and_no_longer() -> None:
    strategy = make("nsga2", toy_problem(), population=6)
    first = strategy.ask(4)
    second = strategy.ask(4)
    assert (len(first), len(second), strategy.ask(4)) == (4, 2, [])
    for task in [*second, *first[1:]]:
        strategy.tell(answer(strategy.problem, task))
    assert strategy.ask(4) == []
    strategy.tell(answer(strategy.problem, first[0]))
    assert len(strategy.ask(99)) == 6


def test_how_many_are_asked_for_at_once_changes_nothing() -> None:
    def trials(batch: int) -> list[object]:
        strategy = make("nsga2", toy_problem(seed=4), population=5)
        asked: list[object] = []
        while len(asked) < 60:
            tasks = strategy.ask(batch)
            asked += map(encode_task, tasks)
            for task in tasks:
                strategy.tell(answer(strategy.problem, task))
        return asked[:60]

    assert trials(1) == trials(3) == trials(50)


def test_a_known_network_at_another_price_is_new_where_prices_are_wanted() -> None:
    class Twins(ToySpace):
        """The second layer's width makes no difference to what is computed, but is paid for."""

        def canonical_key(self, architecture: Architecture) -> str:
            return architecture.code[0] + "*" + architecture.code[2:]

    space, io = Twins(), ToyBenchmark(ToySpace()).io
    a, b = space.parse("1111"), space.parse("1011")
    wants_price = Problem(space, Goal(TWO), io=io)
    assert wants_price.key(a) == wants_price.key(b) and wants_price.deduplication_key(
        a
    ) != wants_price.deduplication_key(b)
    wants_accuracy = Problem(space, Goal(TWO[:1]), io=io)
    assert wants_accuracy.deduplication_key(a) == wants_accuracy.deduplication_key(b)


def test_it_finds_more_of_a_front_than_chance() -> None:
    problem = toy_problem()
    every = [problem.space.parse("".join(code)) for code in itertools.product("0123", repeat=4)]
    true = {problem.goal.losses(m) for m in problem.goal.front([_measured(problem, i, a) for i, a in enumerate(every)])}
    found = {"nsga2": 0, "random_search": 0}
    for name, seed in itertools.product(found, range(8)):
        problem = toy_problem(seed=seed)
        strategy = make(name, problem)
        told: list[Measurement] = []
        while len(told) < 100:
            for task in strategy.ask(1):
                outcome = answer(problem, task)
                assert isinstance(outcome, Measurement)
                told.append(outcome)
                strategy.tell(outcome)
        found[name] += len(true & {problem.goal.losses(m) for m in problem.goal.front(told)})
    assert found["nsga2"] > 1.3 * found["random_search"], found


def _measured(problem: Problem, number: int, architecture: Architecture) -> Measurement:
    outcome = answer(problem, Evaluate(id=number, seed=0, architecture=architecture, fidelity=9))
    assert isinstance(outcome, Measurement)
    return outcome
