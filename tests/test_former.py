"""What a former revision wrote still opens, and its runs go on as they would have: see `tests/former/make`."""

import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

import nasplat
from nasplat.driver.loop import Search
from nasplat.driver.replay import RECOUNTED
from nasplat.errors import InputError
from nasplat.export.opening import opened
from nasplat.latency.conditions import Conditions
from nasplat.latency.table import read_table
from nasplat.objective import Goal, Objective
from nasplat.options import complete
from nasplat.problem import Problem
from nasplat.registry import PREDICTORS, SEARCH_SPACES, STRATEGIES
from nasplat.run.layout import CONFIG
from nasplat.strategy import DuplicatePolicy
from nasplat.task import Outcome, Spent
from nasplat.testing.toy import ToySpace

CommandLine = Callable[..., CompletedProcess[str]]
ARCHIVE = Path(__file__).parent / "former" / "files.tar.gz"
SPACE = ToySpace()
GOAL = Goal((Objective("accuracy", maximize=True),))
TABLES = ["credit_evolution", "local_search", "nsga2", "predictor_guided", "prefiltered"]
"""Runs of a table, which go on to the same measurements on every machine."""
TRAININGS = ["asha", "cars", "classification", "super_resolution", "zero_cost"]
"""Runs that train or compute, where the last digit may be another machine's."""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, unpacked; each test writes in what is its own."""
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def trials(said: str) -> dict[int, tuple[str, dict[str, float]]]:
    """Architecture and metrics of each trial, as `nasplat show --json` gives them, and as it gave them."""
    document = json.loads(said)
    shown = document["trials"] if "trials" in document else document["best"]
    return {each["trial"]: (each["architecture"], each["metrics"]) for each in shown}


def compared(found: dict[int, tuple[str, dict[str, float]]]) -> dict[int, tuple[str, dict[str, float]]]:
    """Trials without the metrics that there were not, and without what was counted otherwise."""
    other = {*RECOUNTED, "multiplications", "additions", "bit_operations", "operations"}
    return {
        trial: (code, {name: value for name, value in metrics.items() if name not in other})
        for trial, (code, metrics) in found.items()
    }


@pytest.mark.slow
def test_a_run_that_compares_what_is_counted_otherwise_now_does_not_go_on(former: Path, command: CommandLine) -> None:
    run = shutil.copytree(former / "runs" / "classification", former / "recounted")
    tree = yaml.safe_load((run / CONFIG).read_text())
    tree["objectives"] = ["memory_bits:min"]
    (run / CONFIG).write_text(yaml.safe_dump(tree, sort_keys=False))
    resumed = command("resume", run, "--evaluations", "30")
    assert resumed.returncode == 1 and "on resuming, memory_bits of nasbench201:432110 is 21536" in resumed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES + TRAININGS)
def test_a_run_is_shown_and_goes_on(name: str, former: Path, command: CommandLine) -> None:
    run = former / "runs" / name
    whole = (former / "runs" / f"{name}.json").read_text()
    evaluations = json.loads(whole)["outcomes"] - json.loads(whole)["trained"]
    before = command("show", run, "--top", "1000", "--json")
    assert before.returncode == 0 and json.loads(before.stdout)["outcomes"] < json.loads(whole)["outcomes"]
    resumed = command("resume", run, "--evaluations", str(evaluations), "--json")
    assert resumed.returncode == 0, resumed.stderr
    after = command("show", run, "--top", "1000", "--json")
    expected, found = trials(whole), trials(after.stdout)
    assert json.loads(after.stdout)["failures"] == [] and len(found) == len(expected)
    if name in TABLES:
        assert compared(found) == compared(expected)
    for trial, measured in trials(before.stdout).items():
        assert found[trial] == measured


@pytest.mark.slow
def test_a_retraining_is_shown_with_where_it_came_from(former: Path, command: CommandLine) -> None:
    done = command("show", former / "runs" / "retrained", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["source"]["strategy"]["name"] == "regularized_evolution" and said["compared"]["trained"] == 1
    assert nasplat.open_run(former / "runs" / "retrained").config.kind == "retraining"  # which its file does not say
    resumed = command("resume", former / "runs" / "retrained", "--json")
    assert resumed.returncode == 0 and json.loads(resumed.stdout)["compared"] == said["compared"], resumed.stderr
    tested = command("test", former / "runs" / "retrained", "--pick", "best", "--json")
    assert tested.returncode == 0, tested.stderr


@pytest.mark.slow
def test_an_interrupted_retraining_goes_on_whose_file_does_not_say_its_kind(
    former: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = nasplat.open_run(former / "runs" / "classification")
    given: dict[str, Any] = {"pick": "best", "epochs": 2, "checkpoints": 2, "progress": False}
    whole = searched.retrain(**given, out=tmp_path / "whole").trials()
    take = Search.take

    def interrupted(search: Search, outcomes: Sequence[Outcome]) -> None:
        take(search, outcomes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Search, "take", interrupted)
        searched.retrain(**given, out=tmp_path / "part")
    tree = yaml.safe_load((tmp_path / "part" / CONFIG).read_text())
    assert tree.pop("kind") == tree["strategy"]["name"] == "retraining"  # the latter alone was written before
    (tmp_path / "part" / CONFIG).write_text(yaml.safe_dump(tree, sort_keys=False))

    part = nasplat.open_run(tmp_path / "part")
    assert (part.status, len(part.trials())) == ("interrupted", 1)
    resumed = part.resume(progress=False)
    assert resumed.status == "finished"
    assert [replace(each, spent=Spent()) for each in resumed.trials()] == [
        replace(each, spent=Spent()) for each in whole
    ]
    assert [each.task.fidelity for each in whole if isinstance(each, nasplat.Measurement)] == [1, 2]


def test_a_run_is_listed_with_what_was_tested(former: Path, command: CommandLine) -> None:
    done = command("runs", former / "runs", "--json")
    assert done.returncode == 0, done.stderr
    assert {each["status"] for each in json.loads(done.stdout)} == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["distance_process", "ensemble", "gaussian_process", "gradient_boosting", "graph_network", "random_forest"],
)
def test_a_predictor_predicts_what_it_did(name: str, former: Path, command: CommandLine) -> None:
    expected: dict[str, Any] = json.loads((former / "predictors" / f"{name}.json").read_text())
    codes = [each["architecture"] for each in expected["predictions"]]
    done = command("predictor", "predict", former / "predictors" / name, *codes, "--json")
    assert done.returncode == 0, done.stderr
    for found, before in zip(json.loads(done.stdout)["predictions"], expected["predictions"], strict=True):
        assert found["value"] == pytest.approx(before["score"], rel=1e-4)
    assert json.loads(done.stdout)["metric"] is None
    in_words = command("predictor", "predict", former / "predictors" / name, *codes)
    assert in_words.stdout.startswith("Estimates of score (in a unit of its own")


@pytest.mark.slow
def test_an_export_opens_with_the_weights_that_were_measured(former: Path) -> None:
    exported = opened(former / "export")
    assert sum(parameter.numel() for parameter in exported.network.parameters()) > 0


def test_a_table_of_latency_tells_what_it_did(former: Path) -> None:
    space = SEARCH_SPACES.get("ghost/small")()
    table = read_table(former / "latency.csv", space, space.reference_io)
    expected = json.loads((former / "latency.json").read_text())
    assert len(expected) == 3
    assert table.origin.conditions == Conditions("torch", threads=1, batch=1, device="cpu")
    assert table.origin.networks == 4 and table.origin.median_error == pytest.approx(0.00975, rel=0.01)
    for code, latency in expected.items():
        assert table.latency_ms(space.parse(code)) == pytest.approx(latency, rel=1e-9)


@pytest.mark.parametrize(
    ("strategy", "former", "today"),
    [
        ("nsga2", {"repeats": "remember"}, {"duplicates": "cache"}),
        ("random_search", {"repeats": "measure"}, {"duplicates": "measure"}),
        ("cars", {"prefilter": 3}, {"prescreen": 3}),
        ("predictor_guided", {"design": "spread"}, {"design": "clusters"}),
        ("cars", {"predictor": "distance_process"}, {"predictor": "isotropic_gaussian_process"}),
        ("asha", {"around": "nsga2"}, {"base_strategy": "nsga2"}),
        ("successive_halving", {"entrants": 9}, {"bracket_size": 9}),
    ],
)
def test_former_names_of_options_mean_the_same(strategy: str, former: dict[str, Any], today: dict[str, Any]) -> None:
    plugin = STRATEGIES.get(strategy)
    assert complete("strategy", plugin, former) == complete("strategy", plugin, today)


def test_a_duplicate_policy_in_code_may_have_its_former_value_and_no_other() -> None:
    assert DuplicatePolicy(Problem(SPACE, GOAL, io=SPACE.reference_io), "remember").policy == "cache"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be cache, redraw or measure, but got 'never'"):
        DuplicatePolicy(Problem(SPACE, GOAL, io=SPACE.reference_io), "never")  # type: ignore[arg-type]


def test_a_former_name_of_a_plugin_is_no_second_plugin() -> None:
    assert PREDICTORS.get("distance_process") is PREDICTORS.get("isotropic_gaussian_process")
    assert "distance_process" not in PREDICTORS.names()
