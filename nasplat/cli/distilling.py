"""`nasplat distill`: a smaller network from a trained one, a few labelled images, and images from anywhere."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nasplat.cli.console import err
from nasplat.cli.running import print_result, told_how_to_go_on
from nasplat.cli.settings import (
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
from nasplat.interface import distilling
from nasplat.interface.configuring import parsed


def distill(
    teacher: Annotated[
        Path, typer.Argument(help="The trained network: an exported folder, or a run.", show_default=False)
    ],
    student: Annotated[
        str,
        typer.Option(
            help="The network to train: SPACE:CODE, a run (see --student-pick), or an exported folder.",
            show_default=False,
        ),
    ],
    positives: Annotated[
        str,
        typer.Option(
            help="The few labelled images: a folder with CLASS/*, or train/CLASS/* with val/ and test/; or a data set "
            "by name, with --per-class.",
            show_default=False,
        ),
    ],
    pool: Annotated[
        list[str],
        typer.Option(
            help="Images from anywhere: a folder, flat or nested, or a data set by name; repeatable.",
            show_default=False,
        ),
    ],
    pick: Annotated[str, typer.Option(help="The teacher in a run: best, knee, or a trial's number.")] = "best",
    student_pick: Annotated[str, typer.Option(help="The student in a run: best, knee, or a trial's number.")] = "best",
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            help="A module of the teacher whose feature maps are used; repeatable. Default: the last of each size.",
            show_default=False,
        ),
    ] = None,
    prior: Annotated[
        float | None,
        typer.Option(
            help="The share of the pool that belongs to the task, between 0 and 1. Default: estimated.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pick so many images, the best first. Default: all with a score above 0, and no fewer than the prior "
            "says.",
            show_default=False,
        ),
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(min=1, help="Labelled images of each class to use. Default: all.", show_default=False),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust/--no-robust", help="Weight classes by the teacher's answers, and follow the largest loss."
        ),
    ] = True,
    perturbations: Annotated[
        int | None,
        typer.Option(min=0, help="Perturbed copies of the class weights. Default: 1.", show_default=False),
    ] = None,
    hard_labels: Annotated[
        float, typer.Option(help="Weight of the labels of the positives in the loss; the rest is the teacher's.")
    ] = 0.0,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of the distillation. Default: 4.", show_default=False)
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file with options of the benchmark.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the student's training. Default: 30.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings, with different seeds.")] = 1,
    checkpoints: Annotated[
        int, typer.Option(min=1, help="Number of checkpoints; a kill loses at most the part since the last one.")
    ] = 10,
    seed: Annotated[
        int | None, typer.Option(help="The random seed of picking and training. Default: 0.", show_default=False)
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
        typer.Option(
            help="The run directory to create; while images are picked, all is in OUT.picking beside it. Default: the "
            "first runs/distilled-N that is not there, or where the same picking was interrupted.",
            show_default=False,
        ),
    ] = None,
    trust_run: TrustRun = False,
    json: Json = False,
) -> None:
    """Train a smaller network from a trained one, a few labelled images, and a folder of images from anywhere.

    Images of the pool that seem to belong to the teacher's task are picked, and the student learns what the teacher
    answers for them. The new run is resumed, shown, tested and exported like any other; search on what was picked with
    --set benchmark.dataset=picked:RUN.
    """
    try:
        with told_how_to_go_on():
            searched = distilling.distill(
                teacher,
                err,
                student=student,
                positives=positives,
                pool=pool,
                pick=pick,
                student_pick=student_pick,
                features=features,
                prior=prior,
                count=count,
                per_class=per_class,
                robust=robust,
                hard_labels=hard_labels,
                temperature=temperature,
                perturbations=perturbations,
                recipe=recipe,
                epochs=epochs,
                seeds=seeds,
                checkpoints=checkpoints,
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
                log_to=log_to or (),
            )
    except distilling.PickingInterrupted as error:
        err.print(f"interrupted; the same command goes on with the picking in {escape(str(error.folder))}")
        raise typer.Exit(130) from None
    print_result(searched, json=json)
