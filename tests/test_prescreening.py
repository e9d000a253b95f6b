"""Which offspring are measured, where a predictor picks: the promising ones, and all where it knows too little."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import PREDICTORS
from nasplat.strategies.cars import CARS
from nasplat.strategies.credit_evolution import CreditEvolution
from nasplat.strategy import Strategy
from nasplat.surrogates.prescreening import Prescreening
from nasplat.task import Evaluate, Measurement
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.strategies import answer, drive, toy_problem
from nasplat.testing.toy import toy_accuracy

ACCURATE = Objective("accuracy", True)
SMALL = Objective("params", False)
Examples = list[tuple[Architecture, Mapping[str, float]]]


def problem(*objectives: Objective, constraints: Iterable[str] = (), seed: int = 0) -> Problem:
    benchmark = ToyBenchmark(ToySpace())
    goal = Goal(objectives or (ACCURATE,), tuple(map(Constraint.parse, constraints)))
    return Problem(benchmark.space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=seed)


def drawn(number: int, seed: int) -> list[Architecture]:
    """So many different members."""
    space, rng = ToySpace(), default_rng(seed)
    found: dict[str, Architecture] = {}
    while len(found) < number:
        architecture = space.sample(rng)
        found[architecture.code] = architecture
    return list(found.values())


def examples(number: int = 40, metric: str = "accuracy") -> Examples:
    return [(a, {metric: toy_accuracy(a)}) for a in drawn(number, seed=1)]


def predicted(examples: Examples, offspring: Sequence[Architecture], *, sign: float = 1.0) -> Any:
    """What a forest of one's own says, `[n]`."""
    forest = PREDICTORS.get("random_forest")(ToySpace())
    scores = np.array([sign * metrics["accuracy"] for _, metrics in examples])
    return forest.fit([a for a, _ in examples], scores).predict(offspring)


# What is picked


def test_with_one_objective_those_of_the_best_predicted_score_are_picked() -> None:
    prescreen, offspring = Prescreening(problem(), "random_forest", factor=3), drawn(60, seed=2)
    assert prescreen.fit(examples())
    picked, scores = prescreen.best(offspring, 20), predicted(examples(), offspring)
    assert len(set(picked)) == 20
    assert sorted(scores[picked]) == sorted(scores)[-20:]
    assert list(scores[picked]) == sorted(scores[picked], reverse=True), "the most promising do not come first"


def test_an_objective_that_is_to_be_small_is_predicted_the_other_way() -> None:
    prescreen, offspring = Prescreening(problem(Objective("accuracy", False)), "random_forest", factor=3), drawn(60, 2)
    assert prescreen.fit(examples())
    scores = predicted(examples(), offspring, sign=-1.0)
    assert sorted(scores[prescreen.best(offspring, 20)]) == sorted(scores)[-20:]


def test_with_several_objectives_whole_fronts_of_predictions_and_exact_costs_are_picked() -> None:
    two = problem(ACCURATE, SMALL)
    prescreen, offspring = Prescreening(two, "random_forest", factor=4), drawn(80, seed=3)
    assert prescreen.fit(examples())
    costs = [two.cost(a).params for a in offspring]
    figures = list(zip(-predicted(examples(), offspring), costs, strict=True))

    def dominated(i: int, among: set[int]) -> bool:
        a = figures[i]
        return any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in (figures[j] for j in among))

    everyone = set(range(80))
    first = {i for i in everyone if not dominated(i, everyone)}
    second = {i for i in everyone - first if not dominated(i, everyone - first)}
    number = len(first) + len(second) // 2
    picked = prescreen.best(offspring, number)
    assert len(first) > 2 and len(second) > 2
    assert set(picked[: len(first)]) == first
    assert set(picked[len(first) :]) < second and len(set(picked)) == number


