"""Whether zero-cost proxies help a predictor: random forests on cells of NAS-Bench-201, with proxies and without.

    python performance/zero_cost_features.py [--pool 800] [--splits 20] [--known 78] [--predictor NAME] [--seed 0]

It needs the table (see the README). A few minutes on one core.
"""

import argparse
import os
import platform
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from scipy import stats

from nasplat.artifact import MemoryArtifacts
from nasplat.config import Workload
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.surrogates.predictor_store import make_predictor
from nasplat.surrogates.zero_cost import PROXIES

ARMS: dict[str, tuple[str, ...]] = {
    "nwot": ("nwot",),
    "synflow": ("synflow",),
    "jacov": ("jacov",),
    "nwot, synflow, jacov": ("nwot", "synflow", "jacov"),
    "all seven": PROXIES,
}
DEFINITIONS = """\
NAS-Bench-201, CIFAR-10, test accuracy, mean over seeds. Each split draws the cells to learn from out of a pool of
random cells; all others of the pool are ranked. Kendall's tau-b, mean over the splits, and its mean paired difference
to the predictor without proxies, with the 95 % interval of Student's t, which takes splits for independent."""


def main() -> None:
    """Fit on every split with every set of proxies, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--pool", type=int, default=800)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--known", type=int, default=78)
    parser.add_argument("--predictor", default="random_forest")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    benchmark = Workload("nasbench201", "nasbench201", {}, {"search_column": "test"}).make()
    benchmark.check()
    goal = Goal((Objective("accuracy", maximize=True),))
    problem = Problem(benchmark.space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=arguments.seed)
    pool = list({cell.code: cell for cell in (problem.sample() for _ in range(arguments.pool))}.values())
    measured = [benchmark.measure(problem.evaluate(cell), device="cpu", artifacts=MemoryArtifacts()) for cell in pool]
    accuracies = np.array([measurement.metrics["accuracy"] for measurement in measured])
    orders = [default_rng([arguments.seed, split]).permutation(len(pool)) for split in range(arguments.splits)]

    def taus(proxies: tuple[str, ...]) -> Any:
        found = []
        for order in orders:
            known, unseen = order[: arguments.known], order[arguments.known :]
            predictor = make_predictor(arguments.predictor, benchmark.space, {"proxies": list(proxies)})
            predictor.fit([pool[i] for i in known], accuracies[known])
            predicted = predictor.predict([pool[i] for i in unseen])
            found.append(stats.kendalltau(predicted, accuracies[unseen]).statistic)
        return np.array(found)

    print(f"{DEFINITIONS}\n{arguments.predictor}, {len(pool)} cells, {arguments.known} of them known.\n")
    without = taus(())
    print(f"{'without':24}{without.mean():8.4f}")
    for name, proxies in ARMS.items():
        found = taus(proxies)
        difference = found - without
        half = stats.t.ppf(0.975, len(found) - 1) * difference.std(ddof=1) / len(found) ** 0.5
        low, high = difference.mean() - half, difference.mean() + half
        print(f"{name:24}{found.mean():8.4f}  {difference.mean():+.4f} ({low:+.4f} to {high:+.4f})", flush=True)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")


if __name__ == "__main__":
    main()
