"""Pipes in place of files, which no reader opens, for it might wait for ever; tables and files without end."""

import gzip
import os
import resource
import shutil
import socket
import subprocess
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nasplat.architecture import IO
from nasplat.benchmarks import tables
from nasplat.benchmarks.classification import Classification
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.benchmarks.zero_cost import ZeroCost
from nasplat.cli import inspecting
from nasplat.config import SearchConfig, load_recipe, load_tree
from nasplat.cost import Cost
from nasplat.data import csv_table
from nasplat.data.dataset import Source
from nasplat.data.datasets import dataset
from nasplat.data.manifest import one_file
from nasplat.data.options import DataOptions, ImageOptions, SuperResolutionDataOptions
from nasplat.data.picture_sets import picture_set
from nasplat.errors import InputError
from nasplat.latency.table import read_table
from nasplat.run import records
from nasplat.run.layout import DATA, ENVIRONMENT, LOCK, LOG
from nasplat.run.recovery import salvage
from nasplat.search_spaces.esrn import ESRNTiny
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.storage import carving, write_ahead
from nasplat.storage.files import read_file
from nasplat.surrogates.predictor_store import open_predictor
from nasplat.surrogates.training_set import read_names, read_training_set
from nasplat.testing.runs import searched

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("never_waiting")
SPACE = NASBench201()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.yaml", load_tree),
        ("recipe.yaml", load_recipe),
        ("table.csv.gz", tables.header),
        ("scores.csv", lambda path: read_training_set([path], space=SPACE)),
        ("scores.csv.gz", lambda path: read_training_set([path], space=SPACE)),
        ("names.txt", read_names),
        ("latency.csv", lambda path: read_table(path, SPACE, IO.image(3, 32, 10))),
        ("predictor.json", lambda path: open_predictor(path.parent)),
        ("any", lambda path: one_file("table", path)),
    ],
)
def test_a_pipe_in_place_of_a_file_is_refused(name: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=r"regular file|not a file") as refused:
        read(tmp_path / name)
    assert name in str(refused.value)


def test_a_pipe_among_tables_hides_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv.gz")
    tables.write(tmp_path / "b.csv.gz", ["code"], [{"code": "000000"}])
    found, damaged = tables.tables_in(tmp_path, ["code"])
    assert found == {tmp_path / "b.csv.gz": ["code"]}
    assert len(damaged) == 1 and "a.csv.gz" in str(damaged[0])


def test_a_pipe_among_images_is_refused_or_left_out(tmp_path: Path) -> None:
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        os.mkfifo(tmp_path / part / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png"):
        dataset("image_folder", Source(folder=tmp_path)).load()
    for number in range(9):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "one" / f"{number}.png")
    found = picture_set("picture_folder", tmp_path / "one")
    assert sorted(found.files) == [f"{number}.png" for number in range(9)]


@pytest.mark.parametrize(
    ("most", "outcome"),
    [
        (255, pytest.raises(InputError, match=r"16 x 16 pixels, more than 255, .*benchmark\.data\.most_pixels")),
        (256, nullcontext()),
    ],
)
def test_one_option_bounds_the_pixels_of_images_for_all_benchmarks(most: int, outcome: Any, tmp_path: Path) -> None:
    for place, part in enumerate(("one", "two")):
        (tmp_path / part).mkdir()
        for number in range(10):
            Image.new("RGB", (16, 16), (20 * number, place, 0)).save(tmp_path / part / f"{number}.png")
    folder, esrn = str(tmp_path), ESRNTiny()
    for benchmark in (
        Classification(SPACE, dataset="image_folder", data=DataOptions(folder=folder, side=16, most_pixels=most)),
        ZeroCost(SPACE, dataset="image_folder", data=ImageOptions(folder=folder, side=16, most_pixels=most)),
        SuperResolution(
            esrn, dataset="picture_folder", data=SuperResolutionDataOptions(folder=f"{folder}/one", most_pixels=most)
        ),
    ):
        with outcome:
            benchmark.check()


