"""`nasplat predictor evaluate`: results side by side, gone on with where they stopped."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from nasplat_demo.benchmark import Formula
from nasplat_demo.space import Perceptron
from numpy.random import default_rng
from typer.testing import CliRunner

from nasplat.cli import benchmarking, evaluating
from nasplat.cli.evaluation_record import _trial
from nasplat.errors import InputError
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES
from nasplat.surrogates import ranking_metrics

app = typer.Typer()
app.command("evaluate")(evaluating.evaluate)


def run(*arguments: object, code: int = 0) -> str:
    """Run the command, and give what it prints on standard output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Sixty cells with scores by a formula."""
    space, rng = SEARCH_SPACES.get("nasbench201")(), default_rng(0)
    path = tmp_path / "scores.csv"
    codes = sorted({space.sample(rng).code for _ in range(60)})
    path.write_text("architecture,accuracy\n" + "".join(f"{c},{c.count('3') / 10 + int(c) / 1e9}\n" for c in codes))
    return path


@pytest.fixture
def arguments(scores: Path) -> list[str]:
    """What makes an evaluation of two predictors, twelve trials."""
    given = f"{scores} --space nasbench201 --predictor random_forest --predictor gradient_boosting --sizes 10,20"
    return [
        *given.split(),
        *["--splits", "3", "--top", "3", "--set", "random_forest.trees=10", "--set", "gradient_boosting.trees=10"],
    ]


@pytest.mark.slow
def test_results_are_means_over_splits_of_what_was_ranked(arguments: list[str], tmp_path: Path) -> None:
    printed = json.loads(run(*arguments, "--out", tmp_path / "out", "--json"))
    assert printed["finished"] and printed["settings"]["predictors"]["random_forest"]["trees"] == 10
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {(r["predictor"], r["size"]) for r in rows} == {(r["predictor"], str(r["size"])) for r in printed["results"]}
    for result in printed["results"]:
        group = [r for r in rows if (r["predictor"], r["size"]) == (result["predictor"], str(result["size"]))]
        for figure in ("tau", "spearman", "precision", "regret"):
            for key, column in (("all", figure), ("fresh", f"{figure}_fresh")):
                values = [float(row[column]) for row in group]
                assert result[key][figure]["mean"] == pytest.approx(np.mean(values))
    picture = (tmp_path / "out" / "curves.svg").read_text()
    assert picture.startswith("<?xml") and "gradient boosting" in picture and "random forest" in picture


@pytest.mark.slow
def test_an_evaluation_goes_on_where_it_was_killed(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(*arguments, "--out", whole)
    original = ranking_metrics.Ranking.of
    calls = []

    def interrupted(*given: Any, **options: Any) -> ranking_metrics.Ranking:
        calls.append(given)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return original(*given, **options)

    monkeypatch.setattr(ranking_metrics.Ranking, "of", interrupted)
    run(*arguments, "--out", broken, code=130)
    kept = (broken / "trials.jsonl").read_text().splitlines()
    assert 0 < len(kept) < 12 and (broken / "curves.svg").exists()
    with (broken / "trials.jsonl").open("a") as file:
        file.write('{"predictor": "rand')  # a line that a power cut ended
    monkeypatch.undo()
    fitted: list[int] = []
    kind: Any = PREDICTORS.get("random_forest")
    fit = kind.fit

    def counted(self: Any, *given: Any) -> Any:
        fitted.append(1)
        return fit(self, *given)

    monkeypatch.setattr(kind, "fit", counted)
    run(*arguments, "--out", broken)
    lines = (broken / "trials.jsonl").read_text().splitlines()
    assert lines[: len(kept)] == kept and len(lines) == 12 and len(fitted) < 6

    def figures(folder: Path) -> list[dict[str, Any]]:
        read = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
        return [{k: v for k, v in each.items() if not k.endswith("seconds")} for each in read]

    assert figures(broken) == figures(whole)


@pytest.mark.slow
def test_other_settings_and_other_folders_are_refused(arguments: list[str], tmp_path: Path) -> None:
    run(*arguments, "--out", tmp_path / "out")
    with pytest.raises(InputError, match="other seed"):
        run(*arguments, "--out", tmp_path / "out", "--seed", 1)
    with pytest.raises(InputError, match="other predictors"):
        run(*arguments, "--out", tmp_path / "out", "--set", "random_forest.leaf=2")
    with pytest.raises(InputError, match="not empty and has no evaluation"):
        run(*arguments, "--out", tmp_path)
    (tmp_path / "out" / "trials.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError, match="damaged"):
        run(*arguments, "--out", tmp_path / "out")


@pytest.mark.slow
def test_an_evaluation_of_an_earlier_version_goes_on(arguments: list[str], tmp_path: Path) -> None:
    """Scores are the same if their digest is; earlier versions described the metric and the sources otherwise."""
    arguments = [*arguments, "--splits", "1"]
    run(*arguments, "--out", tmp_path / "out")
    path = tmp_path / "out" / "settings.json"
    settings = json.loads(path.read_text())
    settings["scores"] |= {"sources": ["scores.csv"], "metric": "accuracy"}
    path.write_text(json.dumps(settings))
    run(*arguments, "--out", tmp_path / "out")
    settings["scores"]["digest"] = "0" * 64
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="other scores"):
        run(*arguments, "--out", tmp_path / "out")


@pytest.mark.slow
def test_the_metric_is_printed_with_its_direction_and_unit(arguments: list[str], scores: Path) -> None:
    few = [*arguments, "--predictor", "random_forest", "--splits", 1]
    said = run(*few)
    assert "scores.csv, accuracy (a fraction of 0 to 1, higher is better), " in said and "regret@3 (fraction)" in said
    scores.write_text(scores.read_text().replace("accuracy", "error"))
    assert "error (a fraction of 0 to 1, lower is better)" in run(*few)
    with pytest.raises(InputError, match="lower error is better, but got error:max"):
        run(*few, "--score", "error:max")


@pytest.mark.slow
def test_what_fails_is_told_and_tried_again(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("not today")

    monkeypatch.setattr(PREDICTORS.get("random_forest"), "fit", refuse)
    results = json.loads(run(*arguments, "--out", tmp_path / "out", "--json"))["results"]
    failed = [r for r in results if r["predictor"] == "random_forest"]
    assert all(r["problems"] == ["InputError: not today"] and r["splits"] == 0 for r in failed)
    monkeypatch.undo()
    results = json.loads(run(*arguments, "--out", tmp_path / "out", "--json"))["results"]
    assert all(r["splits"] == 3 and not r["problems"] for r in results)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--sizes", "1000"], "give other sizes"),
        (["--sizes", "some"], "whole numbers"),
        (["--predictor", "forest"], "no predictor is named"),
        (["--set", "lightgbm.trees=3"], "no section is named"),
        (["--set", "random_forest.woods=3"], "woods"),
        (["--benchmark", "nasbench201"], "one of the two"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_created(
    extra: list[str], said: str, arguments: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        run(*arguments, *extra, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_benchmark_s_table_is_evaluated_whole(table: Path) -> None:
    given = "--benchmark nasbench201 --set benchmark.search_column=test --predictor random_forest --sizes 40 --splits 2"
    printed = json.loads(run(*given.split(), "--test", "500", "--set", "random_forest.trees=20", "--json"))
    assert printed["settings"]["scores"]["architectures"] == 15_625
    assert printed["settings"]["scores"]["split"] == "test"
    (result,) = printed["results"]
    assert result["all"]["tau"]["mean"] > 0.3 and result["duplicates"] > 0


class PlainTable(Formula):
    """A table of an outsider, which is no `TableBenchmark`."""

    trains = False
    looks_up = True


class Slow(Formula):
    """Nothing is trained, and nothing looked up either."""

    trains = False


def test_a_table_is_what_says_so() -> None:
    words = ["--space", "tests:perceptron", "--predictor", "random_forest", "--set", "random_forest.trees=5"]
    SEARCH_SPACES.adopt("tests:perceptron", Perceptron)
    for name, benchmark in {"tests:plain": PlainTable, "tests:slow": Slow}.items():
        BENCHMARKS.adopt(name, benchmark)
    printed = json.loads(run("--benchmark", "tests:plain", *words, "--sizes", "10", "--splits", "1", "--json"))
    assert printed["results"]
    with pytest.raises(InputError, match="looks figures up in a table, and says so by looks_up"):
        run("--benchmark", "tests:slow", *words, "--sizes", "10", "--splits", "1")
    with pytest.raises(InputError, match="tests:plain keeps its table by itself; benchmarks with tables"):
        benchmarking._table_benchmark("tests:plain")


def test_a_trial_of_an_earlier_version_is_read_under_its_names_of_today() -> None:
    row = {
        "predictor": "distance_process", "size": 5, "split": 0, "ranked": 9, "twins": 2, "problem": "",
        "all": None, "fresh": None, "fit_seconds": 1.0, "predict_seconds": None,
    }  # fmt: skip
    trial = _trial(row)
    assert (trial.predictor, trial.duplicates) == ("isotropic_gaussian_process", 2)
