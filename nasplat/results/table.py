"""The trials of a run as a table: CSV, Parquet, or a data frame of pandas."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias

from nasplat.errors import InputError, printable
from nasplat.results.extras import needed
from nasplat.results.trials import Trial
from nasplat.run.directory import RunDirectory
from nasplat.run.history import History
from nasplat.storage.files import appearing, refusal
from nasplat.units import shown_metrics

if TYPE_CHECKING:
    import pandas

Kind: TypeAlias = Literal["text", "integer", "number", "flag", "time"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What the text of a cell begins with that a spreadsheet takes for a formula."""
LARGEST = 2**63 - 1
"""The largest integer that Parquet and pandas store."""
FORMATS = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Args:
        name: Unique in the table.
        kind: The type of all values.
        values: One for each trial; None where there is none.
    """

    name: str
    kind: Kind
    values: Sequence[Any]


def columns_of(history: History) -> list[Column]:
    """The trials of a run by number, a column for each of their properties.

    The columns are ``trial``, ``code``, one for each gene, ``status`` (``measured``, ``cached`` or ``failed``),
    ``failure`` (its kind), ``fidelity``, ``replicate``, ``seed``, ``split``, one for each metric, ``test_METRIC`` where
    trials were measured on test data, ``seconds``, ``images``, ``device``, ``worker``, ``started``, ``finished``,
    ``cached_from`` and ``on_front``. A gene or a metric with the name of an earlier column gets an underscore after it.
    """
    space = history.run.space
    found = (Trial.of(outcome, space) for outcome in history.outcomes)
    trials = sorted((trial for trial in found if trial is not None), key=lambda trial: trial.number)
    front = {member.id for member in history.front}
    tested = {number: final.metrics for number, final in history.tested.items()}
    shown = shown_metrics(history.run.config.goal, history.measured)
    metrics = _united(shown, (trial.metrics for trial in trials))
    final_metrics = _united(shown, tested.values())

    columns: dict[str, Column] = {}

    def add(name: str, kind: Kind, values: Sequence[Any]) -> None:
        name = printable(name)
        while name in columns:
            name += "_"
        columns[name] = Column(name, kind, values)

    add("trial", "integer", [trial.number for trial in trials])
    add("code", "text", [trial.code for trial in trials])
    for gene in _united([], (trial.genes for trial in trials)):
        add(gene, "text", [trial.genes.get(gene) for trial in trials])
    add("status", "text", [trial.status for trial in trials])
    add("failure", "text", [trial.failure or None for trial in trials])
    add("fidelity", "integer", [trial.fidelity for trial in trials])
    add("replicate", "integer", [trial.replicate for trial in trials])
    add("seed", "integer", [trial.seed for trial in trials])
    add("split", "text", [trial.split or None for trial in trials])
    for metric in metrics:
        add(metric, "number", [trial.metrics.get(metric) for trial in trials])
    for metric in final_metrics:
        add(f"test_{metric}", "number", [tested.get(trial.number, {}).get(metric) for trial in trials])
    add("seconds", "number", [trial.seconds for trial in trials])
    add("images", "integer", [trial.images for trial in trials])
    add("device", "text", [trial.device or None for trial in trials])
    add("worker", "text", [trial.worker or None for trial in trials])
    add("started", "time", [trial.started for trial in trials])
    add("finished", "time", [trial.finished for trial in trials])
    add("cached_from", "integer", [trial.cached_from for trial in trials])
    add("on_front", "flag", [trial.number in front for trial in trials])
    return [_storable(column) for column in columns.values()]


def dataframe(run: RunDirectory) -> "pandas.DataFrame":
    """The trials of a run as a data frame, with the columns of `columns_of`. Times are in UTC.

    Raises:
        InputError: The extra ``pandas`` is not installed.
    """
    pandas = needed("pandas", "pandas")
    series = {}
    for column in columns_of(run.history()):
        if column.kind == "time":
            series[column.name] = pandas.Series(column.values, dtype="datetime64[us, UTC]")
        elif column.kind == "integer":
            kind = "Int64" if None in column.values else "int64"
            series[column.name] = pandas.Series(column.values, dtype=kind)
        else:
            dtype = {"number": "float64", "flag": "bool", "text": "string"}[column.kind]
            series[column.name] = pandas.Series(column.values, dtype=dtype)
    return pandas.DataFrame(series)


def write_table(run: RunDirectory, path: Path) -> int:
    """Write the trials of a run, completely or not at all; a file that is there is replaced.

    The name says the format: ``.csv`` or ``.parquet``. See `write_csv` for what the cells of CSV hold.

    Returns:
        The number of trials.

    Raises:
        InputError: The name has another ending, the place cannot be written, or Parquet is asked for without the
            extra ``parquet``.
        StorageError: The disk is full.
    """
    if path.suffix not in FORMATS:
        raise InputError(
            f"a table's name must end in {' or '.join(FORMATS)}, but got {path}; choose another --out (out=…)"
        )
    parquet = needed("pyarrow.parquet", "parquet") if path.suffix == ".parquet" else None
    columns = columns_of(run.history())
    try:
        with appearing(path) as file:
            if parquet is not None:
                parquet.write_table(_arrow(columns), file)
            else:
                text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
                write_csv(columns, text)
                text.flush()
                text.detach()  # the file is closed by whoever opened it
    except OSError as error:
        raise refusal(path, "written", error) from error
    return len(columns[0].values)


def write_csv(columns: Sequence[Column], file: TextIO) -> None:
    """Write columns as CSV with a header; cells without a value are empty.

    Numbers have all their digits, so that they are read back unchanged; times are in the form of ISO 8601, in UTC.
    Text that a spreadsheet would run as a formula has an apostrophe before it, since a run may be somebody else's.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_harmless(column.name) for column in columns])
    writer.writerows(_cells(columns))


def _cells(columns: Sequence[Column]) -> Iterator[list[str]]:
    spell = [_SPELT[column.kind] for column in columns]
    for row in zip(*(column.values for column in columns), strict=True):
        yield ["" if value is None else spelt(value) for spelt, value in zip(spell, row, strict=True)]


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _flag(value: bool) -> str:
    return "true" if value else "false"


_SPELT: dict[Kind, Callable[[Any], str]] = {
    "text": _harmless,
    "integer": str,
    "number": repr,
    "flag": _flag,
    "time": datetime.isoformat,
}


def _arrow(columns: Sequence[Column]) -> Any:
    pyarrow = needed("pyarrow", "parquet")
    kinds = {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "flag": pyarrow.bool_(),
        "time": pyarrow.timestamp("us", tz="UTC"),
    }
    return pyarrow.table({column.name: pyarrow.array(column.values, kinds[column.kind]) for column in columns})


def _united(first: Sequence[str], each: Any) -> list[str]:
    """The names that occur in any of the mappings: those of `first` before the others, which keep their order."""
    found = dict.fromkeys(name for names in each for name in names)
    return [name for name in first if name in found] + [name for name in found if name not in first]


def _storable(column: Column) -> Column:
    """The column as it is, or as text if it has an integer that no format stores, which only a foreign log has."""
    if column.kind == "integer" and any(value is not None and value > LARGEST for value in column.values):
        return Column(column.name, "text", [None if value is None else str(value) for value in column.values])
    return column
