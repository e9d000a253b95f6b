"""`predict.py`: a small script for running an exported network on images."""

from nasplat.benchmark import Preprocessing
from nasplat.export.code import quoted

_CLASSIFY = '''\
"""Classify images: print the most likely classes of each image, with their probabilities.

It needs numpy, pillow and onnxruntime, and the file model.onnx beside it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

MODE = {mode}
HEIGHT, WIDTH = {height}, {width}
WHITE = {white}  # the value of the brightest pixel in training
MEAN = {mean}
STD = {std}
CLASSES = {classes}


def read(path: str) -> np.ndarray:
    """An image as the network takes it: [1, channels, height, width]."""
    with Image.open(path) as image:
        resized = image.convert(MODE).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.float32).reshape(HEIGHT, WIDTH, -1)
    scaled = (pixels / 255 * WHITE - np.float32(MEAN)) / np.float32(STD)
    return scaled.transpose(2, 0, 1)[None]


def main() -> int:
    """Run the network on every image; returns 1 if an image cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", help="image files")
    parser.add_argument("--top", type=int, default=3, help="number of classes shown (default: 3)")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a character
    failed = 0
    try:
        session = onnxruntime.InferenceSession(Path(__file__).parent / "model.onnx")
    except Exception as error:
        print(f"model.onnx cannot be opened: {{error}}", file=sys.stderr)
        return 1
    for path in arguments.pictures:
        try:
            images = read(path)
        except Exception as error:
            print(f"{{path}} cannot be read: {{error}}", file=sys.stderr)
            failed = 1
            continue
        logits = session.run(["logits"], {{"images": images}})[0][0]
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        best = probabilities.argsort()[::-1][: max(arguments.top, 1)]
        shown = ", ".join(f"{{CLASSES[n]}} {{100 * probabilities[n]:.1f}} %" for n in best)
        print(f"{{path}}: {{shown}}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
'''
_ENLARGE = '''\
"""Upscale an image {scale} times.

It needs numpy, pillow and onnxruntime, and the file model.onnx beside it. The image is
upscaled as a whole, so the memory needed is proportional to its pixels.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

MODE = {mode}


def main() -> int:
    """Upscale one image; returns 1 if it cannot be read or written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", help="an image file")
    parser.add_argument("upscaled", help="the file to write, such as larger.png")
    arguments = parser.parse_args()
    try:
        session = onnxruntime.InferenceSession(Path(__file__).parent / "model.onnx")
        with Image.open(arguments.picture) as image:
            pixels = np.asarray(image.convert(MODE), dtype=np.float32) / 255
        images = np.atleast_3d(pixels).transpose(2, 0, 1)[None]
        (upscaled,) = session.run(["upscaled"], {{"images": images}})[0]
        values = (upscaled.clip(0, 1) * 255).round().astype(np.uint8)
        Image.fromarray(values.transpose(1, 2, 0).squeeze()).save(arguments.upscaled)
    except Exception as error:
        print(f"{{arguments.picture}} cannot be upscaled: {{error}}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''


def predict_script(preprocessing: Preprocessing, scale: int | None) -> str | None:
    """The text of `predict.py`; None for inputs that are not images.

    Args:
        preprocessing: The preprocessing of an image.
        scale: The upscaling factor of the network; None if it classifies images.
    """
    if preprocessing.channels not in (1, 3):
        return None
    mode = quoted("RGB" if preprocessing.channels == 3 else "L")
    if scale is not None:
        return _ENLARGE.format(scale=scale, mode=mode)
    return _CLASSIFY.format(
        mode=mode,
        height=preprocessing.height,
        width=preprocessing.width,
        white=preprocessing.white,
        mean=_listed([repr(round(value, 6)) for value in preprocessing.mean], "MEAN"),
        std=_listed([repr(round(value, 6)) for value in preprocessing.std], "STD"),
        classes=_listed([quoted(name) for name in preprocessing.classes], "CLASSES"),
    )


def _listed(items: list[str], name: str) -> str:
    line = f"[{', '.join(items)}]"
    if len(name) + 3 + len(line) <= 88:
        return line
    return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
