"""A self-contained HTML report of a run."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray

from nasplat.errors import ArtifactError, printable
from nasplat.objective import Goal, Objective
from nasplat.report.drawing import LARGEST, default_style, drawable, svg
from nasplat.report.layers import layers_drawing, layers_table
from nasplat.report.samples import grid_png, samples_of, scatter
from nasplat.run.compressed import EXPECTED_MACS, Compression, table
from nasplat.run.directory import RunDirectory
from nasplat.run.environment import spelt_threads
from nasplat.run.history import History
from nasplat.run.layers import layers_of
from nasplat.run.picked import LARGEST_SHEET, Picked
from nasplat.run.retrained import Comparison, agreement_of, missing_of, side_by_side
from nasplat.storage.files import read_file, refusal, write_atomically
from nasplat.task import LAYERS, Evaluate, Measurement
from nasplat.units import duration, figure, shown_metrics, spelt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, DOT, FAINT, LINE = "#333333", "#9db4c8", "#dde5ec", "#c2410c"

WORSE_CORNER: dict[tuple[bool, bool], Literal["lower left", "lower right", "upper left", "upper right"]] = {
    (True, True): "lower left",
    (True, False): "lower right",
    (False, True): "upper left",
    (False, False): "upper right",
}
"""The corner without a front, by whether more is better upwards and to the right."""


def write_report(run: RunDirectory, path: Path) -> None:
    """Write the report of a run to a file, complete or not at all.

    Raises:
        InputError: The file cannot be written.
        StorageError: The disk is full.
    """
    history = run.history()
    try:
        write_atomically(path, render(run, history))
    except OSError as error:
        raise refusal(path, "written", error) from error


def render(run: RunDirectory, history: History) -> str:
    """The report as HTML."""
    goal = run.config.goal
    front = history.front
    metrics = shown_metrics(goal, history.measured)
    measured = history.measured
    kinds = [failure.kind for failure in history.failures]
    page = Environment(
        loader=PackageLoader("nasplat.report", "."), autoescape=True, undefined=StrictUndefined, finalize=shown
    ).get_template("page.html")
    config = run.config.model_dump(mode="json")
    comparison, compression, picking = Comparison.of(history), Compression.of(history), Picked.of(run)
    return page.render(
        name=run.folder.resolve().name,
        status=history.status,
        config=config,
        config_yaml=escape(yaml.safe_dump(config, sort_keys=False)),  # YAML escapes control characters itself
        versions=run.environment["versions"],
        revision=run.environment["git"]["code"],
        threads=spelt_threads(run.environment),
        protocol=run.protocol,
        choice=run.choice,
        data_changes=run.data_changes,
        split=measured[0].split if measured else "validation",
        counts={
            "measured": len(measured),
            "cached": len(history.measurements) - len(measured),
            "supernet trainings": len(history.trained),
            "failed": len(history.failures),
        },
        seconds=duration(history.elapsed[-1]) if history.elapsed else "no time",
        metrics=metrics,
        front=[(m.id, m.architecture.code, [figure(name, m.metrics[name]) for name in metrics]) for m in front],
        source=run.source,
        compressed=None if compression is None else table(compression),
        expected_macs=EXPECTED_MACS,
        picking=picking,
        sheet="" if picking is None or picking.sheet is None else _base64(picking.sheet),
        calibrated=_calibrated(run, history),
        samples=[each for m in front if (each := _samples(run, m)) is not None],
        retrained=None if comparison is None else side_by_side(comparison),
        untrained=[] if comparison is None else missing_of(comparison),
        agreement="" if comparison is None else agreement_of(comparison),
        tested=_tested(history, goal),
        failures=[
            (kind, kinds.count(kind), next(f for f in history.failures if f.kind == kind))
            for kind in sorted(set(kinds))
        ],
        epochs=history.fidelities[-1] if len(history.fidelities) > 1 else None,
        incidents=[spelt(incident) for incident in history.incidents],
        progress=_progress(history, goal) if measured else None,
        fronts=[_front(measured, front, goal, other) for other in goal.objectives[1:]] if measured else [],
        scatter=_searched_and_retrained(comparison) if comparison is not None and comparison.paired else None,
    )


def _base64(path: Path) -> str:
    """The content of a file, for an address of its own in a page."""
    return base64.b64encode(read_file(path, LARGEST_SHEET)).decode()


def shown(value: Any) -> Any:
    """A value of the page: text of others without control characters; what is HTML already stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@default_style()
