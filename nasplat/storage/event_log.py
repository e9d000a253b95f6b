"""The event log: every ask and every outcome, in order, each before it takes effect."""

import json
import math
import os
import shlex
import sqlite3
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nasplat.errors import DamageError, DamageWarning, InputError, NasplatError, RunError, StorageError
from nasplat.storage import sqlite_errors
from nasplat.storage.files import remedy
from nasplat.storage.state import pack, unpack
from nasplat.storage.write_ahead import damage_of

FORMAT = 1
SYNC_SECONDS = 1.0
_IMMUTABLE = "mode=ro&immutable=1"
SIDES = ("-wal", "-journal")
"""The endings of files beside the log that are part of it while it is written, or after a kill."""
PIECE = 1000
"""Events that are read at once."""

_COARSE = 1_000_000_000
"""Nanoseconds within which two changes of a file may have the same time."""
_SOUND: dict[Path, tuple[tuple[int, ...] | None, ...]] = {}
"""The state of each log, with the files beside it, in which this process has found no damage."""

_SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, elapsed REAL NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE snapshots (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, arrays BLOB NOT NULL) STRICT;
"""


def recovering(run: Path) -> str:
    """The remedy for a damaged run, for messages."""
    python = f"nasplat.recover({str(run)!r}, out='NEW')"
    return f"`nasplat recover {shlex.quote(str(run))} --out NEW` ({python}) saves what can be read"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log.

    Args:
        seq: Its number, from 1.
        kind: ``ask``, ``outcome``, ``session`` …
        elapsed: Seconds of searching before it, over all sessions of the run.
        body: The content.
    """

    seq: int
    kind: str
    elapsed: float
    body: dict[str, Any]


