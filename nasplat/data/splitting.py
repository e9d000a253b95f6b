"""Fixed random splits, stratified by class."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nasplat.data.examples import Examples, Scaling, Splits
from nasplat.data.picture_files import collected
from nasplat.data.pictures import Pictures, Rows
from nasplat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def part_off(labels: Rows, count: int, what: str) -> tuple[Rows, Rows]:
    """Rows in two stratified parts, of which the second has `count` rows. The result is always the same."""
    from sklearn.model_selection import train_test_split

    try:
        rest, part = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels, random_state=0)
    except ValueError as error:
        numbers = np.bincount(labels)
        raise InputError(
            f"{what} cannot be drawn with every class in it and in the rest: it has {count} images, and the smallest "
            f"of {len(numbers)} classes, number {numbers.argmin()}, has {numbers.min()}; add images of it, or remove it"
        ) from error
    return np.sort(rest), np.sort(part)


def stratified_order(labels: Rows, seed: int = 0) -> Rows:
    """All rows in a random order in which every beginning has each class in its share, up to one row.

    Files are often sorted by class or by difficulty; the first rows of such data are no sample of it.

    Args:
        labels: Class numbers `[n]`.
        seed: The seed of the order within classes; the same for everybody by default.
    """
    rng = np.random.RandomState(seed)  # whose stream is frozen
    shuffled = rng.permutation(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        position[rows] = (np.arange(len(rows)) + rng.random_sample()) / len(rows)
    return np.argsort(position, kind="stable")


def drawn(labels: Rows, count: int, what: str) -> Rows:
    """A stratified selection of `count` rows; all rows if there are exactly that many."""
    return np.arange(len(labels)) if count == len(labels) else part_off(labels, count, what)[1]


def shares(subset: int, training: int, validation: int, classes: int) -> tuple[int, int]:
    """The numbers of images of a subset for training and for validation.

    Raises:
        InputError: There are not enough images, or too few for every class to be in both parts.
    """
    whole = training + validation
    for_training = round(subset * training / whole)
    if not (subset <= whole and min(for_training, subset - for_training) >= classes):
        least = -(-classes * whole // min(training, validation))
        raise InputError(
            f"subset must be between about {least:,} (every class in training and validation) and {whole:,} (all "
            f"{training:,} + {validation:,}), but is {subset:,}"
        )
    return for_training, subset - for_training


@dataclass(frozen=True, slots=True)
class Parts:
    """Three disjoint parts whose pixels are not read yet. Separate files of the test part are not opened yet either."""

    training: Pictures
    validation: Pictures
    test: Callable[[], Pictures]

    @classmethod
    def of(
        cls,
        training: Pictures,
        *,
        validation: Pictures | None = None,
        test: Callable[[], Pictures] | None = None,
        held_out: int,
        subset: int | None,
    ) -> "Parts":
        """Take missing parts from training: a fifth for the test, then one in `held_out` for validation."""
        if test is None:
            rest, rows = part_off(training.labels, len(training) // 5, "a test split")
            training, test = training.take(rest), partial(training.take, rows)
        if validation is None:
            rest, rows = part_off(training.labels, len(training) // held_out, "a validation split")
            training, validation = training.take(rest), training.take(rows)
        if subset is not None:
            counts = shares(subset, len(training), len(validation), len(np.unique(training.labels)))
            training, validation = (
                part.take(drawn(part.labels, count, "the subset"))
                for part, count in zip((training, validation), counts, strict=True)
            )
        return cls(training, validation, test)

    def read(self, scaling: Scaling | None = None) -> Splits:
        """The parts in memory, standardised by the pixels of the training part, or by a given scaling."""
        import torch

        images, others = collected(Pictures.images, [self.training, self.validation])
        scaling = scaling or Scaling.of(images)

        def examples(part: Pictures, images: "Tensor") -> Examples:
            return Examples(images, torch.from_numpy(part.labels), scaling)

        def read_test() -> Examples:
            test = self.test()
            return examples(test, test.images())

        return Splits(examples(self.training, images), examples(self.validation, others), read_test)