def _progress(history: History, goal: Goal) -> Markup:
    """Every measurement's first objective over the evaluations, and the best feasible one so far.

    Measurements at fewer epochs are not comparable with those at more. When more epochs are reached, as in each
    generation of shared weights, the best value is reset.
    """
    objective = goal.objectives[0]
    evaluations = [outcome for outcome in history.outcomes if isinstance(outcome.task, Evaluate)]
    points = [(number, m) for number, m in enumerate(evaluations, 1) if isinstance(m, Measurement)]
    numbers, measured = np.array([number for number, _ in points]), [m for _, m in points]
    values = drawable(m.metrics[objective.metric] for m in measured)
    fidelities = np.array([m.task.fidelity for m in measured])
    most = np.maximum.accumulate(fidelities)
    kept = np.where((fidelities == most) & np.array([not goal.violation(m) for m in measured]), values, math.nan)
    figure_, axes = _axes("evaluations", _label(objective))
    _dots(axes, numbers, values, fidelities, "each")
    levels = np.unique(most)
    for level in levels:
        (at,) = np.nonzero(most == level)
        best = (np.fmax if objective.maximize else np.fmin).accumulate(kept[at])
        until = numbers[min(at[-1] + 1, len(numbers) - 1)]
        axes.step([*numbers[at], until], [*best, best[-1]], where="post", color=LINE, linewidth=1.8)
    axes.plot(
        [], [], color=LINE, linewidth=1.8, label=f"best so far{', at the most epochs' if len(levels) > 1 else ''}"
    )
    _focus(axes, values, objective)
    axes.legend(frameon=False, fontsize=9, loc="lower right" if objective.maximize else "upper right")
    return _svg(figure_, f"{objective.metric} over evaluations")


