"""`nasplat distill`: images picked from a pool by a teacher and few labelled ones, and a student of both."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load, save_file
from sklearn.datasets import load_digits
from torch import nn

import nasplat
from nasplat.cli.recovering import _lines
from nasplat.data import pool_pass
from nasplat.data.contact_sheet import ACROSS, DOWN, bands_of
from nasplat.data.dataset import Source
from nasplat.data.datasets import dataset
from nasplat.data.picked import Layout, beside, place_of
from nasplat.data.pool import Pool
from nasplat.errors import DamageError, InputError, RunError, StorageError
from nasplat.interface import distilling
from nasplat.interface.configuring import parsed
from nasplat.interface.teaching import restored
from nasplat.nn.program import check_sizes
from nasplat.picking import pool_features
from nasplat.picking.feature_maps import FeatureMaps
from nasplat.picking.job import Choice, pick
from nasplat.picking.positives import Labelled, Positives, _parted, positives
from nasplat.run.recovery import salvage
from nasplat.training.distillation import Distillation
from nasplat.training.fit import ClassifierTraining
from nasplat.training.options import RecipeOptions
from nasplat.training.seeding import seeded

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
CLASSES = ("five", "four", "one", "three", "two", "zero")[1:]
"""The classes of the task in the order of their names, which is not that of the digits."""
DIGIT = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4}
SPACE = {"name": "nasbench201", "channels": 4, "cells": 1}
CODE = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
STUDENT = f"nasbench201:{CODE}"
SMALL = {"space.channels": 4, "space.cells": 1, "benchmark.recipe.batch_size": 32}
FLAGS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
PATIENCE = 300.0


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All digits as images of 8 bits, `[1797, 8, 8]`, and what they show."""
    found = load_digits()
    return (found.images * 255 / 16).astype(np.uint8), found.target.astype(np.int64)


def write(images: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04}.png")


class Teacher(nn.Sequential):
    """A small network for digits."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(32, 5),
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled images and a pool: the rest of the task, other digits, and noise; one of the labelled ones again."""
    folder = tmp_path_factory.mktemp("picking")
    images, shown = digits()
    rng = np.random.default_rng(0)
    for name, digit in DIGIT.items():
        rows = np.flatnonzero(shown == digit)
        write(images[rows[:8]], folder / "labelled" / "train" / name)
        write(images[rows[8:28]], folder / "labelled" / "val" / name)
        write(images[rows[28:48]], folder / "labelled" / "test" / name)
        write(images[rows[48:]], folder / "pool" / "task" / name)
    write(images[shown > 4][:300], folder / "pool" / "other")
    write(rng.integers(0, 256, (900, 8, 8)).astype(np.uint8), folder / "pool" / "noise" / "deep" / "er")
    shutil.copy(folder / "labelled" / "train" / "one" / "0000.png", folder / "pool" / "again.png")
    shutil.copy(folder / "labelled" / "test" / "one" / "0000.png", folder / "pool" / "tested.png")
    (folder / "pool" / "broken.png").write_bytes(b"\x89PNG no picture")
    (folder / "pool" / "readme.txt").write_text("of no use")
    return folder


@pytest.fixture(scope="module")
def preprocessing() -> nasplat.Preprocessing:
    return nasplat.Preprocessing(channels=1, height=8, width=8, mean=(78.0,), std=(96.0,), classes=CLASSES)


@pytest.fixture(scope="module")
def teacher(place: Path, preprocessing: nasplat.Preprocessing) -> nn.Module:
    from nasplat.data.examples import Examples

    images, shown = digits()
    labels = np.array([CLASSES.index(name) for digit in shown[shown < 5] for name in DIGIT if DIGIT[name] == digit])
    layout = Layout(CLASSES, 1, 8, preprocessing.mean, preprocessing.std)
    examples = Examples(torch.from_numpy(images[shown < 5])[:, None], torch.from_numpy(labels), layout.scaling)
    with seeded(0):
        recipe = RecipeOptions(batch_size=32).recipe(len(examples), "cpu")
        training = ClassifierTraining(Teacher(), examples, recipe, epochs=6, seed=0)
        training.until(6)
    return training.network.eval()


def distilled(place: Path, teacher: nn.Module, preprocessing: Any, out: Path | None, **given: Any) -> nasplat.Run:
    options: dict[str, Any] = {
        "positives": place / "labelled", "pool": place / "pool", "preprocessing": preprocessing, "epochs": 2,
        "checkpoints": 2, "prior": 0.35, "options": SMALL, "out": out, "progress": False,
    }  # fmt: skip
    return nasplat.distill(teacher, STUDENT, **(options | given))


@pytest.fixture(scope="module")
def run(place: Path, teacher: nn.Module, preprocessing: nasplat.Preprocessing) -> nasplat.Run:
    return distilled(place, teacher, preprocessing, place / "run")


def weights(run: nasplat.Run) -> dict[str, torch.Tensor]:
    return load(run.directory.artifacts.get(run.best.artifacts["weights"]))


def names(run: nasplat.Run) -> list[str]:
    lines = (run.folder / "picking" / "picked.csv").read_text().splitlines()[1:]
    return [line.split(",")[0] for line in lines]


def found_in(run: nasplat.Run) -> dict[str, Any]:
    assert run.picking is not None
    return dict(run.picking.found)


