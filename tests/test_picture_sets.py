"""Sets of pictures: where they are looked for, how they are split, and what is refused."""

import struct
import subprocess
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasplat.data.picture_sets import PHOTO_SIDE, PHOTOS, PICTURE_SETS, Picture, central, picture_set, read_picture
from nasplat.errors import InputError

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def draw(folder: Path, names: Iterable[str], *, mode: str = "RGB", side: int = 8) -> None:
    """Pictures of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng([number, *folder.name.encode()]).integers(
            0, 256, (side, side, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).convert(mode).save(folder / name)


def numbered(count: int) -> list[str]:
    return [f"{number:03}.png" for number in range(count)]


def names(pictures: Iterable[Picture]) -> list[str]:
    return [Path(picture.name).name for picture in pictures]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("NASPLAT_DATA", str(folder))
    return folder


# The photographs


def test_the_photographs_are_there_without_any_data_folder(data: Path) -> None:
    data.rmdir()
    photos = picture_set("photos")
    parts = [photos.training, photos.validation, photos.test]
    assert list(map(len, parts)) == [9, 3, 3]
    for part in parts:
        for picture in part:
            pixels = picture.read()
            assert pixels.dtype == np.uint8
            assert min(pixels.shape[:2]) > 150
            assert max(pixels.shape[:2]) <= PHOTO_SIDE
            assert pixels.std() > 15  # not a blank


def test_no_photograph_is_in_two_parts_and_both_views_of_a_scene_are_in_one() -> None:
    everything = [name for part in PHOTOS.values() for name in part]
    assert len(set(everything)) == len(everything)
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(PHOTOS["training"])


# Where published sets are looked for


@pytest.mark.parametrize("folder", ["Set5/HR", "Set5", "set5", "images/sr/Set5/HR", "Set5/image_SRF_2"])
def test_a_set_to_test_with_is_found_in_every_layout(folder: str, data: Path) -> None:
    draw(data / folder, numbered(5))
    found = picture_set("set5")
    assert (found.training, found.validation, names(found.test)) == ((), (), numbered(5))


def test_of_originals_and_shrunk_pictures_in_one_folder_the_originals_are_taken(data: Path) -> None:
    kinds = ["HR", "LR", "bicubic", "SRCNN"]
    draw(data / "BSD100/image_SRF_2", [f"img_00{i}_SRF_2_{kind}.png" for i in (1, 2) for kind in kinds])
    assert names(picture_set("bsd100").test) == ["img_001_SRF_2_HR.png", "img_002_SRF_2_HR.png"]


def test_the_given_folder_counts_before_others(data: Path, tmp_path: Path) -> None:
    draw(data / "Set5", numbered(5))
    draw(tmp_path / "mine" / "Set5", ["mine.png"])
    assert names(picture_set("set5", tmp_path / "mine", data).test) == ["mine.png"]
    assert names(picture_set("set5", tmp_path / "nowhere", data).test) == numbered(5)


def test_one_in_ten_of_bsds500_is_for_validation_and_val_for_the_test(data: Path) -> None:
    draw(data / "BSDS500/data/images/train", numbered(20))
    draw(data / "BSDS500/data/images/val", ["a.png", "b.png"])
    found = picture_set("bsds500")
    assert names(found.validation) == ["009.png", "019.png"]
    assert names(found.training) == [name for name in numbered(20) if name not in names(found.validation)]
    assert names(found.test) == ["a.png", "b.png"]


def test_div2k_has_no_test_pictures(data: Path) -> None:
    draw(data / "DIV2K/DIV2K_train_HR", numbered(3))
    draw(data / "DIV2K/DIV2K_valid_HR", ["v.png"])
    for found in (picture_set("div2k"), picture_set("div2k", data / "DIV2K")):
        assert (names(found.training), names(found.validation), found.test) == (numbered(3), ["v.png"], ())


@pytest.mark.parametrize("name", [name for name in PICTURE_SETS if name not in ("photos", "picture_folder")])
def test_a_missing_set_says_where_it_was_looked_for(name: str, data: Path) -> None:
    with pytest.raises(InputError, match=rf"images of {name} are missing.*{data}.*set NASPLAT_DATA") as raised:
        picture_set(name)
    assert "\n" not in str(raised.value)


def test_half_a_set_is_a_missing_set(data: Path) -> None:
    draw(data / "DIV2K/DIV2K_train_HR", numbered(3))
    with pytest.raises(InputError, match="div2k are missing"):
        picture_set("div2k")


def test_an_unknown_set_is_refused_with_near_matches() -> None:
    with pytest.raises(InputError, match=r"no set of images is named 'set4'; did you mean 'set\d+'"):
        picture_set("set4")


# Pictures of one's own


def test_a_folder_of_pictures_is_split_in_fifths(tmp_path: Path) -> None:
    draw(tmp_path / "mine", numbered(10))
    (tmp_path / "mine" / "notes.txt").write_text("no picture")
    draw(tmp_path / "mine", [".hidden.png"])
    found = picture_set("picture_folder", tmp_path / "mine")
    assert names(found.validation) == ["003.png", "008.png"]
    assert names(found.test) == ["004.png", "009.png"]
    assert names(found.training) == [f"00{i}.png" for i in (0, 1, 2, 5, 6, 7)]


@pytest.mark.parametrize(("training", "validation"), [("training", "validation"), ("train", "val")])
def test_folders_for_the_parts_are_taken_as_they_are(training: str, validation: str, tmp_path: Path) -> None:
    for part, count in ((training, 6), (validation, 2), ("test", 3)):
        draw(tmp_path / part, [f"{part}{number}.png" for number in range(count)])
    found = picture_set("picture_folder", tmp_path)
    assert [len(found.training), len(found.validation), len(found.test)] == [6, 2, 3]
    assert all(training in name for name in names(found.training))


def test_a_part_without_a_folder_is_taken_from_training(tmp_path: Path) -> None:
    draw(tmp_path / "training", numbered(10))
    draw(tmp_path / "validation", ["v.png"])
    found = picture_set("picture_folder", tmp_path)
    assert names(found.validation) == ["v.png"]
    assert names(found.test) == ["004.png", "009.png"]
    assert len(found.training) == 8


def test_folders_that_do_not_suffice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set benchmark\.data\.folder"):
        picture_set("picture_folder")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        picture_set("picture_folder", tmp_path / "absent")
    draw(tmp_path / "few", numbered(4))
    with pytest.raises(InputError, match="few has no images for test.*at least five"):  # noqa: RUF043
        picture_set("picture_folder", tmp_path / "few")
    draw(tmp_path / "odd" / "validation", numbered(4))
    with pytest.raises(InputError, match="but no folder for training is understood"):
        picture_set("picture_folder", tmp_path / "odd")


# Reading


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_pictures_in_color_have_three_channels(mode: str, tmp_path: Path) -> None:
    draw(tmp_path, ["a.tif"], mode=mode)
    assert read_picture(tmp_path / "a.tif").shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_pictures_have_one(mode: str, tmp_path: Path) -> None:
    draw(tmp_path, ["a.png"], mode=mode)
    assert read_picture(tmp_path / "a.png").shape == (8, 8)


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), pixels)
    assert np.array_equal(read_picture(tmp_path / "a.png", side=4), pixels[0:4, 2:6])
    assert np.array_equal(central(pixels, 100), pixels)


def test_pictures_are_not_read_before_they_are_wanted(data: Path) -> None:
    (data / "Set5").mkdir()
    (data / "Set5" / "a.png").write_bytes(b"no picture")
    (picture,) = picture_set("set5").test
    with pytest.raises(InputError, match=rf"{data}/Set5/a\.png cannot be read"):
        picture.read()


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    draw(tmp_path, ["a.png"], side=64)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.png cannot be read: .*; repair or remove it"):
        read_picture(tmp_path / "a.png")


def test_a_picture_that_would_fill_the_memory_is_not_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(InputError, match=r"bomb\.png cannot be read"):
        read_picture(tmp_path / "bomb.png")
    draw(tmp_path, ["a.png"])
    with pytest.raises(InputError, match=r"a\.png cannot be read: it has 8 x 8 pixels, more than 63, .*most_pixels"):
        read_picture(tmp_path / "a.png", 63)


def test_sets_of_pictures_are_listed_with_what_they_are_for(command: Command) -> None:
    done = command("list", "datasets", "--json")
    assert done.returncode == 0
    for name in PICTURE_SETS:
        assert f'"name": "{name}"' in done.stdout
    assert done.stdout.count('"summary": "super-resolution') == len(PICTURE_SETS)
