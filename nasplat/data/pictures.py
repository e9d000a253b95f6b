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
from typing import TYPE_CHECKING

import numpy as np
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


def read_idx(images: Path, labels: Path, *, shape: tuple[int, int], classes: int) -> Pictures:
    """Grey images from a pair of idx files, plain or gzipped.

    Raises:
        InputError: A file is damaged or of another kind.
    """
    import torch

    numbers = _idx(labels, axes=1).astype(np.int64)
    if not len(numbers) or numbers.max() >= classes:
        raise InputError(f"{labels} is damaged: its labels must be 0 to {classes - 1}; {REPLACE}")
    pixels = torch.from_numpy(_idx(images, axes=3))
    if tuple(pixels.shape) != (len(numbers), *shape):
        raise InputError(
            f"{images} does not fit {labels.name}: its images have the shape {tuple(pixels.shape)}, but "
            f"{(len(numbers), *shape)} is expected; {REPLACE}"
        )
    return Pictures(numbers, lambda rows: pixels[rows][:, None])


REPLACE = "replace it with a complete copy"


def _idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """The bytes of an idx file, in the shape that its head says.

    The head is two zeros, 8 for bytes, the number of axes, and the length of each as a big-endian integer of 4 bytes.
    It is read in memory: torchvision reads only plain files, and a temporary one may have no room.

    Raises:
        InputError: The file is damaged, or has other axes.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        start = 4 + 4 * axes
        if content[:4] != bytes((0, 0, 8, axes)) or len(content) < start:
            raise ValueError(f"it begins with {content[:4].hex(' ') or 'nothing'}, not with 00 00 08 {axes:02x}")
        shape = tuple(np.frombuffer(content, ">u4", axes, 4).tolist())
        if len(content) - start != math.prod(shape):
            raise ValueError(f"it has {len(content) - start:,} bytes, but {math.prod(shape):,} are expected")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # which torch may write to
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


def read_jpegs(path: Path, part: str, *, shape: tuple[int, int, int], classes: int) -> Pictures:
    """Images from an npz with ``PART_jpeg`` (bytes), ``PART_offset`` (one more than images) and ``PART_label``.

    Raises:
        InputError: The file is damaged or lacks an array. When read, an image is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            data, offsets, labels = (arrays[f"{part}_{name}"] for name in ("jpeg", "offset", "label"))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged or another file: {_line(error)}; {REPLACE}") from error
    sound = (
        data.dtype == np.uint8
        and offsets.dtype == np.int64
        and data.ndim == offsets.ndim == labels.ndim == 1
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
                    pixels[place] = np.asarray(picture.convert("RGB"))
            except (OSError, SyntaxError, ValueError) as error:  # an image of another size is a ValueError
                raise InputError(f"{path} is damaged: image {row} of {part}: {_line(error)}; {REPLACE}") from error

        in_threads(decode, len(rows))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    return Pictures(labels.astype(np.int64), read)


# Files of the user's own --------------------------------------------------------------------------------------


def squares(paths: Sequence[Path], labels: Rows, *, side: int) -> Pictures:
    """Image files, to be read as squares. When read, `UnreadablePictures` may be raised.

    Args:
        paths: The files.
        labels: The class number of each.
        side: The side to which images are resized.
    """

    def read(rows: Rows) -> "Tensor":
        import torch

        return torch.from_numpy(read_square([paths[row] for row in rows], side))

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
