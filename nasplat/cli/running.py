"""What a command says of a search: its result, or how to go on with it."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.markup import escape

from nasplat.cli.console import err, out, print_json
from nasplat.cli.output import describe, describe_comparison, print_comparison, print_compression, print_front
from nasplat.driver.loop import Search
from nasplat.errors import RunError, StorageError
from nasplat.interface.running import Interrupted, Searched, Stopped, check_some_measured
from nasplat.interface.shipping import with_files
from nasplat.run.compressed import Compression, described
from nasplat.run.directory import RunDirectory
from nasplat.run.history import History
from nasplat.run.picked import Picked
from nasplat.run.retrained import Comparison
from nasplat.run.trust import resuming
from nasplat.strategy import GenerationalStrategy
from nasplat.task import encode_incident
from nasplat.units import duration


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """Say how to go on with a search that is interrupted, or that cannot go on.

    Raises:
        RunError: The search cannot go on.
    """
    try:
        yield
    except Stopped as error:
        joined = ", then go on with" if isinstance(error.__cause__, StorageError) else "; go on with"
        raise RunError(f"{error.why}{joined}: {resuming(RunDirectory(error.folder))}") from error
    except Interrupted as error:
        go_on = f"go on with: {resuming(RunDirectory(error.folder))}" if error.created else "nothing was created"
        err.print(f"interrupted; {escape(go_on)}")
        raise typer.Exit(130) from None


def print_result(searched: Searched, *, json: bool) -> None:
    """Print the result of a search.

    Raises:
        RunError: Every trial failed.
    """
    run, loop = searched.run, searched.loop
    history = run.history()
    comparison = Comparison.of(history)
    compression = Compression.of(history)
    if compression is not None:
        compression = _with_files(run, compression)
    picking = Picked.of(run)
    if json:
        print_json(
            {
                "run": str(run.folder),
                "status": history.status,
                "kind": run.config.kind,
                "strategy": run.config.strategy.name,
                "choice": run.choice,
                "evaluations": loop.spending.evaluations,
                "seconds": loop.spending.seconds,
                "outcomes": loop.outcomes,
                "incidents": [encode_incident(incident) for incident in loop.incidents],
                "front": [describe(member) for member in history.front],
                **({} if comparison is None else describe_comparison(comparison)),
                **({} if compression is None else {"compressed": described(compression)}),
                **({} if picking is None else {"picking": dict(picking.found)}),
            }
        )
    else:
        _print_result(loop, history, comparison, compression)
        if picking is not None and picking.sheet is not None:
            out.print(f"contact sheet: {escape(str(picking.sheet))}")
    check_some_measured(run)


def _with_files(run: RunDirectory, compression: Compression) -> Compression:
    """The compression with its files and latencies, or as it is if they cannot be made."""
    try:
        return with_files(run, compression)
    except Exception as error:  # noqa: BLE001  the run has its results, whatever an exporter raises
        reason = " ".join(str(error).split())[:300]
        err.print(f"[yellow]files and latency are not known[/] ({type(error).__name__}): {escape(reason)}")
        return compression


def _print_result(
    loop: Search, history: History, comparison: Comparison | None, compression: Compression | None
) -> None:
    """Print the result of a search as text."""
    if compression is not None:
        print_compression(compression)
    elif comparison is None:
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
            f"{escape(resuming(history.run))}"
        )
    for kind in sorted({failure.kind for failure in history.failures}):
        number = sum(failure.kind == kind for failure in history.failures)
        example = next(failure for failure in history.failures if failure.kind == kind)
        said = escape(example.message)
        err.print(f"[yellow]{number} failed ({escape(kind)})[/], such as trial {example.id}: {said}")
