"""Image sets by name, with fixed splits. Images are read one by one."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np

from nasplat.data import copies
from nasplat.data.copies import PARTS
from nasplat.data.digests import described, is_large
from nasplat.data.layout import parts_in
from nasplat.data.location import data_folder
from nasplat.data.manifest import Manifest
from nasplat.data.picture_files import (
    ENDINGS,
    Pixels,
    Survey,
    UnreadablePictures,
    files_below,
    surveyed,
    why,
    why_left_out,
)
from nasplat.errors import InputError, unknown

MOST_PIXELS = 50_000_000
"""The largest number of pixels of an image, unless the option `data.most_pixels` says otherwise: it is used whole."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image whose pixels are read when needed.

    Args:
        name: Its name in errors; the path, if it is a file.
        read: Reads its pixels as uint8, `[height, width, 3]`, or `[height, width]` for a grey file, which comparison
            protocols treat differently.
        path: The file, if it is one.
        side: The height and width to which a larger file is cropped, if it is.
    """

    name: str
    read: Callable[[], Pixels]
    path: Path | None = None
    side: int | None = None


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Three disjoint parts: training fits weights, validation guides the search, test is measured once.

    Args:
        name: Its name for users.
        training: The training images; empty in a set only for testing.
        validation: The validation images, likewise.
        test: The test images; empty if the set was published without them. Other sets are then used for testing.
        recorded: The manifest, if it was made when the images were listed.
        left_out: The numbers of other files in a user's own folders, by the reason of `why_left_out`.
        most: The largest number of pixels of an image in a file.
    """

    name: str
    training: tuple[Picture, ...]
    validation: tuple[Picture, ...]
    test: tuple[Picture, ...]
    recorded: Manifest | None = field(default=None, kw_only=True)

    @property
    def root(self) -> Path:
        """The folder above all files; of images that are in no files, the working directory."""
        parents = [path.parent for paths in self._paths.values() for path in paths]
        return Path(os.path.commonpath(parents)) if parents else Path()

    @property
    def files(self) -> list[str]:
        """The paths of all files below `root`."""
        return [path.relative_to(self.root).as_posix() for paths in self._paths.values() for path in paths]

    def manifest(self) -> Manifest:
        """The record of the files, by part. All of them are read, unless they were when they were listed."""
        if self.recorded is not None:
            return self.recorded
        root, sampled = self.root, is_large(self.root, self.files)
        parts = {
            part: tuple(described(root, [path.relative_to(root).as_posix() for path in paths], sampled=sampled))
            for part, paths in self._paths.items()
        }
        return Manifest(self.name, parts, sampled=sampled)

    @property
    def _paths(self) -> dict[str, list[Path]]:
        parts = {"training": self.training, "validation": self.validation, "test": self.test}
        return {part: [each.path for each in images if each.path is not None] for part, images in parts.items()}

    left_out: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    most: int = field(default=MOST_PIXELS, kw_only=True)

    def limited(self, most: int) -> "PictureSet":
        """The same set, whose files may have at most `most` pixels."""
        training, validation, test = (
            tuple(each if each.path is None else picture(each.path, side=each.side, most=most) for each in images)
            for images in (self.training, self.validation, self.test)
        )
        return replace(self, training=training, validation=validation, test=test, most=most)

    def survey(self) -> Survey:
        """What the names and headers of the files say.

        Raises:
            UnreadablePictures: Some files have no readable header.
        """
        pictures = (*self.training, *self.validation, *self.test)
        return surveyed([each.path for each in pictures if each.path is not None], self.left_out, most=self.most)


@dataclass(frozen=True, slots=True)
class Entry:
    """A set in the list of image sets. The location of its files is not known yet.

    Args:
        name: Its name for users.
        summary: One line of description.
        open: Lists its images below the first of the given folders that has them, without reading any.
    """

    name: str
    summary: str
    open: Callable[[Sequence[Path]], PictureSet]


# Reading ------------------------------------------------------------------------------------------------------


