"""`nasplat runs`, `nasplat show` and `nasplat report`: looking at what there is."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from nasplat.cli.console import out, print_json, print_table
from nasplat.cli.output import (
    describe,
    describe_comparison,
    print_comparison,
    print_compression,
    print_front,
    print_measurements,
)
from nasplat.cli.settings import EngineName, Json, TrustRun
from nasplat.errors import InputError, NasplatError
from nasplat.interface import adoption
from nasplat.run.compressed import Compression, described
from nasplat.run.directory import RunDirectory
from nasplat.run.history import History
from nasplat.run.layout import LOG
from nasplat.run.picked import Picked
from nasplat.run.retrained import Comparison
from nasplat.run.trust import resuming
from nasplat.task import Measurement, encode_incident
from nasplat.units import duration, figure, shown_metrics, spelt

if TYPE_CHECKING:
    from nasplat.latency.measuring import Latency

THE_RUNS = "as for the run's latency"
RunArgument = Annotated[Path, typer.Argument(help="The run directory.", show_default=False)]


def runs(
    folder: Annotated[Path, typer.Argument(help="The folder of the runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List the runs below a folder."""
    if not os.path.isdir(folder):  # noqa: PTH112  a name too long is none
        raise InputError(f"{folder} is not a folder; name the folder of your runs")
    summaries = [_summary_of(path.parent) for path in sorted(folder.glob(f"[!.]*/{LOG}"))]
    if json:
        print_json(summaries)
        return
    if not summaries:
        out.print(f"no runs in {escape(str(folder))}")
        return
    told = ["outcomes", *(["trained"] if any(summary.get("trained") for summary in summaries) else []), "failed"]
    print_table(
        "",
        ["run", "status", "strategy", "space", "benchmark", *told, "best", "time"],
        (
            [
                summary["run"],
                summary["status"],
                *(str(summary.get(key, "")) for key in ("strategy", "space", "benchmark", *told)),
                _best(summary),
                duration(summary["seconds"]) if "seconds" in summary else "",
            ]
            for summary in summaries
        ),
    )
    for summary in summaries:
        if "error" in summary:
            out.print(f"[yellow]{escape(summary['run'])}:[/] {escape(summary['error'])}")


def show(
    run: RunArgument,
    front: Annotated[bool, typer.Option("--front", help="Show only the front, all of it.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Number of best trials to show.")] = 10,
    architecture: Annotated[
        str | None, typer.Option(help="Show only the trials of the architecture with this code.", show_default=False)
    ] = None,
    test: Annotated[
        bool,
        typer.Option("--test", help="With --front: also measure on test data, as nasplat test does."),
    ] = False,
    latency: Annotated[
        bool, typer.Option("--latency", help="With --front: also measure the latency of its networks on this machine.")
    ] = False,
    latency_batch: Annotated[
        int | None, typer.Option(min=1, help="The batch size of --latency.", show_default=THE_RUNS)
    ] = None,
    latency_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for --latency.", show_default=THE_RUNS)
    ] = None,
    engine: Annotated[EngineName | None, typer.Option(help="The engine of --latency.", show_default=THE_RUNS)] = None,
    trust_run: TrustRun = False,
    json: Json = False,
) -> None:
    """Show what a run found: its best trials, its front, or one architecture."""
    if test and not front:
        raise InputError("--test measures the members of the front; give --front too")
    if latency and not front:
        raise InputError("--latency measures the members of the front; give --front too")
    if front and architecture is not None:
        raise InputError("--front and --architecture exclude each other; leave one out")
    opened = adoption.opened(run, trust=trust_run, accept_changed_code=True)
    history = opened.history()
    shown, final, latencies = history.ranked[:top], {}, {}
    if front:
        shown = history.front
        if latency:
            from nasplat.export import timing

            latencies = timing.latencies(
                opened.benchmark(),
                shown,
                engine=None if engine is None else engine.value,
                batch=latency_batch,
                threads=latency_threads,
            )
        if test:
            final = opened.finals(shown, opened.benchmark())
    elif architecture is not None:
        wanted = opened.benchmark().space.parse(architecture)
        shown = [m for m in history.measurements if m.architecture == wanted]
    if json:
        print_json(_document(history, shown, final, latencies))
    elif front:
        print_front(history, final, latencies)
    elif architecture is not None:
        print_measurements(f"{len(shown)} trials of {wanted}", shown, opened.config.goal)
    else:
        _show_run(history, top)


