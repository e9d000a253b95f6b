"""What calibration by a few labels is worth: under shifts of some classes and of all, against its rivals.

    python performance/calibration.py [--seeds 1000 … 1009] [--out runs/calibration.jsonl] [--csv FILE] [--json]
    python performance/calibration.py --tune

A minute and a half a seed on one core. Every seed is a line of the file as soon as it has ended, and a second call goes
on where the first was interrupted. `--tune` is what the settings were chosen by: seeds of their own.

A small network is trained on upright images, digits and Fashion-MNIST apart, until it makes few mistakes. It is then
used on others: in the first shift, the images of some classes are turned by 30 to 50 degrees; in the second, all are
turned by up to 30 degrees, blurred and noisy. A tenth of them may be labelled. All figures are of the other images.
Needs Fashion-MNIST.
"""

import argparse
import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import Gain
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, rotate
from torch import nn

from nasplat.calibration.calibrators import NAMES, OPERATIONAL, fit
from nasplat.calibration.operational import USUAL, Operational
from nasplat.calibration.outputs import Outputs, rights
from nasplat.calibration.recommendation import recommended
from nasplat.calibration.reliability import COUNTS, decision_costs, figures
from nasplat.calibration.rounds import Plan, medoids_of, next_round
from nasplat.data.datasets import dataset
from nasplat.data.examples import Examples
from nasplat.nn.onnx import with_features
from nasplat.training.fit import ClassifierTraining
from nasplat.training.options import RecipeOptions
from nasplat.training.seeding import seeded
from searching import Row, kept

Images = NDArray[np.float32]
DATA = ("digits", "fashion_mnist")
SHIFTS = ("some classes", "all classes")
TRAINED, OPERATED = {"digits": 897, "fashion_mnist": 6000}, {"digits": 900, "fashion_mnist": 2000}
"""The numbers of images that the network is trained on and used on."""
TURNED = (2, 3, 5, 7)
"""The classes of the first shift; of Fashion-MNIST pullover, dress, sandal and sneaker."""
EPOCHS = 30
BUDGET = 0.1
"""The part of the operation images that is labelled."""
THRESHOLD = 0.9
TUNING_SEEDS = tuple(range(100, 106))
SHOWN = ("brier", "calibration_error", "decision_cost", *COUNTS)


class Network(nn.Module):
    """Two convolutions and two linear layers; the features are those after the first linear one."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.hidden(self.maps(images)))
        return logits


@dataclass(frozen=True, slots=True)
class Settings:
    """One experiment.

    Args:
        data: The data set.
        shift: One of `SHIFTS`.
    """

    data: str
    shift: str


@lru_cache
def pictures(name: str) -> tuple[Images, NDArray[np.int64]]:
    """All images of a data set that are used, from 0 to 1 `[n, side, side]`, and their classes."""
    splits = dataset(name).load()
    parts = [splits.training, splits.validation, splits.test] if name == "digits" else [splits.test]
    images = np.concatenate([part.images.numpy()[:, 0].astype(np.float32) for part in parts])
    low, high = images.min(), images.max()
    return (images - low) / (high - low), np.concatenate([part.labels.numpy() for part in parts])


def shifted(images: Images, labels: NDArray[np.int64], shift: str, rng: np.random.Generator) -> Images:
    """Images as the network meets them in use."""
    found = images.copy()
    side = images.shape[-1]
    for row, label in enumerate(labels):
        if shift == "all classes":
            turned = rotate(images[row], rng.uniform(-30, 30), reshape=False, order=1)
            found[row] = gaussian_filter(turned, side / 28 * rng.uniform(0, 1)) + rng.normal(0, 0.1, turned.shape)
        elif label in TURNED:
            found[row] = rotate(images[row], rng.uniform(30, 50), reshape=False, order=1)
    return found.clip(0, 1)


def trained(name: str, seed: int) -> tuple[nn.Module, Images, NDArray[np.int64]]:
    """A network with its features, and other images with their classes."""
    images, labels = pictures(name)
    order = np.random.default_rng(seed).permutation(len(images))
    rows, rest = order[: TRAINED[name]], order[TRAINED[name] :][: OPERATED[name]]
    examples = Examples(torch.from_numpy(images[rows, None] - 0.5), torch.from_numpy(labels[rows]))
    recipe = RecipeOptions(learning_rate=0.05, weight_decay=0.0).recipe(len(examples), "cpu")
    with seeded(seed):
        training = ClassifierTraining(Network(images.shape[-1]), examples, recipe, epochs=EPOCHS, seed=seed)
    training.until(EPOCHS)
    shape = (1, *images.shape[1:])
    return with_features(training.network.eval(), shape), images[rest], labels[rest]


def outputs_of(network: nn.Module, images: Images) -> Outputs:
    """What the network gives for images."""
    with torch.no_grad():
        logits, features = network(torch.from_numpy(images[:, None] - np.float32(0.5)))
    return Outputs(logits.numpy(), features.numpy())


def labelled_by(plan: Plan, outputs: Outputs, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows that the plan asks for, and which were drawn at random."""
    rows, drawn = np.empty(0, np.int64), np.empty(0, bool)
    medoids = medoids_of(plan, outputs.features)
    while len(rows) < plan.budget:
        more, fair = next_round(plan, outputs, rows, labels[rows], medoids=medoids)
        rows, drawn = np.concatenate([rows, more]), np.concatenate([drawn, fair])
    return rows, drawn


