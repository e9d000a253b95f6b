"""Latency tables: files with the latency of networks on a device, by block or by whole network."""

import csv
import hashlib
import io as streams
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import IO, Architecture
from nasplat.block_space import BlockSpace
from nasplat.errors import InputError
from nasplat.latency.conditions import Origin
from nasplat.options import options_model, shortly
from nasplat.search_space import SearchSpace
from nasplat.storage.files import read_file, write_atomically

METRIC = "latency_ms"
TABLE = "latency_table"
"""The purpose under which a run records its table."""
FORMAT = 1
BLOCK_COLUMNS = ("kind", "widths", "latency_ms", "spread_ms")
NETWORK_COLUMNS = ("architecture", "latency_ms")
DIGEST = "digest"
"""The name of the comment with the checksum. Remove this comment when you edit a table on purpose."""
TRIED = 100
"""The number of random architectures whose blocks a table must contain."""
LEAST_MS, MOST_MS, MOST_WIDTH = 1e-6, 1e9, 1e9


@dataclass(frozen=True, slots=True)
class Row:
    """The measurement of one block.

    Args:
        kind: The kind, as in `Block`.
        widths: The widths, as in `Block`.
        latency_ms: The minimum latency.
        spread_ms: The range of the minima of the rounds.
    """

    kind: str
    widths: tuple[int, ...]
    latency_ms: float
    spread_ms: float = 0.0


class LatencyTable(ABC):
    """The latency of the networks of a space, in milliseconds.

    Attributes:
        origin: How the table was measured.
    """

    origin = Origin()

    @abstractmethod
    def latency_ms(self, architecture: Architecture) -> float:
        """The latency of an architecture's network.

        Raises:
            InputError: The table does not have the latency.
        """

    @property
    def listed(self) -> list[Architecture] | None:
        """All architectures in the table, if it is a table of whole networks."""
        return None

    def __contains__(self, architecture: Architecture) -> bool:
        try:
            self.latency_ms(architecture)
        except InputError:
            return False
        return True


class NetworkTable(LatencyTable):
    """A table of the latencies of whole networks.

    Args:
        path: The file, as errors name it.
        latencies: Milliseconds by architecture.
    """

    def __init__(self, path: Path, latencies: Mapping[Architecture, float]) -> None:
        self.path = path
        self.latencies = latencies

    def latency_ms(self, architecture: Architecture) -> float:
        if architecture not in self.latencies:
            raise InputError(f"{self.path} has no row for {architecture}; add one, or take a table of blocks")
        return self.latencies[architecture]

    @property
    def listed(self) -> list[Architecture] | None:
        return list(self.latencies)


class BlockTable(LatencyTable):
    """A table of the latencies of blocks, interpolated over their widths and summed: a + b times the sum.

    Args:
        path: The file, as errors name it.
        rows: The measurements.
        space: The search space of the networks.
        io: The input and output shapes of the data.
        offset_ms: a, the constant overhead of every network.
        scale: b, the ratio of a block's latency in a network to its latency alone.
    """

    def __init__(
        self, path: Path, rows: Iterable[Row], space: BlockSpace, io: IO, *, offset_ms: float = 0.0, scale: float = 1.0
    ) -> None:
        self.path = path
        self.space = space
        self.io = io
        self.offset_ms = offset_ms
        self.scale = scale
        self._surfaces = surfaces(rows)
        self._block_ms = cache(self._interpolated)  # a space has few blocks, which its networks share
        self._latency_ms = lru_cache(maxsize=4096)(self._predicted)

    def latency_ms(self, architecture: Architecture) -> float:
        return self._latency_ms(architecture)

    def _predicted(self, architecture: Architecture) -> float:
        alone = [self._block_ms(block.kind, block.widths) for block in self.space.blocks(architecture, self.io)]
        # No network is faster than its slowest block, even if the line fitted on larger networks predicts it.
        return max(self.offset_ms + self.scale * sum(alone), *alone)

    def _interpolated(self, kind: str, widths: tuple[int, ...]) -> float:
        surface = self._surfaces.get(kind)
        if surface is None:
            raise InputError(
                f"{self.path} has no block of the kind {kind!r}, which networks of {self.space.name} have; "
                "measure it too, or make a table with nasplat benchmark build latency"
            )
        if len(widths) != surface.axes:
            raise InputError(
                f"blocks of the kind {kind!r} have {surface.axes} widths in {self.path}, but {len(widths)} in the space"
            )
        return max(LEAST_MS, surface(widths))


