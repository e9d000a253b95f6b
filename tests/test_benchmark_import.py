"""`nasplat benchmark`: official files of NAS-Bench-201, made small by its own classes, become tables for searches."""

import csv
import errno
import gzip
import io
import json
import math
import os
import pickle
import random
import shutil
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pytest
import torch
from nas_201_api import ArchResults, NASBench201API, ResultsCount

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks import nasbench201_official
from nasplat.benchmarks.nasbench201 import NASBench201Table
from nasplat.errors import InputError, StorageError
from nasplat.registry import BENCHMARKS, Plugin
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate

Version: TypeAlias = Literal["v1_0", "v1_1"]
Contents: TypeAlias = dict[str, Any]
Done: TypeAlias = subprocess.CompletedProcess[str]
CommandLine: TypeAlias = Callable[..., Done]
SPACE = NASBench201()
COUNT = 12

CLASSES = {"cifar10-valid": 10, "cifar10": 10, "cifar100": 100, "ImageNet16-120": 120}
MEASURED_ON = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}


def officials(count: int) -> list[str]:
    """The official strings of some cells, isomorphic ones among them, in an order of no meaning."""
    codes = ["".join(str(number // 5**gene % 5) for gene in range(6)) for number in range(5**6)]
    return [SPACE.official(SPACE.parse(code)) for code in random.Random(0).sample(codes, count)]


def seeds_of(version: Version, index: int, dataset: str, epochs: int) -> list[int]:
    """Which runs there are: up to three long ones, and of the short ones what the version's notes say."""
    if epochs == 200:
        return [777, 888, 999][: 1 + index % 3]
    if version == "v1_0":
        return [777] if dataset == "cifar10-valid" else []
    return [111, 777] if dataset == "cifar10-valid" else [777]


def accuracy(index: int, dataset: str, measured_on: str, seed: int, epoch: int, epochs: int) -> float:
    """A made-up accuracy that tells everything it depends on: 20 % more at the last epoch than at the one before."""
    place = list(CLASSES).index(dataset) * 3 + list(MEASURED_ON[dataset]).index(measured_on)
    final = 30 + (index % 50) + place / 2 + seed % 100 / 1000 + epochs / 1e5
    return final if epoch == epochs - 1 else final - 20 - (epochs - epoch) / 1000


def trial(version: Version, index: int, official: str, dataset: str, seed: int, epochs: int) -> ResultsCount:
    """One training run as the official files have it."""
    numbers = range(epochs)
    config = {"channel": 16, "num_cells": 5, "arch_str": official, "class_num": CLASSES[dataset]}
    losses = {epoch: 2.0 - epoch / epochs for epoch in numbers}
    train = {epoch: 50.0 + epoch / 10 for epoch in numbers}
    params, macs = np.float64(0.1 + index / 1000), 10.5 + index
    made = ResultsCount(dataset, None, train, losses, params, macs, config, seed, epochs, [0.01, 0.03])
    if version == "v1_0":
        made.update_train_info(train, None, losses, None)
        for name in MEASURED_ON[dataset]:  # measured once, after the last epoch
            last = {epochs - 1: accuracy(index, dataset, name, seed, epochs - 1, epochs)}
            made.update_OLD_eval(name, last, {epochs - 1: 0.5})
        return made
    # The long schedule's times are those of the short one, as in the file of version 1.1.
    made.update_train_info(train, dict(train), losses, {epoch: 10.0 + index + seed / 1000 for epoch in numbers})
    keys = {f"{name}@{epoch}": (name, epoch) for name in MEASURED_ON[dataset] for epoch in numbers}
    made.update_eval(
        {key: accuracy(index, dataset, name, seed, epoch, epochs) for key, (name, epoch) in keys.items()},
        {key: 0.5 + epoch / 1000 for key, (_, epoch) in keys.items()},
        {key: 1.25 for key in keys},
    )
    return made


def architecture(version: Version, index: int, official: str) -> dict[str, Any]:
    """Everything about one architecture, as the official files have it."""
    info = {}
    for name, epochs in (("full", 200), ("less", 12)):
        results = ArchResults(index, official)
        for dataset in CLASSES:
            for seed in seeds_of(version, index, dataset, epochs):
                results.update(dataset, seed, trial(version, index, official, dataset, seed, epochs))
        results.clear_net_done = True
        info[name] = results.state_dict()
    return info


def contents(version: Version, count: int) -> Contents:
    """What an official file holds."""
    names = officials(count)
    return {
        "meta_archs": names,
        "arch2infos": {index: architecture(version, index, name) for index, name in enumerate(names)},
        "evaluated_indexes": list(range(count)),
    }


def save(path: Path, value: Any, *, zipped: bool = False) -> Path:
    """Save as the authors did, with the torch of 2020, or as torch does today."""
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def save_archive(folder: Path, held: Contents) -> Path:
    """The same contents as the archive has them: one file for each architecture."""
    folder.mkdir()
    for index, info in held["arch2infos"].items():
        save(folder / f"{index:06d}-FULL.pth", info)
    return folder


@pytest.fixture(scope="module")
def held() -> dict[Version, Contents]:
    """The contents of a small file of each version; not to be changed."""
    return {"v1_0": contents("v1_0", COUNT), "v1_1": contents("v1_1", COUNT)}


@pytest.fixture
def fresh(held: dict[Version, Contents]) -> Contents:
    """Contents of version 1.0 to tamper with."""
    copied: Contents = pickle.loads(pickle.dumps(held["v1_0"]))
    return copied


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of one's own, which does not exist yet."""
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


def convert(source: Path, target: Path) -> list[dict[str, str]]:
    """The rows of the table that a source becomes."""
    NASBench201Table.convert(source, target, quiet)
    return rows_of(target)


def rows_of(table: Path) -> list[dict[str, str]]:
    with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def listing(folder: Path) -> set[str]:
    """Everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check_refused(done: Done, *said: str) -> None:
    """Wrong input: exit code 2 and one line on standard error, with everything that it should say."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr + done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "\x1b" not in done.stderr
    for part in said:
        assert part in lines[0], f"{part!r} is missing in: {lines[0]}"


# What is written


NAMES = {"c10": ("cifar10-valid", "cifar10"), "c100": ("cifar100",) * 2, "in16": ("ImageNet16-120",) * 2}


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True], ids=["of 2020", "of today"])
@pytest.mark.parametrize("version", ["v1_0", "v1_1"])
def test_every_cell_is_what_the_api_answers(
    tmp_path: Path, held: dict[Version, Contents], version: Version, zipped: bool
) -> None:
    rows = convert(save(tmp_path / "official.pth", held[version], zipped=zipped), tmp_path / "table.csv.gz")
    api = NASBench201API(held[version], verbose=False)
    assert [row["arch_str"] for row in rows] == list(api)
    compared = 0
    for index, row in enumerate(rows):
        expected: dict[str, float] = {}
        for prefix, (validated, tested) in NAMES.items():
            for hp in ("12", "200"):
                for split, dataset in (("valid", validated), ("test", tested)):
                    seeds = api.query_meta_info_by_index(index, hp).dataset_seed.get(dataset, [])
                    for seed in seeds:
                        info = api.get_more_info(index, dataset, hp=hp, is_random=seed)
                        expected[f"{prefix}_{split}_{hp}_seed{seed}"] = info[f"{split}-accuracy"]
                    if seeds:
                        info = api.get_more_info(index, dataset, hp=hp, is_random=False)
                        expected[f"{prefix}_{split}_{hp}"] = info[f"{split}-accuracy"]
                        first = api.get_more_info(index, dataset, hp=hp, is_random=min(seeds))
                        expected[f"{prefix}_{split}_{hp}_1seed"] = first[f"{split}-accuracy"]
                        if split == "valid" and hp == "12" and info["train-all-time"] is not None:
                            expected[f"{prefix}_train_time_12ep_s"] = info["train-all-time"]
            costs = api.get_cost_info(index, validated, hp="200")
            expected[f"{prefix}_params_M"], expected[f"{prefix}_macs_M"] = costs["params"], costs["flops"]
        given = {name: float(cell) for name, cell in row.items() if cell and name.startswith(tuple(NAMES))}
        assert given == pytest.approx(expected, abs=1e-6)
        compared += len(given)
    assert compared > COUNT * (25 if version == "v1_0" else 35)


@pytest.mark.slow
def test_known_numbers_arrive(tmp_path: Path, held: dict[Version, Contents]) -> None:
    row = convert(save(tmp_path / "official.pth", held["v1_1"]), tmp_path / "table.csv.gz")[1]
    # Seeds 777 and 888 for long, 111 and 777 or 777 alone for short; 12 epochs of 11.111 and 11.777 s.
    assert {name: row[name] for name in row if name.startswith("c10_")} == {
        "c10_valid_200": "31.0845", "c10_valid_200_1seed": "31.079",
        "c10_valid_200_seed777": "31.079", "c10_valid_200_seed888": "31.09", "c10_valid_200_seed999": "",
        "c10_valid_12": "31.04412", "c10_valid_12_1seed": "31.01112",
        "c10_valid_12_seed111": "31.01112", "c10_valid_12_seed777": "31.07712",
        "c10_test_200": "32.5845", "c10_test_200_1seed": "32.579",
        "c10_test_200_seed777": "32.579", "c10_test_200_seed888": "32.59", "c10_test_200_seed999": "",
        "c10_test_12": "32.57712", "c10_test_12_1seed": "32.57712", "c10_test_12_seed777": "32.57712",
        "c10_params_M": "0.101", "c10_macs_M": "11.5", "c10_train_time_12ep_s": "137.328",
    }  # fmt: skip
    assert (row["c100_valid_200"], row["c100_test_200"]) == ("34.0845", "34.5845")
    assert (row["in16_valid_12"], row["in16_test_12"]) == ("35.57712", "36.07712")


def test_the_first_version_has_empty_cells_for_what_was_not_trained(
    tmp_path: Path, held: dict[Version, Contents]
) -> None:
    rows = convert(save(tmp_path / "official.pth", held["v1_0"]), tmp_path / "table.csv.gz")
    assert {name for name in rows[0] if "_12" in name} == {
        *("c10_valid_12", "c10_valid_12_1seed", "c10_valid_12_seed777"),
        *(f"{prefix}_train_time_12ep_s" for prefix in NAMES),
    }
    assert {row["c10_train_time_12ep_s"] for row in rows} == {""}
    assert [row["in16_test_200_seed999"] != "" for row in rows] == [index % 3 == 2 for index in range(COUNT)]


def test_times_of_the_long_schedule_stand_in_for_missing_ones(tmp_path: Path, fresh: Contents) -> None:
    for trial in fresh["arch2infos"][0]["full"]["all_results"].values():
        trial["train_times"] = {epoch: 5.0 for epoch in range(200)}
    rows = convert(save(tmp_path / "official.pth", fresh), tmp_path / "table.csv.gz")
    assert [row["c10_train_time_12ep_s"] for row in rows[:2]] == ["60.0", ""]


def test_isomorphic_cells_carry_the_smallest_index_among_them(tmp_path: Path, fresh: Contents) -> None:
    # A cell that passes its input on, spelt in two ways, around one that does not.
    ways = [
        "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
        "|skip_connect~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
    ]
    fresh["meta_archs"] = ways
    fresh["arch2infos"] = {index: fresh["arch2infos"][index] for index in range(3)}
    rows = convert(save(tmp_path / "official.pth", fresh), tmp_path / "table.csv.gz")
    assert [(row["index"], row["iso_index"]) for row in rows] == [("0", "0"), ("1", "1"), ("2", "0")]


@pytest.mark.slow
def test_the_archive_gives_the_same_bytes_as_the_single_file(
    tmp_path: Path, held: dict[Version, Contents], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [tmp_path / "single.csv.gz", tmp_path / "archive.csv.gz"]
    convert(save(tmp_path / "official.pth", held["v1_1"]), tables[0])
    monkeypatch.setattr(nasbench201_official, "SLICE", 3)
    convert(save_archive(tmp_path / "archive", held["v1_1"]), tables[1])
    assert tables[0].read_bytes() == tables[1].read_bytes()


@pytest.mark.slow
def test_trained_weights_in_an_archive_are_left_out(tmp_path: Path, held: dict[Version, Contents]) -> None:
    tables = [tmp_path / "without.csv.gz", tmp_path / "with.csv.gz"]
    convert(save_archive(tmp_path / "without", held["v1_0"]), tables[0])
    heavy: Contents = pickle.loads(pickle.dumps(held["v1_0"]))
    for trial in heavy["arch2infos"][4]["full"]["all_results"].values():
        trial["net_state_dict"] = {"stem.0.weight": torch.zeros(16, 3, 3, 3)}
    convert(save_archive(tmp_path / "with", heavy), tables[1])
    assert tables[0].read_bytes() == tables[1].read_bytes()


@pytest.mark.slow
def test_equal_contents_spelt_otherwise_give_equal_bytes(tmp_path: Path, held: dict[Version, Contents]) -> None:
    plain = tmp_path / "plain.csv.gz"
    convert(save(tmp_path / "official.pth", held["v1_1"]), plain)
    other: Contents = pickle.loads(pickle.dumps(held["v1_1"]))
    for info in other["arch2infos"].values():
        for schedule in info.values():
            for trial in schedule["all_results"].values():
                trial["train_times"] = {str(epoch): seconds for epoch, seconds in trial["train_times"].items()}
                trial["flop"] = np.float32(trial["flop"])
                trial["epochs"] = np.int64(trial["epochs"])
    other["arch2infos"] = {str(index): info for index, info in reversed(other["arch2infos"].items())}
    other["evaluated_indexes"] = set(other["evaluated_indexes"])
    path = save(tmp_path / "other.pth", other)
    first_numpy = path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert first_numpy != path.read_bytes()
    (tmp_path / "older.pth").write_bytes(first_numpy)
    for name in ("other", "older"):
        convert(tmp_path / f"{name}.pth", tmp_path / f"{name}.csv.gz")
        assert (tmp_path / f"{name}.csv.gz").read_bytes() == plain.read_bytes()


def test_a_file_of_some_architectures_becomes_a_table_of_those(tmp_path: Path, fresh: Contents) -> None:
    fresh["arch2infos"] = {index: fresh["arch2infos"][index] for index in (11, 3, 8)}
    rows = convert(save(tmp_path / "official.pth", fresh), tmp_path / "table.csv.gz")
    assert [(int(row["index"]), row["arch_str"]) for row in rows] == [
        (index, fresh["meta_archs"][index]) for index in (3, 8, 11)
    ]


# What is done with it


@pytest.mark.slow
def test_an_imported_table_is_searched(
    tmp_path: Path, data: Path, command: CommandLine, held: dict[Version, Contents]
) -> None:
    done = command("benchmark", "import", "nasbench201", save(tmp_path / "official.pth", held["v1_1"]))
    assert (done.returncode, done.stderr) == (0, "")
    table = data / "nasbench201" / "official.csv.gz"
    assert str(table) in done.stdout
    assert listing(data) == {"nasbench201", "nasbench201/official.csv.gz"}
    codes = {SPACE.parse(name).code: index for index, name in enumerate(held["v1_1"]["meta_archs"])}
    for dataset, options, place in (
        ("cifar10", {}, 0.079),
        ("cifar100", {"epochs": 12}, 3.07712),
        ("imagenet16-120", {"epochs": 12, "single_seed": "true"}, 4.57712),
    ):
        sets = [f"--set=benchmark.{name}={value}" for name, value in ({"dataset": dataset} | options).items()]
        done = command(
            *("search", "--space", "nasbench201", "--benchmark", "nasbench201", "--strategy", "random_search", *sets),
            *("--objective", "accuracy:max", "--evaluations", 6, "--executor", "inline", "--out", dataset),
        )
        assert done.returncode == 0, done.stderr
        measurements = RunDirectory(Path(dataset)).history().measurements
        assert len(measurements) == 6
        for measurement in measurements:
            index = codes[measurement.architecture.code]
            seeds = 0.011 * (index % 3) / 2 if dataset == "cifar10" else 0  # the means of 77, of 77 and 88, of all
            expected = (30 + index + place + seeds) / 100
            assert measurement.metrics["accuracy"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_both_schedules_of_an_imported_table_are_fidelities(
    tmp_path: Path, data: Path, held: dict[Version, Contents]
) -> None:
    NASBench201Table.convert(
        save(tmp_path / "official.pth", held["v1_1"]), data / "nasbench201" / "official.csv.gz", quiet
    )
    for single_seed, expected in ((False, {12: 31.04412, 200: 31.0845}), (True, {12: 31.01112, 200: 31.079})):
        benchmark = NASBench201Table(SPACE, single_seed=single_seed)
        benchmark.check()
        for fidelity, accuracy_there in expected.items():
            architecture = SPACE.parse(held["v1_1"]["meta_archs"][1])
            task = Evaluate(id=0, seed=0, architecture=architecture, fidelity=fidelity)
            metrics = benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts()).metrics
            assert metrics["accuracy"] == pytest.approx(accuracy_there / 100, abs=1e-9)
            assert metrics["train_seconds"] == pytest.approx(137.328 * fidelity / 12)


@pytest.mark.slow
def test_import_prints_one_document_for_machines(
    tmp_path: Path, data: Path, command: CommandLine, held: dict[Version, Contents]
) -> None:
    path = save(tmp_path / "official.pth", held["v1_1"])
    done = command("benchmark", "import", "nasbench201", path, "--out", "new/mine.csv.gz", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said["benchmark"], said["table"], said["rows"]) == ("nasbench201", "new/mine.csv.gz", COUNT)
    assert len(said["series"]) == 12
    best = max(range(COUNT), key=lambda index: 30 + index + 0.011 * (index % 3) / 2)
    assert said["series"][1] == {
        "dataset": "cifar10",
        "split": "validation",
        "epochs": 200,
        "architectures": COUNT,
        "single_seed": True,
        "seeds": [777, 888, 999],
        "best_accuracy": pytest.approx((30 + best + 0.079 + 0.011 * (best % 3) / 2) / 100),
        "best_architecture": SPACE.parse(held["v1_1"]["meta_archs"][best]).code,
    }
    assert not data.exists()
    assert len(rows_of(tmp_path / "new" / "mine.csv.gz")) == COUNT


@pytest.mark.slow
def test_info_knows_the_real_table(table: Path, command: CommandLine) -> None:
    done = command("benchmark", "info", "nasbench201", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)["nasbench201"]
    assert said["folder"] == str(table.parent)
    files = {Path(file["table"]).name: file for file in said["files"]}
    assert files["cifar10.csv.gz"]["rows"] == 15_625
    found = {(series["split"], series["epochs"]): series for series in files["cifar10.csv.gz"]["series"]}
    assert set(found) == {("validation", 12), ("validation", 200), ("test", 12), ("test", 200)}
    assert found["test", 200]["best_accuracy"] == pytest.approx(0.94373)
    assert found["validation", 200]["best_accuracy"] == pytest.approx(0.91607)
    by_index = {row["index"]: row["arch_str"] for row in rows_of(table)}
    assert found["test", 200]["best_architecture"] == SPACE.parse(by_index["6111"]).code
    assert (found["test", 200]["single_seed"], found["test", 12]["single_seed"]) == (True, False)
    done = command("benchmark", "info")
    assert done.returncode == 0
    assert "94.37 %" in done.stdout


def test_info_of_an_empty_folder_says_what_is_absent_and_how_it_comes(data: Path, command: CommandLine) -> None:
    done = command("benchmark", "info")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(data / "nasbench201") in done.stdout
    assert "absent: cifar10, cifar100, imagenet16-120; nasplat benchmark import nasbench201 FILE" in done.stdout
    done = command("benchmark", "info", "nasbench201", "--json")
    assert json.loads(done.stdout) == {
        "nasbench201": {
            "folder": str(data / "nasbench201"),
            "files": [],
            "absent": ["cifar10", "cifar100", "imagenet16-120"],
        }
    }


def test_info_shows_the_whole_table_beside_damaged_ones(
    tmp_path: Path, data: Path, command: CommandLine, held: dict[Version, Contents]
) -> None:
    whole = data / "nasbench201" / "whole.csv.gz"
    NASBench201Table.convert(save(tmp_path / "official.pth", held["v1_0"]), whole, quiet)
    whole.with_name("aaa.csv.gz").write_bytes(whole.read_bytes()[:-200])
    whole.with_name("bbb.csv.gz").write_bytes(b"no gzip")
    whole.with_name("ccc.csv.gz").write_bytes(gzip.compress(b"index,milliseconds\n0,1.5\n"))
    done = command("benchmark", "info", "nasbench201")
    assert done.returncode == 0
    assert "aaa.csv.gz is damaged" in done.stdout
    assert "bbb.csv.gz is damaged" in done.stdout
    assert "ccc.csv.gz: it is not a table of accuracies" in done.stdout
    assert done.stdout.count("whole.csv.gz ") == 7
    assert "absent" not in done.stdout


def test_a_benchmark_without_tables_is_refused(data: Path, command: CommandLine) -> None:
    for arguments in (("info", "classification"), ("import", "classification", "file.pth")):
        check_refused(command("benchmark", *arguments), "classification", "nasbench201")
    check_refused(command("benchmark", "info", "nasbench2O1"), "did you mean 'nasbench201'")


def test_a_broken_plugin_does_not_hide_the_tables_of_others(
    data: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = {plugin.name: plugin for plugin in BENCHMARKS}
    broken = Plugin("broken", "nowhere_to_be_found:Table", "somebody")
    monkeypatch.setattr(BENCHMARKS, "_plugins", {"broken": broken, **plugins})
    done = command("benchmark", "info", "--json")
    assert done.returncode == 0
    assert list(json.loads(done.stdout)) == ["nasbench101", "nasbench201"]
    assert "left out: the benchmark 'broken'" in done.stderr
    check_refused(command("benchmark", "info", "broken"), "'broken'", "somebody")


# What is refused


class Command:
    """Pickled, it is a call of `os.system`."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.line,)


class Evaluated:
    """Pickled, it is a call of `eval`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return eval, (self.text,)


def as_zip(path: Path, value: Any) -> None:
    save(path, value, zipped=True)


def as_pickle(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value, protocol=4))


@pytest.mark.parametrize("write", [save, as_zip, as_pickle])
@pytest.mark.parametrize("kind", [Command, Evaluated])
def test_code_in_a_file_is_refused_and_not_executed(
    tmp_path: Path,
    data: Path,
    command: CommandLine,
    fresh: Contents,
    write: Callable[[Path, Any], None],
    kind: type[Command] | type[Evaluated],
) -> None:
    marker = tmp_path / "executed"
    lines = {Command: f"touch {marker}", Evaluated: f"open({str(marker)!r}, 'w').close()"}
    fresh["evaluated_indexes"] = kind(lines[kind])
    official = tmp_path / "official.pth"
    write(official, fresh)
    pickle_would = pickle.loads(pickle.dumps(kind(lines[kind])))  # the trap is a trap
    assert marker.exists(), pickle_would
    marker.unlink()
    before = listing(tmp_path)
    done = command("benchmark", "import", "nasbench201", official)
    if write is as_pickle:
        check_refused(done, f"{official} is not a complete file saved by torch")
    else:
        named = {Command: f"{os.system.__module__}.system", Evaluated: "eval"}[kind]
        check_refused(done, f"{official} asks to run {named}; this was not run")
    assert not marker.exists()
    assert "weights_only" not in done.stderr  # torch's own advice is to switch the guard off
    assert listing(tmp_path) == before


def test_code_in_an_archive_is_refused_and_not_executed(
    tmp_path: Path, data: Path, command: CommandLine, fresh: Contents
) -> None:
    marker = tmp_path / "executed"
    fresh["arch2infos"][7]["full"]["all_results"][("cifar10", 777)]["latency"] = Command(f"touch {marker}")
    folder = save_archive(tmp_path / "archive", fresh)
    check_refused(command("benchmark", "import", "nasbench201", folder), "000007-FULL.pth", "this was not run")
    assert not marker.exists()
    assert not data.exists()


def nothing(whole: bytes) -> bytes:
    return b""


def noise(whole: bytes) -> bytes:
    return random.Random(0).randbytes(10_000)


def text(whole: bytes) -> bytes:
    return b"<html>Quota exceeded, please try again later</html>\n" * 9


def head(whole: bytes) -> bytes:
    return whole[:1000]


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def nearly_all(whole: bytes) -> bytes:
    return whole[:-40]


def other_zip(whole: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("readme.txt", "no torch in here")
    return packed.getvalue()


def other_tar(whole: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return packed.getvalue()


@pytest.mark.parametrize("zipped", [False, True], ids=["of 2020", "of today"])
@pytest.mark.parametrize("damage", [nothing, noise, text, head, half, nearly_all, other_zip, other_tar])
def test_a_damaged_file_is_refused_and_leaves_nothing(
    tmp_path: Path,
    data: Path,
    command: CommandLine,
    held: dict[Version, Contents],
    damage: Callable[[bytes], bytes],
    zipped: bool,
) -> None:
    official = save(tmp_path / "official.pth", held["v1_0"], zipped=zipped)
    official.write_bytes(damage(official.read_bytes()))
    done = command("benchmark", "import", "nasbench201", official)
    check_refused(done, f"{official} is not a complete file", "download it again")
    assert listing(tmp_path) == {"official.pth"}


@pytest.mark.parametrize("byte", range(0, 100, 7))
def test_a_flipped_byte_is_no_traceback(tmp_path: Path, fresh: Contents, byte: int) -> None:
    fresh["arch2infos"] = {0: fresh["arch2infos"][0]}
    official = save(tmp_path / "official.pth", fresh)
    whole = bytearray(official.read_bytes())
    whole[len(whole) * byte // 100] ^= 0xFF
    official.write_bytes(whole)
    target = tmp_path / "table.csv.gz"
    try:
        NASBench201Table.convert(official, target, quiet)
    except InputError as error:
        assert str(official) in str(error)
        assert not target.exists()


def first_trial(held: Contents) -> dict[str, Any]:
    trials: dict[Any, dict[str, Any]] = held["arch2infos"][0]["full"]["all_results"]
    return trials["cifar100", 777]


def of_another_kind(held: Contents) -> Any:
    return [held]


def weights(held: Contents) -> Any:
    return {"stem.0.weight": torch.zeros(3)}


def no_names(held: Contents) -> Any:
    del held["meta_archs"]
    return held


def too_few_names(held: Contents) -> Any:
    held["meta_archs"] = held["meta_archs"][:5]
    return held


def names_of_another_space(held: Contents) -> Any:
    held["meta_archs"][3] = "64:64:64:64:64"
    return held


def names_that_are_numbers(held: Contents) -> Any:
    held["meta_archs"] = list(range(COUNT))
    return held


def one_cell_twice(held: Contents) -> Any:
    held["meta_archs"][9] = held["meta_archs"][2]
    return held


def no_architectures(held: Contents) -> Any:
    held["arch2infos"] = {}
    return held


def infinite_index(held: Contents) -> Any:
    held["arch2infos"][math.inf] = held["arch2infos"].pop(0)
    return held


def negative_index(held: Contents) -> Any:
    held["arch2infos"][-1] = held["arch2infos"].pop(0)
    return held


def without_short(held: Contents) -> Any:
    del held["arch2infos"][4]["less"]
    return held


def by_epochs(held: Contents) -> Any:
    """As in NATS-Bench, its successor."""
    held["arch2infos"] = {
        index: {"12": info["less"], "200": info["full"]} for index, info in held["arch2infos"].items()
    }
    return held


def run_of_another_length(held: Contents) -> Any:
    first_trial(held)["epochs"] = 90
    return held


def run_without_length(held: Contents) -> Any:
    first_trial(held)["epochs"] = None
    return held


def run_that_clears_the_screen(held: Contents) -> Any:
    first_trial(held)["epochs"] = "\x1b[2J"
    return held


def run_that_is_missing(held: Contents) -> Any:
    del held["arch2infos"][0]["full"]["all_results"]["cifar100", 777]
    return held


def run_that_is_a_text(held: Contents) -> Any:
    held["arch2infos"][0]["full"]["all_results"]["cifar100", 777] = "lost"
    return held


def accuracy_above_all(held: Contents) -> Any:
    first_trial(held)["eval_acc1es"]["x-valid@199"] = 100.5
    return held


def accuracy_that_is_none(held: Contents) -> Any:
    first_trial(held)["eval_acc1es"]["x-valid@199"] = math.nan
    return held


def accuracies_in_a_list(held: Contents) -> Any:
    first_trial(held)["eval_acc1es"] = [50.0] * 200
    return held


def infinite_size(held: Contents) -> Any:
    for trial in held["arch2infos"][0]["full"]["all_results"].values():
        trial["params"] = math.inf
    return held


def other_data_sets(held: Contents) -> Any:
    for info in held["arch2infos"][0].values():
        info["dataset_seed"] = {"svhn": [777]}
        info["all_results"] = {("svhn", seed): trial for (_, seed), trial in info["all_results"].items()}
    return held


def accuracies_under_another_name(held: Contents) -> Any:
    for info in held["arch2infos"][0].values():
        for trial in info["all_results"].values():
            trial["eval_accs"] = trial.pop("eval_acc1es")
    return held


@pytest.mark.parametrize(
    "change",
    [
        of_another_kind, weights, no_names, too_few_names, names_of_another_space, names_that_are_numbers,
        one_cell_twice, no_architectures, infinite_index, negative_index, without_short, by_epochs,
        run_of_another_length, run_without_length, run_that_clears_the_screen, run_that_is_missing,
        run_that_is_a_text, accuracy_above_all,
        accuracy_that_is_none, accuracies_in_a_list, infinite_size, other_data_sets,
        accuracies_under_another_name,
    ],
)  # fmt: skip
def test_another_structure_is_refused_and_leaves_nothing(
    tmp_path: Path, data: Path, command: CommandLine, fresh: Contents, change: Callable[[Contents], Any]
) -> None:
    official = save(tmp_path / "official.pth", change(fresh))
    done = command("benchmark", "import", "nasbench201", official)
    check_refused(done, f"{official} does not have the structure of an official file", "NAS-Bench-201-v1_1-096897.pth")
    assert listing(tmp_path) == {"official.pth"}


def test_an_archive_with_a_file_of_another_architecture_is_refused(
    tmp_path: Path, data: Path, command: CommandLine, held: dict[Version, Contents]
) -> None:
    folder = save_archive(tmp_path / "archive", held["v1_0"])
    shutil.copy(folder / "000003-FULL.pth", folder / "000005-FULL.pth")
    check_refused(command("benchmark", "import", "nasbench201", folder), "000005-FULL.pth", "architecture 5")
    (folder / "000005-FULL.pth").write_bytes(b"lost")
    check_refused(command("benchmark", "import", "nasbench201", folder), "000005-FULL.pth is not a complete file")
    assert not data.exists()


def test_a_source_that_is_not_there_is_refused(tmp_path: Path, data: Path, command: CommandLine) -> None:
    check_refused(command("benchmark", "import", "nasbench201", "none.pth"), "none.pth does not exist")
    (tmp_path / "empty").mkdir()
    check_refused(command("benchmark", "import", "nasbench201", "empty"), "000000-FULL.pth", "empty has none")
    (tmp_path / "link.pth").symlink_to("nowhere")
    check_refused(command("benchmark", "import", "nasbench201", "link.pth"), "link.pth is neither a file nor")
    os.mkfifo(tmp_path / "pipe.pth")
    check_refused(command("benchmark", "import", "nasbench201", "pipe.pth"), "pipe.pth is neither a file nor")
    assert not data.exists()


def test_an_existing_table_is_not_overwritten(
    tmp_path: Path, data: Path, command: CommandLine, held: dict[Version, Contents]
) -> None:
    official = save(tmp_path / "official.pth", held["v1_0"])
    target = data / "nasbench201" / "official.csv.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    check_refused(command("benchmark", "import", "nasbench201", official), f"{target} exists", "--out")
    assert target.read_bytes() == b"mine"
    assert listing(data) == {"nasbench201", "nasbench201/official.csv.gz"}


@pytest.mark.parametrize(
    "out",
    [
        "official.pth/table.csv.gz",
        "/proc/nowhere/table.csv.gz",
        f"new/{'x' * 300}.csv.gz",
        f"new/{'x' * 300}/table.csv.gz",
        "new/table.csv",
        ".",
    ],
    ids=["below a file", "no place to write", "long name", "long folder", "another kind", "folder"],
)
def test_an_impossible_target_is_refused_before_anything_is_read(
    tmp_path: Path,
    command: CommandLine,
    held: dict[Version, Contents],
    monkeypatch: pytest.MonkeyPatch,
    out: str,
) -> None:
    def load(path: Path) -> None:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(nasbench201_official, "_load", load)
    official = save(tmp_path / "official.pth", held["v1_0"])
    check_refused(command("benchmark", "import", "nasbench201", official, "--out", out), "--out")
    assert listing(tmp_path) == {"official.pth"}


def test_an_interrupted_import_leaves_nothing(
    tmp_path: Path, held: dict[Version, Contents], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nasbench201_official, "SLICE", 5)
    official = save(tmp_path / "official.pth", held["v1_0"])
    told = []

    def interrupt(done: int, total: int) -> None:
        told.append((done, total))
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        NASBench201Table.convert(official, tmp_path / "new" / "folder" / "table.csv.gz", interrupt)
    assert told == [(0, COUNT), (5, COUNT), (10, COUNT), (COUNT, COUNT)]
    assert listing(tmp_path) == {"official.pth"}


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, data: Path, command: CommandLine, held: dict[Version, Contents], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    official = save(tmp_path / "official.pth", held["v1_0"])
    with pytest.raises(StorageError, match="No space left"):
        NASBench201Table.convert(official, tmp_path / "new" / "table.csv.gz", quiet)
    done = command("benchmark", "import", "nasbench201", official)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "--out" in done.stderr
    assert listing(tmp_path) == {"official.pth"}


class Huge:
    """Pickled, it is a call of `bytearray`, which torch takes for harmless, for more memory than there is."""

    def __reduce__(self) -> tuple[type[bytearray], tuple[int]]:
        return bytearray, (2**60,)


def test_memory_that_runs_out_is_one_line_and_leaves_nothing(
    tmp_path: Path, data: Path, command: CommandLine, fresh: Contents
) -> None:
    official = save(tmp_path / "official.pth", fresh | {"evaluated_indexes": Huge()})
    done = command("benchmark", "import", "nasbench201", official)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "memory ran out" in done.stderr
    assert listing(tmp_path) == {"official.pth"}


def test_ctrl_c_while_the_file_is_opened_leaves_nothing(
    tmp_path: Path, held: dict[Version, Contents], command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "load", load)
    official = save(tmp_path / "official.pth", held["v1_0"])
    done = command("benchmark", "import", "nasbench201", official, "--out", "new/table.csv.gz")
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
    assert listing(tmp_path) == {"official.pth"}


# Memory


@pytest.mark.slow
@pytest.mark.parametrize(("archive", "version"), [(False, "v1_1"), (True, "v1_0")], ids=["single file", "archive"])
def test_memory_beside_the_opened_contents_does_not_grow_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bool, version: Version
) -> None:
    monkeypatch.setattr(nasbench201_official, "SLICE", 2)
    peaks = []
    for count in (2, 6, 24):  # the first loads modules
        held = contents(version, count)
        source = tmp_path / str(count)
        if archive:
            save_archive(source, held)
        else:
            source.touch()
            opened = [held]
            monkeypatch.setattr(nasbench201_official, "_load", lambda path, opened=opened: opened.pop())
        del held
        tracemalloc.start()
        try:
            NASBench201Table.convert(source, tmp_path / f"{count}.csv.gz", quiet)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] > 200_000  # a slice was seen
    assert peaks[2] < 1.25 * peaks[1], peaks
