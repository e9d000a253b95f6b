"""Artifacts are kept while something can refer to them, and no longer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nasplat_demo.space import Perceptron
from nasplat_demo.supernet import SharedFormula, SharedGenerations

import nasplat.driver.collection
import nasplat.driver.loop
from nasplat.artifact import Artifacts, Handle
from nasplat.config import SearchConfig
from nasplat.driver.budget import Budget
from nasplat.driver.collection import kept_digests
from nasplat.driver.loop import Search
from nasplat.errors import StrategyError
from nasplat.executors.inline import InlineExecutor
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.run.directory import RunDirectory
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.strategies.random_search import RandomSearch
from nasplat.strategies.successive_halving import ASHA
from nasplat.strategy import Strategy, named_digests
from nasplat.task import STATE, Evaluate, Measurement, Outcome, Task, Trained, TrainSupernet
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.strategies import toy_problem
from nasplat.testing.toy import toy_accuracy

TRIALS = 120


class Keeping(ToyBenchmark):
    """Leaves weights always and a state below full fidelity, and needs the state that a task continues from."""

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        left = {"weights": artifacts.put(f"weights {task.id}".encode())}
        if task.continues is not None:
            assert artifacts.get(task.continues).startswith(b"state of " + str(task.architecture).encode())
        if task.fidelity < self.fidelity:
            left[STATE] = artifacts.put(f"state of {task.architecture} at {task.fidelity}, {task.id}".encode())
        return Measurement(task=task, metrics={"accuracy": toy_accuracy(task.architecture)}, artifacts=left)


class Most:
    """Watches how many artifacts there are at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states = 0

    def watch(self, search: Search, outcome: Outcome | None) -> None:
        """Count the states."""
        self.states = max(self.states, len(states_in(self.folder)))


def states_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.safetensors") if path.read_bytes().startswith(b"state")]


@contextmanager
def search(folder: Path, strategy: str, trials: int, watcher: Any = None, **options: Any) -> Iterator[Search]:
    """A search on the toy problem in a run directory, new or not."""
    config = SearchConfig.read(
        {"space": "toy", "benchmark": "toy", "strategy": strategy, "objectives": ["accuracy:max"], "budget": {}}
    )
    run = RunDirectory(folder) if folder.exists() else RunDirectory.create(folder, config)
    benchmark, artifacts = Keeping(ToySpace()), run.artifacts
    problem = Problem(benchmark.space, config.goal, io=benchmark.io, fidelity=benchmark.fidelity)
    make: Any = STRATEGIES.get(strategy)
    with InlineExecutor(benchmark, artifacts) as executor, run.writing() as log:
        yield Search(
            problem,
            make(problem, **options),
            executor,
            log,
            Budget(evaluations=trials),
            [watcher] if watcher else [],
            artifacts=artifacts,
        )


def test_only_wanted_artifacts_stay_and_half_written_ones_go(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    kept, gone = store.put(b"kept"), store.put(b"gone")
    half = store.path(kept).with_name(f".{store.path(kept).name}.0123abcd")
    half.write_bytes(b"ke")
    assert store.added == 8
    store.collect({kept.digest}, {kept.digest})
    assert store.get(kept) == b"kept"
    assert not store.path(gone).exists() and not half.exists()
    assert (store.added, store.kept) == (0, 4)


def test_nothing_to_collect_is_no_error(tmp_path: Path) -> None:
    ArtifactStore(tmp_path / "never made").collect(set(), set())
    assert not (tmp_path / "never made").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["asha", "successive_halving"])
def test_states_are_collected_while_searching_and_weights_are_not(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nasplat.driver.collection, "COLLECT_BYTES", 500)
    monkeypatch.setattr(nasplat.driver.collection, "COLLECT_GROWTH", 0.0)
    watcher = Most(tmp_path / "run" / "artifacts")
    options = {"options": {"duplicates": "measure"}}
    with search(tmp_path / "run", strategy, TRIALS, watcher, **options) as loop:
        loop.run()
    history = RunDirectory(tmp_path / "run").history()
    assert not history.failures
    left = [m.artifacts[STATE] for m in history.measured if STATE in m.artifacts]
    store = RunDirectory(tmp_path / "run").artifacts
    there = [handle for handle in left if store.path(handle).exists()]
    assert len(there) < len(left)
    finished = {m.task.continues for m in history.measured if m.task.continues is not None}
    assert not finished & set(there), "the state of a trial that went on is still there"
    if strategy == "successive_halving":  # what a bracket has left behind is of no use to the next
        assert watcher.states < len(left) / 2
    for measurement in history.measured:
        assert store.get(measurement.artifacts["weights"]) == f"weights {measurement.id}".encode()
    continued = [m.task.continues for m in history.measured if m.task.continues is not None]
    assert len(continued) > TRIALS / 10


