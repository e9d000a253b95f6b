"""A table of somebody's measurements as a space and a benchmark."""

import csv
import gzip
import itertools
import pickle
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from numpy.random import default_rng

import nasplat
from nasplat.artifact import MemoryArtifacts
from nasplat.authoring.table import TableLookup, TableSpace, table
from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.driver.budget import Budget
from nasplat.driver.loop import Search
from nasplat.errors import InputError, TrialFailed
from nasplat.executors.inline import InlineExecutor
from nasplat.objective import Goal, Objective
from nasplat.options import construct
from nasplat.problem import Problem
from nasplat.registry import SEARCH_SPACES, STRATEGIES
from nasplat.storage.event_log import EventLog
from nasplat.task import Evaluate, Measurement
from nasplat.testing import BENCHMARK_CHECKS, SEARCH_SPACE_CHECKS

GENES = {
    "depth": (1, 2, 3, 4),
    "width": (16, 24, 32, 48, 64),
    "kernel": (3, 5),
    "activation": ("relu", "gelu", "swish"),
    "norm": ("batch", "layer"),
    "dropout": (0.0, 0.1, 0.25),
    "expansion": (1, 2, 4, 6),
    "attention": ("no", "local", "yes"),
}
"""Eight genes: 8,640 combinations."""
UNBUILT = {
    "genes_have_an_effect",
    "cost_is_what_is_built",
    "networks_fit_their_io",
    "same_weights_same_outputs",
    "supernet_paths_are_what_is_built",
    "supernet_shares_its_weights",
    "supernet_extracts_copies",
    "supernet_has_no_dead_weight",
    "blocks_are_what_is_built",
    "convolutions_are_what_is_built",
    "networks_fit_its_data",
    "weights_belong_to_the_network",
    "final_is_on_the_test_split",
    "continued_equals_uninterrupted",
}
"""The checks that do not apply where nothing can be built, trained or tested."""
Rows = list[dict[str, Any]]


def rows() -> Rows:
    """The results of somebody who measured everything, in percent, by a formula with some noise."""
    rng, found = default_rng(0), []
    for values in itertools.product(*GENES.values()):
        chosen = dict(zip(GENES, values, strict=True))
        size = chosen["depth"] * chosen["width"] * chosen["expansion"]  # type: ignore[operator]
        merit = size**0.25 + (chosen["activation"] == "swish") + (chosen["norm"] == "batch") * chosen["depth"]  # type: ignore[operator]
        found.append({**chosen, "acc": round(60 + 3 * merit + rng.normal(), 3), "weights": 1000 * size, "host": "a"})
    return found


ALL = rows()


def write(path: Path, found: Sequence[dict[str, Any]]) -> Path:
    """Write rows as CSV."""
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


