"""`nasplat export`: a found network as files that can be shipped."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nasplat.cli.console import err, out, print_json
from nasplat.cli.settings import AcceptChangedCode, AcceptChangedData, EngineName, TrustRun
from nasplat.interface.adoption import opened
from nasplat.interface.exporting import FORMS, exported
from nasplat.run.history import names_several
from nasplat.task import Measurement
from nasplat.units import figure

ONE_BY_ONE = {"onnxruntime": "model.onnx", "torch.export": "model.pt2", "source": "network.py"}
"""The runtimes of an exported network, each with the file that it runs."""


def export(
    run: Annotated[Path, typer.Argument(help="The run directory.", show_default=False)],
    pick: Annotated[
        str,
        typer.Option(
            help="best, knee, a trial's number, front, all (at the most epochs), or bins:M. bins:M is the best of each "
            "of M equal ranges of the second objective, and the front's smallest and largest: at most M + 1 networks "
            "with two objectives, M + 2 with more."
        ),
    ] = "best",
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder to create; for several networks, the parent of their folders trial-N. "
            "Default: RUN/export/trial-N.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Also measure on the test split, which the search never saw.")
    ] = False,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Export new, untrained weights if the measurement left none.")
    ] = False,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar=f"[{'|'.join(FORMS)}]",
            help="onnx, pt2 (a torch.export program), source (a Python file that needs only torch), or all of them.",
        ),
    ] = "onnx",
    features: Annotated[
        bool,
        typer.Option("--features", help="Add the input of the last linear layer to the outputs of the ONNX model."),
    ] = False,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Measure the latency of the network on this machine.")
    ] = True,
    engine: Annotated[
        EngineName | None,
        typer.Option(
            help="The engine of --latency.", show_default="that of the run's latency table or options; else torch"
        ),
    ] = None,
    trust_run: TrustRun = False,
    accept_changed_data: AcceptChangedData = False,
    accept_changed_code: AcceptChangedCode = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Export a network: its weights, a model card, and formats such as ONNX, each verified against torch."""
    from nasplat.export.timing import disagreement

    documents = []
    for measurement, document in exported(
        opened(run, trust=trust_run, accept_changed_code=accept_changed_code), err, pick, out=out_folder, form=form,
        test=test, untrained=untrained,
        features=features, latency=latency, engine=None if engine is None else engine.value,
        accept_changed_data=accept_changed_data,
    ):  # fmt: skip
        documents.append(document)
        if warning := disagreement(document):
            err.print(f"[yellow]{escape(document['folder'])}:[/] {escape(warning)}")
        if not json:
            _print(measurement, document)
    if json:
        print_json(documents if names_several(pick) else documents[0])


def _print(measurement: Measurement, document: dict[str, Any]) -> None:
    """What was exported, in words."""
    from nasplat.export.timing import told, told_table

    check, cost = document["verification"], document["cost"]
    out.print(f"exported: {escape(document['folder'])}")
    out.print(
        f"  architecture   {escape(str(measurement.architecture))}  "
        f"({figure('params', cost['params'])} parameters, {figure('macs', cost['macs'])} MACs)"
    )
    if analytic := document["analytic_metrics"]:
        out.print(
            f"  from a table   {escape(', '.join(f'{name} {figure(name, value)}' for name, value in analytic.items()))}"
        )
    if (table := document.get("latency_table")) and "protocol" not in document:
        out.print(f"  table          {escape(told_table(table))}")
    for title, figures in (("searched on", document.get("measured")), ("final", document.get("final"))):
        if figures:
            metrics = ", ".join(
                f"{name} {figure(name, value)}" for name, value in figures.items() if name not in ("split", *cost)
            )
            out.print(f"  {title:14} {escape(figures['split'])}: {escape(metrics)}")
    if protocol := document.get("protocol"):
        out.print(f"  protocol       {escape(protocol)}")
    if latency := document.get("latency"):
        out.print(f"  latency        {escape(told(latency))}")
    verified = [name for name, title in ONE_BY_ONE.items() if title in document["files"]]
    unsteady = check.get("unsteady", 0)
    out.print(
        f"  verified       {' and '.join(verified)} against torch: largest difference "
        f"{check['largest_difference']:.2g} (allowed {check['allowed']:.2g}), "
        f"batches {', '.join(map(str, check['batches']))}"
        + (
            f"; more is allowed for {unsteady} of the inputs, where rounding may change a sign or which channels count"
            if unsteady
            else ""
        )
    )
    if why := document.get("unverified"):
        out.print(f"  not verified   on real inputs: {escape(why)}")
