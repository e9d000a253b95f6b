"""Recovery of the events of a damaged log: events that SQLite cannot reach are searched in the raw bytes of the pages.

An event is one row of a table. Its record has a known format (https://www.sqlite.org/fileformat2.html, sec. 1.6 and
2.1): the length of the record, the row number, and a header with the length of each column. The length must agree with
the header, and the body must be JSON. These checks exclude chance matches. A log only grows, so all copies of an event
are equal: older copies are in the side file (the write-ahead log) or in pages that were split later.
"""

import re
import shutil
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from nasplat.errors import RunError
from nasplat.storage.event_log import FORMAT, Event, EventLog, event_of, has_schema, structural_damage
from nasplat.storage.write_ahead import FRAME_HEADER, PAGE_SIZES, WAL_HEADER, damage

LEAF_OVERHEAD = 35
USUAL_PAGE_SIZE = 4096
SMALLEST_EVENT = 16
"""Minimum size of an event in bytes. An event number above file size / minimum size is damage."""
LARGEST = 1 << 30
"""Bytes that are read of a log, and of each file beside it. A file with holes has almost any size."""
MOST_CANDIDATES = 4
"""Maximum number of different readings that are kept for one event; an event without damage has one reading."""

# The header of a record: its length, NULL in place of the row number, and the types of kind, elapsed and body.
# A text of n bytes has type 2 n + 13. Seconds are a float (type 7), or an integer if they are whole.
_RECORD = re.compile(
    rb"([\x05-\x08])\x00(\x13|\x15|\x1b|\x1d)([\x01-\x09])([\x80-\xff]{0,3}[\x00-\x7f])(ask|end|incident|outcome|session|test)",
    re.DOTALL,
)
_PIECE = 1 << 24
"""Bytes that are copied at once."""
_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}


def copied(path: Path, target: Path) -> str:
    """Copy a log, or a file beside it, up to `LARGEST`; returns what is wrong if it is larger, and else nothing.

    Raises:
        OSError: It cannot be copied.
    """
    size = path.stat().st_size
    if size <= LARGEST:
        shutil.copyfile(path, target)
        return ""
    with path.open("rb") as source, target.open("wb") as copy:
        for place in range(0, LARGEST, _PIECE):
            copy.write(source.read(min(_PIECE, LARGEST - place)))
    return f"{path.name} has {size:,} bytes, of which only the first {LARGEST:,} were read"


def read_events(copy: Path) -> tuple[dict[int, list[Event]], str]:
    """Read all events from the copy of a log.

    Returns the readings of each event by its number, and a description of the damage, empty if there is none.

    Args:
        copy: The copy; SQLite may write to it.
    """
    # SQLite moves the valid part of the side file into the log, so the bytes are read before.
    main = copy.read_bytes() if copy.exists() else b""
    side_path = copy.with_name(f"{copy.name}-wal")
    side = side_path.read_bytes() if side_path.exists() else b""
    events: dict[int, list[Event]] = {}
    largest = (len(main) + len(side)) // SMALLEST_EVENT

    def enter(found: Iterable[Event]) -> int:
        """Add the events, and return the number of new ones."""
        before = len(events)
        for event in found:
            readings = events.setdefault(event.seq, []) if 0 < event.seq <= largest else [event]
            if event not in readings and len(readings) < MOST_CANDIDATES:
                readings.append(event)
        return len(events) - before

    through, problem = _through_sqlite(copy) if main else ([], "only its write-ahead file is left")
    problem = damage(side) or problem
    enter(through)
    if enter(_carve(main, side, scan_main=bool(problem))) and not problem:
        problem = "its write-ahead file has events that SQLite does not read"
    if not problem and len(events) != max(events, default=0):
        problem = "events are missing"
    return events, problem


def _through_sqlite(copy: Path) -> tuple[list[Event], str]:
    """Read the events that SQLite reaches from either end of the table; also return a description of the damage."""
    events: dict[int, Event] = {}
    problem = ""
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        try:
            if not has_schema(connection):
                return [], "its tables are not those of an event log"
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != FORMAT:
                problem = f"it has format {version}, not {FORMAT}"
            problem = structural_damage(connection) or problem
        except sqlite3.Error as error:
            problem = str(error)
        connection.text_factory = bytes  # so that one invalid text does not end the reading
        for order in ("ASC", "DESC"):
            try:
                for seq, kind, elapsed, body in connection.execute(
                    f"SELECT seq, kind, elapsed, body FROM events ORDER BY seq {order}"
                ):
                    if order == "DESC" and seq in events:
                        break
                    try:
                        events[seq] = event_of(seq, kind.decode(), elapsed, body)
                    except (AttributeError, ValueError) as error:
                        problem = problem or str(error)
                else:
                    break  # the whole table was read without an error
            except sqlite3.Error as error:
                problem = problem or str(error)
    if not problem:
        try:
            with closing(EventLog.open(copy)) as log:
                log.snapshot()
        except RunError as error:
            problem = str(error.__cause__ or error)
    return [events[seq] for seq in sorted(events)], problem


