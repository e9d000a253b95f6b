"""How predictors rank by the default graph of a space of genes, beside a Gaussian process on one-hot features.

    python performance/default_graph.py [--spaces digits mobile nasbench201 nasbench101] [--predictors random_forest …]
        [--examples 50 100 400] [--seeds 5] [--json]

Two spaces are generated and have the default graph: `digits` is that of `partial_table.py`, ten genes whose choices
have equal names; `mobile` has 28 genes of a network of seven stages. With --before they have the default graph as it
was: one type for all choices of one name, and no costs. The two tables have graphs of their own, before as now; they
need the data folder (see the README). The peer learns from the space's own features: one-hot genes, and for
NAS-Bench-101 its matrix and operations.
"""

import argparse
import json
import math
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, TypeVar

import numpy as np
import sklearn
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from partial_table import HELD, Digits, Generated
from scipy.stats import kendalltau
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from nasplat.architecture import IO, Architecture
from nasplat.cost import Cost
from nasplat.encodings.encoding import Encodings
from nasplat.errors import InputError
from nasplat.graph import ABSENT, Graphs, Operation, Role
from nasplat.registry import PREDICTORS
from nasplat.search_space import Gene, GeneSpace, SearchSpace
from searching import Table

Floats = NDArray[np.float64]

USUAL = (
    "auto",
    "gaussian_process",
    "isotropic_gaussian_process",
    "random_forest",
    "gradient_boosting",
    "lightgbm",
    "graph_network",
)
ONE_HOT = "one-hot process"
RANKED = 2_000
"""Members that are ranked; none of them was learned from."""
STAGES = 7
WIDTHS = (16, 24, 40, 80, 112, 160, 192)
PIXELS = (112**2, 56**2, 28**2, 14**2, 14**2, 7**2, 7**2)
NOISE = 0.05
"""Deviation of the noise of an accuracy of `mobile`, beside 1 of the accuracies."""