class Surface:
    """Latency as a function of the widths of a block, exact at the measured points.

    The latency of a convolution is about linear in the input channels and in the output channels, since these are
    read, multiplied and written. A multilinear function is fitted. The residuals are interpolated by radial basis
    functions; the kernel is the distance. So points may lie anywhere, on a grid or not. The multilinear function
    extrapolates beyond the points.

    Args:
        widths: The measured points, `[n, axes]`; no two are equal.
        values: The measured latencies, `[n]`.
    """

    def __init__(self, widths: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        self.axes = widths.shape[1]
        self._low = widths.min(axis=0)
        self._span = np.where(np.ptp(widths, axis=0) > 0, np.ptp(widths, axis=0), 1.0)
        self._points = (widths - self._low) / self._span
        basis = np.array([self._products(point) for point in self._points])
        self._trend = np.linalg.lstsq(basis, values, rcond=None)[0]
        n = len(values)
        # The weights sum to 0, so the interpolated residual fades beyond the points instead of growing.
        system = np.ones((n + 1, n + 1))
        system[:n, :n] = np.linalg.norm(self._points[:, None] - self._points, axis=2)
        system[n, n] = 0.0
        *self._weights, self._constant = np.linalg.solve(system, np.append(values - basis @ self._trend, 0.0)).tolist()

    def __call__(self, widths: Sequence[float]) -> float:
        """The latency at the given widths."""
        point = (np.array(widths, dtype=np.float64) - self._low) / self._span
        distances = np.linalg.norm(self._points - point, axis=1)
        return float(self._products(point) @ self._trend + distances @ self._weights + self._constant)

    def _products(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """All products of coordinates: 1, x, y and xy for two."""
        return np.array([math.prod(some) for r in range(self.axes + 1) for some in itertools.combinations(point, r)])


def surfaces(rows: Iterable[Row]) -> dict[str, Surface]:
    """The latency of every kind of block as a function of its widths.

    Raises:
        ValueError: A kind has points of different lengths, or the same point twice.
    """
    points: dict[str, dict[tuple[int, ...], float]] = defaultdict(dict)
    for row in rows:
        known = points[row.kind]
        if row.widths in known:
            raise ValueError(f"two rows have the kind {row.kind!r} and the widths {_spelt(row.widths)}")
        if known and len(row.widths) != len(next(iter(known))):
            raise ValueError(
                f"rows of the kind {row.kind!r} have {len(next(iter(known)))} widths, but one has {len(row.widths)}"
            )
        known[row.widths] = row.latency_ms
    return {
        kind: Surface(np.array(list(known), dtype=np.float64), np.array(list(known.values())))
        for kind, known in points.items()
    }


def write_table(path: Path, facts: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Write a table of blocks atomically.

    Args:
        path: The file.
        facts: The metadata of the table, JSON values by name. Each becomes a comment line.
        rows: One row for each block.

    Raises:
        OSError: The table cannot be written.
    """
    text = streams.StringIO()
    for name, value in {"format": FORMAT, **facts}.items():
        text.write(f"# {name}: {json.dumps(value)}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(BLOCK_COLUMNS)
    for row in rows:
        writer.writerow([row.kind, _spelt(row.widths), f"{row.latency_ms:.6g}", f"{row.spread_ms:.3g}"])
    content = text.getvalue()
    write_atomically(path, f"# {DIGEST}: {json.dumps(_digest(content))}\n{content}")


def read_table(path: Path, space: SearchSpace, io: IO) -> LatencyTable:
    """Read a table for the networks of a space.

    A CSV file has either the columns ``kind``, ``widths`` (separated by blanks) and ``latency_ms``, one row for each
    block; or ``architecture`` (a code) and ``latency_ms``, one row for each network. It may have other columns, and
    comments before them, ``# name: JSON``. These comments are used: ``space`` and ``io``, which must equal the given
    ones; ``calibration``, with ``a_ms`` and ``b``, by default 0 and 1; ``plan``, ``machine`` and ``networks``, for the
    origin of the table; ``format``, which is 1; and ``digest``, the checksum for detecting damage.

    Raises:
        InputError: The file cannot be read, is damaged, is for another space or other data, or lacks blocks of the
            space's networks.
    """
    try:
        content = read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"the latency table {path} cannot be read: {error.strerror or error}; name a table made by nasplat "
            "benchmark build latency"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"the latency table {path} is damaged: it is not text; replace it") from error
    try:
        facts, columns, rows = _parsed(content.replace("\r\n", "\n"))
        _check_origin(path, facts, space, io)
        if set(NETWORK_COLUMNS) <= set(columns):
            listed = NetworkTable(path, dict(_networks(rows, space)))
            listed.origin = Origin.read(facts)
            return listed
        if not set(BLOCK_COLUMNS[:3]) <= set(columns):
            # Other columns are not quoted: a foreign run may have named any file of the user's.
            found = [name for name in (*BLOCK_COLUMNS[:3], NETWORK_COLUMNS[0]) if name in columns]
            raise ValueError(
                f"a table of blocks must have the columns {', '.join(BLOCK_COLUMNS[:3])}, and a table of networks "
                f"{', '.join(NETWORK_COLUMNS)}, but of these this one has {', '.join(found) or 'none'}"
            )
        if not isinstance(space, BlockSpace):
            raise InputError(
                f"{path} is a table of blocks, but networks of the search space {space.name} are not made of blocks; "
                f"give a table of networks, with the columns {' and '.join(NETWORK_COLUMNS)}"
            )
        offset, scale = _calibration(facts)
        table = BlockTable(path, _blocks(rows), space, io, offset_ms=offset, scale=scale)
        table.origin = Origin.read(facts)
    except InputError:
        raise
    except (ValueError, csv.Error) as error:
        raise InputError(f"the latency table {path} is damaged: {error}; replace it with a complete copy") from error
    rng = default_rng(0)
    for _ in range(TRIED):
        table.latency_ms(space.sample(rng))
    return table


def described(space: SearchSpace, io: IO) -> dict[str, Any]:
    """The space and the data of a table, as in its comments."""
    untimed = space.untimed if isinstance(space, BlockSpace) else frozenset()
    options = {name: getattr(space, name) for name in options_model(type(space)).model_fields if name not in untimed}
    facts = {
        "space": {"name": space.name, **options},
        "io": io.to_json(),
    }
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """The metadata in the comments of a table.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged.
    """
    return _parsed(read_file(path).decode())[0]


def _parsed(content: str) -> tuple[dict[str, Any], list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The metadata of the comments, the columns, and the rows with their line numbers."""
    lines = content.splitlines(keepends=True)
    facts: dict[str, Any] = {}
    count = 0
    for line in itertools.takewhile(lambda line: line.startswith("#"), lines):
        count += 1
        name, _, value = line[1:].partition(":")
        try:
            facts[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            continue  # a free comment
        if name.strip() == DIGEST and facts[DIGEST] != _digest("".join(lines[count:])):
            raise ValueError(
                f"its content does not match its checksum (if you changed it on purpose, delete the line # {DIGEST})"
            )
    reader = csv.DictReader(lines[count:], strict=True)
    columns = list(reader.fieldnames or ())

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {count + reader.line_num} must have {len(columns)} cells")
            yield count + reader.line_num, row

    return facts, columns, rows()


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _check_origin(path: Path, facts: Mapping[str, Any], space: SearchSpace, io: IO) -> None:
    """Refuse a table whose comments name another space or other data."""
    if facts.get("format", FORMAT) != FORMAT:
        raise InputError(f"{path} has format {shortly(facts['format'])}, but this version reads format {FORMAT}")
    for name, ours in described(space, io).items():
        theirs = facts.get(name, ours)
        if theirs != ours:
            raise InputError(
                f"the latency table {path} is for {name} {json.dumps(theirs)[:300]}, but the search has "
                f"{json.dumps(ours)}; make a table for the search with {_command(space, io)}"
            )


def _command(space: SearchSpace, io: IO) -> str:
    """The command that builds the table for a search, or an explanation if there is none."""
    if not isinstance(space, BlockSpace):
        return f"latencies measured elsewhere: a CSV file with the columns {' and '.join(NETWORK_COLUMNS)}"
    channels, side, other = io.input_shape
    options = [f"--set space.{name}={getattr(space, name)}" for name in described(space, io)["space"].keys() - {"name"}]
    words = [f"--space {space.name}", *sorted(options)]
    sides = str(side) if side == other else f"{side}x{other}"
    words.append(f"--side {sides} --channels {channels} --outputs {io.outputs}")
    if io.scale is not None:
        words.append(f"--scale {io.scale}")
    return f"nasplat benchmark build latency {' '.join(words)} --out FILE"


def _calibration(facts: Mapping[str, Any]) -> tuple[float, float]:
    found = facts.get("calibration", {})
    if not isinstance(found, dict):
        raise ValueError("its calibration is not an object with a_ms and b")
    offset, scale = found.get("a_ms", 0.0), found.get("b", 1.0)
    if not all(isinstance(value, int | float) and abs(value) < MOST_MS for value in (offset, scale)):
        raise ValueError(
            f"its calibration is a_ms={shortly(offset)} and b={shortly(scale)}, but both must be finite numbers"
        )
    if scale <= 0:
        raise ValueError(f"its calibration has b={scale:g}, but b must be above 0, since more blocks take more time")
    return float(offset), float(scale)


def _networks(rows: Iterable[tuple[int, dict[str, str]]], space: SearchSpace) -> Iterator[tuple[Architecture, float]]:
    seen: dict[Architecture, int] = {}
    for line, row in rows:
        try:
            architecture = space.parse(row["architecture"].strip())
        except InputError as error:
            raise ValueError(f"line {line}: {error}") from error
        if (first := seen.setdefault(architecture, line)) != line:
            raise ValueError(f"lines {first} and {line} are both for {architecture}")
        yield architecture, _milliseconds(line, row["latency_ms"])
    if not seen:
        raise ValueError("it has no rows")


def _blocks(rows: Iterable[tuple[int, dict[str, str]]]) -> Iterator[Row]:
    for line, row in rows:
        words = row["widths"].split()
        if not words or not all(word.isdecimal() and 0 < int(word) < MOST_WIDTH for word in words):
            raise ValueError(
                f"line {line}: widths must be numbers above 0 with blanks between them, but got {row['widths']!r}"
            )
        yield Row(row["kind"], tuple(map(int, words)), _milliseconds(line, row["latency_ms"]))


def _milliseconds(line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < MOST_MS:
        raise ValueError(f"line {line}: milliseconds must be a number above 0, but got {shortly(text)}")
    return value


def _spelt(widths: tuple[int, ...]) -> str:
    return " ".join(map(str, widths))
