"""What picked images are worth to a student: against the positives alone, random images, and all real labels.

    python performance/picking.py [--seeds 1000 … 1004] [--processes 1] [--out runs/picking.jsonl] [--json]
    python performance/picking.py --tune

About ten minutes a seed on one core. Every seed is a line of the file as soon as it has ended, and a second call goes
on where the first was interrupted. `--tune` is what the settings were chosen by: seeds of their own, validation data.

Fashion-MNIST: five classes are the task, with ten labels each. The first pool has the rest of the task (a fifth of the
pool), the other five classes, enlarged digits, and patches of photos; the second has the other five classes alone.
Needs Fashion-MNIST and BSDS500.
"""

import argparse
import csv
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from balanced_binary import Vgg
from fronts import Gain
from full_stack import points
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from nasplat.data.datasets import dataset
from nasplat.data.examples import Examples
from nasplat.data.location import data_folder
from nasplat.data.picked import TABLE, Layout
from nasplat.data.picture_files import MOST_PIXELS
from nasplat.picking.feature_maps import FeatureMaps
from nasplat.picking.job import Choice, pick
from nasplat.picking.positives import Labelled, Positives
from nasplat.training.distillation import Distillation, Perturbations
from nasplat.training.fit import ClassifierTraining, evaluate
from nasplat.training.options import RecipeOptions
from nasplat.training.seeding import seeded
from searching import Row, kept

TASK = (0, 1, 2, 3, 4)
"""The classes of the task: T-shirt, trouser, pullover, dress, coat."""
LABELS = 10
"""The labelled images of each class."""
PARTS = {"task": 4000, "other": 4000, "digits": 5000, "patches": 7000}
"""The most images of the first pool by where they are from; there are 4,313 digits."""
NEAR = 20_000
"""The images of the second pool."""
PRIOR = PARTS["task"] / sum(PARTS.values())
TEACHER, STUDENT = (32, 64, 64, 128, 128, 128), (8, 16, 16, 32, 32, 32)
"""The widths of the networks."""
TUNING_SEEDS = (100, 101)
PAIRS = (
    "random less positives",
    "selected less positives",
    "selected less random",
    "robust less random",
    "robust less selected",
    "real less robust",
    "near selected less near random",
    "near robust less near random",
    "half robust less robust",
    "twice robust less robust",
    "estimated robust less robust",
)
"""What is compared."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the networks are trained; what is not named is the platform's default.

    Args:
        teacher_steps: The steps of the teacher, on all real images of the task.
        steps: The steps of every student.
        batch: The images of a step.
        temperature: Of the distillation.
        split: The part of the data that is measured.
    """

    teacher_steps: int = 2500
    steps: int = 1500
    batch: int = 64
    temperature: float = 4.0
    split: str = "test"


@lru_cache
def task_data() -> tuple[dict[str, Examples], Layout]:
    """Training, validation and test images of the task, and how they are made ready."""
    data = dataset("fashion_mnist")
    splits = data.load()
    parts = {}
    for name in ("training", "validation", "test"):
        part: Examples = getattr(splits, name)
        rows = (part.labels < len(TASK)).nonzero().squeeze(1)
        parts[name] = Examples(part.images[rows], part.labels[rows], part.scaling)
    scaling = splits.training.scaling
    assert scaling is not None
    mean, std = (tuple(each.flatten().tolist()) for each in (scaling.mean, scaling.std))
    return parts, Layout(tuple(map(str, TASK)), 1, 28, mean, std)


@lru_cache
def far_pictures() -> dict[str, NDArray[np.uint8]]:
    """Digits and patches of photos, grey, 28 x 28."""
    digits = dataset("hard_digits").load().training.images[:, 0].numpy()
    low, high = digits.min(), digits.max()
    drawn = [Image.fromarray(((each - low) / (high - low) * 255).astype(np.uint8)) for each in digits]
    rng = np.random.default_rng(0)
    photos = [Image.open(path).convert("L") for path in sorted((data_folder() / "images/sr/BSDS500/train").iterdir())]
    patches = []
    for _ in range(2 * PARTS["patches"]):
        photo, side = photos[rng.integers(len(photos))], int(rng.integers(28, 113))
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        patches.append(photo.resize((28, 28), Image.Resampling.BILINEAR, (left, top, left + side, top + side)))
    scaled = [each.resize((28, 28), Image.Resampling.BILINEAR) for each in drawn]
    return {"digits": np.stack([*map(np.asarray, scaled)]), "patches": np.stack([*map(np.asarray, patches)])}