@pytest.mark.slow
def test_what_a_killed_writer_left_behind_goes_once_the_log_names_it(tmp_path: Path) -> None:
    """The trial of a killed writer is repeated and gives the same state; what no trial gives may be another run's."""
    with search(tmp_path / "whole", "asha", 60) as loop:
        loop.run()
    whole = RunDirectory(tmp_path / "whole")
    trial, gone = next(
        (m, m.artifacts[STATE])
        for m in whole.history().measured
        if m.id > 30 and STATE in m.artifacts and not whole.artifacts.path(m.artifacts[STATE]).exists()
    )
    with search(tmp_path / "run", "asha", 30) as loop:
        loop.run()
    put = RunDirectory(tmp_path / "run").artifacts.put
    orphan = put(f"state of {trial.architecture} at {trial.task.fidelity}, {trial.id}".encode())
    other = put(b"of another run, or of a trial whose outcome was never logged")
    assert orphan == gone
    with search(tmp_path / "run", "asha", 60) as loop:
        loop.run()
    run = RunDirectory(tmp_path / "run")
    assert not run.artifacts.path(orphan).exists() and run.artifacts.path(other).exists()
    assert len(run.history().outcomes) == 60 and not run.history().failures


def test_a_task_in_flight_keeps_what_it_continues_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between an ask and its outcome, the state of the asked task is named by nobody but the log."""
    with search(tmp_path / "run", "asha", 60) as loop:
        asked: list[Handle] = []
        submit = loop.executor.submit

        def strike(task: Evaluate) -> None:
            if task.continues is not None and len(asked) == 2:
                asked.append(task.continues)
                raise KeyboardInterrupt
            asked.extend([task.continues] if task.continues is not None else [])
            submit(task)

        monkeypatch.setattr(loop.executor, "submit", strike)
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    with search(tmp_path / "run", "asha", 60) as loop:
        loop.run()
    history = RunDirectory(tmp_path / "run").history()
    assert len(history.outcomes) == 60 and not history.failures


def test_what_a_strategy_needs_but_did_not_name_ends_the_search(
    tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state has the digests as text, which names nothing."""
    monkeypatch.setattr(ASHA, "handles", Strategy.handles)
    said = r"ASHA asked for task \d+, .* handles\(\) did not name it before"
    with search(tmp_path / "run", "asha", 60) as loop, pytest.raises(StrategyError, match=said):
        loop.run()
    assert not RunDirectory(tmp_path / "run").history().failures


