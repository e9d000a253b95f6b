"""Tasks on Ray workers: other processes, at once, on a cluster that was there before, and with deaths among them."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from nasplat.executors.executor import Workload
from nasplat.run.directory import Run
from nasplat.task import Measurement, Outcome

PATIENCE = 300.0
"""Seconds after which a test stops waiting for a process."""

pytestmark = pytest.mark.slow

DIGITS = [
    "search", "--space", "nasbench201", "--set", "space.channels=4", "--set", "space.cells=1",
    "--benchmark", "classification", "--set", "benchmark.epochs=2", "--strategy", "random_search",
    "--objective", "accuracy:max", "--executor", "ray", "--workers", "2", "--evaluations", "8",
]  # fmt: skip


def overlapping(outcomes: list[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """The pairs of trials that ran at the same time on different workers."""
    return [
        (a, b)
        for a, b in combinations(outcomes, 2)
        if a.spent.worker != b.spent.worker
        and a.spent.started < b.spent.started + b.spent.seconds
        and b.spent.started < a.spent.started + a.spent.seconds
    ]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster asks for the token that starting it has made; an explicit address needs to be told so."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A Ray cluster that somebody else started, in a directory of its own: its address and that directory."""
    home = tmp_path_factory.mktemp("cluster")
    ray = [str(Path(sys.executable).parent / "ray")]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    started = subprocess.run(
        [*ray, "start", "--head", "--port=0", "--num-cpus=3", "--include-dashboard=false", "--disable-usage-stats"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert started.returncode == 0, started.stdout + started.stderr
    address = re.search(r"--address='([^']+)'", started.stdout)
    assert address is not None, started.stdout
    yield address[1], home
    subprocess.run([*ray, "stop"], cwd=home, env=environment, capture_output=True)


DRIVER = """
import json, os, sys
from nasplat.executors.executor import Workload
from nasplat.executors.ray import RayExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.run.shelf import Shelf
from nasplat.task import encode_outcome
from pathlib import Path

workload = Workload("nasbench201", "classification", {"channels": 4, "cells": 1}, {"epochs": 2})
benchmark = workload.make()
problem = Problem(benchmark.space, Goal((Objective("accuracy", True),)), io=benchmark.io, fidelity=2)
with RayExecutor(workload, Shelf(Path("artifacts")), workers=2, address=sys.argv[1]) as executor:
    tasks = [problem.evaluate(problem.sample()) for _ in range(6)]
    for task in tasks:
        executor.submit(task)
    outcomes = []
    while len(outcomes) < len(tasks):
        outcomes += executor.wait(1.0)
    pids = {outcome.spent.worker.rpartition(":")[2] for outcome in outcomes}
    homes = {pid: os.readlink(f"/proc/{pid}/cwd") for pid in pids}
kept = sorted(path.name for path in Path("artifacts").rglob("*.safetensors"))
print(json.dumps({"pid": os.getpid(), "homes": homes, "kept": kept, "outcomes": list(map(encode_outcome, outcomes))}))
"""


def test_workers_run_at_once_in_another_directory_without_the_drivers_objects(
    cluster: tuple[str, Path], tmp_path: Path
) -> None:
    address, home = cluster
    done = subprocess.run([sys.executable, "-c", DRIVER, address], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    outcomes = [_decoded(body) for body in said["outcomes"]]
    assert all(isinstance(outcome, Measurement) for outcome in outcomes)
    assert len(said["homes"]) == 2 and str(said["pid"]) not in said["homes"]
    assert set(said["homes"].values()) == {str(home)} != {str(tmp_path)}
    assert overlapping(outcomes), "no two trials ran at the same time on different workers"
    assert len(said["kept"]) == 6, "the weights did not come back to the driver"


CONTINUING = """
import json, sys
from dataclasses import replace
from pathlib import Path
from nasplat.executors.executor import Workload
from nasplat.executors.ray import RayExecutor
from nasplat.run.shelf import Shelf
from nasplat.task import Evaluate, encode_outcome

workload = Workload("nasbench201", "classification", {"channels": 4, "cells": 1}, {"epochs": 3})
architecture = workload.make().space.parse("233223")
with RayExecutor(workload, Shelf(Path("artifacts")), workers=2, address=sys.argv[1]) as executor:
    def done(*tasks):
        for task in tasks:
            executor.submit(task)
        outcomes = []
        while len(outcomes) < len(tasks):
            outcomes += executor.wait(1.0)
        return sorted(outcomes, key=lambda outcome: outcome.id)

    part = Evaluate(id=0, seed=5, architecture=architecture, fidelity=1)
    whole = replace(part, id=1, fidelity=3)
    outcomes = done(part, whole)
    state = outcomes[0].artifacts["state"]
    outcomes += done(*(replace(whole, id=number, seed=number, continues=state) for number in (2, 3)))
print(json.dumps(list(map(encode_outcome, outcomes))))
"""


def test_a_training_goes_on_on_another_worker(cluster: tuple[str, Path], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CONTINUING, cluster[0]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = [_decoded(body) for body in json.loads(done.stdout)]
    assert all(isinstance(outcome, Measurement) for outcome in outcomes), outcomes
    part, whole, *parts = outcomes
    assert len({outcome.spent.worker for outcome in parts}) == 2, "both went on on one worker"
    for outcome in parts:
        assert isinstance(outcome, Measurement) and isinstance(whole, Measurement)
        assert (outcome.metrics, outcome.artifacts) == (whole.metrics, whole.artifacts)
        assert part.spent.images + outcome.spent.images == whole.spent.images


def test_a_worker_is_told_names_and_options_alone() -> None:
    shipped = pickle.dumps(Workload("nasbench201", "classification", {"channels": 4}, {"epochs": 2}))
    for code in (b"search_spaces", b"benchmarks", b"torch", b"<lambda>"):
        assert code not in shipped


def test_a_cluster_is_left_running_and_used_again(cluster: tuple[str, Path], nasplat: Callable[..., Any]) -> None:
    address, _ = cluster
    for name in ("first", "second"):
        done = nasplat(*DIGITS, "--ray-address", address, "--out", name, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["outcomes"]["measured"] == 8


def test_what_the_cluster_lacks_is_refused_before_anything_is_created(
    cluster: tuple[str, Path], nasplat: Callable[..., Any], tmp_path: Path
) -> None:
    address, _ = cluster
    for flags, said in (
        (["--workers", "64"], "64 CPUs"),
        (["--gpus-per-worker", "0.5"], "1 GPUs"),
    ):
        done = nasplat(*DIGITS, "--ray-address", address, *flags)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_is_not_there_is_refused(nasplat: Callable[..., Any], tmp_path: Path) -> None:
    done = nasplat(*DIGITS, "--ray-address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_search_that_starts_ray_trains_at_once_and_shuts_it_down(tmp_path: Path) -> None:
    search = subprocess.Popen(
        [sys.executable, "-m", "nasplat", *DIGITS, "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = False
    while search.poll() is None and not seen:
        seen = bool(_of_ray_session(search.pid))
        time.sleep(0.2)
    _, said = search.communicate(timeout=PATIENCE)
    assert seen, "the Ray that the search started could not be recognised"
    assert (search.returncode, said) == (0, "")
    outcomes = Run(tmp_path / "run").history().outcomes
    assert len(outcomes) == 8
    assert overlapping(outcomes), "no two trials ran at the same time on different workers"
    deadline = time.monotonic() + PATIENCE
    while (left := _of_ray_session(search.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, "a process of the Ray that was started is still there"


def test_never_more_tasks_are_out_than_there_are_workers(installed: dict[str, str], tmp_path: Path) -> None:
    done = _demo(installed, tmp_path, "--evaluations", "30", "--set", "benchmark.sleep=0.01")
    assert done.returncode == 0, done.stderr
    from nasplat.run.event_log import EventLog

    out = most = 0
    for event in EventLog.open(tmp_path / "run" / "events.sqlite").events("ask", "outcome"):
        out += len(event.body["tasks"]) if event.kind == "ask" else -1
        most = max(most, out)
    assert (out, most) == (0, 2)


def test_a_worker_that_dies_fails_its_task_alone_and_is_replaced(installed: dict[str, str], tmp_path: Path) -> None:
    done = _demo(installed, tmp_path, "--evaluations", "12", "--set", "benchmark.exit_every=5")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcomes"] == {"measured": 10, "remembered": 0, "trained": 0, "failed": 2}
    show = _run(installed, tmp_path, "show", "run", "--json")
    assert [(f["trial"], f["kind"]) for f in json.loads(show.stdout)["failures"]] == [
        (4, "worker died"),
        (9, "worker died"),
    ]


def test_workers_that_only_die_end_the_run_with_an_error(installed: dict[str, str], tmp_path: Path) -> None:
    done = _demo(installed, tmp_path, "--evaluations", "40", "--set", "benchmark.exit_every=1")
    assert done.returncode == 1
    assert "killed every worker they touched" in done.stderr and "Traceback" not in done.stderr


SHARED_WEIGHTS = """
import sys
from pathlib import Path
from nasplat.executors.executor import Workload
from nasplat.executors.ray import RayExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.run.shelf import Shelf
import ray

workload = Workload("demo_perceptron", "demo_formula")
benchmark = workload.make()
problem = Problem(benchmark.space, Goal((Objective("accuracy", True),)), io=benchmark.io)
shelf = Shelf(Path("artifacts"))
handle = shelf.put(b"weights")
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
with RayExecutor(workload, shelf, workers=1) as executor:
    executor.submit(problem.evaluate(problem.sample(), weights=handle))
    outcomes = executor.wait(60)
    assert shelf.get(outcomes[0].artifacts["weights"]) == b"weights seen", outcomes
    executor.submit(problem.train_supernet((problem.sample(),), epochs=1))
    outcomes = executor.wait(60)
    assert outcomes[0].kind == "no supernet", outcomes
assert ray.is_initialized(), "a Ray that was there before was shut down"
"""


def test_artifacts_travel_with_tasks_and_a_ray_in_this_process_is_left_running(
    installed: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHARED_WEIGHTS],
        cwd=tmp_path,
        env={**installed, "RAY_AUTH_MODE": "token", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_gpus_that_are_not_there_are_refused_before_anything_is_created(
    nasplat: Callable[..., Any], tmp_path: Path
) -> None:
    done = nasplat(*DIGITS, "--gpus-per-worker", "4.5")  # two workers of 4.5 are more than anyone has
    assert done.returncode == 2
    assert "9 GPUs" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def _decoded(body: dict[str, Any]) -> Outcome:
    from nasplat.task import decode_outcome

    return decode_outcome(body)


def _demo(environment: dict[str, str], folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A search with the demo package on two Ray workers."""
    return _run(
        environment, folder, "search", "--space", "demo_perceptron", "--benchmark", "demo_formula", "--strategy",
        "random_search", "--set", "strategy.repeats=measure", "--objective", "accuracy:max", "--executor", "ray",
        "--workers", "2", "--json", "--out", "run", *flags,
    )  # fmt: skip


def _run(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nasplat", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def _of_ray_session(driver: int) -> list[str]:
    """The command lines of what belongs to the Ray session that a process started; its name ends in the id."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if re.search(rf"/session_[\d_-]+_{driver}\b", command):
                found.append(command)
    return found


def test_nothing_waits_for_a_straggler(installed: dict[str, str], tmp_path: Path) -> None:
    """One worker hangs from the first trial to its time limit; the other does all the rest meanwhile."""
    done = _demo(
        installed, tmp_path, "--evaluations", "60", "--set", "benchmark.sleep=0.02", "--set", "benchmark.hang_at=0",
        "--trial-seconds", "8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcomes"] == {"measured": 59, "remembered": 0, "trained": 0, "failed": 1}
    assert [(i["kind"], i["trial"], i["action"]) for i in result["incidents"]] == [("time limit", 0, "failed")]
    assert Run(tmp_path / "run").history().outcomes[-1].id == 0, "the straggler held up others"
    assert "time limit (trial 0" in _run(installed, tmp_path, "show", "run").stdout


def test_retries_and_the_time_limit_are_the_users_to_set(installed: dict[str, str], tmp_path: Path) -> None:
    done = _demo(installed, tmp_path, "--evaluations", "6", "--set", "benchmark.exit_at=2", "--retries", "0")
    assert done.returncode == 0, done.stderr
    assert [(i["trial"], i["action"]) for i in json.loads(done.stdout)["incidents"]] == [(2, "failed")]
    resolved = Run(tmp_path / "run").config.executor
    assert (resolved.retries, resolved.trial_seconds) == (0, None)


IN_PROCESS = """
import json, os, signal, sys, time
from pathlib import Path
from nasplat.executors import ray as module
from nasplat.executors.executor import Workload
from nasplat.executors.ray import RayExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.run.shelf import Shelf
from nasplat.task import encode_incident, encode_outcome

def executor(workers, retries=2, trial_seconds=None, **options):
    workload = Workload("demo_perceptron", "demo_formula", {}, options)
    benchmark = workload.make()
    problem = Problem(benchmark.space, Goal((Objective("accuracy", True),)), io=benchmark.io)
    made = RayExecutor(
        workload, Shelf(Path("artifacts")), workers=workers, retries=retries, trial_seconds=trial_seconds
    )
    return made, problem

def gather(executor, number, seconds=60):
    outcomes, incidents, deadline = [], [], time.monotonic() + seconds
    while len(outcomes) < number and time.monotonic() < deadline:
        outcomes += executor.wait(0.5)
        incidents += executor.incidents()
    return outcomes, incidents
"""


def _in_process(environment: dict[str, str], folder: Path, script: str) -> Any:
    """What a script says that drives the executor itself."""
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS + script],
        cwd=folder,
        env={**environment, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "said.json").read_text())


def test_a_driver_that_looks_late_does_not_end_what_was_done_in_time(installed: dict[str, str], tmp_path: Path) -> None:
    said = _in_process(
        installed,
        tmp_path,
        """
made, problem = executor(2, trial_seconds=1.5, sleep=0.1)
with made:
    while len(made._idle) < 2:
        made.wait(0.1)
    for _ in range(2):
        made.submit(problem.evaluate(problem.sample()))
    time.sleep(3)
    outcomes, incidents = gather(made, 2)
Path("said.json").write_text(json.dumps([[encode_outcome(o) for o in outcomes], list(map(encode_incident, incidents))]))
""",
    )
    assert [("metrics" in outcome) for outcome in said[0]] == [True, True] and said[1] == []


def test_a_worker_that_died_while_idle_costs_no_trial_its_tries(installed: dict[str, str], tmp_path: Path) -> None:
    said = _in_process(
        installed,
        tmp_path,
        """
made, problem = executor(2, retries=0)
with made:
    while len(made._idle) < 2:
        made.wait(0.1)
    for seat in made._idle:
        os.kill(int(seat.worker.rpartition(":")[2]), signal.SIGKILL)
    time.sleep(1.5)
    for _ in range(3):
        made.submit(problem.evaluate(problem.sample()))
    outcomes, incidents = gather(made, 3)
Path("said.json").write_text(json.dumps([[encode_outcome(o) for o in outcomes], list(map(encode_incident, incidents))]))
""",
    )
    assert [("metrics" in outcome) for outcome in said[0]] == [True] * 3
    assert [(i["kind"], i["action"], i["trial"]) for i in said[1]] == [("worker died", "replaced", None)] * 2


def test_places_are_filled_again_after_a_streak_of_deaths(installed: dict[str, str], tmp_path: Path) -> None:
    said = _in_process(
        installed,
        tmp_path,
        """
module.DEATHS_PER_WORKER = 1
made, problem = executor(2, retries=0, exit_every=2)
def places():
    made.wait(0.1)
    return len(made._idle) + len(made._busy) + len(made._starting)
with made:
    while len(made._idle) < 2:
        made.wait(0.1)
    healthy, poison = (problem.evaluate(problem.sample()) for _ in range(2))
    made._deaths_in_a_row = 2  # as if two trials had just killed their workers
    made.submit(poison)
    outcomes, _ = gather(made, 1)
    before = places()
    made.submit(healthy)
    outcomes += gather(made, 1)[0]
    after = places()
Path("said.json").write_text(json.dumps([len(outcomes), before, after]))
""",
    )
    assert said == [2, 1, 2]


def test_a_worker_that_cannot_start_loses_its_place_after_a_few_tries(
    installed: dict[str, str], tmp_path: Path
) -> None:
    """One worker comes up, the other never does: the search goes on with one, and does not try for ever."""
    said = _in_process(
        installed,
        tmp_path,
        """
module.FIRST_PAUSE = 0.05
from nasplat.executors.executor import Workload
class OnlyOnce(Workload):
    # The first worker finds its data at once, all others look for it in vain.
    def make(self):
        try:
            os.mkdir(self.benchmark_options["once"])
        except FileExistsError:
            raise RuntimeError("the data is not there") from None
        return Workload("demo_perceptron", "demo_formula").make()
made, problem = executor(1)
made.close()
workload = OnlyOnce("demo_perceptron", "demo_formula", {}, {"once": os.path.abspath("once")})
made = RayExecutor(workload, Shelf(Path("artifacts")), workers=2)
with made:
    incidents, deadline = [], time.monotonic() + 60
    while made.capacity > 1 and time.monotonic() < deadline:
        made.submit(problem.evaluate(problem.sample()))
        made.wait(0.5)
        incidents += made.incidents()
    made.submit(problem.evaluate(problem.sample()))
    outcomes, more = gather(made, 1)
Path("said.json").write_text(json.dumps([made.capacity, list(map(encode_incident, incidents + more)), len(outcomes)]))
""",
    )
    capacity, incidents, done = said
    assert capacity == 1 and done >= 1
    *replaced, last = (i["action"] for i in incidents)  # a round may come before the other worker is ready
    assert last == "given up" and set(replaced) == {"replaced"} and 4 <= len(replaced) <= 5
    assert all(i["kind"] == "worker did not start" and "not there" in i["message"] for i in incidents)


def test_a_driver_that_was_away_for_long_does_not_take_its_workers_for_gone(
    installed: dict[str, str], tmp_path: Path
) -> None:
    said = _in_process(
        installed,
        tmp_path,
        """
module.START_SECONDS = 3.0
made, problem = executor(1)
with made:
    time.sleep(4)
    os.kill(int(made._idle[0].worker.rpartition(":")[2]), signal.SIGKILL)
    time.sleep(1)
    made.submit(problem.evaluate(problem.sample()))
    outcomes, incidents = gather(made, 1)
Path("said.json").write_text(json.dumps([encode_outcome(o) for o in outcomes]))
""",
    )
    assert len(said) == 1 and "metrics" in said[0]


def test_preparing_may_take_longer_than_starting(installed: dict[str, str], tmp_path: Path) -> None:
    said = _in_process(
        installed,
        tmp_path,
        """
module.START_SECONDS = 3.0
class Slow(Workload):
    def make(self):
        time.sleep(6)
        return Workload("demo_perceptron", "demo_formula").make()
_, problem = executor(1)
_.close()
made = RayExecutor(Slow("demo_perceptron", "demo_formula"), Shelf(Path("artifacts")), workers=1)
with made:
    made.submit(problem.evaluate(problem.sample()))
    outcomes, incidents = gather(made, 1)
Path("said.json").write_text(json.dumps([encode_outcome(o) for o in outcomes]))
""",
    )
    assert len(said) == 1 and "metrics" in said[0]
