"""Small grey pictures made harder: turned, shifted, scaled and noisy, the same for everybody."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distortion:
    """How far pictures are from what they were; everything is drawn uniformly but for the noise.

    Args:
        side: Of the distorted pictures, in pixels.
        turn: At most so many degrees, either way.
        shift: At most so many pixels of the distorted picture, either way, along each axis.
        scale: At most such a part larger or smaller.
        noise: The standard deviation of normal noise added to each pixel, of 255.
    """

    side: int
    turn: float
    shift: float
    scale: float
    noise: float

    def __call__(self, pictures: Values, rng: np.random.RandomState) -> NDArray[np.uint8]:
        """Each picture distorted in its own way, bilinearly interpolated; outside of it all is black.

        The result is the same for everybody: NumPy's legacy generator alone has a stream that is frozen for good
        (NEP 19), there is no library's interpolation, and what libraries of mathematics may differ by, some 1e-13
        in float64, is lost as values are rounded to whole numbers, unless one lies that near to a half.

        Args:
            pictures: `[n, height, width]`, from 0 to 1.
            rng: Where chance comes from.

        Returns:
            `[n, side, side]`.
        """
        count, height, width = pictures.shape
        spread = 2 * rng.random_sample((4, count, 1, 1)) - 1
        angle, scale = np.deg2rad(self.turn * spread[0]), 1 + self.scale * spread[1]
        # Where each pixel comes from: from the middle of the new picture, back through the change, into the old one.
        steps = np.arange(self.side) - (self.side - 1) / 2
        down, right = steps[:, None] - self.shift * spread[2], steps[None, :] - self.shift * spread[3]
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        row = (cosine * down - sine * right) * (height / self.side) + (height - 1) / 2
        column = (sine * down + cosine * right) * (width / self.side) + (width - 1) / 2
        found = 255 * _between(pictures, row, column) + self.noise * rng.standard_normal(row.shape)
        distorted: NDArray[np.uint8] = found.round().clip(0, 255).astype(np.uint8)
        return distorted


def _between(pictures: Values, row: Values, column: Values) -> Values:
    """The values of pictures `[n, height, width]` at any places `[n, …]`, bilinearly; 0 outside."""
    number = np.arange(len(pictures))[:, None, None]
    top, left = np.floor(row), np.floor(column)
    below, beyond = row - top, column - left
    # A black margin of one pixel stands for everything outside.
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
