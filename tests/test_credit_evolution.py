"""Evolution guided by block credit: what earns credit, what it steers, and how children are made and mended."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts, MemoryArtifacts
from nasplat.cost import Cost
from nasplat.driver.budget import Budget
from nasplat.driver.loop import Search
from nasplat.errors import InputError
from nasplat.evolution.credit import Terms, difference, founding, preference, regression
from nasplat.executors.inline import InlineExecutor
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import Gene, GeneSpace, Prior
from nasplat.storage.event_log import EventLog
from nasplat.storage.state import pack, unpack
from nasplat.strategies import credit_evolution
from nasplat.strategies.credit_evolution import CreditEvolution, Evaluated, fronts, roulette
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task, encode_task
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.strategies import answer
from nasplat.testing.toy import toy_accuracy

ACCURATE = Objective("accuracy", True)
SMALL = Objective("params", False)


class Watched(ToySpace):
    """The toy space, noting what it is asked for."""

    def __init__(self) -> None:
        self.mutations: list[tuple[Architecture, Architecture, Prior | None]] = []
        self.crossings: list[tuple[Architecture, Architecture, Architecture]] = []
        self.draws = 0

    def sample(self, rng: Generator) -> Architecture:
        self.draws += 1
        return super().sample(rng)

    def mutate(self, architecture: Architecture, rng: Generator, prior: Prior | None = None) -> Architecture:
        mutant = super().mutate(architecture, rng, prior)
        self.mutations.append((architecture, mutant, prior))
        return mutant

    def crossover(self, a: Architecture, b: Architecture, rng: Generator) -> Architecture:
        child = super().crossover(a, b, rng)
        self.crossings.append((a, b, child))
        return child


class Slots(GeneSpace):
    """Twelve slots of six blocks; a network has as many parameters as its blocks."""

    name: ClassVar[str] = "slots"
    sizes: ClassVar[tuple[int, ...]] = (100, 230, 370, 520, 680, 850)
    genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(f"slot {i}", tuple(map(str, range(6)))) for i in range(12))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        return Cost.total({str(i): Cost(params=self.sizes[c]) for i, c in enumerate(self.choices(architecture))})

    def build(self, architecture: Architecture, io: IO) -> Any:
        raise NotImplementedError


def toy(
    *objectives: Objective, space: GeneSpace | None = None, constraints: Iterable[str] = (), seed: int = 0
) -> Problem:
    goal = Goal(objectives or (ACCURATE,), tuple(map(Constraint.parse, constraints)))
    return Problem(space or ToySpace(), goal, io=IO.image(channels=1, side=4, outputs=3), seed=seed)


def generation(
    strategy: CreditEvolution, answering: Callable[[Problem, Task], Outcome] = answer
) -> list[tuple[Evaluate, Outcome]]:
    """The tasks of one generation, told, with their outcomes."""
    told = []
    for task in strategy.ask(99):
        assert isinstance(task, Evaluate)
        told.append((task, answering(strategy.problem, task)))
    for _, outcome in told:
        strategy.tell(outcome)
    return told


def differing(a: Architecture, b: Architecture) -> int:
    return sum(x != y for x, y in zip(a.code, b.code, strict=True))


def test_a_space_without_genes_is_refused() -> None:
    space = SEARCH_SPACES.get("nasbench101")()
    goal = Goal((ACCURATE,))
    with pytest.raises(InputError, match=r"nasbench101 has no genes; take another strategy"):
        CreditEvolution(Problem(space, goal, io=space.reference_io))


def test_more_elites_than_a_population_are_refused() -> None:
    with pytest.raises(InputError, match="elites=9, population=8"):
        CreditEvolution(toy(), elites=9)


def test_a_generation_has_mutants_of_every_elite_and_children_of_two_parents() -> None:
    space = Watched()
    strategy = CreditEvolution(toy(space=space), population=8, elites=4, mutation_rate=0.0, duplicates="measure")
    founders = generation(strategy)
    assert (len(founders), len(space.mutations), len(space.crossings)) == (8, 0, 0)
    best = sorted((t.architecture for t, _ in founders), key=toy_accuracy, reverse=True)[:4]
    children = [task.architecture for task, _ in generation(strategy)]
    assert [differing(child, parent) for child, parent in zip(children[:4], best, strict=True)] == [1, 1, 1, 1]
    assert {parent for parent, _, _ in space.mutations} >= set(best)
    assert len(children) == 8 and len(space.crossings) == 4
    for child, (a, b, crossed) in zip(children[4:], space.crossings, strict=True):
        assert a != b and {a, b} <= {t.architecture for t, _ in founders}
        assert child == crossed or crossed in (a, b)  # a copy of a parent is mutated, another child is not


def test_the_elites_are_the_best_of_all_so_far() -> None:
    space = Watched()
    strategy = CreditEvolution(toy(space=space), population=4, elites=2)
    seen: list[Architecture] = []
    for _ in range(8):
        space.mutations.clear()
        children = [task.architecture for task, _ in generation(strategy)]
        if seen:
            best = max(map(toy_accuracy, seen))
            assert toy_accuracy(space.mutations[0][0]) == best
        seen += children


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_as_many_genes_mutate_as_a_lot_for_each_gene_says_and_at_least_one(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credit_evolution, "REDRAWS", 0)
    space = Watched()
    strategy = CreditEvolution(toy(space=space), population=2, elites=1, mutation_rate=rate, duplicates="measure")
    generation(strategy)
    steps = []
    for _ in range(150):  # two mutants in each generation, no crossing
        space.mutations.clear()
        children = [task.architecture for task, _ in generation(strategy)]
        ends = [i for i, (_, mutant, _) in enumerate(space.mutations, 1) if mutant in children]
        assert ends[-1] == len(space.mutations)
        steps.append(len(space.mutations) / 2)
    lots = np.maximum(default_rng(0).binomial(4, rate, 100_000), 1).mean()
    # A mutant that has come back to its parent is mutated once more.
    assert lots - 0.15 <= np.mean(steps) <= lots + 0.25


@pytest.mark.parametrize("credit", ["regression", "difference", "none"])
@pytest.mark.parametrize("scope", ["position", "global"])
def test_credits_reach_the_space_as_the_prior_of_a_mutation_and_are_those_of_the_rule(credit: Any, scope: Any) -> None:
    space = Watched()
    strategy = CreditEvolution(
        toy(space=space), credit=credit, scope=scope, temperature=0.7, floor=0.15, decay=0.8, ridge=2.0
    )
    terms = Terms(space, scope=scope, factorized=False)
    seen: list[Architecture] = []
    credits = np.zeros(terms.number)
    elites: list[Architecture] = []
    for number in range(7):
        space.mutations.clear()
        space.crossings.clear()
        children = [task.architecture for task, _ in generation(strategy)]
        priors = [prior for _, _, prior in space.mutations]
        expected = preference(terms.by_choice(credits), temperature=0.7, floor=0.15)
        assert (number == 0) == (not priors)
        assert all(prior is not None and np.allclose(prior, expected) for prior in priors)
        assert (credit == "none" or number == 0) == np.allclose(expected, 0.25)
        seen += children
        scores = np.array([toy_accuracy(a) for a in seen])
        if credit == "regression":
            credits = regression(terms.counts(seen), scores, ridge=2.0)
        elif credit == "difference" and number == 0:
            credits = founding(terms.counts(seen), scores)
        elif credit == "difference":
            families = [[elite] for elite in elites] + [[]] * 4
            for place, child in enumerate(children):
                family = families[place] or _pair(space.crossings, child, place - 4, children)
                parent = min(family, key=lambda a: differing(a, child))
                gain = toy_accuracy(child) - toy_accuracy(parent)
                credits = difference(credits, terms.of(parent), terms.of(child), gain, decay=0.8)
        elites = sorted(dict.fromkeys([*elites, *children]), key=lambda a: -toy_accuracy(a))[:4]


def _pair(
    crossings: Sequence[tuple[Architecture, Architecture, Architecture]],
    child: Architecture,
    place: int,
    children: Sequence[Architecture],
) -> list[Architecture]:
    """The parents of the crossing at a place among those of a generation, each of which may have taken attempts."""
    families = list(dict.fromkeys((a, b) for a, b, _ in crossings))
    assert len(families) == 4, "take another seed: one pair was drawn twice in a generation"
    return list(families[place])


@pytest.mark.slow
def test_a_gene_changes_as_often_as_if_it_were_drawn_anew_from_the_prior() -> None:
    space = ToySpace()
    strategy = CreditEvolution(toy(space=space))
    prior = [
        np.array(row) for row in ([0.85, 0.05, 0.05, 0.05], [0.1, 0.2, 0.3, 0.4], [0.25] * 4, [0.02, 0.03, 0.05, 0.9])
    ]
    parent = space.parse("0123")
    drawn = Counter(strategy._mutant(parent, prior).code for _ in range(20_000))
    chances = {m.code: prior[g][c] for m in space.neighbors(parent) for g, c in _change(space, parent, m)}
    whole = sum(chances.values())
    assert set(drawn) == set(chances)
    for code, chance in chances.items():
        assert drawn[code] / 20_000 == pytest.approx(chance / whole, abs=0.012)


def _change(space: GeneSpace, parent: Architecture, mutant: Architecture) -> list[tuple[int, int]]:
    pairs = zip(space.choices(parent), space.choices(mutant), strict=True)
    return [(gene, new) for gene, (old, new) in enumerate(pairs) if new != old]


def test_the_first_generation_and_crossings_know_no_prior() -> None:
    space = Watched()
    strategy = CreditEvolution(toy(space=space))
    generation(strategy)
    assert space.draws >= 8 and not space.mutations
    generation(strategy)
    assert space.mutations and all(prior is not None for _, _, prior in space.mutations)


@pytest.mark.slow
def test_roulette_draws_two_different_ones_in_proportion_to_what_is_above_the_least() -> None:
    scores, rng = np.array([1.0, 2.0, 4.0, 5.0]), default_rng(0)  # above the least: 0, 1, 3, 4
    drawn = Counter(roulette(scores, rng) for _ in range(20_000))
    assert set(drawn) == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3) if i != j}
    above = scores - 1
    for (i, j), times in drawn.items():
        expected = above[i] / 8 * above[j] / (8 - above[i])
        assert times / 20_000 == pytest.approx(expected, abs=0.012)


def test_roulette_is_even_among_equal_ones_and_takes_a_single_one_twice() -> None:
    rng = default_rng(0)
    even = Counter(roulette(np.full(3, 7.0), rng) for _ in range(6_000))
    assert len(even) == 6 and max(even.values()) < 1.15 * min(even.values())
    assert {roulette(np.array([0.0, 0.0, 1.0]), rng)[0] for _ in range(100)} == {2}
    assert {roulette(np.array([0.0, 0.0, 1.0]), rng)[1] for _ in range(100)} == {0, 1}
    assert roulette(np.array([3.0]), rng) == (0, 0)


def test_roulette_takes_scores_near_the_limit_of_floats() -> None:
    rng = default_rng(0)
    assert {roulette(np.array([-1.7e308, 1.7e308, 1.7e308, -1.7e308]), rng)[0] for _ in range(100)} == {1, 2}


def told(problem: Problem, *figures: dict[str, float]) -> Evaluated:
    evaluated = Evaluated(problem)
    tasks = [problem.evaluate(Architecture("toy", f"{i:04d}")) for i in range(len(figures))]
    evaluated.add([Measurement(task=t, metrics=m) for t, m in zip(tasks, figures, strict=True)])
    return evaluated


def test_the_score_is_the_objective_with_its_fractions() -> None:
    evaluated = told(toy(), {"accuracy": 0.25}, {"accuracy": 0.75})
    assert evaluated.scores().tolist() == [0.25, 0.75]
    small = told(Problem(ToySpace(), Goal((Objective("loss", False),)), io=ToyBenchmark(ToySpace()).io), {"loss": 0.5})
    assert small.scores().tolist() == [-0.5]


def test_whoever_breaks_a_measured_constraint_scores_below_all_who_keep_it() -> None:
    problem = toy(constraints=["latency_ms<=10"])
    figures = [(0.9, 12.0), (0.2, 9.0), (0.6, 10.0), (0.99, 20.0)]
    scores = told(problem, *({"accuracy": a, "latency_ms": ms} for a, ms in figures)).scores()
    assert scores.tolist() == pytest.approx([0.2 - 0.2, 0.2, 0.6, 0.2 - 1.0])
    alone = told(problem, {"accuracy": 0.9, "latency_ms": 15.0}).scores()
    assert alone.tolist() == [-0.5]


def test_with_several_objectives_the_score_is_the_number_of_the_front() -> None:
    rng, problem = default_rng(2), toy(ACCURATE, SMALL)
    figures = [{"accuracy": float(a) / 10, "params": float(p)} for a, p in rng.integers(0, 10, size=(60, 2))]
    left = {i: problem.goal for i in range(60)}
    expected, number = np.zeros(60), 0

    def dominates(a: dict[str, float], b: dict[str, float]) -> bool:
        return a != b and a["accuracy"] >= b["accuracy"] and a["params"] <= b["params"]

    while left:
        front = [i for i in left if not any(dominates(figures[j], figures[i]) for j in left)]
        for i in front:
            expected[i] = -number
            del left[i]
        number += 1
    assert number > 5
    np.testing.assert_array_equal(told(problem, *figures).scores(), expected)
    assert fronts(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])).tolist() == [0, 0, 1]


def test_what_was_measured_again_counts_by_its_newest_measurement_and_a_memory_counts_once() -> None:
    problem = toy()
    evaluated = Evaluated(problem)
    one = Architecture("toy", "0123")
    for value, cached in ((0.3, None), (0.5, None), (0.3, 0)):
        task = problem.evaluate(one)
        evaluated.add([Measurement(task=task, metrics={"accuracy": value}, cached_from=cached)])
    assert evaluated.scores().tolist() == [0.3, 0.5] and evaluated.rows == {"0123": 1}


def test_of_several_objectives_those_that_are_small_survive_too() -> None:
    strategy = CreditEvolution(toy(ACCURATE, SMALL), population=16, elites=8)
    found: list[Measurement] = []
    for _ in range(8):
        found += [outcome for _, outcome in generation(strategy) if isinstance(outcome, Measurement)]
    front = strategy.problem.goal.front(found)
    everything = [answer(strategy.problem, strategy.problem.evaluate(a)) for a in _whole(ToySpace())]
    true = strategy.problem.goal.front([m for m in everything if isinstance(m, Measurement)])
    reached = {strategy.problem.goal.losses(m) for m in front} & {strategy.problem.goal.losses(m) for m in true}
    assert len(reached) >= len(true) / 2
    assert len({m.metrics["params"] for m in front}) > 5


def _whole(space: GeneSpace) -> list[Architecture]:
    return [space.parse(f"{a}{b}{c}{d}") for a in range(4) for b in range(4) for c in range(4) for d in range(4)]


def window() -> tuple[float, float]:
    """Bounds on params of `Slots` that about one of 300 random members keeps, in the thin of the distribution."""
    space, rng, io = Slots(), default_rng(0), IO.image(1, 1, 1)
    params = np.sort([space.cost(space.sample(rng), io).params for _ in range(12_000)])
    low = params[int(0.9 * len(params))]
    high = params[int(0.9 * len(params)) + 40]
    share = ((params >= low) & (params <= high)).mean()
    assert 1 / 400 < share < 1 / 150
    return float(low), float(high)


def slots_answer(problem: Problem, task: Task) -> Outcome:
    assert isinstance(task, Evaluate)
    code = [int(symbol) for symbol in task.architecture.code]
    return Measurement(task=task, metrics={"accuracy": float(np.sin([c * i for i, c in enumerate(code, 1)]).sum())})


@pytest.mark.slow
def test_a_window_that_one_of_hundreds_hits_is_searched_by_children_and_not_by_lot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counted(Slots):
        draws = 0

        def sample(self, rng: Generator) -> Architecture:
            self.draws += 1
            return super().sample(rng)

    low, high = window()

    def immigrants(repairs: int) -> tuple[int, int]:
        monkeypatch.setattr(credit_evolution, "REPAIRS", repairs)
        space = Counted()
        strategy = CreditEvolution(toy(space=space, constraints=[f"params>={low}", f"params<={high}"], seed=1))
        generation(strategy, slots_answer)
        space.draws = 0
        new = 0
        for _ in range(12):
            for task, _ in generation(strategy, slots_answer):
                assert low <= strategy.problem.cost(task.architecture).params <= high
            new += len(strategy.get_state()["parents"])
        return new, space.draws

    born, draws = immigrants(100)
    assert born >= 94 and draws < 2_000, f"only {born} of 96 are children, after {draws} draws"
    assert immigrants(0)[0] < born, "repairing makes no difference"


@pytest.mark.slow
def test_repair_keeps_near_the_parents() -> None:
    low, high = window()
    strategy = CreditEvolution(toy(space=Slots(), constraints=[f"params>={low}", f"params<={high}"], seed=2))
    generation(strategy, slots_answer)
    distances = []
    for _ in range(10):
        tasks = strategy.ask(99)
        parents = dict(strategy.get_state()["parents"])
        distances += [differing(t.architecture, Architecture("slots", parents[t.id])) for t in tasks if t.id in parents]  # type: ignore[union-attr]
        for task in tasks:
            strategy.tell(slots_answer(strategy.problem, task))
    assert np.mean(distances) < 6, "children have little to do with their parents"  # strangers differ in 10 of 12


def test_what_keeps_a_window_keeps_it_in_the_network_that_is_built() -> None:
    problem = toy(constraints=["params>=330", "params<=420"])
    strategy = CreditEvolution(problem)
    for _ in range(4):
        for task, _ in generation(strategy):
            network = problem.space.build(task.architecture, problem.io)
            assert 330 <= sum(weights.numel() for weights in network.parameters()) <= 420


def test_whose_trial_fails_neither_earns_credit_nor_has_children() -> None:
    space = Watched()
    strategy = CreditEvolution(toy(space=space), duplicates="measure")
    failed: set[Architecture] = set()

    def answering(problem: Problem, task: Task) -> Outcome:
        assert isinstance(task, Evaluate)
        if task.id % 2:
            failed.add(task.architecture)
            return Failure(task=task, kind="toy", message="as told")
        return answer(problem, task)

    measured: set[Architecture] = set()
    for _ in range(5):
        mine = generation(strategy, answering)
        assert len(mine) == 8
        measured |= {task.architecture for task, outcome in mine if isinstance(outcome, Measurement)}
    assert space.mutations[0][0] in measured
    parents = {a for a, b, _ in space.crossings} | {b for _, b, _ in space.crossings}
    assert parents <= measured and failed - measured
    strategy.ask(1)  # it learns of a generation when it makes the next
    assert set(strategy.get_state()["evaluated"]["codes"]) == {a.code for a in measured}


def test_a_generation_of_failures_alone_is_followed_by_founders_or_by_children_of_the_elites() -> None:
    space = Watched()
    strategy = CreditEvolution(toy(space=space))

    def failing(problem: Problem, task: Task) -> Outcome:
        return Failure(task=task, kind="toy", message="as told")

    assert len(generation(strategy, failing)) == len(generation(strategy)) == 8 and not space.mutations
    generation(strategy, failing)
    before = len(space.mutations)
    assert len(generation(strategy)) == 8 and len(space.mutations) > before


def test_outcomes_belong_to_their_own_architectures_in_whatever_order_they_come() -> None:
    def trials(turn: int) -> list[object]:
        strategy = CreditEvolution(toy(seed=3), credit="difference")
        asked: list[object] = []
        for _ in range(6):
            tasks = strategy.ask(99)
            asked += map(encode_task, tasks)
            for task in [*tasks[turn:], *tasks[:turn]]:
                strategy.tell(answer(strategy.problem, task))
        return asked

    assert trials(0) == trials(3) == trials(7)


@pytest.mark.slow
def test_credit_finds_more_than_uniform_mutation_where_blocks_add_up() -> None:
    worth = default_rng(5).permutation(6) / 6

    def additive(problem: Problem, task: Task) -> Outcome:
        assert isinstance(task, Evaluate)
        value = sum(worth[int(symbol)] for symbol in task.architecture.code)
        return Measurement(task=task, metrics={"accuracy": float(value)})

    def area(credit: Any, scope: Any, seed: int) -> float:
        strategy = CreditEvolution(toy(space=Slots(), seed=seed), credit=credit, scope=scope)
        values: list[float] = []
        for _ in range(12):
            values += [o.metrics["accuracy"] for _, o in generation(strategy, additive) if isinstance(o, Measurement)]
        return float(np.maximum.accumulate(values).mean())

    uniform = [area("none", "global", seed) for seed in range(12)]
    for rule, scope in (("regression", "global"), ("regression", "position"), ("difference", "global")):
        gains = [area(rule, scope, seed) - uniform[seed] for seed in range(12)]
        assert np.mean(gains) > 3 * np.std(gains) / 12**0.5, f"{rule} by {scope} gains {np.mean(gains):.3f}"


@pytest.mark.parametrize("credit", ["regression", "difference"])
def test_a_state_of_several_objectives_and_failures_goes_on_exactly(credit: Any) -> None:
    def answering(problem: Problem, task: Task) -> Outcome:
        return Failure(task=task, kind="toy", message="as told") if task.id % 5 == 2 else answer(problem, task)

    def make() -> CreditEvolution:
        return CreditEvolution(toy(ACCURATE, SMALL, seed=9), credit=credit)

    one = make()
    for _ in range(4):
        generation(one, answering)
    in_flight = one.ask(3)
    other = make()
    other.restore(unpack(*pack(one.state())))
    futures = []
    for strategy in (one, other):
        for task in in_flight:
            strategy.tell(answering(strategy.problem, task))
        futures.append([encode_task(task) for _ in range(6) for task, _ in generation(strategy, answering)])
    assert len(futures[0]) == 6 * 8 - 3 and futures[0] == futures[1]


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_search_killed_between_and_inside_generations_ends_as_one_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasplat.driver.loop.SNAPSHOT_EVENTS", 7)

    class Mortal(ToyBenchmark):
        left = 10**9

        def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return super().measure(task, device=device, artifacts=artifacts)

    def search(log: EventLog, left: int) -> None:
        benchmark = Mortal(ToySpace())
        benchmark.left = left
        strategy = CreditEvolution(toy(seed=11))
        Search(
            strategy.problem, strategy, InlineExecutor(benchmark, MemoryArtifacts()), log, Budget(evaluations=60)
        ).run()

    def story(log: EventLog) -> list[Any]:
        return [body for event in log.events("ask") for body in event.body["tasks"]]

    whole = EventLog.create(tmp_path / "whole.sqlite")
    search(whole, 10**9)
    killed = EventLog.create(tmp_path / "killed.sqlite")
    for lives in (5, 11, 0, 13, 20):
        with pytest.raises(Killed):
            search(killed, lives)
    search(killed, 10**9)
    assert len(story(whole)) == 60 and json.dumps(story(killed)) == json.dumps(story(whole))
    assert all(a["id"] + 1 == b["id"] for a, b in pairwise(story(killed)))
