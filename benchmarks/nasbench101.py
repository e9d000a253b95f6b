"""NAS-Bench-101 as a table: the published accuracies of its cells on CIFAR-10 (Ying et al., 2019)."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.benchmark import Series, TableFile
from nasplat.benchmarks import tables
from nasplat.data import csv_table
from nasplat.data.location import data_folder
from nasplat.errors import InputError, TrialFailed
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement, Split

FOLDER = "nasbench101"
SCHEDULES = (4, 12, 36, 108)
CELL = ("hash", "num_vertices", "adj_bits", "ops")
"""The columns that identify the cell of a row."""
PUBLISHED_SHAPE = {"channels": 128, "stacks": 3, "cells": 3}
TRAIN_SECONDS = "train_time_s"
ACCURACY = re.compile(r"(val|test)_acc_(\d+)ep(?:_(mean|repeat(\d+)))?")
CHECKED = 100
"""The number of rows whose hash is computed and compared."""


class _Table(NamedTuple):
    """A table in memory.

    Args:
        members: The cells, in the order of rows.
        rows: The row number of each cell, by its hash.
        values: The metrics, `[rows, columns]`; NaN for an empty table entry.
    """

    members: list[Architecture]
    rows: dict[str, int]
    values: NDArray[np.float64]


class NASBench101Table(tables.FileTables):
    """Accuracy from the table of NAS-Bench-101.

    The table is compact: ``nasbench101/*.csv.gz`` in the data folder.

    The search uses validation accuracies and the final measurement the mean test accuracy. A table without test
    accuracies has no final measurement; a request for one raises an error.
    With ``search_column=test`` the search uses the test column, as the literature does to compare strategies on labels
    with less noise. Measurements then state the split ``test``.

    All training schedules in the table up to `epochs` are fidelities. They are separate trainings: a short one is not
    the beginning of a long one.

    A table may hold only some of the cells. A search then samples and proposes only these cells.

    ``train_seconds`` is the time of 108 epochs of training on the authors' accelerator, scaled in proportion to the
    epochs.

    Args:
        space: The space ``nasbench101``.
        epochs: Which of the four published training schedules is the full measurement.
        search_column: The column that the search uses.
        single_repeat: Whether the search uses the first training run, with its noise, instead of the mean of all runs
            in the table. In a table with one run, the two are equal.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "train_seconds")
    datasets: ClassVar[tuple[str, ...]] = ("cifar10",)
    imported: ClassVar[str] = "official.csv.gz"

    def __init__(
        self,
        space: SearchSpace,
        *,
        epochs: Literal[4, 12, 36, 108] = 108,
        search_column: Literal["validation", "test"] = "validation",
        single_repeat: bool = False,
    ) -> None:
        super().__init__(space)
        self.epochs = epochs
        self.search_column = search_column
        self.single_repeat = single_repeat
        self._table: _Table | None = None
        self._columns: list[str] = []
        self._key = lru_cache(maxsize=65536)(space.canonical_key)

    @property
    def io(self) -> IO:
        return IO.image(channels=3, side=32, outputs=10)

    @property
    def fidelity(self) -> int:
        return self.epochs

    @property
    def fidelities(self) -> Sequence[int]:
        self.prepare()
        return [epochs for epochs in SCHEDULES if epochs <= self.epochs and self._searched(epochs, self._columns)]

    @property
    def enumerable_members(self) -> Sequence[Architecture]:
        table = self._prepared()
        return [table.members[row] for row in np.flatnonzero(~np.isnan(table.values[:, self._place(self.epochs)]))]

    def files(self) -> dict[str, Path]:
        path, _ = self._find()
        return {"table": path}

    def check(self) -> None:
        tables.check_published(self.space, "nasbench101", PUBLISHED_SHAPE)
        self.check_files()
        if not self.enumerable_members:
            raise InputError(f"the table has no {self.search_column} accuracies after {self.epochs} epochs")

    def prepare(self) -> None:
        self._prepared()

    def feasible(self, architecture: Architecture) -> bool:
        self.prepare()
        return not np.isnan(self._value(architecture, self._searched(self.epochs, self._columns)))

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        self.prepare()
        column = self._searched(task.fidelity, self._columns)
        if column is None:
            held = ", ".join(str(epochs) for epochs in SCHEDULES if self._searched(epochs, self._columns))
            raise TrialFailed(
                "no such fidelity",
                f"the table has {self.search_column} accuracies after {held} epochs, but {task.fidelity} were asked "
                "for",
            )
        metrics = self._look_up(task, column)
        if np.isnan(metrics["accuracy"]):
            raise TrialFailed("not in table", f"the table has no {column} of {task.architecture}")
        return Measurement(task=task, metrics=metrics, split=self.search_column)

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        task = measurement.task
        self.prepare()
        column = _column("test", task.fidelity, self._columns)
        if column is None:
            raise InputError(
                f"the table has no test accuracies after {task.fidelity} epochs; make a table that has them from the "
                "official file: nasplat benchmark import nasbench101 FILE"
            )
        metrics = self._look_up(task, column)
        if np.isnan(metrics["accuracy"]):
            raise InputError(f"the table has no {column} of {task.architecture}")
        return Measurement(task=task, metrics=metrics, split="test")

    @classmethod
    def folder(cls) -> Path:
        return data_folder() / FOLDER

    @classmethod
    def convert(cls, source: Path, target: Path, progress: Callable[[int, int], None]) -> TableFile:
        from nasplat.benchmarks.nasbench101_official import convert

        convert(source, target, _space(), progress)
        return _describe(target)

    @classmethod
    def tables(cls) -> list[TableFile]:
        return [_describe(path) for path in sorted(cls.folder().glob("*.csv.gz"))]

    def _searched(self, epochs: int, columns: Sequence[str]) -> str | None:
        """The column that the search uses at a number of epochs, if there is one."""
        split: Literal["val", "test"] = "val" if self.search_column == "validation" else "test"
        return _column(split, epochs, columns, single=self.single_repeat)

    def _prepared(self) -> _Table:
        if self._table is None:
            path, columns = self._find()
            self._columns = [name for name in columns if ACCURACY.fullmatch(name) or name == TRAIN_SECONDS]
            self._table = _read(path, self._columns, self.space)
        return self._table

    def _place(self, epochs: int) -> int:
        column = self._searched(epochs, self._columns)
        assert column is not None, "a table without it is refused when it is looked for"
        return self._columns.index(column)

    def _value(self, architecture: Architecture, column: str | None) -> float:
        """A metric, or NaN if there is none."""
        table = self._prepared()
        row = table.rows.get(self._key(architecture))
        if row is None or column is None:
            return float("nan")
        return float(table.values[row, self._columns.index(column)])

    def _look_up(self, task: Evaluate, column: str) -> dict[str, float]:
        seconds = self._value(task.architecture, TRAIN_SECONDS) * task.fidelity / SCHEDULES[-1]
        return {"accuracy": self._value(task.architecture, column), "train_seconds": seconds}

    def _find(self) -> tuple[Path, list[str]]:
        """The table for the search, and all its columns. A table with test accuracies is preferred."""
        folder = self.folder()
        found, damaged = tables.tables_in(folder, CELL)
        usable = {
            path: columns
            for path, columns in found.items()
            if self._searched(self.epochs, columns) and TRAIN_SECONDS in columns
        }
        for path, columns in usable.items():
            if _column("test", self.epochs, columns):
                return path, columns
        if usable:
            return next(iter(usable.items()))
        if damaged:
            raise damaged[0]
        if not found:
            raise InputError(
                f"{folder} has no table of NAS-Bench-101 (*.csv.gz with the columns {', '.join(CELL)}); put one there, "
                "make one from the official file with nasplat benchmark import nasbench101 FILE, or set the "
                f"environment variable NASPLAT_DATA to the folder that contains {FOLDER}"
            )
        path, columns = next(iter(found.items()))
        raise InputError(
            f"{path} has no {self.search_column} accuracies after {self.epochs} epochs, or no column {TRAIN_SECONDS}; "
            f"it has {', '.join(columns)}"
        )


def _space() -> SearchSpace:
    return SEARCH_SPACES.get("nasbench101")()


def _column(split: Literal["val", "test"], epochs: int, columns: Sequence[str], *, single: bool = False) -> str | None:
    """The column with the requested accuracy, if any. A column without a repeat number holds a single repeat."""
    name = f"{split}_acc_{epochs}ep"
    return next((each for each in (f"{name}_repeat0" if single else f"{name}_mean", name) if each in columns), None)


def _read(path: Path, wanted: Sequence[str], space: SearchSpace) -> _Table:
    """The cells of a table and the requested columns.

    Raises:
        InputError: The table is damaged.
    """
    members: list[Architecture] = []
    found: dict[str, int] = {}
    values: list[NDArray[np.float64]] = []
    wrong = tables.Outliers("an accuracy must be a fraction of 0 to 1")
    with csv_table.opened(path) as (columns, rows):
        key, vertices, bits, ops = map(columns.index, CELL)
        places = [columns.index(column) for column in wanted]
        accuracies = [place for place, column in zip(places, wanted, strict=True) if ACCURACY.fullmatch(column)]
        for row in rows:
            member = space.parse(f"{int(row[bits]):06x}:{row[ops][1:]}")
            if row[ops][:1] != "o" or int(row[vertices]) != len(row[ops]) + 1:
                raise ValueError(f"{row[key]} has {row[vertices]} vertices, but the operations {row[ops]}")
            if found.setdefault(row[key], len(members)) != len(members):
                raise ValueError(f"the hash {row[key]} occurs twice")
            members.append(member)
            values.append(np.array([row[place] or "nan" for place in places], dtype=np.float64))
            for place in accuracies:
                if row[place] and not 0 <= float(row[place]) <= 1:
                    wrong.add(row[key], columns[place], row[place])
        wrong.refuse()
        hashes = list(found)
        for i in range(0, len(members), max(1, len(members) // CHECKED)):
            if space.canonical_key(members[i]) != hashes[i]:
                raise ValueError(f"{hashes[i]} is not the hash of {members[i]}")
    return _Table(members, found, np.array(values).reshape(len(members), len(wanted)))


def _describe(path: Path) -> TableFile:
    """The contents of a file, or the reason why it has none."""
    try:
        columns = tables.header(path)
        if not set(CELL) <= set(columns):
            return TableFile(
                path=path, problem=f"it is not a table of accuracies: one of the columns {', '.join(CELL)} is missing"
            )
        wanted = [column for column in columns if ACCURACY.fullmatch(column)]
        table = _read(path, wanted, _space())
    except InputError as error:
        return TableFile(path=path, problem=str(error))
    series = [
        each
        for split in ("validation", "test")
        for epochs in SCHEDULES
        if (each := _series(split, epochs, dict(zip(wanted, table.values.T, strict=True)), table.members))
    ]
    return TableFile(
        path=path, rows=len(table.members), series=tuple(series), problem="" if series else "it has no accuracies"
    )


def _series(
    split: Split, epochs: int, values: Mapping[str, NDArray[np.float64]], members: Sequence[Architecture]
) -> Series | None:
    """The columns of one schedule in a table."""
    short: Literal["val", "test"] = "val" if split == "validation" else "test"
    column = _column(short, epochs, list(values))
    if column is None or np.isnan(values[column]).all():
        return None
    best = int(np.nanargmax(values[column]))
    matches = [match for name in values if (match := ACCURACY.fullmatch(name))]
    repeats = [int(match[4]) for match in matches if match[4] and match[1] == short and int(match[2]) == epochs]
    return Series(
        dataset="cifar10",
        split=split,
        epochs=epochs,
        architectures=int((~np.isnan(values[column])).sum()),
        seeds=tuple(sorted(repeats)),
        single_seed=not column.endswith("_mean"),
        best=float(values[column][best]),
        best_code=members[best].code,
    )
