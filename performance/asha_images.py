"""How many training images ASHA needs to find as good a network as training every candidate in full.

    python performance/asha_images.py [--seeds 0 1 2 3 4] [--folder runs/asha-images] [--json]

Fashion-MNIST in the data folder, or its download, is needed. About eight minutes for each seed on one core; the
searches are ordinary runs below the folder, and a second call goes on where the first was interrupted.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from nasplat.config import SearchConfig
from nasplat.errors import InputError
from nasplat.run.directory import RunDirectory
from nasplat.run.history import History
from nasplat.task import Measurement
from nasplat.testing.runs import searched

EPOCHS, CANDIDATES, SUBSET = 9, 18, 3_000
SHARE = 0.5
DEFINITIONS = f"""\
Space: NAS-Bench-201's cells in small networks (4 channels, 1 cell in each stage). Benchmark: Fashion-MNIST, {SUBSET:,}
training and validation images (5 : 1), batches of 64, {EPOCHS} epochs in full. Full training is random search over
{CANDIDATES} architectures. ASHA (eta 3, rungs 1, 3, 9) goes around the same random search, which with the same seed
proposes the same architectures in the same order, and stops before {SHARE:g} of full training's processed images.
Compared is the best validation accuracy of a whole training, and what the test images, touched last, say of that
network: picking the best of many flatters it, and the more so the more there are. "Reached at" is the share of full
training's images that ASHA had processed when it first had a network at least as good as full training's best."""


def config(strategy: str, seed: int, **budget: int) -> SearchConfig:
    """One search."""
    benchmark = {"name": "classification", "dataset": "fashion_mnist", "subset": SUBSET, "epochs": EPOCHS}
    return SearchConfig.read(
        {
            "space": {"name": "nasbench201", "channels": 4, "cells": 1},
            "benchmark": benchmark,
            "strategy": strategy,
            "objectives": ["accuracy:max"],
            "budget": budget,
            "seed": seed,
        }
    )


def search(folder: Path, wanted: SearchConfig) -> History:
    """Run a search, go on with it, or look at it if it has ended."""
    if not folder.exists() or RunDirectory(folder).history().ended is None:
        searched(folder, wanted)
    return RunDirectory(folder).history()


def tested(history: History) -> float:
    """The test accuracy of a search's best network."""
    best = history.front[0]
    return history.run.final(best, history.run.benchmark()).metrics["accuracy"]


def compare(folder: Path, seed: int) -> dict[str, Any]:
    """Both searches of one seed."""
    full = search(folder / f"full-{seed}", config("random_search", seed, evaluations=CANDIDATES))
    whole_trial = full.measured[0].spent.images
    allowed = int(SHARE * full.spending.images) - whole_trial  # the last trial may still be at work when it is reached
    asha = search(folder / f"asha-{seed}", config("asha", seed, evaluations=100_000, images=allowed))
    best = full.front[0].metrics["accuracy"]
    reached, images = None, 0
    for outcome in asha.outcomes:
        images += outcome.spent.images
        if isinstance(outcome, Measurement) and outcome.task.fidelity == EPOCHS:
            good = outcome.metrics["accuracy"] >= best
            reached = images / full.spending.images if good and reached is None else reached
    return {
        "seed": seed,
        "full_best": best,
        "full_images": full.spending.images,
        "full_test": tested(full),
        "asha_best": asha.front[0].metrics["accuracy"],
        "asha_test": tested(asha),
        "asha_images": asha.spending.images,
        "asha_share": asha.spending.images / full.spending.images,
        "asha_entered": sum(m.task.fidelity == 1 for m in asha.measured),
        "asha_at_top": sum(m.task.fidelity == EPOCHS for m in asha.measured),
        "reached_at": reached,
    }


def main() -> None:
    """Compare seed by seed, and say what the difference is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/asha-images"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        print(f"seed {seed} …", file=sys.stderr)
        rows.append(compare(arguments.folder, seed))
    summary = {what: difference(rows, what) for what in ("best", "test")}
    if arguments.json:
        print(json.dumps({"seeds": rows, "difference": summary}, indent=2))
        return
    print(DEFINITIONS)
    print(f"\n{'':4} {'full training':^19} {'ASHA':^19}")
    print(
        f"seed {'best':>9} {'test':>9} {'best':>9} {'test':>9} {'images':>7} {'entered':>8} {'at top':>7}  reached at"
    )
    for row in rows:
        reached = "never" if row["reached_at"] is None else f"{row['reached_at']:.3f}"
        figures = " ".join(f"{100 * row[name]:7.2f} %" for name in ("full_best", "full_test", "asha_best", "asha_test"))
        print(
            f"{row['seed']:4} {figures} {row['asha_share']:7.3f} {row['asha_entered']:8} {row['asha_at_top']:7} "
            f"{reached:>11}"
        )
    for what, (mean, low, high) in summary.items():
        print(f"ASHA minus full, {what}: {100 * mean:.2f} points, 95 % interval {100 * low:.2f} to {100 * high:.2f}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")


def difference(rows: list[dict[str, Any]], what: str) -> tuple[float, float, float]:
    """The mean of the paired differences, and its 95 % interval by Student's t."""
    differences = np.array([row[f"asha_{what}"] - row[f"full_{what}"] for row in rows])
    mean = float(differences.mean())
    if len(rows) < 2 or not differences.std():
        return mean, float("nan"), float("nan")
    low, high = stats.t.interval(0.95, len(rows) - 1, mean, stats.sem(differences))
    return mean, float(low), float(high)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
