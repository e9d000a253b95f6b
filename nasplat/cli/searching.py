"""`nasplat search` and `nasplat resume`."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nasplat.artifact import Artifacts
from nasplat.cli.interruption import Interruption
from nasplat.cli.output import describe, err, out, print_front, print_json, printable
from nasplat.cli.progress import SearchProgress
from nasplat.config import Assembly, SearchConfig, load_tree, yaml_value
from nasplat.errors import InputError, RunError, StorageError
from nasplat.executors.executor import Executor, cuda_is_available
from nasplat.options import shortly
from nasplat.run.directory import ARTIFACTS, LOG, History, Run, next_free
from nasplat.run.files import is_taken
from nasplat.run.shelf import Shelf
from nasplat.search import Search
from nasplat.strategy import GenerationalStrategy
from nasplat.task import encode_incident
from nasplat.units import duration

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def search(
    config: Annotated[Path | None, typer.Argument(help="A YAML file; flags override it.", show_default=False)] = None,
    space: Annotated[str | None, typer.Option(help="Search space; see `nasplat list`.", show_default=False)] = None,
    benchmark: Annotated[str | None, typer.Option(help="What measures architectures.", show_default=False)] = None,
    strategy: Annotated[
        str | None, typer.Option(help="What proposes them; auto chooses and says why.", show_default=False)
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="METRIC:max or METRIC:min; repeatable.", show_default=False)
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="'METRIC<=NUMBER' or '>='; repeatable.", show_default=False)
    ] = None,
    evaluations: Annotated[int | None, typer.Option(help="Budget: evaluations.", show_default=False)] = None,
    seconds: Annotated[float | None, typer.Option(help="Budget: seconds of searching.", show_default=False)] = None,
    images: Annotated[
        int | None, typer.Option(help="Budget: training images, beside --evaluations or --seconds.", show_default=False)
    ] = None,
    device_seconds: Annotated[
        float | None,
        typer.Option(help="Budget: device-seconds, beside --evaluations or --seconds.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="All randomness comes from it.  [default: 0]", show_default=False)
    ] = None,
    executor: Annotated[str | None, typer.Option(help="inline or ray.  [default: inline]", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option(help="Ray workers.  [default: 1]", show_default=False)] = None,
    cpus_per_worker: Annotated[
        float | None, typer.Option(help="CPUs for each worker.  [default: 1]", show_default=False)
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs for each worker, such as 0.5.  [default: 0]", show_default=False)
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="An existing Ray cluster: auto or HOST:PORT.", show_default=False)
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(help="Ray: tries after a trial's worker died.  [default: 2]", show_default=False),
    ] = None,
    trial_seconds: Annotated[
        float | None,
        typer.Option(help="Ray: a trial that takes longer fails, its process is killed.", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option, as in strategy.population=50; repeatable.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run directory to create.  [default: runs/STRATEGY-SPACE-N]", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Search, from a configuration file, from flags, or from both."""
    tree = load_tree(config) if config else {}
    for section, name in (("space", space), ("benchmark", benchmark), ("strategy", strategy), ("executor", executor)):
        if name is not None:
            _choose(tree, section, name)
    for key, values in (("objectives", objective), ("constraints", constraint)):
        if values:
            tree[key] = values
    if seed is not None:
        tree["seed"] = seed
    limits = {"evaluations": evaluations, "seconds": seconds, "images": images, "device_seconds": device_seconds}
    _merge(tree, "budget", limits)
    placing = {
        "workers": workers,
        "cpus_per_worker": cpus_per_worker,
        "gpus_per_worker": gpus_per_worker,
        "address": ray_address,
        "retries": retries,
        "trial_seconds": trial_seconds,
    }
    _merge(tree, "executor", placing)
    for assignment in set_ or []:
        _assign(tree, assignment)
    missing = [f"--{key}" for key in ("space", "benchmark", "strategy") if key not in tree]
    missing += ["--objective"] * ("objectives" not in tree)
    if missing:
        raise InputError(
            f"a search needs {', '.join(missing)}; for example: nasplat search --space nasbench201 "
            "--benchmark classification --strategy random_search --objective accuracy:max --evaluations 20"
        )
    assembly = Assembly.of(SearchConfig.read(tree))
    folder = out or next_free(
        Path("runs"), f"{assembly.config.strategy.name}-{assembly.config.space.name}".replace("/", "-")
    )
    _refuse_existing(folder)
    _search(assembly, folder, create=True, json=json)


