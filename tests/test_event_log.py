"""The event log: what was appended is there, whoever reads beside it and however the writer ends."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasplat.errors import RunError
from nasplat.storage.event_log import FORMAT, Event, EventLog

PATIENCE = 300.0
"""Seconds after which a test stops waiting for a process."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a new, empty log lies."""
    EventLog.create(tmp_path / "events.sqlite").close()
    return tmp_path / "events.sqlite"


@contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[EventLog]:
    with closing(EventLog.open(path, write=write)) as log:
        yield log


def filled(path: Path, number: int = 5) -> list[Event]:
    """The events that were put into a log, which is closed again."""
    events = [
        Event(i, "outcome" if i % 2 else "ask", i / 8, {"id": i, "text": "é\n" * i}) for i in range(1, number + 1)
    ]
    with opened(path, write=True) as log:
        for event in events:
            assert log.append(event.kind, event.body, elapsed=event.elapsed) == event.seq == log.last
    return events


def events_of(path: Path) -> list[Event]:
    with opened(path) as log:
        return list(log.events())


def names_beside(path: Path) -> list[str]:
    return sorted(other.name for other in path.parent.iterdir())


# Appending and reading


def test_a_new_log_is_empty_and_one_file(path: Path) -> None:
    assert names_beside(path) == ["events.sqlite"]
    with opened(path) as log:
        assert (log.last, list(log.events()), log.snapshot()) == (0, [], None)


def test_events_come_back_in_order_and_unchanged(path: Path) -> None:
    events = filled(path)
    assert events_of(path) == events
    assert names_beside(path) == ["events.sqlite"]


def test_a_reopened_log_goes_on_where_it_ended(path: Path) -> None:
    events = filled(path)
    with opened(path, write=True) as log:
        assert log.last == 5
        assert log.append("end", {"reason": "budget"}, elapsed=9.5) == 6
        assert list(log.events()) == [*events, Event(6, "end", 9.5, {"reason": "budget"})]
    assert [event.seq for event in events_of(path)] == [1, 2, 3, 4, 5, 6]


def test_events_are_chosen_by_kind_and_number(path: Path) -> None:
    filled(path, 8)
    with opened(path) as log:
        for kinds, after, expected in [
            (("ask",), 0, [2, 4, 6, 8]),
            (("ask",), 4, [6, 8]),
            (("ask", "outcome"), 6, [7, 8]),
            ((), 7, [8]),
            ((), 8, []),
            (("other",), 0, []),
        ]:
            assert [event.seq for event in log.events(*kinds, after=after)] == expected


def test_an_unclosed_writer_is_read_at_once(path: Path) -> None:
    with opened(path, write=True) as writer, opened(path) as reader:
        for number in range(1, 6):
            writer.append("ask", {"id": number}, elapsed=0.0)
            assert [event.body["id"] for event in events_of(path)] == list(range(1, number + 1))
        assert len(list(reader.events())) == 5
        writer.sync()
        assert len(events_of(path)) == 5


def test_a_reader_in_the_middle_never_blocks_the_writer(path: Path) -> None:
    filled(path, 200)
    with opened(path, write=True) as writer:
        writer.append("ask", {}, elapsed=0.0)
        with opened(path) as reader:
            events = reader.events()
            assert next(events).seq == 1
            for _ in range(100):
                writer.append("ask", {}, elapsed=0.0)
            writer.save_snapshot({"at": writer.last})
            writer.sync()
            # A writer that is blocked is refused after five seconds, by an error.
            assert [event.seq for event in events] == list(range(2, 202))  # the log as it was when reading began
    assert len(events_of(path)) == 301


def test_a_closed_log_is_complete_in_one_file_though_a_reader_was_there(path: Path, tmp_path: Path) -> None:
    with opened(path) as reader:
        events = filled(path)
        assert len(list(reader.events())) in (0, 5)
    with opened(path, write=True) as writer, opened(path):
        writer.append("end", {}, elapsed=1.0)
        writer.close()
        (tmp_path / "copy.sqlite").write_bytes(path.read_bytes())
    assert events_of(tmp_path / "copy.sqlite") == [*events, Event(6, "end", 1.0, {})]


