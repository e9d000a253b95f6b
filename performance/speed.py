"""What the platform itself costs: table searches, ask and tell, Ray beside bare actors and Ray Tune, large runs.

    python performance/speed.py [--json] [--trials 100000] [--only table ask-tell ray]

All in one process and one run, so that figures can be compared with each other; ratios are what counts. The
table part needs the table of NAS-Bench-201 (see the README), Ray Tune needs `pip install nasplat[performance]`.
About three minutes on two cores.
"""

import argparse
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig, Workload
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.errors import InputError
from nasplat.executors.inline import InlineExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.run.directory import RunDirectory
from nasplat.task import Json, Measurement, Outcome, encode_outcome, encode_task
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.strategies import answer

WORKERS = 2
RAY_TRIALS = 2_000
TUNE_SETTINGS = (
    (RAY_TRIALS, True, 1.0),
    (RAY_TRIALS // 20, True, 1.0),
    (RAY_TRIALS // 10, True, 0.5),
    (RAY_TRIALS // 100, False, 1.0),
)
"""Trials, whether actors are used again, CPUs for each; the first is the best, and gets as many trials as ours."""
ROUNDS = 3
STRATEGY_TRIALS = 2_000


class NoOp(Workload):
    """The cheapest benchmark there is: an accuracy by formula."""

    def make(self) -> Benchmark:
        return ToyBenchmark(ToySpace())


class Clock:
    """Notes the time after every outcome."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def watch(self, search: Search, outcome: Outcome | None) -> None:
        """Called by the loop."""
        if outcome is not None:
            self.seconds.append(time.perf_counter())

    def microseconds(self, first: int, last: int) -> float:
        """The mean time from one outcome to the next, from the first to the last of those numbers."""
        return 1e6 * (self.seconds[last - 1] - self.seconds[first - 1]) / (last - first)


def table_search(folder: Path, trials: int) -> dict[str, Any]:
    """Regularized evolution on the table with the event log on: seconds, and time per trial early and late."""
    config = {
        "space": "nasbench201",
        "benchmark": "nasbench201",
        "strategy": {"name": "regularized_evolution", "duplicates": "measure"},
        "objectives": ["accuracy:max"],
        "budget": {"evaluations": trials},
    }
    assembly = Assembly.of(SearchConfig.read(config))
    run, clock = RunDirectory.create(folder, assembly.config), Clock()
    began = time.perf_counter()
    with InlineExecutor(assembly.benchmark, run.artifacts) as executor, run.writing() as log:
        Search(assembly.problem, assembly.strategy, executor, log, assembly.budget, [clock], run.artifacts).run()
    seconds = time.perf_counter() - began
    result: dict[str, Any] = {"trials": trials, "seconds": seconds, "peak_memory_mb": _peak_memory()}
    if trials >= 20_000:
        # Snapshots come ever more rarely and take ever longer; both windows have theirs.
        early, late = clock.microseconds(500, 1_500), clock.microseconds(trials // 2, trials)
        result |= {"us_per_trial_at_1000": early, f"us_per_trial_at_{trials}": late, "ratio": late / early}
    return result


def looking(folder: Path) -> dict[str, float]:
    """Seconds that `show` and `report` of a run take, as commands."""
    times = {}
    for command in ("show", "report"):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "nasplat", command, str(folder)], check=True, capture_output=True)
        times[f"{command}_seconds"] = time.perf_counter() - began
    return times


def ask_and_tell() -> dict[str, dict[str, float]]:
    """Microseconds of `ask(1)` and `tell` for each strategy, on NAS-Bench-201's space with two objectives."""
    from nasplat.registry import SEARCH_SPACES

    space = SEARCH_SPACES.get("nasbench201")()
    goal = Goal((Objective("accuracy", True), Objective("params", False)))
    results = {}
    for name in STRATEGIES.names():
        problem = Problem(space, goal, io=ToyBenchmark(ToySpace()).io, fidelity=9)
        strategy = STRATEGIES.get(name)(problem)
        asking = telling = 0.0
        trials = 0
        while trials < STRATEGY_TRIALS:
            trials += 1
            clock = time.perf_counter()
            tasks = strategy.ask(1)
            asking += time.perf_counter() - clock
            if not tasks:
                break
            outcome = answer(problem, tasks[0])
            clock = time.perf_counter()
            strategy.tell(outcome)
            telling += time.perf_counter() - clock
        results[name] = {"ask_us": 1e6 * asking / trials, "tell_us": 1e6 * telling / trials}
    return results


def ray_throughput(folder: Path) -> dict[str, float]:
    """No-op trials per second: bare actors in a closed loop, the `ray` executor, Ray Tune; interleaved rounds."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, **quiet)
    try:
        bare, ours = [], []
        for number in range(ROUNDS):
            bare.append(_bare_actors())
            ours.append(_ours(folder / f"ray-{number}"))
        tune = [_tune(trials, reuse=reuse, cpus=cpus) for trials, reuse, cpus in TUNE_SETTINGS]
    finally:
        ray.shutdown()
    return {
        "bare_per_second": median(bare),
        "ours_per_second": median(ours),
        "tune_per_second": tune[0],
        "tune_few_trials_per_second": tune[1],
        "tune_half_cpus_per_second": tune[2],
        "tune_new_actors_per_second": tune[3],
        "ours_to_bare": median(b / a for a, b in zip(bare, ours, strict=True)),
        "ours_to_tune": median(ours) / tune[0],
    }


class Bare:
    """An actor that gives a ready answer."""

    def __init__(self, answer: Json) -> None:
        self.answer = answer

    def perform(self, task: Json, artifacts: dict[str, bytes]) -> tuple[Json, dict[str, bytes]]:
        """What a worker would give, without any work."""
        return self.answer, {}


def _bare_actors() -> float:
    """Closed loop: as many in flight as there are actors, the same payload as a search's."""
    import ray

    space = ToySpace()
    problem = Problem(space, Goal((Objective("accuracy", True),)), io=ToyBenchmark(space).io)
    task = problem.evaluate(problem.sample())
    answer = encode_outcome(Measurement(task=task, metrics={"accuracy": 0.5}), with_task=False)
    actors: list[Any] = [ray.remote(Bare).options(num_cpus=1).remote(answer) for _ in range(WORKERS)]
    ray.get([actor.perform.remote(encode_task(task), {}) for actor in actors])
    done = 0
    began = time.perf_counter()
    busy = {actor.perform.remote(encode_task(task), {}): actor for actor in actors}
    while done < RAY_TRIALS:
        ready, _ = ray.wait(list(busy), num_returns=1)
        for reference in ready:
            actor = busy.pop(reference)
            ray.get(reference)
            done += 1
            busy[actor.perform.remote(encode_task(task), {})] = actor
    seconds = time.perf_counter() - began
    for actor in actors:
        ray.kill(actor)
    return RAY_TRIALS / seconds


def _ours(folder: Path) -> float:
    """A whole search through the `ray` executor, event log and all, once its workers are up."""
    from nasplat.driver.budget import Budget
    from nasplat.executors.ray import RayExecutor

    config = {
        "space": "nasbench201",
        "benchmark": "classification",
        "strategy": "random_search",
        "objectives": ["accuracy:max"],
        "budget": {"evaluations": RAY_TRIALS},
    }
    run = RunDirectory.create(folder, SearchConfig.read(config))  # what is searched comes from the workload below
    space = ToySpace()
    problem = Problem(space, Goal((Objective("accuracy", True),)), io=ToyBenchmark(space).io, fidelity=9)
    strategy: Any = STRATEGIES.get("random_search")
    with RayExecutor(NoOp("toy", "toy"), run.artifacts, workers=WORKERS) as executor, run.writing() as log:
        time.sleep(2)  # the second worker comes up meanwhile
        clock = Clock()
        budget = Budget(evaluations=RAY_TRIALS)
        Search(problem, strategy(problem, duplicates="measure"), executor, log, budget, [clock]).run()
    late = clock.seconds[RAY_TRIALS // 10 :]
    return (len(late) - 1) / (late[-1] - late[0])


def _tune(trials: int, *, reuse: bool, cpus: float) -> float:
    """Ray Tune on a trainable that does nothing, with its loggers off, once its first tenth is done, as for ours."""
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "600",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    from ray import tune

    ends: list[float] = []

    class Ends(tune.Callback):
        """Notes when trials end."""

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """Called by Tune."""
            ends.append(time.perf_counter())

    class Nothing(tune.Trainable):
        """Reports once and is done."""

        def setup(self, config: dict[str, Any]) -> None:
            """Nothing to set up."""

        def step(self) -> dict[str, Any]:
            return {"accuracy": 0.5, "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    with tempfile.TemporaryDirectory() as place:
        tuner = tune.Tuner(
            tune.with_resources(Nothing, {"cpu": cpus}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                num_samples=trials,
                reuse_actors=reuse,
                metric="accuracy",
                mode="max",
            ),
            run_config=tune.RunConfig(
                storage_path=place,
                verbose=0,
                callbacks=[Ends()],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        results = tuner.fit()
    assert len(results) == len(ends) == trials and not results.errors
    late = ends[trials // 10 :]
    return (len(late) - 1) / (late[-1] - late[0])


def _peak_memory() -> float:
    """The most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(parts: list[str], trials: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that was asked for, by part."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "table" in parts:
            say("10,000 evaluations from the table")
            results["table_10000"] = table_search(folder / "small", 10_000)
            say(f"{trials:,} evaluations from the table")
            results[f"table_{trials}"] = table_search(folder / "large", trials)
            say("show and report")
            results["looking"] = looking(folder / "large")
        if "ask-tell" in parts:
            say("ask and tell")
            results["ask_tell"] = ask_and_tell()
        if "ray" in parts:
            say("Ray")
            results["ray"] = ray_throughput(folder)
    return results


def main() -> None:
    """Measure, and print one line for each figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100_000, help="how many past trials the large run has")
    parser.add_argument("--only", nargs="+", choices=("table", "ask-tell", "ray"), default=["table", "ask-tell", "ray"])
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    arguments = parser.parse_args()
    results = measure(arguments.only, arguments.trials, lambda text: print(f"{text} …", file=sys.stderr))
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for part, figures in results.items():
        for name, value in figures.items():
            if isinstance(value, dict):
                value = "  ".join(f"{key} {number:.1f}" for key, number in value.items())
            print(f"{part:14} {name:24} {value if isinstance(value, str | int) else f'{value:.3g}'}")
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
