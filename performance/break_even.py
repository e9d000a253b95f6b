"""From how many trainings on shared weights pay: CARS beside searches that train every candidate alone.

    python performance/break_even.py [--spaces nasbench201] [--budgets 1 3 10 30] [--seeds 1000 …]
        [--arms cars random_search …] [--processes 2] [--picture FILE.svg] [--json]

A budget is so many times the images of one full training. Every search and every training is a line of the file as
soon as it has ended, and a second call goes on where the first was interrupted.
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
from convolutional_network import ConvolutionalNetwork
from fronts import ALLOWED, Gain, hypervolumes, spread
from numpy.random import default_rng
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig, Workload
from nasplat.errors import InputError
from nasplat.evolution.race import RaceOptions
from nasplat.executors.executor import perform
from nasplat.interface.adoption import adopt
from nasplat.problem import Problem
from nasplat.run.directory import RunDirectory
from nasplat.strategies.cars import CARS
from nasplat.task import Measurement
from nasplat.testing.runs import searched
from searching import Row, kept

PICKS = 5
"""Networks that stand for a search."""
OBJECTIVES = ["loss:min", "params:min"]
WANTED = ("loss", "params")
ALONE = ("random_search", "random_brief", "nsga2", "asha", "predictor_guided")
"""What trains every candidate by itself."""
ARMS = ("cars", *ALONE, "chance")
SUPERNET = 0.4
"""The part of the images of CARS that trains the supernet."""
BRIEF = 3
"""By how much shorter `random_brief` trains each of as many times more candidates."""


@dataclass(frozen=True)
class Comparison:
    """What is compared on one search space.

    Args:
        options: Of the space.
        data: Options of the benchmark for all that is trained.
        images: Training images processed in an epoch.
        epochs: Of a full training.
        supernet: Options of the benchmark while CARS searches.
    """

    options: dict[str, Any]
    data: dict[str, Any]
    images: int
    epochs: int
    supernet: dict[str, Any]


DATA = {"dataset": "hard_digits", "data": {"subset": 3000}, "recipe": {"gradient_norm": 5.0, "augment": True}}
OWN, _ = adopt("space", ConvolutionalNetwork)
SPACES = {
    "nasbench201": Comparison({"channels": 4, "cells": 1}, DATA, images=2560, epochs=6, supernet={}),
    OWN: Comparison({}, DATA, images=2560, epochs=8, supernet={}),
}


def cars(compared: Comparison, budget: int) -> tuple[Row, Row]:
    """Options of the benchmark and of CARS: a part of the images trains the supernet, the others are raced for."""
    passes = budget * compared.epochs
    supernet = max(round(SUPERNET * passes), 2)
    finalists = min(PICKS, max(1, (passes - supernet) // 4))
    bracket = finalists
    for more in (2 * finalists, 4 * finalists):
        # An epoch in the first rung, and half a training in the last, is what makes a rung worth it.
        shortest = RaceOptions(bracket_size=more, finalists=finalists).plan(more, epochs=1).passes
        if passes - supernet >= max(shortest, more + finalists * compared.epochs // 2):
            bracket = more
    strategy = {
        "name": "cars",
        "population": max(2, min(24, 2 * bracket)),
        "warmup": max(supernet // 2, 1),
        "interval": max(supernet // 10, 1),
        "finish": "race",
        "race": {"epochs": passes - supernet, "finalists": finalists, "bracket_size": bracket},
    }
    return {**compared.data, **compared.supernet, "epochs": supernet}, strategy


def searching(space: str, arm: str, budget: int) -> Row:
    """The settings of a search, which say all about it."""
    compared = SPACES[space]
    benchmark: Row = {**compared.data, "epochs": compared.epochs}
    strategy: Row = {"name": arm}
    limits: Row = {"evaluations": budget}
    if arm == "cars":
        benchmark, strategy = cars(compared, budget)
        limits = {}
    elif arm == "random_brief":
        benchmark["epochs"], strategy["name"] = max(compared.epochs // BRIEF, 1), "random_search"
        limits = {"evaluations": budget * compared.epochs // benchmark["epochs"]}
    elif arm == "nsga2":
        strategy["population"] = max(2, min(10, budget // 3))
    elif arm == "asha":
        # What is in work when the budget is reached is still completed: at most a whole training, of the last rung.
        limits = {"images": budget * compared.epochs * compared.images - compared.images, "evaluations": 100_000}
    config = {
        "space": {"name": space, **compared.options},
        "benchmark": {"name": "classification", **benchmark},
        "strategy": strategy,
        "objectives": OBJECTIVES,
        "budget": limits,
    }
    return {"search": config}


def training(space: str, code: str, again: int) -> Row:
    """The settings of training a network that was found."""
    compared = SPACES[space]
    return {
        "space": space,
        "options": compared.options,
        "code": code,
        "benchmark": {**compared.data, "epochs": compared.epochs},
        "again": again,
    }


def work(settings: Row, seed: int) -> Row:
    """Carry out a search or a training, for `kept`."""
    torch.set_num_threads(1)
    clock = time.perf_counter()
    row = search(settings, seed) if "search" in settings else train(settings, seed)
    print(f"seed {seed}: {json.dumps(row)[:300]}", file=sys.stderr)
    return {**row, "seconds": time.perf_counter() - clock}


def search(settings: Row, seed: int) -> Row:
    """What a search measured at its highest fidelities, five networks or more, and what it took."""
    config = SearchConfig.read({**settings["search"], "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        assembly = searched(Path(folder) / "run", config)
        history = RunDirectory(Path(folder) / "run").history()
    measured = assembly.strategy.parents if isinstance(assembly.strategy, CARS) else history.measured
    found: dict[str, dict[str, float]] = {}
    for m in sorted(measured, key=lambda m: -m.task.fidelity):  # halving brings only some candidates to the last rung
        if m.task.fidelity == history.fidelities[-1] or len(found) < PICKS:
            found.setdefault(m.architecture.code, {name: m.metrics[name] for name in WANTED})
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
    """Test accuracy after training from scratch, and the price."""
    benchmark = Workload(settings["space"], "classification", settings["options"], settings["benchmark"]).make()
    benchmark.prepare()
    problem, artifacts = problem_of(benchmark, seed * 100 + settings["again"]), MemoryArtifacts()
    task = problem.evaluate(benchmark.space.parse(settings["code"]))
    outcome = perform(task, benchmark, device="cpu", artifacts=artifacts)
    assert isinstance(outcome, Measurement), outcome
    tested = benchmark.final(outcome, device="cpu", artifacts=artifacts)
    params = problem.cost(outcome.architecture).params
    return {"accuracy": tested.metrics["accuracy"], "params": params, "images": outcome.spent.images}


def problem_of(benchmark: Benchmark, seed: int) -> Problem:
    """The problem of measuring with all epochs."""
    goal = SearchConfig.model_construct(objectives=OBJECTIVES, constraints=[]).goal
    return Problem(benchmark.space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=seed)


def chance(space: str, seed: int, number: int) -> list[str]:
    """So many different members, drawn uniformly."""
    drawn = Workload(space, "classification", SPACES[space].options, SPACES[space].data).make().space
    rng, codes = default_rng(seed), dict[str, None]()
    while len(codes) < number:
        codes[drawn.sample(rng).code] = None
    return list(codes)


@dataclass(frozen=True)
class Result:
    """What came of a space.

    Args:
        searches: By budget and arm, for each seed.
        volumes: By budget and arm, for each seed the hypervolume of the picks.
        gains: By budget, of CARS over each of the others.
    """

    searches: dict[int, dict[str, list[Row]]]
    volumes: dict[int, dict[str, list[float]]]
    gains: dict[int, dict[str, Gain]] = field(default_factory=dict)


def compared(
    space: str, budgets: list[int], arms: list[str], seeds: list[int], retrainings: int, file: Path, processes: int
) -> Result:
    """Search and train what the file lacks, and compare."""
    searching_arms = [arm for arm in arms if arm != "chance"]
    cells = [(budget, arm) for budget in budgets for arm in searching_arms]
    jobs = [(searching(space, arm, budget), seed) for seed in seeds for budget, arm in cells]
    done = kept(jobs, work, file, processes)
    searches: dict[int, dict[str, list[Row]]] = {budget: {} for budget in budgets}
    for number, (budget, arm) in enumerate(cells):
        searches[budget][arm] = done[number :: len(cells)]
    codes: dict[tuple[int, str, int], list[str]] = {
        (budget, arm, i): picked(rows[i]["measured"])
        for budget, of in searches.items()
        for arm, rows in of.items()
        for i in range(len(seeds))
    }
    if "chance" in arms:
        codes |= {
            (budget, "chance", i): chance(space, seed, len(codes[budget, "cars", i]))
            for budget in budgets
            for i, seed in enumerate(seeds)
        }
    # What two arms have found is trained once.
    found = dict.fromkeys((seeds[i], code) for (_, _, i), chosen in codes.items() for code in chosen)
    every = [(seed, code, again) for seed, code in found for again in range(retrainings)]
    rows = kept([(training(space, code, again), seed) for seed, code, again in every], work, file, processes)
    trained: dict[tuple[int, str], list[Row]] = {}
    for (seed, code, _), row in zip(every, rows, strict=True):
        trained.setdefault((seed, code), []).append(row)
    volumes: dict[int, dict[str, list[float]]] = {budget: {arm: [] for arm in arms} for budget in budgets}
    for i, seed in enumerate(seeds):
        points = {
            json.dumps([budget, arm]): [mean_point(trained[seed, code]) for code in codes[budget, arm, i]]
            for budget in budgets
            for arm in arms
        }
        for name, volume in hypervolumes(points).items():
            budget, arm = json.loads(name)
            volumes[budget][arm].append(volume)
    gains = {
        budget: {arm: Gain.of(of["cars"], of[arm]) for arm in arms if arm != "cars"} for budget, of in volumes.items()
    }
    return Result(searches, volumes, gains)


def mean_point(rows: list[Row]) -> tuple[float, float]:
    """The mean accuracy of a network's trainings, and its price."""
    return float(np.mean([row["accuracy"] for row in rows])), rows[0]["params"]


