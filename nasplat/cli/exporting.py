"""`nasplat export`: a found network as files that can be shipped."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nasplat.cli.output import out, print_json
from nasplat.run.directory import Run
from nasplat.units import figure


def export(
    run: Annotated[Path, typer.Argument(help="The run directory.", show_default=False)],
    pick: Annotated[str, typer.Option(help="best, knee, or a trial's number.")] = "best",
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="The folder to create.  [default: RUN/export/trial-N]", show_default=False),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Also measure on the test split, which the search never saw.")
    ] = False,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Export fresh weights, where the measurement left none.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Export one network: architecture.json, weights.safetensors, and an ONNX model that was run and compared."""
    from nasplat.export import bundle

    opened = Run(run)
    measurement = opened.history().pick(pick)
    folder = out_folder or run / "export" / f"trial-{measurement.id}"
    description = bundle.export(opened, measurement, folder, untrained=untrained, test=test)
    if json:
        print_json({"folder": str(folder), **description})
        return
    check, cost = description["verification"], description["cost"]
    out.print(f"exported: {escape(str(folder))}")
    out.print(
        f"  architecture   {measurement.architecture}  "
        f"({figure('params', cost['params'])} parameters, {figure('macs', cost['macs'])} MACs)"
    )
    for title, figures in (("searched on", description.get("measured")), ("final", description.get("final"))):
        if figures:
            metrics = ", ".join(
                f"{name} {figure(name, value)}" for name, value in figures.items() if name not in ("split", *cost)
            )
            out.print(f"  {title:14} {figures['split']}: {metrics}")
    out.print(
        f"  verified       onnxruntime against torch: largest difference {check['largest_difference']:.2g} "
        f"(allowed {check['allowed']:.2g}), batches {', '.join(map(str, check['batches']))}"
    )
