"""Two thousand mangled inputs: whatever lies in a file, no traceback reaches the user and nothing half-written stays.

Four hundred of them run with each commit.

Every input follows from its number alone: `python -m pytest tests/test_mangled.py -k 1300` repeats a hundred.
"""

import csv
import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from markupsafe import Markup

import nasplat.driver.loop
from nasplat.cli.app import main
from nasplat.errors import InputError
from nasplat.export import bundle, opening
from nasplat.export.verification import Verification
from nasplat.report import page
from nasplat.run.layout import ARTIFACTS, CONFIG, ENVIRONMENT, LOG
from nasplat.search_spaces.nasbench201 import NASBench201

VERIFIED = {"random": asdict(Verification(0.0, 1.0, (1,))), "real": None}
"""What is said of an export that is not in question."""

INPUTS, PORTION = 2000, 100
SECONDS = 5.0
"""What one input may take of the processor, at least a hundred times what it needs."""
MEMORY = 4 << 30
"""Bytes of address space that all of them may take; beyond it a MemoryError gets out, which is a failure."""

SEARCH: dict[str, Any] = {
    "space": {"name": "nasbench201"},
    "benchmark": {"name": "nasbench201", "dataset": "cifar10"},
    "strategy": {"name": "regularized_evolution", "population": 4, "sample": 2},
    "objectives": ["accuracy:max", "params:min"],
    "constraints": ["params<=2000000"],
    "budget": {"evaluations": 14, "seconds": 3.0},
    "seed": 3,
}
TRAINING: dict[str, Any] = {
    "space": {"name": "nasbench201", "channels": 1, "cells": 1},
    "benchmark": {"name": "classification", "epochs": 1, "batch_size": 512},
    "strategy": "random_search",
    "objectives": ["accuracy:max"],
    "budget": {"evaluations": 2},
}


class Marker:
    """Would, unpickled, leave a file behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("MARKER",)


@dataclass
class Ended:
    """What a command left: its exit code and what it printed."""

    code: object
    out: str
    err: str


def call(*arguments: str) -> Ended:
    """Run `nasplat ARGUMENTS` in this process; no exception but the exit gets out."""
    out_bytes, err_bytes = io.BytesIO(), io.BytesIO()
    out = io.TextIOWrapper(out_bytes, encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(err_bytes, encoding="utf-8", errors="backslashreplace", write_through=True)
    before, sys.argv = sys.argv, ["nasplat", *arguments]
    code: object = None
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    return Ended(code, out_bytes.getvalue().decode(), err_bytes.getvalue().decode())


# What is mangled


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, a configuration, a finished run, a killed one, one with weights, and an export."""
    folder = tmp_path_factory.mktemp("originals")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NASPLAT_DATA", str(folder / "data"))
        lighten(patch)
        write_table(folder / "data" / "nasbench201" / "cifar10.csv.gz")
        Path("config.yaml").write_text(yaml.safe_dump(SEARCH, sort_keys=False))
        Path("training.yaml").write_text(yaml.safe_dump(TRAINING, sort_keys=False))
        assert call("search", "config.yaml", "--out", "run").code == 0
        assert call("search", "training.yaml", "--out", "trained").code == 0
        assert call("export", "trained", "--out", "network").code == 0
        shutil.copytree("run", "killed")
        kill(folder / "killed")
    return folder


def lighten(patch: pytest.MonkeyPatch) -> None:
    """Snapshots of short runs, and no drawing and no ONNX, which take seconds and read nothing of what is mangled."""
    patch.setattr(nasplat.driver.loop, "SNAPSHOT_EVENTS", 5)
    patch.setattr(page, "_svg", lambda drawing, title: Markup("<svg/>"))
    patch.setattr(bundle, "write_onnx", lambda network, shape, path, **how: path.write_bytes(b"onnx"))
    patch.setattr(bundle, "verified", lambda *given, **how: VERIFIED)
    patch.setattr(bundle, "measured_latency", lambda *given, **how: None)


