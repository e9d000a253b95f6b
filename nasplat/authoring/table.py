"""A table of somebody's measurements as a search space and a benchmark."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.cost import Cost
from nasplat.data.csv_table import opened
from nasplat.data.recorded_files import RecordedFiles
from nasplat.errors import InputError, TrialFailed, unknown
from nasplat.metric import Metric
from nasplat.search_space import Gene, GeneSpace
from nasplat.task import Evaluate, Measurement

if TYPE_CHECKING:
    from torch import nn

Columns: TypeAlias = Sequence[str] | Mapping[str, str | tuple[str, float]]
"""Metrics with their columns: names that are columns, or columns by name, perhaps with a factor."""

MOST_CHOICES = 36
"""Maximum number of values of a column that becomes a gene without being named."""
PURPOSE = "table"
FULL = 1
"""The fidelity of a table without a column for it."""


class TableSpace(GeneSpace):
    """The combinations of the columns of a table; `table` makes the subclass of a file.

    Its networks are unknown: it has no costs, and nothing can be built.
    """

    builds: ClassVar[bool] = False

    def chosen(self, architecture: Architecture) -> Mapping[str, Any]:
        """The value of every gene by its name; numbers as numbers."""
        return {
            gene: text if math.isnan(_number(text)) else (int(text) if text.lstrip("-").isdigit() else float(text))
            for gene, text in super().chosen(architecture).items()
        }

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        return Cost(counted=False)

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        raise InputError(
            f"the networks of {self.name} are unknown, since the space was made from a table; write a search space "
            "with `build` to train or export its members"
        )


class TableLookup(RecordedFiles):
    """A benchmark that looks metrics up; `table` makes the subclass of a file.

    Args:
        space: The space that was made of the same file.
    """

    trains: ClassVar[bool] = False
    looks_up: ClassVar[bool] = True

    layout: ClassVar["Layout"]
    """What the columns of the file are."""

    @property
    def protocol(self) -> str:
        return f"Looked up in {self.layout.path.name}."

    @property
    def io(self) -> IO:
        return self.space.reference_io

    @property
    def fidelity(self) -> int:
        return self._contents.fidelities[-1]

    @property
    def fidelities(self) -> Sequence[int]:
        return self._contents.fidelities

    def files(self) -> dict[str, Path]:
        return {PURPOSE: self.layout.path}

    def check(self) -> None:
        if self.space.name != self.layout.name or not isinstance(self.space, GeneSpace):
            raise InputError(
                f"the table {self.layout.path} measures the search space that was made with it, {self.layout.name}, "
                f"but got {self.space.name}; search both results of `table` together"
            )
        self.check_files()
        if self._contents.genes != self.space.genes:
            raise InputError(
                f"the genes of {self.space.name} are not those of {self.layout.path}, which has changed since; make "
                "the space again"
            )

    def data_notes(self) -> Sequence[str]:
        left_out = self._contents.left_out
        if not left_out:
            return ()
        of = math.prod(len(gene.choices) for gene in self._contents.genes)
        return [
            f"{left_out} rows of {self.layout.path.name} with an empty cell are left out; it has "
            f"{len(self._contents.rows):,} of {of:,} combinations"
        ]

    def prepare(self) -> None:
        _ = self._contents

    def feasible(self, architecture: Architecture) -> bool:
        return architecture.code in self._contents.rows

    @cached_property
    def _contents(self) -> "_Contents":
        return _read(self.layout)

    @cached_property
    def _members(self) -> list[Architecture] | None:
        assert isinstance(self.space, GeneSpace)
        if len(self._contents.rows) == math.prod(len(gene.choices) for gene in self.space.genes):
            return None
        return [Architecture(self.space.name, code) for code in sorted(self._contents.rows)]

    @property
    def enumerable_members(self) -> Sequence[Architecture] | None:
        return self._members

    def analytic_metrics(self, architecture: Architecture) -> Mapping[str, float]:
        if not self.layout.costs:
            return {}
        rows = self._contents.rows.get(architecture.code)
        if rows is None:
            return dict.fromkeys(self.layout.costs, math.nan)
        return {name: rows[self.fidelity][0][column] for name, (column, _) in self.layout.costs.items()}

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(task=task, metrics=self._found(task, self.layout.metrics))

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        if not self.layout.test:
            raise InputError(
                f"the table {self.layout.path} has no test metrics; name their columns: "
                f"table(…, test={{{next(iter(self.metrics))!r}: …}})"
            )
        metrics = self._found(measurement.task, self.layout.test)
        return Measurement(task=measurement.task, metrics=metrics, split="test")

    def _found(self, task: Evaluate, columns: "Mapping[str, _Column]") -> dict[str, float]:
        """The values of a task, of the row of its replicate."""
        if task.fidelity not in self.fidelities or task.weights is not None:
            has = ", ".join(map(str, self.fidelities))
            raise TrialFailed(
                "no such fidelity", f"the table has the fidelities {has}, but is asked for {task.fidelity}"
            )
        if not self.feasible(task.architecture):
            raise TrialFailed("not in the table", f"{self.layout.path} has no row of {task.architecture}")
        rows = self._contents.rows[task.architecture.code][task.fidelity]
        row = rows[task.replicate % len(rows)]
        return {name: row[column] for name, (column, _) in columns.items()}


def table(
    path: str | Path,
    *,
    metrics: Columns,
    genes: Sequence[str] | None = None,
    costs: Columns = (),
    test: Columns = (),
    fidelity: str | None = None,
    name: str | None = None,
) -> tuple[TableSpace, type[TableLookup]]:
    """The search space and the benchmark of a table: a CSV file with a row for each network that was measured.

    >>> space, benchmark = table(
    ...     "results.csv",
    ...     genes=["depth", "width", "kernel"],
    ...     metrics={"accuracy": ("val_acc_percent", 0.01)},
    ...     costs=["params"],
    ... )  # doctest: +SKIP

    The space has a gene for each column of `genes`, whose choices are its values, and every combination as a member.
    If the table has only some of the combinations, a search stays among those. Rows in which a gene, metric or cost is
    empty are left out, and so are combinations that lack one of the fidelities. Several rows of one combination are
    its replicates, in the order of the file.

    A run records the contents of the file. It is read by each process that measures.

    Args:
        path: A CSV file with a header, perhaps gzipped (``.csv.gz``).
        metrics: What is measured: names of columns, or columns by the name of the metric; ``(column, factor)``
            multiplies the values, such as .01 for percent. An ``accuracy`` is a fraction.
        genes: The columns that are decisions; by default all that have no other purpose and more than one value.
        costs: Metrics that are known without a measurement, such as ``params`` and ``macs``, like `metrics`.
        test: The metrics of the test split, for a final measurement: a column for each of `metrics`.
        fidelity: The column with the number of epochs, if networks were measured after several.
        name: The name of the search space; by default that of the file.

    Raises:
        InputError: The file cannot be read, or lacks a column; a column cannot be a gene; or a value is no number, or
            one that its metric cannot have.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise InputError(f"there is no table at {file}; give the path of a CSV file")
    layout = Layout(
        path=file,
        name=name or file.name.partition(".")[0],
        genes=None if genes is None else tuple(genes),
        metrics=_columns(metrics),
        costs=_columns(costs),
        test=_columns(test),
        fidelity=fidelity,
    )
    if not layout.metrics or (layout.test and layout.test.keys() != layout.metrics.keys()):
        raise InputError(
            f"a table must have at least one metric, and a test column for all or none of them, but got the metrics "
            f"{', '.join(layout.metrics) or 'none'} and test columns for {', '.join(layout.test) or 'none'}"
        )
    contents = _read(layout)
    # As with named tuples, the classes belong to the module that made them, where a configuration finds them.
    about: dict[str, Any] = {"__module__": sys._getframe(1).f_globals.get("__name__", "__main__")}
    described = f"The combinations in {file.name}."
    space = type("Table", (TableSpace,), about | {"__doc__": described, "name": layout.name, "genes": contents.genes})
    described = f"The metrics in {file.name}."
    benchmark = type(
        "Lookup", (TableLookup,), about | {"__doc__": described, "metrics": tuple(layout.metrics), "layout": layout}
    )
    assert issubclass(space, TableSpace) and issubclass(benchmark, TableLookup)
    return space(), benchmark


