"""The options of a data set that a benchmark takes."""

from typing import Annotated

from pydantic import AfterValidator, Field

from nasplat.data.location import absolute
from nasplat.options import Options


class FolderOptions(Options):
    """Where the files of a data set are.

    Args:
        folder: Holds the files of the data set; by default the data folder, `NASPLAT_DATA`.
    """

    folder: Annotated[str | None, AfterValidator(absolute)] = None


class ImageOptions(FolderOptions):
    """Where the files of an image data set are, and of which size its images become.

    Args:
        download: Whether missing files may be downloaded into the folder.
        side: What the images of `image_folder` are resized to, in pixels; by default the side of the first one.
    """

    download: bool = False
    side: Annotated[int, Field(ge=1)] | None = None


class DataOptions(ImageOptions):
    """Where the files of an image data set are, and how much of it is used.

    Args:
        subset: The number of training and validation images in all, drawn once for everybody with every class in its
            share; the test split stays whole.
    """

    subset: Annotated[int, Field(ge=1)] | None = None


class SuperResolutionDataOptions(FolderOptions):
    """Where the images for super-resolution are, and which of them are used.

    Args:
        training_images: At most so many of the training images, evenly from the whole set, for a set that is larger
            than the memory.
        validation_images: Likewise of the validation images.
        tests: Further sets that the final measurement is done on, such as ``set5``, whose metrics begin with their
            names. A data set without test images needs one; the first gives the metrics without a name.
    """

    training_images: Annotated[int, Field(ge=1)] | None = None
    validation_images: Annotated[int, Field(ge=1)] | None = None
    tests: tuple[str, ...] = ()