def show(space: str, seeds: list[int], result: Result) -> None:
    """A space's tables."""
    for budget, volumes in result.volumes.items():
        arms = list(volumes)
        spent = {arm: np.mean([row["images"] for row in rows]) for arm, rows in result.searches[budget].items()}
        print(f"\n{space}, {budget} full trainings: images " + ", ".join(f"{a} {n:,.0f}" for a, n in spent.items()))
        times = {arm: np.mean([row["seconds"] for row in rows]) for arm, rows in result.searches[budget].items()}
        print("seconds of a search: " + ", ".join(f"{arm} {seconds:.0f}" for arm, seconds in times.items()))
        print(f"{'seed':>6} " + " ".join(f"{arm:>16}" for arm in arms))
        for i, seed in enumerate(seeds):
            print(f"{seed:6} " + " ".join(f"{volumes[arm][i]:16.4f}" for arm in arms))
        print(f"{'mean':>6} " + " ".join(f"{np.mean(volumes[arm]):16.4f}" for arm in arms))
        for arm, gain in result.gains[budget].items():
            said = "better" if gain.better else "at least equal" if gain.at_least_equal else "not shown"
            print(f"CARS less {arm}: {gain}, of {gain.baseline:.4f}: {said}")


def draw(results: Mapping[str, Result], path: Path) -> None:
    """A picture: the mean hypervolume of each arm over the budget, a panel for each space."""
    from matplotlib import use

    use("svg")
    from matplotlib import pyplot, rc_context

    with rc_context({"svg.hashsalt": "nasplat", "svg.fonttype": "none"}):
        figure, panels = pyplot.subplots(1, len(results), figsize=(4.5 * len(results), 3.6), squeeze=False)
        for axes, (space, result) in zip(panels[0], results.items(), strict=True):
            budgets = list(result.volumes)
            for arm in next(iter(result.volumes.values())):
                means = [float(np.mean(result.volumes[budget][arm])) for budget in budgets]
                style: dict[str, Any] = {"color": "black", "linewidth": 2.5} if arm == "cars" else {}
                axes.plot(budgets, means, marker="o", label=arm, **style)
            axes.set_xscale("log")
            axes.set_xticks(budgets, [str(budget) for budget in budgets])
            axes.minorticks_off()
            axes.set_xlabel("images, in full trainings")
            axes.set_title(space)
        panels[0][0].set_ylabel("hypervolume of the retrained picks")
        panels[0][-1].legend(fontsize="small")
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})


