"""A run as a study of Optuna, in a journal file that optuna-dashboard shows."""

import copy
import json
import math
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasplat.errors import InputError, printable
from nasplat.objective import Goal
from nasplat.results.extras import needed
from nasplat.results.trials import Trial
from nasplat.run.directory import RunDirectory
from nasplat.run.history import History
from nasplat.search_space import GeneSpace, SearchSpace
from nasplat.storage.files import appearing, check_unlinked, refusal
from nasplat.task import Evaluate

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

CONSTRAINTS = "constraints"
"""The system attribute in which Optuna keeps constraints: a list of numbers, of which those above 0 are violated."""


@dataclass(frozen=True, slots=True)
class ExportedStudy:
    """What was written.

    Args:
        name: The name of the study.
        trials: Number of trials in it.
        unfinished: Number of trials that had not ended, which are left out.
    """

    name: str
    trials: int
    unfinished: int


def export_study(run: RunDirectory, storage: Path, *, name: str | None = None, replace: bool = False) -> ExportedStudy:
    """Write a run as a study into a journal file of Optuna, completely or not at all.

    The study is a copy: what is done to it, by the dashboard for example, does not change the run.

    Genes are categorical parameters, and objectives have their names and directions. The metrics that are no
    objectives are user attributes, with code, fidelity, seed and device. A measurement at the highest fidelity is
    complete. One at a lower fidelity is pruned, and so is a cache hit: neither is compared in the front. Metrics
    while a trial trained are intermediate values, of the first objective. Constraints follow Optuna's convention.
    Of trials with equal objectives, the run's front has the first, and Optuna's has all.

    Args:
        run: The run.
        storage: The journal file; studies of other names in it stay.
        name: The name of the study; by default that of the run's folder.
        replace: Whether to replace a study of this name.

    Raises:
        InputError: The extra ``optuna`` is not installed; or the storage has a study of this name, is no journal file
            of Optuna, or cannot be written.
        StorageError: The disk is full.
    """
    if re.match(r"\w+:/", str(storage)):
        raise InputError(
            f"a study is written to a journal file of Optuna, but {storage} is an address of a database; give a file, "
            "such as studies.log"
        )
    optuna = needed("optuna", "optuna")
    name = name or printable(run.folder.resolve().name)
    history = run.history()
    trials = _trials(history)
    with _locked(storage):
        try:
            before = _read(storage)
            backend = _memory(before)
            with _quiet(optuna):
                _write(optuna, backend, name, history, trials, storage, replace=replace)
            with appearing(storage) as file:
                if before:
                    file.write(storage.read_bytes())
                for log in backend.logs[len(before) :]:
                    file.write(json.dumps(log, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            raise refusal(storage, "written", error) from error
    asked = sum(isinstance(task, Evaluate) for task in history.asked.values())
    return ExportedStudy(name=name, trials=len(trials), unfinished=asked - len(trials))


def _write(
    optuna: Any, backend: Any, name: str, history: History, trials: Sequence[Trial], path: Path, *, replace: bool
) -> None:
    """Append a study to a journal."""
    storage = optuna.storages.JournalStorage(backend)
    goal, config = history.run.config.goal, history.run.config
    if name in optuna.get_all_study_names(storage):
        if not replace:
            raise InputError(
                f"{path} has a study named {name!r}; replace it with --replace "
                "(replace=True), or choose another --name (name=…)"
            )
        optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=["maximize" if each.maximize else "minimize" for each in goal.objectives],
    )
    study.set_metric_names([each.metric for each in goal.objectives])
    described = {
        "copy of": history.run.folder.resolve().name,
        "space": config.space.name,
        "benchmark": config.benchmark.name,
        "strategy": config.strategy.name,
        "seed": config.seed,
    }
    for key, value in described.items():
        study.set_user_attr(key, _plain(value))
    front = {member.id for member in history.front}
    highest = history.fidelities[-1] if history.fidelities else 0
    several = len(history.fidelities) > 1
    space = history.run.space
    distributions = {
        gene.name: optuna.distributions.CategoricalDistribution(gene.choices)
        for gene in (space.genes if isinstance(space, GeneSpace) else ())
    }
    clock = _clock(history, trials)
    study.add_trials(
        _frozen(optuna, trial, goal, distributions, clock[trial.number], highest=highest, several=several, front=front)
        for trial in trials
    )


def _frozen(
    optuna: Any,
    trial: Trial,
    goal: Goal,
    distributions: dict[str, Any],
    times: tuple[datetime, datetime],
    *,
    highest: int,
    several: bool,
    front: Iterable[int],
) -> "FrozenTrial":
    """One trial in Optuna's form."""
    states = optuna.trial.TrialState
    first = goal.objectives[0].metric
    state = states.COMPLETE
    if trial.status == "failed":
        state = states.FAIL
    elif trial.status == "cached" or trial.fidelity < highest:
        state = states.PRUNED
    names = {each.metric for each in goal.objectives}
    told = {
        "trial": trial.number,
        "code": trial.code,
        "fidelity": trial.fidelity,
        "replicate": trial.replicate,
        "seed": str(trial.seed),  # the dashboard's numbers have 53 bits
        "split": trial.split,
        "failure": trial.failure,
        "message": trial.message,
        "cached_from": trial.cached_from,
        "device": trial.device,
        "worker": trial.worker,
        "images": trial.images,
        "seconds": trial.seconds,
        "on_front": trial.number in front,
        **{name: value for name, value in trial.metrics.items() if name not in names},
    }
    steps = {
        epoch: metrics[first] for epoch, metrics in trial.curve.items() if math.isfinite(metrics.get(first, math.nan))
    }
    if several and trial.metrics:
        steps[trial.fidelity] = trial.metrics[first]
    frozen: FrozenTrial = optuna.trial.create_trial(
        state=state,
        values=[trial.metrics[each.metric] for each in goal.objectives] if state == states.COMPLETE else None,
        params=dict(trial.genes),
        distributions={gene: distributions[gene] for gene in trial.genes},
        user_attrs={key: _plain(value) for key, value in told.items() if value not in ("", None)},
        system_attrs={CONSTRAINTS: [min(each.excess(trial.metrics), sys.float_info.max) for each in goal.constraints]}
        if goal.constraints and trial.metrics
        else {},
        intermediate_values=steps,
    )
    frozen.datetime_start, frozen.datetime_complete = times
    return frozen


def _trials(history: History) -> list[Trial]:
    """The trials of a run that have ended, by number."""
    space: SearchSpace | None = history.run.space
    found = (Trial.of(outcome, space) for outcome in history.outcomes)
    return sorted((trial for trial in found if trial is not None), key=lambda trial: trial.number)


def _clock(history: History, trials: Sequence[Trial]) -> dict[int, tuple[datetime, datetime]]:
    """Start and end of each trial by its number, in local time without a zone, as Optuna has them.

    A trial that no worker did, such as a cache hit, has the end of the trial before it, in the order of the log.
    """
    by_number = {trial.number: trial for trial in trials}
    known = [trial.started for trial in trials if trial.started is not None]
    last = min(known).astimezone().replace(tzinfo=None) if known else datetime.fromtimestamp(0)
    times = {}
    for outcome in history.outcomes:
        trial = by_number.get(outcome.id)
        if trial is None:
            continue
        if trial.started is None or trial.finished is None:
            times[trial.number] = last, last
        else:
            start, last = (each.astimezone().replace(tzinfo=None) for each in (trial.started, trial.finished))
            times[trial.number] = start, last
    return times


def _plain(value: Any) -> Any:
    """A value that JSON has: text without control characters, and text for numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return printable(value) if isinstance(value, str) else value


def _read(path: Path) -> list[dict[str, Any]]:
    """The logs of a journal file; none if it does not exist.

    Raises:
        InputError: It is something else, or damaged.
    """
    check_unlinked(path)
    if not path.exists():
        return []
    text = path.read_bytes()
    try:
        if text and not text.endswith(b"\n"):
            raise ValueError("its last line is not complete")
        logs = [json.loads(line) for line in text.splitlines()]
        if not all(isinstance(log, dict) and "op_code" in log for log in logs):
            raise ValueError("it has lines of another form")
    except ValueError as error:
        raise InputError(
            f"{path} is not a journal file of Optuna: {error}; choose another --storage (storage=…), which is created"
        ) from error
    return logs


def _memory(logs: Sequence[dict[str, Any]]) -> Any:
    """A journal in memory, so that a study of thousands of trials is written at once."""
    from optuna.storages.journal import BaseJournalBackend

    class Memory(BaseJournalBackend):
        def __init__(self) -> None:
            self.logs = list(logs)

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
            # A storage may change what it reads.
            yield from (copy.deepcopy(log) for log in self.logs[log_number_from:])

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            self.logs += logs

    return Memory()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that Optuna holds while it appends to a journal file.

    Raises:
        InputError: The folder cannot be written.
    """
    from optuna.storages.journal import JournalFileSymlinkLock

    lock = JournalFileSymlinkLock(str(path.resolve()))
    if not path.parent.is_dir():
        raise InputError(
            f"{path} cannot be written: its folder does not exist; create it, or choose another --storage (storage=…)"
        )
    try:
        lock.acquire()
    except OSError as error:
        raise refusal(path, "locked", error) from error
    try:
        yield
    finally:
        with suppress(RuntimeError):  # another process took a lock that it found too old
            lock.release()


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's line for each study, and its notes on methods that may change."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
