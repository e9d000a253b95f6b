"""Files and folders that appear complete or not at all."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasplat.errors import InputError, NasplatError, StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}


def is_taken(path: Path) -> bool:
    """Whether something is there already, be it a link to nowhere; a name that cannot be is not taken."""
    return os.path.lexists(path)


def refusal(path: Path, action: str, error: OSError) -> NasplatError:
    """The error for a place that refuses what is to be written: a disk without room is nobody's wrong input.

    Args:
        path: What the user asked for.
        action: What cannot be done with it, such as ``written``.
        error: What the system said.
    """
    why = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return StorageError(f"{path} cannot be {action}: {why}; make room and try again, or choose another --out")
    if error.errno in _TAKEN and is_taken(path):
        return InputError(f"{path} exists; choose another --out")
    return InputError(f"{path} cannot be {action}: {why}; choose another --out")


def read_file(path: Path) -> bytes:
    """What a file holds; a device or a pipe, which might be read for ever, is refused.

    Raises:
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path.read_bytes()


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name beside its own, then rename it."""
    # Foreign text may hold half a surrogate pair, which no encoding has; it is spelt out.
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a name must not outlive a power cut that its content does not
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A draft to fill, which gets the folder's name when the block ends and is gone, parents included, if it fails.

    Raises:
        InputError: The place is taken or cannot be written.
        StorageError: The disk is full.
    """
    if is_taken(folder):
        raise InputError(f"{folder} exists; choose another --out")
    made = [parent for parent in folder.parents if not os.path.exists(parent)]  # noqa: PTH110  a name too long is none
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        draft.chmod(0o755)
        yield draft
        draft.rename(folder)
    except BaseException as error:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        _remove_empty(made)
        if isinstance(error, OSError):
            raise refusal(folder, "created", error) from error
        raise


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
