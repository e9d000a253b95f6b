"""Image data sets by name, split once and for all into training, validation and test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nasplat.architecture import IO
from nasplat.errors import InputError, unknown

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Examples:
    """Images `[n, channels, height, width]`, standardised float32, and labels `[n]`, int64."""

    images: "Tensor"
    labels: "Tensor"

    def to(self, device: str) -> "Examples":
        return Examples(self.images.to(device), self.labels.to(device))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Splits:
    """Three disjoint parts: training fits weights, validation guides the search, test is measured once."""

    training: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that is known before it is loaded.

    Args:
        name: What users call it.
        summary: One line on what it is.
        io: Image shape and number of classes.
        load: Reads and splits it; the same split for everybody.
    """

    name: str
    summary: str
    io: IO
    load: Callable[[], Splits]


def _digits() -> Splits:
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images, labels = bunch.images.astype(np.float32)[:, None], bunch.target.astype(np.int64)
    training, rest = train_test_split(np.arange(len(labels)), test_size=0.4, stratify=labels, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=0)
    images = (images - images[training].mean()) / images[training].std()

    def part(rows: np.ndarray) -> Examples:
        return Examples(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]))

    return Splits(part(training), part(validation), part(test))


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "digits",
            "1,797 handwritten digits of 8 x 8 pixels; ships with scikit-learn",
            IO.image(channels=1, side=8, outputs=10),
            _digits,
        ),
    )
}


def dataset(name: str) -> Dataset:
    """The data set of a name.

    Raises:
        InputError: The name is unknown; near matches are listed.
    """
    if name not in DATASETS:
        raise InputError(unknown("data set", name, DATASETS))
    return DATASETS[name]
