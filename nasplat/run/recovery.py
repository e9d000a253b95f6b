"""Recovery of a run with damaged files: what can be read is saved as a new run.

The damaged files are only read: the log is copied first, and SQLite sees the copy alone.
"""

import json
import shutil
from collections.abc import Mapping, Set
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nasplat.architecture import Architecture
from nasplat.artifact import Handle, digests_in
from nasplat.config import SearchConfig, load_tree
from nasplat.driver.assembly import Assembly
from nasplat.driver.collection import kept_digests
from nasplat.errors import InputError, NasplatError, RunError, StorageError
from nasplat.retraining import RETRAINING
from nasplat.run.directory import RunDirectory
from nasplat.run.environment import environment
from nasplat.run.layout import ARTIFACTS, CONFIG, DATA, ENVIRONMENT, LOG, check_files
from nasplat.run.log_validator import MALFORMED, LogValidator, describe
from nasplat.run.own_picking import at_home, copy_results, lost_of
from nasplat.run.records import LARGEST, read_data, read_environment
from nasplat.run.rehearsal import snapshot_damage
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.carving import copied, read_events
from nasplat.storage.decoding import count
from nasplat.storage.event_log import SIDES, Event, EventLog
from nasplat.storage.files import new_folder, read_file, scratch_folder, write_atomically
from nasplat.strategy import Strategy
from nasplat.task import (
    MOST_ASKED,
    STATE,
    Measurement,
    Task,
    Trained,
    decode_outcome,
    decode_task,
    derive_seed,
    encode_task,
    needed_by,
)
from nasplat.units import shown_metrics

BEYOND = "beyond-the-gap.jsonl"
"""The file of a recovered run with the outcomes that do not fit into its log: one JSON object per line."""
NOTE = "recovered.json"
"""The file of a recovered run with its origin and the list of lost parts."""