def resume(
    run: Annotated[Path, typer.Argument(help="The run directory.", show_default=False)],
    evaluations: Annotated[
        int | None, typer.Option(help="A new budget of evaluations in all.", show_default=False)
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="A new budget of seconds in all.", show_default=False)] = None,
    images: Annotated[
        int | None, typer.Option(help="A new budget of training images in all.", show_default=False)
    ] = None,
    device_seconds: Annotated[
        float | None, typer.Option(help="A new budget of device-seconds in all.", show_default=False)
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Another number of Ray workers.", show_default=False)] = None,
    ray_address: Annotated[str | None, typer.Option(help="Another Ray cluster.", show_default=False)] = None,
    retries: Annotated[int | None, typer.Option(help="Another number of tries under Ray.", show_default=False)] = None,
    trial_seconds: Annotated[
        float | None, typer.Option(help="Another limit on the time of a trial under Ray.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Go on with a run that was interrupted or killed, or that gets a larger budget."""
    opened = Run(run)
    tree, history = opened.config.model_dump(mode="json"), opened.history()
    limits = {"evaluations": evaluations, "seconds": seconds, "images": images, "device_seconds": device_seconds}
    _merge(tree, "budget", limits)
    _merge(
        tree,
        "executor",
        {"workers": workers, "address": ray_address, "retries": retries, "trial_seconds": trial_seconds},
    )
    if opened.config.executor.name == "inline" and (workers, ray_address, retries, trial_seconds) != (None,) * 4:
        raise InputError(f"{run} runs inline, where there are no workers; leave out what is said of them")
    assembly = Assembly.of(SearchConfig.read(tree))
    for name, limit in limits.items():
        spent = getattr(history.spending, name)
        if limit is not None and limit < spent:
            raise InputError(
                f"{run} has spent {spent:g} {name} already, more than a budget of {limit:g}; give a larger one"
            )
    _search(assembly, run, create=False, json=json)


def _search(assembly: Assembly, folder: Path, *, create: bool, json: bool) -> None:
    """Run the search of a directory to its end, and say what came of it."""
    config = assembly.config
    choice = str(assembly.choice or "")
    if choice:
        err.print(escape(choice))
    if err.is_terminal:
        err.print(f"[dim]starting {'Ray and its workers' if config.executor.name == 'ray' else 'the search'} …[/]")
    try:
        # Workers come up first: what is wrong with them is found before anything is created.
        shelf = Shelf(folder / ARTIFACTS)
        with Interruption() as interruption, _executor(assembly, shelf) as executor:
            interruption.check()
            protocol = assembly.benchmark.protocol
            run = Run.create(folder, config, protocol=protocol, choice=choice) if create else Run(folder)
            with run.writing() as log, SearchProgress(err) as progress:
                run.keep(config)
                loop = Search(assembly.problem, assembly.strategy, executor, log, assembly.budget, progress, shelf)
                try:
                    interruption.arm()
                    loop.run()
                finally:
                    interruption.disarm()
    except StorageError as error:
        if not is_taken(folder):
            raise
        raise RunError(f"{error}; make room, then go on with: nasplat resume {shlex.quote(str(folder))}") from error
    except RunError as error:
        if type(error) is not RunError or not is_taken(folder):
            raise
        raise RunError(f"{error}; go on with: nasplat resume {shlex.quote(str(folder))}") from error
    except KeyboardInterrupt:
        go_on = f"go on with: nasplat resume {escape(shlex.quote(str(folder)))}"
        err.print(f"interrupted; {go_on if is_taken(folder) else 'nothing was created'}")
        raise typer.Exit(130) from None
    history = run.history()
    if json:
        print_json(
            {
                "run": str(folder),
                "status": history.status,
                "strategy": config.strategy.name,
                "choice": history.run.choice,
                "evaluations": loop.spending.evaluations,
                "seconds": loop.spending.seconds,
                "outcomes": loop.outcomes,
                "incidents": [encode_incident(incident) for incident in loop.incidents],
                "front": [describe(member) for member in history.front],
            }
        )
    else:
        _print_result(loop, history)
    if history.failures and not history.measurements:
        first = history.failures[0]
        raise RunError(f"every trial of {folder} failed; trial {first.id} ({first.kind}): {first.message}")


def _print_result(loop: Search, history: History) -> None:
    """What came of a search, in words."""
    print_front(history)
    called = {"trained": "supernet trainings"}
    counts = ", ".join(f"{number} {called.get(name, name)}" for name, number in loop.outcomes.items() if number)
    out.print(
        f"{counts or 'nothing measured'} in {duration(loop.spending.seconds)}; run: {escape(str(history.run.folder))}"
    )
    strategy = loop.strategy
    if isinstance(strategy, GenerationalStrategy) and strategy.shares_weights and strategy.unasked:
        err.print(
            f"[yellow]the budget ended inside a generation[/]: {strategy.unasked} of its tasks are not begun, and the "
            f"front is of what was measured; give more to nasplat resume {escape(shlex.quote(str(history.run.folder)))}"
        )
    for kind in sorted({failure.kind for failure in history.failures}):
        number = sum(failure.kind == kind for failure in history.failures)
        example = next(failure for failure in history.failures if failure.kind == kind)
        said = escape(printable(example.message))
        err.print(f"[yellow]{number} failed ({escape(printable(kind))})[/], such as trial {example.id}: {said}")


@contextmanager
def _executor(assembly: Assembly, artifacts: Artifacts) -> Iterator[Executor]:
    """The configured executor; the one place that chooses between them."""
    config = assembly.config.executor
    if config.name == "inline":
        from nasplat.executors.inline import InlineExecutor

        device = "cuda" if cuda_is_available() else "cpu"
        with InlineExecutor(assembly.benchmark, artifacts, device=device) as executor:
            yield executor
        return
    from nasplat.executors.ray import RayExecutor

    # Ray reports dead workers on standard output, which is for results alone.
    with (
        redirect_stdout(sys.stderr),
        RayExecutor(
            assembly.workload,
            artifacts,
            workers=config.workers,
            cpus_per_worker=config.cpus_per_worker,
            gpus_per_worker=config.gpus_per_worker,
            address=config.address,
            retries=config.retries,
            trial_seconds=config.trial_seconds,
        ) as ray_executor,
    ):
        yield ray_executor


def _refuse_existing(folder: Path) -> None:
    if is_taken(folder):
        go_on = f", or continue it with `nasplat resume {folder}`" if is_taken(folder / LOG) else ""
        raise InputError(f"{folder} exists; choose another --out{go_on}")


def _choose(tree: dict[str, Any], section: str, name: str) -> None:
    """Name a plug-in; options that a file gave stay only if it named the same one."""
    now = tree.get(section)
    if section == "executor" and name == "inline":
        now = None  # whatever a file said of workers is of no use any more
    if isinstance(now, dict) and (now.get("name") == name or section == "executor"):
        tree[section] = {**now, "name": name}
    else:
        tree[section] = {"name": name}


def _merge(tree: dict[str, Any], section: str, values: Mapping[str, Any]) -> None:
    given = {key: value for key, value in values.items() if value is not None}
    if given:
        tree[section] = {**_section(tree, section), **given}


def _assign(tree: dict[str, Any], assignment: str) -> None:
    """Carry out one ``--set section.option=value``."""
    path, equals, text = assignment.partition("=")
    section, dot, option = path.partition(".")
    if not (equals and dot and section and option and "." not in option):
        raise InputError(f"--set takes SECTION.OPTION=VALUE, such as strategy.population=50, but got {assignment!r}")
    if section not in ("space", "benchmark", "strategy", "executor", "budget"):
        raise InputError(
            f"--set {assignment}: no section is named {section!r}; there are space, benchmark, strategy, "
            "executor and budget"
        )
    try:
        value = yaml_value(text)
    except ValueError:
        value = text
    tree[section] = {**_section(tree, section), option: value}


def _section(tree: Mapping[str, Any], section: str) -> dict[str, Any]:
    """A section of the configuration, to add to; a bare name stands for the plug-in without options."""
    now = tree.get(section, {})
    if isinstance(now, str):
        return {"name": now}
    if not isinstance(now, dict):
        raise InputError(f"{section} is to be a mapping, or a plug-in's name, but the configuration has {shortly(now)}")
    return now
