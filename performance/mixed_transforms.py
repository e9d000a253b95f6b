"""Whether a choice of plain, binary or full-stack layers for each stage finds better fronts than one for all stages.

    python performance/mixed_transforms.py [--seeds 5] [--first-seed 3100] [--processes 1] [--out FILE] [--json]

About fifteen minutes on one core. Every search is a line of the file as soon as it has ended, and a second call goes on
where the first was interrupted.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from fronts import Gain
from full_stack_search import BENCHMARK, EPOCHS, LEAST, SPACE, STRATEGY, Point, hypervolume, images, points, search

from nasplat.config import Workload
from nasplat.errors import InputError
from searching import Row, code_digest, kept

FILTERS = 4
"""The filters that share a full-stack filter."""
EVALUATIONS = 24
MIXED = "mixed"
ARMS: dict[str, dict[str, Any] | None] = {
    MIXED: {"name": "balanced_binary+full_stack", "per": "stage", "full_stack": {"filters": FILTERS}},
    "binary": {"name": "balanced_binary"},
    "full-stack": {"name": "full_stack", "filters": FILTERS},
    "plain": None,
}
"""The transform of each search; the last three have one choice for all stages of all networks."""
DEFINITIONS = f"""\
Space: nasbench201, {SPACE["channels"]} channels, {SPACE["cells"]} cell; digits, {EPOCHS} epochs an evaluation.
All arms search by NSGA-II, {EVALUATIONS} evaluations, {STRATEGY["population"]} survivors, for a high accuracy and few
memory bits. mixed: each of the three stages is plain, binary, or of full-stack filters with s = {FILTERS}. binary,
full-stack, plain: all stages are. All networks are trained from scratch, and all searches have as many images.
Hypervolume of the front on validation images: of accuracy and the logarithm of memory bits, as a share of what lies
between the reference point, accuracy {LEAST} and the bits of the largest plain member, and the ideal, accuracy 1 and
the bits of the smallest binary member. "test" has the same networks with their test accuracies."""


def work(settings: Row, seed: int) -> Row:
    """One search: its front as points, images and seconds."""
    print(f"seed {seed}, {settings['arm']} …", file=sys.stderr)
    torch.set_num_threads(1)
    clock = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = search(seed, Path(folder) / "run", EVALUATIONS, settings["transform"])
        row = {"front": points(run, "front"), "images": images(run)}
    return {**row, "cpu_seconds": time.process_time() - clock}


def extremes() -> tuple[float, float]:
    """The memory bits of the smallest binary member, and of the largest plain one."""

    def bits(name: str, code: str) -> float:
        options = {key: value for key, value in SPACE.items() if key != "name"}
        extra: dict[str, Any] = {"transform": {}} if "+" in name else {}
        benchmark = Workload(name, "classification", {**options, **extra}, {"dataset": "digits"}).make()
        memory: float = benchmark.space.cost(benchmark.space.parse(code), benchmark.io).memory_bits
        return memory

    return bits("nasbench201+balanced_binary", "000000"), bits("nasbench201", "333333")


def volumes(rows: Sequence[Row], bits: tuple[float, float]) -> dict[str, dict[str, float]]:
    """The hypervolume of each arm of a seed on both splits."""
    return {
        arm: {
            split: hypervolume([Point(**each) for each in row["front"]], split, bits)
            for split in ("validation", "test")
        }
        for arm, row in zip(ARMS, rows, strict=True)
    }


def main() -> None:
    """Search what is missing, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=3100)
    parser.add_argument("--processes", type=int, default=1, help="how many searches run at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/mixed-transforms.jsonl"), help="where searches are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    shared = {
        "space": SPACE,
        "benchmark": BENCHMARK,
        "strategy": STRATEGY,
        "evaluations": EVALUATIONS,
        "code": code_digest(),
    }
    jobs = [({"arm": arm, "transform": ARMS[arm], **shared}, seed) for seed in seeds for arm in ARMS]
    rows = kept(jobs, work, arguments.out, arguments.processes)
    groups = [rows[start : start + len(ARMS)] for start in range(0, len(rows), len(ARMS))]
    bits = extremes()
    found = [volumes(group, bits) for group in groups]
    others = [arm for arm in ARMS if arm != MIXED]
    gains = {
        split: {
            arm: Gain.of([each[MIXED][split] for each in found], [each[arm][split] for each in found]) for arm in others
        }
        for split in ("validation", "test")
    }
    if arguments.json:
        told = {split: {arm: asdict(gain) for arm, gain in each.items()} for split, each in gains.items()}
        print(json.dumps({"hypervolume": dict(zip(seeds, found, strict=True)), "gains": told, "rows": rows}, indent=2))
        return
    print(f"{DEFINITIONS}\nBits from {bits[0]:,.0f} to {bits[1]:,.0f}.")
    for split, each in gains.items():
        print(f"\n{split:>10} " + " ".join(f"{arm:>12}" for arm in ARMS))
        for seed, volume in zip(seeds, found, strict=True):
            print(f"{seed:10} " + " ".join(f"{volume[arm][split]:12.4f}" for arm in ARMS))
        for arm, gain in each.items():
            print(f"mixed less {arm}: {gain}: {'better' if gain.better else 'not shown'}")
    for seed, group in zip(seeds, groups, strict=True):
        said = ", ".join(f"{row['images']:,} images, {row['cpu_seconds']:.0f} s of CPU" for row in group)
        print(f"{seed}: {said}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except InputError as error:
        sys.exit(f"error: {error}")