def _carve(main: bytes, side: bytes, *, scan_main: bool) -> Iterator[Event]:
    """Search the bytes of the side file, and of the log itself if `scan_main`, for records of events."""
    sizes = [size for size in (_page_size(main, 16, 2), _page_size(side, 8, 4), USUAL_PAGE_SIZE) if size]
    for size in dict.fromkeys(sizes):
        readings = _pages(main, side, size)
        for blob in (side, main) if scan_main else (side,):
            for match in _RECORD.finditer(blob):
                event = _record(blob, match, size, readings)
                if event is not None:
                    yield event


def _page_size(blob: bytes, offset: int, length: int) -> int:
    size = int.from_bytes(blob[offset : offset + length], "big")
    size = 65536 if size == 1 else size
    return size if size in PAGE_SIZES else 0


def _pages(main: bytes, side: bytes, size: int) -> list[dict[int, bytes]]:
    """Three versions of the pages by number, the most reliable first.

    They are: the file with the current frames of the side file, the file alone, and the file with all frames.
    """
    base = {i // size + 1: main[i : i + size] for i in range(0, len(main), size)}
    every, current = dict(base), dict(base)
    salts = side[16:24]
    for start in range(WAL_HEADER, len(side), FRAME_HEADER + size):
        number = int.from_bytes(side[start : start + 4], "big")
        page = side[start + FRAME_HEADER : start + FRAME_HEADER + size]
        every[number] = page
        if side[start + 8 : start + 16] == salts:
            current[number] = page
    return [current, base, every]


def _record(blob: bytes, match: re.Match[bytes], size: int, readings: list[dict[int, bytes]]) -> Event | None:
    """Decode the record whose header was matched; None if the bytes are not an event."""
    header, kind_type, elapsed_type, body_varint, kind = match.groups()
    body_type = _varint(body_varint)
    if header[0] != 4 + len(body_varint) or kind_type[0] != 2 * len(kind) + 13 or body_type < 13 or body_type % 2 == 0:
        return None
    width = _SIZES[elapsed_type[0]]
    total = header[0] + len(kind) + width + (body_type - 13) // 2
    seq = _number_before(blob, match.start(), total)
    if seq is None:
        return None
    local = _local(total, size)
    start = match.start()
    piece = blob[start : start + local]
    if local == total:
        return _event(piece, header[0] + len(kind), elapsed_type[0], seq, kind)
    first = int.from_bytes(blob[start + local : start + local + 4], "big")
    for pages in readings:
        payload = piece + _chain(pages, first, total - local, size)
        if len(payload) == total:
            event = _event(payload, header[0] + len(kind), elapsed_type[0], seq, kind)
            if event is not None:
                return event
    return None


def _event(payload: bytes, at: int, elapsed_type: int, seq: int, kind: bytes) -> Event | None:
    width = _SIZES[elapsed_type]
    raw = payload[at : at + width]
    if elapsed_type == 7:
        if len(raw) < 8:
            return None
        elapsed = struct.unpack(">d", raw)[0]
    else:
        elapsed = float({8: 0, 9: 1}.get(elapsed_type, int.from_bytes(raw, "big", signed=True)))
    try:
        return event_of(seq, kind.decode(), elapsed, payload[at + width :])
    except ValueError:
        return None


def _varint(digits: bytes) -> int:
    """Decode an SQLite varint: seven bits per byte, and the high bit is set in all bytes but the last."""
    value = 0
    for digit in digits:
        value = value << 7 | digit & 0x7F
    return value


def _as_varint(value: int) -> bytes:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | value & 0x7F)
    return bytes(reversed(digits))


def _number_before(blob: bytes, start: int, total: int) -> int | None:
    """The row number, which is stored between the length of the record and the record; None if it does not fit."""
    length = _as_varint(total)
    for width in range(1, 6):
        digits = blob[start - width : start] if start >= width else b""
        if not digits or digits[-1] & 0x80 or not all(digit & 0x80 for digit in digits[:-1]):
            continue
        if blob.endswith(length, 0, start - width):
            return _varint(digits)
    return None


def _local(total: int, size: int) -> int:
    """Number of bytes of a record of `total` bytes in the page itself; the rest is in a chain of overflow pages."""
    if total <= size - LEAF_OVERHEAD:
        return total
    least = (size - 12) * 32 // 255 - 23
    some = least + (total - least) % (size - 4)
    return some if some <= size - LEAF_OVERHEAD else least


def _chain(pages: Mapping[int, bytes], first: int, length: int, size: int) -> bytes:
    """The rest of a record, from the chain of overflow pages that begins with `first`; shorter if the chain breaks."""
    parts: list[bytes] = []
    for _ in range(-(-length // (size - 4))):
        page = pages.get(first)
        if page is None:
            break
        parts.append(page[4:])
        first = int.from_bytes(page[:4], "big")
    return b"".join(parts)[:length]
