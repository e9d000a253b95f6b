"""The run directory: made complete or not at all, written by one process, read by any."""

import gc
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import filelock

from nasplat.budget import Spending
from nasplat.config import SearchConfig, load_tree
from nasplat.errors import InputError, RunError
from nasplat.objective import knee
from nasplat.run.environment import environment
from nasplat.run.event_log import EventLog
from nasplat.run.files import is_taken, write_atomically
from nasplat.run.shelf import Shelf
from nasplat.task import Evaluate, Failure, Incident, Measurement, Outcome, Task, decode_outcome, decode_task

CONFIG, ENVIRONMENT, LOG, LOCK = "config.yaml", "environment.json", "events.sqlite", "writer.lock"
ARTIFACTS = "artifacts"
LOCK_SECONDS = 1.0
"""How long to wait for the lock, which readers take for an instant to see whether somebody writes."""


class Run:
    """A run's directory.

    ``config.yaml`` is the resolved configuration, ``environment.json`` where it was made, ``events.sqlite``
    the event log, ``artifacts/`` the weights by content; reports and exports come beside them.

    Args:
        folder: An existing run directory.

    Raises:
        InputError: The folder is not a run directory.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / LOG).is_file() or not (folder / CONFIG).is_file():
            what = "is not a run directory" if folder.exists() else "does not exist"
            raise InputError(f"{folder} {what}; `nasplat runs` lists those below ./runs")
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, config: SearchConfig) -> Self:
        """A new run directory with an empty log; it appears complete or not at all.

        Raises:
            InputError: Something is there already, or the place cannot be written.
        """
        if is_taken(folder):
            raise InputError(f"{folder} exists; choose another --out, or continue it with `nasplat resume {folder}`")
        made = _missing_parents(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        except OSError as error:
            _remove_empty(made)
            raise InputError(f"{folder} cannot be created: {error.strerror}; choose another --out") from error
        try:
            draft.chmod(0o755)
            write_atomically(draft / CONFIG, config.to_yaml())
            write_atomically(draft / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")
            EventLog.create(draft / LOG).close()
            draft.rename(folder)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            _remove_empty(made)
            if isinstance(error, OSError):
                raise InputError(f"{folder} cannot be created: {error.strerror}; choose another --out") from error
            raise
        return cls(folder)

    @contextmanager
    def writing(self) -> Iterator[EventLog]:
        """The log, for the one process that may write it.

        Raises:
            InputError: Another process is writing this run.
        """
        lock = filelock.FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except filelock.Timeout:
            raise InputError(
                f"{self.folder} is being written by another process; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror}") from error
        try:
            log = EventLog.open(self.folder / LOG, write=True)
            try:
                yield log
            finally:
                log.close()
        finally:
            lock.release()

    @cached_property
    def config(self) -> SearchConfig:
        """The resolved configuration."""
        return SearchConfig.read(load_tree(self.folder / CONFIG))

    def keep(self, config: SearchConfig) -> None:
        """Make a configuration the run's own, as when it is resumed with a larger budget; for the writer alone."""
        if config != self.config:
            write_atomically(self.folder / CONFIG, config.to_yaml())
            del self.config

    @property
    def artifacts(self) -> Shelf:
        return Shelf(self.folder / ARTIFACTS)

    @property
    def environment(self) -> dict[str, Any]:
        """What was recorded when the run was made."""
        try:
            recorded: dict[str, Any] = json.loads((self.folder / ENVIRONMENT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / ENVIRONMENT} cannot be read: {error}") from error
        return recorded

    def is_being_written(self) -> bool:
        """Whether a process is searching in this run at the moment."""
        lock = self.folder / LOCK
        if not lock.exists() or not os.access(lock, os.W_OK):
            return False
        probe = filelock.FileLock(lock)
        try:
            probe.acquire(blocking=False)
        except filelock.Timeout:
            return True
        probe.release()
        return False

    def history(self) -> "History":
        """What the log has by now."""
        return History(self)


class History:
    """What a run's log tells, read once.

    Args:
        run: The run.

    Attributes:
        outcomes: All outcomes in the order they were told.
        elapsed: Seconds of searching before each outcome.
        asked: All tasks by id.
        incidents: What went wrong around the work, in order.
        ended: Why the search ended (``budget`` or ``strategy``), or None while it has not.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.outcomes: list[Outcome] = []
        self.elapsed: list[float] = []
        self.asked: dict[int, Task] = {}
        self.incidents: list[Incident] = []
        self.ended: str | None = None
        log = EventLog.open(run.folder / LOG)
        try:
            with _garbage_left_alone():
                self._read(log)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"the event log of {run.folder} is damaged: {error!r}") from error
        finally:
            log.close()

    def _read(self, log: EventLog) -> None:
        for event in log.events():
            match event.kind:
                case "ask":
                    self.asked.update((body["id"], decode_task(body)) for body in event.body["tasks"])
                    self.ended = None
                case "outcome":
                    self.outcomes.append(decode_outcome(event.body, self.asked[event.body["id"]]))
                    self.elapsed.append(event.elapsed)
                case "incident":
                    self.incidents.append(Incident(**event.body))
                case "end":
                    self.ended = event.body["reason"]

    @cached_property
    def spending(self) -> Spending:
        """What was spent so far."""
        spending = Spending(
            evaluations=sum(isinstance(task, Evaluate) for task in self.asked.values()),
            seconds=self.elapsed[-1] if self.elapsed else 0.0,
        )
        for outcome in self.outcomes:
            spending.add(outcome)
        return spending

    @property
    def status(self) -> str:
        """``finished``, ``running`` or ``interrupted``."""
        if self.ended is not None:
            return "finished"
        return "running" if self.run.is_being_written() else "interrupted"

    @cached_property
    def measurements(self) -> list[Measurement]:
        """All measurements, in the order they were told."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Measurement)]

    @cached_property
    def measured(self) -> list[Measurement]:
        """The measurements without those that memory answered."""
        return [measurement for measurement in self.measurements if measurement.remembered is None]

    @cached_property
    def failures(self) -> list[Failure]:
        """All failures, in the order they were told."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]

    @cached_property
    def front(self) -> list[Measurement]:
        """The measurements that no other dominates, by the first objective."""
        return self.run.config.goal.front(self.measurements)

    def pick(self, which: str) -> Measurement:
        """One measurement: ``best`` by the first objective, the front's ``knee``, or a trial's number.

        Raises:
            InputError: There is no such trial, or nothing was measured yet.
        """
        if which not in ("best", "knee") and not which.isdecimal():
            raise InputError(f"--pick is best, knee or a trial's number, but got {which!r}")
        if which.isdecimal():
            for outcome in self.outcomes:
                if outcome.id == int(which):
                    if isinstance(outcome, Measurement):
                        return outcome
                    raise InputError(f"trial {which} of {self.run.folder} gave no measurement to pick")
            raise InputError(f"{self.run.folder} has no finished trial {which}; it has {len(self.outcomes)} outcomes")
        if not self.front:
            raise InputError(f"{self.run.folder} has no measurement that keeps the constraints; nothing to pick")
        return self.front[0] if which == "best" else knee(self.run.config.goal, self.front)


def next_free(parent: Path, stem: str) -> Path:
    """The first of ``stem-1``, ``stem-2`` … that is not there yet."""
    taken = {path.name for path in parent.iterdir()} if parent.is_dir() else set()
    return next(parent / name for i in range(1, len(taken) + 2) if (name := f"{stem}-{i}") not in taken)


@contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """No garbage collection within: where everything that is made is kept, looking for garbage takes a third longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _missing_parents(folder: Path) -> list[Path]:
    """The parents that do not exist yet, innermost first."""
    return [parent for parent in folder.parents if not parent.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
