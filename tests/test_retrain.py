"""`nasplat retrain`: picks trained to the end, alike however they are run or killed, and what the search had said."""

import csv
import gzip
import json
import math
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import scipy.stats
import yaml

from nasplat.artifact import Artifacts, Handle
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.problem import Problem
from nasplat.registry import BENCHMARKS, SEARCH_SPACES, Plugin
from nasplat.retraining import Retraining
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import CONFIG, ENVIRONMENT, LOG
from nasplat.run.retrained import Comparison, MeanStd
from nasplat.search_space import SearchSpace
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import STATE, Evaluate, Failure, Measurement, Outcome, Task
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.runs import searched
from nasplat.testing.strategies import answer, toy_problem

PATIENCE = 300.0
"""Seconds after which a test stops waiting for a process."""

CommandLine = Callable[..., subprocess.CompletedProcess[str]]

MEMBERS = ["432110", "000434", "400402"]


# The strategy: which tasks, in which order


def told(strategy: Retraining, task: Task, answering: Callable[[Problem, Task], Outcome] = answer) -> None:
    strategy.tell(answering(strategy.problem, task))


def all_tasks(strategy: Retraining, workers: int = 1, chance: random.Random | None = None) -> list[Evaluate]:
    """All tasks of a retraining with so many in flight, told in the order of asking or in any."""
    tasks: list[Evaluate] = []
    flying: list[Task] = []
    while True:
        asked = strategy.ask(workers - len(flying))
        flying += asked
        tasks += [task for task in asked if isinstance(task, Evaluate)]
        if not flying:
            return tasks
        told(strategy, flying.pop(chance.randrange(len(flying)) if chance else 0))


def test_each_member_is_trained_with_every_seed_in_parts_that_continue() -> None:
    strategy = Retraining(toy_problem(), members=["0123", "3333"], seeds=2, checkpoints=4)
    tasks = all_tasks(strategy)
    ways: dict[tuple[str, int], list[Evaluate]] = {}
    for task in tasks:
        ways.setdefault((task.architecture.code, task.replicate), []).append(task)
    assert sorted(ways) == [("0123", 0), ("0123", 1), ("3333", 0), ("3333", 1)]
    for way in ways.values():
        assert [task.fidelity for task in way] == [2, 4, 6, 9]  # quarters of nine epochs
        states = [answer(strategy.problem, task).artifacts[STATE] for task in way]  # type: ignore[union-attr]
        assert [task.continues for task in way] == [None, *states[:-1]]
        assert all(task.teacher is None for task in way)
    assert strategy.progress == 1


@pytest.mark.parametrize(
    ("checkpoints", "parts"), [(1, [9]), (2, [4, 9]), (9, list(range(1, 10))), (50, list(range(1, 10)))]
)
def test_parts_are_alike_and_end_at_the_whole(checkpoints: int, parts: list[int]) -> None:
    tasks = all_tasks(Retraining(toy_problem(), members=["0123"], checkpoints=checkpoints))
    assert [task.fidelity for task in tasks] == parts


@pytest.mark.parametrize("teacher", [False, True])
def test_first_parts_have_the_same_seeds_whatever_the_order_and_the_number_of_workers(teacher: bool) -> None:
    found = []
    for workers, chance in ((1, None), (3, random.Random(1)), (4, random.Random(2)), (30, random.Random(3))):
        strategy = Retraining(toy_problem(7), members=["0123", "3333", "0000"], seeds=3, teacher=teacher)
        first = [task for task in all_tasks(strategy, workers, chance) if task.continues is None]
        found.append({(task.architecture, task.replicate): (task.id, task.seed) for task in first})
    assert len(found[0]) == 9
    assert all(each == found[0] for each in found)


def test_the_largest_teaches_all_others_in_all_parts_with_its_own_seed() -> None:
    strategy = Retraining(toy_problem(), members=["0123", "3333", "0000"], seeds=2, checkpoints=3, teacher=True)
    tasks = all_tasks(strategy, 3, random.Random(0))
    learning = [task for task in tasks if task.architecture.code != "3333"]
    assert [task.architecture.code for task in tasks[:6]] == ["3333"] * 6
    weights = {
        task.replicate: answer(strategy.problem, task).artifacts["weights"]  # type: ignore[union-attr]
        for task in tasks[:6]
        if task.fidelity == 9
    }
    assert len(learning) == 2 * 2 * 3
    for task in learning:
        assert task.teacher is not None
        assert (task.teacher.architecture.code, task.teacher.weights) == ("3333", weights[task.replicate])
    assert all(task.teacher is None for task in tasks[:6])


