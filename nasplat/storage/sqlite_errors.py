"""What an error of SQLite says of the place where a file is, and what to do about it."""

import os
import sqlite3
import tempfile
from pathlib import Path

from nasplat.storage.files import is_full

LOCAL_DISK = (
    "the file system lacks the locks or the shared memory that a run needs, as some network shares do; put the run on "
    "a local disk, with --out (out=…) or by copying it, and copy it back when it is finished"
)
"""The remedy for a place where no log can be written."""

_SHARED_MEMORY = {
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_PROTOCOL,
}
_LOCKS = {
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_NOLFS,
}
_OTHER_PROCESS = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CONSTRAINT}
_PLACE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_PROBE = 1 << 16
"""Bytes of the file that tells whether there is room: twice what SQLite takes first for shared memory."""


def lacks_shared_memory(path: Path, error: sqlite3.Error) -> bool:
    """Whether write-ahead mode fails where a rollback journal may work: it needs memory shared through a file."""
    if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        # If the database may be written, it is the file for that memory that may not.
        return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    return _code(error) in _SHARED_MEMORY


def lacks_locks(path: Path, error: sqlite3.Error) -> bool:
    """Whether the place seems to have no locks, or no shared memory, so that no log can be written there."""
    return _code(error) in _LOCKS or lacks_shared_memory(path, error)


def is_full_at(folder: Path, error: sqlite3.Error) -> bool:
    """Whether the disk is full. SQLite calls a used-up quota an I/O error, so a small file is tried."""
    if _code(error) & 0xFF == sqlite3.SQLITE_FULL:
        return True
    if _code(error) & 0xFF not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return is_full(refused)
    return False


def concerns_place(error: sqlite3.Error) -> bool:
    """Whether an error is about the place or another process, whatever the content of the file."""
    return _code(error) & 0xFF in _PLACE | _OTHER_PROCESS


def remedy(path: Path, error: sqlite3.Error) -> str:
    """What to do about a database that could not be written, as the end of a message."""
    if is_full_at(path.parent, error):
        return "free disk space"
    if lacks_locks(path, error):
        return LOCAL_DISK
    if _code(error) & 0xFF in _OTHER_PROCESS:
        return "end the other process that uses it"
    if _code(error) & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return "make it writable"
    return "check the disk or the mount"


def _code(error: sqlite3.Error) -> int:
    """The extended error code; 0 for an error of Python's module itself."""
    return getattr(error, "sqlite_errorcode", 0) or 0
