"""`nasplat test`: the one look at test data."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nasplat.cli.console import err, out, print_json, print_table
from nasplat.cli.output import describe, describe_comparison, print_comparison
from nasplat.cli.settings import AcceptChangedCode, AcceptChangedData, Json, TrustRun
from nasplat.interface import adoption
from nasplat.interface.running import keep_accepted
from nasplat.retraining import RETRAINING
from nasplat.run.history import History
from nasplat.run.retrained import Comparison
from nasplat.task import Measurement
from nasplat.units import figure


def test(
    run: Annotated[Path, typer.Argument(help="The run directory.", show_default=False)],
    pick: Annotated[
        list[str] | None,
        typer.Option(
            help="best, knee, a trial's number, front, bins:M as in export, or all; repeatable. Default: best.",
            show_default=False,
        ),
    ] = None,
    trust_run: TrustRun = False,
    accept_changed_data: AcceptChangedData = False,
    accept_changed_code: AcceptChangedCode = False,
    json: Json = False,
) -> None:
    """Measure networks on test data. Each network is measured only once; later calls show the recorded result."""
    opened = adoption.opened(run, trust=trust_run, accept_changed_code=accept_changed_code)
    keep_accepted(opened, err, accept=accept_changed_data)
    history = opened.history()
    picked = {m.id: m for which in pick or ["best"] for m in history.picks(which)}
    _warn_of_parts(history, list(picked.values()))
    before = {number for number in picked if number in history.tested}
    finals = opened.finals(list(picked.values()), opened.benchmark())
    after = opened.history()
    comparison = Comparison.of(after)
    if json:
        tested = [
            describe(measurement)
            | {
                "final": describe(finals[number]),
                "measured": _when(finals[number]).isoformat(),
                "before": number in before,
            }
            for number, measurement in picked.items()
        ]
        print_json({"run": str(run), "tested": tested, **(describe_comparison(comparison) if comparison else {})})
        return
    _print(history, picked, finals)
    if before:
        days = sorted({f"{_when(finals[number]):%Y-%m-%d}" for number in before})
        trials = ", ".join(map(str, sorted(before)))
        out.print(
            f"trial {trials}: already measured, on {', '.join(days)}; test data is used only once for each network"
        )
    if comparison is not None and any(member.tested for member in comparison.members):
        print_comparison(comparison)


def _warn_of_parts(history: History, picked: list[Measurement]) -> None:
    """Warn of networks with fewer epochs than others of the run. Comparing them would be a selection on test data."""
    short = [m for m in picked if m.task.fidelity < history.fidelities[-1]]
    if short and history.run.config.kind != RETRAINING:
        trials = ", ".join(f"trial {m.id} ({m.task.fidelity})" for m in short)
        err.print(
            f"[yellow]fewer epochs than the run's {history.fidelities[-1]}[/]: {trials}; do not choose the number of "
            "epochs by these results on test data"
        )


def _print(history: History, picked: dict[int, Measurement], finals: dict[int, Measurement]) -> None:
    """Searched and final figures side by side."""
    first = history.run.config.goal.objectives[0].metric
    parts = any(m.task.fidelity < history.fidelities[-1] for m in picked.values())
    metrics = [name for name in next(iter(finals.values())).metrics if name not in ("params", "macs")]
    print_table(
        f"Test data: {len(picked)} network{'s' if len(picked) > 1 else ''} of {escape(str(history.run.folder))}",
        [
            "trial",
            "architecture",
            *(["epochs"] if parts else []),
            first,
            *(f"test {name}" for name in metrics),
            "measured",
        ],
        (
            [
                str(number),
                measurement.architecture.code,
                *([str(measurement.task.fidelity)] if parts else []),
                figure(first, measurement.metrics[first]),
                *(figure(name, finals[number].metrics[name]) for name in metrics),
                f"{_when(finals[number]):%Y-%m-%d %H:%M}",
            ]
            for number, measurement in picked.items()
        ),
    )


def _when(final: Measurement) -> datetime:
    """When it was measured, in UTC."""
    return datetime.fromtimestamp(final.spent.started, UTC)
