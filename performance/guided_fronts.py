"""How much of NAS-Bench-201's true front the guided search finds in few evaluations, beside NSGA-II and random search.

    python performance/guided_fronts.py [--seeds 20] [--json]

It needs the table (see the README). A guided search takes a minute or two. What was run before is read from the file
and not run again. `nsga2_fronts.py` compares NSGA-II with that of other projects, by the same definition.
"""

import json
import statistics
import sys
from functools import cache

from nasplat.errors import InputError
from nsga2_fronts import Table
from searching import Arm, Row, machine, mean_and_error, parser, runs, search, searcher, seeds_of, with_options

COUNTS = (100, 300)
DEFINITIONS = """\
NAS-Bench-201, CIFAR-10: test accuracy after 200 epochs, mean over the trained seeds (up), table MACs (down). Shown is
the hypervolume of all that was evaluated, as a share of the true front's, after so many evaluations; reference point
80 % and the largest MACs; mean over the seeds, its standard error, and the least. An evaluation is one that the
strategy asks for, repeats included."""
ARMS = {
    "guided": Arm("predictor_guided"),
    "nsga2": Arm("nsga2"),
    "random": Arm("random_search"),
}


@cache
def table() -> Table:
    """The table, and what a front is worth."""
    return Table()


def run(settings: Row, seed: int) -> Row:
    """The shares that one search has after every count."""
    held = table()
    trace = search(searcher(settings["arm"], held.problem(seed)), held.metrics, trials=COUNTS[-1], seed=seed)
    codes = [member.code for member in trace.asked]
    return {"shares": [held.share(codes[:count]) for count in COUNTS], "seconds": trace.seconds}


def main() -> None:
    """Search what is missing, and print one line for each arm."""
    arguments = parser(__doc__, seeds=20, file="guided_fronts.jsonl", arms=list(ARMS)).parse_args()
    digest = table().digest  # loads the table, before processes fork
    arms = {name: with_options(ARMS[name], arguments.set) for name in arguments.arms}
    settings = {name: {"arm": arm.settings, "table": digest, "counts": list(COUNTS)} for name, arm in arms.items()}
    found = runs(settings, {name: seeds_of(arm, arguments) for name, arm in arms.items()}, run, arguments)
    shares = {
        name: {n: [row["shares"][i] for row in rows] for i, n in enumerate(COUNTS)} for name, rows in found.items()
    }
    seconds = {name: statistics.fmean(row["seconds"] for row in rows) for name, rows in found.items()}
    if arguments.json:
        print(json.dumps({"first_seed": arguments.first_seed, "shares": shares, "seconds": seconds}, indent=2))
        return
    print(
        f"{DEFINITIONS}\n\n{'':10}{'seeds':>6}"
        + "".join(f"{count:>26,}" for count in COUNTS)
        + f"{'seconds a search':>18}"
    )
    for name, after in shares.items():
        cells = ("{:.4f} ± {:.4f} ({:.4f})".format(*mean_and_error(each), min(each)) for each in after.values())
        print(f"{name:10}{len(found[name]):6}" + "".join(f"{cell:>26}" for cell in cells) + f"{seconds[name]:18.2f}")
    print(f"\nseeds from {arguments.first_seed}; {machine()}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
