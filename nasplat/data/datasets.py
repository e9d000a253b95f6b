"""Image data sets by name, with fixed splits into training, validation and test."""

from functools import partial
from pathlib import Path

from nasplat.data.dataset import Dataset, Entry, Source
from nasplat.data.digits import digits, hard_digits
from nasplat.data.image_folder import image_folder
from nasplat.data.picked import PREFIX, picked
from nasplat.data.published import cifar, cifar10_jpeg, fashion_mnist
from nasplat.errors import InputError, unknown

DATASETS: dict[str, Dataset | Entry] = {
    entry.name: entry
    for entry in (
        Entry("digits", "1,797 handwritten digits of 8 x 8 pixels; ships with scikit-learn", digits),
        Entry(
            "hard_digits",
            "5,750 images, 16 x 16, of scikit-learn's digits: rotated, shifted, scaled, noisy",
            hard_digits,
        ),
        Entry(
            "fashion_mnist",
            "70,000 images of clothing, 28 x 28, grey; 10,000 of training for validation",
            fashion_mnist,
        ),
        Entry(
            "cifar10",
            "60,000 photographs, 10 classes, 32 x 32; 10,000 of training for validation",
            partial(cifar, classes=10),
        ),
        Entry(
            "cifar100",
            "60,000 photographs, 100 classes, 32 x 32; 10,000 of training for validation",
            partial(cifar, classes=100),
        ),
        Entry(
            "cifar10_jpeg",
            "CIFAR-10 (JPEG): CIFAR-10 after lossy compression; not comparable with CIFAR-10",
            cifar10_jpeg,
        ),
        Entry(
            "image_folder",
            "your own images: data.folder has train/CLASS/* (val/, test/), or CLASS/*: 60/20/20",
            image_folder,
        ),
    )
}


def brings_teacher(name: str) -> bool:
    """Whether the images of a data set were labelled by a network, which can teach others."""
    return name.startswith(PREFIX)


def located(name: str) -> str:
    """The name of a data set, with the absolute path of its run if it has one, for workers in other directories."""
    if not name.startswith(PREFIX):
        return name
    return f"{PREFIX}{Path(name.removeprefix(PREFIX)).expanduser().absolute()}"


def dataset(name: str, source: Source | None = None) -> Dataset:
    """The data set with a name, not loaded.

    Args:
        name: One of `DATASETS`, or ``picked:RUN`` for what `nasplat distill` picked for a run.
        source: Its source; by default the data folder.

    Raises:
        InputError: The name is unknown (near matches are listed), or the source does not fit the data set.
    """
    picking = name.startswith(PREFIX)
    if name not in DATASETS and not picking:
        raise InputError(unknown("data set", name, [*DATASETS, f"{PREFIX}RUN"]))
    source = source or Source()
    if source.side is not None and name != "image_folder":
        raise InputError(
            f"side is an option of image_folder only; the images of {name} have a fixed side; leave it out"
        )
    if picking:
        return picked(Path(name.removeprefix(PREFIX)), source)
    found = DATASETS[name]
    return found.located(source) if isinstance(found, Entry) else found
