"""Scikit-learn's handwritten digits, and a harder data set derived from them."""

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import IO
from nasplat.data.dataset import Dataset, Source
from nasplat.data.distortion import Distortion
from nasplat.data.examples import Examples, Scaling, Splits
from nasplat.data.pictures import Pictures, Rows
from nasplat.data.splitting import Parts, drawn, shares


def digits(source: Source) -> Dataset:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels."""

    def chosen() -> tuple[NDArray[np.float32], Rows, tuple[Rows, Rows, Rows]]:
        pixels, labels, (training, validation, test) = _split_digits()
        if source.subset is not None:
            counts = shares(source.subset, len(training), len(validation), 10)
            training, validation = (
                rows[drawn(labels[rows], count, "the subset")]
                for rows, count in zip((training, validation), counts, strict=True)
            )
        return pixels.astype(np.float32)[:, None], labels, (training, validation, test)

    def load() -> Splits:
        import torch

        images, labels, (training, validation, test) = chosen()
        images = (images - images[training].mean()) / images[training].std()

        def part(rows: Rows) -> Examples:
            return Examples(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]))

        return Splits(part(training), part(validation), lambda: part(test))

    def check() -> None:
        if source.subset is not None:
            shares(source.subset, *DIGITS, 10)

    def scaling() -> Scaling:
        import torch

        images, _, (training, *_) = chosen()
        figures = (float(images[training].mean()), float(images[training].std()))
        return Scaling(*(torch.full((1, 1, 1), figure) for figure in figures))

    return Dataset(
        "digits",
        IO.image(channels=1, side=8, outputs=10),
        load,
        check=check,
        white=16.0,
        scaling=scaling,
    )


DIGITS = 1_078, 359
"""The numbers of scikit-learn's digits for training and for validation."""


def _split_digits() -> tuple[NDArray[np.float64], Rows, tuple[Rows, Rows, Rows]]:
    """Scikit-learn's digits `[1797, 8, 8]` from 0 to 16, their labels, and the rows of each split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    training, rest = train_test_split(np.arange(len(labels)), test_size=0.4, stratify=labels, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=0)
    return bunch.images, labels, (training, validation, test)


HARD = Distortion(side=16, turn=30, shift=2, scale=0.2, noise=80)
"""The distortion. With it, networks of six convolutions and 2,000 to 100,000 parameters differ by a dozen points in 8
epochs."""
VARIANTS = 4, 2, 2
"""The number of images made from each digit of the training, validation and test split."""


def hard_digits(source: Source) -> Dataset:
    """The digits as 16 x 16 pixels: rotated, shifted, scaled and with noise, several images of each."""
    training, validation = (count * variants for count, variants in zip(DIGITS, VARIANTS, strict=False))

    def load() -> Splits:
        originals, labels, splits = _split_digits()
        rng = np.random.RandomState(0)  # whose stream is frozen: see Distortion

        def part(rows: Rows, variants: int) -> Pictures:
            import torch

            chosen = np.repeat(rows, variants)
            pixels = torch.from_numpy(HARD(originals[chosen] / 16, rng))[:, None]
            return Pictures(labels[chosen], lambda wanted: pixels[wanted])

        first, second, test = (part(*each) for each in zip(splits, VARIANTS, strict=True))
        # Validation and test are not taken from training, so no part of training is held out.
        return Parts.of(first, validation=second, test=lambda: test, held_out=0, subset=source.subset).read()

    def check() -> None:
        if source.subset is not None:
            shares(source.subset, training, validation, 10)

    return Dataset(
        "hard_digits",
        IO.image(channels=1, side=HARD.side, outputs=10),
        load,
        check=check,
    )
