"""A data set that `nasplat distill` picked: few labelled images, and those of a pool that seem to belong to them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nasplat.architecture import IO
from nasplat.data.dataset import Dataset, Source
from nasplat.data.digests import described, is_large
from nasplat.data.examples import Examples, Scaling, Splits
from nasplat.data.manifest import Manifest
from nasplat.errors import DamageError, InputError
from nasplat.storage.files import appearing, read_file, refusal

if TYPE_CHECKING:
    from torch import nn

PREFIX = "picked:"
"""What the name of such a data set begins with; the rest is the directory of a run of `nasplat distill`."""
FOLDER = "picking"
"""The folder of a run with what was picked for it."""
ABOUT, IMAGES, LABELS, PARTS, TEACHER = "picking.json", "images.npy", "labels.npy", "parts.npy", "teacher.pt2"
"""What was picked and how; uint8 `[n, channels, side, side]`; int64 `[n]`; int8 `[n]`; the teacher as a program."""
SHEET, TABLE = "sheet.png", "picked.csv"
"""The contact sheet; the picked images by name."""
JOB = "job.json"
"""What a picking was begun with; in the folder that images are picked in alone."""
RESULTS = (ABOUT, IMAGES, LABELS, PARTS, TEACHER, SHEET, TABLE)
"""The files that a run keeps of its picking."""
FORMAT = 1
LARGEST = 1 << 24
"""Bytes of `picking.json`; with a thousand classes and long notes it has some ten thousand."""
PICKED, GIVEN, VALIDATION, TEST = range(4)
"""The parts of the images: from the pool and labelled by the teacher; training, validation and test by people."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the images of a picked data set are made ready, as those of its teacher are.

    Args:
        classes: The names of the teacher's outputs.
        channels: The channels of the images, 1 or 3.
        side: Their height and width, in pixels.
        mean: The mean of each channel, in 0..255.
        std: The standard deviation of each channel, in 0..255.
    """

    classes: tuple[str, ...]
    channels: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def io(self) -> IO:
        """The shapes that networks for these images have."""
        return IO.image(channels=self.channels, side=self.side, outputs=len(self.classes))

    @property
    def scaling(self) -> Scaling:
        """The standardization of the images."""
        import torch

        return Scaling(*(torch.tensor(each, dtype=torch.float32)[:, None, None] for each in (self.mean, self.std)))

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> "Layout":
        """The layout in what `picking.json` says.

        Raises:
            KeyError, TypeError, ValueError: It is not there.
        """
        return cls(
            classes=tuple(map(str, document["classes"])),
            channels=int(document["channels"]),
            side=int(document["side"]),
            mean=tuple(map(float, document["mean"])),
            std=tuple(map(float, document["std"])),
        )


def beside(run: Path) -> Path:
    """Where images are picked for a run that is not there yet."""
    return run.with_name(f"{run.name}.{FOLDER}")


def place_of(run: Path) -> Path:
    """The folder with what was picked for a run, or is being picked.

    Raises:
        InputError: There is none.
    """
    for place in (run / FOLDER, run, beside(run)):
        if (place / ABOUT).is_file():
            return place
    raise InputError(
        f"{run} has no images that were picked; name the directory of a run of nasplat distill, as "
        f"{PREFIX}runs/NAME, or put a link to it there if it was moved (ln -s NEW {run})"
    )


def about(place: Path) -> dict[str, Any]:
    """What `picking.json` in a folder says.

    Raises:
        DamageError: It cannot be read, or is of another version.
    """
    path = place / ABOUT
    try:
        document = json.loads(read_file(path, LARGEST))
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, and this version reads {FORMAT}")
        Layout.of_json(document)
    except (OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DamageError(f"{path} is damaged: {type(error).__name__}: {error}; pick the images again") from error
    return dict(document)


def picked(run: Path, source: Source) -> Dataset:
    """The images that were picked for a run. Those of the pool have the labels that the teacher gave them.

    Its training images are the positives and what was picked, its validation and test images are labelled by people.

    Raises:
        InputError: There is no such run, or an option does not fit.
    """
    if source.subset is not None:
        raise InputError(
            f"data.subset is no option of images that were picked, but got {source.subset}; leave it out, or pick "
            "fewer by nasplat distill --count (count=…)"
        )
    recorded = source.recorded
    if recorded is None:
        layout = Layout.of_json(about(place_of(run)))
    else:
        layout = Layout(recorded.classes, len(recorded.mean), recorded.side or 1, recorded.mean, recorded.std)
    names = (IMAGES, LABELS, PARTS, TEACHER)

    def check() -> None:
        place = place_of(run)
        if recorded is not None:
            recorded.check(place, recorded.differences(place))

    def record() -> Manifest:
        place = place_of(run)
        if recorded is not None:
            return recorded.refreshed(place)
        sampled = is_large(place, names)
        files = {"files": tuple(described(place, names, sampled=sampled))}
        manifest = Manifest(f"{PREFIX}{run.name}", files, layout.classes, layout.side, sampled=sampled)
        training = int((_array(place / PARTS) <= GIVEN).sum())
        return manifest.scaled(layout.scaling, training, None)

    def accept() -> Manifest:
        if recorded is None:
            return record()
        place = place_of(run)
        files = tuple(described(place, names, sampled=recorded.sampled))
        return recorded.going_on(recorded.differences(place), parts={"files": files})

    @cache
    def load() -> Splits:
        check()
        return _read(place_of(run), layout)

    def teacher() -> "nn.Module":
        from nasplat.nn.program import check_sizes, read_program

        path = place_of(run) / TEACHER
        check_sizes(path)  # the run may be anybody's
        return read_program(path)

    return Dataset(
        f"{PREFIX}{run.name}",
        layout.io,
        load,
        mirrored=False,
        check=check,
        classes=layout.classes,
        record=record,
        accept=accept,
        teacher=teacher,
    )


def _array(path: Path) -> NDArray[Any]:
    """The array of a file, without unpickling.

    Raises:
        DamageError: It cannot be read.
    """
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamageError(f"{path} is damaged: {error}; pick the images again") from error
    return array


def _read(place: Path, layout: Layout) -> Splits:
    import torch

    images, labels, parts = (torch.from_numpy(_array(place / name)) for name in (IMAGES, LABELS, PARTS))
    if len(images) != len(labels) or len(images) != len(parts) or images.shape[1:] != layout.io.input_shape:
        raise DamageError(f"the files of {place} do not fit each other; pick the images again")

    def examples(rows: "torch.Tensor") -> Examples:
        return Examples(images[rows], labels[rows], layout.scaling, given=parts[rows] != PICKED)

    def test() -> Examples:
        if not (parts == TEST).any():
            raise InputError(
                f"no test images were given with the positives of {place}; put a folder test/ with a folder for each "
                "class beside train/, and pick again"
            )
        return examples(parts == TEST)

    training, validation = examples(parts <= GIVEN), examples(parts == VALIDATION)
    return Splits(training, replace(validation, given=None), test)


class GrowingArray:
    """A file of an array to which rows are added.

    Args:
        file: The file, at its beginning.
        shape: The largest shape of the array, whose first axis is of rows.
        dtype: The type of its numbers.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._file, self._shape, self._dtype = file, shape, np.dtype(dtype)
        self._rows = 0
        self._head(shape[0])
        self._begin = file.tell()

    def add(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self._rows += len(rows)

    def close(self) -> None:
        """Say in the head how many rows there are."""
        self._file.seek(0)
        self._head(self._rows)
        assert self._file.tell() == self._begin  # numpy leaves room for a longer first axis

    def _head(self, rows: int) -> None:
        head = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (rows, *self._shape[1:])}
        npy.write_array_header_1_0(self._file, head)


@contextmanager
def growing(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Iterator[GrowingArray]:
    """An array to which rows are added; its file appears when the block ends.

    Args:
        path: The file.
        shape: The largest shape of the array.
        dtype: The type of its numbers.

    Raises:
        InputError, StorageError: It cannot be written.
    """
    try:
        with appearing(path) as file:
            array = GrowingArray(file, shape, dtype)
            yield array
            array.close()
    except OSError as error:
        raise refusal(path, "written", error) from error
