"""Rounds of questions: what was asked, what was answered, and what is asked next."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError, model_validator

from nasplat.calibration.answers import (
    UNKNOWN,
    Labels,
    Said,
    by_content,
    check_classes,
    kept,
    questions,
    read_answers,
)
from nasplat.calibration.outputs import Integers, Outputs
from nasplat.calibration.pictures import Pictures
from nasplat.calibration.rounds import Plan, medoids_of, next_round
from nasplat.data.contact_sheet import Band, write_sheet
from nasplat.data.pool import Images, Pool
from nasplat.data.pool_pass import CHUNK, MARKS, content
from nasplat.errors import DamageError, InputError, printable
from nasplat.storage.files import is_taken, read_file, write_atomically

ROUNDS, LABELS = "rounds.json", "labels.csv"
"""What was asked, and all answers."""
SOME = 64
"""So many pictures are handed on, to compare formats on."""
SIDE = 128
"""The side of a picture on a contact sheet, in pixels."""


class Round(BaseModel):
    """Pictures that are asked for together.

    Args:
        name: The name of its files.
        contents: The pictures.
        drawn: Whether each was drawn at random.
        held_out: Whether no calibrator sees their labels.
    """

    name: str
    contents: list[str]
    drawn: list[bool]
    held_out: bool = False

    @property
    def numbered(self) -> dict[str, int]:
        """The pictures with their numbers, which they keep when others are gone."""
        return {each: number for number, each in enumerate(self.contents, 1)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.contents) != len(self.drawn) or not re.fullmatch(r"(round|held-out)-\d+", self.name):
            raise ValueError("a round has other lists or another name than this version writes")
        return self


class Asked(BaseModel):
    """All that was asked.

    Args:
        rounds: The rounds.
        medoids: The pictures that are the medoids, if the plan needs them.
    """

    rounds: list[Round] = []
    medoids: list[str] | None = None

    def contents(self, *, held_out: bool) -> list[tuple[str, bool]]:
        """The pictures of rounds, those held out or the others, and whether each was drawn at random."""
        some = [each for each in self.rounds if each.held_out == held_out]
        return [pair for each in some for pair in zip(each.contents, each.drawn, strict=True)]


@dataclass(frozen=True, slots=True)
class Asking:
    """Some pictures wait for labels.

    Args:
        name: The name of the round.
        questions: The CSV file whose column `label` is to be filled.
        sheet: The contact sheet.
        classes: The names of the classes.
        pictures: How many pictures the round has.
        answered: How many of them have an answer.
        labelled: How many pictures of all rounds have a label.
    """

    name: str
    questions: Path
    sheet: Path
    classes: tuple[str, ...]
    pictures: int
    answered: int
    labelled: int


@dataclass(frozen=True)
class Labelled:
    """Everything that was asked for has an answer. Files of the same content are one picture.

    Args:
        outputs: What the network gives for all operation pictures that can be read.
        images: Some of these pictures, uint8 `[n, *shape]`, at least one.
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