def test_a_failure_ends_its_training_alone() -> None:
    strategy = Retraining(toy_problem(), members=["0123", "3333"], seeds=2, checkpoints=3)

    def failing(problem: Problem, task: Task) -> Outcome:
        assert isinstance(task, Evaluate)
        if (task.architecture.code, task.replicate, task.fidelity) == ("0123", 1, 6):
            return Failure(task=task, kind="toy", message="as told")
        return answer(problem, task)

    done: Counter[tuple[str, int]] = Counter()
    while asked := strategy.ask(1):
        for task in asked:
            assert isinstance(task, Evaluate)
            done[task.architecture.code, task.replicate] += 1
            told(strategy, task, failing)
    assert done == {("0123", 0): 3, ("0123", 1): 2, ("3333", 0): 3, ("3333", 1): 3}
    assert strategy.progress == 1


def test_nobody_learns_from_a_teacher_that_failed() -> None:
    strategy = Retraining(toy_problem(), members=["0123", "3333"], seeds=2, checkpoints=1, teacher=True)
    teachers = strategy.ask(5)
    assert len(teachers) == 2
    strategy.tell(Failure(task=teachers[0], kind="toy", message="as told"))
    assert strategy.ask(5) == []  # it waits for the other
    told(strategy, teachers[1])
    (learner,) = strategy.ask(5)
    assert isinstance(learner, Evaluate)
    assert learner.replicate == 1
    told(strategy, learner)
    assert (strategy.ask(5), strategy.progress) == ([], 1)


def test_what_leaves_no_state_is_asked_for_whole_and_afresh() -> None:
    strategy = Retraining(toy_problem(), members=["0123"], checkpoints=3)
    fidelities = []
    while asked := strategy.ask(1):
        (task,) = asked
        assert isinstance(task, Evaluate)
        assert task.continues is None
        fidelities.append(task.fidelity)
        strategy.tell(Measurement(task=task, metrics={"accuracy": 0.5, "params": 1.0}))
    assert fidelities == [3, 9]


def test_members_that_compute_the_same_are_never_answered_from_memory() -> None:
    class Alike(ToySpace):
        def canonical_key(self, architecture: Any) -> str:
            return "all"

    strategy = Retraining(toy_problem(space=Alike()), members=["0123", "3333"], seeds=3, checkpoints=1)
    tasks = all_tasks(strategy)
    assert sorted(task.replicate for task in tasks) == [0, 1, 2, 3, 4, 5]


def test_without_members_five_that_differ_are_drawn_by_the_seed() -> None:
    drawn = [{task.architecture for task in all_tasks(Retraining(toy_problem(seed)))} for seed in (0, 0, 1)]
    assert [len(each) for each in drawn] == [5, 5, 5]
    assert drawn[0] == drawn[1] != drawn[2]


def test_codes_given_twice_are_one_member() -> None:
    assert len(all_tasks(Retraining(toy_problem(), members=["0123", "0123"], checkpoints=1))) == 1


@pytest.mark.parametrize(
    ("members", "said"),
    [(["0129"], "gene 4"), (["3333"], "only a feasible member .* toy:3333 is not feasible under params<=100")],
)
def test_what_is_no_feasible_member_is_refused(members: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Retraining(toy_problem(constraints=["params<=100"]), members=members)


# Real trainings: the same weights on every way


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "space": {"name": "nasbench201", "channels": 2, "cells": 1},
        "benchmark": {"name": "classification", "epochs": 4, "subset": 300},
        "strategy": {"name": "retraining", "members": MEMBERS, "seeds": 2, "checkpoints": 3},
        "objectives": ["accuracy:max", "params:min"],
        "seed": 11,
        **changes,
    }


