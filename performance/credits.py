"""What block credit is worth: searches on tables, with every credit rule and with none, seed by seed.

    python performance/credits.py [--table nasbench201] [--first-seed 1000] [--seeds 150] [--tune|--prescreen] [--json]

It needs the table (see the README). A search takes a tenth of a second; what was run before is read from the file and
not run again. With --tune it runs the grid from which the settings were chosen, by default on the seeds 0 to 49. With
--prescreen it compares the default credit without and with a predictor that picks among two and four times as many
children; such a search takes seconds.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasplat.artifact import MemoryArtifacts
from nasplat.config import Workload
from nasplat.errors import InputError
from nasplat.objective import Goal, Objective
from nasplat.options import complete
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.report.drawing import default_style
from nasplat.search_space import GeneSpace
from nasplat.task import Evaluate, Measurement

RESAMPLES = 10_000
EVERY = 5
"""A curve is kept at every so many evaluations."""
DEFINITIONS = """\
A run asks for so many distinct architectures (a repeat is redrawn). Its area is the mean, over all of them, of the best
found so far; its regret the table's best less the best found; the optimum is the part of the runs that found it.
"Beside" the first is the mean paired difference in area, by seed, and its bootstrap 95 % interval. Seconds are those of
the processor for a whole run. The search sees the very value that it is judged by."""


@dataclass(frozen=True)
class Case:
    """A table to search.

    Args:
        space: The search space.
        metric: What is searched for, more being better.
        evaluations: How many a run has.
        unit: What figures are shown in, and how many of it make one of the metric.
    """

    space: str
    metric: str
    evaluations: int
    unit: tuple[str, float]


CASES = {
    "nasbench201": Case("nasbench201", "accuracy", 150, ("points", 100.0)),
    "super_resolution_table": Case("esrn/tiny", "psnr_db", 40, ("dB", 1.0)),
}

Arm = tuple[str, dict[str, Any]]
"""A strategy's name, and its options."""
UNIFORM = "uniform mutation"
RANDOM = "random search"
ALL = "all children are measured"
BASELINES = {UNIFORM: "-.", RANDOM: ":", "regularized evolution": "--"}
"""What is no credit, and how its line is drawn."""


class Table:
    """All values of a benchmark's table by code, looked up once."""

    def __init__(self, name: str) -> None:
        self.case = CASES[name]
        self.benchmark = Workload(self.case.space, name, {}, {}).make()
        self.benchmark.check()
        self.values: dict[str, float] = {}
        problem = self.problem(seed=0)
        frontier = list(self.benchmark.enumerable_members or [problem.sample()])
        while frontier:  # without a list of all members, by their neighbourhoods
            architecture = frontier.pop()
            if architecture.code in self.values or not problem.feasible(architecture):
                continue
            found = self.benchmark.measure(problem.evaluate(architecture), device="cpu", artifacts=MemoryArtifacts())
            self.values[architecture.code] = found.metrics[self.case.metric]
            if not self.benchmark.enumerable_members:
                frontier += problem.space.neighbors(architecture)
        self.best = max(self.values.values())
        self.digest = hashlib.sha256(repr(sorted(self.values.items())).encode()).hexdigest()[:16]

    def problem(self, seed: int) -> Problem:
        """The problem of finding the best."""
        return Problem.of(self.benchmark, Goal((Objective(self.case.metric, True),)), seed=seed)

    def search(self, arm: Arm, seed: int) -> NDArray[np.float64]:
        """The best so far after each evaluation, `[evaluations]`."""
        name, options = arm
        make: Any = STRATEGIES.get(name)
        strategy = make(self.problem(seed), **options)
        values: list[float] = []
        while len(values) < self.case.evaluations:
            tasks = strategy.ask(1)
            if not tasks:  # it knows all within reach; what it has found stays
                values += [values[-1]] * (self.case.evaluations - len(values))
                break
            (task,) = tasks
            assert isinstance(task, Evaluate)
            values.append(self.values[task.architecture.code])
            strategy.tell(Measurement(task=task, metrics={self.case.metric: values[-1]}))
        return np.maximum.accumulate(values)


table = cache(Table)


def parted(name: str) -> tuple[bool, ...]:
    """Whether to credit parts of choices: both ways, only where the space has any."""
    space = table(name).benchmark.space
    assert isinstance(space, GeneSpace)
    return (False, True) if any(gene.parts for gene in space.genes) else (False,)


