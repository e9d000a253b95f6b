"""Pipes in place of files, which no reader opens, for it might wait for ever; and tables that unpack without end."""

import gzip
import os
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nasplat.architecture import IO
from nasplat.benchmarks import tables
from nasplat.config import load_recipe, load_tree
from nasplat.data import csv_table
from nasplat.data.dataset import Source
from nasplat.data.datasets import dataset
from nasplat.data.manifest import one_file
from nasplat.data.picture_sets import picture_set
from nasplat.errors import InputError
from nasplat.latency.table import read_table
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.surrogates.predictor_store import open_predictor
from nasplat.surrogates.training_set import read_names, read_training_set

PATIENCE = 60
"""Seconds after which a reader that waits for a pipe is interrupted."""


@pytest.fixture(autouse=True)
def never_waiting() -> Iterator[None]:
    """Interrupts a reader that waits."""

    def interrupt(*_: Any) -> None:
        raise TimeoutError("it waited for a pipe")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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
