"""The final race: how long it is, who goes on, and that it is a training from shared weights like any other."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import default_rng
from torch.nn import functional

from nasplat.architecture import IO
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError, TrialFailed
from nasplat.evolution.race import Race, RaceOptions, RacePlan
from nasplat.executors.executor import perform
from nasplat.export.bundle import export
from nasplat.export.formats import Format
from nasplat.objective import Goal, Objective
from nasplat.options import construct
from nasplat.problem import Problem
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.strategies.cars import CARS
from nasplat.task import (
    STATE,
    Evaluate,
    Failure,
    FineTuning,
    Measurement,
    Outcome,
    Task,
    Trained,
    TrainSupernet,
    decode_task,
    encode_task,
    needed_by,
)
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.runs import searched
from nasplat.testing.toy import toy_accuracy
from nasplat.training.seeding import seeded

GOAL = Goal((Objective("accuracy", maximize=True), Objective("params", maximize=False)))
WEIGHTS = Handle.of(b"shared")


# The plan


def test_the_longest_race_within_its_passes_is_planned() -> None:
    rng = default_rng(0)
    planned = 0
    for _ in range(200):
        bracket, finalists, eta, passes = (int(rng.integers(low, high)) for low, high in RANGES)
        try:
            options = RaceOptions(epochs=passes, bracket_size=bracket, finalists=finalists, eta=eta)
            plan = options.plan(population=40, epochs=1)
        except InputError as error:
            sizes = sizes_of(bracket, finalists, eta)
            if finalists > bracket:
                assert f"strategy.race.bracket_size={bracket}, strategy.race.finalists={finalists}" in str(error)
            else:
                assert f"strategy.race.epochs={shortest(sizes)}" in str(error) and shortest(sizes) > passes
            continue
        planned += 1
        assert plan.sizes == tuple(sizes_of(bracket, finalists, eta))
        assert plan.passes == cost(plan.sizes, plan.epochs) <= passes
        assert all(low < high for low, high in zip(plan.epochs, plan.epochs[1:], strict=False))
        last = plan.epochs[-1] + 1
        longer = [
            max(rung + 1, round(Fraction(last, eta**i))) for rung, i in enumerate(range(len(plan.sizes) - 1, -1, -1))
        ]
        assert cost(plan.sizes, longer) > passes, "a longer race would have fitted"
    assert planned > 50


RANGES = (2, 40), (1, 8), (2, 5), (4, 300)


def sizes_of(bracket: int, finalists: int, eta: int) -> list[int]:
    """From the last rung back: `eta` times as many, but no more than enter."""
    sizes = [min(finalists, bracket)]
    while sizes[-1] < bracket:
        sizes.append(min(sizes[-1] * eta, bracket))
    return sizes[::-1]


def cost(sizes: Sequence[int], epochs: Sequence[int]) -> int:
    """Every network pays for the epochs from where it was to where it goes."""
    reached = [max(end for rung, end in enumerate(epochs) if place < sizes[rung]) for place in range(sizes[0])]
    return sum(reached)


def shortest(sizes: Sequence[int]) -> int:
    return cost(sizes, range(1, len(sizes) + 1))


# Who goes on


def problem(*, epochs: int = 4, seed: int = 0) -> Problem:
    benchmark = ToyBenchmark(ToySpace())
    return Problem(benchmark.space, GOAL, io=benchmark.io, fidelity=epochs, seed=seed)


def answered(task: Task, of: Problem) -> Outcome:
    if isinstance(task, TrainSupernet):
        return Trained(task=task, weights=WEIGHTS)
    metrics = {"accuracy": toy_accuracy(task.architecture), **of.cost(task.architecture).metrics()}
    return Measurement(task=task, metrics=metrics, artifacts={STATE: Handle.of(f"state {task.id}".encode())})


def test_the_best_of_each_size_enter_with_the_shared_weights_and_the_front_goes_on_from_its_states() -> None:
    of = problem()
    race = Race(of, RacePlan((8, 4, 2), (1, 2, 4)), WEIGHTS, begun=10)
    distinct = dict.fromkeys(of.sample() for _ in range(40))
    entering = [answered(of.evaluate(architecture), of) for architecture in distinct]
    pool = [each for each in entering if isinstance(each, Measurement)]
    for size, fidelity, first in ((8, 11, True), (4, 12, False), (2, 14, False)):
        tasks = race.next(pool)
        assert [task.fidelity for task in tasks] == [fidelity] * size
        assert {task.tuning for task in tasks} == {FineTuning(weights=WEIGHTS, begun=10, epochs=4)}
        states = {m.architecture: m.artifacts[STATE] for m in pool}
        assert all(task.continues == (None if first else states[task.architecture]) for task in tasks)
        losses = {m.architecture: GOAL.losses(m) for m in pool}
        chosen = {task.architecture for task in tasks}
        best = {  # by the objectives, or at first by the other sorting, which favors large ones
            architecture
            for architecture, loss in losses.items()
            for sign in ((1, -1) if first else (1,))
            if not any(beats(other, loss, sign) for other in losses.values())
        }
        assert best <= chosen if len(best) <= size else chosen <= best
        pool = [m for task in tasks if isinstance(m := answered(task, of), Measurement)]
    assert (race.passes(0), race.passes(0.5), race.passes(1)) == (8 + 4, 8 + 4 + 2, 8 + 4 + 4)
    assert race.next(pool) == []


def beats(one: tuple[float, ...], other: tuple[float, ...], sign: int) -> bool:
    """Whether one dominates the other, by loss and by size or by its opposite."""
    pairs = [(one[0], other[0]), (sign * one[1], sign * other[1])]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def raced(options: dict[str, Any], failing: Sequence[int] = ()) -> tuple[CARS, list[list[Task]]]:
    """A search with a race, and its tasks, batch by batch; trainings of some numbers in the race fail."""
    strategy = CARS(problem(), population=6, warmup=2, interval=1, finish="race", race=RaceOptions(**options))
    batches: list[list[Task]] = []
    while tasks := strategy.ask(1000):
        batches.append(tasks)
        for number, task in enumerate(tasks):
            fails = isinstance(task, Evaluate) and task.tuning is not None and number in failing
            failure = Failure(task=task, kind="diverged", message="as told")
            strategy.tell(failure if fails else answered(task, strategy.problem))
    return strategy, batches


def test_cars_races_the_best_of_its_last_generation_and_ends_with_the_finalists() -> None:
    strategy, batches = raced({"epochs": 20, "finalists": 3})
    *_, last, first, final = batches
    assert all(isinstance(task, Evaluate) and task.weights == WEIGHTS for task in last)
    entered = [task for task in first if isinstance(task, Evaluate)]
    assert (len(entered), len(final)) == (6, 3)
    assert {task.architecture for task in entered} <= {t.architecture for t in last if isinstance(t, Evaluate)}
    assert [m.architecture for m in strategy.parents] == [t.architecture for t in final if isinstance(t, Evaluate)]
    assert strategy.progress == 1


def test_trainings_that_fail_leave_the_race_and_if_all_do_the_search_ends() -> None:
    strategy, batches = raced({"epochs": 20, "finalists": 3}, failing=(0, 2))
    assert [len(tasks) for tasks in batches[-2:]] == [6, 3] and len(strategy.parents) == 1
    strategy, batches = raced({"epochs": 20, "finalists": 3}, failing=range(6))
    assert len(batches[-1]) == 6 and strategy.progress == 1
    assert all(m.task.weights == WEIGHTS for m in strategy.parents), "the population of before is kept"


def test_a_race_that_is_too_short_is_refused_with_what_it_takes() -> None:
    with pytest.raises(InputError, match=r"takes 9 passes over the training images at least, .* but may take 5"):
        CARS(problem(), population=6, warmup=2, interval=1, finish="race", race=RaceOptions(epochs=5, finalists=3))


def test_any_population_has_a_race_by_default() -> None:
    for population in (2, 3, 5, 12, 40):
        plan = RaceOptions().plan(population, epochs=10)
        assert (plan.sizes[0], plan.sizes[-1]) == (min(population, 10), min(population, 5))
        assert plan.epochs[-1] == 5, "finalists are not trained for half of the epochs"
        assert RaceOptions().plan(population, epochs=1).passes == shortest(plan.sizes)
    assert RaceOptions(bracket_size=3).plan(40, epochs=10).sizes == (3,)
    assert RaceOptions(epochs=10**12).plan(10, epochs=10).passes <= 10**12, "planned at once, however long"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"finish": "race", "race": RaceOptions(bracket_size=13)},
            r"bracket_size=13.* strategy.population=6; .* strategy.race.bracket_size=12 ",
        ),
        (
            {"finish": "race", "race": RaceOptions(bracket_size=3, finalists=4)},
            r"as many networks in its bracket as finalists.* strategy.race.bracket_size=4 ",
        ),
        ({"finish": "race", "race": RaceOptions(finalists=20)}, r"finalists=20 .* strategy.race.finalists=6 "),
        ({"race": RaceOptions(epochs=60)}, r"no effect without one, .* --set strategy.finish=race"),
    ],
)
def test_options_of_a_race_are_not_bent(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CARS(problem(), population=6, warmup=2, interval=1, **options)


def test_progress_counts_each_training_of_the_race_as_it_ends() -> None:
    strategy = CARS(problem(), population=6, warmup=2, interval=1, finish="race", race=RaceOptions(epochs=20))
    plan = strategy._plan
    whole, done = 4 + plan.passes, 4
    told = [strategy.progress]
    while tasks := strategy.ask(1):
        before = strategy.progress
        strategy.tell(answered(tasks[0], strategy.problem))
        told.append(strategy.progress)
        if isinstance(task := tasks[0], Evaluate) and task.tuning is not None:
            reached = task.fidelity - task.tuning.begun
            done += reached - max((end for end in plan.epochs if end < reached), default=0)
            assert before < told[-1] == pytest.approx(done / whole)
    assert told[-1] == strategy.progress == 1 and told == sorted(told)


def test_a_race_goes_on_by_its_plan_alone() -> None:
    plan = RacePlan((4, 2), (1, 2))
    race = Race(problem(), plan, WEIGHTS, begun=3)
    state = race.get_state()
    assert Race.restored(problem(), plan, state).get_state() == state
    for other in (RacePlan((4, 2), (1, 4)), RacePlan((4,), (2,))):
        with pytest.raises(ValueError, match="its race has the plan"):
            Race.restored(problem(), other, state)
    del state["sizes"]  # as an earlier version saved it
    with pytest.raises(KeyError):
        Race.restored(problem(), plan, state)


def test_a_benchmark_that_cannot_fine_tune_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "fine_tunes", False)
    strategy = {"name": "cars", "warmup": 1, "interval": 1, "finish": "race", "race": {"epochs": 50}}
    config = {"space": "nasbench201", "benchmark": "classification", "strategy": strategy}
    with pytest.raises(InputError, match=r"the benchmark classification cannot; .* such as strategy.finish=race"):
        Assembly.of(SearchConfig.read({**config, "objectives": ["accuracy:max"]}))


def test_a_fine_tuning_is_recorded_and_needs_the_shared_weights_only_at_its_begin() -> None:
    task = problem().evaluate(ToySpace().sample(default_rng(0)), fidelity=5)
    tuned = replace(task, tuning=FineTuning(weights=WEIGHTS, begun=4, epochs=3))
    later = replace(tuned, fidelity=6, continues=Handle.of(b"state"))
    assert decode_task(encode_task(tuned)) == tuned and decode_task(encode_task(later)) == later
    assert needed_by(tuned) == {WEIGHTS.digest} and needed_by(later) == {Handle.of(b"state").digest}
    for damaged in ([WEIGHTS.digest, -1, 3], [WEIGHTS.digest, 4], [1, 4, 3]):
        with pytest.raises((TypeError, ValueError)):
            decode_task({**encode_task(tuned), "tuning": damaged})
    failed = perform(tuned, ToyBenchmark(ToySpace()), device="cpu", artifacts=MemoryArtifacts())
    assert isinstance(failed, Failure) and failed.kind == "no fine-tuning"


# The training

SPACE = NASBench201(channels=2, cells=1)


@pytest.mark.slow
def test_the_first_step_is_that_of_the_shared_weights_and_what_is_measured_is_what_is_exported() -> None:
    store = MemoryArtifacts()
    # All images are one batch, so that an epoch is a step, and the first step of a cosine has the highest rate.
    options = {"epochs": 2, "data": {"subset": 100}, "recipe": {"batch_size": 50, "momentum": 0, "weight_decay": 0}}
    benchmark = construct("benchmark", Classification, SPACE, **options)
    benchmark.prepare()
    images = len(benchmark._splits("cpu").training)
    benchmark = construct("benchmark", Classification, SPACE, **{**options, "recipe": {**RECIPE, "batch_size": images}})
    benchmark.prepare()
    path = SPACE.parse("211312")
    shared = benchmark.train(
        TrainSupernet(id=0, seed=1, architectures=(path,), epochs=1), device="cpu", artifacts=store
    ).weights
    tuning = FineTuning(weights=shared, begun=1, epochs=10)
    task = Evaluate(id=1, seed=2, architecture=path, fidelity=2, tuning=tuning)
    measured = benchmark.measure(task, device="cpu", artifacts=store)

    network = benchmark._path(path, shared, 1, "cpu", store).double().train()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    pictures, labels = benchmark._splits("cpu").training.batch(slice(None))
    torch.autograd.backward(functional.cross_entropy(network(pictures.double()), labels))
    found = benchmark.state_dict(measured, artifacts=store)
    for name, parameter in network.named_parameters():
        expected = before[name] if parameter.grad is None else before[name] - 0.1 * parameter.grad
        assert torch.allclose(found[name].double(), expected, atol=1e-6), name

    with seeded(0):
        exported = SPACE.build(path, IO.image(1, 8, 10))
    exported.load_state_dict(found)
    validation = benchmark._splits("cpu").validation
    with torch.no_grad():
        logits = exported.eval()(validation.batch(slice(None))[0])
    right = (logits.argmax(1) == validation.labels).double().mean().item()
    assert right == pytest.approx(measured.metrics["accuracy"], abs=1e-12)

    with pytest.raises(TrialFailed, match="must be the number of epochs that the shared weights were trained for, 1"):
        wrong = replace(task, fidelity=3, tuning=replace(tuning, begun=2))
        benchmark.measure(wrong, device="cpu", artifacts=store)


RECIPE = {"momentum": 0, "weight_decay": 0}


@pytest.mark.slow
def test_the_front_is_of_the_finalists_and_cards_tell_where_they_come_from(tmp_path: Path) -> None:
    strategy = {"name": "cars", "population": 3, "warmup": 1, "interval": 1, "finish": "race"}
    tree = {
        "space": {"name": "nasbench201", "channels": 2, "cells": 1},
        "benchmark": {"name": "classification", "epochs": 2, "data": {"subset": 100}},
        "strategy": {**strategy, "race": {"epochs": 4, "bracket_size": 2, "finalists": 1}},
        "objectives": ["accuracy:max", "params:min"],
    }
    searched(tmp_path / "run", SearchConfig.read(tree))
    run = RunDirectory(tmp_path / "run")
    *_, beaten, front = sorted(run.history().measured, key=lambda m: (m.task.fidelity, m.task.continues is not None))
    assert run.history().front == [front] and (beaten.task.fidelity, front.task.fidelity) == (3, 4)
    cards = {}
    for measurement in (beaten, front):
        export(run, measurement, tmp_path / str(measurement.id), formats=[Format.SOURCE])
        cards[measurement.id] = (tmp_path / str(measurement.id) / "README.md").read_text()
        assert "- fine-tuned from: the weights of a supernet that was trained for 2 epochs" in cards[measurement.id]
    assert "Its training is unfinished: these are the weights after 3 of 4 epochs." in cards[beaten.id]
    assert "unfinished" not in cards[front.id]
