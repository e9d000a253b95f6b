"""Labels that people gave to pictures: read from CSV files, and refused where they contradict one another."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasplat.errors import InputError, printable
from nasplat.storage.files import read_file

COLUMNS = ("number", "picture", "label", "content")
"""The columns of a file of questions. `number` is that of the contact sheet, `content` a digest of the picture."""
NOBODY_KNOWS = "?"
"""The label of a picture that nobody can label."""
LARGEST = 1 << 28
"""Bytes of a file of labels."""
NAMED = 3
"""The largest number of examples that one error names."""


@dataclass(frozen=True)
class Names:
    """The operation pictures by their names and contents.

    Args:
        absolute: The path of each picture, or the data set and its number there.
        relative: The path below the folder.
        contents: A digest of each picture, as networks are given it.
    """

    absolute: Sequence[str]
    relative: Sequence[str]
    contents: Sequence[str]
    _rows: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        several: set[str] = set()
        for names in ([Path(each).name for each in self.relative], self.relative):
            found: dict[str, int] = {}
            for row, name in enumerate(names):
                if found.setdefault(name, row) != row:
                    several.add(name)
            self._rows.update(found)
        for name in several:  # it may be any of them
            del self._rows[name]
        self._rows.update((name, row) for row, name in enumerate(self.absolute))

    def row(self, name: str) -> int | None:
        """The row of a picture by its path, its path below the folder, or its file name if no other has it."""
        return self._rows.get(name) if name in self._rows else self._rows.get(str(Path(name).absolute()))


@dataclass(frozen=True, slots=True)
class Answers:
    """The labels of operation pictures.

    Args:
        labels: The class of each row that has one.
        unknown: The rows that nobody can label.
    """

    labels: Mapping[int, int] = field(default_factory=dict)
    unknown: frozenset[int] = frozenset()

    def __contains__(self, row: int) -> bool:
        return row in self.labels or row in self.unknown

    @property
    def rows(self) -> NDArray[np.int64]:
        """The labelled rows, rising."""
        return np.array(sorted(self.labels), np.int64)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer and where it stands.

    Args:
        where: The file and the line, or what else it is from.
        picture: The name of the picture.
        label: The name of its class.
        content: The digest of the picture, if it stands there.
    """

    where: str
    picture: str
    label: str
    content: str = ""


def read_answers(path: Path) -> Iterator[Said]:
    """The answers of a CSV file with the columns `picture` and `label`; those without a label are left out.

    Commas, semicolons and tabs may be between columns, as spreadsheets write them.

    Raises:
        InputError: The file cannot be read, or has no such columns.
    """
    try:
        text = read_file(path, LARGEST).decode("utf-8-sig")
        head = text.partition("\n")[0]
        delimiter = max(",;\t", key=head.count)
        lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [str(name).strip().lower() for name in lines.fieldnames or ()]
        if not {"picture", "label"} <= set(columns):
            shown = ", ".join(columns)[:80] or "nothing"
            raise InputError(
                f"a file of labels has the columns picture and label, but {path} begins with {printable(shown)}; name "
                "them in its first line"
            )
        lines.fieldnames = columns
        for each in lines:
            picture, label = ((each[name] or "").strip() for name in ("picture", "label"))
            if label:
                yield Said(f"{path.name}, line {lines.line_num}", picture, label, (each.get("content") or "").strip())
    except OSError as error:
        raise InputError(f"the labels {path} cannot be read: {error.strerror or error}; give another file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}; save it as one") from error


def gathered(said: Sequence[Said], names: Names, classes: Sequence[str]) -> Answers:
    """The answers by rows.

    Pictures of the same content are one picture.

    Args:
        said: The answers, empty ones left out.
        names: The operation pictures.
        classes: The names of the classes.

    Raises:
        InputError: A picture is none of the operation pictures or has changed, a label is none of the classes, or a
            picture has two labels.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    rows = [names.row(each.picture) for each in said]
    if missing := [each for each, row in zip(said, rows, strict=True) if row is None]:
        raise InputError(
            f"{len(missing):,} of {len(said):,} labels are of pictures that are not in the operation folder, such as "
            f"{_named([f'{each.picture} ({each.where})' for each in missing])}; give the labels of these pictures, by "
            "their path below the folder"
        )
    wrong = [each for each in said if each.label not in numbers and each.label != NOBODY_KNOWS]
    if wrong:
        shown = ", ".join(map(repr, classes[:20])) + (", …" if len(classes) > 20 else "")
        raise InputError(
            f"{len(wrong):,} labels are none of the classes, such as "
            f"{_named([f'{each.label!r} ({each.where})' for each in wrong])}; the classes are {shown}; write "
            f"{NOBODY_KNOWS} for a picture that is of none of them"
        )
    labels: dict[int, int] = {}
    unknown: set[int] = set()
    first: dict[str, Said] = {}
    for each, row in zip(said, rows, strict=True):
        assert row is not None
        content = names.contents[row]
        if each.content and each.content != content:
            raise InputError(
                f"{each.picture} is not the picture that was asked for ({each.where}): its content is another; restore "
                "it, or label again"
            )
        before = first.setdefault(content, each)
        if before.label != each.label:
            raise InputError(
                f"a picture is labelled twice and differently: {before.label!r} ({before.picture}, {before.where}) and "
                f"{each.label!r} ({each.picture}, {each.where}); leave one of them"
            )
        if each.label == NOBODY_KNOWS:
            unknown.add(row)
        else:
            labels[row] = numbers[each.label]
    return Answers(labels, frozenset(unknown))


def questions(rows: Sequence[int], names: Names) -> str:
    """A CSV file that asks for the labels of pictures."""
    with io.StringIO(newline="") as text:
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        for number, row in enumerate(rows, 1):
            table.writerow([number, names.relative[row], "", names.contents[row]])
        return text.getvalue()


def _named(texts: Sequence[str]) -> str:
    return ", ".join(printable(text[:120]) for text in texts[:NAMED])
