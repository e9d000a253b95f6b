"""A calibration on disk: operation pictures, rounds of questions, and answers. An interrupted one goes on."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import filelock
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from nasplat.calibration.answers import Names, Said, gathered, questions, read_answers
from nasplat.calibration.outputs import Integers, Outputs
from nasplat.calibration.rounds import Plan, medoids_of, next_round
from nasplat.data.contact_sheet import Band, write_sheet
from nasplat.data.pool import Images, Pool, spelt
from nasplat.data.pool_pass import IS_UNREADABLE, Column, PoolPass, Told, content
from nasplat.errors import DamageError, InputError, StorageError
from nasplat.storage.files import is_taken, read_file, refusal, write_atomically
from nasplat.storage.locking import held

FORMAT = 1
JOB, ROUNDS, LABELS, WORK = "job.json", "rounds.json", "labels.csv", "work"
"""What is calibrated; what was asked; all answers; and the folder with what is computed of the pictures."""
INDEX, LOCK, LOGITS, FEATURES, CONTENTS = "pool.sqlite", "lock", "logits.f4", "features.f4", "contents.u1"
HELD_OUT = "held-out"
"""What the names of rounds begin with whose labels no calibrator sees."""
SOME = 256
"""So many pictures are handed on, to compare formats on."""
SIDE = 64
"""The side of a picture on a contact sheet, in pixels."""


class Network(Protocol):
    """A classifier that also gives its features."""

    digest: str
    classes: tuple[str, ...]
    features: int
    shape: tuple[int, ...]
    most_pixels: int

    def __call__(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The logits `[n, classes]` and the features `[n, features]` of uint8 images `[n, *shape]`."""
        ...


class Round(BaseModel):
    """Pictures that are asked for together.

    Args:
        name: The name of its files.
        rows: The pictures, as places among those that can be read.
        drawn: Whether each was drawn at random.
    """

    name: str
    rows: list[int]
    drawn: list[bool]


@dataclass(frozen=True, slots=True)
class Asking:
    """Some pictures wait for labels.

    Args:
        name: The name of the round.
        questions: The CSV file whose column `label` is to be filled.
        sheet: The contact sheet.
        pictures: How many pictures the round has.
        answered: How many of them have an answer.
        labelled: How many pictures have a label in all.
    """

    name: str
    questions: Path
    sheet: Path
    pictures: int
    answered: int
    labelled: int


@dataclass(frozen=True)
class Labelled:
    """Everything that was asked for has an answer.

    Args:
        outputs: What the network gives for all operation pictures that can be read.
        images: The first of these pictures, uint8 `[n, *shape]`.
        rows: The labelled pictures, those held out left out.
        labels: Their classes.
        drawn: Whether each was drawn at random.
        held_out: Labelled pictures that no calibrator sees.
        held_out_labels: Their classes.
        medoids: The medoids that the plan's calibrator needs, if any.
        pool: What was read of the folder.
        notes: What users should know, one line each.
    """

    outputs: Outputs
    images: Images
    rows: Integers
    labels: Integers
    drawn: NDArray[np.bool_]
    held_out: Integers
    held_out_labels: Integers
    medoids: Integers | None
    pool: dict[str, Any]
    notes: tuple[str, ...]


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
    """Ask for labels of operation pictures, or go on with those that were given.

    Args:
        folder: Where all is kept; a calibration that was begun there goes on.
        network: The network.
        sources: The folders of the operation pictures, and names of data sets.
        plan: How many pictures are labelled, and which.
        given: Labels that are known already. With them, no other pictures are chosen.
        held_out: How many further pictures are labelled for figures; by default all others of `given`, else none.
        told: Is told of the progress.

    Raises:
        InputError: The folder has the calibration of something else, answers contradict one another, or there are too
            few pictures or labels.
        DamageError: A file of the folder is damaged.
        StorageError: The disk is full.
    """
    job = {
        "format": FORMAT,
        "network": network.digest,
        "operation": list(map(spelt, sources)),
        "paper": plan.paper,
        "seed": plan.seed,
    }
    try:
        begun = is_taken(folder / JOB)
        if not begun and folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not the folder of a calibration; choose another --out (out=…)")
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        try:
            with held(folder / WORK / LOCK, seconds=0):
                _begin(folder / JOB, job)
                return _gone_on(folder, network, sources, plan, given, held_out, told)
        except InputError:
            if not begun and not is_taken(folder / ROUNDS):  # nothing to go on with
                shutil.rmtree(folder, ignore_errors=True)
            raise
    except filelock.Timeout:
        raise InputError(f"{folder} is being written by another process; wait for it, or interrupt it") from None
    except sqlite3.Error as error:
        raise StorageError(f"{folder / WORK / INDEX} is damaged: {error}; delete {folder / WORK}") from error
    except OSError as error:
        raise refusal(folder, "written", error) from error


