"""Image sets by name, with fixed splits. Images are read one by one."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np

from nasplat.data.location import data_folder
from nasplat.data.picture_files import ENDINGS, Pixels, Survey, UnreadablePictures, surveyed, why_left_out
from nasplat.errors import InputError, unknown

MOST_PIXELS = 50_000_000
"""The largest number of pixels of an image. Larger images are not decoded."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image whose pixels are read when needed.

    Args:
        name: Its name in errors; the path, if it is a file.
        read: Reads its pixels as uint8, `[height, width, 3]`, or `[height, width]` for a grey file, which comparison
            protocols treat differently.
        path: Its file, if it is one.
    """

    name: str
    read: Callable[[], Pixels]
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Three disjoint parts: training fits weights, validation guides the search, test is measured once.

    Args:
        name: Its name for users.
        training: The training images; empty in a set only for testing.
        validation: The validation images, likewise.
        test: The test images; empty if the set was published without them. Other sets are then used for testing.
        left_out: The numbers of other files in a user's own folders, by the reason of `why_left_out`.
    """

    name: str
    training: tuple[Picture, ...]
    validation: tuple[Picture, ...]
    test: tuple[Picture, ...]
    left_out: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    def survey(self) -> Survey:
        """What the names and headers of the files say.

        Raises:
            UnreadablePictures: Some files have no readable header.
        """
        pictures = (*self.training, *self.validation, *self.test)
        return surveyed([each.path for each in pictures if each.path is not None], self.left_out, most=MOST_PIXELS)


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


def picture(path: Path, *, side: int | None = None) -> Picture:
    """The image in a file.

    Args:
        path: The file.
        side: If given, a larger image is center-cropped to at most this height and width, in pixels.
    """
    return Picture(str(path), partial(read_picture, path, side=side), path)


def read_picture(path: Path, *, side: int | None = None) -> Pixels:
    """The pixels of a file, `[height, width, 3]`, or `[height, width]` for a grey file; transparency is dropped.

    Raises:
        UnreadablePictures: The file is refused by `pixels.decode`, or has more than `MOST_PIXELS`.
    """
    from nasplat.data import pixels

    try:
        with pixels.quietly():
            found = np.asarray(pixels.decode(path, MOST_PIXELS).colors)
    except pixels.PictureError as error:
        raise UnreadablePictures([(str(path), str(error))]) from error
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
    files = [path.name for folder in folders for path in folder.iterdir() if path.is_file()]
    return Counter(why for name in files if (why := why_left_out(name)) is not None)


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


FOLDERS = {"training": ("training", "train"), "validation": ("validation", "val"), "test": ("test",)}
"""The possible names of the folders of a user's own set."""
OF_FIVE = {"validation": 3, "test": 4}
"""The index, among every five training images sorted by name, of the image for a part without a folder."""


def _picture_folder(places: Sequence[Path]) -> PictureSet:
    if not places:
        raise InputError(
            "picture_folder reads your own images; set benchmark.data.folder to a folder with training/ (and "
            "validation/ and test/, if you have them), or with images"
        )
    place = places[0]
    found = {
        part: next((place / name for name in names if (place / name).is_dir()), None) for part, names in FOLDERS.items()
    }
    if found["training"] is None and any(found.values()):
        raise InputError(f"{place} has folders for some parts, but none for training; add training/")
    parts = {part: () if folder is None else _listed(folder) for part, folder in found.items()}
    everything = parts["training"] or _listed(place)
    absent = [part for part, folder in found.items() if folder is None and part != "training"]
    for part in absent:
        parts[part] = everything[OF_FIVE[part] :: 5]
    held = {OF_FIVE[part] for part in absent}
    parts["training"] = tuple(each for number, each in enumerate(everything) if number % 5 not in held)
    for part, pictures in parts.items():
        if not pictures:
            raise InputError(
                f"{place} has no images for {part}, with names that end in {', '.join(ENDINGS)}; it must have at least "
                "five images, or some in each of its folders training/, validation/ and test/"
            )
    folders = [folder for folder in found.values() if folder is not None] or [place]
    return PictureSet("picture_folder", **parts, left_out=_left_out(folders))


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


def picture_set(name: str, *folders: Path) -> PictureSet:
    """The set with a name. Its images are listed, not read.

    Args:
        name: One of `PICTURE_SETS`.
        folders: The folders to search, in order; by default the data folder.

    Raises:
        InputError: The name is unknown (near matches are listed), or the images are missing.
    """
    if name not in PICTURE_SETS:
        raise InputError(unknown("set of images", name, PICTURE_SETS))
    places = [folder.expanduser() for folder in folders]
    return PICTURE_SETS[name].open(places if places or name == "picture_folder" else [data_folder()])
