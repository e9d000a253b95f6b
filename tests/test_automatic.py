"""`--strategy auto`: which strategy each situation gets, what is said of it, and that a run keeps what was chosen."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nasplat.benchmark import Benchmark
from nasplat.benchmarks.classification import Classification
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.driver.automatic import POPULATION, choose
from nasplat.driver.budget import Budget
from nasplat.errors import InputError
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.run.directory import RunDirectory
from nasplat.strategies.cars import CARS
from nasplat.task import Evaluate
from nasplat.testing import ToyBenchmark, ToySpace
from nasplat.testing.strategies import drive

CommandLine = Callable[..., subprocess.CompletedProcess[str]]

TRAINED: dict[str, Any] = {  # no supernet, not to be listed
    "space": {"name": "nasbench101", "channels": 8, "cells": 1},
    "benchmark": {"name": "classification", "epochs": 9},
    "objectives": ["accuracy:max"],
}
SHARED: dict[str, Any] = {
    "space": {"name": "nasbench201", "channels": 4, "cells": 1},
    "benchmark": {"name": "classification", "epochs": 10},
    "objectives": ["accuracy:max", "params:min"],
}
LOOKED_UP: dict[str, Any] = {"space": "nasbench201", "benchmark": "nasbench201", "objectives": ["accuracy:max"]}
TINY: dict[str, Any] = {"space": "esrn/tiny", "benchmark": "super_resolution_table", "objectives": ["psnr_db:max"]}


def assembled(tree: dict[str, Any], **budget: float) -> Assembly:
    return Assembly.of(SearchConfig.read({**tree, "strategy": "auto", "budget": budget}))


def chosen(tree: dict[str, Any], **budget: float) -> str:
    assembly = assembled(tree, **budget)
    assert assembly.choice is not None
    assert assembly.config.strategy.name == assembly.choice.strategy
    return assembly.choice.strategy


def on_supernet(epochs: int) -> dict[str, Any]:
    return {**SHARED, "benchmark": {"name": "classification", "epochs": epochs}}


# Supernets


@pytest.mark.parametrize("budget", [{}, {"seconds": 60}, {"images": 10**6}, {"device_seconds": 60}], ids=str)
def test_where_a_supernet_is_trained_its_weights_are_shared(budget: dict[str, float]) -> None:
    assert chosen(SHARED, **budget) == "cars"
    assert chosen({**SHARED, "objectives": ["accuracy:max"]}, **budget) == "cars"


def plan(epochs: int, population: int) -> int:
    """How many evaluations CARS asks for before it ends."""
    benchmark = ToyBenchmark(ToySpace())
    goal = Goal((Objective("accuracy", True), Objective("params", False)))
    problem = Problem(benchmark.space, goal, io=benchmark.io, fidelity=epochs)
    asked = drive(CARS(problem, population=population, finish="race"), trials=10_000, batch=100)
    return sum(isinstance(task, Evaluate) for task in asked)


@pytest.mark.parametrize("epochs", [2, 9, 10, 30])
def test_shared_weights_need_evaluations_enough_for_the_whole_plan(epochs: int) -> None:
    evaluations = plan(epochs, POPULATION)
    assert chosen(on_supernet(epochs), evaluations=evaluations) == "cars"
    assert chosen(on_supernet(epochs), evaluations=evaluations - 1) != "cars"


@pytest.mark.slow
def test_a_smaller_population_fits_evaluations_too_many_for_trainings_from_scratch() -> None:
    for evaluations in (2001, 2500):
        assembly = assembled(on_supernet(51), evaluations=evaluations)
        assert assembly.config.strategy.name == "cars"
        population = assembly.config.strategy.options["population"]
        assert plan(51, population) <= evaluations < plan(51, population + 1)
    assert chosen(on_supernet(51), evaluations=2000) == "predictor_guided"


def test_a_supernet_that_is_trained_for_a_single_epoch_has_no_generation() -> None:
    assert chosen(on_supernet(1), seconds=60) == "predictor_guided"


def test_the_schedule_that_the_plan_rests_on_is_written_down() -> None:
    options = assembled(SHARED).config.strategy.options
    assert (options["population"], options["warmup"], options["interval"]) == (POPULATION, 1, 1)
    assert options["finish"] == "race"


def test_a_benchmark_that_cannot_fine_tune_gets_no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "fine_tunes", False)
    assembly = assembled(SHARED)
    assert (assembly.config.strategy.name, assembly.config.strategy.options["finish"]) == ("cars", "front")


def test_a_space_without_a_supernet_shares_no_weights() -> None:
    assert chosen({**TRAINED, "objectives": ["accuracy:max", "params:min"]}, seconds=60) == "predictor_guided"


# Everything can be measured


def test_what_can_be_measured_whole_is() -> None:
    assert chosen(TINY, evaluations=875) == "random_search"
    assert chosen(TINY, evaluations=155) == "random_search"
    assert chosen(TINY, evaluations=154) == "predictor_guided"


def test_constraints_make_fewer_members_of_many() -> None:
    whole = assembled(TINY, evaluations=99).problem
    sizes = sorted(whole.cost(member).params for member in whole.listed() or [])
    half = {**TINY, "constraints": [f"params<={sizes[100]}"]}
    left = sum(size <= sizes[100] for size in sizes)
    assert 100 < left < len(sizes) == 155
    assert chosen(half, evaluations=left) == "random_search"
    assert chosen(half, evaluations=left - 1) == "predictor_guided"


@pytest.mark.slow
def test_equal_cells_count_once(table: Path) -> None:
    assert chosen(LOOKED_UP, evaluations=6466) == "random_search"
    assert chosen(LOOKED_UP, evaluations=6465) == "regularized_evolution"


@pytest.mark.slow
def test_seconds_of_a_table_are_thousands_of_evaluations(table: Path) -> None:
    assert chosen(LOOKED_UP, seconds=60) == "random_search"
    assert chosen(LOOKED_UP, seconds=10) == "regularized_evolution"
    assert chosen(LOOKED_UP, seconds=1) == "predictor_guided"
    assert chosen(LOOKED_UP, seconds=3600, evaluations=100) == "predictor_guided"


# Many evaluations, and few


def test_a_predictor_learns_from_up_to_two_thousand_evaluations() -> None:
    assert chosen(TRAINED, evaluations=2000) == "predictor_guided"
    assert chosen(TRAINED, evaluations=2001) == "regularized_evolution"


@pytest.mark.slow
def test_several_objectives_and_many_evaluations_are_evolved_by_fronts(table: Path) -> None:
    two = {**LOOKED_UP, "objectives": ["accuracy:max", "macs:min"]}
    assert chosen(two, evaluations=100) == "predictor_guided"
    assert chosen(two, evaluations=3000) == "nsga2"
    assert assembled(two, evaluations=3000).config.strategy.options["duplicates"] == "redraw"


def test_constraints_on_what_is_measured_are_predicted_too() -> None:
    assert chosen({**TRAINED, "constraints": ["accuracy>=0.5"]}, evaluations=50) == "predictor_guided"


# Stopping early


@pytest.mark.parametrize(
    "budget", [{"seconds": 60}, {"evaluations": 50, "images": 10**5}, {"seconds": 60, "device_seconds": 50}], ids=str
)
def test_trainings_are_stopped_early_where_that_saves_what_is_counted(budget: dict[str, float]) -> None:
    assert chosen(TRAINED, **budget) == "asha"
    short = {**TRAINED, "benchmark": {"name": "classification", "epochs": 2}}
    assert chosen(short, **budget) == "predictor_guided", "two epochs make no second rung"
    two = {**TRAINED, "objectives": ["accuracy:max", "params:min"]}
    assert chosen(two, **budget) == "predictor_guided"


def test_an_evaluation_counts_as_one_however_short_it_is() -> None:
    assert chosen(TRAINED, evaluations=50) == "predictor_guided"
    assert chosen(TRAINED, evaluations=50, seconds=60) == "predictor_guided"


# What is said, and what is refused


@pytest.mark.slow
def test_the_reasons_name_space_objectives_and_budget(table: Path) -> None:
    two = {**LOOKED_UP, "objectives": ["accuracy:max", "macs:min"]}
    assert str(assembled(two, evaluations=100).choice) == (
        "auto chose predictor_guided: nasbench201 can be listed (15,625 members), 2 objectives, 100 evaluations"
    )
    assert str(assembled(SHARED).choice) == (
        "auto chose cars: the benchmark trains a supernet of nasbench201, and the best go on in a race, 2 objectives, "
        "no budget"
    )
    assert str(assembled(TINY, evaluations=200).choice) == (
        "auto chose random_search: the budget is enough for all 155 members of esrn/tiny, 1 objective, 200 evaluations"
    )
    assert "is too large to be listed" in str(assembled(TRAINED, evaluations=9).choice)
    assert "2.5 seconds, 1,000,000 images" in str(assembled(TRAINED, seconds=2.5, images=10**6).choice)


@pytest.mark.parametrize("looks_up", [True, False])
def test_seconds_of_what_looks_up_are_evaluations_whatever_its_class(looks_up: bool) -> None:
    benchmark: Benchmark = type("Mine", (ToyBenchmark,), {"looks_up": looks_up})(ToySpace())
    problem = Problem.of(benchmark, Goal((Objective("accuracy", True),)))
    assert (choose(benchmark, problem, Budget(seconds=1)).strategy == "random_search") == looks_up


def test_choosing_draws_nothing_and_depends_on_what_it_is_given_alone() -> None:
    parts = assembled(TINY, evaluations=100)
    fresh = Problem(
        parts.benchmark.space, parts.problem.goal, io=parts.benchmark.io, is_measurable=parts.benchmark.feasible
    )
    before = fresh.state()
    choices = [choose(parts.benchmark, fresh, parts.budget) for _ in range(2)]
    assert choices[0] == choices[1] == parts.choice
    assert fresh.state() == before


def test_a_strategy_that_is_named_is_not_chosen() -> None:
    tree = {**TINY, "strategy": "nsga2", "budget": {"evaluations": 9}}
    assert Assembly.of(SearchConfig.read(tree)).choice is None


def test_the_configuration_that_results_gives_the_same_search() -> None:
    config = assembled(TINY, evaluations=100).config
    again = Assembly.of(SearchConfig.read(yaml.safe_load(config.to_yaml())))
    assert again.config == config and again.choice is None


def test_options_without_a_strategy_are_refused() -> None:
    tree = {**TINY, "strategy": {"name": "auto", "population": 5}, "budget": {"evaluations": 9}}
    with pytest.raises(
        InputError, match=r"auto chooses the strategy and its options.*strategy\.population.*name a strategy"
    ):
        Assembly.of(SearchConfig.read(tree))


def test_a_search_without_a_budget_is_refused_as_ever_where_the_strategy_has_no_end() -> None:
    with pytest.raises(InputError, match="needs a budget that is certain to end it"):
        assembled(TRAINED)
    with pytest.raises(InputError, match="needs a budget that is certain to end it"):
        assembled(TRAINED, images=1000)


def test_auto_is_no_strategy_that_another_could_go_around() -> None:
    tree = {**TRAINED, "strategy": {"name": "asha", "base_strategy": "auto"}, "budget": {"evaluations": 9}}
    with pytest.raises(InputError, match=r"auto can only be used .* name a strategy here: asha, .*random_search"):
        Assembly.of(SearchConfig.read(tree))


def test_nobody_registers_a_strategy_of_that_name() -> None:
    with pytest.raises(InputError, match="reserved name 'auto'; give it another one"):
        STRATEGIES.register("auto", "somebody.else:Auto", "somebody")
    assert "auto" not in STRATEGIES.names()


# On the command line

SEARCH = ["search", "--space", "esrn/tiny", "--benchmark", "super_resolution_table", "--objective", "psnr_db:max"]
SAID = "auto chose predictor_guided: esrn/tiny can be listed (875 members), 1 objective, 8 evaluations"


def spelt_out(kept: dict[str, Any]) -> dict[str, Any]:
    """A strategy's section with every option, those that are missing at their defaults."""
    config = SearchConfig.read({**TINY, "strategy": kept, "budget": {"evaluations": 8}}).resolved()
    return config.model_dump(mode="json")["strategy"]  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_search_says_what_was_chosen_and_keeps_it(command: CommandLine, tmp_path: Path) -> None:
    done = command(*SEARCH, "--strategy", "auto", "--evaluations", "8", "--out", "run")
    assert (done.returncode, done.stderr) == (0, f"{SAID}\n")
    assert "auto" not in done.stdout
    run = tmp_path / "run"
    kept = yaml.safe_load((run / "config.yaml").read_text())["strategy"]
    assert kept["name"] == "predictor_guided" and kept == spelt_out(kept)
    assert json.loads((run / "environment.json").read_text())["choice"] == SAID
    assert f"choice     {SAID}" in command("show", "run").stdout
    assert json.loads(command("show", "run", "--json").stdout)["choice"] == SAID
    assert command("report", "run").returncode == 0
    assert SAID in (run / "report.html").read_text()

    named = command("search", "run/config.yaml", "--out", "named")
    assert (named.returncode, named.stderr) == (0, "")
    codes = [
        [m.architecture.code for m in RunDirectory(tmp_path / name).history().measurements] for name in ("run", "named")
    ]
    assert codes[0] == codes[1]
    assert "choice" not in command("show", "named").stdout


