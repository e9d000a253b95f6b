"""The contract of a strategy as checks. Each takes a function that makes the strategy for a problem.

The checks use `ToySpace` and compute the accuracy by a formula, so that a check takes milliseconds.
"""

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from statistics import median
from typing import TypeAlias

from numpy.random import Generator, default_rng

from nasplat.architecture import Architecture
from nasplat.artifact import Handle
from nasplat.errors import InputError
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.search_space import Prior
from nasplat.storage.state import pack, unpack
from nasplat.strategy import Strategy, named_digests
from nasplat.task import (
    STATE,
    Evaluate,
    Failure,
    Measurement,
    Outcome,
    Task,
    Trained,
    decode_outcome,
    derive_seed,
    encode_outcome,
    encode_task,
    needed_by,
)
from nasplat.testing.common import check_configuration, does_not_apply, global_generators_untouched
from nasplat.testing.toy import ToyBenchmark, ToySpace, toy_accuracy

MakeStrategy: TypeAlias = Callable[[Problem], Strategy]
TRIALS = int(os.environ.get("NASPLAT_CONTRACT_TRIALS", "150"))
"""Number of evaluations in one check. Increase it for a strategy whose later phases begin late."""
PLAN_TASKS = 5_000
"""Maximum number of tasks until a strategy with a plan must end. The whole training has nine epochs."""


class _PatientSpace(ToySpace):
    """`ToySpace` with at most `patience` draws. It detects a strategy that draws in an endless loop."""

    patience = 200_000

    def sample(self, rng: Generator) -> Architecture:
        self._draw()
        return super().sample(rng)

    def mutate(self, architecture: Architecture, rng: Generator, prior: Prior | None = None) -> Architecture:
        self._draw()
        return super().mutate(architecture, rng, prior)

    def _draw(self) -> None:
        self.patience -= 1
        assert self.patience > 0, (
            "the strategy draws for ever if few architectures are feasible; limit the number of draws"
        )


def toy_problem(seed: int = 0, *, constraints: Iterable[str] = (), space: ToySpace | None = None) -> Problem:
    """A problem on `ToySpace` with two objectives: high accuracy and few parameters."""
    benchmark = ToyBenchmark(space or ToySpace())
    goal = Goal(
        (Objective("accuracy", True), Objective("params", False)), tuple(Constraint.parse(text) for text in constraints)
    )
    return Problem(benchmark.space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=seed)


def answer(problem: Problem, task: Task) -> Outcome:
    """The outcome that a benchmark and the search loop would give for a task."""
    if not isinstance(task, Evaluate):
        return Trained(task=task, weights=Handle.of(repr(task).encode()))
    metrics = {"accuracy": toy_accuracy(task.architecture), **problem.cost(task.architecture).metrics()}
    state = Handle.of(f"{task.architecture} {task.id} {task.fidelity}".encode())
    weights = Handle.of(f"weights of {task.architecture} {task.id} {task.fidelity}".encode())
    return Measurement(task=task, metrics=metrics, artifacts={STATE: state, "weights": weights})


def drive(
    strategy: Strategy,
    *,
    trials: int | None = None,
    batch: int = 1,
    answering: Callable[[Problem, Task], Outcome] = answer,
    order: Callable[[list[Task]], list[Task]] = lambda tasks: tasks,
) -> list[Task]:
    """Repeat: ask for up to `batch` tasks, then tell all their outcomes in the given order.

    The loop ends after `trials` tasks, by default `TRIALS`, or when the strategy asks for no task. It returns all
    tasks that the strategy asked for.
    """
    tasks: list[Task] = []
    while len(tasks) < (TRIALS if trials is None else trials):
        asked = strategy.ask(batch)
        if not asked:
            break
        tasks += asked
        for task in order(asked):
            strategy.tell(answering(strategy.problem, task))
    return tasks


def proposes_at_all(make: MakeStrategy) -> None:
    """The first `ask(1)` returns one task."""
    assert len(make(toy_problem()).ask(1)) == 1, "ask(1) of a fresh strategy is empty"


def never_gives_more_than_asked_for(make: MakeStrategy) -> None:
    """`ask(n)` returns at most n tasks."""
    strategy = make(toy_problem())
    for n in (1, 3, 7, 2):
        asked = strategy.ask(n)
        assert len(asked) <= n, f"ask({n}) gave {len(asked)} tasks"
        for task in asked:
            strategy.tell(answer(strategy.problem, task))


def tasks_come_from_the_problem(make: MakeStrategy) -> None:
    """Ids rise by one in the order of asking, and seeds are the problem's."""
    strategy = make(toy_problem(seed=5))
    tasks = drive(strategy, batch=4)
    assert [task.id for task in tasks] == list(range(len(tasks))), "ids do not increase by one in the order of asking"
    assert all(task.seed == derive_seed(5, task.id) for task in tasks), "a task does not have the seed of the problem"


