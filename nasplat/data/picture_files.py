"""Many picture files at once: decoded in threads, refused in one error, and which files are none, counted.

How one file becomes pixels is in `pixels`, which is imported when files are read, since Pillow takes long to import.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from nasplat.errors import InputError

if TYPE_CHECKING:
    from nasplat.data.pixels import PictureError

T = TypeVar("T")
R = TypeVar("R")
Pixels = NDArray[np.uint8]

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""The endings of files that are taken for pictures, in lower case."""
DECODERS = 8
"""The largest number of threads that decode files."""
MOST_PIXELS = 100_000_000
"""The largest number of pixels of an image, unless the option `data.most_pixels` says otherwise; as in `pixels`.

Not less than it was: runs of earlier versions do not have the option, and resume with this."""
PILLOW_PIXELS = 178_000_000
"""Pillow decodes no more."""
NAMED = 10
"""The largest number of files that one error names."""
KINDS = 5
"""The largest number of kinds of left-out files that are told."""


class UnreadablePictures(InputError):
    """Pictures that cannot be read, all in one error.

    Args:
        failures: The path of each, and why it cannot be read. One or more.
    """

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        super().__init__(failures)
        self.failures = failures

    def __str__(self) -> str:
        if len(self.failures) == 1:
            ((path, why),) = self.failures
            return f"the image {path} cannot be read: {why}; repair or remove it"
        named = "; ".join(f"{path}: {why}" for path, why in self.failures[:NAMED])
        rest = len(self.failures) - NAMED
        more = f"; and {rest:,} more" if rest > 0 else ""
        return f"{len(self.failures):,} images cannot be read: {named}{more}; repair or remove them"


# Names --------------------------------------------------------------------------------------------------------


def why_left_out(name: str) -> str | None:
    """Why a file of this name is not taken for a picture: it is hidden, or its ending is another. Else None."""
    if name.startswith("."):
        return "hidden"
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  pathlib keeps the names of a million files in memory
    return None if ending in ENDINGS else ending if len(ending) > 1 else "without an ending"


def files_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The pictures below a folder by their names, in the order of torchvision's ImageFolder, and what is left out.

    Returns:
        The paths, and the numbers of other files by the reason of `why_left_out`. All in hidden folders is hidden.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()

    def walked() -> Iterator[tuple[str, list[str]]]:
        for root, inner, names in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(root)) in seen:  # a link to a folder above or beside
                inner.clear()
                continue
            seen.add(real)
            yield root, names

    for root, names in sorted(walked()):
        hidden = any(part.startswith(".") for part in Path(root).relative_to(folder).parts)
        for name in sorted(names):
            why = "hidden" if hidden else why_left_out(name)
            if why is None:
                found.append(Path(root, name))
            else:
                left_out[why] += 1
    return found, left_out


@dataclass(frozen=True, slots=True)
class Survey:
    """What the names and headers of the files of a set say.

    Args:
        left_out: The numbers of files that are not taken for pictures, by the reason of `why_left_out`.
        deep: The pictures with more than 8 bits a channel, of which 8 are used.
        several: The files with several pictures, of which the first is used.
    """

    left_out: Mapping[str, int] = field(default_factory=dict)
    deep: tuple[Path, ...] = ()
    several: tuple[Path, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """A line for each thing that users may not expect."""
        notes = []
        if self.left_out:
            kinds = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            told = ", ".join(f"{number:,} {why}" for why, number in kinds[:KINDS])
            rest = sum(number for _, number in kinds[KINDS:])
            files = "1 file is" if sum(self.left_out.values()) == 1 else f"{sum(self.left_out.values()):,} files are"
            told += f", {rest:,} others" if rest else ""
            notes.append(f"{files} left out ({told}): names of images end in {', '.join(ENDINGS)}")
        for paths, has, used in (
            (self.deep, "more than 8 bits a channel", "they are scaled to 8"),
            (self.several, "several images in one file", "the first is used"),
        ):
            if paths:
                more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
                notes.append(f"{paths[0]}{more}: {has}, {used}")
        return tuple(notes)


# Content ------------------------------------------------------------------------------------------------------


def surveyed(paths: Sequence[Path], left_out: Mapping[str, int], *, most: int = MOST_PIXELS) -> Survey:
    """Open all files, without decoding pixels.

    Args:
        paths: The pictures.
        left_out: Handed on to the result.
        most: The largest number of pixels of a picture.

    Raises:
        UnreadablePictures: Some have no readable header, or would be refused by it.
    """
    from nasplat.data import pixels

    headers = _from_each(lambda place: pixels.header(paths[place], most), paths)
    several, deep = (
        tuple(path for path, marks in zip(paths, headers, strict=True) if marks[number]) for number in (1, 2)
    )
    return Survey(left_out, deep=deep, several=several)


def read_square(paths: Sequence[Path], side: int, most: int = MOST_PIXELS) -> Pixels:
    """Pictures of at most `most` pixels as classifiers are given them, resized to squares `[n, 3, side, side]`.

    Raises:
        UnreadablePictures: Some cannot be read.
    """
    from nasplat.data import pixels

    found = np.empty((len(paths), 3, side, side), dtype=np.uint8)

    def read(place: int) -> None:
        found[place] = pixels.classifiable(paths[place], "RGB", (side, side), most).transpose(2, 0, 1)

    _from_each(read, paths)
    return found


def collected(read: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results of a function that reads pictures, one after another.

    Raises:
        UnreadablePictures: It was raised for some of the items; here it names all of them.
    """
    found: list[R] = []
    failures: list[tuple[str, str]] = []
    for item in items:
        try:
            found.append(read(item))
        except UnreadablePictures as error:
            failures += error.failures
    if failures:
        raise UnreadablePictures(failures)
    return found


def why(error: "PictureError") -> str:
    """Why a picture is not read, with the name of the option that may allow it."""
    from nasplat.data.pixels import TooLarge

    if not isinstance(error, TooLarge):
        return str(error)
    return f"{error}, which benchmark.data.most_pixels allows (at most {PILLOW_PIXELS:,})"


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Do the work for 0..count-1 in threads. Decoders release Python's global lock."""

    def several(first: int) -> None:  # a future for every image would take as long as decoding it
        for place in range(first, min(first + 256, count)):
            work(place)

    with ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(several, range(0, count, 256)):
            pass


def _from_each(read: Callable[[int], R], paths: Sequence[Path]) -> list[R]:
    """The results for the places of all paths, in threads.

    Raises:
        UnreadablePictures: The function raised `PictureError` for some.
    """
    from nasplat.data.pixels import PictureError, quietly

    found: dict[int, R] = {}
    failures: dict[int, tuple[str, str]] = {}

    def attempt(place: int) -> None:
        try:
            found[place] = read(place)
        except PictureError as error:
            failures[place] = str(paths[place]), why(error)

    with quietly():
        in_threads(attempt, len(paths))
    if failures:
        raise UnreadablePictures([failures[place] for place in sorted(failures)])
    return [found[place] for place in range(len(paths))]
