"""A calibration in a folder: it is begun there, or goes on where it was interrupted."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from nasplat.calibration.answers import Said, check_classes
from nasplat.calibration.asking import ROUNDS, Asking, Labelled, Rounds
from nasplat.calibration.pictures import CONTENTS, Network, Pictures, seen
from nasplat.calibration.rounds import Plan
from nasplat.data.pool import Pool, spelt
from nasplat.data.pool_pass import Told
from nasplat.errors import DamageError, InputError, StorageError
from nasplat.storage.files import is_taken, read_file, refusal, write_atomically
from nasplat.storage.locking import held

FORMAT = 1
JOB, WORK = "job.json", "work"
"""What is calibrated; and the folder with what is computed of the pictures."""
INDEX, LOCK = "pool.sqlite", "lock"


@contextmanager
def begun(folder: Path, network: Network, sources: Sequence[str], plan: Plan) -> Iterator[None]:
    """Begin a calibration in a folder, or go on with that which was begun there; no other process does meanwhile.

    Args:
        folder: Where all is kept.
        network: The network.
        sources: The folders of the operation pictures, and names of data sets.
        plan: How pictures are chosen.

    Raises:
        InputError: The folder has something else, or another process works there.
        DamageError, StorageError: A file of it is damaged, or the disk is full.
    """
    job = {
        "format": FORMAT,
        "network": json.loads(json.dumps(network.identity)),
        "operation": list(map(spelt, sources)),
        "paper": plan.paper,
        "seed": plan.seed,
    }
    try:
        made = not is_taken(folder / JOB)
        if made:
            if folder.exists() and any(not path.name.startswith(f".{JOB}.") for path in folder.iterdir()):
                raise InputError(f"{folder} is not the folder of a calibration; choose another --out (out=…)")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / JOB, json.dumps(job, indent=2) + "\n")
        work = folder / WORK
        work.mkdir(exist_ok=True)
        try:
            with held(work / LOCK, seconds=0):
                _check_begun(folder / JOB, job)
                yield
        except InputError:
            if made and not is_taken(folder / ROUNDS) and not is_taken(work / CONTENTS):  # nothing to go on with
                for path in (work / INDEX, work / LOCK, folder / JOB):
                    path.unlink(missing_ok=True)
                for each in (work, folder):
                    with suppress(OSError):  # another process put a file there
                        each.rmdir()
            raise
    except filelock.Timeout:
        raise InputError(f"{folder} is being written by another process; wait for it, or interrupt it") from None
    except sqlite3.Error as error:
        raise StorageError(
            f"{folder / WORK / INDEX} is damaged: {error}; delete {folder / WORK}, and the same command goes on"
        ) from error
    except OSError as error:
        raise refusal(folder, "written", error) from error


def _check_begun(path: Path, job: dict[str, Any]) -> None:
    """Check that what is calibrated is what was begun.

    Raises:
        InputError: It is something else.
    """
    try:
        old = json.loads(read_file(path))
        differing = [name for name in job if old.get(name) != job[name]]
    except (ValueError, AttributeError) as error:
        raise DamageError(f"{path} is damaged: {error}; choose another --out (out=…)") from error
    if differing:
        named = {"operation": "--operation (operation=…)", "paper": "--paper (paper=…)", "seed": "--seed (seed=…)"}
        raise InputError(
            f"{path.parent} has a calibration that was begun with another "
            f"{' and another '.join(named.get(each, each) for each in differing)}; give what it was "
            "begun with, or choose another --out (out=…)"
        )


def labelling(
    folder: Path,
    network: Network,
    sources: Sequence[str],
    plan: Plan,
    *,
    given: Sequence[Said] | None = None,
    held_out: int | None = None,
    told: Told = lambda what, done, whole: None,
) -> Asking | Labelled:
    """Ask for labels of operation pictures, or go on with those that were given; in `begun`.

    Args:
        folder: Where all is kept.
        network: The network.
        sources: The folders of the operation pictures, and names of data sets.
        plan: How many pictures are labelled, and which.
        given: Labels that are known already. With them, no other pictures are chosen.
        held_out: How many further pictures are labelled for figures; by default all others of `given`, else none.
        told: Is told of the progress.

    Raises:
        InputError: Answers contradict one another, or there are too few pictures or labels.
        DamageError: A file of the folder is damaged.
        StorageError: The disk is full.
    """
    check_classes(given or (), network.classes)
    work = folder / WORK
    with Pool.listed(
        work / INDEX, sources, network.shape, network.most_pixels,
        told=lambda count: told("listing the operation pictures", count, 0),
    ) as pool:  # fmt: skip
        pictures = Pictures.of(pool, seen(work, pool, network, told))
        rounds = Rounds(folder, network.classes, pictures, plan, given, held_out)
        waiting = rounds.go_on()
        return rounds.ended(pool, work / INDEX) if waiting is None else rounds.ask(waiting, pool, work / INDEX)


def digest_of(path: Path) -> str:
    """A digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