def same_seed_same_proposals(make: MakeStrategy) -> None:
    """The same seed and the same tells give the same asks, and another seed gives others."""
    runs = [[encode_task(task) for task in drive(make(toy_problem(seed)))] for seed in (1, 1, 2)]
    assert runs[0] == runs[1], "two strategies with the same seed asked for different tasks"
    assert [r["id"] for r in runs[0]] and runs[0] != runs[2], "the seed makes no difference"


def global_generators_are_left_alone(make: MakeStrategy) -> None:
    """No global generator is drawn from or seeded."""
    with global_generators_untouched():
        drive(make(toy_problem()))


def proposals_are_feasible_members(make: MakeStrategy) -> None:
    """The strategy proposes only members of the space that meet the constraints on free metrics."""
    space, rng = ToySpace(), default_rng(0)
    probe = toy_problem()
    bound = median(probe.cost(space.sample(rng)).params for _ in range(101))
    problem = toy_problem(constraints=[f"params<={bound}"])
    tasks = drive(make(problem))
    assert tasks, "half of all members are feasible, but the strategy proposes none"
    for task in tasks:
        for architecture in (task.architecture,) if isinstance(task, Evaluate) else task.architectures:
            assert problem.space.parse(architecture.code) == architecture, f"{architecture} is not a member"
            assert problem.feasible(architecture), f"{architecture} is not feasible"


def narrow_constraints_do_not_hang_it(make: MakeStrategy) -> None:
    """With few feasible members, the strategy repeats proposals or finishes. It never hangs."""
    probe = toy_problem()
    params = sorted(probe.cost(ToySpace().sample(default_rng(i))).params for i in range(200))
    problem = toy_problem(constraints=[f"params<={params[1]}"], space=_PatientSpace())
    drive(make(problem), trials=20)


def a_partial_table_is_kept_to(make: MakeStrategy) -> None:
    """The strategy proposes only what the benchmark can measure, if a metric of the goal is known of nothing else."""
    for objectives, constraints in (
        (("accuracy:max", "latency_ms:min"), ()),
        (("accuracy:max",), ("latency_ms<=4",)),
        (("accuracy:max", "params:min"), ("latency_ms<=4", "params<=300")),
    ):
        goal = Goal(tuple(map(Objective.parse, objectives)), tuple(map(Constraint.parse, constraints)))
        for listed, trials in ((True, 40), (False, 15)):
            problem = Problem.of(_PartialTable(ToySpace(), listed=listed), goal)
            try:
                strategy = make(problem)
            except InputError as error:
                does_not_apply(f"the strategy refuses the problem: {error}")
            tasks = drive(strategy, trials=trials, batch=3)
            assert tasks, "a third of all members can be measured, but the strategy proposes none"
            for task in tasks:
                if isinstance(task, Evaluate):
                    assert problem.feasible(task.architecture), f"{task.architecture} is not feasible"


class _PartialTable(ToyBenchmark):
    """`ToyBenchmark` for a third of the members, the only ones whose latency is known."""

    def __init__(self, space: ToySpace, *, listed: bool) -> None:
        super().__init__(space)
        every = product(*(range(len(gene.choices)) for gene in space.genes))
        members = [space.member(choices) for choices in every][::3]
        self._listed = members if listed else None
        self._latencies = {member: 1 + 6 * toy_accuracy(member) for member in members}

    def feasible(self, architecture: Architecture) -> bool:
        return architecture in self._latencies

    @property
    def enumerable_members(self) -> Sequence[Architecture] | None:
        return self._listed

    def analytic_metrics(self, architecture: Architecture) -> Mapping[str, float]:
        return {"latency_ms": self._latencies[architecture]}


def failures_do_not_stop_it(make: MakeStrategy) -> None:
    """The strategy continues after failed trials, even if all fail, unless its plan ends. Failures are told too."""
    for fails in (lambda task: task.id % 3 == 1, lambda task: True):

        def answering(problem: Problem, task: Task, fails: Callable[[Task], bool] = fails) -> Outcome:
            return Failure(task=task, kind="toy", message="as told") if fails(task) else answer(problem, task)

        strategy = make(toy_problem())
        asked = drive(strategy, trials=60, answering=answering)
        assert len(asked) > 5 or strategy.progress == 1, (
            f"the strategy stopped after {len(asked)} tasks, some of which failed"
        )


def late_and_shuffled_outcomes_are_fine(make: MakeStrategy) -> None:
    """With several tasks in flight, outcomes may come in any order."""
    strategy, shuffler = make(toy_problem()), random.Random(0)
    outstanding: list[Task] = []
    total = 0
    while total < TRIALS:
        asked = strategy.ask(4 - len(outstanding)) if len(outstanding) < 4 else []
        outstanding += asked
        total += len(asked)
        if not outstanding:
            break
        task = outstanding.pop(shuffler.randrange(len(outstanding)))
        strategy.tell(answer(strategy.problem, task))
    assert total > 5, f"the strategy stopped after {total} tasks"


