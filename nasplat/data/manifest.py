"""The identity of data: which files a run was trained on, with their contents, and what was computed from them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from nasplat.data.digests import DataFile, described, in_threads, is_large, is_same, stated
from nasplat.errors import DamageError, InputError

if TYPE_CHECKING:
    from nasplat.data.examples import Scaling

FORMAT = "nasplat data 1"
DATA = "data"
"""The purpose of the data that networks are trained and measured on."""
NAMED = 3
SAME_CONTENT = "they have the content of images of another part"
"""The number of files that a message names of each kind of change."""
REMEDY = (
    "restore the data, or go on with --accept-changed-data (accept_changed_data=True): what is still there keeps its "
    "part, new images are for "
    "training alone, and the run records the change"
)


class DataChanged(InputError):
    """Data is not what a run recorded.

    Args:
        what: What has changed.
        remedy: What users can do; left out where they read of it later, as in an export.
        kept: The number of recorded files that are still there.
    """

    def __init__(self, what: str, remedy: str = REMEDY, kept: int = 0) -> None:
        super().__init__(what, remedy, kept)
        self.what = what
        self.remedy = remedy
        self.kept = kept

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences between recorded data and the data that is there.

    Args:
        added: Files that were not there.
        removed: Files that are missing.
        changed: Files with another content.
        renamed: New names by old ones, of files with the same content.
        classes: The change of the classes; empty if there is none.
        now: The records of added and changed files.
        kept: The number of recorded files that are there, perhaps under another name.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    classes: str = ""
    now: Mapping[str, DataFile] = field(default_factory=dict)
    kept: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.renamed or self.classes)

    def __str__(self) -> str:
        kinds = {
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            "renamed": [f"{old} to {new}" for old, new in self.renamed.items()],
        }
        said = [self.classes] if self.classes else []
        for kind, names in kinds.items():
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                said.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})")
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run was trained on.

    Args:
        dataset: The name of the data set.
        parts: The files of each part: ``training``, ``validation`` and ``test``, or another name if the data set
            splits the content of its files.
        classes: The names of the classes, in the order of their numbers.
        side: The height and width to which images are resized, in pixels; None if they are not.
        images: The number of training images with which the run began; None if it is unknown. The default batch size
            follows from it.
        subset: The subset of training images that `images`, `mean` and `std` are of; None if it was all of them.
        mean: The mean of each channel of the training images, in 0..255; empty if they are not standardized by it.
        std: The standard deviation, likewise.
        left_out: Files that are in no part, since their content is in another one.
        sampled: Whether digests are of the beginning and the end of files only, since there is too much data.
        notes: What users should know about the data, one line each.
        accepted: Changes that were accepted later: ``time`` and ``changes`` of each.
    """

    dataset: str
    parts: Mapping[str, tuple[DataFile, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    side: int | None = None
    images: int | None = None
    subset: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    left_out: tuple[DataFile, ...] = ()
    sampled: bool = False
    notes: tuple[str, ...] = ()
    accepted: tuple[Mapping[str, str], ...] = ()

    @property
    def files(self) -> dict[str, DataFile]:
        """All files of the parts, by name."""
        return {file.name: file for files in self.parts.values() for file in files}

    @property
    def known(self) -> dict[str, DataFile]:
        """All recorded files by name, also those that are left out."""
        return self.files | {file.name: file for file in self.left_out}

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON; `of_json` is the inverse."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "classes": list(self.classes),
            "side": self.side,
            "images": self.images,
            "subset": self.subset,
            "mean": list(self.mean),
            "std": list(self.std),
            "notes": list(self.notes),
            "accepted": [dict(each) for each in self.accepted],
            "sampled": self.sampled,
            "left_out": _rows_of(self.left_out),
            "parts": {part: _rows_of(files) for part, files in self.parts.items()},
        }

    @classmethod
    def of_json(cls, document: Any) -> Self:
        """Read what `to_json` gave.

        Raises:
            DamageError: It is something else.
        """
        try:
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, and this version reads {FORMAT!r}")
            return cls(
                dataset=str(document["dataset"]),
                classes=tuple(map(str, document["classes"])),
                side=_count(document["side"]),
                images=_count(document["images"]),
                subset=_count(document["subset"]),
                mean=tuple(map(float, document["mean"])),
                std=tuple(map(float, document["std"])),
                left_out=tuple(map(_file_of, document["left_out"])),
                sampled=bool(document["sampled"]),
                notes=tuple(map(str, document["notes"])),
                accepted=tuple({str(k): str(v) for k, v in each.items()} for each in document["accepted"]),
                parts={str(part): tuple(map(_file_of, rows)) for part, rows in document["parts"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamageError(
                f"the run's record of its data, data.json, is damaged: {type(error).__name__}: {error}; "
                "`nasplat recover` makes a run without this record"
            ) from error

    def scaled(self, scaling: "Scaling | None", images: int, subset: int | None) -> "Manifest":
        """The manifest with the number and the scaling of the training images of a subset."""
        if scaling is None:
            return replace(self, images=images, subset=subset)
        mean, std = (tuple(each.flatten().tolist()) for each in (scaling.mean, scaling.std))
        return replace(self, images=images, mean=mean, std=std, subset=subset)

    def scaling(self, side: int | None, subset: int | None) -> "Scaling | None":
        """The recorded scaling, if it is of images of this side, and of the same subset; else None."""
        if not self.mean or (side, subset) != (self.side, self.subset):
            return None
        import torch

        from nasplat.data.examples import Scaling

        return Scaling(*(torch.tensor(each, dtype=torch.float32)[:, None, None] for each in (self.mean, self.std)))

    def differences(self, folder: Path, present: Iterable[str] | None = None) -> Changes:
        """Compare the recorded files with those in a folder.

        Args:
            folder: The folder of the data.
            present: The names of all files of the data set that are there now; None to look for the files of the
                parts only, so that further files do not count.
        """
        recorded = self.files if present is None else self.known
        there = {name for name in recorded if (folder / name).is_file()} if present is None else set(present)
        kept = [file for name, file in recorded.items() if name in there]
        changed = [file.name for file, same in zip(kept, in_threads(is_same, folder, kept), strict=True) if not same]
        removed, added = [name for name in recorded if name not in there], sorted(there - recorded.keys())
        now = {file.name: file for file in described(folder, [*changed, *added], sampled=self.sampled)}
        by_digest: dict[str, list[str]] = {}
        for name in added:
            by_digest.setdefault(now[name].digest, []).append(name)
        renamed = {name: candidates.pop(0) for name in removed if (candidates := by_digest.get(recorded[name].digest))}
        return Changes(
            added=tuple(name for name in added if name not in renamed.values()),
            removed=tuple(name for name in removed if name not in renamed),
            changed=tuple(changed),
            renamed=renamed,
            now=now,
            kept=len(kept) - len(changed) + len(renamed),
        )

    def check(self, folder: Path, changes: Changes, remedy: str = REMEDY) -> None:
        """Refuse changed data.

        Raises:
            DataChanged: There are changes; the message names them.
        """
        if changes:
            what = f"the data in {folder} is not what the run recorded for {self.dataset}: {changes}"
            raise DataChanged(what, remedy, changes.kept)

    def refreshed(self, folder: Path) -> "Manifest":
        """The same manifest with the times that unchanged files have today, so that they need not be read again."""

        def today(files: Sequence[DataFile]) -> tuple[DataFile, ...]:
            return tuple(replace(stated(folder, f.name), digest=f.digest, label=f.label) for f in files)

        parts = {part: today(files) for part, files in self.parts.items()}
        return replace(self, parts=parts, left_out=today(self.left_out))

    def keeping(self, files: Sequence[DataFile], folder: Path) -> dict[str, Any]:
        """The recorded split for files that are there now: `parts`, `left_out` and `notes` of a manifest.

        An image that was renamed or moved is recognized by its content and keeps its part. New ones are for training,
        unless their content is in another part already: then they are left out. So no test image is trained on.

        Raises:
            InputError: No file of a part is left.
        """
        part_of = {file.name: part for part, rows in self.parts.items() for file in rows}
        by_content = {file.digest: part for part, rows in self.parts.items() for file in rows}
        recorded, parts, left_out = self.files, {part: list[DataFile]() for part in self.parts}, []
        at_home = {f.digest for f in files if f.name in recorded and recorded[f.name].digest == f.digest}
        for file in files:
            part = by_content.get(file.digest)
            if part is None:
                parts[part_of.get(file.name, "training")].append(file)
            elif part == "training" or part == part_of.get(file.name):
                parts[part].append(file)
            elif file.digest in at_home:  # a copy of an image of another part
                left_out.append(file)
            else:
                at_home.add(file.digest)
                parts[part].append(file)
        if empty := [part for part, rows in parts.items() if not rows and self.parts[part]]:
            raise InputError(f"no images of {' and '.join(empty)} are left in {folder}; restore some")
        notes = tuple(note for note in self.notes if SAME_CONTENT not in note)
        if left_out:
            notes = (*notes, f"{len(left_out)} images, such as {left_out[0].name}, are left out, since {SAME_CONTENT}")
        return {"parts": {p: tuple(rows) for p, rows in parts.items()}, "left_out": tuple(left_out), "notes": notes}

    def going_on(self, changes: Changes, **others: Any) -> "Manifest":
        """The manifest with other values, and a record of the changes that were accepted."""
        if not changes:
            return self
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, accepted=(*self.accepted, {"time": now, "changes": str(changes)}), **others)


def manifest_of(recorded: Mapping[str, Any] | None, purpose: str) -> Manifest | None:
    """The manifest for a purpose in what a run recorded; None if there is none.

    Raises:
        DamageError: It is damaged.
    """
    return None if recorded is None or purpose not in recorded else Manifest.of_json(recorded[purpose])


def recorded_images(recorded: Mapping[str, Any] | None, purpose: str, subset: int | None) -> int | None:
    """The number of training images with which a run began, if it is recorded for this subset; else None.

    The files are not looked at, since every trial asks for this number.
    """
    document = (recorded or {}).get(purpose)
    return document["images"] if document is not None and document["subset"] == subset else None


def notes_of(recorded: Mapping[str, Any] | None) -> list[str]:
    """What users should know about the data of a run, one line each."""
    return [note for each in (recorded or {}).values() for note in Manifest.of_json(each).notes]


def accepted_in(recorded: Mapping[str, Any] | None) -> list[str]:
    """The changes of a run's data that were accepted, one line each."""
    manifests = [Manifest.of_json(each) for each in (recorded or {}).values()]
    return [f"{each['time']}: {each['changes']}" for manifest in manifests for each in manifest.accepted]


def manifests(purpose: str, make: Callable[[], Manifest] | None) -> dict[str, Any]:
    """A manifest as JSON under the name of its purpose; empty for data without files."""
    return {} if make is None else {purpose: make().to_json()}


def one_file(name: str, path: Path) -> Manifest:
    """The manifest of data that is a single file, such as a table.

    Raises:
        InputError: The file cannot be read.
    """
    sampled = is_large(path.parent, [path.name])
    return Manifest(name, {"file": tuple(described(path.parent, [path.name], sampled=sampled))}, sampled=sampled)


FILE_REMEDY = "restore the file, or go on with --accept-changed-data (accept_changed_data=True), which the run records"


def check_file(recorded: Manifest | None, path: Path) -> None:
    """Refuse a file that is not the recorded one. Its folder may be another one.

    Raises:
        DataChanged: The content differs, or the file is missing.
    """
    if recorded is not None:
        recorded.check(path.parent, _changes_of_file(recorded, path), FILE_REMEDY)


def accepted_file(recorded: Manifest | None, name: str, path: Path) -> Manifest:
    """The manifest of data that is a single file, with a record of its change, if it has changed.

    Raises:
        InputError: The file cannot be read.
    """
    now = one_file(name, path)
    return now if recorded is None else recorded.going_on(_changes_of_file(recorded, path), parts=now.parts)


def _changes_of_file(recorded: Manifest, path: Path) -> Changes:
    return recorded.differences(path.parent, [path.name] if path.is_file() else [])


def _rows_of(files: Sequence[DataFile]) -> list[list[object]]:
    return [[file.name, file.size, file.changed_ns, file.digest, file.label] for file in files]


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _file_of(row: Any) -> DataFile:
    name, size, changed_ns, digest, label = row
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"a file must lie below the folder of the data, but one is named {name!r}")
    return DataFile(str(name), int(size), int(changed_ns), str(digest), None if label is None else int(label))
