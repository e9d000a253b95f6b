"""How many cells of NAS-Bench-201 the guided search evaluates until it finds the best one, beside its peers.

    python performance/guided_queries.py [optimum|moved|validation|parallel] [--seeds 200] [--dataset cifar10] [--json]

It needs the table (see the README), for the arms tpe and gp Optuna, and for botorch BoTorch: `pip install
nasplat[performance]`. A guided search takes about a second, one of gp or botorch up to half a minute. What was run
before is read from the file and not run again.
"""

import json
import statistics
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from searching import (
    BOTORCH,
    OPTUNA,
    Arm,
    Row,
    Table,
    Trace,
    machine,
    mean_and_error,
    parser,
    runs,
    search,
    searcher,
    seeds_of,
    with_options,
)

NOISE = 0.0015
STREAM = 0x0015
"""Tells the generator of the noise from others of the same seed."""
FAR = 200
WARM = 10
FIRST = 5
"""Runs that begin with the same networks are no independent runs; so many are compared."""
PARALLEL = {"one at a time": (1, False), "batches of 8": (8, True), "asynchronous, 8 workers": (8, False)}
DEFINITIONS = {
    "optimum": """\
Test accuracy after 200 epochs, averaged over the trained seeds (noise-free: the literature's way to compare
strategies).""",
    "moved": f"""\
Test accuracy after 200 epochs, averaged over the trained seeds, to which every seed adds normal noise of its own of
standard deviation {100 * NOISE:g} points, drawn for each code: the optimum moves, and no fixed answer can be learned.
"shared" is how often the best code shares its canonical key with other codes.""",
    "validation": """\
Validation accuracy after 200 epochs, trained on half of the training set, averaged over the trained seeds. For
CIFAR-10 the best cell by it is the best by test accuracy as well.""",
    "parallel": """\
Test accuracy after 200 epochs, averaged over the trained seeds. Batches: 8 are asked for at once and all are told, in
order, before the next 8. Asynchronous: 8 are always being measured; the one that ends next is drawn at random. The
count is until the optimum is asked for; "paid" is all that was asked for by the time when it is told: the rest of its
batch, or what else is being measured, included. "ratio" is the mean count as a multiple of that of one at a time.""",
}
COUNTED = """\
Counted is the number of different codes among the trials until the optimum, that trial included: until a code is
measured that has the canonical key of a best code. Codes of one key were trained separately and have values of their
own in the table, but a strategy that pays for no key twice measures only one of them. (For the CIFAR-10 test optimum,
94.373 %, this is as strict as asking for the accuracy: two codes reach it, and no other code has the key of either.) A
searcher that asks for a code again is answered from memory, and the code counts once. A run ends after so many trials
as "cap" says and then counts that many; "capped" is the share of such runs. "begin" is the number of different sets of
the first five canonical keys among the runs: those that begin alike are not independent, so that where they are few,
the standard error is too small. "ms" is the time of ask and tell for each trial, on one thread, and "slowest" that of
the slowest ask after the first 10, over all runs."""
DATASETS = ("cifar10", "cifar100", "imagenet16-120")


@dataclass(frozen=True)
class Entry:
    """An arm, and after how many trials it gives up."""

    arm: Arm
    cap: int = 1_000


ENTRIES = {
    "guided": Entry(Arm("predictor_guided")),
    "guided10": Entry(Arm("predictor_guided", {"design": "random", "initial": 10})),
    "local": Entry(Arm("local_search", {"duplicates": "redraw"})),
    "tpe": Entry(Arm(f"{OPTUNA}TPE")),
    "gp": Entry(Arm(f"{OPTUNA}GP"), 300),
    "botorch": Entry(Arm(BOTORCH), 300),
}
CHOSEN = {
    "optimum": list(ENTRIES),
    "moved": ["guided", "guided10", "local"],
    "validation": ["guided", "local"],
    "parallel": ["guided"],
}


@cache
def table(dataset: str, column: str = "test") -> Table:
    """The accuracies of a data set on one split."""
    return Table("nasbench201", "nasbench201", ["accuracy:max"], search_column=column, dataset=dataset)


def moved(held: Table, seed: int) -> NDArray[np.float64]:
    """The values of all members with noise of the seed's own."""
    noise: NDArray[np.float64] = default_rng([seed, STREAM]).normal(0.0, NOISE, len(held.values))
    return held.values + noise