# From the pool to the student -------------------------------------------------------------------------------------


def test_most_of_what_is_picked_belongs_and_is_counted_named_and_labelled(run: nasplat.Run, place: Path) -> None:
    found, picked = found_in(run), names(run)
    right = sum("/pool/task/" in name for name in picked)
    there = len(list((place / "pool" / "task").rglob("*.png")))
    assert right / len(picked) > there / found["pool"]["images"] + 0.25
    assert right / there > 0.7
    assert found["picked"] == len(picked) == sum(found["picked by class"].values())
    assert found["pool"]["unreadable"] == 1 and found["pool"]["labelled again"] == 2
    assert found["pool"]["left out"] == {".txt": 1}
    assert any("broken.png" in note for note in found["notes"])
    assert found["teacher"]["validation"] > 0.9
    assert found["prior"]["low"] <= found["prior"]["value"] <= found["prior"]["high"]
    assert found["precision"]["low"] <= right / len(picked) <= found["precision"]["high"]
    labels, parts = (np.load(run.folder / "picking" / f"{name}.npy") for name in ("labels", "parts"))
    assert [int((parts == part).sum()) for part in range(4)] == [len(picked), 40, 100, 100]
    given = [name for name in CLASSES for _ in range(8)]
    assert [CLASSES[label] for label in labels[parts == 1]] == given
    with Image.open(run.folder / "picking" / "sheet.png") as sheet:
        assert sheet.size[0] > 1000 and len(sheet.convert("L").getcolors() or []) > 20


def test_a_student_learns_of_it_and_is_shown_reported_tested_and_exported(
    run: nasplat.Run, command: CommandLine, tmp_path: Path
) -> None:
    assert run.best.metrics["accuracy"] > 0.4  # two epochs; drawn weights give .2
    assert (run.kind, run.status) == ("retraining", "finished")
    shown = command("show", str(run.folder))
    assert shown.returncode == 0 and "belong" in shown.stdout and "broken.png" in shown.stdout
    document = json.loads(command("show", str(run.folder), "--json").stdout)
    assert document["picking"]["picked"] == len(names(run))
    page = run.report(tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page and "held-out positives" in page
    (tested,) = run.test()
    assert tested.split == "test"
    folder = run.export(out=tmp_path / "exported", latency=False)
    said = json.loads((folder / "architecture.json").read_text())["preprocessing"]
    assert said["classes"] == list(CLASSES) and said["mean"] == pytest.approx([78.0])
    assert nasplat.load(folder)(torch.zeros(1, 1, 8, 8)).shape == (1, 5)
    assert not beside(run.folder).exists()


def test_the_same_call_gives_the_same_picking_and_weights(
    run: nasplat.Run, place: Path, teacher: nn.Module, preprocessing: Any, tmp_path: Path
) -> None:
    teacher.train().get_submodule("4").eval()
    modes, drawn = [each.training for each in teacher.modules()], torch.get_rng_state()
    again = distilled(
        place, teacher, preprocessing, tmp_path / "again", pool=[place / "pool", place / "pool" / "other"]
    )
    assert [each.training for each in teacher.modules()] == modes and torch.equal(torch.get_rng_state(), drawn)
    teacher.eval()
    assert sorted(names(again)) == sorted(names(run))  # a folder inside of another is listed once
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, weights(run)[name])


def test_robust_and_plain_distillation_differ_and_the_options_arrive(
    run: nasplat.Run, place: Path, teacher: nn.Module, preprocessing: Any, tmp_path: Path
) -> None:
    recipe = run.config.benchmark.options["recipe"]
    assert (recipe["distillation"], recipe["class_weights"], recipe["perturbations"]) == (1.0, True, 1)
    plain = distilled(
        place, teacher, preprocessing, tmp_path / "plain", robust=False, temperature=2.0, hard_labels=0.25
    )
    recipe = plain.config.benchmark.options["recipe"]
    assert (recipe["distillation"], recipe["class_weights"], recipe["temperature"]) == (0.75, False, 2.0)
    assert any(not torch.equal(tensor, weights(run)[name]) for name, tensor in weights(plain).items())


def test_what_was_picked_is_a_data_set_for_searches_and_retrainings(run: nasplat.Run, tmp_path: Path) -> None:
    searched = nasplat.search(
        space=SPACE, strategy="random_search", objectives="accuracy:max", evaluations=1, progress=False,
        benchmark={"name": "classification", "dataset": f"picked:{run.folder}", "epochs": 1},
        out=tmp_path / "search",
    )  # fmt: skip
    assert searched.best.metrics["accuracy"] >= 0
    assert nasplat.open_run(searched.folder).config.benchmark.options["dataset"] == f"picked:{run.folder}"
    data = dataset(f"picked:{run.folder}").load()
    assert len(data.training) == len(names(run)) + 40 and len(data.validation) == 100 and len(data.test) == 100
    assert data.training.given is not None and int(data.training.given.sum()) == 40
    taught = searched.retrain(
        epochs=1, checkpoints=1, out=tmp_path / "taught", progress=False,
        options={"benchmark.recipe.distillation": 1.0, "benchmark.recipe.class_weights": True},
    )  # fmt: skip
    assert taught.status == "finished"
    with pytest.raises(InputError, match="subset is no option"):
        dataset(f"picked:{run.folder}", Source(subset=10))
    with pytest.raises(InputError, match="has no images that were picked"):
        dataset(f"picked:{tmp_path}").check()


