"""`nasplat calibrate`: the confidence of an exported network, corrected by labels of a few pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nasplat.cli.console import err, out, print_json, print_table
from nasplat.cli.settings import Json
from nasplat.interface import calibrating

if TYPE_CHECKING:
    from nasplat.calibration.asking import Asking


def calibrate(
    exported: Annotated[Path, typer.Argument(help="The exported folder, made with --features.", show_default=False)],
    operation: Annotated[
        list[str],
        typer.Option(
            help="Images of where the network is used: a folder, flat or nested, or a data set by name; repeatable.",
            show_default=False,
        ),
    ],
    out_folder: Annotated[
        Path,
        typer.Option(
            "--out",
            help="The folder of the calibration. The same command goes on with one that was begun.",
            show_default=False,
        ),
    ],
    budget: Annotated[int, typer.Option(help="The number of images to label.")] = 100,
    threshold: Annotated[
        float, typer.Option(help="The confidence from which predictions are acted on, between 0 and 1.")
    ] = 0.9,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A CSV file with the columns picture and label. Default: the command says which images to label, and "
            "goes on when it is called again.",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            help="Further images to label, drawn at random, that no calibrator sees; figures are of these. Default: "
            "with --labels all others of the file, else none.",
            show_default=False,
        ),
    ] = None,
    calibrator: Annotated[
        str | None,
        typer.Option(
            help="What ships: none, temperature, platt, isotonic or operational. Default: the recommended one.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="The images of a round. Default: a fifth of the budget, at least 10.", show_default=False),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The settings of arXiv:1910.02352, for comparisons.")] = False,
    seed: Annotated[int, typer.Option(help="The random seed.")] = 0,
    json: Json = False,
) -> None:
    """Correct the confidence of an exported network by labels of a few images of where it is used.

    The command says which images to label, recommends a calibrator by cross-validation, and writes a copy of the
    exported folder with it, and an HTML page with what confidence is worth before and after.
    """
    try:
        found = calibrating.calibrate(
            exported,
            operation,
            budget=budget,
            threshold=threshold,
            labels=labels,
            held_out=held_out,
            calibrator=calibrator,
            batch=batch,
            paper=paper,
            seed=seed,
            out=out_folder,
        )
    except KeyboardInterrupt:
        err.print(f"interrupted; the same command goes on in {escape(str(out_folder))}")
        raise typer.Exit(130) from None
    if json:
        print_json(found.document())
    elif found.asking is not None:
        _print_asking(found.asking)
    else:
        _print_found(found)


def _print_asking(asking: "Asking") -> None:
    """What is to be labelled, and how to go on."""
    out.print(
        f"{escape(asking.name)}: label {asking.pictures - asking.answered} of {asking.pictures} images "
        f"({asking.labelled} have a label so far)"
    )
    out.print(f"  images     {escape(str(asking.sheet))}")
    out.print(f"  labels     {escape(str(asking.questions))}: fill the column label; ? for an image of no class")
    out.print(f"  classes    {escape(', '.join(asking.classes))}")
    out.print("then the same command goes on")


def _print_found(found: calibrating.Calibrated) -> None:
    """What calibrators are worth, and what ships."""
    from nasplat.report.calibration import columns

    compared = found.compared
    assert compared is not None
    for note in compared.notes:
        err.print(f"[yellow]note:[/] {escape(note)}")
    if compared.figures:
        names, rows = columns(compared)
        print_table(
            f"On {len(compared.found.held_out):,} held-out images, with intervals of 95 %; * ships", names, rows
        )
    chosen = compared.recommendation
    if chosen is not None:
        out.print(f"recommended: {chosen.name}, since {escape(chosen.reason)}")
    out.print(f"shipped: {compared.shipped}, in {escape(str(found.network))}")
    out.print(f"page: {escape(str(found.page))}")
