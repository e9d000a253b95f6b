"""Lock files, which one process holds at a time; the system releases them when the process ends."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from nasplat.storage.files import check_unlinked

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def held(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold a lock file, which is created if necessary.

    Args:
        path: The file; its folder exists.
        seconds: Seconds to wait for another process; below 0 without end.

    Raises:
        filelock.Timeout: Another process holds it.
        OSError: The file cannot be created or is a link, or its file system has no locks (`lacks_locks`).
    """
    if path.is_symlink() or (path.exists() and path.stat().st_size):
        check_unlinked(path)  # locking empties the file
    lock = filelock.FileLock(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lock.acquire(timeout=seconds)
        if _is_mark(lock):
            lock.release()
            raise NotImplementedError
    except NotImplementedError:
        raise _no_locks(path) from None
    except filelock.Timeout:
        if _is_mark(lock):  # for filelock the file itself is the mark
            raise _no_locks(path) from None
        raise
    try:
        yield
    finally:
        lock.release()


def _is_mark(lock: filelock.BaseFileLock) -> bool:
    """Whether filelock left a mark in place of a lock, as some versions do; it would survive a killed process."""
    return isinstance(lock, filelock.SoftFileLock)


def _no_locks(path: Path) -> OSError:
    return OSError(errno.ENOLCK, "its file system has no locks", str(path))


def lacks_locks(error: OSError) -> bool:
    """Whether an error says that a file system has no locks, or none left."""
    return error.errno in _NO_LOCKS
