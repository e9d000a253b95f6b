"""The small-model trap, with and without protection: in a closed-form simulation, and in real searches.

    python performance/small_model_trap.py [--seeds 1000 … 1004] [--file runs/small-model-trap.jsonl] [--json]

The simulation takes seconds; the real searches about two minutes for each seed on one core. Every search is a line of
the file as soon as it has ended, and a second call goes on where the first was interrupted.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import stats
from torch import nn

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.config import SearchConfig, Workload
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.search_space import Gene, GeneSpace
from nasplat.strategies.cars import CARS
from nasplat.task import Evaluate, Measurement, Trained
from nasplat.testing.runs import searched

ARMS: dict[str, dict[str, Any]] = {
    "none": {"protection": "none"},
    "inverse_size": {"protection": "inverse_size"},
    "speed, measured": {"protection": "speed", "child_speed": "measured"},
    "speed, inherited": {"protection": "speed", "child_speed": "inherited"},
}
SIMULATED: dict[str, Any] = {"population": 24, "warmup": 1, "interval": 1}
SIMULATED_EPOCHS = 13
REAL: dict[str, Any] = {"population": 16, "warmup": 5, "interval": 1}
REAL_EPOCHS, FINAL_EPOCHS = 15, 10
SPACE = {"channels": 2, "cells": 1}
WANTED, NOT_LOST = 1.5, 0.02
DEFINITIONS = f"""\
Simulated: a network of size s, from 0.5 to 4, ends at an accuracy of 1 - 0.5 exp(-0.7 s) and approaches it with a time
constant of 3 + 6 s generations; population {SIMULATED["population"]}, {SIMULATED_EPOCHS - 1} generations. "Best" is the
accuracy at which the best of the last population would end. Real: NAS-Bench-201's cells (2 channels, 1 cell in each
stage) on scikit-learn's digits; population {REAL["population"]}, warm-up of {REAL["warmup"]} epochs,
{REAL_EPOCHS - REAL["warmup"]} generations of one. "Best" is the best validation accuracy when the members of the last
population are trained from scratch for {FINAL_EPOCHS} epochs. "Range" is largest less smallest of the last population:
sizes, or thousands of parameters."""


class Sizes(GeneSpace):
    """A thousand networks, of which only the size matters."""

    name: ClassVar[str] = "sizes"
    genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(f"digit {i}", tuple("0123456789")) for i in range(3))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """Millions of parameters are the size."""
        return Cost(params=round(1e6 * size(architecture)))

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        """There is nothing to build."""
        raise NotImplementedError


def size(architecture: Architecture) -> float:
    """From 0.5 to 4."""
    return 0.5 + 3.5 * int(architecture.code) / 999


def final_accuracy(size: float) -> float:
    """Where a network ends."""
    return 1 - 0.5 * math.exp(-0.7 * size)


def accuracy(size: float, epochs: int) -> float:
    """Where it is by then."""
    return final_accuracy(size) * (1 - math.exp(-epochs / (3 + 6 * size)))


def simulate(options: dict[str, Any], seed: int) -> dict[str, float]:
    """One search by the very strategy, its outcomes by formula."""
    goal = Goal((Objective("accuracy", maximize=True), Objective("params", maximize=False)))
    problem = Problem(Sizes(), goal, io=IO.image(1, 1, 1), fidelity=SIMULATED_EPOCHS, seed=seed)
    strategy = CARS(problem, **SIMULATED, **options)
    while tasks := strategy.ask(1):
        for task in tasks:
            if isinstance(task, Evaluate):
                metrics = {
                    "accuracy": accuracy(size(task.architecture), task.fidelity),
                    "params": problem.cost(task.architecture).params,
                }
                strategy.tell(Measurement(task=task, metrics=metrics))
            else:
                strategy.tell(Trained(task=task, weights=Handle.of(str(task.id).encode())))
    sizes = [size(member.architecture) for member in strategy.parents]
    return {"range": max(sizes) - min(sizes), "largest": max(sizes), "best": max(map(final_accuracy, sizes))}


def search(options: dict[str, Any], seed: int) -> dict[str, float]:
    """One real search, and what comes of its last population when each is trained alone."""
    config = SearchConfig.read(
        {
            "space": {"name": "nasbench201", **SPACE},
            "benchmark": {"name": "classification", "epochs": REAL_EPOCHS},
            "strategy": {"name": "cars", **REAL, **options},
            "objectives": ["accuracy:max", "params:min"],
            "seed": seed,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        assembly = searched(Path(folder) / "run", config)
    assert isinstance(assembly.strategy, CARS)
    members = [member.architecture for member in assembly.strategy.parents]
    params = [assembly.problem.cost(member).params / 1e3 for member in members]
    return {
        "range": max(params) - min(params),
        "largest": max(params),
        "best": max(trained_alone(member, seed) for member in members),
    }


def trained_alone(architecture: Architecture, seed: int) -> float:
    """Validation accuracy after training from scratch."""
    benchmark = Workload("nasbench201", "classification", SPACE, {"epochs": FINAL_EPOCHS}).make()
    benchmark.prepare()
    goal = Goal((Objective("accuracy", maximize=True),))
    problem = Problem(benchmark.space, goal, io=benchmark.io, fidelity=FINAL_EPOCHS, seed=seed)
    outcome = perform(problem.evaluate(architecture), benchmark, device="cpu", artifacts=MemoryArtifacts())
    assert isinstance(outcome, Measurement), outcome
    return outcome.metrics["accuracy"]


def rows(seeds: list[int], file: Path) -> list[dict[str, Any]]:
    """All searches; those that the file lacks are run and added to it."""
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    have = {(row["part"], row["arm"], row["seed"]) for row in known}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        for part, perform_one in (("simulated", simulate), ("real", search)):
            for seed in seeds:
                for arm, options in ARMS.items():
                    if (part, arm, seed) not in have:
                        print(f"{part}, seed {seed}, {arm} …", file=sys.stderr)
                        known.append({"part": part, "arm": arm, "seed": seed, **perform_one(options, seed)})
                        lines.write(json.dumps(known[-1]) + "\n")
                        lines.flush()
    return [row for row in known if row["seed"] in seeds]


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each arm beside no protection, seed by seed."""
    lines = []
    for part in ("simulated", "real"):
        plain = {row["seed"]: row for row in found if (row["part"], row["arm"]) == (part, "none")}
        for arm in ARMS:
            these = [row for row in found if (row["part"], row["arm"]) == (part, arm)]
            gains = np.array([row["best"] - plain[row["seed"]]["best"] for row in these])
            low, high = math.nan, math.nan
            if len(gains) > 1 and gains.std():
                low, high = map(float, stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains)))
            ranges = np.array([row["range"] for row in these])
            plain_ranges = np.array([plain[row["seed"]]["range"] for row in these])
            lines.append(
                {
                    "part": part,
                    "arm": arm,
                    "range": float(ranges.mean()),
                    "ranges": ranges.tolist(),
                    "ratio": float(ranges.mean() / plain_ranges.mean()),
                    "least_ratio": float((ranges / plain_ranges).min()),
                    "largest": float(np.mean([row["largest"] for row in these])),
                    "best": float(np.mean([row["best"] for row in these])),
                    "gain": [float(gains.mean()), low, high],
                }
            )
    return lines