def other_pictures() -> NDArray[np.uint8]:
    """The images of the other five classes."""
    training = dataset("fashion_mnist").load().training
    found: NDArray[np.uint8] = training.images[training.labels >= len(TASK), 0].numpy()
    return found


def trained(
    network: nn.Module,
    examples: Examples,
    steps: int,
    seed: int,
    settings: Settings,
    teaching: Distillation | None = None,
) -> nn.Module:
    """The network, trained for about so many steps in whole epochs by the platform's default recipe."""
    recipe = RecipeOptions(batch_size=min(settings.batch, len(examples))).recipe(len(examples), "cpu")
    epochs = max(round(steps / (len(examples) // recipe.batch_size)), 1)
    training = ClassifierTraining(network, examples, recipe, epochs=epochs, seed=seed, distillation=teaching)
    training.until(epochs)
    return training.network.eval()


def student(
    teacher: nn.Module | None,
    examples: Examples,
    seed: int,
    settings: Settings,
    split: Examples,
    *,
    robust: bool = False,
) -> float:
    """The accuracy of a student, of the teacher's answers or, without a teacher, of labels."""
    _, layout = task_data()
    teaching = None
    if teacher is not None:
        perturbed = Perturbations(1, 0.1) if robust else None
        teaching = Distillation(teacher, 1.0, settings.temperature, perturbations=perturbed)
    with seeded(seed):
        network = trained(Vgg(layout.io, STUDENT), examples, settings.steps, seed, settings, teaching)
    return evaluate(network, split)["accuracy"]


def written(images: NDArray[np.uint8], folder: Path) -> None:
    """Write images as PNG files."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:05}.png", compress_level=1)


def work(given: Row, seed: int) -> Row:
    """Carry out a seed, for `kept`. Accuracies, precisions and recalls are fractions."""
    torch.set_num_threads(1)
    settings, clock = Settings(**given), time.perf_counter()
    parts, layout = task_data()
    split, training = parts[settings.split], parts["training"]
    rng = np.random.default_rng(seed)
    with seeded(seed):
        teacher = trained(Vgg(layout.io, TEACHER), training, settings.teacher_steps, seed, settings)
    labels = training.labels.numpy()
    shuffled = rng.permutation(len(labels))
    chosen = np.concatenate([shuffled[labels[shuffled] == label][:LABELS] for label in TASK])
    rest = np.setdiff1d(shuffled, chosen)
    images = training.images.numpy()
    positives, held = Labelled(images[chosen], labels[chosen]), parts["validation"]
    labelled = Positives(
        "fashion_mnist",
        positives,
        Labelled(held.images.numpy(), held.labels.numpy()),
        Labelled(images[:0], labels[:0]),
    )
    other, far = other_pictures(), far_pictures()
    row: Row = {"teacher": evaluate(teacher, split)["accuracy"]}
    with tempfile.TemporaryDirectory() as place:
        pools = {"pool": Path(place, "pool"), "near": Path(place, "near")}
        of = {"task": images[rest, 0], "other": other, **far}
        for name, count in PARTS.items():
            written(of[name][rng.permutation(len(of[name]))[:count]], pools["pool"] / name)
        written(other[rng.permutation(len(other))[:NEAR]], pools["near"] / "other")
        picks = {
            "selected": ("pool", PRIOR),
            "half": ("pool", PRIOR / 2),
            "twice": ("pool", 2 * PRIOR),
            "estimated": ("pool", None),
            "near selected": ("near", None),
        }
        sets: dict[str, tuple[Examples, Examples]] = {}
        for name, (pool, prior) in picks.items():
            folder = Path(place, f"{pool}-picking")  # features of a pool are made once
            maps = FeatureMaps(teacher, None, layout.io.input_shape)
            found = pick(
                folder, maps, layout, [str(pools[pool])], labelled, Choice(prior, seed=seed), most=MOST_PIXELS,
                told=lambda *_: None,
            )  # fmt: skip
            row[f"{name} picking"] = judged(folder, found)
            sets[name] = gathered(folder, layout, seed, pools[pool], positives)
            print(f"seed {seed}, {name}: {row[f'{name} picking']}", file=sys.stderr, flush=True)
    alone = Examples(torch.from_numpy(positives.images), torch.from_numpy(positives.labels), layout.scaling)
    arms: dict[str, tuple[nn.Module | None, Examples, bool]] = {
        "positives": (teacher, alone, False),
        "random": (teacher, sets["selected"][1], False),
        "random robust": (teacher, sets["selected"][1], True),
        "selected": (teacher, sets["selected"][0], False),
        "robust": (teacher, sets["selected"][0], True),
        "real": (None, training, False),
        "near random": (teacher, sets["near selected"][1], False),
        "near selected": (teacher, sets["near selected"][0], False),
        "near robust": (teacher, sets["near selected"][0], True),
        **{f"{name} robust": (teacher, sets[name][0], True) for name in ("half", "twice", "estimated")},
    }
    for name, (taught_by, examples, robust) in arms.items():
        row[name] = student(taught_by, examples, seed, settings, split, robust=robust)
        print(f"seed {seed}, {name}: {row[name]:.4f} of {len(examples)}", file=sys.stderr, flush=True)
    row["seconds"] = time.perf_counter() - clock
    return row


def judged(folder: Path, found: dict[str, Any]) -> Row:
    """What a picking holds in truth, beside what it says of itself."""
    with (folder / TABLE).open(newline="") as file:
        right = sum("/task/" in row["image"] for row in csv.DictReader(file))
    return {
        "picked": found["picked"],
        "precision": right / found["picked"],
        "recall": right / PARTS["task"] if right else None,
        "said precision": found["precision"],
        "said recall": found["recall"],
        "estimated prior": found["prior"]["estimated"],
        "separation": found["separation"],
        "notes": found["notes"],
    }


def gathered(folder: Path, layout: Layout, seed: int, pool: Path, positives: Labelled) -> tuple[Examples, Examples]:
    """What was picked with the positives, and as many random images of the pool with the positives."""
    images, parts = (np.load(folder / name, allow_pickle=False) for name in ("images.npy", "parts.npy"))
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    there = parts <= 1
    picked = Examples(torch.from_numpy(images[there]), torch.from_numpy(labels[there]), layout.scaling)
    paths = sorted(pool.rglob("*.png"))
    count = int((parts == 0).sum())
    rows = np.random.default_rng(seed).permutation(len(paths))[:count]
    drawn = np.stack([np.asarray(Image.open(paths[row]))[None] for row in rows])
    alike = np.concatenate([positives.images, drawn])
    # A distillation by the teacher's answers alone does not look at labels.
    zeros = np.concatenate([positives.labels, np.zeros(count, dtype=np.int64)])
    return picked, Examples(torch.from_numpy(alike), torch.from_numpy(zeros), layout.scaling)


def summary(seeds: Sequence[int], settings: Settings, file: Path, processes: int) -> dict[str, Any]:
    """What all seeds come to; those that the file lacks are carried out."""
    rows = kept([(asdict(settings), seed) for seed in seeds], work, file, processes)
    arms = [name for name, value in rows[0].items() if isinstance(value, float) and name != "seconds"]
    by_arm = {name: [row[name] for row in rows] for name in arms}
    picks = {}
    for name in (name for name in rows[0] if name.endswith(" picking")):
        some = [row[name] for row in rows]
        picks[name] = {
            key: [float(np.mean([each[key] for each in some])), [each[key] for each in some]]
            for key in ("picked", "precision", "recall", "separation")
            if some[0][key] is not None
        }
        for key in ("said precision", "said recall", "estimated prior"):
            picks[name][key] = [float(np.mean([each[key]["value"] for each in some])), [each[key] for each in some]]
        picks[name]["notes"] = [each["notes"] for each in some]
    differences = {}
    for pair in PAIRS:
        one, other = pair.split(" less ")
        differences[pair] = asdict(Gain.of(by_arm[one], by_arm[other]))
    return {
        "arms": {name: {**asdict(Gain.of(v, [0.0] * len(v))), "values": v} for name, v in by_arm.items()},
        "picking": picks,
        "differences": differences,
    }


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{'arm':20} accuracy, %")
    for name, arm in found["arms"].items():
        print(f"{name:20} {points(arm)}")
    print(f"\n{'less':32} points")
    for pair, gain in found["differences"].items():
        print(f"{pair:32} {points(gain, sign='+')}")
    for name, picking in found["picking"].items():
        said = ", ".join(f"{key} {value[0]:.3f}" for key, value in picking.items() if key != "notes")
        warned = sum(any("nearer to the task" in note for note in notes) for notes in picking["notes"])
        print(f"\n{name}: {said}; said to be too near in {warned} of {len(picking['notes'])}")


def main() -> None:
    """Compare, and print the tables."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--seeds", type=int, nargs="+", default=list(range(1000, 1005)))
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path("runs/picking.jsonl"))
    options.add_argument("--tune", action="store_true", help="validation accuracies of seeds of their own")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    seeds, settings = given.seeds, Settings()
    if given.tune:
        seeds, settings = TUNING_SEEDS, Settings(split="validation")
    found = summary(seeds, settings, given.out, given.processes)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}"
    )
    show(found)


if __name__ == "__main__":
    main()
