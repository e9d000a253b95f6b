"""The data options of a benchmark."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from nasplat.data import picture_sets
from nasplat.data.dataset import Source
from nasplat.data.location import absolute
from nasplat.data.manifest import Manifest
from nasplat.data.picture_files import MOST_PIXELS, PILLOW_PIXELS
from nasplat.options import Options


class FolderOptions(Options):
    """The location of the files of a data set.

    Args:
        folder: The folder with the files of the data set; by default the data folder, `NASPLAT_DATA`.
    """

    folder: Annotated[str | None, AfterValidator(absolute)] = None


class PictureOptions(FolderOptions):
    """The location of image files, and how large they may be.

    Args:
        most_pixels: The largest number of pixels of an image. A small file may unpack to any size, and several are
            unpacked at a time.
    """

    most_pixels: Annotated[int, Field(ge=1, le=PILLOW_PIXELS)] = MOST_PIXELS


class ImageOptions(PictureOptions):
    """The location of the files of an image data set, and the size to which images are resized.

    Args:
        download: Whether missing files may be downloaded into the folder.
        side: The side to which images of `image_folder` are resized, in pixels; by default the side of the first
            image.
    """

    download: bool = False
    side: Annotated[int, Field(ge=1)] | None = None

    def source(self, recorded: Manifest | None = None) -> Source:
        """The source of the data set, and what a run recorded of it."""
        folder = None if self.folder is None else Path(self.folder)
        return Source(folder, self.download, None, self.side, most_pixels=self.most_pixels, recorded=recorded)


class DataOptions(ImageOptions):
    """The location of the files of an image data set, and how much of it is used.

    Args:
        subset: The total number of training and validation images, in a fixed random selection stratified by class.
            The test split is not reduced.
    """

    subset: Annotated[int, Field(ge=1)] | None = None

    def source(self, recorded: Manifest | None = None) -> Source:
        """The source of the data set, and what a run recorded of it."""
        return replace(super().source(recorded), subset=self.subset)


class SuperResolutionDataOptions(PictureOptions):
    """The location of the images for super-resolution, and which of them are used.

    Args:
        training_images: The largest number of training images, chosen evenly from the whole set. Use it for a set that
            is larger than the memory.
        validation_images: The largest number of validation images, likewise.
        tests: Further sets for the final measurement, such as ``set5``. Their metrics begin with the names of the
            sets. A data set without test images needs at least one; the first set then gives the metrics without a
            prefix.
    """

    most_pixels: Annotated[int, Field(ge=1, le=PILLOW_PIXELS)] = picture_sets.MOST_PIXELS
    training_images: Annotated[int, Field(ge=1)] | None = None
    validation_images: Annotated[int, Field(ge=1)] | None = None
    tests: tuple[str, ...] = ()