def test_a_changed_picking_is_refused(run: nasplat.Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    labels = np.load(copy / "picking" / "labels.npy")
    np.save(copy / "picking" / "labels.npy", labels[::-1])
    with pytest.raises(InputError, match=r"labels\.npy"):
        dataset(f"picked:{copy}", Source(recorded=None if run.directory.data is None else _manifest(run))).check()
    (copy / "picking" / "picking.json").write_text("{}")
    with pytest.raises(DamageError, match="damaged"):
        dataset(f"picked:{copy}")


def _manifest(run: nasplat.Run) -> Any:
    from nasplat.data.manifest import DATA, manifest_of

    return manifest_of(run.directory.data, DATA)


def moved(run: nasplat.Run, folder: Path) -> nasplat.Run:
    """A copy of a run whose former place is gone."""
    shutil.copytree(run.folder, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(run.folder), str(folder.parent / "gone")))
    return nasplat.open_run(folder)


def test_a_run_that_was_moved_or_recovered_has_its_own_picking(
    run: nasplat.Run, command: CommandLine, tmp_path: Path
) -> None:
    away = moved(run, tmp_path / "away")
    assert "gone" in (away.folder / "config.yaml").read_text()
    assert away.resume(progress=False).status == "finished"
    assert command("show", str(away.folder)).returncode == 0
    assert away.export(out=tmp_path / "exported", latency=False).is_dir()
    with (away.folder / "environment.json").open("a") as file:
        file.write("no JSON")
    saved = nasplat.recover(away.folder, tmp_path / "saved")
    assert not json.loads((saved.folder / "recovered.json").read_text())["not_replayed"]
    shutil.rmtree(away.folder)
    (tested,) = saved.resume(progress=False).test()
    assert tested.metrics == run.test()[0].metrics


def test_a_recovery_copies_the_results_of_a_picking_and_tells_what_is_none(run: nasplat.Run, tmp_path: Path) -> None:
    picking = moved(run, tmp_path / "away").folder / "picking"
    (tmp_path / "secret").write_text("of somebody else")
    (picking / "sheet.png").unlink()
    (picking / "sheet.png").symlink_to(tmp_path / "secret")
    (picking / "picked.csv").unlink()
    os.mkfifo(picking / "picked.csv")
    (picking / "extra.bin").write_bytes(b"much")
    os.mkfifo(picking / "pipe")
    saved = nasplat.recover(picking.parent, tmp_path / "saved")
    there = {path.name for path in (saved.folder / "picking").iterdir()}
    assert there == {"picking.json", "images.npy", "labels.npy", "parts.npy", "teacher.pt2"}
    found = salvage(picking.parent)
    lost = {"picking/sheet.png": "it is a link", "picking/picked.csv": "it is not a regular file"}
    assert found.picking_lost == lost and not found.healthy
    assert json.loads((saved.folder / "recovered.json").read_text())["picking_lost"] == lost
    assert any(
        "not copied     picking/sheet.png (it is a link), picking/" in line for line in _lines(found.summary(), "")
    )


def test_a_picking_of_somebody_else_is_checked_before_it_is_shown(run: nasplat.Run, tmp_path: Path) -> None:
    folder = moved(run, tmp_path / "away").folder
    about, sheet = folder / "picking" / "picking.json", folder / "picking" / "sheet.png"
    whole = json.loads(about.read_text())
    rows = nasplat.open_run(folder).picking
    assert rows is not None and [name for name, _ in rows.rows()][-1] == "sheet"
    for name, value in (
        ("teacher", {"validation": 0.9}), ("notes", None), ("separation", 1e300), ("prior", 0.3),
        ("pool", whole["pool"] | {"images": -1}), ("picked by class", {"\x1b[2J": "many"}),
    ):  # fmt: skip
        about.write_text(json.dumps(whole | {name: value}))
        with pytest.raises(DamageError, match=rf"picking\.json is damaged: {name}.*; pick the images again") as error:
            nasplat.open_run(folder).report(tmp_path / "report.html")
        assert str(error.value).isprintable()
    about.write_text(json.dumps(whole | {"notes": ["\x1b[2Jred\u202e"], "pool": whole["pool"] | {"sources": ["a\nb"]}}))
    picked = nasplat.open_run(folder).picking
    assert picked is not None and all(line.isprintable() for line in picked.lines())
    for content in (b"no PNG", sheet.read_bytes()[:8] + bytes(1 << 23)):
        sheet.write_bytes(content)
        assert "data:image/png" not in nasplat.open_run(folder).report(tmp_path / "report.html").read_text()
    sheet.unlink()
    sheet.symlink_to(run.folder / "picking" / "sheet.png")
    assert picked.sheet is None
    about.write_text("[" * 100_000)
    with pytest.raises(DamageError, match="RecursionError"):
        _ = nasplat.open_run(folder).picking


# Interruptions ----------------------------------------------------------------------------------------------------


