"""`predict.py` of an exported generator: a small script that draws samples from it."""

from inspect import getsource

from nasplat.architecture import IO
from nasplat.benchmark import Preprocessing
from nasplat.errors import printable

_BEGINNING = '''\
"""Draw samples from the generator: {what}.

It needs {packages} and onnxruntime, and the file model.onnx beside it. The same seed gives
the same samples.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
{imports}
LATENTS = {latents}  # the numbers of a latent vector
MOST = 10_000  # samples of a call
{constants}

def generate(count: int, seed: int) -> np.ndarray:
    """Samples [count, {shape}] of latent vectors of the standard normal distribution."""
    session = onnxruntime.InferenceSession(Path(__file__).parent / "model.onnx")
    latents = np.random.default_rng(seed).standard_normal((count, LATENTS), dtype=np.float32)
    return session.run(["samples"], {{"latents": latents}})[0]


'''
_IMAGES = '''\
def drawn(samples: np.ndarray) -> Image.Image:
    """A sheet of images, row by row. Small ones are enlarged by whole factors."""
    pixels = (samples * STD + MEAN).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    times = max(1, 48 // max(pixels.shape[1:3]))
    pixels = pixels.repeat(times, 1).repeat(times, 2)
    count, height, width, channels = pixels.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 255, np.uint8)
    for number, image in enumerate(pixels):
        row, column = divmod(number, columns)
        top, left = row * (height + GAP) + GAP, column * (width + GAP) + GAP
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


'''
_POINTS = '''\
def written(samples: np.ndarray) -> str:
    """Samples as CSV, a line each."""
    values = samples.reshape(len(samples), -1)
    lines = [",".join(f"x{number}" for number in range(values.shape[1]))]
    return "\\n".join([*lines, *(",".join(f"{value:.7g}" for value in each) for each in values)]) + "\\n"


'''
_MAIN = '''\
def main() -> int:
    """Write samples to a file; returns 1 if that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="the file to write, such as {example}")
    parser.add_argument("--count", type=int, default=64, help="number of samples (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latent vectors (default: 0)")
    arguments = parser.parse_args()
    if not 1 <= arguments.count <= MOST or arguments.seed < 0:
        parser.error(f"--count must be 1 to {{MOST:,}} and --seed 0 or more")
    try:
        samples = generate(arguments.count, arguments.seed)
        {write}
    except Exception as error:
        print(printable(f"{{arguments.file}} cannot be written: {{error}}"), file=sys.stderr)
        return 1
    return 0


{printable}

if __name__ == "__main__":
    sys.exit(main())
'''


def draw_script(io: IO, preprocessing: Preprocessing | None) -> str:
    """The text of `predict.py` for a generator.

    Args:
        io: The shapes of the generator.
        preprocessing: How images became what it learned from, which the script reverses; None for points.
    """
    shape = ", ".join(map(str, io.output_shape))
    if preprocessing is None or preprocessing.channels not in (1, 3):
        return _BEGINNING.format(
            what="a CSV file of points", packages="numpy", imports="", latents=io.input_shape[0], constants="",
            shape=shape,
        ) + _POINTS + _MAIN.format(
            example="samples.csv", printable=getsource(printable),
            write='Path(arguments.file).write_text(written(samples), encoding="utf-8")',
        )  # fmt: skip
    scale = 255 / preprocessing.white
    mean, std = (
        f"np.float32({[value * scale for value in each]})[:, None, None]"
        for each in (preprocessing.mean, preprocessing.std)
    )
    constants = f"MEAN = {mean}  # of pixels, for a sample of 0\nSTD = {std}\nGAP = 2  # pixels between images\n"
    return _BEGINNING.format(
        what="a sheet of images", packages="numpy, pillow", imports="from PIL import Image\n",
        latents=io.input_shape[0], constants=constants, shape=shape,
    ) + _IMAGES + _MAIN.format(
        example="samples.png", printable=getsource(printable), write="drawn(samples).save(arguments.file)"
    )  # fmt: skip
