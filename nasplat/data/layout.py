"""The layout of a user's folder: which folders are parts of a data set."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nasplat.errors import InputError

NAMES: Mapping[str, tuple[str, ...]] = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""The usual names of the folders of the parts, in any case."""
LIKE_A_PART = re.compile(r"(^|[^a-z])(tr(ai)?n(ing)?|val(id(ation)?)?|dev|test(ing)?|eval(uation)?|holdout)([^a-z]|$)")
"""Names that look like the name of a part, such as ``train_images`` or ``test-2``."""
ADVICE = (
    "name the folders of parts train, val and test (in any case; training, valid, validation, dev and testing are "
    "understood too), or put class folders alone into it"
)


def folders(place: Path) -> list[str]:
    """The sorted names of the folders in a folder, without hidden folders.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        return sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"{place} cannot be read: {error.strerror}; name a folder of images, or, if a run's data was moved, put a "
            f"link to it there (ln -s NEW {place})"
        ) from error


def parts_in(place: Path) -> dict[str, str]:
    """The folders of the parts ``training``, ``validation`` and ``test``, by name; empty if the folder has no parts.

    Raises:
        InputError: The folder cannot be read. Or it has folders of parts, but none for training, several for one
            part, or further folders. Or two folders look like parts but have unusual names.
    """
    names = folders(place)
    found: dict[str, str] = {}
    for part, usual in NAMES.items():
        called = [name for name in names if name.lower() in usual]
        if len(called) > 1:
            raise InputError(f"{place} has several folders for {part}, {' and '.join(called)}; keep one")
        if called:
            found[part] = called[0]
    rest = [name for name in names if name not in found.values()]
    alike = [name for name in rest if LIKE_A_PART.search(name.lower())]
    if not found and len(alike) < 2:
        return {}
    if "training" not in found:
        strange = " and ".join(f"{name}/" for name in [*found.values(), *alike])
        raise InputError(f"{place} has {strange}, but no folder for training is understood; {ADVICE}")
    if rest:
        raise InputError(
            f"{place} has {found['training']}/ and also {rest[0]}/, which is no part; {ADVICE}; "
            f"rename or move {rest[0]}/"
        )
    return found


def suspicions(place: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """What looks wrong in a folder of class folders, one line each."""
    inner = {}
    for name in classes:
        entries = [entry for entry in os.scandir(place / name) if not entry.name.startswith(".")]
        if not entries or not all(entry.is_dir() for entry in entries):
            return ()
        inner[name] = sorted(entry.name for entry in entries)
    first = inner[classes[0]]
    if len(first) < 2 or any(names != first for names in inner.values()):
        return ()
    return (
        f"{', '.join(classes)} in {place} are taken as classes, but each holds the same folders, {', '.join(first)}; "
        f"if those are the classes, {ADVICE}",
    )