def picture(path: Path, *, side: int | None = None, most: int = MOST_PIXELS) -> Picture:
    """The image in a file.

    Args:
        path: The file.
        side: If given, a larger image is center-cropped to at most this height and width, in pixels.
        most: The largest number of pixels of the image in the file.
    """
    return Picture(str(path), partial(read_picture, path, most, side=side), path, side)


def read_picture(path: Path, most: int = MOST_PIXELS, *, side: int | None = None) -> Pixels:
    """The pixels of a file, `[height, width, 3]`, or `[height, width]` for a grey file; transparency is dropped.

    Raises:
        UnreadablePictures: The file is refused by `pixels.decode`, or has more than `most` pixels.
    """
    from nasplat.data import pixels

    try:
        with pixels.quietly():
            found = np.asarray(pixels.decode(path, most).colors)
    except pixels.PictureError as error:
        raise UnreadablePictures([(str(path), why(error))]) from error
    return found if side is None else central(found, side)


def central(pixels: Pixels, side: int) -> Pixels:
    """The center crop of an image `[height, width, ...]`, at most `side` pixels in height and width."""
    height, width = pixels.shape[:2]
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    return pixels[top : top + side, left : left + side]


def _listed(folder: Path, keep: Callable[[str], bool] = lambda name: True) -> tuple[Picture, ...]:
    """The images in a folder, sorted by name; other files are ignored."""
    try:
        names = sorted(path.name for path in folder.iterdir() if why_left_out(path.name) is None and path.is_file())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; name a folder of images") from error
    return tuple(picture(folder / name) for name in names if keep(name))


def _left_out(folders: Sequence[Path]) -> Counter[str]:
    """The numbers of files in folders that are no pictures by their names, by the reason of `why_left_out`."""
    entries = [path for folder in folders for path in folder.iterdir()]
    found = Counter(why for path in entries if path.is_file() and (why := why_left_out(path.name)) is not None)
    below = sum(len(files_below(path)[0]) for path in entries if path.is_dir() and not path.name.startswith("."))
    return found + Counter({"in folders below": below})


# The sets -----------------------------------------------------------------------------------------------------

PHOTOS: dict[str, tuple[str, ...]] = {
    "training": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "grass.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",  # the same scene as the left image: both must be in one part
        "retina.jpg",
    ),
    "validation": ("chelsea.png", "gravel.png", "page.png"),
    "test": ("coffee.png", "coins.png", "rocket.jpg"),
}
"""The part of each photograph that ships with scikit-image."""
PHOTO_SIDE = 512
"""Larger photographs are center-cropped to this height and width, in pixels; two of them are mostly dark around it."""


def _photos(places: Sequence[Path]) -> PictureSet:
    folder = Path(str(files("skimage") / "data"))
    missing = [name for names in PHOTOS.values() for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"the photographs of scikit-image are missing: {folder} has no {missing[0]}; "
            "install scikit-image again, or name another dataset (nasplat list datasets)"
        )
    parts = (tuple(picture(folder / name, side=PHOTO_SIDE) for name in names) for names in PHOTOS.values())
    return PictureSet("photos", *parts)


@dataclass(frozen=True, slots=True)
class _Published:
    """A set of published images in folders.

    Args:
        name: Its name for users.
        training: Possible folders of training images below a place, in the order of preference; empty for a test set.
        validation: Possible folders of validation images, likewise.
        test: Possible folders of test images, likewise.
        keep: Decides by the name of an image whether it belongs to the set.
    """

    name: str
    training: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    keep: Callable[[str], bool] = lambda name: True

    def __call__(self, places: Sequence[Path]) -> PictureSet:
        looked: list[str] = []
        for place in places:
            wanted = (self.training, self.validation, self.test)
            parts = [self._part(place, folders) for folders in wanted]
            if all(found or not folders for found, folders in zip(parts, wanted, strict=True)):
                return PictureSet(self.name, *parts)
            looked += [str(place / folder) for folders in wanted for folder in folders]
        raise InputError(
            f"the images of {self.name} are missing: they were looked for in {', '.join(looked)}; set NASPLAT_DATA or "
            "benchmark.data.folder to the folder that contains these folders"
        )

    def _part(self, place: Path, folders: Sequence[str]) -> tuple[Picture, ...]:
        for folder in folders:
            if (place / folder).is_dir() and (found := _listed(place / folder, self.keep)):
                return found
        return ()


