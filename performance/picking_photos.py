"""A demonstration of `nasplat distill` on photos: a student of a network for CIFAR-10 (JPEG), from 20 labels a class.

    python performance/picking_photos.py [--work runs/picking-photos] [--json]

Under half an hour on two cores. The pool has 10,000 of the other training images of CIFAR-10 (JPEG), 15,000 of
Fashion-MNIST and 15,000 patches of BSDS500. Finished parts are kept in the folder `--work`, and a second call goes on
with the rest.
"""

import argparse
import csv
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from balanced_binary import Vgg
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import nasplat
from nasplat.data.datasets import dataset
from nasplat.data.examples import Examples, Splits
from nasplat.data.location import data_folder
from nasplat.errors import InputError
from nasplat.storage.files import write_atomically
from nasplat.training.distillation import Distillation
from nasplat.training.fit import ClassifierTraining, evaluate
from nasplat.training.options import RecipeOptions
from nasplat.training.seeding import seeded

SEED = 1000
PER_CLASS = 20
PARTS = {"task": 10_000, "fashion": 15_000, "patches": 15_000}
"""The images of the pool by where they are from."""
TEACHER = (64, 128, 128, 256, 256, 256)
"""The widths of the teacher."""
TEACHER_EPOCHS = 8
SPACE = {"channels": 8, "cells": 1}
STUDENT = "nasbench201:|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
EPOCHS = 6
"""The passes of a student over what was picked; the others have as many steps, of 64 images."""


def photos() -> Splits:
    """CIFAR-10 (JPEG)."""
    return dataset("cifar10_jpeg").load()


def preprocessing(splits: Splits) -> nasplat.Preprocessing:
    """How images are made ready, as in the training of the teacher."""
    scaling = splits.training.scaling
    assert scaling is not None
    mean, std = (tuple(each.flatten().tolist()) for each in (scaling.mean, scaling.std))
    classes = dataset("cifar10_jpeg").classes or tuple(map(str, range(10)))
    return nasplat.Preprocessing(channels=3, height=32, width=32, mean=mean, std=std, classes=classes)


