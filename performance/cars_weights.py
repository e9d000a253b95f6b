"""Whether accuracies with shared weights rank architectures as training from scratch does.

    python performance/cars_weights.py [--seed 1000] [--file runs/cars-weights.jsonl] [--json]

About six minutes on one core; every measurement is a line of the file as soon as it is made, and a second call goes
on where the first was interrupted.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from scipy import stats

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import SupernetBenchmark
from nasplat.config import Workload
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.task import Measurement, Task, Trained, derive_seed

ARCHITECTURES, REPLICATES, SUPERNETS = 40, 6, 3
SCRATCH_EPOCHS, SUPERNET_EPOCHS = 8, 60
RESAMPLES = 10_000
SPACE: dict[str, Any] = {"channels": 2, "cells": 1}
SUPERNET: dict[str, Any] = {"gradient_norm": 5.0}
DEFINITIONS = f"""\
{ARCHITECTURES} architectures drawn uniformly from NAS-Bench-201's cells, different by canonical key
({SPACE["channels"]} channels, {SPACE["cells"]} cell in each stage: so thin that it matters which cell it is), on
scikit-learn's digits. From scratch: {SCRATCH_EPOCHS} epochs, mean validation accuracy of {REPLICATES} seeds. Shared
weights: {SUPERNETS} supernets, each trained for {SUPERNET_EPOCHS} epochs on one uniformly drawn path for each batch,
then every architecture measured with its batch norm recalibrated; and as many supernets whose weights are as they were
made. Kendall's tau-b over the architectures, with the 95 % interval of {RESAMPLES:,} bootstrap resamples of them."""


def rows(seed: int, file: Path) -> list[dict[str, Any]]:
    """All measurements; those that the file lacks are made and added to it."""
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    have = {(row["what"], row["code"], row["number"]) for row in known if row["seed"] == seed}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        for row in measurements(seed, have):
            known.append({"seed": seed, **row})
            lines.write(json.dumps(known[-1]) + "\n")
            lines.flush()
    return [row for row in known if row["seed"] == seed]


def measurements(seed: int, have: set[tuple[str, str, int]]) -> Iterator[dict[str, Any]]:
    """Whatever is not known yet, one accuracy after another."""
    scratch = benchmark(epochs=SCRATCH_EPOCHS)
    chosen = architectures(scratch, seed)
    problem = problem_of(scratch, seed)
    for number in range(REPLICATES):
        for architecture in chosen:
            task = problem.evaluate(architecture, replicate=number)  # made in any case: its number seeds the next
            if ("scratch", architecture.code, number) not in have:
                yield row("scratch", architecture, number, run(task, scratch))
    for what, epochs in (("supernet", SUPERNET_EPOCHS), ("untrained", 1)):
        shared = benchmark(epochs=epochs, **SUPERNET, **({} if what == "supernet" else {"learning_rate": 1e-30}))
        for number in range(SUPERNETS):
            if all((what, architecture.code, number) in have for architecture in chosen):
                continue
            parcel = MemoryArtifacts()
            problem = problem_of(shared, derive_seed(seed, 10_000 + number))
            trained = perform(problem.train_supernet((), epochs=epochs), shared, device="cpu", artifacts=parcel)
            assert isinstance(trained, Trained), trained
            for architecture in chosen:
                task = problem.evaluate(architecture, weights=trained.weights)
                if (what, architecture.code, number) not in have:
                    yield row(what, architecture, number, run(task, shared, parcel))


def row(what: str, architecture: Architecture, number: int, measurement: Measurement) -> dict[str, Any]:
    """One line of the file."""
    found = {"accuracy": measurement.metrics["accuracy"], "seconds": measurement.spent.seconds}
    return {"what": what, "code": architecture.code, "number": number, **found}


def run(task: Task, benchmark: SupernetBenchmark, artifacts: MemoryArtifacts | None = None) -> Measurement:
    """The measurement, which is not to fail."""
    outcome = perform(task, benchmark, device="cpu", artifacts=artifacts or MemoryArtifacts())
    assert isinstance(outcome, Measurement), outcome
    return outcome