def main() -> None:
    """Search what is missing, and say how wide the last populations are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002, 1003, 1004])
    parser.add_argument("--file", type=Path, default=Path("runs/small-model-trap.jsonl"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = summary(rows(arguments.seeds, arguments.file))
    if arguments.json:
        print(json.dumps(lines, indent=2))
        return
    print(DEFINITIONS)
    columns = f"{'range':>7} {'ratio':>6} {'least':>6} {'largest':>8} {'best':>8}"
    print(f"\n{'':10} {'protection':18} {columns}   best less plain's")
    for line in lines:
        mean, low, high = (100 * value for value in line["gain"])
        beside = "" if line["arm"] == "none" else f"   {mean:+.2f} points ({low:+.2f} to {high:+.2f})"
        print(
            f"{line['part']:10} {line['arm']:18} {line['range']:7.2f} {line['ratio']:6.2f} {line['least_ratio']:6.2f} "
            f"{line['largest']:8.2f} "
            f"{100 * line['best']:6.2f} %{beside}"
        )
    kept = all(line["least_ratio"] >= WANTED and line["gain"][1] > -NOT_LOST for line in lines if line["arm"] != "none")
    print(
        f"wanted: with any protection at least {WANTED} times the range for every seed, and a best that is at least "
        f"equal (the interval of the difference above {-100 * NOT_LOST:g} points): {'so it is' if kept else 'NOT so'}"
    )
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")
    sys.exit(not kept)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