def _below(names: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    """The possible folders of a part of a set below a place: with or without the parent folders of common archives."""
    return tuple(
        f"{around}{name}/{part}".rstrip("/") for around in ("", "images/sr/") for name in names for part in parts
    )


def _original(name: str) -> bool:
    """Whether a file is an original, and not an upscaled or downscaled version such as ``img_001_SRF_2_LR.png``."""
    stem = Path(name).stem
    return "SRF" not in stem or stem.endswith("HR")


def _test_set(folder: str) -> _Published:
    """A test set for comparing networks, in the layouts in which such sets are distributed."""
    return _Published(folder.lower(), test=_below([folder, folder.lower()], ["HR", "", "image_SRF_2"]), keep=_original)


def _bsds500(places: Sequence[Path]) -> PictureSet:
    within = ["BSDS500/data/images", "BSDS500", "BSR/BSDS500/data/images"]
    found = _Published("bsds500", training=_below(within, ["train"]), test=_below(within, ["val"]))(places)
    # Its validation images are those of BSD100. A search on them would later be tested on the same images.
    held_out = found.training[9::10]
    training = tuple(each for each in found.training if each not in held_out)
    return replace(found, training=training, validation=held_out)


def _div2k(places: Sequence[Path]) -> PictureSet:
    within = ["DIV2K", "."]
    return _Published(
        "div2k", training=_below(within, ["DIV2K_train_HR"]), validation=_below(within, ["DIV2K_valid_HR"])
    )(places)


OF_FIVE = {"validation": 3, "test": 4}
"""The index, among every five training images sorted by name, of the image for a part without a folder."""


def _picture_folder(places: Sequence[Path]) -> PictureSet:
    """A user's own set. Images with the same content are in one part."""
    place = _own_place(places)
    listed, divided = _listing(place)
    sampled = is_large(place, [name for names in listed.values() for name in names])
    files = {part: described(place, names, sampled=sampled) for part, names in listed.items()}
    separate, left_out, said = copies.apart(files)
    said += copies.told(separate)
    absent = [part for part in PARTS[1:] if part not in divided]
    first: dict[str, int] = {}
    for file in separate["training"]:
        first.setdefault(file.digest, len(first))
    parts = {part: tuple(rows) for part, rows in separate.items()}
    for part in absent:
        parts[part] = tuple(file for file in separate["training"] if first[file.digest] % 5 == OF_FIVE[part])
    held = {OF_FIVE[part] for part in absent}
    parts["training"] = tuple(file for file in separate["training"] if first[file.digest] % 5 not in held)
    for part, images in parts.items():
        if not images:
            raise InputError(
                f"{place} has no images for {part}, with names that end in {', '.join(ENDINGS)}; it must have at least "
                "five images, or some in each of its folders training/, validation/ and test/, and not in folders below"
            )
    manifest = Manifest("picture_folder", parts, left_out=tuple(left_out), sampled=sampled, notes=tuple(said))
    return _of_manifest(place, manifest)


def _own_place(places: Sequence[Path]) -> Path:
    if not places:
        raise InputError(
            "picture_folder reads your own images; set benchmark.data.folder to a folder with training/ (and "
            "validation/ and test/, if you have them), or with images"
        )
    return places[0]


def _listing(place: Path) -> tuple[dict[str, list[str]], Mapping[str, str]]:
    """The paths of the images in a user's folder by part, and the folders of parts; without any, all are training."""
    divided = parts_in(place)
    found = {
        part: [f"{folder}/{each.path.name}" for each in _listed(place / folder) if each.path is not None]
        for part, folder in divided.items()
    }
    if not divided:
        found["training"] = [each.path.name for each in _listed(place) if each.path is not None]
    return found, divided


def _of_manifest(place: Path, manifest: Manifest) -> PictureSet:
    training, validation, test = (tuple(picture(place / file.name) for file in manifest.parts[part]) for part in PARTS)
    places = [place / folder for folder in parts_in(place).values()] or [place]
    return PictureSet("picture_folder", training, validation, test, recorded=manifest, left_out=_left_out(places))


def check_recorded(name: str, *folders: Path, recorded: Manifest | None) -> None:
    """Refuse a user's own set that differs from the recorded one, new images included.

    Raises:
        DataChanged: It differs.
    """
    if recorded is not None and name == "picture_folder":
        place = _own_place([folder.expanduser() for folder in folders])
        recorded.check(place, recorded.differences(place, _names(place)))


def accepted(name: str, *folders: Path, recorded: Manifest | None) -> Manifest:
    """The manifest for a set that differs from the recorded one. New images of a user's own set are for training.

    An image that was renamed or moved is recognized by its content and keeps its part.

    Raises:
        InputError: No image of a part is left.
    """
    if recorded is None or name != "picture_folder":
        found = picture_set(name, *folders)
        manifest = found.manifest()
        if recorded is None:
            return manifest
        return recorded.going_on(recorded.differences(found.root, found.files), parts=manifest.parts)
    place = _own_place([folder.expanduser() for folder in folders])
    names = _names(place)
    files = described(place, names, sampled=recorded.sampled)
    return recorded.going_on(recorded.differences(place, names), **recorded.keeping(files, place))


def _names(place: Path) -> list[str]:
    return [name for names in _listing(place)[0].values() for name in names]


PICTURE_SETS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "photos",
            "super-resolution: 15 photographs of scikit-image, 9 for training, 3 for validation",
            _photos,
        ),
        Entry(
            "bsds500",
            "super-resolution: BSDS500; a tenth of train/ for validation, val/ (BSD100) for tests",
            _bsds500,
        ),
        Entry(
            "div2k",
            "super-resolution: DIV2K, 900 large photographs, 100 for validation, none for tests",
            _div2k,
        ),
        Entry("set5", "super-resolution, test set: 5 images (Set5)", _test_set("Set5")),
        Entry("set14", "super-resolution, test set: 14 images (Set14)", _test_set("Set14")),
        Entry("bsd100", "super-resolution, test set: 100 photographs (BSD100)", _test_set("BSD100")),
        Entry("urban100", "super-resolution, test set: 100 images of buildings (Urban100)", _test_set("Urban100")),
        Entry(
            "picture_folder",
            "super-resolution: your own images; data.folder has training/, or is split 60/20/20",
            _picture_folder,
        ),
    )
}


def picture_set(name: str, *folders: Path, recorded: Manifest | None = None, most: int = MOST_PIXELS) -> PictureSet:
    """The set with a name. Its images are listed, not decoded.

    Args:
        name: One of `PICTURE_SETS`.
        folders: The folders to search, in order; by default the data folder.
        recorded: What a run recorded of the set. A user's own set then keeps its split.
        most: The largest number of pixels of an image in a file.

    Raises:
        InputError: The name is unknown (near matches are listed), or the images are missing, or differ from the
            recorded ones.
    """
    if name not in PICTURE_SETS:
        raise InputError(unknown("set of images", name, PICTURE_SETS))
    places = [folder.expanduser() for folder in folders]
    if recorded is not None and name == "picture_folder":
        place = _own_place(places)
        recorded.check(place, recorded.differences(place))
        return _of_manifest(place, recorded).limited(most)
    found = PICTURE_SETS[name].open(places if places or name == "picture_folder" else [data_folder()])
    if recorded is not None:
        recorded.check(found.root, recorded.differences(found.root, found.files))
    return found.limited(most)
