"""The options of a data set that a benchmark takes."""

from typing import Annotated

from pydantic import AfterValidator, Field

from nasplat.data.location import absolute
from nasplat.options import Options


class DataOptions(Options):
    """Where the files of a data set are, and how much of it is used.

    Args:
        folder: Holds the files of the data set; by default the data folder, `NASPLAT_DATA`.
        download: Whether missing files may be downloaded into the folder.
        subset: The number of training and validation images in all, drawn once for everybody with every class in its
            share; the test split stays whole.
        side: What the images of `image_folder` are resized to, in pixels; by default the side of the first one.
    """

    folder: Annotated[str | None, AfterValidator(absolute)] = None
    download: bool = False
    subset: Annotated[int, Field(ge=1)] | None = None
    side: Annotated[int, Field(ge=1)] | None = None
