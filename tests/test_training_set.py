"""Architectures with scores: what runs, CSV and JSON tell, and what is refused with the place and the rule."""

import gzip
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasplat.errors import InputError
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.surrogates.training_set import TrainingSet, member, read_names, read_training_set

SPACE = NASBench201()
OFFICIAL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|nor_conv_3x3~0|skip_connect~1|nor_conv_1x1~2|"


def told(path: Path, text: str, **options: Any) -> dict[str, float]:
    """What a file tells, by code."""
    path.write_text(text, encoding="utf-8")
    found = read_training_set([path], **{"space": SPACE, **options})
    return {a.code: float(s) for a, s in zip(found.architectures, found.scores, strict=True)}


def test_a_table_of_codes_and_official_strings(tmp_path: Path) -> None:
    text = f"note,code,accuracy\nx,000001,0.5\n\ny, {OFFICIAL} ,1e-1\n"
    assert told(tmp_path / "t.csv", text) == {"000001": 0.5, "334312": 0.1}


def test_the_index_that_pandas_writes_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",arch_str,score\n0,000001,0.5\n")
    for read in (lambda path: read_training_set([path], space=SPACE), read_names):
        with pytest.raises(InputError, match=r"line 1: the first column has no name.*index=False"):
            read(tmp_path / "t.csv")


def test_a_packed_table_from_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfarch_str,score\r\n000001,0.5\r\n", mtime=0))
    assert read_training_set([path], space=SPACE).scores.tolist() == [0.5]


@pytest.mark.parametrize(
    "text",
    ['[{"architecture": "000001", "score": 2}, {"score": 3.5, "architecture": "000002"}]',
     '{"000001": 2, "nasbench201:000002": 3.5}'],
)  # fmt: skip
def test_json_as_a_list_or_an_object(tmp_path: Path, text: str) -> None:
    assert told(tmp_path / "t.json", text) == {"000001": 2.0, "000002": 3.5}


