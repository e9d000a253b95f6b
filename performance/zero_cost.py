"""How well zero-cost proxies rank the cells of NAS-Bench-201: their correlation with its CIFAR-10 test accuracy.

    python performance/zero_cost.py [--cells 1000] [--dataset cifar10_jpeg] [--batch 64] [--initialization default]
                                    [--initializations 1] [--seed 0] [--timed 20] [--out FILE] [--json]

It needs the table and the pictures (see the README). About twenty minutes on one core; every cell is a line of the
file as soon as it is done, and a second call goes on where the first was interrupted.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from scipy import stats
from torch import nn

from nasplat.architecture import IO, Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.config import Workload
from nasplat.data.datasets import dataset
from nasplat.encodings.pruned_graph import PrunedGraphs
from nasplat.errors import InputError
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.search_space import SearchSpace
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.surrogates.zero_cost import MEASURED, PROXIES, Proxies, noise

WANTED = {"nwot": 0.81, "synflow": 0.78, "jacov": 0.80}
PUBLISHED = {"synflow": 0.74, "jacov": 0.73, "snip": 0.58, "grad_norm": 0.58}
"""By Abdelfattah et al., 2021, for all cells and the validation accuracy."""
CLOSE = 0.05
DEFINITIONS = """\
NAS-Bench-201, CIFAR-10, test accuracy after 200 epochs, mean over seeds. Cells are drawn at random, without repetition,
of those whose output is joined to the input by operations that are not none. Spearman's rank correlation, with the
bootstrap 95 % interval over cells."""


class Initialized(NASBench201):
    """The same networks with weights of another distribution: Kaiming's normal one, and no bias of the classifier."""

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        network = super().build(architecture, io)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        return network


SPACES: dict[str, type[NASBench201]] = {"default": NASBench201, "kaiming": Initialized}


def reachable(space: SearchSpace, every: Sequence[Architecture]) -> list[Architecture]:
    """The cells through which something flows."""
    flows = PrunedGraphs.of(space.graphs(every)).live[:, 0].tolist()  # of the input
    return [cell for cell, something in zip(every, flows, strict=True) if something]


def table() -> tuple[SearchSpace, dict[Architecture, float]]:
    """All cells with their accuracies."""
    benchmark = Workload("nasbench201", "nasbench201", {}, {"search_column": "test"}).make()
    benchmark.check()
    space = benchmark.space
    goal = Goal((Objective("accuracy", maximize=True),))
    problem = Problem(space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=0)
    codes = np.ndindex(*[5] * 6)
    cells = [space.parse("".join(map(str, code))) for code in codes]
    found = [benchmark.measure(problem.evaluate(cell), device="cpu", artifacts=MemoryArtifacts()) for cell in cells]
    return space, {cell: measured.metrics["accuracy"] for cell, measured in zip(cells, found, strict=True)}


def proxies(arguments: argparse.Namespace, names: Sequence[str] = PROXIES) -> Proxies:
    """As the arguments say."""
    if arguments.dataset == "noise":
        io = NASBench201.reference_io
        images, labels = noise(io, arguments.batch, arguments.seed)
    else:
        data = dataset(arguments.dataset)
        data.check()
        training, io = data.load().training, data.io
        images, labels = training.batch(
            torch.from_numpy(default_rng(arguments.seed).permutation(len(training))[: arguments.batch])
        )
    return Proxies(
        SPACES[arguments.initialization](),
        io,
        names=names,
        initializations=arguments.initializations,
        seed=arguments.seed,
        images=images,
        labels=labels,
    )


class Rows:
    """The lines of a file: the settings, then what was done under them.

    Raises:
        InputError: The file is of other settings.
    """

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        self.file = file
        self.known: dict[str, dict[str, Any]] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                print(f"left out, cut off: {line[:60]}", file=sys.stderr)
                continue
            self.known[row["key"]] = row
        if not self.known:
            file.write_text("")
            self.add({"key": "settings", **settings})
        elif self.known.get("settings") != {"key": "settings", **settings}:
            raise InputError(f"{file} is of {self.known.get('settings')}, not of {settings}; give another --out")
        elif not file.read_text().endswith("\n"):
            with file.open("a") as end:
                end.write("\n")

    def add(self, row: dict[str, Any]) -> None:
        """One more line, at once."""
        self.known[row["key"]] = row
        with self.file.open("a") as end:
            end.write(json.dumps(row) + "\n")


