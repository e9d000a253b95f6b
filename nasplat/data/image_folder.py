"""A data set of the user's own: image files in folders named after classes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nasplat.architecture import IO
from nasplat.data.dataset import Dataset, Source
from nasplat.data.examples import Splits
from nasplat.data.layout import folders, parts_in, suspicions
from nasplat.data.manifest import Changes, DataFile, Manifest, described
from nasplat.data.pictures import ENDINGS, Pictures, ends_as_an_image, opened, squares
from nasplat.data.splitting import Parts, part_off
from nasplat.errors import InputError

PARTS = ("training", "validation", "test")
SHARES = {"test": 5, "validation": 4}
"""For each part without a folder: one in this many images is taken for it, from those that are left."""


def image_folder(source: Source) -> Dataset:
    """Images in ``train/CLASS/*``, with ``val/`` and ``test/`` if they exist; or in ``CLASS/*``.

    Without folders for them, a fifth of the images is for the test and a fifth for validation, stratified by class.
    Images with the same content are always in one part.

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
        side = _side_of_first(source.place, classes) if source.side is None else source.side
    else:
        classes, side = recorded.classes, recorded.side or 1

    read: list[Splits] = []  # by `record`, for `load` in the same process

    def record() -> Manifest:
        manifest = _Listing.of(source.place, classes).manifest(side)
        read[:] = [parts_of(manifest).read()]
        return manifest.scaled(read[0].training.scaling, source.subset)

    def parts_of(manifest: Manifest) -> Parts:
        training, validation, test = (_images(source.place, manifest.parts[part], side) for part in PARTS)
        return Parts.of(training, validation=validation, test=lambda: test, held_out=0, subset=source.subset)

    def changes() -> Changes:
        assert recorded is not None
        listing = _Listing.of(source.place)
        found = recorded.differences(source.place, listing.names)
        gone, new = set(classes) - set(listing.classes), set(listing.classes) - set(classes)
        if gone or new:
            said = f"the classes were {', '.join(classes)} and are now {', '.join(listing.classes)}"
            found = replace(found, classes=said)
        return found

    def check() -> None:
        if recorded is None:
            _Listing.of(source.place, classes).check_split()
        else:
            recorded.check(source.place, changes())

    def accept() -> Manifest:
        assert recorded is not None
        return _accepted(recorded, source.place, changes())

    def load() -> Splits:
        if recorded is None:
            if not read:
                record()
            return read[0]
        if recorded.differences(source.place):  # further images do not count here; but what has changed is named
            recorded.check(source.place, changes())
        return parts_of(recorded).read(recorded.scaling(source.subset))

    return Dataset(
        "image_folder",
        IO.image(channels=3, side=side, outputs=len(classes)),
        load,
        mirrored=True,
        check=check,
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
        divided: Whether the folder has folders of parts.
        left_out: The number of other files, by ending.
    """

    place: Path
    classes: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[str, int]]]
    divided: bool
    left_out: Mapping[str, int]

    @classmethod
    def of(cls, place: Path, classes: Sequence[str] | None = None) -> "_Listing":
        """List a folder.

        Raises:
            InputError: The folder has another form, or a class has no training images.
        """
        named = parts_in(place)
        classes = _classes(place) if classes is None else classes
        left_out: dict[str, int] = {}
        parts = {
            part: _listed(place, folder, classes, left_out) for part, folder in (named or {"training": "."}).items()
        }
        return cls(place, tuple(classes), parts, bool(named), left_out)

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
        files: dict[str, list[DataFile]] = {}
        for part, rows in self.parts.items():
            names, labels = [name for name, _ in rows], [label for _, label in rows]
            files[part] = described(self.place, names, labels)
        notes = [*suspicions(self.place / parts_in(self.place).get("training", "."), self.classes)]
        notes += _told_of_others(self.left_out, sum(map(len, self.parts.values())))
        parts, said = _separate(files)
        return Manifest("image_folder", parts, self.classes, side, notes=tuple(notes + said))


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


def _listed(place: Path, part: str, classes: Sequence[str], left_out: dict[str, int]) -> list[tuple[str, int]]:
    """The path of each image below a folder of class folders, and its label; by class, then by name.

    Args:
        place: The folder of the data set; paths are below it.
        part: The folder of class folders, below `place`.
        classes: The names of the classes.
        left_out: Counts files that are no images, by ending.

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
    loose = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and ends_as_an_image(entry.name))
    if loose:
        raise InputError(
            f"the image {folder / loose[0]} is not in a class folder; move it into the folder of its class"
        )
    rows: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        for root, _, files in sorted(os.walk(folder / name, followlinks=True)):
            above = Path(root).relative_to(place).as_posix()
            if "/." in f"/{above}":
                continue
            for file in sorted(files):
                if ends_as_an_image(file):
                    rows.append((f"{above}/{file}", label))
                else:
                    ending = "hidden" if file.startswith(".") else Path(file).suffix.lower() or "without an ending"
                    left_out[ending] = left_out.get(ending, 0) + 1
    if not rows:
        raise InputError(f"{folder} has no images; their names must end in {', '.join(ENDINGS)}")
    empty = set(range(len(classes))) - {label for _, label in rows}
    if empty and part in (".", parts_in(place).get("training")):
        raise InputError(
            f"{folder / classes[min(empty)]} has no images, with names that end in {', '.join(ENDINGS)}; "
            "put images into it, or remove it"
        )
    return rows


def _told_of_others(left_out: Mapping[str, int], images: int) -> list[str]:
    """One line on files that are no images; none if there are none."""
    if not left_out:
        return []
    kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(left_out.items()))
    return [f"{images:,} images are read; other files are left out: {kinds}"]


def _separate(files: Mapping[str, Sequence[DataFile]]) -> tuple[dict[str, tuple[DataFile, ...]], list[str]]:
    """Three parts without a common content, and what users should know of it.

    A part without a folder is taken from training: a fifth for the test, then a quarter of the rest for validation.
    """
    said: list[str] = []
    parts = {part: list(files.get(part, ())) for part in PARTS}
    taken: dict[str, str] = {}
    for part in reversed(PARTS):  # the test is kept whole, so that it stays comparable
        doubles = [file for file in parts[part] if file.digest in taken]
        if doubles:
            parts[part] = [file for file in parts[part] if file.digest not in taken]
            others = sorted({taken[file.digest] for file in doubles})
            if not parts[part]:
                raise InputError(
                    f"every image of {part} has the content of an image of {' and '.join(others)}, such as "
                    f"{doubles[0].name}; parts must have different images"
                )
            said.append(
                f"{len(doubles)} images of {part} have the content of images of {' and '.join(others)}, such as "
                f"{doubles[0].name}; they are left out of {part}"
            )
        taken |= {file.digest: part for file in parts[part]}
    said += _told_of_doubles(parts)
    for part, share in SHARES.items():
        if part not in files:
            parts["training"], parts[part] = _parted(parts["training"], share, f"a {part} split")
    return {part: tuple(rows) for part, rows in parts.items()}, said


def _parted(files: Sequence[DataFile], share: int, what: str) -> tuple[list[DataFile], list[DataFile]]:
    """Take one in `share` of the files, stratified by class. Files with the same content stay together."""
    first: dict[str, DataFile] = {}
    for file in files:
        first.setdefault(file.digest, file)
    alone = list(first.values())
    _, rows = part_off(np.array([file.label for file in alone]), len(alone) // share, what)
    chosen = {alone[row].digest for row in rows.tolist()}
    return [f for f in files if f.digest not in chosen], [f for f in files if f.digest in chosen]


def _told_of_doubles(parts: Mapping[str, Sequence[DataFile]]) -> list[str]:
    """Lines on images of the same content, within one class and in several."""
    same: dict[str, list[DataFile]] = {}
    for files in parts.values():
        for file in files:
            same.setdefault(file.digest, []).append(file)
    groups = [group for group in same.values() if len(group) > 1]
    said = []
    if groups:
        one, other = groups[0][0].name, groups[0][1].name
        extra = sum(len(group) - 1 for group in groups)
        said.append(
            f"{extra} images have the content of another one, such as {one} and {other}; each group is in one part"
        )
    if mixed := [group for group in groups if len({file.label for file in group}) > 1]:
        one, other = mixed[0][0].name, next(file.name for file in mixed[0] if file.label != mixed[0][0].label)
        said.append(f"{len(mixed)} contents are in several classes, such as {one} and {other}; remove what is wrong")
    return said


def _accepted(recorded: Manifest, place: Path, changes: Changes) -> Manifest:
    """The recorded split for what is still there; new images are for training.

    A renamed image is recognized by its content and keeps its part, so that no test image is trained on.

    Raises:
        InputError: The classes are others, so that the outputs of the networks would have another meaning.
    """
    listing = _Listing.of(place)
    names = dict(zip(recorded.classes, _renamed_classes(recorded, changes), strict=True))
    if sorted(names.values()) != list(listing.classes):
        raise InputError(
            f"{changes.classes}; networks have one output for each class, so that other classes need a new search: "
            "restore the folders of the classes"
        )
    order = {name: recorded.classes.index(old) for old, name in names.items()}
    paths = [name for rows in listing.parts.values() for name, _ in rows]
    labels = [order[listing.classes[label]] for rows in listing.parts.values() for _, label in rows]
    sampled = any(file.digest.startswith("sample:") for file in recorded.files.values())
    parts = recorded.keeping(described(place, paths, labels, sampled=sampled), place)
    return recorded.going_on(changes, parts=parts, classes=tuple(names.values()))


def _renamed_classes(recorded: Manifest, changes: Changes) -> list[str]:
    """Today's name of each recorded class: the folder into which all of its images were renamed, or its own name."""
    found = []
    at = int(_is_divided(recorded))  # where in a path the class is
    for label, name in enumerate(recorded.classes):
        files = [file.name for file in recorded.files.values() if file.label == label]
        now = {changes.renamed[file].split("/")[at] for file in files if file in changes.renamed}
        found.append(now.pop() if len(now) == 1 and all(file in changes.renamed for file in files) else name)
    return found


def _is_divided(recorded: Manifest) -> bool:
    first = next(iter(recorded.files.values()))
    assert first.label is not None
    return first.name.split("/")[0] != recorded.classes[first.label]


def _images(place: Path, files: Sequence[DataFile], side: int) -> Pictures:
    labels = np.array([file.label for file in files], dtype=np.int64)
    return squares([place / file.name for file in files], labels, side=side)


def _side_of_first(place: Path, classes: Sequence[str]) -> int:
    """The side of the first training image, which must be square.

    Raises:
        InputError: There is no image, it cannot be read, or it is not square.
    """
    first, _ = _Listing.of(place, classes).parts["training"][0]
    width, height = opened(place / first, lambda image: image.size)
    if width != height:
        raise InputError(
            f"{place / first} has {width} x {height} pixels, but networks take square images; "
            "resize all images, for example with --set benchmark.data.side=224"
        )
    return int(width)