def test_a_reader_cannot_write(path: Path) -> None:
    filled(path)
    with opened(path) as reader:
        with pytest.raises(RunError, match="cannot be written"):
            reader.append("ask", {}, elapsed=0.0)
        with pytest.raises(RunError, match="cannot be written"):
            reader.save_snapshot({})
        assert reader.last == 5
    assert len(events_of(path)) == 5


def test_a_second_writer_is_refused_rather_than_overwriting(path: Path) -> None:
    with opened(path, write=True) as first, opened(path, write=True) as second:
        first.append("ask", {"by": "first"}, elapsed=0.0)
        with pytest.raises(RunError, match="cannot be written"):
            second.append("ask", {"by": "second"}, elapsed=0.0)
    assert [event.body["by"] for event in events_of(path)] == ["first"]


def test_a_full_disk_fails_the_event_and_keeps_the_others(path: Path) -> None:
    filled(path)
    with opened(path, write=True) as log:
        log._connection.execute("PRAGMA max_page_count = 4")
        with pytest.raises(RunError, match=r"cannot be written.*full"):
            log.append("ask", {"text": "x" * 100_000}, elapsed=0.0)
        with pytest.raises(RunError, match=r"cannot be written.*full"):
            log.save_snapshot({"array": np.zeros(100_000)})
        assert log.last == 5
        assert log.snapshot() is None
        log._connection.execute("PRAGMA max_page_count = 1000")
        assert log.append("ask", {"text": "x" * 100_000}, elapsed=0.0) == 6
    assert [event.seq for event in events_of(path)] == [1, 2, 3, 4, 5, 6]


# Another process writes

WRITE = """
import sys
from pathlib import Path
from nasplat.storage.event_log import EventLog

log = EventLog.open(Path(sys.argv[1]), write=True)
number = int(sys.argv[2])
while log.last < number:
    seq = log.append("outcome", {"id": log.last + 1, "text": "x" * (37 * log.last % 5000)}, elapsed=0.5)
    if seq % 10 == 0:
        log.save_snapshot({"seq": seq, "array": __import__("numpy").full(300, seq)})
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
log.close()
"""


def start_writer(path: Path, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITE, str(path), str(number)], stdout=subprocess.PIPE, text=True)


def check_complete(events: list[Event]) -> None:
    """The events are those of the writing process, without a gap."""
    for i, event in enumerate(events):
        assert event == Event(i + 1, "outcome", 0.5, {"id": i + 1, "text": "x" * (37 * i % 5000)})