def test_a_refused_task_is_refused_again_by_the_next_session(
    tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier session deleted is known from the log, which no failure harms."""
    monkeypatch.setattr(ASHA, "handles", Strategy.handles)
    for _ in range(2):
        with search(tmp_path / "run", "asha", 60) as loop, pytest.raises(StrategyError, match="did not name it"):
            loop.run()
    assert not RunDirectory(tmp_path / "run").history().failures


@pytest.mark.slow
def test_a_state_that_is_named_and_lost_fails_its_trial_alone(tmp_path: Path, eager: None) -> None:
    """A named state is not the strategy's fault: nothing is refused."""
    with search(tmp_path / "run", "asha", 10) as loop:
        loop.run()
    run = RunDirectory(tmp_path / "run")
    for path in states_in(run.artifacts.folder):
        path.unlink()
    with search(tmp_path / "run", "asha", 30) as loop:
        loop.run()
    assert {failure.kind for failure in run.history().failures} == {"artifact lost"}
    assert len(run.history().outcomes) == 30


@pytest.mark.slow
def test_a_strategy_that_does_not_say_keeps_what_its_state_names(
    tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strategies of earlier versions had no `handles`; they search and resume as before."""
    monkeypatch.delattr(ASHA, "handles")
    for trials in (12, 24):
        with search(tmp_path / "run", "asha", trials) as loop:
            loop.run()
    history = RunDirectory(tmp_path / "run").history()
    assert not history.failures
    assert [m for m in history.measured if m.id > 12 and m.task.continues is not None]


def test_a_class_says_by_handles_beside_its_state_what_is_kept() -> None:
    problem, digest = toy_problem(), "0" * 64

    class Silent(RandomSearch):
        def get_state(self) -> dict[str, Any]:
            return super().get_state() | {"weights": digest}

    class Named(Silent):
        def handles(self) -> set[Handle]:
            return set()

    class Inherited(Named):
        pass

    class SilentGenerations(SharedGenerations):
        def get_state(self) -> dict[str, Any]:
            return super().get_state() | {"teacher": digest}

    assert kept_digests(Silent(problem)) == kept_digests(SilentGenerations(problem)) == {digest}
    assert kept_digests(Named(problem)) == kept_digests(Inherited(problem)) == set()


def test_handles_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ASHA, "handles", lambda self: {"0" * 64})
    with pytest.raises(StrategyError, match=r"handles\(\) of ASHA must be handles of artifacts, but got '0"):
        named_digests(ASHA(toy_problem()))


# Shared weights


@contextmanager
def shared_search(folder: Path, trials: int) -> Iterator[Search]:
    """A search of generations that share weights in a run directory, new or not."""
    tree = {"space": "toy", "benchmark": "toy", "strategy": "random_search"}  # names that no test here looks up
    config = SearchConfig.read(tree | {"objectives": ["accuracy:max", "params:min"], "budget": {}})
    run = RunDirectory(folder) if folder.exists() else RunDirectory.create(folder, config)
    benchmark, artifacts = SharedFormula(Perceptron()), run.artifacts
    problem = Problem(benchmark.space, config.goal, io=benchmark.io, fidelity=benchmark.fidelity)
    with InlineExecutor(benchmark, artifacts) as executor, run.writing() as log:
        yield Search(
            problem, SharedGenerations(problem), executor, log, Budget(evaluations=trials), artifacts=artifacts
        )


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be deleted is, after every outcome."""
    monkeypatch.setattr(nasplat.driver.collection, "COLLECT_BYTES", 1)
    monkeypatch.setattr(nasplat.driver.collection, "COLLECT_GROWTH", 0.0)


def on_the_shelf(run: RunDirectory) -> set[str]:
    return {path.parent.name + path.stem for path in run.artifacts.folder.rglob("*.safetensors")}


def needed_for(measurements: list[Measurement]) -> set[str]:
    """The digests that the networks of measurements with shared weights consist of."""
    needed = set()
    for m in measurements:
        assert m.task.weights is not None
        needed |= {m.task.weights.digest, m.artifacts["statistics"].digest}
    return needed


def last_generation(run: RunDirectory) -> list[Measurement]:
    measured = run.history().measured
    last = [m for m in measured if m.task.fidelity == measured[-1].task.fidelity]
    assert {m.task.weights for m in last} != {m.task.weights for m in measured}
    return last


def check_front_can_be_had(run: RunDirectory) -> None:
    for member in run.history().front:
        SharedFormula(Perceptron()).state_dict(member, artifacts=run.artifacts)


def test_what_was_measured_with_shared_weights_goes_with_them(tmp_path: Path, eager: None) -> None:
    with shared_search(tmp_path / "run", 40) as loop:
        loop.run()
    run = RunDirectory(tmp_path / "run")
    trained = [outcome.weights.digest for outcome in run.history().outcomes if isinstance(outcome, Trained)]
    assert len(trained) > 4 and not run.history().failures
    assert on_the_shelf(run) == needed_for(last_generation(run)) | {trained[-1]}
    check_front_can_be_had(run)


def trains_again(task: Task) -> bool:
    return isinstance(task, TrainSupernet) and task.id > 20


def begins_a_generation(task: Task) -> bool:
    return isinstance(task, Evaluate) and task.fidelity == 6


def is_amid_a_generation(task: Task) -> bool:
    return isinstance(task, Evaluate) and task.id == 24


@pytest.mark.slow
@pytest.mark.parametrize("moment", [trains_again, begins_a_generation, is_amid_a_generation])
def test_killed_at_any_moment_a_run_keeps_its_front_and_what_it_goes_on_with(
    moment: Callable[[Task], bool], tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared_search(tmp_path / "whole", 40) as loop:
        loop.run()
    with shared_search(tmp_path / "run", 40) as loop:
        submit = loop.executor.submit

        def strike(task: Task) -> None:
            if moment(task):
                loop.collect()
                raise KeyboardInterrupt
            submit(task)

        monkeypatch.setattr(loop.executor, "submit", strike)
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    run = RunDirectory(tmp_path / "run")
    before = on_the_shelf(run)
    check_front_can_be_had(run)
    with shared_search(tmp_path / "run", 40) as loop:
        loop.replay()
        loop.collect()
    assert on_the_shelf(run) == before, "from the log alone follows what the killed process had kept"
    with shared_search(tmp_path / "run", 40) as loop:
        loop.run()
    whole = RunDirectory(tmp_path / "whole")
    assert [m.metrics for m in run.history().measured] == [m.metrics for m in whole.history().measured]
    assert on_the_shelf(run) == on_the_shelf(whole)


def test_weights_that_nothing_was_measured_with_yet_leave_the_front_its_own(
    tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget of seconds can end right after a training; what was found until then can still be exported."""
    with shared_search(tmp_path / "run", 40) as loop:
        tell = loop.accounts.tell

        def spend(outcome: Outcome) -> None:
            tell(outcome)
            if loop.outcomes["trained"] == 3:
                loop.budget = Budget(evaluations=1)

        monkeypatch.setattr(loop.accounts, "tell", spend)
        loop.run()
    run = RunDirectory(tmp_path / "run")
    assert isinstance(run.history().outcomes[-1], Trained)
    assert needed_for(run.history().front) < on_the_shelf(run)
    check_front_can_be_had(run)
