"""The trials of a run as a table: every value comes back, and text of somebody else's run does no harm."""

import csv
import importlib
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess

import handmade
import pytest

import nasplat
from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.results.extras import needed
from nasplat.results.table import columns_of, dataframe, write_csv, write_table
from nasplat.run.directory import RunDirectory
from nasplat.task import Measurement

CommandLine = Callable[..., CompletedProcess[str]]


def read(run: RunDirectory) -> list[dict[str, str]]:
    """The rows of the CSV."""
    text = io.StringIO()
    write_csv(columns_of(run.history()), text)
    return list(csv.DictReader(io.StringIO(text.getvalue())))


def test_every_trial_is_a_row_by_number_with_genes_metrics_and_front(tmp_path: Path) -> None:
    rows = {row["trial"]: row for row in read(handmade.handmade(tmp_path / "run"))}
    assert {number: row["status"] for number, row in rows.items() if row["status"] != "measured"} == {
        "1": "failed",
        "5": "cached",
    }
    assert list(rows) == ["0", "1", "2", "4", "5", "6", "7"]  # 3 trains a supernet
    assert [number for number, row in rows.items() if row["on_front"] == "true"] == ["0", "6"]
    genes = ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")
    assert list(rows["7"])[:9] == ["trial", "code", *genes, "status"]
    assert [rows["7"][gene] for gene in genes] == [
        *("avg_pool_3x3", "nor_conv_3x3", "nor_conv_1x1", "skip_connect", "none", "nor_conv_1x1")
    ]
    assert (rows["5"]["cached_from"], rows["5"]["started"], rows["4"]["fidelity"]) == ("0", "", "12")
    assert (rows["1"]["accuracy"], rows["1"]["split"], rows["7"]["split"]) == ("", "", "validation")


def test_numbers_and_times_come_back_unchanged(tmp_path: Path) -> None:
    rows = {int(row["trial"]): row for row in read(handmade.handmade(tmp_path / "run"))}
    for outcome in handmade.OUTCOMES:
        if isinstance(outcome, Measurement):
            assert {name: float(rows[outcome.id][name]) for name in outcome.metrics} == outcome.metrics
    assert int(rows[6]["seed"]) == 2**62 + 6
    started, finished = (datetime.fromisoformat(rows[6][name]) for name in ("started", "finished"))
    assert started == datetime.fromtimestamp(handmade.FAR.started, UTC)
    assert (finished - started).total_seconds() == handmade.FAR.seconds


def test_text_of_a_foreign_run_is_no_formula_and_has_no_control_characters(tmp_path: Path) -> None:
    foreign = replace(handmade.task(1, "111111"), architecture=Architecture("nasbench201", "=1+1\n@x"))
    named = handmade.measured(handmade.task(0, "000001"), 0.5, 1.0)
    named = replace(named, metrics={**named.metrics, "=2+2": -1.0, "trial": 3.0})
    rows = read(handmade.handmade(tmp_path / "run", [named, handmade.measured(foreign, 0.5, 1.0)]))
    assert (rows[1]["code"], rows[1]["1<-0"]) == ("'=1+1\\n@x", "")
    assert rows[0]["'=2+2"] == "-1.0"  # a number is no formula
    assert (rows[0]["trial"], rows[0]["trial_"]) == ("0", "3.0")


def test_a_kind_of_failure_is_escaped(tmp_path: Path) -> None:
    assert read(handmade.handmade(tmp_path / "run"))[1]["failure"] == "'=diverged\\x1b[2J"


def test_the_command_prints_csv_or_writes_a_file(tmp_path: Path, command: CommandLine) -> None:
    run = handmade.handmade(tmp_path / "run")
    printed = command("table", run.folder)
    assert printed.returncode == 0 and printed.stdout.count("\n") == 8
    written = command("table", run.folder, "--out", "trials.csv")
    assert written.returncode == 0 and (tmp_path / "trials.csv").read_text() == printed.stdout
    assert written.stdout == "" and "7 trials" in written.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"run", "trials.csv"}  # no draft is left


def test_another_ending_and_a_missing_folder_are_refused(tmp_path: Path, command: CommandLine) -> None:
    run = handmade.handmade(tmp_path / "run")
    refused = command("table", run.folder, "--out", "trials.xlsx")
    assert refused.returncode == 2 and ".csv or .parquet" in refused.stderr
    assert command("table", run.folder, "--out", "missing/trials.csv").returncode == 2


def test_a_run_without_trials_is_a_header(tmp_path: Path) -> None:
    run = handmade.handmade(tmp_path / "run", [])
    assert read(run) == [] and write_table(run, tmp_path / "t.csv") == 0
    assert (tmp_path / "t.csv").read_text().startswith("trial,code,status,")


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    run = handmade.handmade(tmp_path / "run")
    assert write_table(run, tmp_path / "trials.parquet") == 7
    table = parquet.read_table(tmp_path / "trials.parquet")
    assert table.column("accuracy").to_pylist()[0] == 0.1 + 0.2
    assert table.column("started").to_pylist()[5] == datetime.fromtimestamp(handmade.FAR.started, UTC)
    assert table.column("cached_from").to_pylist()[4] == 0 and str(table.schema.field("seed").type) == "int64"


def test_a_data_frame_has_typed_columns(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="the extra pandas is not installed")
    run = handmade.handmade(tmp_path / "run")
    frame = dataframe(run)
    assert list(frame.columns) == [column.name for column in columns_of(run.history())]
    assert frame.loc[frame.on_front, "trial"].tolist() == [0, 6]
    assert frame.accuracy.isna().tolist() == [False, True, *[False] * 5]
    assert frame.started.max() == datetime.fromtimestamp(handmade.FAR.started, UTC)
    assert frame.failure.isna().sum() == 6 and frame.seed.dtype == "int64"


def test_a_number_that_no_format_has_becomes_text(tmp_path: Path) -> None:
    huge = handmade.measured(replace(handmade.task(0, "000001"), seed=2**64 - 1), 0.5, 1.0)
    columns = {column.name: column for column in columns_of(handmade.handmade(tmp_path / "run", [huge]).history())}
    assert (columns["seed"].kind, columns["seed"].values) == ("text", [str(2**64 - 1)])


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    run = handmade.handmade(tmp_path / "run")
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"pip install 'nasplat\[pandas\]'"):
        dataframe(run)
    with pytest.raises(InputError, match=r"pip install 'nasplat\[parquet\]'"):
        write_table(run, tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_a_package_that_lacks_another_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        needed("pandas", "pandas")


def test_a_run_in_python_writes_the_same_table(tmp_path: Path) -> None:
    run = handmade.handmade(tmp_path / "run")
    write_table(run, tmp_path / "trials.csv")
    written = nasplat.open_run(run.folder).table(tmp_path / "again.csv")
    assert written.read_bytes() == (tmp_path / "trials.csv").read_bytes()