def read(path: Path, **options: Any) -> tuple[TableSpace, type[TableLookup]]:
    """The table of a file of `ALL`."""
    return table(path, metrics={"accuracy": ("acc", 0.01)}, costs={"params": "weights"}, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The whole table, and one of 5,000 rows in another order."""
    folder = tmp_path_factory.mktemp("tables")
    part = [ALL[i] for i in default_rng(1).permutation(len(ALL))[:5000]]
    return {"whole": write(folder / "results.csv", ALL), "part": write(folder / "part.csv.gz", part)}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["whole", "part"])
def test_a_table_keeps_both_contracts(which: str, files: dict[str, Path]) -> None:
    space, benchmark = read(files[which])
    measuring = benchmark(space)
    skipped = set()
    for check, arguments in (
        *((check, (space, space.reference_io)) for check in SEARCH_SPACE_CHECKS),
        *((check, (lambda: measuring,)) for check in BENCHMARK_CHECKS),
    ):
        try:
            check(*arguments)  # type: ignore[operator]
        except unittest.SkipTest:
            skipped.add(check.__name__)
    assert skipped == UNBUILT | ({"listed_members_are_what_can_be_measured"} if which == "whole" else set())


def test_columns_become_genes(files: dict[str, Path]) -> None:
    space, benchmark = read(files["whole"])
    assert space.name == "results" and not space.builds
    assert type(space).__module__ == benchmark.__module__ == __name__
    assert space.chosen(space.parse("01021110")) == {
        "depth": 1,
        "width": 24,
        "kernel": 3,
        "activation": "swish",
        "norm": "layer",
        "dropout": 0.1,
        "expansion": 2,
        "attention": "local",
    }
    assert {gene.name: gene.choices for gene in space.genes} == {
        gene: tuple(sorted(choices) if isinstance(choices[0], str) else map(str, choices))
        for gene, choices in (GENES | {"dropout": ("0", "0.1", "0.25")}).items()
    }
    assert benchmark.metrics == ("accuracy",) and not benchmark.trains
    again, _ = read(files["part"], name="results")
    assert again.genes == space.genes  # whatever the order of rows


@pytest.mark.slow
def test_values_are_those_of_the_row(files: dict[str, Path]) -> None:
    space, benchmark = read(files["whole"])
    measuring = benchmark(space)
    row = ALL[4321]
    genes = [gene.choices.index(f"{v:.15g}" if not isinstance(v := row[gene.name], str) else v) for gene in space.genes]
    member = space.member(genes)
    task = Evaluate(id=0, seed=0, architecture=member, fidelity=1)
    assert look(measuring, task).metrics == {"accuracy": 0.01 * row["acc"]}
    problem = problem_of(measuring)
    assert problem.cost(member).metrics() == {"params": row["weights"]}
    assert problem.free_metrics == {"params"}  # nothing else is known of networks that cannot be built
    assert measuring.enumerable_members is None and measuring.feasible(member)


def look(benchmark: Benchmark, task: Evaluate) -> Measurement:
    """Look a task up."""
    return benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())


def problem_of(benchmark: Benchmark, *objectives: str, seed: int = 0) -> Problem:
    """A problem on the benchmark, as a search makes it."""
    return Problem.of(benchmark, Goal(tuple(map(Objective.parse, objectives or ("accuracy:max",)))), seed=seed)


STRATEGY_OPTIONS: dict[str, dict[str, Any]] = {
    "random_search": {"duplicates": "redraw"},
    "regularized_evolution": {"population": 20, "sample": 5, "duplicates": "redraw"},
    "local_search": {},
    "nsga2": {"population": 10},
    "predictor_guided": {},
}


LONG = ("predictor_guided", "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "which"),
    [(name, which) for name in STRATEGY_OPTIONS for which in ("whole", "part") if (name, which) != LONG],
)
def test_strategies_search_it(name: str, which: str, files: dict[str, Path], tmp_path: Path) -> None:
    space, benchmark = read(files[which])
    measuring = benchmark(space)
    measuring.check()
    goals = ("accuracy:max", "params:min") if name == "nsga2" else ("accuracy:max",)
    strategy = construct("strategy", STRATEGIES.get(name), problem_of(measuring, *goals), **STRATEGY_OPTIONS[name])
    trials = 25 if name == "predictor_guided" else 60
    with InlineExecutor(measuring, MemoryArtifacts()) as executor:
        search = Search(
            strategy.problem, strategy, executor, EventLog.create(tmp_path / "log"), Budget(evaluations=trials)
        )
        search.run()
    assert search.outcomes["failed"] == 0 and search.outcomes["measured"] + search.outcomes["cached"] == trials
    assert search.best is not None and measuring.feasible(search.best.architecture)


FEW = [
    {"a": a, "b": b, "epochs": epochs, "top1": 0.1 * a + 0.01 * epochs, "tested": 0.5}
    for a, b, epochs in itertools.product((1, 2, 3), "xy", (1, 9))
]


def test_fidelities_are_a_column(tmp_path: Path) -> None:
    some = [row for row in FEW if (row["a"], row["b"], row["epochs"]) != (2, "y", 1)]
    path = write(tmp_path / "few.csv", some)
    space, benchmark = table(path, metrics={"accuracy": "top1"}, test={"accuracy": "tested"}, fidelity="epochs")
    measuring = benchmark(space)
    assert [gene.name for gene in space.genes] == ["a", "b"]
    assert (list(measuring.fidelities), measuring.fidelity) == ([1, 9], 9)
    members = measuring.enumerable_members
    assert members is not None and [member.code for member in members] == ["00", "01", "10", "20", "21"]
    measurement = look(measuring, Evaluate(id=0, seed=0, architecture=members[4], fidelity=1))
    assert measurement.metrics == {"accuracy": pytest.approx(0.31)}
    final = measuring.final(measurement, device="cpu", artifacts=MemoryArtifacts())
    assert (final.split, final.metrics) == ("test", {"accuracy": 0.5})
    for task in (
        Evaluate(id=0, seed=0, architecture=members[0], fidelity=5),
        Evaluate(id=0, seed=0, architecture=space.parse("11"), fidelity=9),
    ):
        with pytest.raises(TrialFailed):
            look(measuring, task)


def test_rows_of_one_combination_are_replicates(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"a": a, "acc": acc} for a, acc in ((1, 0.1), (2, 0.2), ("1.0", 0.3), (3, ""))])
    space, benchmark = table(path, metrics=["acc"])
    member = space.parse("0")
    values = [
        look(benchmark(space), Evaluate(id=0, seed=0, architecture=member, fidelity=1, replicate=i)).metrics["acc"]
        for i in range(3)
    ]
    assert values == [0.1, 0.3, 0.1]
    assert space.genes[0].choices == ("1", "2")  # a row without its metric is left out
    assert "with an empty cell are left out" in benchmark(space).data_notes()[0]


@pytest.mark.slow
def test_no_test_metrics_no_final_measurement(files: dict[str, Path]) -> None:
    space, benchmark = read(files["whole"])
    measurement = look(benchmark(space), Evaluate(id=0, seed=0, architecture=space.parse("0" * 8), fidelity=1))
    with pytest.raises(InputError, match=r"has no test metrics; name their columns: table\(…, test="):
        benchmark(space).final(measurement, device="cpu", artifacts=MemoryArtifacts())
    with pytest.raises(InputError, match="networks of results are unknown"):
        space.build(measurement.architecture, space.reference_io)


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (FEW, {"metrics": ["top2"]}, "no column is named 'top2'; did you mean 'top1'"),
        (FEW, {"metrics": {"accuracy": ("top1", 100)}}, "row 1 .*must be a fraction"),
        (FEW, {"metrics": {"accuracy": "a"}, "genes": ["b"]}, r"or give a factor: \{'accuracy': \('a', 0.01\)\}"),
        (FEW, {"metrics": ["b"]}, "must have numbers in the column 'b', but row 1 has 'x'"),
        (FEW, {"metrics": ["top1"], "genes": ["a", "top1"]}, "a column has one purpose, but 'top1'"),
        (FEW, {"metrics": []}, "at least one metric"),
        (FEW, {"metrics": {"top 1": "top1"}}, "must be letters, digits and underscores, but got 'top 1'"),
        (FEW, {"metrics": ["top1"], "fidelity": "b"}, "whole numbers of epochs in 'b', but row 1 has 'x'"),
        (FEW, {"metrics": ["top1"], "test": ["tested"]}, "a test column for all or none of them"),
        ([{"a": i, "m": 1} for i in range(40)], {"metrics": ["m"]}, "40 values in the column 'a'.* name the genes"),
        ([{"a": 1, "m": 1}], {"metrics": ["m"]}, "no column for a gene"),
        ([{"a": 1, "m": 1}], {"metrics": ["m"], "genes": ["a"]}, "a gene must have 2 to"),
        ([{"a": "", "m": 1}], {"metrics": ["m"]}, "no row in which"),
        ([{"a": 1, "m": "inf"}], {"metrics": ["m"]}, "must have finite numbers"),
    ],
)
def test_what_is_no_table_is_refused(given: Rows, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as refused:
        table(write(tmp_path / "t.csv", given), **options)
    assert "damaged" not in str(refused.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no table at .*nowhere\.csv"):
        table(tmp_path / "nowhere.csv", metrics=["acc"])
    (tmp_path / "t.csv").write_text("a,b,acc\n1,2\n")
    with pytest.raises(InputError, match="line 2 has 2 of 3 cells"):
        table(tmp_path / "t.csv", metrics=["acc"])


def test_a_change_of_the_file_is_noticed(tmp_path: Path) -> None:
    space, benchmark = table(write(tmp_path / "t.csv", FEW), metrics=["top1"])
    measuring = benchmark(space)
    recorded = measuring.record_data()
    write(tmp_path / "t.csv", FEW[1:])
    later = benchmark(space)
    later.recorded = recorded
    with pytest.raises(InputError, match="restore the file, or go on with --accept-changed-data"):
        later.check()
    write(tmp_path / "t.csv", [{**row, "b": f"{row['b']}2"} for row in FEW])
    with pytest.raises(InputError, match="which has changed since; make the space again"):
        benchmark(space).check()


@pytest.mark.slow
def test_another_space_is_refused(files: dict[str, Path]) -> None:
    (space, _), (_, benchmark) = read(files["part"]), read(files["whole"])
    with pytest.raises(InputError, match="made with it, results, but got part"):
        benchmark(space).check()


@pytest.mark.slow
def test_both_can_be_sent_by_value(files: dict[str, Path]) -> None:
    space, benchmark = pickle.loads(cloudpickle.dumps(read(files["part"])))
    first, second = space.sample(default_rng(0)), read(files["part"])[0].sample(default_rng(0))
    assert first == second and benchmark(space).metrics == ("accuracy",)
    member = (benchmark(space).enumerable_members or [])[0]
    assert look(benchmark(space), Evaluate(id=0, seed=0, architecture=member, fidelity=1)).metrics["accuracy"] > 0.5


@pytest.mark.slow
def test_a_benchmark_that_trains_is_refused(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    space, _ = read(files["whole"])
    monkeypatch.setattr(SEARCH_SPACES, "get", lambda name: type(space))
    config = SearchConfig.read(
        {
            "space": "results",
            "benchmark": "classification",
            "strategy": "random_search",
            "objectives": ["accuracy:max"],
            "budget": {"evaluations": 1},
        }
    )
    with pytest.raises(InputError, match="trains networks, but those of results cannot be built"):
        Assembly.of(config)


@pytest.mark.slow
def test_a_run_on_a_table_is_shown_and_goes_on(files: dict[str, Path], tmp_path: Path) -> None:
    space, benchmark = table(files["part"], metrics={"accuracy": ("acc", 0.01)}, genes=list(GENES))
    given: dict[str, Any] = {"space": space, "benchmark": benchmark, "strategy": "random_search"}
    run = nasplat.search(**given, objectives="accuracy:max", evaluations=5, out=tmp_path / "run", progress=False)
    again = nasplat.open_run(tmp_path / "run", **given)
    assert again.best == run.best and "params" not in run.best.metrics  # nothing is known of their size
    again.resume(evaluations=8, progress=False)
    assert len(again.trials()) == 8
    assert "params" not in again._repr_html_() and "accuracy" in again._repr_html_()
    again.report(tmp_path / "report.html")
