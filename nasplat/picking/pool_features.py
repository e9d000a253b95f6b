"""Features of a whole pool, on disk: made once, batch by batch, and continued where they were interrupted."""

import csv
import hashlib
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nasplat.data.picked import Layout
from nasplat.data.pool import Pool
from nasplat.errors import InputError, printable
from nasplat.picking.feature_maps import FeatureMaps
from nasplat.storage.files import refusal

CHUNK = 256
"""The number of images that are read, and put through the teacher, at once. A kill loses no more."""
FEATURES, MARKS, ANSWERS, UNREADABLE = "features.f4", "marks.u1", "answers.i4", "unreadable.csv"
USABLE, IS_UNREADABLE, IS_KNOWN = range(3)
"""What an image of a pool is: usable, not to be read, or one of the labelled images again."""

Told = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


def content(image: NDArray[np.uint8]) -> bytes:
    """A digest of an image as networks are given it."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class PoolFeatures:
    """The features of all images of a pool.

    Args:
        folder: Where they are.
        dimensions: The number of features of an image.
        marks: What each image is, `[n]`.
        answers: The class that the teacher gives to each image, `[n]`; -1 where it saw none.
    """

    folder: Path
    dimensions: int
    marks: NDArray[np.uint8]
    answers: NDArray[np.int32]

    @classmethod
    def of(
        cls, folder: Path, pool: Pool, maps: FeatureMaps, layout: Layout, known: Collection[bytes], told: Told
    ) -> "PoolFeatures":
        """Read the pool and keep the features of its images; those that are kept already are not read again.

        Args:
            folder: Where they are kept.
            pool: The pool.
            maps: Gives the features.
            layout: How images are made ready.
            known: The contents of the labelled images, which no image of the pool may be.
            told: Is told of the progress.

        Raises:
            InputError: No image of the pool can be used.
            StorageError: The disk is full.
        """
        sizes = {FEATURES: 4 * maps.dimensions, MARKS: 1, ANSWERS: 4}
        done = _kept(folder, sizes)
        scaling = layout.scaling
        try:
            with ExitStack() as stack:
                files = {name: stack.enter_context((folder / name).open("ab")) for name in sizes}
                reasons = stack.enter_context(_reasons(folder, done).open("a", newline="", encoding="utf-8"))
                said = csv.writer(reasons)
                for first in range(done, len(pool), CHUNK):
                    told("reading the pool", first, len(pool))
                    rows = range(first, min(first + CHUNK, len(pool)))
                    images, failures = pool.read(rows)
                    if len(failures) == len(rows):
                        pool.check_there()
                    for row, why in failures:
                        said.writerow([row, printable(pool.name(row)), printable(why)])
                    reasons.flush()
                    marks = np.full(len(rows), USABLE, dtype=np.uint8)
                    marks[[row - first for row, _ in failures]] = IS_UNREADABLE
                    read = np.flatnonzero(marks == USABLE)
                    marks[read[[content(image) in known for image in images]]] = IS_KNOWN
                    features = np.zeros((len(rows), maps.dimensions), dtype=np.float32)
                    answers = np.full(len(rows), -1, dtype=np.int32)
                    if len(read):
                        logits, found = maps(scaling(torch.from_numpy(images)))
                        features[read], answers[read] = found.numpy(), logits.argmax(1).numpy()
                    for name, each in ((FEATURES, features), (ANSWERS, answers), (MARKS, marks)):
                        files[name].write(each.tobytes())
                        files[name].flush()
        except OSError as error:
            raise refusal(folder, "written", error) from error
        told("reading the pool", len(pool), len(pool))
        features_of = cls(
            folder,
            maps.dimensions,
            np.fromfile(folder / MARKS, dtype=np.uint8),
            np.fromfile(folder / ANSWERS, dtype=np.int32),
        )
        if not len(features_of.usable):
            (folder / FEATURES).unlink()  # nothing to go on with
            raise InputError(
                f"no image was picked, since none of the {len(pool):,} images of the pool can be used: "
                f"{features_of.count(IS_UNREADABLE):,} cannot be read{features_of.example()}, and "
                f"{features_of.count(IS_KNOWN):,} are labelled images again; give another pool"
            )
        return features_of

    @property
    def usable(self) -> NDArray[np.int64]:
        """The rows of images that can be picked."""
        return np.flatnonzero(self.marks == USABLE)

    def count(self, mark: int) -> int:
        """The number of images with a mark."""
        return int((self.marks == mark).sum())

    def unreadable(self, most: int) -> list[tuple[str, str]]:
        """The first images that could not be read, and why."""
        with (self.folder / UNREADABLE).open(newline="", encoding="utf-8") as file:
            return [(name, why) for _, (_, name, why) in zip(range(most), csv.reader(file), strict=False)]

    def example(self) -> str:
        """The first image that could not be read, in brackets; empty if all could."""
        return "".join(f" ({name}: {why})" for name, why in self.unreadable(1))

    def chunks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The features of all images in order, a few thousand at a time, with the row of the first."""
        rows = 16 * CHUNK
        with (self.folder / FEATURES).open("rb") as file:
            for first in range(0, len(self.marks), rows):
                part = file.read(rows * 4 * self.dimensions)
                yield first, torch.frombuffer(bytearray(part), dtype=torch.float32).reshape(-1, self.dimensions)

    def sample(self, most: int, seed: int) -> torch.Tensor:
        """The features of usable images, drawn at random; all if there are no more than `most`."""
        usable = self.usable
        if len(usable) > most:
            drawn = random.Random(seed).sample(range(len(usable)), most)
            usable = usable[np.sort(np.array(drawn))]
        parts = []
        for first, features in self.chunks():
            inside = usable[(usable >= first) & (usable < first + len(features))] - first
            parts.append(features[torch.from_numpy(inside)])
        return torch.cat(parts)


def _kept(folder: Path, sizes: dict[str, int]) -> int:
    """The number of rows that all files have, in whole chunks; what is beyond is cut off."""
    there = [(folder / name).stat().st_size // size if (folder / name).exists() else 0 for name, size in sizes.items()]
    done = min(there) // CHUNK * CHUNK
    for name, size in sizes.items():
        with (folder / name).open("ab") as file:
            file.truncate(done * size)
    return done


def _reasons(folder: Path, done: int) -> Path:
    """The file with the images that could not be read, without those of rows that will be read again."""
    path = folder / UNREADABLE
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3 and row[0].isdecimal() and int(row[0]) < done]
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return path
