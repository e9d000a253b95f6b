"""A self-contained HTML page on a calibration: how far the network's confidence can be trusted, before and after."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nasplat.calibration.comparison import Compared
from nasplat.calibration.recommendation import LEAST
from nasplat.calibration.reliability import COUNTS, Diagram
from nasplat.report.drawing import default_style, svg
from nasplat.report.page import shown
from nasplat.storage.files import refusal, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, BAR, BEFORE, AFTER = "#333333", "#dde5ec", "#c2410c", "#2563eb"
TITLES: Mapping[str, str] = {
    "brier": "Brier score",
    "reliability": "of it reliability (0 is best)",
    "resolution": "of it resolution (more is better)",
    "uncertainty": "of it uncertainty (of the images)",
    "within_bins": "of it within bins",
    "calibration_error": "expected calibration error",
    "decision_cost": "cost of a decision",
    "high_confidence_errors": "wrong and acted on",
    "high_confidence_rights": "right and acted on",
}
"""What the figures are called, in their order."""


def write_page(compared: Compared, name: str, path: Path) -> None:
    """Write the page, complete or not at all.

    Args:
        compared: What it shows.
        name: The name of the network.
        path: The file.

    Raises:
        InputError: The file cannot be written.
        StorageError: The disk is full.
    """
    try:
        write_atomically(path, render(compared, name))
    except OSError as error:
        raise refusal(path, "written", error) from error


def render(compared: Compared, name: str) -> str:
    """The page as HTML."""
    found, chosen, shipped = compared.found, compared.recommendation, compared.shipped
    page = Environment(
        loader=PackageLoader("nasplat.report", "."), autoescape=True, undefined=StrictUndefined, finalize=shown
    ).get_template("calibration.html")
    arms = list(dict.fromkeys(["none", shipped, *compared.figures]))
    rows = [
        (title, [(arm, *_cell(compared, arm, figure)) for arm in arms])
        for figure, title in TITLES.items()
        if compared.figures
    ]
    return page.render(
        name=name,
        images=f"{len(found.outputs):,}",
        labelled=f"{len(found.rows):,}",
        held_out=f"{len(found.held_out):,}",
        threshold=f"{compared.threshold:g}",
        rest=f"{1 - compared.threshold:.3g}",
        shipped=shipped,
        reason="" if chosen is None or chosen.name != shipped else chosen.reason,
        notes=compared.notes,
        drawing=_drawing(compared) if compared.figures else "",
        arms=arms,
        rows=rows,
        scored=int(found.drawn.sum()) if found.drawn.sum() >= LEAST else len(found.rows),
        fair=found.drawn.sum() >= LEAST and not found.drawn.all(),
        recommended="" if chosen is None else chosen.name,
        reason_of="" if chosen is None else chosen.reason,
        scores=[]
        if chosen is None
        else [
            (arm, f"{each.brier:.4f}", f"{each.gain:.4f}", f"{each.error:.4f}") for arm, each in chosen.scores.items()
        ],
        acted=[f"{compared.acted(each):,}" for each in dict.fromkeys(("none", shipped))],
    )


def _cell(compared: Compared, arm: str, figure: str) -> tuple[str, str]:
    """A figure and its interval."""
    each = compared.figures[arm][figure]
    form = ",.0f" if figure in COUNTS else ".4f"
    return f"{each.value:{form}}", f"({each.low:{form}} to {each.high:{form}})"


@default_style()
def _drawing(compared: Compared) -> Markup:
    """The reliability diagrams of the network itself and of what ships, with the numbers of images below."""
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(("none", compared.shipped)))
    drawing = Figure(figsize=(5.2 * len(arms), 5.4), layout="constrained")
    axes = drawing.subplots(2, len(arms), squeeze=False, sharex=True, height_ratios=[4, 1])
    most = 0
    for column, (arm, color) in enumerate(zip(arms, (BEFORE, AFTER), strict=False)):
        found = compared.diagram(arm)
        assert found is not None
        most = max(most, int(found.counts.max()))
        _diagram(axes[0][column], found, color)
        axes[0][column].set_title("the network itself" if arm == "none" else arm, color=INK, fontsize=11)
        _counts(axes[1][column], found)
    for each in axes[1]:
        each.set_ylim(0, 1.35 * most)
    axes[0][0].set_ylabel("share of right predictions", color=INK)
    axes[1][0].set_ylabel("images", color=INK)
    return Markup(svg(drawing, "reliability"))


def _diagram(axes: "Axes", found: Diagram, color: str) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    ends = np.stack([found.right - found.low, found.high - found.right])
    axes.errorbar(found.confidence, found.right, ends, color=color, marker="o", markersize=5, linewidth=1.2, capsize=3)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.spines[["top", "right"]].set_visible(False)


def _counts(axes: "Axes", found: Diagram) -> None:
    width = found.upper - found.lower
    axes.bar(found.lower, found.counts, width, align="edge", color=BAR, edgecolor="white")
    for place, count in zip(found.lower + width / 2, found.counts, strict=True):
        axes.annotate(f"{count:,}", (place, count), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xlabel("confidence", color=INK)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def columns(compared: Compared) -> tuple[Sequence[str], list[list[str]]]:
    """The figures of the network itself and of all calibrators as a table of texts."""
    arms = list(compared.figures)
    rows = []
    for figure, title in TITLES.items():
        cells = [" ".join(_cell(compared, arm, figure)) for arm in arms]
        rows.append([title, *cells])
    return ["figure", *(f"{arm} *" if arm == compared.shipped else arm for arm in arms)], rows