@pytest.mark.slow
def test_reading_beside_a_writing_process_sees_a_growing_beginning(path: Path) -> None:
    writer = start_writer(path, 2_000)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "1\n"
        lengths, told = [], 1
        while told < 2_000:
            told = int(writer.stdout.readline())
            if told % 40 == 0:
                with opened(path) as log:
                    events, snapshot = list(log.events()), log.snapshot()
                check_complete(events)
                assert len(events) >= told
                assert snapshot is not None
                assert snapshot[0] >= told // 10 * 10
                assert (snapshot[1]["array"] == snapshot[0]).all()
                lengths.append(len(events))
        assert writer.wait(PATIENCE) == 0
    finally:
        writer.kill()
        writer.communicate()
    assert len(lengths) > 20
    assert lengths == sorted(lengths)
    check_complete(events := events_of(path))
    assert len(events) == 2_000


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_append_returned_for(path: Path) -> None:
    chance = random.Random(0)
    told, left_open = 0, 0
    for _ in range(5):
        writer = start_writer(path, 10**9)
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 60)):
            told = int(writer.stdout.readline())
        time.sleep(chance.random() / 50)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()  # not communicate, which leaves out what readline has buffered
        writer.communicate(timeout=PATIENCE)
        told = max([told, *map(int, rest.split("\n")[:-1])])
        assert writer.returncode == -signal.SIGKILL
        left_open += len(names_beside(path)) > 1
        for write in (False, True):
            with opened(path, write=write) as log:
                events, snapshot = list(log.events()), log.snapshot()
            check_complete(events)
            assert told <= len(events) <= told + 1  # the last one may be there before the writer could say so
            if len(events) >= 10:
                assert snapshot is not None
                assert snapshot[0] in (len(events) // 10 * 10, (len(events) - 1) // 10 * 10)
                assert (snapshot[1]["array"] == snapshot[0]).all()
    assert left_open == 5  # the writers were really killed in the middle
    assert told > 100


# Places that cannot be written


def test_reading_a_closed_log_leaves_no_trace(path: Path) -> None:
    events = filled(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert events_of(path) == events
    assert names_beside(path) == ["events.sqlite"]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_closed_log_is_read_in_a_read_only_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = filled(path)
    path.chmod(stat.S_IRUSR)
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.geteuid() == 0:  # for whom nothing is read-only
        monkeypatch.setattr(os, "access", lambda path, mode, **options: not mode & os.W_OK)
    try:
        with opened(path) as log:
            assert list(log.events()) == events
            assert names_beside(path) == ["events.sqlite"]
        if os.geteuid() != 0:
            with pytest.raises(RunError, match="cannot be written"), opened(path, write=True) as log:
                log.append("ask", {}, elapsed=0.0)
    finally:
        path.parent.chmod(stat.S_IRWXU)
    assert names_beside(path) == ["events.sqlite"]


# Snapshots


def same(a: object, b: object) -> bool:
    """Equal, with arrays equal in type, shape and every bit."""
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes(order="C") == b.tobytes(order="C")
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def round_trip(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    with opened(path, write=True) as log:
        log.save_snapshot(state)
    with opened(path) as log:
        found = log.snapshot()
    assert found is not None
    return found[1]


INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]


@pytest.mark.parametrize("dtype", [np.bool_, *INTEGERS, np.float16, np.float32, np.float64])
def test_arrays_of_any_type_come_back_bit_for_bit(path: Path, dtype: type[np.generic]) -> None:
    bits = np.random.default_rng(0).integers(0, 256, 240, dtype=np.uint8)
    array = bits.astype(np.bool_) if dtype is np.bool_ else bits.view(dtype)
    state = {"array": array, "square": array[:16].reshape(4, 4)}
    assert same(round_trip(path, state), state)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3), (1, 1, 1, 1), (2, 3, 4, 5)], ids=str)
def test_arrays_of_any_shape_come_back(path: Path, shape: tuple[int, ...]) -> None:
    state = {"array": np.asarray(np.random.default_rng(0).standard_normal(shape))}
    assert same(round_trip(path, state), state)


def test_arrays_that_do_not_lie_in_order_come_back(path: Path) -> None:
    grid = np.arange(24.0).reshape(4, 6)
    state = {"turned": grid.T, "every other": grid[::2, ::-3], "columns": np.asfortranarray(grid), "same": grid[0]}
    assert same(round_trip(path, state), state)


def test_values_that_are_no_numbers_come_back(path: Path) -> None:
    state = {"array": np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])}
    assert same(round_trip(path, state), state)


def test_states_come_back_however_they_are_nested(path: Path) -> None:
    state = {
        "numbers": [1, 2.5, -0.0, 1e300, 2**70, True, None, "text", "é\u2028\x00"],
        "empty": {"list": [], "dict": {}, "text": ""},
        "deep": {"a": [{"b": [np.arange(3), [np.arange(2, dtype=np.uint8), {"c": np.eye(2)}]]}, np.zeros(0)]},
        "rng": np.random.default_rng(7).bit_generator.state,
        "equal arrays": [np.arange(3), np.arange(3)],
        "none": None,
    }
    assert same(round_trip(path, state), state)


def test_a_generator_goes_on_from_its_restored_state(path: Path) -> None:
    rng = np.random.default_rng(3)
    rng.random(10)
    state = round_trip(path, {"rng": rng.bit_generator.state})
    other = np.random.default_rng(0)
    other.bit_generator.state = state["rng"]
    assert other.random(5).tolist() == rng.random(5).tolist()


