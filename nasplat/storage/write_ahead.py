"""The side file of a log, SQLite's write-ahead log: whether it holds transactions that SQLite does not read.

SQLite reads frames up to the first that is not valid, and says nothing of those behind it. The format is that of
https://www.sqlite.org/fileformat2.html, section 4. A header of 32 bytes has two salts. A frame is a header of 24 bytes
and a page; its header has the page's number, the size of the database if the frame ends a transaction and 0 otherwise,
the salts, and a checksum of everything from the start of the file. Frames of an earlier use of the file have both salts
different, since SQLite counts up one and draws the other.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasplat.storage.files import opened

WAL_HEADER, FRAME_HEADER = 32, 24
PAGE_SIZES = {2**power for power in range(9, 17)}
_MAGIC = {0x377F0682: "<u4", 0x377F0683: ">u4"}
"""The first number of the file, and the byte order of the words that checksums are of."""
LARGEST = 1 << 30
"""Bytes of a side file. SQLite moves its frames into the log after some megabytes, unless a long read delays it."""
_LOOKS = 3
"""Looks at the file of an active writer, of which two in a row must find the same damage."""


def damage_of(path: Path) -> str:
    """What is wrong with a side file; empty if nothing is, or there is no such file.

    A writer may be active: what it changed between two looks is no damage.
    """
    said = ""
    for _ in range(_LOOKS):
        try:
            with opened(path) as file:
                size = path.stat().st_size
                if size > LARGEST:
                    return f"its write-ahead file has {size:,} bytes, but has at most {LARGEST:,} unless it is damaged"
                found = damage(file.read())
        except OSError:  # no file, or one that its writer has just closed; SQLite says what it makes of it
            return ""
        if not found or found == said:
            return found
        said = found
    return ""


def damage(side: bytes) -> str:
    """What is wrong with the content of a side file; empty if nothing is.

    There is damage if a transaction was written to its end, so that its last frame is there, and SQLite does not reach
    that frame. A killed writer leaves an incomplete transaction: its last frame is missing, or cut short by the end of
    the file. So a file that has lost its end, or is lost, looks like one that was never longer, and is not noticed.

    The mark of a last frame may itself be what was damaged, so that the frame looks like one in the middle. Such a
    frame fits its checksum with some other mark. Frames of a rolled-back transaction, or torn by a power cut, fit with
    none: they were never part of the log, or not yet safe.

    A kill is taken for damage if it falls between the header and the page of a frame that replaces one of an earlier
    use. `EventLog` cuts such frames off after the first transaction, so that this is a matter of microseconds.
    """
    if len(side) < WAL_HEADER or not any(side[:WAL_HEADER]):
        return ""  # cut off before its first transaction
    header = np.frombuffer(side, ">u4", WAL_HEADER // 4)
    order, size = _MAGIC.get(int(header[0])), int(header[2])
    words = np.frombuffer(side, order or ">u4", WAL_HEADER // 4 - 2)
    if order is None or size not in PAGE_SIZES or not np.array_equal(_sums(words[np.newaxis])[0], header[6:8]):
        return "the header of its write-ahead file does not fit its checksum"
    number = (len(side) - WAL_HEADER) // (FRAME_HEADER + size)
    frames = np.frombuffer(side, np.uint8, number * (FRAME_HEADER + size), WAL_HEADER).reshape(
        number, FRAME_HEADER + size
    )
    heads = frames[:, :FRAME_HEADER].copy().view(">u4").astype(np.uint32)
    pages = [frames[:, :8].copy().view(order), frames[:, FRAME_HEADER:].copy().view(order)]
    valid, lost_mark = _valid(header, heads, np.concatenate(pages, axis=1))
    written = (heads[valid:, 1] != 0) & (heads[valid:, 2:4] == header[4:6]).any(axis=1)  # one salt may be the damage
    lost = int(written.sum()) + lost_mark
    if not lost:
        return ""
    return (
        f"frame {valid + 1} of its write-ahead file is damaged, and SQLite does not read the {lost} transactions from "
        "there on"
    )


class _Valid(NamedTuple):
    """The valid frames before the first that is not.

    Args:
        number: How many they are.
        lost_mark: Whether the next frame ends a transaction, but has lost the mark of that.
    """

    number: int
    lost_mark: bool


def _valid(header: NDArray[np.uint32], heads: NDArray[np.uint32], words: NDArray[np.uint32]) -> _Valid:
    """Compare frames with their checksums up to the first that is not valid.

    Args:
        header: The words of the file's header.
        heads: ``[frames, 6]``, the words of their headers.
        words: ``[frames, words]``, what checksums are of, in the byte order of the file.
    """
    alone = _sums(words).tolist()
    ((a, b), (c, d)) = _after(words.shape[1])
    first, second = int(header[6]), int(header[7])
    salts = header[4:6].tolist()
    for at, head in enumerate(heads.tolist()):
        first, second = (
            (alone[at][0] + a * first + b * second) & 0xFFFFFFFF,
            (alone[at][1] + c * first + d * second) & 0xFFFFFFFF,
        )
        if head[2:4] != salts or head[4:6] != [first, second]:
            missing = (head[4] - first) & 0xFFFFFFFF, (head[5] - second) & 0xFFFFFFFF
            return _Valid(at, head[1] == 0 and head[2:4] == salts and _is_a_mark(missing, words.shape[1]))
    return _Valid(len(heads), False)


def _is_a_mark(missing: tuple[int, int], number: int) -> bool:
    """Whether checksums lack what one other value of a frame's commit mark would add to them.

    Args:
        missing: What the two checksums of the frame lack.
        number: The number of words that checksums are of; the mark is the second.
    """
    *_, times_in_first, times_in_second = _fibonacci(number)
    odd = times_in_first % 2  # of two neighbours in the sequence at least one is, and so has an inverse
    mark = missing[0 if odd else 1] * pow(times_in_first if odd else times_in_second, -1, 1 << 32) & 0xFFFFFFFF
    lacks = tuple(times * mark & 0xFFFFFFFF for times in (times_in_first, times_in_second))
    return mark != 0 and lacks == missing


def _sums(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The two checksums of each row, begun with zeros: ``[rows, 2]``.

    SQLite takes words in pairs: ``first += word + second; second += next word + first``, modulo 2³². So a word with n
    words behind it counts F(n) times in the first sum and F(n + 1) times in the second. F are the Fibonacci numbers.
    """
    fibonacci = np.array(_fibonacci(words.shape[1] + 1)[::-1], np.uint32)
    return np.stack([words @ fibonacci[1:], words @ fibonacci[:-1]], axis=1)


def _after(number: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """How often the two sums so far count in the two after `number` more words."""
    *_, before, last, next_one = _fibonacci(number + 2)
    return (before, last), (last, next_one)


def _fibonacci(number: int) -> list[int]:
    """The first Fibonacci numbers modulo 2³², from 0."""
    found = [0, 1]
    while len(found) < number:
        found.append((found[-1] + found[-2]) & 0xFFFFFFFF)
    return found[:number]
