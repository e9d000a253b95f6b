"""How much of NAS-Bench-201's true front NSGA-II finds: ours, pymoo's and Optuna's, beside random search.

    python performance/nsga2_fronts.py [--seeds 20] [--first-seed 1000] [--json]

It needs the table (see the README), and Optuna: `pip install nasplat[performance]`. About three minutes on one core.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.indicators.hv import HV

import searching
from nasplat.errors import InputError
from nasplat.registry import STRATEGIES
from searching import search

COUNTS = (100, 300, 1_000)
OPERATIONS, EDGES = 5, 6
DEFINITIONS = """\
NAS-Bench-201, CIFAR-10: test accuracy after 200 epochs, mean over the trained seeds (up), table MACs (down). Shown is
the hypervolume of all that was evaluated, as a share of the true front's, after so many evaluations; reference point
80 % and the largest MACs; mean over the seeds, and its standard error. An evaluation is one that the method asks for,
repeats included. All methods see the six edges as choices of one of five operations."""

Code = str
Ask = Callable[[int, "Table"], list[Code]]


class Table(searching.Table):
    """Accuracies and MACs by code, looked up once, and what a front is worth."""

    def __init__(self) -> None:
        objectives = ("accuracy:max", "table_macs:min")
        super().__init__("nasbench201", "nasbench201", objectives, search_column="test")
        self.losses: dict[Code, tuple[float, float]] = {}
        for member in self.members:
            metrics = self.metrics(member)
            self.losses[member.code] = (-metrics["accuracy"], metrics["table_macs"])
        self._hypervolume = HV(ref_point=np.array([-0.8, max(macs for _, macs in self.losses.values())]))
        self._whole = self._volume(list(self.losses))

    def share(self, codes: list[Code]) -> float:
        """The hypervolume of some codes as a share of that of all."""
        return self._volume(codes) / self._whole

    def matrix(self, codes: "NDArray[np.int64]") -> "NDArray[np.float64]":
        """Losses `[n, 2]` of codes `[n, 6]`."""
        return np.array([self.losses["".join(map(str, code))] for code in codes])

    def _volume(self, codes: list[Code]) -> float:
        return float(self._hypervolume(np.array([self.losses[code] for code in set(codes)])))


def ours(name: str, **options: Any) -> Ask:
    """One of our strategies, its trials one after another."""

    def run(seed: int, table: Table) -> list[Code]:
        make: Any = STRATEGIES.get(name)
        strategy = make(table.problem(seed), **options)
        return [member.code for member in search(strategy, table.metrics, trials=COUNTS[-1], seed=seed).asked]

    return run


def pymoo_integers(seed: int, table: Table) -> list[Code]:
    """pymoo's NSGA-II on integers with its own real-coded operators rounded, population 50."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    algorithm = NSGA2(
        pop_size=50,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    return _pymoo(algorithm, seed, table)


def pymoo_choices(seed: int, table: Table) -> list[Code]:
    """pymoo's NSGA-II on choices: uniform crossover and random mutation of a choice, population 20."""
    from pymoo.algorithms.moo.nsga2 import RankAndCrowdingSurvival
    from pymoo.core.mixed import MixedVariableGA
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.core.variable import Choice
    from pymoo.optimize import minimize

    codes: list[Code] = []

    class Cells(ElementwiseProblem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(vars={f"x{i}": Choice(options=list("01234")) for i in range(EDGES)}, n_obj=2)

        def _evaluate(self, x: dict[str, str], out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            codes.append("".join(x[f"x{i}"] for i in range(EDGES)))
            out["F"] = table.losses[codes[-1]]

    algorithm = MixedVariableGA(pop_size=20, survival=RankAndCrowdingSurvival())
    minimize(Cells(), algorithm, ("n_evals", COUNTS[-1]), seed=seed)
    return codes[: COUNTS[-1]]


def _pymoo(algorithm: Any, seed: int, table: Table) -> list[Code]:
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.optimize import minimize

    codes: list[Code] = []

    class Cells(PymooProblem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=EDGES, n_obj=2, xl=0, xu=OPERATIONS - 1, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            whole = np.rint(x).astype(int)
            codes.extend("".join(map(str, row)) for row in whole)
            out["F"] = table.matrix(whole)

    minimize(Cells(), algorithm, ("n_evals", COUNTS[-1]), seed=seed)
    return codes[: COUNTS[-1]]


def optuna_choices(seed: int, table: Table) -> list[Code]:
    """Optuna's NSGA-II sampler on categorical parameters, population 20."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    codes: list[Code] = []

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        codes.append("".join(trial.suggest_categorical(f"x{i}", list("01234")) for i in range(EDGES)))
        return table.losses[codes[-1]]

    sampler = optuna.samplers.NSGAIISampler(population_size=20, seed=seed)
    optuna.create_study(directions=["minimize", "minimize"], sampler=sampler).optimize(objective, n_trials=COUNTS[-1])
    return codes


METHODS: dict[str, Ask] = {
    "nasplat nsga2 (defaults)": ours("nsga2"),
    "pymoo NSGA-II, integers, P=50": pymoo_integers,
    "pymoo NSGA-II, choices, P=20": pymoo_choices,
    "Optuna NSGA-II, P=20": optuna_choices,
    "nasplat random_search": ours("random_search"),
}


def main() -> None:
    """Run every method with every seed, and print one line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1_000)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    table = Table()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    results: dict[str, dict[int, list[float]]] = {}
    for title, method in METHODS.items():
        print(f"{title} …", file=sys.stderr)
        runs = [method(seed, table) for seed in seeds]
        assert all(len(codes) == COUNTS[-1] for codes in runs), title
        results[title] = {count: [table.share(codes[:count]) for codes in runs] for count in COUNTS}
    if arguments.json:
        print(json.dumps({"seeds": list(seeds), "shares": results}, indent=2))
        return
    print(f"{DEFINITIONS}\n\n{'':32}" + "".join(f"{count:>18,}" for count in COUNTS))
    for title, shares in results.items():
        cells = (f"{np.mean(found):.4f} ± {np.std(found, ddof=1) / len(found) ** 0.5:.4f}" for found in shares.values())
        print(f"{title:32}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"\nseeds {seeds[0]} to {seeds[-1]}; Python {platform.python_version()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
