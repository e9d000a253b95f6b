"""The command line against wrong input and right: exit codes, messages, which stream says what, and what is created."""

import csv
import gzip
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from nasplat.cli.app import COMMANDS
from nasplat.errors import InputError
from nasplat.export import bundle
from nasplat.export.verification import Verification
from nasplat.registry import BENCHMARKS, SEARCH_SPACES, STRATEGIES, Registry
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import CONFIG, LOG
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Measurement, Spent

VERIFIED = {"random": asdict(Verification(0.0, 1.0, (1,))), "real": None}
"""What is said of an export that is not in question."""

Done: TypeAlias = subprocess.CompletedProcess[str]
CommandLine: TypeAlias = Callable[..., Done]

# A search that would be right, and quick, were it not for what a test adds.
SEARCH = [
    "search", "--space", "nasbench201", "--set", "space.channels=1", "--set", "space.cells=1",
    "--benchmark", "classification", "--set", "benchmark.epochs=1",
    "--strategy", "regularized_evolution", "--objective", "accuracy:max",
]  # fmt: skip
BUDGET = ["--evaluations", "1"]

ON_TABLE = [
    "search", "--space", "nasbench201", "--benchmark", "nasbench201", "--strategy", "random_search",
    "--objective", "accuracy:max", "--objective", "params:min",
]  # fmt: skip


def listing(folder: Path) -> dict[str, str]:
    """Everything below a folder, by path: what a file holds, where a link leads."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            content = f"-> {path.readlink()}"
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        entries[str(path.relative_to(folder))] = content
    return entries


def check_refused(done: Done, *said: str) -> None:
    """Wrong input: exit code 2, one line on standard error, with everything that it should say."""
    assert done.returncode == 2, done.stderr + done.stdout
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    assert "\x1b" not in done.stderr
    for part in said:
        assert part in lines[0], f"{part!r} is missing in: {lines[0]}"


def check_done(done: Done) -> None:
    """Success: exit code 0, silence on standard error, and text without colours."""
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout


def strict_json(text: str) -> Any:
    """The one JSON document that a text is; JSON knows neither NaN nor Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def trials(run: Path) -> list[Measurement]:
    """The outcomes of a run, measurements all, without what they took."""
    history = RunDirectory(run).history()
    assert len(history.measurements) == len(history.outcomes)
    return [replace(measurement, spent=Spent()) for measurement in history.measurements]


# Tables that are not the real one


