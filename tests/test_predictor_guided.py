"""The guided search: what it proposes, what it never pays for, and how it goes on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasplat import search_space
from nasplat.architecture import IO, Architecture
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.graph import Graphs
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import PREDICTORS, SEARCH_SPACES, STRATEGIES
from nasplat.search_space import SearchSpace
from nasplat.storage.state import pack, unpack
from nasplat.strategies.predictor_guided import PredictorGuided, _FittedSurrogate
from nasplat.strategy import Strategy
from nasplat.surrogates.posterior import Candidates, Floats, Posterior, Surrogate
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task
from nasplat.testing import STRATEGY_CHECKS, ToySpace
from nasplat.testing.toy import toy_accuracy

ACCURACY, PARAMS = Objective("accuracy", True), Objective("params", False)
SLOW = Objective("delay", False)


def toy(*objectives: Objective, constraints: Sequence[str] = (), seed: int = 0, space: Any = None) -> Problem:
    goal = Goal(objectives or (ACCURACY,), tuple(map(Constraint.parse, constraints)))
    return Problem(space or ToySpace(), goal, io=IO.image(channels=1, side=4, outputs=3), fidelity=9, seed=seed)


def guided(problem: Problem, **options: Any) -> Strategy:
    make: Callable[..., Strategy] = STRATEGIES.get("predictor_guided")
    return make(problem, **options)


def delay(architecture: Architecture) -> float:
    """A measured figure: wide late layers are slow."""
    return sum((i + 1) * int(symbol, 36) for i, symbol in enumerate(architecture.code)) / 10


def measured(task: Task) -> Measurement:
    assert isinstance(task, Evaluate)
    figures = {"accuracy": toy_accuracy(task.architecture), "delay": delay(task.architecture)}
    return Measurement(task=task, metrics=figures)


def answered(problem: Problem, task: Task) -> Measurement:
    outcome = measured(task)
    return replace(outcome, metrics={**outcome.metrics, **problem.cost(outcome.architecture).metrics()})


def drive(strategy: Strategy, trials: int, tell: Callable[[Problem, Task], Outcome] = answered) -> list[Architecture]:
    """Ask and tell one at a time."""
    asked: list[Architecture] = []
    while len(asked) < trials:
        tasks = strategy.ask(1)
        if not tasks:
            break
        assert isinstance(tasks[0], Evaluate)
        asked.append(tasks[0].architecture)
        strategy.tell(tell(strategy.problem, tasks[0]))
    return asked


@pytest.mark.slow
def test_it_finds_the_best_of_256_in_few_evaluations() -> None:
    best = max(map(toy_accuracy, ToySpace().members() or []))
    needed = [
        next(i for i, a in enumerate(drive(guided(toy(seed=seed)), 100), 1) if toy_accuracy(a) == best)
        for seed in range(3)
    ]
    assert max(needed) <= 40  # at random it takes 128 on average


@pytest.mark.slow
def test_it_finds_the_optimum_of_nasbench201_in_few_evaluations(table: Path) -> None:
    from nasplat.artifact import MemoryArtifacts
    from nasplat.config import Workload

    benchmark = Workload("nasbench201", "nasbench201", {}, {"search_column": "test"}).make()
    benchmark.prepare()

    def tell(problem: Problem, task: Task) -> Outcome:
        assert isinstance(task, Evaluate)
        return benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())

    found = []
    for seed in range(3):
        problem = Problem(benchmark.space, Goal((ACCURACY,)), io=benchmark.io, fidelity=benchmark.fidelity, seed=seed)
        asked = drive(guided(problem), 30, tell)
        figures = [
            benchmark.measure(problem.evaluate(a), device="cpu", artifacts=MemoryArtifacts()).metrics for a in asked
        ]
        found.append(max(each["accuracy"] for each in figures))
    assert found == pytest.approx([0.94373] * 3, abs=1e-5)


@pytest.mark.slow
def test_nothing_is_paid_for_twice_and_it_ends_when_all_is_measured() -> None:
    asked = drive(guided(toy(constraints=["params<=300"])), 300)
    feasible = [a for a in ToySpace().members() or [] if ToySpace().cost(a, toy().io).params <= 300]
    assert len(asked) == len(set(asked)) and set(asked) == set(feasible)


@pytest.mark.slow
def test_equal_networks_are_asked_for_once() -> None:
    space = SEARCH_SPACES.get("nasbench201")()
    asked = drive(guided(toy(space=space)), 60)
    keys = [space.canonical_key(a) for a in asked]
    assert len(set(keys)) == len(keys) == 60


@pytest.mark.slow
def test_the_protocol_measures_a_random_sample_and_then_what_is_ranked_first() -> None:
    problem = toy(seed=3)
    options = {"design": "random", "initial": 20, "acquisition": "greedy", "batch": 5, "rounds": 2}
    strategy = guided(problem, **options)
    first = strategy.ask(50)
    assert len(first) == 20 and strategy.ask(1) == [] and strategy.progress == pytest.approx(20 / 30)
    for task in first:
        strategy.tell(measured(task))
    second = strategy.ask(50)
    assert len(second) == 5 and strategy.ask(1) == []
    learnt = [measured(task) for task in first]
    scores = np.array([m.metrics["accuracy"] for m in learnt])
    predictor = PREDICTORS.get("isotropic_gaussian_process")(problem.space).fit(
        [m.architecture for m in learnt], scores
    )
    rest = [a for a in ToySpace().members() or [] if a not in {m.architecture for m in learnt}]
    ranked = [rest[i] for i in np.argsort(-predictor.predict(rest))]
    assert {task.architecture for task in second if isinstance(task, Evaluate)} == set(ranked[:5])
    for task in second:
        strategy.tell(measured(task))
    assert len(strategy.ask(50)) == 5
    assert strategy.progress == 1.0 and strategy.ask(1) == []


@pytest.mark.slow
@pytest.mark.sweep(6)
@pytest.mark.parametrize("acquisition", ["expected_improvement", "upper_bound", "thompson", "greedy"])
@pytest.mark.parametrize("predictor", ["isotropic_gaussian_process", "random_forest", "gaussian_process"])
def test_every_acquisition_goes_with_every_predictor(acquisition: str, predictor: str) -> None:
    asked = drive(guided(toy(), predictor=predictor, acquisition=acquisition), 12)
    assert len(set(asked)) == 12
    assert max(map(toy_accuracy, asked[5:])) > np.median([toy_accuracy(a) for a in ToySpace().members() or []])


@pytest.mark.slow
def test_constraints_on_measured_metrics_are_learnt() -> None:
    asked = drive(guided(toy(constraints=["delay<=1.2"])), 75)
    kept = [delay(a) <= 1.2 for a in asked]
    share = np.mean([delay(a) <= 1.2 for a in ToySpace().members() or []])
    assert np.mean(kept[20:]) > 2 * share
    best = max(toy_accuracy(a) for a in ToySpace().members() or [] if delay(a) <= 1.2)
    assert max(toy_accuracy(a) for a, keeps in zip(asked, kept, strict=True) if keeps) == best


@pytest.mark.slow
def test_while_nothing_keeps_a_constraint_it_looks_for_what_does() -> None:
    asked = drive(guided(toy(constraints=["delay<=0.15"])), 40)  # one of 256 does
    assert min(map(delay, asked)) <= 0.15


def front(objectives: Sequence[Objective], asked: Sequence[Architecture]) -> float:
    from pymoo.indicators.hv import HV

    problem = toy(*objectives)
    reference = np.array([0.0 if o.maximize else {"params": 700, "delay": 4}[o.metric] for o in objectives])
    losses = []
    for a in asked:
        metrics = {**problem.cost(a).metrics(), "accuracy": toy_accuracy(a), "delay": delay(a)}
        losses.append([o.loss(metrics) for o in objectives])
    return float(HV(ref_point=reference)(np.array(losses)))


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [(ACCURACY, PARAMS), (ACCURACY, SLOW), (ACCURACY, SLOW, PARAMS)], ids=len)
def test_several_objectives_are_all_improved(objectives: tuple[Objective, ...]) -> None:
    everything = front(objectives, ToySpace().members() or [])
    make: Callable[..., Strategy] = STRATEGIES.get("random_search")
    trials = 40 if len(objectives) == 2 else 25
    found = front(objectives, drive(guided(toy(*objectives)), trials)) / everything
    at_random = [front(objectives, drive(make(toy(*objectives, seed=s)), trials)) / everything for s in range(5)]
    assert found > max(at_random)
    assert found > 0.9


def test_joint_draws_are_of_those_that_could_add_most_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasplat.strategies.predictor_guided.SHORTLIST", 4)
    strategy = guided(toy(ACCURACY, SLOW, PARAMS), acquisition="thompson")
    assert isinstance(strategy, PredictorGuided)
    members = (ToySpace().members() or [])[:9]
    sides = np.arange(1.0, 10.0)
    means = np.stack([sides, 10.0 - sides, np.ones(9)], axis=1)  # one front; the volumes are sides * (10 - sides)
    fitted = _FittedSurrogate(0, 0, np.zeros((0, 3)), np.zeros(3), 0.0)
    for order in (np.arange(9), np.array([0, 8, 1, 7, 2, 6, 3, 5, 4])):
        candidates = Candidates(strategy.problem, [members[i] for i in order])
        drawn: list[Architecture] = []

        def covariance(shortlist: Candidates, drawn: list[Architecture] = drawn) -> list[Floats | None]:
            drawn.extend(shortlist.architectures)
            return [None] * 3

        monkeypatch.setattr(strategy._surrogate, "covariance", covariance)
        none = np.zeros((9, 0))
        strategy._draw(fitted, Posterior(means[order], np.zeros((9, 3)), none, none), candidates)
        assert len(drawn) == 4 and {members[3], members[4], members[5]} < set(drawn)


def test_what_is_being_measured_leaves_less_to_learn_near_it() -> None:
    problem = toy()
    surrogate = Surrogate(problem, "isotropic_gaussian_process", {})
    members = ToySpace().members() or []
    learnt, rest = Candidates(problem, members[::25]), Candidates(problem, members[1::25])
    surrogate.fit(learnt, [{"accuracy": toy_accuracy(a)} for a in learnt.architectures])
    before = surrogate.posterior(rest)
    after = surrogate.posterior(rest, rest.view(np.array([4])))
    np.testing.assert_array_equal(after.means, before.means)
    assert (after.deviations <= before.deviations + 1e-9).all()
    assert after.deviations[4] < 0.01 * before.deviations[4]
    assert after.deviations[3] < before.deviations[3]


@pytest.mark.parametrize("design", ["clusters", "random"])
def test_costs_and_encodings_of_members_are_computed_once(design: str, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = guided(toy(ACCURACY, PARAMS), design=design, initial=3)
    problem, computed = strategy.problem, 0
    price, encode = problem.cost, problem.space.graphs

    def counted(architecture: Architecture) -> Cost:
        nonlocal computed
        computed += 1
        return price(architecture)

    def encoded(architectures: Sequence[Architecture]) -> Graphs:
        nonlocal computed
        computed += len(architectures)
        return encode(architectures)

    monkeypatch.setattr(problem, "cost", counted)
    monkeypatch.setattr(problem.space, "graphs", encoded)
    drive(strategy, 4)  # the last of them is the first that is predicted
    members = len(problem.listed() or ())
    assert computed > members
    computed = 0
    drive(strategy, 3)
    assert computed < members / 4


def test_workers_never_wait_and_a_batch_has_no_twins() -> None:
    strategy = guided(toy())
    tasks = strategy.ask(8)
    assert len(tasks) == 8  # a design for as many as ask
    for task in tasks:
        strategy.tell(measured(task))
    batch = [task.architecture for task in strategy.ask(8) if isinstance(task, Evaluate)]
    assert len(set(batch)) == 8


def test_a_batch_is_the_same_whether_outcomes_come_between_or_not() -> None:
    def picks(together: bool) -> set[Architecture]:
        strategy = guided(toy(), initial=10, batch=6)
        for task in strategy.ask(10):
            strategy.tell(measured(task))
        chosen: list[Task] = []
        while len(chosen) < 6:
            tasks = strategy.ask(6 - len(chosen) if together else 1)
            chosen += tasks
            for task in tasks:
                strategy.tell(measured(task))
        return {task.architecture for task in chosen if isinstance(task, Evaluate)}

    assert picks(together=True) == picks(together=False)


@pytest.mark.slow
def test_breeding_ends_with_what_promises_most() -> None:
    problem = large("darts")
    strategy: Any = guided(problem, proposals=500)
    drive(strategy, 10, by_macs)
    strategy.ask(1)
    last = [problem.cost(a).macs for a in strategy._bred[-100:]]
    first = [problem.cost(a).macs for a in strategy._bred[:100]]
    assert np.mean(last) > np.mean(first)


def test_failures_are_not_learnt_from_nor_asked_for_again() -> None:
    def fails(problem: Problem, task: Task) -> Outcome:
        return Failure(task=task, kind="toy", message="as told")

    asked = drive(guided(toy()), 300, fails)
    assert len(asked) == len(set(asked)) == 256


def test_what_diverged_is_not_learnt_from() -> None:
    def diverges(problem: Problem, task: Task) -> Outcome:
        outcome = answered(problem, task)
        odd = outcome.task.id % 3 == 1
        return replace(outcome, metrics={**outcome.metrics, "accuracy": math.nan}) if odd else outcome

    assert len(set(drive(guided(toy()), 30, diverges))) == 30


@pytest.mark.slow
def test_a_predictor_that_needs_more_examples_gets_random_ones_first() -> None:
    strategy = guided(toy(), predictor="auto", predictor_options={"parts": ["gradient_boosting"]}, initial=2)
    assert len(set(drive(strategy, 6))) == 6
    assert strategy.get_state()["lesson"] == [5, 5]


def test_a_predictor_that_cannot_learn_at_all_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*arguments: Any) -> None:
        raise InputError("it lacks a library")

    monkeypatch.setattr(PREDICTORS.get("isotropic_gaussian_process"), "fit", refuses)
    with pytest.raises(InputError, match="lacks a library"):
        drive(guided(toy()), 6)


def test_costs_alone_need_no_predictor() -> None:
    space, io = ToySpace(), toy().io
    asked = drive(guided(toy(PARAMS)), 8)
    assert min(space.cost(a, io).params for a in asked) == min(space.cost(a, io).params for a in space.members() or [])


@pytest.mark.slow
def test_a_narrow_window_is_searched_within() -> None:
    space = SEARCH_SPACES.get("esrn/light")()
    goal = Goal((Objective("psnr_db", True),), tuple(map(Constraint.parse, space.limits)))
    problem = Problem(space, goal, io=space.reference_io, fidelity=1)

    def tell(problem: Problem, task: Task) -> Outcome:
        assert isinstance(task, Evaluate)
        return Measurement(task=task, metrics={"psnr_db": math.log(problem.cost(task.architecture).macs)})

    asked = drive(guided(problem, proposals=50), 8, tell)
    assert len(asked) == 8 and all(map(problem.feasible, asked))


def test_the_predictor_waits_for_a_batch() -> None:
    strategy = guided(toy(), batch=4)
    for task in strategy.ask(5):
        strategy.tell(measured(task))
    learnt_from = []
    for _ in range(9):
        (task,) = strategy.ask(1)
        learnt_from.append(strategy.get_state()["lesson"][0])
        strategy.tell(measured(task))
    assert learnt_from == [5, 5, 5, 5, 9, 9, 9, 9, 13]


def large(space: str, seed: int = 0) -> Problem:
    made = SEARCH_SPACES.get(space)()
    assert made.members() is None
    return Problem(made, Goal((ACCURACY,)), io=made.reference_io, fidelity=1, seed=seed)


def by_macs(problem: Problem, task: Task) -> Outcome:
    """An accuracy that grows with the logarithm of the MACs."""
    assert isinstance(task, Evaluate)
    macs = problem.cost(task.architecture).macs
    return Measurement(task=task, metrics={"accuracy": math.log1p(macs) / 100})


@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("space", ["darts", "nasbench101", "ghost/small"])
def test_where_members_cannot_be_listed_evolution_on_the_predictor_proposes(space: str) -> None:
    asked = drive(guided(large(space), proposals=50), 16, by_macs)
    problem = large(space)
    macs = [problem.cost(a).macs for a in asked]
    usual = [problem.cost(problem.sample()).macs for _ in range(200)]
    assert len({problem.key(a) for a in asked}) == 16
    assert np.mean(macs[10:]) > np.quantile(usual, 0.9)


@pytest.mark.slow
def test_a_large_space_goes_on_exactly_from_a_snapshot() -> None:
    strategy = guided(large("darts"), proposals=50, batch=3)
    drive(strategy, 12, by_macs)
    text, arrays = pack(strategy.state())
    again = guided(large("darts"), proposals=50, batch=3)
    again.restore(unpack(text, arrays))
    assert drive(again, 8, by_macs) == drive(strategy, 8, by_macs)


@pytest.mark.slow
@pytest.mark.sweep(16)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "options",
    [{"acquisition": "thompson", "batch": 3}, {"acquisition": "expected_improvement", "initial": 20, "rounds": 10}],
    ids=str,
)
def test_the_contract_is_kept_where_members_cannot_be_listed(
    options: dict[str, Any], check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_space, "LISTED", 0)
    monkeypatch.setattr("nasplat.testing.strategies.TRIALS", 25)
    check(lambda problem: guided(problem, proposals=50, **options))


@pytest.mark.slow
def test_zero_cost_proxies_choose_what_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasplat.strategies.predictor_guided.RANKED", 30)
    make: Callable[..., SearchSpace] = SEARCH_SPACES.get("nasbench201")
    space = make(channels=4, cells=1)
    goal = Goal((ACCURACY,))
    io = IO.image(channels=3, side=8, outputs=10)
    chosen = [
        drive(guided(Problem(space, goal, io=io, fidelity=1, seed=1), design="zero_cost"), 5, by_macs) for _ in range(2)
    ]
    assert chosen[0] == chosen[1] and len(set(chosen[0])) == 5
    random = [space.cost(a, io).macs for a in (space.members() or [])[::31]]
    assert np.mean([space.cost(a, io).macs for a in chosen[0]]) > np.mean(random)  # proxies like large networks


def test_an_unknown_predictor_or_option_is_refused() -> None:
    with pytest.raises(InputError, match="isotropic_gaussian_process"):
        guided(toy(), predictor="distance_proces")
    with pytest.raises(InputError, match="headroom"):
        guided(toy(), predictor_options={"headrom": 1})