@dataclass
class Salvage:
    """The readable parts of a damaged run.

    Args:
        folder: The run directory.
        config: The configuration of the run.
        events: All readings of each event that could be read, by event number.
        whole: Whether SQLite finds no damage in the log.
        artifacts: The artifacts that an event names and whose content matches their digest, by digest.
        spoilt: The files of artifacts that an event names whose content does not match their digest; none in a store
            that is a link, which others may use.
        environment: The environment that was recorded when the run was created; None if it cannot be read.
        problem: The description of the damage in the log; empty if there is none.
    """

    folder: Path
    config: SearchConfig
    events: Mapping[int, list[Event]]
    whole: bool
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    spoilt: list[Path] = field(default_factory=list)
    environment: dict[str, Any] | None = None
    problem: str = ""
    gap: str | None = field(default=None, init=False)
    """The reason why the log ends after `prefix`; None if the log was read to its end."""

    picking_lost: dict[str, str] = field(default_factory=dict, init=False)
    """What is not copied of the run's picking, by name, with why."""

    def __post_init__(self) -> None:
        self.picking_lost = lost_of(self.folder)
        self._wanted_by_strategy: set[str] = set()
        self._code_metrics: frozenset[str] = frozenset()
        self._not_replayed = ""
        self.prefix, self.validator = self._longest_prefix()

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to recover: every part of the run is as it was written."""
        return (
            self.whole
            and self.gap is None
            and self.environment is not None
            and self.data_is_whole
            and not self.spoilt
            and not self.missing_artifacts
            and not self.states_gone
            and not self.picking_lost
        )

    @cached_property
    def missing_artifacts(self) -> dict[str, list[int]]:
        """The digests of missing artifacts that networks of the saved outcomes need, with the trials of the networks.

        With shared weights, only networks of the highest fidelity count, since the search deletes the other artifacts.
        A retraining also deletes the artifacts of the parts of a training that were continued.
        """
        measured = [outcome for outcome in self.validator.outcomes if isinstance(outcome, Measurement)]
        highest = max((m.task.fidelity for m in measured if m.task.weights is not None), default=0)
        continued = {_way(m, m.task.continues) for m in measured} if self.config.kind == RETRAINING else set()
        missing: dict[str, list[int]] = {}
        for m in measured:
            if STATE in m.artifacts and _way(m, m.artifacts[STATE]) in continued:
                continue
            needed = [handle for role, handle in m.artifacts.items() if role != STATE]
            if m.task.weights is not None:
                needed = [m.task.weights, *needed] if m.task.fidelity == highest else []
            for handle in needed:
                if handle.digest not in self.artifacts:
                    missing.setdefault(handle.digest, []).append(m.id)
        return missing

    @cached_property
    def states_gone(self) -> list[str]:
        """The digests of missing training states that tasks may still continue from.

        The search deleted them after the gap. Shared weights are included, since training continues from them.
        """
        open_ = set(self.validator.asked) - {outcome.id for outcome in self.validator.outcomes}
        wanted = self._wanted_by_strategy.union(*(needed_by(self.validator.asked[number]) for number in open_))
        states = {
            outcome.weights.digest if isinstance(outcome, Trained) else outcome.artifacts[STATE].digest
            for outcome in self.validator.outcomes
            if isinstance(outcome, Trained) or (isinstance(outcome, Measurement) and STATE in outcome.artifacts)
        }
        return sorted(states & wanted - set(self.artifacts))

    @cached_property
    def beyond(self) -> list[dict[str, Any]]:
        """The outcomes after the gap, with their tasks if the tasks are known.

        They were read, but do not fit into the log. Final measurements are included.
        """
        tasks: dict[int, Task] = {}
        outcomes: dict[tuple[str, int], dict[str, Any]] = {}
        taken = {(event.kind, event.body["id"]) for event in self.prefix if event.kind in ("outcome", "test")}
        for seq in sorted(self.events):
            for event in self.events[seq]:
                with suppress(*MALFORMED):
                    if event.kind == "ask":
                        tasks.update((task.id, task) for task in map(decode_task, event.body["tasks"]))
                    elif event.kind in ("outcome", "test") and seq > len(self.prefix):
                        named = event.kind, event.body["id"]
                        if named in taken:
                            continue
                        task = tasks.get(event.body["id"])
                        if task is not None:
                            decode_outcome(event.body, task)
                        outcomes.setdefault(
                            named,
                            {
                                "event": seq,
                                "elapsed": event.elapsed,
                                "task": None if task is None else encode_task(task),
                                "outcome": event.body,
                            },
                        )
        return list(outcomes.values())

    def summary(self) -> dict[str, Any]:
        """What can be saved and what is lost, as JSON."""
        kinds = [event.kind for event in self.prefix]
        newest = max(self.events, default=0)
        return {
            "run": str(self.folder),
            "healthy": self.healthy,
            "events_read": len(self.events),
            "newest_event": newest,
            "events_lost": newest - len(self.events),
            "problem": self.problem,
            "saved": {
                "events": len(self.prefix),
                "asks": kinds.count("ask"),
                "outcomes": kinds.count("outcome"),
                "artifacts": len(self.artifacts),
            },
            "gap": None if self.gap is None else {"event": len(self.prefix) + 1, "why": self.gap},
            "beyond_the_gap": len(self.beyond),
            "artifacts_damaged": len(self.spoilt),
            "artifacts_missing": {digest: trials for digest, trials in sorted(self.missing_artifacts.items())},
            "states_gone": self.states_gone,
            "environment": "whole" if self.environment is not None else "to be remade",
            "data": "whole" if self.data_is_whole else "to be left out",
            "picking_lost": self.picking_lost,
            "not_replayed": self._not_replayed,
        }

    @property
    def data(self) -> bytes | None:
        """The record of the run's data; None if there is none that can be read, so that the saved run has none."""
        try:
            return None if read_data(self.folder) is None else read_file(self.folder / DATA, LARGEST[DATA])
        except (OSError, RunError):
            return None

    @cached_property
    def data_is_whole(self) -> bool:
        """Whether the record of the run's data can be read, if there is one."""
        try:
            read_data(self.folder)
        except RunError:
            return False
        return True

    def save(self, folder: Path) -> None:
        """Save the readable parts as a new run, completely or not at all. Resuming this run replays the strategy.

        Raises:
            InputError: The place is taken or cannot be written.
            StorageError: The disk is full.
            RunError: No event can be read.
        """
        if not self.events:
            raise RunError(
                f"no event of {self.folder / LOG} can be read, so nothing was saved; start again with "
                f"`nasplat search {self.folder / CONFIG}`"
            )
        with new_folder(folder) as draft:
            write_atomically(draft / CONFIG, self.config.to_yaml())
            recorded = self.environment or environment() | {"code_metrics": sorted(self._code_metrics)}
            write_atomically(draft / ENVIRONMENT, json.dumps(recorded, indent=2) + "\n")
            if (data := self.data) is not None:
                write_atomically(draft / DATA, data)
            with closing(EventLog.create(draft / LOG)) as log:
                for event in self.prefix:
                    log.append(event.kind, event.body, elapsed=event.elapsed)
            for digest, path in self.artifacts.items():
                target = ArtifactStore(draft / ARTIFACTS).path(Handle(digest))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            self.picking_lost = copy_results(self.folder, draft)
            if self.beyond:
                write_atomically(draft / BEYOND, "".join(json.dumps(each) + "\n" for each in self.beyond))
            write_atomically(draft / NOTE, json.dumps(self.summary(), indent=2) + "\n")

    def _longest_prefix(self) -> tuple[list[Event], LogValidator]:
        """The longest valid sequence of events from the first one, in which a replay of the strategy asks the same."""
        goal = self.config.goal
        validator = LogValidator(finite=goal.metrics, shown=shown_metrics(goal))
        prefix: list[Event] = []
        recorded = None if self.environment is None else frozenset(self.environment.get("code_metrics", ()))
        strategy = _Replay(self.config, recorded)
        for seq in range(1, max(self.events, default=0) + 1):
            if seq not in self.events:
                self.gap = "it is lost"
                break
            for event in self.events[seq]:
                try:
                    self._check_seeds(event)
                    strategy.check(event, validator)
                    validator.take(event)
                    strategy.follow(event, validator)
                except MALFORMED as error:
                    self.gap = f"it {describe(error)}"
                else:
                    self.gap = None
                    prefix.append(event)
                    break
            if self.gap is not None:
                break
        self._wanted_by_strategy, self._code_metrics = strategy.wanted(), strategy.code_metrics
        self._not_replayed = strategy.refusal
        return prefix, validator

    def _check_seeds(self, event: Event) -> None:
        if event.kind == "ask":
            for task in map(decode_task, event.body["tasks"]):
                if task.seed != derive_seed(self.config.seed, task.id):
                    raise ValueError(f"has a seed for task {task.id} that does not follow from the seed of the run")