def test_what_probably_breaks_a_measured_constraint_comes_last() -> None:
    bounded = problem(SMALL, constraints=["accuracy>=0.55"])
    prescreen, offspring = Prescreening(bounded, "random_forest", factor=2), drawn(80, seed=4)
    assert prescreen.fit(examples(80))
    order = prescreen.best(offspring, 80)
    kept = [toy_accuracy(offspring[i]) >= 0.55 for i in order]
    number = sum(kept)
    assert 20 < number < 40, "too easy to tell anything"
    assert np.mean(kept[:number]) > 0.75 > 1.5 * number / 80
    first = [bounded.cost(offspring[i]).params for i in order[: number // 2]]
    assert first == sorted(first), "among those that keep it the objective decides"


def test_costs_alone_need_no_predictor() -> None:
    small, offspring = problem(SMALL), drawn(30, seed=5)
    prescreen = Prescreening(small, "random_forest", factor=3)
    assert prescreen.fit([(a, {"params": small.cost(a).params}) for a in drawn(2, seed=6)])
    sizes = [small.cost(a).params for a in offspring]
    assert [sizes[i] for i in prescreen.best(offspring, 10)] == sorted(sizes)[:10]


def test_fewer_offspring_than_wanted_are_all_picked() -> None:
    prescreen = Prescreening(problem(), "random_forest", factor=3)
    assert prescreen.fit(examples())
    assert sorted(prescreen.best(drawn(3, seed=2), 20)) == [0, 1, 2]
    assert prescreen.best([], 20) == []


# When there is nothing to filter by


def test_a_factor_of_one_learns_nothing_and_draws_nothing() -> None:
    single = problem()
    before = single.rng.bit_generator.state
    assert not Prescreening(single, "random_forest", factor=1).fit(examples())
    assert single.rng.bit_generator.state == before


def test_too_few_measurements_are_no_filter() -> None:
    assert not Prescreening(problem(), "random_forest", factor=2).fit([])
    assert not Prescreening(problem(), "random_forest", factor=2).fit(examples(1))
    assert Prescreening(problem(), "random_forest", factor=2).fit(examples(2))
    assert not Prescreening(problem(), "auto", factor=2).fit(examples(3)), "auto needs four"


@pytest.mark.slow
def test_figures_that_are_none_teach_nothing() -> None:
    prescreen, offspring = Prescreening(problem(), "random_forest", factor=2), drawn(60, seed=2)
    spoilt: Examples = [(a, {"accuracy": math.nan}) for a in drawn(5, seed=9)]
    assert not prescreen.fit(spoilt)
    assert not prescreen.fit([*spoilt, *examples(1)])
    assert prescreen.fit([*spoilt, *examples()])
    assert (
        sorted(predicted(examples(), offspring)[prescreen.best(offspring, 20)])
        == sorted(predicted(examples(), offspring))[-20:]
    )


@pytest.mark.parametrize("make", [CARS, CreditEvolution])
def test_a_predictor_that_is_not_there_is_refused(make: Any) -> None:
    with pytest.raises(InputError, match="no predictor is named 'random_forrest'; did you mean 'random_forest'"):
        make(toy_problem(), prescreen=2, predictor="random_forrest")


# In strategies

UNFILTERED = {CARS: (400, "74c1fa41548632c8"), CreditEvolution: (150, "095b9146abc3d64f")}
"""What was asked for before there was a filter, as a digest."""


@pytest.mark.parametrize("make", [CARS, CreditEvolution])
def test_without_a_filter_the_search_is_what_it_was_before_there_was_one(make: Any) -> None:
    trials, digest = UNFILTERED[make]
    tasks = drive(make(toy_problem(seed=7), prescreen=1), trials=trials)
    codes = [task.architecture.code if isinstance(task, Evaluate) else "train" for task in tasks]
    assert hashlib.sha256(" ".join(codes).encode()).hexdigest()[:16] == digest


class Watched(Prescreening):
    """A filter that takes note of what it is given and what it gives."""

    def __init__(self, strategy: Any) -> None:
        super().__init__(strategy.problem, strategy.predictor, factor=strategy.prescreen)
        self.lessons: list[Examples] = []
        self.picked: list[list[Architecture]] = []
        self.left: list[list[Architecture]] = []

    def fit(self, measured: Iterable[tuple[Architecture, Mapping[str, float]]]) -> bool:
        self.lessons.append(list(measured))
        return super().fit(self.lessons[-1])

    def best(self, offspring: Sequence[Architecture], number: int) -> list[int]:
        places = super().best(offspring, number)
        self.picked.append([offspring[i] for i in places])
        self.left.append([a for i, a in enumerate(offspring) if i not in places])
        return places


def watched(strategy: Any) -> Watched:
    strategy._prescreening = Watched(strategy)
    found: Watched = strategy._prescreening
    return found


def generations(strategy: Strategy, number: int) -> list[list[Architecture]]:
    """The architectures of so many generations, or half generations, that are evaluated."""
    found: list[list[Architecture]] = []
    while len(found) < number and (tasks := strategy.ask(10_000)):
        for task in tasks:
            strategy.tell(answer(strategy.problem, task))
        evaluated = [task.architecture for task in tasks if isinstance(task, Evaluate)]
        found += [evaluated] if evaluated else []
    return found


@pytest.mark.slow
def test_credit_evolution_measures_what_was_picked_and_learns_from_all_it_measured() -> None:
    strategy = CreditEvolution(problem(), population=8, prescreen=4)
    filter_ = watched(strategy)
    founders, *rest = generations(strategy, 5)
    assert filter_.picked == rest and len(founders) == 8
    assert len(filter_.left[0]) == 24 and all(20 <= len(left) <= 24 for left in filter_.left)  # some have no new child
    measured = [a for generation in (founders, *rest) for a in generation]
    for i, lesson in enumerate(filter_.lessons):
        assert [a for a, _ in lesson] == measured[: 8 * i]
    for picked, left in zip(filter_.picked, filter_.left, strict=True):
        codes = [a.code for a in picked + left]
        assert len(set(codes)) == len(codes), "the pool has twins"


@pytest.mark.slow
@pytest.mark.parametrize("make", [CARS, CreditEvolution])
def test_what_is_picked_is_better_than_what_is_left(make: Any) -> None:
    better = []
    for seed in range(4):
        strategy = make(problem(seed=seed), population=12, prescreen=4)
        filter_ = watched(strategy)
        generations(strategy, 4)
        for picked, left in zip(filter_.picked, filter_.left, strict=True):
            better.append(np.mean(list(map(toy_accuracy, picked))) - np.mean(list(map(toy_accuracy, left))))
    assert len(better) == 12 and np.mean(better) > 0.05 and np.mean(np.array(better) > 0) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("child_speed", ["inherited", "measured"])
def test_cars_measures_what_was_picked_and_learns_from_the_newest_generation_alone(child_speed: Any) -> None:
    strategy = CARS(problem(ACCURATE, SMALL), population=6, prescreen=3, child_speed=child_speed)
    filter_ = watched(strategy)
    learnt_from: list[list[Measurement]] = []
    offspring: list[list[Architecture]] = []
    while tasks := strategy.ask(10_000):
        parents = {m.architecture.code for m in strategy.parents}
        told = [answer(strategy.problem, task) for task in tasks]
        for outcome in told:
            strategy.tell(outcome)
        measured = [outcome for outcome in told if isinstance(outcome, Measurement)]
        if len(measured) == len(told):  # half a generation without a training
            learnt_from.append(measured)
            offspring.append([m.architecture for m in measured if m.architecture.code not in parents])
    assert len(learnt_from) == 9 and len(filter_.picked) == 8
    assert offspring[1:] == filter_.picked
    for lesson, measured in zip(filter_.lessons, learnt_from, strict=False):
        assert [a for a, _ in lesson] == [m.architecture for m in measured]
        assert len({m.task.weights for m in measured if isinstance(m.task, Evaluate)}) == 1


@pytest.mark.slow
def test_where_next_to_nothing_is_new_a_filtered_search_takes_what_there_is() -> None:
    probe = problem()
    params = sorted(probe.cost(a).params for a in drawn(256, seed=0))
    few = problem(constraints=[f"params<={params[20]}"])
    tasks = drive(CreditEvolution(few, prescreen=4), trials=100)
    codes = [task.architecture.code for task in tasks if isinstance(task, Evaluate)]
    assert len(set(codes)) == len(codes) >= 20
