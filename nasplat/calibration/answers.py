"""Labels that people gave to pictures: read from CSV files, and refused where they contradict one another.

A picture is known by its content, a digest of it as networks are given it. Its names lead to that.
"""

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nasplat.errors import InputError, printable
from nasplat.storage.files import read_file

COLUMNS = ("number", "picture", "label", "content")
"""The columns of a file of questions. `number` is that of the contact sheet, `content` a digest of the picture."""
UNKNOWN = "?"
"""The label of a picture whose class is not known."""
DIGEST = re.compile("[0-9a-f]{32}")
"""What is a content; a column of this name may hold anything else."""
LARGEST = 1 << 28
"""Bytes of a file of labels."""
NAMED = 3
"""The largest number of examples that one error names."""

Labels = dict[str, str]
"""The class of each picture by its content; `UNKNOWN` where it has none."""


class Names:
    """The names of operation pictures.

    Args:
        absolute: The path of each file, or the data set and its number there.
        relative: The path below the folder.
        contents: The content of each file; empty if it cannot be read.
    """

    def __init__(self, absolute: Sequence[str], relative: Sequence[str], contents: Sequence[str]) -> None:
        self._contents: dict[str, str] = {}
        self.known = set(contents) - {""}
        alone = [Path(each).name for each in relative]
        real = cache(os.path.realpath)
        resolved = [os.path.join(real(folder), name) for folder, name in map(os.path.split, absolute)]  # noqa: PTH118
        for names in (alone, relative, resolved, absolute):  # a path counts more than the name of another file
            several: set[str] = set()
            found: dict[str, str] = {}
            for name, content in zip(names, contents, strict=True):
                if found.setdefault(name, content) != content:
                    several.add(name)
            self._contents |= found
            for name in several:  # it may be any of them
                del self._contents[name]

    def content(self, name: str) -> str | None:
        """The content of a picture by its path, its path below the folder, or its file name if no other has it.

        It is empty if the picture cannot be read, and None if there is no such picture.
        """
        for spelling in (name, name.strip()):
            if (found := self._contents.get(spelling)) is not None:
                return found
        return None if "\0" in name else self._contents.get(os.path.realpath(name.strip()))


@dataclass(frozen=True, slots=True)
class Said:
    """One answer and where it stands.

    Args:
        where: The file and the line, or what else it is from.
        picture: The name of the picture.
        label: The name of its class; empty if it has none yet.
        content: The digest of the picture, if it stands there.
    """

    where: str
    picture: str
    label: str
    content: str = ""


def read_answers(path: Path) -> Iterator[Said]:
    """The lines of a CSV file with the columns `picture` and `label`.

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
            picture, label, content = (each.get(name) or "" for name in ("picture", "label", "content"))
            digest = content.strip() if DIGEST.fullmatch(content.strip()) else ""
            yield Said(f"{path}, line {lines.line_num}", picture, label.strip(), digest)
    except OSError as error:
        raise InputError(f"the labels {path} cannot be read: {error.strerror or error}; give another file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} is no CSV file in UTF-8: {error}; save it as such, in a spreadsheet as CSV UTF-8"
        ) from error


def check_classes(said: Iterable[Said], classes: Sequence[str]) -> None:
    """Check that all labels are classes.

    Raises:
        InputError: Some are not.
    """
    known = {*classes, UNKNOWN, ""}
    if wrong := [each for each in said if each.label not in known]:
        shown = ", ".join(map(repr, classes[:20])) + (", …" if len(classes) > 20 else "")
        raise InputError(
            f"{len(wrong):,} labels are none of the classes, such as "
            f"{_named([f'{each.label!r} ({each.where})' for each in wrong])}; the classes are {shown}; write "
            f"{UNKNOWN} for a picture that is of none of them"
        )


def by_content(said: Sequence[Said], names: Names, asked: Collection[str] = ()) -> tuple[Labels, int]:
    """The labels of pictures, and how many others are of pictures that cannot be read, or are gone.

    Args:
        said: The answers; those without a label are left out.
        names: The operation pictures.
        asked: Contents that were asked for, of which some may be gone.

    Raises:
        InputError: A picture is none of the operation pictures or has changed, or has two labels.
    """
    missing, first = list[Said](), dict[str, Said]()
    left_out = 0
    for each in said:
        if not each.label:
            continue
        there = each.content in names.known or each.content in asked
        content = each.content if there else names.content(each.picture)
        if content is None and not each.content:
            missing.append(each)
        elif not content:
            left_out += 1
        elif each.content and each.content != content:
            raise InputError(
                f"{printable(each.picture)} is not the picture that was asked for ({each.where}): its content is "
                "another; restore it, or label again"
            )
        elif (before := first.setdefault(content, each)).label != each.label:
            raise twice(before, each)
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(said):,} labels are of pictures that are not in the operation folder, such as "
            f"{_named([f'{each.picture} ({each.where})' for each in missing])}; give the labels of these pictures, by "
            "their path below the folder"
        )
    return {content: each.label for content, each in first.items()}, left_out


def twice(one: Said, other: Said) -> InputError:
    """The error for two labels of one picture."""
    shown = [f"{each.label!r} ({printable(each.picture)}, {each.where})" for each in (one, other)]
    return InputError(f"a picture is labelled twice and differently: {' and '.join(shown)}; leave one of them")


def questions(numbered: Mapping[str, int], names: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """A CSV file that asks for the labels of pictures.

    Args:
        numbered: The pictures with their numbers on the contact sheet.
        names: Their printable names.
        labels: Those that are known.
    """
    return _table(
        COLUMNS,
        ([str(number), names[each], labels.get(each, ""), each] for each, number in numbered.items()),
    )


def kept(labels: Mapping[str, str], names: Mapping[str, str]) -> str:
    """A CSV file of labels by content, which `read_answers` reads."""
    return _table(COLUMNS[1:], ([names.get(each, ""), label, each] for each, label in labels.items()))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    with io.StringIO(newline="") as text:
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)
        return text.getvalue()


def _named(texts: Collection[str]) -> str:
    return ", ".join(printable(text[:120]) for text in list(texts)[:NAMED])