def test_a_table_is_unpacked_no_further_than_it_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "LARGEST", 1 << 20)
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"code,score\n" + b"000000,1\n" * (1 << 20), compresslevel=1))
    tracemalloc.start()
    try:
        with (
            pytest.raises(InputError, match="unpacks to more than 1,048,576 characters"),
            csv_table.opened(path) as (_, rows),
        ):
            for _ in rows:
                pass
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# Whole runs


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("template") / "run"
    config = SearchConfig.read({
        "space": {"name": "nasbench201", "channels": 4, "cells": 1}, "benchmark": "zero_cost",
        "strategy": "random_search", "objectives": ["synflow:max"], "budget": {"evaluations": 2},
    })  # fmt: skip
    searched(folder, config)
    return folder


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(template, tmp_path / "run"))


def a_socket(path: Path) -> None:
    """Leave a socket as a server does that was killed."""
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)


KINDS: dict[str, Callable[[Path], None]] = {"a pipe": os.mkfifo, "a folder": Path.mkdir, "a socket": a_socket}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [f"{LOG}-wal", f"{LOG}-journal", f"{LOG}-shm", LOCK])
def test_what_is_no_file_beside_a_log_is_refused_by_its_name(
    name: str, kind: str, run: Path, command: CommandLine
) -> None:
    (run / name).unlink(missing_ok=True)
    KINDS[kind](run / name)
    for which in ("show", "runs", "resume", "recover"):
        done = command(which, run.parent if which == "runs" else run)
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == (0 if which == "runs" else 2)
        assert f"{run / name} is {kind}, but" in said and "delete it, or put the file of another copy" in said


def test_a_log_that_is_a_pipe_is_no_run(run: Path, command: CommandLine) -> None:
    (run / LOG).unlink()
    os.mkfifo(run / LOG)
    assert command("show", run).returncode == 2
    done = command("recover", run)
    assert done.returncode == 2 and f"{run / LOG} is a pipe" in done.stderr


# Files without end


@pytest.mark.parametrize("name", [ENVIRONMENT, DATA])
def test_a_record_with_holes_is_not_read(name: str, run: Path, command: CommandLine) -> None:
    (run / name).touch()
    os.truncate(run / name, records.LARGEST[name] + 1)
    done = command("resume", run, "--evaluations", "3")
    assert done.returncode == 1 and f"{name} " in done.stderr and "must have at most" in done.stderr
    assert not salvage(run).healthy


def test_a_side_file_with_holes_is_damage_and_recovered_up_to_a_bound(
    run: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead, "LARGEST", 1 << 20)
    monkeypatch.setattr(carving, "LARGEST", 1 << 20)
    (run / f"{LOG}-wal").touch()
    os.truncate(run / f"{LOG}-wal", 300 << 30)
    assert "warning" in command("show", run).stderr
    done = command("resume", run, "--evaluations", "3")
    assert done.returncode == 1 and "has 322,122,547,200 bytes" in done.stderr and "nasplat recover" in done.stderr
    assert command("recover", run, "--out", run.with_name("saved")).returncode == 0
    assert (run.with_name("saved") / LOG).stat().st_size < 1 << 20
    assert command("show", run.with_name("saved")).returncode == 0


def test_a_file_that_does_not_fit_into_memory_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 1 << 33)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    try:
        with pytest.raises(OSError, match="does not fit into memory"):
            read_file(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_lack_of_memory_is_one_line(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(inspecting, "print_json", exhausted)
    done = command("runs", Path(__file__).parent, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "not enough memory" in done.stderr


@pytest.mark.parametrize("digits", [17, 320, 5000])
def test_a_cost_beyond_floating_point_numbers_is_refused(digits: int) -> None:
    with pytest.raises(InputError, match=rf"(1e\+|10\^){digits} parameters"):
        Cost(params=10**digits)
