"""Training sets for predictors: architectures with scores, from runs and from CSV and JSON files."""

import csv
import gzip
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError, unknown
from nasplat.metric import Metric, parse_metric
from nasplat.options import shortly
from nasplat.predictor import options_of
from nasplat.registry import SEARCH_SPACES
from nasplat.run.directory import RunDirectory
from nasplat.search_space import SearchSpace
from nasplat.storage.files import read_file
from nasplat.surrogates.predictor_store import make_space

CODES = ("architecture", "code", "arch_str")
"""The possible names of the architecture column; the first one that exists is used."""
KINDS = (".csv", ".csv.gz", ".json")
"""File name extensions of files with columns."""
LONGEST = 2000
"""Maximum number of characters of a code or a genotype; the longest that spaces read have about 600."""
LARGEST = 100_000_000
"""Maximum size of an uncompressed file in bytes; a million architectures take a tenth of it."""


@dataclass(frozen=True)
class TrainingSet:
    """Architectures of one space with scores.

    Args:
        space: The space.
        architectures: The architectures, each once.
        scores: The score of each, higher being better, `[n]`.
        metric: The metric of the scores; they are the negated values of one of which lower is better. None if unknown.
        description: The origin, as JSON values: `sources`, the kind, name and digest of each file and run; `metric`, as
            `Metric.as_json`; and `merged`, the number of rows that repeated an architecture and were averaged into its
            score.
    """

    space: SearchSpace
    architectures: tuple[Architecture, ...]
    scores: NDArray[np.float64]
    metric: Metric | None = None
    description: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.architectures)

    @property
    def digest(self) -> str:
        """The SHA-256 of all codes and scores, in hexadecimal digits; their order does not matter."""
        lines = sorted(f"{a}\t{float(s).hex()}\n" for a, s in zip(self.architectures, self.scores, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def __getitem__(self, chosen: NDArray[np.intp]) -> "TrainingSet":
        """Some of the architectures."""
        return replace(self, architectures=tuple(self.architectures[i] for i in chosen), scores=self.scores[chosen])


def read_training_set(
    sources: Sequence[Path], *, space: SearchSpace | None = None, metric: str | None = None, floor: int = 1
) -> TrainingSet:
    """Read a training set from several sources and merge them.

    From a run, it reads the trials at the highest fidelity, without cache hits, and the first objective unless
    `metric` names another. A CSV file (``.csv`` or ``.csv.gz``) has a header. A JSON file (``.json``) has a list of
    objects, or one object of architectures and their scores. The column of architectures is `architecture`, `code` or
    `arch_str`; a value is a code or another form that the space reads, alone or as ``space:code``. `metric` names the
    column of scores; it can be left out if only one column is numeric, or one is called ``accuracy``. An architecture
    that occurs more than once gets the mean of its scores.

    The name of a metric says its direction, its unit and its range (`nasplat.metric`); nothing is converted.

    Args:
        sources: Run directories and files.
        space: The space of the codes; required unless a source is a run, or every architecture is ``space:code``.
        metric: A column or an objective. A column with an unknown name has its direction appended, as in ``top1:max``.
        floor: Minimum number of architectures.

    Raises:
        InputError: A source cannot be read, is empty, or breaks a rule; the message says which source and where.
        RunError: A run is damaged.
    """
    if not sources:
        raise InputError("at least one source of scores is needed: a run directory or a .csv, .csv.gz or .json file")
    wanted = None if metric is None else parse_metric(metric)
    read = _Reading(space, wanted)
    for source in sources:
        if os.path.isdir(source):  # noqa: PTH112  a name that cannot be is no folder
            read.run(source)
        else:
            read.file(source)
    return read.scores(sources, floor)


def member(space: SearchSpace, text: str) -> Architecture:
    """Parse the name of an architecture: a code, another form that the space reads, or ``space:code``.

    Raises:
        InputError: It is not a member of the space; the message is short for any input.
    """
    if len(text) > LONGEST:
        raise InputError(f"an architecture must have at most {LONGEST} characters, but got {len(text)}")
    if not text.isprintable():
        raise InputError(f"an architecture must have only printable characters, but got {shortly(text)}")
    name, colon, code = text.partition(":")
    if colon and name == space.name:
        text = code
    elif colon and name in SEARCH_SPACES.names():
        raise InputError(f"{shortly(text)} is of the space {name}, not of {space.name}")
    try:
        return space.parse(text)
    except InputError as error:
        raise InputError(str(error).replace(repr(text), shortly(text))) from None


def read_names(path: Path) -> list[tuple[str, str]]:
    """Read the names of the architectures in a file, not parsed, each with its position in the file.

    A ``.csv``, ``.csv.gz`` or ``.json`` file has a column of them as in `read_training_set`; any other file has one
    name per line.

    Raises:
        InputError: The file cannot be read, or has no such column.
    """
    if path.name.endswith(KINDS):
        columns, rows, _ = _rows(path)
        code = _code_column(path, columns)
        return [(place, row[code] if isinstance(row[code], str) else str(row[code])) for place, row in rows]
    text, _ = _text(path)
    lines = enumerate(text.splitlines(), 1)
    return [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]


class _Reading:
    """The data read so far."""

    def __init__(self, space: SearchSpace | None, wanted: tuple[str, bool | None] | None) -> None:
        self.space = space
        self.wanted = wanted
        self.metric: Metric | None = None
        self.found: dict[Architecture, list[float]] = {}
        self.sources: list[dict[str, Any]] = []

    def run(self, folder: Path) -> None:
        """Read the measured trials of a run."""
        run = RunDirectory(folder)
        config = run.config
        self._agree(make_space(config.space.name, config.space.options), folder)
        objectives = {objective.metric: objective for objective in config.goal.objectives}
        name, maximize = self.wanted or (config.goal.objectives[0].metric, None)
        if name not in objectives:
            raise InputError(f"{folder}: {unknown('objective', name, objectives)}")
        if maximize not in (None, objectives[name].maximize):
            raise InputError(
                f"{folder} has the objective {objectives[name]}, not {':'.join((name, 'max' if maximize else 'min'))}"
            )
        self._measure(Metric.sought(name, objectives[name].maximize), folder)
        history = run.history()
        highest = max(history.fidelities, default=0)
        digest = hashlib.sha256()
        for measurement in history.measured:
            if measurement.task.fidelity == highest:
                place = f"{folder}, trial {measurement.id}"
                code, value = measurement.architecture.code, measurement.metrics[name]
                digest.update(f"{measurement.id}\t{code}\t{float(value).hex()}\n".encode())
                self._add(code, value, place)
        source = {"kind": "run", "name": _last(folder), "log": run.identity, "sha256": digest.hexdigest()}
        self.sources.append(source)

    def file(self, path: Path) -> None:
        """Read the rows of a CSV or JSON file."""
        columns, rows, digest = _rows(path)
        code = _code_column(path, columns)
        name, maximize = self.wanted or (_score_column(path, columns, rows, code), None)
        if name not in columns and columns != [code, ""]:
            raise InputError(f"{path}: {unknown('column', name, columns)}")
        try:
            self._measure(Metric.of(name, maximize), path)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        column = name if name in columns else ""
        for place, row in rows:
            if not isinstance(row[code], str):
                raise InputError(f"{place}: an architecture must be text, but {code} is {shortly(row[code])}")
            self._add(row[code], row[column], place)
        self.sources.append({"kind": "file", "name": _last(path), "sha256": digest})

    def scores(self, sources: Sequence[Path], floor: int) -> TrainingSet:
        """The training set of all data."""
        named = ", ".join(map(str, sources))
        if self.space is None or self.metric is None or len(self.found) < floor:
            raise InputError(f"{named}: at least {max(floor, 1)} architectures are needed, but got {len(self.found)}")
        description = {
            "sources": self.sources,
            "metric": self.metric.as_json(),
            "merged": sum(map(len, self.found.values())) - len(self.found),
        }
        means = np.array([self.metric.sign * math.fsum(values) / len(values) for values in self.found.values()])
        return TrainingSet(self.space, tuple(self.found), means, self.metric, description)

    def _agree(self, space: SearchSpace, place: Path | str) -> None:
        """Set the space, or check that it is the same as before."""
        if self.space is None:
            self.space = space
        if (space.name, options_of(space)) != (self.space.name, options_of(self.space)):
            raise InputError(
                f"all architectures must be of one space, but {place} is of {_spelt(space)} and not of "
                f"{_spelt(self.space)}"
            )

    def _measure(self, metric: Metric, place: Path) -> None:
        """Set the metric, or check that it is the same as before."""
        if self.metric is None:
            self.metric = metric
        if metric != self.metric:
            raise InputError(
                f"all scores must be of one metric, but {place} has {metric} and earlier sources have "
                f"{self.metric}; name a metric that all have"
            )

    def _add(self, text: str, score: Any, place: str) -> None:
        """Add one score."""
        if self.space is None:
            name, colon, _ = text.partition(":")
            if not colon or name not in SEARCH_SPACES.names():
                raise InputError(
                    f"{place}: the space of {shortly(text)} is unknown; name the space, or write space:code"
                )
            self.space = make_space(name)
        try:
            architecture = member(self.space, text)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        value = _number(score)
        if value is None or not math.isfinite(value):
            raise InputError(f"{place}: a score must be a finite number, but got {shortly(score)}")
        if self.metric is not None:
            try:
                self.metric.check(value)
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
        self.found.setdefault(architecture, []).append(value)


def _number(value: Any) -> float | None:
    """The number in a cell; None if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or "_" in str(value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _code_column(path: Path, columns: Sequence[str]) -> str:
    """The column of architectures."""
    code = next((name for name in CODES if name in columns), None)
    if code is None:
        raise InputError(
            f"{path} has no column of architectures, called {', '.join(CODES[:-1])} or {CODES[-1]}; "
            f"it has {shortly(', '.join(columns))}"
        )
    return code


def _score_column(path: Path, columns: Sequence[str], rows: Sequence[tuple[str, dict[str, Any]]], code: str) -> str:
    """The column of scores, if `metric` does not name it."""
    others = [name for name in columns if name != code]
    numeric = [name for name in others if rows and all(_number(row[name]) is not None for _, row in rows)]
    if "accuracy" in others:
        return "accuracy"
    if len(others) == 1:
        return others[0] or "score"
    if len(numeric) == 1:
        return numeric[0]
    raise InputError(f"{path} has several columns that may be scores, {shortly(numeric or others)}; name one of them")


def _last(path: Path) -> str:
    """The last part of a path, without those above it, which are of one machine."""
    return path.name or path.resolve().name


def _rows(path: Path) -> tuple[list[str], list[tuple[str, dict[str, Any]]], str]:
    """The columns of a file, its rows, each with its position for messages, and the SHA-256 of the file."""
    if not path.name.endswith(KINDS):
        missing = "" if os.path.lexists(path) else ", and does not exist"
        raise InputError(
            f"a source must be a run directory or a .csv, .csv.gz or .json file, but {path} is neither{missing}"
        )
    text, digest = _text(path)
    try:
        columns, rows = _json_rows(path, text) if path.name.endswith(".json") else _csv_rows(path, text)
        return columns, rows, digest
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error


def _text(path: Path) -> tuple[str, str]:
    """The text of a file, decompressed and decoded, and the SHA-256 of the file."""
    try:
        data = read_file(path)
        digest = hashlib.sha256(data).hexdigest()
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(LARGEST + 1)
        if len(data) <= LARGEST:
            return data.decode("utf-8-sig"), digest
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    raise InputError(f"{path} has more than {LARGEST:,} bytes, which is too many for a file of architectures")


def _csv_rows(path: Path, text: str) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[str, dict[str, Any]]] = []
    columns: list[str] = []
    try:
        for cells in lines:
            place = f"{path}, line {lines.line_num}"
            if not cells:
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                if not columns[0] and all(columns[1:]):
                    raise InputError(
                        f"{place}: the first column has no name, as the index that pandas writes; remove it, or write "
                        "the file with to_csv(…, index=False)"
                    )
                if len(set(columns)) < len(columns) or "" in columns:
                    raise InputError(f"{place}: all columns must have different names, but got {shortly(columns)}")
            elif len(cells) != len(columns):
                raise InputError(f"{place}: there are {len(columns)} columns, but this row has {len(cells)}")
            else:
                rows.append((place, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}))
    except csv.Error as error:
        raise InputError(f"{path}, line {lines.line_num}: {error}") from error
    return columns, rows


def _json_rows(path: Path, text: str) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    """A list of objects; or one object of codes and scores, where the column of scores has no name."""
    tree = json.loads(text, object_pairs_hook=_Pairs)
    match tree:
        case _Pairs():
            rows = [
                (f"{path}, entry {i}", {"architecture": code, "": score}) for i, (code, score) in enumerate(tree, 1)
            ]
            return ["architecture", ""], rows
        case list():
            return _object_rows(path, tree)
    raise InputError(
        f"{path} must contain a list of objects, or an object of codes and scores, but has {shortly(tree)}"
    )


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as pairs, including repeated keys."""


def _object_rows(path: Path, entries: list[Any]) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    rows: list[tuple[str, dict[str, Any]]] = []
    columns: list[str] = []
    for place, entry in _placed(path, entries):
        row = dict(entry)
        if len(row) < len(entry):
            raise InputError(f"{place}: a name occurs twice")
        columns = columns or list(row)
        if set(row) != set(columns):
            raise InputError(
                f"{place}: all entries must have the names {shortly(columns)}, but got {shortly(list(row))}"
            )
        rows.append((place, row))
    return columns, rows


def _placed(path: Path, entries: list[Any]) -> Iterator[tuple[str, _Pairs]]:
    for number, entry in enumerate(entries, 1):
        place = f"{path}, entry {number}"
        if not isinstance(entry, _Pairs):
            raise InputError(
                f"{place}: an entry must be an object with an architecture and a score, but got {shortly(entry)}"
            )
        yield place, entry


def _spelt(space: SearchSpace) -> str:
    options = options_of(space)
    return space.name + (f" with {', '.join(f'{k}={v}' for k, v in options.items())}" if options else "")
