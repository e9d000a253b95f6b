"""Flags that set what a configuration file could, shared by the commands that search."""

from enum import StrEnum
from typing import Annotated, TypeAlias

import typer

AcceptChangedData: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--accept-changed-data",
        help="Go on although the data has changed since the run was created: images that are still there keep their "
        "part, new ones are for training alone. The run records the change.",
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ExecutorName: TypeAlias = Annotated[
    str | None, typer.Option("--executor", help="inline or ray. Default: inline.", show_default=False)
]
Workers: TypeAlias = Annotated[int | None, typer.Option(help="Ray workers. Default: 1.", show_default=False)]
CpusPerWorker: TypeAlias = Annotated[
    float | None, typer.Option(help="CPUs for each worker. Default: 1.", show_default=False)
]
GpusPerWorker: TypeAlias = Annotated[
    float | None, typer.Option(help="GPUs for each worker, such as 0.5. Default: 0.", show_default=False)
]
RayAddress: TypeAlias = Annotated[
    str | None, typer.Option(help="An existing Ray cluster: auto or HOST:PORT.", show_default=False)
]
AcceptChangedCode: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--accept-changed-code",
        help="Go on although the code of your own space, benchmark or strategy has changed since the run was created.",
    ),
]
TrustRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--trust-run",
        help="The run is your own: import modules, connect to the Ray cluster, write into folders, and download data, "
        "as it says.",
    ),
]
Retries: TypeAlias = Annotated[
    int | None, typer.Option(help="Ray: retries of a trial after a worker failure. Default: 2.", show_default=False)
]
TrialSeconds: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Ray: time limit of a trial in seconds; after it, the trial fails.", show_default=False),
]
LogTo: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--log-to",
        help="Also write the trials to tensorboard:DIR or mlflow:URI (extras); repeatable.",
        show_default=False,
    ),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An option, as in strategy.population=50 or benchmark.recipe.ema=.99; repeatable.",
        show_default=False,
    ),
]


class EngineName(StrEnum):
    """What may run networks that are timed."""

    TORCH = "torch"
    ONNXRUNTIME = "onnxruntime"
