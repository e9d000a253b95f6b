"""The comparisons of searches on tables: what they share, and that every command runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

from nasplat.errors import InputError
from nasplat.search_spaces.nasbench101 import NASBench101
from searching import Arm, Row, Table, kept, search, searcher, with_options

PERFORMANCE = Path(__file__).parents[1] / "performance"
RANDOM = Arm("random_search", {"duplicates": "redraw"})
FEW = ("--seeds", "2", "--first-seed", "0", "--json")


@pytest.fixture(scope="module")
def table() -> Table:
    """The one table that lies in the project."""
    return Table("esrn/tiny", "super_resolution_table", ["psnr_db:max"])


def needs(*parts: str) -> None:
    """Skip where a folder of tables is missing."""
    folder = Path(os.environ.get("NASPLAT_DATA", ""), *parts)
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; set NASPLAT_DATA to the folder above {'/'.join(parts)}")


def answer(tmp_path: Path, script: str, *arguments: str) -> Any:
    """What a command prints as JSON."""
    command = [sys.executable, str(PERFORMANCE / script), *arguments, "--file", str(tmp_path / "runs.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_one_at_a_time_what_is_asked_is_told_at_once(table: Table) -> None:
    trace = search(searcher(RANDOM.settings, table.problem(3)), table.metrics, trials=20, seed=3)
    assert trace.asked == trace.told and len(trace.distinct) == len(trace.codes) == 20 == len(trace.asking)


def test_a_batch_is_told_in_order_and_whole_before_the_next(table: Table) -> None:
    strategy = searcher(RANDOM.settings, table.problem(3))
    trace = search(strategy, table.metrics, trials=20, seed=3, workers=8, waits=True)
    assert trace.asked == trace.told and len(trace.asking) == 3 and len(trace.asked) == 20


def test_workers_are_never_idle_and_end_in_an_order_that_the_seed_draws(table: Table) -> None:
    def run(seed: int, done: int) -> tuple[list[str], list[str]]:
        strategy = searcher(RANDOM.settings, table.problem(3))
        trace = search(
            strategy, table.metrics, trials=40, seed=seed, workers=8, done=lambda trace: len(trace.told) == done
        )
        return [a.code for a in trace.asked], [a.code for a in trace.told]

    asked, told = run(seed=3, done=12)
    assert len(asked) == 8 + 11 and told != asked[:12] and set(told) < set(asked)
    assert all(code in asked[: 8 + i] for i, code in enumerate(told))
    assert run(seed=3, done=12) == (asked, told) and run(seed=4, done=12)[1] != told
    everything, ended = run(seed=3, done=1000)
    assert sorted(everything) == sorted(ended) and len(ended) == 40


def test_the_best_of_a_table_are_found_by_key(table: Table) -> None:
    best = max(range(len(table.members)), key=lambda i: table.metrics(table.members[i])["psnr_db"])
    assert table.best_keys(table.values) == {table.key(table.members[best])}
    values = np.zeros(len(table.members))
    values[[5, 9]] = 1.0
    assert table.best_keys(values) == {table.key(table.members[5]), table.key(table.members[9])}


def test_what_was_run_is_not_run_again_and_a_line_cut_short_is(tmp_path: Path) -> None:
    worked = []

    def work(settings: Row, seed: int) -> Row:
        worked.append((settings["n"], seed))
        return {"sum": settings["n"] + seed}

    jobs = [({"n": n}, seed) for n in (10, 20) for seed in (1, 2)]
    file = tmp_path / "deep" / "rows.jsonl"
    assert [row["sum"] for row in kept(jobs[:3], work, file)] == [11, 12, 21]
    assert [row["sum"] for row in kept(jobs[::-1], work, file)] == [22, 21, 12, 11]
    assert worked == [(10, 1), (10, 2), (20, 1), (20, 2)]
    file.write_text(file.read_text()[:-9])
    kept(jobs, work, file)
    assert worked[4:] == [(20, 2)] and [row["sum"] for row in kept(jobs, work, file)] == [11, 12, 21, 22]
    assert len(worked) == 5


def test_options_are_of_the_guided_search_alone() -> None:
    arm = with_options(Arm("predictor_guided", {"initial": 10}), ["initial=7", "predictor_options={seed: 3}"])
    assert arm.options == {"initial": 7, "predictor_options": {"seed": 3}}
    assert arm.settings["options"]["initial"] == 7 and arm.settings["options"]["batch"] == 1
    assert with_options(RANDOM, ["initial=7"]) is RANDOM
    with pytest.raises(InputError, match="an option is NAME=VALUE, such as initial=10, but got 'initial'"):
        with_options(Arm("predictor_guided"), ["initial"])


@pytest.mark.slow
def test_trained_networks(tmp_path: Path) -> None:
    found = answer(tmp_path, "guided_training.py", *FEW)["arms"]
    assert set(found) == {"guided", "random", "local", "evolution"} and found["random"]["ratio"] == 1
    assert all(line["reached"] == 1 and 1 <= line["median"] <= line["max"] <= 155 for line in found.values())


@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("question", ["optimum", "moved", "parallel"])
def test_queries(tmp_path: Path, question: str) -> None:
    needs("nasbench201")
    arguments = ("guided_queries.py", question, *FEW, "--arms", "local", "tpe", "--processes", "2")
    found = answer(tmp_path, *arguments)
    for line in found["arms"].values():
        assert 1 <= line["median"] <= line["max"] <= 1000 and line["mean"] <= line["paid"] and line["seeds"] == 2
    assert set(found["arms"]) >= ({"local", "tpe"} if question != "parallel" else {"local, batches of 8"})
    assert answer(tmp_path, *arguments) == found, "it was run again"


@pytest.mark.slow
def test_validation(tmp_path: Path) -> None:
    needs("nasbench201")
    found = answer(tmp_path, "guided_validation.py", *FEW, "--arms", "random", "evolution", "tpe")
    assert found["perfect_pick"] <= found["best"]
    for line in found["arms"].values():
        assert set(line["after"]) == {"20", "50", "100", "200"}
        assert all(0.8 < mean <= found["best"] for mean, _ in line["after"].values())


@pytest.mark.slow
def test_fronts(tmp_path: Path) -> None:
    needs("nasbench201")
    shares = answer(tmp_path, "guided_fronts.py", *FEW, "--arms", "nsga2", "random")["shares"]
    for after in shares.values():
        assert all(0.8 < few <= more <= 1 for few, more in zip(after["100"], after["300"], strict=True))


@pytest.mark.slow
def test_nasbench101(tmp_path: Path) -> None:
    needs("nasbench101")
    found = answer(tmp_path, "guided_nasbench101.py", "sequential", *FEW, "--arms", "random", "local")
    assert all(1 <= line["median"] <= line["worst"] < found["cells"] / 10 for line in found["arms"].values())


@pytest.mark.slow
def test_the_time_of_asks_with_many_cells(tmp_path: Path) -> None:
    space, rng = NASBench101(), default_rng(0)
    cells = {space.canonical_key(member): member for member in (space.sample(rng) for _ in range(600))}
    graphs = [member.code.split(":") for member in cells.values()]
    ops = np.full((len(graphs), 5), 255, dtype=np.uint8)
    for row, (_, inner) in zip(ops, graphs, strict=True):
        row[: len(inner)] = ["31m".index(each) for each in inner]
    arrays = {
        "adj_bits": np.array([int(bits, 16) for bits, _ in graphs]),
        "num_vertices": np.array([len(inner) + 2 for _, inner in graphs]),
        "ops": ops,
    }
    np.savez(tmp_path / "cells.npz", **arrays)  # type: ignore[arg-type]
    found = answer(tmp_path, "guided_nasbench101.py", "time", "--whole", "cells.npz", "--json")
    assert found["cells"] == len(cells) > 300 and 0 < found["later"] <= found["slowest"]
