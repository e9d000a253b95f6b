"""What a data set is before it is loaded, and where it comes from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nasplat.architecture import IO
from nasplat.data.examples import Scaling, Splits
from nasplat.data.location import data_folder


def _nothing_to_refuse() -> None:
    pass


def _not_scaled_alike() -> "Scaling | None":
    return None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that is known before it is loaded.

    Args:
        name: What users call it.
        io: Image shape and number of classes.
        load: Reads and splits it; the same split for everybody.
        summary: One line on what it is.
        mirrored: Whether a picture seen in a mirror is as good a picture of its class.
        check: Refuses cheaply what `load` would fail by, above all missing files.
        classes: The names of the classes by number; none where they have no other.
        white: The value of the brightest pixel before images are standardised.
        scaling: How images were standardised that come so; None if that cannot be said.
    """

    name: str
    io: IO
    load: Callable[[], Splits]
    summary: str = ""
    mirrored: bool = False
    check: Callable[[], None] = _nothing_to_refuse
    classes: tuple[str, ...] = ()
    white: float = 255.0
    scaling: "Callable[[], Scaling | None]" = _not_scaled_alike


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set comes from, and how much of it is wanted.

    Args:
        folder: Holds the files; by default the data folder.
        download: Whether missing files may be fetched into the folder.
        subset: So many training and validation images in all, drawn once for everybody; test stays whole.
        side: What the pictures of a folder of one's own are resized to.
    """

    folder: Path | None = None
    download: bool = False
    subset: int | None = None
    side: int | None = None

    @property
    def place(self) -> Path:
        """The folder, given or not."""
        return data_folder() if self.folder is None else self.folder.expanduser()


@dataclass(frozen=True, slots=True)
class Entry:
    """A data set as it is listed; where its files lie is not known yet.

    Args:
        name: What users call it.
        summary: One line on what it is.
        open: Makes it known, without loading it.
    """

    name: str
    summary: str
    open: Callable[[Source], Dataset]

    def known(self, source: Source) -> Dataset:
        """The data set, not loaded, with what the list says of it."""
        return replace(self.open(source), summary=self.summary)
