"""A distillation: images of a pool are picked by a teacher and few labelled images, and a student learns from both."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from nasplat.config import SearchConfig
from nasplat.data.picked import FOLDER, PREFIX, RESULTS, beside
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.executors.executor import cuda_is_available
from nasplat.interface.configuring import assign, check_given_once, enter, merge, place
from nasplat.interface.retraining import recipe_options, share_option
from nasplat.interface.running import Interrupted, Searched, refuse_existing, run_search
from nasplat.interface.teaching import student_of, teacher_of
from nasplat.options import construct, nested, shortly
from nasplat.registry import SEARCH_SPACES
from nasplat.results.tracking import Target
from nasplat.retraining import RETRAINING
from nasplat.run.own_picking import delete_leftover
from nasplat.run.picked import Picked
from nasplat.storage.files import is_taken

if TYPE_CHECKING:
    from torch import nn

    from nasplat.benchmark import Preprocessing

BENCHMARK = "classification"
EPOCHS = 30
"""By default, the student passes so often over what was picked."""


class PickingInterrupted(KeyboardInterrupt):
    """A picking was interrupted; what was read of the pool is kept.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"the same call goes on with the picking in {folder}")


def distill(
    teacher: "str | Path | nn.Module",
    console: Console,
    *,
    student: str | Path,
    positives: str,
    pool: Sequence[str],
    pick: str = "best",
    student_pick: str = "best",
    features: Sequence[str] | None = None,
    preprocessing: "Preprocessing | Mapping[str, Any] | None" = None,
    prior: float | None = None,
    count: int | None = None,
    per_class: int | None = None,
    robust: bool = True,
    hard_labels: float = 0.0,
    temperature: float | None = None,
    perturbations: int | None = None,
    recipe: Path | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    checkpoints: int = 10,
    seed: int | None = None,
    executor: str | None = None,
    placing: Mapping[str, Any] | None = None,
    assignments: Sequence[tuple[str, Any]] = (),
    out: Path | None = None,
    trust: bool = False,
    log_to: Sequence[str] = (),
) -> Searched:
    """Pick images of a pool that belong to the teacher's task, and train a student on them, in a new run.

    Args:
        teacher: An exported folder, a run, or a module of torch.
        console: Where notes and progress are printed.
        student: ``SPACE:CODE``, a run, or an exported folder, whose weights are not used.
        positives: The folder with the few labelled images, or the name of a data set.
        pool: The folders with images from anywhere, and names of data sets.
        pick: Which network of a run is the teacher.
        student_pick: Which network of a run is the student.
        features: The names of the teacher's modules with the feature maps that pickers see.
        preprocessing: How images are made ready, for a module of torch.
        prior: The share of the pool that belongs to the task; by default it is estimated.
        count: The number of images to pick, the best first.
        per_class: The number of labelled images of each class that are used.
        robust: Whether classes are weighted, and the largest loss of perturbed weights is followed.
        hard_labels: The weight of the labels of the positives in the loss; the rest is the teacher's.
        temperature: The temperature of the distillation.
        perturbations: The number of perturbed copies of the class weights.
        recipe: Options of the benchmark, or a YAML file with them.
        epochs: Epochs of the student's training.
        seeds: Number of trainings, with different seeds.
        checkpoints: Number of checkpoints of a training.
        seed: The random seed of picking and training.
        executor: ``inline`` or ``ray``.
        placing: The options of the executor.
        assignments: Further options, as pairs of ``SECTION.OPTION`` and value.
        out: The run directory to create; by default the first ``runs/distilled-N`` that is not there, or where the same
            picking was interrupted.
        trust: Whether what only the teacher's or the student's run names may be used.
        log_to: As in `run_search`.

    Returns:
        The new run, at its end.

    Raises:
        InputError: A value does not fit, no image of the pool can be used, or no image is labelled.
        PickingInterrupted: The user interrupted the picking.
        Interrupted, Stopped, RunError: As in `run_search`.
    """
    from nasplat.interface.bars import progress
    from nasplat.picking.feature_maps import FeatureMaps
    from nasplat.picking.job import Choice, job_of
    from nasplat.picking.job import pick as pick_images
    from nasplat.picking.positives import positives as labelled

    if not pool:
        raise InputError("images are picked from a pool, but none is given; add --pool FOLDER (pool=…)")
    if not 0 <= hard_labels < 1:
        raise InputError(
            f"the weight of the labels of the positives is from 0 to below 1, but got {hard_labels:g}; correct "
            "--hard-labels (hard_labels=…)"
        )
    choice = Choice(prior, count, seed or 0)
    for target in log_to:
        Target.parse(target)
    if out is not None:
        refuse_existing(out)
    by = teacher_of(teacher, pick, preprocessing, trust=trust)
    space, code = student_of(student, student_pick, trust=trust)
    tree: dict[str, Any] = {
        "kind": RETRAINING,
        "space": space,
        "benchmark": {"name": BENCHMARK, "epochs": EPOCHS},
        "strategy": {"name": RETRAINING, "members": [code], "seeds": seeds, "checkpoints": checkpoints},
        "objectives": ["accuracy:max"],
        "seed": seed or 0,
    }
    learning = {"class_weights": robust, "temperature": temperature}
    if robust:
        learning["perturbations"] = perturbations
    elif perturbations is not None:
        raise InputError(
            "perturbed class weights are of the robust distillation, which is turned off; leave out --perturbations "
            "(perturbations=…)"
        )
    share = share_option(BENCHMARK) or "recipe.distillation"
    enter(tree, "benchmark", nested(share, 1.0 - hard_labels))
    enter(tree, "benchmark", {"recipe": {name: value for name, value in learning.items() if value is not None}})
    enter(tree, "benchmark", recipe_options(recipe))
    merge(tree, "benchmark", {"epochs": epochs})
    if executor is not None:
        place(tree, executor)
    merge(tree, "executor", placing or {})
    for path, value in assignments:
        assign(tree, path, value)
    check_given_once(
        tree, [("benchmark", {"epochs": epochs}), ("executor", {"name": executor, **(placing or {})})], assignments
    )
    config = SearchConfig.read(tree)
    made = construct("space", SEARCH_SPACES.get(config.space.name), **config.space.options)
    made.check_io(by.layout.io)
    tree["strategy"]["members"] = [made.parse(code).code]
    _check(SearchConfig.read(tree))
    device = "cuda" if cuda_is_available() else "cpu"
    maps = FeatureMaps(by.network, features, by.layout.io.input_shape, device)
    if maps.classes != len(by.layout.classes):
        raise InputError(
            f"the teacher gives {maps.classes} numbers for {len(by.layout.classes)} classes; name each class in the "
            "order of its outputs"
        )
    images = labelled(positives, by.layout, per_class=per_class, most=by.most_pixels)
    folder = out or _free(job_of(maps, by.layout, pool, images))
    work = beside(folder)
    enter(tree, "benchmark", {"dataset": f"{PREFIX}{folder.absolute()}"})
    config = SearchConfig.read(tree)
    try:
        with progress(console) as told:
            found = pick_images(work, maps, by.layout, pool, images, choice, most=by.most_pixels, told=told)
    except KeyboardInterrupt:
        raise PickingInterrupted(work) from None
    for line in Picked(found).lines():
        console.print(escape(line))
    kept = {f"{FOLDER}/{name}": work / name for name in RESULTS}
    try:
        searched = run_search(Assembly.of(config), folder, console, create=True, files=kept, log_to=log_to)
    except Interrupted as error:
        if not error.created:
            raise PickingInterrupted(work) from None
        raise
    finally:
        delete_leftover(folder)
    return searched


def _check(config: SearchConfig) -> None:
    """Check all options that need no images, since picking them may take hours.

    Raises:
        InputError: One is unknown or does not fit.
    """
    if (given := config.benchmark.options.get("dataset")) is not None:
        raise InputError(
            f"the student learns from what is picked, but got benchmark.dataset={shortly(given)}; leave it out, and "
            "name where images are picked from by --pool (pool=…)"
        )
    config = config.resolved()
    data = config.benchmark.options.get("data") or {}
    if unfit := [name for name in ("subset", "side") if data.get(name) is not None]:
        raise InputError(
            f"data.{unfit[0]} is no option of images that are picked, but got {shortly(data[unfit[0]])}; leave it out, "
            "or pick fewer by --count (count=…)"
        )
    config.workload.make().check()


def _free(job: dict[str, Any]) -> Path:
    """The first of ``runs/distilled-1``, ``-2`` … that is not there, and where no other picking was interrupted."""
    from nasplat.picking.job import differing

    numbered = (Path("runs") / f"distilled-{number}" for number in itertools.count(1))
    return next(
        folder
        for folder in numbered
        if not is_taken(folder) and (not is_taken(beside(folder)) or not differing(beside(folder), job))
    )
