"""NAS-Bench-201 as a table: the published accuracies of all its cells (Dong and Yang, 2020)."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, TextIO

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark
from nasplat.data.location import data_folder
from nasplat.errors import InputError, TrialFailed
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Measurement

FOLDER = "nasbench201"
PREFIXES = {"cifar10": "c10", "cifar100": "c100", "imagenet16-120": "in16"}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet16-120": 120}
SIDES = {"cifar10": 32, "cifar100": 32, "imagenet16-120": 16}
PUBLISHED_SHAPE = {"channels": 16, "cells": 5}
TRAIN_SECONDS = "train_time_12ep_s"


class NASBench201Table(Benchmark):
    """Looks the accuracy of a cell up in the compact table, ``nasbench201/*.csv.gz`` in the data folder.

    The search sees one column and the final measurement another: validation accuracy guides, test accuracy
    is the mean over all trained seeds. ``search_column=test`` lets the test column guide, as the literature
    does when it compares strategies on noise-free labels; measurements then say that they are on ``test``.

    ``train_seconds`` is what training took on one GPU; for most rows the table has an additive estimate of it.

    Args:
        space: The space ``nasbench201``.
        dataset: Whose accuracies.
        epochs: Which of the two published training schedules.
        search_column: What the search sees.
        single_seed: Whether the search sees one training run, with its noise, rather than the mean.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "train_seconds")

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
        self._rows: dict[str, dict[str, float]] = {}

    @property
    def io(self) -> IO:
        return IO.image(channels=3, side=SIDES[self.dataset], outputs=CLASSES[self.dataset])

    @property
    def fidelity(self) -> int:
        return self.epochs

    def check(self) -> None:
        if self.space.name != "nasbench201":
            raise InputError(
                f"the benchmark nasbench201 measures the space nasbench201, but got the space {self.space.name}"
            )
        shape = {name: getattr(self.space, name, None) for name in PUBLISHED_SHAPE}
        if shape != PUBLISHED_SHAPE:
            raise InputError(
                f"the table is of networks with {_spelt(PUBLISHED_SHAPE)}, but the space has {_spelt(shape)}; "
                "leave the space's options out, or train with the benchmark classification"
            )
        self.prepare()
        if not self._rows:
            raise InputError(f"the table of {self.dataset} has no rows")

    def prepare(self) -> None:
        if self._rows:
            return
        path, columns = self._find()
        wanted = {
            "search": self._column(self.search_column),
            "final": f"{PREFIXES[self.dataset]}_test_{self.epochs}",
            "seconds": f"{PREFIXES[self.dataset]}_{TRAIN_SECONDS}",
        }
        missing = [column for column in wanted.values() if column not in columns]
        if missing:
            raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(columns)}")
        try:
            with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
                self._rows = {
                    self.space.parse(row["arch_str"] or "").code: {
                        role: float(row[column]) for role, column in wanted.items() if row[column] != ""
                    }
                    for row in csv.DictReader(_lines(file))
                }
        except (OSError, EOFError, zlib.error, csv.Error, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged: {error}; replace it with a complete copy") from error

    def feasible(self, architecture: Architecture) -> bool:
        self.prepare()
        return "search" in self._rows.get(architecture.code, ())

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(
            task=task,
            metrics=self._look_up(task, "search"),
            split="test" if self.search_column == "test" else "validation",
        )

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        self.prepare()
        try:
            metrics = self._look_up(measurement.task, "final")
        except TrialFailed as error:
            raise InputError(str(error)) from error
        return Measurement(task=measurement.task, metrics=metrics, split="test")

    def _look_up(self, task: Evaluate, role: str) -> dict[str, float]:
        row = self._rows.get(task.architecture.code, {})
        if role not in row:
            raise TrialFailed("not in table", f"the table of {self.dataset} has no {role} value of {task.architecture}")
        if task.fidelity != self.epochs:
            raise TrialFailed(
                "no such fidelity",
                f"the table was opened for {self.epochs} epochs, but {task.fidelity} were asked for",
            )
        # The table gives seconds of the 12-epoch schedule, estimated for most rows; time is proportional to epochs.
        seconds = row.get("seconds", float("nan")) * self.epochs / 12
        return {"accuracy": row[role] / 100, "train_seconds": seconds}

    def _column(self, split: str) -> str:
        short = "valid" if split == "validation" else "test"
        return f"{PREFIXES[self.dataset]}_{short}_{self.epochs}" + "_1seed" * self.single_seed

    def _find(self) -> tuple[Path, list[str]]:
        """The table that has the data set's columns, and all its columns."""
        folder = data_folder() / FOLDER
        tables: dict[Path, list[str]] = {}
        damaged: list[InputError] = []
        for path in sorted(folder.glob("*.csv.gz")):
            try:
                columns = _columns(path)
            except InputError as error:  # it matters only if no other file has the columns
                damaged.append(error)
                continue
            if "arch_str" in columns:
                tables[path] = columns
        prefix = PREFIXES[self.dataset]
        for path, columns in tables.items():
            if any(column.startswith(f"{prefix}_") for column in columns):
                return path, columns
        if damaged:
            raise damaged[0]
        if not tables:
            raise InputError(
                f"no table of NAS-Bench-201 (*.csv.gz with a column arch_str) lies in {folder}; "
                f"put it there, or let the environment variable NASPLAT_DATA name the folder above {FOLDER}"
            )
        present = sorted(
            name
            for name, other in PREFIXES.items()
            if any(column.startswith(f"{other}_") for columns in tables.values() for column in columns)
        )
        raise InputError(
            f"no table in {folder} has {self.dataset} (columns {prefix}_…); there is {', '.join(present) or 'none'}"
        )


def _spelt(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file; one that does not end, as packed zeros unpack to, comes in pieces that csv refuses."""
    return iter(lambda: file.readline(csv.field_size_limit() + 2), "")


def _columns(path: Path) -> list[str]:
    """The header of a table.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            return next(csv.reader(_lines(file)), [])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is damaged: {error}; replace it with a complete copy") from error
