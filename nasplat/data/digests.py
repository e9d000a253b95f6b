"""Files by their contents: digests, read only if a file has changed."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from nasplat.errors import InputError

R = TypeVar("R")

WHOLE_BYTES = 4 * 2**30
"""The content of files is read for their digests up to this many bytes in all. Beyond it, files are sampled."""
SAMPLE_BYTES = 2**16
"""The length of the beginning and of the end of a file that a sampled digest covers, in bytes."""
THREADS = 8


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a data set.

    Args:
        name: Its path below the folder of the data, with ``/``.
        size: Its size in bytes.
        changed_ns: The time of its last change. If size and time are the same, the content is not read again.
        digest: The SHA-256 of its content; ``sample:`` and the SHA-256 of its beginning and end if there is too much
            data to be read.
        label: The number of its class; None without classes.
    """

    name: str
    size: int
    changed_ns: int
    digest: str
    label: int | None = None


def is_large(folder: Path, names: Iterable[str]) -> bool:
    """Whether there is too much data for digests of whole files."""
    return sum(stated(folder, name).size for name in names) > WHOLE_BYTES


def described(
    folder: Path, names: Sequence[str], labels: Sequence[int | None] | None = None, *, sampled: bool = False
) -> list[DataFile]:
    """The records of files.

    Args:
        folder: The folder of the data.
        names: The paths of the files below it.
        labels: The class of each file.
        sampled: Whether only the beginning and the end of each file are read.

    Raises:
        InputError: A file cannot be read.
    """
    bare = [stated(folder, name) for name in names]
    digest = _digest_of_sample if sampled else _digest_of_whole
    digests = in_threads(digest, folder, bare)
    marks = labels or [None] * len(bare)
    return [replace(file, digest=each, label=label) for file, each, label in zip(bare, digests, marks, strict=True)]


def stated(folder: Path, name: str) -> DataFile:
    """The record of a file without its digest.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        status = (folder / name).stat()
    except OSError as error:
        raise InputError(f"{folder / name} cannot be read: {error.strerror}; repair or remove it") from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe might never end
        raise InputError(f"{folder / name} cannot be read: it is not a regular file; remove it")
    return DataFile(name, status.st_size, status.st_ctime_ns, "")


def is_same(folder: Path, file: DataFile) -> bool:
    """Whether a file has the recorded content. A renamed or copied folder keeps content, but not times."""
    now = stated(folder, file.name)
    if now.size != file.size:
        return False
    if now.changed_ns == file.changed_ns:
        return True
    digest = _digest_of_sample if file.digest.startswith("sample:") else _digest_of_whole
    return bool(digest(folder, now) == file.digest)


def _digest_of_whole(folder: Path, file: DataFile) -> str:
    try:
        with (folder / file.name).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{folder / file.name} cannot be read: {error.strerror}; repair or remove it") from error


def _digest_of_sample(folder: Path, file: DataFile) -> str:
    try:
        with (folder / file.name).open("rb") as opened:
            content = opened.read(SAMPLE_BYTES)
            opened.seek(max(file.size - SAMPLE_BYTES, 0))
            content += opened.read(SAMPLE_BYTES)
    except OSError as error:
        raise InputError(f"{folder / file.name} cannot be read: {error.strerror}; repair or remove it") from error
    return f"sample:{file.size}:{hashlib.sha256(content).hexdigest()}"


def in_threads(work: Callable[[Path, DataFile], R], folder: Path, files: Sequence[DataFile]) -> list[R]:
    """The results for all files. Reading and hashing release Python's global lock."""
    if len(files) < 2 * THREADS:
        return [work(folder, file) for file in files]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda file: work(folder, file), files, chunksize=64))
