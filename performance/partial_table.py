"""Search on a table that holds few members of a large space: with its nearest members offered, and without.

    python performance/partial_table.py [--strategies regularized_evolution …] [--seeds 20] [--json]

The table is generated: accuracies of 5,000 of 10^10 members, from effects of choices and of pairs of choices.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import torch
from fronts import Gain
from numpy.random import default_rng

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts, MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.cost import Cost
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.search_space import Gene, GeneSpace
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Measurement

GENES, CHOICES, HELD, EVALUATIONS = 10, 10, 5_000, 200
PAIRS = 0.5
"""Deviation of the effect of a pair of choices, beside 1 of a choice."""
SEARCHES = ("random_search", "regularized_evolution", "nsga2", "credit_evolution", "local_search", "predictor_guided")


class Digits(GeneSpace):
    """Ten genes of ten choices each."""

    name: ClassVar[str] = "digits"
    builds: ClassVar[bool] = False
    genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(f"gene {i}", tuple("0123456789")) for i in range(GENES))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """None is known."""
        return Cost(counted=False)

    def build(self, architecture: Architecture, io: IO) -> torch.nn.Module:
        """There are no networks."""
        raise NotImplementedError


class Generated(Benchmark):
    """A table of a part of the members, drawn by a seed."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    trains: ClassVar[bool] = False
    looks_up: ClassVar[bool] = True

    def __init__(self, space: Digits, *, seed: int, held: int = HELD) -> None:
        super().__init__(space)
        rng = default_rng(seed)
        drawn = rng.integers(CHOICES, size=(held, GENES))
        single = rng.standard_normal((GENES, CHOICES))
        worth = single[np.arange(GENES), drawn].sum(axis=1)
        for one, other in combinations(range(GENES), 2):
            together = PAIRS * rng.standard_normal((CHOICES, CHOICES))
            worth += together[drawn[:, one], drawn[:, other]]
        accuracies = 1 / (1 + np.exp(-worth / worth.std()))
        self.accuracies = {space.member(row.tolist()): float(a) for row, a in zip(drawn, accuracies, strict=True)}

    @property
    def io(self) -> IO:
        return IO.image(channels=1, side=8, outputs=10)

    @property
    def fidelity(self) -> int:
        return 1

    def prepare(self) -> None:
        pass

    def feasible(self, architecture: Architecture) -> bool:
        return architecture in self.accuracies

    @property
    def enumerable_members(self) -> Sequence[Architecture]:
        return list(self.accuracies)

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(task=task, metrics={"accuracy": self.accuracies[task.architecture]})


@dataclass(frozen=True)
class Found:
    """The rank of the best member that a search measured, for each seed; 1 is the best of the table."""

    alone: list[int]
    offered: list[int]


def rank(name: str, seed: int, *, offered: bool) -> int:
    """The rank of the best member after `EVALUATIONS` measurements of a search on the table of a seed."""
    table = Generated(Digits(), seed=seed)
    problem = Problem.of(table, Goal((Objective("accuracy", maximize=True),)), seed=seed)
    make: Callable[..., Strategy] = STRATEGIES.get(name)
    found = set[Architecture]()
    with ExitStack() as stack:
        if not offered:
            stack.enter_context(patch.object(Problem, "_nearest", None))
        strategy = make(problem)
        for _ in range(50 * EVALUATIONS):  # an architecture that is asked for again costs nothing
            tasks = strategy.ask(1)
            if not tasks or len(found) == EVALUATIONS:
                break
            (task,) = tasks
            assert isinstance(task, Evaluate)
            found.add(task.architecture)
            strategy.tell(table.measure(task, device="cpu", artifacts=MemoryArtifacts()))
    best = max(table.accuracies[architecture] for architecture in found)
    return sum(accuracy > best for accuracy in table.accuracies.values()) + 1


def compared(names: Sequence[str], seeds: int) -> Mapping[str, Found]:
    """Every strategy, with the nearest members offered and without."""
    return {
        name: Found(*([rank(name, seed, offered=offered) for seed in range(seeds)] for offered in (False, True)))
        for name in names
    }


def main() -> None:
    """Search, and print the ranks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--strategies", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = compared(arguments.strategies, arguments.seeds)
    if arguments.json:
        print(json.dumps({name: asdict(each) for name, each in found.items()}, indent=2))
        return
    print(f"Rank of the best of {HELD:,} after {EVALUATIONS} evaluations, mean of {arguments.seeds} tables")
    print(f"{'':22} {'proposals as made':>18} {'nearest members':>16} {'less, with its 95 % interval':>34}")
    for name, each in found.items():
        same = each.offered == each.alone
        less = "the same" if same else str(Gain.of(list(map(float, each.offered)), list(map(float, each.alone))))
        print(f"{name:22} {np.mean(each.alone):18.1f} {np.mean(each.offered):16.1f} {less:>34}")
    print(f"Python {platform.python_version()}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
