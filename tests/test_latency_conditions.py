"""What a latency stands for: one engine for a run, named beside every figure, and a table held to what is measured."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from nasplat.architecture import IO
from nasplat.benchmarks.classification import Classification
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.config import SearchConfig
from nasplat.export import bundle, timing
from nasplat.export.timing import conditions_of
from nasplat.latency.conditions import Conditions, Origin, processor
from nasplat.latency.measuring import Latency
from nasplat.latency.options import LatencyOptions, LatencyTableOptions
from nasplat.latency.table import BLOCK_COLUMNS, Row, described, read_table, write_table
from nasplat.registry import SEARCH_SPACES, Plugin
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.esrn import ESRNTiny
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.testing.runs import searched
from nasplat.testing.toy import ToySpace

CommandLine = Callable[..., CompletedProcess[str]]
SPACE, IMAGES = ToySpace(), IO.image(channels=1, side=8, outputs=10)  # as digits
PLAN = {"device": "cpu", "engine": "onnxruntime", "threads": 2, "batch": 4, "points": 5, "seed": 0}
UNDER = Conditions("onnxruntime", 2, 4, "cpu")
CHECKED = [{"predicted_ms": 1.0 + error, "measured_ms": 1.0} for error in (0.01, -0.02, 0.03, 0.1)]
VERIFIED = {"random": {"largest_difference": 0.0, "allowed": 1.0, "batches": [1], "dtype": "float32"}, "real": None}


def facts() -> dict[str, Any]:
    """The comments of a table that was measured on this machine."""
    return {**described(SPACE, IMAGES), "plan": PLAN, "machine": {"processor": processor()}, "networks": CHECKED}


def table(path: Path) -> Path:
    """A table in which every layer takes a millisecond, and every network five."""
    widths = (2, 4, 8, 16)
    pairs = {(a, b) for a in (64, *widths) for b in (*widths, 10)}
    write_table(path, facts(), [Row("linear", pair, 1.0) for pair in sorted(pairs)])
    return path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replaces measuring: every network takes the last number of milliseconds in this list."""
    monkeypatch.setattr("nasplat.export.timing.cuda_is_available", lambda: False)
    found = [5.0]

    def measure(model: Any, io: IO, *, batch: int, threads: int, device: str, engine: str = "torch") -> Latency:
        return Latency(1.1 * found[-1], 0.1, found[-1], 5, batch, threads, device, engine)  # type: ignore[arg-type]

    def onnx(network: bytes, input_shape: tuple[int, ...], *, batch: int, threads: int) -> Latency:
        return Latency(1.1 * found[-1], 0.1, found[-1], 5, batch, threads, "cpu", "onnxruntime")

    monkeypatch.setattr("nasplat.latency.measuring.measure_latency", measure)
    monkeypatch.setattr("nasplat.latency.measuring.onnx_latency", onnx)
    return found


