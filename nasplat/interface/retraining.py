"""A retraining: what a search found, trained to the end in a run of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from nasplat.architecture import Architecture
from nasplat.benchmark import Benchmark
from nasplat.config import PluginConfig, SearchConfig, load_recipe, side_of
from nasplat.data.datasets import brings_teacher
from nasplat.data.manifest import DATA, DataChanged
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.interface.configuring import assign, check_given_once, choose, enter, merge, place
from nasplat.interface.running import Searched, check_measures, data_of, refuse_existing, run_search
from nasplat.latency.table import TABLE
from nasplat.objective import Objective
from nasplat.options import grouped, nested, option_names, shortly
from nasplat.registry import BENCHMARKS, SEARCH_SPACES
from nasplat.retraining import RETRAINING
from nasplat.run.directory import RunDirectory, next_free
from nasplat.run.history import History
from nasplat.run.source import Origin, Source
from nasplat.run.trust import check_trusted
from nasplat.task import Measurement

BINS = "bins:5"
"""What is picked by default where networks have a size."""
SHARE = "distillation"
"""The option of a benchmark, perhaps in a group, that says how much of the loss is the teacher's."""
DISTILLATION = 0.5
"""The default part of the loss that the teacher gives."""


def retrain(
    searched: RunDirectory,
    console: Console,
    *,
    pick: Sequence[str] | None = None,
    recipe: Path | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    checkpoints: int = 10,
    distill: bool = False,
    benchmark: Any = None,
    objectives: Sequence[str] | None = None,
    seed: int | None = None,
    executor: str | None = None,
    placing: Mapping[str, Any] | None = None,
    assignments: Sequence[tuple[str, Any]] = (),
    out: Path | None = None,
    trust: bool = False,
    accept_changed_data: bool = False,
    log_to: Sequence[str] = (),
) -> Searched:
    """Fully train networks that a search found, in a new run. None means what the search has, or the default.

    Args:
        searched: The run of the search.
        console: Where notes and progress are printed.
        pick: Networks, as `History.picks` takes them; by default ``bins:5``, or ``best`` with a single objective.
        recipe: Options of the benchmark, or a YAML file with them.
        epochs: Epochs of each training.
        seeds: Number of trainings of each network.
        checkpoints: Number of checkpoints of a training.
        distill: Whether the largest network teaches the others.
        benchmark: The benchmark that trains, in a form that `adopt` takes.
        objectives: ``METRIC:max`` or ``METRIC:min``.
        seed: The random seed.
        executor: ``inline`` or ``ray``.
        placing: The options of the executor.
        assignments: Further options, as pairs of ``SECTION.OPTION`` and value.
        out: The run directory to create; by default ``RUN-retrained-N``.
        trust: Whether modules, clusters and folders that only the run names may be used, and missing data downloaded if
            it says so.
        log_to: As in `run_search`.
        accept_changed_data: Whether to go on although the data has changed since the search.

    Returns:
        The new run, at its end.

    Raises:
        InputError: A value does not fit, or there is nothing to pick.
        Interrupted, Stopped, RunError: As in `run_search`.
    """
    run, history = searched.folder, searched.history()
    if history.status == "running":
        raise InputError(f"{run} is being searched by another process; wait for it, or interrupt it")
    if benchmark is None:
        check_measures(
            searched,
            "retrained",
            "name a benchmark that trains: --benchmark classification (benchmark='classification')",
        )
    members = picked(history, pick)
    known = searched.config if trust else searched.config.offline()  # a download is then asked for by the user alone
    tree: dict[str, Any] = known.model_dump(mode="json", exclude={"strategy", "constraints", "budget", "stopping"})
    if benchmark is not None:
        choose(tree, "benchmark", benchmark)
    _check_trains(history, None if benchmark is None else tree["benchmark"]["name"])
    enter(tree, "benchmark", recipe_options(recipe))
    merge(tree, "benchmark", {"epochs": epochs})
    tree["kind"] = RETRAINING
    tree["strategy"] = {"name": RETRAINING, "members": list(members), "seeds": seeds, "checkpoints": checkpoints}
    if executor is not None:
        place(tree, executor)
    merge(tree, "executor", placing or {})
    if seed is not None:
        tree["seed"] = seed
    if distill:
        _distill(tree)
    for path, value in assignments:
        assign(tree, path, value)
    check_given_once(
        tree,
        [
            ("benchmark", {**(benchmark if isinstance(benchmark, Mapping) else {}), "epochs": epochs}),
            ("executor", {"name": executor, **(placing or {})}),
        ],
        assignments,
    )
    if searched.config.strategy.options.get("originals"):  # which taught; nothing of them is trained again
        _forget_originals(tree, assignments)
    if not distill and len(members) > 1:
        _teach(tree, console)
    tree["constraints"] = lifted_limits(searched.config)
    tree["objectives"] = list(objectives) if objectives else measured_objectives(tree, next(iter(members)), console)
    completed = SearchConfig.read(tree)
    ours = (placing or {}).get("address") is not None or any(path == "executor.address" for path, _ in assignments)
    check_trusted(searched, completed, named=ours, trusted=trust)
    data = kept_data(data_of(searched, console, accept=False), searched.config, completed)
    if accept_changed_data and data:
        data |= replace(completed.resolved().workload, data=data).make().accept_data()
    try:
        assembly = Assembly.of(completed, data)
    except DataChanged as error:
        if error.kept:
            raise
        console.print("[yellow]other data than that of the search[/]: the retraining splits it anew")
        assembly = Assembly.of(completed)
    named = run if run.name not in ("", "..") else run.resolve()
    folder = out or next_free(named.parent, f"{named.name}-retrained")
    refuse_existing(folder)
    return run_search(assembly, folder, console, create=True, source=_source(run, history, members), log_to=log_to)


