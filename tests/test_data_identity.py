"""A run keeps what it was trained on: later commands use that, or refuse with the change."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from nasplat.config import SearchConfig
from nasplat.data.dataset import Source
from nasplat.data.datasets import dataset
from nasplat.data.manifest import Manifest
from nasplat.data.splitting import stratified_order
from nasplat.errors import InputError
from nasplat.run.directory import Run
from nasplat.search.assembly import Assembly
from nasplat.testing.runs import searched

Command = Callable[..., CompletedProcess[str]]


def draw(folder: Path, classes: str = "abc", count: int = 10, seed: int = 0) -> None:
    """Images of 8 x 8 pixels, whose brightness is that of their class."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row in range(count):
            pixels = rng.integers(0, 100, (8, 8, 3)) + 70 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{row}.png")


def tree(folder: Path, evaluations: int = 1) -> dict[str, object]:
    return {
        "space": {"name": "nasbench201", "channels": 1, "cells": 1},
        "benchmark": {
            "name": "classification",
            "dataset": "image_folder",
            "epochs": 1,
            "data": {"folder": str(folder)},
            "recipe": {"batch_size": 8},
        },
        "strategy": "random_search",
        "objectives": ["accuracy:max"],
        "budget": {"evaluations": evaluations},
    }


def config(folder: Path, evaluations: int = 1) -> SearchConfig:
    return SearchConfig.read(tree(folder, evaluations))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draw(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def run(images: Path, tmp_path: Path) -> Run:
    searched(tmp_path / "run", config(images))
    return Run(tmp_path / "run")


def refusal(run: Run, images: Path) -> str:
    """Why the search cannot be resumed on the data of today."""
    with pytest.raises(InputError) as refused:
        Assembly.of(config(images, 2), run.data)
    return str(refused.value)


def rename_class(images: Path) -> None:
    (images / "a").rename(images / "z")


def add(images: Path) -> None:
    draw(images / "more", "b", 2, seed=1)
    for row in range(2):
        (images / "more" / "b" / f"{row}.png").rename(images / "b" / f"{10 + row}.png")
    shutil.rmtree(images / "more")


# What is kept


def test_a_run_keeps_classes_split_contents_and_scaling(run: Run, images: Path) -> None:
    assert run.data is not None
    manifest = Manifest.of_json(run.data["data"])
    assert manifest.classes == ("a", "b", "c") and manifest.side == 8
    assert {part: len(files) for part, files in manifest.parts.items()} == {"training": 18, "validation": 6, "test": 6}
    assert sorted(manifest.files) == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(images / file.name)) for file in manifest.parts["training"]])
    assert np.allclose(manifest.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    assert np.allclose(manifest.std, pixels.std((0, 1, 2)), rtol=1e-6)


def test_the_record_of_a_folder_that_was_copied_is_the_same(run: Run, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "copy")
    assert run.data is not None
    recorded = Manifest.of_json(run.data["data"])
    splits = dataset("image_folder", Source(tmp_path / "copy", recorded=recorded)).load()
    original = dataset("image_folder", Source(images)).load()
    assert splits.training.images.equal(original.training.images) and splits.test.labels.equal(original.test.labels)


# What is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename_class, "the classes were a, b, c and are now b, c, z"),
        (add, "2 added (b/10.png, b/11.png)"),
        (lambda images: (images / "c" / "3.png").unlink(), "1 removed (c/3.png)"),
        (lambda images: (images / "c" / "3.png").rename(images / "c" / "x.png"), "1 renamed (c/3.png to c/x.png)"),
        (lambda images: draw(images, "a", 1, seed=5), "1 changed (a/0.png)"),
    ],
)
def test_a_change_is_refused_by_its_name(change: Callable[[Path], None], says: str, run: Run, images: Path) -> None:
    change(images)
    assert says in (said := refusal(run, images)), said
    assert "--accept-changed-data" in said


def test_a_touched_file_is_no_change(run: Run, images: Path) -> None:
    path = images / "a" / "0.png"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert Assembly.of(config(images, 2), run.data).benchmark.io.outputs == 3


@pytest.mark.slow
def test_a_test_of_a_renamed_class_is_refused_and_not_recorded(run: Run, images: Path, command: Command) -> None:
    rename_class(images)
    done = command("export", run.folder, "--test", "--no-latency")
    assert done.returncode == 2 and "10 renamed (a/" in done.stderr, done.stderr
    assert Run(run.folder).history().tested == {}
    accepted = command("test", run.folder, "--accept-changed-data", "--json")
    assert accepted.returncode == 0, accepted.stderr
    assert "changed data accepted" in accepted.stderr and run.data is not None
    assert Manifest.of_json(run.data["data"]).classes == ("z", "b", "c"), "the order of the outputs stays"


# What goes on


@pytest.mark.slow
def test_an_export_needs_no_data(run: Run, images: Path, command: Command, tmp_path: Path) -> None:
    first = command("export", run.folder, "--no-latency", "--json", "--out", tmp_path / "first")
    shutil.rmtree(images)
    second = command("export", run.folder, "--no-latency", "--json", "--out", tmp_path / "second")
    assert second.returncode == 0, second.stderr
    one, other = json.loads(first.stdout), json.loads(second.stdout)
    assert one["preprocessing"] == other["preprocessing"] and "unverified" in other
    assert (tmp_path / "first" / "predict.py").read_text() == (tmp_path / "second" / "predict.py").read_text()


