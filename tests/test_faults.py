"""One search struck by everything at once: each incident is told with its cause, and every other trial completes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray]

HANG, POISON, GLUTTON, TRIALS = 9, 6, 150, 160

SEARCH = f"""
import json, logging, os, signal, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.executors.ray import RayExecutor
from nasplat.run.directory import RunDirectory
from nasplat.driver.loop import Search

memory = dict(line.split(":") for line in open("/proc/meminfo"))
total, available = (int(memory[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
# Some gigabytes more than now: what runs beside this does not take as much, and the glutton does in two seconds. By its
# turn the trial that hangs has come to its limit: who hangs while memory runs out is killed for that.
limits = {{"memory_usage_threshold": (total - available + 4_500_000) / total, "memory_monitor_refresh_ms": 100}}
head = {{"num_cpus": 1, "include_dashboard": False, "_system_config": limits}}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)


class Chaos:
    # Kills a worker when six trials are done, takes a node away after twelve, brings one back at twenty-four.
    done, victim, killed, seen, nodes_taken = 0, None, [], [], 0

    def watch(self, search, outcome):
        if outcome is None or not outcome.spent.worker:
            return
        self.done += 1
        if outcome.id == {HANG}:  # its limit has served; how long the glutton needs is the machine's affair
            executor._trial_seconds = 300.0
        pid = int(outcome.spent.worker.rpartition(":")[2])
        if self.done == 6:
            self.victim = pid
        elif self.victim not in (None, pid):  # by now the victim works on its next trial
            if Path(f"/proc/{{self.victim}}").exists():
                os.kill(self.victim, signal.SIGKILL)
                self.killed.append(self.victim)
                self.victim = None
            else:  # on a busy machine something else ended it
                self.victim = pid
        if self.done >= 12 and not self.nodes_taken:
            self.take_a_node_with_a_worker_at_work(pid)
        if self.done == 24:
            nodes.append(cluster.add_node(num_cpus=1))
        self.seen = [*self.seen[-3:], pid]

    def take_a_node_with_a_worker_at_work(self, idle):
        for pid in self.seen:
            for node in nodes:
                raylet = node.all_processes["raylet"][0].process.pid
                if pid != idle and Path(f"/proc/{{pid}}").exists() and parent(pid) == raylet:
                    self.nodes_taken += 1
                    cluster.remove_node(node)
                    nodes.remove(node)
                    return


def parent(pid):
    return int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])


options = {{"sleep": 0.2, "exit_at": {POISON}, "hang_at": {HANG}, "eat_at": {GLUTTON}}}
assembly = Assembly.of(SearchConfig.read({{
    "space": "demo_perceptron", "benchmark": {{"name": "demo_formula", **options}},
    "strategy": {{"name": "regularized_evolution", "population": 10, "duplicates": "measure"}},
    "objectives": ["accuracy:max"], "budget": {{"evaluations": {TRIALS}}},
    "executor": {{"name": "ray", "workers": 3, "trial_seconds": 10.0}},
}}))
run, chaos = RunDirectory.create(Path("run"), assembly.config), Chaos()
executor = RayExecutor(assembly.workload, run.artifacts, workers=3, trial_seconds=10.0)
with executor, run.writing() as log:
    Search(assembly.problem, assembly.strategy, executor, log, assembly.budget, [chaos]).run()
    pids = {{outcome.spent.worker for outcome in run.history().outcomes}}
# What Ray kills hard may take it a few seconds.
deadline = time.monotonic() + 300
hung = [i for i in run.history().incidents if i.kind == "time limit"]
processes = [Path("/proc", i.worker.rpartition(":")[2]) for i in hung]
while any(map(Path.exists, processes)) and time.monotonic() < deadline:
    time.sleep(0.1)
gone = [not process.exists() for process in processes]
Path("said.json").write_text(json.dumps({{"killed": chaos.killed, "gone": gone}}))
ray.shutdown()
cluster.shutdown()
"""


def test_a_search_outlives_hangs_deaths_hunger_poison_and_the_loss_of_a_node(
    installed: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEARCH],
        cwd=tmp_path,
        env={**installed, "RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((tmp_path / "said.json").read_text())
    show = json.loads(_nasplat(installed, tmp_path, "show", "run", "--json"))
    failures = {failure["trial"]: failure for failure in show["failures"]}
    assert {trial: failure["kind"] for trial, failure in failures.items()} == {
        HANG: "time limit",
        POISON: "worker died",
        GLUTTON: "out of memory",
    }
    assert show["outcomes"] == TRIALS, "a trial was lost"
    assert said["gone"] == [True], "the process that hung is still there"

    def told(kind: str, **wanted: Any) -> list[dict[str, Any]]:
        return [i for i in show["incidents"] if i["kind"] == kind and all(i[k] == v for k, v in wanted.items())]

    assert [i["action"] for i in told("worker died", trial=POISON)] == ["tried again", "tried again", "failed"]
    assert len({i["worker"] for i in told("worker died", trial=POISON)}) == 3, "poison was given to a dead worker"
    assert "low on memory" in told("out of memory", trial=GLUTTON, action="failed")[0]["message"]
    assert told("time limit", trial=HANG)[0]["message"].startswith("it took longer than trial_seconds=10")
    assert any(i["worker"].endswith(f":{pid}") for pid in said["killed"] for i in told("worker died"))
    lost = told("node lost")
    assert lost and "node" in lost[0]["message"], show["incidents"]
    # The node may go under any trial, the one that hangs among them; whichever it was, it was tried again.
    assert {i["action"] for i in lost} <= {"tried again", "replaced"}
    text = _nasplat(installed, tmp_path, "show", "run")
    for kind in ("time limit", "worker died", "out of memory", "node lost"):
        assert kind in text
    _nasplat(installed, tmp_path, "report", "run")
    assert "node lost" in (tmp_path / "run" / "report.html").read_text()


def _nasplat(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nasplat", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