def test_an_interrupted_picking_goes_on_where_it_was(
    run: nasplat.Run, place: Path, teacher: nn.Module, preprocessing: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    read, seen = Pool.read, list[int]()

    def counted(self: Pool, rows: Sequence[int]) -> Any:
        seen.extend(rows)
        if stops and len(seen) > 700:
            raise KeyboardInterrupt
        return read(self, rows)

    monkeypatch.setattr(Pool, "read", counted)
    stops, out = True, tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        distilled(place, teacher, preprocessing, out)
    assert not out.exists() and beside(out).exists()
    kept = min(seen[-1], (beside(out) / pool_pass.MARKS).stat().st_size)
    stops = False
    seen.clear()
    again = distilled(place, teacher, preprocessing, out)
    assert kept >= 512 and seen[0] == kept, "what was read before must not be read again"
    assert names(again) == names(run)
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, weights(run)[name])


@pytest.mark.parametrize("stays", [False, True])
def test_a_pool_that_is_taken_away_stops_the_picking_which_goes_on_once_it_is_back(
    run: nasplat.Run, place: Path, teacher: nn.Module, preprocessing: Any, tmp_path: Path, stays: bool
) -> None:
    shutil.copytree(place / "pool", tmp_path / "pool")
    layout = Layout(CLASSES, 1, 8, preprocessing.mean, preprocessing.std)
    labelled = positives(str(place / "labelled"), layout, per_class=None, most=10**6)

    def job() -> dict[str, Any]:
        maps = FeatureMaps(teacher, None, (1, 8, 8))
        told = [str(tmp_path / "pool")]
        return pick(tmp_path / "work", maps, layout, told, labelled, Choice(0.35), most=10**6, told=tell)

    def tell(what: str, done: int, whole: int) -> None:
        if what == "reading the pool" and done == 512 and not (tmp_path / "away").exists():
            (tmp_path / "pool").rename(tmp_path / "away")
            if stays:  # as the folder that a disk is mounted on
                (tmp_path / "pool").mkdir()

    with pytest.raises(InputError, match="is gone; restore it"):
        job()
    with pytest.raises(InputError, match="is gone; restore it"):
        job()
    if stays:
        (tmp_path / "pool").rmdir()
    (tmp_path / "away").rename(tmp_path / "pool")
    (tmp_path / "away").mkdir()
    assert job()["picked"] == found_in(run)["picked"]


@pytest.fixture(scope="module")
def picked_once(place: Path, teacher: nn.Module, preprocessing: Any) -> Path:
    """The folder of a picking with an estimated prior."""
    _job(place, teacher, preprocessing, place / "once")[0]()
    return place / "once"


