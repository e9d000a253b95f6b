"""Pools: images from anywhere, listed on disk; nothing that is wrong with one of them stops the others."""

import os
import shutil
import tracemalloc
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nasplat.data.datasets import dataset
from nasplat.data.pool import Pool, read_pictures
from nasplat.errors import InputError, StorageError

GREY, COLOR = (1, 6, 6), (3, 6, 6)


def draw(path: Path, level: int, size: tuple[int, int] = (6, 6)) -> NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0]), level, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def names(pool: Pool, below: Path) -> list[str]:
    return [str(Path(pool.name(row)).relative_to(below)) for row in range(len(pool))]


def test_pictures_are_listed_by_name_whatever_the_file_system_says(tmp_path: Path) -> None:
    for number, name in enumerate(["b/2.png", "a.png", "b/c/1.jpg", "b/1.PNG", "z.bmp"]):
        draw(tmp_path / "pool" / name, number)
    for name in (".hidden.png", ".git/x.png", "b/notes.txt", "none"):
        path = tmp_path / "pool" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "pool" / "b" / "loop").symlink_to(tmp_path / "pool")
    with Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY) as pool:
        assert names(pool, tmp_path / "pool") == ["a.png", "b/1.PNG", "b/2.png", "b/c/1.jpg", "z.bmp"]
        assert pool.left_out == {".txt": 1, "hidden": 2, "without an ending": 1}
        images, failures = pool.read([4, 0])
    assert images[:, 0, 0, 0].tolist() == [4, 1] and not failures


def test_no_picture_is_listed_twice(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/deep/b.png", "c.png"):
        draw(tmp_path / name, 1)
    sources = [tmp_path / "in" / "deep", tmp_path, tmp_path / "in", tmp_path / "." / "in"]
    (tmp_path / "link").symlink_to(tmp_path / "in")
    index = tmp_path.parent / f"{tmp_path.name}.index"
    with Pool.listed(index, [str(each) for each in [*sources, tmp_path / "link"]], GREY) as pool:
        assert sorted(Path(pool.name(row)).name for row in range(len(pool))) == ["a.png", "b.png", "c.png"]


def test_a_link_to_itself_hides_no_other_picture(tmp_path: Path) -> None:
    for number in range(20):
        draw(tmp_path / "pool" / "deep" / f"{number:02}.png", number)
    for folder in (tmp_path / "pool", tmp_path / "pool" / "deep"):
        (folder / "loop.png").symlink_to("loop.png")
    with Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY) as pool:
        assert len(pool) == 22 and not pool.left_out
        images, failures = pool.read(range(22))
    assert len(images) == 20 and [row for row, _ in failures] == [20, 21]


def test_of_several_links_the_first_by_name_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "real" / "a.png", 1)
    draw(tmp_path / "pool" / "m.png", 1)
    for name, target in (("b.png", "m.png"), ("z.png", "m.png"), ("l2", "../real"), ("l1", "../real")):
        (tmp_path / "pool" / name).symlink_to(target)
    scandir = os.scandir
    for turned in (False, True):

        def ordered(path: bytes, turned: bool = turned) -> AbstractContextManager[Iterable[os.DirEntry[bytes]]]:
            with scandir(path) as entries:
                return nullcontext(sorted(entries, key=lambda entry: entry.name, reverse=turned))

        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", ordered)
            with Pool.listed(tmp_path / f"index{turned}", [str(tmp_path / "pool")], GREY) as pool:
                assert names(pool, tmp_path / "pool") == ["b.png", "l1/a.png"]


def test_folders_may_have_any_name(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("needs a file system that allows any bytes in names")
    draw(folder / "a.png", 1)
    with Pool.listed(tmp_path / "index", [str(folder)], GREY) as pool:
        assert pool.sources == (str(folder),) and pool.name(0) == str(folder / "a.png")
        assert not pool.read([0])[1]


def test_a_list_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    draw(tmp_path / "pool" / "a.png", 1)
    with pytest.raises(StorageError, match="cannot be written: unable to open database file; make it writable"):
        Pool.listed(tmp_path / "none" / "index", [str(tmp_path / "pool")], GREY)


def test_pictures_that_cannot_be_read_are_told_and_left_out(tmp_path: Path) -> None:
    for name in "abcd":
        draw(tmp_path / "pool" / f"{name}.png", ord(name))
    (tmp_path / "pool" / "b.png").write_bytes(b"no picture")
    draw(tmp_path / "pool" / "e.png", 1, (40, 40))
    with Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY, most=1000) as pool:
        (tmp_path / "pool" / "c.png").unlink()
        images, failures = pool.read(range(5))
        assert images[:, 0, 0, 0].tolist() == [ord("a"), ord("d")]
        assert [row for row, _ in failures] == [1, 2, 4]
        assert "not an image" in failures[0][1] and "No such file" in failures[1][1]
        assert "more than 1,000" in failures[2][1]
        assert pool.read([1])[0].shape == (0, *GREY)


def test_data_sets_by_name_are_made_as_files_would_be(tmp_path: Path) -> None:
    digits = dataset("digits").load()
    shape = (3, 12, 12)
    with Pool.listed(tmp_path / "index", ["digits"], shape) as pool:
        assert len(pool) == len(digits.training) + len(digits.validation)
        assert (pool.name(7), pool.sources) == ("digits:7", ("digits",))
        images, _ = pool.read([7])
    low, high = digits.training.images.aminmax()
    wanted = ((digits.training.images[7, 0] - low) / (high - low) * 255).round().numpy().astype(np.uint8)
    Image.fromarray(wanted).save(tmp_path / "7.png")
    by_file, _ = read_pictures([tmp_path / "7.png"], shape, 10**6)
    assert images.tolist() == by_file.tolist() and images.max() > 200


def test_an_interrupted_listing_leaves_nothing_and_a_complete_one_is_kept(tmp_path: Path) -> None:
    draw(tmp_path / "pool" / "a.png", 1)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY, told=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]
    with Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY) as pool:
        assert len(pool) == 1
    shutil.rmtree(tmp_path / "pool")
    with Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY) as pool:
        assert len(pool) == 1 and pool.read([0])[1]


def test_empty_and_unknown_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    with pytest.raises(InputError, match=r"has no images; names of images end in \.jpg"):
        Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY)
    (tmp_path / "pool" / "a.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"only other files \(1 \.mp4\)"):
        Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY)
    for unknown in ("digit", "image_folder", str(tmp_path / "none")):
        with pytest.raises(InputError, match=r"is neither; data sets: .*digits"):
            Pool.listed(tmp_path / "index", [unknown], GREY)
    assert not (tmp_path / "index").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user whom the system can refuse a folder: root may read all")
def test_a_folder_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    draw(tmp_path / "pool" / "a.png", 1)
    draw(tmp_path / "pool" / "closed" / "b.png", 1)
    (tmp_path / "pool" / "closed").chmod(0)
    try:
        with Pool.listed(tmp_path / "index", [str(tmp_path / "pool")], GREY) as pool:
            assert len(pool) == 1 and pool.left_out == {"unreadable folder": 1}
    finally:
        (tmp_path / "pool" / "closed").chmod(0o700)


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.png").touch()
        tracemalloc.start()
        with Pool.listed(tmp_path / f"{count}.index", [str(folder)], COLOR) as pool:
            assert len(pool) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(9000), peak(18000)
    assert many < few + 2**18  # the names alone take about 1 MiB
