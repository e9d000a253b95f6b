"""A data set of the user's own: image files in folders named after classes."""

from collections import Counter
from functools import cache

from nasplat.architecture import IO
from nasplat.data import pictures
from nasplat.data.dataset import Dataset, Source
from nasplat.data.picture_files import Survey, surveyed
from nasplat.data.splitting import Parts
from nasplat.errors import InputError


def image_folder(source: Source) -> Dataset:
    """Images in ``train/CLASS/*``, with ``val/`` and ``test/`` if they exist; or in ``CLASS/*``.

    Its check opens the headers of all files, those of the test part included, whose pixels it leaves alone.

    Raises:
        InputError: The source names no folder, or the folder has another form.
    """
    if source.folder is None:
        raise InputError(
            "image_folder reads your own images; set benchmark.data.folder to a folder with train/CLASS/* (and val/ "
            "and test/, if you have them), or with CLASS/*"
        )
    parts = pictures.part_folders(source.place)
    classes = pictures.class_folders(parts["train"])
    side = pictures.side_of_first(parts["train"], classes) if source.side is None else source.side

    @cache
    def files() -> dict[str, pictures.ClassFolders]:
        return {
            part: pictures.list_folder(place, classes, all_classes=part == "train") for part, place in parts.items()
        }

    def listed() -> Parts:
        found = {part: each.squares(side) for part, each in files().items()}
        own = found.get("test")
        test = None if own is None else lambda: own
        return Parts.of(found["train"], validation=found.get("val"), test=test, held_out=4, subset=source.subset)

    @cache
    def survey() -> Survey:
        paths = [path for each in files().values() for path in each.paths]
        return surveyed(paths, sum((Counter(each.left_out) for each in files().values()), Counter()))

    def check() -> None:
        listed()
        survey()

    io = IO.image(channels=3, side=side, outputs=len(classes))
    return Dataset(
        "image_folder",
        io,
        lambda: listed().read(),
        mirrored=True,
        check=check,
        survey=survey,
        classes=tuple(classes),
    )
