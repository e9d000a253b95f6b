"""Running a search to its end: its executor, its directory, interruption, and who is told of it."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from nasplat.artifact import Artifacts
from nasplat.data.manifest import accepted_in, notes_of
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.errors import InputError, NasplatError, RunError, StorageError
from nasplat.executors.executor import Executor, cuda_is_available
from nasplat.interface.fingerprints import objects_of
from nasplat.interface.interruption import Interruption
from nasplat.interface.progress import SearchProgress
from nasplat.interface.sections import REGISTRIES
from nasplat.results.tracking import Target, tracking
from nasplat.retraining import RETRAINING
from nasplat.run.directory import ASKED, RunDirectory
from nasplat.run.layout import ARTIFACTS, DATA, LOG
from nasplat.run.source import Source
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.files import is_taken


def reopening(folder: Path) -> str:
    """How a program goes on with a run: as it stands in this process, with its objects in another one."""
    try:
        config = RunDirectory(folder).config
    except NasplatError:
        return f"nasplat.open_run({str(folder)!r}).resume()"
    own = [section for section in REGISTRIES if ":" in getattr(config, section).name]
    objects = "".join(f", {section}=…" for section in own)
    again = f"; in another process, give its objects again: nasplat.open_run({str(folder)!r}{objects}).resume()"
    return f"nasplat.open_run({str(folder)!r}).resume(){again * bool(own)}"


class Interrupted(KeyboardInterrupt):
    """A search was interrupted.

    Args:
        folder: The directory of its run.

    Attributes:
        created: Whether the run exists, so that the search can go on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.created = is_taken(folder)
        super().__init__(f"go on with {reopening(folder)}" if self.created else "nothing was created")


class Stopped(RunError):
    """A search ended before its end, as on a full disk; its run can go on once the cause is gone.

    Args:
        why: The cause.
        folder: The directory of the run.
    """

    def __init__(self, why: str, folder: Path) -> None:
        super().__init__(f"{why}; go on with {reopening(folder)}")
        self.why = why
        self.folder = folder


@dataclass(frozen=True)
class Searched:
    """A search that has come to its end.

    Args:
        run: Its run.
        loop: The loop, with what it counted.
    """

    run: RunDirectory
    loop: Search


def run_search(
    assembly: Assembly,
    folder: Path,
    console: Console,
    *,
    create: bool,
    source: Source | None = None,
    artifacts: Sequence[bytes] = (),
    files: Mapping[str, Path] | None = None,
    log_to: Sequence[str] = (),
) -> Searched:
    """Run the search of a directory to its end.

    Args:
        assembly: The parts of the search.
        folder: The run directory.
        console: Where notes, incidents and progress are printed.
        create: Whether to create the run directory. It is created completely or not at all.
        source: The source of the members of a retraining; only for a new run directory.
        artifacts: What the store of a new run has from the beginning.
        files: Further files of a new run by their paths in it, and what they are copies of.
        log_to: Where trials are tracked too: ``tensorboard:DIR`` or ``mlflow:URI``.

    Raises:
        InputError: The directory exists already, or another process is writing the run.
        Interrupted: The user interrupted it.
        Stopped: The search cannot go on, but its run exists.
        RunError: The search cannot go on.
    """
    if create:
        refuse_existing(folder)
    targets = [Target.parse(text) for text in log_to]
    config = assembly.config
    if assembly.choice is not None:
        console.print(escape(str(assembly.choice)))
    if create or assembly.workload.data is not None:
        assembly = assembly.with_data()
    for note in [*(notes_of(assembly.workload.data) if create else ()), *assembly.benchmark.data_notes()]:
        console.print(f"[yellow]note:[/] {escape(note)}")
    store = ArtifactStore(folder / ARTIFACTS)
    for note in () if create else store.notes():
        console.print(f"[yellow]note:[/] {escape(note)}")
    if console.is_terminal:
        console.print(f"[dim]starting {'Ray and its workers' if config.executor.name == 'ray' else 'the search'} …[/]")
    try:
        # Workers start first, so that their errors occur before any file is created.
        with Interruption() as interruption, _executor(assembly, store) as executor:
            interruption.check()
            run = _created(folder, assembly, source, artifacts, files) if create else RunDirectory(folder)
            with (
                run.writing() as log,
                SearchProgress(console) as progress,
                tracking(run, targets, partial(_warn, console)) as trackers,
            ):
                run.keep(config)
                run.keep_data(assembly.workload.data)
                run.keep_objects(objects_of(config))
                loop = Search(
                    assembly.problem,
                    assembly.strategy,
                    executor,
                    log,
                    assembly.budget,
                    [progress, *trackers, interruption],  # last, so that the others have seen the outcome
                    store,
                    assembly.stopping,
                    replaces_parts=config.kind == RETRAINING,
                )
                try:
                    interruption.arm()
                    loop.run()
                finally:
                    interruption.disarm()
    except StorageError as error:
        if not is_taken(folder):
            raise
        raise Stopped(str(error), folder) from error
    except RunError as error:
        if type(error) is not RunError or not is_taken(folder):
            raise
        raise Stopped(str(error), folder) from error
    except KeyboardInterrupt:
        raise Interrupted(folder) from None
    return Searched(run, loop)


