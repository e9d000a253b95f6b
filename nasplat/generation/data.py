"""What generators learn from: a ring of Gaussians, or images in -1..1."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nasplat.data.dataset import Dataset
from nasplat.data.examples import Examples

MODES, RADIUS, SPREAD = 8, 2.0, 0.1
"""The ring: the number of Gaussians, the distance of their centres from the origin, and their standard deviation."""
NEAR = 3 * SPREAD
"""A point within this distance of a centre belongs to its mode."""
COUNTS = 10_000, 2_000, 2_000
"""The points of the ring for training, validation and test."""


@dataclass(frozen=True)
class Samples:
    """Real samples, float32.

    Args:
        training: Samples to learn from `[n, …]`.
        validation: Those that searches compare with.
        test: Gives those of the final measurement.
    """

    training: Tensor
    validation: Tensor
    test: Callable[[], Tensor]


def ring_centres() -> Tensor:
    """The centres of the ring's Gaussians `[8, 2]`, float64."""
    angles = torch.arange(MODES, dtype=torch.float64) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angles.cos(), angles.sin()], 1)


def ring() -> Samples:
    """Points `[n, 2]` of eight Gaussians on a circle, equally many of each on average (Srivastava et al., 2017)."""

    def part(seed: int) -> Tensor:
        rng, count = np.random.RandomState(seed), COUNTS[seed]  # whose stream is frozen
        which = rng.randint(MODES, size=count)
        points = ring_centres().numpy()[which] + SPREAD * rng.standard_normal((count, 2))
        return torch.from_numpy(points.astype(np.float32))

    return Samples(part(0), part(1), lambda: part(2))


def symmetric(examples: Examples, dataset: Dataset) -> Tensor:
    """The images of examples with black as -1 and white as 1, `[n, channels, height, width]`."""
    values = examples.images.to(torch.float32)
    if examples.scaling is None and (scaling := dataset.scaling()) is not None:  # standardised already
        values = values * scaling.std + scaling.mean
    return values * (2 / dataset.white) - 1


def images(dataset: Dataset) -> Samples:
    """The images of a data set in -1..1; labels are not used."""
    splits = dataset.load()
    training, validation = (symmetric(part, dataset) for part in (splits.training, splits.validation))
    return Samples(training, validation, lambda: symmetric(splits.test, dataset))