def work(given: Row, seed: int) -> Row:
    """Carry out a seed, for `kept`."""
    torch.set_num_threads(1)
    settings = Settings(**given)
    network, images, labels = trained(settings.data, seed)
    upright = outputs_of(network, images)
    images = shifted(images, labels, settings.shift, np.random.default_rng([seed, 1]))
    outputs = outputs_of(network, images)
    budget = round(BUDGET * len(labels))
    right = rights(outputs, labels)
    row: Row = {"upright": float(rights(upright, labels).mean()), "accuracy": float(right.mean()), "n": len(labels)}
    rng = np.random.default_rng([seed, 2])
    usual, paper = Plan(budget, THRESHOLD, seed=seed), Plan(budget, THRESHOLD, paper=True, seed=seed)
    chosen = {
        "ours": labelled_by(usual, outputs, labels),
        "random": (rng.choice(len(labels), budget, replace=False), np.ones(budget, bool)),
        "paper": labelled_by(paper, outputs, labels),
    }
    medoids = outputs.features[medoids_of(paper, outputs.features)]
    arms: Row = {}
    for how, (rows, fair) in chosen.items():
        rest = np.setdiff1d(np.arange(len(labels)), rows)
        some, others = outputs.take(rows), outputs.take(rest)
        given_to = {name: fit(name, some, labels[rows])(others) for name in NAMES}
        plain = Operational.fit(some, labels[rows], recipe=replace(USUAL, sharpened=False))
        given_to["no sigmoid"] = plain(others)
        if how == "paper":
            given_to["paper"] = fit(OPERATIONAL, some, labels[rows], paper=True, medoids=medoids)(others)
        found = recommended(some, labels[rows], seed=seed, fair=fair)
        arms[how] = {
            "recommended": found.name,
            "scores": {name: asdict(score) for name, score in found.scores.items()},
            "arms": {name: measured(each, right[rest], seed) for name, each in given_to.items()},
            "apart": apart({name: given_to[name] for name in NAMES}, right[rest]),
        }
    row |= {"labels": arms}
    print(
        f"{settings.data}, {settings.shift}, seed {seed}: accuracy {row['accuracy']:.3f}", file=sys.stderr, flush=True
    )
    return row


def measured(confidence: NDArray[np.float64], right: NDArray[np.bool_], seed: int) -> Row:
    """The figures of an arm, with their intervals."""
    return {name: asdict(each) for name, each in figures(confidence, right, THRESHOLD, seed=seed).items()}


def apart(confidences: dict[str, NDArray[np.float64]], right: NDArray[np.bool_]) -> Row:
    """By how much the Brier score of each arm is above the best one's, with the standard error over images."""
    errors = {name: (each - right) ** 2 for name, each in confidences.items()}
    best = min(errors, key=lambda name: float(errors[name].mean()))
    gaps = {name: each - errors[best] for name, each in errors.items()}
    return {
        "best": best,
        "by": {name: [float(gap.mean()), float(gap.std(ddof=1) / len(gap) ** 0.5)] for name, gap in gaps.items()},
        "cost": {name: float(decision_costs(c, right, THRESHOLD).mean()) for name, c in confidences.items()},
    }