@pytest.mark.slow
def test_a_resumed_run_does_not_choose_again(
    command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*SEARCH, "--strategy", "auto", "--evaluations", "8", "--out", "run").returncode == 0

    def tripwire(*arguments: object) -> None:
        raise AssertionError("it chose again")

    monkeypatch.setattr("nasplat.driver.assembly.choose", tripwire)
    done = command("resume", "run", "--evaluations", "12", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said["strategy"], said["choice"], said["evaluations"]) == ("predictor_guided", SAID, 12)
    assert RunDirectory(tmp_path / "run").config.strategy.name == "predictor_guided"


@pytest.mark.slow
def test_json_holds_the_choice(command: CommandLine) -> None:
    done = command(*SEARCH, "--strategy", "auto", "--evaluations", "200", "--json")
    assert done.returncode == 0 and done.stderr.startswith("auto chose random_search: ")
    said = json.loads(done.stdout)
    assert (said["strategy"], said["choice"]) == ("random_search", done.stderr.rstrip("\n"))
    named = json.loads(command(*SEARCH, "--strategy", "nsga2", "--evaluations", "8", "--json").stdout)
    assert (named["strategy"], named["choice"]) == ("nsga2", "")


def test_wrong_use_is_refused_and_nothing_is_created(command: CommandLine, tmp_path: Path) -> None:
    for wrong, said in (
        (["--strategy", "auto", "--set", "strategy.population=4"], "auto chooses the strategy and its options"),
        (["--strategy", "atuo"], "did you mean 'auto'? Known: asha, auto, cars"),
        (["--strategy", "asha", "--set", "strategy.base_strategy=auto"], "name a strategy here: asha"),
    ):
        done = command(*SEARCH, "--evaluations", "8", *wrong)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_it_stands_below_the_list_of_strategies_and_in_the_help(command: CommandLine) -> None:
    lines = command("list", "strategies").stdout.splitlines()
    assert any(line.startswith("auto ") and "the search says why" in line for line in lines)
    assert not any("the search says why" in line for line in command("list", "predictors").stdout.splitlines())
    assert "auto, which chooses one and says why" in re.sub(r"[\s│]+", " ", command("search", "--help").stdout)
