"""Sets of pictures by name, split once and for all, whose pictures are read one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nasplat.data.location import data_folder
from nasplat.data.pictures import ENDINGS, Pixels, opened
from nasplat.errors import InputError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 50_000_000
"""A larger picture is not decoded, whatever its file promises."""
GREY = ("1", "L", "LA")
"""Pillow's names of what has one channel beside transparency."""
MODES = (*GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names of what has 8 bits a channel or less."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture whose pixels are read when needed.

    Args:
        name: What errors call it; a path, if it is a file.
        read: Its pixels as uint8, `[height, width, 3]`, or `[height, width]` of a grey file, which protocols of
            comparison treat differently.
    """

    name: str
    read: Callable[[], Pixels]


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Three disjoint parts: training fits weights, validation guides the search, test is measured once.

    Args:
        name: What users call it.
        training: None in a set that is there to test with.
        validation: Likewise.
        test: None where the set was published without; other sets are tested on then.
    """

    name: str
    training: tuple[Picture, ...]
    validation: tuple[Picture, ...]
    test: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A set as it is listed; where its files lie is not known yet.

    Args:
        name: What users call it.
        summary: One line on what it is.
        open: Lists its pictures below the first of some folders that has them, without reading any.
    """

    name: str
    summary: str
    open: Callable[[Sequence[Path]], PictureSet]


# Reading ------------------------------------------------------------------------------------------------------


def picture(path: Path, *, side: int | None = None) -> Picture:
    """The picture in a file.

    Args:
        path: The file.
        side: If given, the middle of a larger picture, so many pixels in height and width at most.
    """
    return Picture(str(path), partial(read_picture, path, side=side))


def read_picture(path: Path, *, side: int | None = None) -> Pixels:
    """The pixels of a file, `[height, width, 3]`, or `[height, width]` of a grey one; transparency is left out.

    Raises:
        InputError: The file is no picture, damaged, too large, or has more than 8 bits a channel.
    """

    def decode(image: "Image") -> Pixels:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, more than {MOST_PIXELS:,}")
        if image.mode not in MODES:
            raise ValueError(f"it has mode {image.mode}, but 8 bits a channel are read")
        return np.asarray(image.convert("L" if image.mode in GREY else "RGB"))

    pixels: Pixels = opened(path, decode)
    return pixels if side is None else central(pixels, side)


def central(pixels: Pixels, side: int) -> Pixels:
    """The middle of a picture `[height, width, ...]`, at most `side` pixels in height and width."""
    height, width = pixels.shape[:2]
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    return pixels[top : top + side, left : left + side]


def _listed(folder: Path, keep: Callable[[str], bool] = lambda name: True) -> tuple[Picture, ...]:
    """The pictures in a folder, by name; other files are left alone."""
    try:
        names = sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; name a folder of pictures") from error
    return tuple(picture(folder / name) for name in names if keep(name))


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
        "motorcycle_right.png",  # the same scene as the left one: both are to be in one part
        "retina.jpg",
    ),
    "validation": ("chelsea.png", "gravel.png", "page.png"),
    "test": ("coffee.png", "coins.png", "rocket.jpg"),
}
"""Which photographs that ship with scikit-image are for what."""
PHOTO_SIDE = 512
"""Of larger photographs the middle is taken, so many pixels in height and width; two are mostly dark around it."""


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
    """A set of published pictures in folders.

    Args:
        name: What users call it.
        training: Folders below a place where training pictures may lie, in the order of preference; none for a set
            to test with.
        validation: Likewise.
        test: Likewise.
        keep: Which of the pictures there belong to the set, by their names.
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
            f"the pictures of {self.name} are missing: they were looked for in {', '.join(looked)}; "
            "set NASPLAT_DATA or benchmark.data.folder to the folder above them"
        )

    def _part(self, place: Path, folders: Sequence[str]) -> tuple[Picture, ...]:
        for folder in folders:
            if (place / folder).is_dir() and (found := _listed(place / folder, self.keep)):
                return found
        return ()


