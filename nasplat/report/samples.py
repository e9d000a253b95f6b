"""Samples of generators as pictures for a page."""

import io
from typing import Any

from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load

from nasplat.artifact import Artifacts
from nasplat.data.contact_sheet import cell_image
from nasplat.errors import ArtifactError
from nasplat.generation.space import SAMPLES
from nasplat.report.drawing import default_style, drawable, svg
from nasplat.task import Measurement

ACROSS, CELL, GAP = 8, 40, 2
"""Images in a row, the side of an image and the gap between two, in pixels."""
INK, DOT = "#333333", "#c2410c"


def samples_of(measurement: Measurement, artifacts: Artifacts) -> NDArray[Any] | None:
    """The samples that a measurement left: images `[n, channels, height, width]` of bytes, or points `[n, dimensions]`.

    None if it left none.

    Raises:
        ArtifactError: They are missing or damaged.
    """
    handle = measurement.artifacts.get(SAMPLES)
    if handle is None:
        return None
    try:
        return load(artifacts.get(handle))[SAMPLES]
    except (KeyError, SafetensorError) as error:
        raise ArtifactError(f"the samples of trial {measurement.id} are damaged: {error}") from None


def grid_png(images: NDArray[Any]) -> bytes:
    """Images side by side as PNG; small ones are enlarged, with sharp pixels."""
    pitch, rows = CELL + GAP, -(-len(images) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * pitch + GAP, rows * pitch + GAP), "white")
    for number, image in enumerate(images):
        row, column = divmod(number, ACROSS)
        sheet.paste(cell_image(image, CELL), (GAP + column * pitch, GAP + row * pitch))
    with io.BytesIO() as file:
        sheet.save(file, "PNG", optimize=True)
        return file.getvalue()


@default_style()
def scatter(points: NDArray[Any], title: str) -> Markup:
    """The first two coordinates of points as inline SVG."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(2.6, 2.6), layout="constrained")
    axes = drawing.subplots()
    axes.plot(drawable(points[:, 0]), drawable(points[:, 1]), ".", color=DOT, markersize=4)
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    text = svg(drawing, title)
    return Markup(text[text.index("<svg") :])
