"""`nasplat recover`: what can be saved of a damaged run."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nasplat.cli.console import out, print_json
from nasplat.run.directory import RunDirectory
from nasplat.run.trust import resuming
from nasplat.storage.event_log import recovering


def recover(
    run: Annotated[Path, typer.Argument(help="The damaged run; nothing in it is changed.", show_default=False)],
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The run directory to create; without it, only report what can be saved.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A configuration file to use instead of the run's own.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Recover a damaged run: save its readable parts as a new run, which can be resumed."""
    from nasplat.run.recovery import BEYOND, salvage

    found = salvage(run, config)
    if out_folder is not None:
        found.save(out_folder)
    summary = found.summary()
    if json:
        print_json({**summary, "out": None if out_folder is None else str(out_folder)})
        return
    for line in _lines(summary, BEYOND):
        out.print(escape(line))
    if out_folder is not None:
        out.print(f"saved: {escape(str(out_folder))}")
        if (saved := RunDirectory(out_folder)).history().ended is None:
            out.print(f"go on with: {escape(resuming(saved))}")
    elif not found.healthy:
        out.print(escape(recovering(run)))


def _lines(summary: dict[str, Any], beyond: str) -> list[str]:
    """The summary in words."""
    saved = summary["saved"]
    read = f"{summary['events_read']} events"
    unchecked = []
    if summary["not_replayed"]:
        unchecked.append(
            f"  not checked    what the strategy asks for, since it cannot start: {summary['not_replayed']}"
        )
    if summary["healthy"]:
        return [f"nothing to recover: {summary['run']} is whole, with {read}", *unchecked]
    lines = [f"damaged: {summary['run']}" + (f" ({summary['problem']})" if summary["problem"] else "")]
    lines.append(f"  can be read    {read} of {summary['newest_event']}, {summary['events_lost']} are lost")
    lines.append(
        f"  can be saved   {saved['events']} events ({saved['asks']} asks, {saved['outcomes']} outcomes), "
        f"{saved['artifacts']} artifacts"
    )
    if summary["gap"]:
        lines.append(f"  the log ends   before event {summary['gap']['event']}: {summary['gap']['why']}")
    if summary["beyond_the_gap"]:
        lines.append(f"  beyond that    {summary['beyond_the_gap']} outcomes, kept in {beyond}")
    if summary["artifacts_damaged"]:
        lines.append(f"  damaged        {summary['artifacts_damaged']} artifacts")
    if summary["artifacts_missing"]:
        trials = sorted({trial for each in summary["artifacts_missing"].values() for trial in each})
        lines.append(f"  no weights of  trials {', '.join(map(str, trials[:10]))}{' …' if len(trials) > 10 else ''}")
    if summary["states_gone"]:
        gone = len(summary["states_gone"])
        lines.append(f"  states gone    {gone}; trials that would continue from them fail as artifact lost")
    if summary["environment"] != "whole":
        lines.append("  environment    cannot be read; today's is recorded instead")
    if summary["data"] != "whole":
        lines.append("  data           the record cannot be read and is left out; changes of the data are not noticed")
    if summary["picking_lost"]:
        named = ", ".join(f"{name} ({why})" for name, why in summary["picking_lost"].items())
        lines.append(f"  not copied     {named}; put files of these names into the new run")
    return [*lines, *unchecked]
