"""`nasplat compress`: what was found, made smaller by a transform and fine-tuned."""

from pathlib import Path
from typing import Annotated

import typer

from nasplat.cli.console import err
from nasplat.cli.running import print_result, told_how_to_go_on
from nasplat.cli.settings import (
    AcceptChangedCode,
    AcceptChangedData,
    CpusPerWorker,
    ExecutorName,
    GpusPerWorker,
    Json,
    LogTo,
    RayAddress,
    Retries,
    Set,
    TrialSeconds,
    TrustRun,
    Workers,
)
from nasplat.interface import compressing
from nasplat.interface.configuring import parsed


def compress(
    source: Annotated[Path, typer.Argument(help="The directory of a run, or an exported folder.", show_default=False)],
    transform: Annotated[
        list[str] | None,
        typer.Option(
            help="A transform, such as full_stack; repeatable. Options: --set transform.filters=16.", show_default=False
        ),
    ] = None,
    pick: Annotated[
        list[str] | None,
        typer.Option(
            help="best, knee, a trial's number, front, or bins:M as in export; repeatable. Default: best.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file with options of the benchmark.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of the fine-tuning. Default: a third of the run's.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of fine-tunings, with different seeds.")] = 1,
    checkpoints: Annotated[
        int, typer.Option(min=1, help="Number of checkpoints; a kill loses at most the part since the last one.")
    ] = 10,
    benchmark: Annotated[
        str | None, typer.Option(help="The benchmark that fine-tunes. Default: the run's.", show_default=False)
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="METRIC:max or METRIC:min; repeatable. Default: the run's.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The random seed. Default: the run's.", show_default=False)] = None,
    executor: ExecutorName = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    ray_address: RayAddress = None,
    retries: Retries = None,
    trial_seconds: TrialSeconds = None,
    set_: Set = None,
    log_to: LogTo = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run directory to create. Default: SOURCE-compressed-N.", show_default=False),
    ] = None,
    trust_run: TrustRun = False,
    accept_changed_data: AcceptChangedData = False,
    accept_changed_code: AcceptChangedCode = False,
    json: Json = False,
) -> None:
    """Make trained networks smaller: transform them, fit the new layers to their weights, and fine-tune.

    The originals teach the new networks. The new run is resumed, shown, tested and exported like any other.
    """
    with told_how_to_go_on():
        searched = compressing.compress(
            compressing.origins(source, pick, trust=trust_run, accept_changed_code=accept_changed_code),
            err,
            transform=transform,
            recipe=recipe,
            epochs=epochs,
            seeds=seeds,
            checkpoints=checkpoints,
            benchmark=benchmark,
            objectives=objective,
            seed=seed,
            executor=executor,
            placing={
                "workers": workers,
                "cpus_per_worker": cpus_per_worker,
                "gpus_per_worker": gpus_per_worker,
                "address": ray_address,
                "retries": retries,
                "trial_seconds": trial_seconds,
            },
            assignments=[parsed(each) for each in set_ or []],
            out=out,
            trust=trust_run,
            accept_changed_data=accept_changed_data,
            log_to=log_to or (),
        )
    print_result(searched, json=json)
