"""The functions of `nasplat`: searching, loading, fitting predictors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasplat.interface import searching
from nasplat.interface.adoption import adopt, check_not_importing
from nasplat.interface.configuring import configured
from nasplat.interface.console import console_of
from nasplat.interface.run import Run, listed
from nasplat.interface.running import check_some_measured

if TYPE_CHECKING:
    from torch import nn

    from nasplat.benchmark import Preprocessing
    from nasplat.surrogates.predictor_store import StoredPredictor


def search(
    config: str | Path | None = None,
    *,
    space: Any = None,
    transform: Any = None,
    benchmark: Any = None,
    strategy: Any = None,
    objectives: str | Sequence[str] | None = None,
    constraints: str | Sequence[str] | None = None,
    evaluations: int | None = None,
    seconds: float | None = None,
    images: int | None = None,
    device_seconds: float | None = None,
    seed: int | None = None,
    executor: str | None = None,
    workers: int | None = None,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    retries: int | None = None,
    trial_seconds: float | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    log_to: str | Sequence[str] = (),
    progress: bool = True,
) -> Run:
    """Search for architectures, in a new run directory.

    It does what ``nasplat search`` does, with the same defaults::

        run = nasplat.search(space="nasbench201", benchmark="zero_cost", objectives=["synflow:max", "params:min"],
                             evaluations=50)

    Args:
        config: A YAML file with a configuration; what else is given overrides it.
        space: The search space: the name of an installed one, a mapping with `name` and options, a `SearchSpace`, what
            `nasplat.space` made, a torch module with `nasplat.choice` in it, or ``MODULE:ATTRIBUTE`` of one of these.
        transform: A transform of the space's networks, such as ``full_stack``: its name, several names, or a mapping
            with `name` and options; with ``per="stage"`` every stage of the network has a choice.
        benchmark: What measures: the name of an installed benchmark, a mapping with `name` and options, a `Benchmark`,
            a function ``evaluate(network, *, epochs, seed, device, …) -> {"accuracy": …}``, or ``MODULE:ATTRIBUTE``.
        strategy: The name of a strategy, a mapping with `name` and options, or a `Strategy`; by default ``auto``, which
            chooses one and says why.
        objectives: ``METRIC:max`` or ``METRIC:min``, one or several.
        constraints: ``METRIC<=NUMBER`` or ``METRIC>=NUMBER``.
        evaluations: Budget: evaluations.
        seconds: Budget: seconds of searching.
        images: Budget: training images, in addition to evaluations or seconds.
        device_seconds: Budget: device-seconds, in addition to evaluations or seconds.
        seed: The random seed; by default 0.
        executor: ``inline`` (in this process) or ``ray``; by default ``inline``.
        workers: Ray workers; by default 1.
        cpus_per_worker: CPUs for each worker; by default 1.
        gpus_per_worker: GPUs for each worker, such as 0.5; by default 0.
        ray_address: An existing Ray cluster: ``auto`` or ``HOST:PORT``.
        retries: Retries of a trial after a worker failure; by default 2.
        trial_seconds: Time limit of a trial; after it, the trial fails.
        options: Further options by ``SECTION.OPTION``, such as ``{"benchmark.epochs": 3}``.
        out: The run directory to create; by default ``runs/STRATEGY-SPACE-N``.
        log_to: Where trials are tracked too: ``tensorboard:DIR`` or ``mlflow:URI``, one or several.
        progress: Whether to show the progress, on terminals and in notebooks.

    Returns:
        The run, at its end.

    Raises:
        InputError: Something is missing, unknown, or does not fit together; nothing was created.
        RunError: The search could not go on, or every trial failed. The message says how to go on.
        KeyboardInterrupt: It was interrupted; the message says how to go on.
    """
    check_not_importing()
    read = configured(
        None if config is None else Path(config),
        plugins={"space": space, "benchmark": benchmark, "strategy": strategy},
        transform=transform,
        objectives=[objectives] if isinstance(objectives, str) else objectives,
        constraints=[constraints] if isinstance(constraints, str) else constraints,
        budget={"evaluations": evaluations, "seconds": seconds, "images": images, "device_seconds": device_seconds},
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
        assignments=list((options or {}).items()),
    )
    folder = None if out is None else Path(out)
    searched = searching.search(read, console_of(progress), out=folder, log_to=listed(log_to))
    check_some_measured(searched.run)
    return Run(searched.run.folder)


def compress(
    source: "str | Path | Run",
    transform: Any,
    *,
    pick: str | int | Sequence[str | int] | None = None,
    recipe: str | Path | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    checkpoints: int = 10,
    benchmark: Any = None,
    objectives: str | Sequence[str] | None = None,
    seed: int | None = None,
    executor: str | None = None,
    workers: int | None = None,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    retries: int | None = None,
    trial_seconds: float | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    accept_changed_data: bool = False,
    log_to: str | Sequence[str] = (),
    progress: bool = True,
) -> Run:
    """Transform trained networks, fit the new layers to their weights and fine-tune them, in a new run.

    It does what ``nasplat compress`` does. The run is resumed, tested and exported like any other::

        small = nasplat.compress(run, {"name": "full_stack", "filters": 16})
        small.compression

    Args:
        source: A run, its directory, or an exported folder.
        transform: The name of a transform, several names, or a mapping with `name` and options.
        pick: As in `Run.pick`, one or several; by default ``best``. An exported folder has one network.
        recipe: Options of the benchmark, or a YAML file with them.
        epochs: Epochs of the fine-tuning; by default a third of those of the run's benchmark.
        seeds: Number of fine-tunings of each network.
        checkpoints: Number of checkpoints of a fine-tuning.
        benchmark: What fine-tunes; by default the run's.
        objectives: By default the run's.
        seed: By default the run's.
        executor: As the options that follow, of `search`.
        workers: Ray workers.
        cpus_per_worker: CPUs for each worker.
        gpus_per_worker: GPUs for each worker.
        ray_address: An existing Ray cluster.
        retries: Retries of a trial after a worker failure.
        trial_seconds: Time limit of a trial.
        options: Further options by ``SECTION.OPTION``.
        out: The new run directory; by default ``SOURCE-compressed-N``.
        accept_changed_data: Whether to go on although the data has changed.
        log_to: As in `search`.
        progress: Whether to show the progress.

    Raises:
        InputError, RunError, KeyboardInterrupt: As in `search`.
    """
    from nasplat.interface import compressing

    check_not_importing()
    picks = None if pick is None else [str(each) for each in ([pick] if isinstance(pick, str | int) else pick)]
    trust = isinstance(source, Run) and source.trust
    if isinstance(source, Run):
        origins = compressing.of_run(source.directory, picks, trust=trust)
    else:
        origins = compressing.origins(Path(source), picks)
    searched = compressing.compress(
        origins,
        console_of(progress),
        transform=transform,
        recipe=Path(recipe) if isinstance(recipe, str) else recipe,
        epochs=epochs,
        seeds=seeds,
        checkpoints=checkpoints,
        benchmark=benchmark,
        objectives=[objectives] if isinstance(objectives, str) else objectives,
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
        assignments=list((options or {}).items()),
        out=None if out is None else Path(out),
        trust=trust,
        accept_changed_data=accept_changed_data,
        log_to=listed(log_to),
    )
    check_some_measured(searched.run)
    return Run(searched.run.folder)


def distill(
    teacher: "str | Path | Run | nn.Module",
    student: "str | Path | Run",
    positives: str | Path,
    pool: str | Path | Sequence[str | Path],
    *,
    pick: str | int = "best",
    student_pick: str | int = "best",
    features: Sequence[str] | None = None,
    preprocessing: "Preprocessing | Mapping[str, Any] | None" = None,
    prior: float | None = None,
    count: int | None = None,
    per_class: int | None = None,
    robust: bool = True,
    hard_labels: float = 0.0,
    temperature: float | None = None,
    perturbations: int | None = None,
    recipe: str | Path | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    checkpoints: int = 10,
    seed: int | None = None,
    executor: str | None = None,
    workers: int | None = None,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    retries: int | None = None,
    trial_seconds: float | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    log_to: str | Sequence[str] = (),
    progress: bool = True,
) -> Run:
    """Train a smaller network from a trained one, a few labelled images, and images from anywhere, in a new run.

    It does what ``nasplat distill`` does. Images of the pool that seem to belong to the teacher's task are picked, and
    the student learns what the teacher answers for them (arXiv:1909.09757). The run is resumed, tested and exported
    like any other::

        small = nasplat.distill(run, "nasbench201:…", positives="labelled/", pool=["photos/"])
        small.picking.lines()

    Args:
        teacher: A run, its directory, an exported folder, or a trained classifier as a module of torch, which is given
            with `preprocessing`, and is as before afterwards.
        student: ``SPACE:CODE``, a run, its directory, or an exported folder. Its weights are not used.
        positives: The few labelled images: a folder with ``CLASS/*``, or with ``train/CLASS/*``, ``val/`` and
            ``test/``; or the name of a data set, with `per_class`.
        pool: Images from anywhere: folders, flat or nested, or names of data sets.
        pick: Which network of a run is the teacher: ``best``, ``knee`` or a trial's number.
        student_pick: Which network of a run is the student.
        features: The names of the teacher's modules with feature maps, from `named_modules`, whose means a picker
            sees; by default the last one of each size.
        preprocessing: How images are made ready for a module of torch, as `nasplat.Preprocessing` or a mapping.
        prior: The share of the pool that belongs to the task, above 0 and below 1; by default it is estimated.
        count: The number of images to pick, the best first; by default all with a score above 0, and no fewer than the
            prior says.
        per_class: The number of labelled images of each class to use; by default all.
        robust: Whether classes are weighted by the teacher's answers, and the largest loss of perturbed weights is
            followed.
        hard_labels: The weight of the labels of the positives in the loss; the rest is the teacher's.
        temperature: The temperature of the distillation; by default 4.
        perturbations: The number of perturbed copies of the class weights; by default 1.
        recipe: Options of the benchmark `classification`, or a YAML file with them.
        epochs: Epochs of the student's training; by default 30.
        seeds: Number of trainings, with different seeds.
        checkpoints: Number of checkpoints of a training.
        seed: The random seed of picking and training; by default 0.
        executor: As the options that follow, of `search`.
        workers: Ray workers.
        cpus_per_worker: CPUs for each worker.
        gpus_per_worker: GPUs for each worker.
        ray_address: An existing Ray cluster.
        retries: Retries of a trial after a worker failure.
        trial_seconds: Time limit of a trial.
        options: Further options by ``SECTION.OPTION``.
        out: The run directory to create; by default the first ``runs/distilled-N`` that is not there, or where the same
            picking was interrupted.
        log_to: As in `search`.
        progress: Whether to show the progress.

    Raises:
        InputError, RunError: As in `search`.
        KeyboardInterrupt: It was interrupted. The same call goes on with the picking; once there is a run, it is
            resumed like any other.
    """
    from nasplat.interface import distilling
    from nasplat.interface.teaching import restored

    check_not_importing()
    trust = any(isinstance(each, Run) and each.trust for each in (teacher, student))
    given = teacher.folder if isinstance(teacher, Run) else teacher
    with restored(given):
        searched = distilling.distill(
            given,
            console_of(progress),
            student=student.folder if isinstance(student, Run) else student,
            positives=str(positives),
            pool=[str(each) for each in ([pool] if isinstance(pool, str | Path) else pool)],
            pick=str(pick),
            student_pick=str(student_pick),
            features=features,
            preprocessing=preprocessing,
            prior=prior,
            count=count,
            per_class=per_class,
            robust=robust,
            hard_labels=hard_labels,
            temperature=temperature,
            perturbations=perturbations,
            recipe=Path(recipe) if isinstance(recipe, str) else recipe,
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
            assignments=list((options or {}).items()),
            out=None if out is None else Path(out),
            trust=trust,
            log_to=listed(log_to),
        )
    check_some_measured(searched.run)
    return Run(searched.run.folder)


def recover(folder: str | Path, out: str | Path, *, config: str | Path | None = None) -> Run:
    """Save the readable parts of a damaged run as a new run, which can be resumed.

    Args:
        folder: The damaged run.
        out: The run directory to create.
        config: A configuration file to use instead of the run's own.

    Raises:
        InputError: Nothing can be saved, or the directory exists.
    """
    from nasplat.run.recovery import salvage

    salvage(Path(folder), None if config is None else Path(config)).save(Path(out))
    return Run(out)


def load(folder: str | Path, *, space: Any = None) -> "nn.Module":
    """The network of an exported folder with its weights, in evaluation mode, on the CPU.

    Args:
        folder: The exported folder.
        space: Whatever was given to `nasplat.search` as the space, if it is no installed plug-in.

    Raises:
        InputError: A file is missing or damaged, or belongs to another version.
    """
    from nasplat.export.opening import load as read
    from nasplat.surrogates.predictor_store import make_space

    return read(folder, None if space is None else make_space(*adopt("space", space)))


def fit_predictor(
    sources: "str | Path | Run | Sequence[str | Path | Run]",
    predictor: str = "auto",
    *,
    out: str | Path | None = None,
    space: Any = None,
    score: str | None = None,
    options: Mapping[str, Any] | None = None,
    folds: int = 5,
) -> "StoredPredictor":
    """Fit a predictor to measured architectures, and cross-validate it.

    Args:
        sources: Runs, their directories, or files of architectures with scores (CSV, JSON); one or several.
        predictor: The name of the predictor.
        out: The folder to save it in, for `nasplat.open_predictor` and ``nasplat serve``; None saves nothing.
        space: The search space of the codes in files, in a form that `nasplat.search` takes; runs name their own.
        score: The column or metric to predict; ``COLUMN:max`` or ``COLUMN:min`` if its name does not say which is
            better.
        options: Options of the predictor.
        folds: Folds of the cross-validation; 0 for none.

    Returns:
        The predictor. Its `estimate` gives estimates of codes in the metric's unit, its `about` says how well it ranks.

    Raises:
        InputError: A source, the predictor or an option does not fit, or there are too few architectures.
    """
    from nasplat.interface.predicting import fit
    from nasplat.surrogates.predictor_store import make_space

    several = [sources] if isinstance(sources, str | Path | Run) else list(sources)
    paths = [each.folder if isinstance(each, Run) else Path(each) for each in several]
    chosen = None if space is None else make_space(*adopt("space", space))
    return fit(
        paths,
        predictor,
        out=None if out is None else Path(out),
        space=chosen,
        score=score,
        options=options,
        folds=folds,
    )


def open_predictor(folder: str | Path, *, space: Any = None) -> "StoredPredictor":
    """Open a saved predictor.

    Args:
        folder: The folder that it was saved in.
        space: Its search space, if that is no installed plug-in, in a form that `nasplat.search` takes.

    Raises:
        InputError: The folder is missing or damaged, or of another version.
    """
    from nasplat.predictor import read_document
    from nasplat.surrogates.predictor_store import open_predictor as opened

    if space is not None:
        adopt("space", space, known_as=read_document(Path(folder))["space"]["name"])
    return opened(Path(folder))