def state_goes_on_exactly(make: MakeStrategy) -> None:
    """A strategy restored from `state` asks for the same tasks as the original, also with pending evaluations."""
    for told_before in (0, 3, TRIALS // 2):
        strategy = make(toy_problem(seed=3))
        drive(strategy, trials=told_before)
        in_flight = strategy.ask(3)
        state = unpack(*pack(strategy.state()))
        restored = make(toy_problem(seed=3))
        restored.problem.rng.random(7)  # earlier draws of a new strategy must have no effect
        restored.restore(state)
        futures = []
        for each in (strategy, restored):
            for task in reversed(in_flight):
                each.tell(decode_outcome(encode_outcome(answer(each.problem, task))))
            futures.append([encode_task(task) for task in drive(each, trials=40, batch=2)])
        assert futures[0] == futures[1], f"restored after {told_before} trials, the strategy asked for other tasks"


def state_is_a_copy(make: MakeStrategy) -> None:
    """A returned state does not change when the strategy continues."""
    strategy = make(toy_problem())
    drive(strategy, trials=5)
    state = strategy.state()
    before = pack(state)
    drive(strategy, trials=20)
    assert pack(state) == before, "the state that was taken earlier has changed"


def handles_are_named(make: MakeStrategy) -> None:
    """What a task needs was named by `handles` before the `ask` for that task, also by a strategy that was restored."""
    strategy = make(toy_problem())
    for number in range(TRIALS):
        named = named_digests(strategy)
        if number % 10 == 0:
            restored = make(toy_problem())
            restored.restore(unpack(*pack(strategy.state())))
            assert named_digests(restored) == named, (
                "restored from its state, the strategy names other handles than before; keep in get_state() what "
                "handles() names"
            )
        asked = strategy.ask(1)
        if not asked:
            break
        for task in asked:
            assert needed_by(task) <= named, (
                f"task {task.id} needs an artifact that handles() did not name before it was asked for; in a search it "
                "may have been deleted by then: have handles() name all that a later task may need"
            )
            strategy.tell(answer(strategy.problem, task))


def finished_is_finished(make: MakeStrategy) -> None:
    """If `ask` returns no task and no evaluation is pending, the search has ended: the next `ask` is empty too."""
    strategy = make(toy_problem(constraints=["params<=61"]))  # a single member
    if len(drive(strategy, trials=100)) >= 100:
        does_not_apply(f"{type(strategy).__name__} never finishes, since it measures a single member again and again")
    assert not strategy.ask(1), "the strategy asked for a task after it had finished"


def a_plan_is_carried_out(make: MakeStrategy) -> None:
    """A strategy that reports progress ends by itself. Its progress starts at 0, never falls, and ends at 1."""
    strategy = make(toy_problem())
    if strategy.progress is None:
        does_not_apply(f"{type(strategy).__name__} has no plan")
    told = [strategy.progress]
    for _ in range(PLAN_TASKS):
        asked = strategy.ask(1)
        if not asked:
            break
        strategy.tell(answer(strategy.problem, asked[0]))
        told.append(strategy.progress)
    else:
        raise AssertionError(f"the strategy reports progress, but has not ended after {PLAN_TASKS:,} tasks")
    assert (told[0], told[-1]) == (0, 1) and told == sorted(told), (
        f"progress must rise from 0 to 1 without falling, but went from {told[0]} to {told[-1]}"
    )


def order_within_a_generation_is_free(make: MakeStrategy) -> None:
    """For a generational strategy, the order of tells within a generation changes nothing."""
    if not (strategy := make(toy_problem())).generational:
        does_not_apply(f"{type(strategy).__name__} has no generations")
    futures = []
    for seed in (None, 1, 2):
        shuffler = random.Random(seed)
        strategy = make(toy_problem())

        def order(tasks: list[Task], seed: int | None = seed, shuffler: random.Random = shuffler) -> list[Task]:
            return tasks if seed is None else shuffler.sample(tasks, len(tasks))

        futures.append([encode_task(task) for task in drive(strategy, batch=10_000, order=order)])
    assert futures[0] == futures[1] == futures[2], "the order of tells within a generation changed later asks"


def options_are_configuration(make: MakeStrategy) -> None:
    """Constructor options are annotated, keyword-only and stored under their own names."""
    check_configuration(make(toy_problem()), given=1)


STRATEGY_CHECKS: tuple[Callable[[MakeStrategy], None], ...] = (
    proposes_at_all,
    never_gives_more_than_asked_for,
    tasks_come_from_the_problem,
    same_seed_same_proposals,
    global_generators_are_left_alone,
    proposals_are_feasible_members,
    narrow_constraints_do_not_hang_it,
    a_partial_table_is_kept_to,
    failures_do_not_stop_it,
    late_and_shuffled_outcomes_are_fine,
    state_goes_on_exactly,
    state_is_a_copy,
    handles_are_named,
    finished_is_finished,
    a_plan_is_carried_out,
    order_within_a_generation_is_free,
    options_are_configuration,
)
