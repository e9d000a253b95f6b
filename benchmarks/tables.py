"""Compact tables, which benchmarks read and imports write. The format is gzipped CSV."""

import csv
import gzip
import io
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasplat.benchmark import TableBenchmark
from nasplat.data.csv_table import opened
from nasplat.data.recorded_files import RecordedFiles
from nasplat.errors import InputError, StorageError
from nasplat.search_space import SearchSpace
from nasplat.storage.files import appearing, appearing_folder, is_taken

NAMED = 3
"""Maximum number of wrong values that an error names."""


class FileTables(RecordedFiles, TableBenchmark):
    """A benchmark of tables that are single files, which a run records with their contents."""


def header(path: Path) -> list[str]:
    """The columns of a table.

    Raises:
        InputError: The table cannot be read.
    """
    with opened(path) as (columns, _):
        return columns


def tables_in(folder: Path, marks: Collection[str]) -> tuple[dict[Path, list[str]], list[InputError]]:
    """The tables of a folder that have the given columns, each with all its columns, and the errors of damaged ones.

    Damage matters only if no other file has the needed columns.
    """
    tables: dict[Path, list[str]] = {}
    damaged: list[InputError] = []
    for path in sorted(folder.glob("*.csv.gz")):
        try:
            columns = header(path)
        except InputError as error:
            damaged.append(error)
            continue
        if set(marks) <= set(columns):
            tables[path] = columns
    return tables, damaged


@contextmanager
def importing(source: Path, target: Path, official: str) -> Iterator[None]:
    """Check that a table can be made at its target, before hours of reading; then let the caller make it.

    Args:
        source: The official file or folder.
        target: The table, which must not exist; parent folders are made, and removed again on failure.
        official: A description of the official files.

    Raises:
        InputError: The source is missing, or the target exists, has another ending or cannot be made.
        StorageError: The table could not be written completely.
    """
    if is_taken(target):
        raise InputError(
            f"an import overwrites no file, but {target} exists; move it away, or name another file with --out"
        )
    if not target.name.endswith(".csv.gz"):
        raise InputError(f"the name of a table must end in .csv.gz, but got {target}; name another file with --out")
    if not is_taken(source):
        raise InputError(f"{source} does not exist; name the downloaded file or folder: {official}")
    ready = False
    try:
        with appearing_folder(target.parent):
            with tempfile.NamedTemporaryFile(prefix=f".{target.name}.", dir=target.parent):
                ready = True
            yield
    except OSError as error:
        if ready:
            raise StorageError(
                f"{target} cannot be written: {error}; free space or name another place with --out"
            ) from error
        raise InputError(f"{target} cannot be written: {error}; name another place with --out") from error


def write(path: Path, columns: Collection[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically. Missing values are left empty, and equal contents give equal bytes."""
    with (
        appearing(path) as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class Outliers:
    """Values of a table that its metric cannot have, collected so that one error names their rows.

    Args:
        rule: The range of the values, with its unit.
    """

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._found: list[str] = []
        self._count = 0

    def add(self, row: str, column: str, text: str) -> None:
        """Note a value, the column that it is in, and what identifies its row."""
        self._count += 1
        if self._count <= NAMED:
            self._found.append(f"{column} of {row} is {text}")

    def refuse(self) -> None:
        """Refuse the table if a value was noted.

        Raises:
            ValueError: There are such values; the message names the first few.
        """
        if self._count:
            more = f", and so on in {self._count - NAMED:,} more places" if self._count > NAMED else ""
            raise ValueError(f"{self._rule}, but {', '.join(self._found)}{more}")


def check_published(space: SearchSpace, name: str, shape: Mapping[str, int]) -> None:
    """Refuse a space that does not match the table called `name`: another space, or another outer shape.

    Raises:
        InputError: The space does not match. The message names the given and the expected one.
    """
    if space.name != name:
        raise InputError(f"the benchmark {name} measures the space {name}, but got the space {space.name}")
    given = {option: getattr(space, option, None) for option in shape}
    if given != shape:
        raise InputError(
            f"the networks of the table have {_spelt(shape)}, but the space has {_spelt(given)}; leave the space's "
            "options out, or train with the benchmark classification"
        )


def _spelt(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