def write_table(path: Path, columns: list[str], rows: int = 500) -> Path:
    """A table of evenly spread cells; all figures are made up."""
    space = NASBench201()
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "arch_str", *columns])
        for row in range(rows):
            index = row * 15625 // rows
            code = "".join(str(index // 5**gene % 5) for gene in range(6))
            official = space.official(space.parse(code))
            writer.writerow([index, official, *(10 + (7 * index + place) % 80 for place in range(len(columns)))])
    return path


COLUMNS = ["c10_valid_200", "c10_test_200", "c10_train_time_12ep_s"]


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of one's own, empty."""
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("NASPLAT_DATA", str(folder))
    return folder


@pytest.fixture
def small_table(data: Path) -> Path:
    """A data folder with a table that holds a part of the space."""
    return write_table(data / "nasbench201" / "cifar10.csv.gz", COLUMNS)


# Wrong input of a search

WRONG: dict[str, tuple[list[str], list[str]]] = {
    "unknown space": (["--space", "nasbench21"], ["search space", "'nasbench21'", "did you mean 'nasbench201'"]),
    "unknown strategy": (
        ["--strategy", "randm_search"],
        ["strategy", "'randm_search'", "did you mean 'random_search'", "local_search"],
    ),
    "unknown benchmark": (
        ["--benchmark", "clasification"],
        ["benchmark", "'clasification'", "did you mean 'classification'?", "nasbench201"],
    ),
    "unknown data set": (
        ["--set", "benchmark.dataset=digts"],
        ["data set", "'digts'", "did you mean 'digits'?"],
    ),
    "unknown option of the strategy": (
        ["--set", "strategy.populaton=5"],
        ["strategy", "'populaton'", "did you mean 'population'?", "sample"],
    ),
    "unknown option of the benchmark": (
        ["--set", "benchmark.epoch=5"],
        ["benchmark", "'epoch'", "did you mean 'epochs'?"],
    ),
    "unknown option of the space": (["--set", "space.channel=5"], ["space", "'channel'", "did you mean 'channels'?"]),
    "unknown budget": (["--set", "budget.second=5"], ["budget", "'second'", "did you mean 'seconds'"]),
    "unknown option of the executor": (["--set", "executor.worker=2"], ["executor", "did you mean 'workers'?"]),
    "unknown section": (["--set", "stategy.sample=5"], ["'stategy'", "strategy"]),
    "option without value": (["--set", "strategy.sample"], ["--set", "SECTION.OPTION=VALUE", "'strategy.sample'"]),
    "option without section": (["--set", "sample=5"], ["--set", "SECTION.OPTION=VALUE", "'sample=5'"]),
    "section alone": (["--set", "strategy=random"], ["--set", "SECTION.OPTION=VALUE", "'strategy=random'"]),
    "option too deep": (["--set", "strategy.sample.size=5"], ["strategy.sample", "integer", "'size': 5"]),
    "option of no group": (["--set", "benchmark.recipe.emma=.9"], ["recipe", "'emma'", "did you mean 'ema'"]),
    "option without end": (["--set", "benchmark.recipe.=1"], ["--set", "SECTION.OPTION=VALUE"]),
    "option without name": (["--set", "strategy.=5"], ["--set", "SECTION.OPTION=VALUE"]),
    "text for an integer": (["--set", "strategy.population=many"], ["strategy.population", "integer", "'many'"]),
    "fraction for an integer": (["--set", "space.channels=2.5"], ["space.channels", "integer", "2.5"]),
    "nothing for an integer": (["--set", "strategy.population="], ["strategy.population", "integer"]),
    "list for an integer": (["--set", "space.cells=[1, 2]"], ["space.cells", "integer", "[1, 2]"]),
    "text for a number": (
        ["--set", "benchmark.learning_rate=fast"],
        ["benchmark.recipe.learning_rate", "number", "'fast'"],
    ),
    "number that is none": (["--set", "benchmark.learning_rate=.nan"], ["benchmark.recipe.learning_rate", "nan"]),
    "value that is no choice": (
        ["--set", "strategy.duplicates=always"],
        ["strategy.duplicates", "'cache', 'redraw' or 'measure'", "'always'"],
    ),
    "value out of range": (["--set", "benchmark.epochs=0"], ["benchmark.epochs", "greater than or equal to 1", "0"]),
    "value at an open end": (
        ["--set", "benchmark.learning_rate=0"],
        ["benchmark.recipe.learning_rate", "greater than 0", "0"],
    ),
    "value beyond an open end": (["--set", "benchmark.momentum=1"], ["benchmark.recipe.momentum", "less than 1", "1"]),
    "CPUs that are none": (["--executor", "ray", "--cpus-per-worker", "0"], ["executor.cpus_per_worker", "than 0"]),
    "value the space refuses": (["--set", "space.channels=0"], ["channels=0", "at least 1"]),
    "values that contradict": (
        ["--set", "strategy.population=5", "--set", "strategy.sample=9"],
        ["sample <= population", "sample=9", "population=5"],
    ),
    "objective without direction": (["--objective", "accuracy"], ["METRIC:max or METRIC:min", "'accuracy'"]),
    "objective with another direction": (["--objective", "accuracy:best"], ["METRIC:max", "'accuracy:best'"]),
    "objective without metric": (["--objective", ":max"], ["METRIC:max or METRIC:min", "':max'"]),
    "objective that is empty": (["--objective", ""], ["METRIC:max or METRIC:min", "''"]),
    "objective in the wrong direction": (["--objective", "loss:max"], ["lower loss is better", "loss:min"]),
    "objective given twice": (["--objective", "accuracy:min"], ["accuracy", "twice"]),
    "unknown metric": (["--objective", "acuracy:min"], ["metric", "'acuracy'", "did you mean 'accuracy'?", "params"]),
    "constraint on an unknown metric": (["--constraint", "param<=5e6"], ["'param'", "did you mean 'params'?"]),
    "constraint that is strict": (["--constraint", "params<5"], ["METRIC<=NUMBER or METRIC>=NUMBER", "'params<5'"]),
    "constraint without bound": (["--constraint", "params<="], ["METRIC<=NUMBER", "'params<='"]),
    "constraint with text": (["--constraint", "params<=many"], ["METRIC<=NUMBER", "'params<=many'"]),
    "constraint with no number": (["--constraint", "params<=nan"], ["METRIC<=NUMBER", "'params<=nan'"]),
    "constraint with equality": (["--constraint", "params==5"], ["METRIC<=NUMBER", "'params==5'"]),
    "constraint that nothing keeps": (["--constraint", "params<=1"], ["feasible", "params<=1", "relax"]),
    "constraints that contradict": (
        ["--constraint", "params<=2000", "--constraint", "params>=9000"],
        ["feasible", "params<=2000", "params>=9000"],
    ),
    "budget of nothing": (["--evaluations", "0"], ["budget", "positive", "evaluations=0"]),
    "budget below nothing": (["--evaluations", "-4"], ["budget", "positive", "evaluations=-4"]),
    "budget of no seconds": (["--seconds", "0"], ["budget", "positive", "seconds=0"]),
    "budget of seconds that are no number": (["--seconds", "nan"], ["budget.seconds", "finite", "nan"]),
    "budget of images below nothing": (["--images", "-1"], ["budget", "positive", "images=-1"]),
    "workers in one process": (["--executor", "inline", "--workers", "2"], ["workers", "--executor ray"]),
    "workers without an executor": (["--workers", "2"], ["workers", "--executor ray"]),
    "no workers": (["--executor", "ray", "--workers", "0"], ["executor.workers", "greater than or equal to 1"]),
    "unknown executor": (["--executor", "rya"], ["executor", "'inline' or 'ray'", "'rya'"]),
    "seed below nothing": (["--seed", "-1"], ["seed", "greater than or equal to 0", "-1"]),
    "place below a file": (["--out", "file/run"], ["file/run", "cannot be created", "--out"]),
    "place that is a file": (["--out", "file"], ["file exists", "--out"]),
    "place that is a folder": (["--out", "folder"], ["folder exists", "--out"]),
    "place that is a broken link": (["--out", "link"], ["link exists", "--out"]),
    "place with a name that leaves no room": (["--out", f"new/deep/{'x' * 250}"], ["cannot be created", "--out"]),
    "place with a name that is too long": (["--out", "x" * 300], ["cannot be created", "--out"]),
    "configuration that is missing": (["nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
    "configuration that is a folder": (["folder"], ["folder", "cannot be read"]),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_in_one_line_and_nothing_is_created(
    arguments: list[str], said: list[str], command: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    before = listing(tmp_path)
    check_refused(command(*SEARCH, *BUDGET, *arguments), *said)
    assert listing(tmp_path) == before


def test_the_search_that_those_add_something_to_is_right(command: CommandLine, tmp_path: Path) -> None:
    check_done(command(*SEARCH, *BUDGET, "--out", "run"))
    assert len(trials(tmp_path / "run")) == 1


@pytest.mark.slow
def test_wrong_input_is_refused_by_a_real_process_too(nasplat: CommandLine, tmp_path: Path) -> None:
    check_refused(nasplat(*SEARCH, *BUDGET, "--strategy", "randm_search"), "did you mean 'random_search'")
    check_refused(nasplat(*SEARCH, *BUDGET, "--constraint", "params<=1", "--json"), "params<=1")
    check_refused(nasplat("show", "nowhere", "--json"), "nowhere does not exist")
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    "budget", [[], ["--images", "1000"], ["--device-seconds", "9"]], ids=["none", "images alone", "device alone"]
)
def test_a_search_needs_a_budget_that_it_reaches(budget: list[str], command: CommandLine, tmp_path: Path) -> None:
    check_refused(command(*SEARCH, *budget), "budget", "--evaluations N", "--seconds N")
    assert listing(tmp_path) == {}


def test_a_search_says_all_that_it_lacks(command: CommandLine, tmp_path: Path) -> None:
    check_refused(command("search"), "space, benchmark, objectives", "nasplat search --space")
    check_refused(command(*SEARCH[:3]), "benchmark, objectives")
    assert listing(tmp_path) == {}


@pytest.mark.slow
def test_a_space_that_the_benchmark_cannot_measure_is_refused(
    installed: dict[str, str], tmp_path: Path, small_table: Path
) -> None:
    arguments = [
        "search", "--space", "demo_perceptron", "--benchmark", "nasbench201", "--strategy", "random_search",
        "--objective", "accuracy:max", "--evaluations", "3",
    ]  # fmt: skip
    environment = {**installed, "NASPLAT_DATA": os.environ["NASPLAT_DATA"]}
    done = subprocess.run(
        [sys.executable, "-m", "nasplat", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    check_refused(done, "nasbench201", "demo_perceptron")
    assert listing(tmp_path) == {}


# Wrong configurations

CONFIGURATIONS: dict[str, tuple[str, list[str], list[str]]] = {
    "no YAML": ("space: [", [], ["config.yaml", "not YAML"]),
    "no mapping": ("- space", [], ["config.yaml", "mapping", "list"]),
    "empty": ("", [], ["config.yaml", "mapping"]),
    "unknown key": ("sed: 1", [], ["'sed'", "did you mean 'seed'?"]),
    "unknown key in a section": ("budget: {evaluation: 3}", [], ["budget", "did you mean 'evaluations'"]),
    "several things wrong": ("sed: 1\nbudgets: {}", [], ["'sed'", "'budgets'", "did you mean 'budget'?"]),
    "unknown option of a plug-in": (
        "strategy: {name: random_search, duplicate: redraw}", [], ["'duplicate'", "did you mean 'duplicates'?"],
    ),
    "plug-in without a name": ("strategy: {duplicates: redraw}", [], ["strategy.name", "missing"]),
    "key that is no text": ("1: 2", [], ["1"]),
    "seed that is no number": ("seed: one", [], ["seed", "integer", "'one'"]),
    "objectives that are no list": ("objectives: accuracy:max", [], ["objectives", "list", "'accuracy:max'"]),
    "no objectives": ("objectives: []", [], ["objective"]),
    "constraint with wrong form": ("constraints: ['params<5']", [], ["METRIC<=NUMBER", "'params<5'"]),
    "number for a section": ("budget: 5", [], ["budget", "5"]),
    "number for a section that a flag adds to": ("budget: 5", ["--seconds", "9"], ["budget", "5"]),
    "text for a section that a flag adds to": ("executor: inline", ["--workers", "2"], ["executor"]),
    "list for a section that a flag adds to": ("executor: [ray]", ["--workers", "2"], ["executor"]),
    "nothing for a plug-in": ("strategy:", [], ["strategy"]),
    "nothing for a plug-in that --set adds to": ("strategy:", ["--set", "strategy.duplicates=redraw"], ["strategy"]),
    "number for a plug-in that --set adds to": ("strategy: 5", ["--set", "strategy.duplicates=redraw"], ["strategy"]),
    "list for a section that --set adds to": ("budget: [5]", ["--set", "budget.seconds=9"], ["budget"]),
}  # fmt: skip

RIGHT = {
    "space": {"name": "nasbench201", "channels": 1, "cells": 1},
    "benchmark": {"name": "classification", "epochs": 1},
    "strategy": "regularized_evolution",
    "objectives": ["accuracy:max"],
    "budget": {"evaluations": 1},
}


@pytest.mark.parametrize(("text", "flags", "said"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_wrong_configuration_is_refused_in_one_line_and_nothing_is_created(
    text: str, flags: list[str], said: list[str], command: CommandLine, tmp_path: Path
) -> None:
    # What the text gives takes the place of what would be right.
    rest = {key: value for key, value in RIGHT.items() if not re.search(rf"^{key}:", text, re.MULTILINE)}
    whole = f"{text}\n{yaml.safe_dump(rest)}" if re.match(r"\w+:( [^\[]|$| \[.*\]$)", text) else text
    (tmp_path / "config.yaml").write_text(whole)
    before = listing(tmp_path)
    check_refused(command("search", "config.yaml", *flags), *said)
    assert listing(tmp_path) == before


def test_a_configuration_that_is_no_text_is_refused(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    before = listing(tmp_path)
    check_refused(command("search", "config.yaml"), "config.yaml", "not YAML")
    assert listing(tmp_path) == before


# Wrong tables


def test_a_folder_without_tables_is_named_with_the_remedy(command: CommandLine, tmp_path: Path, data: Path) -> None:
    check_refused(command(*ON_TABLE, *BUDGET), str(data / "nasbench201"), "NASPLAT_DATA", "arch_str")
    assert listing(tmp_path) == {} == listing(data)


def test_a_table_of_another_data_set_says_what_is_absent_and_what_is_there(
    command: CommandLine, tmp_path: Path, data: Path
) -> None:
    write_table(data / "nasbench201" / "other.csv.gz", [name.replace("c10", "c100") for name in COLUMNS], rows=5)
    check_refused(command(*ON_TABLE, *BUDGET), "no table", "has cifar10 ", "the data sets there: cifar100")
    check_refused(
        command(*ON_TABLE, *BUDGET, "--set", "benchmark.dataset=imagenet16-120"),
        "has imagenet16-120 ",
        "the data sets there: cifar100",
    )
    assert listing(tmp_path) == {}


def test_a_data_set_or_schedule_that_nobody_published_is_refused_with_what_there_is(
    command: CommandLine, tmp_path: Path, small_table: Path
) -> None:
    for option, known in (("dataset=cifar1", "'cifar10'"), ("epochs=90", "12 or 200"), ("search_column=all", "'test'")):
        value = option.partition("=")[2]
        check_refused(
            command(*ON_TABLE, *BUDGET, "--set", f"benchmark.{option}"), f"benchmark.{option[:6]}", known, value
        )
    assert listing(tmp_path) == {}


def test_a_column_that_is_missing_is_named(command: CommandLine, tmp_path: Path, small_table: Path) -> None:
    check_refused(command(*ON_TABLE, *BUDGET, "--set", "benchmark.single_seed=true"), "c10_valid_200_1seed", *COLUMNS)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_table_is_refused_by_name(kept: float, command: CommandLine, tmp_path: Path, data: Path) -> None:
    path = write_table(data / "nasbench201" / "cifar10.csv.gz", COLUMNS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    before = listing(data)
    check_refused(command(*ON_TABLE, *BUDGET), str(path if kept else path.parent), "damaged" if kept else "arch_str")
    assert (listing(tmp_path), listing(data)) == ({}, before)


# Wrong runs


@pytest.mark.parametrize("name", ["resume", "show", "export", "report"])
def test_what_is_no_run_is_refused_and_left_as_it_is(name: str, command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / CONFIG).write_text("seed: 0")
    before = listing(tmp_path)
    for given, said in (
        ("nowhere", "nowhere does not exist"),
        ("folder", "folder is not a run directory"),
        ("half", "half is not a run directory"),
        ("file", "file is not a run directory"),
        (".", ". is not a run directory"),
    ):
        check_refused(command(name, given), said, "nasplat runs")
        assert listing(tmp_path) == before


def test_a_folder_of_runs_that_is_not_there_is_refused(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    before = listing(tmp_path)
    for arguments, said in ((["nowhere"], "nowhere"), (["file"], "file"), ([], "runs")):
        check_refused(command("runs", *arguments), f"{said} is not a folder")
    assert listing(tmp_path) == before


@pytest.fixture
def run(command: CommandLine, tmp_path: Path, small_table: Path) -> Path:
    """A finished run on a table, in the directory where commands run."""
    check_done(command(*ON_TABLE, "--evaluations", "12", "--out", "run"))
    return tmp_path / "run"


def test_a_run_that_exists_is_not_searched_over(run: Path, command: CommandLine, tmp_path: Path) -> None:
    before = listing(tmp_path)
    check_refused(command(*ON_TABLE, *BUDGET, "--out", "run"), "run exists", "--out", "nasplat resume run")
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("pick", "said"),
    [
        ("worst", ["best, knee or a trial's number", "'worst'"]),
        ("", ["best, knee or a trial's number"]),
        ("1.5", ["best, knee or a trial's number", "'1.5'"]),
        ("-1", ["best, knee or a trial's number", "'-1'"]),
        ("9" * 5000, ["no finished trial 999"]),
        ("bins", ["best, knee or a trial's number, or bins:M", "'bins'"]),
        ("bins:", ["bins:M takes a number of ranges from 1 to 1000, such as bins:4", "'bins:'"]),
        ("bins:0", ["from 1 to 1000", "'bins:0'"]),
        ("bins:-1", ["from 1 to 1000", "'bins:-1'"]),
        ("bins:x", ["from 1 to 1000", "'bins:x'"]),
        ("bins:1.5", ["from 1 to 1000", "'bins:1.5'"]),
        ("bins: 2", ["from 1 to 1000", "'bins: 2'"]),
        ("bins:²", ["from 1 to 1000"]),
        ("bins:1001", ["from 1 to 1000", "'bins:1001'"]),
        ("bins:" + "9" * 5000, ["from 1 to 1000"]),
        ("12", ["no finished trial 12", "12 outcomes"]),
        ("99999999999999999999", ["no finished trial 99999999999999999999"]),
    ],
)
def test_a_pick_that_is_not_there_is_refused(
    pick: str, said: list[str], run: Path, command: CommandLine, tmp_path: Path
) -> None:
    before = listing(tmp_path)
    check_refused(command("export", "run", "--pick", pick, "--untrained"), *said)
    assert listing(tmp_path) == before


def test_bins_need_a_second_objective(command: CommandLine, tmp_path: Path, small_table: Path) -> None:
    check_done(command(*ON_TABLE[:-2], "--evaluations", "3", "--out", "run"))
    before = listing(tmp_path)
    check_refused(command("export", "run", "--pick", "bins:2", "--untrained"), "second objective", "accuracy:max")
    assert listing(tmp_path) == before


@pytest.fixture
def quick_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without an ONNX model, which takes seconds."""
    monkeypatch.setattr(bundle, "write_onnx", lambda network, io, path, **how: None)
    monkeypatch.setattr(bundle, "verified", lambda *given, **how: VERIFIED)
    monkeypatch.setattr(bundle, "measured_latency", lambda *given, **how: None)


@pytest.mark.exports
@pytest.mark.slow
def test_bins_are_exported_into_a_folder_each(
    run: Path, command: CommandLine, tmp_path: Path, quick_exports: None
) -> None:
    members = RunDirectory(run).history().picks("bins:2")
    assert 2 <= len(members) <= 3 and [m.metrics["params"] for m in members] == sorted(
        m.metrics["params"] for m in members
    )
    names = [f"trial-{m.id}" for m in members]
    done = command("export", "run", "--pick", "bins:2", "--untrained")
    check_done(done)
    assert [line.split("/")[-1] for line in done.stdout.splitlines() if line.startswith("exported:")] == names
    assert sorted(path.name for path in (run / "export").iterdir()) == sorted(names)
    again = command("export", "run", "--pick", "bins:002", "--untrained", "--out", "deep/new", "--json")
    check_done(again)
    documents = strict_json(again.stdout)
    assert [each["folder"] for each in documents] == [f"deep/new/{name}" for name in names]
    assert [each["architecture"] for each in documents] == [m.architecture.code for m in members]
    single = command("export", "run", "--pick", "best", "--untrained", "--out", "single", "--json")
    assert strict_json(single.stdout)["folder"] == "single"


@pytest.mark.exports
def test_bins_are_not_exported_where_one_of_them_lies_already(
    run: Path, command: CommandLine, tmp_path: Path, quick_exports: None
) -> None:
    largest = RunDirectory(run).history().picks("bins:2")[-1]
    (tmp_path / "new" / f"trial-{largest.id}").mkdir(parents=True)
    before = listing(tmp_path)
    refused = command("export", "run", "--pick", "bins:2", "--untrained", "--out", "new")
    check_refused(refused, f"new/trial-{largest.id} exists", "--out")
    assert listing(tmp_path) == before


@pytest.mark.exports
def test_a_network_without_weights_is_not_exported(run: Path, command: CommandLine, tmp_path: Path) -> None:
    before = listing(tmp_path)
    for pick in ("best", "knee", "3"):
        check_refused(command("export", "run", "--pick", pick, "--out", "new/deep"), "left no weights", "--untrained")
    assert listing(tmp_path) == before


@pytest.mark.slow
def test_a_place_for_a_result_that_cannot_be_written_is_refused(
    run: Path, command: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    before = listing(tmp_path)
    check_refused(command("export", "run", "--untrained", "--out", "run"), "run exists", "--out")
    check_refused(command("export", "run", "--untrained", "--out", "file/new"), "file/new cannot be created", "--out")
    check_refused(command("report", "run", "--out", "nowhere/report.html"), "nowhere/report.html", "--out")
    check_refused(command("report", "run", "--out", "."), ". cannot be written", "--out")
    assert listing(tmp_path) == before


@pytest.mark.slow
def test_a_run_that_somebody_writes_is_not_resumed(run: Path, nasplat: CommandLine, tmp_path: Path) -> None:
    with RunDirectory(run).writing():
        events = RunDirectory(run).history().outcomes
        check_refused(nasplat("resume", "run"), "run is being written by another process")
        assert RunDirectory(run).history().outcomes == events


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--evaluations", "0"], ["positive", "evaluations=0"]),
        (["--seconds", "-1"], ["positive", "seconds=-1"]),
        (["--evaluations", "5"], ["12 evaluations", "5"]),
        (["--seconds", "1e-9"], ["seconds already", "1e-09"]),
        (["--device-seconds", "1e-12"], ["device_seconds already", "1e-12"]),
    ],
)
def test_a_resumed_run_is_not_given_a_budget_that_it_has_passed(
    flags: list[str], said: list[str], run: Path, command: CommandLine, tmp_path: Path
) -> None:
    before = listing(tmp_path)
    check_refused(command("resume", "run", *flags), *said)
    assert listing(tmp_path) == before


def test_one_architecture_is_looked_up_by_code_or_official_string(run: Path, command: CommandLine) -> None:
    trials = strict_json(command("show", "run", "--json").stdout)["front"]
    code = trials[0]["architecture"]
    for given in (code, NASBench201().official(NASBench201().parse(code))):
        done = command("show", "run", "--architecture", given, "--json")
        check_done(done)
        found = strict_json(done.stdout)
        assert {trial["architecture"] for trial in found["trials"]} == {code}
        assert (found["shown"], found["measured"]) == (len(found["trials"]), 12)
    check_done(command("show", "run", "--architecture", code))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("33431x", ["gene 6 (3<-2)", "'x'", "0 (none)", "4 (avg_pool_3x3)"]),
        ("33431", ["6 symbols", "has 5"]),
        ("|none~0|+|none~0|none~1|+|skip~0|none~1|none~2|", ["edge 3<-0", "'skip'", "skip_connect"]),
    ],
)
def test_a_malformed_architecture_is_refused_with_its_gene(
    code: str, said: list[str], run: Path, command: CommandLine, tmp_path: Path
) -> None:
    before = listing(tmp_path)
    check_refused(command("show", "run", "--architecture", code), *said)
    assert listing(tmp_path) == before


def test_the_front_is_measured_on_the_test_split_when_asked(run: Path, command: CommandLine) -> None:
    plain_front = strict_json(command("show", "run", "--front", "--json").stdout)["trials"]
    assert all("final" not in member for member in plain_front)
    tested = strict_json(command("show", "run", "--front", "--test", "--json").stdout)["trials"]
    assert [member["architecture"] for member in tested] == [member["architecture"] for member in plain_front]
    assert {member["final"]["split"] for member in tested} == {"test"}
    assert all(0 <= member["final"]["metrics"]["accuracy"] <= 1 for member in tested)
    done = command("show", "run", "--front", "--test")
    check_done(done)
    assert "test accuracy" in done.stdout
    check_refused(command("show", "run", "--test"), "--test", "--front")
    check_refused(command("show", "run", "--front", "--architecture", "000000"), "--front", "--architecture")


def test_a_damaged_run_says_so_and_hides_no_other(run: Path, command: CommandLine, tmp_path: Path) -> None:
    check_done(command(*ON_TABLE, *BUDGET, "--out", "hurt"))
    log = tmp_path / "hurt" / LOG
    log.write_bytes(log.read_bytes()[:3000])
    before = listing(tmp_path)
    for name in ("show", "resume", "report", "export"):
        done = command(name, "hurt")
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
        assert str(Path("hurt") / LOG) in done.stderr
    done = command("runs", ".", "--json")
    check_done(done)
    assert [(each["run"], each["status"]) for each in strict_json(done.stdout)] == [
        ("hurt", "damaged"), ("run", "finished"),
    ]  # fmt: skip
    assert listing(tmp_path) == before


# Commands that are no commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serch"], "serch"),
        (["search", "--evaluations", "many"], "--evaluations"),
        (["search", "--evalutions", "3"], "--evalutions"),
        (["search", "--seed"], "--seed"),
        (["search", "one.yaml", "two.yaml"], "two.yaml"),
        (["show"], "run"),
        (["show", "run", "--top", "0"], "--top"),
        (["list", "strategy"], "strategy"),
    ],
)
def test_a_command_that_is_misspelt_says_so_without_a_traceback(
    arguments: list[str], said: str, command: CommandLine, tmp_path: Path
) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr and "\x1b" not in done.stderr
    assert listing(tmp_path) == {}


@pytest.mark.slow
def test_a_misspelt_command_is_no_traceback_in_a_real_process(nasplat: CommandLine, tmp_path: Path) -> None:
    done = nasplat("serch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "serch" in done.stderr and "Traceback" not in done.stderr
    assert "Did you mean" in done.stderr and "search" in done.stderr
    assert listing(tmp_path) == {}


@pytest.mark.slow
def test_help_is_given_with_and_without_being_asked_for(command: CommandLine) -> None:
    names = set(COMMANDS)
    assert {"search", "resume", "show", "export"} <= names
    alone, asked = command(), command("--help")
    assert alone.returncode in (0, 2) and "Traceback" not in alone.stderr
    for name in names:
        assert name in alone.stdout + alone.stderr
        assert name in asked.stdout
        done = command(name, "--help")
        check_done(done)
        assert "Usage" in done.stdout
    check_done(asked)


# Right input: what is printed where, and what is created


@pytest.mark.slow
def test_a_search_on_the_table_as_a_user_meets_it(nasplat: CommandLine, tmp_path: Path, table: Path) -> None:
    done = nasplat(*ON_TABLE, "--evaluations", "30")
    check_done(done)
    name = "runs/random_search-nasbench201-1"
    assert name in done.stdout and "30 measured" in done.stdout
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["random_search-nasbench201-1"]
    outcomes = trials(tmp_path / name)
    assert [outcome.id for outcome in outcomes] == list(range(30))

    done = nasplat(*ON_TABLE, "--evaluations", "30", "--json")
    check_done(done)
    said = strict_json(done.stdout)
    assert said["run"] == "runs/random_search-nasbench201-2"
    assert (said["status"], said["evaluations"], said["outcomes"]["measured"]) == ("finished", 30, 30)
    assert trials(tmp_path / said["run"]) == outcomes

    # An independent look: the table's own figures, and a front by comparing every pair.
    space = NASBench201()
    with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
        rows = {space.parse(row["arch_str"]).code: row for row in csv.DictReader(file)}
    found = [(outcome.architecture.code, outcome.metrics) for outcome in outcomes]
    for code, metrics in found:
        assert metrics["accuracy"] == pytest.approx(float(rows[code]["c10_valid_200"]) / 100)
        assert metrics["params"] == pytest.approx(1e6 * float(rows[code]["c10_params_M"]))
    figures = {code: (-metrics["accuracy"], metrics["params"]) for code, metrics in found}
    front = [
        code for code, (loss, params) in figures.items()
        if not any(other != (loss, params) and other[0] <= loss and other[1] <= params for other in figures.values())
    ]  # fmt: skip
    assert [member["architecture"] for member in said["front"]] == sorted(front, key=lambda code: figures[code])
    assert len(front) > 3

    shown = nasplat("show", name, "--front")
    check_done(shown)
    assert all(code in shown.stdout for code in front)
    assert sum(line[:1].isdecimal() for line in shown.stdout.splitlines()) == len(front)


def test_a_run_is_shown_as_text_and_as_json(run: Path, command: CommandLine, tmp_path: Path) -> None:
    before = listing(tmp_path)
    text, front, top = command("show", "run"), command("show", "run", "--front"), command("show", "run", "--top", "2")
    for done in (text, front, top):
        check_done(done)
    for word in ("run", "finished", "random_search", "nasbench201", "accuracy:max", "params:min", "12, 0 failed"):
        assert word in text.stdout
    rows = [line for line in text.stdout.splitlines() if re.match(r"\d+ +[0-4]{6} ", line)]
    assert len(rows) == 10 and len(re.findall(r"(?m)^\d+ +[0-4]{6} ", top.stdout)) == 2

    whole, members = command("show", "run", "--json"), command("show", "run", "--front", "--json")
    check_done(whole)
    check_done(members)
    said, of_front = strict_json(whole.stdout), strict_json(members.stdout)
    assert (said["run"], said["status"], said["outcomes"], said["failed"]) == ("run", "finished", 12, 0)
    assert (said["measured"], said["shown"], len(said["trials"])) == (12, 10, 10)
    assert (of_front["shown"], of_front["trials"]) == (len(said["front"]), said["front"])
    apart = {"shown", "trials"}
    assert {key: of_front[key] for key in of_front if key not in apart} == {
        key: said[key] for key in said if key not in apart
    }
    assert said["trials"][0] == said["front"][0]
    assert said["best"].items() <= said["front"][0]["metrics"].items()
    assert said["best"] == strict_json(command("runs", ".", "--json").stdout)[0]["best"]
    assert all(member["architecture"] in front.stdout for member in said["front"])
    assert {member["split"] for member in said["front"]} == {"validation"}
    assert listing(tmp_path) == before


@pytest.mark.slow
def test_runs_are_listed_as_text_and_as_json(run: Path, command: CommandLine, tmp_path: Path) -> None:
    for _ in range(2):
        check_done(command(*ON_TABLE, "--evaluations", "3"))
    text, said = command("runs"), command("runs", "--json")
    check_done(text)
    check_done(said)
    names = [f"runs/random_search-nasbench201-{number}" for number in (1, 2)]
    assert all(name in text.stdout for name in names)
    assert [(each["run"], each["outcomes"]) for each in strict_json(said.stdout)] == [(name, 3) for name in names]
    here = command("runs", ".", "--json")
    assert [each["run"] for each in strict_json(here.stdout)] == ["run"]

    (tmp_path / "runs" / "random_search-nasbench201-1").rename(tmp_path / "runs" / "random_search-nasbench201-3")
    assert "runs/random_search-nasbench201-1" in command(*ON_TABLE, *BUDGET).stdout
    assert "runs/random_search-nasbench201-4" in command(*ON_TABLE, *BUDGET).stdout

    (tmp_path / "none").mkdir()
    check_done(command("runs", "none"))
    assert strict_json(command("runs", "none", "--json").stdout) == []


def test_a_run_in_the_making_is_not_listed(run: Path, command: CommandLine, tmp_path: Path) -> None:
    run.rename(tmp_path / ".run.abcdef")  # as a process that is killed at the wrong moment leaves it
    done = command("runs", ".", "--json")
    check_done(done)
    assert strict_json(done.stdout) == []


def test_everything_registered_is_listed(command: CommandLine, tmp_path: Path) -> None:
    text, said = command("list"), command("list", "--json")
    check_done(text)
    check_done(said)
    kinds = strict_json(said.stdout)
    assert list(kinds) == ["search-spaces", "strategies", "predictors", "benchmarks", "transforms", "datasets"]
    registries: dict[str, Registry[Any]] = {
        "search-spaces": SEARCH_SPACES, "strategies": STRATEGIES, "benchmarks": BENCHMARKS,
    }  # fmt: skip
    for kind, registry in registries.items():
        assert [entry["name"] for entry in kinds[kind]] == registry.names()
        one = command("list", kind, "--json")
        assert strict_json(one.stdout) == {kind: kinds[kind]}
    for entries in kinds.values():
        for entry in entries:
            assert entry["name"] in text.stdout
            assert entry["summary"] and "BROKEN" not in entry["summary"]
    assert max(map(len, text.stdout.splitlines())) <= 100
    lines = text.stdout.splitlines()
    for registry in registries.values():
        for plugin in registry:
            assert any(line.split()[:1] == [plugin.name] for line in lines), f"{plugin.name} has a line of its own"
    options = {entry["name"]: entry["options"] for entry in kinds["strategies"]}
    assert options["regularized_evolution"] == {"population": 50, "sample": 10, "duplicates": "cache"}
    assert listing(tmp_path) == {}


def test_a_plug_in_is_described_with_its_options(command: CommandLine) -> None:
    text, said = (
        command("list", "benchmarks", "classification"),
        command("list", "benchmarks", "classification", "--json"),
    )
    check_done(text)
    check_done(said)
    options = {each["name"]: each for each in strict_json(said.stdout)["options"]}
    assert options["recipe.ema"]["type"] == "float >= 0, < 1" and options["recipe.ema"]["default"] == "0"
    assert options["recipe.optimizer"]["type"] == "sgd | adam"
    assert options["data.subset"]["type"] == "int >= 1, or none" and options["data.subset"]["default"] == "none"
    for name, option in options.items():
        assert option["meaning"] and name in text.stdout and option["meaning"] in text.stdout
    auto = command("list", "strategies", "auto")
    check_done(auto)
    assert "the search says why" in auto.stdout
    digits = command("list", "datasets", "digits", "--json")
    assert strict_json(digits.stdout)["name"] == "digits"


def test_what_is_not_there_cannot_be_described(command: CommandLine) -> None:
    for kind, said in (("strategies", "did you mean 'cars'"), ("datasets", "cifar10")):
        done = command("list", kind, "carss" if kind == "strategies" else "cifar1")
        assert done.returncode == 2 and said in done.stderr and done.stdout == ""


@pytest.mark.slow
def test_former_names_of_options_are_the_same_options(command: CommandLine, tmp_path: Path) -> None:
    search = (
        "search", "--space", "nasbench201", "--set", "space.channels=1", "--set", "space.cells=1", "--benchmark",
        "classification", "--set", "benchmark.epochs=1", "--set", "benchmark.subset=40", "--strategy", "random_search",
        "--objective", "accuracy:max", "--evaluations", "1", "--json",
    )  # fmt: skip
    for name, former in (("ema", "benchmark.ema=.5"), ("grouped", "benchmark.recipe.ema=.5")):
        check_done(command(*search, "--set", former, "--out", name))
    old, new = (RunDirectory(tmp_path / name).config.benchmark for name in ("ema", "grouped"))
    assert old == new and new.options["recipe"]["ema"] == 0.5
    last = command(*search, "--set", "benchmark.ema=.5", "--set", "benchmark.recipe.ema=.25", "--out", "last")
    check_done(last)
    assert RunDirectory(tmp_path / "last").config.benchmark.options["recipe"]["ema"] == 0.25
    (tmp_path / "both.yaml").write_text(
        "space: nasbench201\nbenchmark: {name: classification, ema: .5, recipe: {ema: .25}}\nstrategy: random_search\n"
        "objectives: [accuracy:max]\nbudget: {evaluations: 1}\n"
    )
    both = command("search", "both.yaml", "--out", "both")
    assert both.returncode == 2 and "benchmark.ema is the former name of benchmark.recipe.ema" in both.stderr
    for wrong in ("5", "fast"):
        done = command(*search, "--set", f"benchmark.recipe={wrong}", "--set", "benchmark.ema=.5", "--out", "wrong")
        assert done.returncode == 2 and "group of options" in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "wrong").exists()


class Strict(HTMLParser):
    """Reads a page, and takes note of what is not closed and of what would be fetched from elsewhere."""

    void = frozenset({"meta", "br", "hr", "img", "link", "input", "col", "source", "wbr", "area", "base", "embed"})
    fetching = frozenset({"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        for name, value in attrs:
            if name in self.fetching and not (value or "").startswith(("#", "data:")):
                self.outside.append(f"<{tag} {name}={value!r}>")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes something else"


@pytest.mark.slow
def test_a_report_is_one_well_formed_file_without_references(run: Path, command: CommandLine, tmp_path: Path) -> None:
    before = listing(tmp_path)
    done = command("report", "run")
    check_done(done)
    assert "run/report.html" in done.stdout
    after = listing(tmp_path)
    assert set(after) - set(before) == {"run/report.html"}
    assert {name: after[name] for name in before} == before

    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.lower().startswith("<!doctype html>")
    page = Strict()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.outside == []
    assert page.seen.count("html") == page.seen.count("body") == 1 and page.seen.count("svg") == 2
    assert not re.findall(r"@import|url\(\s*['\"]?(?!#|data:)", text)
    for member in RunDirectory(run).history().front:
        assert member.architecture.code in text

    done = command("report", "run", "--out", "page.html", "--json")
    check_done(done)
    assert strict_json(done.stdout) == {"report": "page.html"}
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text


def test_the_strict_reader_notices_what_it_is_for() -> None:
    page = Strict()
    page.feed('<p><a href="https://example.org/">x</a><img src="/x.png"><a href="#y"></a>')
    assert (page.open, len(page.outside)) == (["p"], 2)
    with pytest.raises(AssertionError):
        page.feed("</div>")


# Configurations


def test_the_configuration_in_a_run_makes_the_same_trials(run: Path, command: CommandLine, tmp_path: Path) -> None:
    check_done(command("search", "run/config.yaml", "--out", "again"))
    assert trials(tmp_path / "again") == trials(run)
    assert (tmp_path / "again" / CONFIG).read_bytes() == (run / CONFIG).read_bytes()
    check_done(command("search", "run/config.yaml", "--seed", "1", "--out", "other"))
    assert trials(tmp_path / "other") != trials(run)


@pytest.mark.slow
def test_the_configuration_of_a_strategy_with_options_makes_the_same_trials(
    command: CommandLine, tmp_path: Path, small_table: Path
) -> None:
    options = ["--strategy", "regularized_evolution", "--set", "strategy.population=4", "--set", "strategy.sample=2"]
    flags = [*options, "--constraint", "params<=8e5", "--seed", "3", "--evaluations", "40"]
    check_done(command(*ON_TABLE, *flags, "--set", "strategy.duplicates=redraw", "--out", "first"))
    check_done(command("search", "first/config.yaml", "--out", "again"))
    assert trials(tmp_path / "again") == trials(tmp_path / "first")
    check_done(command(*ON_TABLE, *flags, "--out", "other"))
    assert trials(tmp_path / "other") != trials(tmp_path / "first")


@pytest.mark.slow
def test_flags_override_a_configuration(command: CommandLine, tmp_path: Path, small_table: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        """
        space: nasbench201
        benchmark: {name: nasbench201, search_column: test}
        strategy: {name: regularized_evolution, population: 4, sample: 2}
        objectives: [accuracy:max, params:min]
        constraints: [params<=9e5]
        budget: {evaluations: 9, seconds: 100}
        seed: 3
        """
    )

    def resolved(name: str, *flags: str) -> dict[str, Any]:
        check_done(command("search", "config.yaml", *flags, "--out", name))
        config: dict[str, Any] = yaml.safe_load((tmp_path / name / CONFIG).read_text())
        return config

    plain = resolved("plain")
    assert plain["strategy"] == {
        "name": "regularized_evolution", "population": 4, "sample": 2, "duplicates": "cache",
    }  # fmt: skip
    assert (plain["seed"], plain["benchmark"]["search_column"]) == (3, "test")
    assert {outcome.split for outcome in trials(tmp_path / "plain")} == {"test"}
    assert len(trials(tmp_path / "plain")) == 9

    limits = {"images": None, "device_seconds": None}
    changed = resolved("changed", "--evaluations", "6", "--seed", "4", "--set", "strategy.population=5")
    assert changed == plain | {
        "seed": 4,
        "budget": {"evaluations": 6, "seconds": 100.0, **limits},
        "strategy": plain["strategy"] | {"population": 5},
    }
    assert len(trials(tmp_path / "changed")) == 6

    same = resolved("same", "--strategy", "regularized_evolution", "--objective", "macs:min")
    assert same == plain | {"objectives": ["macs:min"]}
    other = resolved("other", "--strategy", "random_search", "--constraint", "macs<=1e8")
    assert other == plain | {
        "strategy": {"name": "random_search", "duplicates": "redraw"},
        "constraints": ["macs<=1e8"],
    }


def test_a_figure_that_the_table_lacks_is_json_all_the_same(command: CommandLine, data: Path) -> None:
    path = write_table(data / "nasbench201" / "cifar10.csv.gz", COLUMNS)
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(re.sub(r",\d+\r\n", ",\r\n", text).encode()))  # no training times
    for arguments in ([*ON_TABLE, "--evaluations", "5", "--out", "run", "--json"], ["show", "run", "--json"]):
        done = command(*arguments)
        check_done(done)
        assert len(strict_json(done.stdout)["front"]) > 0


# Streams


@pytest.mark.slow
def test_failed_trials_are_told_on_standard_error_and_json_stays_whole(
    installed: dict[str, str], tmp_path: Path
) -> None:
    def run(*arguments: str) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "nasplat", *arguments],
            cwd=tmp_path, env=installed, capture_output=True, text=True
        )  # fmt: skip

    done = run(
        "search", "--space", "demo_perceptron", "--benchmark", "demo_formula", "--strategy", "random_search",
        "--objective", "accuracy:max", "--evaluations", "9", "--set", "benchmark.fail_every=3", "--out", "run",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0
    assert strict_json(done.stdout)["outcomes"] == {"measured": 6, "cached": 0, "trained": 0, "failed": 3}
    shown = run("show", "run", "--json")
    check_done(shown)
    assert [(each["trial"], each["kind"]) for each in strict_json(shown.stdout)["failures"]] == [
        (2, "demo"), (5, "demo"), (8, "demo"),
    ]  # fmt: skip
    before = listing(tmp_path)
    check_refused(run("export", "run", "--pick", "5", "--untrained"), "trial 5 of run", "no measurement")
    assert listing(tmp_path) == before


@pytest.mark.slow
def test_a_terminal_is_shown_colours_and_progress(tmp_path: Path, small_table: Path) -> None:
    lead, follow = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "nasplat", *ON_TABLE, "--evaluations", "20", "--out", "run"],
        cwd=tmp_path, env=environment, stdin=follow, stdout=follow, stderr=follow,
    )  # fmt: skip
    os.close(follow)
    said = b""
    while True:
        try:
            chunk = os.read(lead, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        said += chunk
    os.close(lead)
    assert process.wait() == 0
    assert b"\x1b[" in said and b"20 measured" in said


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_gets_no_traceback(run: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nasplat", "show", "run", "--json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert errors == b""


def test_an_interrupt_inside_a_string_of_code_is_an_exit_code_too(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "from nasplat.cli import app\n"
        "app.app = lambda **options: exec('raise KeyboardInterrupt')\n"
        "import nasplat.__main__\n"
    )
    done = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


# Shared weights


def test_generations_and_the_trainings_between_them_are_told_apart(
    shared_plugins: None, command: CommandLine, tmp_path: Path
) -> None:
    done = command(
        "search", "--space", "demo_perceptron", "--benchmark", "demo_shared", "--strategy", "demo_shared",
        "--objective", "accuracy:max", "--objective", "params:min", "--evaluations", "40", "--out", "runs/shared",
    )  # fmt: skip
    assert done.returncode == 0
    assert "the budget ended inside a generation: 2 of its tasks were not started" in done.stderr
    history = RunDirectory(tmp_path / "runs" / "shared").history()
    trained, epochs = len(history.trained), history.fidelities[-1]
    assert f"40 measured, {trained} supernet trainings in" in done.stdout
    assert re.search(rf"Front: \d+ of \d+ after {epochs} epochs, 40 measured", done.stdout)
    shown = command("show", "runs/shared", "--top", "2").stdout
    assert f"{40 + trained}, {trained} of them supernet trainings, 0 failed" in shown
    assert "Best 2 of 40 measured, the most epochs first" in shown and "architecture  epochs" in shown
    summary = strict_json(command("show", "runs/shared", "--json").stdout)
    assert (summary["outcomes"], summary["trained"], summary["failed"]) == (40 + trained, trained, 0)
    header, row = command("runs").stdout.splitlines()
    assert header.split()[5:8] == ["outcomes", "trained", "failed"]
    assert row.split()[5:8] == [str(40 + trained), str(trained), "0"]
    check_refused(command("export", "runs/shared", "--pick", "0"), "trial 0 of runs/shared has no measurement")
    check_refused(command("export", "runs/shared", "--pick", "1"), "trial 1", "replaced", "pick a trial of the front")


# Architectures


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("33434", ["6 symbols", "'33434' has 5", "1<-0", "3<-2"]),
        ("3343120", ["6 symbols", "'3343120' has 7"]),
        ("", ["6 symbols", "'' has 0"]),
        ("334352", ["gene 5 (3<-1)", "'334352'", "is '5'", "0 (none)", "3 (nor_conv_3x3)", "4 (avg_pool_3x3)"]),
        ("x34312", ["gene 1 (1<-0)", "is 'x'", "1 (skip_connect)", "2 (nor_conv_1x1)"]),
        ("33431²", ["gene 6 (3<-2)", "is '²'"]),
        (" 34312", ["gene 1 (1<-0)", "is ' '"]),
        ("|none~0|+|none~0|none~1|", ["official", "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|", "'|none~0|+|none~0|none~1|'"]),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~1|", ["official", "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"]),
        (
            "|none~0|+|none~0|nor_conv_5x5~1|+|none~0|none~1|none~2|",
            ["2<-1", "'nor_conv_5x5'", "none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3"],
        ),
    ],
)  # fmt: skip
def test_a_malformed_architecture_names_the_gene_and_what_it_may_be(code: str, said: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        NASBench201().parse(code)
    for part in said:
        assert part in str(refused.value)


def test_a_well_formed_architecture_is_parsed() -> None:
    space = NASBench201()
    official = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|nor_conv_3x3~0|skip_connect~1|nor_conv_1x1~2|"
    assert space.parse(official) == space.parse("334312")
    assert space.parse("334312").code == "334312"


def test_a_flag_that_goes_inline_leaves_the_workers_of_a_file_behind(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "ray.yaml").write_text(
        "space: {name: nasbench201, channels: 2, cells: 1}\nbenchmark: {name: classification, epochs: 1}\n"
        "strategy: random_search\nobjectives: [accuracy:max]\nbudget: {evaluations: 1}\n"
        "executor: {name: ray, workers: 2}\n"
    )
    done = command("search", "ray.yaml", "--executor", "inline", "--out", "run")
    assert done.returncode == 0, done.stderr
    refused = command("resume", "run", "--workers", "2", "--evaluations", "2")
    assert refused.returncode == 2 and "uses the inline executor, which has no workers" in refused.stderr
    (tmp_path / "pictures").mkdir()
    taken = command("search", "ray.yaml", "--executor", "inline", "--out", "pictures")
    assert taken.returncode == 2 and "nasplat resume" not in taken.stderr


@pytest.mark.slow
def test_a_damaged_run_stands_below_the_table_of_runs(command: CommandLine, tmp_path: Path) -> None:
    for name in ("whole", "damaged"):
        done = command(
            "search", "--space", "nasbench201", "--set", "space.channels=2", "--set", "space.cells=1",
            "--benchmark", "classification", "--set", "benchmark.epochs=1", "--strategy", "random_search",
            "--objective", "accuracy:max", "--evaluations", "1", "--out", f"runs/{name}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    (tmp_path / "runs" / "damaged" / "events.sqlite").write_bytes(b"nothing of a log")
    listed = command("runs")
    assert listed.returncode == 0
    table = listed.stdout.splitlines()[:3]
    assert all(len(line) < 160 for line in table) and "damaged" in listed.stdout
    assert "nasplat recover" in listed.stdout.splitlines()[3]


@pytest.mark.slow
def test_nothing_that_keeps_a_constraint_is_said_with_the_nearest(command: CommandLine) -> None:
    done = command(
        "search", "--space", "nasbench201", "--set", "space.channels=2", "--set", "space.cells=1",
        "--benchmark", "classification", "--set", "benchmark.epochs=1", "--strategy", "random_search",
        "--objective", "accuracy:max", "--constraint", "accuracy>=0.999", "--evaluations", "2", "--out", "run",
    )  # fmt: skip
    assert done.returncode == 0
    assert "no measurement satisfies accuracy>=0.999; the nearest is trial" in done.stderr


SHARED = [
    "search", "--space", "nasbench201", "--set", "space.channels=2", "--set", "space.cells=1", "--benchmark",
    "classification", "--set", "benchmark.epochs=3", "--strategy", "cars", "--set", "strategy.population=4",
    "--objective", "accuracy:max", "--objective", "params:min",
]  # fmt: skip


def test_what_shares_weights_is_refused_where_nothing_trains_them(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is seen that there is no table either, or that its networks have another width."""
    monkeypatch.setenv("NASPLAT_DATA", "/nowhere")
    refused = command(
        "search", "--space", "nasbench201", "--benchmark", "nasbench201", "--strategy", "cars", "--objective",
        "accuracy:max", "--set", "space.channels=4", "--out", "run",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "cars needs a supernet, but the benchmark nasbench201 does not train one" in refused.stderr
    assert "--benchmark classification" in refused.stderr


def test_a_space_without_a_supernet_is_refused(shared_plugins: None, command: CommandLine, tmp_path: Path) -> None:
    done = command(
        "search", "--space", "demo_perceptron", "--benchmark", "classification", "--strategy", "cars",
        "--objective", "accuracy:max", "--out", "run",
    )  # fmt: skip
    check_refused(done, "the search space demo_perceptron has none", "--space nasbench201")
    assert not (tmp_path / "run").exists()


def test_halving_does_not_go_around_what_shares_weights(command: CommandLine) -> None:
    done = command("search", "--space", "nasbench201", "--benchmark", "classification", "--strategy", "asha",
                   "--objective", "accuracy:max", "--set", "strategy.base_strategy=cars",
                   "--evaluations", "9")  # fmt: skip
    assert done.returncode == 2
    assert "train each trial from scratch, but cars shares weights" in done.stderr


@pytest.mark.slow
def test_a_budget_that_ends_inside_a_generation_says_so_and_a_larger_one_completes_it(command: CommandLine) -> None:
    short = command(*SHARED, "--evaluations", "10", "--out", "run")
    assert short.returncode == 0
    assert "the budget ended inside a generation: 2 of its tasks were not started" in short.stderr
    assert "nasplat resume run" in short.stderr
    more = command("resume", "run", "--evaluations", "12")
    assert (more.returncode, more.stderr) == (0, "")
    assert "of 8 after 2 epochs" in more.stdout


# Names with a slash ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_of_a_preset_is_a_folder_below_runs(command: CommandLine, tmp_path: Path) -> None:
    search = ["ghost/small" if word == "nasbench201" else word for word in SEARCH if not word.startswith("space.")]
    while "--set" in search[: search.index("--benchmark")]:
        search.remove("--set")
    done = command(*search, *BUDGET, "--set", "benchmark.subset=200")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["regularized_evolution-ghost-small-1"]
    exported = command("export", "runs/regularized_evolution-ghost-small-1")
    assert exported.returncode == 0 and "ghost/small:" in exported.stdout


def test_the_first_part_of_a_name_leads_to_the_presets(command: CommandLine) -> None:
    done = command(*["ghost" if word == "nasbench201" else word for word in SEARCH], *BUDGET)
    assert done.returncode == 2
    assert "did you mean 'ghost/cifar' or 'ghost/imagenet' or 'ghost/small'? Known: darts" in done.stderr
