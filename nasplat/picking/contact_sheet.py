"""A contact sheet: images of a pool that were picked, borderline and refused, side by side as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nasplat.storage.files import appearing, refusal

ACROSS, DOWN = 16, 4
"""The images of a band across and down."""
CELL, GAP, TITLE = 64, 4, 28
"""The side of an image, the gap between two, and the height of a title, in pixels."""
PAPER, INK = "white", "#333333"


@dataclass(frozen=True, slots=True)
class Band:
    """A part of a contact sheet.

    Args:
        title: Its title.
        images: uint8 `[n, channels, height, width]`, at most `ACROSS` * `DOWN`.
    """

    title: str
    images: NDArray[np.uint8]


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
    rows = [-(-len(band.images) // ACROSS) for band in bands]
    pitch = CELL + GAP
    sheet = Image.new("RGB", (ACROSS * pitch + GAP, sum(TITLE + max(each, 1) * pitch + GAP for each in rows)), PAPER)
    drawing, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(16), 0
    for band, down in zip(bands, rows, strict=True):
        drawing.text((GAP, top + 4), band.title, INK, font)
        top += TITLE
        for place, image in enumerate(band.images):
            row, column = divmod(place, ACROSS)
            sheet.paste(_cell(image), (GAP + column * pitch, top + row * pitch))
        top += max(down, 1) * pitch + GAP
    try:
        with appearing(path) as file:
            sheet.save(file, "PNG")
    except OSError as error:
        raise refusal(path, "written", error) from error


def _cell(image: NDArray[np.uint8]) -> Image.Image:
    channels, height, width = image.shape
    shown = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0)).convert("RGB")
    smooth = Image.Resampling.NEAREST if max(height, width) < CELL else Image.Resampling.BILINEAR
    return shown.resize((CELL, CELL), smooth)


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