def compared(name: str) -> dict[str, Arm]:
    """Every credit rule with the settings that were chosen."""
    arms: dict[str, Arm] = {UNIFORM: ("credit_evolution", {"credit": "none"})}
    for credit, scope, factorized in product(("regression", "difference"), ("global", "position"), parted(name)):
        options = {"credit": credit, "scope": scope, "factorized": factorized}
        arms[f"{credit}, {scope}{', factorized' * factorized}"] = ("credit_evolution", options)
    arms[RANDOM] = ("random_search", {"duplicates": "redraw"})
    arms["regularized evolution"] = ("regularized_evolution", {"duplicates": "redraw"})
    return arms


def tried(name: str) -> dict[str, Arm]:
    """The settings from which those were chosen, beside uniform mutation."""
    arms = {label: arm for label, arm in compared(name).items() if label in (UNIFORM, RANDOM)}
    rules: tuple[tuple[str, str, tuple[float, ...]], ...] = (
        ("regression", "ridge", (0.3, 1.0, 3.0)),
        ("difference", "decay", (0.7, 0.9)),
    )
    for (credit, option, values), scope, factorized in product(rules, ("global", "position"), parted(name)):
        for value, temperature, floor in product(values, (0.25, 0.5, 1.0), (0.1, 0.2, 0.3)):
            options = {"scope": scope, "factorized": factorized, option: value}
            options |= {"temperature": temperature, "floor": floor}
            said = " ".join(f"{key}={value}" for key, value in options.items())
            arms[f"{credit} {said}"] = ("credit_evolution", {"credit": credit, **options})
    return arms


def filtered(name: str) -> dict[str, Arm]:
    """The default credit, with all children measured and with the best half or quarter of them."""
    arms = {ALL: ("credit_evolution", {"prescreen": 1})}
    for factor in (2, 4):
        arms[f"the best of {factor} times as many"] = ("credit_evolution", {"prescreen": factor})
    return {**arms, RANDOM: ("random_search", {"duplicates": "redraw"})}


def settings(name: str, arm: Arm) -> str:
    """What makes two runs of one seed the same run: table, its values, length, strategy and all of its options."""
    strategy, options = arm
    every = complete("strategy", STRATEGIES.get(strategy), options)
    return json.dumps([name, table(name).digest, CASES[name].evaluations, strategy, every], sort_keys=True)


def run(name: str, job: tuple[Arm, int]) -> dict[str, Any]:
    """One search as a row of the file."""
    arm, seed = job
    begun = time.process_time()
    curve = table(name).search(arm, seed)
    seconds = time.process_time() - begun
    kept = curve[EVERY - 1 :: EVERY].tolist()
    row = {"settings": settings(name, arm), "seed": seed, "area": float(curve.mean()), "curve": kept}
    return {**row, "seconds": seconds}


def whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    """What the file holds, but for a line that a kill cut short."""
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            yield json.loads(text)
        except ValueError:
            continue