def test_scores_of_equal_codes_become_their_mean_and_are_counted(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.json"
    one.write_text("code,score\n000001,1\n000002,7\n000001,3\n")
    two.write_text('{"000001": 8, "000001": 4}')
    found = read_training_set([one, two], space=SPACE)
    assert [a.code for a in found.architectures] == ["000001", "000002"]
    assert found.scores.tolist() == [4.0, 7.0]
    assert found.description == {
        "sources": [
            {"kind": "file", "name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in (one, two)
        ],
        "metric": {"name": "score", "direction": "max", "unit": None},
        "merged": 3,
    }


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    found = [read_training_set([path], space=SPACE) for path in paths
             if path.write_text({"a": "code,score\n000001,1\n000002,2\n", "b": "code,score\n000002,2\n000001,1\n",
                                 "c": "code,score\n000001,1\n000002,2.0000000000000004\n"}[path.stem])]  # fmt: skip
    assert found[0].digest == found[1].digest != found[2].digest


def test_a_column_has_the_direction_of_its_name(tmp_path: Path) -> None:
    text = "code,loss,accuracy,top1\n000001,0.25,0.5,7\n"
    assert told(tmp_path / "t.csv", text) == {"000001": 0.5}
    for metric in ("loss", "loss:min"):
        assert told(tmp_path / "t.csv", text, metric=metric) == {"000001": -0.25}
        found = read_training_set([tmp_path / "t.csv"], space=SPACE, metric=metric)
        assert found.description["metric"] == {"name": "loss", "direction": "min", "unit": None}
    assert told(tmp_path / "t.csv", text, metric="top1:min") == {"000001": -7.0}


def test_the_only_numeric_column_is_the_score(tmp_path: Path) -> None:
    assert told(tmp_path / "t.csv", "name,code,psnr_db\nx,000001,3\ny,000002,4\n") == {"000001": 3.0, "000002": 4.0}


@pytest.mark.parametrize(
    ("text", "metric", "said"),
    [
        ("code,top1\n000001,1\n", None, r"t.csv: .*not known whether higher or lower top1 .*; write top1:max"),
        ("code,loss\n000001,1\n", "loss:max", r"t.csv: lower loss is better, but got loss:max; write loss alone"),
        ("code,loss\n000001,1\n000002,-1\n", None, r"t.csv, line 3: loss must be at least 0, but got -1"),
        (
            "code,accuracy\n000001,.9\n000002,91.6\n",
            None,
            r"line 3: accuracy must be a fraction of 0 to 1, but got 91.6",
        ),
        ("code,accuracy\n000001,93\n000002,91.6\n", None, r"t.csv, line 2: .* in percent, divide all by 100"),
        ("code,latency_ms\n000001,0\n", None, r"line 2: latency_ms must be above 0, but got 0"),
        ("code,ssim\n000001,91\n", None, r"line 2: ssim must be between -1 and 1, but got 91"),
        (
            "code,accuracy\n000001,1\n",
            "accuracy:up",
            r"a metric must be NAME, NAME:max or NAME:min, but got 'accuracy:up'",
        ),
    ],
)
def test_another_unit_or_direction_is_refused(text: str, metric: str | None, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        told(tmp_path / "t.csv", text, metric=metric)


def test_the_space_may_stand_before_every_code(tmp_path: Path) -> None:
    assert told(tmp_path / "t.csv", "code,score\nnasbench201:000001,3\n", space=None) == {"000001": 3.0}


WRONG: list[tuple[str, str, dict[str, Any], str]] = [
    ("t.csv", "code,score\n000001,3\n00000x,3\n", {}, r"t\.csv, line 3: gene 6 .* is 'x'"),
    ("t.csv", "code,score\n000001\n", {}, r"line 2: there are 2 columns, but this row has 1"),
    ("t.csv", "code,score\n000001,nan\n", {}, r"line 2: a score must be a finite number, but got 'nan'"),
    ("t.csv", "code,score\n000001,1e999\n", {}, r"line 2: a score must be a finite number"),
    ("t.csv", "code,score\n000001,1_0\n", {}, r"line 2: a score must be a finite number"),
    ("t.csv", "code,score\n000001,\n", {}, r"line 2: a score must be a finite number"),
    ("t.csv", 'code,score\n"000001,3\n', {}, r"line 2: unexpected end of data"),
    ("t.csv", "code,s,s\n000001,3,3\n", {}, r"line 1: all columns must have different names"),
    ("t.csv", "codes,s\n000001,3\n", {}, r"no column of architectures, called architecture, code or arch_str"),
    ("t.csv", "code,a,b\n000001,3,4\n", {}, r"several columns that may be scores, \['a', 'b'\]; name one of them"),
    ("t.csv", "code,top1\n000001,3\n", {"metric": "top"}, r"no column is named 'top'; did you mean 'top1'"),
    ("t.csv", "code,score\n", {}, r"at least 1 architectures are needed, but got 0"),
    ("t.csv", "", {}, r"no column of architectures"),
    ("t.csv", "code,score\n000001,3\n", {"space": None}, r"line 2: the space of '000001' is unknown"),
    ("t.csv", "code,score\ndarts:000001,3\n", {}, r"is of the space darts, not of nasbench201"),
    ("t.csv", "code,score\n000001,3\n", {"floor": 2}, r"at least 2 architectures are needed, but got 1"),
    ("t.csv", f"code,score\n{'0' * 5000},3\n", {}, r"line 2: an architecture must have at most 2000 characters"),
    ("t.csv", f"code,score\n{'0' * 1500},3\n", {}, r"'0{4,60}\.\.\.0{4,60}'"),
    ("t.json", "{", {}, r"t\.json cannot be read as JSON"),
    ("t.json", "[" * 100_000, {}, r"t\.json cannot be read as JSON"),
    ("t.json", "3", {}, r"must contain a list of objects, or an object of codes and scores, but has 3"),
    ("t.json", "[3]", {}, r"entry 1: an entry must be an object"),
    ("t.json", '[{"code": "000001", "score": NaN}]', {}, r"entry 1: a score must be a finite number"),
    ("t.json", '[{"code": "000001", "score": true}]', {}, r"entry 1: a score must be a finite number, but got True"),
    ("t.json", '[{"code": 1, "score": 1}]', {}, r"entry 1: an architecture must be text, but code is 1"),
    ("t.json", '[{"code": "000001", "score": 1, "score": 2}]', {}, r"entry 1: a name occurs twice"),
    ("t.json", '[{"code": "000001", "score": 1}, {"code": "000001"}]', {}, r"entry 2: all entries must have the names"),
    ("t.txt", "x", {}, r"a source must be a run directory or a \.csv, \.csv\.gz or \.json file, .*t\.txt is neither"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "options", "said"), WRONG)
def test_what_breaks_a_rule_is_refused_with_its_place(
    name: str, text: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as refused:
        told(tmp_path / name, text, **options)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize(
    ("name", "data"),
    [("t.csv.gz", b"no gzip"), ("t.csv.gz", gzip.compress(b"code,score\n" * 99, mtime=0)[:-9]),
     ("t.csv", b"code,score\n\xff,1\n"), ("t.json", b"\xff"), ("t.csv", b"code,score\n" + b"0" * 200_000 + b",1\n")],
)  # fmt: skip
def test_what_cannot_be_unpacked_or_decoded_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        read_training_set([tmp_path / name], space=SPACE)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_training_set([tmp_path / "t.csv"], space=SPACE)
    with pytest.raises(InputError, match="does not exist"):
        read_training_set([tmp_path / "t"], space=SPACE)
    with pytest.raises(InputError, match="not a run directory"):
        read_training_set([tmp_path], space=SPACE)
    with pytest.raises(InputError, match="at least one source"):
        read_training_set([], space=SPACE)


@pytest.mark.parametrize("text", ["", "\x1b[2J", "0" * 5000, "../../etc/passwd", "<script>", "000001\n", "é", "\ud800"])
def test_what_is_no_member_is_refused_briefly(text: str) -> None:
    with pytest.raises(InputError) as refused:
        member(SPACE, text)
    assert len(str(refused.value)) < 400
    assert str(refused.value).isprintable()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a quick benchmark, with repeats that memory answers and two fidelities."""
    from nasplat.cli.app import app

    folder = tmp_path_factory.mktemp("runs") / "run"
    app(
        ["search", "--space", "nasbench201", "--set", "space.channels=1", "--set", "space.cells=1", "--benchmark",
         "classification", "--set", "benchmark.epochs=2", "--set", "benchmark.batch_size=512", "--strategy",
         "successive_halving", "--set", "strategy.eta=2", "--objective", "accuracy:max", "--objective",
         "params:min", "--evaluations", "6", "--out", str(folder), "--json"],
        standalone_mode=False,
    )  # fmt: skip
    return folder


def by_hand(run: Path, metric: str) -> dict[str, float]:
    """The mean of a metric for every code measured at the highest fidelity, straight from the outcomes."""
    measured = RunDirectory(run).history().measured
    highest = max(m.task.fidelity for m in measured)
    values: dict[str, list[float]] = {}
    for m in measured:
        if m.task.fidelity == highest:
            values.setdefault(m.architecture.code, []).append(m.metrics[metric])
    return {code: math.fsum(each) / len(each) for code, each in values.items()}


def as_dict(found: TrainingSet) -> dict[str, float]:
    """Scores by code."""
    return dict(zip((a.code for a in found.architectures), found.scores.tolist(), strict=True))


@pytest.mark.slow
def test_a_run_gives_its_trials_at_the_highest_fidelity_with_the_space_as_it_was(run: Path, tmp_path: Path) -> None:
    found = read_training_set([run])
    assert (found.space.name, found.space.channels) == ("nasbench201", 1)  # type: ignore[attr-defined]
    assert as_dict(found) == by_hand(run, "accuracy")
    assert len({m.task.fidelity for m in RunDirectory(run).history().measured}) == 2  # else nothing would be left out
    assert found.description["metric"] == {"name": "accuracy", "direction": "max", "unit": "fraction"}
    (source,) = found.description["sources"]
    assert (source["kind"], source["name"]) == ("run", "run")
    assert len({source["log"], source["sha256"]}) == 2
    copied = read_training_set([Path(shutil.copytree(run, tmp_path / "copy"))]).description["sources"][0]
    assert copied == source | {"name": "copy"}


def test_a_minimized_objective_is_negated(run: Path) -> None:
    assert as_dict(read_training_set([run], metric="params")) == {c: -v for c, v in by_hand(run, "params").items()}


def test_a_run_refuses_what_it_did_not_seek(run: Path) -> None:
    with pytest.raises(InputError, match=r"no objective is named 'macs'.*known: accuracy, params"):
        read_training_set([run], metric="macs")
    with pytest.raises(InputError, match="has the objective params:min, not params:max"):
        read_training_set([run], metric="params:max")
    with pytest.raises(InputError, match=r"of one space, but .* is of nasbench201 with channels=1, cells=1 and not of"):
        read_training_set([run], space=SPACE)


def test_a_run_and_a_file_are_put_together(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.json"
    path.write_text(json.dumps([{"architecture": "444444", "accuracy": 0.125, "params": 3}]))
    found = read_training_set([run, path])
    assert as_dict(found) == by_hand(run, "accuracy") | {"444444": 0.125}
    assert np.isfinite(found.scores).all()
    assert as_dict(read_training_set([run, path], metric="params")) == {
        c: -v for c, v in (by_hand(run, "params") | {"444444": 3.0}).items()
    }
    path.write_text(json.dumps({"444444": 12.5}))
    with pytest.raises(InputError, match=r"more.json, entry 1: accuracy must be a fraction of 0 to 1, but got 12.5"):
        read_training_set([run, path], metric="accuracy")
    with pytest.raises(InputError, match=r"more.json has score .* and earlier sources have accuracy \(a fraction"):
        read_training_set([run, path])