@pytest.fixture
def quick_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without a real ONNX model, which takes seconds."""
    monkeypatch.setattr(bundle, "write_onnx", lambda network, io, path, **how: path.write_bytes(b""))
    monkeypatch.setattr(bundle, "verified", lambda *given, **how: VERIFIED)


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_table_tells_how_it_was_measured_and_how_far_off_it_is(tmp_path: Path) -> None:
    origin = read_table(table(tmp_path / "table.csv"), SPACE, IMAGES).origin
    assert (origin.conditions, origin.processor, origin.networks) == (UNDER, processor(), 4)
    assert origin.median_error == pytest.approx(0.025) and origin.largest_error == pytest.approx(0.1)
    text = str(origin)
    assert "onnxruntime, 2 threads, batch 4, cpu" in text and "2.5 % in the median and 10.0 % at most" in text


@pytest.mark.parametrize(
    ("facts", "conditions"),
    [
        ({}, None),
        ({"plan": 1, "machine": [], "networks": 7}, None),
        ({"plan": {"engine": "abacus", "threads": 1, "batch": 1, "device": "cpu"}}, None),
        ({"plan": {"engine": "torch", "threads": 1, "batch": 1, "device": "cpu"}, "networks": [{}]},
         Conditions(device="cpu")),
        ({"networks": [{"predicted_ms": 1, "measured_ms": 0}]}, None),
    ],
)  # fmt: skip
def test_what_a_table_does_not_tell_is_unknown(facts: dict[str, Any], conditions: Conditions | None) -> None:
    origin = Origin.read(facts)
    assert (origin.conditions, origin.processor, origin.median_error) == (conditions, "", None)
    assert ("does not name" in str(origin)) == (conditions is None)


@pytest.mark.usefixtures("clock")
def test_a_run_has_one_engine_unless_told_otherwise(tmp_path: Path) -> None:
    path = str(table(tmp_path / "table.csv"))
    whole = NASBench201(channels=1, cells=1)
    for benchmark, expected in (
        (Classification(SPACE, latency=LatencyOptions(table=path)), UNDER),
        (
            Classification(whole, latency=LatencyOptions(batch=8, threads=3, engine="onnxruntime")),
            Conditions("onnxruntime", 3, 8, "cpu"),
        ),
        (Classification(whole), Conditions("torch", 1, 1, "cpu")),
        (SuperResolution(ESRNTiny()), Conditions("torch", 1, 1, "cpu")),
        # a table that cannot be read for this space
        (SuperResolution(ESRNTiny(), latency=LatencyTableOptions(table=path)), Conditions("torch", 1, 1, "cpu")),
    ):
        assert conditions_of(benchmark) == expected
    changed = conditions_of(Classification(whole), engine="onnxruntime", threads=2, batch=5)
    assert changed == Conditions("onnxruntime", 2, 5, "cpu")


@pytest.mark.parametrize(
    ("engine", "cuda", "given", "expected"),
    [("torch", True, None, "cuda"), ("torch", True, "cpu", "cpu"), ("torch", False, "cuda", "cpu")],
)
def test_a_gpu_is_used_if_the_latency_may_be_of_one(
    engine: Any, cuda: bool, given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "cuda_is_available", lambda: cuda)
    benchmark = Classification(NASBench201(channels=1, cells=1))
    benchmark.measured_under = Conditions(engine, 1, 1, given)
    assert conditions_of(benchmark).device == expected


@pytest.mark.slow
@pytest.mark.usefixtures("quick_exports")
def test_trials_show_and_export_name_and_use_one_engine(clock: list[float], command: CommandLine) -> None:
    sets = ["space.channels=1", "space.cells=1", "benchmark.epochs=1", "benchmark.data.subset=60"]
    sets += ["benchmark.latency.batch=4", "benchmark.latency.threads=2", "benchmark.latency.engine=onnxruntime"]
    done = command(
        "search", "--space", "nasbench201", "--benchmark", "classification",
        *(word for option in sets for word in ("--set", option)), "--strategy", "random_search",
        "--objective", "accuracy:max", "--objective", "latency_ms:min", "--evaluations", "1", "--out", "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = "latency_ms is measured: onnxruntime, 2 threads, batch 4."
    assert said in words(done.stdout)
    assert said in words(command("show", "run").stdout)
    assert json.loads(command("show", "run", "--json").stdout)["protocol"] == said
    clock.append(7.0)
    shown = command("show", "run", "--front", "--latency")
    assert shown.returncode == 0, shown.stderr
    assert "interquartile range; onnxruntime, 2 threads, batch 4, cpu; " in words(shown.stdout)
    document = json.loads(command("show", "run", "--front", "--latency", "--json").stdout)
    (member,) = document["trials"]
    exported = json.loads(command("export", "run", "--json", "--out", "one").stdout)["latency"]
    for found in (member["latency"], exported):
        assert [found[name] for name in ("engine", "threads", "batch", "device")] == ["onnxruntime", 2, 4, "cpu"]
    assert document["protocol"] == said and member["metrics"]["latency_ms"] == 5.5
    other = command("export", "run", "--engine", "torch", "--out", "two")
    assert "latency 7.7 ms (least 7 ms); torch, 2 threads, batch 4, cpu; " in words(other.stdout)
    (member,) = json.loads(command("show", "run", "--front", "--latency", "--engine", "torch", "--json").stdout)[
        "trials"
    ]
    assert member["latency"]["engine"] == "torch"
    assert "torch, 2 threads, batch 4, cpu" in words(Path("two/README.md").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("quick_exports")
def test_an_export_is_held_to_the_table_of_its_run(
    clock: list[float], command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SEARCH_SPACES._plugins, "toy", Plugin("toy", "nasplat.testing.toy:ToySpace", "test"))
    path = table(tmp_path / "table.csv")
    tree = {
        "space": "toy",
        "benchmark": {
            "name": "classification",
            "epochs": 1,
            "data": {"subset": 60},
            "latency": {"table": str(path)},
        },
        "strategy": "random_search",
        "objectives": ["accuracy:max", "latency_ms:min"],
        "budget": {"evaluations": 1},
    }
    searched(tmp_path / "run", SearchConfig.read(tree))
    protocol = RunDirectory(tmp_path / "run").protocol
    assert "latency_ms is predicted by table.csv: onnxruntime, 2 threads, batch 4, cpu" in protocol
    assert "10.0 % at most" in protocol and protocol in words(command("show", "run").stdout)
    for milliseconds, agrees in ((5.2, True), (6.0, False)):  # 5 ms are predicted; the table was off by a tenth
        clock.append(milliseconds)
        folder = f"after {milliseconds}"
        done = command("export", "run", "--out", folder)
        assert done.returncode == 0, done.stderr
        document = json.loads(Path(folder, "architecture.json").read_text())
        assert document["latency"]["agrees"] is agrees
        assert document["latency"]["difference"] == pytest.approx(5 / milliseconds - 1)
        assert document["latency_table"]["engine"] == "onnxruntime"
        warned = "the table predicts 5 ms, but 6 ms were measured, a difference of 16.7 %" in words(done.stderr)
        assert warned is not agrees
        assert ("Warning: the table predicts" in Path(folder, "README.md").read_text()) is not agrees
        for text in (done.stdout, Path(folder, "README.md").read_text()):
            assert "10.0 % at most" in words(text).replace("\\", "")
    other = json.loads(command("export", "run", "--engine", "torch", "--json", "--out", "torch").stdout)["latency"]
    assert (other["engine"], other["difference"], other["agrees"]) == ("torch", None, None)  # nothing to compare
    path.unlink()
    gone = json.loads(command("export", "run", "--json", "--out", "gone").stdout)
    assert gone["latency_table"] is None and gone["latency"]["engine"] == "torch"


def test_columns_are_as_tables_from_elsewhere_have_them(tmp_path: Path) -> None:
    path = tmp_path / "networks.csv"
    path.write_text("architecture,latency_ms\n0123,2\n")
    assert "latency_ms" in BLOCK_COLUMNS and read_table(path, SPACE, IMAGES).origin == Origin()
