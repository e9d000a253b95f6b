"""How many trained networks the guided search needs to find the best of a small space, beside random search.

    python performance/guided_training.py [--seeds 50] [--json]

The 155 networks of esrn/tiny were trained by this project, once, on photographs to be upscaled twofold; the table comes
with it. A guided search takes about a second. What was run before is read from the file and not run again.
"""

import json
import statistics
import sys
from functools import cache

from nasplat.errors import InputError
from searching import Arm, Row, Table, machine, parser, runs, search, searcher, seeds_of, with_options

RANDOM, EVALUATIONS = "random", 200
DEFINITIONS = """\
The best by PSNR on the validation pictures, which is what the search sees. Random search without replacement has
evaluated all {networks} before its 200th evaluation, so its best of 200 is the best of all. Counted are the different
networks that are evaluated until that one, it included: by each strategy, and by random search itself, which is harder
to beat than 200 evaluations are. "ratio" is the median count as a multiple of random search's, which draws as the space
does, and so draws some networks rarely; "of uniform" as a multiple of {uniform:g}, the median if all orders of the
networks were equally likely. A run that does not find it counts 200."""
ARMS = {
    "guided": Arm("predictor_guided"),
    RANDOM: Arm("random_search", {"duplicates": "redraw"}),
    "local": Arm("local_search", {"duplicates": "redraw"}),
    "evolution": Arm("regularized_evolution", {"duplicates": "redraw"}),
}


@cache
def table() -> Table:
    """The table of trained networks."""
    return Table("esrn/tiny", "super_resolution_table", ["psnr_db:max"])


def run(settings: Row, seed: int) -> Row:
    """How many networks one search evaluates."""
    held = table()
    wanted = held.best_keys(held.values)
    trace = search(
        searcher(settings["arm"], held.problem(seed)),
        held.metrics,
        trials=EVALUATIONS,
        seed=seed,
        done=lambda trace: held.key(trace.told[-1]) in wanted,
    )
    reached = held.key(trace.told[-1]) in wanted
    networks = len({held.key(member) for member in trace.told})
    return {"count": networks if reached else EVALUATIONS, "reached": reached, "seconds": trace.seconds}


def main() -> None:
    """Search what is missing, and print one line for each arm."""
    arguments = parser(__doc__, seeds=50, file="guided_training.jsonl", arms=list(ARMS)).parse_args()
    networks = len({table().key(member) for member in table().members})
    uniform = (networks + 1) / 2
    names = list(dict.fromkeys([RANDOM, *arguments.arms]))  # the others are measured by it
    arms = {name: with_options(ARMS[name], arguments.set) for name in names}
    settings = {name: {"arm": arm.settings, "table": table().digest} for name, arm in arms.items()}
    found = runs(settings, {name: seeds_of(arm, arguments) for name, arm in arms.items()}, run, arguments)
    results: dict[str, Row] = {}
    for name, rows in found.items():
        counts = [row["count"] for row in rows]
        median = statistics.median(counts)
        results[name] = {"seeds": len(rows), "median": median, "mean": statistics.fmean(counts), "max": max(counts)}
        results[name] |= {"reached": statistics.fmean(row["reached"] for row in rows)}
        results[name] |= {"ratio": median / results[RANDOM]["median"], "of_uniform": median / uniform}
        results[name] |= {"seconds": statistics.fmean(row["seconds"] for row in rows)}
    if arguments.json:
        print(json.dumps({"networks": networks, "first_seed": arguments.first_seed, "arms": results}, indent=2))
        return
    print(f"esrn/tiny, {networks} networks.\n{DEFINITIONS.format(networks=networks, uniform=uniform)}\n")
    print(
        f"{'':10}{'seeds':>6}{'median':>8}{'mean':>8}{'max':>6}{'reached':>9}{'ratio':>7}{'of uniform':>12}"
        f"{'seconds a search':>18}"
    )
    for name, line in results.items():
        print(
            f"{name:10}{line['seeds']:6}{line['median']:8g}{line['mean']:8.1f}{line['max']:6}{line['reached']:9.2f}"
            f"{line['ratio']:7.2f}{line['of_uniform']:12.2f}{line['seconds']:18.2f}"
        )
    print(f"\nseeds from {arguments.first_seed}; {machine()}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