def write_table(path: Path) -> None:
    space = NASBench201()
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch_str", "c10_valid_200", "c10_test_200", "c10_train_time_12ep_s"])
        for index in range(0, 15625, 125):
            code = "".join(str((index + 11 * gene) // 5**gene % 5) for gene in range(6))
            writer.writerow([space.official(space.parse(code)), 10 + index % 83, 10 + index % 79, 99.5])


def kill(run: Path) -> None:
    """Bring a run into the state that a killed writer leaves: the last events in the side file."""
    log = sqlite3.connect(run / LOG, isolation_level=None)
    log.execute("PRAGMA wal_autocheckpoint = 0")
    rows = log.execute("SELECT * FROM events WHERE seq > 8").fetchall()
    log.execute("DELETE FROM events WHERE seq > 8")
    log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for row in rows[:-1]:
        log.execute("INSERT INTO events VALUES (?, ?, ?, ?)", row)
    kept = {path: path.read_bytes() for path in (run / LOG, run / f"{LOG}-wal")}
    log.close()
    for path, data in kept.items():
        path.write_bytes(data)


# How bytes are mangled


def flip(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20)) if data else 0):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def cut_page(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) // 4096 + 1) * 4096]


def part(chance: random.Random, data: bytes) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 4, 30, 500, 4096)))


def delete(chance: random.Random, data: bytes) -> bytes:
    start, end = part(chance, data)
    return data[:start] + data[end:]


def double(chance: random.Random, data: bytes) -> bytes:
    start, end = part(chance, data)
    return data[:end] + data[start:]


def blank(chance: random.Random, data: bytes) -> bytes:
    start, end = part(chance, data)
    return data[:start] + chance.choice((b"\0", b"\xff", b" ", b"9")) * (end - start) + data[end:]


def noise(chance: random.Random, data: bytes) -> bytes:
    start, end = part(chance, data)
    return data[:start] + chance.randbytes(end - start) + data[end:]


def swap(chance: random.Random, data: bytes) -> bytes:
    size = chance.choice((1, 16, 512, 4096))
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    if len(pieces) > 1:
        a, b = chance.sample(range(len(pieces)), 2)
        pieces[a], pieces[b] = pieces[b], pieces[a]
    return b"".join(pieces)


def version(chance: random.Random, data: bytes) -> bytes:
    """Another version number: of a database's user, of SQLite's own formats, or in a JSON text."""
    if data.startswith(b"SQLite"):
        at = chance.choice((18, 19, 16, 21, 44, 56, 60, 63))
        return data[:at] + bytes([chance.choice((0, 1, 2, 3, 9, 255))]) + data[at + 1 :]
    return data.replace(b'"format": 1', f'"format": {chance.choice((0, 2, -1, 10**30))}'.encode())


def something_else(chance: random.Random, data: bytes) -> bytes:
    """The content of a file of quite another kind."""
    return chance.choice(FOREIGN)()


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data.pkl", b"\0" * 20_000_000)
    return packed.getvalue()


FOREIGN: list[Callable[[], bytes]] = [
    lambda: b"",
    lambda: b"\0" * 5000,
    lambda: b"\xff\xfe\xd8\x00",
    lambda: b"[" * 5000,
    lambda: b"{a: " * 900 + b"1" + b"}" * 900,
    lambda: b'{"a":' * 5000,
    lambda: b"- " * 5000,
    lambda: (
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (n, n, b", ".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 110))
    ),
    lambda: b"space: &a [*a]\nbenchmark: *a\n",
    lambda: b"!!python/object/apply:os.mkdir [MARKER]\n",
    lambda: b"space: !!python/object/apply:os.mkdir [MARKER]\n",
    lambda: b"seed: !!timestamp never\nspace: !!int x\n",
    lambda: b"seed: 2001-99-99\n",
    lambda: b"seed: 1" + b"0" * 5000 + b"\n",
    lambda: b"? [a]\n: b\n",
    lambda: b"<<: [1, 2]\n",
    lambda: b"x: 1\n" * 60_000,
    lambda: pickle.dumps(Marker()),
    lambda: pickle.dumps({"space": Marker()}, protocol=0),
    lambda: gzip.compress(b"\0" * 20_000_000),
    lambda: gzip.compress(b"arch_str,c10_valid_200\n" * 100_000),
    zipped,
    lambda: b"SQLite format 3\0" + bytes(84),
    lambda: b"null",
    lambda: b"[]",
    lambda: b"3",
    lambda: b'"text"',
]
ON_BYTES = [flip, flip, flip, cut, cut_page, delete, double, blank, noise, noise, swap, version, something_else]

ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 1e308, -1e308, 0.5, float("inf"), float("nan"), "", "x", "no",
    "../../../etc/passwd", "nasbench201", "\x1b[2J\x07", "[bold]", "[/]", "é" * 3000, "\ud800", "a\0b", [], {}, [[]],
    [1], {"name": 3}, {"$array": "9"}, "0" * 64, 20, "accuracy:max", "params<=1e400", "000000", {"a": {"b": {"c": []}}},
]  # fmt: skip


