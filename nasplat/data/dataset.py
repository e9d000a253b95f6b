"""The description of a data set before it is loaded, and its source."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nasplat.architecture import IO
from nasplat.data.examples import Scaling, Splits
from nasplat.data.location import data_folder
from nasplat.data.manifest import Manifest
from nasplat.data.picture_files import MOST_PIXELS, Survey

if TYPE_CHECKING:
    from torch import nn


def _nothing_to_refuse() -> None:
    pass


def _not_scaled_alike() -> "Scaling | None":
    return None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The description of a data set before it is loaded.

    Args:
        name: Its name for users.
        io: Image shape and number of classes.
        load: Reads and splits it. The split is always the same.
        summary: One line of description.
        mirrored: Whether a mirrored image is a valid image of the same class.
        check: A cheap check for the errors of `load`, above all for missing files.
        survey: What the names and headers of the image files say; nothing for published files.
        classes: The names of the classes by number; empty if classes have only numbers.
        white: The value of the brightest pixel before standardization.
        scaling: The scaling of images that are already standardised; None if it is unknown.
        record: Gives the manifest of the files, which reads all of them; None if there are no files.
        accept: Gives a manifest for files that differ from the recorded ones; None if there are no files.
        teacher: Reads the network that labelled the images; None if people did.
    """

    name: str
    io: IO
    load: Callable[[], Splits]
    summary: str = ""
    mirrored: bool = False
    check: Callable[[], None] = _nothing_to_refuse
    survey: Callable[[], Survey] = Survey
    classes: tuple[str, ...] = ()
    white: float = 255.0
    scaling: "Callable[[], Scaling | None]" = _not_scaled_alike
    record: Callable[[], Manifest] | None = None
    accept: Callable[[], Manifest] | None = None
    teacher: "Callable[[], nn.Module] | None" = None


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a data set, and how much of it is used.

    Args:
        folder: The folder with the files; by default the data folder.
        download: Whether missing files may be fetched into the folder.
        subset: The total number of training and validation images, in a fixed random selection. The test split is not
            reduced.
        side: The side to which the images of a user's own folder are resized.
        most_pixels: The largest number of pixels of an image in a file of the user's own.
        recorded: What a run recorded of the data; its split, classes and scaling are then used. None in a new run.
    """

    folder: Path | None = None
    download: bool = False
    subset: int | None = None
    side: int | None = None
    most_pixels: int = field(default=MOST_PIXELS, kw_only=True)
    recorded: Manifest | None = None

    @property
    def place(self) -> Path:
        """The given folder, or the default."""
        return data_folder() if self.folder is None else self.folder.expanduser()


@dataclass(frozen=True, slots=True)
class Entry:
    """A data set in the list of data sets. The location of its files is not known yet.

    Args:
        name: Its name for users.
        summary: One line of description.
        open: Gives the description of the data set, without loading it.
    """

    name: str
    summary: str
    open: Callable[[Source], Dataset]

    def located(self, source: Source) -> Dataset:
        """The data set, not loaded, with the name and summary of this entry."""
        return replace(self.open(source), summary=self.summary)