def measure(rows: Rows, of: Proxies, cells: Iterable[Architecture]) -> None:
    """Add what the file lacks: all proxies of every cell, in passes that they share."""
    for number, cell in enumerate(cells):
        if cell.code not in rows.known:
            begun = time.perf_counter()
            figures = of(cell)
            rows.add({"key": cell.code, **figures, "seconds": time.perf_counter() - begun})
            if number % 50 == 0:
                print(f"{number} cells", file=sys.stderr)


def clock(rows: Rows, arguments: argparse.Namespace, cells: Sequence[Architecture]) -> None:
    """Add what the file lacks: the time of each proxy alone, for some cells."""
    for name in MEASURED:
        wanted = [cell for cell in cells if f"{name} alone {cell.code}" not in rows.known]
        of = proxies(arguments, [name]) if wanted else None
        for cell in wanted:
            assert of is not None
            begun = time.perf_counter()
            of(cell)
            rows.add({"key": f"{name} alone {cell.code}", "seconds": time.perf_counter() - begun})


def spearman(figures: Sequence[float], accuracies: Sequence[float], draws: int = 1000) -> dict[str, float]:
    """The correlation, and its bootstrap 95 % interval."""
    pairs, rng = np.array([figures, accuracies]), default_rng(0)
    drawn = [stats.spearmanr(*pairs[:, rng.integers(len(figures), size=len(figures))]).statistic for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"rho": float(stats.spearmanr(*pairs).statistic), "low": float(low), "high": float(high)}


def main() -> None:
    """Measure what is missing, and correlate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--cells", type=int, default=1_000)
    parser.add_argument("--dataset", default="cifar10_jpeg", help="whose training pictures, or noise")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--initialization", choices=SPACES, default="default")
    parser.add_argument("--initializations", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the cells, the pictures and the weights")
    parser.add_argument("--timed", type=int, default=20, help="cells for which each proxy is timed alone")
    parser.add_argument("--out", type=Path, default=Path("runs/zero-cost.jsonl"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    if arguments.cells < 10 or arguments.timed < 1:
        raise InputError(
            f"at least 10 cells and 1 timed one are needed, but got {arguments.cells} and {arguments.timed}"
        )
    torch.set_num_threads(1)
    space, accuracies = table()
    members = reachable(space, list(accuracies))
    cells = [members[i] for i in default_rng(arguments.seed).permutation(len(members))[: arguments.cells]]
    named = ("dataset", "batch", "initialization", "initializations", "seed")
    rows = Rows(arguments.out, {name: getattr(arguments, name) for name in named})
    measure(rows, proxies(arguments), cells)
    timed = cells[: arguments.timed]
    clock(rows, arguments, timed)
    truth = [accuracies[cell] for cell in cells]
    found = {
        "reachable": len(members),
        "cells": len(cells),
        "spearman": {name: spearman([rows.known[cell.code][name] for cell in cells], truth) for name in PROXIES},
        "seconds": {
            name: float(np.mean([rows.known[f"{name} alone {cell.code}"]["seconds"] for cell in timed]))
            for name in MEASURED
        },
        "seconds together": float(np.mean([rows.known[cell.code]["seconds"] for cell in cells])),
    }
    print(json.dumps(found, indent=2) if arguments.json else text(found))


def text(found: dict[str, Any]) -> str:
    """A table for a person."""
    lines = [DEFINITIONS, f"{found['cells']} of {found['reachable']} such cells.", ""]
    lines.append(f"{'':10}{'rho':>7}   {'95 % interval':18}{'published':>9} {'wanted':>7}  {'seconds alone':>13}")
    for name, row in found["spearman"].items():
        published = f"{PUBLISHED[name]:.2f}" if name in PUBLISHED else ""
        wanted = f"{WANTED[name]:.2f}" if name in WANTED else ""
        alone = f"{found['seconds'][name]:.3f}" if name in found["seconds"] else "none"
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(f"{name:10}{row['rho']:7.3f}   {interval:18}{published:>9} {wanted:>7}  {alone:>13}")
    close = all(abs(found["spearman"][name]["rho"] - value) <= CLOSE for name, value in WANTED.items())
    lines += [
        f"seconds of a cell, all together: {found['seconds together']:.3f}",
        f"wanted: each within {CLOSE}: {'so it is' if close else 'NOT so'}",
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
