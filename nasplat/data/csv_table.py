"""Tables of others as CSV, perhaps gzipped, read row by row; incomplete ones are refused."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from nasplat.errors import InputError
from nasplat.storage.files import opened as opened_file

LARGEST = 1_000_000_000
"""Maximum number of characters of a table, several times what all trials of NAS-Bench-101 take."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """The columns of a table and its rows, each as long as the header.

    A file whose name ends in ``.gz`` is unpacked. A byte order mark, which spreadsheets write, is dropped.

    Raises:
        InputError: The table cannot be read, or the caller finds a wrong value.
    """
    try:
        with (
            opened_file(path) as packed,
            gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed as unpacked,
            io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="") as file,
        ):
            rows = csv.reader(_lines(file))
            columns = next(rows, [])
            yield columns, _complete(rows, len(columns))
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
        if isinstance(error, InputError) and str(path) in str(error):  # the caller has said all that there is to say
            raise
        raise InputError(f"{path} is damaged: {error}; replace it with a complete copy") from error


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file. An endless line, as from decompressed zeros, comes in pieces that csv refuses.

    Raises:
        ValueError: The file is larger than `LARGEST`.
    """
    size = 0
    while line := file.readline(csv.field_size_limit() + 2):
        size += len(line)
        if size > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST:,} characters, which no table has")
        yield line


def _complete(rows: Any, length: int) -> Iterator[list[str]]:
    for row in filter(None, rows):
        if len(row) != length:
            raise ValueError(f"line {rows.line_num} has {len(row)} of {length} cells")
        yield row
