"""The few labelled images of a task: from a folder of class folders, or from a data set by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasplat.data.copies import PARTS
from nasplat.data.datasets import DATASETS, dataset
from nasplat.data.examples import Examples
from nasplat.data.layout import folders, parts_in
from nasplat.data.picked import Layout
from nasplat.data.picture_files import ENDINGS, files_below
from nasplat.data.pool import read_pictures
from nasplat.data.pool_pass import content
from nasplat.errors import InputError
from nasplat.options import shortly
from nasplat.storage.files import is_folder

HELD_OUT = 5
"""One in so many labelled images of a class is for validation, if there are no others for that."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images that people labelled.

    Args:
        images: uint8 `[n, channels, side, side]`.
        labels: The numbers of the teacher's classes, int64 `[n]`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Labelled":
        """The images of the given rows."""
        return Labelled(self.images[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class Positives:
    """The labelled images of a task.

    Args:
        source: Where they are from.
        training: The positives.
        validation: What the student is measured on while it is trained.
        test: What the student is tested on; it may be empty.
        notes: What users should know of them, one line each.
    """

    source: str
    training: Labelled
    validation: Labelled
    test: Labelled
    notes: tuple[str, ...] = ()

    def contents(self) -> set[bytes]:
        """The contents of all images."""
        return {content(image) for part in (self.training, self.validation, self.test) for image in part.images}


def positives(source: str, layout: Layout, *, per_class: int | None, most: int) -> Positives:
    """The labelled images of a folder, or of a data set by name.

    A folder has ``train/CLASS/*``, with ``val/`` and ``test/`` if they exist, or ``CLASS/*``. Without ``val/``, a fifth
    of the images of each class is for validation, at least one of two.

    Args:
        source: The folder, or the name of a data set.
        layout: How images are made ready, and the classes.
        per_class: The number of training images of each class to use; by default all. A data set by name needs it.
        most: The largest number of pixels of an image.

    Raises:
        InputError: There are too few images or classes, a class is none of the teacher's, or an image is not readable
            or in two classes.
    """
    if is_folder(Path(source)):
        parts = _of_folder(Path(source), layout, most)
    elif source in DATASETS and source != "image_folder":
        if per_class is None:
            raise InputError(
                f"of the data set {source} a few labelled images are taken for each class, but their number is not "
                "given; add --per-class 10 (per_class=10)"
            )
        parts = _of_dataset(source, layout)
    else:
        raise InputError(
            f"positives are a folder of class folders, or a data set by name, but {shortly(source)} is neither; data "
            f"sets: {', '.join(sorted(set(DATASETS) - {'image_folder'}))}"
        )
    notes = _parted(parts)
    if "validation" not in parts:
        parts["training"], parts["validation"] = _held_out(parts["training"])
        notes.append(
            f"accuracy is measured on {len(parts['validation'])} of the labelled images, which are not trained on; "
            "put further ones into val/ beside train/"
        )
    training = parts["training"]
    if per_class is not None and per_class < 1:
        raise InputError(
            f"at least one image of each class is used, but got {per_class}; correct --per-class (per_class=…)"
        )
    if per_class is not None and len(training):
        training = _few(training, per_class)
    counts = np.bincount(training.labels, minlength=len(layout.classes))
    if (counts > 0).sum() < 2:
        raise InputError(
            f"positives must show at least two classes of the teacher, but the training images of {source} show "
            f"{(counts > 0).sum()}; add a folder with images of another one of {_named(layout.classes)}"
        )
    if missing := [name for name, count in zip(layout.classes, counts, strict=True) if not count]:
        notes.append(f"no labelled image shows {_named(missing)}: few of them will be picked")
    none = Labelled(training.images[:0], training.labels[:0])
    return Positives(source, training, parts["validation"], parts.get("test", none), tuple(notes))


def _parted(parts: dict[str, Labelled]) -> list[str]:
    """Leave images out that are in a part that comes before, and training images that are there already.

    Else the accuracy would be of images that the student has seen, and a held-out positive one that the picker has.

    Returns:
        What was left out, one line each.

    Raises:
        InputError: No validation image is left.
    """
    notes, before = list[str](), set[bytes]()
    for part in (part for part in reversed(PARTS) if part in parts):
        contents = [content(image) for image in parts[part].images]
        new = [row for row, each in enumerate(contents) if each not in before]
        if left := len(contents) - len(new):
            where = (
                "test, and are left out of validation"
                if part == "validation"
                else "validation or test, and are not trained on"
            )
            notes.append(f"{left} labelled images are also for {where}")
        parts[part] = parts[part].take(np.array(new, dtype=np.int64))
        before.update(contents)
    if "validation" in parts and not len(parts["validation"]):
        raise InputError("each validation image is a test image too; put further ones into val/")
    training = parts["training"]
    contents = [content(image) for image in training.images]
    labels: dict[bytes, set[int]] = {}
    for each, label in zip(contents, training.labels.tolist(), strict=True):
        labels.setdefault(each, set()).add(label)
    clear = [row for row, each in enumerate(contents) if len(labels[each]) == 1]
    if left := len(contents) - len(clear):  # of a data set by name; those of a folder were refused
        notes.append(f"{left} labelled images have another class elsewhere in the data set, and are left out")
    once = list({contents[row]: row for row in reversed(clear)}.values())
    if left := len(clear) - len(once):
        notes.append(f"{left} labelled images are copies of others, and each is used once")
    parts["training"] = training.take(np.sort(np.array(once, dtype=np.int64)))
    return notes


def _of_folder(place: Path, layout: Layout, most: int) -> dict[str, Labelled]:
    named = parts_in(place)
    parts = {}
    seen: dict[bytes, tuple[Path, int]] = {}
    for part, folder in (named or {PARTS[0]: "."}).items():
        root = place / folder
        classes = folders(root)
        if strange := [name for name in classes if name not in layout.classes]:
            raise InputError(
                f"{root} has the folder {strange[0]}, which is no class of the teacher; its classes: "
                f"{_named(layout.classes)}"
            )
        if not classes:
            raise InputError(
                f"{root} must have a folder for each class, with its images, but has none; the teacher's classes: "
                f"{_named(layout.classes)}"
            )
        paths, labels = [], []
        for name in classes:
            found, _ = files_below(root / name)
            paths += found
            labels += [layout.classes.index(name)] * len(found)
        if not paths:
            raise InputError(f"{root} has no images; their names must end in {', '.join(ENDINGS)}")
        images, failures = read_pictures(paths, layout.io.input_shape, most)
        if failures:
            place_, why = failures[0]
            more = f" and {len(failures) - 1:,} more" if len(failures) > 1 else ""
            raise InputError(f"the labelled image {paths[place_]}{more} cannot be read: {why}; repair or remove it")
        for path, label, image in zip(paths, labels, images, strict=True):
            other, before = seen.setdefault(content(image), (path, label))
            if before != label:
                raise InputError(
                    f"each labelled image is of one class, but {other} is the same image as {path}, of "
                    f"{layout.classes[before]} and {layout.classes[label]}; remove the wrong one"
                )
        parts[part] = Labelled(images, np.array(labels, dtype=np.int64))
    return parts


def _of_dataset(name: str, layout: Layout) -> dict[str, Labelled]:
    found = dataset(name)
    classes = found.classes or tuple(map(str, range(found.io.outputs)))
    if found.io.input_shape != layout.io.input_shape or classes != layout.classes:
        raise InputError(
            f"positives must be images of the teacher's shape and classes, but {name} has {list(found.io.input_shape)} "
            f"and {_named(classes)}, and the teacher {list(layout.io.input_shape)} and {_named(layout.classes)}"
        )
    found.check()
    splits = found.load()
    return {
        part: _bytes_of(name, each)
        for part, each in zip(PARTS, (splits.training, splits.validation, splits.test), strict=True)
    }


def _bytes_of(name: str, examples: Examples) -> Labelled:
    import torch

    if examples.images.dtype != torch.uint8:
        raise InputError(
            f"positives must be images of 8 bits, but those of {name} are numbers; give a folder of images"
        )
    return Labelled(examples.images.numpy(), examples.labels.numpy())


def _held_out(training: Labelled) -> tuple[Labelled, Labelled]:
    """A fifth of each class for validation, at least one of two; the rest is for training."""
    rng = np.random.default_rng(0)
    held: list[int] = []
    for label in np.unique(training.labels):
        rows = np.flatnonzero(training.labels == label)
        count = max(len(rows) // HELD_OUT, 1) if len(rows) > 1 else 0
        held += rng.permutation(rows)[:count].tolist()
    if not held:
        raise InputError(
            "accuracy needs labelled images that are not trained on, but each class has only one; add a second one, or "
            "put some into val/ beside train/"
        )
    chosen = np.isin(np.arange(len(training)), held)
    return training.take(np.flatnonzero(~chosen)), training.take(np.flatnonzero(chosen))


def _few(training: Labelled, per_class: int) -> Labelled:
    """So many images of each class, or all that it has, in a fixed random choice."""
    rng = np.random.default_rng(0)
    rows = [
        rng.permutation(np.flatnonzero(training.labels == label))[:per_class] for label in np.unique(training.labels)
    ]
    return training.take(np.sort(np.concatenate(rows)))


def _named(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
