"""NAS-Bench-101 as a table: what a search sees of it, searches within a part of the space, and what is refused."""

import csv
import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.nasbench101 import NASBench101Table
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError, TrialFailed
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.search_spaces.nasbench101 import NASBench101
from nasplat.task import Evaluate, Measurement, Outcome, Task
from nasplat.testing.strategies import drive

SPACE = NASBench101()
SCHEDULES = (4, 12, 36, 108)
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Rows) -> None:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def member(row: dict[str, str]) -> Architecture:
    return SPACE.parse(f"{int(row['adj_bits']):06x}:{row['ops'][1:]}")


def measured(benchmark: NASBench101Table, architecture: Architecture, fidelity: int = 108) -> Measurement:
    task = Evaluate(id=0, seed=0, architecture=architecture, fidelity=fidelity)
    return benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())


@pytest.fixture(scope="module")
def real() -> Path:
    """The table of 20,001 real cells."""
    path = Path(os.environ.get("NASPLAT_DATA", "")) / "nasbench101" / "subset20k.csv.gz"
    if not path.is_file():
        pytest.skip(f"the table {path} is missing; set NASPLAT_DATA to the folder above nasbench101/")
    return path


# The real table


@pytest.mark.slow
def test_measurements_are_the_published_figures_on_every_row(real: Path) -> None:
    benchmark = NASBench101Table(SPACE)
    benchmark.check()
    rows = read(real)
    assert list(benchmark.fidelities) == list(SCHEDULES)
    assert list(benchmark.enumerable_members) == [member(row) for row in rows]
    for row in rows:
        for epochs in SCHEDULES:
            searched = measured(benchmark, member(row), epochs)
            assert searched.split == "validation"
            assert searched.metrics == {
                "accuracy": float(row[f"val_acc_{epochs}ep"]),
                "train_seconds": float(row["train_time_s"]) * epochs / 108,
            }
    diverged = [row for row in rows if float(row["val_acc_108ep"]) < 0.2]
    assert len(diverged) == 24 and all(benchmark.feasible(member(row)) for row in diverged)


@pytest.mark.slow
def test_isomorphic_cells_have_one_row(real: Path) -> None:
    benchmark, rows = NASBench101Table(SPACE), read(real)
    held = {row["hash"]: row for row in rows}
    twins = 0
    for row in rows[:600]:
        for neighbor in SPACE.neighbors(member(row)):
            key = SPACE.canonical_key(neighbor)
            assert benchmark.feasible(neighbor) == (key in held)
            if key in held and neighbor != member(held[key]):
                twins += 1
                assert measured(benchmark, neighbor).metrics["accuracy"] == float(held[key]["val_acc_108ep"])
    assert twins > 50


@pytest.mark.slow
def test_there_is_no_final_measurement_without_test_accuracies(real: Path) -> None:
    benchmark = NASBench101Table(SPACE)
    measurement = measured(benchmark, member(read(real)[0]))
    with pytest.raises(InputError, match=r"no test accuracies after 108 epochs.*benchmark import nasbench101"):
        benchmark.final(measurement, device="cpu", artifacts=MemoryArtifacts())
    with pytest.raises(InputError, match="no test accuracies after 108 epochs"):
        NASBench101Table(SPACE, search_column="test").check()


# Searches in a part of the space


def problem_on(benchmark: NASBench101Table, *, objectives: int = 2, seed: int = 0, **options: Any) -> Problem:
    goal = Goal((Objective("accuracy", True), Objective("params", False))[:objectives], **options)
    return Problem.of(benchmark, goal, seed=seed)


@pytest.mark.slow
@pytest.mark.sweep(4)
@pytest.mark.parametrize("duplicates", ["cache", "redraw", "measure"])
@pytest.mark.parametrize("name", ["random_search", "local_search", "regularized_evolution", "nsga2"])
def test_every_strategy_keeps_to_the_table(name: str, duplicates: str, real: Path) -> None:
    benchmark = NASBench101Table(SPACE)
    benchmark.check()

    def answering(problem: Problem, task: Task) -> Outcome:
        assert isinstance(task, Evaluate)
        assert problem.feasible(task.architecture)
        found = benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())
        return replace(found, metrics={**found.metrics, **problem.cost(task.architecture).metrics()})

    make: Callable[..., Any] = STRATEGIES.get(name)
    tasks = drive(make(problem_on(benchmark), duplicates=duplicates), trials=200, answering=answering)
    assert len(tasks) == 200
    keys = {SPACE.canonical_key(task.architecture) for task in tasks if isinstance(task, Evaluate)}
    assert len(keys) > 30


