"""Searches killed at random moments and resumed: do they end as if nothing had happened?

    python performance/kill_campaign.py [--kills 100] [--first-seed 0] [--json]

Every search is ended with SIGKILL once, at a random moment, and then resumed. Strategies (evolution, NSGA-II, ASHA)
and executors (inline; every fourth on Ray) take turns. A resumed search must have every trial once, must not have
measured a trial whose outcome was logged before, and must have gone on from exactly the history that it had. Inline,
and on Ray with the generational NSGA-II, its trials must equal those of a search that was left alone, which is run
inline beside it. About ten minutes for 100 kills on two cores.
"""

import argparse
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nasplat.driver.collection
import nasplat.driver.loop
from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig, Workload
from nasplat.driver.budget import Budget
from nasplat.driver.loop import Search
from nasplat.executors.executor import Executor
from nasplat.executors.inline import InlineExecutor
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import LOG
from nasplat.storage.event_log import EventLog
from nasplat.task import Evaluate, Measurement, Outcome
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.runs import event_trace
from nasplat.testing.toy import toy_accuracy

TRIALS, WORKERS = 250, 2
SECONDS = 0.004
SNAPSHOT_EVENTS = 60
PATIENCE = 120.0
STRATEGY_OPTIONS: dict[str, dict[str, Any]] = {
    "regularized_evolution": {"population": 20, "sample": 5, "duplicates": "cache"},
    "nsga2": {"duplicates": "measure"},
    "asha": {"options": {"duplicates": "measure"}},
}
NOTES = "measured.txt"


class Noting(ToyBenchmark):
    """Takes its time, leaves states to continue from, and notes in a file which trial it measures when."""

    def __init__(self, space: ToySpace, notes: Path) -> None:
        super().__init__(space)
        self.notes = notes

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        """An accuracy that grows with the fidelity; a state that was left must be there."""
        file = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{task.id}\n".encode())
        os.close(file)
        time.sleep(SECONDS)
        before = artifacts.get(task.continues) if task.continues is not None else b""
        left = {}
        if task.fidelity < self.fidelity:
            left = {"state": artifacts.put(before + f"{task.architecture} {task.fidelity} {task.seed};".encode())}
        accuracy = toy_accuracy(task.architecture) * (1 - 0.5 / task.fidelity)
        return Measurement(task=task, metrics={"accuracy": accuracy}, artifacts=left)


class NotingWorkload(Workload):
    """The benchmark, as workers make it."""

    def make(self) -> Benchmark:
        return Noting(ToySpace(), Path(self.benchmark_options["notes"]))


def child(folder: Path, strategy: str, seed: int, executor: str) -> None:
    """Search in a run directory, or go on; in a process of its own, to be killed."""
    nasplat.driver.loop.SNAPSHOT_EVENTS = SNAPSHOT_EVENTS
    nasplat.driver.collection.COLLECT_BYTES = 2_000
    options = STRATEGY_OPTIONS[strategy]
    config = SearchConfig.read(
        {
            "space": "toy",
            "benchmark": "toy",
            "strategy": {"name": strategy, **options},
            "objectives": ["accuracy:max", "params:min"],
            "budget": {"evaluations": TRIALS},
            "seed": seed,
        }
    )
    run = RunDirectory(folder) if folder.exists() else RunDirectory.create(folder, config)
    workload = NotingWorkload("toy", "toy", {}, {"notes": str(folder.absolute() / NOTES)})
    benchmark, artifacts = workload.make(), run.artifacts
    problem = Problem(benchmark.space, config.goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=seed)
    make: Any = STRATEGIES.get(strategy)
    with _executor(executor, workload, benchmark, artifacts) as running, run.writing() as log:
        Search(problem, make(problem, **options), running, log, Budget(evaluations=TRIALS), artifacts=artifacts).run()


def _executor(name: str, workload: Workload, benchmark: Benchmark, artifacts: Artifacts) -> Executor:
    if name == "inline":
        return InlineExecutor(benchmark, artifacts)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.disable(logging.CRITICAL)
    from nasplat.executors.ray import RayExecutor

    return RayExecutor(workload, artifacts, workers=WORKERS)


