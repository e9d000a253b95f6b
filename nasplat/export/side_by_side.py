"""Comparison of a network's upscaled image with bicubic upscaling, and of both with the original."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from nasplat.data.resolution import COMPARISON, MOST_DB, WINDOW, as_tensor, compared, luma, upscaled
from nasplat.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are exclusive."""
Part: TypeAlias = "Callable[[Box], Image]"
Plane: TypeAlias = "Callable[[Box], Tensor]"
"""A part of a luma `[height, width]`."""
Figures: TypeAlias = Mapping[str, Mapping[str, float]]
"""The metrics ``psnr_db`` and ``ssim`` against the original, for the images ``bicubic`` and ``network``."""

SHOWN = 800
"""Larger images are center-cropped to this height and width, in pixels."""
ROWS = 256
"""The number of rows that are compared at once."""
MARGIN = 4
"""The width of the margin around a part, in pixels of the small image. Its pixels affect the bicubic upscaling of the
part. The width includes a reserve."""
GAP, LINE = 8, 20
"""The gap around the images and the height of a line of text above them, in pixels."""


def check_original(small: "Image", original: "Image", scale: int) -> None:
    """Refuse an original that cannot be compared with the upscaled image.

    Args:
        small: The image to upscale.
        original: The high-resolution original.
        scale: The upscaling factor.

    Raises:
        InputError: The original does not have the size of the upscaled image, or is too small for SSIM.
    """
    width, height = (scale * side for side in small.size)
    if original.size != (width, height):
        raise InputError(
            f"the original must have the {width} x {height} pixels of the upscaled image, but has {original.width} x "
            f"{original.height}; crop it to this size, or leave it out"
        )
    least = WINDOW + 2 * scale
    if min(width, height) < least:
        raise InputError(
            f"the original must have at least {least} pixels a side for the metrics, but has {width} x {height}; leave "
            "it out"
        )


def bicubic(small: "Image", scale: int, box: Box) -> "Image":
    """A part of the bicubic upscaling of an image. Each color is upscaled and rounded separately.

    Args:
        small: ``L`` or ``RGB``.
        scale: The upscaling factor.
        box: The part, in pixels of the upscaled image.
    """
    from PIL import Image

    left, top = (max(0, side // scale - MARGIN) for side in box[:2])
    right, bottom = (min(whole, -(-side // scale) + MARGIN) for side, whole in zip(box[2:], small.size, strict=True))
    pixels = np.asarray(small.crop((left, top, right, bottom)))
    values = upscaled(as_tensor(pixels)[0], scale).round().clamp(0, 255).numpy().astype(np.uint8)
    part = Image.fromarray(values.transpose(1, 2, 0)).convert(small.mode)
    return part.crop((box[0] - scale * left, box[1] - scale * top, box[2] - scale * left, box[3] - scale * top))


def protocol(scale: int) -> str:
    """One line on how `figures` computes the metrics."""
    return (
        f"{COMPARISON.format(scale=scale)}. Bicubic upscales each color of the given image, and rounds each separately"
    )


def figures(small: "Image", network: "Image", original: "Image", scale: int) -> Figures:
    """PSNR and SSIM of bicubic upscaling and of a network's image against the original, by `protocol`.

    The protocol is that of super-resolution, with one difference. Bicubic upscales the colors of the given image. The
    super-resolution protocol upscales the luma of an image that was not rounded.

    Args:
        small: The low-resolution image. `check_original` must accept it.
        network: The image upscaled by a network; transparency is dropped.
        original: The original. If it is grey, grey values are compared instead of the luma.
        scale: The upscaling factor, and the number of pixels that are cropped from every side.
    """
    grey = original.mode == "L"
    wanted = partial(_luma, original.crop, grey=grey)
    parts: dict[str, Part] = {"bicubic": partial(bicubic, small, scale), "network": network.crop}
    return {
        name: _compared(partial(_luma, part, grey=grey), wanted, original.size, scale) for name, part in parts.items()
    }


def _luma(part: Part, box: Box, *, grey: bool) -> "Tensor":
    image = part(box)
    return luma(as_tensor(np.asarray(image.convert("L" if image.mode in ("L", "LA") else "RGB")))[0], grey=grey)


def _compared(one: Plane, other: Plane, size: tuple[int, int], shave: int) -> dict[str, float]:
    """The result of `compared` for whole planes, computed from a few rows at a time."""
    (width, height), rim = size, WINDOW // 2
    error = similarity = 0.0
    bottom = height - shave
    for top in range(shave, bottom - 2 * rim, ROWS):
        # SSIM is computed only for pixels whose window is inside the part. So parts overlap by the reach of the window.
        end = min(top + ROWS + 2 * rim, bottom)
        box = (shave, top, width - shave, end)
        first, second = one(box), other(box)
        similarity += compared(first, second, 0)["ssim"] * (end - top - 2 * rim)
        last = end if end == bottom else top + ROWS
        error += float(((first - second)[: last - top] ** 2).sum())
    error /= (width - 2 * shave) * (height - 2 * shave)
    psnr_db = 10 * math.log10(255**2 / error) if error else MOST_DB
    return {"psnr_db": min(psnr_db, MOST_DB), "ssim": similarity / (height - 2 * shave - 2 * rim)}


def side_by_side(
    small: "Image", network: "Image", original: "Image | None", scale: int, found: Figures | None
) -> "Image":
    """An image that shows bicubic, network and original side by side. Names and known metrics are above each.

    Args:
        small: The low-resolution image.
        network: The image upscaled by a network; transparency is dropped.
        original: The original, if it is known.
        scale: The upscaling factor.
        found: The result of `figures`, if it is known. It is for whole images, even if only their center is shown.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = (min(side, SHOWN) for side in network.size)
    left, top = (network.width - width) // 2, (network.height - height) // 2
    box = (left, top, left + width, top + height)
    panels = {"bicubic": bicubic(small, scale, box), "network": network.crop(box)}
    if original is not None:
        panels["original"] = original.crop(box)
    titles = {name: _title(name, (found or {}).get(name)) for name in panels}
    font = ImageFont.load_default()
    space = max(width, *(int(font.getlength(title)) + 1 for title in titles.values()))
    page = Image.new("RGB", (GAP + (space + GAP) * len(panels), LINE + height + GAP), "white")
    draw = ImageDraw.Draw(page)
    for place, (name, panel) in enumerate(panels.items()):
        across = GAP + (space + GAP) * place
        draw.text((across, GAP // 2), titles[name], fill="black", font=font)
        page.paste(panel.convert("RGB"), (across, LINE))
    return page


def _title(name: str, found: Mapping[str, float] | None) -> str:
    return name if found is None else f"{name}  {found['psnr_db']:.2f} dB, SSIM {found['ssim']:.4f}"
