"""A search on folders of one's own pictures, by the command line; and layouts that are refused before it begins."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from nasplat.architecture import IO
from nasplat.data.dataset import Source
from nasplat.data.datasets import dataset
from nasplat.errors import InputError
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.ghost import GhostImageNet
from nasplat.training.seeding import seeded

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SEARCH = [
    "search", "--space", "ghost/imagenet", "--strategy", "random_search",
    "--benchmark", "classification", "--set", "benchmark.dataset=image_folder",
    "--objective", "accuracy:max", "--objective", "macs:min", "--evaluations", "1", "--out", "run",
]  # fmt: skip


def settings(**benchmark: object) -> list[str]:
    return [word for name, value in benchmark.items() for word in ("--set", f"benchmark.{name}={value}")]


def draw(folder: Path, count: int, *, classes: tuple[str, ...] = ("dark", "light")) -> None:
    """Pictures of noise that is darker or lighter, 40 x 48 pixels, of two kinds of files."""
    rng = np.random.default_rng([count, *folder.name.encode()])
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for row in range(count):
            pixels = rng.integers(0, 128, (48, 40, 3)) + 127 * number // (len(classes) - 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{row}.{('png', 'jpg')[row % 2]}")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder laid out as it should be."""
    folder = tmp_path / "photos"
    for part, count in (("train", 6), ("val", 4), ("test", 4)):
        draw(folder / part, count)
    return folder


def refusal(command: Command, folder: Path, **benchmark: object) -> str:
    """Why a search on the folder is refused, in one line on stderr; no run is begun."""
    done = command(*SEARCH, *settings(data_folder=folder, **({"side": 32, "epochs": 1} | benchmark)))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not Path("run").exists()
    return done.stderr


# Right


def pixels(folder: Path) -> tuple[Tensor, Tensor]:
    """Pictures of the class folders in one, resized by Pillow, in float64 from 0 to 255; and their labels."""
    images, labels = [], []
    for label, name in enumerate(("dark", "light")):
        for path in sorted((folder / name).iterdir()):
            with Image.open(path) as picture:
                images.append(np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float64))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)


