"""`nasplat retrain`: what a search found, trained to the end."""

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
from nasplat.interface import retraining
from nasplat.interface.adoption import opened
from nasplat.interface.configuring import parsed


def retrain(
    run: Annotated[Path, typer.Argument(help="The directory of the search.", show_default=False)],
    pick: Annotated[
        list[str] | None,
        typer.Option(
            help="best, knee, a trial's number, front, or bins:M as in export; repeatable. Default: bins:5, or best "
            "with a single objective.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file with options of the benchmark.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of each training; the same as --set benchmark.epochs.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings of each network, with different seeds.")] = 1,
    checkpoints: Annotated[
        int, typer.Option(min=1, help="Number of checkpoints; a kill loses at most the part since the last one.")
    ] = 10,
    distill: Annotated[
        bool,
        typer.Option("--distill", help="Distillation: train the largest network first, as the teacher of the others."),
    ] = False,
    benchmark: Annotated[
        str | None, typer.Option(help="The benchmark that trains. Default: the search's.", show_default=False)
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="METRIC:max or METRIC:min; repeatable. Default: the search's.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The random seed. Default: the search's.", show_default=False)
    ] = None,
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
        typer.Option(help="The run directory to create. Default: RUN-retrained-N.", show_default=False),
    ] = None,
    trust_run: TrustRun = False,
    accept_changed_data: AcceptChangedData = False,
    accept_changed_code: AcceptChangedCode = False,
    json: Json = False,
) -> None:
    """Fully train networks that a search found, in a new run, and compare the results with the search.

    The new run is resumed, shown, tested and exported like any other.
    """
    placing = {
        "workers": workers,
        "cpus_per_worker": cpus_per_worker,
        "gpus_per_worker": gpus_per_worker,
        "address": ray_address,
        "retries": retries,
        "trial_seconds": trial_seconds,
    }
    with told_how_to_go_on():
        searched = retraining.retrain(
            opened(run, trust=trust_run, accept_changed_code=accept_changed_code),
            err,
            pick=pick,
            recipe=recipe,
            epochs=epochs,
            seeds=seeds,
            checkpoints=checkpoints,
            distill=distill,
            benchmark=benchmark,
            objectives=objective,
            seed=seed,
            executor=executor,
            placing=placing,
            assignments=[parsed(each) for each in set_ or []],
            out=out,
            trust=trust_run,
            accept_changed_data=accept_changed_data,
            log_to=log_to or (),
        )
    print_result(searched, json=json)
