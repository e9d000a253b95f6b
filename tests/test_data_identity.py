"""A run keeps what it was trained on: later commands use that, or refuse with the change."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from nasplat.artifact import MemoryArtifacts
from nasplat.config import SearchConfig
from nasplat.data.dataset import Source
from nasplat.data.datasets import dataset
from nasplat.data.manifest import DataChanged, Manifest, accepted_file, check_file, one_file
from nasplat.data.picture_sets import accepted, check_recorded, picture_set
from nasplat.data.splitting import stratified_order
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError, RunError
from nasplat.interface.retraining import kept_data
from nasplat.run.directory import RunDirectory
from nasplat.testing.runs import searched
from nasplat.training.options import RecipeOptions

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
def run(images: Path, tmp_path: Path) -> RunDirectory:
    searched(tmp_path / "run", config(images))
    return RunDirectory(tmp_path / "run")


def refusal(run: RunDirectory, images: Path) -> str:
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


def test_a_run_keeps_classes_split_contents_and_scaling(run: RunDirectory, images: Path) -> None:
    assert run.data is not None
    manifest = Manifest.of_json(run.data["data"])
    assert manifest.classes == ("a", "b", "c") and manifest.side == 8
    assert {part: len(files) for part, files in manifest.parts.items()} == {"training": 18, "validation": 6, "test": 6}
    assert sorted(manifest.files) == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(images / file.name)) for file in manifest.parts["training"]])
    assert np.allclose(manifest.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    assert np.allclose(manifest.std, pixels.std((0, 1, 2)), rtol=1e-6)


def test_the_record_of_a_folder_that_was_copied_is_the_same(run: RunDirectory, images: Path, tmp_path: Path) -> None:
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
def test_a_change_is_refused_by_its_name(
    change: Callable[[Path], None], says: str, run: RunDirectory, images: Path
) -> None:
    change(images)
    assert says in (said := refusal(run, images)), said
    assert "--accept-changed-data" in said


def test_a_touched_file_is_no_change(run: RunDirectory, images: Path) -> None:
    path = images / "a" / "0.png"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert Assembly.of(config(images, 2), run.data).benchmark.io.outputs == 3


@pytest.mark.slow
def test_a_test_of_a_renamed_class_is_refused_and_not_recorded(
    run: RunDirectory, images: Path, command: Command
) -> None:
    rename_class(images)
    done = command("export", run.folder, "--test", "--no-latency")
    assert done.returncode == 2 and "10 renamed (a/" in done.stderr, done.stderr
    assert RunDirectory(run.folder).history().tested == {}
    accepted = command("test", run.folder, "--accept-changed-data", "--json")
    assert accepted.returncode == 0, accepted.stderr
    assert "changed data accepted" in accepted.stderr and run.data is not None
    assert Manifest.of_json(run.data["data"]).classes == ("z", "b", "c"), "the order of the outputs stays"


# What goes on


@pytest.mark.slow
def test_an_export_needs_no_data(run: RunDirectory, images: Path, command: Command, tmp_path: Path) -> None:
    first = command("export", run.folder, "--no-latency", "--json", "--out", tmp_path / "first")
    shutil.rmtree(images)
    second = command("export", run.folder, "--no-latency", "--json", "--out", tmp_path / "second")
    assert second.returncode == 0, second.stderr
    one, other = json.loads(first.stdout), json.loads(second.stdout)
    assert one["preprocessing"] == other["preprocessing"] and "unverified" in other
    assert (tmp_path / "first" / "predict.py").read_text() == (tmp_path / "second" / "predict.py").read_text()


def test_accepted_images_are_for_training_and_the_others_keep_their_part(run: RunDirectory, images: Path) -> None:
    before = Manifest.of_json((run.data or {})["data"])
    add(images)
    moved, gone = before.parts["test"][0], before.parts["validation"][0]
    (images / moved.name).rename(images / moved.name[0] / "new.png")
    (images / gone.name).unlink()
    run.keep_data(run.accepted_data())
    after = Manifest.of_json((run.data or {})["data"])
    names = {part: {file.name for file in files} for part, files in after.parts.items()}
    assert {"b/10.png", "b/11.png"} <= names["training"]
    assert f"{moved.name[0]}/new.png" in names["test"], "a renamed test image stays one"
    assert names["validation"] == {file.name for file in before.parts["validation"]} - {gone.name}
    assert (after.mean, after.std) == (before.mean, before.std), "networks were trained with these"
    assert "2 added" in after.accepted[0]["changes"]
    Assembly.of(config(images, 2), run.data)


def test_classes_that_came_or_went_cannot_be_accepted(run: RunDirectory, images: Path) -> None:
    draw(images, "d", 5, seed=7)
    with pytest.raises(InputError, match="other classes need a new search"):
        run.accepted_data()


# What a second look found


def search_of(folder: Path, place: Path) -> RunDirectory:
    searched(place, config(folder))
    return RunDirectory(place)


def test_a_folder_with_copies_across_parts_is_no_changed_folder(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "train", "ab", 12)
    draw(tmp_path / "images" / "test", "ab", 4, seed=3)
    shutil.copy(tmp_path / "images" / "test" / "a" / "0.png", tmp_path / "images" / "train" / "a" / "leak.png")
    run = search_of(tmp_path / "images", tmp_path / "run")
    Assembly.of(config(tmp_path / "images", 2), run.data)
    draw(tmp_path / "images" / "train", "a", 13)  # the last one is new
    shutil.copy(tmp_path / "images" / "test" / "b" / "0.png", tmp_path / "images" / "train" / "b" / "leak.png")
    after = Manifest.of_json(run.accepted_data()["data"])
    assert {file.name for file in after.left_out} == {"train/a/leak.png", "train/b/leak.png"}
    assert len(after.parts["test"]) == 8 and "train/a/12.png" in {file.name for file in after.parts["training"]}
    assert any("2 images, such as train/a/leak.png, are left out" in note for note in after.notes)


def test_exchanged_classes_are_named_and_their_outputs_follow_the_images(run: RunDirectory, images: Path) -> None:
    final = run.benchmark().final(run.history().measurements[0], device="cpu", artifacts=run.artifacts)
    exchange_classes(images, np.random.default_rng(0))
    assert "the images of a are now in b, those of b are now in a" in refusal(run, images)
    run.keep_data(run.accepted_data())
    assert Manifest.of_json((run.data or {})["data"]).classes == ("b", "a", "c")
    again = run.benchmark().final(run.history().measurements[0], device="cpu", artifacts=run.artifacts)
    assert again.metrics == pytest.approx(final.metrics)


@pytest.mark.parametrize("limit", [0, 1_000])
def test_one_rule_of_digests_holds_for_all_parts(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasplat.data.digests.WHOLE_BYTES", limit)
    draw(tmp_path / "images" / "train", "ab", 12)
    draw(tmp_path / "images" / "test", "ab", 4, seed=3)
    shutil.copy(tmp_path / "images" / "test" / "a" / "0.png", tmp_path / "images" / "train" / "a" / "leak.png")
    run = search_of(tmp_path / "images", tmp_path / "run")
    before = Manifest.of_json((run.data or {})["data"])
    assert before.sampled and [file.name for file in before.left_out] == ["train/a/leak.png"]
    (tmp_path / "images" / "test" / "b" / "0.png").rename(tmp_path / "images" / "test" / "b" / "z.png")
    after = Manifest.of_json(run.accepted_data()["data"])
    assert "test/b/z.png" in {file.name for file in after.parts["test"]}


@pytest.mark.parametrize("change", ["side", "folder"])
def test_a_retraining_keeps_the_split_for_another_size_or_place(change: str, run: RunDirectory, images: Path) -> None:
    now = config(images)
    data = now.benchmark.options["data"]
    if change == "side":
        data["side"] = 16
        draw(images / "more", "a", 1, seed=9)
        (images / "more" / "a" / "0.png").rename(images / "a" / "more.png")
        shutil.rmtree(images / "more")
        with pytest.raises(DataChanged, match=r"1 added \(a/more\.png\)"):
            Assembly.of(now, kept_data(run.data, run.config, now))
        (images / "a" / "more.png").unlink()
    else:
        images.rename(images.parent / "moved")
        data["folder"] = str(images.parent / "moved")
    before = Manifest.of_json((run.data or {})["data"])
    assembly = Assembly.of(now, kept_data(run.data, run.config, now)).with_data()
    after = Manifest.of_json((assembly.workload.data or {})["data"])
    assert after.side == (16 if change == "side" else 8) and after.classes == before.classes
    assert {part: [f.name for f in files] for part, files in after.parts.items()} == {
        part: [f.name for f in files] for part, files in before.parts.items()
    }
    assert (after.mean == before.mean) is (change == "folder")


def test_a_folder_that_was_copied_is_read_once(
    run: RunDirectory, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in images.rglob("*.png"):
        path.write_bytes(path.read_bytes())
    assembly = Assembly.of(run.config, run.data).with_data()
    monkeypatch.setattr("nasplat.data.digests._digest_of_whole", None)  # nothing is read for a digest from here on
    worker = replace(assembly.workload).make()
    worker.prepare()


def test_no_trial_reads_the_record_of_all_files_again(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = Assembly.of(run.config, run.data).benchmark
    benchmark.prepare()
    monkeypatch.setattr(Manifest, "of_json", None)
    benchmark.measure(run.history().measurements[0].task, device="cpu", artifacts=MemoryArtifacts())


def test_accepting_writes_nothing_if_the_data_cannot_be_used(run: RunDirectory, images: Path) -> None:
    (images / "a" / "new.png").write_bytes(b"")
    before = run.data
    with pytest.raises(InputError, match="cannot be read"):
        run.accepted_data()
    assert run.data == before


def test_a_folder_laid_out_anew_keeps_its_split(run: RunDirectory, images: Path) -> None:
    before = Manifest.of_json((run.data or {})["data"])
    images.rename(images.parent / "train")
    images.mkdir()
    (images.parent / "train").rename(images / "train")
    run.keep_data(run.accepted_data())
    after = Manifest.of_json((run.data or {})["data"])
    assert {part: len(files) for part, files in after.parts.items()} == {
        part: len(files) for part, files in before.parts.items()
    }
    assert all(file.name.startswith("train/") for file in after.parts["test"])


def test_an_accepted_table_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a")
    recorded = one_file("table", path)
    path.write_text("b")
    after = accepted_file(recorded, "table", path)
    check_file(after, path)
    assert after.accepted[0]["changes"] == "1 changed (table.csv)"


def test_links_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    draw(tmp_path, "ab", 10)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    record = dataset("image_folder", Source(tmp_path)).record
    assert record is not None and len(record().files) == 20


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
    assert any(
        "1 images of training are left out of it, such as train/a/leak.png, since" in note for note in manifest.notes
    )


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


# Few images


@pytest.mark.parametrize(("images", "batch"), [(60_000, 64), (1_078, 64), (640, 64), (639, 32), (179, 16), (18, 8)])
def test_the_default_batch_is_smaller_for_few_images(images: int, batch: int) -> None:
    """298 pictures, of which 179 are for training, reach 66 % in 8 epochs with batches of 64, and 100 % with 16."""
    assert RecipeOptions().batch(images) == batch
    assert RecipeOptions(batch_size=64).batch(images) == 64


def test_a_smaller_batch_is_told(images: Path) -> None:
    tree_ = tree(images)
    assert isinstance(tree_["benchmark"], dict)
    tree_["benchmark"]["recipe"] = {}
    (note,) = Assembly.of(SearchConfig.read(tree_)).with_data().benchmark.data_notes()
    assert note.startswith("batches have 8 images: an epoch of 18 images has 2 steps then, and 0 with 64; --set")


# Any change, before any command


def one_of(folder: Path, rng: np.random.Generator) -> Path:
    return sorted(folder.rglob("*.png"))[int(rng.integers(len(list(folder.rglob("*.png")))))]


def add_one(folder: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
        one_of(folder, rng).parent / f"{rng.integers(10**6)}.png"
    )


def remove_one(folder: Path, rng: np.random.Generator) -> None:
    one_of(folder, rng).unlink()


def rename_one(folder: Path, rng: np.random.Generator) -> None:
    path = one_of(folder, rng)
    path.rename(path.parent / f"{rng.integers(10**6)}.png")


def retouch_one(folder: Path, rng: np.random.Generator) -> None:
    path = one_of(folder, rng)
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def encode_one_again(folder: Path, rng: np.random.Generator) -> None:
    path = one_of(folder, rng)
    Image.open(path).copy().save(path, compress_level=int(rng.integers(10)))


def write_one_again(folder: Path, rng: np.random.Generator) -> None:
    """As a copy or a backup does: the order in the folder and the times change, the content does not."""
    path = one_of(folder, rng)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def exchange_two(folder: Path, rng: np.random.Generator) -> None:
    one, other = one_of(folder, rng), one_of(folder, rng)
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])


def exchange_classes(folder: Path, rng: np.random.Generator) -> None:
    (folder / "a").rename(folder / "x")
    (folder / "b").rename(folder / "a")
    (folder / "x").rename(folder / "b")


def copy_one(folder: Path, rng: np.random.Generator) -> None:
    path = one_of(folder, rng)
    shutil.copy(path, path.parent / f"{rng.integers(10**6)}.png")


CHANGES = (
    add_one, remove_one, rename_one, retouch_one, encode_one_again, write_one_again, exchange_two, exchange_classes,
    copy_one,
)  # fmt: skip


def resumed(run: RunDirectory) -> object:
    """The first trial, measured again as a resumed search would measure its next one."""
    assembly = Assembly.of(run.config, run.data)
    first = run.history().measurements[0]
    return assembly.benchmark.measure(first.task, device="cpu", artifacts=MemoryArtifacts()).metrics


def retrained(run: RunDirectory) -> object:
    now = run.config.model_copy(update={"seed": 7})
    assembly = Assembly.of(now, kept_data(run.data, run.config, now))
    first = run.history().measurements[0]
    return assembly.benchmark.measure(first.task, device="cpu", artifacts=MemoryArtifacts()).metrics


def finally_measured(run: RunDirectory) -> object:
    first = run.history().measurements[0]
    return run.benchmark().final(first, device="cpu", artifacts=run.artifacts).metrics


def preprocessed(run: RunDirectory) -> object:
    return run.benchmark().preprocessing()


def verified_on(run: RunDirectory) -> object:
    inputs = run.benchmark().inputs(6)
    assert inputs is not None
    return inputs.tolist()


COMMANDS = (resumed, retrained, finally_measured, preprocessed, verified_on)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Callable[[RunDirectory], object], object]]:
    """A folder with images and a run, and what each command gives with them."""
    place = tmp_path_factory.mktemp("identity")
    draw(place / "images")
    searched(place / "run", config(place / "images"))
    run = RunDirectory(place / "run")
    return place, {command: command(run) for command in COMMANDS}


@pytest.mark.sweep(25)
@pytest.mark.parametrize("number", range(500))
def test_after_any_change_figures_are_as_before_or_the_change_is_named(
    number: int, trained: tuple[Path, dict[Callable[[RunDirectory], object], object]], tmp_path: Path
) -> None:
    place, before = trained
    rng = np.random.default_rng(number)
    shutil.copytree(place / "run", tmp_path / "run")
    shutil.copytree(place / "images", tmp_path / "images")
    config_ = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config_.replace(str(place / "images"), str(tmp_path / "images")))
    run = RunDirectory(tmp_path / "run")
    for _ in range(int(rng.integers(1, 4))):
        CHANGES[int(rng.integers(len(CHANGES)))](tmp_path / "images", rng)
        command = COMMANDS[int(rng.integers(len(COMMANDS)))]
        try:
            assert command(run) == before[command]
        except InputError as error:
            assert command is not preprocessed, "an export needs no data"
            said = str(error)
            assert any(word in said for word in ("added (", "removed (", "changed (", "renamed (", "the classes were"))


# Rare classes, and images for super-resolution


def test_a_rare_class_is_in_every_part_or_refused(tmp_path: Path) -> None:
    draw(tmp_path / "images", "ab", 60)
    draw(tmp_path / "rare", "c", 5, seed=2)
    (tmp_path / "rare" / "c").rename(tmp_path / "images" / "c")
    found = dataset("image_folder", Source(tmp_path / "images"))
    found.check()
    assert found.record is not None
    for part, files in found.record().parts.items():
        assert any(file.label == 2 for file in files), part
    for row in range(4):
        (tmp_path / "images" / "c" / f"{row}.png").unlink()
    with pytest.raises(InputError, match="cannot be drawn with every class in it"):
        dataset("image_folder", Source(tmp_path / "images")).check()


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    draw(tmp_path / "scenes", "a", 10)
    return tmp_path / "scenes" / "a"


def test_a_set_of_images_keeps_its_split_and_names_changes(scenes: Path) -> None:
    recorded = Manifest.of_json(json.loads(json.dumps(picture_set("picture_folder", scenes).manifest().to_json())))
    before = {part: {file.name for file in files} for part, files in recorded.parts.items()}
    assert [len(names) for names in before.values()] == [6, 2, 2]
    assert picture_set("picture_folder", scenes, recorded=recorded).files == picture_set("picture_folder", scenes).files
    (scenes / "00.png").write_bytes((scenes / "0.png").read_bytes()[:-1] + b"\0")
    (scenes / "3.png").rename(scenes / "z.png")
    with pytest.raises(DataChanged, match=r"1 removed \(3\.png\)"):
        picture_set("picture_folder", scenes, recorded=recorded)
    with pytest.raises(DataChanged, match=r"1 added \(00\.png\), 1 renamed \(3\.png to z\.png\)"):
        check_recorded("picture_folder", scenes, recorded=recorded)
    after = accepted("picture_folder", scenes, recorded=recorded)
    now = {part: {file.name for file in files} for part, files in after.parts.items()}
    assert now["training"] == before["training"] | {"00.png"}
    assert now["validation"] == before["validation"] - {"3.png"} | {"z.png"} and now["test"] == before["test"]
    assert len(picture_set("picture_folder", scenes, recorded=after).training) == 7


def test_images_of_one_content_are_in_one_part_of_a_set(scenes: Path) -> None:
    for row in range(10):
        shutil.copy(scenes / f"{row}.png", scenes / f"{row}b.png")
    manifest = picture_set("picture_folder", scenes).manifest()
    part_of = {file.name: part for part, files in manifest.parts.items() for file in files}
    assert all(part_of[f"{row}.png"] == part_of[f"{row}b.png"] for row in range(10))
    assert manifest.notes == (
        "10 images have the content of another one, such as 0.png and 0b.png; each group is in one part",
    )


@pytest.mark.parametrize("name", ["Training", "TRAIN", "train"])
def test_usual_names_are_parts_of_a_set_too(name: str, tmp_path: Path) -> None:
    draw(tmp_path, "a", 10)
    (tmp_path / "a").rename(tmp_path / name)
    assert len(picture_set("picture_folder", tmp_path).training) == 6


def test_a_table_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n")
    recorded = one_file("table", path)
    check_file(recorded, path)
    path.write_text("a,c\n")
    with pytest.raises(InputError, match=r"not what the run recorded for table: 1 changed \(table\.csv\)"):
        check_file(recorded, path)
    path.unlink()
    with pytest.raises(InputError, match=r"1 removed \(table\.csv\)"):
        check_file(recorded, path)


def test_too_much_data_is_sampled_at_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasplat.data.digests.WHOLE_BYTES", 100)
    monkeypatch.setattr("nasplat.data.digests.SAMPLE_BYTES", 10)
    path = tmp_path / "large"
    path.write_bytes(bytes(range(200)))
    recorded = one_file("large", path)
    assert recorded.files["large"].digest.startswith("sample:")
    for place, noticed in ((5, True), (195, True)):
        changed = bytearray(range(200))
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        assert bool(recorded.differences(tmp_path)) is noticed


@pytest.mark.parametrize("document", [{}, {"format": "other"}, [], {"format": "nasplat data 1", "parts": 3}])
def test_a_damaged_record_is_refused(document: object) -> None:
    with pytest.raises(RunError, match=r"the run's record of its data, data\.json, is damaged"):
        Manifest.of_json(document)
