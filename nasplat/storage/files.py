"""Files and folders that are created completely or not at all."""

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nasplat.errors import InputError, NasplatError, StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}
LARGEST = 1 << 34
"""Bytes of a file that is read as a whole, unless its reader knows better: weights of four billion parameters."""


def is_taken(path: Path) -> bool:
    """Whether the path exists; a broken link counts as existing, and an impossible name does not."""
    return os.path.lexists(path)


def is_folder(path: Path) -> bool:
    """Whether the path is a folder or a link to one; an impossible name is none."""
    return os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises OSError for a name that is too long


def is_full(error: OSError) -> bool:
    """Whether the cause of an error is that a disk, a quota or a limit on the size of files is used up."""
    return error.errno in _NO_ROOM


def remedy(error: OSError) -> str:
    """What to do about a file that could not be written, as the end of a message."""
    return "free disk space" if is_full(error) else "check the disk or the mount"


def refusal(path: Path, action: str, error: OSError) -> NasplatError:
    """The error for a path that cannot be written; a full or failing disk is no wrong input, but a `StorageError`.

    Args:
        path: What the user asked for.
        action: What cannot be done with it, such as ``written``.
        error: What the system said.
    """
    why = error.strerror or str(error)
    if is_full(error):
        return StorageError(
            f"{path} cannot be {action}: {why}; free disk space and try again, or choose another --out (out=…)"
        )
    if error.errno == errno.EIO:
        return StorageError(
            f"{path} cannot be {action}: {why}; check the disk or the mount, or choose another --out (out=…)"
        )
    if error.errno in _TAKEN and is_taken(path):
        return InputError(f"{path} exists; choose another --out (out=…)")
    return InputError(f"{path} cannot be {action}: {why}; choose another --out (out=…)")


def opened(path: Path) -> BinaryIO:
    """Open a file to read; a device or a pipe, which might never end, is refused without opening it.

    Raises:
        OSError: The file cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path.open("rb")


def read_file(path: Path, most: int = LARGEST) -> bytes:
    """Read a file; a device or a pipe, which might never end, is refused, and so is a file that is too large.

    A file with holes has almost any size without having content.

    Args:
        path: The file.
        most: Its maximum size in bytes.

    Raises:
        OSError: The file cannot be read, is larger, or does not fit into memory.
    """
    with opened(path) as file:
        check_size(path, most)
        try:
            return file.read()
        except MemoryError:
            raise OSError(errno.ENOMEM, "it does not fit into memory", str(path)) from None


def check_size(path: Path, most: int) -> None:
    """Check that a file is no larger than `most` bytes.

    Raises:
        OSError: It is larger, or cannot be found.
    """
    size = path.stat().st_size
    if size > most:
        raise OSError(errno.EINVAL, f"it must have at most {most:,} bytes, but has {size:,}", str(path))


def check_unlinked(path: Path) -> None:
    """Check that writing into an existing file would change this file alone; without a file, all is well.

    Raises:
        OSError: It is a symbolic link, or has another name as a hard link.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and nothing is written through links", str(path))
    with suppress(FileNotFoundError):
        if path.lstat().st_nlink > 1 and not path.is_dir():
            raise OSError(errno.EMLINK, "it is a hard link, and writing would change its other names", str(path))


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it gets its name when the block ends, and is deleted if the block fails.

    The umask decides who may read and write it, as for every new file. A share may refuse to change that later.
    """
    temporary = _draft_of(path)
    try:  # an interruption may come as soon as the file is there
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a name must not outlive a power cut that its content does not
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def appearing_folder(folder: Path) -> Iterator[None]:
    """Make a folder and what is missing above it, and take them away again if the block fails."""
    # A name that is too long for the system is none that exists.
    missing = [each for each in (folder, *folder.parents) if not is_taken(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):  # it was not created, or another process put a file there
                each.rmdir()
        raise


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Create a draft folder to fill; it gets its final name when the block ends.

    If the block fails, the draft is deleted, together with the parent folders that were created for it. Drafts of
    killed processes beside it are deleted first (`nasplat.storage.drafts`).

    Raises:
        InputError: The place is taken or cannot be written.
        StorageError: The disk is full.
    """
    from nasplat.storage.drafts import delete_abandoned, marked  # commands that only look need no locks

    if is_taken(folder):
        raise InputError(f"{folder} exists; choose another --out (out=…)")
    try:
        with appearing_folder(folder.parent):
            delete_abandoned(folder.parent)
            draft = _draft_of(folder)
            with marked(draft):
                draft.mkdir()
                try:
                    yield draft
                    draft.rename(folder)
                except BaseException:
                    shutil.rmtree(draft, ignore_errors=True)
                    raise
    except OSError as error:
        raise refusal(folder, "created", error) from error


def _draft_of(path: Path) -> Path:
    """A hidden name beside a path's own that no other process uses.

    Raises:
        IsADirectoryError: The path is the working directory or a root, which have no name.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def copy_file(original: Path, path: Path) -> None:
    """Make a copy of a file, whose folder is made if it is missing. It shares the disk space where links are possible.

    Raises:
        OSError: The copy cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.hardlink_to(original)
    except OSError:  # another file system, or one without links
        shutil.copyfile(original, path)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files, deleted when the block ends; only they may be written in the block.

    Raises:
        StorageError: The file system of the temporary folders is full, or there is none.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="nasplat-")
    except OSError as error:  # tempfile looks for a place where it can write, which a full one is not
        raise _no_scratch(error) from error
    with folder:
        try:
            yield Path(folder.name)
        except OSError as error:
            if not is_full(error):
                raise
            raise _no_scratch(error) from error


def _no_scratch(error: OSError) -> StorageError:
    return StorageError(
        f"temporary files cannot be written: {error.strerror or error}; free disk space in the folder for "
        "temporary files, or set TMPDIR to another one"
    )


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name beside its own, then rename it."""
    with appearing(path) as file:
        # Foreign text may hold half a surrogate pair, which no encoding has; it is spelt out.
        file.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
