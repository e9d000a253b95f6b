"""The side file of a log: damage is told from what a killed writer leaves."""

import os
import random
import struct
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from nasplat.errors import DamageWarning, RunError
from nasplat.storage import event_log
from nasplat.storage.event_log import EventLog
from nasplat.storage.write_ahead import FRAME_HEADER, WAL_HEADER, damage

PAGE = 4096
FRAME = FRAME_HEADER + PAGE


def written(path: Path, number: int, seed: int) -> bytes:
    """A side file of so many events, of one or of several pages, and of a snapshot; the log is left as by a kill."""
    chance = random.Random(seed)
    if not path.exists():
        EventLog.create(path).close()
    log = EventLog.open(path, write=True)
    log._connection.execute("PRAGMA wal_autocheckpoint = 0")
    for _ in range(number):
        log._unsynced = False
        log.append("ask", {"text": "x" * chance.choice((10, 500, 9000))}, elapsed=0.0)
    log.save_snapshot({"array": np.arange(2000)})
    log._unsynced = False
    log.append("ask", {}, elapsed=0.0)
    side = path.with_name(f"{path.name}-wal")
    kept = {file: file.read_bytes() for file in (path, side)}
    log.close()
    for file, content in kept.items():
        file.write_bytes(content)
    return kept[side]


@pytest.fixture
def side(tmp_path: Path) -> bytes:
    return written(tmp_path / "events.sqlite", 20, 0)


def test_a_kill_at_any_byte_is_no_damage(side: bytes) -> None:
    assert (len(side) - WAL_HEADER) % FRAME == 0
    cuts = {*range(WAL_HEADER + FRAME_HEADER), *range(WAL_HEADER, len(side) + 1, FRAME)}
    cuts |= {cut + by for cut in cuts for by in (1, 8, FRAME_HEADER, PAGE)} | {*range(0, len(side), 1021)}
    assert {damage(side[:cut]) for cut in cuts} == {""}


def test_frames_of_an_earlier_use_of_the_file_are_no_damage(side: bytes) -> None:
    salts = struct.pack(">II", *(salt ^ 0x5A5A5A5A for salt in struct.unpack(">II", side[16:24])))
    earlier = b"".join(
        side[start : start + 8] + salts + side[start + 16 : start + FRAME]
        for start in range(WAL_HEADER, len(side), FRAME)
    )
    for kept in range(WAL_HEADER, len(side), FRAME):
        for torn in (0, 8):  # bytes of the next frame's header, before its salts
            assert damage(side[: kept + torn] + earlier[kept + torn - WAL_HEADER :]) == ""


@pytest.mark.parametrize("order", ["<", ">"])
def test_checksums_are_those_of_the_format(side: bytes, order: str) -> None:
    """As the format's documentation writes them, word by word, in both orders of bytes."""

    def checksum(content: bytes, first: int, second: int) -> tuple[int, int]:
        words = struct.unpack(f"{order}{len(content) // 4}I", content)
        for a, b in zip(words[::2], words[1::2], strict=True):
            first = (first + a + second) & 0xFFFFFFFF
            second = (second + b + first) & 0xFFFFFFFF
        return first, second

    head = struct.pack(">I", 0x377F0682 if order == "<" else 0x377F0683) + side[4:24]
    sums = checksum(head, 0, 0)
    made = head + struct.pack(">II", *sums)
    for start in range(WAL_HEADER, WAL_HEADER + 6 * FRAME, FRAME):
        page = side[start + FRAME_HEADER : start + FRAME]
        sums = checksum(page, *checksum(side[start : start + 8], *sums))
        made += side[start : start + 16] + struct.pack(">II", *sums) + page
    if order == "<":
        assert made == side[: len(made)], "SQLite writes so on this machine"
    marked = made[:-FRAME] + made[-FRAME:][:4] + b"\0\0\0\7" + made[-FRAME:][8:]  # ends a transaction, with a wrong sum
    assert damage(made) == ""
    assert damage(marked).startswith("frame 6 ")


