"""What commands print: tables for people on a terminal, JSON for machines, errors on standard error."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nasplat.nn.latency import Latency
from nasplat.objective import Goal
from nasplat.run.directory import History
from nasplat.run.retrained import Comparison, Spread, agreement_of, missing_of, side_by_side, title_of
from nasplat.task import Measurement
from nasplat.units import figure, shown_metrics

out = Console(soft_wrap=True, highlight=False)
PROSE = {"what it is", "options"}
"""The columns whose text is wrapped to the terminal; figures and names are left whole."""
err = Console(stderr=True, soft_wrap=True, highlight=False)


def printable(text: str) -> str:
    """Foreign text as a terminal may see it: what would steer the terminal is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Any) -> None:
    """One JSON document on standard output, and nothing else."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """The value with null for figures that JSON has no word for."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table, as wide as its content unless prose in it can be wrapped to the terminal."""
    if title:
        out.print(escape(title), style="italic")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="left", no_wrap=column not in PROSE)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    if out.is_terminal and PROSE & set(columns):
        out.print(table)
    else:
        Console(width=10_000, highlight=False).print(table, crop=False, no_wrap=True)


def print_measurements(
    title: str,
    measurements: Sequence[Measurement],
    goal: Goal,
    final: Mapping[int, Measurement] | None = None,
    latency: Mapping[int, Latency] | None = None,
    *,
    epochs: bool = False,
) -> None:
    """One row for each measurement, with its `epochs` where they differ too; final ones say the first objective."""
    metrics = shown_metrics(goal)
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
                *([f"{latency[m.id].median_ms:.4g} ± {latency[m.id].iqr_ms:.2g} ms"] if latency else []),
            ]
            for m in measurements
        ),
    )


def print_front(
    history: History,
    final: Mapping[int, Measurement] | None = None,
    latency: Mapping[int, Latency] | None = None,
) -> None:
    """The front of a run, whole; with latencies, what they were measured on."""
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
            f"[yellow]nothing measured keeps {escape(', '.join(map(str, goal.constraints)))}[/]; "
            f"the nearest is trial {nearest.id} with {figures}"
        )
    print_measurements(title, history.front, history.run.config.goal, final, latency)
    if latency:
        any_ = next(iter(latency.values()))
        threads = f"{any_.threads} thread{'s' if any_.threads > 1 else ''}"
        out.print(f"latency: median ± interquartile range on {any_.device}, batch {any_.batch}, {threads}")


def describe(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON for machines."""
    return {
        "trial": measurement.id,
        "space": measurement.architecture.space,
        "architecture": measurement.architecture.code,
        "fidelity": measurement.task.fidelity,
        "split": measurement.split,
        "metrics": dict(measurement.metrics),
        "remembered": measurement.remembered,
    }


def print_comparison(comparison: Comparison) -> None:
    """The members of a retraining, and how well the search had ranked them."""
    columns, rows = side_by_side(comparison)
    print_table(title_of(comparison), columns, rows)
    for line in missing_of(comparison):
        out.print(f"[yellow]{escape(printable(line))}[/]")
    if agreement := agreement_of(comparison):
        out.print(agreement)


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON for machines."""
    return {
        "retrained": [
            {
                "trial": member.origin and member.origin.trial,
                "architecture": member.architecture.code,
                "params": member.params,
                "searched": member.searched,
                "retrained": _describe_spread(member.retrained),
                "tested": _describe_spread(member.tested),
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


def _describe_spread(values: Spread | None) -> dict[str, Any] | None:
    if values is None:
        return None
    return {"mean": values.mean, "deviation": values.deviation, "values": list(values.values)}