class EventLog:
    """The log of one run, an SQLite file in write-ahead mode: one process writes, readers never block it.

    Every event is in the file when `append` returns, so that a killed process loses nothing. It reaches
    the disk within about a second (`sync`), which is what a power cut may lose.

    Write-ahead mode needs shared memory, which some network shares have not. There the log keeps a rollback journal,
    with the same guarantees: every event is on the disk when `append` returns, which takes longer, and readers, which
    read in short pieces, and the writer wait an instant for each other. Both modes need locks.

    Attributes:
        last: The number of the newest event, 0 in an empty log.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, *, write: bool) -> None:
        self._connection = connection
        self._writes = write
        self._closed = False
        self._path = path
        self._synced_at = time.monotonic()
        self._unsynced = False
        self.last: int = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new, empty log.

        Raises:
            RunError: The file exists.
            InputError: The place has no locks.
            StorageError: It cannot be created, as when the disk is full.
        """
        if path.exists():
            raise RunError(f"{path} exists; choose another place for a new log")
        try:
            try:
                connection = _created(path, "WAL")
            except sqlite3.Error as error:
                if not sqlite_errors.lacks_shared_memory(path, error):
                    raise
                connection = _created(path, "DELETE")
            return cls._configured(connection, path, write=True)
        except sqlite3.Error as error:
            raise _refusal(path, error, "created") from error
        except OSError as error:
            raise StorageError(
                f"the event log {path} cannot be created: {error.strerror}; {remedy(error)}, or choose another place"
            ) from error

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Self:
        """An existing log, for reading unless `write`.

        Events may be behind damage where SQLite does not reach them, and reports no error. Then a `DamageWarning` says
        so, and a log that is to be written is refused, since new events would replace them.

        Raises:
            RunError: The file is missing, damaged, or of another version.
            InputError: It is to be written, but the place has no locks.
            StorageError: It cannot be written, as when the disk is full.
        """
        if not path.exists():
            raise RunError(f"there is no event log {path}")
        problem = damage_of(path.with_name(path.name + SIDES[0]))
        if problem and write:
            raise _is_damaged(path, problem)
        try:
            # Who opens a file to write moves the side file into it, so it is read first also where it is to be written.
            reader = cls._reader(path)
            with ExitStack() as undo:
                undo.callback(reader.close)
                problem = problem or _damage_once(path, reader._connection)
                if not problem and write:
                    return cls._opened(path, "mode=rw", write=True)
                if write:
                    raise _is_damaged(path, problem)
                if problem:
                    said = _is_damaged(path, f"{problem}; events may be missing from what is read")
                    warnings.warn(str(said), DamageWarning, stacklevel=2)
                undo.pop_all()
            return reader
        except sqlite3.Error as error:
            raise (_refusal(path, error, "written") if write else _unreadable(path, error)) from error

    @classmethod
    def _reader(cls, path: Path) -> Self:
        side, journal = (path.with_name(path.name + ending) for ending in SIDES)
        if os.path.isfile(side) and side.stat().st_size:  # noqa: PTH113
            # A writer is active, or was killed. The last reader with write access would move the valid part of the
            # side file into the log and delete the side file. So a damaged side file would be lost.
            mode = "mode=ro"
        else:
            # A reader creates side files, and the last reader deletes them. If the folder is not writable, no
            # process writes the log, so the file can be opened as immutable, unless a journal of a killed writer
            # is to be applied first.
            mode = "mode=rw" if os.access(path.parent, os.W_OK) or journal.exists() else _IMMUTABLE
        try:
            return cls._opened(path, mode, write=False)
        except sqlite3.Error as error:
            # A finished log may have been copied to a place without shared memory, where no process can write it.
            if mode != "mode=rw" or journal.exists() or not sqlite_errors.lacks_shared_memory(path, error):
                raise
            return cls._opened(path, _IMMUTABLE, write=False)

    @classmethod
    def _opened(cls, path: Path, mode: str, *, write: bool) -> Self:
        with ExitStack() as undo:
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)
            undo.callback(connection.close)
            if not write:
                connection.execute("PRAGMA query_only=ON")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != FORMAT:
                raise RunError(
                    f"{path} has format {version}, but this version of nasplat reads format {FORMAT}; use the "
                    f"version that wrote it, or if the file is damaged: {recovering(path.parent)}"
                )
            if not has_schema(connection):
                raise _is_damaged(path, "its tables are not those of an event log")
            log = cls._configured(connection, path, write=write)
            if write:  # a place without locks is refused now, not after the first trial
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            undo.pop_all()
        return log

    @classmethod
    def _configured(cls, connection: sqlite3.Connection, path: Path, *, write: bool) -> Self:
        # A rollback journal that is not always synced may not survive a power cut.
        ahead = connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        connection.execute(f"PRAGMA synchronous={'NORMAL' if ahead else 'FULL'}")
        connection.execute("PRAGMA busy_timeout=5000")
        if write:  # frames of an earlier use would be left in the side file, where damage is harder to tell
            connection.execute("PRAGMA journal_size_limit=0")
        return cls(connection, path, write=write)

    def append(self, kind: str, body: Mapping[str, Any], *, elapsed: float) -> int:
        """Add an event; returns its number.

        Raises:
            StorageError: It could not be written, as when the disk is full.
        """
        try:
            self._connection.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?)",
                (self.last + 1, kind, elapsed, json.dumps(body, separators=(",", ":"))),
            )
        except sqlite3.Error as error:
            raise self._unwritable(error) from error
        self.last += 1
        self._unsynced = True
        if time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self.sync()
        return self.last

    def sync(self) -> None:
        """Write all appended events to the disk; without new events it does nothing."""
        if self._unsynced:
            try:
                _, frames, moved = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if moved < frames:  # a reader stands in the way of moving them, and so of SQLite's own sync
                    _sync_file(self._path.with_name(self._path.name + "-wal"))
            except (sqlite3.Error, OSError) as error:
                raise self._unwritable(error) from error
            self._unsynced = False
        self._synced_at = time.monotonic()

    def events(self, *kinds: str, after: int = 0) -> Iterator[Event]:
        """The events of the given kinds, or of all, in order, as the log is when reading begins.

        No lock is held while the caller handles them: without write-ahead mode it would stop the writer.

        Raises:
            RunError: The log is damaged.
        """
        chosen = f"AND kind IN ({','.join('?' * len(kinds))})" if kinds else ""
        try:
            until = self._connection.execute("SELECT max(seq) FROM events").fetchone()[0]
            query = f"SELECT seq, kind, elapsed, body FROM events WHERE seq > ? AND seq <= ? {chosen} ORDER BY seq"
            while rows := self._connection.execute(f"{query} LIMIT {PIECE}", (after, until, *kinds)).fetchall():
                for row in rows:
                    yield event_of(*row)
                after = rows[-1][0]
        except (sqlite3.Error, ValueError) as error:
            raise self._damaged(error) from error

    def save_snapshot(self, state: dict[str, Any]) -> None:
        """Save the state after the last event; older snapshots are deleted."""
        body, arrays = pack(state)
        try:
            with self._connection:
                self._connection.execute("BEGIN")
                self._connection.execute("DELETE FROM snapshots")
                self._connection.execute("INSERT INTO snapshots VALUES (?, ?, ?)", (self.last, body, arrays))
        except sqlite3.Error as error:
            raise self._unwritable(error) from error

    def snapshot(self) -> tuple[int, dict[str, Any]] | None:
        """The newest snapshot with the number of the event that it follows.

        Raises:
            RunError: The log is damaged.
        """
        try:
            row = self._connection.execute(
                "SELECT seq, body, arrays, (SELECT max(seq) FROM events) FROM snapshots ORDER BY seq DESC LIMIT 1"
            ).fetchone()
            if row is not None and row[0] > (row[3] or 0):  # as the log is now: its writer may have gone on
                raise ValueError(f"its snapshot follows event {row[0]}, but the last event is {row[3]}")
            return None if row is None else (row[0], unpack(row[1], row[2]))
        except (sqlite3.Error, ValueError) as error:
            raise self._damaged(error) from error

    def _unwritable(self, error: sqlite3.Error | OSError) -> StorageError:
        what = sqlite_errors.remedy(self._path, error) if isinstance(error, sqlite3.Error) else remedy(error)
        return StorageError(f"the event log {self._path} cannot be written: {error}; {what}")

    def _damaged(self, error: Exception) -> DamageError:
        return _is_damaged(self._path, error)

    def close(self) -> None:
        """Close the file; a log that its writer has closed is complete in one file."""
        if self._closed:
            return
        self._closed = True
        try:
            # Tidiness only, which a full disk may refuse: every event is in the file or its side file already.
            with suppress(sqlite3.Error):
                if self._writes:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                else:
                    self._connection.execute("PRAGMA query_only=OFF")  # the last one out takes the side files away
        finally:
            self._connection.close()