def _document(
    history: History,
    shown: Sequence[Measurement],
    final: Mapping[int, Measurement],
    latencies: "Mapping[int, Latency]",
) -> dict[str, Any]:
    """A run as JSON for machines, with the same keys whichever trials are shown."""
    comparison, source, changes = Comparison.of(history), history.run.source, history.run.data_changes
    compression, picking = Compression.of(history), Picked.of(history.run)
    trials = [
        describe(measurement)
        | ({"final": describe(final[measurement.id])} if measurement.id in final else {})
        | ({"latency": asdict(latencies[measurement.id])} if measurement.id in latencies else {})
        for measurement in shown
    ]
    return {
        **_summary(history),
        "measured": len(history.measured),
        "shown": len(trials),
        "trials": trials,
        "front": [describe(member) for member in history.front],
        "failures": _failures(history),
        "incidents": [encode_incident(incident) for incident in history.incidents],
        "tested": [describe(measurement) for _, measurement in sorted(history.tested.items())],
        **({"data_changes": changes} if changes else {}),
        **({} if source is None else {"source": source.model_dump(mode="json")}),
        **({} if comparison is None else describe_comparison(comparison)),
        **({} if compression is None else {"compressed": described(compression)}),
        **({} if picking is None else {"picking": dict(picking.found)}),
    }


def _show_run(history: History, top: int) -> None:
    goal, summary, source = history.run.config.goal, _summary(history), history.run.source
    comparison, compression = Comparison.of(history), Compression.of(history)
    for key in ("run", "status", "strategy", "space", "benchmark"):
        out.print(f"{key:10} {escape(str(summary[key]))}")
    if summary["choice"]:
        out.print(f"{'choice':10} {escape(summary['choice'])}")
    if source is not None:
        out.print(
            f"{'source':10} {escape(source.run)}: {len(source.members)} of {source.evaluations} evaluations by "
            f"{escape(source.strategy.name)}, seed {source.seed}"
        )
    out.print(f"{'objectives':10} {', '.join(map(str, (*goal.objectives, *goal.constraints)))}")
    trained = f"{summary['trained']} of them supernet trainings, " if summary["trained"] else ""
    out.print(
        f"{'outcomes':10} {summary['outcomes']}, {trained}{summary['failed']} failed, in {duration(summary['seconds'])}"
    )
    for change in history.run.data_changes:
        out.print(f"{'data':10} [yellow]changed[/], accepted {escape(change)}")
    if (picking := Picked.of(history.run)) is not None:
        for line in picking.lines():
            out.print(escape(line))
    ranked = history.ranked
    if summary["status"] == "interrupted":
        out.print(f"{'go on with':10} {escape(resuming(history.run))}")
    if history.tested:
        out.print(f"{'tested':10} {len(history.tested)} on test data, each once; see nasplat test")
    out.print()
    if compression is not None:
        print_compression(compression)
        out.print()
    elif comparison is not None:
        print_comparison(comparison)
        out.print()
    several = len(history.fidelities) > 1
    title = f"Best {min(top, len(ranked))} of {len(ranked)} measured{', the most epochs first' if several else ''}"
    print_measurements(title, ranked[:top], goal, epochs=several)
    if summary["protocol"]:
        out.print(f"\n{escape(summary['protocol'])}")
    for incident in history.incidents:
        out.print(f"[yellow]{escape(spelt(incident))}[/]")
    for failure in _failures(history):
        out.print(
            f"[yellow]trial {failure['trial']} failed[/] ({escape(failure['kind'])}): {escape(failure['message'])}"
        )


def report(
    run: RunArgument,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The file to write. Default: RUN/report.html.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Write a report: one HTML file with curves, front and configuration."""
    from nasplat.report.page import write_report

    opened = RunDirectory(run)
    path = out_file or run / "report.html"
    write_report(opened, path)
    if json:
        print_json({"report": str(path)})
    else:
        out.print(f"report: {escape(str(path))}")


def _summary_of(folder: Path) -> dict[str, Any]:
    """A summary of a run. The summary of a damaged run holds its error, so that the other runs are still listed."""
    try:
        return _summary(RunDirectory(folder).history())
    except NasplatError as error:
        return {"run": str(folder), "status": "damaged", "error": str(error)}


def _summary(history: History) -> dict[str, Any]:
    """A run in a few figures."""
    config = history.run.config
    best = history.front[0] if history.front else None
    shown = shown_metrics(config.goal, history.front)
    return {
        "run": str(history.run.folder),
        "status": history.status,
        "kind": config.kind,
        "strategy": config.strategy.name,
        "space": config.space.name,
        "benchmark": config.benchmark.name,
        "protocol": history.run.protocol,
        "choice": history.run.choice,
        "outcomes": len(history.outcomes),
        "trained": len(history.trained),
        "failed": len(history.failures),
        "seconds": history.elapsed[-1] if history.elapsed else 0.0,
        "best": best and {name: best.metrics[name] for name in shown},
    }


def _best(summary: dict[str, Any]) -> str:
    best = summary.get("best")
    if not best:
        return ""
    name, value = next(iter(best.items()))
    return f"{name} {figure(name, value)}"


def _failures(history: History) -> list[dict[str, Any]]:
    return [{"trial": failure.id, "kind": failure.kind, "message": failure.message} for failure in history.failures]
