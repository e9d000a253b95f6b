"""How near the guided search comes to the best cells of a table of NAS-Bench-101, and how long it thinks.

    python performance/guided_nasbench101.py [paper|sequential] [--seeds 20] [--json]
    python performance/guided_nasbench101.py time --whole CELLS.npz

It needs the table (see the README). A search takes a quarter of a minute or more. What was run before is read from the
file and not run again. With `time` it needs no table but all 423,624 cells, as `nasbench101_space.py` does.
"""

import argparse
import json
import math
import resource
import statistics
import sys
import time
from functools import cache
from pathlib import Path

from nasbench101_space import cell_codes

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import SEARCH_SPACES
from nasplat.task import Evaluate, Measurement
from searching import (
    Arm,
    Row,
    Table,
    machine,
    mean_and_error,
    parser,
    runs,
    search,
    searcher,
    seeds_of,
    with_options,
)

SAMPLE, TOP, QUERIES = 424, 10, 150
PAPER = {"design": "random", "initial": SAMPLE, "acquisition": "greedy", "batch": TOP, "rounds": 1}
ARMS = {
    "paper": {
        "isotropic_gaussian_process": Arm("predictor_guided", {**PAPER, "predictor": "isotropic_gaussian_process"}),
        "auto": Arm("predictor_guided", {**PAPER, "predictor": "auto"}),
    },
    "sequential": {
        "guided": Arm("predictor_guided"),
        "random": Arm("random_search", {"duplicates": "redraw"}),
        "local": Arm("local_search", {"duplicates": "redraw"}),
        "evolution": Arm("regularized_evolution", {"duplicates": "redraw"}),
    },
}
DEFINITIONS = {
    "paper": f"""\
The protocol of predictor papers: {SAMPLE} random cells are measured, the predictor learns from them, ranks all others,
and the {TOP} that it ranks first are measured. Shown is the rank in the whole table of the best of these {TOP}.""",
    "sequential": f"""\
Shown is the rank in the whole table of the best of {QUERIES} different cells, measured one at a time.""",
}
COLUMN = """\
Accuracies are of one training run, after 108 epochs, on the validation pictures: the search sees the very values that
it is ranked by. The rank is 1 plus the number of cells with a higher one."""
OBSERVATIONS, ASKS, LIKED = 200, 10, 8e6
TIMED = f"""\
A search with the defaults but a random design of {OBSERVATIONS} cells, each told a made-up score: minus the absolute
logarithm of its parameters as a part of {LIKED:,.0f}. Every later ask learns from all scores anew, and rates all
cells."""


@cache
def table() -> Table:
    """The table, with what it has of the first training run."""
    return Table("nasbench101", "nasbench101", ["accuracy:max"], single_repeat=True)


def run(settings: Row, seed: int) -> Row:
    """One search: the rank of the best of what counts."""
    held = table()
    limit = settings["trials"]
    trace = search(searcher(settings["arm"], held.problem(seed)), held.metrics, trials=limit, seed=seed)
    counted = [held.metrics(member)["accuracy"] for member in trace.told[-settings["counted"] :]]
    rank = 1 + int((held.values > max(counted)).sum())
    return {"rank": rank, "trials": len(trace.told), "seconds": trace.seconds}


