"""A search in a new run, and going on with one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.interface.configuring import merge
from nasplat.interface.running import Searched, check_measures, data_of, refuse_existing, run_search
from nasplat.run.directory import RunDirectory, next_free
from nasplat.run.history import History
from nasplat.run.own_picking import delete_leftover
from nasplat.run.trust import check_store_trusted, check_trusted, resuming


def search(config: SearchConfig, console: Console, *, out: Path | None = None, log_to: Sequence[str] = ()) -> Searched:
    """Search in a new run.

    Args:
        config: The configuration.
        console: Where notes and progress are printed.
        out: The run directory to create; by default ``runs/STRATEGY-SPACE-N``.
        log_to: As in `run_search`.

    Raises:
        InputError: The configuration does not fit together, or the directory exists.
        Interrupted, Stopped, RunError: As in `run_search`.
    """
    assembly = Assembly.of(config)
    folder = out or new_folder_of(assembly.config)
    refuse_existing(folder)
    return run_search(assembly, folder, console, create=True, log_to=log_to)


def new_folder_of(config: SearchConfig) -> Path:
    """The default directory of a new run: ``runs/STRATEGY-SPACE-N``."""
    named = f"{config.strategy.name}-{config.space.name}".replace("/", "-").replace(":", "-").replace("+", "-")
    return next_free(Path("runs"), named)


def resume(
    run: RunDirectory,
    console: Console,
    *,
    budget: Mapping[str, Any] | None = None,
    placing: Mapping[str, Any] | None = None,
    trust: bool = False,
    accept_changed_data: bool = False,
    log_to: Sequence[str] = (),
) -> Searched:
    """Continue a run that was interrupted or killed, or one with a larger budget.

    Args:
        run: The run.
        console: Where notes and progress are printed.
        budget: New limits of the budget, in total; None leaves one as it is.
        placing: New options of the Ray executor; None leaves one as it is.
        trust: Whether modules, clusters and folders that only the run names may be used, and missing data downloaded if
            it says so.
        accept_changed_data: Whether to go on although the data has changed.
        log_to: As in `run_search`.

    Raises:
        InputError: A new limit is smaller than what is spent, an option does not fit, or the data has changed.
        Interrupted, Stopped, RunError: As in `run_search`.
    """
    check_measures(run, "resumed", f"go on with {resuming(run)}")
    tree, history = run.config.model_dump(mode="json"), run.history()
    given = {key: value for key, value in (placing or {}).items() if value is not None}
    merge(tree, "budget", budget or {})
    merge(tree, "executor", given)
    if run.config.executor.name == "inline" and given:
        raise InputError(
            f"{run.folder} uses the inline executor, which has no workers; leave out the options of the ray executor"
        )
    config = SearchConfig.read(tree)
    check_trusted(run, config, named="address" in given, trusted=trust)
    check_store_trusted(run, trusted=trust)
    data = data_of(run, console, accept=accept_changed_data)
    assembly = Assembly.of(config, data, code_metrics=run.code_metrics, offline=not trust)
    shared = (assembly.benchmark.code_metrics - run.code_metrics).intersection(assembly.problem.goal.metrics)
    if shared:
        console.print(
            f"[yellow]{escape(', '.join(sorted(shared)))} of one code is told for all codes of the same network[/], as "
            "when this run began; a new search measures each code"
        )
    check_unspent(history, budget or {})
    delete_leftover(run.folder)
    return run_search(assembly, run.folder, console, create=False, log_to=log_to)


def check_unspent(history: History, budget: Mapping[str, float | None]) -> None:
    """Check that the new limits of a run are not below what it has spent; None leaves a limit as it is.

    Raises:
        InputError: One is.
    """
    for name, limit in budget.items():
        spent = getattr(history.spending, name)
        if limit is not None and limit < spent:
            raise InputError(
                f"{history.run.folder} has spent {spent:g} {name} already, but the new budget is {limit:g}; give a "
                "larger one"
            )
