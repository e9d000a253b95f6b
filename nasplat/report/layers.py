"""The statistics of a network's layers as a table and as bars."""

from collections.abc import Sequence

from nasplat.report.drawing import default_style, drawable, svg
from nasplat.run.layers import LayerStatistics

INK, GRID, BAR = "#333333", "#e5e7eb", "#9db4c8"
LINE, WIDTH, MARGIN = 0.24, 3.6, 1.1
"""Inches: the height of a bar with its distance, the width of a column of bars, and what is above and below."""


def layers_table(layers: Sequence[LayerStatistics]) -> tuple[list[str], list[list[str]]]:
    """The names of columns, and a row for each layer."""
    names = _figures(layers)
    rows = [
        [layer.name, *(f"{layer.figures[name]:.3g}" if name in layer.figures else "" for name in names)]
        for layer in layers
    ]
    return ["layer", *(name.replace("_", " ") for name in names)], rows


@default_style()
def layers_drawing(layers: Sequence[LayerStatistics], title: str) -> str:
    """A column of bars for each statistic, a bar for each layer, the first layer on top, as SVG.

    Args:
        layers: The layers; at least one has a statistic that is a single number.
        title: The title of the figure.
    """
    from matplotlib.figure import Figure

    names = _figures(layers)
    drawing = Figure(figsize=(2 + WIDTH * len(names), MARGIN + LINE * len(layers)), layout="constrained")
    columns = drawing.subplots(1, len(names), sharey=True, squeeze=False)[0]
    places = range(len(layers))
    for axes, name in zip(columns, names, strict=True):
        axes.barh(places, drawable(layer.figures.get(name, 0.0) for layer in layers), color=BAR)
        axes.set_xlabel(name.replace("_", " "), color=INK)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    columns[0].set_yticks(places, [layer.name for layer in layers])
    columns[0].invert_yaxis()
    return svg(drawing, title)


def _figures(layers: Sequence[LayerStatistics]) -> list[str]:
    return list(dict.fromkeys(name for layer in layers for name in layer.figures))