class _Replay:
    """Replays the strategy on the log, as resuming does, and checks that it asks for the same tasks.

    If the strategy cannot be created, for example without the benchmark's data, nothing is compared.

    Args:
        config: The configuration of the run.
        code_metrics: The metrics of the code that the run began with; None, the benchmark's, if the record is lost.

    Attributes:
        refusal: Why the strategy cannot be created; empty if it can.
    """

    def __init__(self, config: SearchConfig, code_metrics: frozenset[str] | None) -> None:
        self.code_metrics = code_metrics or frozenset()
        self._strategy: Strategy | None = None
        self._asked_at = 0
        self._answer: list[dict[str, Any]] = []
        self.refusal = ""
        try:
            assembly = Assembly.of(config, code_metrics=code_metrics, offline=True)
        except NasplatError as error:
            self.refusal = " ".join(str(error).split())
        else:
            self._strategy, self.code_metrics = assembly.strategy, assembly.problem.code_metrics

    def check(self, event: Event, validator: LogValidator) -> None:
        """Refuse an ask that resuming would not repeat.

        Raises:
            ValueError: The strategy asks for something else.
        """
        if self._strategy is None or event.kind != "ask" or event.seq != validator.seq + 1:
            return
        room = count(event.body, "n", most=max(MOST_ASKED, len(event.body["tasks"])))
        if room < 1:
            raise ValueError("asks for no tasks, but the number must be at least 1")
        if self._asked_at != event.seq:
            try:
                self._answer = [encode_task(task) for task in self._strategy.ask(room)]
            except Exception as error:  # a strategy is foreign code, and its log is damaged
                raise ValueError(f"cannot be replayed, the strategy raised {type(error).__name__}: {error}") from error
            self._asked_at = event.seq
        if self._answer != event.body["tasks"]:
            raise ValueError("has other tasks than the strategy asks for")

    def wanted(self) -> set[str]:
        """The digests of all artifacts that the strategy may still refer to."""
        # A refused ask may refer to a state in a task that is not in the log.
        wanted = {task[key] for task in self._answer for key in ("continues", "weights") if task.get(key)}
        try:
            return wanted if self._strategy is None else wanted | kept_digests(self._strategy)
        except Exception:  # noqa: BLE001  foreign code, as above; what it wants is not known then
            return wanted

    def follow(self, event: Event, validator: LogValidator) -> None:
        """Tell the strategy an outcome that was taken.

        Raises:
            ValueError: The strategy cannot process the outcome.
        """
        if event.kind == "ask":
            self._answer = []  # the tasks are known from here on
        if self._strategy is not None and event.kind == "outcome":
            try:
                self._strategy.tell(validator.outcomes[-1])
            except Exception as error:  # as above
                raise ValueError(f"cannot be replayed, the strategy raised {type(error).__name__}: {error}") from error