def test_the_newest_snapshot_counts_and_says_where_it_belongs(path: Path) -> None:
    with opened(path, write=True) as log:
        log.save_snapshot({"at": 0})
        assert log.snapshot() == (0, {"at": 0})
        log.append("ask", {}, elapsed=0.0)
        log.save_snapshot({"at": 1, "array": np.arange(3)})
        log.append("ask", {}, elapsed=0.0)
        log.save_snapshot({"at": 2})
        log.save_snapshot({"at": "2 again"})
        log.append("ask", {}, elapsed=0.0)
        assert log.snapshot() == (2, {"at": "2 again"})
    with opened(path) as log:
        assert log.snapshot() == (2, {"at": "2 again"})
        assert len(list(log.events())) == 3


def test_a_snapshot_that_cannot_be_written_leaves_the_older_one(path: Path) -> None:
    with opened(path, write=True) as log:
        log.save_snapshot({"at": 0})
        with pytest.raises(TypeError):
            log.save_snapshot({"at": object()})
        assert log.append("ask", {}, elapsed=0.0) == 1
        assert log.snapshot() == (0, {"at": 0})


# Damage


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    for write in (False, True):
        with pytest.raises(RunError, match=r"there is no event log .*nowhere\.sqlite"):
            EventLog.open(tmp_path / "nowhere.sqlite", write=write)
    assert not list(tmp_path.iterdir())


def test_a_log_is_created_once_and_only_where_there_is_a_folder(path: Path, tmp_path: Path) -> None:
    events = filled(path)
    with pytest.raises(RunError, match="exists"):
        EventLog.create(path)
    assert events_of(path) == events
    with pytest.raises(RunError, match="cannot be created"):
        EventLog.create(tmp_path / "nowhere" / "events.sqlite")


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("version", [0, FORMAT + 1, -1])
def test_another_version_is_refused_by_both_numbers(path: Path, version: int, write: bool) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(RunError, match=f"has format {version}, .* reads format {FORMAT}"):
        EventLog.open(path, write=write)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(5_000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no database\n" * 100)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4_096:] = random.Random(0).randbytes(len(content) - 4_096)
    path.write_bytes(content)


def one_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5 * 4_096 : 6 * 4_096] = random.Random(0).randbytes(4_096)
    path.write_bytes(content)


def without_tables(path: Path) -> None:
    run_sql(path, "DROP TABLE events", "DROP TABLE snapshots")


def body(path: Path) -> None:
    run_sql(path, "UPDATE events SET body = '{\"id\": 3' WHERE seq = 3")


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.filterwarnings("ignore::nasplat.errors.DamageWarning")
@pytest.mark.parametrize("write", [False, True], ids=["reading", "writing"])
@pytest.mark.parametrize("damage", [garbage, empty, text, cut, middle, one_page, without_tables, body])
def test_a_damaged_log_is_a_run_error_that_names_it(path: Path, damage: Callable[[Path], None], write: bool) -> None:
    filled(path, 300)
    damage(path)
    with pytest.raises(RunError) as refused, opened(path, write=write) as log:
        list(log.events())
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE snapshots SET arrays = x'00'",
        "UPDATE snapshots SET arrays = x''",
        "UPDATE snapshots SET arrays = substr(arrays, 1, length(arrays) - 8)",
        "UPDATE snapshots SET arrays = x'02000000000000007b7d'",  # holds no array
        "UPDATE snapshots SET body = '{\"array\":'",
        "UPDATE snapshots SET body = ''",
        "DROP TABLE snapshots",
    ],
)
def test_a_damaged_snapshot_is_a_run_error_that_names_the_log(path: Path, damage: str) -> None:
    with opened(path, write=True) as log:
        log.save_snapshot({"array": np.arange(300)})
    run_sql(path, damage)
    with pytest.raises(RunError) as refused, opened(path) as log:
        log.snapshot()
    assert str(path) in str(refused.value)


def test_a_damaged_snapshot_leaves_the_events_readable(path: Path) -> None:
    events = filled(path)
    with opened(path, write=True) as log:
        log.save_snapshot({"array": np.arange(300)})
    run_sql(path, "UPDATE snapshots SET arrays = x'00'")
    assert events_of(path) == events
