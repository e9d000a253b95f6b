"""Contact sheets: pictures of a pool side by side as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nasplat.storage.files import appearing, refusal

ACROSS, DOWN = 16, 4
"""The images of a band across and down."""
CELL, GAP, TITLE, CAPTION = 64, 4, 28, 16
"""The side of an image, the gap between two, and the heights of a title and a caption, in pixels."""
PAPER, INK = "white", "#333333"


@dataclass(frozen=True, slots=True)
class Band:
    """A part of a contact sheet.

    Args:
        title: Its title.
        images: uint8 `[n, channels, height, width]`.
        captions: A text below each image, or none.
        cell: The side of an image, in pixels.
    """

    title: str
    images: NDArray[np.uint8]
    captions: Sequence[str] = ()
    cell: int = CELL

    @property
    def across(self) -> int:
        """The images of a row."""
        return (ACROSS * (CELL + GAP)) // (self.cell + GAP)

    @property
    def down(self) -> int:
        """The rows, at least one."""
        return max(-(-len(self.images) // self.across), 1)

    @property
    def pitch(self) -> int:
        """The height of a row."""
        return self.cell + GAP + (CAPTION if self.captions else 0)


def bands_of(order: NDArray[np.int64], picked: int) -> dict[str, NDArray[np.int64]]:
    """The rows that are shown: evenly from the best picked to the last, around the border, and of the refused.

    Args:
        order: The rows of the pool, the best first.
        picked: How many of them are picked.

    Returns:
        The rows of each band, the best first.
    """
    cells = ACROSS * DOWN
    half = cells // 2
    return {
        "picked": _spread(order[:picked], cells),
        "borderline": order[max(picked - half, 0) : picked + half],
        "refused": _spread(order[picked:], cells),
    }


def write_sheet(bands: Sequence[Band], path: Path) -> None:
    """Write a contact sheet as PNG, complete or not at all.

    Raises:
        InputError, StorageError: It cannot be written.
    """
    height = sum(TITLE + band.down * band.pitch + GAP for band in bands)
    sheet = Image.new("RGB", (ACROSS * (CELL + GAP) + GAP, height), PAPER)
    drawing, font, small, top = ImageDraw.Draw(sheet), ImageFont.load_default(16), ImageFont.load_default(12), 0
    for band in bands:
        drawing.text((GAP, top + 4), band.title, INK, font)
        top += TITLE
        for place, image in enumerate(band.images):
            row, column = divmod(place, band.across)
            left, upper = GAP + column * (band.cell + GAP), top + row * band.pitch
            sheet.paste(cell_image(image, band.cell), (left, upper))
            if band.captions:
                drawing.text((left + band.cell / 2, upper + band.cell), band.captions[place], INK, small, anchor="ma")
        top += band.down * band.pitch + GAP
    try:
        with appearing(path) as file:
            sheet.save(file, "PNG")
    except OSError as error:
        raise refusal(path, "written", error) from error


def cell_image(image: NDArray[np.uint8], side: int) -> Image.Image:
    """An image `[channels, height, width]` in a square; a smaller one is enlarged with sharp pixels."""
    channels, height, width = image.shape
    shown = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0)).convert("RGB")
    smooth = Image.Resampling.NEAREST if max(height, width) < side else Image.Resampling.BILINEAR
    return shown.resize((side, side), smooth)


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