def rows_of(seeds: Sequence[int], rows: Sequence[Row]) -> list[list[str]]:
    """Every figure of every seed, as lines of a table."""
    lines = [["shift", "data", "seed", "labels", "arm", "recommended", *SHOWN]]
    for (job, seed), row in zip([(job, seed) for job in jobs() for seed in seeds], rows, strict=True):
        for how, labelled in row["labels"].items():
            for name, arm in labelled["arms"].items():
                chosen = "yes" if name == labelled["recommended"] else "no"
                values = [f"{arm[figure]['value']:.6g}" for figure in SHOWN]
                lines.append([job.shift, job.data, str(seed), how, name, chosen, *values])
    return lines


def jobs() -> list[Settings]:
    """All experiments."""
    return [Settings(name, shift) for shift in SHIFTS for name in DATA]


def within_noise(labelled: Row) -> bool:
    """Whether the recommended arm is the best one, or no worse by more than two standard errors."""
    gap, error = labelled["apart"]["by"][labelled["recommended"]]
    return bool(gap <= 2 * error)


def summary(seeds: Sequence[int], rows: Sequence[Row]) -> dict[str, Any]:
    """What all seeds come to."""
    found: dict[str, Any] = {}
    for number, job in enumerate(jobs()):
        some = rows[number * len(seeds) : (number + 1) * len(seeds)]
        found[f"{job.shift}, {job.data}"] = {
            "accuracy": [float(np.mean([row[name] for row in some])) for name in ("upright", "accuracy")],
            **{how: table(some, how) for how in ("ours", "random", "paper")},
        }
    return found


def table(rows: Sequence[Row], how: str) -> Row:
    """The means of all arms by the same labels, and what the recommendation was worth."""
    labelled = [row["labels"][how] for row in rows]
    arms = list(labelled[0]["arms"])

    def values(name: str, figure: str) -> list[float]:
        of = [each["recommended"] if name == "recommended" else name for each in labelled]
        return [each["arms"][arm][figure]["value"] for each, arm in zip(labelled, of, strict=True)]

    means = {
        name: {figure: float(np.mean(values(name, figure))) for figure in SHOWN} for name in [*arms, "recommended"]
    }
    return {
        "arms": means,
        "recommended": [each["recommended"] for each in labelled],
        "best": [each["apart"]["best"] for each in labelled],
        "within noise": sum(map(within_noise, labelled)),
        "recommended less temperature": {
            figure: asdict(Gain.of(values("recommended", figure), values("temperature", figure))) for figure in SHOWN
        },
    }


def show(found: dict[str, Any]) -> None:
    """Print the tables: means over seeds, and in brackets the parts of the network's own figures."""
    for title, experiment in found.items():
        before, after = experiment["accuracy"]
        print(f"\n{title}: accuracy {before:.3f} upright, {after:.3f} in use")
        for how in ("ours", "random", "paper"):
            part = experiment[how]
            chosen = ", ".join(f"{name} {n}" for name, n in Counter(part["recommended"]).items())
            print(f"  labels: {how}; recommended {chosen}; within noise of the best {part['within noise']}")
            for name, arm in part["arms"].items():
                base = part["arms"]["none"]
                told = ", ".join(f"{figure} {arm[figure]:.4g} ({arm[figure] / base[figure]:.2f})" for figure in SHOWN)
                print(f"    {name:12} {told}")
            for figure, gain in part["recommended less temperature"].items():
                print(f"    recommended less temperature, {figure}: {gain['mean']:+.4g} "
                      f"({gain['low']:+.4g} to {gain['high']:+.4g})")  # fmt: skip


def main() -> None:
    """Compare, and print the tables."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--seeds", type=int, nargs="+", default=list(range(1000, 1010)))
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path("runs/calibration.jsonl"))
    options.add_argument("--tune", action="store_true", help="seeds of their own")
    options.add_argument("--csv", type=Path, help="also write every figure of every seed")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    seeds = TUNING_SEEDS if given.tune else given.seeds
    rows = kept([(asdict(job), seed) for job in jobs() for seed in seeds], work, given.out, given.processes)
    if given.csv:
        given.csv.write_text("".join(",".join(line) + "\n" for line in rows_of(seeds, rows)))
    found = summary(seeds, rows)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}"
    )
    show(found)


if __name__ == "__main__":
    main()
