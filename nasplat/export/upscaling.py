"""Upscaling of an image file with an exported network. Memory does not grow with the image's height."""

import errno
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nasplat.data.picture_sets import GREY, MODES
from nasplat.errors import InputError, RunError
from nasplat.export.opening import Exported

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nasplat.nn.residual_dense.streaming import Box

MOST_PIXELS = 400_000_000
"""The largest number of pixels of an upscaled image, with four bytes each. Small files may declare any size."""
LUMA = 0.299, 0.587, 0.114
"""The weights of red, green and blue in grey (ITU-R BT.601)."""
WHOLE = 512 * 512
"""The largest number of pixels of an image for a network that cannot run in strips."""
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, ArithmeticError, LookupError, TypeError,
    AttributeError, RuntimeError, MemoryError,
)  # fmt: skip
"""The errors that Pillow raises for damaged files."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image from a file.

    Args:
        path: The file.
        colors: The colors, in Pillow's mode ``RGB`` or ``L``, in the orientation stated by the file.
        alpha: The opacity, in mode ``L``, if the image has any transparency.
        profile: The ICC profile of the colors, if the file has one that still applies.
        several: Whether the file has further images. This is the first image.
    """

    path: Path
    colors: "Image"
    alpha: "Image | None"
    profile: bytes | None
    several: bool


def read_source(path: Path, scale: int = 1) -> Source:
    """Read an image for upscaling.

    Args:
        path: A file in any format that Pillow reads, with 8 bits a channel.
        scale: The upscaling factor. The result must have at most `MOST_PIXELS`.

    Raises:
        InputError: The file is not an image, is damaged, is too large, or has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe might never end
            raise OSError(errno.EINVAL, "it is not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of sizes, which are limited here, and of broken metadata
            with Image.open(path) as image:
                _check(path, image, scale)
                several = bool(getattr(image, "is_animated", False))
                clear = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")
                grey = image.mode in GREY
                profile = image.info.get("icc_profile") if image.mode in ("L", "LA", "RGB", "RGBA", "P") else None
                image.load()
                upright = ImageOps.exif_transpose(image)
                colors = upright.convert(("L" if grey else "RGB") + "A" * clear)
    except InputError:
        raise
    except (*BROKEN, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"the image {path} cannot be read: {error.strerror}; name an image file") from error
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the image {path} cannot be read: {what}; give a complete image file") from error
    alpha = colors.getchannel("A") if clear else None
    return Source(path, colors.convert("L" if grey else "RGB") if clear else colors, alpha, profile, several)


def _check(path: Path, image: "Image", scale: int) -> None:
    """Refuse images that must not be decoded.

    Raises:
        InputError: The image is too large, or has more than 8 bits a channel.
    """
    width, height = image.size
    if width * height * scale**2 > MOST_PIXELS:
        raise InputError(
            f"the image {path} has {width} x {height} pixels, but an image to be upscaled {scale} times must have at "
            f"most {MOST_PIXELS // scale**2:,}; cut it into parts"
        )
    if image.mode not in MODES:
        raise InputError(
            f"the image {path} has the mode {image.mode}, but must have 8 bits a channel; save it with 8 bits"
        )


def upscaled(
    exported: Exported,
    source: Source,
    *,
    device: str = "cpu",
    memory: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> "Image":
    """The upscaled image, grey or in color as `source`. The opacity is upscaled bicubically.

    Args:
        exported: A super-resolution network. It is moved to the device.
        source: The image. Values of 0 to 255 are scaled to 0 to 1, and rounded after scaling back.
        device: ``cpu`` or ``cuda``.
        memory: The limit, in bytes, for memory that grows with the image. The image and the result do not count.
        progress: A function that is called after each part with the completed fraction, from 0 to 1.

    Raises:
        InputError: The network does not fit the image, or needs more memory.
        RunError: The network's output contains NaN or infinite values.
    """
    import torch
    from PIL import Image

    scale = exported.io.scale or 1
    if exported.io.input_shape[0] == 1 and source.colors.mode != "L":
        raise InputError(
            f"the network upscales grey images, but {source.path} is in color; make it grey, or take another network"
        )
    width, height = source.colors.size
    result = Image.new(source.colors.mode, (scale * width, scale * height))
    exported.network.to(device)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for box, pixels in _strips(exported, source, memory):
            result.paste(_image(pixels, result.mode), box)
            progress(box[2] * box[3] / (result.width * result.height))
    if source.alpha is not None:
        result.putalpha(source.alpha.resize(result.size, Image.Resampling.BICUBIC))
    return result


def check_scale(exported: Exported, folder: Path) -> int:
    """The upscaling factor of a network.

    Raises:
        InputError: The network does not upscale images, or its images are neither grey nor in three colors.
    """
    io = exported.io
    if io.scale is None:
        raise InputError(
            f"{folder} contains {exported.architecture}, which does not upscale images but returns {io.outputs} "
            "numbers for each; name the export of a network that upscales, such as one of an esrn space"
        )
    if io.input_shape[0] not in (1, 3) or io.outputs != io.input_shape[0]:
        raise InputError(
            f"{folder} contains {exported.architecture}, which has {io.input_shape[0]} input channels and {io.outputs} "
            "output channels; to upscale images, a network must have 3 of both for color, or 1 for grey"
        )
    return io.scale


def _strips(exported: Exported, source: Source, memory: int) -> "Iterator[tuple[Box, Tensor]]":
    """The upscaled colors in parts. Each part has its position and its values `[channels, height, width]`."""
    from nasplat.nn.residual_dense.network import ResidualDenseNetwork
    from nasplat.nn.residual_dense.streaming import Strips

    network, (width, height) = exported.network, source.colors.size
    crop = partial(_values, source.colors, exported.io.input_shape[0])
    if isinstance(network, ResidualDenseNetwork):
        yield from Strips.of(network, height, width, memory).run(crop)
        return
    if width * height > WHOLE:
        raise InputError(
            f"{exported.architecture} is not a residual dense network, so it can only upscale a whole image, of at "
            f"most {WHOLE:,} pixels, but the image has {width} x {height}; cut it into parts"
        )
    whole = crop((0, 0, width, height)).to(next(network.parameters()))
    upscaled: Tensor = network(whole[None])[0]
    yield (0, 0, upscaled.shape[2], upscaled.shape[1]), upscaled


def _values(colors: "Image", channels: int, box: "Box") -> "Tensor":
    """A part of an image as network input `[channels, height, width]` in 0..1. Grey values fill all channels."""
    import torch

    pixels = torch.from_numpy(np.array(colors.crop(box), ndmin=3))
    pixels = pixels if colors.mode == "L" else pixels.permute(2, 0, 1)
    return (pixels.to(torch.float32) / 255).expand(channels, -1, -1)


def _image(pixels: "Tensor", mode: str) -> "Image":
    """Values `[channels, height, width]` as an image. For a grey image, colors are converted to their luma.

    Raises:
        RunError: The values contain NaN or infinite values.
    """
    import torch
    from PIL import Image

    if not torch.isfinite(pixels).all():
        raise RunError("the network returns values that are not finite; its weights cannot be used")
    pixels = pixels.clamp(0, 1)
    if mode == "L" and len(pixels) == 3:
        pixels = torch.tensordot(pixels.new_tensor(LUMA), pixels, 1)[None]
    values = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(values[..., 0] if mode == "L" else values)
