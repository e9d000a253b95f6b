"""Tables of latency: what they predict, what is refused, how they are measured, and searches that use them."""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from scipy.interpolate import RBFInterpolator
from scipy.stats import spearmanr

from nasplat.architecture import IO, Architecture
from nasplat.benchmarks.classification import Classification
from nasplat.block_space import Block
from nasplat.cli import main
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError, RunError
from nasplat.export.bundle import export
from nasplat.latency.building import Accuracy, Plan, _Stopwatch, build_table, evenly_spaced
from nasplat.latency.table import BlockTable, Row, Surface, described, read_facts, read_table, write_table
from nasplat.options import construct
from nasplat.registry import SEARCH_SPACES, STRATEGIES, Plugin
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.ghost import GhostSmall
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.testing import ToySpace
from nasplat.testing.benchmarks import analytic_metrics_are_consistent
from nasplat.testing.runs import searched

SPACE, IMAGES, DIGITS = ToySpace(), IO.image(1, 4, 3), IO.image(1, 8, 10)
WIDTHS = (2, 4, 8, 16)
SMALL = Plan(points=5, rounds=2, calibration=6, checked=8)


def taken(widths: Sequence[int]) -> float:
    """Milliseconds that a made-up machine takes for a linear layer."""
    inputs, outputs = widths
    return 0.05 + 0.001 * inputs + 0.002 * outputs + 0.0003 * inputs * outputs


def whole(architecture: Architecture, io: IO = IMAGES) -> float:
    """What it takes for a network: half a millisecond, and twice what its layers take alone."""
    return 0.5 + 2 * sum(taken(block.widths) for block in SPACE.blocks(architecture, io))


def rows(io: IO = IMAGES) -> list[Row]:
    """All linear layers of the space on that machine."""
    (inputs,) = SPACE.blocks(SPACE.parse("0000"), io)[0].widths[:1]
    pairs = {(a, b) for a in (inputs, *WIDTHS) for b in (*WIDTHS, io.outputs)}
    return [Row("linear", pair, taken(pair), 0.001) for pair in sorted(pairs)]