class Mobile(GeneSpace):
    """Seven stages of blocks, each with an expansion, a number of layers, a kernel and attention: 28 genes."""

    name: ClassVar[str] = "mobile"
    builds: ClassVar[bool] = False
    genes: ClassVar[tuple[Gene, ...]] = tuple(
        gene
        for stage in range(STAGES)
        for gene in (
            Gene(f"expansion {stage}", ("1", "3", "6")),
            Gene(f"layers {stage}", ("1", "2", "3", "4")),
            Gene(f"kernel {stage}", ("3", "5", "7")),
            Gene(f"attention {stage}", ("0", "1")),
        )
    )

    def decisions(self, architecture: Architecture) -> list[tuple[int, ...]]:
        """Expansion, layers, kernel and attention of each stage."""
        numbers = [int(self.genes[i].choices[choice]) for i, choice in enumerate(self.choices(architecture))]
        return [tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """Of the convolutions, without parts."""
        params = macs = 0
        for (expansion, layers, kernel, attention), width, pixels in zip(
            self.decisions(architecture), WIDTHS, PIXELS, strict=True
        ):
            hidden = expansion * width
            weights = 2 * width * hidden + kernel**2 * hidden
            squeezed = attention * hidden * hidden // 4
            params += layers * (weights + squeezed)
            macs += layers * (weights * pixels + squeezed)
        return Cost(params=params, macs=macs, memory_bits=32 * params)

    def build(self, architecture: Architecture, io: IO) -> torch.nn.Module:
        """There are no networks."""
        raise NotImplementedError


Made = TypeVar("Made", bound=GeneSpace)


def as_before(space: type[Made]) -> type[Made]:
    """The space with the default graph of before: one type for all choices of one name, and no costs."""

    class Before(space):  # type: ignore[valid-type,misc]
        """As the space."""

        def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
            graphs: Graphs = super().graphs(architectures)
            names = [operation.name.rpartition("=")[2] for operation in graphs.operations]
            distinct = list(dict.fromkeys(names))
            to = np.array([*map(distinct.index, names), ABSENT], dtype=np.int16)  # the last is that of absent nodes
            roles = dict(zip(names, (operation.role for operation in graphs.operations), strict=True))
            operations = tuple(Operation(name, roles.get(name, Role.OTHER)) for name in distinct)
            return Graphs(operations, to[graphs.types], graphs.adjacency, 0 * graphs.params, 0 * graphs.macs)

    return Before


def mobile(space: Mobile, seed: int, count: int) -> tuple[list[Architecture], Floats]:
    """Members and generated accuracies: stages with diminishing returns, interactions, and a loss for uneven ones."""
    rng = default_rng(seed)
    members = [space.sample(rng) for _ in range(count)]
    weights, kernels, attentions, together = (
        rng.uniform(low, high, STAGES) for low, high in ((0.5, 1.5), *3 * [(0, 0.3)])
    )
    worth = []
    for member in members:
        expansion, layers, kernel, attention = np.array(space.decisions(member), dtype=np.float64).T
        capacity = np.log(layers) + 0.7 * np.log(expansion) + kernels * (kernel - 3) / 2 + attentions * attention
        capacity += together * np.log(layers) * attention
        worth.append((weights * capacity).sum() - 0.4 * np.abs(np.diff(capacity)).sum())
    scores = -np.exp(-0.7 * (np.array(worth) - np.mean(worth)) / np.std(worth))
    return members, scores + NOISE * scores.std() * rng.standard_normal(count)


@cache
def table(name: str) -> tuple[SearchSpace, list[Architecture], Floats]:
    """The members of a table, with accuracies."""
    options: dict[str, Any] = {"search_column": "test"} if name == "nasbench201" else {"single_repeat": True}
    held = Table(name, name, ["accuracy:max"], **options)
    return held.space, held.members, held.values


def drawn(name: str, seed: int, examples: int, *, before: bool) -> tuple[SearchSpace, list[Architecture], Floats]:
    """Members of a space, and their accuracies, in an order drawn by the seed."""
    count = examples + RANKED
    if name == "digits":
        digits = (as_before(Digits) if before else Digits)()
        found = Generated(digits, seed=seed).accuracies
        return digits, list(found)[:count], np.array(list(found.values()))[:count]
    if name == "mobile":
        space = (as_before(Mobile) if before else Mobile)()
        return space, *mobile(space, seed, count)
    of, members, values = table(name)
    order = default_rng([seed, 24]).permutation(len(members))[:count]
    return of, [members[i] for i in order], values[order]


class OneHotProcess:
    """scikit-learn's Gaussian process on a space's own features, which are one-hot genes."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        kernel = ConstantKernel() * Matern(length_scale=3.0, nu=2.5) + WhiteKernel(0.1)
        self.process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)

    def fit(self, architectures: Sequence[Architecture], scores: Floats) -> "OneHotProcess":
        """Fit it."""
        self.process.fit(self._rows(architectures), scores)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> Floats:
        """Its means."""
        means: Floats = self.process.predict(self._rows(architectures))
        return means

    def _rows(self, architectures: Sequence[Architecture]) -> list[Floats]:
        return [self.space.features(each).ravel() for each in architectures]


def ranked(space: str, predictor: str, examples: int, seed: int, *, before: bool = False) -> tuple[float, float]:
    """Kendall's tau with members that were not learned from, and seconds of CPU of the fit."""
    made, members, values = drawn(space, seed, examples, before=before)
    given, asked = Encodings(made, members[:examples]), Encodings(made, members[examples:])
    kind: Any = OneHotProcess if predictor == ONE_HOT else PREDICTORS.get(predictor)
    began = time.process_time()
    fitted = kind(made).fit(given, values[:examples])
    seconds = time.process_time() - began
    return float(kendalltau(fitted.predict(asked), values[examples:]).statistic), seconds


def main() -> None:
    """Fit, rank, and print the mean of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spaces", nargs="+", default=["digits", "mobile", "nasbench201", "nasbench101"])
    parser.add_argument("--predictors", nargs="+", default=list(USUAL))
    parser.add_argument("--examples", nargs="+", type=int, default=[50, 100, 400])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--before", action="store_true", help="with the default graph as it was, on generated spaces")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    if max(arguments.examples) > HELD - RANKED and "digits" in arguments.spaces:
        parser.error(f"digits has {HELD:,} members, of which {RANKED:,} are ranked")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # of scikit-learn's process, whose bounds are usual
    rows = []
    if not arguments.json:
        print("Kendall's tau, and seconds of CPU of the slowest fit in brackets")
    for space in arguments.spaces:
        for predictor in (*arguments.predictors, ONE_HOT):
            row: dict[str, Any] = {"space": space, "predictor": predictor}
            for examples in arguments.examples:
                found = [
                    ranked(space, predictor, examples, seed, before=arguments.before)
                    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
                ]
                row[str(examples)] = {"taus": [tau for tau, _ in found], "seconds": max(each for _, each in found)}
            rows.append(row)
            if not arguments.json:
                cells = (
                    f"{examples:4}: {np.mean(cell['taus']):.3f} ± {error(cell['taus']):.3f} ({cell['seconds']:.1f} s)"
                    for examples in arguments.examples
                    for cell in [row[str(examples)]]
                )
                print(f"{space:12} {predictor:28}" + "  ".join(cells), flush=True)
    if arguments.json:
        print(json.dumps({"before": arguments.before, "rows": rows}, indent=2))
    else:
        print(
            f"seeds from {arguments.first_seed}; Python {platform.python_version()}, scikit-learn {sklearn.__version__}"
        )


def error(values: Sequence[float]) -> float:
    """The standard error of a mean; not a number for a single value."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


if __name__ == "__main__":
    try:
        main()
    except InputError as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