def salvage(folder: Path, config: Path | None = None) -> Salvage:
    """Read all readable parts of a run; the run itself is not changed.

    Args:
        folder: The run directory.
        config: A configuration to use instead of the run's own, if that is lost.

    Raises:
        InputError: The directory does not exist or is not a run, or one of its files is a link or no file, or a process
            is writing it.
        RunError: There is no configuration; without it no run can continue.
        StorageError: The log cannot be copied, for example if the disk is full.
    """
    log = folder / LOG
    check_files(folder)
    try:
        present = [path for path in (log, *(folder / f"{LOG}{side}" for side in SIDES)) if path.is_file()]
        told = folder.is_dir()
    except OSError:
        present, told = [], False
    if not told:
        raise InputError(f"{folder} is not a directory; `nasplat runs` lists the runs below ./runs")
    if not present:
        raise InputError(f"{folder} is not a run, or its event log {LOG} is missing; nothing can be recovered")
    if (folder / CONFIG).is_file() and log.is_file() and RunDirectory(folder).is_being_written():
        raise InputError(f"{folder} is being written by another process; wait for it, or end it first")
    read_config = _config(folder, config)
    recorded = None
    with suppress(NasplatError):
        recorded = read_environment(folder)
    try:
        with scratch_folder() as scratch:
            cut = [said for path in present if (said := copied(path, scratch / path.name))]
            events, problem = read_events(scratch / LOG)
            problem = "; ".join([*cut, problem] if problem else cut)
            named = {
                digest for each in events.values() for event in each for digest in digests_in(json.dumps(event.body))
            }
            artifacts, spoilt = _artifacts(ArtifactStore(folder / ARTIFACTS), named)
            found = Salvage(folder, read_config, events, not problem, artifacts, spoilt, recorded, problem)
            if found.whole and found.gap is None:
                found.problem = snapshot_damage(scratch / LOG, read_config, recorded)
                found.whole = not found.problem
    except OSError as error:
        raise StorageError(f"{log} cannot be copied: {error.strerror}; check the disk") from error
    return found


def _config(folder: Path, given: Path | None) -> SearchConfig:
    try:
        config = at_home(SearchConfig.read(load_tree(given or folder / CONFIG)), folder)
        if config.goal.objectives:
            return config
    except InputError as error:
        if given is not None:
            raise
        raise RunError(
            f"{error}; a run cannot be recovered without its configuration: write the file again, for example from a "
            "report of the run, and give it with --config FILE (config=…)"
        ) from error
    raise AssertionError("a goal has objectives")


def _way(measurement: Measurement, state: Handle | None) -> tuple[Architecture, int, Handle | None]:
    """A key for the training that the measurement belongs to, and a state of this training."""
    return measurement.architecture, measurement.task.replicate, state


def _artifacts(store: ArtifactStore, named: Set[str]) -> tuple[dict[str, Path], list[Path]]:
    """The undamaged artifacts with these digests, and the files of damaged ones.

    No other file is looked at: the store may be shared, or a link to anywhere. Its folders that are links are left out.
    """
    whole, spoilt = {}, []
    for digest in sorted(named):
        path = store.path(Handle(digest))
        if path.parent.is_symlink() or path.is_symlink() or not path.is_file():
            continue
        try:
            fits = Handle.of(read_file(path)).digest == digest
        except OSError:
            fits = False
        if fits:
            whole[digest] = path
        elif not store.folder.is_symlink():
            spoilt.append(path)
    return whole, spoilt