def _warn(console: Console, text: str) -> None:
    console.print(f"[yellow]warning:[/] {escape(text)}")


def check_some_measured(run: RunDirectory) -> None:
    """Check that not every trial of a run failed.

    Raises:
        RunError: Every trial failed; the message has the first.
    """
    history = run.history()
    if history.failures and not history.measurements:
        first = history.failures[0]
        raise RunError(f"every trial of {run.folder} failed; trial {first.id} ({first.kind}): {first.message}")


def _created(
    folder: Path,
    assembly: Assembly,
    source: Source | None,
    artifacts: Sequence[bytes],
    files: Mapping[str, Path] | None,
) -> RunDirectory:
    """The directory of a new run."""
    benchmark = assembly.benchmark
    return RunDirectory.create(
        folder,
        assembly.config,
        protocol=benchmark.protocol,
        choice=str(assembly.choice or ""),
        code_metrics=benchmark.code_metrics,
        source=source,
        data=assembly.workload.data,
        objects=objects_of(assembly.config),
        artifacts=artifacts,
        files=files,
    )


def check_measures(run: RunDirectory, action: str, remedy: str) -> None:
    """Check that the benchmark of a run measures networks by itself.

    Args:
        run: The run.
        action: What the run cannot be: ``resumed``.
        remedy: What to do instead.

    Raises:
        InputError: The networks are measured by the caller of `nasplat.AskTell`.
    """
    if run.config.benchmark.name == ASKED:
        raise InputError(
            f"{run.folder} cannot be {action}: its networks are measured by the caller of nasplat.AskTell; {remedy}"
        )


def data_of(run: RunDirectory, console: Console, *, accept: bool) -> dict[str, Any] | None:
    """What a run recorded of its data; with `accept`, what it is to record of the data of today.

    Raises:
        InputError: The change of the data cannot be accepted.
    """
    data = run.data
    if data is None:
        if (run.config.resolved().benchmark.options.get("data") or {}).get("folder"):
            console.print(
                f"[yellow]{escape(str(run.folder))} has no record of its data[/] ({DATA}), as runs of earlier "
                "versions: a change of the data is not noticed"
            )
        return None
    if accept:
        before, data = data, run.accepted_data()
        for each in accepted_in(data)[len(accepted_in(before)) :]:
            console.print(f"[yellow]changed data accepted[/]: {escape(each)}")
        for note in notes_of(data):
            if note not in notes_of(before):
                console.print(f"[yellow]note:[/] {escape(note)}")
    return data


def keep_accepted(run: RunDirectory, console: Console, *, accept: bool) -> None:
    """Before test data is measured: warn if the run has no record of its data, or record that a change was accepted.

    Raises:
        InputError: The change cannot be accepted, another process is writing the run, or its networks are measured by
            the caller.
    """
    check_measures(run, "tested", "test them where you measure them")
    data = data_of(run, console, accept=accept)
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
        python = f"nasplat.open_run({str(folder)!r}).resume()"
        go_on = f", or continue it with `nasplat resume {folder}` ({python})" if is_taken(folder / LOG) else ""
        raise InputError(f"{folder} exists; choose another --out (out=…){go_on}")
