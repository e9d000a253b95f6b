"""What a search on validation accuracies finds on NAS-Bench-201, by test accuracy: guided, its peers, and Optuna's.

    python performance/guided_validation.py [--seeds 200] [--tpe-seeds 50] [--gp-seeds 10] [--dataset cifar10] [--json]

It needs the table (see the README), and for the arms tpe and gp Optuna: `pip install nasplat[performance]`. A guided
search takes up to a minute, and so does one of gp. What was run before is read from the file and not run again.
"""

import json
import statistics
import sys
from functools import cache

import numpy as np

from nasplat.errors import InputError
from searching import (
    OPTUNA,
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

COUNTS = (20, 50, 100, 200)
TRIALS = 5 * COUNTS[-1]
DEFINITIONS = f"""\
The search sees the validation accuracy after 200 epochs. Its pick after so many different codes is the one of the best
validation accuracy so far. Shown is the pick's test accuracy after 200 epochs, the mean over the trained seeds, in %:
mean over the searches, and its standard error. A searcher that asks for a code again is answered from memory, and the
code counts once; one that has asked {TRIALS:,} times is at its end, and its last pick stands."""
DATASETS = ("cifar10", "cifar100", "imagenet16-120")
ARMS = {
    "guided": Arm("predictor_guided"),
    "random": Arm("random_search", {"duplicates": "redraw"}),
    "local": Arm("local_search", {"duplicates": "redraw"}),
    "evolution": Arm("regularized_evolution", {"duplicates": "redraw"}),
    "tpe": Arm(f"{OPTUNA}TPE"),
    "gp": Arm(f"{OPTUNA}GP"),
}


@cache
def table(dataset: str, column: str) -> Table:
    """The accuracies of a data set on one split."""
    return Table("nasbench201", "nasbench201", ["accuracy:max"], search_column=column, dataset=dataset)


def run(settings: Row, seed: int) -> Row:
    """The test accuracies of a search's picks, after every count."""
    seen, tested = (table(settings["dataset"], column) for column in ("validation", "test"))
    trace = search(
        searcher(settings["arm"], seen.problem(seed)),
        seen.metrics,
        trials=TRIALS,
        seed=seed,
        done=lambda trace: len(trace.codes) >= COUNTS[-1],
    )
    order = [seen.space.parse(code) for code in trace.distinct]
    picks = [max(order[:count], key=lambda member: seen.metrics(member)["accuracy"]) for count in COUNTS]
    return {"test": [tested.metrics(pick)["accuracy"] for pick in picks], "seconds": trace.seconds}


def perfect(dataset: str) -> tuple[float, float]:
    """The test accuracy of what is best by validation, and the best there is."""
    seen, tested = (table(dataset, column) for column in ("validation", "test"))
    pick = seen.members[int(np.argmax(seen.values))]
    return tested.metrics(pick)["accuracy"], float(tested.values.max())


def main() -> None:
    """Search what is missing, and print one line for each arm."""
    made = parser(__doc__, seeds=200, file="guided_validation.jsonl", arms=list(ARMS))
    made.add_argument("--dataset", choices=DATASETS, default="cifar10", help="if the data folder has it")
    arguments = made.parse_args()
    pick, best = perfect(arguments.dataset)  # loads the tables, before processes fork
    digests = [table(arguments.dataset, column).digest for column in ("validation", "test")]
    arms = {name: with_options(ARMS[name], arguments.set) for name in arguments.arms}
    settings = {n: {"arm": a.settings, "dataset": arguments.dataset, "tables": digests} for n, a in arms.items()}
    found = runs(settings, {name: seeds_of(arm, arguments) for name, arm in arms.items()}, run, arguments)
    results: dict[str, Row] = {}
    for name, rows in found.items():
        after = {str(n): mean_and_error([row["test"][i] for row in rows]) for i, n in enumerate(COUNTS)}
        seconds = statistics.fmean(row["seconds"] for row in rows)
        results[name] = {"seeds": len(rows), "after": after, "seconds": seconds}
    if arguments.json:
        head = {"dataset": arguments.dataset, "first_seed": arguments.first_seed, "perfect_pick": pick, "best": best}
        print(json.dumps({**head, "arms": results}, indent=2))
        return
    print(f"NAS-Bench-201, {arguments.dataset}.\n{DEFINITIONS}\n")
    print(f"{'':10}{'seeds':>6}" + "".join(f"{count:>16,}" for count in COUNTS) + f"{'seconds a search':>18}")
    for name, line in results.items():
        cells = (f"{100 * mean:.3f} ± {100 * error:.3f}" for mean, error in line["after"].values())
        print(f"{name:10}{line['seeds']:6}" + "".join(f"{cell:>16}" for cell in cells) + f"{line['seconds']:18.2f}")
    print(
        f"\na perfect pick by validation has {100 * pick:.3f}, which is {100 * (best - pick):.3f} below the best "
        f"by test accuracy, {100 * best:.3f}\nseeds from {arguments.first_seed}; {machine()}"
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
