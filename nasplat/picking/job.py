"""A picking from beginning to end. Its steps are on disk, so that an interrupted one goes on where it was."""

import csv
import hashlib
import io
import json
import math
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasplat.data.contact_sheet import Band, bands_of, write_sheet
from nasplat.data.picked import (
    ABOUT,
    FORMAT,
    GIVEN,
    IMAGES,
    JOB,
    LABELS,
    LARGEST,
    PARTS,
    PICKED,
    SHEET,
    TABLE,
    TEACHER,
    TEST,
    VALIDATION,
    Layout,
    growing,
)
from nasplat.data.pool import Pool, spelt
from nasplat.data.pool_pass import CHUNK, IS_UNREADABLE, USABLE, Told
from nasplat.errors import InputError, StorageError
from nasplat.nn.program import check_sizes, program_of
from nasplat.picking import estimates
from nasplat.picking.estimates import Estimate
from nasplat.picking.feature_maps import FeatureMaps
from nasplat.picking.picker import Picker, fit
from nasplat.picking.pool_features import FEATURES, IS_KNOWN, PoolFeatures
from nasplat.picking.positives import Labelled, Positives
from nasplat.storage.files import is_taken, read_file, refusal, write_atomically
from nasplat.storage.locking import held

INDEX, LOCK = "pool.sqlite", "picking.lock"
SAMPLE = 20_000
"""The largest number of images of the pool that pickers learn from."""
LEAST = 2 * estimates.FOLDS
"""The fewest images of a pool, so that each fold has some."""
NAMED = 5
"""The largest number of unreadable images that are named."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How many images are picked.

    Args:
        prior: The share of the pool that belongs to the task, between 0 and 1; None to estimate it.
        count: The number of images to pick, the best first; None for all with a score above 0, and no fewer than the
            prior says.
        seed: Draws what pickers learn from, and their first weights.
    """

    prior: float | None = None
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prior is not None and not 0 < self.prior < 1:
            raise InputError(
                f"the prior is the share of the pool that belongs to the task, above 0 and below 1, but got "
                f"{self.prior:g}; correct --prior (prior=…), or leave it out, and it is estimated"
            )
        if self.count is not None and self.count < 1:
            raise InputError(f"at least one image must be picked, but got {self.count}; correct --count (count=…)")


def pick(
    folder: Path,
    maps: FeatureMaps,
    layout: Layout,
    sources: Sequence[str],
    positives: Positives,
    choice: Choice,
    *,
    most: int,
    told: Told,
) -> dict[str, Any]:
    """Pick images of a pool, and write them with the labelled images as a data set.

    Args:
        folder: Where all is kept; a picking that was begun there goes on.
        maps: The teacher with its feature maps.
        layout: How images are made ready.
        sources: The folders of the pool, and names of data sets.
        positives: The labelled images.
        choice: How many are picked.
        most: The largest number of pixels of an image in a file.
        told: Is told of the progress.

    Returns:
        What `picking.json` says.

    Raises:
        InputError: The folder has the picking of something else, or the pool has no image that can be picked.
        StorageError: The disk is full.
    """
    job = job_of(maps, layout, sources, positives)
    try:
        if folder.exists() and not is_taken(folder / JOB) and {path.name for path in folder.iterdir()} - {LOCK}:
            raise InputError(f"{folder} is not the folder of a picking; move it, or choose another --out (out=…)")
        begun = is_taken(folder / JOB)
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / LOCK, seconds=0):
            _begin(folder, job)
            return _picked(folder, maps, layout, sources, positives, choice, most, told)
    except InputError:
        if is_taken(folder / JOB) and not begun and not is_taken(folder / FEATURES):  # nothing to go on with
            shutil.rmtree(folder, ignore_errors=True)
        raise
    except filelock.Timeout:
        raise InputError(f"{folder} is being written by another process; wait for it, or interrupt it") from None
    except sqlite3.Error as error:
        raise StorageError(f"{folder / INDEX} is damaged: {error}; delete {folder}, and pick again") from error
    except OSError as error:
        raise refusal(folder, "written", error) from error