_Column: TypeAlias = tuple[str, float]
"""A column and the factor of its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the columns of a table are.

    Args:
        path: The file.
        name: The name of the search space.
        genes: The columns that are genes; None for all others.
        metrics: Column and factor of each metric.
        costs: Column and factor of each cost.
        test: Column and factor of each metric of the test split.
        fidelity: The column of the epochs, or None.
    """

    path: Path
    name: str
    genes: tuple[str, ...] | None
    metrics: Mapping[str, _Column]
    costs: Mapping[str, _Column]
    test: Mapping[str, _Column]
    fidelity: str | None

    @property
    def factors(self) -> dict[str, float]:
        """The factor of each column of numbers."""
        return dict(column for each in (self.metrics, self.costs, self.test) for column in each.values())


@dataclass(frozen=True, slots=True)
class _Contents:
    """The genes of a table, its fidelities in rising order, and the values of its rows by code and fidelity.

    `left_out` is the number of rows with an empty cell.
    """

    genes: tuple[Gene, ...]
    fidelities: tuple[int, ...]
    rows: Mapping[str, Mapping[int, Sequence[Mapping[str, float]]]]
    left_out: int


@dataclass(slots=True)
class _Row:
    """One row: the texts of its genes, its fidelity, its numbers by column, and its line in the file."""

    texts: list[str]
    fidelity: int
    values: dict[str, float] = field(default_factory=dict)


def _columns(given: Columns) -> dict[str, _Column]:
    if isinstance(given, str):
        given = [given]
    pairs = given.items() if isinstance(given, Mapping) else [(each, each) for each in given]
    found = {
        name: (column, 1.0) if isinstance(column, str) else (column[0], float(column[1])) for name, column in pairs
    }
    for name in found:
        if not name.isidentifier():
            raise InputError(
                f"the name of a metric must be letters, digits and underscores, but got {name!r}; give the column "
                "another name: {'accuracy': 'the column'}"
            )
    return found


