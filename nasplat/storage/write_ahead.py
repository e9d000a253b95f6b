"""The side file of a log, SQLite's write-ahead log: whether it holds transactions that SQLite does not read.

SQLite reads frames up to the first that is not valid, and says nothing of those behind it. The format is that of
https://www.sqlite.org/fileformat2.html, section 4. A header of 32 bytes has two salts. A frame is a header of 24 bytes
and a page; its header has the page's number, the size of the database if the frame ends a transaction and 0 otherwise,
the salts, and a checksum of everything from the start of the file. Frames of an earlier use of the file have both salts
different, since SQLite counts up one and draws the other.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WAL_HEADER, FRAME_HEADER = 32, 24
PAGE_SIZES = {2**power for power in range(9, 17)}
_MAGIC = {0x377F0682: "<u4", 0x377F0683: ">u4"}
"""The first number of the file, and the byte order of the words that checksums are of."""
_LOOKS = 3
"""Looks at the file of an active writer, of which two in a row must find the same damage."""


def damage_of(path: Path) -> str:
    """What is wrong with a side file; empty if nothing is, or there is no such file.

    A writer may be active: what it changed between two looks is no damage.
    """
    said = ""
    for _ in range(_LOOKS):
        try:
            found = damage(path.read_bytes())
        except OSError:  # a folder, or a file that its writer has just closed; SQLite says what it makes of it
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
    valid = _valid(header, heads, np.concatenate(pages, axis=1))
    written = (heads[valid:, 1] != 0) & (heads[valid:, 2:4] == header[4:6]).any(axis=1)  # one salt may be the damage
    if not written.any():
        return ""
    return (
        f"frame {valid + 1} of its write-ahead file is damaged, and SQLite does not read the "
        f"{int(written.sum())} transactions from there on"
    )


def _valid(header: NDArray[np.uint32], heads: NDArray[np.uint32], words: NDArray[np.uint32]) -> int:
    """The number of valid frames before the first that is not.

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
            return at
    return len(heads)


def _sums(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The two checksums of each row, begun with zeros: ``[rows, 2]``.

    SQLite takes words in pairs: ``first += word + second; second += next word + first``, modulo 2³². So a word with n
    words behind it counts F(n) times in the first sum and F(n + 1) times in the second. F are the Fibonacci numbers.
    """
    fibonacci = np.array(_fibonacci(words.shape[1] + 1)[::-1], np.uint32)
    return np.stack([words @ fibonacci[1:], words @ fibonacci[:-1]], axis=1)


def _after(number: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """How often the two sums so far count in the two after so many more words."""
    *_, before, last, next_one = _fibonacci(number + 2)
    return (before, last), (last, next_one)


def _fibonacci(number: int) -> list[int]:
    """The first Fibonacci numbers modulo 2³², from 0."""
    found = [0, 1]
    while len(found) < number:
        found.append((found[-1] + found[-2]) & 0xFFFFFFFF)
    return found[:number]