DEFINITIONS = f"""\
Every search processes at most about as many training images as so many full trainings do. CARS: {SUPERNET:.0%} of them
train its supernet, the others fine-tune networks of its last generation in a race; what computes statistics of batch
norm is not counted as training, but is in the seconds. The division was chosen on seeds 0 to 2; the others have their
defaults. They train each candidate by itself, in full; random_brief {BRIEF} times as many, a third as long; asha in
rungs.
Objectives: validation loss, parameters. Of each search {PICKS} networks are picked, or as many as it has, spread evenly
over the logarithm of the parameters of its front; where that has fewer, of the next fronts those whose sizes are
furthest from all picked. "chance" is as many members as CARS has, drawn uniformly. All are then trained alike from
scratch, and measured on test images. Hypervolume: mean test accuracy and log params, scaled between ideal and nadir of
the union of all fronts of a seed, hence by all that is compared in a call; reference point 1.1. "at least equal": the
95 % interval of the paired difference lies above -{ALLOWED:.0%} of the other's mean; "better": above 0; no interval is
corrected for their number."""


def main() -> None:
    """Search and train what is missing, and print what came of each space."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spaces", nargs="+", choices=tuple(SPACES), default=list(SPACES))
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 3, 10, 30])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="cars is always compared")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1000, 1010)))
    parser.add_argument("--retrainings", type=int, default=2)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--file", type=Path, default=Path("runs/break-even.jsonl"))
    parser.add_argument("--picture", type=Path, help="an SVG file to draw")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    arms = list(dict.fromkeys(["cars", *arguments.arms]))
    results = {
        space: compared(
            space,
            arguments.budgets,
            arms,
            arguments.seeds,
            arguments.retrainings,
            arguments.file,
            arguments.processes,
        )
        for space in arguments.spaces
    }
    if arguments.picture:
        draw(results, arguments.picture)
    if arguments.json:
        print(json.dumps({name: asdict(each) for name, each in results.items()}, indent=2))
        return
    print(DEFINITIONS)
    for space, result in results.items():
        show(space, arguments.seeds, result)
    print(f"\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except InputError as error:
        sys.exit(f"error: {error}")