def odd_leaf(chance: random.Random, tree: Any) -> Any:
    """The tree with one value, anywhere in it, replaced, left out, renamed or added."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
        for key in keys:
            places.append((node, key))
            walk(node[key])

    walk(tree)
    if not places or chance.random() < 0.03:
        return chance.choice(ODD)
    node, key = chance.choice(places)
    match chance.randrange(8):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[chance.choice(("", "x", "namee", "évaluations", "a\0b", key + "s"))] = node.pop(key)
        case 2 if isinstance(node, list):
            node.append(node[key])
        case 3 if isinstance(node, dict):
            node["extra"] = chance.choice(ODD)
        case _:
            node[key] = chance.choice(ODD)
    return tree


def mangle_bytes(chance: random.Random, path: Path) -> str:
    how = chance.choice(ON_BYTES)
    path.write_bytes(how(chance, path.read_bytes()))
    return how.__name__


def mangle_place(chance: random.Random, path: Path) -> str:
    """Something else than a file where the file should be."""
    path.unlink()
    what = chance.choice(("gone", "folder", "full folder", "link to nowhere", "link to itself", "zeros", "nothing"))
    if "folder" in what:
        path.mkdir()
        if what == "full folder":
            (path / "file").write_text("mine")
    elif what != "gone":
        targets = {
            "link to nowhere": "nowhere",
            "link to itself": path.name,
            "zeros": "/dev/zero",
            "nothing": os.devnull,
        }
        path.symlink_to(targets[what])
    return what


def mangle_tree(chance: random.Random, path: Path) -> str:
    """One odd value in YAML or JSON."""
    if path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(odd_leaf(chance, yaml.safe_load(path.read_text()))), errors="surrogatepass")
    else:
        path.write_text(json.dumps(odd_leaf(chance, json.loads(path.read_text()))))
    return "odd value"


def mangle_events(chance: random.Random, path: Path) -> str:
    """One odd value in one event, or an event that is odd as a whole; SQLite finds no fault."""
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        seq, body = chance.choice(log.execute("SELECT seq, body FROM events").fetchall())
        odd = chance.choice(
            ("{", "null", "[]", "[" * 3000, '{"id":' + "9" * 5000 + "}", '{"id": NaN}', "x'00'", '{"a":"\ud83d"}')
        )
        how = chance.randrange(12)
        if how <= 5:
            said = json.dumps(odd_leaf(chance, json.loads(body)))
            log.execute("UPDATE events SET body = ? WHERE seq = ?", (said, seq))
        elif how == 6:
            log.execute("UPDATE events SET body = CAST(? AS TEXT) WHERE seq = ?", (odd.encode(errors="replace"), seq))
        elif how == 7:
            log.execute("DELETE FROM events WHERE seq = ?", (seq,))
        elif how == 8:
            log.execute("UPDATE events SET kind = ? WHERE seq = ?", (chance.choice(("ask", "outcome", "end", "")), seq))
        elif how == 9:
            log.execute("UPDATE events SET elapsed = ? WHERE seq = ?", (chance.choice((-1.0, 1e308, 9e999)), seq))
        elif how == 10:
            state = log.execute("SELECT body FROM snapshots").fetchone()
            if state is not None:
                said = json.dumps(odd_leaf(chance, json.loads(state[0])))
                log.execute("UPDATE snapshots SET body = ?", (said,))
        else:
            log.execute(
                chance.choice(
                    (
                        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END",
                        "DROP TABLE snapshots",
                        "UPDATE snapshots SET arrays = x'00'",
                        "UPDATE snapshots SET seq = 9000",
                        "INSERT INTO events SELECT seq + 100, kind, elapsed, body FROM events",
                        "UPDATE events SET seq = seq + 1000000000000 WHERE seq > 5",
                        "ALTER TABLE events ADD COLUMN more TEXT",
                    )
                )
            )
    return f"events {how} of {seq}"


def mangle_table(chance: random.Random, path: Path) -> str:
    """Odd cells, headers and rows in a file that unpacks without fault."""
    rows = [line.split(",") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    for _ in range(chance.choice((1, 1, 3, 30))):
        row = chance.choice([rows[0], chance.choice(rows)])
        odd = ["", "nan", "-inf", "1e999", "x", '"', "\0", "é", "9" * 200_000, "|none~0|", "1_0", " 5 ", row[0], "\n\n"]
        match chance.randrange(6):
            case 0 if len(row) > 1:
                row.pop()
            case 1:
                row.append(chance.choice(odd))
            case 2:
                rows.append(list(row))
            case _:
                row[chance.randrange(len(row))] = chance.choice(odd)
    path.write_bytes(gzip.compress("\n".join(",".join(row) for row in rows).encode()))
    return "odd table"


# What is done with it


@dataclass
class Case:
    """One mangled input: the command, the file, and whether the command may write beside it."""

    arguments: list[str]
    what: str
    writes: bool = False


def some(chance: random.Random, *flags: str) -> list[str]:
    return [flag for flag in flags if chance.random() < 0.5]


def on_config(chance: random.Random) -> Case:
    path = Path("config.yaml")
    what = chance.choice((mangle_bytes, mangle_tree, mangle_tree, mangle_tree, mangle_place))(chance, path)
    flags = ["--evaluations", "3", "--seconds", "1", "--executor", "inline"] if chance.random() < 0.9 else ["--help"]
    return Case(["search", "config.yaml", *flags, "--out", "new", *some(chance, "--json")], what, writes=True)


def on_flags(chance: random.Random) -> Case:
    """Odd words in the place of right ones."""
    words = ["--space", "nasbench201", "--benchmark", "nasbench201", "--strategy", "random_search", "--objective",
             "accuracy:max", "--constraint", "params<=1e6", "--set", "strategy.duplicates=redraw",
             "--seed", "1"]  # fmt: skip
    odd = ["", "\udcff", "x" * 5000, "strategy.duplicates=[[[", "space.channels=" + "[" * 3000, "budget.x=!!int x", "=",
           "strategy.duplicates=&a [*a]", "seed=1", "1e999", "-1", "nan", "params>=1e999", "a:b:c", "--", "-",
           "9" * 5000, "benchmark.dataset=!!python/object/apply:os.mkdir [MARKER]", "\x1b[2J", "[/]", "name=x",
           "space.name=y"]  # fmt: skip
    for _ in range(chance.choice((1, 1, 2, 4))):
        words[chance.randrange(len(words))] = chance.choice(odd)
    return Case(["search", *words, "--evaluations", "3", "--seconds", "1", "--out", "new"], "odd words", writes=True)


def on_table(chance: random.Random) -> Case:
    path = Path("data/nasbench201/cifar10.csv.gz")
    what = chance.choice((mangle_bytes, mangle_table, mangle_table, mangle_place))(chance, path)
    return Case(["search", "config.yaml", "--evaluations", "3", "--out", "new"], what, writes=True)


def hurt_run(chance: random.Random, name: str) -> str:
    log = Path(name) / LOG
    wal = log.with_name(f"{LOG}-wal")
    choices: list[Callable[[], str]] = [
        lambda: f"{LOG}: {mangle_bytes(chance, log)}",
        lambda: f"{LOG}: {mangle_bytes(chance, log)}",
        lambda: f"{LOG}: {mangle_place(chance, log)}",
        lambda: f"{CONFIG}: {mangle_bytes(chance, Path(name) / CONFIG)}",
        lambda: f"{CONFIG}: {mangle_tree(chance, Path(name) / CONFIG)}",
        lambda: f"{CONFIG}: {mangle_place(chance, Path(name) / CONFIG)}",
        lambda: f"{ENVIRONMENT}: {mangle_bytes(chance, Path(name) / ENVIRONMENT)}",
        lambda: f"{ENVIRONMENT}: {mangle_tree(chance, Path(name) / ENVIRONMENT)}",
        lambda: f"{ENVIRONMENT}: {mangle_place(chance, Path(name) / ENVIRONMENT)}",
    ]
    if name == "killed":
        choices += [lambda: f"side file: {mangle_bytes(chance, wal)}"] * 5
        choices += [lambda: f"side file: {mangle_place(chance, wal)}"]
    else:
        choices += [lambda: mangle_events(chance, log)] * 8
    if name == "trained":
        artifact = chance.choice(sorted((Path(name) / ARTIFACTS).rglob("*.safetensors")))
        choices += [lambda: f"artifact: {mangle_bytes(chance, artifact)}"] * 4
        choices += [lambda: f"artifact: {mangle_place(chance, artifact)}"]
    lock = Path(name) / "writer.lock"
    if lock.exists() and chance.random() < 0.02:
        return f"lock: {mangle_place(chance, lock)}"
    return chance.choice(choices)()


def on_run(command: str) -> Callable[[random.Random], Case]:
    def make(chance: random.Random) -> Case:
        name = chance.choice(("run", "run", "killed", "trained"))
        what = f"{name} {hurt_run(chance, name)}"
        json_flag = some(chance, "--json")
        choose: dict[str, Callable[[], list[str]]] = {
            "show": lambda: chance.choice(([], ["--front"], ["--front", "--test"], ["--architecture", "000000"])),
            "runs": lambda: [],
            "resume": lambda: ["--evaluations", "16" if name != "trained" else "3"],
            "report": lambda: chance.choice(([], ["--out", "report.html"])),
            "export": lambda: ["--pick", chance.choice(("best", "knee", "1")), *some(chance, "--untrained", "--test")],
            "recover": lambda: chance.choice(([], ["--out", "new"], ["--out", "new"])),
        }
        options = choose[command]()
        place = "." if command == "runs" else name
        writes = command == "resume" or "--out" in options or "--test" in options  # a final measurement is recorded
        return Case([command, place, *options, *json_flag], what, writes=writes)

    return make


def on_export(chance: random.Random) -> Case:
    """An exported network, which `nasplat.export.bundle.load` reads."""
    path = Path("network") / chance.choice((opening.ARCHITECTURE, opening.WEIGHTS))
    hows = [mangle_bytes, mangle_place] + [mangle_tree, mangle_tree] * (path.suffix == ".json")
    return Case(["load", "network"], f"{path.name} {chance.choice(hows)(chance, path)}")


def on_list(chance: random.Random) -> Case:
    kind = chance.choice(("", "x", "strategies", "datasets", "\udcff", "--top", "benchmarks"))
    return Case(["list", kind, *some(chance, "--json")], "list")


KINDS: list[Callable[[random.Random], Case]] = (
    [on_config] * 4 + [on_flags] * 2 + [on_table] * 2 + [on_run("show")] * 3 + [on_run("resume")] * 2
    + [on_run("recover")] * 3 + [on_run("runs")] + [on_run("report")] + [on_run("export")] * 2 + [on_export] * 4
)  # fmt: skip


def listing(folder: Path) -> dict[str, str]:
    """Everything below a folder, but the two files whose coming and going says nothing."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "writer.lock" or path.name.endswith("-shm"):
            continue
        if path.is_symlink():
            entries[str(path.relative_to(folder))] = f"-> {path.readlink()}"
        else:
            entries[str(path.relative_to(folder))] = str(hash(path.read_bytes())) if path.is_file() else "folder"
    return entries


