"""Whether one supernet for all finds better networks than training candidates by themselves, for the same pictures.

    python performance/cars_pays.py [--spaces nasbench201 ghost/small] [--seeds 1000 …] [--json]

About ten minutes for each space and seed on one core. Every search and every training is a line of the file as soon as
it has ended, and a second call goes on where the first was interrupted.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import ALLOWED, Gain, hypervolumes, spread
from numpy.random import default_rng
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig, Workload
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.problem import Problem
from nasplat.run.directory import RunDirectory
from nasplat.strategies.cars import CARS
from nasplat.task import Measurement
from nasplat.testing.runs import searched
from searching import Row, kept

PICKS = 5
OBJECTIVES = ["loss:min", "params:min"]
WANTED = ("loss", "params")
ARMS = ("cars", "random_search", "nsga2", "chance")


@dataclass(frozen=True)
class Comparison:
    """What is compared on one search space.

    Args:
        options: Of the space.
        data: Options of the benchmark for all that is trained.
        quick: Options of the benchmark while anything is searched, CARS or not.
        pictures: Training pictures in an epoch.
        supernet: Options of the benchmark while CARS searches.
        cars: Options of CARS.
        candidate: Epochs of each candidate that is trained by itself.
        nsga2: Options of NSGA-II.
        epochs: Of retraining what was found, by the same recipe.
    """

    options: dict[str, Any]
    data: dict[str, Any]
    quick: dict[str, Any]
    pictures: int
    supernet: dict[str, Any]
    cars: dict[str, Any]
    candidate: int
    nsga2: dict[str, Any]
    epochs: int

    @property
    def images(self) -> int:
        """What each search may process."""
        return int(self.pictures * self.supernet["epochs"])


SPACES = {
    "nasbench201": Comparison(
        options={"channels": 4, "cells": 1},
        data={"dataset": "fashion_mnist", "subset": 6000, "gradient_norm": 5.0},
        quick={},
        pictures=5000,
        supernet={"epochs": 20, "statistics": "batch"},
        cars={"population": 16, "warmup": 6, "interval": 2},
        candidate=2,
        nsga2={"population": 4},
        epochs=5,
    ),
    "ghost/small": Comparison(
        options={},
        data={"dataset": "fashion_mnist", "subset": 2400, "gradient_norm": 5.0},
        quick={"batch_size": 16, "learning_rate": 0.05},
        pictures=2000,
        supernet={"epochs": 32, "statistics": "batch"},
        cars={"population": 12, "warmup": 8, "interval": 4},
        candidate=2,
        nsga2={"population": 4},
        epochs=4,
    ),
}


def searching(space: str, arm: str) -> Row:
    """The settings of a search, which say all about it."""
    compared = SPACES[space]
    data: Row = {"name": "classification", **compared.data, **compared.quick}
    if arm == "cars":
        benchmark, budget = {**data, **compared.supernet}, {}
        strategy: Row = {"name": arm, **compared.cars}
    else:
        benchmark = {**data, "epochs": compared.candidate}
        budget = {"evaluations": compared.images // (compared.candidate * compared.pictures)}
        strategy = {"name": arm, **(compared.nsga2 if arm == "nsga2" else {})}
    config = {
        "space": {"name": space, **compared.options},
        "benchmark": benchmark,
        "strategy": strategy,
        "objectives": OBJECTIVES,
        "budget": budget,
    }
    return {"search": config}


def training(space: str, code: str) -> Row:
    """The settings of training a network that was found."""
    compared = SPACES[space]
    return {"space": space, "options": compared.options, "code": code, **compared.data, "epochs": compared.epochs}


def work(settings: Row, seed: int) -> Row:
    """Carry out a search or a training, for `kept`."""
    torch.set_num_threads(1)
    clock = time.perf_counter()
    row = search(settings, seed) if "search" in settings else train(settings, seed)
    print(f"seed {seed}: {json.dumps(row)}", file=sys.stderr)
    return {**row, "seconds": time.perf_counter() - clock}


def search(settings: Row, seed: int) -> Row:
    """What a search measured, CARS at its end, and what it took."""
    config = SearchConfig.read({**settings["search"], "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        assembly = searched(Path(folder) / "run", config)
        history = RunDirectory(Path(folder) / "run").history()
    measured = assembly.strategy.parents if isinstance(assembly.strategy, CARS) else history.measured
    found = {m.architecture.code: {name: m.metrics[name] for name in WANTED} for m in measured}
    return {"measured": found, "images": history.spending.images, "evaluations": history.spending.evaluations}


def picked(measured: Mapping[str, Mapping[str, float]], most: int = PICKS) -> list[str]:
    """Members of the front, spread evenly; where it has fewer, of the next ones those whose sizes are furthest off."""
    left = {code: (found["loss"], found["params"]) for code, found in measured.items()}
    chosen = spread({code: left[code][1] for code in _front(left)}, most)
    for code in chosen:
        del left[code]
    while left and len(chosen) < most:
        sizes = [math.log(measured[code]["params"]) for code in chosen]
        chosen.append(max(_front(left), key=lambda code: min(abs(math.log(left[code][1]) - size) for size in sizes)))
        del left[chosen[-1]]
    return chosen


def _front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The codes of points that no other dominates, less being better."""
    rows = NonDominatedSorting().do(np.array(list(points.values())), only_non_dominated_front=True)
    return [list(points)[row] for row in sorted(rows)]


