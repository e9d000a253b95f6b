"""Output of runs and measurements, as tables and as JSON."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from nasplat.cli.console import err, out, print_table
from nasplat.latency.conditions import Conditions, processor
from nasplat.objective import Goal
from nasplat.run.compressed import Compression, table
from nasplat.run.history import History
from nasplat.run.retrained import Comparison, MeanStd, agreement_of, missing_of, side_by_side, title_of
from nasplat.task import Measurement
from nasplat.units import figure, milliseconds, shown_metrics

if TYPE_CHECKING:
    from nasplat.latency.measuring import Latency


def print_measurements(
    title: str,
    measurements: Sequence[Measurement],
    goal: Goal,
    final: Mapping[int, Measurement] | None = None,
    latency: "Mapping[int, Latency] | None" = None,
    *,
    epochs: bool = False,
) -> None:
    """Print one row per measurement.

    The table has a column of epochs if `epochs` is true or the measurements differ in epochs. Final measurements add a
    column with the first objective on test data.
    """
    metrics = shown_metrics(goal, measurements)
    first = metrics[0]
    epochs = epochs or len({m.task.fidelity for m in measurements}) > 1
    print_table(
        title,
        [
            "trial",
            "architecture",
            *(["epochs"] if epochs else []),
            *metrics,
            *([f"test {first}"] if final else []),
            *(["latency"] if latency else []),
        ],
        (
            [
                str(m.id),
                m.architecture.code,
                *([str(m.task.fidelity)] if epochs else []),
                *(figure(name, m.metrics[name]) for name in metrics),
                *([figure(first, final[m.id].metrics.get(first, m.metrics[first]))] if final else []),
                *(
                    [f"{figure('latency_ms', latency[m.id].median_ms)} ± {milliseconds(latency[m.id].iqr_ms, 2)}"]
                    if latency
                    else []
                ),
            ]
            for m in measurements
        ),
    )


def print_front(
    history: History,
    final: Mapping[int, Measurement] | None = None,
    latency: "Mapping[int, Latency] | None" = None,
) -> None:
    """Print the whole front of a run, with what its metrics stand for. With latencies, also print their conditions."""
    goal = history.run.config.goal
    compared, title = history.measured, f"Front: {len(history.front)} of {len(history.measured)} measured"
    if len(history.fidelities) > 1:
        highest = history.fidelities[-1]
        compared = [m for m in compared if m.task.fidelity == highest]
        title = (
            f"Front: {len(history.front)} of {len(compared)} after {highest} epochs, {len(history.measured)} measured"
        )
    if compared and not history.front:
        nearest = history.ranked[0]
        figures = ", ".join(f"{c.metric} {figure(c.metric, nearest.metrics[c.metric])}" for c in goal.constraints)
        err.print(
            f"[yellow]no measurement satisfies {escape(', '.join(map(str, goal.constraints)))}[/]; "
            f"the nearest is trial {nearest.id} with {figures}"
        )
    print_measurements(title, history.front, history.run.config.goal, final, latency)
    if history.run.protocol and "latency_ms" in shown_metrics(goal):
        out.print(escape(history.run.protocol))
    if latency:
        any_ = next(iter(latency.values()))
        conditions = Conditions(any_.engine, any_.threads, any_.batch, any_.device)
        out.print(f"latency: median ± interquartile range; {conditions}; {escape(processor(any_.device))}")


def describe(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON for machines."""
    return {
        "trial": measurement.id,
        "space": measurement.architecture.space,
        "architecture": measurement.architecture.code,
        "fidelity": measurement.task.fidelity,
        "split": measurement.split,
        "metrics": dict(measurement.metrics),
        "cached_from": measurement.cached_from,
    }


def print_comparison(comparison: Comparison) -> None:
    """The members of a retraining, and how well the search had ranked them."""
    columns, rows = side_by_side(comparison)
    print_table(title_of(comparison), columns, rows)
    for line in missing_of(comparison):
        out.print(f"[yellow]{escape(line)}[/]")
    if agreement := agreement_of(comparison):
        out.print(agreement)


def print_compression(compression: Compression) -> None:
    """The networks of a compression before and after."""
    columns, rows = table(compression)
    members, epochs = len(compression.members), compression.epochs
    said = f"{members} network{'s' * (members != 1)}, fine-tuned for {epochs} epoch{'s' * (epochs != 1)}"
    print_table(f"Compressed: {said}", columns, rows)


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON for machines."""
    return {
        "retrained": [
            {
                "trial": member.origin and member.origin.trial,
                "architecture": member.architecture.code,
                "params": member.params,
                "searched": member.searched,
                "retrained": _describe_mean_std(member.retrained),
                "tested": _describe_mean_std(member.tested),
                "begun": member.begun,
                "teacher": member.teaches,
                "missing": member.missing or None,
            }
            for member in comparison.members
        ],
        "compared": {
            "searched": comparison.searched and str(comparison.searched),
            "retrained": str(comparison.objective),
            "epochs": comparison.epochs,
            "members": len(comparison.members),
            "trained": comparison.done,
            "seeds": comparison.seeds,
            "spearman": comparison.spearman,
            "kendall": comparison.kendall,
        },
    }


def _describe_mean_std(values: MeanStd | None) -> dict[str, Any] | None:
    if values is None:
        return None
    return {"mean": values.mean, "deviation": values.deviation, "values": list(values.values)}
