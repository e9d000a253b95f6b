"""Converts the official files of NAS-Bench-101 to a compact table, without TensorFlow.

The authors published a TFRecord file. Each record has a length, the checksum of the length, that many bytes, and their
checksum. A record is one training run: a JSON list of the cell's hash, the epochs, the matrix, the operations, and a
protocol buffer in base64 with the metrics at the start, half-way and at the end.

Checksums are CRC-32C, which no dependency offers. Byte by byte in Python they would take half an hour. Here they are
computed for thousands of records in parallel with numpy. This takes seconds, so all of them are verified.

Memory: runs are grouped by cell, with three numbers for each run, wherever they lie in the file. This takes a few
hundred megabytes for either of the published files.
"""

import json
import math
import struct
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nasplat.benchmarks import tables
from nasplat.errors import InputError, RunError
from nasplat.search_space import SearchSpace

SCHEDULES = (4, 12, 36, 108)
REPEATS = 3
"""The number of runs of every cell for every schedule in a file."""
FIGURES = ("validation_accuracy", "test_accuracy", "training_time")
BATCH = 4096
"""The number of records that are verified at once."""
LONGEST = 1 << 14
"""The longest valid record, in bytes. A record of an official file has some 400."""
OFFICIAL = "the official files are nasbench_full.tfrecord and nasbench_only108.tfrecord"

Progress = Callable[[int, int], None]


def convert(source: Path, target: Path, space: SearchSpace, progress: Progress) -> int:
    """Write the compact table of an official file: for every schedule, each repeat and the mean of three.

    Fractions and seconds are rounded to six decimals. Cells are in the order of their first record in the file. Equal
    contents give equal bytes.

    Args:
        source: The file.
        target: The table, a gzipped CSV; it must not exist.
        space: The search space; its canonical keys must be the file's hashes.
        progress: Receives the number of bytes read and the total.

    Returns:
        The number of rows written.

    Raises:
        InputError: The source is missing, damaged, truncated or of another structure, or the target exists or cannot
            be made.
        StorageError: The table could not be written completely.
        RunError: Memory ran out.
    """
    runs = _Runs(space)
    try:
        with tables.importing(source, target, OFFICIAL):
            for number, record in enumerate(_records(source, progress)):
                try:
                    runs.add(record)
                except (ValueError, TypeError, RecursionError) as error:
                    raise _wrong(source, f"record {number}: {' '.join(str(error).split())[:200]}") from error
            try:
                runs.check()
            except ValueError as error:
                raise _wrong(source, str(error)) from error
            tables.write(target, runs.columns, runs.rows())
    except MemoryError as error:
        raise RunError(f"memory ran out while {source} was being read; the published files need some 500 MB") from error
    return len(runs.codes)