def test_random_draws_are_uniform_over_what_is_offered(table101: Path) -> None:
    benchmark = NASBench101Table(SPACE)
    problem = problem_on(benchmark)
    offered = list(benchmark.enumerable_members)
    drawn = [offered.index(problem.sample()) for _ in range(100 * len(offered))]
    counts = np.bincount(drawn, minlength=len(offered))
    assert abs(counts - 100).max() < 60  # six deviations
    nested = problem.nested(fidelity=12)
    assert all(nested.sample() in offered for _ in range(50))


@pytest.mark.slow
def test_constraints_hold_for_draws_from_what_is_offered(table101: Path) -> None:
    benchmark = NASBench101Table(SPACE)
    params = sorted(SPACE.cost(each, benchmark.io).params for each in benchmark.enumerable_members)
    problem = problem_on(benchmark, constraints=(Constraint.parse(f"params<={params[3]}"),))
    assert {problem.cost(problem.sample()).params for _ in range(200)} == set(params[:4])
    nothing = problem_on(benchmark, constraints=(Constraint.parse(f"params<={params[0] - 1}"),))
    with pytest.raises(InputError, match="is feasible under params"):
        nothing.check_feasible()


def test_a_search_without_repeats_ends_with_the_table(table101: Path) -> None:
    benchmark = NASBench101Table(SPACE)
    problem = problem_on(benchmark, objectives=1)
    make: Callable[..., Any] = STRATEGIES.get("random_search")

    def answering(problem: Problem, task: Task) -> Outcome:
        assert isinstance(task, Evaluate)
        return benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())

    tasks = drive(make(problem), trials=1_000, answering=answering)
    assert {task.architecture for task in tasks if isinstance(task, Evaluate)} == set(benchmark.enumerable_members)
    assert len(tasks) == len(benchmark.enumerable_members)


def test_a_configured_search_draws_from_the_table(table101: Path) -> None:
    config = SearchConfig.model_validate(
        {
            "space": {"name": "nasbench101"},
            "benchmark": {"name": "nasbench101"},
            "strategy": {"name": "random_search"},
            "objectives": ["accuracy:max"],
            "budget": {"evaluations": 5},
        }
    )
    assembly = Assembly.of(config)
    offered = assembly.benchmark.enumerable_members
    assert offered
    tasks = assembly.strategy.ask(5)
    assert len(tasks) == 5
    assert all(isinstance(task, Evaluate) and task.architecture in offered for task in tasks)


# Tables that are not the real one


def test_accuracies_that_are_no_fractions_are_refused_with_their_rows(table101: Path) -> None:
    rows = read(table101)
    rows[3]["val_acc_108ep"] = "93.58"
    write(table101, rows)
    said = f"an accuracy must be a fraction of 0 to 1, but val_acc_108ep of {rows[3]['hash']} is 93.58; replace it"
    with pytest.raises(InputError, match=said):
        NASBench101Table(SPACE).check()
    (described,) = NASBench101Table.tables()
    assert rows[3]["hash"] in described.problem


def test_the_final_measurement_is_on_the_test_column(table101: Path) -> None:
    benchmark = NASBench101Table(SPACE, epochs=36)
    benchmark.check()
    assert list(benchmark.fidelities) == [4, 12, 36]
    for row in read(table101):
        searched = measured(benchmark, member(row), 36)
        assert searched.metrics == {"accuracy": float(row["val_acc_36ep"]), "train_seconds": 360}
        final = benchmark.final(searched, device="cpu", artifacts=MemoryArtifacts())
        assert (final.split, final.metrics["accuracy"]) == ("test", float(row["test_acc_36ep"]))
        by_test = NASBench101Table(SPACE, search_column="test")
        by_test._table, by_test._columns = benchmark._table, benchmark._columns
        assert measured(by_test, member(row), 12).metrics["accuracy"] == float(row["test_acc_12ep"])
        assert measured(by_test, member(row), 12).split == "test"


