"""The run directory: created completely or not at all, written by one process, read by any."""

import hashlib
import itertools
import json
import os
import shlex
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import filelock
from pydantic import ValidationError

from nasplat.architecture import Architecture
from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig, load_tree
from nasplat.data.manifest import accepted_in
from nasplat.errors import ArtifactError, DamageError, InputError, NasplatError, RunError, StorageError
from nasplat.executors.executor import cuda_is_available
from nasplat.options import construct, explain
from nasplat.registry import SEARCH_SPACES
from nasplat.retraining import RETRAINING
from nasplat.run.environment import environment
from nasplat.run.history import History
from nasplat.run.layout import ARTIFACTS, CONFIG, DATA, ENVIRONMENT, LOCK, LOG, LOG_FILES, check_files
from nasplat.run.own_picking import at_home
from nasplat.run.records import read_data, read_environment, spelt_data
from nasplat.run.source import Source
from nasplat.search_space import SearchSpace
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.event_log import EventLog, recovering
from nasplat.storage.files import check_unlinked, copy_file, is_taken, new_folder, remedy, write_atomically
from nasplat.storage.locking import held, lacks_locks
from nasplat.storage.sqlite_errors import LOCAL_DISK
from nasplat.task import Measurement, Spent, encode_outcome

ASKED = "nasplat.interface.asking:Told"
"""The name of the benchmark of runs whose networks the caller of `nasplat.AskTell` measures."""
LOCK_SECONDS = 1.0
"""Seconds to wait for the lock. A reader holds it for an instant to check whether a process is writing."""