class _Runs:
    """All training runs of a file, by cell.

    Args:
        space: The search space of the cells.

    Attributes:
        codes: The code of every cell, in the order of the first records.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.codes: list[str] = []
        self._numbers: dict[str, int] = {}
        self._params: list[int] = []
        self._figures = np.full((1024, len(SCHEDULES), REPEATS, len(FIGURES)), np.nan)
        self._counts = np.zeros((1024, len(SCHEDULES)), dtype=np.int64)

    def add(self, record: bytes) -> None:
        """Add one record.

        Raises:
            ValueError: The record is not from an official file. A wrong structure may raise other errors.
        """
        key, epochs, matrix, operations, packed = json.loads(record)
        if epochs not in SCHEDULES:
            raise ValueError(
                f"a run must have {', '.join(map(str, SCHEDULES[:-1]))} or {SCHEDULES[-1]} epochs, but this one has "
                f"{epochs!r}"
            )
        metrics = _metrics(packed)
        if key not in self._numbers:
            self._enter(key, matrix, operations, metrics.trainable_parameters)
        cell, schedule = self._numbers[key], SCHEDULES.index(epochs)
        if metrics.trainable_parameters != self._params[cell]:
            counts = f"{metrics.trainable_parameters} and {self._params[cell]}"
            raise ValueError(f"two runs of {key} have different numbers of parameters, {counts}")
        repeat = self._counts[cell, schedule]
        if repeat == REPEATS:
            raise ValueError(f"{key} has more than {REPEATS} runs of {epochs} epochs")
        self._figures[cell, schedule, repeat] = _final(metrics)
        self._counts[cell, schedule] += 1

    def check(self) -> None:
        """Check that no run is missing.

        Raises:
            ValueError: A run is missing.
        """
        counts = self._counts[: len(self.codes)]
        if not len(counts):
            raise ValueError("it has no records")
        lacking = np.argwhere((counts != REPEATS) & counts.any(axis=0))
        if len(lacking):
            cell, schedule = lacking[0]
            raise ValueError(
                f"the cell {list(self._numbers)[cell]} has {counts[cell, schedule]} of {REPEATS} runs of "
                f"{SCHEDULES[schedule]} epochs; the file is incomplete"
            )

    @property
    def columns(self) -> list[str]:
        """The header of the table."""
        accuracies = [name for _, split, epochs in self._series() for name in _names(split, epochs)]
        cell = ["hash", "num_vertices", "num_edges", "adj_bits", "ops"]
        return [*cell, *accuracies, "train_time_s", "trainable_parameters"]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the table, one for each cell."""
        series = self._series()
        for cell, (key, code) in enumerate(zip(self._numbers, self.codes, strict=True)):
            bits, _, letters = code.partition(":")
            number = int(bits, 16)
            row: dict[str, Any] = {
                "hash": key,
                "num_vertices": len(letters) + 2,
                "num_edges": number.bit_count(),
                "adj_bits": number,
                "ops": f"o{letters}",
                "trainable_parameters": self._params[cell],
            }
            for schedule, split, epochs in series:
                figures = self._figures[cell, schedule, :, FIGURES.index(split)].tolist()
                row |= zip(_names(split, epochs), _rounded([sum(figures) / REPEATS, *figures]), strict=True)
            seconds = self._figures[cell, -1, :, FIGURES.index("training_time")].tolist()
            if not math.isnan(seconds[0]):
                row["train_time_s"] = _rounded([sum(seconds) / REPEATS])[0]
            yield row

    def _series(self) -> list[tuple[int, str, int]]:
        """For each schedule in the file and each split: the index of the schedule, the split and the epochs."""
        present = [bool(runs) for runs in self._counts.sum(axis=0)]
        return [
            (schedule, split, epochs)
            for split in FIGURES[:2]
            for schedule, epochs in enumerate(SCHEDULES)
            if present[schedule]
        ]

    def _enter(self, key: object, matrix: str, operations: str, params: int) -> None:
        """Add an entry for a new cell."""
        if not (isinstance(matrix, str) and isinstance(operations, str)):
            raise ValueError("a matrix and its operations must be text")
        names = operations.split(",")
        side = len(names)
        if len(matrix) != side**2 or set(matrix) - {"0", "1"}:
            raise ValueError(
                f"a matrix of {side} operations must have {side**2} digits 0 and 1, but this is {matrix!r}"
            )
        rows = [[int(digit) for digit in matrix[i * side : (i + 1) * side]] for i in range(side)]
        architecture = self.space.parse(json.dumps({"matrix": rows, "ops": names}))
        expected = self.space.canonical_key(architecture)
        if key != expected:
            raise ValueError(f"the hash of the cell {architecture.code} is {expected}, but the record says {key!r}")
        self._numbers[expected] = len(self.codes)
        self.codes.append(architecture.code)
        self._params.append(params)
        if len(self.codes) > len(self._counts):
            self._figures = np.concatenate([self._figures, np.full_like(self._figures, np.nan)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])


def _names(split: str, epochs: int) -> list[str]:
    """The columns of one series: the mean and each repeat."""
    name = f"{'val' if split == 'validation_accuracy' else 'test'}_acc_{epochs}ep"
    return [f"{name}_mean", *(f"{name}_repeat{repeat}" for repeat in range(REPEATS))]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 6) for value in values]


# Contents of a record