def weights_of(folder: Path) -> dict[tuple[str, int], Handle]:
    """The digests of the finished weights, by code and replicate."""
    return {
        (m.architecture.code, m.task.replicate): m.artifacts["weights"]
        for m in RunDirectory(folder).history().measurements
        if m.task.fidelity == 4
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Handle]:
    """The weights of a retraining in this process, in three parts each."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    searched(folder, SearchConfig.read(tree()))
    return weights_of(folder)


@pytest.mark.slow
def test_parts_give_the_weights_of_the_whole(unbroken: dict[tuple[str, int], Handle], tmp_path: Path) -> None:
    assert len(unbroken) == len(set(unbroken.values())) == 6  # seeds and members all differ
    strategy = {"name": "retraining", "members": MEMBERS, "seeds": 2, "checkpoints": 1}
    searched(tmp_path / "run", SearchConfig.read(tree(strategy=strategy)))
    assert weights_of(tmp_path / "run") == unbroken


@pytest.mark.slow
def test_of_parts_only_the_last_leaves_its_weights(command: CommandLine, tmp_path: Path) -> None:
    strategy = {"name": "retraining", "members": MEMBERS[:1], "checkpoints": 4}
    config = tree(strategy=strategy, budget={"evaluations": 3})
    config["benchmark"]["subset"] = 200
    searched(tmp_path / "run", SearchConfig.read(config))
    run = RunDirectory(tmp_path / "run")
    first, _, third = run.history().measurements
    kept = {path.parent.name + path.stem for path in run.artifacts.folder.glob("*/*")}
    assert kept == {handle.digest for handle in third.artifacts.values()}  # it may still be continued

    done = command("resume", "run", "--evaluations", "4")
    assert done.returncode == 0, done.stderr
    last = run.history().measurements[3]
    kept = {path.parent.name + path.stem for path in run.artifacts.folder.glob("*/*")}
    assert kept == {last.artifacts["weights"].digest}
    assert command("export", "run", "--pick", "3", "--no-latency").returncode == 0
    refused(
        command("export", "run", "--pick", str(first.id)),
        "after epoch 1 of a training,",
        "--pick 3, after epoch 4",
    )
    assert command("export", "run", "--pick", "0", "--untrained", "--no-latency").returncode == 0
    said = json.loads(command("recover", "run", "--json").stdout)
    assert said["artifacts_missing"] == {}
    assert "nothing to recover" in (done := command("recover", "run")).stdout + done.stderr
    run.artifacts.path(last.artifacts["weights"]).unlink()
    assert list(json.loads(command("recover", "run", "--json").stdout)["artifacts_missing"].values()) == [[3]]


@pytest.mark.slow
@pytest.mark.ray
def test_two_ray_workers_give_the_teacher_and_learners_the_weights_of_one_process(
    command: CommandLine, cluster: Any, run: str, tmp_path: Path
) -> None:
    options = (
        "retrain",
        run,
        "--pick",
        "0",
        "--pick",
        "1",
        "--pick",
        "2",
        "--distill",
        "--seeds",
        "2",
        "--epochs",
        "4",
    )
    parts = (*options, "--checkpoints", "2", "--set", "benchmark.subset=300")
    done = command(*parts, "--out", "inline")
    assert done.returncode == 0, done.stderr
    where = ("--executor", "ray", "--workers", "2", "--ray-address", cluster.address)
    done = command(*parts, *where, "--out", "ray")
    assert done.returncode == 0, done.stderr
    history = RunDirectory(tmp_path / "ray").history()
    assert len({outcome.spent.worker for outcome in history.outcomes}) == 2
    assert sum(m.task.teacher is not None for m in history.complete) == 4
    assert len(weights_of(tmp_path / "inline")) == 6
    assert weights_of(tmp_path / "ray") == weights_of(tmp_path / "inline")


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nasplat", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


KILLER = '''
"""Searches in one child after another, each killed at a random moment, until one comes to its end."""

import json
import os
import random
import signal
import time
from pathlib import Path

import torch._dynamo
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.run.directory import RunDirectory
from nasplat.testing.runs import searched

config = SearchConfig.read(json.loads(Path("config.json").read_text()))
Assembly.of(config).benchmark.prepare()  # what is loaded here, no child has to load
chance, kills = random.Random(4), 0
while True:
    child = os.fork()
    if child == 0:
        searched(Path("run"), config)
        os._exit(0)
    time.sleep(chance.uniform(0, 0.6 + 0.05 * kills))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        break
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "a child failed by itself"
    kills += 1
print(kills)
'''


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_weights(
    unbroken: dict[tuple[str, int], Handle], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tree()))
    words = [sys.executable, "-c", KILLER]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5
    history = RunDirectory(tmp_path / "run").history()
    assert (history.status, len(history.outcomes)) == ("finished", 18)
    assert weights_of(tmp_path / "run") == unbroken


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(tree(benchmark={"name": "classification", "epochs": 400})))
    process = begin(tmp_path, "search", "config.yaml", "--out", "run")
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "run" / LOG).exists() or not RunDirectory(tmp_path / "run").history().asked:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (130, ""), said
    assert "nasplat resume run" in said


# The command


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small search of real trainings."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    config = tree(
        benchmark={"name": "classification", "epochs": 1, "subset": 300},
        strategy="random_search",
        budget={"evaluations": 8},
        seed=0,
    )
    searched(folder, SearchConfig.read(config))
    return folder


@pytest.fixture
def run(template: Path, tmp_path: Path) -> str:
    """The search, where commands run: `run`."""
    (tmp_path / "run").symlink_to(template)
    return "run"


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    for part in said:
        assert part in done.stderr, done.stderr


@pytest.mark.slow
def test_picks_are_retrained_and_stand_beside_what_the_search_said(
    command: CommandLine, run: str, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    picks = ["--pick", "0", "--pick", "1", "--pick", "2", "--pick", "3", "--pick", "0"]
    done = command("retrain", run, *picks, "--epochs", "2", "--seeds", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "run-retrained-1"]
    said = json.loads(done.stdout)
    assert (said["run"], said["status"], said["strategy"]) == ("run-retrained-1", "finished", "retraining")

    old, new = RunDirectory(tmp_path / run).history(), RunDirectory(tmp_path / "run-retrained-1").history()
    searched_ = {m.architecture.code: m for m in old.measurements[:4]}
    values: dict[str, list[float]] = {}
    for m in new.measurements:
        if m.task.fidelity == 2:
            values.setdefault(m.architecture.code, []).append(m.metrics["accuracy"])
    assert [member["architecture"] for member in said["retrained"]] == list(searched_)
    for member in said["retrained"]:
        code = member["architecture"]
        assert (member["trial"], member["begun"]) == (searched_[code].id, 2)
        assert member["searched"] == searched_[code].metrics["accuracy"]
        assert member["params"] == searched_[code].metrics["params"]
        assert member["retrained"]["mean"] == pytest.approx(sum(values[code]) / 2)
        assert member["retrained"]["deviation"] == pytest.approx(statistics.stdev(values[code]))
        assert member["tested"] is None
    across = [searched_[code].metrics["accuracy"] for code in searched_]
    up = [sum(values[code]) for code in searched_]
    assert said["compared"]["spearman"] == pytest.approx(scipy.stats.spearmanr(across, up).statistic)
    assert said["compared"]["kendall"] == pytest.approx(scipy.stats.kendalltau(across, up).statistic)

    shown = command("show", "run-retrained-1")
    assert (shown.returncode, shown.stderr) == (0, "")
    for part in ("run: 4 of 8 evaluations by random_search, seed 0", "Retrained: 4 members after 2 epochs", "Spearman"):
        assert part in shown.stdout
    assert json.loads(command("show", "run-retrained-1", "--json").stdout)["retrained"] == said["retrained"]
    assert command("report", "run-retrained-1").returncode == 0
    page = (tmp_path / "run-retrained-1" / "report.html").read_text()
    assert "<h2>Retrained</h2>" in page
    assert "Kendall" in page
    assert page.count("<svg") == 3
    assert command("resume", "run-retrained-1").returncode == 0
    assert "run-retrained-1" in command("runs", ".").stdout
    assert command("export", "run-retrained-1").returncode == 0


def test_where_it_came_from_is_kept(command: CommandLine, run: str, tmp_path: Path) -> None:
    assert command("retrain", run, "--pick", "best", "--out", "new").returncode == 0
    source, old = RunDirectory(tmp_path / "new").source, RunDirectory(tmp_path / run).history()
    assert source is not None
    assert (source.run, source.evaluations, source.seed, source.objectives) == (
        *("run", 8, 0),
        ["accuracy:max", "params:min"],
    )
    assert (source.strategy.name, source.space.name) == ("random_search", "nasbench201")
    assert source.benchmark.options["epochs"] == 1
    best = old.pick("best")
    ((code, origin),) = source.members.items()
    assert (code, origin.trial, origin.fidelity, origin.metrics) == (
        *(best.architecture.code, best.id, 1),
        dict(best.metrics),
    )
    assert old.run.source is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, [7]) for key in ("run", "evaluations", "objectives", "members", "strategy")),
        ("objectives", ["accuracy"]),
        ("members", {"no code": {"trial": 0, "metrics": {}, "fidelity": 1}}),
    ],
)
def test_a_damaged_origin_is_named(key: str, value: Any, command: CommandLine, run: str, tmp_path: Path) -> None:
    assert command("retrain", run, "--pick", "best", "--checkpoints", "1", "--out", "new").returncode == 0
    path = tmp_path / "new" / ENVIRONMENT
    recorded = json.loads(path.read_text())
    recorded["source"][key] = value
    path.write_text(json.dumps(recorded))
    for words in (["show", "new"], ["show", "new", "--json"], ["report", "new"]):
        done = command(*words)
        assert (done.returncode, done.stdout) == (1, ""), done.stdout
        assert f"{ENVIRONMENT} is damaged" in done.stderr
        assert f"source.{key}" in done.stderr
        assert "nasplat recover" in done.stderr


@pytest.mark.slow
def test_by_default_bins_of_the_front_are_picked_or_the_best(command: CommandLine, run: str, tmp_path: Path) -> None:
    history = RunDirectory(tmp_path / run).history()
    assert command("retrain", run, "--out", "new").returncode == 0
    assert RunDirectory(tmp_path / "new").config.strategy.options["members"] == [
        m.architecture.code for m in history.picks("bins:5")
    ]
    assert command("retrain", run, "--pick", "front", "--out", "whole").returncode == 0
    assert RunDirectory(tmp_path / "whole").config.strategy.options["members"] == [
        m.architecture.code for m in history.front
    ]


@pytest.mark.slow
def test_a_recipe_and_flags_lie_over_the_options_of_the_search(command: CommandLine, run: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("epochs: 7\nrecipe: {learning_rate: 0.05, schedule: cosine}\naugment: true\n")
    done = command(
        *("retrain", run, "--pick", "best", "--recipe", "recipe.yaml", "--epochs", "2", "--seed", "5"),
        *("--set", "benchmark.recipe.schedule=one_cycle", "--checkpoints", "1", "--out", "new"),
    )
    assert done.returncode == 0, done.stderr
    config = RunDirectory(tmp_path / "new").config
    old = RunDirectory(tmp_path / run).config.benchmark.options
    changed = {"learning_rate": 0.05, "augment": True, "schedule": "one_cycle"}
    assert config.benchmark.options == old | {"epochs": 2, "recipe": old["recipe"] | changed}
    assert (config.seed, config.strategy.options["checkpoints"]) == (5, 1)
    assert [outcome.task.fidelity for outcome in RunDirectory(tmp_path / "new").history().measurements] == [2]


def copied(template: Path, folder: Path, **options: Any) -> None:
    """The search with other options of its benchmark on record; its measurements stay."""
    shutil.copytree(template, folder)
    config = yaml.safe_load((folder / CONFIG).read_text())
    config["benchmark"] |= options
    (folder / CONFIG).write_text(json.dumps(config))


def test_a_null_of_a_recipe_unsets_what_the_search_had(command: CommandLine, template: Path, tmp_path: Path) -> None:
    copied(template, tmp_path / "small", data={"subset": 300})
    (tmp_path / "recipe.yaml").write_text("subset: null\n")  # by its former name
    done = command("retrain", "small", "--pick", "best", "--recipe", "recipe.yaml", "--out", "new")
    assert done.returncode == 0, done.stderr
    assert RunDirectory(tmp_path / "small").config.benchmark.options["data"] == {"subset": 300}
    assert RunDirectory(tmp_path / "new").config.benchmark.options["data"]["subset"] is None


@pytest.mark.parametrize("text", ["", "# epochs: 7\n"])
def test_a_recipe_without_values_changes_nothing(text: str, command: CommandLine, run: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    done = command("retrain", run, "--pick", "best", "--recipe", "recipe.yaml", "--out", "new")
    assert done.returncode == 0, done.stderr
    assert RunDirectory(tmp_path / "new").config.benchmark == RunDirectory(tmp_path / run).config.benchmark


WRONG: dict[str, tuple[list[str], list[str]]] = {
    "no such trial": (["--pick", "99"], ["no finished trial 99", "8 outcomes"]),
    "no such pick": (["--pick", "worst"], ["--pick must be best, knee", "bins:M, front or all", "'worst'"]),
    "missing recipe": (["--recipe", "none.yaml"], ["the recipe none.yaml cannot be read"]),
    "recipe that is a list": (["--recipe", "list.yaml"], ["the recipe list.yaml must contain a mapping", "list"]),
    "recipe that is no YAML": (["--recipe", "broken.yaml"], ["the recipe broken.yaml is not YAML"]),
    "recipe with an unknown option": (["--recipe", "typo.yaml"], ["'epoch'", "did you mean 'epochs'"]),
    "recipe that names a benchmark": (["--recipe", "named.yaml"], ["options of the benchmark", "--benchmark"]),
    "place that is taken": (["--out", "taken"], ["taken exists; choose another --out"]),
    "workers that run inline": (["--workers", "2"], ["workers", "--executor ray"]),
    "no learning from a teacher": (["--set", "strategy.teacher=true"], ["teacher", "not configured"]),
    "benchmark that is none": (["--benchmark", "clasification"], ["did you mean 'classification'"]),
    "objective nobody measures": (["--objective", "speed:max"], ["'speed'"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_and_nothing_is_created(
    name: str, command: CommandLine, run: str, tmp_path: Path
) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "typo.yaml").write_text("epoch: 3")
    (tmp_path / "named.yaml").write_text("name: classification")
    (tmp_path / "taken").mkdir()
    before = sorted(tmp_path.rglob("*"))
    arguments, said = WRONG[name]
    refused(command("retrain", run, "--pick", "best", *arguments), *said)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_run_or_has_nothing_yet_is_refused(command: CommandLine, tmp_path: Path) -> None:
    refused(command("retrain", "nothing"), "nothing does not exist")
    config = Assembly.of(SearchConfig.read(tree(strategy="random_search", budget={"evaluations": 1}))).config
    run = RunDirectory.create(tmp_path / "run", config)
    refused(command("retrain", "run"), "no measurement to pick")
    with run.writing():
        refused(command("retrain", "run"), "is being searched by another process")


# Other benchmarks


class Taught(ToyBenchmark):
    """The toy with states, weights and teachers; who has a teacher is a little better."""

    def __init__(self, space: SearchSpace, *, epochs: int = 9, distillation: float = 0.0, pace: int = 1) -> None:
        super().__init__(space)
        self.epochs = epochs
        self.distillation = distillation
        self.pace = pace
        self.distills = distillation > 0

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "speed")

    @property
    def fidelity(self) -> int:
        return self.epochs

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        if task.teacher is not None:
            artifacts.get(task.teacher.weights)  # which must not have been collected
        if task.continues is not None:
            artifacts.get(task.continues)
        plain = super().measure(task, device=device, artifacts=artifacts)
        left = {"weights": artifacts.put(f"weights {task.architecture} {task.replicate} {task.fidelity}".encode())}
        if task.fidelity < self.epochs:
            left[STATE] = artifacts.put(f"state {task.architecture} {task.replicate} {task.fidelity}".encode())
        gain = 0.001 if task.teacher is not None else 0.0
        metrics = {"accuracy": plain.metrics["accuracy"] * 0.9 + gain, "speed": 1.0 / self.pace}
        return Measurement(task=task, metrics=metrics, artifacts=left)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """`toy` and `taught` by name in this process."""
    monkeypatch.setitem(SEARCH_SPACES._plugins, "toy", Plugin("toy", "nasplat.testing.toy:ToySpace", "here"))
    monkeypatch.setitem(BENCHMARKS._plugins, "taught", Plugin("taught", f"{__name__}:Taught", "here"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Taught.__module__])


TOYS = [
    "search", "--space", "toy", "--benchmark", "taught", "--strategy", "random_search", "--objective", "accuracy:max",
    "--objective", "params:min", "--objective", "speed:max", "--evaluations", "40", "--out", "toys",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
def test_the_largest_pick_teaches_the_others(command: CommandLine, tmp_path: Path) -> None:
    assert command(*TOYS).returncode == 0
    done = command("retrain", "toys", "--distill", "--seeds", "2", "--out", "new")
    assert (done.returncode, done.stderr) == (0, "")
    run = RunDirectory(tmp_path / "new")
    assert run.config.strategy.options["teacher"] is True
    assert run.config.benchmark.options["distillation"] == 0.5
    measured = run.history().complete
    largest = max(m.metrics["params"] for m in measured)
    assert {m.metrics["params"] == largest for m in measured if m.task.teacher is None} == {True}
    assert sum(m.task.teacher is None for m in measured) == 2
    options = ("--set", "benchmark.distillation=0.7", "--out", "stronger")
    assert command("retrain", "toys", "--distill", *options).returncode == 0
    assert RunDirectory(tmp_path / "stronger").config.benchmark.options["distillation"] == 0.7
    refused(command("retrain", "toys", "--distill", "--pick", "best"), "only one is picked")


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("failing", ["teacher", "all"])
def test_who_was_left_out_and_why_is_told(
    failing: str, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*TOYS).returncode == 0
    members = RunDirectory(tmp_path / "toys").history().measurements[:3]
    largest = max(members, key=lambda m: m.metrics["params"])
    measure = Taught.measure

    def failed(self: Taught, task: Evaluate, **how: Any) -> Measurement:
        if task.architecture == largest.architecture and (failing == "all" or task.replicate == 1):
            raise ValueError("as told")
        return measure(self, task, **how)

    monkeypatch.setattr(Taught, "measure", failed)
    picks = [word for m in members for word in ("--pick", str(m.id))]
    done = command("retrain", "toys", *picks, "--distill", "--seeds", "2", "--checkpoints", "1", "--out", "new")
    shown = command("show", "new")
    title = "Retrained: 0 of 3 members" + (" after 9 epochs" if failing == "teacher" else "")
    trial = RunDirectory(tmp_path / "new").history().failures[0].id
    others = ", ".join(m.architecture.code for m in members if m is not largest)
    for said in (done.stdout, shown.stdout):
        assert title in said
        assert f"{largest.architecture.code}: trial {trial} failed (ValueError)" in said
        assert f"{others}: left out, since the teacher cannot be used: trial {trial} failed" in said
        rows = [line.split() for line in said.splitlines() if line.rstrip().endswith(("teacher", "learner"))]
        assert [row[-1] for row in rows] == ["teacher" if m is largest else "learner" for m in members]
        assert {tuple(row[-4:-1]) for row in rows} == {("1" if failing == "teacher" else "0", "of", "2")}
    said = json.loads(command("show", "new", "--json").stdout)
    assert (said["compared"]["members"], said["compared"]["trained"], said["compared"]["seeds"]) == (3, 0, 2)
    assert [member["teacher"] for member in said["retrained"]] == [m is largest for m in members]
    assert all("failed (ValueError)" in member["missing"] for member in said["retrained"])
    assert command("report", "new").returncode == 0
    assert "left out, since the teacher" in (tmp_path / "new" / "report.html").read_text()


@pytest.mark.usefixtures("toys")
def test_one_member_after_one_epoch_is_told_in_the_singular(command: CommandLine) -> None:
    assert command(*TOYS).returncode == 0
    done = command("retrain", "toys", "--pick", "0", "--epochs", "1", "--out", "new")
    assert "Retrained: 1 member after 1 epoch\n" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
def test_distillation_in_a_recipe_means_a_teacher(command: CommandLine, tmp_path: Path) -> None:
    assert command(*TOYS).returncode == 0
    (tmp_path / "recipe.yaml").write_text("distillation: 0.3")
    picks = ("--pick", "0", "--pick", "1")
    for name, options in {"new": ("--recipe", "recipe.yaml"), "set": ("--set", "benchmark.distillation=0.3")}.items():
        done = command("retrain", "toys", *picks, *options, "--out", name)
        assert done.returncode == 0, done.stderr
        assert "distillation is 0.3: the largest network is trained first" in done.stderr
        config = RunDirectory(tmp_path / name).config
        assert (config.strategy.options["teacher"], config.benchmark.options["distillation"]) == (True, 0.3)
    remedies = ("is configured for distillation", "set it to 0")
    without = ("the retraining has no strategy.teacher", *remedies)
    refused(command("retrain", "toys", "--pick", "0", "--recipe", "recipe.yaml"), *without)
    alone = ("--recipe", "recipe.yaml", "--set", "strategy.teacher=false")
    refused(command("retrain", "toys", *picks, *alone), *without)
    refused(command(*TOYS[:-1], "other", "--set", "benchmark.distillation=0.3"), "a search has no teacher", *remedies)
    assert not (tmp_path / "other").exists()


def test_a_benchmark_that_does_not_train_is_refused(command: CommandLine, table101: Path) -> None:
    done = command(
        *("search", "--space", "nasbench101", "--benchmark", "nasbench101", "--strategy", "random_search"),
        *("--objective", "accuracy:max", "--objective", "params:min", "--evaluations", "20", "--out", "run"),
    )
    assert done.returncode == 0, done.stderr
    refused(command("retrain", "run"), "nasbench101 of run trains no networks", "--benchmark classification")
    for name in ("nasbench101", "nasbench201", "zero_cost", "super_resolution_table"):
        said = f"the benchmark {name} trains no networks"
        refused(command("retrain", "run", "--benchmark", name), said, "--benchmark classification")


def test_what_a_table_ranked_is_trained_by_another_benchmark(
    command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = NASBench201()
    folder = tmp_path / "data" / "nasbench201"
    folder.mkdir(parents=True)
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "data"))
    with gzip.open(folder / "cifar10.csv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch_str", "c10_valid_200", "c10_test_200", "c10_train_time_12ep_s"])
        for index in range(3):
            code = ["432110", "000434", "400402"][index]
            writer.writerow([space.official(space.parse(code)), 50 + index, 50 + index, 100])
    done = command(
        *("search", "--space", "nasbench201", "--benchmark", "nasbench201", "--strategy", "random_search"),
        *("--objective", "accuracy:max", "--evaluations", "3", "--out", "table"),
    )
    assert done.returncode == 0, done.stderr
    new = ("--benchmark", "classification", "--set", "benchmark.subset=300", "--set", "space.channels=2")
    done = command("retrain", "table", "--pick", "all", *new, "--set", "space.cells=1", "--epochs", "1", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert sorted(member["searched"] for member in said["retrained"]) == pytest.approx([0.5, 0.51, 0.52])
    assert len(said["retrained"]) == 3


@pytest.mark.usefixtures("toys")
def test_objectives_that_nobody_measures_now_are_dropped_aloud(command: CommandLine, tmp_path: Path) -> None:
    assert command(*TOYS).returncode == 0
    BENCHMARKS._plugins["plain_toy"] = Plugin("plain_toy", "nasplat.testing.toy:ToyBenchmark", "here")
    try:
        done = command("retrain", "toys", "--benchmark", "plain_toy", "--pick", "best", "--out", "new")
    finally:
        del BENCHMARKS._plugins["plain_toy"]
    assert done.returncode == 0, done.stderr
    assert "dropped from the objectives: speed:max" in done.stderr
    assert RunDirectory(tmp_path / "new").config.objectives == ["accuracy:max", "params:min"]


@pytest.mark.usefixtures("toys")
def test_a_benchmark_that_measures_nothing_of_it_or_cannot_distill_is_refused(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Plugin("plain_toy", "nasplat.testing.toy:ToyBenchmark", "here")
    monkeypatch.setitem(BENCHMARKS._plugins, "plain_toy", plain)
    fast = TOYS.index("accuracy:max")
    assert command(*TOYS[: fast - 1], *TOYS[fast + 1 :]).returncode == 0
    other = ("retrain", "toys", "--benchmark", "plain_toy")
    refused(command(*other), "plain_toy measures accuracy", "params:min, speed:max", "--objective accuracy:max")
    refused(command(*other, "--distill"), "no option distillation")


@pytest.mark.usefixtures("toys")
def test_constraints_are_left_behind_but_where_they_lift_a_limit(
    command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySpace, "limits", ("params<=200",))
    lifted = ("--constraint", "params<=100000", "--constraint", "macs<=90000", "--constraint", "params>=300")
    assert command(*TOYS, *lifted).returncode == 0
    done = command("retrain", "toys", "--pick", "best", "--out", "new")
    assert done.returncode == 0, done.stderr
    assert RunDirectory(tmp_path / "new").config.constraints == ["params<=100000"]


@pytest.mark.usefixtures("toys")
def test_a_comparison_counts_what_is_done(command: CommandLine, tmp_path: Path) -> None:
    assert command(*TOYS).returncode == 0
    assert Comparison.of(RunDirectory(tmp_path / "toys").history()) is None
    assert command("retrain", "toys", "--pick", "0", "--pick", "1", "--out", "two").returncode == 0
    two = Comparison.of(RunDirectory(tmp_path / "two").history())
    assert two is not None
    assert (two.spearman, two.kendall, [m.begun for m in two.members]) == (None, None, [1, 1])
    assert [m.retrained and m.retrained.deviation for m in two.members] == [None, None]


def test_means_and_deviations_near_the_limit_of_floats_are_no_error() -> None:
    assert MeanStd((1.7e308, 1.7e308)).mean == 1.7e308
    assert MeanStd((1.7e308, -1.7e308)).deviation == math.inf
