"""`nasplat check`: whether a plug-in keeps the contract of its kind."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from nasplat.cli.console import out, print_json
from nasplat.cli.settings import Json

COLORS = {"passed": "green", "failed": "red", "skipped": "yellow"}


def check(
    plugin: Annotated[
        str,
        typer.Argument(
            help="A space, strategy, benchmark, predictor or transform: its name; or MODULE:ATTRIBUTE or "
            "FILE.py:ATTRIBUTE of one of your own.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            help="space, strategy, benchmark, predictor or transform, if a name is of several.", show_default=False
        ),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="For a benchmark: the space to measure.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.OPTION=VALUE",
            help="An option, such as benchmark.epochs=2 or space.channels=4; repeatable.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check a plug-in against the contract of its kind, rule by rule; exit code 1 if one is broken."""
    from nasplat.cli.predicting import assigned
    from nasplat.interface.checking import KINDS, checked

    sections = assigned(set_, list(KINDS))
    options = {f"{section}.{name}": value for section, given in sections.items() for name, value in given.items()}
    results = []
    for each in checked(plugin, kind=kind, space=space, options=options):
        results.append(each)
        if not json:
            message = f"  {' '.join(each.message.split())}" if each.message else ""
            out.print(f"[{COLORS[each.result]}]{each.result:7}[/]  {each.rule}{escape(message)}", soft_wrap=True)
    counts = {result: sum(each.result == result for each in results) for result in COLORS}
    if json:
        print_json({"plugin": plugin, "results": [asdict(each) for each in results], **counts})
    else:
        out.print("[bold]" + ", ".join(f"{number} {result}" for result, number in counts.items()) + "[/]")
    if counts["failed"]:
        raise typer.Exit(1)
