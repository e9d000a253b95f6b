"""Whether CARS finds better Ghost networks than chance does, or the fixed designs that the space is made around.

    python performance/ghost_front.py [--attempt race] [--seeds 1000 …] [--file runs/ghost-front.jsonl] [--json]

About a quarter of an hour for each seed on one core. Every search and every training is a line of the file as soon as
it has ended, and a second call goes on where the first was interrupted.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import ALLOWED, Gain, nearest, spread
from numpy.random import default_rng
from numpy.typing import NDArray
from pymoo.indicators.hv import HV

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig, Workload
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.search_spaces.ghost import GhostSmall
from nasplat.strategies.cars import CARS
from nasplat.task import Measurement
from nasplat.testing.runs import searched

SPACE = "ghost/small"
EPOCHS = 10
"""Of the trainings that are compared."""
MOST = 6
DATA: dict[str, Any] = {"dataset": "hard_digits", "recipe": {"gradient_norm": 5.0}}
AUGMENTED: dict[str, Any] = {"dataset": "hard_digits", "recipe": {"gradient_norm": 5.0, "augment": True}}


@dataclass(frozen=True)
class Attempt:
    """What is searched, and how.

    Args:
        objective: What CARS goes by besides MACs; an accuracy on 718 pictures is noisier than a loss.
        data: Options of the benchmark for all that is trained.
        supernet: Options of the benchmark while CARS searches.
        strategy: Options of CARS.
    """

    objective: str
    data: dict[str, Any]
    supernet: dict[str, Any]
    strategy: dict[str, Any]


LONG = {"epochs": 60, "shared_weights": {"calibration": 256}}
ATTEMPTS = {
    "accuracy": Attempt("accuracy:max", DATA, LONG, {"population": 16, "warmup": 15, "interval": 3}),
    "loss": Attempt("loss:min", DATA, LONG, {"population": 24, "warmup": 15, "interval": 3}),
    "race": Attempt(
        "loss:min",
        AUGMENTED,
        {"epochs": 24, "shared_weights": {"calibration": 256, "paths": 2}},
        {
            "population": 24,
            "warmup": 12,
            "interval": 3,
            "finish": "race",
            "race": {"epochs": 120, "bracket_size": 24, "finalists": MOST},
        },
    ),
}
GROUPS = ("cars", "random", "ghostnet", "mobilenetv2")
DEFINITIONS = f"""\
Space {SPACE}, data hard_digits. CARS: accuracy up or loss down, and MACs down, with the options of the attempt; of its
last front at most {MOST} networks, spread evenly over the logarithm of their MACs. With a race the search takes the
images of 144 epochs. random: as many members drawn uniformly. ghostnet and mobilenetv2: for each of CARS's networks the
member of a fixed family whose MACs are nearest, each taken once; a family has all widths, depths and expansions of the
space but 1, the same in every bottleneck. GhostNet's has Ghost modules (s = 2, d = 3), squeeze-and-excitation, and a
depth-wise convolution only where the stride is 2; MobileNetV2's has ordinary convolutions and a depth-wise one of 3 x 3
in every bottleneck. All are trained from scratch alike, {EPOCHS} epochs with the seed of the search, and measured on
test images. Hypervolume: accuracy and log MACs, between the ideal and the nadir of all that was trained with the seed,
reference point 1.1."""


def family(name: str) -> list[str]:
    """The codes of a fixed design in all sizes that the space has."""
    kinds = {
        "ghostnet": {"depthwise": "none", "squeeze": "yes", "expand": "ghost 2 3", "project": "ghost 2 3"},
        "mobilenetv2": {"depthwise": "3", "squeeze": "no", "expand": "plain", "project": "plain"},
    }
    space = GhostSmall()
    return [
        space.alike(resolution="1", outputs="1", width=width, depth=depth, expansion=expansion, **kinds[name]).code
        for width, depth, expansion in product(("0.5", "0.75", "1", "1.5"), "123", "234")
    ]


def benchmark_of(attempt: str, **options: Any) -> Benchmark:
    """The data of an attempt, by default with a full training of what is compared."""
    return Workload(SPACE, "classification", {}, {**ATTEMPTS[attempt].data, "epochs": EPOCHS, **options}).make()


def macs_of(code: str, benchmark: Benchmark) -> float:
    """What a network does for one image."""
    return benchmark.space.cost(benchmark.space.parse(code), benchmark.io).macs


def settings_of(attempt: str) -> str:
    """What every line of the file says, so that those of other settings do not count."""
    return hashlib.sha256(json.dumps([asdict(ATTEMPTS[attempt]), EPOCHS, MOST]).encode()).hexdigest()[:12]


def search(seed: int, attempt: str) -> list[str]:
    """The codes of CARS's last front, at most `MOST`."""
    options = ATTEMPTS[attempt]
    config = SearchConfig.read(
        {
            "space": {"name": SPACE},
            "benchmark": {"name": "classification", **options.data, **options.supernet},
            "strategy": {"name": "cars", **options.strategy},
            "objectives": [options.objective, "macs:min"],
            "seed": seed,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        assembly = searched(Path(folder) / "run", config)
    assert isinstance(assembly.strategy, CARS)
    front = assembly.problem.goal.front(assembly.strategy.parents)
    return spread(prices([member.architecture.code for member in front], assembly.benchmark), MOST)


def prices(codes: Iterable[str], benchmark: Benchmark) -> dict[str, float]:
    """Their MACs."""
    return {code: macs_of(code, benchmark) for code in codes}


def trained(code: str, seed: int, attempt: str) -> dict[str, float]:
    """Test accuracy after training from scratch, and the price."""
    benchmark = benchmark_of(attempt)
    benchmark.prepare()
    goal = Goal((Objective("accuracy", maximize=True),))
    problem = Problem(benchmark.space, goal, io=benchmark.io, fidelity=EPOCHS, seed=seed)
    kept = MemoryArtifacts()
    outcome = perform(problem.evaluate(benchmark.space.parse(code)), benchmark, device="cpu", artifacts=kept)
    assert isinstance(outcome, Measurement), outcome
    final = benchmark.final(outcome, device="cpu", artifacts=kept)
    return {"accuracy": final.metrics["accuracy"], "macs": macs_of(code, benchmark)}


def rows(seeds: list[int], attempt: str, file: Path) -> list[dict[str, Any]]:
    """All trainings; those that the file lacks are run and added to it."""
    settings = settings_of(attempt)
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = [row for row in found if row["settings"] == settings]
    file.parent.mkdir(parents=True, exist_ok=True)
    benchmark = benchmark_of(attempt)
    with file.open("a") as lines:

        def add(row: dict[str, Any]) -> None:
            row = {"settings": settings, **row}
            known.append(row)
            lines.write(json.dumps(row) + "\n")
            lines.flush()

        for seed in seeds:
            fronts = [row["front"] for row in known if row["seed"] == seed and "front" in row]
            if not fronts:
                print(f"seed {seed}, search …", file=sys.stderr)
                fronts = [search(seed, attempt)]
                add({"seed": seed, "front": fronts[0]})
            rng = default_rng(seed)
            networks = {
                "cars": fronts[0],
                "random": [benchmark.space.sample(rng).code for _ in fronts[0]],
                **{
                    name: nearest(prices(family(name), benchmark), prices(fronts[0], benchmark).values())
                    for name in GROUPS[2:]
                },
            }
            have = {(row["group"], row["code"]) for row in known if row["seed"] == seed and "group" in row}
            for group, codes in networks.items():
                for code in codes:
                    if (group, code) not in have:
                        print(f"seed {seed}, {group} {code} …", file=sys.stderr)
                        add({"seed": seed, "group": group, "code": code, **trained(code, seed, attempt)})
    return [row for row in known if row["seed"] in seeds and "group" in row]


def hypervolumes(found: list[dict[str, Any]]) -> dict[str, float]:
    """By group, for the trainings of one seed."""

    def losses(these: list[dict[str, Any]]) -> NDArray[np.float64]:
        return np.array([[1 - row["accuracy"], math.log(row["macs"])] for row in these])

    everything = losses(found)
    ideal, nadir = everything.min(axis=0), everything.max(axis=0)
    measure = HV(ref_point=np.array([1.1, 1.1]))
    return {
        group: float(measure((losses([row for row in found if row["group"] == group]) - ideal) / (nadir - ideal)))
        for group in GROUPS
    }


def main() -> None:
    """Search and train what is missing, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3000, 3001, 3002])
    parser.add_argument("--attempt", choices=tuple(ATTEMPTS), default="race", help="how CARS searches")
    parser.add_argument("--file", type=Path, default=Path("runs/ghost-front.jsonl"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = rows(arguments.seeds, arguments.attempt, arguments.file)
    by_seed = {seed: hypervolumes([row for row in found if row["seed"] == seed]) for seed in arguments.seeds}
    gains = {
        group: Gain.of([each["cars"] for each in by_seed.values()], [each[group] for each in by_seed.values()])
        for group in GROUPS[1:]
    }
    kept = all(gain.at_least_equal for gain in gains.values())
    if arguments.json:
        beside = {group: asdict(gain) for group, gain in gains.items()}
        print(
            json.dumps({"hypervolume": by_seed, "beside": beside, "trainings": found, "at_least_equal": kept}, indent=2)
        )
        sys.exit(not kept)
    print(DEFINITIONS)
    print(f"\n{'seed':>6} {'networks':>9} " + " ".join(f"{group:>12}" for group in GROUPS))
    for seed, volumes in by_seed.items():
        number = sum(row["seed"] == seed and row["group"] == "cars" for row in found)
        print(f"{seed:6} {number:9} " + " ".join(f"{volumes[group]:12.4f}" for group in GROUPS))
    for group, gain in gains.items():
        print(f"CARS less {group}: {gain}")
    print(f"wanted: each interval above {-ALLOWED:.0%} of the other's hypervolume: {'so it is' if kept else 'NOT so'}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")
    sys.exit(not kept)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