def job_of(maps: FeatureMaps, layout: Layout, sources: Sequence[str], positives: Positives) -> dict[str, Any]:
    """What a picking is begun with, as JSON. It goes on with that alone; prior and count may differ."""
    return {
        "format": FORMAT,
        "pool": list(map(spelt, sources)),
        "features": list(maps.names),
        "teacher": _digest(maps.network),
        "layout": json.loads(json.dumps(asdict(layout))),
        "known": hashlib.sha256(b"".join(sorted(positives.contents()))).hexdigest(),
    }


def differing(folder: Path, job: dict[str, Any]) -> list[str]:
    """What of a job is not what the picking in a folder was begun with; all of it if there is none."""
    try:
        begun = json.loads(read_file(folder / JOB, LARGEST))
    except (OSError, ValueError, RecursionError):
        begun = None
    return [name for name in job if not isinstance(begun, dict) or begun.get(name) != job[name]]


def _begin(folder: Path, job: dict[str, Any]) -> None:
    """Record what is picked from, or check that it is what was begun.

    Raises:
        InputError: It is something else.
    """
    path = folder / JOB
    if not is_taken(path):
        write_atomically(path, json.dumps(job, indent=2) + "\n")
    elif names := differing(folder, job):
        called = {"known": "labelled images", "layout": "image sizes or classes", "features": "feature maps"}
        raise InputError(
            f"{folder} has a picking that was begun with other {' and '.join(called.get(n, n) for n in names)}; "
            "give what it was begun with, choose another --out (out=…), or delete the folder"
        )


def _picked(
    folder: Path,
    maps: FeatureMaps,
    layout: Layout,
    sources: Sequence[str],
    positives: Positives,
    choice: Choice,
    most: int,
    told: Told,
) -> dict[str, Any]:
    _write_teacher(maps, layout, folder / TEACHER)
    training, answers = _seen(maps, layout, positives.training)  # before the pool: the teacher may give no numbers
    _, validated = _seen(maps, layout, positives.validation)
    with Pool.listed(
        folder / INDEX, sources, layout.io.input_shape, most, told=lambda count: told("listing the pool", count, 0)
    ) as pool:
        of_pool = PoolFeatures.of(folder, pool, maps, layout, positives.contents(), told)
        if len(of_pool.kept.usable) < LEAST:
            raise InputError(
                f"a pool needs at least {LEAST} images that can be read and are not labelled ones, but has "
                f"{len(of_pool.kept.usable)}{of_pool.kept.example()}; give a larger one"
            )
        told("learning to pick", 0, 0)
        sample = of_pool.sample(SAMPLE, choice.seed)
        ranks = estimates.held_out_ranks(training, sample, choice.prior, choice.seed)
        estimated = estimates.prior_of(ranks, choice.seed)
        prior = estimated if choice.prior is None else Estimate(choice.prior, choice.prior, choice.prior)
        picker = fit(training, sample, prior.value, torch.Generator().manual_seed(choice.seed))
        scores = _scores(picker, of_pool)
        order, number = _selected(scores, prior.value, choice.count)
        rows = np.sort(order[:number])
        told("keeping what was picked", 0, len(rows))
        kept = _write_images(folder, pool, layout, positives, of_pool.answers, rows, told)
        share = len(kept) / len(order)
        recall, precision = estimates.belonging(ranks, share, prior)
        found = {
            "format": FORMAT,
            **asdict(layout),
            "positives": {
                "source": positives.source,
                "training": _by_class(positives.training.labels, layout),
                "validation": len(positives.validation),
                "test": len(positives.test),
            },
            "pool": {
                "sources": list(pool.sources),
                "images": len(pool),
                "unreadable": of_pool.kept.count(IS_UNREADABLE),
                "labelled again": of_pool.kept.count(IS_KNOWN),
                "left out": dict(pool.left_out),
            },
            "features": list(maps.names),
            "seed": choice.seed,
            "prior": {**asdict(prior), "given": choice.prior is not None, "estimated": asdict(estimated)},
            "picked": len(kept),
            "picked by class": _by_class(of_pool.answers[kept], layout),
            "threshold": float(scores[order[number - 1]]),
            "recall": asdict(recall),
            "precision": asdict(precision),
            "separation": estimates.separation(ranks, prior.value),
            "teacher": {
                "labelled images": float((answers == positives.training.labels).mean()),
                "validation": float((validated == positives.validation.labels).mean()),
            },
        }
        found["notes"] = [*positives.notes, *_notes(found, estimated, of_pool, lost=len(rows) - len(kept))]
        _write_sheet(folder / SHEET, pool, order, number)
        _write_table(folder / TABLE, pool, scores, of_pool.answers, kept, layout)
    write_atomically(folder / ABOUT, json.dumps(found, indent=2) + "\n")  # last: with it, all is there
    return found


