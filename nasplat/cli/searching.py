"""`nasplat search` and `nasplat resume`."""

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
from nasplat.interface import searching
from nasplat.interface.adoption import opened
from nasplat.interface.configuring import configured, parsed


def search(
    config: Annotated[Path | None, typer.Argument(help="A YAML file; flags override it.", show_default=False)] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Search space; see `nasplat list`. Or MODULE:NAME or FILE.py:NAME of your own.", show_default=False
        ),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            help="A transform of the space's networks, such as full_stack; repeatable. Options: --set "
            "transform.per=stage.",
            show_default=False,
        ),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="The benchmark that measures architectures.", show_default=False)
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="The search strategy. Default: auto, which chooses one and says why.", show_default=False),
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="METRIC:max or METRIC:min; repeatable.", show_default=False)
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="'METRIC<=NUMBER' or 'METRIC>=NUMBER'; repeatable.", show_default=False)
    ] = None,
    evaluations: Annotated[int | None, typer.Option(help="Budget: evaluations.", show_default=False)] = None,
    seconds: Annotated[float | None, typer.Option(help="Budget: seconds of searching.", show_default=False)] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Budget: training images, in addition to --evaluations or --seconds.", show_default=False),
    ] = None,
    device_seconds: Annotated[
        float | None,
        typer.Option(help="Budget: device-seconds, in addition to --evaluations or --seconds.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The random seed. Default: 0.", show_default=False)] = None,
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
        typer.Option(help="The run directory to create. Default: runs/STRATEGY-SPACE-N.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Search, from a configuration file, from flags, or from both."""
    read = configured(
        config,
        plugins={"space": space, "benchmark": benchmark, "strategy": strategy},
        transform=transform,
        objectives=objective,
        constraints=constraint,
        budget=_limits(evaluations, seconds, images, device_seconds),
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
    )
    with told_how_to_go_on():
        searched = searching.search(read, err, out=out, log_to=log_to or ())
    print_result(searched, json=json)


def resume(
    run: Annotated[Path, typer.Argument(help="The run directory.", show_default=False)],
    evaluations: Annotated[
        int | None, typer.Option(help="New budget: evaluations in total.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="New budget: seconds of searching in total.", show_default=False)
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="New budget: training images in total.", show_default=False)
    ] = None,
    device_seconds: Annotated[
        float | None, typer.Option(help="New budget: device-seconds in total.", show_default=False)
    ] = None,
    workers: Annotated[int | None, typer.Option(help="New number of Ray workers.", show_default=False)] = None,
    ray_address: Annotated[str | None, typer.Option(help="Another Ray cluster.", show_default=False)] = None,
    retries: Annotated[
        int | None, typer.Option(help="Ray: new number of retries after a worker failure.", show_default=False)
    ] = None,
    trial_seconds: Annotated[
        float | None, typer.Option(help="Ray: new time limit of a trial.", show_default=False)
    ] = None,
    trust_run: TrustRun = False,
    accept_changed_data: AcceptChangedData = False,
    accept_changed_code: AcceptChangedCode = False,
    log_to: LogTo = None,
    json: Json = False,
) -> None:
    """Continue a run that was interrupted or killed, or one with a larger budget."""
    with told_how_to_go_on():
        searched = searching.resume(
            opened(run, trust=trust_run, accept_changed_code=accept_changed_code),
            err,
            budget=_limits(evaluations, seconds, images, device_seconds),
            placing={"workers": workers, "address": ray_address, "retries": retries, "trial_seconds": trial_seconds},
            trust=trust_run,
            accept_changed_data=accept_changed_data,
            log_to=log_to or (),
        )
    print_result(searched, json=json)


def _limits(
    evaluations: int | None, seconds: float | None, images: int | None, device_seconds: float | None
) -> dict[str, float | None]:
    return {"evaluations": evaluations, "seconds": seconds, "images": images, "device_seconds": device_seconds}
