"""The data options of a benchmark."""

from typing import Annotated

from pydantic import AfterValidator, Field

from nasplat.data.location import absolute
from nasplat.options import Options


class FolderOptions(Options):
    """The location of the files of a data set.

    Args:
        folder: The folder with the files of the data set; by default the data folder, `NASPLAT_DATA`.
    """

    folder: Annotated[str | None, AfterValidator(absolute)] = None


class ImageOptions(FolderOptions):
    """The location of the files of an image data set, and the size to which images are resized.

    Args:
        download: Whether missing files may be downloaded into the folder.
        side: The side to which images of `image_folder` are resized, in pixels; by default the side of the first
            image.
    """

    download: bool = False
    side: Annotated[int, Field(ge=1)] | None = None


class DataOptions(ImageOptions):
    """The location of the files of an image data set, and how much of it is used.

    Args:
        subset: The total number of training and validation images, in a fixed random selection stratified by class.
            The test split is not reduced.
    """

    subset: Annotated[int, Field(ge=1)] | None = None


class SuperResolutionDataOptions(FolderOptions):
    """The location of the images for super-resolution, and which of them are used.

    Args:
        training_images: The largest number of training images, chosen evenly from the whole set. Use it for a set that
            is larger than the memory.
        validation_images: The largest number of validation images, likewise.
        tests: Further sets for the final measurement, such as ``set5``. Their metrics begin with the names of the
            sets. A data set without test images needs at least one; the first set then gives the metrics without a
            prefix.
    """

    training_images: Annotated[int, Field(ge=1)] | None = None
    validation_images: Annotated[int, Field(ge=1)] | None = None
    tests: tuple[str, ...] = ()