def _begin(path: Path, job: dict[str, Any]) -> None:
    """Record what is calibrated, or check that it is what was begun.

    Raises:
        InputError: It is something else.
    """
    if not is_taken(path):
        write_atomically(path, json.dumps(job, indent=2) + "\n")
        return
    try:
        begun = json.loads(read_file(path))
        differing = [name for name in job if begun.get(name) != job[name]]
    except (ValueError, AttributeError) as error:
        raise DamageError(f"{path} is damaged: {error}; choose another --out (out=…)") from error
    if differing:
        raise InputError(
            f"{path.parent} has a calibration that was begun with another {' and '.join(differing)}; give what it was "
            "begun with, or choose another --out (out=…)"
        )


def _gone_on(
    folder: Path,
    network: Network,
    sources: Sequence[str],
    plan: Plan,
    given: Sequence[Said] | None,
    held_out: int | None,
    told: Told,
) -> Asking | Labelled:
    work = folder / WORK
    with Pool.listed(
        work / INDEX, sources, network.shape, network.most_pixels,
        told=lambda count: told("listing the operation pictures", count, 0),
    ) as pool:  # fmt: skip
        kept = _pass(work, pool, network, told)
        usable = kept.usable
        outputs = Outputs(kept.column(LOGITS)[usable], kept.column(FEATURES)[usable])
        absolute, relative = ([every[row] for row in usable] for every in pool.names())
        contents = [each.tobytes().hex() for each in kept.column(CONTENTS)[usable]]
        names = Names(absolute, absolute if len(pool.sources) > 1 else relative, contents)
        asking = _Rounds(folder, network, names, outputs, plan, given, held_out)
        found = asking.go_on()
        if isinstance(found, Round):
            return asking.ask(found, pool, usable)
        (rows, drawn), held = found
        asking.note(kept)
        about = {
            "sources": list(pool.sources),
            "images": len(usable),
            "different": len(asking.first),
            "unreadable": kept.count(IS_UNREADABLE),
            "left out": dict(pool.left_out),
        }
        labels = asking.answers.labels
        images, _ = pool.read(usable[:SOME].tolist())
        return Labelled(
            outputs, images, rows, np.array([labels[row] for row in rows.tolist()], np.int64), drawn,
            held, np.array([labels[row] for row in held.tolist()], np.int64), asking.medoids, about,
            tuple(asking.notes),
        )  # fmt: skip


def _pass(work: Path, pool: Pool, network: Network, told: Told) -> PoolPass:
    """What the network gives for all pictures, on disk.

    Raises:
        InputError: No picture can be read.
    """

    def compute(images: Images) -> dict[str, NDArray[Any]]:
        logits, features = network(images)
        digests = [np.frombuffer(content(image), np.uint8) for image in images]
        return {LOGITS: logits, FEATURES: features, CONTENTS: np.stack(digests)}

    columns = {LOGITS: len(network.classes), FEATURES: network.features}
    kept = PoolPass.of(
        work, pool, {name: Column("f4", width) for name, width in columns.items()} | {CONTENTS: Column("u1", 16)},
        compute, told,
    )  # fmt: skip
    if not len(kept.usable):
        kept.delete()
        raise InputError(f"none of the {len(pool):,} operation pictures can be read{kept.example()}; give others")
    return kept