def train(settings: Row, seed: int) -> Row:
    """Validation accuracy after training from scratch, and the price."""
    options = {name: value for name, value in settings.items() if name not in ("space", "options", "code")}
    benchmark = Workload(settings["space"], "classification", settings["options"], options).make()
    benchmark.prepare()
    problem = problem_of(benchmark, seed)
    task = problem.evaluate(benchmark.space.parse(settings["code"]))
    outcome = perform(task, benchmark, device="cpu", artifacts=MemoryArtifacts())
    assert isinstance(outcome, Measurement), outcome
    params = problem.cost(outcome.architecture).params
    return {"accuracy": outcome.metrics["accuracy"], "params": params, "images": outcome.spent.images}


def problem_of(benchmark: Benchmark, seed: int) -> Problem:
    """The problem of measuring with all epochs."""
    goal = SearchConfig.model_construct(objectives=OBJECTIVES, constraints=[]).goal
    return Problem(benchmark.space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=seed)


def chance(space: str, seed: int) -> list[str]:
    """As many different members as are picked, drawn uniformly."""
    drawn = Workload(space, "classification", SPACES[space].options, SPACES[space].data).make().space
    rng, codes = default_rng(seed), dict[str, None]()
    while len(codes) < PICKS:
        codes[drawn.sample(rng).code] = None
    return list(codes)


@dataclass(frozen=True)
class Result:
    """What came of a space.

    Args:
        searches: By arm, for each seed.
        trainings: By arm, for each seed the picks' trainings.
        volumes: By arm, for each seed the hypervolume of the picks.
        gains: Of CARS over each of the others.
    """

    searches: dict[str, list[Row]]
    trainings: dict[str, list[list[Row]]]
    volumes: dict[str, list[float]]
    gains: dict[str, Gain] = field(default_factory=dict)