def test_a_table_with_test_accuracies_is_preferred(table101: Path) -> None:
    rows = read(table101)
    poorer = [{name: value for name, value in row.items() if "test" not in name} for row in rows]
    write(table101.with_name("aaa.csv.gz"), [{**row, "val_acc_108ep": "0.5"} for row in poorer])
    benchmark = NASBench101Table(SPACE)
    assert measured(benchmark, member(rows[0])).metrics["accuracy"] == float(rows[0]["val_acc_108ep"])


def test_what_is_not_there_is_not_measured(table101: Path) -> None:
    rows = read(table101)
    rows[0]["val_acc_108ep"] = ""
    rows[1]["test_acc_108ep"] = ""
    rows[2]["train_time_s"] = ""
    write(table101, rows)
    benchmark = NASBench101Table(SPACE)
    benchmark.check()
    assert member(rows[0]) not in benchmark.enumerable_members and not benchmark.feasible(member(rows[0]))
    with pytest.raises(TrialFailed, match=str(member(rows[0]))) as missing:
        measured(benchmark, member(rows[0]))
    assert missing.value.kind == "not in table"
    with pytest.raises(InputError, match=str(member(rows[1]))):
        benchmark.final(measured(benchmark, member(rows[1])), device="cpu", artifacts=MemoryArtifacts())
    assert np.isnan(measured(benchmark, member(rows[2])).metrics["train_seconds"])
    with pytest.raises(TrialFailed, match="after 4, 12, 36, 108 epochs, but 50 were") as fidelity:
        measured(benchmark, member(rows[1]), 50)
    assert fidelity.value.kind == "no such fidelity"


def test_other_spaces_and_shapes_are_refused(table101: Path) -> None:
    with pytest.raises(InputError, match="channels=128, stacks=3, cells=3, but the space has channels=16"):
        NASBench101Table(NASBench101(channels=16)).check()
    from nasplat.testing import ToySpace

    with pytest.raises(InputError, match="measures the space nasbench101, but got the space toy"):
        NASBench101Table(ToySpace()).check()


def changed(name: str, value: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{**rows[0], name: value}, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("hash", "0" * 32), "is not the hash of"),
        (changed("adj_bits", "0"), "path from the input"),
        (changed("adj_bits", "many"), "many"),
        (changed("ops", "o9"), "six lower-case hex digits"),
        (changed("num_vertices", "1"), "1 vertices"),
        (changed("val_acc_108ep", "fifty"), "fifty"),
        (lambda rows: [rows[0], *rows], "occurs twice"),
    ],
)
def test_a_damaged_table_is_refused_by_name(change: Callable[[Rows], Rows], said: str, table101: Path) -> None:
    write(table101, change(read(table101)))
    with pytest.raises(InputError) as refused:
        NASBench101Table(SPACE).check()
    assert f"{table101} is damaged" in str(refused.value)
    assert said in str(refused.value)
    (described,) = NASBench101Table.tables()
    assert said in described.problem


def test_a_truncated_table_is_refused(table101: Path) -> None:
    table101.write_bytes(table101.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        NASBench101Table(SPACE).check()


def test_an_absent_table_is_named_with_the_remedy(table101: Path) -> None:
    rows = read(table101)
    write(table101, [{name: value for name, value in row.items() if "108" not in name} for row in rows])
    with pytest.raises(InputError, match="no validation accuracies after 108 epochs"):
        NASBench101Table(SPACE).check()
    NASBench101Table(SPACE, epochs=12).check()
    write(table101, [{"index": "1"}])
    with pytest.raises(InputError, match=r"NASPLAT_DATA to the folder that contains nasbench101"):
        NASBench101Table(SPACE).check()
    assert "not a table of accuracies" in NASBench101Table.tables()[0].problem
