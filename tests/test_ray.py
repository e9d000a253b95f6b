"""Tasks on Ray workers: other processes, at once, on a cluster that was there before, and with deaths among them."""

import json
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from forked import COMMAND_LINE

from nasplat.config import Workload
from nasplat.run.directory import RunDirectory
from nasplat.task import Measurement, Outcome

PATIENCE = 300.0
"""Seconds after which a test stops waiting for a process."""

pytestmark = [pytest.mark.slow, pytest.mark.ray]

DIGITS = [
    "search", "--space", "nasbench201", "--set", "space.channels=4", "--set", "space.cells=1",
    "--benchmark", "classification", "--set", "benchmark.epochs=2", "--strategy", "random_search",
    "--objective", "accuracy:max", "--executor", "ray", "--workers", "2", "--evaluations", "8",
]  # fmt: skip


DEMO = [
    "search", "--space", "demo_perceptron", "--benchmark", "demo_formula", "--strategy", "random_search",
    "--set", "strategy.duplicates=measure", "--objective", "accuracy:max",
]  # fmt: skip


class Trainings(NamedTuple):
    """What came of trainings on the cluster: where their driver ran, what it said, and the outcomes by trial."""

    folder: Path
    said: dict[str, Any]
    outcomes: list[Outcome]


def overlapping(outcomes: list[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """The pairs of trials that ran at the same time on different workers."""
    return [
        (a, b)
        for a, b in combinations(outcomes, 2)
        if a.spent.worker != b.spent.worker
        and a.spent.started < b.spent.started + b.spent.seconds
        and b.spent.started < a.spent.started + a.spent.seconds
    ]


TRAININGS = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from nasplat.config import Workload
from nasplat.executors.ray import RayExecutor
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.task import Evaluate, encode_outcome

workload = Workload("nasbench201", "classification", {"channels": 4, "cells": 1}, {"epochs": 3})
architecture = workload.make().space.parse("233223")
with RayExecutor(workload, ArtifactStore(Path("artifacts")), workers=2, address=sys.argv[1]) as executor:
    def done(*tasks):
        for task in tasks:
            executor.submit(task)
        outcomes = []
        while len(outcomes) < len(tasks):
            outcomes += executor.wait(1.0)
        return sorted(outcomes, key=lambda outcome: outcome.id)

    while len(executor._pool.idle) < 2:
        executor.wait(0.1)
    part = Evaluate(id=0, seed=5, architecture=architecture, fidelity=1)
    whole = replace(part, id=1, fidelity=3)
    others = [replace(part, id=number, seed=number) for number in (2, 3)]
    outcomes = done(part, whole, *others)
    state = outcomes[0].artifacts["state"]
    outcomes += done(*(replace(whole, id=number, seed=number, continues=state) for number in (4, 5)))
    pids = {outcome.spent.worker.rpartition(":")[2] for outcome in outcomes}
    homes = {pid: os.readlink(f"/proc/{pid}/cwd") for pid in pids}
kept = len(list(Path("artifacts").rglob("*.safetensors")))
said = {"pid": os.getpid(), "homes": homes, "kept": kept, "outcomes": list(map(encode_outcome, outcomes))}
Path("said.json").write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def trainings(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """Trainings on two workers: a part, a whole, two more parts, and two that go on from the first."""
    folder = tmp_path_factory.mktemp("trainings")
    said = _script(cluster, folder, TRAININGS)
    return Trainings(folder, said, [_decoded(body) for body in said["outcomes"]])


def test_workers_run_at_once_in_another_directory_without_the_drivers_objects(
    cluster: Any, trainings: Trainings
) -> None:
    said, outcomes = trainings.said, trainings.outcomes
    assert all(isinstance(outcome, Measurement) for outcome in outcomes)
    assert len(said["homes"]) == 2 and str(said["pid"]) not in said["homes"]
    assert set(said["homes"].values()) == {str(cluster.home)} != {str(trainings.folder)}
    assert overlapping(outcomes), "no two trials ran at the same time on different workers"
    artifacts = {handle for each in outcomes if isinstance(each, Measurement) for handle in each.artifacts.values()}
    assert said["kept"] == len(artifacts) >= 7, "the weights did not come back to the driver"


def test_a_training_goes_on_on_another_worker(trainings: Trainings) -> None:
    part, whole, _, _, *parts = trainings.outcomes
    assert len({outcome.spent.worker for outcome in parts}) == 2, "both went on on one worker"
    for outcome in parts:
        assert isinstance(outcome, Measurement) and isinstance(whole, Measurement)
        assert (outcome.metrics, outcome.artifacts) == (whole.metrics, whole.artifacts)
        assert part.spent.images + outcome.spent.images == whole.spent.images


def test_a_worker_is_told_names_and_options_alone() -> None:
    shipped = pickle.dumps(Workload("nasbench201", "classification", {"channels": 4}, {"epochs": 2}))
    for code in (b"search_spaces", b"benchmarks", b"torch", b"<lambda>"):
        assert code not in shipped


IN_A_TASK = """
import json, sys
from pathlib import Path
import nasplat
import ray

@ray.remote
def search(folder):
    given = {"space": "demo_perceptron", "benchmark": "demo_formula", "objectives": ["accuracy:max"]}
    run = nasplat.search(**given, strategy="random_search", evaluations=2, out=folder, progress=False)
    return run.status, len(run.trials())

ray.init(sys.argv[1])
Path("said.json").write_text(json.dumps(ray.get(search.remote(str(Path("run").absolute())))))
"""


def test_a_task_of_the_users_own_searches(cluster: Any, tmp_path: Path) -> None:
    assert _script(cluster, tmp_path, IN_A_TASK) == ["finished", 2]


def test_a_cluster_is_left_running_and_used_again(cluster: Any, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        done = _demo(cluster, tmp_path / name, "--evaluations", "8")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["outcomes"]["measured"] == 8


def test_what_the_cluster_lacks_is_refused_before_anything_is_created(
    cluster: Any, nasplat: Callable[..., Any], tmp_path: Path
) -> None:
    for flags, said in (
        (["--workers", "64"], "64 CPUs"),
        (["--gpus-per-worker", "0.5"], "1 GPUs"),
    ):
        done = nasplat(*DIGITS, "--ray-address", cluster.address, *flags)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_is_not_there_is_refused(nasplat: Callable[..., Any], tmp_path: Path) -> None:
    done = nasplat(*DIGITS, "--ray-address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_search_that_starts_ray_works_at_once_and_shuts_it_down(installed: dict[str, str], tmp_path: Path) -> None:
    flags = ["--evaluations", "20", "--set", "benchmark.sleep=0.5", "--executor", "ray", "--workers", "2"]
    search = subprocess.Popen(
        [sys.executable, "-m", "nasplat", *DEMO, *flags, "--out", "run"],
        cwd=tmp_path,
        env=installed,
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
    outcomes = RunDirectory(tmp_path / "run").history().outcomes
    assert len(outcomes) == 20
    assert overlapping(outcomes), "no two trials ran at the same time on different workers"
    deadline = time.monotonic() + PATIENCE
    while (left := _of_ray_session(search.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, "a process of the Ray that was started is still there"


def test_never_more_tasks_are_out_than_there_are_workers(cluster: Any, tmp_path: Path) -> None:
    done = _demo(cluster, tmp_path, "--evaluations", "30", "--set", "benchmark.sleep=0.01")
    assert done.returncode == 0, done.stderr
    from nasplat.storage.event_log import EventLog

    out = most = 0
    for event in EventLog.open(tmp_path / "run" / "events.sqlite").events("ask", "outcome"):
        out += len(event.body["tasks"]) if event.kind == "ask" else -1
        most = max(most, out)
    assert (out, most) == (0, 2)


def test_a_worker_that_dies_fails_its_task_alone_and_is_replaced(cluster: Any, tmp_path: Path) -> None:
    done = _demo(cluster, tmp_path, "--evaluations", "12", "--set", "benchmark.exit_every=5")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcomes"] == {"measured": 10, "cached": 0, "trained": 0, "failed": 2}
    show = _run(cluster, tmp_path, "show", "run", "--json")
    failures = json.loads(show.stdout)["failures"]  # in the order in which they came in
    assert sorted((f["trial"], f["kind"]) for f in failures) == [
        (4, "worker died"),
        (9, "worker died"),
    ]


@pytest.mark.sweep(1)
@pytest.mark.parametrize("retries", [[], ["--retries", "0"]], ids=["each three times", "each once"])
def test_workers_that_only_die_end_the_run_with_an_error(cluster: Any, tmp_path: Path, retries: list[str]) -> None:
    flags = ["--workers", "1", "--evaluations", "40", "--set", "benchmark.exit_every=1", *retries]
    done = _demo(cluster, tmp_path, *flags)  # one worker dies half as often as two until the run is given up
    assert done.returncode == 1
    assert "killed every worker they touched" in done.stderr and "Traceback" not in done.stderr


SHARED_WEIGHTS = """
import json, sys
from pathlib import Path
from nasplat.config import Workload
from nasplat.executors.ray import RayExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.storage.artifact_store import ArtifactStore
import ray

workload = Workload("demo_perceptron", "demo_formula")
benchmark = workload.make()
problem = Problem(benchmark.space, Goal((Objective("accuracy", True),)), io=benchmark.io)
store = ArtifactStore(Path("artifacts"))
handle = store.put(b"weights")
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
with RayExecutor(workload, store, workers=1) as executor:
    executor.submit(problem.evaluate(problem.sample(), weights=handle))
    outcomes = executor.wait(300)
    assert store.get(outcomes[0].artifacts["weights"]) == b"weights seen", outcomes
    executor.submit(problem.train_supernet((problem.sample(),), epochs=1))
    outcomes = executor.wait(300)
    assert outcomes[0].kind == "no supernet", outcomes
Path("said.json").write_text(json.dumps(ray.is_initialized()))
"""


def test_artifacts_travel_with_tasks_and_a_ray_in_this_process_is_left_running(cluster: Any, tmp_path: Path) -> None:
    assert _script(cluster, tmp_path, SHARED_WEIGHTS), "a Ray that was there before was shut down"


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


def _demo(cluster: Any, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A search with the demo package on two Ray workers."""
    where = ["--executor", "ray", "--workers", "2", "--ray-address", cluster.address]
    return _run(cluster, folder, *DEMO, *where, "--json", "--out", "run", *flags)


def _run(cluster: Any, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`nasplat ARGUMENTS`, where the demo package is installed."""
    done: subprocess.CompletedProcess[str] = cluster.scripts.run(COMMAND_LINE, *arguments, folder=folder)
    return done


def _script(cluster: Any, folder: Path, script: str) -> Any:
    """What a script says that drives the executor itself, with the cluster's address as its argument."""
    done = cluster.scripts.run(script, cluster.address, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "said.json").read_text())


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


def test_retries_and_the_time_limit_are_the_users_to_set(cluster: Any, tmp_path: Path) -> None:
    done = _demo(cluster, tmp_path, "--evaluations", "6", "--set", "benchmark.exit_at=2", "--retries", "0")
    assert done.returncode == 0, done.stderr
    assert [(i["trial"], i["action"]) for i in json.loads(done.stdout)["incidents"]] == [(2, "failed")]
    resolved = RunDirectory(tmp_path / "run").config.executor
    assert (resolved.retries, resolved.trial_seconds) == (0, None)


IN_PROCESS = """
import json, os, signal, sys, time
from pathlib import Path
import ray
from nasplat.executors import attempt, ray as module, worker_pool
from nasplat.config import Workload
from nasplat.executors.ray import RayExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.task import encode_incident, encode_outcome

def executor(workers, retries=2, trial_seconds=None, **options):
    workload = Workload("demo_perceptron", "demo_formula", {}, options)
    benchmark = workload.make()
    problem = Problem(benchmark.space, Goal((Objective("accuracy", True),)), io=benchmark.io)
    return on_cluster(workload, workers=workers, retries=retries, trial_seconds=trial_seconds), problem

def on_cluster(workload, **how):
    return RayExecutor(workload, ArtifactStore(Path("artifacts")), address=sys.argv[1], **how)

def gather(executor, number):
    outcomes, incidents = [], []
    while len(outcomes) < number:
        outcomes += executor.wait(0.5)
        incidents += executor.incidents()
    return outcomes, incidents

class Clock:
    # The executor's, which a test can put forward.
    ahead = 0.0
    def monotonic(self):
        return time.monotonic() + self.ahead
    def __getattr__(self, name):
        return getattr(time, name)

module.time = attempt.time = worker_pool.time = clock = Clock()
"""


def test_nothing_waits_for_a_straggler(cluster: Any, tmp_path: Path) -> None:
    """One worker hangs from the first trial to its time limit; the other does all the rest meanwhile."""
    said = _script(
        cluster,
        tmp_path,
        IN_PROCESS
        + """
made, problem = executor(2, trial_seconds=500, hang_at=0)
with made:
    waiting = [problem.evaluate(problem.sample()) for _ in range(60)]
    early, flying = [], 0
    while len(early) < 59:
        while waiting and flying < 2:
            made.submit(waiting.pop(0))
            flying += 1
        done = made.wait(0.5)
        flying -= len(done)
        early += done
    incidents = made.incidents()
    clock.ahead = 1000.0
    late, more = gather(made, 1)
Path("said.json").write_text(json.dumps(
    [[o.id for o in early], [[o.id, o.kind] for o in late], list(map(encode_incident, incidents + more))]
))
""",
    )
    early, late, incidents = said
    assert early == list(range(1, 60)), "the straggler held up others"
    assert late == [[0, "time limit"]]
    assert [(i["kind"], i["trial"], i["action"]) for i in incidents] == [("time limit", 0, "failed")]


def test_a_driver_that_looks_late_does_not_end_what_was_done_in_time(cluster: Any, tmp_path: Path) -> None:
    said = _script(
        cluster,
        tmp_path,
        IN_PROCESS
        + """
made, problem = executor(2, trial_seconds=100)
with made:
    while len(made._pool.idle) < 2:
        made.wait(0.1)
    for _ in range(2):
        made.submit(problem.evaluate(problem.sample()))
    ray.wait(list(made._busy), num_returns=2)
    clock.ahead = 1000.0
    outcomes, incidents = gather(made, 2)
Path("said.json").write_text(json.dumps([[encode_outcome(o) for o in outcomes], list(map(encode_incident, incidents))]))
""",
    )
    assert [("metrics" in outcome) for outcome in said[0]] == [True, True] and said[1] == []


def test_a_worker_that_died_while_idle_costs_no_trial_its_tries(cluster: Any, tmp_path: Path) -> None:
    said = _script(
        cluster,
        tmp_path,
        IN_PROCESS
        + """
made, problem = executor(2, retries=0)
with made:
    while len(made._pool.idle) < 2:
        made.wait(0.1)
    for slot in made._pool.idle:
        os.kill(int(slot.worker.rpartition(":")[2]), signal.SIGKILL)
    clock.ahead = 1000.0  # they have been idle for long, so that they are asked whether they live
    for _ in range(3):
        made.submit(problem.evaluate(problem.sample()))
    outcomes, incidents = gather(made, 3)
Path("said.json").write_text(json.dumps([[encode_outcome(o) for o in outcomes], list(map(encode_incident, incidents))]))
""",
    )
    assert [("metrics" in outcome) for outcome in said[0]] == [True] * 3
    assert [(i["kind"], i["action"], i["trial"]) for i in said[1]] == [("worker died", "replaced", None)] * 2


def test_places_are_filled_again_after_a_streak_of_deaths(cluster: Any, tmp_path: Path) -> None:
    said = _script(
        cluster,
        tmp_path,
        IN_PROCESS
        + """
worker_pool.DEATHS_PER_WORKER = 1
made, problem = executor(2, retries=0, exit_every=2)
def filled_slots():
    made.wait(0.1)
    return len(made._pool.idle) + len(made._pool.busy) + len(made._pool.starting)
with made:
    while len(made._pool.idle) < 2:
        made.wait(0.1)
    healthy, poison = (problem.evaluate(problem.sample()) for _ in range(2))
    made._pool._deaths_in_a_row = 2  # as if two trials had just killed their workers
    made.submit(poison)
    outcomes, _ = gather(made, 1)
    before = filled_slots()
    made.submit(healthy)
    outcomes += gather(made, 1)[0]
    after = filled_slots()
Path("said.json").write_text(json.dumps([len(outcomes), before, after]))
""",
    )
    assert said == [2, 1, 2]


def test_a_worker_that_cannot_start_loses_its_place_after_a_few_tries(cluster: Any, tmp_path: Path) -> None:
    """One worker comes up, the other never does: the search goes on with one, and does not try for ever."""
    said = _script(
        cluster,
        tmp_path,
        IN_PROCESS
        + """
worker_pool.FIRST_PAUSE = 0.05
from nasplat.config import Workload
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
made = on_cluster(workload, workers=2)
with made:
    incidents = []
    while made.capacity > 1:
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


def test_a_driver_that_was_away_for_long_does_not_take_its_workers_for_gone(cluster: Any, tmp_path: Path) -> None:
    said = _script(
        cluster,
        tmp_path,
        IN_PROCESS
        + """
made, problem = executor(1)
with made:
    clock.ahead = 1000.0
    os.kill(int(made._pool.idle[0].worker.rpartition(":")[2]), signal.SIGKILL)
    made.submit(problem.evaluate(problem.sample()))
    outcomes, incidents = gather(made, 1)
Path("said.json").write_text(json.dumps([encode_outcome(o) for o in outcomes]))
""",
    )
    assert len(said) == 1 and "metrics" in said[0]


def test_preparing_may_take_longer_than_starting(cluster: Any, tmp_path: Path) -> None:
    said = _script(
        cluster,
        tmp_path,
        IN_PROCESS
        + """
class Slow(Workload):
    # Prepares until the driver has looked several times, at a clock that runs ahead.
    def make(self):
        begun, looked = (Path(self.benchmark_options[name]) for name in ("begun", "looked"))
        begun.touch()
        while not looked.exists():
            time.sleep(0.05)
        return Workload("demo_perceptron", "demo_formula").make()
_, problem = executor(1)
_.close()
begun, looked = Path("begun").absolute(), Path("looked").absolute()
looks, wait = 0, RayExecutor.wait
def looking(self, timeout):
    global looks
    if begun.exists():
        clock.ahead += 1000.0
        looks += 1
        if looks == 3:
            looked.touch()
    return wait(self, min(timeout, 0.1))
RayExecutor.wait = looking
made = on_cluster(Slow("demo_perceptron", "demo_formula", {}, {"begun": str(begun), "looked": str(looked)}), workers=1)
with made:
    made.submit(problem.evaluate(problem.sample()))
    outcomes, incidents = gather(made, 1)
Path("said.json").write_text(json.dumps([encode_outcome(o) for o in outcomes]))
""",
    )
    assert len(said) == 1 and "metrics" in said[0]
