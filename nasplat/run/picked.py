"""What a run picked of a pool for its student: how many images, how many of them belong, and what to make of it."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nasplat.data.picked import ABOUT, FOLDER, SHEET, about
from nasplat.errors import DamageError, printable
from nasplat.options import explain
from nasplat.run.directory import RunDirectory
from nasplat.storage.files import opened

LARGEST_SHEET = 1 << 23
"""Bytes of a contact sheet; without compression one has 3 MB."""
PNG = b"\x89PNG\r\n\x1a\n"

Text = Annotated[str, AfterValidator(printable)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    """A part of what `picking.json` says. The run may be anybody's, so that it may say anything."""

    model_config = ConfigDict(strict=True)


class _Estimate(_Part):
    value: Share
    low: Share
    high: Share

    def __str__(self) -> str:
        whole = f"{self.value:.1%}"
        return whole if self.low == self.high else f"{whole} ({self.low:.1%} to {self.high:.1%})"


class _Prior(_Estimate):
    given: bool


class _Positives(_Part):
    training: dict[Text, Count]
    validation: Count
    test: Count


class _Pool(_Part):
    sources: list[Text]
    images: Count
    unreadable: Count
    labelled_again: Count = Field(alias="labelled again")


class _Teacher(_Part):
    validation: Share
    positives: Share = Field(alias="labelled images")


class _Said(_Part):
    """What is shown of a picking."""

    pool: _Pool
    positives: _Positives
    prior: _Prior
    picked: Count
    by_class: dict[Text, Count] = Field(alias="picked by class")
    precision: _Estimate
    recall: _Estimate
    separation: Share
    teacher: _Teacher
    notes: list[Text]


@dataclass(frozen=True)
class Picked:
    """A picking.

    Args:
        found: What `picking.json` says.
        folder: Where it is; None before there is a run.
    """

    found: Mapping[str, Any]
    folder: Path | None = None

    @classmethod
    def of(cls, run: RunDirectory) -> Self | None:
        """The picking of a run; None if it has none.

        Raises:
            DamageError: It is damaged.
        """
        place = run.folder / FOLDER
        if not (place / ABOUT).is_file():
            return None
        picked = cls(about(place), place)
        try:
            _ = picked.said
        except ValidationError as error:
            problem = printable(explain(error, "", _Said))
            raise DamageError(f"{place / ABOUT} is damaged: {problem}; pick the images again") from error
        return picked

    @cached_property
    def said(self) -> _Said:
        """What is shown of it.

        Raises:
            ValueError: It is damaged.
        """
        return _Said.model_validate(self.found)

    @property
    def sheet(self) -> Path | None:
        """The contact sheet, if there is one: a file of its own, no larger than one is, which begins as PNG does."""
        path = None if self.folder is None else self.folder / SHEET
        return path if path is not None and _is_sheet(path) else None

    @property
    def notes(self) -> list[str]:
        """What users should know, one line each."""
        return self.said.notes

    def rows(self) -> list[tuple[str, str]]:
        """What was picked, as names and values."""
        said, pool, positives, prior = self.said, self.said.pool, self.said.positives, self.said.prior
        precision, teacher = said.precision, said.teacher
        value, low, high = (said.picked * share for share in (precision.value, precision.low, precision.high))
        left = {"unreadable": pool.unreadable, "labelled again": pool.labelled_again}
        without = "".join(f"; {count:,} {name}" for name, count in left.items() if count)
        rows = [
            ("pool", f"{pool.images:,} images of {', '.join(pool.sources)}{without}"),
            (
                "positives",
                f"{sum(positives.training.values()):,} labelled images; {positives.validation:,} for validation, "
                f"{positives.test:,} for test",
            ),
            ("prior", f"{prior} of the pool belongs ({'given' if prior.given else 'estimated'})"),
            ("picked", f"{said.picked:,}; about {value:,.0f} ({low:,.0f} to {high:,.0f}) belong"),
            ("precision", f"{precision} (estimated)"),
            ("recall", f"{said.recall} of held-out positives would be picked"),
            ("separation", f"{said.separation:.1%} of held-out positives score among the best {prior.value:.1%}"),
            (
                "teacher",
                f"accuracy {teacher.validation:.4f} on the validation images, {teacher.positives:.4f} on the positives",
            ),
            ("by class", ", ".join(f"{name} {count:,}" for name, count in said.by_class.items())),
        ]
        if self.sheet is not None:
            rows.append(("sheet", str(self.sheet)))
        return rows

    def lines(self) -> list[str]:
        """The picking for people, one line each, its notes last."""
        return [*(f"{name:10} {value}" for name, value in self.rows()), *(f"note: {note}" for note in self.notes)]


def _is_sheet(path: Path) -> bool:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_SHEET:
            return False
        with opened(path) as file:
            return file.read(len(PNG)) == PNG
    except OSError:
        return False
