"""One HTML file about a run, with nothing loaded from elsewhere."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from nasplat.objective import Goal, Objective
from nasplat.run.directory import History, Run
from nasplat.run.files import refusal, write_atomically
from nasplat.task import Measurement
from nasplat.units import duration, figure, shown_metrics, spelt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, DOT, LINE = "#333333", "#9db4c8", "#c2410c"

WORSE_CORNER: dict[tuple[bool, bool], Literal["lower left", "lower right", "upper left", "upper right"]] = {
    (True, True): "lower left",
    (True, False): "lower right",
    (False, True): "upper left",
    (False, False): "upper right",
}
"""The corner without a front, by whether more is better upwards and to the right."""


def write_report(run: Run, path: Path) -> None:
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


def render(run: Run, history: History) -> str:
    """The report as HTML."""
    goal = run.config.goal
    front = history.front
    metrics = shown_metrics(goal)
    measured = history.measured
    kinds = [failure.kind for failure in history.failures]
    page = Environment(
        loader=PackageLoader("nasplat.report", "."), autoescape=True, undefined=StrictUndefined
    ).get_template("page.html")
    config = run.config.model_dump(mode="json")
    return page.render(
        name=run.folder.resolve().name,
        status=history.status,
        config=config,
        config_yaml=yaml.safe_dump(config, sort_keys=False),
        versions=run.environment["versions"],
        revision=run.environment["git"]["code"],
        split=measured[0].split if measured else "validation",
        counts={
            "measured": len(measured),
            "answered from memory": len(history.measurements) - len(measured),
            "failed": len(history.failures),
        },
        seconds=duration(history.elapsed[-1]) if history.elapsed else "no time",
        metrics=metrics,
        front=[(m.id, m.architecture.code, [figure(name, m.metrics[name]) for name in metrics]) for m in front],
        failures=[
            (kind, kinds.count(kind), next(f for f in history.failures if f.kind == kind))
            for kind in sorted(set(kinds))
        ],
        epochs=history.fidelities[-1] if len(history.fidelities) > 1 else None,
        incidents=[spelt(incident) for incident in history.incidents],
        progress=_progress(history, goal) if measured else None,
        fronts=[_front(measured, front, goal, other) for other in goal.objectives[1:]] if measured else [],
    )


def _progress(history: History, goal: Goal) -> Markup:
    """Every measurement's first objective over the evaluations, and the best so far that keeps the constraints."""
    objective = goal.objectives[0]
    numbers, values, kept = [], [], []
    for number, outcome in enumerate(history.outcomes, 1):
        if isinstance(outcome, Measurement):
            numbers.append(number)
            values.append(outcome.metrics[objective.metric])
            kept.append(values[-1] if not goal.violation(outcome) else math.nan)
    best = (np.fmax if objective.maximize else np.fmin).accumulate(kept)
    figure_, axes = _axes("evaluations", _label(objective))
    axes.scatter(
        np.array(numbers), np.array(values), s=12, color=DOT, linewidths=0, label="each", rasterized=len(values) > 2000
    )
    axes.step(numbers, best, where="post", color=LINE, linewidth=1.8, label="best so far")
    _focus(axes, values, objective)
    axes.legend(frameon=False, fontsize=9, loc="lower right" if objective.maximize else "upper right")
    return _svg(figure_, f"{objective.metric} over evaluations")


def _front(measured: Sequence[Measurement], front: Sequence[Measurement], goal: Goal, other: Objective) -> Markup:
    """All measurements and the front, the other objective across and the first one up."""
    first = goal.objectives[0]

    def points(members: Sequence[Measurement]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.array([m.metrics[other.metric] for m in members]), np.array(
            [m.metrics[first.metric] for m in members]
        )

    figure_, axes = _axes(_label(other), _label(first))
    across, up = points(measured)
    axes.scatter(across, up, s=12, color=DOT, linewidths=0, label="measured", rasterized=len(measured) > 2000)
    members = sorted(front, key=lambda m: m.metrics[other.metric])
    if len(goal.objectives) == 2:  # between its members a front promises no more than the cheaper one gives
        axes.step(*points(members), where="post", color=LINE, linewidth=1.2)
    axes.plot(*points(members), "o", color=LINE, markersize=5, label="front")
    _focus(axes, up, first)
    if min(across) > 0 and max(across) > 20 * min(across):
        axes.set_xscale("log")
    # Where the better corner is not; matplotlib's own search for room takes a second on many points.
    axes.legend(frameon=False, fontsize=9, loc=WORSE_CORNER[first.maximize, other.maximize])
    return _svg(figure_, f"front of {first.metric} and {other.metric}")


def _focus(axes: "Axes", values: Sequence[float] | NDArray[np.float64], objective: Objective) -> None:
    """Give the axis to the better nineteen in twenty, and say how many lie beyond: one collapse hides all else."""
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
    import matplotlib

    text = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Title": title}
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        drawing.savefig(text, format="svg", metadata=metadata, dpi=150)
    svg = text.getvalue()
    # The drawing is ours and holds no text of others but metric names, which matplotlib escapes.
    return Markup(svg[svg.index("<svg") :])
