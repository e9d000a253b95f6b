"""What a search by CARS costs: its parts summed up beside the whole, and a population measured by two workers.

    python performance/cars_time.py [--rounds 3] [--json]

Nothing else should run on the machine. About three minutes on two cores.
"""

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nasplat.artifact import Handle
from nasplat.config import SearchConfig, Workload
from nasplat.errors import InputError
from nasplat.executors.executor import Executor
from nasplat.executors.inline import InlineExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.run.directory import RunDirectory
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.task import Measurement, Outcome, Task, Trained
from nasplat.testing.runs import searched

POPULATION, WARMUP, GENERATIONS, INTERVAL = 16, 5, 20, 1
SEARCH_PATHS = (1, 2)
CANDIDATES, WORKERS = 64, 2
WITHIN, SHARE = 0.2, 0.65
SPACE: dict[str, Any] = {"channels": 4, "cells": 1}
GOAL = Goal((Objective("accuracy", maximize=True), Objective("params", maximize=False)))
DEFINITIONS = f"""\
NAS-Bench-201's cells ({SPACE["channels"]} channels, {SPACE["cells"]} cell in each stage), scikit-learn's digits, one
thread for each process. Accounting: a search inline with N = {POPULATION}, a warm-up of {WARMUP} epochs and
{GENERATIONS} generations of I = {INTERVAL}, beside E_warm T_train + T_val' + E_evo (T_val + I T_train N_b). T_train is
the time of an epoch with one path for each batch; T_val that of measuring 2 N architectures, T_val' that of the N
founders. They are measured beforehand, on architectures drawn uniformly. Workers: {CANDIDATES} candidates measured
with the same shared weights by one Ray worker and by {WORKERS}, medians of rounds in turn."""


def workload(epochs: int, **options: Any) -> Workload:
    """The benchmark on its space."""
    return Workload("nasbench201", "classification", SPACE, {"epochs": epochs, **options})


def timed(executor: Executor, tasks: list[Task]) -> tuple[float, list[Outcome]]:
    """Seconds until all are done, and what came of them."""
    begun = time.perf_counter()
    for task in tasks:
        executor.submit(task)
    outcomes: list[Outcome] = []
    while len(outcomes) < len(tasks):
        outcomes += executor.wait(1.0)
    seconds = time.perf_counter() - begun
    assert all(isinstance(outcome, Measurement | Trained) for outcome in outcomes), outcomes
    return seconds, outcomes


def trained(executor: Executor, problem: Problem) -> Handle:
    """The weights of a warm-up of one epoch."""
    _, (outcome,) = timed(executor, [problem.train_supernet((), epochs=1)])
    assert isinstance(outcome, Trained)
    return outcome.weights


def parts(rounds: int) -> dict[str, float]:
    """The seconds of an epoch and of the measurements of a generation, on uniform architectures."""
    epochs = WARMUP + GENERATIONS * INTERVAL
    work = workload(epochs)
    benchmark = work.make()
    problem = Problem(benchmark.space, GOAL, io=benchmark.io, fidelity=epochs, seed=1)
    with tempfile.TemporaryDirectory() as folder, InlineExecutor(benchmark, ArtifactStore(Path(folder))) as executor:
        weights = trained(executor, problem)
        train, validate = [], []
        for _ in range(rounds):
            paths = tuple(problem.sample() for _ in range(POPULATION))
            train.append(timed(executor, [problem.train_supernet(paths, epochs=2, weights=weights)])[0] / 2)
            validate.append(timed(executor, [problem.evaluate(path, fidelity=1, weights=weights) for path in paths])[0])
    return {"epoch": median(train), "population": median(validate)}


def search(paths: int) -> float:
    """The seconds of a whole search, preparing excepted."""
    config = SearchConfig.read(
        {
            "space": {"name": "nasbench201", **SPACE},
            "benchmark": {"name": "classification", "epochs": WARMUP + GENERATIONS * INTERVAL, "paths": paths},
            "strategy": {"name": "cars", "population": POPULATION, "warmup": WARMUP, "interval": INTERVAL},
            "objectives": [str(objective) for objective in GOAL.objectives],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        searched(Path(folder) / "run", config)
        return RunDirectory(Path(folder) / "run").history().elapsed[-1]


def accounting(rounds: int) -> dict[str, Any]:
    """Formula and measurement."""
    found = parts(rounds)
    rows = []
    for paths in SEARCH_PATHS:
        epoch, population = found["epoch"], found["population"]
        formula = WARMUP * epoch + population + GENERATIONS * (2 * population + INTERVAL * epoch * paths)
        seconds = search(paths)
        rows.append({"paths": paths, "formula": formula, "measured": seconds, "ratio": seconds / formula})
    return {**found, "searches": rows}


def workers(rounds: int) -> dict[str, Any]:
    """A population measured by one worker and by several."""
    from nasplat.executors.ray import RayExecutor

    logging.disable(logging.CRITICAL)
    seconds: dict[int, list[float]] = {1: [], WORKERS: []}
    for _ in range(rounds):
        for number, times in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                work = workload(2)
                benchmark = work.make()
                problem = Problem(benchmark.space, GOAL, io=benchmark.io, fidelity=2, seed=1)
                with RayExecutor(work, ArtifactStore(Path(folder)), workers=number) as executor:
                    weights = trained(executor, problem)
                    candidates = [problem.sample() for _ in range(CANDIDATES)]
                    for warm in (True, False):  # the first time each worker puts the supernet together
                        tasks: list[Task] = [
                            problem.evaluate(candidate, fidelity=1, weights=weights) for candidate in candidates
                        ]
                        took, _ = timed(executor, tasks)
                        if not warm:
                            times.append(took)
    alone, together = (median(times) for times in seconds.values())
    return {"one": alone, "several": together, "ratio": together / alone, "rounds": list(seconds.values())}


def main() -> None:
    """Time parts and wholes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {"accounting": accounting(arguments.rounds), "workers": workers(arguments.rounds)}
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(DEFINITIONS)
    costs, both = found["accounting"], found["workers"]
    print(f"\nan epoch with one path {costs['epoch']:.3f} s, a population measured {costs['population']:.3f} s")
    for row in costs["searches"]:
        print(
            f"N_b = {row['paths']}: by the formula {row['formula']:.1f} s, measured {row['measured']:.1f} s, "
            f"ratio {row['ratio']:.3f}"
        )
    print(
        f"{CANDIDATES} candidates: one worker {both['one']:.2f} s, {WORKERS} workers {both['several']:.2f} s, "
        f"ratio {both['ratio']:.3f}"
    )
    kept = all(abs(row["ratio"] - 1) <= WITHIN for row in costs["searches"]) and both["ratio"] <= SHARE
    print(f"wanted: within {WITHIN:.0%} of the formula, and at most {SHARE}: {'so it is' if kept else 'NOT so'}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores")
    sys.exit(not kept)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