@dataclass
class Rounds:
    """What was asked, what was answered, and what is asked next."""

    folder: Path
    classes: Sequence[str]
    pictures: Pictures
    plan: Plan
    given: Sequence[Said] | None
    held_out: int | None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._row = {each: row for row, each in enumerate(self.pictures.contents)}
        self.asked = self._read()
        self._own: Labels = {}
        self._called: dict[str, str] = {}
        self.labels = self._gathered()
        if self.given is None:
            self._open = np.arange(len(self._row), dtype=np.int64)
        else:
            known = [row for each, row in self._row.items() if self.labels.get(each, UNKNOWN) != UNKNOWN]
            self._open = np.array(known, np.int64)
        if self.plan.paper and self.asked.medoids is None and len(self._open) >= self.plan.recipe.clusters:
            found = medoids_of(self.plan, self.pictures.outputs.features[self._open])
            assert found is not None
            self.asked.medoids = [self.pictures.contents[row] for row in self._open[found].tolist()]
        self._write()

    def _read(self) -> Asked:
        path = self.folder / ROUNDS
        if not is_taken(path):
            return Asked()
        try:
            return Asked.model_validate_json(read_file(path))
        except ValidationError as error:
            raise DamageError(f"{path} is damaged: {error}; choose another --out (out=…)") from error

    def _write(self) -> None:
        """Write what was asked, and all answers, so that a lost file of questions loses none of them."""
        if self.asked.rounds:
            write_atomically(self.folder / ROUNDS, self.asked.model_dump_json() + "\n")
            self._own |= self.labels
            self._called |= self.pictures.shown
            write_atomically(self.folder / LABELS, kept(self._own, self._called))
            for part in self.asked.rounds:  # a blank means that an answer was withdrawn
                if is_taken(path := self.folder / f"{part.name}.csv"):
                    blank = {each.content for each in read_answers(path) if not each.label}
                    if blank & self.labels.keys():
                        write_atomically(path, questions(part.numbered, self._called, self.labels))

    def _gathered(self) -> Labels:
        """All answers. A file of questions counts more than what was kept of it, and so do labels that are given.

        Raises:
            InputError: They contradict one another.
        """
        classes, names = self.classes, self.pictures.names
        if is_taken(path := self.folder / LABELS):
            before = list(read_answers(path))
            check_classes(before, classes)
            self._called |= {each.content: each.picture for each in before if each.content}
            self._own, _ = by_content(before, names, self._called)
        lines, asked = list[Said](), {each for part in self.asked.rounds for each in part.contents}
        for part in self.asked.rounds:
            if is_taken(path := self.folder / f"{part.name}.csv"):
                said = list(read_answers(path))
                check_classes(said, classes)
                lines += said
                for each in said:
                    self._own.pop(each.content or names.content(each.picture) or "", None)
        files, _ = by_content(lines, names, asked)
        given, left_out = by_content(self.given or (), names, asked)
        if left_out:
            self.notes.append(f"{left_out:,} labels are of pictures that cannot be read or are gone, and left out")
        by_content([*lines, *(self.given or ())], names, asked)  # none against another
        self._own |= files
        return {**self._own, **given}

    def go_on(self) -> Round | None:
        """The round that waits for answers, if there is one.

        Raises:
            InputError: There are too few pictures or labels.
        """
        self._check()
        for _ in range(self.plan.budget + len(self.asked.rounds) + 2):
            for each in self.asked.rounds:
                if any(one not in self.labels for one in each.contents if one in self._row):
                    return each
            following = self._following()
            if following is None:
                return None
            self.asked.rounds.append(following)
            self._write()
        raise DamageError(f"{self.folder / ROUNDS} has more rounds than pictures; choose another --out (out=…)")

    def _check(self) -> None:
        """Check that there are as many pictures, and labels, as are asked for.

        Raises:
            InputError: There are fewer.
        """
        self._drop(self.plan.budget, held_out=False)
        self._drop(self.held_out or 0, held_out=True)
        asked = len(self.asked.contents(held_out=False))
        if asked > self.plan.budget:
            raise InputError(
                f"the budget is {self.plan.budget}, but {asked} pictures were asked for already; raise --budget "
                "(budget=…)"
            )
        held = max((self.held_out or 0) - len(self.asked.contents(held_out=True)), 0)
        wanted = self.plan.budget - asked + held
        more = f" and {self.held_out} held out" if self.held_out else ""
        left = len(np.setdiff1d(self._open, [*self._rows(held_out=False), *self._rows(held_out=True)]))
        there = left + asked + len(self.asked.contents(held_out=True))
        if wanted > left:
            which = "different operation pictures" if self.given is None else "different pictures with a label"
            raise InputError(
                f"the budget is {self.plan.budget}{more}, but there are only {there:,} {which}; lower --budget "
                "(budget=…), or begin anew with more by another --out (out=…)"
            )

    def _drop(self, most: int, *, held_out: bool) -> None:
        """Ask no more for the last rounds without any answer, as far as they are beyond the number of a kind."""
        while len(self.asked.contents(held_out=held_out)) > most:
            last = next(each for each in reversed(self.asked.rounds) if each.held_out == held_out)
            if any(each in self.labels for each in last.contents):
                return
            self.asked.rounds.remove(last)
            for ending in (".csv", ".png"):
                (self.folder / f"{last.name}{ending}").unlink(missing_ok=True)

    def _rows(self, *, held_out: bool) -> list[int]:
        """The pictures that were asked for and are there."""
        return [self._row[each] for each, _ in self.asked.contents(held_out=held_out) if each in self._row]

    def _class(self, row: int) -> int | None:
        label = self.labels.get(self.pictures.contents[row], UNKNOWN)
        return None if label == UNKNOWN else self.classes.index(label)

    def _labelled(self, rows: Sequence[int]) -> tuple[Integers, Integers]:
        """Those of some pictures that have a label, and the labels."""
        pairs = [(row, label) for row in rows if (label := self._class(row)) is not None]
        found = np.array(pairs, np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    @property
    def _medoids(self) -> Integers | None:
        """The medoids, of those pictures that are still there."""
        if self.asked.medoids is None:
            return None
        there = [self._row[each] for each in self.asked.medoids if each in self._row]
        return np.array(there, np.int64) if len(there) == self.plan.recipe.clusters else None

    def _following(self) -> Round | None:
        """The next round; None if all was asked."""
        rows, held = self._rows(held_out=False), self._rows(held_out=True)
        asked = len(self.asked.contents(held_out=False))
        closed = np.union1d(np.setdiff1d(np.arange(len(self._row)), self._open), [*rows, *held]).astype(np.int64)
        if asked < self.plan.budget:
            labelled, labels = self._labelled(rows)
            more, drawn = next_round(
                self.plan, self.pictures.outputs, labelled, labels, asked=asked, closed=closed, medoids=self._medoids
            )
            return self._round("round", more, drawn.tolist(), held_out=False)
        missing = (self.held_out or 0) - sum(map(len, self._others()))
        if self.given is None and missing > 0:
            rest = np.setdiff1d(self._open, [*closed, *self._others()[1]])
            more = np.random.default_rng([self.plan.seed, asked, len(held)]).permutation(rest)[:missing]
            return self._round("held-out", more, [True] * len(more), held_out=True)
        return None

    def _round(self, kind: str, rows: Integers, drawn: list[bool], *, held_out: bool) -> Round:
        name = f"{kind}-{1 + sum(each.held_out == held_out for each in self.asked.rounds)}"
        contents = [self.pictures.contents[row] for row in rows.tolist()]
        return Round(name=name, contents=contents, drawn=drawn, held_out=held_out)

    def ask(self, asked: Round, pool: Pool, index: Path) -> Asking:
        """Write the questions of a round, if they are not there, and say where.

        Args:
            asked: The round.
            pool: The pictures as the network takes them.
            index: The list of the pool.

        Raises:
            InputError: A picture is not what the network saw.
        """
        table, sheet = (self.folder / f"{asked.name}{ending}" for ending in (".csv", ".png"))
        there = {each: number for each, number in asked.numbered.items() if each in self._row}
        whole = is_taken(table) and {each.content for each in read_answers(table)} >= {*there} - {*self.labels}
        if not whole or not is_taken(sheet):
            files = self.pictures.files[[self._row[each] for each in there]].tolist()
            self._check_same(dict(zip(files, there, strict=True)), pool, index)
            with Pool(index, (pool.shape[0], SIDE, SIDE), pool.most) as larger:
                images, _ = larger.read(files)
            title = f"{asked.name}: {len(there)} pictures, by their numbers in {table.name}"
            write_sheet([Band(title, images, list(map(str, there.values())), SIDE)], sheet)
        if not whole:
            write_atomically(table, questions(there, self.pictures.shown, self.labels))
        answered = sum(each in self.labels for each in there)
        every = [each for part in self.asked.rounds for each in part.contents]
        labelled = sum(self.labels.get(each, UNKNOWN) != UNKNOWN for each in every)
        return Asking(asked.name, table, sheet, tuple(self.classes), len(there), answered, labelled)

    def _check_same(self, files: Mapping[int, str], pool: Pool, index: Path) -> None:
        """Check that files have the contents that the network saw.

        Raises:
            InputError: Some have not.
        """
        rows = list(files)
        for first in range(0, len(rows), CHUNK):
            some = rows[first : first + CHUNK]
            images, failures = pool.read(some)
            changed = [row for row, _ in failures]
            there = [row for row in some if row not in changed]
            pairs = zip(there, images, strict=True)
            changed += [row for row, image in pairs if content(image).hex() != files[row]]
            if changed:
                raise InputError(
                    f"{len(changed)} of the pictures are not as the network saw them, such as "
                    f"{printable(pool.name(changed[0]))}; restore them, or delete {index.parent}, and all are read "
                    "again"
                )

    def ended(self, pool: Pool, index: Path) -> Labelled:
        """What was labelled.

        Args:
            pool: The pictures as the network takes them.
            index: The list of the pool.

        Raises:
            InputError: It is too little, or no picture is there any more.
        """
        pairs = [(each, drawn) for each, drawn in self.asked.contents(held_out=False) if each in self._row]
        rows, labels = self._labelled([self._row[each] for each, _ in pairs])
        if len(rows) < 2:
            raise InputError(
                f"a calibrator needs at least two labelled pictures, but of {len(pairs)} that were asked for "
                f"{len(rows)} could be labelled; raise --budget (budget=…)"
            )
        fair = {self._row[each] for each, drawn in pairs if drawn}
        held, held_labels = self._held(rows)
        since = (index.parent / MARKS).stat().st_mtime
        files = {int(self.pictures.files[row]): self.pictures.contents[row] for row in [*rows.tolist(), *held.tolist()]}
        later = {row: each for row, each in files.items() if _modified(pool.name(row)) > since}
        self._check_same(later, pool, index)
        self._note(pairs, rows)
        images = np.empty((0, *pool.shape), np.uint8)
        order = np.random.default_rng(self.plan.seed).permutation(self.pictures.files)
        for first in range(0, len(order), SOME):
            images, _ = pool.read(order[first : first + SOME].tolist())
            if len(images):
                break
        else:
            raise InputError("none of the operation pictures can be read any more; restore them")
        return Labelled(
            self.pictures.outputs, images, rows, labels, np.array([row in fair for row in rows.tolist()], bool), held,
            held_labels, self._medoids, self.pictures.about, tuple(self.notes),
        )  # fmt: skip

    def _others(self) -> tuple[list[int], list[int]]:
        """The pictures that were asked for as held out, and others with a label that were not asked for."""
        asked, every = self._rows(held_out=True), {*self._rows(held_out=False), *self._rows(held_out=True)}
        return asked, [row for row in range(len(self._row)) if row not in every and self._class(row) is not None]

    def _held(self, rows: Integers) -> tuple[Integers, Integers]:
        """The labelled pictures that no calibrator sees, and their classes."""
        asked, others = self._others()
        if self.held_out is not None:
            drawn = np.random.default_rng([self.plan.seed, len(rows)]).permutation(others)
            others = sorted(drawn[: max(self.held_out - len(asked), 0)].tolist())
        return self._labelled([*asked, *others])

    def _note(self, pairs: Sequence[tuple[str, bool]], rows: Integers) -> None:
        """Note what users may not expect of the pictures and their labels."""
        if self.pictures.unreadable:
            self.notes.append(self.pictures.unreadable)
        if gone := sum(each not in self._row for part in self.asked.rounds for each in part.contents):
            self.notes.append(f"{gone:,} pictures that were asked for are no longer there, and are left out")
        held = sum(self._class(row) is None for row in self._rows(held_out=True))
        for unknown, what in ((len(pairs) - len(rows), "asked for"), (held, "held out")):
            if unknown > 0:
                self.notes.append(
                    f"{unknown} of the pictures that were {what} could not be labelled, and are left out: figures are "
                    "of images that can be"
                )
        if self.given is not None and len(self._open) < len(self._row):
            self.notes.append(
                f"{len(self._open):,} of {len(self._row):,} different pictures have a label; what is found of these "
                "holds for the others if they were drawn at random"
            )


def _modified(name: str) -> float:
    """When a file was changed last; never, if it is none."""
    try:
        return Path(name).stat().st_mtime
    except OSError:
        return -math.inf
