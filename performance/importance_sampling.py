"""Whether importance sampling of latent vectors trains generators in fewer steps, and in less time.

    python performance/importance_sampling.py [--setting ring] [--arm prior] [--seeds 10] [--first 0] [--file FILE]
        [--table] [--threads 1] [--set NAME=VALUE]

Each training is measured at twenty-four points of its course, against validation data with fresh samples of the prior;
the time of measuring is not counted. A line of the file is one training, written when it is complete, so a second call
goes on where the first was interrupted. With `--table` nothing is trained; what the file has is compared: the steps and
seconds in which an arm first reaches the distance with which the prior ended, of the same seed, relative to those of
the prior, and distances and modes at the end. A distance below that of real samples counts as theirs.
"""

import argparse
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.benchmarks.generation import Generation
from nasplat.config import Workload
from nasplat.data.datasets import dataset
from nasplat.errors import TrialFailed
from nasplat.generation.comparison import Comparison
from nasplat.generation.data import images, ring
from nasplat.options import merged, nested

POINTS = 24
RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Setting:
    """A generator, its data and its training.

    Args:
        space: The registered name of the space.
        code: The generator.
        options: Options of the benchmark by dotted name.
        steps: The steps of a training.
        distance: The metric that counts.
    """

    space: str
    code: str
    options: dict[str, Any]
    steps: int
    distance: str

    def benchmark(self, sampler: dict[str, Any]) -> Generation:
        """The benchmark with options of a sampler, prepared."""
        given: dict[str, Any] = {}
        for name, value in {**self.options, **sampler}.items():
            given = merged(given, nested(name, value))
        made = Workload(self.space, "generation", {}, given).make()
        assert isinstance(made, Generation)
        made.check()
        made.prepare()
        return made


SETTINGS = {
    "ring": Setting(
        "generator/linear",
        "012220",
        {"dataset": "ring", "recipe.learning_rate": 2e-4, "recipe.spectral_norm": True},
        1200,
        "mmd_squared",
    ),
    "digits": Setting(
        "generator",
        "2111102",
        {"dataset": "digits", "recipe.learning_rate": 5e-4, "recipe.spectral_norm": False},
        2400,
        "frechet",
    ),
    "fashion_mnist": Setting(
        "generator/linear",
        "313330",
        {"dataset": "fashion_mnist", "recipe.learning_rate": 1e-3, "recipe.spectral_norm": False},
        4800,
        "frechet",
    ),
}
"""Learning rates and spectral norm were chosen by the prior alone, with seeds 100 and 101, and then frozen."""
IMPORTANCE = {"sampler.name": "importance"}
ARMS: dict[str, dict[str, Any]] = {
    "prior": {},
    "corrected": IMPORTANCE,
    "uncorrected": {**IMPORTANCE, "sampler.corrected": False},
    "loss_gradient": {**IMPORTANCE, "sampler.score": "loss_gradient"},
}
"""Options of the sampler by dotted name."""


