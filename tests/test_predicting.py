"""`nasplat predictor fit`, `predict` and `rank`: what they print, what they save, and what they refuse."""

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from nasplat_demo.predictor import Ridge
from numpy.random import default_rng
from scipy.stats import kendalltau

from nasplat.cli.app import main
from nasplat.surrogates.predictor_store import make_predictor, make_space, open_predictor
from nasplat.surrogates.training_set import read_training_set

Done: TypeAlias = subprocess.CompletedProcess[str]
CommandLine: TypeAlias = Callable[..., Done]

pytestmark = pytest.mark.usefixtures("demo_ridge")
SPACE = make_space("nasbench201")
CODES = [f"{i:06b}".replace("1", "3") for i in range(40)]
TABLE = "code,accuracy,params\n" + "".join(f"{c},{c.count('3') / 6},{i}\n" for i, c in enumerate(CODES))
FIT = ["predictor", "fit", "t.csv", "--space", "nasbench201", "--predictor", "demo_ridge", "--out", "p"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `nasplat ARGUMENTS` in this process, in a folder with a table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(TABLE)

    def run(*arguments: str, given: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "argv", ["nasplat", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(arguments, ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def fitted(command: CommandLine) -> CommandLine:
    """The same, with a predictor that has learnt from the table."""
    assert command(*FIT).returncode == 0
    return command


def told(done: Done, code: int = 0) -> Any:
    """The JSON document of a command."""
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_fitting_says_how_well_and_saves_what_it_says(command: CommandLine, tmp_path: Path) -> None:
    said = told(command(*FIT, "--set", "predictor.alpha=0.5", "--folds", "4", "--json"))
    saved = open_predictor(tmp_path / "p")
    assert saved.predictor.options() == {"alpha": 0.5}
    assert {key: said[key] for key in saved.about} == saved.about
    digest = hashlib.sha256(TABLE.encode()).hexdigest()
    assert said["sources"] == [{"kind": "file", "name": "t.csv", "sha256": digest}]
    assert said["metric"] == {"name": "accuracy", "direction": "max", "unit": "fraction"}
    assert (said["count"], said["merged"]) == (40, 0)
    scores = read_training_set([tmp_path / "t.csv"], space=SPACE)
    assert (said["digest"], said["best"]) == (scores.digest, 5 / 6)
    part, taus = default_rng(0).permutation(np.arange(40) % 4), []
    for number in range(4):
        train, test = scores[np.flatnonzero(part != number)], scores[np.flatnonzero(part == number)]
        fold = Ridge(SPACE, alpha=0.5).fit(train.architectures, train.scores)
        taus.append(kendalltau(fold.predict(test.architectures), test.scores).statistic)
    assert said["tau"]["folds"] == pytest.approx(taus)
    assert said["tau"]["mean"] == pytest.approx(np.mean(taus))
    assert said["tau"]["deviation"] == pytest.approx(np.std(taus, ddof=1))
    assert str(tmp_path) not in (tmp_path / "p" / "predictor.json").read_text()


def test_fitting_in_words(command: CommandLine) -> None:
    done = command(*FIT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo_ridge of nasbench201" in done.stdout
    assert "trained on   40 architectures in" in done.stdout
    assert "cross-validated in 5 folds" in done.stdout
    without = command(*FIT[:-1], "q", "--folds", "0")
    assert "tau" not in without.stdout


def test_a_predictor_that_cross_validates_itself_is_believed(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ridge, "cross_validated", 0.625, raising=False)
    assert told(command(*FIT, "--json"))["tau"] == {"mean": 0.625, "how": "cross-validated by demo_ridge itself"}


def test_less_may_be_better(command: CommandLine, tmp_path: Path) -> None:
    """Values come out positive, in the metric's own direction."""
    said = told(command(*FIT, "--score", "params", "--json"))
    assert said["metric"] == {"name": "params", "direction": "min", "unit": "parameters"}
    assert said["best"] == 0.0
    ranked = told(command("predictor", "rank", "p", *CODES[:3], CODES[39], "--json"))
    assert ranked["metric"] == said["metric"]
    assert ranked["ranking"][-1]["architecture"] == CODES[39]
    values = [each["value"] for each in ranked["ranking"]]
    assert values == sorted(values) and values[-1] > 10
    assert "by params (parameters, lower is better)" in command("predictor", "rank", "p", *CODES[:3]).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isotropic_gaussian_process", "random_forest", "renas"])
def test_what_is_printed_is_in_the_unit_of_what_was_measured(name: str, command: CommandLine) -> None:
    """Formerly `fit` said that the best accuracy is .833, and `rank` that the best scores -.589, or 1.2, or 4."""
    fit = [*FIT[:6], name, *FIT[7:], "--folds", "0", "--json"]
    fast = {"random_forest": ["--set", "predictor.trees=5"], "renas": ["--set", "predictor.epochs=8"]}.get(name, [])
    for number, (score, low, high) in enumerate([("accuracy", 0.0, 1.0), ("params", -10.0, 60.0)]):
        folder = f"p{number}"
        said = told(command(*fit, "--out", folder, "--score", score, *fast))
        ranked = told(command("predictor", "rank", folder, "--file", "t.csv", "--json"))["ranking"]
        values = np.array([each["value"] for each in ranked])
        assert (np.diff(values) * (1 if score == "params" else -1) >= 0).all()
        assert low < values.min() and values.max() < high
        assert abs(values[0] - said["best"]) < abs(values[-1] - said["best"])
        if name != "renas":
            assert all(0 <= each["deviation"] < (high - low) / 2 for each in ranked)


def test_predictions_are_those_of_the_predictor(fitted: CommandLine, tmp_path: Path) -> None:
    saved = open_predictor(tmp_path / "p")
    truth = saved.predictor.predict([SPACE.parse(code) for code in CODES[:3]]).tolist()
    Path("codes.txt").write_text(f"\n{CODES[1]}\n")
    said = told(
        fitted("predictor", "predict", "p", CODES[0], "-", "--file", "codes.txt", "--json",
               given=f"{CODES[2]}\n".encode())
    )  # fmt: skip
    assert [item["architecture"] for item in said["predictions"]] == [CODES[0], CODES[2], CODES[1]]
    assert [item["value"] for item in said["predictions"]] == pytest.approx([truth[0], truth[2], truth[1]])
    assert {item["deviation"] for item in said["predictions"]} == {None}
    from_table = told(fitted("predictor", "predict", "p", "--file", "t.csv", "--json"))["predictions"]
    assert [item["value"] for item in from_table[:3]] == pytest.approx(truth)
    assert len(from_table) == 40
    words = fitted("predictor", "predict", "p", CODES[0]).stdout.split()
    assert words[-5:-2] == ["architecture", "accuracy", CODES[0]]
    assert float(words[-2]) == pytest.approx(100 * truth[0], abs=0.005)
    assert words[-1] == "%"


def test_those_that_cannot_be_read_are_told_and_the_others_answered(fitted: CommandLine) -> None:
    Path("codes.txt").write_text(f"{CODES[1]}\n\n00000x\n")
    done = fitted("predictor", "predict", "p", "\x1b[2J", CODES[0], "--file", "codes.txt")
    assert done.returncode == 2
    assert CODES[0] in done.stdout
    assert CODES[1] in done.stdout
    assert "error: codes.txt, line 3: gene 6 (3<-2)" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "\x1b" not in done.stderr
    items = told(fitted("predictor", "predict", "p", "00000x", CODES[0], "--json"), code=2)["predictions"]
    assert items[0]["value"] is None
    assert "gene 6" in items[0]["error"]
    assert items[1]["error"] is None
    ranked = told(fitted("predictor", "rank", "p", "00000x", CODES[0], "--json"), code=2)
    assert [item["architecture"] for item in ranked["ranking"]] == [CODES[0]]
    assert [item["architecture"] for item in ranked["errors"]] == ["00000x"]


def test_a_ranking_is_best_first_without_repeats(fitted: CommandLine, tmp_path: Path) -> None:
    saved = open_predictor(tmp_path / "p")
    said = told(fitted("predictor", "rank", "p", "--file", "t.csv", CODES[0], "--json"))["ranking"]
    scores = saved.predictor.predict([SPACE.parse(item["architecture"]) for item in said])
    assert [item["rank"] for item in said] == list(range(1, 41))
    assert (np.diff(scores) <= 0).all()
    assert [item["value"] for item in said] == pytest.approx(scores.tolist())
    top = fitted("predictor", "rank", "p", "--file", "t.csv", "--top", "2").stdout
    assert "Best 2 of 40" in top
    assert said[1]["architecture"] in top
    assert said[2]["architecture"] not in top


def test_a_sample_is_drawn_by_its_seed(fitted: CommandLine) -> None:
    def drawn(seed: str) -> set[str]:
        said = told(fitted("predictor", "rank", "p", "--sample", "30", "--seed", seed, "--json"))["ranking"]
        return {item["architecture"] for item in said}

    assert len(drawn("1")) == 30
    assert drawn("1") == drawn("1") != drawn("2")


def test_a_sample_larger_than_the_space_says_so(shared_plugins: None, command: CommandLine, tmp_path: Path) -> None:
    space = make_space("demo_perceptron")
    made = make_predictor("demo_ridge", space).fit([space.parse("00"), space.parse("44")], np.arange(2.0))
    made.save(tmp_path / "p")
    done = command("predictor", "rank", "p", "--sample", "30", "--json")
    assert len(told(done)["ranking"]) == 25
    assert "only 25 different architectures were found in 1500 draws" in done.stderr


REFUSED: list[tuple[list[str], str]] = [
    ([*FIT[:2], "none.csv", *FIT[3:]], "none.csv"),
    ([*FIT, "--folds", "1"], "cross-validation needs at least 2 folds"),
    ([*FIT, "--folds", "41"], "cross-validation needs at least 2 folds"),
    ([*FIT, "--score", "acuracy"], "did you mean 'accuracy'"),
    ([*FIT, "--predictor", "demo_rigde"], "did you mean 'demo_ridge'"),
    ([*FIT, "--space", "nasbench2001"], "did you mean 'nasbench201'"),
    ([*FIT, "--set", "predictor.alhpa=1"], "did you mean 'alpha'"),
    ([*FIT, "--set", "predictor.alpha=x"], "predictor.alpha: input should be a valid number"),
    ([*FIT, "--set", "space.channels=0"], "at least 1"),
    ([*FIT, "--set", "strategy.x=1"], "predictor or space as the section"),
    ([*FIT, "--set", "predictor=1"], "--set takes SECTION.OPTION=VALUE"),
    ([*FIT[:3], "--set", "space.channels=4", "--out", "p"], "needs --space NAME"),
    ([*FIT[:3], "--predictor", "demo_ridge", "--out", "p"], "t.csv, line 2: the space of"),
    ([*FIT[:-1], "t.csv"], "t.csv exists"),
    (["predictor", "predict", "none", "000000"], "the predictor in none cannot be read"),
    (["predictor", "rank", ".", "000000"], "the predictor in . cannot be read"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_wrong_input_is_refused_and_leaves_nothing(
    arguments: list[str], said: str, command: CommandLine, tmp_path: Path
) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_nothing_to_predict_is_refused(fitted: CommandLine) -> None:
    assert "nothing to predict" in fitted("predictor", "predict", "p").stderr
    assert "nothing to rank" in fitted("predictor", "rank", "p").stderr
    assert "No such file" in fitted("predictor", "rank", "p", "--file", "none.txt").stderr
    assert fitted("predictor", "predict", "p", "-", given=b"\xff\xfe").returncode == 2
