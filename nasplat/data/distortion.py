"""Reproducible distortion of small grey images: rotation, shift, scaling and noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distortion:
    """The size of the distortion. Everything except the noise is drawn uniformly.

    Args:
        side: The side of the distorted images, in pixels.
        turn: The largest rotation in degrees, in both directions.
        shift: The largest shift in pixels of the distorted image, in both directions along each axis.
        scale: The largest relative change of size, up or down.
        noise: The standard deviation of the normal noise that is added to each pixel, on the scale of 0 to 255.
    """

    side: int
    turn: float
    shift: float
    scale: float
    noise: float

    def __call__(self, pictures: Values, rng: np.random.RandomState) -> NDArray[np.uint8]:
        """Distort each image independently, with bilinear interpolation. Pixels outside of the original are black.

        The result is the same on every computer. Only NumPy's legacy generator has a stream that is frozen (NEP 19).
        No library is used for interpolation. Mathematical libraries may differ by some 1e-13 in float64; rounding to
        whole numbers removes this, unless a value is that close to a half.

        Args:
            pictures: `[n, height, width]`, from 0 to 1.
            rng: The random generator.

        Returns:
            `[n, side, side]`.
        """
        count, height, width = pictures.shape
        spread = 2 * rng.random_sample((4, count, 1, 1)) - 1
        angle, scale = np.deg2rad(self.turn * spread[0]), 1 + self.scale * spread[1]
        # The source of each pixel: from the center of the new image, through the inverse transform, into the old
        # image.
        steps = np.arange(self.side) - (self.side - 1) / 2
        down, right = steps[:, None] - self.shift * spread[2], steps[None, :] - self.shift * spread[3]
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        row = (cosine * down - sine * right) * (height / self.side) + (height - 1) / 2
        column = (sine * down + cosine * right) * (width / self.side) + (width - 1) / 2
        found = 255 * _between(pictures, row, column) + self.noise * rng.standard_normal(row.shape)
        distorted: NDArray[np.uint8] = found.round().clip(0, 255).astype(np.uint8)
        return distorted


def _between(pictures: Values, row: Values, column: Values) -> Values:
    """Bilinearly interpolated values of images `[n, height, width]` at any positions `[n, …]`; 0 outside."""
    number = np.arange(len(pictures))[:, None, None]
    top, left = np.floor(row), np.floor(column)
    below, beyond = row - top, column - left
    # A black margin of one pixel represents everything outside.
    framed = np.pad(pictures, ((0, 0), (1, 1), (1, 1)))

    def at(line: Values, place: Values) -> Values:
        height, width = framed.shape[1:]
        rows, columns = (line + 1).clip(0, height - 1), (place + 1).clip(0, width - 1)
        value: Values = framed[number, rows.astype(np.int64), columns.astype(np.int64)]
        return value

    above = (1 - beyond) * at(top, left) + beyond * at(top, left + 1)
    under = (1 - beyond) * at(top + 1, left) + beyond * at(top + 1, left + 1)
    value: Values = (1 - below) * above + below * under
    return value