def _read(layout: Layout) -> _Contents:
    """The contents of a file; of rows that are not complete, nothing."""
    with opened(layout.path) as (header, lines):
        columns = [column.strip() for column in header]
        _check_columns(layout, columns)
        others = {*layout.factors, layout.fidelity}
        genes = [column for column in columns if column not in others] if layout.genes is None else list(layout.genes)
        place = {column: columns.index(column) for column in columns}
        rows, left_out = [], 0
        for number, cells in enumerate(lines, 1):
            texts = [cells[place[gene]].strip() for gene in genes]
            row = _Row(texts, _epochs(layout, cells, place, number))
            for column, factor in layout.factors.items():
                row.values[column] = factor * _value(layout, column, cells[place[column]].strip(), number)
            if all(texts) and not any(map(math.isnan, row.values.values())):
                _check_values(layout, row, number)
                rows.append(row)
            else:
                left_out += 1
    if not rows:
        _refuse(layout, "has no row in which genes, metrics and costs are all given")
    made = {
        gene: choices
        for index, gene in enumerate(genes)
        if (choices := _choices(layout, gene, {row.texts[index] for row in rows})) is not None
    }
    if not made:
        _refuse(layout, "has no column for a gene: one with several values that is no metric, cost or fidelity")
    kept = [index for index, gene in enumerate(genes) if gene in made]
    found = tuple(Gene(gene, tuple(dict.fromkeys(choices.values()))) for gene, choices in made.items())
    symbols = [
        {text: gene.symbols[gene.choices.index(choice)] for text, choice in made[gene.name].items()} for gene in found
    ]
    by_code: dict[str, dict[int, list[dict[str, float]]]] = {}
    for row in rows:
        code = "".join(symbols[gene][row.texts[index]] for gene, index in enumerate(kept))
        by_code.setdefault(code, {}).setdefault(row.fidelity, []).append(row.values)
    fidelities = tuple(sorted({row.fidelity for row in rows}))
    whole = {code: of for code, of in by_code.items() if len(of) == len(fidelities)}
    if not whole:
        _refuse(layout, f"has no combination with all of the fidelities {', '.join(map(str, fidelities))}")
    return _Contents(found, fidelities, whole, left_out)


def _choices(layout: Layout, gene: str, texts: set[str]) -> dict[str, str] | None:
    """The choice of each text in a gene's column, in order; None for a column that is constant and was not named.

    Numbers are in rising order and spelt alike, so that ``16`` and ``16.0`` are one choice.
    """
    numbers = {text: _number(text) for text in texts}
    if not any(map(math.isnan, numbers.values())):
        choices = {text: f"{numbers[text]:.15g}" for text in sorted(texts, key=lambda text: (numbers[text], text))}
    else:
        choices = {text: text for text in sorted(texts)}
    number = len(set(choices.values()))
    if number == 1 and layout.genes is None:
        return None
    if number > MOST_CHOICES and layout.genes is None:
        _refuse(
            layout,
            f"has {number:,} values in the column {gene!r}, which would be a gene; if it is none, name the genes: "
            "table(…, genes=[…])",
        )
    return choices


def _epochs(layout: Layout, cells: Sequence[str], place: Mapping[str, int], number: int) -> int:
    if layout.fidelity is None:
        return FULL
    text = cells[place[layout.fidelity]].strip()
    value = _number(text)
    if not (value >= 1 and value.is_integer()):
        _refuse(layout, f"must have whole numbers of epochs in {layout.fidelity!r}, but row {number} has {text!r}")
    return int(value)


def _value(layout: Layout, column: str, text: str, number: int) -> float:
    """A number; NaN for an empty cell."""
    value = _number(text)
    if math.isnan(value) and text.lower() not in ("", "nan", "na", "none", "null"):
        _refuse(layout, f"must have numbers in the column {column!r}, but row {number} has {text!r}")
    if math.isinf(value):
        _refuse(layout, f"must have finite numbers in the column {column!r}, but row {number} has {text!r}")
    return value


def _check_values(layout: Layout, row: _Row, number: int) -> None:
    for name, (column, factor) in [*layout.metrics.items(), *layout.test.items()]:
        metric = Metric.known(name)
        if metric is not None:
            try:
                metric.check(row.values[column])
            except InputError as error:
                hint = "" if factor != 1 else f", or give a factor: {{{name!r}: ({column!r}, 0.01)}}"
                _refuse(layout, f"has in row {number} what is no {name}: {error}{hint}")


def _check_columns(layout: Layout, columns: Sequence[str]) -> None:
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        _refuse(layout, f"has two columns called {twice[0]!r}")
    wanted = [*layout.factors, *(layout.genes or ()), *([layout.fidelity] if layout.fidelity else ())]
    for column in wanted:
        if column not in columns:
            raise InputError(f"{layout.path}: {unknown('column', column, columns)}")
        if wanted.count(column) > 1:
            raise InputError(f"a column has one purpose, but {column!r} is given two of them for {layout.path}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _refuse(layout: Layout, why: str) -> NoReturn:
    raise InputError(f"the table {layout.path} {why}")
