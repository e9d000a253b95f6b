"""Killed, interrupted and extended searches: they go on, lose nothing, and end as a search left alone does."""

import io
import json
import math
import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import kill_campaign
import nasplat.driver.loop
from nasplat.architecture import Architecture
from nasplat.artifact import Artifacts, MemoryArtifacts
from nasplat.cli.app import main
from nasplat.driver.budget import Budget
from nasplat.driver.loop import FAILURES, Search
from nasplat.errors import RunError, StrategyError, TrialFailed
from nasplat.executors.executor import Executor, perform
from nasplat.executors.inline import InlineExecutor
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import BENCHMARKS, STRATEGIES, Plugin
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import CONFIG, LOG
from nasplat.storage.event_log import EventLog
from nasplat.storage.state import pack
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Spent, Task, decode_task
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.runs import event_trace

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
PATIENCE = 300.0
"""Seconds after which a test stops waiting for a process."""

DRIVER = '''
"""The command line, with a benchmark that writes down what it measures and a snapshot that says when it is used."""

import os
import time

import nasplat.driver.loop
from nasplat.benchmarks.nasbench201 import NASBench201Table
from nasplat.registry import BENCHMARKS
from nasplat.strategy import Strategy


def note(line):
    """One line, in the file even if the process is killed right after."""
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, (line + "\\n").encode())
    os.close(file)


class Counting(NASBench201Table):
    """The table, slow enough to be caught in the middle."""

    def measure(self, task, *, device, artifacts):
        note(f"measure {task.id}")
        time.sleep(float(os.environ.get("DELAY", "0")))
        return super().measure(task, device=device, artifacts=artifacts)


restore = Strategy.restore


def noted_restore(self, state):
    note("restore")
    restore(self, state)


if __name__ == "__main__":
    from nasplat.cli.app import main

    BENCHMARKS.register("counting", "counting:Counting")
    nasplat.driver.loop.SNAPSHOT_EVENTS = int(os.environ.get("SNAPSHOT_EVENTS", nasplat.driver.loop.SNAPSHOT_EVENTS))
    Strategy.restore = noted_restore
    main()
'''

TRAINING = [
    "search", "--space", "nasbench201", "--set", "space.channels=2", "--set", "space.cells=1",
    "--benchmark", "classification", "--set", "benchmark.epochs=2", "--strategy", "random_search",
    "--objective", "accuracy:max", "--evaluations", "8",
]  # fmt: skip


# What a log says, and processes that are cut short


def outcomes_of(folder: Path) -> dict[int, Outcome]:
    """The outcomes of a log by trial, without what the work took."""
    return {item.id: item for item in event_trace(folder) if not isinstance(item, tuple)}