def rows(name: str, arms: Mapping[str, Arm], seeds: range, file: Path, processes: int) -> dict[str, dict[int, Any]]:
    """By arm and seed all runs; those that the file lacks are run and added to it."""
    lines = list(whole_lines(file))
    known: dict[tuple[str, int], dict[str, Any]] = {(line["settings"], line["seed"]): line for line in lines}
    wanted = [(arm, seed) for arm in arms.values() for seed in seeds if (settings(name, arm), seed) not in known]
    table(name)  # before the processes fork
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out, multiprocessing.get_context("fork").Pool(processes) as pool:
        for line in pool.imap(partial(run, name), wanted, chunksize=8):
            known[line["settings"], line["seed"]] = line
            out.write(json.dumps(line) + "\n")
            out.flush()
    return {label: {seed: known[settings(name, arm), seed] for seed in seeds} for label, arm in arms.items()}


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The bootstrap 95 % interval of a mean."""
    n = len(differences)
    means = differences[np.random.default_rng(0).integers(n, size=(RESAMPLES, n))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def summary(best: float, found: Mapping[str, Mapping[int, Any]]) -> Iterator[dict[str, Any]]:
    """Each arm beside the first."""
    first = next(iter(found.values()))
    for label, runs in found.items():
        areas, baseline = (np.array([row["area"] for row in rows.values()]) for rows in (runs, first))
        last = np.array([row["curve"][-1] for row in runs.values()])
        differences = areas - baseline
        yield {
            "arm": label,
            "area": float(areas.mean()),
            "best": float(last.mean()),
            "regret": float(best - last.mean()),
            "deviation": float(last.std(ddof=1)),
            "optimum": float((last >= best).mean()),
            "curve": np.mean([row["curve"] for row in runs.values()], axis=0).tolist(),
            "seconds": float(np.mean([row.get("seconds", np.nan) for row in runs.values()])),  # older files lack them
            "difference": float(differences.mean()),
            "interval": interval(differences),
        }


def main() -> None:
    """Search what is missing, and print one line for each arm."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--table", choices=list(CASES), default="nasbench201")
    parser.add_argument("--first-seed", type=int)
    parser.add_argument("--seeds", type=int)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tune", action="store_true")
    which.add_argument("--prescreen", action="store_true")
    parser.add_argument("--file", type=Path, default=Path("runs/credits.jsonl"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="an SVG file to draw the curves in")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    if arguments.picture and arguments.prescreen:
        parser.error("--picture draws credit rules beside uniform mutation, which --prescreen leaves out")
    first, number = arguments.first_seed, arguments.seeds
    first = (0 if arguments.tune else 1000) if first is None else first
    seeds = range(first, first + (number or (50 if arguments.tune else 150)))
    name = arguments.table
    arms = filtered(name) if arguments.prescreen else tried(name) if arguments.tune else compared(name)
    lines = list(summary(table(name).best, rows(name, arms, seeds, arguments.file, arguments.processes)))
    if arguments.picture:
        draw(name, lines, arguments.picture)
    if arguments.json:
        print(json.dumps({"table": name, "best": table(name).best, "arms": lines}, indent=2))
        return
    show(name, lines, seeds)


@default_style()
def draw(name: str, lines: list[dict[str, Any]], path: Path) -> None:
    """The mean best so far of every arm, less that of uniform mutation."""
    from matplotlib.figure import Figure

    unit, scale = CASES[name].unit
    uniform = next(line["curve"] for line in lines if line["arm"] == UNIFORM)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        gain = scale * (np.array(line["curve"]) - np.array(uniform))
        evaluations = EVERY * (1 + np.arange(len(gain)))
        look = BASELINES.get(line["arm"])
        axes.plot(evaluations, gain, label=line["arm"], linestyle=look or "-", color="grey" if look else None)
    axes.set_xlabel("evaluations")
    axes.set_ylabel(f"best so far, beside uniform mutation ({unit})")
    axes.set_title(f"Block credit on {name}, mean over seeds", loc="left")
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def show(name: str, lines: list[dict[str, Any]], seeds: range) -> None:
    """The table of results, and whether the task can tell."""
    unit, scale = CASES[name].unit
    print(f"{name}: {CASES[name].evaluations} evaluations, by {CASES[name].metric}.\n{DEFINITIONS}\n")
    width = max(len(line["arm"]) for line in lines)
    columns = f"{'area':>8} {'best':>8} {'regret':>7} {'optimum':>8} {'seconds':>8}"
    print(f"{'':{width}} {columns}   beside {lines[0]['arm']} ({unit})")
    for line in lines:
        low, high = (scale * bound for bound in line["interval"])
        print(
            f"{line['arm']:{width}} {scale * line['area']:8.3f} {scale * line['best']:8.3f} "
            f"{scale * line['regret']:7.3f} {line['optimum']:8.2f} {line['seconds']:8.2f}   "
            + (f"{scale * line['difference']:+.3f} ({low:+.3f} to {high:+.3f})" if line is not lines[0] else "")
        )
    for line in lines:
        if line["arm"] == RANDOM:
            ratio = line["regret"] / line["deviation"]
            print(
                f"\nthe table's best is {ratio:.1f} deviations between seeds above random search's "
                f"({scale * line['regret']:.3f} by {scale * line['deviation']:.3f} {unit}): "
                f"the task can{'' if ratio > 3 else ' NOT'} tell (more than 3 wanted)"
            )
    print(f"seeds {seeds[0]} to {seeds[-1]}; Python {platform.python_version()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
