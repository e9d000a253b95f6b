"""Learning curves of predictors as one figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nasplat.report.drawing import default_style, svg
from nasplat.surrogates.ranking_metrics import Interval, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#333333", "#e5e7eb"
COLORS = ("#2563eb", "#c2410c", "#15803d", "#7c3aed", "#b45309", "#0e7490", "#be185d", "#4d7c0f", "#57534e")
MARKERS = "osD^vP*Xh"


@default_style()
def learning_curves(trials: Sequence[Trial], *, title: str, metric: str, top: int) -> str:
    """Kendall's tau and the regret of the top architectures over the training-set size, as SVG.

    Lines are means over splits, bands their 95 % intervals. The same trials give the same text.

    Args:
        trials: The results; failures are left out.
        title: The title of the figure.
        metric: The metric of the scores, with its unit.
        top: The number of top architectures for the regret.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10.4, 4.3), layout="constrained")
    drawing.suptitle(title, color=INK, fontsize=11)
    left, right = drawing.subplots(1, 2)
    names = list(dict.fromkeys(trial.predictor for trial in trials))
    sizes = sorted({trial.size for trial in trials})
    # The predictor that ranks best at the largest size comes first in the legend, as in the figure.
    curves = {name: _curve([t for t in trials if t.predictor == name], "tau") for name in names}
    ranked = sorted(names, key=lambda name: max(((s, i.mean) for s, i in curves[name].items()), default=(0, 0.0)))[::-1]
    for axes, figure in ((left, "tau"), (right, "regret")):
        for number, name in enumerate(names):
            curve = _curve([t for t in trials if t.predictor == name], figure)
            _draw(axes, curve, COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)], name, number, len(names))
        _dress(axes, sizes)
    left.set_ylabel("Kendall's τ on all others (more is better)", color=INK)
    right.set_ylabel(f"regret of the best {top}, {metric} (less is better)", color=INK)
    regrets = [i.mean for name in names for i in _curve([t for t in trials if t.predictor == name], "regret").values()]
    # With few splits, bands may extend far beyond the largest regret.
    right.set_ylim(0, min(right.get_ylim()[1], 2.5 * max(regrets, default=0)) or None)
    handles = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    drawing.legend(
        [handles[name] for name in ranked if name in handles],
        [name.replace("_", " ") for name in ranked if name in handles],
        loc="outside right center",
        frameon=False,
        fontsize=9,
    )
    return svg(drawing, title)


def _curve(trials: Sequence[Trial], figure: str) -> dict[int, Interval]:
    """The interval of a metric by training-set size."""
    values: dict[int, list[float]] = {}
    for trial in trials:
        if trial.all is not None:
            values.setdefault(trial.size, []).append(getattr(trial.all, figure))
    return {size: Interval.of(found) for size, found in sorted(values.items())}


def _draw(axes: "Axes", curve: dict[int, Interval], color: str, marker: str, label: str, number: int, of: int) -> None:
    """A line with its band; for a single size, a point with its error bar beside the others."""
    if not curve:
        return
    sizes, means = list(curve), [interval.mean for interval in curve.values()]
    halves = [interval.half if interval.half == interval.half else 0.0 for interval in curve.values()]
    style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 1.6, "label": label}
    if len(curve) == 1:
        beside = 1 + 0.03 * (number - (of - 1) / 2)
        axes.errorbar([sizes[0] * beside], means, yerr=halves, capsize=3, **style)
        return
    axes.plot(sizes, means, **style)
    low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
    axes.fill_between(sizes, low, high, color=color, alpha=0.13, linewidth=0)


def _dress(axes: "Axes", sizes: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xlabel("training set (architectures)", color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    if len(sizes) == 1:
        axes.set_xlim(sizes[0] / 1.5, sizes[0] * 1.5)
