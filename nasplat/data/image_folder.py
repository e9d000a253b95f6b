"""A data set of the user's own: image files in folders named after classes."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from nasplat.architecture import IO
from nasplat.data import copies
from nasplat.data.copies import PARTS
from nasplat.data.dataset import Dataset, Source
from nasplat.data.digests import DataFile, described, is_large
from nasplat.data.examples import Splits
from nasplat.data.layout import folders, parts_in, suspicions
from nasplat.data.manifest import Changes, Manifest
from nasplat.data.picture_files import ENDINGS, Survey, UnreadablePictures, files_below, surveyed, why, why_left_out
from nasplat.data.pictures import Pictures, squares
from nasplat.data.splitting import Parts, part_off
from nasplat.errors import InputError

SHARES = {"test": 5, "validation": 4}
"""For each part without a folder: one in this many images is taken for it, from those that are left."""


def image_folder(source: Source) -> Dataset:
    """Images in ``train/CLASS/*``, with ``val/`` and ``test/`` if they exist; or in ``CLASS/*``.

    Without folders for them, a fifth of the images is for the test and a fifth for validation, stratified by class.
    Images with the same content are always in one part. Its check opens the headers of all files.

    Raises:
        InputError: The source names no folder, or the folder has another form.
    """
    if source.folder is None:
        raise InputError(
            "image_folder reads your own images; set benchmark.data.folder to a folder with train/CLASS/* (and val/ "
            "and test/, if you have them), or with CLASS/*"
        )
    recorded = source.recorded
    if recorded is None:
        classes = _classes(source.place)
        side = _side_of_first(source.place, classes, source.most_pixels) if source.side is None else source.side
    else:
        classes, side = recorded.classes, source.side or recorded.side or 1
    read: list[Splits] = []  # by `record`, for `load` in the same process

    @cache
    def listing() -> _Listing:
        return _Listing.of(source.place, None if recorded else classes)

    @cache
    def changes() -> Changes:
        assert recorded is not None
        return _changes(recorded, listing())

    @cache
    def survey() -> Survey:
        return surveyed([source.place / name for name in listing().names], listing().left_out, most=source.most_pixels)

    def parts_of(manifest: Manifest) -> Parts:
        training, validation, test = (
            _images(source.place, manifest.parts[part], side, source.most_pixels) for part in PARTS
        )
        return Parts.of(training, validation=validation, test=lambda: test, held_out=0, subset=source.subset)

    def record() -> Manifest:
        manifest = listing().manifest(side) if recorded is None else recorded.refreshed(source.place)
        if recorded is not None and (recorded.scaling(side, source.subset) or recorded.images is None):
            return manifest
        read[:] = [parts_of(manifest).read()]
        training = read[0].training
        return replace(manifest, side=side).scaled(training.scaling, len(training), source.subset)

    def check() -> None:
        if recorded is None:
            listing().check_split()
        else:
            recorded.check(source.place, changes())
        survey()

    def accept() -> Manifest:
        return record() if recorded is None else _accepted(recorded, listing(), changes())

    def load() -> Splits:
        if recorded is None:
            if not read:
                record()
            return read[0]
        if recorded.differences(source.place):  # further images do not count here; but what has changed is named
            recorded.check(source.place, changes())
        return parts_of(recorded).read(recorded.scaling(side, source.subset))

    return Dataset(
        "image_folder",
        IO.image(channels=3, side=side, outputs=len(classes)),
        load,
        mirrored=True,
        check=check,
        survey=survey,
        classes=tuple(classes),
        record=record,
        accept=accept,
    )


@dataclass(frozen=True, slots=True)
class _Listing:
    """The images in a folder, in the order of their names.

    Args:
        place: The folder.
        classes: The names of the classes, sorted.
        parts: The path and label of each image, for each part that has a folder; all are training if none has one.
        folders: The folder of each part; empty if the folder has class folders alone.
        left_out: The numbers of other files by the reason of `why_left_out`.
    """

    place: Path
    classes: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[str, int]]]
    folders: Mapping[str, str]
    left_out: Mapping[str, int]

    @classmethod
    def of(cls, place: Path, classes: Sequence[str] | None = None) -> "_Listing":
        """List a folder.

        Raises:
            InputError: The folder has another form, or a class has no training images.
        """
        named = parts_in(place)
        classes = _classes(place) if classes is None else classes
        left_out: Counter[str] = Counter()
        parts = {
            part: _listed(place, folder, classes, left_out) for part, folder in (named or {"training": "."}).items()
        }
        return cls(place, tuple(classes), parts, named, left_out)

    def check_split(self) -> None:
        """Refuse images that are too few for the parts that have no folder.

        Raises:
            InputError: A class would be missing in a part.
        """
        labels = np.array([label for _, label in self.parts["training"]])
        for part, share in SHARES.items():
            if part not in self.parts:
                rest, _ = part_off(labels, len(labels) // share, f"a {part} split")
                labels = labels[rest]

    @property
    def names(self) -> list[str]:
        return [name for rows in self.parts.values() for name, _ in rows]

    def manifest(self, side: int) -> Manifest:
        """The record of the images, split into three parts. The split is always the same."""
        sampled = is_large(self.place, self.names)
        files = {
            part: described(self.place, [name for name, _ in rows], [label for _, label in rows], sampled=sampled)
            for part, rows in self.parts.items()
        }
        notes = suspicions(self.place / self.folders.get("training", "."), self.classes)
        parts, left_out, said = _separate(files)
        return Manifest(
            "image_folder", parts, self.classes, side, left_out=left_out, sampled=sampled, notes=(*notes, *said)
        )

    def described(self, classes: Sequence[str], *, sampled: bool) -> list[DataFile]:
        """The records of all images, with labels by an order of the classes."""
        names, labels = zip(*(row for rows in self.parts.values() for row in rows), strict=True)
        order = [classes.index(name) for name in self.classes]
        return described(self.place, names, [order[label] for label in labels], sampled=sampled)


def _classes(place: Path) -> tuple[str, ...]:
    """The sorted names of the class folders of the training part.

    Raises:
        InputError: There are fewer than two class folders.
    """
    folder = place / parts_in(place).get("training", ".")
    names = folders(folder)
    if len(names) < 2:
        found = f"only {names[0]}" if names else "none"
        raise InputError(
            f"{folder} must have a folder for each of at least two classes, but has {found}; "
            f"put the images of each class into a folder of its own, {folder / 'CLASS'}"
        )
    return tuple(names)


def _listed(place: Path, part: str, classes: Sequence[str], left_out: Counter[str]) -> list[tuple[str, int]]:
    """The path of each image below a folder of class folders, and its label; by class, then by name.

    Args:
        place: The folder of the data set; paths are below it.
        part: The folder of class folders, below `place`.
        classes: The names of the classes.
        left_out: Counts other files by the reason of `why_left_out`.

    Raises:
        InputError: A folder is not a class, an image is outside of class folders, or there are no images.
    """
    folder = place / part
    strange = set(folders(folder)) - set(classes)
    if strange:
        raise InputError(
            f"{folder} has the folder {min(strange)}, which is not one of the classes; the classes: "
            f"{', '.join(classes)}"
        )
    beside = {entry.name: why_left_out(entry.name) for entry in os.scandir(folder) if entry.is_file()}
    left_out.update(why for why in beside.values() if why is not None)
    if loose := sorted(name for name, why in beside.items() if why is None):
        raise InputError(
            f"the image {folder / loose[0]} is not in a class folder; move it into the folder of its class"
        )
    rows: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        paths, others = files_below(folder / name)
        rows += [(path.relative_to(place).as_posix(), label) for path in paths]
        left_out += others
    if not rows:
        raise InputError(f"{folder} has no images; their names must end in {', '.join(ENDINGS)}")
    empty = set(range(len(classes))) - {label for _, label in rows}
    if empty and part in (".", parts_in(place).get("training")):
        raise InputError(
            f"{folder / classes[min(empty)]} has no images, with names that end in {', '.join(ENDINGS)}; "
            "put images into it, or remove it"
        )
    return rows


def _separate(
    files: Mapping[str, Sequence[DataFile]],
) -> tuple[dict[str, tuple[DataFile, ...]], tuple[DataFile, ...], list[str]]:
    """Three parts without a common content, what is left out for that, and lines for users.

    A part without a folder is taken from training: a fifth for the test, then a quarter of the rest for validation.
    """
    parts, left_out, said = copies.apart(files)
    said += copies.told(parts)
    for part, share in SHARES.items():
        if part not in files:
            parts["training"], parts[part] = _parted(parts["training"], share, f"a {part} split")
    return {part: tuple(rows) for part, rows in parts.items()}, tuple(left_out), said


def _parted(files: Sequence[DataFile], share: int, what: str) -> tuple[list[DataFile], list[DataFile]]:
    """Take one in `share` of the files, stratified by class. Files with the same content stay together."""
    first: dict[str, DataFile] = {}
    for file in files:
        first.setdefault(file.digest, file)
    alone = list(first.values())
    _, rows = part_off(np.array([file.label for file in alone]), len(alone) // share, what)
    chosen = {alone[row].digest for row in rows.tolist()}
    return [f for f in files if f.digest not in chosen], [f for f in files if f.digest in chosen]


def _changes(recorded: Manifest, listing: _Listing) -> Changes:
    """What has changed, the classes included."""
    found = recorded.differences(listing.place, listing.names)
    names = _names_of_classes(recorded, listing, found)
    gone, new = set(recorded.classes) - set(listing.classes), set(listing.classes) - set(recorded.classes)
    if gone or new:
        said = f"the classes were {', '.join(recorded.classes)} and are now {', '.join(listing.classes)}"
        return replace(found, classes=said)
    moved = [f"{old} are now in {name}" for old, name in zip(recorded.classes, names, strict=True) if old != name]
    return replace(found, classes=f"the images of {', those of '.join(moved)}") if moved else found


def _names_of_classes(recorded: Manifest, listing: _Listing, changes: Changes) -> list[str]:
    """Today's folder of each recorded class: the one that has all of its images by content, or the one of its name."""
    folder_of = {name: listing.classes[label] for rows in listing.parts.values() for name, label in rows}
    changed = set(changes.changed)
    folders: dict[str, set[str]] = {}
    for name, folder in folder_of.items():
        file = changes.now.get(name) or recorded.known.get(name)
        if file is not None:
            folders.setdefault(file.digest, set()).add(folder)
    found = []
    for label, own in enumerate(recorded.classes):
        files = [file for file in recorded.files.values() if file.label == label]
        moved = [file for file in files if file.name in changed or file.name not in folder_of]
        now = [folders.get(file.digest, set()) for file in files]
        common = set.intersection(*now) if len(moved) == len(files) else set()
        found.append(common.pop() if len(common) == 1 else own)
    return found


def _accepted(recorded: Manifest, listing: _Listing, changes: Changes) -> Manifest:
    """The recorded split for what is still there; new images are for training.

    Raises:
        InputError: The classes are others, so that the outputs of the networks would have another meaning.
    """
    names = _names_of_classes(recorded, listing, changes)
    if sorted(names) != sorted(listing.classes):
        raise InputError(
            f"{changes.classes}; networks have one output for each class, so that other classes need a new search: "
            "restore the folders of the classes"
        )
    files = listing.described(names, sampled=recorded.sampled)
    return recorded.going_on(changes, classes=tuple(names), **recorded.keeping(files, listing.place))


def _images(place: Path, files: Sequence[DataFile], side: int, most: int) -> Pictures:
    labels = np.array([file.label for file in files], dtype=np.int64)
    return squares([place / file.name for file in files], labels, side=side, most=most)


def _side_of_first(place: Path, classes: Sequence[str], most: int) -> int:
    """The side of the first training image, which must be square.

    Raises:
        InputError: There is no image, it cannot be read, or it is not square.
    """
    from nasplat.data import pixels

    first, _ = _Listing.of(place, classes).parts["training"][0]
    try:
        with pixels.quietly():
            (width, height), *_ = pixels.header(place / first, most)
    except pixels.PictureError as error:
        raise UnreadablePictures([(str(place / first), why(error))]) from error
    if width != height:
        raise InputError(
            f"{place / first} has {width} x {height} pixels, but networks take square images; "
            "resize all images, for example with --set benchmark.data.side=224 (options={'benchmark.data.side': 224})"
        )
    return width