def benchmark(**options: Any) -> SupernetBenchmark:
    """Prepared."""
    made = Workload("nasbench201", "classification", SPACE, options).make()
    assert isinstance(made, SupernetBenchmark)
    made.check()
    made.prepare()
    return made


def problem_of(benchmark: SupernetBenchmark, seed: int) -> Problem:
    """What numbers and seeds the tasks."""
    goal = Goal((Objective("accuracy", maximize=True),))
    return Problem(benchmark.space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=seed)


def architectures(benchmark: SupernetBenchmark, seed: int) -> list[Architecture]:
    """Drawn uniformly, no two of one canonical key."""
    rng, chosen = default_rng(seed), dict[str, Architecture]()
    while len(chosen) < ARCHITECTURES:
        architecture = benchmark.space.sample(rng)
        chosen.setdefault(benchmark.space.canonical_key(architecture), architecture)
    return list(chosen.values())


def summary(known: list[dict[str, Any]]) -> dict[str, Any]:
    """Correlations with their intervals, and whether the task can tell architectures apart at all."""
    codes = list(dict.fromkeys(row["code"] for row in known))

    def table(what: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Accuracies `[numbers, architectures]`."""
        cells = {(row["number"], row["code"]): row["accuracy"] for row in known if row["what"] == what}
        return np.array([[cells[number, code] for code in codes] for number in sorted({n for n, _ in cells})])

    scratch = table("scratch")
    truth = scratch.mean(axis=0)
    between_seeds = float(np.sqrt(scratch.var(axis=0, ddof=1).mean()))
    # What a random search of ten would find, on average over the draws of ten.
    picks = default_rng(0).permuted(np.tile(truth, (RESAMPLES, 1)), axis=1)[:, :10].max(axis=1)
    correlations = {
        what: [correlation(accuracies, truth) for accuracies in (*table(what), table(what).mean(axis=0))]
        for what in ("supernet", "untrained")
    }
    return {
        "scratch": {
            "lowest": float(truth.min()),
            "highest": float(truth.max()),
            "random_best_of_ten": float(picks.mean()),
            "between_architectures": float(truth.std(ddof=1)),
            "between_seeds": between_seeds,
            "between_means": between_seeds / REPLICATES**0.5,
            "tau_between_halves": correlation(scratch[::2].mean(axis=0), scratch[1::2].mean(axis=0))["tau"],
        },
        **correlations,
    }


def correlation(given: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> dict[str, float]:
    """Kendall's tau-b with a bootstrap interval over architectures."""
    rng = default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(truth), size=len(truth))
        resampled.append(stats.kendalltau(given[drawn], truth[drawn]).statistic)
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return {"tau": float(stats.kendalltau(given, truth).statistic), "low": float(low), "high": float(high)}


def main() -> None:
    """Measure what is missing, and say how the rankings agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--file", type=Path, default=Path("runs/cars-weights.jsonl"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = summary(rows(arguments.seed, arguments.file))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(DEFINITIONS)
    scratch = found["scratch"]
    print(
        f"\nfrom scratch: {100 * scratch['lowest']:.1f} % to {100 * scratch['highest']:.1f} %, "
        f"best of ten at random {100 * scratch['random_best_of_ten']:.1f} %; deviation between architectures "
        f"{100 * scratch['between_architectures']:.2f} points, between seeds {100 * scratch['between_seeds']:.2f}, of "
        f"their means {100 * scratch['between_means']:.2f}; tau between two halves of the seeds "
        f"{scratch['tau_between_halves']:.3f}"
    )
    for what in ("supernet", "untrained"):
        *each, together = found[what]
        for name, tau in (*((f"{what} {i}", tau) for i, tau in enumerate(each)), (f"{what}, mean", together)):
            print(f"{name:16} tau {tau['tau']:6.3f}   95 % interval {tau['low']:6.3f} to {tau['high']:6.3f}")
    trained, untrained = found["supernet"][-1], found["untrained"][-1]
    ranks = trained["low"] > untrained["high"] and scratch["between_architectures"] > 3 * scratch["between_means"]
    print(
        "wanted: architectures more than three deviations of their means apart, and intervals that do not overlap: "
        f"{'so it is' if ranks else 'NOT so'}"
    )
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")
    sys.exit(not ranks)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