def _created(path: Path, journal: str) -> sqlite3.Connection:
    """A new file with the tables of a log; nothing is left of it on an error."""
    path.touch(exist_ok=False)  # with the rights that the umask gives; SQLite takes the umask of most people
    with ExitStack() as undo:
        undo.callback(path.unlink)
        connection = sqlite3.connect(path, isolation_level=None)
        undo.callback(connection.close)
        connection.execute(f"PRAGMA journal_mode={journal}")  # SQLite keeps the old mode where it knows of no memory
        connection.executescript(f"PRAGMA user_version={FORMAT}; {_SCHEMA}")
        undo.pop_all()
    return connection


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def event_of(seq: Any, kind: Any, elapsed: Any, body: Any) -> Event:
    """Decode the event in a row of the table.

    Raises:
        ValueError: The row is not an event.
    """
    try:
        said = json.loads(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the body of event {seq} is not JSON: {error}") from error
    if not (isinstance(kind, str) and isinstance(elapsed, float) and math.isfinite(elapsed) and isinstance(said, dict)):
        raise ValueError(f"event {seq} must have a kind, finite seconds and a JSON object")
    return Event(seq, kind, elapsed, said)


def has_schema(connection: sqlite3.Connection) -> bool:
    """Whether a file has only the tables of a log; a view or a trigger could run foreign SQL code."""
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(_SCHEMA)
        listing = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
        return connection.execute(listing).fetchall() == model.execute(listing).fetchall()


def structural_damage(connection: sqlite3.Connection) -> str:
    """What SQLite finds wrong with the pages of a file, some of which no event may show; empty if nothing is.

    Raises:
        sqlite3.Error: The file cannot be read at all.
    """
    said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if said == "ok" else " ".join(said.removeprefix("*** in database main ***").split())


def _damage_once(path: Path, connection: sqlite3.Connection) -> str:
    """As `structural_damage`, which reads the whole file; a file that was sound and has not changed is not read again.

    Times of files are coarse, so a file that has just changed may change again without another time.
    """
    state = tuple(_state(path.with_name(path.name + side)) for side in ("", *SIDES))
    if _SOUND.get(path) == state:
        return ""
    now = time.time_ns()
    problem = structural_damage(connection)
    if not problem and all(each is None or now - each[2] > _COARSE for each in state):
        _SOUND[path] = state
    return problem


def _state(path: Path) -> tuple[int, ...] | None:
    """Device, number, time of change in ns, and size of a file; None if there is none, or an empty one of a reader."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size) if status.st_size else None


def _is_damaged(path: Path, problem: object) -> DamageError:
    return DamageError(f"the event log {path} is damaged: {problem}; {recovering(path.parent)}")


def _refusal(path: Path, error: sqlite3.Error, action: str) -> NasplatError:
    """The error for a log that cannot be created or opened for writing; the cause may be the file."""
    said = f"the event log {path} cannot be {action}: {error}; {sqlite_errors.remedy(path, error)}"
    if sqlite_errors.is_full_at(path.parent, error):
        return StorageError(said)
    if sqlite_errors.lacks_locks(path, error):
        return InputError(said)
    if action == "created" or sqlite_errors.concerns_place(error):
        return StorageError(said)
    return _unreadable(path, error)


def _unreadable(path: Path, error: sqlite3.Error) -> RunError:
    if sqlite_errors.lacks_locks(path, error):
        return RunError(f"the event log {path} cannot be read: {error}; copy the run to a local disk and read it there")
    return DamageError(f"the event log {path} cannot be read: {error}; {recovering(path.parent)}")