def compared(space: str, seeds: list[int], file: Path, processes: int) -> Result:
    """Search and train what the file lacks, and compare."""
    jobs = [(searching(space, arm), seed) for seed in seeds for arm in ARMS[:-1]]
    done = kept(jobs, work, file, processes)
    searches = {arm: done[i :: len(ARMS) - 1] for i, arm in enumerate(ARMS[:-1])}
    codes = {arm: [picked(row["measured"]) for row in rows] for arm, rows in searches.items()}
    codes["chance"] = [chance(space, seed) for seed in seeds]
    found = [(seed, code) for i, seed in enumerate(seeds) for arm in ARMS for code in codes[arm][i]]
    distinct = list(dict.fromkeys(found))  # what two arms have found is trained once
    jobs = [(training(space, code), seed) for seed, code in distinct]
    trained = dict(zip(distinct, kept(jobs, work, file, processes), strict=True))
    trainings = {arm: [[trained[seed, code] for code in codes[arm][i]] for i, seed in enumerate(seeds)] for arm in ARMS}
    volumes: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for i, _ in enumerate(seeds):
        pairs = {arm: [(row["accuracy"], row["params"]) for row in trainings[arm][i]] for arm in ARMS}
        for arm, volume in hypervolumes(pairs).items():
            volumes[arm].append(volume)
    gains = {arm: Gain.of(volumes["cars"], volumes[arm]) for arm in ARMS[1:]}
    return Result(searches, trainings, volumes, gains)


def verdict(results: Mapping[str, Result]) -> dict[str, bool]:
    """What is wanted, and whether it is so."""
    searched_alone = [result.gains[arm] for result in results.values() for arm in ("random_search", "nsga2")]
    return {
        "at least equal to random search and NSGA-II everywhere": all(gain.at_least_equal for gain in searched_alone),
        "better than both on one space": any(
            result.gains["random_search"].better and result.gains["nsga2"].better for result in results.values()
        ),
        "better than members drawn at random everywhere": all(
            result.gains["chance"].better for result in results.values()
        ),
    }


def main() -> None:
    """Search and train what is missing, and print what came of each space."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spaces", nargs="+", choices=tuple(SPACES), default=list(SPACES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1000, 1005)))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--file", type=Path, default=Path("runs/cars-pays.jsonl"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    results = {
        space: compared(space, arguments.seeds, arguments.file, arguments.processes) for space in arguments.spaces
    }
    said = verdict(results)
    if arguments.json:
        print(json.dumps({"spaces": {name: asdict(each) for name, each in results.items()}, "wanted": said}, indent=2))
        sys.exit(not all(said.values()))
    print(DEFINITIONS)
    for space, result in results.items():
        show(space, arguments.seeds, result)
    for text, holds in said.items():
        print(f"wanted: {text}: {'so it is' if holds else 'NOT so'}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")
    sys.exit(not all(said.values()))


DEFINITIONS = f"""\
Fashion-MNIST, a subset. Every search processes the same number of training pictures: CARS to train its supernet, with
whose weights networks are then measured for no picture more; random search and NSGA-II to train each candidate by
itself. Objectives: validation loss, parameters. Of each search {PICKS} networks are picked, spread evenly over the
logarithm of the parameters of its (CARS: last) front; where it has fewer, of the next fronts those whose sizes are
furthest from all picked. "chance" is as many members drawn uniformly. All are then trained from scratch alike.
Hypervolume: validation accuracy and log params, scaled between ideal and nadir of the union of the seed's fronts,
reference point 1.1. "at least equal": the 95 % interval of the paired difference lies above -{ALLOWED:.0%} of the
other's mean; "better": above 0."""


def show(space: str, seeds: list[int], result: Result) -> None:
    """A space's table."""
    first = {arm: found[0] for arm, found in result.searches.items()}
    slowest = max(row["seconds"] for groups in result.trainings.values() for rows in groups for row in rows)
    counts = ", ".join(f"{found['evaluations']} evaluations of {arm}" for arm, found in first.items())
    print(f"\n{space}: {SPACES[space].images:,} pictures for a search: {counts}")
    print(f"a retraining took at most {slowest:.0f} s")
    print(f"{'seed':>6} " + " ".join(f"{arm:>14}" for arm in ARMS))
    for i, seed in enumerate(seeds):
        print(f"{seed:6} " + " ".join(f"{result.volumes[arm][i]:14.4f}" for arm in ARMS))
    for arm, gain in result.gains.items():
        print(f"CARS less {arm}: {gain}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