def _write_teacher(maps: FeatureMaps, layout: Layout, path: Path) -> None:
    """Write the teacher as a program, before anything that takes long.

    Raises:
        InputError: Torch cannot make one.
        OSError: It cannot be written.
    """
    try:
        program = program_of(maps.network.cpu(), layout.io.input_shape)
        check_sizes(io.BytesIO(program))
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"the teacher cannot be written as a torch.export program, which the student's training reads: "
            f"{type(error).__name__}: {why}; take a network whose computation does not depend on values of the image"
        ) from error
    finally:
        maps.network.to(maps.device)
    write_atomically(path, program)


def _digest(network: nn.Module) -> str:
    """A digest of the weights of a network, with their names."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _seen(maps: FeatureMaps, layout: Layout, images: Labelled) -> tuple[Tensor, NDArray[np.int64]]:
    """The features of labelled images, and the classes that the teacher gives to them."""
    scaling = layout.scaling
    parts = [maps(scaling(each)) for each in torch.split(torch.from_numpy(images.images), CHUNK)]
    logits, features = (torch.cat(each) for each in zip(*parts, strict=True))
    return features, logits.argmax(1).numpy()


def _scores(picker: Picker, of_pool: PoolFeatures) -> NDArray[np.float32]:
    """The scores of all images of the pool; minus infinity for what cannot be picked."""
    scores = np.empty(len(of_pool.kept.marks), dtype=np.float32)
    for first, features in of_pool.chunks():  # copied, since small results between large ones would keep memory apart
        scores[first : first + len(features)] = picker(features).numpy()
    scores[of_pool.kept.marks != USABLE] = -np.inf
    return scores


def _selected(scores: NDArray[np.float32], prior: float, count: int | None) -> tuple[NDArray[np.int64], int]:
    """The rows that can be picked, the best first, and how many of them are."""
    order = np.argsort(-scores, kind="stable")
    order = order[: int(np.isfinite(scores).sum())]
    if count is None:  # pickers learn caution from few positives, so that scores above 0 alone can be far too few
        count = max(int((scores > 0).sum()), math.ceil(prior * len(order)))
    return order, min(count, len(order))


def _write_images(
    folder: Path,
    pool: Pool,
    layout: Layout,
    positives: Positives,
    answers: NDArray[np.int32],
    rows: NDArray[np.int64],
    told: Told,
) -> NDArray[np.int64]:
    """Write the images, labels and parts of the data set. Returns the rows that could be read once more.

    Raises:
        InputError: None could be.
    """
    given = ((positives.training, GIVEN), (positives.validation, VALIDATION), (positives.test, TEST))
    kept: list[int] = []
    fixed = sum(len(each) for each, _ in given)
    with growing(folder / IMAGES, (fixed + len(rows), *layout.io.input_shape), np.uint8) as array:
        for each, _ in given:
            array.add(each.images)
        for first in range(0, len(rows), CHUNK):
            told("keeping what was picked", first, len(rows))
            some = rows[first : first + CHUNK].tolist()
            images, failures = pool.read(some)
            if failures:
                pool.check_there()
            gone = {row for row, _ in failures}
            kept += [row for row in some if row not in gone]
            array.add(images)
        if not kept:
            raise InputError("none of the picked images can be read any more; restore the pool and pick again")
    found = np.array(kept, dtype=np.int64)
    labels = np.concatenate([*(each.labels for each, _ in given), answers[found]]).astype(np.int64)
    parts = np.concatenate([*(np.full(len(each), part) for each, part in given), np.full(len(found), PICKED)])
    for name, numbers in ((LABELS, labels), (PARTS, parts.astype(np.int8))):
        with io.BytesIO() as buffer:
            np.save(buffer, numbers, allow_pickle=False)
            write_atomically(folder / name, buffer.getvalue())
    return found


def _write_sheet(path: Path, pool: Pool, order: NDArray[np.int64], number: int) -> None:
    titles = {
        "picked": f"picked: {number:,} of {len(order):,}, from the best to the last",
        "borderline": "borderline: the last that were picked, and the first that were not",
        "refused": f"refused: {len(order) - number:,}, from the best to the last",
    }
    bands = [Band(titles[name], pool.read(rows.tolist())[0]) for name, rows in bands_of(order, number).items()]
    write_sheet(bands, path)


def _write_table(
    path: Path,
    pool: Pool,
    scores: NDArray[np.float32],
    answers: NDArray[np.int32],
    rows: NDArray[np.int64],
    layout: Layout,
) -> None:
    """Write a line for each picked image: its name, score, and the class that the teacher gives to it."""
    with io.StringIO(newline="") as text:
        table = csv.writer(text)
        table.writerow(["image", "score", "class"])
        for row in rows.tolist():
            table.writerow([pool.name(row), f"{scores[row]:.6g}", layout.classes[answers[row]]])
        write_atomically(path, text.getvalue())


def _by_class(labels: NDArray[Any], layout: Layout) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(layout.classes)).tolist()
    return dict(zip(layout.classes, counts, strict=True))


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _notes(found: dict[str, Any], estimated: Estimate, of_pool: PoolFeatures, lost: int) -> list[str]:
    """What users should know of a picking, one line each.

    Args:
        found: What `picking.json` says.
        estimated: The estimated prior.
        of_pool: The images of the pool.
        lost: How many of the picked could not be read once more.
    """
    notes, prior, pool = list[str](), found["prior"], found["pool"]
    if pool["unreadable"]:
        named = "; ".join(f"{name}: {why}" for name, why in of_pool.kept.unreadable(NAMED))
        rest = pool["unreadable"] - NAMED
        notes.append(
            f"{_images(pool['unreadable'])} of the pool left out, since unreadable: {named}"
            f"{f'; and {rest:,} more' if rest > 0 else ''}"
        )
    if pool["labelled again"]:
        notes.append(f"{_images(pool['labelled again'])} of the pool left out, since among the labelled ones")
    if lost:
        notes.append(
            f"{_images(lost)} of the picked left out, since no longer readable; if that is more than a few, restore "
            "the pool, and pick again"
        )
    if not prior["given"] and estimates.is_wide(estimated):
        notes.append(
            f"the share of the pool that belongs is estimated at {estimated}, which is a wide interval; if you know "
            "it better, give --prior (prior=…), and rather too much than too little"
        )
    said = f"by the scores of held-out positives {estimated} of the pool belongs"
    if estimated.value > estimates.MOST_ALIKE:
        notes.append(
            f"{said}: either most of it does, or the pool is nearer to the task than the picker can tell, and random "
            "images of it serve as well; look at the contact sheet, and take another pool or further labelled images"
        )
    elif prior["given"] and prior["value"] > estimated.high:
        notes.append(
            f"the prior is {prior['value']:g}, but {said}: if that is nearer to the truth, fewer of the picked belong "
            "than is estimated"
        )
    elif prior["given"] and prior["value"] < estimated.low:
        notes.append(
            f"the prior is {prior['value']:g}, but {said}: too low a prior leaves much out, and costs more than one "
            "that is too high; raise --prior (prior=…), or leave it out"
        )
    elif found["separation"] < estimates.LEAST_SEPARATION:
        notes.append(
            f"only {found['separation']:.0%} of held-out positives score among the best {prior['value']:.1%} of the "
            "pool: much of it is nearer to the task than the picker can tell, so that random images of it may serve as "
            "well, and fewer of the picked may belong than is estimated; further labelled images help, or another pool"
        )
    if (right := found["teacher"]["labelled images"]) < 0.5:
        notes.append(
            f"the teacher gives only {right:.0%} of the labelled images their class; check that it is the right one, "
            "and that the names of folders are those of its classes"
        )
    return notes
