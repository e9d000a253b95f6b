"""The front of a search for few expected MACs beside that of a search for few MACs, in a space with pruning by image.

    python performance/pruned_fronts.py [--seeds 3] [--first-seed 3200] [--processes 1] [--out FILE] [--json]

About a quarter of an hour on one core. Every search is a line of the file as soon as it has ended, and a second call
goes on where the first was interrupted.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fronts import Gain
from full_stack_search import BENCHMARK, EPOCHS, LEAST, SPACE, STRATEGY, failures, images
from full_stack_search import Point as Placed
from full_stack_search import hypervolume as volume_of

import nasplat
from nasplat.config import Workload
from nasplat.cost import EXPECTED
from nasplat.errors import InputError
from nasplat.task import Measurement
from searching import Row, code_digest, kept

SHARE = 0.8
"""The part of the MACs that a pruned network takes."""
TRANSFORM = {"name": "instance_pruning", "per": "stage", "macs": SHARE, "thresholds": "layer", "images": 128}
EVALUATIONS = 24
ARMS = {"expected": EXPECTED, "macs": "macs"}
"""The second objective of each search."""
DEFINITIONS = f"""\
Space: nasbench201, {SPACE["channels"]} channels, {SPACE["cells"]} cell; each of the three stages is plain or pruned by
image. If one is pruned, the network takes {100 * SHARE:g} % of its MACs in the mean. Digits, {EPOCHS} epochs an
evaluation. Both arms search by NSGA-II, {EVALUATIONS} evaluations, {STRATEGY["population"]} survivors, for a high
accuracy, and for few expected MACs ("expected") or for few MACs of an image for which nothing is left out ("macs").
A front is that of validation accuracy and expected MACs, among all that the search measured. Hypervolume: of accuracy
and the logarithm of expected MACs, as a share of what lies between the reference point, accuracy {LEAST} and the MACs
of the largest plain member, and the ideal, accuracy 1 and the MACs of the smallest plain member."""


@dataclass(frozen=True)
class Point:
    """A member of a front.

    Args:
        code: Its architecture.
        macs: The MACs of an image for which nothing is left out.
        expected: The expected MACs, on validation images.
        validation: Its accuracy on validation images.
        test: Its accuracy on test images.
    """

    code: str
    macs: float
    expected: float
    validation: float
    test: float


def work(settings: Row, seed: int) -> Row:
    """One search: its front as points, images and seconds."""
    print(f"seed {seed}, {settings['arm']} …", file=sys.stderr)
    torch.set_num_threads(1)
    clock = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = nasplat.search(
            space=SPACE,
            transform=settings["transform"],
            benchmark=BENCHMARK,
            strategy=STRATEGY,
            objectives=("accuracy:max", f"{ARMS[settings['arm']]}:min"),
            evaluations=EVALUATIONS,
            seed=seed,
            out=Path(folder) / "run",
            progress=False,
        )
        measured = [trial for trial in run.trials() if isinstance(trial, Measurement)]
        first = front([(m.metrics["accuracy"], m.metrics[EXPECTED]) for m in measured])
        members = []
        for m in (measured[number] for number in first):
            (tested,) = run.test(str(m.id))
            accuracies = m.metrics["accuracy"], tested.metrics["accuracy"]
            members.append(Point(m.architecture.code, m.metrics["macs"], m.metrics[EXPECTED], *accuracies))
        row = {"front": [asdict(each) for each in members], "images": images(run), "failures": failures(run)}
    return {**row, "cpu_seconds": time.process_time() - clock}


def front(found: Sequence[tuple[float, float]]) -> list[int]:
    """The places of those that no other has at least the accuracy and at most the MACs of, with one of them better."""
    return [
        place
        for place, (accuracy, macs) in enumerate(found)
        if not any(a >= accuracy and m <= macs and (a, m) != (accuracy, macs) for a, m in found)
    ]


def extremes() -> tuple[float, float]:
    """The MACs of the smallest and of the largest plain member."""
    options = {key: value for key, value in SPACE.items() if key != "name"}
    made = Workload("nasbench201", "classification", options, {"dataset": "digits"}).make()
    least, most = (made.space.cost(made.space.parse(code), made.io).macs for code in ("000000", "333333"))
    return least, most


def volume(row: Row, split: str, macs: tuple[float, float]) -> float:
    """The hypervolume of a front."""
    members = [Placed(each["code"], each["expected"], each["validation"], each["test"]) for each in row["front"]]
    return volume_of(members, split, macs)


def main() -> None:
    """Search what is missing, and show the fronts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=3200)
    parser.add_argument("--processes", type=int, default=1, help="how many searches run at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/pruned-fronts.jsonl"), help="where searches are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    shared = {
        "space": SPACE,
        "transform": TRANSFORM,
        "benchmark": BENCHMARK,
        "strategy": STRATEGY,
        "evaluations": EVALUATIONS,
        "code": code_digest(),
    }
    jobs = [({"arm": arm, **shared}, seed) for seed in seeds for arm in ARMS]
    rows = kept(jobs, work, arguments.out, arguments.processes)
    of_arm = {arm: rows[number :: len(ARMS)] for number, arm in enumerate(ARMS)}
    macs = extremes()
    volumes = {
        split: {arm: [volume(row, split, macs) for row in found] for arm, found in of_arm.items()}
        for split in ("validation", "test")
    }
    gains = {split: Gain.of(each["expected"], each["macs"]) for split, each in volumes.items()}
    if arguments.json:
        told: dict[str, Any] = {split: asdict(gain) for split, gain in gains.items()}
        print(json.dumps({"hypervolume": volumes, "gains": told, "rows": rows}, indent=2))
        return
    print(DEFINITIONS)
    for number, seed in enumerate(seeds):
        for arm, found in of_arm.items():
            row = found[number]
            print(f"\nseed {seed}, {arm}: {row['images']:,} images, {row['failures']} failed, "
                  f"{row['cpu_seconds']:.0f} s of CPU")  # fmt: skip
            for each in sorted(row["front"], key=lambda point: point["expected"]):
                print(f"  {each['code']}  accuracy {each['validation']:.4f}, on test images {each['test']:.4f}, "
                      f"expected MACs {each['expected']:,.0f} of {each['macs']:,.0f}")  # fmt: skip
    for split, gain in gains.items():
        print(f"\nhypervolume, {split}: expected less macs {gain}: {'better' if gain.better else 'not shown'}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except InputError as error:
        sys.exit(f"error: {error}")
