"""Pictures from anywhere, listed on disk, so that memory does not grow with their number."""

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from nasplat.data.dataset import Dataset
from nasplat.data.datasets import DATASETS, dataset
from nasplat.data.picture_files import ENDINGS, MOST_PIXELS, in_threads, why, why_left_out
from nasplat.errors import InputError, StorageError
from nasplat.options import shortly
from nasplat.storage.files import is_folder
from nasplat.storage.sqlite_errors import remedy

if TYPE_CHECKING:
    from PIL import Image

Images = NDArray[np.uint8]
Shape = tuple[int, ...]

BATCH = 4096
"""The number of files that are put into the list at once."""
CACHE_KIB = 4096
"""The memory that SQLite keeps pages in; it sorts on disk."""
UNREADABLE_FOLDER = "unreadable folder"
NAMES = tuple(sorted(set(DATASETS) - {"image_folder"}))
"""The data sets whose images can be a pool."""


class Pool:
    """Pictures of folders and of data sets by name, in an order that does not depend on the file system.

    Args:
        index: The list of them, a file of SQLite.
        shape: The shape that images are given, `(channels, height, width)`.
        most: The largest number of pixels of an image in a file.
        load: Gives a data set by name.
    """

    def __init__(
        self, index: Path, shape: Shape, most: int = MOST_PIXELS, load: Callable[[str], Dataset] = dataset
    ) -> None:
        self.shape, self.most, self._load = shape, most, load
        self._sets: dict[str, Images] = {}
        self._connection = sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", uri=True)

    @classmethod
    def listed(
        cls,
        index: Path,
        sources: Sequence[str],
        shape: Shape,
        most: int = MOST_PIXELS,
        load: Callable[[str], Dataset] = dataset,
        told: Callable[[int], None] = lambda count: None,
    ) -> Self:
        """The pool in a list on disk, which is made if it is not there.

        Args:
            index: The file of the list. It appears when it is complete.
            sources: Folders, and names of data sets, of which training and validation images are taken.
            shape: The shape that images are given.
            most: The largest number of pixels of an image in a file.
            load: Gives a data set by name.
            told: Is told how many files were found so far.

        Raises:
            InputError: A source is unknown, or has no images.
            StorageError: The list cannot be written.
        """
        if not index.exists():
            for source in sources:
                if not is_folder(Path(source)) and source not in NAMES:
                    raise InputError(
                        f"a pool is a folder of images, or a data set by name, but {shortly(source)} is neither; data "
                        f"sets: {', '.join(NAMES)}"
                    )
            draft = index.with_name(f"{index.name}.draft")
            draft.unlink(missing_ok=True)
            try:
                _list(draft, sources, load, told)
                draft.replace(index)
            except sqlite3.Error as error:
                raise StorageError(f"the list {index} cannot be written: {error}; {remedy(draft, error)}") from error
            finally:
                draft.unlink(missing_ok=True)
        return cls(index, shape, most, load)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @cached_property
    def _length(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM pictures").fetchone()[0])

    def __len__(self) -> int:
        return self._length

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The folders and data sets."""
        names = self._connection.execute("SELECT name FROM sources ORDER BY number")
        return tuple(os.fsdecode(name) for (name,) in names)

    @cached_property
    def left_out(self) -> Mapping[str, int]:
        """The numbers of other files, by why they are left out."""
        return dict(self._connection.execute("SELECT why, number FROM left_out ORDER BY why"))

    def check_there(self) -> None:
        """Check that the folders are still there, and not empty as where a disk was taken away.

        Raises:
            InputError: One is not.
        """
        for name in self.sources:
            if name not in NAMES and not _has_entries(name):
                raise InputError(f"the pool {name} is gone; restore it, and the same command goes on")

    def name(self, row: int) -> str:
        """The path of a picture, or the data set and its number there."""
        source, path, number = self._entry(row)
        return self._path(source, path) if path is not None else f"{self.sources[source]}:{number}"

    def names(self) -> tuple[list[str], list[str]]:
        """The names of all pictures as `name` gives them, and their paths below their folders."""
        absolute, relative = list[str](), list[str]()
        for source, path, number in self._connection.execute("SELECT source, path, number FROM pictures ORDER BY row"):
            whole = f"{self.sources[source]}:{number}" if path is None else self._path(source, path)
            absolute.append(whole)
            relative.append(whole if path is None else os.fsdecode(path))
        return absolute, relative

    def read(self, rows: Iterable[int]) -> tuple[Images, list[tuple[int, str]]]:
        """The pictures of some rows as classifiers are given them.

        Returns:
            uint8 `[rows - failures, channels, height, width]`, in the order of the rows; and the rows that cannot be
            read, each with why.
        """
        wanted = list(rows)
        files: dict[int, Path] = {}
        found: dict[int, Images] = {}
        for row in wanted:
            source, path, number = self._entry(row)
            if path is None:
                found[row] = self._of_set(self.sources[source], number)
            else:
                files[row] = Path(self._path(source, path))
        images, failures = read_pictures(list(files.values()), self.shape, self.most)
        order = list(files)
        failed = {order[place]: said for place, said in failures}
        found |= dict(zip((row for row in order if row not in failed), images, strict=True))
        kept = [found[row] for row in wanted if row in found]
        stacked = np.stack(kept) if kept else np.empty((0, *self.shape), dtype=np.uint8)
        return stacked, [(row, failed[row]) for row in wanted if row in failed]

    def _entry(self, row: int) -> tuple[int, bytes | None, int]:
        entry: tuple[int, bytes | None, int] = self._connection.execute(
            "SELECT source, path, number FROM pictures WHERE row = ?", (row + 1,)
        ).fetchone()
        return entry

    def _path(self, source: int, path: bytes) -> str:
        return os.fsdecode(os.path.join(os.fsencode(self.sources[source]), path))  # noqa: PTH118  of bytes

    def _of_set(self, name: str, number: int) -> Images:
        if name not in self._sets:
            self._sets[name] = _images_of(self._load(name))
        image: Images = self._sets[name][number]
        channels, height, width = self.shape
        if image.shape == self.shape:
            return image
        from PIL import Image

        made = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        return _shaped(made.convert("L" if channels == 1 else "RGB"), (width, height))


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def spelt(source: str) -> str:
    """A source as it is listed: the absolute path of a folder, or the name of a data set."""
    return source if source in NAMES and not is_folder(Path(source)) else str(Path(source).absolute())


def read_pictures(paths: Sequence[Path], shape: Shape, most: int) -> tuple[Images, list[tuple[int, str]]]:
    """Pictures as classifiers are given them, and those that cannot be read.

    Args:
        paths: Their files.
        shape: The shape that they are given, `(channels, height, width)`.
        most: The largest number of pixels of an image in a file.

    Returns:
        uint8 `[paths - failures, channels, height, width]`; and the place of each failure in `paths`, with why.
    """
    from nasplat.data import pixels

    channels, height, width = shape
    found = np.empty((len(paths), *shape), dtype=np.uint8)
    failures: dict[int, str] = {}

    def read(place: int) -> None:
        try:
            picture = pixels.classifiable(paths[place], "L" if channels == 1 else "RGB", (width, height), most)
        except pixels.PictureError as error:
            failures[place] = why(error)
        else:
            found[place] = picture if channels == 1 else picture.transpose(2, 0, 1)

    with pixels.quietly():
        in_threads(read, len(paths))
    kept = [place for place in range(len(paths)) if place not in failures]
    return found[kept], sorted(failures.items())


def _images_of(data: Dataset) -> Images:
    """The training and validation images of a data set as bytes."""
    import torch

    data.check()
    splits = data.load()
    both = torch.cat([splits.training.images, splits.validation.images])
    if both.dtype == torch.uint8:
        images: Images = both.numpy()
        return images
    low, high = splits.training.images.aminmax()
    images = ((both - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return images


def _shaped(image: "Image.Image", size: tuple[int, int]) -> Images:
    from PIL import Image

    made = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    return made[None] if made.ndim == 2 else made.transpose(2, 0, 1)


def _list(draft: Path, sources: Sequence[str], load: Callable[[str], Dataset], told: Callable[[int], None]) -> None:
    """Write the list of all pictures.

    Raises:
        InputError: A source has no images.
    """
    connection = sqlite3.connect(draft)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{CACHE_KIB}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(
            "CREATE TABLE sources (number INTEGER PRIMARY KEY, name BLOB);"
            "CREATE TABLE left_out (why TEXT PRIMARY KEY, number INTEGER);"
            "CREATE TABLE found (source INTEGER, path BLOB, number INTEGER, real BLOB);"
        )
        left_out: Counter[str] = Counter()
        seen: set[tuple[int, int]] = set()
        total = 0
        for place, source in enumerate(sources):
            name = spelt(source)
            connection.execute("INSERT INTO sources VALUES (?, ?)", (place, os.fsencode(name)))
            before = total
            if name in NAMES:
                count = len(_images_of(load(name)))
                connection.executemany(
                    "INSERT INTO found VALUES (?, ?, ?, ?)",
                    ((place, None, number, f"{name}:{number}".encode()) for number in range(count)),
                )
                total += count
            else:
                other, again = Counter[str](), list[bytes]()
                for batch in _walked(os.fsencode(name), seen, other, again):
                    rows = ((place, path, 0, real) for path, real in batch)
                    connection.executemany("INSERT INTO found VALUES (?, ?, ?, ?)", rows)
                    total += len(batch)
                    told(total)
                left_out += other
                if total == before and not again:
                    said = ", ".join(f"{number:,} {why}" for why, number in sorted(other.items()))
                    raise InputError(
                        f"the pool {name} has no images{f', only other files ({said})' if said else ''}; names of "
                        f"images end in {', '.join(ENDINGS)}"
                    )
        connection.executemany("INSERT INTO left_out VALUES (?, ?)", left_out.items())
        connection.executescript(
            "CREATE TABLE pictures (row INTEGER PRIMARY KEY, source INTEGER, path BLOB, number INTEGER);"
            "INSERT INTO pictures (source, path, number) SELECT source, path, number FROM (SELECT *, row_number() "
            "OVER (PARTITION BY real ORDER BY source, path, number) AS time FROM found) WHERE time = 1 "
            "ORDER BY source, path, number;"
            "DROP TABLE found;"
        )
        connection.commit()
    finally:
        connection.close()


def _walked(
    root: bytes, seen: set[tuple[int, int]], left_out: Counter[str], again: list[bytes]
) -> Iterable[list[tuple[bytes, bytes]]]:
    """The pictures below a folder, some thousand at a time: the path below it, and the real path without links.

    Args:
        root: The folder.
        seen: The device and inode of each folder that was read; none is read twice.
        left_out: Counts other files by why they are left out.
        again: Is given folders that were read before.

    Raises:
        InputError: The folder cannot be read.
    """
    waiting, batch = [b""], list[tuple[bytes, bytes]]()
    while waiting:
        folder = waiting.pop()
        path = os.path.join(root, folder)  # noqa: PTH118  of bytes
        inner = list[bytes]()
        try:
            status = os.stat(path)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                again.append(path)
                continue
            real = os.path.realpath(path)
            with os.scandir(path) as entries:
                seen.add((status.st_dev, status.st_ino))
                for entry in entries:
                    name = os.fsdecode(entry.name)
                    if _is_folder(entry):
                        if name.startswith("."):
                            left_out["hidden"] += 1
                        else:
                            inner.append(os.path.join(folder, entry.name))  # noqa: PTH118
                    elif (reason := why_left_out(name)) is not None:
                        left_out[reason] += 1
                    else:
                        place = os.path.join(real, entry.name)  # noqa: PTH118
                        there = os.path.realpath(place) if entry.is_symlink() else place
                        batch.append((os.path.join(folder, entry.name), there))  # noqa: PTH118
                    if len(batch) == BATCH:
                        yield batch
                        batch = []
        except OSError as error:
            if not folder:
                raise InputError(f"the pool {os.fsdecode(root)} cannot be read: {error.strerror}") from error
            left_out[UNREADABLE_FOLDER] += 1
        waiting += sorted(inner, reverse=True)  # of two links to a folder, the first by name is read
    if batch:
        yield batch


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    """Whether an entry is a folder or a link to one. A link that leads nowhere or to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False
