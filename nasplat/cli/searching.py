"""`nasplat search` and `nasplat resume`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nasplat.cli.console import err
from nasplat.cli.running import data_of, refuse_existing, run_search
from nasplat.cli.settings import (
    AcceptChangedData,
    CpusPerWorker,
    ExecutorName,
    GpusPerWorker,
    Json,
    RayAddress,
    Retries,
    Set,
    TrialSeconds,
    TrustRun,
    Workers,
    assign,
    choose,
    merge,
)
from nasplat.config import SearchConfig, load_tree
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.run.directory import RunDirectory, next_free
from nasplat.run.trust import check_store_trusted, check_trusted


def search(
    config: Annotated[Path | None, typer.Argument(help="A YAML file; flags override it.", show_default=False)] = None,
    space: Annotated[str | None, typer.Option(help="Search space; see `nasplat list`.", show_default=False)] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="The benchmark that measures architectures.", show_default=False)
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="The search strategy; auto chooses one and says why.", show_default=False)
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
    out: Annotated[
        Path | None,
        typer.Option(help="The run directory to create. Default: runs/STRATEGY-SPACE-N.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Search, from a configuration file, from flags, or from both."""
    tree = load_tree(config) if config else {}
    for section, name in (("space", space), ("benchmark", benchmark), ("strategy", strategy), ("executor", executor)):
        if name is not None:
            choose(tree, section, name)
    for key, values in (("objectives", objective), ("constraints", constraint)):
        if values:
            tree[key] = values
    if seed is not None:
        tree["seed"] = seed
    limits = {"evaluations": evaluations, "seconds": seconds, "images": images, "device_seconds": device_seconds}
    merge(tree, "budget", limits)
    placing = {
        "workers": workers,
        "cpus_per_worker": cpus_per_worker,
        "gpus_per_worker": gpus_per_worker,
        "address": ray_address,
        "retries": retries,
        "trial_seconds": trial_seconds,
    }
    merge(tree, "executor", placing)
    for assignment in set_ or []:
        assign(tree, assignment)
    missing = [f"--{key}" for key in ("space", "benchmark", "strategy") if key not in tree]
    missing += ["--objective"] * ("objectives" not in tree)
    if missing:
        raise InputError(
            f"a search needs {', '.join(missing)}; for example: nasplat search --space nasbench201 "
            "--benchmark classification --strategy random_search --objective accuracy:max --evaluations 20"
        )
    read = SearchConfig.read(tree)
    for each in read.goal.objectives:
        each.check_direction()
    assembly = Assembly.of(read)
    folder = out or next_free(
        Path("runs"), f"{assembly.config.strategy.name}-{assembly.config.space.name}".replace("/", "-")
    )
    refuse_existing(folder)
    run_search(assembly, folder, create=True, json=json)


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
    json: Json = False,
) -> None:
    """Continue a run that was interrupted or killed, or one with a larger budget."""
    opened = RunDirectory(run)
    tree, history = opened.config.model_dump(mode="json"), opened.history()
    limits = {"evaluations": evaluations, "seconds": seconds, "images": images, "device_seconds": device_seconds}
    merge(tree, "budget", limits)
    merge(
        tree,
        "executor",
        {"workers": workers, "address": ray_address, "retries": retries, "trial_seconds": trial_seconds},
    )
    if opened.config.executor.name == "inline" and (workers, ray_address, retries, trial_seconds) != (None,) * 4:
        raise InputError(
            f"{run} uses the inline executor, which has no workers; leave out the options of the ray executor"
        )
    config = SearchConfig.read(tree)
    check_trusted(opened, config, named=ray_address is not None, trusted=trust_run)
    check_store_trusted(opened, trusted=trust_run)
    data = data_of(opened, accept=accept_changed_data)
    assembly = Assembly.of(config, data, code_metrics=opened.code_metrics)
    shared = (assembly.benchmark.code_metrics - opened.code_metrics).intersection(assembly.problem.goal.metrics)
    if shared:
        err.print(
            f"[yellow]{escape(', '.join(sorted(shared)))} of one code is told for all codes of the same network[/], as "
            "when this run began; a new search measures each code"
        )
    for name, limit in limits.items():
        spent = getattr(history.spending, name)
        if limit is not None and limit < spent:
            raise InputError(
                f"{run} has spent {spent:g} {name} already, but the new budget is {limit:g}; give a larger one"
            )
    run_search(assembly, run, create=False, json=json)
