"""Upscaling of an image file with an exported network. Memory does not grow with the image's height."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nasplat.data.pixels import PictureError, Source, TooLarge, decode, quietly
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


def read_source(path: Path, scale: int = 1) -> Source:
    """Read an image for upscaling, by the rules of `pixels.decode`.

    Args:
        path: A file.
        scale: The upscaling factor. The result must have at most `MOST_PIXELS`.

    Raises:
        InputError: The file is not read, or is too large.
    """
    try:
        with quietly():
            return decode(path, MOST_PIXELS // scale**2)
    except TooLarge as error:
        raise InputError(
            f"the image {path} is too large to be upscaled {scale} times: {error}; cut it into parts"
        ) from error
    except PictureError as error:
        raise InputError(f"the image {path} cannot be read: {error}; give a complete image file") from error


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
    from nasplat.nn.packing import dense
    from nasplat.nn.residual_dense.network import ResidualDenseNetwork
    from nasplat.nn.residual_dense.streaming import Strips
    from nasplat.nn.rewritten import rewritten

    network, (width, height) = dense(exported.network), source.colors.size
    crop = partial(_values, source.colors, exported.io.input_shape[0])
    if isinstance(network, ResidualDenseNetwork) and not any(rewritten(network)):
        yield from Strips.of(network, height, width, memory).run(crop)
        return
    if width * height > WHOLE:
        raise InputError(
            f"{exported.architecture} is no residual dense network of convolutions, so it can only upscale a whole "
            f"image, of at most {WHOLE:,} pixels, but the image has {width} x {height}; cut it into parts"
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