def trained(setting: Setting, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """One training: steps, seconds and metrics at each point."""
    benchmark = setting.benchmark(options)
    training = benchmark.training(Architecture(setting.space, setting.code), device="cpu", seed=seed)
    points: list[dict[str, float]] = []
    seconds = 0.0
    try:
        for point in range(1, POINTS + 1):
            began = time.perf_counter()
            training.until(point * setting.steps // POINTS)
            seconds += time.perf_counter() - began
            points.append({"steps": training.steps, "seconds": seconds, **benchmark.current(training, seed)})
    except TrialFailed as error:
        return {"failed": str(error), "points": points}
    return {"points": points}


def reached(points: list[dict[str, float]], distance: str, target: float, unit: str) -> float:
    """The steps or seconds at which a distance was first reached; infinite if it never was."""
    return next((each[unit] for each in points if each[distance] <= target), math.inf)


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and the 95 % interval of bootstrap resamples of the seeds."""
    known = np.array(values)
    drawn = default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))
    medians = np.sort(np.median(known[drawn], axis=1))  # infinite ones sort last
    return float(np.median(known)), float(medians[int(0.025 * RESAMPLES)]), float(medians[int(0.975 * RESAMPLES)])


def spelt(value: float) -> str:
    """A ratio or a distance with three digits."""
    return "never" if math.isinf(value) or math.isnan(value) else f"{value:.3g}"


def floor(setting: Setting) -> float:
    """The largest distance of as many real samples, of the training split, from validation data.

    Below it, no generator can be told from the data.
    """
    name, count = setting.options["dataset"], 2000
    samples = ring() if name == "ring" else images(dataset(name))
    compare = Comparison.of(name, samples.validation[:count])
    parts = torch.split(samples.training[: 5 * count], count)
    return max(compare(part)[setting.distance] for part in parts if len(part) >= min(count, len(samples.training)))


def table(name: str, lines: list[dict[str, Any]]) -> list[str]:
    """The comparison of a setting, as a table."""
    setting = SETTINGS[name]
    least = floor(setting)
    by = {(line["arm"], line["seed"]): line for line in lines if line["setting"] == name}
    arms = list(dict.fromkeys(arm for arm, _ in by))
    rows = [
        f"{name}: {setting.space} {setting.code}, {setting.steps} steps, distance {setting.distance}, of real samples "
        f"{least:.3g}",
        "",
        "| arm | seeds | steps, ratio | seconds, ratio | final distance, ratio | final distance, median | modes |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        steps, seconds, finals, ends, modes = [], [], [], [], []
        for seed in sorted(seed for each, seed in by if each == arm and ("prior", seed) in by):
            prior, points = by["prior", seed]["points"], by[arm, seed]["points"]
            end = max(prior[-1][setting.distance], least)
            failed = "failed" in by[arm, seed]
            steps.append(
                reached(points, setting.distance, end, "steps") / reached(prior, setting.distance, end, "steps")
            )
            seconds.append(
                reached(points, setting.distance, end, "seconds") / reached(prior, setting.distance, end, "seconds")
            )
            finals.append(math.inf if failed else max(points[-1][setting.distance], least) / end)
            ends.append(math.inf if failed else points[-1][setting.distance])
            modes.append(0.0 if failed else points[-1]["modes"])
        if not steps:
            continue
        told = []
        for values in (steps, seconds, finals):
            middle, low, high = interval(values)
            told.append(f"{spelt(middle)} ({spelt(low)} to {spelt(high)})")
        rows.append(
            f"| {arm} | {len(steps)} | {' | '.join(told)} | {spelt(float(np.median(ends)))} | {np.mean(modes):.1f} |"
        )
    return [*rows, ""]


def main() -> None:
    """Train what the file lacks, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--arm", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--file", type=Path, default=Path("importance_sampling.jsonl"))
    parser.add_argument("--table", action="store_true", help="train nothing, compare what the file has")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="further options, to tune settings")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    lines = [json.loads(line) for line in given.file.read_text().splitlines()] if given.file.exists() else []
    if not given.table:
        more = {name: json.loads(value) for name, _, value in (each.partition("=") for each in given.set)}
        have = {(line["setting"], line["arm"], line["seed"]) for line in lines}
        for seed in range(given.first, given.first + given.seeds):
            for name in given.setting:
                for arm in given.arm:
                    if (name, arm, seed) in have:
                        continue
                    found = trained(SETTINGS[name], {**ARMS[arm], **more}, seed)
                    lines.append({"setting": name, "arm": arm, "seed": seed, **found})
                    with given.file.open("a") as end:
                        end.write(json.dumps(lines[-1]) + "\n")
                    last = found["points"][-1] if found["points"] else {}
                    print(
                        name, arm, seed, found.get("failed", ""), {k: round(v, 4) for k, v in last.items()}, flush=True
                    )
    print(
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, {given.threads} thread\n"
    )
    for name in given.setting:
        print("\n".join(table(name, lines)))


if __name__ == "__main__":
    main()