class _Rounds:
    """What was asked, what was answered, and what is asked next."""

    def __init__(
        self,
        folder: Path,
        network: Network,
        names: Names,
        outputs: Outputs,
        plan: Plan,
        given: Sequence[Said] | None,
        held_out: int | None,
    ) -> None:
        self._folder, self._network, self._names, self._outputs = folder, network, names, outputs
        self._plan, self._given, self._held_out = plan, given, held_out
        self.notes: list[str] = []
        self.rounds = self._read()
        said = [*(given or ()), *self._answered()]
        self.answers = gathered(said, names, network.classes)
        _, first = np.unique(np.array(names.contents), return_index=True)
        self.first: Integers = np.sort(first)
        """The first picture of each content. The others are never asked for."""
        self.medoids = medoids_of(plan, outputs.features) if len(outputs) >= plan.recipe.clusters else None
        self._open = self.first if given is None else np.intersect1d(self.first, self.answers.rows)
        self._keep()

    def _read(self) -> list[Round]:
        path = self._folder / ROUNDS
        if not is_taken(path):
            return []
        try:
            found = [Round.model_validate(each) for each in json.loads(read_file(path))]
            if any(not 0 <= row < len(self._names.contents) for each in found for row in each.rows):
                raise ValueError("it asks for pictures that are not there")
        except (ValueError, TypeError, ValidationError) as error:
            raise DamageError(f"{path} is damaged: {error}; choose another --out (out=…)") from error
        return found

    def _answered(self) -> list[Said]:
        """All answers in the folder."""
        files = [self._folder / LABELS, *(self._folder / f"{each.name}.csv" for each in self.rounds)]
        return [said for path in files if is_taken(path) for said in read_answers(path)]

    def _keep(self) -> None:
        """Write the answers of what was asked, so that a lost file of questions loses none of them."""
        asked = [row for each in self.rounds for row in each.rows if row in self.answers]
        if not asked:
            return
        table = ["picture,label,content"]
        for row in asked:
            label = "?" if row in self.answers.unknown else self._network.classes[self.answers.labels[row]]
            table.append(",".join(map(_quoted, (self._names.relative[row], label, self._names.contents[row]))))
        write_atomically(self._folder / LABELS, "\n".join(table) + "\n")

    def go_on(self) -> "Round | tuple[tuple[Integers, NDArray[np.bool_]], Integers]":
        """The round that waits for answers; else the labelled pictures and those held out.

        Raises:
            InputError: There are too few pictures or labels.
        """
        self._check()
        for _ in range(self._plan.budget + len(self.rounds) + 2):
            waiting = next((each for each in self.rounds if not all(row in self.answers for row in each.rows)), None)
            if waiting is not None:
                return waiting
            following = self._following()
            if following is None:
                break
            self.rounds.append(following)
            write_atomically(self._folder / ROUNDS, json.dumps([each.model_dump() for each in self.rounds]) + "\n")
            self._keep()
        rows, drawn = self._asked(held_out=False)
        known = np.array([row in self.answers.labels for row in rows.tolist()], bool)
        if known.sum() < 2:
            raise InputError(
                f"a calibrator needs at least two labelled pictures, but of {len(rows)} that were asked for "
                f"{known.sum()} could be labelled; raise --budget (budget=…)"
            )
        if unknown := int((~known).sum()):
            self.notes.append(f"{unknown} of the pictures that were asked for could not be labelled, and are left out")
        return (rows[known], drawn[known]), self._held(rows)

    def _check(self) -> None:
        """Check that there are as many pictures, and labels, as are asked for.

        Raises:
            InputError: There are fewer.
        """
        asked = len(self._asked(held_out=False)[0])
        if asked > self._plan.budget:
            raise InputError(
                f"the budget is {self._plan.budget}, but {asked} pictures were asked for already; raise --budget "
                "(budget=…)"
            )
        wanted, there = self._plan.budget + (self._held_out or 0), len(self._open)
        more = f" and {self._held_out} held out" if self._held_out else ""
        if self._given is None and wanted > there:
            raise InputError(
                f"the budget is {self._plan.budget}{more}, but there are only {there:,} different operation pictures; "
                "lower --budget (budget=…), or add pictures"
            )
        if self._given is not None and wanted > len(np.union1d(self._open, self._asked(held_out=None)[0])):
            raise InputError(
                f"the budget is {self._plan.budget}{more}, but only {there:,} different pictures have a label; lower "
                "--budget (budget=…), or label more"
            )

    def _following(self) -> Round | None:
        """The next round; None if all was asked."""
        rows, _ = self._asked(held_out=False)
        held, _ = self._asked(held_out=True)
        closed = np.setdiff1d(np.arange(len(self._outputs)), self._open)
        closed = np.union1d(closed, held)
        if len(rows) < self._plan.budget:
            labelled = np.array([row for row in rows.tolist() if row in self.answers.labels], np.int64)
            labels = np.array([self.answers.labels[row] for row in labelled.tolist()], np.int64)
            more, drawn = next_round(
                self._plan, self._outputs, labelled, labels, asked=len(rows), closed=np.union1d(closed, rows),
                medoids=self.medoids,
            )  # fmt: skip
            return Round(name=self._free("round"), rows=more.tolist(), drawn=drawn.tolist())
        if self._given is None and (missing := (self._held_out or 0) - len(held)) > 0:
            rest = np.setdiff1d(self._open, np.union1d(rows, closed))
            drawn_rows = np.random.default_rng([self._plan.seed, len(rows), len(held)]).permutation(rest)[:missing]
            return Round(name=self._free(HELD_OUT), rows=drawn_rows.tolist(), drawn=[True] * len(drawn_rows))
        return None

    def _free(self, name: str) -> str:
        """The name of the next round of a kind."""
        return f"{name}-{1 + sum(each.name.startswith(name) for each in self.rounds)}"

    def _asked(self, *, held_out: bool | None) -> tuple[Integers, NDArray[np.bool_]]:
        """The pictures of the rounds, those held out or the others, or all."""
        some = [each for each in self.rounds if held_out is None or each.name.startswith(HELD_OUT) == held_out]
        rows = np.array([row for each in some for row in each.rows], np.int64)
        return rows, np.array([drawn for each in some for drawn in each.drawn], bool)

    def _held(self, rows: Integers) -> Integers:
        """The labelled pictures that no calibrator sees."""
        asked, _ = self._asked(held_out=True)
        known = np.array([row for row in asked.tolist() if row in self.answers.labels], np.int64)
        if self._given is None:
            return known
        rest = np.setdiff1d(self._open, rows)
        if self._held_out is None:
            return np.union1d(known, rest)
        drawn = np.random.default_rng([self._plan.seed, len(rows)]).permutation(np.setdiff1d(rest, known))
        return np.union1d(known, drawn[: max(self._held_out - len(known), 0)])

    def note(self, kept: PoolPass) -> None:
        """Note what users may not expect of the pictures and their labels."""
        if unreadable := kept.count(IS_UNREADABLE):
            self.notes.append(f"{unreadable:,} pictures left out, since they cannot be read{kept.example()}")
        if self._given is not None and len(self._open) < len(self.first):
            self.notes.append(
                f"{len(self._open):,} of {len(self.first):,} different pictures have a label; what is found of these "
                "holds for the others if they were drawn at random"
            )

    def ask(self, asked: Round, pool: Pool, usable: Integers) -> Asking:
        """Write the questions of a round, if they are not there, and say where."""
        table, sheet = (self._folder / f"{asked.name}{ending}" for ending in (".csv", ".png"))
        if not is_taken(table):
            with Pool(self._folder / WORK / INDEX, (pool.shape[0], SIDE, SIDE), pool.most) as larger:
                images, failures = larger.read(usable[asked.rows].tolist())
            gone = {row for row, _ in failures}
            numbers = [str(n) for n, row in enumerate(usable[asked.rows].tolist(), 1) if row not in gone]
            title = f"{asked.name}: {len(asked.rows)} pictures, by their numbers in {table.name}"
            write_sheet([Band(title, images, numbers)], sheet)
            write_atomically(table, questions(asked.rows, self._names))
        answered = sum(row in self.answers for row in asked.rows)
        return Asking(asked.name, table, sheet, len(asked.rows), answered, len(self.answers.labels))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def digest_of(path: Path) -> str:
    """A digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