def run(settings: Row, seed: int) -> Row:
    """One search: how many codes it took, and how long."""
    held = table(settings["dataset"], settings["column"])
    values = moved(held, seed) if settings["moved"] else held.values
    by_code = dict(zip((member.code for member in held.members), values.tolist(), strict=True))
    wanted = held.best_keys(values)

    def found(architecture: Architecture) -> bool:
        return held.key(architecture) in wanted

    trace = search(
        searcher(settings["arm"], held.problem(seed)),
        lambda architecture: {"accuracy": by_code[architecture.code]},
        trials=settings["cap"],
        seed=seed,
        done=lambda trace: found(trace.told[-1]),
        workers=settings["workers"],
        waits=settings["waits"],
    )
    reached = any(map(found, trace.told))
    first = next((i for i, architecture in enumerate(trace.asked) if found(architecture)), None)
    until = Trace(asked=trace.asked[: first + 1]) if first is not None else trace
    return {
        "count": len(until.distinct) if reached else settings["cap"],
        "paid": len(trace.distinct) if reached else settings["cap"],
        "capped": not reached,
        "shared": sum(map(found, held.members)) > len(wanted),
        "trials": len(trace.told),
        "first": [held.key(architecture) for architecture in trace.asked[:FIRST]],
        "seconds": trace.seconds,
        "slowest": max(trace.asking[WARM:], default=0.0),
    }


def summary(rows: list[Row]) -> Row:
    """What is printed of an arm."""
    counts = [row["count"] for row in rows]
    mean, error = mean_and_error(counts)
    return {
        "seeds": len(rows),
        "beginnings": len({tuple(sorted(row["first"])) for row in rows}),
        "mean": mean,
        "standard_error": error,
        "median": statistics.median(counts),
        "max": max(counts),
        "capped": statistics.fmean(row["capped"] for row in rows),
        f"over_{FAR}": statistics.fmean(count > FAR for count in counts),
        "paid": statistics.fmean(row["paid"] for row in rows),
        "shared": statistics.fmean(row["shared"] for row in rows),
        "ms": 1000 * sum(row["seconds"] for row in rows) / sum(row["trials"] for row in rows),
        "slowest_ms": 1000 * max(row["slowest"] for row in rows),
    }


def show(question: str, dataset: str, results: dict[str, Row], caps: dict[str, int]) -> None:
    """The table of results."""
    print(f"NAS-Bench-201, {dataset}.\n{DEFINITIONS[question]}\n{COUNTED}\n")
    width = max(map(len, results))
    print(
        f"{'':{width}} {'seeds':>6} {'begin':>6} {'mean':>7} {'± s.e.':>7} {'median':>7} {'max':>5} {'capped':>7} "
        f"{'cap':>6} {f'> {FAR}':>6} {'paid':>7} {'shared':>7} {'ms':>7} {'slowest':>8}"
        + "   ratio (paid)"
        * (question == "parallel")
    )
    one: Row = {}
    for name, line in results.items():
        if name.endswith("one at a time"):
            one = line
        ratio = f"   {line['mean'] / one['mean']:.2f} ({line['paid'] / one['mean']:.2f})" if one else ""
        print(
            f"{name:{width}} {line['seeds']:6} {line['beginnings']:6} {line['mean']:7.1f} "
            f"{line['standard_error']:7.2f} {line['median']:7g} {line['max']:5} {line['capped']:7.3f} {caps[name]:6,} "
            f"{line[f'over_{FAR}']:6.3f} {line['paid']:7.1f} {line['shared']:7.2f} {line['ms']:7.2f} "
            f"{line['slowest_ms']:8.1f}{ratio}"
        )


def main() -> None:
    """Run what is missing, and print one line for each arm."""
    made = parser(__doc__, seeds=200, file="guided_queries.jsonl", arms=list(ENTRIES))
    made.add_argument("question", nargs="?", choices=list(DEFINITIONS), default="optimum")
    made.add_argument("--dataset", choices=DATASETS, default="cifar10", help="if the data folder has it")
    made.set_defaults(arms=None)
    arguments = made.parse_args()
    column = "validation" if arguments.question == "validation" else "test"
    held = table(arguments.dataset, column)  # before processes fork
    settings: dict[str, Row] = {}
    seeds: dict[str, range] = {}
    for name in arguments.arms or CHOSEN[arguments.question]:
        arm = with_options(ENTRIES[name].arm, arguments.set)
        for schedule, (workers, waits) in PARALLEL.items():
            title = f"{name}, {schedule}" if arguments.question == "parallel" else name
            if workers > 1 and arguments.question != "parallel":
                continue
            settings[title] = {
                "arm": arm.settings,
                "dataset": arguments.dataset,
                "column": column,
                "table": held.digest,
                "moved": arguments.question == "moved",
                "cap": ENTRIES[name].cap,
                "workers": workers,
                "waits": waits,
            }
            seeds[title] = seeds_of(arm, arguments)
    results = {name: summary(rows) for name, rows in runs(settings, seeds, run, arguments).items()}
    if arguments.json:
        print(
            json.dumps({"question": arguments.question, "first_seed": arguments.first_seed, "arms": results}, indent=2)
        )
        return
    caps = {name: each["cap"] for name, each in settings.items()}
    show(arguments.question, arguments.dataset, results, caps)
    print(f"\nseeds from {arguments.first_seed}; {machine()}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
