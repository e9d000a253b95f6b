"""How many cells of NAS-Bench-201 a strategy evaluates until it finds the best one.

    python performance/queries_to_optimum.py [--seeds 200] [--json]

It needs the table (see the README), runs inline on one core, and takes about a minute with 200 seeds.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.registry import STRATEGIES
from searching import Table, search

CAP = 1_000
DEFINITIONS = f"""\
NAS-Bench-201, CIFAR-10, 200 epochs, test accuracy averaged over the trained seeds (noise-free: the literature's way
to compare strategies). A trial is one evaluation that the strategy asks for. Counted is the number of distinct codes
among the trials until the first whose accuracy is the table's maximum (94.373 %, which two cells reach), that trial
included. A run ends after {CAP:,} trials and then counts {CAP:,}. Seeds are 0, 1, 2 … "ms" is the time of ask and tell
per trial, on one thread."""

SETTINGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("random search, without replacement by canonical key", "random_search", {"duplicates": "redraw"}),
    ("local search, fresh random order; repeats allowed", "local_search", {"duplicates": "measure"}),
    ("local search; repeats redrawn by canonical key", "local_search", {"duplicates": "redraw"}),
    *(
        (
            f"regularized evolution P={population} S={sample}; {said}",
            "regularized_evolution",
            {"population": population, "sample": sample, "duplicates": duplicates},
        )
        for duplicates, said in (("measure", "repeats allowed"), ("redraw", "repeats redrawn by canonical key"))
        for population, sample in ((10, 3), (50, 10))
    ),
)


@dataclass(frozen=True)
class Result:
    """One setting over all seeds.

    Args:
        counts: Distinct codes until the optimum, one figure for each seed.
        capped: How many runs reached the cap.
        milliseconds: Time of ask and tell, for each trial.
    """

    counts: list[int]
    capped: int
    milliseconds: float

    @property
    def mean(self) -> float:
        """The mean count."""
        return statistics.fmean(self.counts)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean."""
        return statistics.stdev(self.counts) / len(self.counts) ** 0.5 if len(self.counts) > 1 else float("nan")


def run(table: Table, name: str, options: dict[str, Any], seed: int) -> tuple[int, bool, int, float]:
    """One search: distinct codes, whether the cap was reached, trials, and seconds in ask and tell."""
    best = float(table.values.max())

    def found(architecture: Architecture) -> bool:
        return table.metrics(architecture)["accuracy"] >= best

    strategy = STRATEGIES.get(name)(table.problem(seed), **options)
    trace = search(strategy, table.metrics, trials=CAP, seed=seed, done=lambda trace: found(trace.told[-1]))
    capped = not found(trace.told[-1])
    return CAP if capped else len(trace.codes), capped, len(trace.told), trace.seconds


def measure(table: Table, name: str, options: dict[str, Any], seeds: int) -> Result:
    """One setting over all seeds."""
    runs = [run(table, name, options, seed) for seed in range(seeds)]
    counts, capped, trials, seconds = zip(*runs, strict=True)
    return Result(list(counts), sum(capped), 1000 * sum(seconds) / sum(trials))


def main() -> None:
    """Measure every setting and print one line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    table = Table("nasbench201", "nasbench201", ["accuracy:max"], search_column="test")
    results = {}
    for title, name, options in SETTINGS:
        if sys.stderr.isatty():
            print(f"{title} …", file=sys.stderr)
        results[title] = measure(table, name, options, arguments.seeds)
    if arguments.json:
        document = {
            title: {"mean": r.mean, "standard_error": r.standard_error, "capped": r.capped, "ms": r.milliseconds}
            for title, r in results.items()
        }
        print(json.dumps({"seeds": arguments.seeds, "results": document}, indent=2))
        return
    lines = [DEFINITIONS, "", f"{'':66} {'mean':>7} {'± s.e.':>7} {'capped':>7} {'ms':>7}"]
    lines += [
        f"{title:66} {r.mean:7.1f} {r.standard_error:7.1f} {r.capped / len(r.counts):7.2f} {r.milliseconds:7.3f}"
        for title, r in results.items()
    ]
    lines += ["", f"{arguments.seeds} seeds; Python {platform.python_version()}, {os.cpu_count()} cores"]
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
