"""The median rule: which trials end early, and that a resumed search repeats it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.authoring.function import FunctionBenchmark, function_benchmark
from nasplat.authoring.reporting import Reporter
from nasplat.config import SearchConfig, StoppingConfig
from nasplat.driver.budget import Budget
from nasplat.driver.loop import Search
from nasplat.driver.stopping import MedianStopping
from nasplat.errors import InputError
from nasplat.executors.inline import InlineExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.storage.event_log import EventLog
from nasplat.strategies.random_search import RandomSearch
from nasplat.strategies.regularized_evolution import RegularizedEvolution
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task, decode_outcome, decode_task
from nasplat.testing import ToyBenchmark, ToySpace

EPOCHS = 6
ACCURACY = Objective("accuracy", True)


def figures(code: str) -> list[float]:
    """The accuracies of an architecture after each epoch: none rises steadily."""
    return [float(value) for value in default_rng(int(code, 36)).random(EPOCHS)]


def evaluate(architecture: Architecture, *, epochs: int = EPOCHS, report: Reporter) -> Mapping[str, Any]:
    """Report the figures."""
    for epoch in range(1, epochs + 1):
        report(epoch, {"accuracy": figures(architecture.code)[epoch - 1]})
    return {"accuracy": max(figures(architecture.code)[:epochs])}


def benchmark() -> FunctionBenchmark:
    """The benchmark of the function."""
    return function_benchmark(evaluate)(ToySpace())


def search(path: Path, make: Callable[[Problem], Strategy], evaluations: int, *, stops: bool = True) -> list[Outcome]:
    """Search, or go on with the search of a log; the outcomes of the whole log."""
    measuring = benchmark()
    problem = Problem(measuring.space, Goal((ACCURACY,)), io=measuring.io, fidelity=EPOCHS, seed=3)
    log = EventLog.open(path, write=True) if path.exists() else EventLog.create(path)
    stopping = MedianStopping(ACCURACY, startup_trials=4) if stops else None
    with InlineExecutor(measuring, MemoryArtifacts()) as executor:
        Search(problem, make(problem), executor, log, Budget(evaluations=evaluations), stopping=stopping).run()
    tasks: dict[int, Task] = {}
    outcomes: list[Outcome] = []
    for event in log.events("ask", "outcome"):
        if event.kind == "ask":
            tasks |= {body["id"]: decode_task(body) for body in event.body["tasks"]}
        else:
            outcomes.append(decode_outcome(event.body, tasks[event.body["id"]]))
    log.close()
    return outcomes


def random(problem: Problem) -> Strategy:
    """Random search."""
    return RandomSearch(problem, duplicates="redraw")


@pytest.mark.slow
def test_trials_end_where_optunas_median_pruner_ends_them(tmp_path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=4))
    stopped = 0
    for outcome in search(tmp_path / "log", random, 60):
        assert isinstance(outcome, Measurement | Failure) and isinstance(outcome.task, Evaluate)
        trial, pruned_at = study.ask(), 0
        for epoch, value in enumerate(figures(outcome.task.architecture.code), 1):
            trial.report(value, epoch)
            if epoch < EPOCHS and trial.should_prune():  # the last epoch has been paid for
                pruned_at = epoch
                break
        study.tell(trial, None if pruned_at else value, optuna.trial.TrialState.PRUNED if pruned_at else None)
        assert list(outcome.curve) == list(range(1, (pruned_at or EPOCHS) + 1))
        assert (outcome.kind == "stopped") if pruned_at else isinstance(outcome, Measurement)  # type: ignore[union-attr]
        stopped += bool(pruned_at)
    assert 10 < stopped < 50


@pytest.mark.slow
@pytest.mark.parametrize("make", [random, lambda problem: RegularizedEvolution(problem, population=8, sample=3)])
def test_a_resumed_search_repeats_its_rules(make: Callable[[Problem], Strategy], tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", make, 40)
    for evaluations in (13, 27, 40):
        parts = search(tmp_path / "parts", make, evaluations)
    assert [(o.task, getattr(o, "curve", None), type(o)) for o in parts] == [
        (o.task, getattr(o, "curve", None), type(o)) for o in whole
    ]
    assert any(isinstance(outcome.task, Evaluate) and outcome.task.stop for outcome in whole)


def test_without_the_rule_tasks_are_as_they_were(tmp_path: Path) -> None:
    outcomes = search(tmp_path / "log", random, 12, stops=False)
    assert all(isinstance(o, Measurement) and o.task.stop is None and len(o.curve) == EPOCHS for o in outcomes)


def test_the_first_epochs_can_be_exempt() -> None:
    stopping, problem = MedianStopping(ACCURACY, startup_trials=1, warmup_epochs=3), random_problem()
    task = problem.evaluate(problem.sample())
    curve = {epoch: {"accuracy": 0.5} for epoch in range(1, 7)}
    stopping.enter(Measurement(task=task, metrics={"accuracy": 0.5}, curve=curve))
    stopping.enter(Failure(task=task, kind="stopped", message="", curve={3: {"accuracy": 9.0}}))
    ruled = stopping.ruled(task)
    assert isinstance(ruled, Evaluate) and ruled.stop is not None
    assert ruled.stop.thresholds == ((3, 0.5), (4, 0.5), (5, 0.5))


def random_problem() -> Problem:
    """A problem of the function."""
    return Problem(ToySpace(), Goal((ACCURACY,)), io=ToySpace.reference_io, fidelity=EPOCHS)


@pytest.mark.parametrize(
    ("objectives", "measuring", "said"),
    [
        (["accuracy:max", "params:min"], benchmark(), "compares trials by one measured objective"),
        (["params:min"], benchmark(), "compares trials by one measured objective"),
        (["accuracy:max"], ToyBenchmark(ToySpace()), "ToyBenchmark does not; leave the rule out"),
    ],
)
def test_where_no_rule_is_possible_the_search_does_not_begin(objectives: list[str], measuring: Any, said: str) -> None:
    goal = Goal(tuple(map(Objective.parse, objectives)))
    config = StoppingConfig.model_validate("median")
    with pytest.raises(InputError, match=said):
        MedianStopping.of(config, goal, measuring, free=frozenset({"params"}))
    assert MedianStopping.of(StoppingConfig(), goal, measuring, free=frozenset()) is None


def test_a_configuration_without_the_section_has_no_rule() -> None:
    tree = {"space": "toy", "benchmark": "toy", "strategy": "toy", "objectives": ["accuracy:max"]}
    assert SearchConfig.read(tree).stopping == StoppingConfig(rule="none", startup_trials=5, warmup_epochs=0)
    assert SearchConfig.read({**tree, "stopping": "median"}).stopping.rule == "median"
