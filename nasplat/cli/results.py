"""`nasplat table` and `nasplat export-study`: the trials of a run for other tools."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nasplat.cli.console import err, out, print_json
from nasplat.cli.settings import Json, TrustRun
from nasplat.interface.adoption import opened
from nasplat.results.table import columns_of, write_csv, write_table
from nasplat.run.directory import RunDirectory

RunArgument = Annotated[Path, typer.Argument(help="The run directory.", show_default=False)]


def table(
    run: RunArgument,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The file to write: NAME.csv, or NAME.parquet (extra parquet). Default: CSV on standard output.",
            show_default=False,
        ),
    ] = None,
    trust_run: TrustRun = False,
) -> None:
    """Write the trials of a run as a table: genes, metrics, seconds, and what is on the front."""
    opened = _opened(run, trust_run)
    if out_file is None:
        write_csv(columns_of(opened.history()), sys.stdout)
        return
    count = write_table(opened, out_file)
    err.print(f"table: {escape(str(out_file))}, {count} trials")


def export_study(
    run: RunArgument,
    storage: Annotated[
        Path, typer.Option(help="A journal file of Optuna; it may have other studies.", show_default=False)
    ],
    name: Annotated[
        str | None, typer.Option(help="The name of the study. Default: that of the run's folder.", show_default=False)
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a study of the same name.")] = False,
    trust_run: TrustRun = False,
    json: Json = False,
) -> None:
    """Write a copy of a run as a study of Optuna, for optuna-dashboard; needs the extra optuna."""
    from nasplat.results.study import export_study as write

    study = write(_opened(run, trust_run), storage, name=name, replace=replace)
    if json:
        print_json({"storage": str(storage), **asdict(study)})
        return
    out.print(f"study: {escape(study.name)} in {escape(str(storage))}, {study.trials} trials")
    if study.unfinished:
        out.print(f"{study.unfinished} trials that have not ended are left out")
    out.print("It is a copy: what is changed or deleted there does not change the run, nor the run the study.")
    out.print(f"look at it with: optuna-dashboard {escape(str(storage))}")


def _opened(folder: Path, trust: bool) -> RunDirectory:
    """The run; says it if the genes of its trials are unknown."""
    run = opened(folder, trust=trust, accept_changed_code=True)
    if run.space is None:
        err.print(
            f"[yellow]the genes of {escape(run.config.space.name)} are left out[/], since this run alone names it; if "
            "the run is your own, give --trust-run"
        )
    return run
