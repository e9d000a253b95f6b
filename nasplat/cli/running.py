"""Running a search to its end: the executor, interruption, and what is said of the result."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from nasplat.artifact import Artifacts
from nasplat.cli.console import err, out, print_json
from nasplat.cli.interruption import Interruption
from nasplat.cli.output import describe, describe_comparison, print_comparison, print_front
from nasplat.cli.progress import SearchProgress
from nasplat.config import SearchConfig
from nasplat.data.manifest import accepted_in, notes_of
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.errors import InputError, RunError, StorageError
from nasplat.executors.executor import Executor, cuda_is_available
from nasplat.run.directory import RunDirectory
from nasplat.run.history import History
from nasplat.run.layout import ARTIFACTS, DATA, LOG
from nasplat.run.retrained import Comparison
from nasplat.run.source import Source
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.files import is_taken
from nasplat.strategy import GenerationalStrategy
from nasplat.task import encode_incident
from nasplat.units import duration


def run_search(assembly: Assembly, folder: Path, *, create: bool, json: bool, source: Source | None = None) -> None:
    """Run the search of a directory to its end, and print its result.

    Args:
        assembly: The parts of the search.
        folder: The run directory.
        create: Whether to create the run directory. It is created completely or not at all.
        json: Whether to print the result as JSON.
        source: The source of the members of a retraining; only for a new run directory.

    Raises:
        InputError: The directory exists already, or another process is writing the run.
        RunError: The search cannot go on, or every trial failed.
    """
    config = assembly.config
    choice = str(assembly.choice or "")
    if choice:
        err.print(escape(choice))
    if create or assembly.workload.data is not None:
        assembly = assembly.with_data()
    for note in [*(notes_of(assembly.workload.data) if create else ()), *assembly.benchmark.data_notes()]:
        err.print(f"[yellow]note:[/] {escape(note)}")
    store = ArtifactStore(folder / ARTIFACTS)
    for note in () if create else store.notes():
        err.print(f"[yellow]note:[/] {escape(note)}")
    if err.is_terminal:
        err.print(f"[dim]starting {'Ray and its workers' if config.executor.name == 'ray' else 'the search'} …[/]")
    try:
        # Workers start first, so that their errors occur before any file is created.
        with Interruption() as interruption, _executor(assembly, store) as executor:
            interruption.check()
            run = _created(folder, assembly, choice, source) if create else RunDirectory(folder)
            with run.writing() as log, SearchProgress(err) as progress:
                run.keep(config)
                run.keep_data(assembly.workload.data)
                loop = Search(assembly.problem, assembly.strategy, executor, log, assembly.budget, progress, store)
                try:
                    interruption.arm()
                    loop.run()
                finally:
                    interruption.disarm()
    except StorageError as error:
        if not is_taken(folder):
            raise
        raise RunError(f"{error}, then go on with: {_resuming(folder, config)}") from error
    except RunError as error:
        if type(error) is not RunError or not is_taken(folder):
            raise
        raise RunError(f"{error}; go on with: {_resuming(folder, config)}") from error
    except KeyboardInterrupt:
        go_on = f"go on with: {escape(_resuming(folder, config))}"
        err.print(f"interrupted; {go_on if is_taken(folder) else 'nothing was created'}")
        raise typer.Exit(130) from None
    history = run.history()
    comparison = Comparison.of(history)
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
                **({} if comparison is None else describe_comparison(comparison)),
            }
        )
    else:
        _print_result(loop, history, comparison)
    if history.failures and not history.measurements:
        first = history.failures[0]
        raise RunError(f"every trial of {folder} failed; trial {first.id} ({first.kind}): {first.message}")


def _resuming(folder: Path, config: SearchConfig) -> str:
    """The command that goes on with a run; it names the cluster again, which a run alone cannot."""
    address = config.executor.address
    where = "" if address is None else f" --ray-address {shlex.quote(address)}"
    return f"nasplat resume {shlex.quote(str(folder))}{where}"


def _created(folder: Path, assembly: Assembly, choice: str, source: Source | None) -> RunDirectory:
    """The directory of a new run."""
    benchmark = assembly.benchmark
    return RunDirectory.create(
        folder,
        assembly.config,
        protocol=benchmark.protocol,
        choice=choice,
        code_metrics=benchmark.code_metrics,
        source=source,
        data=assembly.workload.data,
    )


def _print_result(loop: Search, history: History, comparison: Comparison | None) -> None:
    """Print the result of a search as text."""
    if comparison is None:
        print_front(history)
    else:
        print_comparison(comparison)
    called = {"trained": "supernet trainings"}
    counts = ", ".join(f"{number} {called.get(name, name)}" for name, number in loop.outcomes.items() if number)
    out.print(
        f"{counts or 'nothing measured'} in {duration(loop.spending.seconds)}; run: {escape(str(history.run.folder))}"
    )
    strategy = loop.strategy
    if isinstance(strategy, GenerationalStrategy) and strategy.shares_weights and strategy.unasked:
        err.print(
            f"[yellow]the budget ended inside a generation[/]: {strategy.unasked} of its tasks were not "
            "started; to finish it, give a larger budget to "
            f"nasplat resume {escape(shlex.quote(str(history.run.folder)))}"
        )
    for kind in sorted({failure.kind for failure in history.failures}):
        number = sum(failure.kind == kind for failure in history.failures)
        example = next(failure for failure in history.failures if failure.kind == kind)
        said = escape(example.message)
        err.print(f"[yellow]{number} failed ({escape(kind)})[/], such as trial {example.id}: {said}")


def data_of(run: RunDirectory, *, accept: bool) -> dict[str, Any] | None:
    """What a run recorded of its data; with `accept`, what it is to record of the data of today.

    Raises:
        InputError: The change of the data cannot be accepted.
    """
    data = run.data
    if data is None:
        if (run.config.resolved().benchmark.options.get("data") or {}).get("folder"):
            err.print(
                f"[yellow]{escape(str(run.folder))} has no record of its data[/] ({DATA}), as runs of earlier "
                "versions: a change of the data is not noticed"
            )
        return None
    if accept:
        before, data = data, run.accepted_data()
        for each in accepted_in(data)[len(accepted_in(before)) :]:
            err.print(f"[yellow]changed data accepted[/]: {escape(each)}")
        for note in notes_of(data):
            if note not in notes_of(before):
                err.print(f"[yellow]note:[/] {escape(note)}")
    return data


def keep_accepted(run: RunDirectory, *, accept: bool) -> None:
    """Before test data is measured: warn if the run has no record of its data, or record that a change was accepted.

    Raises:
        InputError: The change cannot be accepted, or another process is writing the run.
    """
    data = data_of(run, accept=accept)
    if accept and data != run.data:
        with run.writing():
            run.keep_data(data)


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


def refuse_existing(folder: Path) -> None:
    """Check that the folder of a new run does not exist yet.

    Raises:
        InputError: The path exists, as a run or as anything else.
    """
    if is_taken(folder):
        go_on = f", or continue it with `nasplat resume {folder}`" if is_taken(folder / LOG) else ""
        raise InputError(f"{folder} exists; choose another --out{go_on}")