FACTS = {**described(SPACE, IMAGES), "calibration": {"a_ms": 0.5, "b": 2.0}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A complete table of the made-up machine."""
    path = tmp_path / "table.csv"
    write_table(path, FACTS, rows())
    return path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Lets that machine be measured, which is slow at first; what it was asked for, in order."""
    asked: list[Any] = []

    def least(self: _Stopwatch, item: Block | Architecture) -> float:
        name = (item.kind, item.widths) if isinstance(item, Block) else item
        slowly = name not in asked
        asked.append(name)
        return (1 + slowly) * (taken(item.widths) if isinstance(item, Block) else whole(item))

    monkeypatch.setattr(_Stopwatch, "least", least)
    return asked


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy space, known by name in this process."""
    monkeypatch.setitem(SEARCH_SPACES._plugins, "toy", Plugin("toy", "nasplat.testing.toy:ToySpace", "test"))


# Interpolation


@pytest.mark.parametrize("axes", [1, 2])
def test_what_was_measured_is_given_exactly(axes: int) -> None:
    rng = default_rng(0)
    points = np.unique(rng.integers(1, 300, (12, axes)), axis=0)
    values = rng.random(len(points))
    surface = Surface(points.astype(float), values)
    assert [surface(point) for point in points] == pytest.approx(values.tolist(), abs=1e-12)


def test_over_one_width_it_is_straight_between_neighbors() -> None:
    points, values = np.array([4.0, 8, 20, 60]), np.array([1.0, 5, 2, 3])
    surface = Surface(points[:, None], values)
    for width in np.linspace(4, 60, 29):
        assert surface([width]) == pytest.approx(np.interp(width, points, values))


def test_over_two_widths_it_is_a_product_of_lines_and_radial_functions_of_what_is_left() -> None:
    rng = default_rng(1)
    points = np.unique(rng.integers(1, 100, (15, 2)), axis=0).astype(float)
    values = rng.random(len(points))
    unit = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    basis = np.stack([unit[:, 0] ** i * unit[:, 1] ** j for i in (0, 1) for j in (0, 1)], axis=1)
    trend = np.linalg.solve(basis.T @ basis, basis.T @ values)
    rest = RBFInterpolator(unit, values - basis @ trend, kernel="linear", degree=0)
    surface = Surface(points, values)
    for point in rng.integers(0, 130, (20, 2)):
        x, y = (point - points.min(axis=0)) / np.ptp(points, axis=0)
        assert surface(point) == pytest.approx(np.array([1, y, x, x * y]) @ trend + rest([[x, y]])[0])


def test_a_product_of_lines_goes_on_beyond_the_points() -> None:
    points = np.array([[4, 4], [4, 32], [32, 4], [32, 32], [16, 20]], dtype=float)
    surface = Surface(points, np.array([taken(point) for point in points]))
    for point in ([1, 1], [10, 25], [64, 64], [200, 3]):
        assert surface(point) == pytest.approx(taken(point))


@pytest.mark.parametrize("points", [[[5, 7]], [[1, 1], [2, 2], [4, 4]], [[1, 3], [1, 9]]], ids=["one", "line", "axis"])
def test_few_points_are_enough(points: list[list[int]]) -> None:
    surface = Surface(np.array(points, dtype=float), np.arange(1.0, 1 + len(points)))
    assert [surface(point) for point in points] == pytest.approx(list(range(1, 1 + len(points))))
    assert np.isfinite(surface([30, 40]))


def test_a_network_takes_what_its_blocks_take_and_what_is_fitted() -> None:
    table = BlockTable(Path("table"), rows(), SPACE, IMAGES, offset_ms=0.5, scale=2.0)
    for code in ("0000", "3210", "1333"):
        assert table.latency_ms(SPACE.parse(code)) == pytest.approx(whole(SPACE.parse(code)))


# The file


def test_a_written_table_is_read_again(file: Path) -> None:
    table = read_table(file, SPACE, IMAGES)
    assert table.listed is None
    for code in ("0000", "3210", "1333"):
        assert SPACE.parse(code) in table
        assert table.latency_ms(SPACE.parse(code)) == pytest.approx(whole(SPACE.parse(code)), rel=1e-4)
    assert {name: read_facts(file)[name] for name in FACTS} == FACTS


def test_a_plain_table_of_another_device_is_read(tmp_path: Path) -> None:
    path = tmp_path / "phone.csv"
    lines = [f'{row.latency_ms},"linear",mine,{row.widths[0]} {row.widths[1]}' for row in rows()]
    text = "\r\n".join(["# from my phone: see there", "latency_ms,kind,who,widths", *lines, ""])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    expected = sum(taken(block.widths) for block in SPACE.blocks(SPACE.parse("3210"), IMAGES))
    assert read_table(path, SPACE, IMAGES).latency_ms(SPACE.parse("3210")) == pytest.approx(expected)


def test_a_table_of_networks_is_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "networks.csv"
    path.write_text("architecture,latency_ms\n0123,1.5\n3210,2.25\n")
    table = read_table(path, SPACE, IMAGES)
    assert table.listed == [SPACE.parse("0123"), SPACE.parse("3210")]
    assert table.latency_ms(SPACE.parse("3210")) == 2.25
    assert SPACE.parse("0000") not in table
    with pytest.raises(InputError, match=r"networks\.csv has no row for toy:0000"):
        table.latency_ms(SPACE.parse("0000"))


def without_kind(text: str) -> str:
    return re.sub(r"# digest.*\n", "", text).replace("linear", "convolution")


def undigested(old: str, new: str) -> Callable[[str], str]:
    return lambda text: re.sub(old, new, re.sub(r"# digest.*\n", "", text), count=1)


DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "a figure changed": (lambda text: text.replace("16 16,0.1748", "16 16,0.1749"), "delete the line # digest"),
    "cut": (lambda text: text[:-40], "its content does not match"),
    "empty": (lambda text: "", "must have the columns"),
    "other columns": (undigested("kind", "sort"), "must have the columns"),
    "no kind": (without_kind, "no block of the kind 'linear'"),
    "a short row": (undigested("linear,16 16,.*", "linear,16 16"), "must have 4 cells"),
    "no number": (undigested("linear,16 16,[^,]*", "linear,16 16,fast"), "milliseconds must be a number above 0"),
    "nothing taken": (undigested("linear,16 16,[^,]*", "linear,16 16,0"), "milliseconds must be a number above 0"),
    "no width": (undigested("linear,16 16,", "linear,16 x,"), "line .* widths must be numbers"),
    "one width": (undigested("linear,16 16,", "linear,16,"), "have 2 widths, but one has 1"),
    "twice": (undigested("linear,16 16,", "linear,16 8,"), "and the widths 16 8"),
    "calibration": (undigested('"b": 2.0', '"b": "x"'), "b='x'"),
    "another format": (undigested("# format: 1", "# format: 2"), "has format 2, but this version reads format 1"),
    "another space": (undigested('"toy"', '"ghost/cifar"'), r"is for space .*ghost/cifar.* but the search has .*toy"),
    "other data": (undigested('"outputs": 3', '"outputs": 10'), 'is for io .*"outputs": 10.*"outputs": 3'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_no_table_for_the_space_is_refused(name: str, file: Path) -> None:
    damage, said = DAMAGE[name]
    damaged = damage(file.read_text())
    assert damaged != file.read_text()
    file.write_text(damaged)
    with pytest.raises(InputError, match=said) as refused:
        read_table(file, SPACE, IMAGES)
    assert str(file) in str(refused.value)


def test_other_options_of_the_space_are_another_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(path, described(NASBench201(channels=8, cells=1), IMAGES), [])
    with pytest.raises(InputError, match=r'"channels": 8.*"channels": 16'):
        read_table(path, NASBench201(), IMAGES)
    with pytest.raises(InputError, match="networks of the search space nasbench201 are not made of blocks"):
        read_table(path, NASBench201(channels=8, cells=1), IMAGES)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, said in (("missing", "No such file"), ("", "not a regular file"), ("bytes", "it is not text")):
        with pytest.raises(InputError, match=said):
            read_table(tmp_path / name, SPACE, IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize("digest", [True, False], ids=["as written", "without its digest"])
def test_mangled_tables_are_refused_or_harmless(file: Path, digest: bool) -> None:
    if not digest:
        file.write_bytes(file.read_bytes().partition(b"\n")[2])
    intact = file.read_bytes()
    table, members = read_table(file, SPACE, IMAGES), [SPACE.parse(code) for code in ("0000", "3210", "1333")]
    expected = [table.latency_ms(member) for member in members]
    refused = 0
    cut = [intact[:end] for end in range(0, len(intact), 31)]
    flipped = [
        intact[:place] + bytes([intact[place] ^ 1 << place % 8]) + intact[place + 1 :]
        for place in range(0, len(intact), 3)
    ]
    for mangled in cut + flipped:
        file.write_bytes(mangled)
        try:
            found = read_table(file, SPACE, IMAGES)
        except InputError:
            refused += 1
            continue
        got = [found.latency_ms(member) for member in members]
        assert got == expected if digest else np.isfinite(got).all()
    assert refused > 100


# Measuring


def test_points_are_evenly_spaced_from_the_largest() -> None:
    points = [tuple(point) for point in default_rng(0).integers(1, 200, (60, 2)).tolist()]
    points = list(dict.fromkeys(points))
    scale = np.ptp(np.array(points), axis=0)
    chosen = [max(points, key=lambda p: p[0] / scale[0] + p[1] / scale[1])]
    while len(chosen) < 9:
        gaps = {p: min(np.hypot(*((np.array(p) - q) / scale)) for q in chosen) for p in points}
        chosen.append(max(points, key=gaps.__getitem__))
    assert set(evenly_spaced(points, 9)) == set(chosen)
    assert evenly_spaced(points, 1000) == sorted(points)
    assert {(4,), (64,)} <= set(evenly_spaced([(4,), (8,), (64,), (60,)], 2))


def test_a_build_finds_what_the_machine_takes(tmp_path: Path, machine: list[Any]) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "table.csv"
    built = build_table(SPACE, IMAGES, SMALL, path, progress=lambda *done: told.append(done))
    assert (built.blocks, built.kinds, built.networks) == (5, 1, 8)
    assert built.predicted.spearman == pytest.approx(1) and built.predicted.median_relative_error < 0.05
    assert built.repeated.spearman == pytest.approx(1) and built.repeated.median_relative_error == 0
    total = 2 * (5 + 3 * (6 + 8))
    assert told == [(done, total) for done in range(1, total + 1)]
    for item in machine:
        assert machine.count(item) == (6 if isinstance(item, Architecture) else 2)
    assert machine[: total // 2] != machine[total // 2 :]  # every round in an order of its own
    facts = read_facts(path)
    assert facts["calibration"]["a_ms"] == pytest.approx(0.5, abs=0.1)
    assert facts["calibration"]["b"] == pytest.approx(2, rel=0.1)
    assert facts["plan"]["threads"] == 1 and facts["machine"]["versions"]["torch"] and facts["date"]
    for line in path.read_text().splitlines()[-5:]:
        kind, widths, least, spread = line.split(",")
        expected = pytest.approx(taken([int(width) for width in widths.split()]), rel=1e-2)
        assert kind == "linear" and float(least) == expected and float(spread) == expected
    table = read_table(path, SPACE, IMAGES)
    networks = facts["networks"]
    assert len({entry["architecture"] for entry in networks}) == 8
    for entry in networks:
        architecture = SPACE.parse(entry["architecture"])
        assert table.latency_ms(architecture) == pytest.approx(entry["predicted_ms"], rel=1e-3)
        assert entry["measured_ms"] == pytest.approx(whole(architecture))
    assert list(tmp_path.iterdir()) == [path]


def checked_by(path: Path) -> list[Architecture]:
    """The networks that a table's report is about."""
    return [SPACE.parse(entry["architecture"]) for entry in read_facts(path)["networks"]]


def test_networks_of_the_report_have_no_part_in_the_table(
    tmp_path: Path, machine: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_table(SPACE, IMAGES, SMALL, tmp_path / "a.csv")
    checked, least = checked_by(tmp_path / "a.csv"), _Stopwatch.least
    monkeypatch.setattr(_Stopwatch, "least", lambda self, item: least(self, item) * (100 if item in checked else 1))
    machine.clear()
    built = build_table(SPACE, IMAGES, SMALL, tmp_path / "b.csv")
    assert checked_by(tmp_path / "b.csv") == checked
    assert read_facts(tmp_path / "b.csv")["calibration"] == read_facts(tmp_path / "a.csv")["calibration"]
    assert built.predicted.median_relative_error > 0.9


@pytest.mark.parametrize("kind", ["linear", "rare"])
def test_blocks_of_the_report_are_measured_only_if_nobody_else_has_their_kind(
    kind: str, tmp_path: Path, machine: list[Any]
) -> None:
    class Rare(ToySpace):
        """A space of which one member alone has a certain block."""

        def blocks(self, architecture: Architecture, io: IO) -> list[Block]:
            found = super().blocks(architecture, io)
            return [replace(found[0], kind=kind, widths=(999, 9)), *found[1:]] if architecture == rare else found

    space, plan, rare = Rare(), replace(SMALL, points=100), Architecture("toy", "none")
    build_table(space, IMAGES, plan, tmp_path / "without.csv")
    (rare, *_) = checked_by(tmp_path / "without.csv")
    build_table(space, IMAGES, plan, tmp_path / "with.csv")
    assert ((kind, (999, 9)) in machine) == (kind == "rare")


def test_the_report_compares_visits_with_other_visits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, given = default_rng(0), defaultdict[Any, list[float]](list)

    def least(self: _Stopwatch, item: Block | Architecture) -> float:
        value = 1 + float(rng.random())
        given[item if isinstance(item, Architecture) else item.widths].append(value)
        return value

    monkeypatch.setattr(_Stopwatch, "least", least)
    built = build_table(SPACE, IMAGES, SMALL, tmp_path / "a.csv")
    networks = read_facts(tmp_path / "a.csv")["networks"]
    for entry in networks:
        visits = sorted(given[SPACE.parse(entry["architecture"])])
        pair = {entry["measured_ms"], entry["repeated_ms"]}
        assert len(visits) == 6 and visits[0] in pair  # the least is in one half, and the other half has another
        assert pair <= set(visits[:4]) and len(pair) == 2
    off = [abs(entry["repeated_ms"] / entry["measured_ms"] - 1) for entry in networks]
    assert built.repeated.median_relative_error == pytest.approx(np.median(off))


def test_accuracy_is_of_figures_against_measurements() -> None:
    figures, measured = [1.0, 2.0, 3.0, 5.0], [1.0, 2.5, 2.0, 4.0]
    found = Accuracy.of(figures, measured)
    assert found.spearman == pytest.approx(spearmanr(figures, measured).statistic) == pytest.approx(0.8)
    assert found.median_relative_error == pytest.approx((0.2 + 0.25) / 2)
    assert Accuracy.of([1.0, 1.0], [1.0, 2.0]).spearman is None


def interrupted_after(visits: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == visits:
            raise KeyboardInterrupt

    return progress


def content(path: Path) -> list[str]:
    """A table without what is different each time."""
    return [line for line in path.read_text().splitlines() if not line.startswith(("# digest", "# date"))]


@pytest.mark.slow
def test_an_interrupted_build_goes_on(tmp_path: Path, machine: list[Any]) -> None:
    build_table(SPACE, IMAGES, SMALL, tmp_path / "at_once.csv")
    at_once = list(machine)
    machine.clear()
    path = tmp_path / "table.csv"
    begun = tmp_path / "table.csv.partial"
    for visits in (20, 50):
        with pytest.raises(KeyboardInterrupt):
            build_table(SPACE, IMAGES, SMALL, path, progress=interrupted_after(visits))
        assert not path.exists()
        begun.write_text(begun.read_text() + "[1, 3")  # torn by a power cut
    with pytest.raises(InputError, match=r"table.csv.partial belongs to a build with other options"):
        build_table(SPACE, IMAGES, replace(SMALL, seed=1), path)
    build_table(SPACE, IMAGES, SMALL, path)
    assert machine == at_once  # nothing twice, nothing left out
    assert content(path) == content(tmp_path / "at_once.csv")
    assert not begun.exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_a_real_build_leaves_torch_as_it_was(tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasplat.latency.building.VISIT_MS", 1.0)
    plan = Plan(engine=engine, points=2, rounds=2, calibration=1, checked=1, threads=2)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    built = build_table(SPACE, IMAGES, plan, tmp_path / "table.csv")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert built.blocks == 2
    facts = read_facts(tmp_path / "table.csv")
    assert facts["plan"]["engine"] == engine
    assert all(0 < entry["measured_ms"] < 100 for entry in facts["networks"])


@pytest.mark.slow
def test_what_cannot_be_built_is_refused(tmp_path: Path, machine: list[Any]) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(InputError, match="nasbench201 has none"):
        build_table(NASBench201(), IMAGES, SMALL, tmp_path / "table.csv")
    with pytest.raises(InputError, match=r"there\.csv exists; choose another --out"):
        build_table(SPACE, IMAGES, SMALL, tmp_path / "there.csv")
    with pytest.raises(InputError, match="choose another --out"):
        build_table(SPACE, IMAGES, SMALL, tmp_path / "there.csv" / "table.csv")
    with pytest.raises(InputError, match=r"300 different members of toy are needed, .* only 256"):
        build_table(SPACE, IMAGES, replace(SMALL, calibration=100, checked=200), tmp_path / "table.csv")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch finds no CUDA device; give --device cpu"):
            build_table(SPACE, IMAGES, replace(SMALL, device="cuda"), tmp_path / "table.csv")
    assert not machine


# On the command line


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of `nasplat benchmark build latency ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["nasplat", "benchmark", "build", "latency", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, printed.out, printed.err


BUILD = ["--space", "toy", "--channels", "1", "--side", "4", "--outputs", "3", "--points", "5", "--rounds", "2"]
BUILD += ["--calibration", "6", "--checked", "8"]


@pytest.mark.usefixtures("toy")
def test_the_command_builds_and_reports(
    tmp_path: Path, machine: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, _ = command(capsys, monkeypatch, *BUILD, "--out", str(tmp_path / "a.csv"))
    assert code == 0
    assert text.startswith(f"table: {tmp_path / 'a.csv'}\n5 blocks of 1 kind on cpu with torch, batch 1, 1 thread, in")
    assert re.search(r"predicted +1\.000 +\d\.\d % *\nmeasured again +1\.000 +0\.0 %", text)
    machine.clear()
    code, text, _ = command(capsys, monkeypatch, *BUILD, "--out", str(tmp_path / "b.csv"), "--json")
    found = json.loads(text)
    assert (code, found["blocks"], found["networks"], found["plan"]["seed"]) == (0, 5, 8, 0)
    assert found["predicted"]["spearman"] == pytest.approx(1)
    assert content(tmp_path / "a.csv") == content(tmp_path / "b.csv")
    assert read_table(tmp_path / "a.csv", SPACE, IMAGES).latency_ms(SPACE.parse("2222")) > 0


@pytest.mark.usefixtures("toy")
def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def values() -> Iterator[float]:
        yield from [1.0] * 10
        raise KeyboardInterrupt

    given = values()
    monkeypatch.setattr(_Stopwatch, "least", lambda self, item: next(given))
    path = tmp_path / "a.csv"
    code, out, err = command(capsys, monkeypatch, *BUILD, "--out", str(path))
    assert (code, out) == (130, "")
    assert f"go on with: nasplat benchmark build latency {' '.join(BUILD)} --out {path}" in err
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv.partial"]
    assert len((tmp_path / "a.csv.partial").read_text().splitlines()) == 11


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--space", "nasbench201"], "nasbench201 has none"),
        (["--space", "nasbench21"], "did you mean 'nasbench201'"),
        (["--space", "toy", "--set", "benchmark.x=1"], "--set takes SECTION.OPTION=VALUE with space"),
        (["--space", "toy", "--set", "space.depth=1"], "no option of space is named 'depth'"),
    ],
)
@pytest.mark.usefixtures("toy")
def test_wrong_input_of_the_command(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command(capsys, monkeypatch, *arguments, "--out", str(tmp_path / "a.csv"))
    assert code == 2
    assert said in err
    assert not list(tmp_path.iterdir())


# In searches


def tree(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "space": "toy",
        "benchmark": {"name": "classification", "epochs": 1, "subset": 100, "latency_table": str(path)},
        "strategy": "random_search",
        "objectives": ["accuracy:max", "latency_ms:min"],
        "budget": {"evaluations": 8},
        **changes,
    }


@pytest.mark.parametrize("strategy", STRATEGIES.names())
@pytest.mark.usefixtures("toy")
def test_a_search_uses_the_table_and_keeps_its_bound(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(path, {**described(SPACE, DIGITS), "calibration": {"a_ms": 0.5, "b": 2.0}}, rows(DIGITS))
    bound = float(np.median([whole(SPACE.sample(default_rng(i)), DIGITS) for i in range(40)]))
    options = {"cars": {"population": 4, "warmup": 1, "interval": 1}}.get(strategy, {})
    config = tree(path, strategy={"name": strategy, **options}, constraints=[f"latency_ms<={bound}"])
    config["benchmark"]["epochs"] = 3
    searched(tmp_path / "run", SearchConfig.read(config))
    measured = RunDirectory(tmp_path / "run").history().measured
    assert len(measured) >= 4
    for m in measured:
        assert m.metrics["latency_ms"] == pytest.approx(whole(m.architecture, DIGITS), rel=1e-4)
        assert m.metrics["latency_ms"] <= bound
    assert len({m.metrics["latency_ms"] for m in measured}) > 1


@pytest.mark.usefixtures("toy")
def test_a_search_on_a_table_of_networks_stays_within_it(tmp_path: Path) -> None:
    path = tmp_path / "networks.csv"
    members = [SPACE.sample(default_rng(i)) for i in range(12)]
    latencies = {a.code: 1 + i / 8 for i, a in enumerate(members)}
    path.write_text("architecture,latency_ms\n" + "".join(f"{code},{ms}\n" for code, ms in latencies.items()))
    searched(tmp_path / "run", SearchConfig.read(tree(path, constraints=["latency_ms<=2"])))
    measured = RunDirectory(tmp_path / "run").history().measured
    assert len(measured) == 8
    for m in measured:
        assert m.metrics["latency_ms"] == latencies[m.architecture.code] <= 2


def test_what_a_table_tells_is_known_of_all_that_is_feasible(tmp_path: Path) -> None:
    blocks, networks = tmp_path / "blocks.csv", tmp_path / "networks.csv"
    write_table(blocks, described(SPACE, DIGITS), [row for row in rows(DIGITS) if row.widths != (16, 16)])
    networks.write_text("architecture,latency_ms\n0123,1.5\n3210,2.25\n")
    for path in (blocks, networks):
        analytic_metrics_are_consistent(partial(construct, "benchmark", Classification, SPACE, latency_table=str(path)))
    write_table(tmp_path / "holes.csv", {}, [replace(row, kind=f"{row.kind} too") for row in rows(DIGITS)])
    with pytest.raises(InputError, match=r"holes.csv has no block of the kind 'linear'"):
        construct("benchmark", Classification, SPACE, latency_table=str(tmp_path / "holes.csv")).check()
    benchmark = construct("benchmark", Classification, SPACE, latency_table=str(networks))
    assert [benchmark.feasible(SPACE.parse(code)) for code in ("0123", "0121")] == [True, False]
    assert benchmark.enumerable_members == [SPACE.parse("0123"), SPACE.parse("3210")]


def test_a_path_is_the_same_in_every_directory() -> None:
    from nasplat.options import complete

    found = complete("benchmark", Classification, {"latency": {"table": "table.csv"}})["latency"]["table"]
    assert found == str(Path.cwd() / "table.csv")


@pytest.mark.usefixtures("toy")
def test_latency_is_measured_or_told_by_a_table_not_both(file: Path) -> None:
    config = tree(file)
    config["benchmark"]["latency_batch"] = 1
    with pytest.raises(InputError, match=r"both latency.batch=1 and latency.table=.*table.csv; leave one out"):
        Assembly.of(SearchConfig.read(config))
    del config["benchmark"]["latency_batch"]
    with pytest.raises(InputError, match="is for io"):  # of other images
        Assembly.of(SearchConfig.read(config))


@pytest.mark.usefixtures("toy")
def test_an_engine_is_for_what_is_measured(file: Path) -> None:
    config = tree(file)
    config["benchmark"]["latency_engine"] = "onnxruntime"
    with pytest.raises(InputError, match=r"latency.engine=onnxruntime .* add --set benchmark\.latency\.batch=1"):
        Assembly.of(SearchConfig.read(config))


@pytest.mark.usefixtures("toy")
def test_a_search_does_not_go_on_with_another_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(path, described(SPACE, DIGITS), rows(DIGITS))
    config = SearchConfig.read(tree(path, budget={"evaluations": 4}))
    searched(tmp_path / "run", config)
    searched(tmp_path / "run", config)  # the same table is no other
    write_table(path, {**described(SPACE, DIGITS), "calibration": {"a_ms": 0.25, "b": 1.0}}, rows(DIGITS))
    with pytest.raises(InputError, match=r"not what the run recorded for latency_table: 1 changed \(table\.csv\)"):
        searched(tmp_path / "run", config)
    (tmp_path / "run" / "data.json").unlink()  # as in a run of an earlier version
    with pytest.raises(RunError, match=r"resuming, latency_ms of toy:\S+ is .*, but it was .* restore the table"):
        searched(tmp_path / "run", config)


@pytest.mark.exports
@pytest.mark.slow
@pytest.mark.usefixtures("toy")
def test_an_export_tells_what_was_predicted_from_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(path, described(SPACE, DIGITS), rows(DIGITS))
    searched(tmp_path / "run", SearchConfig.read(tree(path, budget={"evaluations": 2})))
    run = RunDirectory(tmp_path / "run")
    best = run.history().measured[0]
    description = export(run, best, tmp_path / "network", test=True)
    assert description["analytic_metrics"] == {"latency_ms": best.metrics["latency_ms"]}
    for figures in (description["measured"], description["final"]):
        assert "latency_ms" not in figures and "accuracy" in figures


def test_no_network_is_quicker_than_its_slowest_block(file: Path) -> None:
    table = BlockTable(file, rows(), SPACE, IMAGES, offset_ms=-100.0)
    architecture = SPACE.sample(default_rng(0))
    slowest = max(taken(block.widths) for block in SPACE.blocks(architecture, IMAGES))
    assert table.latency_ms(architecture) == pytest.approx(slowest)


def test_more_blocks_never_take_less_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that seem the quicker the more they have, as noise may have it."""

    def least(self: _Stopwatch, item: Block | Architecture) -> float:
        return taken(item.widths) if isinstance(item, Block) else 1 / whole(item)

    monkeypatch.setattr(_Stopwatch, "least", least)
    build_table(SPACE, IMAGES, SMALL, tmp_path / "table.csv")
    fitted = read_facts(tmp_path / "table.csv")["calibration"]
    assert fitted["a_ms"] == 0 and fitted["b"] > 0


def test_dropout_takes_no_time(tmp_path: Path) -> None:
    dry, wet = (GhostSmall(dropout=dropout) for dropout in (0.0, 0.5))
    io = IO.image(channels=1, side=8, outputs=10)
    blocks = [block for i in range(400) for block in dry.blocks(dry.sample(default_rng(i)), io)]
    found = {(block.kind, block.widths): Row(block.kind, block.widths, 0.1) for block in blocks}
    write_table(tmp_path / "a.csv", described(dry, io), found.values())
    read_table(tmp_path / "a.csv", wet, io)
    command = r"benchmark build latency --space ghost/small --side 9 --channels 1 --outputs 10 --out FILE"
    with pytest.raises(InputError, match=command):
        read_table(tmp_path / "a.csv", wet, IO.image(channels=1, side=9, outputs=10))