def test_accepted_images_are_for_training_and_the_others_keep_their_part(run: Run, images: Path) -> None:
    before = Manifest.of_json((run.data or {})["data"])
    add(images)
    moved, gone = before.parts["test"][0], before.parts["validation"][0]
    (images / moved.name).rename(images / moved.name[0] / "new.png")
    (images / gone.name).unlink()
    run.accept_data()
    after = Manifest.of_json((run.data or {})["data"])
    names = {part: {file.name for file in files} for part, files in after.parts.items()}
    assert {"b/10.png", "b/11.png"} <= names["training"]
    assert f"{moved.name[0]}/new.png" in names["test"], "a renamed test image stays one"
    assert names["validation"] == {file.name for file in before.parts["validation"]} - {gone.name}
    assert (after.mean, after.std) == (before.mean, before.std), "networks were trained with these"
    assert "2 added" in after.accepted[0]["changes"]
    Assembly.of(config(images, 2), run.data)


def test_classes_that_came_or_went_cannot_be_accepted(run: Run, images: Path) -> None:
    draw(images, "d", 5, seed=7)
    with pytest.raises(InputError, match="other classes need a new search"):
        run.accept_data()


# Duplicates


def test_images_of_one_content_are_in_one_part_and_told(tmp_path: Path) -> None:
    draw(tmp_path, "ab", 20)
    for row in range(0, 20, 2):
        shutil.copy(tmp_path / "a" / f"{row}.png", tmp_path / "a" / f"copy{row}.png")
    shutil.copy(tmp_path / "a" / "1.png", tmp_path / "b" / "wrong.png")
    record = dataset("image_folder", Source(tmp_path)).record
    assert record is not None
    manifest = record()
    part_of = {name: part for part, files in manifest.parts.items() for name in (file.name for file in files)}
    assert all(part_of[f"a/{row}.png"] == part_of[f"a/copy{row}.png"] for row in range(0, 20, 2))
    assert part_of["a/1.png"] == part_of["b/wrong.png"]
    assert any("11 images have the content of another one" in note for note in manifest.notes)
    assert any("1 contents are in several classes, such as a/1.png and b/wrong.png" in note for note in manifest.notes)


def test_what_training_shares_with_the_test_is_left_out_of_training(tmp_path: Path) -> None:
    draw(tmp_path / "train", "ab", 12)
    draw(tmp_path / "test", "ab", 4, seed=3)
    shutil.copy(tmp_path / "test" / "a" / "0.png", tmp_path / "train" / "a" / "leak.png")
    record = dataset("image_folder", Source(tmp_path)).record
    assert record is not None
    manifest = record()
    assert "train/a/leak.png" not in manifest.files and len(manifest.parts["test"]) == 8
    assert any("1 images of training have the content of images of test" in note for note in manifest.notes)


# Layouts


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("Training", "Testing"), 2),
        (("TRAIN", "TEST"), 2),
        (("training", "validation"), 2),
        (("Train", "Val", "Test"), 3),
        (("train", "dev", "test"), 3),
    ],
)
def test_usual_names_in_any_case_are_parts(names: tuple[str, ...], parts: int, tmp_path: Path) -> None:
    for seed, name in enumerate(names):
        draw(tmp_path / name, "ab", 12, seed=seed)
    found = dataset("image_folder", Source(tmp_path))
    assert found.classes == ("a", "b") and found.record is not None
    manifest = found.record()
    assert len({file.name.split("/")[0] for file in manifest.files.values()}) == parts
    assert {file.name.split("/")[0] for file in manifest.parts["training"]} == {names[0]}


@pytest.mark.parametrize("names", [("train_images", "test_images"), ("my-train", "my-val"), ("eval", "holdout")])
def test_folders_that_look_like_parts_and_are_not_understood_are_refused(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for name in names:
        draw(tmp_path / name, "ab", 12)
    with pytest.raises(InputError, match="no folder for training is understood; name the folders of parts train"):
        dataset("image_folder", Source(tmp_path))


def test_classes_that_hold_the_same_folders_are_suspicious(tmp_path: Path) -> None:
    for seed, name in enumerate(("fold1", "fold2")):
        draw(tmp_path / name, "ab", 12, seed=seed)
    record = dataset("image_folder", Source(tmp_path)).record
    assert record is not None and any("each holds the same folders, a, b" in note for note in record().notes)


# Samples


@pytest.mark.parametrize("seed", range(20))
def test_every_beginning_of_the_order_has_each_class_in_its_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, rng.integers(2, 12))
    labels = np.repeat(np.arange(len(sizes)), sizes)  # sorted by class, as files in folders are
    order = stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    counts = np.cumsum(labels[order][:, None] == np.arange(len(sizes)), axis=0)
    shares = np.arange(1, len(labels) + 1)[:, None] * sizes / len(labels)
    assert (abs(counts - shares) <= 1 + len(sizes) * sizes / len(labels)).all()


def test_inputs_are_a_sample_of_all_classes_and_not_the_first(tmp_path: Path) -> None:
    draw(tmp_path / "images", "abcd", 40)
    benchmark = Assembly.of(config(tmp_path / "images")).benchmark
    inputs, validation = benchmark.inputs(8), dataset("image_folder", Source(tmp_path / "images")).load().validation
    assert inputs is not None
    rows = [int((validation.batch(slice(None))[0] == each).flatten(1).all(1).nonzero()[0, 0]) for each in inputs]
    assert np.bincount(validation.labels[rows]).tolist() == [2, 2, 2, 2]
