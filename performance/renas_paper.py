"""Whether ReNAS ranks the cells of NAS-Bench-101 as its paper claims: by pairs better than by values, with all maps
better than with types alone.

    python performance/renas_paper.py [--seeds 10] [--first-seed 1000] [--arm NAME …] [--out FILE] [--json]

It needs a table (see the README). About half an hour on one core; every fit is a line of the file as soon as it is
made, and a second call goes on where the first was interrupted.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy import stats

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.config import Workload
from nasplat.errors import InputError
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import PREDICTORS

EXAMPLES = 424
NOISES = (0.2, 0.3, 0.4)
BY_VALUES, BY_TAU, BY_PAIRS = 0.02, 0.0, 0.62
PUBLISHED: dict[str, Any] = {"epochs": 200, "batch_size": 1024, "schedule": "constant", "select": "best"}
ARMS: dict[str, dict[str, Any]] = {
    "logistic": {},
    "hinge": {"loss": "hinge"},
    "mse": {"loss": "mse"},
    "logistic, types alone": {"tensor": "type"},
    "hinge, types alone": {"loss": "hinge", "tensor": "type"},
    "mse, types alone": {"loss": "mse", "tensor": "type"},
    "logistic + continuity": {"continuity": 1.0},
    "published, logistic": PUBLISHED,
    "published, mse": {**PUBLISHED, "loss": "mse", "labels": "minmax"},
}
PAIRS = (
    ("logistic", "mse"),
    ("hinge", "mse"),
    ("logistic", "hinge"),
    ("logistic, types alone", "mse, types alone"),
    ("logistic", "logistic, types alone"),
    ("hinge", "hinge, types alone"),
    ("mse", "mse, types alone"),
    ("logistic + continuity", "logistic"),
    ("published, logistic", "published, mse"),
    ("logistic", "published, logistic"),
)
DEFINITIONS = f"""\
NAS-Bench-101, validation accuracy after 108 epochs of one training run. A seed draws {EXAMPLES} cells to learn
from; all others in the table are ranked. Kendall's tau-b, mean over the seeds, and 95 % intervals of Student's t over
them, which take the seeds for independent though their test cells overlap. `renas` with its defaults, unless said;
published: {PUBLISHED["epochs"]} epochs at a constant rate, all pairs at once, the best epoch by tau on the examples,
and for mse labels from 0 to 1."""


class Table:
    """Cells and their accuracies."""

    def __init__(self) -> None:
        benchmark = Workload("nasbench101", "nasbench101", {}, {"single_repeat": True}).make()
        benchmark.check()
        self.space = benchmark.space
        goal = Goal((Objective("accuracy", maximize=True),))
        problem = Problem(self.space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=0)
        self.cells: list[Architecture] = list(benchmark.enumerable_members or ())
        found = [
            benchmark.measure(problem.evaluate(cell), device="cpu", artifacts=MemoryArtifacts()) for cell in self.cells
        ]
        self.accuracies = np.array([measurement.metrics["accuracy"] for measurement in found])

    def fit(self, seed: int, options: dict[str, Any]) -> dict[str, float]:
        """What one fit achieves on what it has not seen, and its time."""
        order = default_rng(seed).permutation(len(self.cells))
        known, unseen = order[:EXAMPLES], order[EXAMPLES:]
        make: Any = PREDICTORS.get("renas")
        begun = time.perf_counter()
        predictor = make(self.space, seed=seed, **options)
        predictor.fit([self.cells[i] for i in known], self.accuracies[known])
        fitted = time.perf_counter()
        predicted = predictor.predict([self.cells[i] for i in unseen])
        seconds = {"fit_seconds": fitted - begun, "predict_seconds": time.perf_counter() - fitted}
        return {"tau": kendall(predicted, self.accuracies[unseen]), **seconds}


def kendall(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kendall's tau-b."""
    return float(stats.kendalltau(a, b).statistic)


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of the file, without one that an interruption cut off."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"left out, cut off: {line[:60]}", file=sys.stderr)
    return rows


def complete(table: Table, seeds: Sequence[int], arms: Sequence[str], file: Path) -> list[dict[str, Any]]:
    """The rows of these seeds and arms; those that the file lacks are made and added to it."""
    known = {row["key"]: row for row in read(file)}
    file.parent.mkdir(parents=True, exist_ok=True)
    wanted = []
    make: Any = PREDICTORS.get("renas")
    with file.open("a") as lines:
        if file.stat().st_size and not file.read_text().endswith("\n"):
            lines.write("\n")
        for seed in seeds:
            for arm in arms:
                # All options are part of what was done, so that new defaults do not pass for old ones.
                options = make(table.space, seed=seed, **ARMS[arm]).options()
                key = json.dumps([len(table.cells), options], sort_keys=True)
                if key not in known:
                    known[key] = {"seed": seed, "arm": arm, **table.fit(seed, ARMS[arm]), "key": key}
                    lines.write(json.dumps(known[key]) + "\n")
                    lines.flush()
                    print(f"seed {seed}, {arm}: tau {known[key]['tau']:.4f}", file=sys.stderr)
                wanted.append(known[key])
    return wanted