def picked(history: History, picks: Sequence[str] | None) -> dict[str, Measurement]:
    """The measurements of the networks to retrain, by code. A network that is picked twice occurs once.

    Raises:
        InputError: A pick is invalid, or there is nothing to pick.
    """
    default = BINS if len(history.run.config.goal.objectives) > 1 else "best"
    members: dict[str, Measurement] = {}
    for which in picks or [default]:
        for measurement in history.picks(which):
            members.setdefault(measurement.architecture.code, measurement)
    return members


def _check_trains(history: History, benchmark: str | None) -> None:
    """Check that the benchmark of the retraining trains networks. A table, for example, does not.

    Raises:
        InputError: The named benchmark trains no networks. Or no benchmark is named, and that of the search trains
            none or left no weights.
    """
    config = history.run.config
    left = any("weights" in m.artifacts or m.task.weights is not None for m in history.measurements)
    if BENCHMARKS.get(benchmark or config.benchmark.name).trains and (benchmark is not None or left):
        return
    remedy = {
        "classification": "--benchmark classification --set benchmark.dataset=cifar10 (benchmark='classification', "
        "options={'benchmark.dataset': 'cifar10'})",
        "super-resolution": "--benchmark super_resolution (benchmark='super_resolution')",
        "generation": "--benchmark generation (benchmark='generation')",
    }[SEARCH_SPACES.get(config.space.name).reference_io.purpose]
    which = f"{config.benchmark.name} of {history.run.folder}" if benchmark is None else benchmark
    raise InputError(f"the benchmark {which} trains no networks; name one that does, such as {remedy}")


