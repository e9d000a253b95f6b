"""What a run has in common with another one of the same search."""

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from nasplat.run.directory import LOG
from nasplat.run.event_log import EventLog
from nasplat.task import Outcome, Spent, Task, decode_outcome, decode_task

Told: TypeAlias = tuple[int, list[Task]] | Outcome


def story(folder: Path) -> list[Told]:
    """Every ask, as its size and tasks, and every outcome, in the order of the log, without what the work took.

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