@pytest.fixture
def work(picked_once: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(picked_once, tmp_path / "work")
    return tmp_path / "work"


def test_a_half_written_chunk_is_cut_off(
    place: Path, teacher: nn.Module, preprocessing: Any, tmp_path: Path, work: Path
) -> None:
    job, labelled = _job(place, teacher, preprocessing, work)
    whole = json.loads((work / "picking.json").read_text())
    for name in (pool_features.FEATURES, pool_features.ANSWERS, pool_pass.MARKS):
        path = work / name
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size * 2 // 3 + 1)
    assert json.loads(json.dumps(job())) == whole
    with (work / pool_pass.MARKS).open("r+b") as file:  # a power cut may leave zeros
        file.seek(300)
        file.write(bytes(400))
    assert json.loads(json.dumps(job())) == whole
    assert len(labelled.training) == 40
    unreadable = (work / pool_pass.UNREADABLE).read_text()
    assert unreadable.count("broken.png") == 1


def _job(
    place: Path, teacher: nn.Module, preprocessing: Any, work: Path, choice: Choice | None = None
) -> tuple[Callable[[], dict[str, Any]], Positives]:
    layout = Layout(CLASSES, 1, 8, preprocessing.mean, preprocessing.std)
    labelled = positives(str(place / "labelled"), layout, per_class=None, most=10**6)
    maps = FeatureMaps(teacher, None, (1, 8, 8))
    pool = [str(place / "pool")]
    return lambda: pick(
        work, maps, layout, pool, labelled, choice or Choice(), most=10**6, told=lambda *_: None
    ), labelled


def test_a_damaged_list_is_told(place: Path, teacher: nn.Module, preprocessing: Any, work: Path) -> None:
    job, _ = _job(place, teacher, preprocessing, work)
    (work / "pool.sqlite").write_bytes(b"no list of pictures" * 100)
    with pytest.raises(StorageError, match=r"pool\.sqlite is damaged: .*; delete"):
        job()


def test_picked_images_that_are_gone_when_they_are_copied_are_told(
    place: Path, teacher: nn.Module, preprocessing: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = _job(place, teacher, preprocessing, work)
    before, read = json.loads((work / "picking.json").read_text()), Pool.read

    def fails(self: Pool, rows: Sequence[int]) -> Any:
        images, failures = read(self, rows)
        if isinstance(rows, list) and not done:  # the pass reads ranges
            done.append(True)
            return images[2:], [*failures, *((row, "gone") for row in rows[:2])]
        return images, failures

    done = list[bool]()
    monkeypatch.setattr(Pool, "read", fails)
    found = job()
    assert found["picked"] == before["picked"] - 2
    assert any(note.startswith("2 images of the picked left out") for note in found["notes"])


def test_a_full_disk_is_no_fault_of_the_teacher(
    place: Path, teacher: nn.Module, preprocessing: Any, tmp_path: Path
) -> None:
    job, _ = _job(place, teacher, preprocessing, tmp_path / "full")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(StorageError, match="free disk space"):
            job()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in (tmp_path / "full").iterdir()} <= {"job.json", "picking.lock"}


def test_a_picking_of_something_else_is_not_continued(
    place: Path, teacher: nn.Module, preprocessing: Any, work: Path
) -> None:
    with seeded(1):
        other = Teacher().eval()
    with pytest.raises(InputError, match="begun with other teacher"):
        _job(place, other, preprocessing, work)[0]()
    moved = replace(preprocessing, mean=(70.0,))
    with pytest.raises(InputError, match="image sizes or classes"):
        _job(place, teacher, moved, work)[0]()


def test_another_prior_needs_no_second_pass(
    place: Path, teacher: nn.Module, preprocessing: Any, work: Path, monkeypatch: Any
) -> None:
    few = _job(place, teacher, preprocessing, work, Choice(prior=0.1, count=50))[0]()
    assert few["picked"] == 50
    read, seen = Pool.read, list[int]()

    def counted(self: Pool, rows: Sequence[int]) -> Any:
        seen.extend(rows)
        return read(self, rows)

    monkeypatch.setattr(Pool, "read", counted)
    more = _job(place, teacher, preprocessing, work, Choice(prior=0.5))[0]()
    assert more["picked"] >= 0.5 * (more["pool"]["images"] - 3)
    assert len(seen) < more["picked"] + 3 * ACROSS * DOWN + 256


@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_killed_while_the_student_is_trained_it_ends_with_the_same_weights(
    run: nasplat.Run, place: Path, teacher: nn.Module, preprocessing: Any, tmp_path: Path, executor: str
) -> None:
    out = tmp_path / "killed"
    program = tmp_path / "program.py"
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    program.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch, nasplat\nfrom test_picking import *\n"
        "from safetensors.torch import load_file\n"
        f"teacher = Teacher(); teacher.load_state_dict(load_file({str(tmp_path / 'teacher.safetensors')!r}))\n"
        "p = nasplat.Preprocessing(channels=1, height=8, width=8, mean=(78.0,), std=(96.0,), classes=CLASSES)\n"
        "if __name__ == '__main__':\n"
        f"    distilled(Path({str(place)!r}), teacher.eval(), p, Path({str(out)!r}), executor={executor!r})\n"
    )
    child = subprocess.Popen([sys.executable, str(program)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE
    while child.poll() is None and not (out.exists() and len(nasplat.open_run(out).trials()) > 0):
        assert time.monotonic() < until, "nothing was measured"
        time.sleep(0.05)
    child.kill()
    child.wait()
    ended = nasplat.open_run(out).resume(progress=False)
    assert ended.status == "finished"
    for name, tensor in weights(ended).items():
        assert torch.equal(tensor, weights(run)[name])


def test_what_a_killed_process_left_beside_its_run_is_deleted_once_it_is_resumed(
    run: nasplat.Run, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = moved(run, tmp_path / "away")
    left = beside(away.folder)
    shutil.copytree(work, left)
    away.resume(progress=False)
    assert left.exists(), "it is the folder of another picking"
    shutil.copy(away.folder / "picking" / "picking.json", left)
    (left / "job.json").rename(left / "other.json")
    away.resume(progress=False)
    assert left.exists(), "it is no folder of a picking"
    (left / "other.json").rename(left / "job.json")
    monkeypatch.chdir(away.folder)
    nasplat.open_run(".").resume(progress=False)
    assert not left.exists() and work.exists()


def test_without_a_name_a_run_goes_on_with_its_own_picking_alone(
    place: Path, teacher: nn.Module, preprocessing: Any, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = list[Path]()

    def stop(folder: Path, *_: Any, **__: Any) -> None:
        begun.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr("nasplat.picking.job.pick", stop)

    def folder(**given: Any) -> str:
        with pytest.raises(KeyboardInterrupt):
            distilled(place, teacher, preprocessing, None, **given)
        return str(begun[-1])

    shutil.copytree(work, tmp_path / "runs" / "distilled-1.picking")
    assert folder() == "runs/distilled-1.picking"
    assert folder(pool=place / "pool" / "other") == "runs/distilled-2.picking"
    (tmp_path / "runs" / "distilled-1").mkdir()
    assert folder() == "runs/distilled-2.picking"


# Refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def copies(place: Path, tmp_path: Path) -> Path:
    """The labelled images and a small pool, to be changed."""
    shutil.copytree(place / "labelled", tmp_path / "labelled")
    shutil.copytree(place / "pool" / "other", tmp_path / "pool")
    return tmp_path


def refused(copies: Path, teacher: Any, preprocessing: Any, **given: Any) -> str:
    """Why a distillation is refused, and that there is no run."""
    options = {"positives": copies / "labelled", "pool": copies / "pool"} | given
    with pytest.raises(InputError) as error:
        distilled(copies, teacher, preprocessing, copies / "run", **options)
    assert not (copies / "run").exists()
    return str(error.value)


def test_pools_without_pictures_are_refused(copies: Path, teacher: nn.Module, preprocessing: Any) -> None:
    empty = copies / "empty"
    empty.mkdir()
    assert "has no images" in refused(copies, teacher, preprocessing, pool=empty)
    (empty / "notes.txt").write_text("")
    assert "1 .txt" in refused(copies, teacher, preprocessing, pool=empty)
    assert "is neither" in refused(copies, teacher, preprocessing, pool=copies / "nowhere")
    assert "none is given" in refused(copies, teacher, preprocessing, pool=[])


def test_a_pool_of_labelled_or_broken_pictures_alone_picks_none(
    copies: Path, teacher: nn.Module, preprocessing: Any
) -> None:
    shutil.copytree(copies / "labelled" / "val", copies / "known")
    (copies / "known" / "broken.png").write_bytes(b"no picture")
    said = refused(copies, teacher, preprocessing, pool=copies / "known")
    assert "no image was picked" in said and "100 are labelled images again" in said and "broken.png" in said


def test_unsuitable_positives_are_refused(copies: Path, teacher: nn.Module, preprocessing: Any) -> None:
    labelled = copies / "labelled"
    (labelled / "train" / "one").rename(labelled / "train" / "eleven")
    assert "eleven, which is no class of the teacher" in refused(copies, teacher, preprocessing)
    for name in ("eleven", "two", "three", "four"):
        shutil.rmtree(labelled / "train" / name)
    assert "at least two classes" in refused(copies, teacher, preprocessing)
    shutil.copytree(labelled / "train" / "zero", labelled / "train" / "two")
    (labelled / "train" / "two" / "0000.png").write_bytes(b"no picture")
    assert "0000.png cannot be read" in refused(copies, teacher, preprocessing)
    assert "is neither" in refused(copies, teacher, preprocessing, positives="nowhere")
    assert "--per-class" in refused(copies, teacher, preprocessing, positives="fashion_mnist")


def test_a_folder_of_that_name_and_a_tiny_pool_are_refused_and_nothing_is_lost(
    copies: Path, teacher: nn.Module, preprocessing: Any
) -> None:
    beside(copies / "run").mkdir()
    (beside(copies / "run") / "mine.txt").write_text("kept")
    assert "is not the folder of a picking" in refused(copies, teacher, preprocessing)
    assert (beside(copies / "run") / "mine.txt").read_text() == "kept"
    shutil.rmtree(beside(copies / "run"))
    for number, path in enumerate(sorted((copies / "pool").iterdir())):
        if number >= 3:
            path.unlink()
    assert "a pool needs at least 10 images" in refused(copies, teacher, preprocessing)
    assert "at least one image of each class" in refused(copies, teacher, preprocessing, per_class=0)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_prior_is_a_share(copies: Path, teacher: nn.Module, preprocessing: Any, prior: float) -> None:
    assert "above 0 and below 1" in refused(copies, teacher, preprocessing, prior=prior)


def test_teachers_that_cannot_teach_are_refused(copies: Path, teacher: nn.Module, preprocessing: Any) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    assert "has no feature maps" in refused(copies, flat, preprocessing)
    assert "no module of the teacher is named 'layer1'" in refused(copies, teacher, preprocessing, features=["layer1"])
    assert "gives none" in refused(copies, teacher, preprocessing, features=["10"])
    assert "for 3 classes" in refused(copies, teacher, replace(preprocessing, classes=("one", "two", "three")))
    assert "square images" in refused(copies, teacher, replace(preprocessing, width=9))
    assert "a std above 0 for each channel" in refused(copies, teacher, replace(preprocessing, std=(0.0,)))
    assert "a std above 0 for each channel" in refused(copies, teacher, replace(preprocessing, mean=(1.0,) * 3))

    class Named(Teacher):
        def forward(self, images: torch.Tensor) -> Any:
            return {"logits": nn.Sequential(*self)(images)}

    assert "but gives dict" in refused(copies, Named().eval(), preprocessing)
    assert "does not take images" in refused(
        copies, teacher, replace(preprocessing, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    )

    class Choosing(Teacher):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            for stage in self:
                images = stage(images if images.sum() > 0 else -images)
            return images

    assert "cannot be written as a torch.export program" in refused(copies, Choosing().eval(), preprocessing)
    assert not beside(copies / "run").exists()
    with pytest.raises(InputError, match="is neither"):
        nasplat.distill(copies / "pool", STUDENT, copies / "labelled", copies / "pool")
    with pytest.raises(InputError, match=r"nasplat\.Preprocessing"):
        nasplat.distill(teacher, STUDENT, copies / "labelled", copies / "pool")


def test_a_teacher_must_give_numbers_that_are_finite(copies: Path, teacher: nn.Module, preprocessing: Any) -> None:
    infinite = Teacher().eval()
    infinite.get_parameter("0.bias").data.fill_(torch.inf)
    said = refused(copies, infinite, preprocessing, features=["1"])
    assert "the feature map '1' of an image are not" in said and "--feature (features=[…])" in said
    assert not beside(copies / "run").exists()


def test_unknown_students_and_options_that_do_not_fit_are_refused(
    copies: Path, teacher: nn.Module, preprocessing: Any
) -> None:
    def why(student: str) -> str:
        with pytest.raises(InputError) as error:
            nasplat.distill(
                teacher, student, copies / "labelled", copies / "pool", preprocessing=preprocessing, progress=False,
                out=copies / "run",
            )  # fmt: skip
        return str(error.value)

    assert "SPACE:CODE" in why("nothing")
    assert "SPACE:CODE" in why("nospace:1")
    assert why("nasbench201:wrong")
    assert len(why("x" * 5000)) < 500 and "|op~0|" in why("nasbench201:" + "|nor_conv_3x3~0|" * 500)
    assert len(refused(copies, teacher, preprocessing, positives="x" * 5000)) < 500
    assert len(refused(copies, teacher, preprocessing, pool="x" * 5000)) < 500
    with pytest.raises(InputError, match="is neither"):
        nasplat.distill("x" * 5000, STUDENT, copies / "labelled", copies / "pool")
    assert "which is turned off" in refused(copies, teacher, preprocessing, robust=False, perturbations=2)
    assert "from 0 to below 1" in refused(copies, teacher, preprocessing, hard_labels=1.0)
    (copies / "taken").mkdir()
    with pytest.raises(InputError, match="exists"):
        distilled(copies, teacher, preprocessing, copies / "taken")


def test_options_are_checked_before_the_pool_is_read(
    copies: Path, teacher: nn.Module, preprocessing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(*_: Any, **__: Any) -> None:
        raise AssertionError("the pool was read")

    monkeypatch.setattr(Pool, "listed", listed)

    def why(**options: Any) -> str:
        return refused(copies, teacher, preprocessing, options=SMALL | options)

    assert "no option of benchmark.recipe is named 'ema_decay'" in why(**{"benchmark.recipe.ema_decay": 0.9})
    assert "batch_size" in why(**{"benchmark.recipe.batch_size": 0})
    assert "no option of space is named 'chanels'" in why(**{"space.chanels": 4})
    assert "no option of strategy is named 'checkpoint'" in why(**{"strategy.checkpoint": 4})
    assert "--seed (seed=…)" in why(seed=3)
    assert "--pool (pool=…)" in why(**{"benchmark.dataset": "digits"})
    assert "data.subset" in why(**{"benchmark.data.subset": 10})
    assert "latency.engine" in why(**{"benchmark.latency.engine": "onnxruntime"})
    assert "tensorboard:DIR" in refused(copies, teacher, preprocessing, log_to="logs")
    assert "no option of benchmark.recipe is named 'wings'" in refused(
        copies, teacher, preprocessing, recipe={"recipe": {"wings": 2}}
    )
    assert "--pool (pool=…)" in refused(copies, teacher, preprocessing, recipe={"dataset": "digits"})
    with pytest.raises(InputError, match=r"give --seed"):
        parsed("seed=3")
    assert not beside(copies / "run").exists()


def test_without_validation_images_some_labelled_ones_are_held_out_and_said(copies: Path, preprocessing: Any) -> None:
    layout = Layout(CLASSES, 1, 8, preprocessing.mean, preprocessing.std)
    for part in ("val", "test"):
        shutil.rmtree(copies / "labelled" / part)
    found = positives(str(copies / "labelled" / "train"), layout, per_class=None, most=10**6)
    assert (len(found.training), len(found.validation), len(found.test)) == (35, 5, 0)
    assert "accuracy is measured on 5" in found.notes[0]
    assert found.training.images.tobytes() not in found.validation.images.tobytes()
    few = positives(str(copies / "labelled"), layout, per_class=2, most=10**6)
    assert np.bincount(few.training.labels).tolist() == [2] * 5


def test_no_labelled_image_is_in_two_parts_or_two_classes(copies: Path, preprocessing: Any) -> None:
    layout = Layout(CLASSES, 1, 8, preprocessing.mean, preprocessing.std)
    labelled = copies / "labelled"

    def found() -> Positives:
        return positives(str(labelled), layout, per_class=None, most=10**6)

    whole = found()
    assert not whole.notes
    for number in range(3):  # twice in training, whose folds would share it
        shutil.copy(labelled / "train" / "one" / f"000{number}.png", labelled / "train" / "one" / f"again{number}.png")
    shutil.copy(labelled / "val" / "two" / "0000.png", labelled / "train" / "two" / "val.png")
    for part in ("train", "val"):
        shutil.copy(labelled / "test" / "two" / "0000.png", labelled / part / "two" / "test.png")
    again = found()
    for part in ("training", "validation", "test"):
        assert sorted(map(bytes, getattr(again, part).images)) == sorted(map(bytes, getattr(whole, part).images))
    assert [note.split(",")[0] for note in again.notes] == [
        "1 labelled images are also for test",
        "2 labelled images are also for validation or test",
        "3 labelled images are copies of others",
    ]
    shutil.rmtree(labelled / "val")
    shutil.copytree(labelled / "test", labelled / "val")
    with pytest.raises(InputError, match="each validation image is a test image too"):
        found()
    shutil.copy(labelled / "val" / "two" / "0001.png", labelled / "train" / "one" / "two.png")
    with pytest.raises(InputError, match=r"/two\.png is the same image as .*/val/two/0001\.png, of one and two"):
        found()


def test_training_images_of_a_data_set_with_two_classes_are_left_out() -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None]
    parts = {"training": Labelled(images[[0, 1, 0, 2, 1]], np.array([0, 1, 1, 0, 1]))}
    notes = _parted(parts)
    assert parts["training"].images.ravel().tolist() == [1, 2] and parts["training"].labels.tolist() == [1, 0]
    assert [note.split()[0] for note in notes] == ["2", "1"] and "another class" in notes[0]


def test_a_near_pool_is_told(
    run: nasplat.Run, place: Path, teacher: nn.Module, preprocessing: Any, tmp_path: Path
) -> None:
    assert not any("random images" in note for note in found_in(run)["notes"])
    layout = Layout(CLASSES, 1, 8, preprocessing.mean, preprocessing.std)
    labelled = positives(str(place / "labelled"), layout, per_class=None, most=10**6)
    with seeded(3):
        blind = Teacher().eval()  # whose features say little
    found = pick(
        tmp_path / "near", FeatureMaps(blind, ["2"], (1, 8, 8)), layout, [str(place / "pool" / "other")], labelled,
        Choice(), most=10**6, told=lambda *_: None,
    )  # fmt: skip
    assert any("random images" in note for note in found["notes"])
    assert any("check that it is the right one" in note for note in found["notes"])


# The command line -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_takes_exports_and_data_sets_by_name(
    run: nasplat.Run, place: Path, command: CommandLine, tmp_path: Path
) -> None:
    exported = run.export(out=tmp_path / "teacher", latency=False)
    done = command(
        "distill", str(exported), "--student", str(run.folder), "--positives", str(place / "labelled"), "--pool",
        "hard_digits", "--pool", str(place / "pool" / "other"), "--per-class", "3", "--count", "60", "--epochs", "1",
        "--out", str(tmp_path / "small"), "--json", *FLAGS[-2:],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["picking"]["picked"] == 60 and document["picking"]["pool"]["sources"][0] == "hard_digits"
    assert document["picking"]["positives"]["training"] == dict.fromkeys(CLASSES, 3)
    wrong = command(
        "distill", str(exported), "--student", STUDENT, "--positives", str(place / "labelled"), "--pool", "elsewhere",
        "--out", str(tmp_path / "other"), *FLAGS,
    )  # fmt: skip
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: a pool is a folder") and not wrong.stdout


# Parts ------------------------------------------------------------------------------------------------------------


def test_features_are_the_means_of_named_maps(teacher: nn.Module) -> None:
    images = torch.rand(3, 1, 8, 8)
    maps = FeatureMaps(teacher, ["1", "6"], (1, 8, 8))
    logits, features = maps(images)
    stages = list(teacher.children())
    with torch.no_grad():
        first = nn.Sequential(*stages[:2])(images)
        last = nn.Sequential(*stages[:7])(images)
        assert torch.equal(logits, teacher(images))
    assert torch.allclose(features, torch.cat([first.mean((2, 3)), last.mean((2, 3))], 1), atol=1e-6)
    assert FeatureMaps(teacher, None, (1, 8, 8)).names == ("1", "4", "7")
    assert not any(module._forward_hooks for module in teacher.modules())


@pytest.mark.parametrize("moved", [torch.device("meta"), torch.float64])
def test_a_module_of_the_user_is_given_back_where_it_was(moved: Any) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    weight = network.get_parameter("0.weight")
    weight.grad = torch.ones_like(weight)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), restored(network):
        network.eval().to(moved)
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training and network[1].training and torch.equal(weight.grad, torch.ones_like(weight))


def test_bands_show_the_best_the_border_and_the_rest() -> None:
    order = np.arange(1000)[::-1].copy()
    bands = bands_of(order, 200)
    cells = ACROSS * DOWN
    assert bands["picked"][0] == 999 and bands["picked"][-1] == 800 and len(bands["picked"]) == cells
    assert bands["borderline"].tolist() == order[200 - cells // 2 : 200 + cells // 2].tolist()
    assert bands["refused"][0] == 799 and bands["refused"][-1] == 0
    assert len(bands_of(order[:3], 3)["refused"]) == 0


def test_a_picking_interrupted_in_the_command_says_how_to_go_on(place: Path) -> None:
    error = distilling.PickingInterrupted(place)
    assert "the same call goes on" in str(error) and isinstance(error, KeyboardInterrupt)
    with pytest.raises(InputError):
        place_of(place / "nothing")


def test_the_teacher_of_a_picking_answers_as_it_did(run: nasplat.Run, teacher: nn.Module) -> None:
    read = dataset(f"picked:{run.folder}").teacher
    assert read is not None
    images = torch.rand(5, 1, 8, 8)
    taught = Distillation(read(), 1.0, 4.0)
    with torch.no_grad():
        assert torch.allclose(taught.teacher(images), teacher(images), atol=1e-5)
        assert taught.teacher(images[:1]).shape == (1, 5)


def test_a_size_that_is_a_text_to_evaluate_is_not_opened(tmp_path: Path) -> None:
    for size, opens in (
        ("Symbol('s31', positive=True, integer=True)", True),
        ("12", True),
        ("exec(bytes((1,)))", False),
    ):
        path = tmp_path / "teacher.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/models/model.json", json.dumps({"nodes": [{"as_expr": {"expr_str": size}}]}))
        with nullcontext() if opens else pytest.raises(RunError, match="no number and no name"):
            check_sizes(path)