def trained(
    network: nn.Module, examples: Examples, steps: int, teaching: Distillation | None = None, *, augment: bool = False
) -> nn.Module:
    """The network after about so many steps, in whole epochs, by the platform's default recipe."""
    from nasplat.training.augmentation import augmentation

    recipe = RecipeOptions(batch_size=64).recipe(len(examples), "cpu")
    epochs = max(round(steps / (len(examples) // recipe.batch_size)), 1)
    changes = augmentation(examples.images, mirrored=True) if augment else None
    training = ClassifierTraining(
        network, examples, recipe, epochs=epochs, seed=SEED, augment=changes, distillation=teaching
    )
    training.until(epochs)
    return training.network.eval()


def teacher(work: Path, splits: Splits) -> nn.Module:
    """The trained teacher, from the folder if it is there."""
    network, file = Vgg(dataset("cifar10_jpeg").io, TEACHER), work / "teacher.safetensors"
    if file.exists():
        network.load_state_dict(load_file(file))
        return network.eval()
    with seeded(SEED):
        network = Vgg(dataset("cifar10_jpeg").io, TEACHER)
        steps = TEACHER_EPOCHS * (len(splits.training) // 64)
        network = trained(network, splits.training, steps, augment=True)  # type: ignore[assignment]
    save_file(network.state_dict(), file)
    return network


def pictures(work: Path, splits: Splits, classes: tuple[str, ...]) -> tuple[Path, Path]:
    """The folders of labelled images and of the pool, written at the first call."""
    labelled, pool, done = work / "labelled", work / "pool", work / "pictures"
    if done.exists():
        return labelled, pool
    rng = np.random.default_rng(SEED)
    training = splits.training
    labels, images = training.labels.numpy(), training.images.permute(0, 2, 3, 1).numpy()
    shuffled = rng.permutation(len(labels))
    few = [shuffled[labels[shuffled] == label][:PER_CLASS] for label in range(len(classes))]
    for label, rows in enumerate(few):
        write(images[rows], labelled / "train" / classes[label])
    for part, name in ((splits.validation, "val"), (splits.test, "test")):
        shown = part.images.permute(0, 2, 3, 1).numpy()
        for label, of in enumerate(classes):
            write(shown[part.labels.numpy() == label], labelled / name / of)
    rest = np.setdiff1d(shuffled, np.concatenate(few))
    write(images[rng.permutation(rest)[: PARTS["task"]]], pool / "task")
    clothes = dataset("fashion_mnist").load().training.images[:, 0].numpy()
    write(clothes[rng.permutation(len(clothes))[: PARTS["fashion"]]], pool / "fashion")
    files = sorted((data_folder() / "images/sr/BSDS500/train").iterdir())
    of_photos = [Image.open(path).convert("RGB") for path in files]
    patches = []
    for _ in range(PARTS["patches"]):
        photo, side = of_photos[rng.integers(len(of_photos))], int(rng.integers(32, 129))
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        box = (left, top, left + side, top + side)
        patches.append(np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR, box)))
    write(np.stack(patches), pool / "patches")
    write_atomically(done, "")
    return labelled, pool


def write(images: NDArray[np.uint8], folder: Path) -> None:
    """Write images as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:05}.png", compress_level=1)


def distilled(work: Path, *, robust: bool) -> nasplat.Run:
    """The student by `nasplat.distill`, from the folder if it is there."""
    out = work / ("robust" if robust else "selected")
    try:
        return nasplat.open_run(out).resume(progress=False)
    except InputError:
        splits = photos()
        made = preprocessing(splits)
        labelled, pool = pictures(work, splits, made.classes)
        options = {**{f"space.{name}": value for name, value in SPACE.items()}, "benchmark.recipe.batch_size": 64}
        return nasplat.distill(
            teacher(work, splits), STUDENT, labelled, pool, preprocessing=made, robust=robust, epochs=EPOCHS,
            seed=SEED, out=out, options=options,
        )  # fmt: skip


def alone(work: Path, name: str) -> float:
    """The test accuracy of a student without picking."""
    from nasplat.search_spaces.nasbench201 import NASBench201

    splits = photos()
    made = preprocessing(splits)
    labelled, pool = pictures(work, splits, made.classes)
    training = splits.training
    space = NASBench201(**SPACE)
    count = nasplat.open_run(work / "robust").picking.found["picked"]  # type: ignore[union-attr]
    steps = EPOCHS * ((PER_CLASS * len(made.classes) + count) // 64)
    with seeded(SEED):
        network = space.build(space.parse(STUDENT.partition(":")[2]), dataset("cifar10_jpeg").io)
        if name == "real":
            return evaluate(trained(network, training, steps), splits.test)["accuracy"]
        few = read([*(labelled / "train").rglob("*.png")])
        if name == "random":
            files = sorted(pool.rglob("*.png"))
            rows = np.random.default_rng(SEED).permutation(len(files))[:count]
            few = np.concatenate([few, read([files[row] for row in rows])])
        # A distillation by the teacher's answers alone does not look at labels.
        examples = Examples(torch.from_numpy(few), torch.zeros(len(few), dtype=torch.int64), training.scaling)
        taught = trained(
            network, examples, steps, Distillation(teacher(work, splits), 1.0, RecipeOptions().temperature)
        )
    return evaluate(taught, splits.test)["accuracy"]


def read(files: list[Path]) -> NDArray[np.uint8]:
    """Images as `[n, 3, 32, 32]`."""
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((32, 32))).transpose(2, 0, 1) for file in files])


def part(work: Path, name: str) -> dict[str, Any]:
    """The result of an arm, from the folder if it is there; in a process of its own."""
    torch.set_num_threads(1)
    file, clock = work / f"{name}.json", time.perf_counter()
    if file.exists():
        return dict(json.loads(file.read_text()))
    arms: dict[str, Callable[[], float]] = {
        "robust": lambda: distilled(work, robust=True).test()[0].metrics["accuracy"],
        "selected": lambda: distilled(work, robust=False).test()[0].metrics["accuracy"],
        **{each: lambda each=each: alone(work, each) for each in ("positives", "random", "real")},  # type: ignore[misc]
    }
    found: dict[str, Any] = {"accuracy": arms[name](), "seconds": time.perf_counter() - clock}
    if name in ("robust", "selected"):
        run = nasplat.open_run(work / name)
        assert run.picking is not None
        with (run.folder / "picking" / "picked.csv").open(newline="") as table:
            right = sum("/task/" in row["image"] for row in csv.DictReader(table))
        found |= {"precision": right / run.picking.found["picked"], "recall": right / PARTS["task"]}
        found["lines"] = run.picking.lines()
    write_atomically(file, json.dumps(found))
    print(f"{name}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Make what is missing, and print the table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--work", type=Path, default=Path("runs/picking-photos"))
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    work: Path = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    clock, splits = time.perf_counter(), photos()
    made = preprocessing(splits)
    pictures(work, splits, made.classes)
    by = teacher(work, splits)
    found: dict[str, Any] = {"teacher": {"accuracy": evaluate(by, splits.test)["accuracy"]}}
    print(f"teacher: {found['teacher']}", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for names in (("robust", "selected"), ("random", "real", "positives")):
            parts = {name: pool.submit(part, work, name) for name in names}
            found |= {name: each.result() for name, each in parts.items()}
    found["seconds"] = time.perf_counter() - clock
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}"
    )
    for name in ("teacher", "positives", "random", "selected", "robust", "real"):
        arm = found[name]
        more = f"  precision {arm['precision']:.3f}, recall {arm['recall']:.3f}" if "precision" in arm else ""
        print(f"{name:10} {100 * arm['accuracy']:.2f} %{more}")
    print("\n".join(found["robust"]["lines"]))
    print(f"{found['seconds']:.0f} s for what was missing")


if __name__ == "__main__":
    main()
