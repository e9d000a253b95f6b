"""How long a predictor takes to learn, and to score whole search spaces.

    python performance/predictor_speed.py [--predictor auto] [--cells CELLS.npz] [--threads N] [--json]

Learns from 424 cells of NAS-Bench-101 and of NAS-Bench-201, drawn from their tables (see the README), and scores all
15,625 codes of NAS-Bench-201 and, where a file of them is given, all cells of NAS-Bench-101: `adj_bits`, `num_vertices`
and `ops` (0 conv3x3, 1 conv1x1, 2 maxpool) as arrays without pickle.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.config import Workload
from nasplat.objective import Goal, Objective
from nasplat.predictor import Predictor
from nasplat.problem import Problem
from nasplat.surrogates.predictor_store import make_predictor

EXAMPLES = 424


def learnt(name: str, space: str) -> tuple[Predictor, float]:
    """A predictor of the cells of a table, and the seconds that it took to learn."""
    benchmark: Benchmark = Workload(space, space).make()
    benchmark.check()
    problem = Problem.of(benchmark, Goal((Objective("accuracy", maximize=True),)))
    cells: list[Architecture] = []
    while len(cells) < EXAMPLES:
        cell = problem.sample()
        if cell not in cells:
            cells.append(cell)
    found = [benchmark.measure(problem.evaluate(cell), device="cpu", artifacts=MemoryArtifacts()) for cell in cells]
    accuracies = np.array([measurement.metrics["accuracy"] for measurement in found])
    predictor = make_predictor(name, benchmark.space)
    began = time.perf_counter()
    predictor.fit(cells, accuracies)
    return predictor, time.perf_counter() - began


def scored(predictor: Predictor, cells: list[Architecture]) -> float:
    """The seconds that scoring takes."""
    predictor.predict(cells[:10])  # whatever is made once is there
    began = time.perf_counter()
    assert np.isfinite(predictor.predict(cells)).all()
    return time.perf_counter() - began


def every_cell(path: Path) -> list[Architecture]:
    """The cells of NAS-Bench-101 in a file."""
    with np.load(path, allow_pickle=False) as arrays:
        bits, vertices, operations = (arrays[name] for name in ("adj_bits", "num_vertices", "ops"))
    letters = np.array(list("31m"))
    return [
        Architecture("nasbench101", f"{int(b):06x}:{''.join(letters[row[: int(n) - 2]])}")
        for b, n, row in zip(bits, vertices, operations, strict=True)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictor", default="auto")
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    result: dict[str, Any] = {"predictor": given.predictor, "threads": torch.get_num_threads()}
    predictor, result["fit 424 of NAS-Bench-201, s"] = learnt(given.predictor, "nasbench201")
    codes = ["".join(code) for code in product("01234", repeat=6)]
    result["score 15,625 of NAS-Bench-201, s"] = scored(predictor, [Architecture("nasbench201", c) for c in codes])
    predictor, result["fit 424 of NAS-Bench-101, s"] = learnt(given.predictor, "nasbench101")
    if given.cells:
        cells = every_cell(given.cells)
        cells = [cells[i] for i in default_rng(0).permutation(len(cells))]
        result[f"score {len(cells):,} of NAS-Bench-101, s"] = scored(predictor, cells)
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        for key, value in result.items():
            print(f"{key:<40} {value if not isinstance(value, float) else format(value, '.2f')}")


if __name__ == "__main__":
    main()