def _below(names: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    """Where a part of a set may lie below a place: with or without the folders that others put around it."""
    return tuple(
        f"{around}{name}/{part}".rstrip("/") for around in ("", "images/sr/") for name in names for part in parts
    )


def _original(name: str) -> bool:
    """Whether a file is an original, where enlarged and shrunk ones lie beside it, such as ``img_001_SRF_2_LR.png``."""
    stem = Path(name).stem
    return "SRF" not in stem or stem.endswith("HR")


def _test_set(folder: str) -> _Published:
    """A set that networks are compared on, in the layouts in which such sets are handed on."""
    return _Published(folder.lower(), test=_below([folder, folder.lower()], ["HR", "", "image_SRF_2"]), keep=_original)


def _bsds500(places: Sequence[Path]) -> PictureSet:
    within = ["BSDS500/data/images", "BSDS500", "BSR/BSDS500/data/images"]
    found = _Published("bsds500", training=_below(within, ["train"]), test=_below(within, ["val"]))(places)
    # Its validation pictures are those of BSD100: who chose by them would be testing on what guided the choice.
    held_out = found.training[9::10]
    training = tuple(each for each in found.training if each not in held_out)
    return replace(found, training=training, validation=held_out)


def _div2k(places: Sequence[Path]) -> PictureSet:
    within = ["DIV2K", "."]
    return _Published(
        "div2k", training=_below(within, ["DIV2K_train_HR"]), validation=_below(within, ["DIV2K_valid_HR"])
    )(places)


FOLDERS = {"training": ("training", "train"), "validation": ("validation", "val"), "test": ("test",)}
"""What the folders of a set of one's own may be called."""
OF_FIVE = {"validation": 3, "test": 4}
"""Of five training pictures in the order of their names, these go to a part that has no folder."""


def _picture_folder(places: Sequence[Path]) -> PictureSet:
    if not places:
        raise InputError(
            "picture_folder reads pictures of your own; give benchmark.data.folder, a folder with training/ (and "
            "validation/ and test/, if you have them), or with pictures"
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
                f"{place} has no pictures for {part}, which end in {', '.join(ENDINGS)}; it is to hold at least five, "
                "or some in each of its folders training/, validation/ and test/"
            )
    return PictureSet("picture_folder", **parts)


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
            "super-resolution: BSDS500; a tenth of train/ validates, val/ (BSD100) tests",
            _bsds500,
        ),
        Entry(
            "div2k",
            "super-resolution: DIV2K, 900 large photographs, 100 for validation, none for tests",
            _div2k,
        ),
        Entry("set5", "super-resolution, to test with: 5 pictures (Set5)", _test_set("Set5")),
        Entry("set14", "super-resolution, to test with: 14 pictures (Set14)", _test_set("Set14")),
        Entry("bsd100", "super-resolution, to test with: 100 photographs (BSD100)", _test_set("BSD100")),
        Entry(
            "urban100", "super-resolution, to test with: 100 pictures of buildings (Urban100)", _test_set("Urban100")
        ),
        Entry(
            "picture_folder",
            "super-resolution: your own images; data_folder has training/, or 60/20/20",
            _picture_folder,
        ),
    )
}


def picture_set(name: str, *folders: Path) -> PictureSet:
    """The set of a name; its pictures are listed, not read.

    Args:
        name: One of `PICTURE_SETS`.
        folders: Where it is looked for, the first one first; by default in the data folder.

    Raises:
        InputError: The name is unknown (near matches are listed), or the pictures are missing.
    """
    if name not in PICTURE_SETS:
        raise InputError(unknown("set of pictures", name, PICTURE_SETS))
    places = [folder.expanduser() for folder in folders]
    return PICTURE_SETS[name].open(places if places or name == "picture_folder" else [data_folder()])
