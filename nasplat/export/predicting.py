"""`predict.py`: a small script for running an exported network on images."""

import ast
from importlib.resources import files
from inspect import getsource

import numpy as np

from nasplat.benchmark import Preprocessing
from nasplat.data.picture_files import MOST_PIXELS
from nasplat.errors import printable
from nasplat.export.code import quoted
from nasplat.export.upscaling import LUMA

_IMPORTS = """\
import argparse
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
"""
"""What the scripts and their reader of pictures import."""
_CLASSIFY = '''\
"""Classify images: print {prints}.

It needs numpy, pillow and onnxruntime, and the file {model} beside it.
"""

{imports}
MODE = {mode}
HEIGHT, WIDTH = {height}, {width}
WHITE = {white}  # the value of the brightest pixel in training
MEAN = {mean}
STD = {std}
CLASSES = {classes}
MOST = {most}  # pixels of an image in a file


def read(path: str) -> np.ndarray:
    """An image as the network takes it: [1, channels, height, width]."""
    with quietly():
        pixels = classifiable(path, MODE, (WIDTH, HEIGHT), MOST).reshape(HEIGHT, WIDTH, -1)
    values = pixels * np.float32(WHITE / 255)
    scaled = (values - np.float32(MEAN)) / np.float32(STD)
    return scaled.transpose(2, 0, 1)[None]


def main() -> int:
    """Run the network on every image; returns 1 if an image cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", help="image files")
{options}    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a character
    failed = 0
    try:
        session = onnxruntime.InferenceSession(Path(__file__).parent / "{model}")
    except Exception as error:
        print(printable(f"{model} cannot be opened: {{error}}"), file=sys.stderr)
        return 1
    # Some networks leave a part of their computation out, and tell which part an image used.
    outputs = [each.name for each in session.get_outputs() if each.name in {outputs}]
    for path in arguments.pictures:
        try:
            images = read(path)
        except Exception as error:
            print(printable(f"{{path}} cannot be read: {{error}}"), file=sys.stderr)
            failed = 1
            continue
{shown}        part = f"; {{100 * used[0]:.0f}} % of the network used" if used else ""
        print(printable(f"{{path}}: {{shown}}{{part}}"))
    return failed


{printable}

# How an image file becomes pixels, as in training

{reader}


if __name__ == "__main__":
    sys.exit(main())
'''
_MOST_LIKELY = {
    "model": "model.onnx",
    "prints": "the most likely classes of each image, with their probabilities",
    "options": """\
    parser.add_argument("--top", type=int, default=3, help="number of classes shown (default: 3)")
""",
    "outputs": '("logits", "used")',
    "shown": """\
        logits, *used = (each[0] for each in session.run(outputs, {"images": images}))
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        best = probabilities.argsort()[::-1][: max(arguments.top, 1)]
        shown = ", ".join(f"{CLASSES[n]} {100 * probabilities[n]:.1f} %" for n in best)
""",
}
_CALIBRATED = {
    "model": "calibrated.onnx",
    "prints": "the most likely class of each image, with its calibrated confidence",
    "options": "",
    "outputs": '("logits", "confidence", "used")',
    "shown": """\
        found = dict(zip(outputs, session.run(outputs, {"images": images}), strict=True))
        logits, used = found["logits"][0], [each[0] for name, each in found.items() if name == "used"]
        own = 1 / np.exp(logits - logits.max()).sum()
        shown = f"{CLASSES[logits.argmax()]} {100 * found['confidence'][0]:.1f} %, calibrated"
        shown += f" ({100 * own:.1f} % by the network itself)"
""",
}
_ENLARGE = '''\
"""Upscale an image {scale} times.

It needs numpy, pillow and onnxruntime, and the file model.onnx beside it. The image is
upscaled as a whole, so the memory needed is proportional to its pixels.
"""

{imports}
MODE = {mode}
LUMA = {luma}  # red, green and blue in grey
MOST = {most}  # pixels of an image in a file


def upscale(session: onnxruntime.InferenceSession, source: "Source") -> Image.Image:
    """The upscaled image. Grey stays grey, and the opacity is upscaled bicubically."""
    if MODE == "L" and source.colors.mode != "L":
        raise PictureError("it is in color, but the network upscales grey images")
    pixels = np.asarray(source.colors.convert(MODE), dtype=np.float32) / 255
    images = np.atleast_3d(pixels).transpose(2, 0, 1)[None]
    values = session.run(["upscaled"], {{"images": images}})[0][0].clip(0, 1)
    if source.colors.mode == "L" and len(values) == 3:
        values = np.tensordot(np.float32(LUMA), values, 1)[None]
    values = (values * 255).round().astype(np.uint8)
    image = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    if source.alpha is not None:
        image.putalpha(source.alpha.resize(image.size, Image.Resampling.BICUBIC))
    return image


def main() -> int:
    """Upscale one image; returns 1 if it cannot be read or written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", help="an image file")
    parser.add_argument("upscaled", help="the file to write, such as larger.png")
    arguments = parser.parse_args()
    try:
        session = onnxruntime.InferenceSession(Path(__file__).parent / "model.onnx")
        with quietly():
            source = decode(arguments.picture, MOST)
        upscale(session, source).save(arguments.upscaled, icc_profile=source.profile)
    except Exception as error:
        print(printable(f"{{arguments.picture}} cannot be upscaled: {{error}}"), file=sys.stderr)
        return 1
    return 0


{printable}

# How an image file becomes pixels, as in training

{reader}


if __name__ == "__main__":
    sys.exit(main())
'''


def predict_script(preprocessing: Preprocessing, scale: int | None, *, calibrated: bool = False) -> str | None:
    """The text of `predict.py`; None for inputs that are not images.

    Args:
        preprocessing: The preprocessing of an image.
        scale: The upscaling factor of the network; None if it classifies images.
        calibrated: Whether the network has a calibrator, whose confidence is printed.
    """
    if preprocessing.channels not in (1, 3):
        return None
    mode = quoted("RGB" if preprocessing.channels == 3 else "L")
    most = preprocessing.most_pixels or MOST_PIXELS
    if scale is not None:
        return _ENLARGE.format(
            imports=_IMPORTS,
            reader=_reader(),
            printable=getsource(printable),
            scale=scale,
            mode=mode,
            luma=LUMA,
            most=most,
        )
    return _CLASSIFY.format(
        **(_CALIBRATED if calibrated else _MOST_LIKELY),
        imports=_IMPORTS,
        reader=_reader(),
        printable=getsource(printable),
        mode=mode,
        most=most,
        height=preprocessing.height,
        width=preprocessing.width,
        white=preprocessing.white,
        mean=_listed([_float32(value) for value in preprocessing.mean], "MEAN"),
        std=_listed([_float32(value) for value in preprocessing.std], "STD"),
        classes=_listed([quoted(name) for name in preprocessing.classes], "CLASSES"),
    )


def _reader() -> str:
    """The text of `nasplat.data.pixels` below its imports."""
    text = files("nasplat.data").joinpath("pixels.py").read_text(encoding="utf-8")
    _, *rest = ast.parse(text).body
    first = next(node for node in rest if not isinstance(node, ast.Import | ast.ImportFrom))
    return "\n".join(text.splitlines()[first.lineno - 1 :])


def _float32(value: float) -> str:
    """The shortest text that gives the same number in float32, in which the network computes."""
    return str(np.float32(value))


def _listed(items: list[str], name: str) -> str:
    line = f"[{', '.join(items)}]"
    if len(name) + 3 + len(line) <= 88:
        return line
    return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
