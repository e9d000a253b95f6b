"""Complete runs, and their event traces for comparing runs of the same search."""

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.executors.inline import InlineExecutor
from nasplat.retraining import RETRAINING
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import LOG
from nasplat.storage.event_log import EventLog
from nasplat.task import Outcome, Spent, Task, decode_outcome, decode_task

Told: TypeAlias = tuple[int, list[Task]] | Outcome


def searched(folder: Path, config: SearchConfig) -> Assembly:
    """Search in this process, in a new run directory or in an interrupted one, which is resumed.

    Returns:
        The parts of the search. The strategy has its state at the end of the search.
    """
    if folder.exists():
        run = RunDirectory(folder)
        assembly = Assembly.of(config, run.data, code_metrics=run.code_metrics)
    else:
        assembly = Assembly.of(config).with_data()
        benchmark = assembly.benchmark
        run = RunDirectory.create(
            folder,
            assembly.config,
            protocol=benchmark.protocol,
            code_metrics=benchmark.code_metrics,
            data=assembly.workload.data,
        )
    artifacts = run.artifacts
    with InlineExecutor(assembly.benchmark, artifacts) as executor, run.writing() as log:
        Search(
            assembly.problem,
            assembly.strategy,
            executor,
            log,
            assembly.budget,
            artifacts=artifacts,
            stopping=assembly.stopping,
            replaces_parts=assembly.config.kind == RETRAINING,
        ).run()
    return assembly


def event_trace(folder: Path) -> list[Told]:
    """Every ask, as its size and tasks, and every outcome, in the order of the log, without durations.

    Raises:
        RunError: There is no log, or it is damaged.
    """
    told: list[Told] = []
    asked: dict[int, Task] = {}
    log = EventLog.open(folder / LOG)
    try:
        for event in log.events("ask", "outcome"):
            if event.kind == "ask":
                tasks = [decode_task(body) for body in event.body["tasks"]]
                asked |= {task.id: task for task in tasks}
                told.append((event.body["n"], tasks))
            else:
                told.append(replace(decode_outcome(event.body, asked[event.body["id"]]), spent=Spent()))
    finally:
        log.close()
    return told