def query(folder: Path, statement: str) -> int:
    """One figure from a log that somebody else may be writing; 0 while there is none."""
    try:
        connection = sqlite3.connect(f"{(folder / LOG).resolve().as_uri()}?mode=ro", uri=True)
        try:
            return int(connection.execute(statement).fetchone()[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return 0


def events_in(folder: Path) -> int:
    """How many events a log has."""
    return query(folder, "SELECT count(*) FROM events")


def outcomes_in(folder: Path) -> int:
    """How many outcomes a log has."""
    return query(folder, "SELECT count(*) FROM events WHERE kind = 'outcome'")


def snapshots_in(folder: Path) -> int:
    """How many snapshots a log has."""
    return query(folder, "SELECT count(*) FROM snapshots")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Processes started here take Ctrl-C even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run_here(folder: Path, *arguments: str) -> str:
    """Run `nasplat ARGUMENTS` to a good end, in this process, which has all imported; returns what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["nasplat", *arguments])
        with (
            pytest.raises(SystemExit) as ended,
            redirect_stdout(io.StringIO()) as output,
            redirect_stderr(io.StringIO()) as errors,
        ):
            main()
    assert (ended.value.code, errors.getvalue()) == (0, "")
    return output.getvalue()


Starter = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts a command as the leader of a process group, and sees that none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*command: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], *, every: float = 0.02) -> None:
    """Wait for something that a running process brings about; `every` is the time between two looks, in seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None:
            output, errors = process.communicate()
            pytest.fail(f"the process ended with {process.returncode} before it could be caught: {output}{errors}")
        assert time.monotonic() < deadline, f"nothing happened within {PATIENCE:.0f} s"
        time.sleep(every)


class Counted:
    """Searches with the benchmark that counts, all in one folder.

    Args:
        folder: Where the driver lies and runs are made.
        start: Starts processes there; None if there are to be none.
    """

    def __init__(self, folder: Path, start: Starter | None = None) -> None:
        self.folder = folder
        self._start = start
        (folder / "counting.py").write_text(DRIVER)

    def begin(
        self, *arguments: str, notes: str, delay: float = 0.0, snapshots: int | None = None
    ) -> subprocess.Popen[str]:
        """Start `nasplat ARGUMENTS` and let it go.

        Args:
            arguments: The command.
            notes: The file that measurements and restored snapshots are written down in.
            delay: Seconds that each measurement takes at least.
            snapshots: How many events there are between snapshots, if not as many as usual.
        """
        environment = {"NOTES": notes, "DELAY": str(delay)}
        if snapshots is not None:
            environment["SNAPSHOT_EVENTS"] = str(snapshots)
        assert self._start is not None
        return self._start(sys.executable, "counting.py", *arguments, **environment)

    def finish(self, *arguments: str, notes: str, snapshots: int | None = None) -> str:
        """Run `nasplat ARGUMENTS` to a good end in this process; returns what it printed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NOTES", notes)
            if snapshots is not None:
                patch.setattr(nasplat.driver.loop, "SNAPSHOT_EVENTS", snapshots)
            patch.setitem(BENCHMARKS._plugins, "counting", Plugin("counting", "counting:Counting", "tests"))
            patch.setitem(sys.modules, "counting", driver := ModuleType("counting"))
            exec(DRIVER, driver.__dict__)
            patch.setattr(Strategy, "restore", driver.noted_restore)
            return run_here(self.folder, *arguments)

    def notes(self, name: str) -> list[str]:
        """The lines that were written down by now."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def counted(tmp_path: Path, start: Starter, table: Path) -> Counted:
    """Searches on the real table with every measurement written down."""
    return Counted(tmp_path, start)


def searching(strategy: str, evaluations: int, out: str) -> list[str]:
    """The arguments of a search with the counting benchmark."""
    return [
        "search", "--space", "nasbench201", "--benchmark", "counting", "--strategy", strategy,
        "--objective", "accuracy:max", "--evaluations", str(evaluations), "--seed", "5", "--out", out,
    ]  # fmt: skip


# Killed


@pytest.mark.sweep(1)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "evaluations", "snapshots"),
    [("regularized_evolution", 3000, None), ("random_search", 500, 150), ("local_search", 500, 150)],
)
def test_a_search_killed_again_and_again_ends_as_one_left_alone(
    strategy: str, evaluations: int, snapshots: int | None, counted: Counted, part: Callable[..., Any]
) -> None:
    counted.finish(*searching(strategy, evaluations, "alone"), notes="alone.txt", snapshots=snapshots)
    whole = event_trace(counted.folder / "alone")

    # One kill somewhere in each fifth of the log, the last among them, and one as soon as a resumed search has begun.
    rng, run = random.Random(strategy), counted.folder / "run"
    fifth = len(whole) // 5
    places = [fifth * i + rng.randrange(fifth * 9 // 10) for i in range(5)]
    thresholds: list[int | None] = [*part(places[:3], 1), *places[3:]]
    thresholds.insert(rng.randrange(1, len(thresholds)), None)
    restored = []
    arguments = searching(strategy, evaluations, "run")
    for threshold in thresholds:
        restored.append(_kill(counted, run, arguments, threshold, snapshots))
        arguments = ["resume", "run"]
    before = _Before(counted, run)
    counted.finish(*arguments, notes="run.txt", snapshots=snapshots)
    restored.append(before.check())

    assert event_trace(run) == whole
    assert len(_measured(counted.notes("run.txt"))) <= len(_measured(counted.notes("alone.txt"))) + len(thresholds)
    assert set(_measured(counted.notes("run.txt"))) == set(_measured(counted.notes("alone.txt")))
    assert sum(restored) >= 2, "no kill came after a snapshot, so that none was ever restored"
    assert RunDirectory(run).history().status == "finished"


def _kill(counted: Counted, run: Path, arguments: list[str], threshold: int | None, snapshots: int | None) -> bool:
    """Let a search go on to a number of events, or by one, and kill it; whether it began from a snapshot."""
    before = _Before(counted, run)
    reach = before.events + 1 if threshold is None else max(threshold, before.events + 1)
    process = counted.begin(*arguments, notes="run.txt", delay=0.001, snapshots=snapshots)
    wait_until(lambda: events_in(run) >= reach, process, every=0.002)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, "the search was over before it was killed"
    return before.check()


class _Before:
    """What there was when a session began, to hold the session to it."""

    def __init__(self, counted: Counted, run: Path) -> None:
        self.events = events_in(run)
        self.snapshots = snapshots_in(run)
        self.outcomes = set(outcomes_of(run)) if self.events else set()
        self._counted = counted
        self._lines = len(counted.notes("run.txt"))

    def check(self) -> bool:
        """Nothing finished was measured again, and a snapshot was used if there was one; whether there was."""
        lines = self._counted.notes("run.txt")[self._lines :]
        again = self.outcomes.intersection(_measured(lines))
        assert not again, f"trials {sorted(again)} had an outcome in the log and were measured again"
        twice = [trial for trial, times in Counter(_measured(lines)).items() if times > 1]
        assert not twice, f"trials {twice} were measured more than once in one session"
        assert lines.count("restore") == self.snapshots
        return bool(self.snapshots)


def _measured(lines: list[str]) -> list[int]:
    """The trials whose measurement began, in order."""
    return [int(line.removeprefix("measure ")) for line in lines if line.startswith("measure ")]


@pytest.mark.slow
def test_the_searches_above_are_answered_from_memory_too(counted: Counted) -> None:
    for strategy in ("regularized_evolution", "local_search"):
        counted.finish(*searching(strategy, 500, strategy), notes=f"{strategy}.txt")
        outcomes = outcomes_of(counted.folder / strategy).values()
        cached = [o.id for o in outcomes if isinstance(o, Measurement) and o.cached_from is not None]
        assert len(cached) > 20, "what is cached over a kill would not be seen"
        assert not set(cached).intersection(_measured(counted.notes(f"{strategy}.txt")))


# Interrupted


def interrupt(process: subprocess.Popen[str], how: signal.Signals) -> tuple[str, str]:
    """Interrupt as a terminal does, which tells the whole group, or as `kill` does; returns what was printed."""
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    return process.communicate(timeout=PATIENCE)


def named_command(errors: str) -> list[str]:
    """The command that an interrupted search says it goes on with, as a shell reads it, without `nasplat`."""
    assert len(errors.splitlines()) == 1, errors
    words = shlex.split(errors.partition("go on with:")[2])
    assert words[:2] == ["nasplat", "resume"], errors
    return words[1:]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory, table: Path) -> list[Any]:
    """The trace of a search that is not interrupted."""
    folder = tmp_path_factory.mktemp("left_alone")
    Counted(folder).finish(*searching("regularized_evolution", 1000, "alone"), notes="alone.txt")
    return event_trace(folder / "alone")


@pytest.mark.slow
@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_search_on_the_table_says_how_to_go_on_and_ends_as_one_left_alone(
    how: signal.Signals, counted: Counted, left_alone: list[Any]
) -> None:
    run = counted.folder / "run"
    process = counted.begin(*searching("regularized_evolution", 1000, "run"), notes="run.txt", delay=0.01)
    wait_until(lambda: outcomes_in(run) >= 100, process)
    output, errors = interrupt(process, how)
    assert process.returncode == 130, errors
    assert output == ""
    assert named_command(errors) == ["resume", "run"]
    history = RunDirectory(run).history()
    assert (history.status, len(history.outcomes) < 1000) == ("interrupted", True)

    if how is signal.SIGTERM:  # in a process of its own, as a user does; all three name the same
        resumed = counted.begin(*named_command(errors), notes="run.txt")
        _, errors = resumed.communicate(timeout=PATIENCE)
        assert (resumed.returncode, errors) == (0, "")
    else:
        counted.finish(*named_command(errors), notes="run.txt")
    assert event_trace(run) == left_alone
    assert RunDirectory(run).history().status == "finished"


@pytest.mark.slow
@pytest.mark.usefixtures("hangs_up")
def test_a_closed_terminal_interrupts_a_search(counted: Counted, tmp_path: Path) -> None:
    terminal, other_end = os.openpty()
    words = shlex.join([sys.executable, "counting.py", *searching("random_search", 4000, "run")])
    name = os.ttyname(other_end)
    # The first terminal that the leader of a session opens is its own.
    leading = ["sh", "-c", f"exec {words} <{name} >{name} 2>&1"]
    environment = {**os.environ, "NOTES": "run.txt", "DELAY": "0.01"}
    with subprocess.Popen(leading, cwd=tmp_path, env=environment, start_new_session=True, text=True) as process:
        os.close(other_end)
        try:
            wait_until(lambda: outcomes_in(tmp_path / "run") >= 1, process)
        finally:
            os.close(terminal)
        assert process.wait(PATIENCE) == 130
    assert RunDirectory(tmp_path / "run").history().status == "interrupted"


@pytest.mark.slow
def test_the_command_that_an_interrupted_search_names_can_be_pasted_into_a_shell(counted: Counted) -> None:
    process = counted.begin(*searching("random_search", 400, "my run"), notes="run.txt", delay=0.05)
    wait_until(lambda: outcomes_in(counted.folder / "my run") >= 10, process)
    _, errors = interrupt(process, signal.SIGINT)
    assert process.returncode == 130, errors
    assert named_command(errors) == ["resume", "my run"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Outcome]:
    """The outcomes of a search that trains and is left alone."""
    folder = tmp_path_factory.mktemp("trained")
    run_here(folder, *TRAINING, "--out", "alone")
    return outcomes_of(folder / "alone")


@pytest.mark.slow
def test_an_interrupted_training_goes_on_with_the_same_weights(
    trained: dict[int, Outcome], start: Starter, tmp_path: Path
) -> None:
    process = start(sys.executable, "-m", "nasplat", *TRAINING, "--out", "run", OMP_NUM_THREADS="1")
    wait_until(lambda: outcomes_in(tmp_path / "run") >= 2, process)
    output, errors = interrupt(process, signal.SIGINT)
    assert (process.returncode, output) == (130, ""), errors
    assert named_command(errors) == ["resume", "run"]
    assert len(outcomes_of(tmp_path / "run")) < len(trained)
    run_here(tmp_path, "resume", "run")
    assert outcomes_of(tmp_path / "run") == trained  # weights are named by their content


CARS = [
    "search", "--space", "nasbench201", "--set", "space.channels=2", "--set", "space.cells=1",
    "--benchmark", "classification", "--set", "benchmark.epochs=5", "--set", "benchmark.paths=2",
    "--set", "benchmark.subset=300", "--strategy", "cars",
    "--set", "strategy.population=4", "--set", "strategy.warmup=2", "--set", "strategy.child_speed=measured",
    "--set", "strategy.finish=race", "--set", "strategy.race.epochs=6", "--set", "strategy.race.finalists=2",
    "--objective", "accuracy:max", "--objective", "params:min", "--seed", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with shared weights that is left alone.

    One training, four founders, then thrice: a training, four children with old weights, eight with new ones. Then a
    race of four networks and of two.
    """
    folder = tmp_path_factory.mktemp("shared")
    run_here(folder, *CARS, "--out", "alone")
    return folder / "alone"


@pytest.mark.slow
def test_shared_weights_killed_between_and_inside_generations_go_on_to_the_bit(
    shared: Path, start: Starter, tmp_path: Path, part: Callable[..., Any]
) -> None:
    command = [*CARS, "--out", "run"]
    # Of 50 outcomes: after a training, among children, at an end, in a training, among all, in the race.
    for outcomes in (*part((1, 7, 18, 19, 31), 1), 48):
        process = start(sys.executable, "-m", "nasplat", *command, OMP_NUM_THREADS="1")

        def there(wanted: int = outcomes) -> bool:
            return outcomes_in(tmp_path / "run") >= wanted

        wait_until(there, process)
        process.kill()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL, "the search was over before it was killed"
        command = ["resume", "run"]
    assert outcomes_in(tmp_path / "run") < 50
    run_here(tmp_path, "resume", "run")
    assert event_trace(tmp_path / "run") == event_trace(shared)  # weights and statistics are named by their content
    fronts = [RunDirectory(folder).history().front for folder in (tmp_path / "run", shared)]
    assert [m.id for m in fronts[0]] == [m.id for m in fronts[1]]
    kept = [sorted(p.name for p in (folder / "artifacts").rglob("*.*")) for folder in (tmp_path / "run", shared)]
    assert kept[0] == kept[1]


@pytest.mark.slow
@pytest.mark.ray
def test_two_ray_workers_share_each_training_and_generation_and_the_same_comes_of_it(
    shared: Path, cluster: Any, command: CommandLine, tmp_path: Path
) -> None:
    done = command(*CARS, "--executor", "ray", "--workers", "2", "--ray-address", cluster.address, "--out", "ray")
    assert done.returncode == 0, done.stderr
    assert outcomes_of(tmp_path / "ray") == outcomes_of(shared)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.sweep(1)
@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_search_on_ray_leaves_no_process_behind_and_goes_on(
    how: signal.Signals,
    trained: dict[int, Outcome],
    start: Starter,
    command: CommandLine,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    flags = ["--executor", "ray", "--workers", "2", "--out", "run"]
    # Paths of sockets are short, and those of tests are not.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as home:
        mark = {"NASPLAT_TEST": uuid.uuid4().hex, "RAY_TMPDIR": home, "OMP_NUM_THREADS": "1"}
        process = start(sys.executable, "-m", "nasplat", *TRAINING, *flags, **mark)
        wait_until(lambda: outcomes_in(tmp_path / "run") >= 2, process)
        assert len(_marked(mark)) > 3, "the processes of Ray are not found, so that none can be missed"
        output, errors = interrupt(process, how)
        _expect_none(mark)
        assert (process.returncode, output) == (130, ""), errors
        assert named_command(errors) == ["resume", "run"]
        assert len(outcomes_of(tmp_path / "run")) < len(trained)
    if how is signal.SIGINT:  # going on is the same for all, and on any Ray
        done = command("resume", "run", "--ray-address", request.getfixturevalue("cluster").address)
        assert (done.returncode, done.stderr) == (0, "")
        assert outcomes_of(tmp_path / "run") == trained


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_that_starts_ray_itself_finds_modules_on_the_path_and_leaves_no_process_behind(
    installed: dict[str, str], start: Starter, tmp_path: Path
) -> None:
    # Space and benchmark are on PYTHONPATH alone, where workers of a Ray that was there before would not look.
    words = [
        "search", "--space", "demo_perceptron", "--benchmark", "demo_formula", "--strategy", "random_search",
        "--objective", "accuracy:max", "--evaluations", "1", "--executor", "ray", "--out", "run",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as home:
        mark = {"NASPLAT_TEST": uuid.uuid4().hex, "RAY_TMPDIR": home}
        process = start(sys.executable, "-m", "nasplat", *words, **{**installed, **mark})
        wait_until(lambda: len(_marked(mark)) > 3, process)  # Ray has started
        _, errors = process.communicate(timeout=PATIENCE)
        _expect_none(mark)
    assert (process.returncode, errors) == (0, "")
    assert [type(outcome) for outcome in outcomes_of(tmp_path / "run").values()] == [Measurement]


def _marked(mark: Mapping[str, str]) -> list[str]:
    """The processes that have inherited the mark, by what they run."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("processes are found by their environment in /proc, which this system does not have")
    wanted = f"NASPLAT_TEST={mark['NASPLAT_TEST']}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def _expect_none(mark: Mapping[str, str]) -> None:
    """All marked processes are gone, after a moment to go."""
    deadline = time.monotonic() + PATIENCE
    while left := _marked(mark):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


# Extended


@pytest.mark.slow
def test_a_larger_budget_extends_a_run_to_what_it_would_have_been(counted: Counted) -> None:
    counted.finish(*searching("regularized_evolution", 400, "large"), notes="large.txt")
    counted.finish(*searching("regularized_evolution", 150, "run"), notes="run.txt")
    run = counted.folder / "run"
    before = _Before(counted, run)
    assert len(before.outcomes) == 150
    said = counted.finish("resume", "run", "--evaluations", "400", "--json", notes="run.txt")
    before.check()
    assert event_trace(run) == event_trace(counted.folder / "large")
    assert json.loads(said)["evaluations"] == 400
    assert RunDirectory(run).history().status == "finished"


@pytest.mark.slow
def test_a_finished_run_is_resumed_without_a_change(counted: Counted) -> None:
    counted.finish(*searching("regularized_evolution", 60, "run"), notes="run.txt")
    run = counted.folder / "run"
    whole, notes, config = event_trace(run), counted.notes("run.txt"), (run / CONFIG).read_bytes()
    said = counted.finish("resume", "run", "--json", notes="run.txt")
    assert json.loads(said)["evaluations"] == 60
    assert (event_trace(run), counted.notes("run.txt"), (run / CONFIG).read_bytes()) == (whole, notes, config)


@pytest.mark.slow
def test_an_interrupted_extension_names_a_command_that_goes_on_to_the_larger_budget(counted: Counted) -> None:
    counted.finish(*searching("random_search", 50, "run"), notes="run.txt")
    run = counted.folder / "run"
    process = counted.begin("resume", "run", "--evaluations", "300", notes="run.txt", delay=0.04)
    wait_until(lambda: outcomes_in(run) >= 80, process)
    _, errors = interrupt(process, signal.SIGINT)
    assert process.returncode == 130, errors
    counted.finish(*named_command(errors), notes="run.txt")
    assert len(outcomes_of(run)) == 300


# The loop itself, on a toy


class Twins(ToySpace):
    """The toy space, where the order of the layers is said to make no difference to the function."""

    def canonical_key(self, architecture: Architecture) -> str:
        return "".join(sorted(architecture.code))


class Scripted(ToyBenchmark):
    """The toy benchmark, noting what it measures, with answers of one's own for some trials.

    Args:
        answers: By trial: metrics, or what is raised.
    """

    def __init__(self, answers: Mapping[int, dict[str, float] | TrialFailed] | None = None) -> None:
        super().__init__(Twins())
        self.answers = dict(answers or {})
        self.measured: list[int] = []

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        self.measured.append(task.id)
        answer = self.answers.get(task.id)
        if isinstance(answer, TrialFailed):
            raise answer
        if answer is not None:
            return Measurement(task=task, metrics=answer)
        return super().measure(task, device=device, artifacts=artifacts)


class Script(Strategy):
    """Asks for what it was given, one list at each ask, however many it was asked for.

    Args:
        problem: What is searched.
        asks: The codes of each ask.
    """

    def __init__(self, problem: Problem, *, asks: list[list[str]]) -> None:
        super().__init__(problem)
        self.asks = asks
        self.told: list[Outcome] = []
        self._next = 0

    def ask(self, n: int) -> list[Task]:
        if self._next == len(self.asks):
            return []
        self._next += 1
        return [self.problem.evaluate(Architecture("toy", code)) for code in self.asks[self._next - 1]]

    def tell(self, outcome: Outcome) -> None:
        self.told.append(outcome)

    def get_state(self) -> dict[str, Any]:
        return {"next": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        self._next = state["next"]


class Lanes(Executor):
    """Two lanes; what is done in them is done when it is waited for, the first submitted first.

    Args:
        benchmark: What measures.
    """

    capacity = 2

    def __init__(self, benchmark: Scripted) -> None:
        self._benchmark = benchmark
        self._queue: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self._queue.append(task)
        assert len(self._queue) <= self.capacity, "more was submitted than there are lanes"

    def wait(self, timeout: float) -> list[Outcome]:
        return [perform(self._queue.popleft(), self._benchmark, device="cpu", artifacts=MemoryArtifacts())]

    def close(self) -> None:
        self._queue.clear()


def problem(benchmark: Scripted, *constraints: str, seed: int = 0) -> Problem:
    """The toy problem: accuracy up, under constraints."""
    goal = Goal((Objective("accuracy", True),), tuple(map(Constraint.parse, constraints)))
    return Problem(benchmark.space, goal, io=benchmark.io, seed=seed)


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """A fresh log."""
    return EventLog.create(tmp_path / LOG)


def run_search(strategy: Strategy, benchmark: Scripted, log: EventLog, *, evaluations: int = 100) -> Search:
    """Search in this process to the end."""
    search = Search(
        strategy.problem, strategy, InlineExecutor(benchmark, MemoryArtifacts()), log, Budget(evaluations=evaluations)
    )
    search.run()
    return search


def play(
    log: EventLog,
    *asks: list[str],
    answers: Mapping[int, dict[str, float] | TrialFailed] | None = None,
    evaluations: int = 100,
) -> tuple[list[Outcome], list[int]]:
    """The outcomes that a scripted strategy is told, and the trials that were measured for it."""
    benchmark = Scripted(answers)
    strategy = Script(problem(benchmark), asks=list(asks))
    run_search(strategy, benchmark, log, evaluations=evaluations)
    return strategy.told, benchmark.measured


def test_a_replay_that_asks_for_something_else_is_stopped_before_anything_is_measured(log: EventLog) -> None:
    benchmark = Scripted()
    evolution = STRATEGIES.get("regularized_evolution")
    run_search(evolution(problem(benchmark)), benchmark, log, evaluations=20)
    events = log.last
    other = Scripted()
    with pytest.raises(StrategyError, match=r"(?s)resuming, RegularizedEvolution asked for other tasks .* event \d+"):
        run_search(evolution(problem(other, seed=1)), other, log, evaluations=30)
    assert (other.measured, log.last) == ([], events)


def test_a_replay_that_asks_for_the_same_goes_on(log: EventLog) -> None:
    benchmark, again = Scripted(), Scripted()
    evolution = STRATEGIES.get("regularized_evolution")
    run_search(evolution(problem(benchmark)), benchmark, log, evaluations=20)
    search = run_search(evolution(problem(again)), again, log, evaluations=30)
    assert again.measured and min(again.measured) >= 20
    assert (search.spending.evaluations, sum(search.outcomes.values())) == (30, 30)


def test_a_snapshot_spares_the_replay_of_what_it_covers(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nasplat.driver.loop, "SNAPSHOT_EVENTS", 30)
    benchmark, again = Scripted(), Scripted()
    make: Callable[..., Strategy] = STRATEGIES.get("regularized_evolution")
    evolution = partial(make, population=10, sample=3)
    first = evolution(problem(benchmark))
    run_search(first, benchmark, log, evaluations=40)
    snapshot = log.snapshot()
    assert snapshot is not None and 30 <= snapshot[0] < log.last
    strategy = evolution(problem(again))
    asks = sum(event.kind == "ask" for event in log.events(after=snapshot[0]))
    asked, ask = [], strategy.ask

    def counting_ask(n: int) -> list[Task]:
        asked.append(n)
        return ask(n)

    monkeypatch.setattr(strategy, "ask", counting_ask)
    run_search(strategy, again, log, evaluations=40)
    assert 0 < len(asked) == asks
    living, expected = (json.loads(pack(each.state())[0])["strategy"]["living"] for each in (strategy, first))
    assert [each["task"] for each in living] == [each["task"] for each in expected], "something was told twice"


def test_equal_work_is_answered_from_memory_with_the_costs_of_the_code_that_was_asked_for(log: EventLog) -> None:
    outcomes, measured = play(log, ["0123"], ["3210"], ["0123"], ["0000"])
    assert measured == [0, 3]
    first, twin, same, other = (o for o in outcomes if isinstance(o, Measurement))
    assert (first.cached_from, twin.cached_from, same.cached_from, other.cached_from) == (None, 0, 0, None)
    assert twin.metrics["accuracy"] == same.metrics["accuracy"] == first.metrics["accuracy"]
    assert twin.metrics["params"] != first.metrics["params"] == same.metrics["params"]
    assert twin.spent == Spent() != first.spent
    told = [event.body for event in log.events("outcome")]
    assert [body.get("cached_from") for body in told] == [None, 0, 0, None]


def test_remembering_counts_against_the_budget_and_pays_for_each_kind_of_work_once(log: EventLog) -> None:
    benchmark = Scripted()
    strategy = STRATEGIES.get("random_search")(problem(benchmark), duplicates="cache")  # type: ignore[call-arg]
    search = run_search(strategy, benchmark, log, evaluations=120)
    first: dict[str, int] = {}
    for event in log.events("ask"):
        for body in event.body["tasks"]:
            first.setdefault("".join(sorted(body["evaluate"])), body["id"])
    assert benchmark.measured == sorted(first.values())
    assert search.outcomes == {"measured": len(first), "cached": 120 - len(first), "trained": 0, "failed": 0}
    assert len(first) < 40


def test_answers_from_memory_leave_no_lane_idle(log: EventLog) -> None:
    class Counting(Lanes):
        """Notes how many tasks it has whenever it is waited for."""

        queued: ClassVar[list[int]] = []

        def wait(self, timeout: float) -> list[Outcome]:
            self.queued.append(len(self._queue))
            return super().wait(timeout)

    benchmark = Scripted()
    strategy = STRATEGIES.get("random_search")(problem(benchmark), duplicates="cache")  # type: ignore[call-arg]
    search = Search(strategy.problem, strategy, Counting(benchmark), log, Budget(evaluations=120))
    search.run()
    assert search.outcomes["cached"] > 60
    assert set(Counting.queued[:-2]) == {2}  # at the end there is nothing left to ask for


def test_measuring_again_is_not_answered_from_memory(log: EventLog) -> None:
    benchmark = Scripted()
    strategy = STRATEGIES.get("random_search")(problem(benchmark), duplicates="measure")  # type: ignore[call-arg]
    run_search(strategy, benchmark, log, evaluations=120)
    assert benchmark.measured == list(range(120))


def test_memory_outlives_the_process(log: EventLog) -> None:
    script = ["0123"], ["0000"], ["3210"], ["0001"]
    play(log, *script, evaluations=2)
    outcomes, measured = play(log, *script)
    assert measured == [3]
    assert [o.cached_from for o in outcomes if isinstance(o, Measurement)] == [None, None, 0, None]


def test_a_failure_is_not_remembered(log: EventLog) -> None:
    outcomes, measured = play(
        log, ["0123"], ["0123"], ["3210"], answers={0: TrialFailed("diverged", "the loss is too high")}
    )
    assert measured == [0, 1]
    failure, measurement, cached = outcomes
    assert isinstance(failure, Failure) and isinstance(measurement, Measurement) and isinstance(cached, Measurement)
    assert (failure.kind, failure.message) == ("diverged", "the loss is too high")
    assert "TrialFailed" in failure.traceback
    assert (measurement.cached_from, cached.cached_from) == (None, 1)


@pytest.mark.parametrize(
    ("metrics", "kind", "said"),
    [
        ({"accuracy": math.nan}, "non-finite", "accuracy is nan, but must be a finite number"),
        ({"accuracy": math.inf}, "non-finite", "accuracy is inf, but must be a finite number"),
        ({"loss": 0.5}, "no metric", "accuracy is missing from loss; return it"),
    ],
)
def test_an_objective_that_is_no_number_fails_its_trial_alone(
    metrics: dict[str, float], kind: str, said: str, log: EventLog
) -> None:
    outcomes, measured = play(log, ["0123"], ["0123"], answers={0: metrics})
    assert measured == [0, 1]
    failure, measurement = outcomes
    assert isinstance(failure, Failure) and isinstance(measurement, Measurement)
    assert failure.kind == kind and said in failure.message


def test_a_constraint_on_what_is_no_number_fails_the_trial(log: EventLog) -> None:
    benchmark = Scripted({0: {"accuracy": 0.5, "loss": math.nan}})
    strategy = Script(problem(benchmark, "loss<=1"), asks=[["0123"]])
    search = run_search(strategy, benchmark, log)
    (failure,) = strategy.told
    assert isinstance(failure, Failure)
    assert (failure.kind, search.best) == ("non-finite", None) and "loss is nan, but must be" in failure.message


def test_a_strategy_that_gives_more_than_it_was_asked_for_is_stopped(log: EventLog) -> None:
    benchmark = Scripted()
    strategy = Script(problem(benchmark), asks=[["0123"], ["0000", "1111"]])
    with pytest.raises(StrategyError, match="Script was asked for at most 1 tasks, but gave 2"):
        run_search(strategy, benchmark, log)
    assert benchmark.measured == [0]
    assert len(list(log.events("ask"))) == 1


def test_a_strategy_that_proposes_what_is_not_feasible_is_stopped(log: EventLog) -> None:
    benchmark = Scripted()
    strategy = Script(problem(benchmark, "params<=100"), asks=[["0000"], ["3333"]])
    with pytest.raises(StrategyError, match="Script proposed toy:3333, which is not feasible under params<=100"):
        run_search(strategy, benchmark, log)
    assert benchmark.measured == [0]
    assert len(list(log.events("ask"))) == 1


def test_no_more_is_asked_for_than_lanes_are_free_and_the_budget_allows(log: EventLog) -> None:
    benchmark = Scripted()
    strategy = Script(problem(benchmark), asks=[["0123", "0000"], ["1111"], ["2222"], ["3333"]])
    Search(strategy.problem, strategy, Lanes(benchmark), log, Budget(evaluations=5)).run()
    # One evaluation more leaves a lane empty.
    strategy = Script(problem(benchmark), asks=[["0123", "0000"], ["1111"], ["2222"], ["3333"], ["3332"]])
    Search(strategy.problem, strategy, Lanes(benchmark), log, Budget(evaluations=6)).run()
    assert [(e.body["n"], len(e.body["tasks"])) for e in log.events("ask")] == [(2, 2), *[(1, 1)] * 4]


def test_two_tasks_of_the_same_work_in_flight_are_measured_once(log: EventLog) -> None:
    benchmark = Scripted()
    strategy = Script(problem(benchmark), asks=[["0123", "3210"], ["0123"], ["0000"]])
    Search(strategy.problem, strategy, Lanes(benchmark), log, Budget(evaluations=100)).run()
    assert benchmark.measured == [0, 3]
    assert {o.id: o.cached_from for o in strategy.told if isinstance(o, Measurement)} == {0: None, 1: 0, 2: 0, 3: None}
    assert strategy.told[0].id == 0


def test_what_waited_for_work_that_failed_is_measured_itself(log: EventLog) -> None:
    benchmark = Scripted({0: TrialFailed("diverged", "the loss is too high")})
    strategy = Script(problem(benchmark), asks=[["0123", "3210"], ["0123"]])
    Search(strategy.problem, strategy, Lanes(benchmark), log, Budget(evaluations=100)).run()
    assert benchmark.measured == [0, 1]
    assert {o.id: o.cached_from for o in strategy.told if isinstance(o, Measurement)} == {1: None, 2: 1}


class Killed(BaseException):
    """Stands for the end of the process."""


def test_what_was_in_flight_is_submitted_again_with_its_ids_and_seeds(log: EventLog) -> None:
    class Dying(Lanes):
        """Ends the process with two tasks in flight."""

        def wait(self, timeout: float) -> list[Outcome]:
            raise Killed

    def strategy() -> Script:
        return Script(problem(Scripted()), asks=[["0123", "0000"], ["1111"]])

    with pytest.raises(Killed):
        first = strategy()
        Search(first.problem, first, Dying(Scripted()), log, Budget(evaluations=100)).run()
    asked = [decode_task(body) for event in log.events("ask") for body in event.body["tasks"]]
    benchmark, second = Scripted(), strategy()
    Search(second.problem, second, Lanes(benchmark), log, Budget(evaluations=100)).run()
    assert benchmark.measured == [0, 1, 2]
    assert [outcome.task for outcome in second.told][:2] == asked
    assert len({task.seed for task in asked}) == 2


def test_what_waited_for_equal_work_in_flight_is_not_lost_with_the_process(log: EventLog) -> None:
    class Dying(Lanes):
        """Ends the process with two lanes at work, and a task that waits for what one of them will say."""

        def wait(self, timeout: float) -> list[Outcome]:
            raise Killed

    def strategy() -> Script:
        return Script(problem(Scripted()), asks=[["0123", "3210"], ["0000"], ["1111"]])

    with pytest.raises(Killed):
        first = strategy()
        Search(first.problem, first, Dying(Scripted()), log, Budget(evaluations=100)).run()
    benchmark, second = Scripted(), strategy()
    Search(second.problem, second, Lanes(benchmark), log, Budget(evaluations=100)).run()
    assert benchmark.measured == [0, 2, 3]
    assert sorted(outcome.id for outcome in second.told) == [0, 1, 2, 3]


def test_each_outcome_is_in_the_log_before_the_strategy_learns_of_it(log: EventLog) -> None:
    class Watching(Script):
        """Looks into the log whenever it is told something."""

        def tell(self, outcome: Outcome) -> None:
            logged = [event.body["id"] for event in log.events("outcome")]
            assert logged[-1] == outcome.id, "an outcome took effect before it was logged"
            super().tell(outcome)

    benchmark = Scripted()
    strategy = Watching(problem(benchmark), asks=[["0123"], ["3210"], ["0000"]])
    run_search(strategy, benchmark, log)
    assert len(strategy.told) == 3


def test_each_ask_is_in_the_log_before_it_is_worked_on(log: EventLog) -> None:
    class Looking(Scripted):
        """Looks into the log whenever it measures."""

        def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
            logged = [body["id"] for event in log.events("ask") for body in event.body["tasks"]]
            assert task.id in logged, "a task was worked on before it was logged"
            return super().measure(task, device=device, artifacts=artifacts)

    benchmark = Looking()
    strategy = Script(problem(benchmark), asks=[["0123"], ["0000"]])
    search = run_search(strategy, benchmark, log)
    assert search.outcomes["measured"] == 2


class Stubborn(Script):
    """Asks again for a training of the supernet that fails at once, and every so often for an evaluation.

    Args:
        problem: What is searched.
        every: The number of trainings before each evaluation.
    """

    def __init__(self, problem: Problem, *, every: int) -> None:
        super().__init__(problem, asks=[])
        self.every = every

    def ask(self, n: int) -> list[Task]:
        assert len(self.told) < 1000, "nothing ends the search"
        if len(self.told) % (self.every + 1) == self.every:
            return [self.problem.evaluate(self.problem.sample())]
        return [self.problem.train_supernet((), epochs=1)]

    def set_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError  # no snapshot is taken


@pytest.mark.parametrize("budget", [Budget(evaluations=5), Budget(evaluations=5, seconds=1e6), Budget(images=5)])
def test_trainings_that_only_fail_end_the_run_with_their_cause(budget: Budget, log: EventLog) -> None:
    for session in (1, 2):  # going on tries again, for the cause may be gone
        benchmark = Scripted()
        strategy = Stubborn(problem(benchmark), every=2 * FAILURES)
        search = Search(strategy.problem, strategy, InlineExecutor(benchmark, MemoryArtifacts()), log, budget)
        cause = "the last cause: no supernet: the benchmark Scripted cannot train a supernet"
        with pytest.raises(RunError, match=f"{FAILURES} tasks in a row failed .* {cause}; .* resume"):
            search.run()
        assert search.outcomes["failed"] == session * FAILURES
    assert len(list(log.events("outcome"))) == 2 * FAILURES and not list(log.events("end"))


def test_failures_between_which_something_succeeds_end_no_run(log: EventLog) -> None:
    benchmark = Scripted()
    search = run_search(Stubborn(problem(benchmark), every=FAILURES - 1), benchmark, log, evaluations=3)
    assert search.outcomes == {"measured": 3, "cached": 0, "trained": 0, "failed": 3 * (FAILURES - 1)}
    assert [event.body["reason"] for event in log.events("end")] == ["budget"]


def test_evaluations_that_only_fail_use_up_the_budget(log: EventLog) -> None:
    number = 2 * FAILURES
    benchmark = Scripted({trial: TrialFailed("demo", "on purpose") for trial in range(number)})
    search = run_search(Stubborn(problem(benchmark), every=0), benchmark, log, evaluations=number)
    assert search.outcomes["failed"] == number


def check_killed_and_resumed(place: Path, strategy: str, executor: str, seed: int) -> None:
    """A search is killed at a random moment and resumed, and is not told apart from one that was not."""
    for number in range(3):  # on a busy machine a search may end before it is killed
        (place / str(number)).mkdir()
        result = kill_campaign.kill_and_resume(place / str(number), strategy, seed + 100 * number, executor)
        assert not result["faults"], result
        if result["killed"] and result["events_at_kill"]:
            return
    pytest.fail("it was never killed in the middle")


@pytest.mark.slow
@pytest.mark.sweep(3)
@pytest.mark.parametrize("seed", [10_000, 10_001, 10_002])
@pytest.mark.parametrize("strategy", kill_campaign.STRATEGY_OPTIONS)
def test_a_search_killed_at_a_random_moment_ends_as_if_nothing_had_happened(
    strategy: str, seed: int, tmp_path: Path
) -> None:
    """The function behind the longer campaign, with other seeds."""
    check_killed_and_resumed(tmp_path, strategy, "inline", seed)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.sweep(1)
@pytest.mark.parametrize("strategy", kill_campaign.STRATEGY_OPTIONS)
def test_a_search_on_ray_killed_at_a_random_moment_ends_as_if_nothing_had_happened(
    strategy: str, tmp_path: Path
) -> None:
    check_killed_and_resumed(tmp_path, strategy, "ray", 10_003)