@cache
def _message() -> Any:
    """The class of the protocol buffers, after the authors' `model_metrics.proto`, without the unused fields."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_metrics.proto", package="nasbench", syntax="proto2")
    metrics, data = file.message_type.add(name="ModelMetrics"), file.message_type.add(name="EvaluationData")
    metrics.field.add(
        name="evaluation_data", number=1, label=field.LABEL_REPEATED, type=field.TYPE_MESSAGE,
        type_name=".nasbench.EvaluationData",
    )  # fmt: skip
    metrics.field.add(name="trainable_parameters", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_INT32)
    for number, name in ((2, "training_time"), (4, "validation_accuracy"), (5, "test_accuracy")):
        data.field.add(name=name, number=number, label=field.LABEL_OPTIONAL, type=field.TYPE_DOUBLE)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nasbench.ModelMetrics"))


def _metrics(packed: str) -> Any:
    """The unpacked metrics of a run.

    Raises:
        ValueError: The metrics are damaged.
    """
    from google.protobuf.message import DecodeError

    try:
        metrics = _message().FromString(b64decode(packed, validate=True))
    except DecodeError as error:
        raise ValueError(f"the metrics are damaged: {error}") from error
    if len(metrics.evaluation_data) != 3 or not metrics.HasField("trainable_parameters"):
        raise ValueError("the metrics must have three evaluations and the number of trainable parameters")
    return metrics


def _final(metrics: Any) -> list[float]:
    """The metrics after the last epoch, in the order of `FIGURES`."""
    last = metrics.evaluation_data[-1]
    figures = [getattr(last, name) for name in FIGURES]
    if not all(last.HasField(name) for name in FIGURES) or not all(map(math.isfinite, figures)):
        raise ValueError(f"the last evaluation must have finite values of {', '.join(FIGURES)}")
    if not all(0 <= accuracy <= 1 for accuracy in figures[:2]) or figures[2] < 0:
        raise ValueError(f"an accuracy must be 0 to 1 and a time not negative, but {', '.join(FIGURES)} are {figures}")
    return figures


# Structure of a TFRecord file


def _records(path: Path, progress: Progress) -> Iterator[bytes]:
    """The contents of the records of a file. Each record is verified before it is yielded.

    Raises:
        InputError: The file cannot be read, is damaged or is truncated.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; {OFFICIAL}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = 0
            progress(0, size)
            while batch := _batch(file, path, first):
                data = [record for record, _ in batch]
                wrong = np.flatnonzero(_masked(data) != [struct.unpack("<I", checksum)[0] for _, checksum in batch])
                if len(wrong):
                    raise _damaged(path, f"the checksum of record {first + wrong[0]} is wrong")
                yield from data
                first += len(batch)
                progress(file.tell(), size)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}; check the path and its permissions") from error


def _batch(file: BinaryIO, path: Path, first: int) -> list[tuple[bytes, bytes]]:
    """The next records, each with its stored checksum; an empty list at the end."""
    batch: list[tuple[bytes, bytes]] = []
    while len(batch) < BATCH and (head := file.read(12)):
        number = first + len(batch)
        if len(head) < 12:
            raise _damaged(path, f"it ends within record {number}")
        if _length_checksum(head[:8]) != head[8:]:
            raise _damaged(path, f"the checksum of the length of record {number} is wrong")
        (length,) = struct.unpack("<Q", head[:8])
        if not 4 <= length <= LONGEST:
            raise _wrong(path, f"record {number} has {length} bytes")
        data, checksum = file.read(length), file.read(4)
        if len(data) < length or len(checksum) < 4:
            raise _damaged(path, f"it ends within record {number}")
        batch.append((data, checksum))
    return batch


@cache
def _table() -> NDArray[np.uint32]:
    """The lookup table of CRC-32C (Castagnoli) for each value of a byte."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, values >> 1 ^ np.uint32(0x82F63B78), values >> 1)
    return values


def _masked(rows: Sequence[bytes]) -> NDArray[np.uint32]:
    """The masked CRC-32C, as in TFRecord files, of each of several byte strings of at least four bytes.

    All strings are padded with leading zeros, which do not change a register of zeros. The register is specified to
    begin with ones. Inverting the first four bytes of every string has the same effect.
    """
    longest = max(map(len, rows))
    padded = np.frombuffer(b"".join(row.rjust(longest, b"\0") for row in rows), dtype=np.uint8)
    columns = padded.reshape(len(rows), longest).T.copy()
    starts = longest - np.array([len(row) for row in rows])
    columns[starts + np.arange(4)[:, None], np.arange(len(rows))] ^= 0xFF
    table, crc = _table(), np.zeros(len(rows), dtype=np.uint32)
    for column in columns:
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)  # modulo 2^32, as numpy's arrays are


@cache
def _length_checksum(length: bytes) -> bytes:
    """The masked checksum of a length. Few lengths differ, so the results are cached."""
    return struct.pack("<I", int(_masked([length])[0]))


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is not a complete TFRecord file: {what}; download it again: {OFFICIAL}")


def _wrong(path: Path, what: str) -> InputError:
    return InputError(f"{path} does not have the structure of an official file of NAS-Bench-101: {what}; {OFFICIAL}")
