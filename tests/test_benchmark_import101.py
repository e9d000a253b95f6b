"""`nasplat benchmark import nasbench101`: official files, written here byte by byte, become tables for searches."""

import base64
import csv
import gzip
import json
import os
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks import nasbench101_official
from nasplat.benchmarks.nasbench101 import NASBench101Table
from nasplat.cli.app import main
from nasplat.errors import InputError, StorageError
from nasplat.search_spaces.nasbench101 import NASBench101
from nasplat.task import Evaluate

SPACE = NASBench101()
NAMES = {"3": "conv3x3-bn-relu", "1": "conv1x1-bn-relu", "m": "maxpool3x3"}
PLACES = [(i, j) for i in range(7) for j in range(i + 1, 7)]
CODES = ["000001:", "000041:3", "000043:m", "154859:3m331", "048a4d:3331"]
Run = list[Any]


def crc32c(data: bytes) -> int:
    """The checksum bit by bit, as its definition goes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(number: int) -> bytes:
    out = b""
    while number >= 128:
        out, number = out + bytes([number % 128 + 128]), number // 128
    return out + bytes([number])


def evaluation(epoch: float, seconds: float, train: float, valid: float, test: float) -> bytes:
    """`EvaluationData` on the wire: fields 1 to 5 as doubles, the path of a checkpoint as field 6."""
    doubles = enumerate((epoch, seconds, train, valid, test), 1)
    path = b"/cns/model.ckpt"
    return b"".join(bytes([n << 3 | 1]) + struct.pack("<d", value) for n, value in doubles) + b"\x32\x0f" + path


def metrics(params: int, *evaluations: bytes) -> str:
    """`ModelMetrics` on the wire, in base64."""
    packed = b"".join(b"\x0a" + varint(len(each)) + each for each in evaluations)
    packed += b"\x10" + varint(params) + b"\x19" + struct.pack("<d", 1234.5)
    return base64.b64encode(packed).decode()


def cell(code: str) -> tuple[str, str]:
    """Matrix and operations as the files have them."""
    bits, letters = code.split(":")
    edges = {place for bit, place in enumerate(PLACES) if int(bits, 16) >> bit & 1}
    size = range(len(letters) + 2)
    operations = ",".join(["input", *(NAMES[letter] for letter in letters), "output"])
    return "".join(str(int((i, j) in edges)) for i in size for j in size), operations


def figures(code: str, epochs: int, repeat: int) -> tuple[float, float, float]:
    """Made-up accuracies on validation and test data, and seconds."""
    chance = random.Random(f"{code} {epochs} {repeat}")
    return chance.random(), chance.random(), epochs * (10 + chance.random())


def run(code: str, epochs: int, repeat: int) -> Run:
    """One training run."""
    valid, test, seconds = figures(code, epochs, repeat)
    packed = metrics(
        1_000_000 + len(code),
        evaluation(0, 0, 0.1, 0.1, 0.1),
        evaluation(epochs / 2, seconds / 2, 0.5, 0.4, 0.3),
        evaluation(epochs, seconds, 0.99, valid, test),
    )
    return [SPACE.canonical_key(SPACE.parse(code)), epochs, *cell(code), packed]


def runs(codes: list[str], schedules: tuple[int, ...] = (4, 12, 36, 108)) -> list[Run]:
    """All runs of some cells; those of a cell do not lie together."""
    return [run(code, epochs, repeat) for repeat in range(3) for epochs in schedules for code in codes]


def write(path: Path, held: list[Run]) -> Path:
    path.write_bytes(b"".join(record(json.dumps(each).encode()) for each in held))
    return path


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


def convert(source: Path, target: Path) -> list[dict[str, str]]:
    NASBench101Table.convert(source, target, quiet)
    with gzip.open(target, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    data = [random.Random(n).randbytes(4 + n * 7 % 60) for n in range(300)] + [bytes(32), b"\xff" * 32]
    given = nasbench101_official._masked(data)
    assert [struct.pack("<I", int(each)) for each in given] == [masked(each) for each in data]


def test_every_figure_is_in_the_table(tmp_path: Path) -> None:
    table = convert(write(tmp_path / "full.tfrecord", runs(CODES)), tmp_path / "table.csv.gz")
    assert len(table) == len(CODES)
    for code, row in zip(CODES, table, strict=True):
        bits, letters = code.split(":")
        assert row["hash"] == SPACE.canonical_key(SPACE.parse(code))
        assert (int(row["adj_bits"]), row["ops"]) == (int(bits, 16), f"o{letters}")
        assert int(row["num_vertices"]) == len(letters) + 2
        assert int(row["num_edges"]) == cell(code)[0].count("1")
        assert int(row["trainable_parameters"]) == 1_000_000 + len(code)
        for epochs in (4, 12, 36, 108):
            trained = [figures(code, epochs, repeat) for repeat in range(3)]
            for split, place in (("val", 0), ("test", 1)):
                values = [each[place] for each in trained]
                name = f"{split}_acc_{epochs}ep"
                assert float(row[f"{name}_mean"]) == pytest.approx(fmean(values), abs=1e-6)
                assert [float(row[f"{name}_repeat{n}"]) for n in range(3)] == pytest.approx(values, abs=1e-6)
        assert float(row["train_time_s"]) == pytest.approx(fmean(each[2] for each in trained), abs=1e-6)


def test_the_small_file_has_one_schedule(tmp_path: Path) -> None:
    table = convert(write(tmp_path / "only108.tfrecord", runs(CODES, (108,))), tmp_path / "table.csv.gz")
    accuracies = {name for name in table[0] if "_acc_" in name}
    kinds = ("mean", "repeat0", "repeat1", "repeat2")
    assert accuracies == {f"{split}_acc_108ep_{kind}" for split in ("val", "test") for kind in kinds}


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "full.tfrecord", runs(CODES))
    for name in ("a.csv.gz", "b.csv.gz"):
        convert(source, tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


@pytest.mark.slow
def test_many_cells_of_the_real_sample_come_back(tmp_path: Path) -> None:
    path = Path(os.environ.get("NASPLAT_DATA", "")) / "nasbench101" / "subset20k.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is missing; set NASPLAT_DATA to the folder above nasbench101/")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::13]
    held: list[Run] = []
    for row in rows:
        matrix, operations = cell(f"{int(row['adj_bits']):06x}:{row['ops'][1:]}")
        last = evaluation(108, float(row["train_time_s"]), 1.0, float(row["val_acc_108ep"]), 0.5)
        packed = metrics(int(row["trainable_parameters"]), last, last, last)
        held += [[row["hash"], 108, matrix, operations, packed]] * 3
    table = convert(write(tmp_path / "only108.tfrecord", held), tmp_path / "table.csv.gz")
    assert len(held) > nasbench101_official.BATCH and len(table) > 1_024
    for row, given in zip(rows, table, strict=True):
        for name in ("hash", "num_vertices", "num_edges", "adj_bits", "ops", "trainable_parameters"):
            assert given[name] == row[name]
        assert float(given["val_acc_108ep_mean"]) == pytest.approx(float(row["val_acc_108ep"]), abs=1e-6)
        assert float(given["train_time_s"]) == pytest.approx(float(row["train_time_s"]), abs=1e-6)


def test_an_imported_table_is_searched_and_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path))
    source = write(tmp_path / "full.tfrecord", runs(CODES))
    written = NASBench101Table.convert(source, NASBench101Table.folder() / NASBench101Table.imported, quiet)
    assert written.rows == len(CODES)
    assert {(each.split, each.epochs) for each in written.series} == {
        (split, epochs) for split in ("validation", "test") for epochs in (4, 12, 36, 108)
    }
    assert all((each.seeds, each.single_seed, each.architectures) == ((0, 1, 2), False, 5) for each in written.series)
    for single in (False, True):
        benchmark = NASBench101Table(SPACE, single_repeat=single)
        benchmark.check()
        assert list(benchmark.fidelities) == [4, 12, 36, 108]
        for code in CODES:
            for epochs in (4, 12, 36, 108):
                trained = [figures(code, epochs, repeat) for repeat in range(3)]
                task = Evaluate(id=0, seed=0, architecture=SPACE.parse(code), fidelity=epochs)
                searched = benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())
                expected = trained[0][0] if single else fmean(each[0] for each in trained)
                assert searched.split == "validation"
                assert searched.metrics["accuracy"] == pytest.approx(expected, abs=1e-6)
                final = benchmark.final(searched, device="cpu", artifacts=MemoryArtifacts())
                assert final.split == "test"
                assert final.metrics["accuracy"] == pytest.approx(fmean(each[1] for each in trained), abs=1e-6)


def test_the_command_line_imports_into_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "data"))
    source = write(tmp_path / "only108.tfrecord", runs(CODES, (108,)))
    monkeypatch.setattr(sys, "argv", ["nasplat", "benchmark", "import", "nasbench101", str(source), "--json"])
    for code, said in ((0, '"rows": 5'), (2, "overwrites no file")):
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        assert said in printed.out + printed.err
    assert (tmp_path / "data" / "nasbench101" / "official.csv.gz").is_file()


# What is refused

WHOLE = b"".join(record(json.dumps(each).encode()) for each in runs(CODES, (108,)))


def flipped(at: int) -> bytes:
    return WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it has no records"),
        (WHOLE[:-1], "ends within record 14"),
        (WHOLE[:-5], "ends within record 14"),
        (WHOLE[:5], "ends within record 0"),
        (WHOLE[:12], "ends within record 0"),
        (flipped(0), "checksum of the length of record 0"),
        (flipped(9), "checksum of the length of record 0"),
        (flipped(100), "checksum of record 0"),
        (flipped(len(WHOLE) - 1), "checksum of record 14"),
        (b"PK\x03\x04" + WHOLE, "checksum of the length of record 0"),
        (record(b"x" * 3), "has 3 bytes"),
        (record(b"x" * (1 << 20) + b"x"), "has 1048577 bytes"),
    ],
)
def test_a_damaged_file_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    source = tmp_path / "damaged.tfrecord"
    source.write_bytes(data)
    with pytest.raises(InputError) as refused:
        convert(source, tmp_path / "new" / "table.csv.gz")
    assert said in str(refused.value)
    assert str(source) in str(refused.value)
    assert "nasbench_only108.tfrecord" in str(refused.value)
    assert not (tmp_path / "new").exists()


def changed(change: Callable[[Run], Any]) -> bytes:
    """The second record, changed."""
    first, second, *_ = runs(["154859:3m331", "000043:m"], (108,))
    return record(json.dumps(first).encode()) + record(json.dumps(change(second)).encode())


def with_(place: int, value: Any) -> Callable[[Run], Run]:
    return lambda each: [*each[:place], value, *each[place + 1 :]]


SOUND = evaluation(108, 1000.0, 0.9, 0.8, 0.7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: {"hash": each[0]}, "record 1"),
        (lambda each: [*each[:3], ["input", "output"], each[4]], "text"),
        (lambda each: [*each[:2], [[0, 1], [0, 0]], *each[3:]], "text"),
        (lambda each: each[:4], "record 1"),
        (lambda each: None, "record 1"),
        (with_(0, "0" * 32), "the record says '00000000000000000000000000000000'"),
        (with_(0, ["a"]), "record 1"),
        (with_(1, 107), "have 4, 12, 36 or 108 epochs, but this one has 107"),
        (with_(1, "108"), "but this one has '108'"),
        (with_(2, "01"), "9 digits 0 and 1"),
        (with_(2, "011002000"), "9 digits 0 and 1"),
        (with_(2, "000000000"), "path from its input"),
        (with_(2, "111001000"), "above its diagonal"),
        (with_(2, "001000000"), "the record says"),  # pruned, it is another cell
        (with_(3, "input,conv7x7,output"), "conv7x7"),
        (with_(3, "output,maxpool3x3,input"), "the ops"),
        (with_(4, "no base64!"), "record 1"),
        (with_(4, base64.b64encode(b"\x0a\xff").decode()), "the metrics are damaged"),
        (with_(4, None), "record 1"),
        (with_(4, metrics(5, SOUND, SOUND)), "three evaluations"),
        (with_(4, base64.b64encode((b"\x0a" + varint(len(SOUND)) + SOUND) * 3).decode()), "trainable parameters"),
        (with_(4, metrics(5, SOUND, SOUND, SOUND[:27])), "the last evaluation must have finite values"),
        (with_(4, metrics(5, SOUND, SOUND, evaluation(108, 1, 1, 1.01, 1))), "an accuracy must be 0 to 1"),
        (with_(4, metrics(5, SOUND, SOUND, evaluation(108, -1, 1, 1, 1))), "a time not negative"),
        (with_(4, metrics(5, SOUND, SOUND, evaluation(108, 1, 1, float("nan"), 1))), "must have finite values"),
    ],
)
def test_a_record_of_another_structure_is_refused(change: Callable[[Run], Any], said: str, tmp_path: Path) -> None:
    source = tmp_path / "wrong.tfrecord"
    source.write_bytes(changed(change))
    with pytest.raises(InputError) as refused:
        convert(source, tmp_path / "new" / "table.csv.gz")
    assert said in str(refused.value)
    assert f"{source} does not have the structure" in str(refused.value)
    assert not (tmp_path / "new").exists()


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    for data in (b"[1, 2", b"\xff\xfe\xfd\xfc", b"[" * 100_000):
        (tmp_path / "wrong.tfrecord").write_bytes(record(data))
        with pytest.raises(InputError, match="record 0"):
            convert(tmp_path / "wrong.tfrecord", tmp_path / "table.csv.gz")


def test_missing_and_surplus_runs_are_refused(tmp_path: Path) -> None:
    whole = runs(CODES)
    for held, said in (
        (whole[:-1], "has 2 of 3 runs of 108 epochs; the file is incomplete"),
        ([each for each in whole if each[1:3] != [36, cell(CODES[3])[0]]], "has 0 of 3 runs of 36 epochs"),
        ([*whole, whole[0]], "more than 3 runs of 4 epochs"),
        ([*whole[:-1], [*whole[-1][:4], metrics(7, SOUND, SOUND, SOUND)]], "different numbers of parameters"),
    ):
        with pytest.raises(InputError) as refused:
            convert(write(tmp_path / "cut.tfrecord", held), tmp_path / "table.csv.gz")
        assert said in str(refused.value)
        assert not (tmp_path / "table.csv.gz").exists()


def test_places_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "only108.tfrecord", runs(CODES, (108,)))
    taken = tmp_path / "taken.csv.gz"
    taken.write_bytes(b"mine")
    for given, target, said in (
        (source, taken, "overwrites no file"),
        (source, tmp_path / "table.csv", "must end in .csv.gz"),
        (tmp_path / "nowhere.tfrecord", tmp_path / "table.csv.gz", "does not exist"),
        (tmp_path, tmp_path / "table.csv.gz", "is not a file"),
        (source, source / "table.csv.gz", "cannot be written"),
    ):
        with pytest.raises(InputError, match=said):
            convert(given, target)
    assert taken.read_bytes() == b"mine"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    source = write(tmp_path / "only108.tfrecord", runs(CODES, (108,)))
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="No space left"):
        convert(source, tmp_path / "new" / "table.csv.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["only108.tfrecord"]


def test_progress_is_told_in_bytes_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nasbench101_official, "BATCH", 4)
    source, told = write(tmp_path / "full.tfrecord", runs(CODES)), []
    NASBench101Table.convert(source, tmp_path / "table.csv.gz", lambda done, total: told.append((done, total)))
    size = source.stat().st_size
    assert told[0] == (0, size) and told[-1] == (size, size)
    assert len(told) == 16 and told == sorted(told)
    assert np.diff([done for done, _ in told]).max() < size / 8
