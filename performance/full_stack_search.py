"""Whether searching the filters of every stage finds better fronts than one s for all networks of a plain search.

    python performance/full_stack_search.py [--seeds 5] [--first-seed 3000] [--out FILE] [--json]

About nine minutes on one core. Every arm of a seed is a line of the file as soon as it has ended, and a second call
goes on where the first was interrupted.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import ALLOWED, Gain, spread
from numpy.random import default_rng
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

import nasplat
from nasplat.config import Workload
from nasplat.cost import count, layers
from nasplat.errors import InputError
from nasplat.interface import compressing
from nasplat.interface.console import console_of
from nasplat.interface.run import Run
from nasplat.task import Measurement
from searching import Row, code_digest, kept

SHARED = 4, 16
"""The numbers of filters that share a real one."""
SPACE = {"name": "nasbench201", "channels": 8, "cells": 1}
EPOCHS = 3
BENCHMARK = {"name": "classification", "dataset": "digits", "epochs": EPOCHS, "recipe": {"gradient_norm": 5.0}}
STRATEGY = {"name": "nsga2", "population": 6}
OBJECTIVES = "accuracy:max", "memory_bits:min"
EVALUATIONS = 24
"""Of the search with choices per stage; the other arm has as many images."""
PLAIN = 20
"""Evaluations of the plain search, whose front is transformed with the images that are left."""
LEAST = 0.8
"""The accuracy of the reference point."""
STAGE, GLOBAL = "stage", "global"
DEFINITIONS = f"""\
Space: nasbench201, {SPACE["channels"]} channels, {SPACE["cells"]} cell; digits, {EPOCHS} epochs an evaluation.
Both arms search by NSGA-II, {STRATEGY["population"]} survivors, for a high accuracy and few memory bits.
stage: {EVALUATIONS} evaluations of architectures with a choice for each of the three stages, plain or full-stack
filters with s = {SHARED[0]} or {SHARED[1]}, trained from scratch. global: {PLAIN} evaluations of plain networks; the
front is transformed with one s for all, fitted to the weights, and fine-tuned with distillation for the images that are
left. Both arms have as many training images; where they do not divide, the most accurate networks have one epoch more.
A front is what is not dominated on validation images; "s = 4" is of the plain networks and those with s = 4, "s = 4
alone" of the latter, "better s" the larger hypervolume of the two on validation images. Hypervolume: of accuracy and
the logarithm of memory bits, as a share of what lies between the reference point, accuracy {LEAST} and the bits of the
largest plain member, and the ideal, accuracy 1 and the bits of the smallest member with s = {SHARED[1]}. "test" has the
same networks with their test accuracies."""
GROUPS = ("plain", *(f"s = {s}" for s in SHARED), *(f"s = {s} alone" for s in SHARED), "better s")


@dataclass(frozen=True)
class Point:
    """A trained network.

    Args:
        code: Its code.
        bits: Its memory bits.
        validation: Its accuracy on validation images, 0..1.
        test: Its accuracy on test images, 0..1.
    """

    code: str
    bits: float
    validation: float
    test: float


def work(settings: Row, seed: int) -> Row:
    """One arm of a seed: its fronts as points, images and seconds."""
    print(f"seed {seed}, {settings['arm']} …", file=sys.stderr)
    clock = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        row = (searched_stages if settings["arm"] == STAGE else searched_globally)(seed, Path(folder))
    return {**row, "cpu_seconds": time.process_time() - clock}


def searched_stages(seed: int, folder: Path) -> Row:
    """The search with choices per stage."""
    transform = {"name": "full_stack", "per": "stage", "filters": list(SHARED)}
    run = search(seed, folder / "stage", EVALUATIONS, transform)
    return {"front": points(run, "front"), "images": images(run), "failures": failures(run)}


def searched_globally(seed: int, folder: Path) -> Row:
    """The plain search, and its front transformed by each s with the images that the other arm has besides."""
    run = search(seed, folder / "plain", PLAIN)
    row: Row = {"plain": points(run, "front"), "images": images(run), "failures": failures(run), "tuned": {}}
    left = (EVALUATIONS - PLAIN) * EPOCHS
    memory = {str(each.id): each.metrics["memory_bits"] for each in run.front()}
    chosen = spread(memory, left)
    chosen.sort(key=lambda trial: -run.pick(trial)[0].metrics["accuracy"])
    epochs, more = divmod(left, len(chosen))
    for s in SHARED:
        found: list[dict[str, Any]] = []
        spent = 0
        for each, trials in ((epochs + 1, chosen[:more]), (epochs, chosen[more:])):
            if trials:
                tuned = compressed(run, folder / f"{s}-{each}", trials, s, each)
                found += points(tuned, "all")
                spent += images(tuned)
        row["tuned"][str(s)] = {"front": found, "images": spent}
    return {**row, "epochs": left / len(chosen)}


def search(seed: int, out: Path, evaluations: int, transform: Any = None) -> Run:
    """A search by NSGA-II."""
    return nasplat.search(
        space=SPACE,
        transform=transform,
        benchmark=BENCHMARK,
        strategy=STRATEGY,
        objectives=OBJECTIVES,
        evaluations=evaluations,
        seed=seed,
        out=out,
        progress=False,
    )


def compressed(run: Run, out: Path, trials: Sequence[str], s: int, epochs: int) -> Run:
    """Networks of a run with full-stack filters, fitted and fine-tuned."""
    compressing.compress(
        compressing.of_run(run.directory, trials),
        console_of(False),
        transform={"name": "full_stack", "filters": s},
        epochs=epochs,
        checkpoints=1,
        out=out,
    )
    return nasplat.open_run(out)


def points(run: Run, pick: str) -> list[dict[str, Any]]:
    """The picked networks, measured on test images too."""
    found = zip(run.pick(pick), run.test(pick), strict=True)
    return [
        asdict(
            Point(
                each.architecture.code, each.metrics["memory_bits"], each.metrics["accuracy"], test.metrics["accuracy"]
            )
        )
        for each, test in found
    ]


def images(run: Run) -> int:
    """The training images of all trials; measuring a network as fitted takes none."""
    trained = (trial for trial in run.trials() if not (isinstance(trial, Measurement) and trial.task.fidelity == 0))
    return sum(trial.spent.images for trial in trained)


def failures(run: Run) -> int:
    """How many trials failed."""
    return sum(not is_measured(trial) for trial in run.trials())


def is_measured(trial: Any) -> bool:
    """Whether a trial did not fail."""
    return isinstance(trial, Measurement)


def front(members: Sequence[Point]) -> list[Point]:
    """Those that no other dominates on validation images."""
    losses = np.array([[1 - member.validation, member.bits] for member in members])
    return [members[i] for i in NonDominatedSorting().do(losses, only_non_dominated_front=True)]


def hypervolume(members: Sequence[Point], split: str, bits: tuple[float, float]) -> float:
    """As `DEFINITIONS` says.

    Args:
        members: The members of a front.
        split: ``validation`` or ``test``.
        bits: The memory bits of the ideal and of the reference point.
    """
    least, most = map(math.log, bits)
    losses = [
        [(1 - getattr(each, split)) / (1 - LEAST), (math.log(each.bits) - least) / (most - least)] for each in members
    ]
    return float(HV(ref_point=np.ones(2))(np.array(losses)))


def made(transform: dict[str, Any] | None = None) -> Any:
    """The benchmark with the space, transformed or plain."""
    options = {name: value for name, value in SPACE.items() if name != "name"}
    name = f"{SPACE['name']}{'+full_stack' * bool(transform)}"
    extra = {"transform": transform} if transform else {}
    return Workload(name, "classification", {**options, **extra}, {"dataset": "digits"}).make()


def extremes() -> tuple[float, float]:
    """The memory bits of the smallest member with the larger s, and of the largest plain member."""
    plain, small = made(), made({"filters": SHARED[-1]})

    def bits(benchmark: Any, code: str) -> float:
        memory: float = benchmark.space.cost(benchmark.space.parse(code), benchmark.io).memory_bits
        return memory

    return bits(small, "000000"), bits(plain, "333333")


def volumes(stage: Row, other: Row, bits: tuple[float, float]) -> dict[str, dict[str, float]]:
    """The hypervolume of every group on both splits."""
    plain = read(other["plain"])
    tuned = {s: read(other["tuned"][str(s)]["front"]) for s in SHARED}
    groups = {STAGE: front(read(stage["front"])), "plain": front(plain)}
    for s, members in tuned.items():
        groups |= {f"s = {s}": front([*plain, *members]), f"s = {s} alone": front(members)}
    found = {
        group: {split: hypervolume(members, split, bits) for split in ("validation", "test")}
        for group, members in groups.items()
    }
    best = max((f"s = {s}" for s in SHARED), key=lambda group: found[group]["validation"])
    return {**found, "better s": found[best]}


def read(rows: Sequence[Row]) -> list[Point]:
    """The points of a row."""
    return [Point(**row) for row in rows]


def choices(rows: Sequence[Row]) -> list[Counter[str]]:
    """For each stage, how often the members of the fronts have each choice."""
    space = made({"per": "stage", "filters": list(SHARED)}).space
    found: list[Counter[str]] = [Counter() for _ in space.stage_genes]
    for row in rows:
        for member in row["front"]:
            architecture = space.parse(member["code"])
            for stage in space.active_stages(architecture):
                gene, chosen = space.stage_genes[stage], space.chosen_stages(architecture)[stage]
                found[stage][str(gene.choices[chosen])] += 1
    return found


def rates(members: int = 300) -> dict[str, float]:
    """Costs of random members per second of CPU: by formula, and counted on a network that is built."""
    benchmark = made({"per": "stage", "filters": list(SHARED)})
    space, io, rng = benchmark.space, benchmark.io, default_rng(0)
    drawn = [space.sample(rng) for _ in range(members)]
    built = drawn[: members // 10]
    space.cost(drawn[-1], io)  # fills the caches of layers
    count(lambda: space.build(drawn[-1], io), io, layers)
    clock = time.process_time()
    formula = [space.cost(member, io).memory_bits for member in drawn[:-1]]
    between = time.process_time()
    counted = [count(partial(space.build, member, io), io, layers).memory_bits for member in built]
    end = time.process_time()
    assert formula[: len(built)] == counted
    return {"formula": (members - 1) / (between - clock), "counted": len(built) / (end - between)}


def main() -> None:
    """Search what is missing, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("runs/full-stack-search.jsonl"), help="where arms are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    shared = {
        "space": SPACE,
        "benchmark": BENCHMARK,
        "strategy": STRATEGY,
        "evaluations": [EVALUATIONS, PLAIN],
        "code": code_digest(),
    }
    jobs = [({"arm": arm, **shared}, seed) for seed in seeds for arm in (STAGE, GLOBAL)]
    rows = kept(jobs, work, arguments.out)
    stages, others = rows[::2], rows[1::2]
    for stage, other in zip(stages, others, strict=True):
        spent = {stage["images"], *(other["images"] + tuned["images"] for tuned in other["tuned"].values())}
        assert len(spent) == 1, f"the arms have different numbers of images: {spent}"
    bits = extremes()
    found = [volumes(stage, other, bits) for stage, other in zip(stages, others, strict=True)]
    gains = {
        group: {
            split: Gain.of([each[STAGE][split] for each in found], [each[group][split] for each in found])
            for split in ("validation", "test")
        }
        for group in GROUPS
    }
    chosen, rate = choices(stages), rates()
    if arguments.json:
        print(
            json.dumps(
                {
                    "hypervolume": dict(zip(seeds, found, strict=True)),
                    "gains": {
                        group: {split: asdict(gain) for split, gain in each.items()} for group, each in gains.items()
                    },
                    "choices": chosen,
                    "costs_per_second": rate,
                    "rows": rows,
                },
                indent=2,
            )
        )
        return
    print(f"{DEFINITIONS}\nBits from {bits[0]:,.0f} to {bits[1]:,.0f}.")
    for split in ("validation", "test"):
        print(f"\n{split:>10} " + " ".join(f"{group:>12}" for group in (STAGE, *GROUPS)))
        for seed, each in zip(seeds, found, strict=True):
            print(f"{seed:10} " + " ".join(f"{each[group][split]:12.4f}" for group in (STAGE, *GROUPS)))
        for group in GROUPS:
            gain = gains[group][split]
            said = "better" if gain.better else "at least equal" if gain.at_least_equal else "not shown"
            print(f"stage less {group}: {gain}: {said}")
    print(f'\n"at least equal": the interval lies above {-ALLOWED:.0%} of the other\'s mean')
    for seed, stage, other in zip(seeds, stages, others, strict=True):
        print(
            f"{seed}: {stage['images']:,} images; {len(stage['front'])} and {len(other['plain'])} members of fronts, "
            f"{other['epochs']:.2f} epochs of fine-tuning; {stage['failures']} and {other['failures']} failed trials; "
            f"{stage['cpu_seconds']:.0f} and {other['cpu_seconds']:.0f} s of CPU"
        )
    for number, counted in enumerate(chosen, 1):
        print(f"stage {number} of the fronts: " + ", ".join(f"{name} {n}" for name, n in sorted(counted.items())))
    print(f"costs per second of CPU: {rate['formula']:.0f} by formula, {rate['counted']:.0f} counted on networks")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
