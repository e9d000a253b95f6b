"""Successive halving, with brackets and without, on cases worked by hand, and continued on another worker."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from nasplat.artifact import Handle
from nasplat.errors import InputError, StrategyError
from nasplat.objective import Goal
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task, encode_task
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.strategies import answer, toy_problem

Score = Callable[[Evaluate], float]


def make(name: str, problem: Problem, **options: Any) -> Strategy:
    strategy: Callable[..., Strategy] = STRATEGIES.get(name)
    return strategy(problem, **options)


def problem(fidelity: int = 9, objectives: int = 1, seed: int = 0) -> Problem:
    toy = toy_problem(seed)
    return Problem(toy.space, Goal(toy.goal.objectives[:objectives]), io=toy.io, fidelity=fidelity, seed=seed)


def measured(task: Task, score: float, **more: Any) -> Measurement:
    assert isinstance(task, Evaluate)
    metrics = {"accuracy": score, "params": 1.0}
    return Measurement(task=task, metrics=metrics, artifacts={"state": Handle.of(f"{task.id}".encode())}, **more)


def evaluations(tasks: list[Task]) -> list[Evaluate]:
    return [task for task in tasks if isinstance(task, Evaluate)]


def test_a_bracket_keeps_the_better_third_of_each_rung() -> None:
    strategy = make("successive_halving", problem())
    first = evaluations(strategy.ask(100))
    assert [task.fidelity for task in first] == [1] * 9
    scores = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.4, 0.5, 0.6]
    for task, score in zip(first, scores, strict=True):
        strategy.tell(measured(task, score))
    second = evaluations(strategy.ask(100))
    assert [task.fidelity for task in second] == [3] * 3
    assert {task.architecture for task in second} == {first[i].architecture for i in (1, 3, 5)}
    assert {task.continues for task in second} == {Handle.of(f"{first[i].id}".encode()) for i in (1, 3, 5)}
    assert strategy.ask(1) == []
    for task, score in zip(second, [0.2, 0.9, 0.5], strict=True):
        strategy.tell(measured(task, score))
    (last,) = evaluations(strategy.ask(100))
    assert (last.fidelity, last.architecture) == (9, second[1].architecture)
    strategy.tell(measured(last, 0.95))
    assert [task.fidelity for task in evaluations(strategy.ask(100))] == [1] * 9, "the next bracket did not begin"


def test_asha_promotes_whoever_is_among_the_first_third_at_once() -> None:
    strategy = make("asha", problem())
    told: list[tuple[int, float]] = []

    def step(score: float) -> tuple[int, float]:
        """Ask for one task and answer it; its fidelity."""
        (task,) = evaluations(strategy.ask(1))
        strategy.tell(measured(task, score))
        told.append((task.fidelity, score))
        return told[-1]

    assert step(0.5)[0] == 1
    assert step(0.4)[0] == 1  # two trials have no first third yet
    assert step(0.3)[0] == 1
    assert step(0.5)[0] == 3  # the best of three goes on
    assert step(0.6)[0] == 1
    assert step(0.9)[0] == 3  # the first of four is another one now
    assert [step(score)[0] for score in (0.1, 0.2)] == [1, 1]  # of six the first two have gone on
    assert [step(0.0)[0] for _ in range(3)] == [1, 1, 1]
    assert step(0.4)[0] == 3  # the third of nine
    assert step(0.99)[0] == 9  # the best of three at the middle rung goes on before anything new begins
    assert Counter(fidelity for fidelity, _ in told) == {1: 9, 3: 3, 9: 1}


def test_asha_agrees_with_brute_force_over_many_trials() -> None:
    """Every promotion was due: the trial was in the first third of its rung, and nothing higher was due before."""
    from numpy.random import default_rng

    rng = default_rng(3)
    strategy = make("asha", problem(fidelity=27), options={"duplicates": "measure"})
    rungs: dict[int, list[tuple[float, int, str]]] = {1: [], 3: [], 9: [], 27: []}
    gone: dict[int, set[str]] = {1: set(), 3: set(), 9: set()}

    def due() -> tuple[int, str] | None:
        for fidelity in (9, 3, 1):
            ranked = sorted(rungs[fidelity])
            for _, _, who in ranked[: len(ranked) // 3]:
                if who not in gone[fidelity]:
                    return fidelity, who
        return None

    states = Counter[int]()
    origin: dict[str, str] = {}
    for _ in range(600):
        expected = due()
        (task,) = evaluations(strategy.ask(1))
        states[task.fidelity] += 1
        if expected is None:
            assert task.fidelity == 1 and task.continues is None
            who = str(task.id)
        else:
            assert task.fidelity == 3 * expected[0]
            assert task.continues is not None
            who = origin[task.continues.digest]
            assert who == expected[1]
            gone[expected[0]].add(who)
        outcome = measured(task, float(rng.random()))
        origin[outcome.artifacts["state"].digest] = who
        rungs[task.fidelity].append((-outcome.metrics["accuracy"], task.id, who))
        strategy.tell(outcome)
    assert states[27] > 10


def test_asha_never_waits_while_anything_can_be_proposed() -> None:
    strategy = make("asha", problem())
    tasks = strategy.ask(40)
    assert len(tasks) == 40
    for task in tasks[::-1]:
        strategy.tell(measured(task, 0.5))
        assert len(strategy.ask(1)) == 1


@pytest.mark.parametrize("name", ["asha", "successive_halving"])
def test_with_two_objectives_those_who_go_on_are_on_the_front(name: str) -> None:
    strategy = make(name, problem(objectives=2))
    tasks = evaluations(strategy.ask(9))
    figures = [(0.1, 90), (0.9, 50), (0.3, 80), (0.5, 10), (0.2, 70), (0.7, 30), (0.4, 60), (0.45, 40), (0.6, 65)]
    for task, (accuracy, params) in zip(tasks, figures, strict=True):
        strategy.tell(Measurement(task=task, metrics={"accuracy": accuracy, "params": params}))
    continued = evaluations(strategy.ask(3))
    assert {task.architecture for task in continued} == {tasks[i].architecture for i in (1, 3, 5)}
    assert {task.fidelity for task in continued} == {3}


@pytest.mark.parametrize("name", ["asha", "successive_halving"])
def test_failed_and_remembered_trials_stay_out_of_the_race(name: str) -> None:
    strategy = make(name, problem(fidelity=3))
    tasks = evaluations(strategy.ask(3))
    strategy.tell(Failure(task=tasks[0], kind="toy", message="as told"))
    strategy.tell(measured(tasks[1], 0.9, cached_from=0))
    strategy.tell(measured(tasks[2], 0.1))
    fidelities = [(task.fidelity, task.architecture) for task in evaluations(strategy.ask(1))]
    if name == "successive_halving":  # a bracket always sends its best on
        assert fidelities == [(3, tasks[2].architecture)]
    else:
        assert fidelities[0][0] == 1


@pytest.mark.parametrize("name", ["asha", "successive_halving"])
def test_it_proposes_what_the_strategy_inside_would_propose_alone(name: str) -> None:
    alone = make("regularized_evolution", problem(fidelity=1), population=4, sample=2)
    around = make(
        name, problem(fidelity=1), base_strategy="regularized_evolution", options={"population": 4, "sample": 2}
    )

    def trials(strategy: Strategy) -> list[dict[str, Any]]:
        asked = []
        for _ in range(50):
            for task in strategy.ask(1):
                asked.append(encode_task(task))
                strategy.tell(answer(strategy.problem, task))
        return asked

    assert trials(alone) == trials(around)


def test_the_strategy_inside_learns_every_proposal_once_with_its_own_task() -> None:
    seen: list[Outcome] = []
    strategy = make("asha", problem(), options={"duplicates": "measure"})
    inner = strategy._inner._strategy  # type: ignore[attr-defined]
    inner.tell = seen.append
    entered = 0
    for _ in range(40):
        (task,) = evaluations(strategy.ask(1))
        entered += task.fidelity == 1
        strategy.tell(measured(task, 0.5) if task.id % 5 else Failure(task=task, kind="toy", message="as told"))
    assert [outcome.id for outcome in seen] == list(range(entered)), "ids are the inner problem's own"
    assert any(isinstance(outcome, Failure) for outcome in seen)


def test_rungs_and_options_that_cannot_be_are_refused() -> None:
    for rungs in ([3, 1, 9], [1, 3], [], [1, 3, 3, 9]):
        with pytest.raises(
            InputError, match=r"rungs must increase and end at the benchmark's full fidelity, 9, but got"
        ):
            make("asha", problem(), rungs=rungs)
    with pytest.raises(InputError, match="no strategy is named 'randm_search'; did you mean 'random_search'"):
        make("asha", problem(), base_strategy="randm_search")
    with pytest.raises(InputError, match=r"no option of strategy\.options is named 'populaton'"):
        make("asha", problem(), base_strategy="regularized_evolution", options={"populaton": 3})
    assert [task.fidelity for task in evaluations(make("asha", problem(), rungs=[2, 9]).ask(1))] == [2]
    assert [task.fidelity for task in evaluations(make("asha", problem(fidelity=10)).ask(1))] == [1]


def test_what_an_earlier_bracket_measured_races_again_and_what_this_one_measured_does_not() -> None:
    strategy = make("successive_halving", problem(fidelity=3), options={"duplicates": "cache"})
    first = evaluations(strategy.ask(3))
    for task, score in zip(first, (0.5, 0.4, 0.3), strict=True):
        strategy.tell(measured(task, score))
    (top,) = evaluations(strategy.ask(3))
    strategy.tell(measured(top, 0.6))
    second = evaluations(strategy.ask(3))
    strategy.tell(measured(second[0], 0.9, cached_from=first[0].id))
    strategy.tell(measured(second[1], 0.2))
    strategy.tell(measured(second[2], 0.95, cached_from=second[1].id))
    (continued,) = evaluations(strategy.ask(3))
    assert continued.architecture == second[0].architecture


def test_the_strategy_inside_sees_one_fidelity_alone() -> None:
    twofold = make("asha", problem(fidelity=9), base_strategy="asha")
    assert [task.fidelity for task in evaluations(twofold.ask(5))] == [1] * 5
    assert list(problem(fidelity=9).nested(fidelity=3).fidelities) == [3]


def test_rungs_are_fidelities_that_the_benchmark_has() -> None:
    toy = toy_problem()
    two = Problem(toy.space, toy.goal, io=toy.io, fidelity=200, fidelities=[12, 200])
    asked = [task.fidelity for task in evaluations(make("asha", two).ask(1))]
    assert asked == [12]
    with pytest.raises(InputError, match=r"which has 12, 200, but got \[50\]"):
        make("asha", two, rungs=[50, 200])


def test_a_strategy_that_trains_supernets_cannot_be_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    from nasplat.strategies.random_search import RandomSearch

    def ask(self: RandomSearch, n: int) -> list[Task]:
        return [self.problem.train_supernet((self.problem.sample(),), epochs=1)]

    monkeypatch.setattr(RandomSearch, "ask", ask)
    with pytest.raises(StrategyError, match="ask for evaluations from scratch"):
        make("asha", problem()).ask(1)


def test_a_nested_problem_has_numbers_of_its_own_and_leaves_the_outer_alone() -> None:
    outer = toy_problem(seed=5, constraints=["params<=2000"])
    inner = outer.nested(fidelity=2)
    assert (inner.goal, inner.limits, inner.fidelity) == (outer.goal, outer.limits, 2)
    before = outer.state()
    inner.evaluate(inner.sample())
    assert outer.state() == before
    assert isinstance(ToyBenchmark(ToySpace()).fidelity, int)
