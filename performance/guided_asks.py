"""What one ask of guided search costs on NAS-Bench-201: listing all cells once, then choosing among them.

    python performance/guided_asks.py [--asks 30] [--json]

It needs the table (see the README). Shown are seconds of CPU of the first ask, and the median of the later ones, on
one thread. Costs and encodings of the 15,625 cells do not change between asks; where they are computed anew each time,
later asks take as long as the first.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from typing import Any

import torch

from nasplat.errors import InputError
from nasplat.registry import STRATEGIES
from nasplat.task import Measurement
from searching import Table

SEARCHES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "one objective": (["accuracy:max"], {}),
    "one objective, random design": (["accuracy:max"], {"design": "random"}),
    "two objectives": (["accuracy:max", "params:min"], {}),
    "two objectives, random design": (["accuracy:max", "params:min"], {"design": "random"}),
}
LATER = 8
"""Asks before this one are the initial design, or describe all cells."""


def seconds(objectives: list[str], options: dict[str, Any], asks: int) -> list[float]:
    """Seconds of CPU of each ask of a search."""
    table = Table("nasbench201", "nasbench201", objectives)
    make: Any = STRATEGIES.get("predictor_guided")
    strategy = make(table.problem(0), **options)
    found = []
    for _ in range(asks):
        began = time.process_time()
        (task,) = strategy.ask(1)
        found.append(time.process_time() - began)
        strategy.tell(Measurement(task=task, metrics=dict(table.metrics(task.architecture))))
    return found


def main() -> None:
    """Ask, and print one line for each search."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--asks", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: seconds(*search, arguments.asks) for name, search in SEARCHES.items()}
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for name, each in found.items():
        print(f"{name:30} first {each[0]:6.2f} s, later {statistics.median(each[LATER:]):.3f} s")
    print(f"{arguments.asks} asks each; Python {platform.python_version()}, one thread")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