class RunDirectory:
    """A run's directory.

    ``config.yaml`` is the resolved configuration. ``environment.json`` is the software environment. ``events.sqlite``
    is the event log. ``data.json`` is the identity of the data. ``artifacts/`` has the weights, named by content.
    Reports and exports are in the same directory.

    Args:
        folder: An existing run directory.

    Raises:
        InputError: The folder is not a run directory, or one of its files is a link or no file.
    """

    def __init__(self, folder: Path) -> None:
        # The functions of os.path treat an impossible name as a missing file.
        if not os.path.isfile(folder / LOG) or not os.path.isfile(folder / CONFIG):  # noqa: PTH113
            what = "is not a run directory" if os.path.exists(folder) else "does not exist"  # noqa: PTH110
            raise InputError(f"{folder} {what}; `nasplat runs` lists the runs below ./runs")
        check_files(folder)
        self.folder = folder

    @classmethod
    def create(
        cls,
        folder: Path,
        config: SearchConfig,
        *,
        protocol: str = "",
        choice: str = "",
        code_metrics: frozenset[str] = frozenset(),
        source: Source | None = None,
        data: Mapping[str, Any] | None = None,
        objects: Mapping[str, str] | None = None,
        artifacts: Iterable[bytes] = (),
        files: Mapping[str, Path] | None = None,
    ) -> Self:
        """Create a run directory with an empty log, completely or not at all.

        Args:
            folder: Must not exist.
            config: Resolved.
            protocol: The benchmark's protocol; it is recorded because it may change with the code.
            choice: The reasons for the strategy, if the configuration left it open.
            code_metrics: The benchmark's metrics of the code; they decide what the search asks for.
            source: The origin of the members of a retraining.
            data: What the benchmark recorded of its data.
            objects: The fingerprints of plug-ins that are the user's own, by section.
            artifacts: What the run's store has from the beginning.
            files: Further files of the run by their paths in it, and what they are copies of.

        Raises:
            InputError: Something is there already, or the place cannot be written.
            StorageError: The disk is full.
        """
        if is_taken(folder):
            raise InputError(f"{folder} exists; choose another --out (out=…)")
        with new_folder(folder) as draft:
            write_atomically(draft / CONFIG, config.to_yaml())
            recorded = environment() | {"protocol": protocol, "choice": choice, "code_metrics": sorted(code_metrics)}
            if objects:
                recorded["objects"] = dict(objects)
            if source is not None:
                recorded["source"] = source.model_dump(mode="json")
            write_atomically(draft / ENVIRONMENT, json.dumps(recorded, indent=2) + "\n")
            if data is not None:
                write_atomically(draft / DATA, spelt_data(data))
            for each in artifacts:
                ArtifactStore(draft / ARTIFACTS).put(each)
            for name, original in (files or {}).items():
                copy_file(original, draft / name)
            EventLog.create(draft / LOG).close()
            with _locked(draft):  # a place without locks is refused before a run is there
                pass
        return cls(folder)

    @contextmanager
    def writing(self) -> Iterator[EventLog]:
        """The log, for the one process that may write it.

        Raises:
            InputError: Another process is writing this run, or its place has no locks, or its log has another name
                as a hard link: SQLite would write the log of the other run as well.
        """
        try:
            for name in LOG_FILES:
                check_unlinked(self.folder / name)
        except OSError as error:
            raise InputError(
                f"{error.filename} cannot be written: {error.strerror}; copy the run without links, as with cp -rL"
            ) from error
        with _locked(self.folder), closing(EventLog.open(self.folder / LOG, write=True)) as log:
            yield log

    @cached_property
    def config(self) -> SearchConfig:
        """The resolved configuration. Images that were picked for the run are read from where it is now."""
        return at_home(SearchConfig.read(load_tree(self.folder / CONFIG)), self.folder)

    @property
    def identity(self) -> str:
        """The SHA-256 of the first event of the log, which tells this run from all others, copies excepted."""
        log = EventLog.open(self.folder / LOG)
        try:
            first = [[event.kind, event.body] for event in itertools.islice(log.events(), 1)]
        finally:
            log.close()
        return hashlib.sha256(json.dumps(first, sort_keys=True, default=repr).encode()).hexdigest()

    def benchmark(self) -> Benchmark:
        """The run's benchmark, not yet prepared. It downloads nothing, even if the run says so.

        Raises:
            InputError: The configuration names a plug-in or an option that is not there.
        """
        return replace(self.config.resolved().workload.offline(), data=self.data).make()

    @property
    def data(self) -> dict[str, Any] | None:
        """What the run recorded of its data; None in a run of a version that recorded nothing.

        Raises:
            RunError: The record is damaged.
        """
        return read_data(self.folder)

    @property
    def data_changes(self) -> list[str]:
        """The changes of its data that were accepted, one line each; empty if the record is missing or damaged."""
        try:
            return accepted_in(self.data)
        except RunError:
            return []

    def accepted_data(self) -> dict[str, Any]:
        """The record for the data of today: what is still there keeps its part of the split. Nothing is written yet.

        Raises:
            InputError: The change cannot be accepted.
        """
        accepted = self.benchmark().accept_data()
        replace(self.config.resolved().workload.offline(), data=accepted).make().check()
        return accepted

    def keep_data(self, data: Mapping[str, Any] | None) -> None:
        """Replace the record of the run's data; only for the run's writer.

        Raises:
            StorageError: It cannot be written, as when the disk is full.
        """
        if data is not None and data != self.data:
            path = self.folder / DATA
            try:
                write_atomically(path, spelt_data(data))
            except OSError as error:
                raise StorageError(f"the record {path} cannot be written: {error.strerror}") from error

    @property
    def protocol(self) -> str:
        """One line on how the metrics were computed; empty if there is none, or it cannot be read."""
        return self._noted("protocol")

    @property
    def choice(self) -> str:
        """One line with the reasons for the strategy; empty if the configuration named it, or it cannot be read."""
        return self._noted("choice")

    @property
    def code_metrics(self) -> frozenset[str]:
        """The metrics of the code that the run began with; none in a run that is older than the distinction.

        Raises:
            RunError: The record is missing or damaged.
        """
        return frozenset(self.environment.get("code_metrics", ()))

    @cached_property
    def source(self) -> Source | None:
        """The origin of the members of a retraining; None in a search, or if the retraining was given codes only.

        Raises:
            RunError: The record of the origin is missing or damaged.
        """
        recorded = self.environment.get("source") if self.config.kind == RETRAINING else None
        if recorded is None:
            return None
        try:
            source = Source.model_validate(recorded)
            if (space := self.space) is not None:
                for code in source.members:
                    space.parse(code)
        except ValidationError as error:
            problem = explain(error, "source", Source)
        except InputError as error:
            problem = f"source.members has a code that is not in {self.config.space.name}: {error}"
        else:
            return source
        raise DamageError(f"{self.folder / ENVIRONMENT} is damaged: {problem}; {recovering(self.folder)}")

    @property
    def space(self) -> SearchSpace | None:
        """The search space; None if its plug-in is missing. The run can be read without the plug-in."""
        config = self.config.space
        try:
            make = SEARCH_SPACES.get(config.name)
            made: SearchSpace = construct("space", make, **config.options)
            return made
        except InputError:
            return None

    def _noted(self, name: str) -> str:
        try:
            return str(self.environment.get(name, ""))
        except RunError:
            return ""

    def keep(self, config: SearchConfig) -> None:
        """Replace the run's configuration, for example to resume it with a larger budget; only for the run's writer.

        Raises:
            StorageError: It cannot be written, as when the disk is full.
        """
        if config != self.config:
            path = self.folder / CONFIG
            try:
                write_atomically(path, config.to_yaml())
            except OSError as error:
                raise StorageError(
                    f"the configuration {path} cannot be written: {error.strerror}; {remedy(error)}"
                ) from error
            del self.config

    @property
    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(self.folder / ARTIFACTS)

    @property
    def environment(self) -> dict[str, Any]:
        """The environment that was recorded when the run was created."""
        return read_environment(self.folder)

    @property
    def objects(self) -> dict[str, str]:
        """The fingerprints of plug-ins that are the user's own, by section; empty if the record cannot be read."""
        try:
            return dict(self.environment.get("objects", {}))
        except RunError:
            return {}

    def keep_objects(self, objects: Mapping[str, str]) -> None:
        """Replace the fingerprints, of which the former ones are kept as well; only for the run's writer.

        Raises:
            RunError: The record is damaged.
            StorageError: It cannot be written, as when the disk is full.
        """
        if (before := self.objects) and before != objects:
            path, recorded = self.folder / ENVIRONMENT, self.environment
            recorded |= {"objects": dict(objects), "former_objects": [*recorded.get("former_objects", []), before]}
            try:
                write_atomically(path, json.dumps(recorded, indent=2) + "\n")
            except OSError as error:
                raise StorageError(f"the record {path} cannot be written: {error.strerror}; {remedy(error)}") from error

    def final(self, measurement: Measurement, benchmark: Benchmark) -> Measurement:
        """The final measurement of one network on the test split; see `finals`."""
        return self.finals([measurement], benchmark)[measurement.id]

    def finals(self, measurements: Sequence[Measurement], benchmark: Benchmark) -> dict[int, Measurement]:
        """The final measurements on the test split, by trial. Each network is measured once and recorded in the log.

        Networks that were measured before are not measured again. The time of a measurement is in `spent.started`.

        Raises:
            InputError: A network must be measured while another process is writing this run; or its weights were not
                kept; or its retraining is not complete, since test data must not choose the number of epochs.
            RunError: A network cannot be measured: its code is not in the space, or its weights are lost or do not fit.
        """
        tested = self.history().tested
        if self.config.kind == RETRAINING:
            for measurement in measurements:
                if measurement.id not in tested and measurement.task.fidelity < benchmark.fidelity:
                    raise InputError(
                        "only fully trained networks can be measured on test data, since test data must not choose the "
                        f"number of epochs, but trial {measurement.id} of {self.folder} is after "
                        f"{measurement.task.fidelity} of {benchmark.fidelity} epochs; pick a trial after "
                        f"{benchmark.fidelity}, as best and all do once there is one"
                    )
        if any(measurement.id not in tested for measurement in measurements):
            with self.writing() as log:
                history = self.history()  # read again: it may have new events
                tested = history.tested
                for measurement in measurements:
                    if measurement.id not in tested:
                        final = self._final(measurement, benchmark)
                        body = encode_outcome(final, with_task=False)
                        log.append("test", body, elapsed=history.spending.seconds)
                        log.sync()  # test data is used once, even if a later measurement is killed
                        tested[measurement.id] = final
        return {measurement.id: tested[measurement.id] for measurement in measurements}

    def _final(self, measurement: Measurement, benchmark: Benchmark) -> Measurement:
        """Measure one network on the test split, and record the cost of the measurement."""
        self.member(measurement, benchmark)
        device = "cuda" if cuda_is_available() else "cpu"
        started, clock = time.time(), time.perf_counter()
        try:
            final = benchmark.final(measurement, device=device, artifacts=self.artifacts)
        except ArtifactError as error:
            raise self.lost(measurement, error) from error
        except NasplatError:
            raise
        except Exception as error:
            raise RunError(
                f"trial {measurement.id} of {self.folder} cannot be measured on the test split: "
                f"{type(error).__name__}: {error}"
            ) from error
        spent = Spent(
            seconds=time.perf_counter() - clock,
            device=device,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            started=started,
        )
        metrics = {str(name): float(value) for name, value in final.metrics.items()}
        return replace(final, metrics=metrics, spent=spent)

    def lost(self, measurement: Measurement, error: ArtifactError) -> ArtifactError:
        """The error for a network whose weights are missing or damaged, with its trial and the remedy."""
        return ArtifactError(
            f"the weights of trial {measurement.id} of {self.folder} are lost: {error}; copy the file from another "
            f"copy of the run to {self.folder / ARTIFACTS}, pick another trial, or train the network again with "
            f"`nasplat retrain {shlex.quote(str(self.folder))} --pick {measurement.id}` "
            f"(nasplat.open_run({str(self.folder)!r}).retrain(pick={measurement.id}))"
        )

    def member(self, measurement: Measurement, benchmark: Benchmark) -> Architecture:
        """The architecture of a measurement, after a check that it is a member of the search space.

        Raises:
            RunError: The architecture is not a member.
        """
        try:
            return benchmark.space.parse(measurement.architecture.code)
        except InputError as error:
            raise RunError(
                f"trial {measurement.id} of {self.folder} has a code that is not in the search space: {error}; "
                f"{recovering(self.folder)}"
            ) from error

    def is_being_written(self) -> bool:
        """Whether a process is searching in this run at the moment."""
        lock = self.folder / LOCK
        if not lock.exists() or not os.access(lock, os.W_OK):
            return False
        try:
            with held(lock, seconds=0):
                return False
        except filelock.Timeout:
            return True
        except OSError:  # not a lock that a process can hold, such as a folder of that name
            return False

    def history(self) -> History:
        """The current content of the log."""
        return History(self)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory.

    Raises:
        InputError: Another process holds it, or the folder cannot be written or has no locks.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / LOCK, seconds=LOCK_SECONDS))
        except filelock.Timeout:
            raise InputError(f"{folder} is being written by another process; wait for it, or interrupt it") from None
        except OSError as error:
            if lacks_locks(error):
                raise InputError(f"{folder} cannot be locked: {error.strerror}; {LOCAL_DISK}") from error
            raise InputError(f"{folder} cannot be written: {error.strerror}") from error
        yield


def next_free(parent: Path, stem: str) -> Path:
    """The first of ``stem-1``, ``stem-2`` … that is not there yet."""
    taken = {path.name for path in parent.iterdir()} if parent.is_dir() else set()
    return next(parent / name for i in range(1, len(taken) + 2) if (name := f"{stem}-{i}") not in taken)