def interval(values: NDArray[np.float64]) -> dict[str, float]:
    """The mean, and the 95 % interval of Student's t."""
    mean = float(values.mean())
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def ceiling(accuracies: NDArray[np.float64], points: float, tau: float) -> dict[str, float]:
    """What noise in the labels costs, by simulation.

    Assumptions: the table's accuracies are the true ones, labels are these plus normal noise of one deviation for all
    cells, and the predictor errs by normal noise on the normal scores of the truth. That the table's own noise is in
    its spread already makes the ceiling a little too high.

    Args:
        accuracies: Those of the table.
        points: The deviation of the noise, in points of accuracy.
        tau: What was measured against noisy labels.
    """
    rng = default_rng(0)
    labels = accuracies + rng.normal(scale=points / 100, size=len(accuracies))
    scores = stats.norm.ppf((stats.rankdata(accuracies) - 0.5) / len(accuracies))
    errors = rng.normal(size=len(accuracies))
    low, high = 0.0, 10.0
    for _ in range(30):  # the larger the error, the smaller the agreement
        error = (low + high) / 2
        low, high = (error, high) if kendall(scores + error * errors, labels) > tau else (low, error)
    return {"perfect": kendall(accuracies, labels), "without_noise": kendall(scores + low * errors, accuracies)}


def main() -> None:
    """Fit what is missing, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1_000)
    parser.add_argument("--arm", action="append", choices=ARMS, help="only this one; may be given several times")
    parser.add_argument("--out", type=Path, default=Path("runs/renas-paper.jsonl"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        raise InputError(f"an interval takes at least 2 seeds, but got {arguments.seeds}")
    torch.set_num_threads(1)
    table = Table()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    arms = arguments.arm or list(ARMS)
    rows = complete(table, seeds, arms, arguments.out)
    taus = {arm: np.array([row["tau"] for row in rows[i :: len(arms)]]) for i, arm in enumerate(arms)}
    seconds = {arm: float(np.mean([row["fit_seconds"] for row in rows[i :: len(arms)]])) for i, arm in enumerate(arms)}
    found = {
        "seeds": list(seeds),
        "tau": {arm: interval(taus[arm]) for arm in arms},
        "fit_seconds": seconds,
        "differences": {f"{a} - {b}": interval(taus[a] - taus[b]) for a, b in PAIRS if {a, b} <= set(arms)},
        "ceilings": {str(points): ceiling(table.accuracies, points, float(taus[arms[0]].mean())) for points in NOISES},
    }
    met = list(ARMS) == arms and claims(found)
    print(json.dumps(found, indent=2) if arguments.json else text(found, arms[0], met))
    sys.exit(not met)


def claims(found: dict[str, Any]) -> bool:
    """Whether the ranking loss leads by .02, all maps lead at all, and tau is at least .62."""
    differences, taus = found["differences"], found["tau"]
    return bool(
        differences["logistic - mse"]["mean"] >= BY_VALUES
        and differences["logistic - logistic, types alone"]["low"] > BY_TAU
        and taus["logistic"]["mean"] >= BY_PAIRS
    )


def text(found: dict[str, Any], first: str, met: bool) -> str:
    """Tables for a person."""
    lines = [DEFINITIONS, "", f"{'':44}{'mean':>8}   95 % interval"]
    for title, rows in (("tau", found["tau"]), ("difference of tau", found["differences"])):
        lines.append(title)
        for name, row in rows.items():
            lines.append(f"  {name:42}{row['mean']:8.4f}   {row['low']:.4f} to {row['high']:.4f}")
    lines.append("noise of the labels, by simulation")
    for points, row in found["ceilings"].items():
        lines.append(
            f"  {points} points: perfect scores would have tau {row['perfect']:.3f}; {first} would have "
            f"{row['without_noise']:.3f} against labels without noise"
        )
    lines += [
        "seconds of a fit: " + ", ".join(f"{arm} {taken:.1f}" for arm, taken in found["fit_seconds"].items()),
        f"wanted: logistic - mse >= {BY_VALUES}, all maps above types alone, tau of logistic >= {BY_PAIRS}: "
        f"{'so it is' if met else 'NOT so'}",
        f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
