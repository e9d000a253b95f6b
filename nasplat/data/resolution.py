"""Downscaling of images, and comparison of upscaled images with originals: the protocol of super-resolution."""

import math
from typing import TYPE_CHECKING

from nasplat.data.picture_files import Pixels
from nasplat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

COMPARISON = (
    "PSNR (dB, peak 255) and SSIM (Gaussian window of 11 x 11, sigma 1.5) of the BT.601 luma (16 to 235; for grey "
    "files, of their values), rounded to 8 bits; results are first clamped and rounded to 8 bits in each color; "
    "{scale} pixels are cropped from every side"
)
"""The comparison of images upscaled by `{scale}` with their originals."""
PROTOCOL = (
    COMPARISON + "; means over images. Originals are cropped to multiples of {scale} and downscaled to 1/{scale} by "
    "bicubic interpolation with antialiasing, without rounding. gain_db is the gain over bicubic upscaling of the "
    "downscaled luma"
)
"""One line on how `agreement` and `bicubic_agreement` are computed for a `{scale}`, repeated in reports."""

WINDOW = 11
"""The side of SSIM's window, in pixels."""
MOST_DB = 100.0
"""The PSNR of two equal images, instead of infinity."""

_LUMA = (65.481, 128.553, 24.966)
"""The contributions of red, green and blue at their maxima to the luma; their sum is 219 (ITU-R BT.601)."""
_BLACK, _RANGE = 16.0, 219.0


def whole(picture: "Tensor", scale: int) -> "Tensor":
    """The image `[..., height, width]`, cropped at the end of rows and columns to multiples of the scale."""
    height, width = (side // scale * scale for side in picture.shape[-2:])
    return picture[..., :height, :width]


def shrunk(picture: "Tensor", scale: int) -> "Tensor":
    """An image `[channels, height, width]` downscaled to 1/scale of its height and width, bicubic with antialiasing.

    The method is that of MATLAB's `imresize`, which the literature uses for its low-resolution images: the kernel with
    a = -0.5, widened by the scale. Values may slightly exceed the range of the original.

    Args:
        picture: Floating-point or uint8; its sides are multiples of the scale.
        scale: The factor of the downscaling.

    Returns:
        float64, in the value range of the original, not rounded.
    """
    return _resized(picture, (picture.shape[-2] // scale, picture.shape[-1] // scale))


def upscaled(picture: "Tensor", scale: int) -> "Tensor":
    """An image `[channels, height, width]` upscaled by `scale`, bicubic; float64, not rounded."""
    return _resized(picture, (picture.shape[-2] * scale, picture.shape[-1] * scale))


def _resized(picture: "Tensor", size: tuple[int, int]) -> "Tensor":
    import torch
    from torch.nn import functional

    # Without antialiasing torch's kernel has a = -0.75; with it -0.5, for upscaling as well.
    batch = functional.interpolate(picture[None].to(torch.float64), size, mode="bicubic", antialias=True)
    return batch[0]


def as_tensor(pixels: Pixels) -> "tuple[Tensor, bool]":
    """The image `[3, height, width]`, uint8, and whether it was grey.

    Args:
        pixels: `[height, width, 3]`, or `[height, width]` if it is grey.
    """
    import torch

    grey = pixels.ndim == 2
    picture = torch.tensor(pixels)
    return (picture.expand(3, -1, -1) if grey else picture.permute(2, 0, 1)), grey


def luma(picture: "Tensor", *, grey: bool = False) -> "Tensor":
    """The luma `[height, width]` of a uint8 image `[3, height, width]`, rounded; float64, from 16 to 235.

    Args:
        picture: Red, green and blue.
        grey: Whether to return values from 0 to 255; for a grey image this is the value itself.
    """
    import torch

    weights = torch.tensor(_LUMA, dtype=torch.float64, device=picture.device)
    value: Tensor = torch.tensordot(weights, picture.to(torch.float64), 1) / 255
    return (value * 255 / _RANGE if grey else _BLACK + value).round()


def agreement(result: "Tensor", original: "Tensor", scale: int, *, grey: bool = False) -> dict[str, float]:
    """Compare an upscaled image with the original, by the `PROTOCOL`.

    Args:
        result: `[3, height, width]` floating-point in about 0..1.
        original: `[3, height, width]` uint8.
        scale: The number of pixels that are cropped from every side.
        grey: Whether the original's file has one channel. Its values are then compared, not the luma.

    Returns:
        ``psnr_db`` and ``ssim``; NaN if the result is NaN.
    """
    import torch

    if not torch.isfinite(result).all():
        return {"psnr_db": math.nan, "ssim": math.nan}
    rounded = (result.to(torch.float64) * 255).round().clamp(0, 255).to(torch.uint8)
    return compared(luma(rounded, grey=grey), luma(original, grey=grey), scale)


def bicubic_agreement(original: "Tensor", scale: int, *, grey: bool = False) -> dict[str, float]:
    """The same comparison for bicubic upscaling. By the `PROTOCOL`, this uses only the luma of the original.

    Args:
        original: `[3, height, width]` uint8; its sides are multiples of the scale.
        scale: The factor of the downscaling and the upscaling.
        grey: As for `agreement`.
    """
    plane = luma(original, grey=grey)
    result = upscaled(shrunk(plane[None], scale), scale)[0].round().clamp(0, 255)
    return compared(result, plane, scale)


def compared(one: "Tensor", other: "Tensor", shave: int) -> dict[str, float]:
    """PSNR and SSIM of two planes `[height, width]` in 0..255, without `shave` pixels at every side.

    SSIM is that of Wang et al. (2004), "Image quality assessment: from error visibility to structural similarity",
    sec. III-C, by scikit-image.

    Raises:
        InputError: The rest is smaller than SSIM's window.
    """
    from skimage.metrics import structural_similarity

    height, width = one.shape
    if min(height, width) - 2 * shave < WINDOW:
        raise InputError(
            f"an image must have at least {WINDOW + 2 * shave} pixels a side for the metrics at this scale, but has "
            f"{width} x {height}; leave it out"
        )
    inner = slice(shave, height - shave), slice(shave, width - shave)
    first, second = (plane[inner].cpu().numpy() for plane in (one, other))
    error = float(((first - second) ** 2).mean())
    similarity = structural_similarity(  # type: ignore[no-untyped-call]  # scikit-image has no type information
        first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    psnr_db = 10 * math.log10(255**2 / error) if error else MOST_DB
    return {"psnr_db": min(psnr_db, MOST_DB), "ssim": float(similarity)}
