"""What a run picked of a pool for its student: how many images, how many of them belong, and what to make of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nasplat.data.picked import ABOUT, FOLDER, SHEET, about
from nasplat.run.directory import RunDirectory


@dataclass(frozen=True, slots=True)
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
            RunError: It is damaged.
        """
        place = run.folder / FOLDER
        return cls(about(place), place) if (place / ABOUT).is_file() else None

    @property
    def sheet(self) -> Path | None:
        """The contact sheet, if there is one."""
        path = None if self.folder is None else self.folder / SHEET
        return path if path is not None and path.is_file() else None

    @property
    def notes(self) -> list[str]:
        """What users should know, one line each."""
        return list(map(str, self.found["notes"]))

    def rows(self) -> list[tuple[str, str]]:
        """What was picked, as names and values."""
        found, pool = self.found, self.found["pool"]
        prior, precision, recall = found["prior"], found["precision"], found["recall"]
        positives = found["positives"]
        belong = [found["picked"] * precision[end] for end in ("value", "low", "high")]
        left = [f"{pool[name]:,} {name}" for name in ("unreadable", "labelled again") if pool[name]]
        said = "given" if prior["given"] else "estimated"
        rows = [
            ("pool", f"{pool['images']:,} images of {', '.join(pool['sources'])}{''.join(f'; {e}' for e in left)}"),
            (
                "positives",
                f"{sum(positives['training'].values()):,} labelled images; {positives['validation']:,} for validation, "
                f"{positives['test']:,} for test",
            ),
            ("prior", f"{_share(prior)} of the pool belongs ({said})"),
            ("picked", f"{found['picked']:,}; about {belong[0]:,.0f} ({belong[1]:,.0f} to {belong[2]:,.0f}) belong"),
            ("precision", f"{_share(precision)} (estimated)"),
            ("recall", f"{_share(recall)} of held-out positives would be picked"),
            (
                "separation",
                f"{found['separation']:.1%} of held-out positives score among the best {prior['value']:.1%}",
            ),
            (
                "teacher",
                f"accuracy {found['teacher']['validation']:.4f} on the validation images, "
                f"{found['teacher']['labelled images']:.4f} on the positives",
            ),
            ("by class", ", ".join(f"{name} {count:,}" for name, count in found["picked by class"].items())),
        ]
        if self.sheet is not None:
            rows.append(("sheet", str(self.sheet)))
        return rows

    def lines(self) -> list[str]:
        """The picking for people, one line each, its notes last."""
        return [*(f"{name:10} {value}" for name, value in self.rows()), *(f"note: {note}" for note in self.notes)]


def _share(estimate: Mapping[str, float]) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1%}" if low == high else f"{value:.1%} ({low:.1%} to {high:.1%})"
