"""One pass over a pool: what is computed of each picture is kept on disk, and an interrupted pass goes on."""

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasplat.data.pool import Images, Pool
from nasplat.errors import printable
from nasplat.storage.files import refusal

CHUNK = 256
"""The number of pictures that are read at once. A kill loses no more."""
MARKS, UNREADABLE = "marks.u1", "unreadable.csv"
USABLE, IS_UNREADABLE, FREE = 1, 2, 3
"""What a picture is: usable, or not to be read; numbers from the last one on have the meaning of the caller. A row of
zeros was never written, as after a power cut."""

Told = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""
Compute = Callable[[Images], Mapping[str, NDArray[Any]]]
"""Gives the columns of pictures by name, and may give their marks as `MARKS`."""


def content(image: NDArray[np.uint8]) -> bytes:
    """A digest of an image as networks are given it."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Column:
    """What is kept of each picture.

    Args:
        dtype: The type of a number.
        width: How many of them a picture has; 0 for one, and then arrays are `[n]`.
        empty: The number where nothing was computed.
    """

    dtype: str
    width: int = 0
    empty: int = 0

    @property
    def size(self) -> int:
        """The bytes of a picture."""
        return np.dtype(self.dtype).itemsize * max(self.width, 1)

    def filled(self, count: int) -> NDArray[Any]:
        """Rows where nothing was computed."""
        return np.full((count, self.width) if self.width else count, self.empty, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class PoolPass:
    """What was computed of all pictures of a pool.

    Args:
        folder: Where it is.
        columns: The columns by the name of their file.
        marks: What each picture is `[n]`.
    """

    folder: Path
    columns: Mapping[str, Column]
    marks: NDArray[np.uint8]

    @classmethod
    def of(cls, folder: Path, pool: Pool, columns: Mapping[str, Column], compute: Compute, told: Told) -> "PoolPass":
        """Read the pool and keep what is computed; pictures that were read before are not read again.

        Args:
            folder: Where it is kept.
            pool: The pool.
            columns: What is kept of each picture, by the name of its file.
            compute: Gives it for pictures that can be read.
            told: Is told of the progress.

        Raises:
            InputError: The pool is gone.
            StorageError: The disk is full.
        """
        sizes = {name: column.size for name, column in columns.items()} | {MARKS: 1}
        done = _kept(folder, sizes, len(pool))
        try:
            with ExitStack() as stack:
                files = {name: stack.enter_context((folder / name).open("ab")) for name in sizes}
                reasons = stack.enter_context(_reasons(folder, done).open("a", newline="", encoding="utf-8"))
                said = csv.writer(reasons)
                for first in range(done, len(pool), CHUNK):
                    told("reading the pool", first, len(pool))
                    count = min(CHUNK, len(pool) - first)
                    images, failures = pool.read(range(first, first + count))
                    if failures:
                        pool.check_there()
                    for row, why in failures:
                        said.writerow([row, printable(pool.name(row)), printable(why)])
                    reasons.flush()
                    marks = np.full(count, USABLE, dtype=np.uint8)
                    marks[[row - first for row, _ in failures]] = IS_UNREADABLE
                    read = np.flatnonzero(marks == USABLE)
                    found = compute(images) if len(read) else {}
                    marks[read] = found.get(MARKS, USABLE)
                    for name, column in columns.items():
                        values = column.filled(count)
                        if len(read):
                            values[read] = found[name]
                        files[name].write(values.tobytes())
                        files[name].flush()
                        os.fsync(files[name].fileno())
                    files[MARKS].write(marks.tobytes())  # last: with them, all is there
                    files[MARKS].flush()
                    os.fsync(files[MARKS].fileno())
        except OSError as error:
            raise refusal(folder, "written", error) from error
        if done < len(pool):
            told("reading the pool", len(pool), len(pool))
        return cls(folder, columns, np.fromfile(folder / MARKS, dtype=np.uint8))

    @property
    def usable(self) -> NDArray[np.int64]:
        """The rows of usable pictures."""
        return np.flatnonzero(self.marks == USABLE)

    def count(self, mark: int) -> int:
        """The number of pictures with a mark."""
        return int((self.marks == mark).sum())

    def column(self, name: str) -> NDArray[Any]:
        """A column of all pictures."""
        column = self.columns[name]
        values = np.fromfile(self.folder / name, dtype=column.dtype)
        return values.reshape(-1, column.width) if column.width else values

    def chunks(self, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """A column, a few thousand pictures at a time, with the row of the first."""
        rows, column = 16 * CHUNK, self.columns[name]
        with (self.folder / name).open("rb") as file:
            for first in range(0, len(self.marks), rows):
                values = np.frombuffer(bytearray(file.read(rows * column.size)), dtype=column.dtype)
                yield first, values.reshape(-1, column.width) if column.width else values

    def unreadable(self, most: int) -> list[tuple[str, str]]:
        """The first pictures that could not be read, and why."""
        with (self.folder / UNREADABLE).open(newline="", encoding="utf-8") as file:
            return [(name, why) for _, (_, name, why) in zip(range(most), csv.reader(file), strict=False)]

    def example(self) -> str:
        """The first picture that could not be read, in brackets; empty if all could."""
        return "".join(f" ({name}: {why})" for name, why in self.unreadable(1))

    def delete(self) -> None:
        """Delete what was computed, as where there is nothing to go on with."""
        for name in (MARKS, *self.columns):
            (self.folder / name).unlink(missing_ok=True)


def _kept(folder: Path, sizes: Mapping[str, int], total: int) -> int:
    """The number of rows that all files have, all of them or whole chunks; what is beyond is cut off."""
    there = [(folder / name).stat().st_size // size if (folder / name).exists() else 0 for name, size in sizes.items()]
    done = min(there) if min(there) == total else min(there) // CHUNK * CHUNK
    if done:
        never = np.flatnonzero(np.fromfile(folder / MARKS, dtype=np.uint8, count=done) == 0)
        done = int(never[0]) // CHUNK * CHUNK if len(never) else done
    for name, size in sizes.items():
        with (folder / name).open("ab") as file:
            file.truncate(done * size)
    return done


def _reasons(folder: Path, done: int) -> Path:
    """The file with the pictures that could not be read, without those of rows that will be read again."""
    path = folder / UNREADABLE
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows: Sequence[Sequence[str]] = [
                row for row in csv.reader(file) if len(row) == 3 and row[0].isdecimal() and int(row[0]) < done
            ]
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return path