def test_each_flipped_bit_is_found_where_it_is(side: bytes) -> None:
    chance = random.Random(0)
    bits = [chance.randrange(8 * len(side)) for _ in range(100)]
    bits += range(0, 8 * WAL_HEADER, 5)
    bits += [8 * (len(side) - FRAME) + bit for bit in range(8 * FRAME_HEADER)]  # the last frame's header
    for bit in bits:
        hurt = bytearray(side)
        hurt[bit // 8] ^= 1 << bit % 8
        where = (bit // 8 - WAL_HEADER) // FRAME + 1
        assert damage(bytes(hurt)).startswith("the header " if where == 0 else f"frame {where} "), bit


def test_a_lost_mark_at_the_end_is_damage_but_not_a_transaction_that_never_ended(side: bytes) -> None:
    """A transaction that was rolled back leaves frames, and a power cut may tear one, with the salts of today."""
    mark = len(side) - FRAME + 4
    assert any(side[mark : mark + 4])
    assert damage(side[:mark] + bytes(4) + side[mark + 4 :]).endswith("the 1 transactions from there on")
    torn = side[:mark] + bytes(4) + side[mark + 4 : -100] + bytes(100)
    assert damage(torn) == ""
    rolled_back = (
        side[: mark - 4] + side[mark - 4 - FRAME : mark - FRAME] + bytes(4) + side[mark + 4 - FRAME : mark - 4]
    )
    assert len(rolled_back) == len(side) and damage(rolled_back) == ""


def test_a_lost_block_in_the_middle_is_damage_and_one_at_the_end_looks_like_a_kill(side: bytes) -> None:
    middle = WAL_HEADER + (len(side) // FRAME // 2) * FRAME
    assert "is damaged" in damage(side[:middle] + bytes(FRAME) + side[middle + FRAME :])
    assert damage(side[:-FRAME] + bytes(FRAME)) == ""


def test_a_damaged_side_file_is_told_to_readers_and_refuses_writers(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    hurt = bytearray(written(path, 20, 0))
    hurt[len(hurt) // 2] ^= 1
    path.with_name("events.sqlite-wal").write_bytes(hurt)
    before = path.read_bytes()
    with pytest.warns(DamageWarning, match=r"`nasplat recover .* --out NEW`"), closing(EventLog.open(path)) as log:
        assert log.last < 21
    with pytest.raises(RunError, match=r"SQLite does not read the \d+ transactions .*`nasplat recover .* --out NEW`"):
        EventLog.open(path, write=True)
    assert (path.read_bytes(), path.with_name("events.sqlite-wal").read_bytes()) == (before, bytes(hurt))


def test_a_writer_leaves_no_frames_of_an_earlier_use(tmp_path: Path) -> None:
    """Behind them a frame that was cut off could not be told from a damaged one."""
    path = tmp_path / "events.sqlite"
    EventLog.create(path).close()
    with closing(EventLog.open(path, write=True)) as log:
        log.append("ask", {"text": "x" * 100_000}, elapsed=0.0)
        log.sync()
        log.append("ask", {}, elapsed=0.0)
        assert path.with_name("events.sqlite-wal").stat().st_size < 10 * FRAME


def test_a_log_is_looked_through_once_as_long_as_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.sqlite"
    EventLog.create(path).close()
    looked: list[object] = []

    def look(connection: object) -> str:
        looked.append(connection)
        return ""

    monkeypatch.setattr(event_log, "structural_damage", look)

    def looks() -> int:
        before = len(looked)
        EventLog.open(path).close()
        return len(looked) - before

    now = time.time() + 1000
    os.utime(path, (now, now))
    assert [looks(), looks()] == [1, 1], "it has just changed, and may change again at the same time"
    os.utime(path, (1000, 1000))
    assert [looks(), looks()] == [1, 0]
    os.utime(path, (2000, 2000))
    assert [looks(), looks()] == [1, 0]
    path.with_name("copy").write_bytes(path.read_bytes())
    os.utime(path.with_name("copy"), (2000, 2000))
    path.with_name("copy").replace(path)
    assert looks() == 1


def test_shared_memory_that_was_left_over_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    written(path, 20, 0)
    path.with_name("events.sqlite-shm").write_bytes(random.Random(0).randbytes(32768))
    with closing(EventLog.open(path)) as log:
        assert [event.seq for event in log.events()] == list(range(1, 22))