def recipe_options(recipe: Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of the benchmark that a recipe gives, a file or a mapping.

    Raises:
        InputError: The recipe cannot be read, is not a mapping, or names a benchmark.
    """
    options = dict(recipe) if isinstance(recipe, Mapping) else load_recipe(recipe) if recipe else {}
    if "name" in options:
        raise InputError(
            f"the recipe {shortly(recipe)} holds options of the benchmark, not its name; give that by --benchmark "
            "(benchmark=…)"
        )
    return options


def _share(tree: dict[str, Any]) -> Any:
    """The weight of the distillation loss in the configuration tree; None if it is not set."""
    name = tree["benchmark"]["name"]
    value: Any = grouped(BENCHMARKS.get(name), tree["benchmark"])
    for part in (share_option(name) or SHARE).split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def share_option(benchmark: str) -> str | None:
    """The name of the option for distillation, with its group; None where a benchmark has none."""
    names = option_names(BENCHMARKS.get(benchmark))
    return next((name for name in names if name.rpartition(".")[2] == SHARE), None)


def _distill(tree: dict[str, Any]) -> None:
    """Have the largest member teach the others.

    Raises:
        InputError: The benchmark cannot distill, or there is no other network to teach.
    """
    name = tree["benchmark"]["name"]
    share = share_option(name)
    if share is None:
        raise InputError(
            f"the benchmark {name} has no option {SHARE}, so it cannot distill; leave out --distill (distill=True)"
        )
    if len(tree["strategy"]["members"]) < 2:
        raise InputError(
            "--distill (distill=True) has the largest network teach the others, but only one is picked; pick more"
        )
    if not _share(tree):
        enter(tree, "benchmark", nested(share, DISTILLATION))
    merge(tree, "strategy", {"teacher": True})


def _teach(tree: dict[str, Any], console: Console) -> None:
    """Have the largest member teach the others where the benchmark's options ask for distillation, and say so."""
    share = _share(tree)
    if share and "teacher" not in tree["strategy"] and not brings_teacher(str(tree["benchmark"].get("dataset"))):
        console.print(
            f"{SHARE} is {escape(str(share))}: the largest network is trained first, and the others learn from it"
        )
        merge(tree, "strategy", {"teacher": True})


def _forget_originals(tree: dict[str, Any], assignments: Sequence[tuple[str, Any]]) -> None:
    """Have no teacher in the retraining of a compression, unless the user asks for distillation."""
    share = share_option(tree["benchmark"]["name"])
    if share is not None and not any(path == f"benchmark.{share}" for path, _ in assignments):
        enter(tree, "benchmark", nested(share, 0.0))


def lifted_limits(config: SearchConfig) -> list[str]:
    """The constraints that replaced hard constraints of the space. A retraining needs no other constraints."""
    limits = {side_of(limit) for limit in SEARCH_SPACES.get(config.space.name).limits}
    return [constraint for constraint in config.constraints if side_of(constraint) in limits]


def measured_objectives(tree: dict[str, Any], code: str, console: Console) -> list[str]:
    """The search's objectives that the benchmark measures or that are free metrics. Prints the dropped objectives.

    Raises:
        InputError: The benchmark measures none of them.
    """
    config = SearchConfig.read(tree).resolved()
    benchmark = config.workload.make()
    benchmark.check()
    benchmark.space.check_io(benchmark.io)
    free = _free_metrics(benchmark, benchmark.space.parse(code))
    wanted = [Objective.parse(text) for text in config.objectives]
    if not any(benchmark.can_measure(each.metric) and each.metric not in free for each in wanted):
        example = f"{next(iter(benchmark.metrics), 'accuracy')}:max"
        raise InputError(
            f"the benchmark {config.benchmark.name} measures {', '.join(benchmark.metrics)}, but none of the search's "
            f"objectives, {', '.join(config.objectives)}; give an objective, such as --objective "
            f"{example} (objectives='{example}')"
        )
    kept = [each for each in wanted if benchmark.can_measure(each.metric) or each.metric in free]
    dropped = [str(each) for each in wanted if each not in kept]
    if dropped:
        console.print(
            f"[yellow]dropped from the objectives: {escape(', '.join(dropped))}[/], which "
            f"{escape(config.benchmark.name)} does not measure"
        )
    return [str(each) for each in kept]


def _free_metrics(benchmark: Benchmark, member: Architecture) -> set[str]:
    """The names of the free metrics of a member, which need no measurement."""
    analytic = benchmark.analytic_metrics(member) if benchmark.feasible(member) else {}
    return {*benchmark.space.cost(member, benchmark.io).metrics(), *analytic}


def kept_data(recorded: dict[str, Any] | None, before: SearchConfig, now: SearchConfig) -> dict[str, Any] | None:
    """What the search recorded of the data that the retraining uses too; None if it uses other data.

    The split and the classes of the search are kept, also for images of another size or in another folder, so that no
    image that it trained on becomes a test image.
    """
    if recorded is None:
        return None
    old, new = before.resolved().benchmark, now.resolved().benchmark
    same_data = old.options.get("dataset") == new.options.get("dataset")

    def table(plugin: PluginConfig) -> object:
        return (plugin.options.get("latency") or {}).get("table")

    keeps = {DATA: same_data, TABLE: table(old) == table(new)}
    return {purpose: each for purpose, each in recorded.items() if keeps.get(purpose, old.name == new.name)} or None


def _source(run: Path, history: History, members: dict[str, Measurement]) -> Source:
    """Where the members come from, to be kept with the run."""
    config = history.run.config
    return Source(
        run=str(run),
        strategy=config.strategy,
        space=config.space,
        benchmark=config.benchmark,
        objectives=config.objectives,
        evaluations=history.spending.evaluations,
        seed=config.seed,
        members={
            code: Origin(
                trial=m.id,
                metrics={name: value for name, value in m.metrics.items() if math.isfinite(value)},
                fidelity=m.task.fidelity,
            )
            for code, m in members.items()
        },
    )