def load_export(folder: str) -> Ended:
    """Load an exported network, as a program of the user's would."""
    try:
        bundle.load(folder)
    except InputError as error:
        return Ended(2, "", str(error))
    return Ended(0, "", "")


def check(index: int, folder: Path, originals: Path) -> str:
    """Mangle an input and see what becomes of it; what it was and what came of it."""
    chance = random.Random(index)
    for original in originals.iterdir():
        if original.is_dir():
            shutil.copytree(original, original.name)
        else:
            shutil.copyfile(original, original.name)
    kind = on_list if index % 100 == 99 else KINDS[index % len(KINDS)]
    case = kind(chance)
    before = listing(folder)
    started = time.process_time()
    ended = load_export(case.arguments[1]) if case.arguments[0] == "load" else call(*case.arguments)
    seconds = time.process_time() - started
    after = listing(folder)
    story = f"input {index}: {case.arguments} on {case.what}: {ended.code} after {seconds:.1f} s\n{ended.err[-600:]}"
    assert ended.code in (0, 1, 2), story
    assert "Traceback" not in ended.out + ended.err, story
    assert seconds < SECONDS, story
    assert not Path("MARKER").exists(), story
    assert not [name for name in after if Path(name).name.startswith(".")], story
    if ended.code != 0:
        assert ended.err.strip(), story
    if ended.code == 2 or not case.writes:
        new = {name for name in after if name not in before}
        reports = {"run/report.html", "trained/report.html", "killed/report.html"}
        made = {name for name in new if name in reports or "/export" in name} if ended.code == 0 else set()
        assert {name: entry for name, entry in after.items() if name not in made} == before, story
    elif ended.code == 1:  # what was begun is a run, whole
        new = {Path(name).parts[0] for name in after if name not in before}
        assert all(name in ("run", "killed", "trained") or (Path(name) / LOG).exists() for name in new), story
    if ended.code == 0 and "--json" in case.arguments and "--help" not in case.arguments:
        json.loads(ended.out, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON: {story}"))
    return f"{case.arguments[0]} {ended.code}"


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the mangled files lie, and what is left out of the commands; memory is bounded."""
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "ground" / "data"))
    lighten(monkeypatch)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    sizes = Path("/proc/self/statm")
    if sizes.exists():
        now = int(sizes.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    yield tmp_path / "ground"
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.slow
@pytest.mark.sweep(4)
@pytest.mark.parametrize("first", range(0, INPUTS, PORTION))
def test_mangled_inputs_end_in_a_message(
    first: int, ground: Path, originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: set[str] = set()
    for index in range(first, first + PORTION):
        ground.mkdir()
        monkeypatch.chdir(ground)
        ends.add(check(index, ground, originals))
        monkeypatch.chdir(ground.parent)
        shutil.rmtree(ground)
    assert {"search 2", "load 2", "search 0"} <= ends  # both ends are met: some damage does no harm, most is noticed
    assert {"show 1", "show 2", "recover 0"} & ends


REAL = [0, 100, 205, 310, 417, 9]


@pytest.mark.slow
@pytest.mark.parametrize("index", REAL)
def test_mangled_inputs_end_in_a_message_in_a_process_of_their_own(
    index: int, ground: Path, originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(originals, ground)
    monkeypatch.chdir(ground)
    case = KINDS[index % len(KINDS)](random.Random(index))
    if case.arguments[0] == "load":
        words = ["-c", "import sys; from nasplat.export import bundle, opening; bundle.load(sys.argv[1])", "network"]
    else:
        words = ["-m", "nasplat", *case.arguments]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if case.arguments[0] != "load":
        assert done.returncode in (0, 1, 2)
        assert "Traceback" not in done.stdout + done.stderr
        assert done.returncode == 0 or done.stderr
    assert not Path("MARKER").exists()