def kill_and_resume(place: Path, strategy: str, seed: int, executor: str) -> dict[str, Any]:
    """One search, killed once and resumed; what is wrong with it, in words."""
    moment = random.Random(f"{seed} {strategy} {executor}")
    folder = place / "killed"
    # Two events are written for each trial inline; on Ray an ask may be for two trials.
    wanted, delay = moment.randrange(1, 2 * TRIALS - 50), moment.uniform(0, 3 * SECONDS)
    process = _start(folder, strategy, seed, executor)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and _events(folder) < wanted and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = process.returncode == -signal.SIGKILL
    before = event_trace(folder) if folder.exists() else []
    measured_before = _measured(folder)
    resumed = _start(folder, strategy, seed, executor)
    _, errors = resumed.communicate(timeout=PATIENCE)
    result = {"strategy": strategy, "executor": executor, "seed": seed, "killed": killed, "events_at_kill": len(before)}
    if resumed.returncode:
        return result | {"faults": [f"the resumed search ended with {resumed.returncode}: {errors[-2000:]}"]}
    faults = _faults(folder, before, measured_before)
    if executor == "inline" or STRATEGIES.get(strategy).generational:
        alone = _start(place / "alone", strategy, seed, "inline")
        _, errors = alone.communicate(timeout=PATIENCE)
        if alone.returncode:
            return result | {"faults": [f"the search left alone ended with {alone.returncode}: {errors[-2000:]}"]}
        same = outcomes(folder) == outcomes(place / "alone")
        same = same and (executor != "inline" or event_trace(folder) == event_trace(place / "alone"))
        faults += [] if same else ["its trials differ from those of a search left alone"]
        result["compared"] = True
    return result | {"faults": faults}


def _faults(folder: Path, before: list[Any], measured_before: list[int]) -> list[str]:
    after = event_trace(folder)
    faults = []
    if after[: len(before)] != before:
        faults.append("the history before the kill has changed")
    told = Counter(item.id for item in after if not isinstance(item, tuple))
    if sorted(told) != list(range(TRIALS)):
        faults.append(f"of {TRIALS} trials {len(told)} have an outcome")
    if max(told.values()) > 1:
        faults.append("a trial was told twice")
    logged = {item.id for item in before if not isinstance(item, tuple)}
    again = logged & set(_measured(folder)[len(measured_before) :])
    if again:
        faults.append(f"trials {sorted(again)} were measured again though their outcome was logged")
    return faults


def outcomes(folder: Path) -> dict[int, Outcome]:
    """Every outcome by its trial."""
    return {item.id: item for item in event_trace(folder) if not isinstance(item, tuple)}


def _start(folder: Path, strategy: str, seed: int, executor: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, __file__, "--child", str(folder), strategy, str(seed), executor],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _events(folder: Path) -> int:
    """How many events the log has by now."""
    if not (folder / LOG).exists():
        return 0
    log = EventLog.open(folder / LOG)
    last = log.last
    log.close()
    return last


def _measured(folder: Path) -> list[int]:
    notes = folder / NOTES
    return [int(line) for line in notes.read_text().split()] if notes.exists() else []


def campaign(kills: int, first_seed: int) -> list[dict[str, Any]]:
    """So many searches, killed and resumed."""
    results = []
    names = list(STRATEGY_OPTIONS)
    for number in range(kills):
        strategy, executor = names[number // 4 % len(names)], "ray" if number % 4 == 3 else "inline"
        strategy = strategy if executor == "ray" else names[number % len(names)]
        with tempfile.TemporaryDirectory() as place:
            result = kill_and_resume(Path(place), strategy, first_seed + number, executor)
        results.append(result)
        said = "; ".join(result["faults"]) or "as if nothing had happened"
        how = f"killed after {result['events_at_kill']} events" if result["killed"] else "ended before it was killed"
        print(f"{number + 1:4} of {kills}: {strategy} {executor}, {how}: {said}", file=sys.stderr)
    return results


def main() -> None:
    """Run the campaign; the exit code is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, strategy, seed, executor = arguments.child
        child(Path(folder), strategy, int(seed), executor)
        return
    results = campaign(arguments.kills, arguments.first_seed)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        groups = Counter((result["strategy"], result["executor"]) for result in results)
        print(f"{'strategy':22} {'executor':9} {'searches':>9} {'killed':>7} {'compared':>9} {'faulty':>7}")
        for (strategy, executor), number in sorted(groups.items()):
            these = [r for r in results if (r["strategy"], r["executor"]) == (strategy, executor)]
            killed, compared = sum(r["killed"] for r in these), sum("compared" in r for r in these)
            faulty = sum(bool(r["faults"]) for r in these)
            print(f"{strategy:22} {executor:9} {number:9} {killed:7} {compared:9} {faulty:7}")
    sys.exit(any(result["faults"] for result in results))


if __name__ == "__main__":
    main()
