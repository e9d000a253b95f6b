"""How one image file becomes pixels: the one reader of every command.

The text below the imports is also written into every exported `predict.py`, so that training and the export cannot
differ. Hence this module needs only numpy and Pillow, and names nothing else of the platform. `decode` has the rules.
"""

import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read. Pillow would hand others, such as PostScript, to other programs."""
MOST_PIXELS = 100_000_000
"""The largest number of pixels of an image. Small files may declare any size."""
GREY = ("1", "L", "LA")
"""Pillow's modes of 8 bits with one channel besides transparency."""
COLORED = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits that become red, green and blue."""
DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes for 16 bits of grey. `I` may also be signed or have 32 bits."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its orientation tag."""
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262
"""Tags of EXIF and TIFF."""
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, ArithmeticError, LookupError, TypeError,
    AttributeError, RuntimeError, MemoryError,
)  # fmt: skip
"""The errors that Pillow raises for damaged files."""


class PictureError(ValueError):
    """A file is not read as an image; the message says why."""


class TooLarge(PictureError):
    """An image has more pixels than may be decoded."""


@dataclass(frozen=True)
class Source:
    """An image from a file, upright, with 8 bits a channel.

    Args:
        path: The file.
        colors: The colors, in Pillow's mode `RGB` or `L`.
        alpha: The opacity, in mode `L`, if the image has any transparency.
        profile: The ICC profile of the colors, if the file has one that still applies.
        several: Whether the file has further images. This is the first.
        deep: Whether the file has more than 8 bits a channel.
    """

    path: Path | str
    colors: Image.Image
    alpha: Image.Image | None
    profile: bytes | None
    several: bool
    deep: bool = False


def decode(path: Path | str, most: int = MOST_PIXELS) -> Source:
    """Read an image by these rules.

    - The format is known by the content, not by the ending, and is one of `FORMATS`.
    - An orientation tag is applied. Of several images in a file, the first is read.
    - 8 bits a channel stay as they are; fewer are widened. 16 bits of grey are scaled to 8 and rounded. Of 16 bits of
      color the upper 8 are taken, as Pillow does, which is at most 1 of 255 off the rounded value.
    - Palettes, CMYK and YCbCr become red, green and blue. Grey stays grey. ICC profiles are not applied.
    - Transparency is kept apart; see `composed`.
    - Refused are floating-point values, signed and 32-bit integers, whose range nothing tells; other color spaces;
      transparent colors of 16 bits; truncated files; and images of more than `most` pixels.

    Call it within `quietly`.

    Raises:
        PictureError: The file is not read.
    """
    with _opened(path, most) as image:
        several, deep = _several(image), _is_deep(image)
        # Pillow opens 16-bit grey with opacity as color, though all its channels are equal.
        grey = image.mode in (*GREY, *DEEP_GREY) or _raw_mode(image).startswith("LA")
        clear = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")
        applies = image.mode in ("L", "LA", "RGB", "RGBA", "P")
        profile = image.info.get("icc_profile") if applies else None
        tags = dict(getattr(image, "tag_v2", {}))
        image.load()
        plain = _narrowed(image, tags) if image.mode in DEEP_GREY else image
        turn = _turn(image)
        upright = plain if turn is None else plain.transpose(turn)
        colors = upright.convert(("L" if grey else "RGB") + "A" * clear)
        alpha = colors.getchannel("A") if clear else None
        return Source(path, colors.convert("L" if grey else "RGB"), alpha, profile, several, deep)


def header(path: Path | str, most: int = MOST_PIXELS) -> tuple[tuple[int, int], bool, bool]:
    """Width and height in the file, and the marks `several` and `deep` of a `Source`, without decoding pixels.

    Raises:
        PictureError: The file would not be read, by its header.
    """
    with _opened(path, most) as image:
        return image.size, _several(image), _is_deep(image)


def composed(source: Source) -> Image.Image:
    """The image on white where it is transparent, as a classifier sees it; `L` or `RGB`."""
    if source.alpha is None:
        return source.colors
    white = Image.new(source.colors.mode, source.colors.size, "white")
    return Image.composite(source.colors, white, source.alpha)


def classifiable(path: Path | str, mode: str, size: tuple[int, int], most: int = MOST_PIXELS) -> NDArray[np.uint8]:
    """An image as classifiers are given it: composed, then resized by Pillow's bilinear filter with antialiasing.

    Args:
        path: The file.
        mode: `RGB` or `L`.
        size: Width and height of the result, whatever the proportions of the image.
        most: The largest number of pixels of the image in the file.

    Returns:
        uint8, `[height, width, 3]` or `[height, width]`.
    """
    picture = composed(decode(path, most)).convert(mode)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


@contextmanager
def quietly() -> Iterator[None]:
    """No warnings of Pillow: sizes are limited here, and broken metadata does no harm.

    Filters of warnings belong to the whole process. So it stands around threads, not in them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path | str, most: int) -> Iterator[Image.Image]:
    """An opened image that may be decoded. All errors, also those of the block, become a `PictureError`."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # reading a pipe might never end
            raise PictureError("it is not a file")
        with Image.open(path, formats=FORMATS) as image:
            _check(image, most)
            yield image
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"it is not an image in one of the formats {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"it has more than {most:,} pixels") from error
    except BROKEN as error:
        what = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise PictureError(what or type(error).__name__) from error


def _check(image: Image.Image, most: int) -> None:
    """Refuse an image that is not to be decoded."""
    width, height = image.size
    if width * height > most:
        raise TooLarge(f"it has {width} x {height} pixels, more than {most:,}")
    if image.mode == "F":
        raise PictureError("its values are floating-point, which have no known range: save it with 8 or 16 bits")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise PictureError("its integers are signed or have 32 bits, which have no known range: save it with 8 or 16")
    if image.mode not in (*GREY, *COLORED, *DEEP_GREY):
        raise PictureError(f"it has Pillow's mode {image.mode}, which is not read: save it in RGB")
    if "transparency" in image.info and _is_deep(image):
        raise PictureError("it has 16 bits a channel and a transparent color: save it with an alpha channel instead")


def _several(image: Image.Image) -> bool:
    return bool(getattr(image, "is_animated", False))


def _decoding(image: Image.Image) -> tuple[object, ...]:
    """What Pillow's decoder is told of the pixels."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ()
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for how channels lie in the file."""
    return str(next(iter(_decoding(image)), ""))


def _is_deep(image: Image.Image) -> bool:
    if image.format == "PPM":
        largest = _decoding(image)[-1]
        return image.mode == "I" or (isinstance(largest, int) and largest > 255)
    return image.mode in DEEP_GREY or (image.format in ("PNG", "TIFF") and ";16" in _raw_mode(image))


def _narrowed(image: Image.Image, tags: dict[int, object]) -> Image.Image:
    """Grey of more than 8 bits, scaled to 8 bits and rounded.

    Args:
        image: In one of the modes `DEEP_GREY`.
        tags: Of a TIFF file. It may have 12 bits, and black and white may be exchanged.
    """
    bits = tags.get(BITS, (16,))
    white = 2 ** (bits[0] if isinstance(bits, tuple) else 16) - 1
    values = np.asarray(image).astype(np.int64).clip(0, white)
    if tags.get(PHOTOMETRIC) == 0:
        values = white - values
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a decoded image upright. Pillow has done so for TIFF, and some of its versions leave the tag."""
    if image.format == "TIFF":
        return None
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except BROKEN:  # metadata that cannot be read says nothing
        return None