@default_style()
def _front(measured: Sequence[Measurement], front: Sequence[Measurement], goal: Goal, other: Objective) -> Markup:
    """All measurements and the front, the other objective across and the first one up."""
    first = goal.objectives[0]

    def points(members: Sequence[Measurement]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return drawable(m.metrics[other.metric] for m in members), drawable(m.metrics[first.metric] for m in members)

    figure_, axes = _axes(_label(other), _label(first))
    across, up = points(measured)
    _dots(axes, across, up, np.array([m.task.fidelity for m in measured]), "measured")
    members = sorted(front, key=lambda m: m.metrics[other.metric])
    if len(goal.objectives) == 2:  # between its members, a front is no better than the cheaper member
        axes.step(*points(members), where="post", color=LINE, linewidth=1.2)
    axes.plot(*points(members), "o", color=LINE, markersize=5, label="front")
    _focus(axes, up, first)
    if min(across) > 1 / LARGEST and max(across) > 20 * min(across):
        axes.set_xscale("log")
    # The worse corner. Matplotlib's own search for a location takes a second with many points.
    axes.legend(frameon=False, fontsize=9, loc=WORSE_CORNER[first.maximize, other.maximize])
    return _svg(figure_, f"front of {first.metric} and {other.metric}")


@default_style()
def _searched_and_retrained(comparison: Comparison) -> Markup:
    """Values in the search on the x-axis, values after retraining on the y-axis, with the deviation over seeds."""
    assert comparison.searched is not None
    drawing, axes = _axes(f"searched {_label(comparison.searched)}", f"retrained {_label(comparison.objective)}")
    for member in comparison.members:
        if member.searched is not None and member.retrained is not None:
            x, y = drawable((member.searched, member.retrained.mean))
            spread = member.retrained.deviation
            spread = None if spread is None else min(spread, LARGEST)
            axes.errorbar(x, y, yerr=spread, fmt="o", color=LINE, ecolor=DOT, markersize=5)
    return _svg(drawing, f"searched {comparison.searched.metric} and retrained {comparison.objective.metric}")


def _tested(history: History, goal: Goal) -> list[tuple[int, str, str]]:
    """Trial, code and the first objective of what was measured on test data, by trial."""
    name = goal.objectives[0].metric
    return [
        (number, final.architecture.code, figure(name, final.metrics[name]) if name in final.metrics else "")
        for number, final in sorted(history.tested.items())
    ]


def _calibrated(run: RunDirectory, history: History) -> dict[str, Any] | None:
    """The calibrated layers of the best network that has any, or why they cannot be shown; None if there are none."""
    objective = history.run.config.goal.objectives[0]
    known = [m for m in history.complete if LAYERS in m.artifacts]
    if not known:
        return None
    best = (max if objective.maximize else min)(known, key=lambda m: m.metrics[objective.metric])
    known_as = {"trial": best.id, "code": best.architecture.code}
    try:
        layers = layers_of(best, run.artifacts)
    except ArtifactError as error:
        return {**known_as, "problem": str(error)}
    if not any(layer.figures for layer in layers):
        return None
    return {
        **known_as,
        "problem": "",
        "table": layers_table(layers),
        "drawing": _inline(layers_drawing(layers, f"layers of trial {best.id}")),
    }


def _samples(run: RunDirectory, measurement: Measurement) -> dict[str, Any] | None:
    """The samples that the network of a measurement generated, or why they cannot be shown; None if there are none."""
    known_as = {"trial": measurement.id, "code": measurement.architecture.code, "problem": "", "png": ""}
    try:
        found = samples_of(measurement, run.artifacts)
    except ArtifactError as error:
        return {**known_as, "problem": str(error)}
    if found is None:
        return None
    if found.ndim == 4:
        return {**known_as, "png": base64.b64encode(grid_png(found)).decode()}
    return {**known_as, "drawing": scatter(found, f"samples of trial {measurement.id}")}


def _dots(
    axes: "Axes", across: NDArray[Any], up: NDArray[np.float64], fidelities: NDArray[np.int_], label: str
) -> None:
    """A dot for each measurement. Measurements below the maximum number of epochs are not compared, and are faint."""
    most = fidelities.max()
    fewer = fidelities < most
    if fewer.any():
        label = f"{label} after {most} epochs"
    for among, color, called in ((fewer, FAINT, "after fewer epochs"), (~fewer, DOT, label)):
        if among.any():
            axes.scatter(
                across[among], up[among], s=12, color=color, linewidths=0, label=called, rasterized=len(up) > 2000
            )


def _focus(axes: "Axes", values: Sequence[float] | NDArray[np.float64], objective: Objective) -> None:
    """Limit the axis to the better 95 % and state how many lie beyond. Otherwise one outlier would hide the rest."""
    best, worst = (max(values), min(values)) if objective.maximize else (min(values), max(values))
    edge = float(np.quantile(values, 0.05 if objective.maximize else 0.95))
    if abs(worst - best) < 3 * abs(edge - best) or edge == best:
        return
    edge -= 0.1 * (best - edge)
    axes.set_ylim(*sorted((edge, best + 0.1 * (best - edge))))
    beyond = sum(value < edge if objective.maximize else value > edge for value in values)
    axes.annotate(f"{beyond} worse, beyond the axis", (0.01, 0.01), xycoords="axes fraction", color=INK, fontsize=8)


def _label(objective: Objective) -> str:
    return f"{objective.metric} ({'more' if objective.maximize else 'less'} is better)"


def _axes(across: str, up: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = drawing.subplots()
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def _svg(drawing: "Figure", title: str) -> Markup:
    """The drawing as inline SVG, the same for the same data."""
    return _inline(svg(drawing, title, dpi=150))


def _inline(text: str) -> Markup:
    # The drawing contains no external text except names of metrics and layers, which matplotlib escapes.
    return Markup(text[text.index("<svg") :])
