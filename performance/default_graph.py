"""What the default graph of a space of genes lets predictors see: nodes named by gene and choice, or by choice alone.

    python performance/default_graph.py [--predictors random_forest …] [--examples 100] [--seeds 5] [--json]

The space and its accuracies are those of `partial_table.py`: ten genes whose choices have equal names.
"""

import argparse
import json
import platform
import sys
import warnings
from collections.abc import Sequence

import numpy as np
import sklearn
import torch
from numpy.random import default_rng
from partial_table import Digits, Generated
from scipy.stats import kendalltau
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from nasplat.architecture import Architecture
from nasplat.graph import ABSENT, Graphs, Operation, Role
from nasplat.registry import PREDICTORS

USUAL = ("random_forest", "gradient_boosting", "gaussian_process", "isotropic_gaussian_process")
RANKED = 1_000
"""Members that are ranked; none of them was learned from."""


class ByChoice(Digits):
    """The same, with one type for all choices of one name, as the default was."""

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """As of the space, with other types."""
        graphs = super().graphs(architectures)
        names = [operation.name.rpartition("=")[2] for operation in graphs.operations]
        distinct = list(dict.fromkeys(names))
        to = np.array([*map(distinct.index, names), ABSENT], dtype=np.int16)  # the last is that of absent nodes
        roles = dict(zip(names, (operation.role for operation in graphs.operations), strict=True))
        operations = tuple(Operation(name, roles.get(name, Role.OTHER)) for name in distinct)
        return Graphs(operations, to[graphs.types], graphs.adjacency, graphs.params, graphs.macs)


def taus(predictor: str, space: type[Digits], examples: int, seeds: int) -> list[float]:
    """Kendall's tau of what a predictor says of members that it has not learned from, for each table."""
    found = []
    for seed in range(seeds):
        made = space()
        table = Generated(made, seed=seed).accuracies
        members, values = list(table), np.array(list(table.values()))
        order = default_rng(seed).permutation(len(members))
        learned, ranked = order[:examples], order[examples : examples + RANKED]
        given, asked = [members[i] for i in learned], [members[i] for i in ranked]
        if predictor == "sklearn":
            kernel = ConstantKernel() * Matern(length_scale=3.0, nu=2.5) + WhiteKernel(0.1)
            process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
            process.fit([made.features(each) for each in given], values[learned])
            said = process.predict([made.features(each) for each in asked])
        else:
            said = PREDICTORS.get(predictor)(made).fit(given, values[learned]).predict(asked)
        found.append(float(kendalltau(said, values[ranked]).statistic))
    return found


def main() -> None:
    """Fit, rank, and print the mean of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--predictors", nargs="+", default=list(USUAL))
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # of scikit-learn's process, whose bounds are usual
    spaces = {"by choice": ByChoice, "by gene and choice": Digits}
    found = {
        name: {said: taus(name, space, arguments.examples, arguments.seeds) for said, space in spaces.items()}
        for name in arguments.predictors
    }
    one_hot = taus("sklearn", Digits, arguments.examples, arguments.seeds)
    if arguments.json:
        print(json.dumps({"predictors": found, "one_hot": one_hot}, indent=2))
        return
    print(f"Kendall's tau of {arguments.examples} examples, mean of {arguments.seeds} tables")
    for name, each in found.items():
        print(f"{name:28} " + "  ".join(f"{said}: {np.mean(values):.3f}" for said, values in each.items()))
    print(f"scikit-learn's Gaussian process on one-hot genes: {np.mean(one_hot):.3f}")
    print(f"Python {platform.python_version()}, scikit-learn {sklearn.__version__}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