def compare(question: str, arguments: argparse.Namespace) -> None:
    """Run what is missing, and print one line for each arm."""
    cells = len(table().members)  # loads the table, before processes fork
    trials, counted = (SAMPLE + TOP, TOP) if question == "paper" else (QUERIES, QUERIES)
    arms = {
        name: with_options(arm, arguments.set)
        for name, arm in ARMS[question].items()
        if name in (arguments.arms or ARMS[question])
    }
    settings = {
        name: {"arm": arm.settings, "table": table().digest, "trials": trials, "counted": counted}
        for name, arm in arms.items()
    }
    found = runs(settings, {name: seeds_of(arm, arguments) for name, arm in arms.items()}, run, arguments)
    results: dict[str, Row] = {}
    for name, rows in found.items():
        ranks = [row["rank"] for row in rows]
        mean, error = mean_and_error(ranks)
        results[name] = {"seeds": len(rows), "mean": mean, "standard_error": error}
        results[name] |= {"median": statistics.median(ranks), "worst": max(ranks)}
        results[name]["seconds"] = statistics.fmean(row["seconds"] for row in rows)
    if arguments.json:
        print(json.dumps({"question": question, "cells": cells, "arms": results}, indent=2))
        return
    print(f"NAS-Bench-101, {cells:,} cells.\n{DEFINITIONS[question]}\n{COLUMN}\n")
    print(f"{'':18}{'seeds':>6}{'mean':>8}{'± s.e.':>8}{'median':>8}{'worst':>8}{'seconds a search':>19}")
    for name, line in results.items():
        print(
            f"{name:18}{line['seeds']:6}{line['mean']:8.1f}{line['standard_error']:8.2f}{line['median']:8g}"
            f"{line['worst']:8}{line['seconds']:19.2f}"
        )
    print(f"\nthe best 0.1 % are ranks up to {cells // 1000}; seeds from {arguments.first_seed}; {machine()}")


def whole(file: Path, options: list[str], seed: int) -> Row:
    """The time of asks in a search of all cells."""
    space = SEARCH_SPACES.get("nasbench101")()
    cells = [Architecture(space.name, code) for code in cell_codes(file)]
    goal = Goal((Objective("score", True),))
    problem = Problem(space, goal, io=space.reference_io, enumerable_members=cells, seed=seed)
    arm = with_options(Arm("predictor_guided", {"design": "random", "initial": OBSERVATIONS}), options)
    searching = searcher(arm.settings, problem)
    times: list[float] = []
    for _ in range(OBSERVATIONS + ASKS):
        clock = time.perf_counter()
        (task,) = searching.ask(1)
        times.append(time.perf_counter() - clock)
        assert isinstance(task, Evaluate)
        score = -abs(math.log(problem.cost(task.architecture).metrics()["params"] / LIKED))
        searching.tell(Measurement(task=task, metrics={"score": score}))
    later = times[OBSERVATIONS + 1 :]
    return {
        "cells": len(cells),
        "first": times[0],
        "designed": statistics.fmean(times[1:OBSERVATIONS]),
        "first_learnt": times[OBSERVATIONS],
        "later": statistics.fmean(later),
        "slowest": max(later),
        "gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Answer the question."""
    names = [name for arms in ARMS.values() for name in arms]
    made = parser(__doc__, seeds=20, file="guided_nasbench101.jsonl", arms=names)
    made.add_argument("question", nargs="?", choices=[*ARMS, "time"], default="sequential")
    made.add_argument("--whole", type=Path, metavar="CELLS", help="all cells, as arrays; for the question time")
    made.set_defaults(arms=None)
    arguments = made.parse_args()
    if arguments.question != "time":
        compare(arguments.question, arguments)
        return
    if arguments.whole is None:
        made.error("the question time needs --whole CELLS.npz")
    row = whole(arguments.whole, arguments.set, arguments.first_seed)
    if arguments.json:
        print(json.dumps(row, indent=2))
        return
    print(f"NAS-Bench-101, all {row['cells']:,} cells.\n{TIMED}\n")
    for name, said in {
        "first": "first ask, which lists all members",
        "designed": "further ones of the design, mean",
        "first_learnt": f"first ask after {OBSERVATIONS} scores, which describes all members",
        "later": f"the next {ASKS - 1} asks, mean",
        "slowest": "the slowest of them",
    }.items():
        print(f"{said:62}{row[name]:9.3f} s")
    print(f"{'most memory':62}{row['gibibytes']:9.2f} GiB\n\n{machine()}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
