"""Enlarging a picture file by an exported network, in memory that does not grow with the picture's height."""

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
"""An enlarged picture has no more; four bytes are held of each. Files may promise any size in a few bytes."""
LUMA = 0.299, 0.587, 0.114
"""What red, green and blue add to grey (ITU-R BT.601)."""
WHOLE = 512 * 512
"""A network that cannot be run in strips is given no picture of more pixels."""
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, ArithmeticError, LookupError, TypeError,
    AttributeError, RuntimeError, MemoryError,
)  # fmt: skip
"""What Pillow raises on damaged files."""


@dataclass(frozen=True, slots=True)
class Source:
    """A picture as a file shows it.

    Args:
        path: The file.
        colors: Pillow's ``RGB`` or ``L``, turned as the file says that it is to be seen.
        alpha: Its opacity, ``L``, if it has any transparency.
        profile: The ICC profile of the colors, if the file has one that still applies.
        several: Whether the file holds more pictures, of which this is the first.
    """

    path: Path
    colors: "Image"
    alpha: "Image | None"
    profile: bytes | None
    several: bool


def read_source(path: Path, scale: int = 1) -> Source:
    """Read a picture that is to be enlarged.

    Args:
        path: A file in any format that Pillow reads; 8 bits a channel.
        scale: How many times; what comes out is to have no more than `MOST_PIXELS`.

    Raises:
        InputError: The file is no picture, damaged, of another kind, or too large.
    """
    from PIL import Image, ImageOps

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe might be read for ever
            raise OSError(errno.EINVAL, "it is no file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, for which there is a limit here, and of broken side notes
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
            raise InputError(f"the picture {path} cannot be read: {error.strerror}; name a picture file") from error
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the picture {path} cannot be read: {what}; give a complete picture file") from error
    alpha = colors.getchannel("A") if clear else None
    return Source(path, colors.convert("L" if grey else "RGB") if clear else colors, alpha, profile, several)


def _check(path: Path, image: "Image", scale: int) -> None:
    """Refuse what is not to be decoded.

    Raises:
        InputError: The picture is too large, or has more than 8 bits a channel.
    """
    width, height = image.size
    if width * height * scale**2 > MOST_PIXELS:
        raise InputError(
            f"the picture {path} has {width} x {height} pixels, too many to be enlarged {scale} times: at most "
            f"{MOST_PIXELS // scale**2:,} may come in; cut it into parts"
        )
    if image.mode not in MODES:
        raise InputError(
            f"the picture {path} has mode {image.mode}, but such with 8 bits a channel are enlarged; save it as one"
        )


def upscaled(
    exported: Exported,
    source: Source,
    *,
    device: str = "cpu",
    memory: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> "Image":
    """The enlarged picture, as `source` is: grey or in color, with its opacity enlarged by bicubic.

    Args:
        exported: A network that enlarges; it is moved to the device.
        source: What comes in; values of 0 to 255 become 0 to 1 and are rounded on the way back.
        device: ``cpu`` or ``cuda``.
        memory: The limit, in bytes, of what grows with the picture, but for itself and the enlarged one.
        progress: Told now and then which part is done, from 0 to 1.

    Raises:
        InputError: The network does not fit the picture, or needs more memory.
        RunError: The network gives what are no numbers.
    """
    import torch
    from PIL import Image

    scale = exported.io.scale or 1
    if exported.io.input_shape[0] == 1 and source.colors.mode != "L":
        raise InputError(
            f"the network enlarges grey pictures, but {source.path} is in color; make it grey, or take another network"
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
    """How many times larger a network makes pictures.

    Raises:
        InputError: It makes none larger, or none of the kind that files hold.
    """
    io = exported.io
    if io.scale is None:
        raise InputError(
            f"{folder} holds {exported.architecture}, which gives {io.outputs} numbers for each picture, not a larger "
            "one; name an exported network that enlarges, as those of the esrn spaces do"
        )
    if io.input_shape[0] not in (1, 3) or io.outputs != io.input_shape[0]:
        raise InputError(
            f"{folder} holds {exported.architecture}, which makes {io.outputs} channels of {io.input_shape[0]}; "
            "pictures are enlarged by networks of 3 for colors, or of 1 for grey"
        )
    return io.scale


def _strips(exported: Exported, source: Source, memory: int) -> "Iterator[tuple[Box, Tensor]]":
    """The enlarged colors in parts: the place of each, and its values `[channels, height, width]`."""
    from nasplat.nn.residual_dense.network import ResidualDenseNetwork
    from nasplat.nn.residual_dense.streaming import Strips

    network, (width, height) = exported.network, source.colors.size
    crop = partial(_values, source.colors, exported.io.input_shape[0])
    if isinstance(network, ResidualDenseNetwork):
        yield from Strips.of(network, height, width, memory).run(crop)
        return
    if width * height > WHOLE:
        raise InputError(
            f"{exported.architecture} is no residual dense network, so that it is run on the picture as a whole, which "
            f"is to have {WHOLE:,} pixels at most, but has {width} x {height}; cut it into parts"
        )
    whole = crop((0, 0, width, height)).to(next(network.parameters()))
    enlarged: Tensor = network(whole[None])[0]
    yield (0, 0, enlarged.shape[2], enlarged.shape[1]), enlarged


def _values(colors: "Image", channels: int, box: "Box") -> "Tensor":
    """A part of a picture as networks take it: `[channels, height, width]` in 0..1; grey as equal colors."""
    import torch

    pixels = torch.from_numpy(np.array(colors.crop(box), ndmin=3))
    pixels = pixels if colors.mode == "L" else pixels.permute(2, 0, 1)
    return (pixels.to(torch.float32) / 255).expand(channels, -1, -1)


def _image(pixels: "Tensor", mode: str) -> "Image":
    """Values `[channels, height, width]` as a picture; where it is to be grey, the luma of colors.

    Raises:
        RunError: They are no numbers.
    """
    import torch
    from PIL import Image

    if not torch.isfinite(pixels).all():
        raise RunError("the network gives values that are no numbers; its weights are of no use")
    pixels = pixels.clamp(0, 1)
    if mode == "L" and len(pixels) == 3:
        pixels = torch.tensordot(pixels.new_tensor(LUMA), pixels, 1)[None]
    values = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(values[..., 0] if mode == "L" else values)