@pytest.mark.slow
def test_ghost_networks_are_built_and_trained_on_pictures_in_folders(command: Command, photos: Path) -> None:
    done = command(*SEARCH, *settings(data_folder="photos", side=32, epochs=2, batch_size=6, learning_rate=0.01))
    assert done.returncode == 0, done.stderr
    shown = json.loads(command("show", "run", "--json").stdout)
    assert (shown["status"], shown["outcomes"], shown["failed"]) == ("finished", 1, 0)
    run = RunDirectory(Path("run"))
    (measurement,) = run.history().measurements
    assert measurement.spent.images == 24
    space, io = GhostImageNet(), IO.image(channels=3, side=32, outputs=2)
    cost = space.cost(measurement.architecture, io)
    assert (shown["trials"][0]["metrics"]["params"], shown["trials"][0]["metrics"]["macs"]) == (cost.params, cost.macs)

    with seeded(measurement.task.seed):
        network = space.build(measurement.architecture, io)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    network.load_state_dict(run.benchmark().state_dict(measurement, artifacts=run.artifacts))
    for name, weight in network.named_parameters():
        if weight.ndim == 4:
            assert not torch.equal(weight, before[name]), name
    # What was measured is what these weights make of the pictures in val, read and standardised in another way.
    training, _ = pixels(photos / "train")
    images, labels = pixels(photos / "val")
    mean, std = training.mean((0, 2, 3), keepdim=True), training.std((0, 2, 3), keepdim=True, correction=0)
    with torch.no_grad():
        logits = network.double().eval()((images - mean) / std)
    assert measurement.metrics["accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    assert measurement.metrics["loss"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-3)


@pytest.mark.slow
def test_classes_alone_are_split_and_searched_on(command: Command, tmp_path: Path) -> None:
    draw(tmp_path / "photos", 10, classes=("dark", "grey", "light"))
    done = command(*SEARCH, *settings(data_folder="photos", side=32, epochs=1, batch_size=6))
    assert done.returncode == 0, done.stderr
    assert [measurement.spent.images for measurement in RunDirectory(tmp_path / "run").history().measurements] == [18]


# Wrong


def test_a_folder_must_be_named_and_be_one(command: Command, photos: Path, tmp_path: Path) -> None:
    done = command(*SEARCH, *settings(side=32))
    assert done.returncode == 2
    assert "set benchmark.data.folder to a folder with train/CLASS/*" in done.stderr
    assert f"{tmp_path / 'fotos'} cannot be read: No such file or directory" in refusal(command, tmp_path / "fotos")
    picture = photos / "train" / "dark" / "0.png"
    assert f"{picture} cannot be read: Not a directory" in refusal(command, picture)


def test_pictures_that_are_not_square_want_a_side(command: Command, photos: Path) -> None:
    done = command(*SEARCH, *settings(data_folder=photos))
    assert done.returncode == 2
    assert "0.jpg has 40 x 48 pixels" in done.stderr or "0.png has 40 x 48 pixels" in done.stderr
    assert "with --set benchmark.data.side=224" in done.stderr


def test_no_class_folders(command: Command, photos: Path) -> None:
    for name in ("dark", "light"):
        for picture in (photos / "train" / name).iterdir():
            picture.rename(photos / "train" / f"{name}-{picture.name}")
        (photos / "train" / name).rmdir()
    said = refusal(command, photos)
    assert f"{photos / 'train'} must have a folder for each of at least two classes, but has none" in said
    assert f"put the images of each class into a folder of its own, {photos / 'train' / 'CLASS'}" in said


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_picture_beside_the_class_folders(part: str, command: Command, photos: Path) -> None:
    (photos / part / "light" / "0.png").rename(photos / part / "light.PNG")
    said = refusal(command, photos)
    assert (
        f"the image {photos / part / 'light.PNG'} is not in a class folder; move it into the folder of its class"
        in said
    )


@pytest.mark.slow
def test_files_that_are_no_pictures_lie_where_they_like(command: Command, photos: Path) -> None:
    for folder in (photos, photos / "train", photos / "val" / "dark"):
        (folder / "notes.txt").write_text("taken in spring")
        (folder / ".cache").mkdir()
    (photos / "train" / "._0.png").write_bytes(b"what some systems leave behind")
    done = command(*SEARCH, *settings(data_folder=photos, side=32, epochs=1, batch_size=6))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_that_training_does_not_know(part: str, command: Command, photos: Path) -> None:
    (photos / part / "dark").rename(photos / part / "Dark")
    said = refusal(command, photos)
    assert f"{photos / part} has the folder Dark, which is not one of the classes; the classes: dark, light" in said


def test_a_class_without_pictures(command: Command, photos: Path) -> None:
    (photos / "train" / "grey").mkdir()
    (photos / "train" / "grey" / "notes.txt").write_text("to be taken")
    said = refusal(command, photos)
    assert f"{photos / 'train' / 'grey'} has no images, with names that end in .jpg, " in said
    assert "put images into it, or remove it" in said


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_without_pictures(part: str, command: Command, photos: Path) -> None:
    shutil.rmtree(photos / part)
    (photos / part).mkdir()
    assert f"{photos / part} has no images" in refusal(command, photos)


def test_parts_are_not_taken_for_classes(command: Command, photos: Path) -> None:
    shutil.rmtree(photos / "train")
    assert f"{photos} has val/ and test/, but no folder for training is understood" in refusal(command, photos)


@pytest.mark.parametrize("name", ["validations", "heldout", "dark"])
def test_a_folder_beside_train_is_not_left_out_unseen(name: str, command: Command, photos: Path) -> None:
    shutil.rmtree(photos / "test")
    (photos / "val").rename(photos / name)
    said = refusal(command, photos)
    assert (
        f"{photos} has train/ and also {name}/, which is no part; name the folders of parts train, val and test" in said
    )


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("content", [b"a text\n", b"", None], ids=["text", "nothing", "half"])
def test_a_file_that_is_no_picture_though_it_is_called_one(
    content: bytes | None, part: str, command: Command, photos: Path
) -> None:
    picture = photos / part / "light" / "2.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2] if content is None else content)
    said = refusal(command, photos)
    assert f"the image {picture} cannot be read: " in said
    assert "repair or remove it" in said


def test_a_test_picture_that_is_none_is_told_when_it_is_first_looked_at(photos: Path) -> None:
    picture = photos / "test" / "light" / "2.png"
    picture.write_bytes(b"a text\n")
    splits = dataset("image_folder", Source(photos, side=32)).load()
    with pytest.raises(InputError, match="repair or remove it"):
        splits.test  # noqa: B018  reads it
