"""Reading of images from the published files of data sets. Nothing is unpickled."""

import gzip
import io
import math
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nasplat.data.picture_files import (
    in_threads,
    read_square,
)
from nasplat.errors import InputError
from nasplat.storage.files import is_full
from nasplat.storage.locking import held, lacks_locks

if TYPE_CHECKING:
    from torch import Tensor

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images with known labels, whose pixels are read when needed.

    Args:
        labels: Class numbers `[n]`, int64.
        read: Reads the images of given rows as uint8 `[rows, channels, height, width]`.
    """

    labels: Rows
    read: "Callable[[Rows], Tensor]"

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> "Pictures":
        """The images of the given rows only."""
        return Pictures(self.labels[rows], lambda inner: self.read(rows[inner]))

    def images(self) -> "Tensor":
        """All images."""
        return self.read(np.arange(len(self)))


def find(name: str, places: Sequence[Path], files: Sequence[str], endings: Sequence[str] = ("",)) -> dict[str, Path]:
    """The files of a data set, all from the first place that has them.

    Args:
        name: The name of the data set, for messages.
        places: Folders, in the order of preference.
        files: The names of the files.
        endings: The possible suffixes of a name, such as ``.gz``.

    Raises:
        FileNotFoundError: No place has all files. The message names the files and places.
    """
    partly = ""
    for place in places:
        found = {
            file: path
            for file in files
            for ending in reversed(endings)
            if (path := place / f"{file}{ending}").is_file()
        }
        if len(found) == len(files):
            return found
        if found and not partly:
            partly = f" ({place} has no {', '.join(file for file in files if file not in found)})"
    also = "".join(f" or {ending}" for ending in endings if ending)
    raise FileNotFoundError(
        f"the files of {name} are missing: {', '.join(files)}{also and f' (plain{also})'} were looked for in "
        f"{', '.join(map(str, places))}{partly}"
    )


# idx: MNIST and similar data sets -----------------------------------------------------------------------------


def read_idx(images: Path, labels: Path, *, shape: tuple[int, int], classes: int, most: int) -> Pictures:
    """Grey images from a pair of idx files, plain or gzipped.

    Args:
        images: The file of pixels.
        labels: The file of class numbers.
        shape: Height and width of each image.
        classes: The number of classes.
        most: The largest number of images. A small file may unpack to any size, so no more is unpacked.

    Raises:
        InputError: A file is damaged or of another kind.
    """
    import torch

    numbers = _idx(labels, (None,), most).astype(np.int64)
    if not len(numbers) or numbers.max() >= classes:
        raise InputError(f"{labels} is damaged: its labels must be 0 to {classes - 1}; {REPLACE}")
    pixels = torch.from_numpy(_idx(images, (len(numbers), *shape), most, f"; it does not fit {labels.name}"))
    return Pictures(numbers, lambda rows: pixels[rows][:, None])


REPLACE = "replace it with a complete copy"


def _idx(path: Path, expected: tuple[int | None, ...], most: int, why: str = "") -> NDArray[np.uint8]:
    """The bytes of an idx file, in the shape that its head says.

    The head is two zeros, 8 for bytes, the number of axes, and the length of each as a big-endian integer of 4 bytes.
    It is read in memory: torchvision reads only plain files, and a temporary one may have no room.

    Args:
        path: The file.
        expected: The shape, where None is any length up to `most`.
        most: The largest length of the first axis.
        why: Appended to the message on another shape.

    Raises:
        InputError: The file is damaged, or has another shape.
    """
    axes = len(expected)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * axes)
            if head[:4] != bytes((0, 0, 8, axes)) or len(head) < 4 + 4 * axes:
                raise ValueError(f"it begins with {head[:4].hex(' ') or 'nothing'}, not with 00 00 08 {axes:02x}")
            shape = tuple(np.frombuffer(head, ">u4", axes, 4).tolist())
            if shape[0] > most:
                raise ValueError(f"it has {shape[0]:,} rows, more than the {most:,} of the data set")
            if any(wanted not in (None, length) for length, wanted in zip(shape, expected, strict=True)):
                raise ValueError(f"it has the shape {shape}, but {expected} is expected{why}")
            content = file.read(math.prod(shape) + 1)
        if len(content) != math.prod(shape):
            less = "more" if len(content) > math.prod(shape) else f"{len(content):,}"
            raise ValueError(f"it has {less} bytes after its head, but {math.prod(shape):,} are expected")
        return np.frombuffer(content, np.uint8).reshape(shape).copy()  # which torch may write to
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path} is damaged or not an idx file: {_line(error)}; {REPLACE}") from error


# The binary version of CIFAR ----------------------------------------------------------------------------------


def check_binary(paths: Sequence[Path], *, labels: int, pixels: int, rows: int) -> None:
    """Refuse files whose size does not match the number of rows.

    Raises:
        InputError: A file is truncated, or of another kind.
    """
    for path in paths:
        size, expected = path.stat().st_size, rows * (labels + pixels)
        if size != expected:
            raise InputError(f"{path} is damaged: it has {size:,} bytes, but {expected:,} are expected; {REPLACE}")


def read_binary(paths: Sequence[Path], *, labels: int, shape: tuple[int, int, int], classes: int) -> Pictures:
    """Images from files of rows: label bytes, of which the last is used, then the pixels, channel by channel.

    Raises:
        InputError: A file cannot be read, or has invalid labels.
    """
    width = labels + int(np.prod(shape))
    try:
        rows = np.concatenate([np.fromfile(path, dtype=np.uint8).reshape(-1, width) for path in paths])
    except (OSError, ValueError) as error:
        raise InputError(f"{paths[0].parent} contains a damaged file: {_line(error)}; replace the folder") from error
    numbers = rows[:, labels - 1].astype(np.int64)
    if numbers.max() >= classes:
        raise InputError(
            f"{paths[0].parent} is damaged: it has the label {numbers.max()}, but there are only {classes} classes; "
            "replace it"
        )

    def read(wanted: Rows) -> "Tensor":
        import torch

        return torch.from_numpy(rows[wanted, labels:].reshape(-1, *shape))

    return Pictures(numbers, read)


# JPEGs in an npz ----------------------------------------------------------------------------------------------


def read_jpegs(path: Path, part: str, *, shape: tuple[int, int, int], classes: int, most: int) -> Pictures:
    """Images from an npz with ``PART_jpeg`` (bytes), ``PART_offset`` (one more than images) and ``PART_label``.

    Args:
        path: The file.
        part: The prefix of the arrays.
        shape: Channels, height and width of each image.
        classes: The number of classes.
        most: The largest number of images. A small file may unpack to any size, so no more is unpacked.

    Raises:
        InputError: The file is damaged or lacks an array. When read, an image is damaged.
    """
    # An image that takes twice its pixels is hardly a JPEG.
    lengths = {"jpeg": most * 2 * math.prod(shape), "offset": most + 1, "label": most}
    try:
        with zipfile.ZipFile(path) as archive:
            data, offsets, labels = (_row(archive, f"{part}_{name}", length) for name, length in lengths.items())
    except BAD_ARCHIVE as error:
        raise InputError(f"{path} is damaged or another file: {_line(error)}; {REPLACE}") from error
    sound = (
        data.dtype == np.uint8
        and offsets.dtype == np.int64
        and labels.dtype.kind in "iu"
        and len(offsets) == len(labels) + 1 > 1
        and offsets[0] == 0
        and offsets[-1] == len(data)
        and bool((np.diff(offsets) > 0).all())
        and 0 <= labels.min() <= labels.max() < classes
    )
    if not sound:
        raise InputError(f"{path} is damaged: the arrays of {part} do not fit each other; {REPLACE}")

    def read(rows: Rows) -> "Tensor":
        import torch
        from PIL import Image

        channels, height, width = shape
        pixels = np.empty((len(rows), height, width, channels), dtype=np.uint8)

        def decode(place: int) -> None:
            row = int(rows[place])
            try:
                file = io.BytesIO(data[offsets[row] : offsets[row + 1]].tobytes())
                with Image.open(file, formats=["JPEG"]) as picture:
                    if picture.size != (width, height):  # before it is decoded, for it may be of any size
                        raise ValueError(f"it has {picture.width} x {picture.height} pixels")
                    pixels[place] = np.asarray(picture.convert("RGB"))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise InputError(f"{path} is damaged: image {row} of {part}: {_line(error)}; {REPLACE}") from error

        in_threads(decode, len(rows))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    return Pictures(labels.astype(np.int64), read)


BAD_ARCHIVE = OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, RuntimeError
"""The errors of damaged archives; the last one is of encryption, and of methods of compression that are not read."""


def _row(archive: zipfile.ZipFile, name: str, most: int) -> NDArray[np.generic]:
    """An array of an npz with one axis; its head is read first, and tells what it would unpack to.

    Raises:
        ValueError: The array has other axes, more than `most` entries, or objects.
    """
    with archive.open(f"{name}.npy") as file:
        shape, _, dtype = _npy_head(file)
        if len(shape) != 1 or shape[0] > most or dtype.itemsize > 8:
            raise ValueError(f"{name} has the shape {shape} of {dtype}, but must have one axis of at most {most:,}")
    with archive.open(f"{name}.npy") as file:
        array: NDArray[np.generic] = npy.read_array(file, allow_pickle=False)
        return array


def _npy_head(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"an array has version {version} of the format, but 1.0 or 2.0 is read")
    head: tuple[tuple[int, ...], bool, np.dtype[np.generic]] = readers[version](file)
    return head


# Files of the user's own --------------------------------------------------------------------------------------


def squares(paths: Sequence[Path], labels: Rows, *, side: int, most: int) -> Pictures:
    """Image files, to be read as squares. When read, `UnreadablePictures` may be raised.

    Args:
        paths: The files.
        labels: The class number of each.
        side: The side to which images are resized.
        most: The largest number of pixels of an image in its file.
    """

    def read(rows: Rows) -> "Tensor":
        import torch

        return torch.from_numpy(read_square([paths[row] for row in rows], side, most))

    return Pictures(labels, read)


# Downloads ----------------------------------------------------------------------------------------------------


def download(archives: Mapping[str, str], folder: Path, target: str, *, named: bool) -> None:
    """Download archives with torchvision, verify their MD5, and unpack them into a folder, which appears only when
    complete.

    Args:
        archives: MD5 sums by address.
        folder: The folder of data sets; created if necessary.
        target: The folder in it for the files.
        named: Whether the archives contain a folder of that name.

    Raises:
        InputError: The folder cannot be written, or an address cannot be reached.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    address = target
    try:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        with (
            held(folder / f".{target.replace('/', '-')}.lock", seconds=-1),  # all workers may need it at the same time
            tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as draft,
        ):
            if not (folder / target).is_dir():  # otherwise another worker was first
                place = Path(draft) if named else Path(draft) / target
                for address, md5 in archives.items():
                    download_and_extract_archive(address, place, md5=md5, remove_finished=True)
                (Path(draft) / target).rename(folder / target)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and (is_full(error) or lacks_locks(error)):
            what = "free disk space" if is_full(error) else "name a folder with locks, as on a local disk"
            raise InputError(f"{folder} cannot be written: {_line(error)}; {what}") from error
        # An unreachable address is an OSError too.
        raise InputError(
            f"{address} cannot be downloaded into {folder}: {_line(error)}; without an internet connection, put the "
            f"files into {folder / target} by hand"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
