"""The run directory: created completely or not at all, written by one process, read by any."""

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import filelock
from pydantic import ValidationError

from nasplat.architecture import Architecture
from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig, load_tree
from nasplat.errors import InputError, NasplatError, RunError, StorageError
from nasplat.executors.executor import cuda_is_available
from nasplat.options import complete, explain
from nasplat.registry import SEARCH_SPACES
from nasplat.run.environment import environment
from nasplat.run.history import History
from nasplat.run.layout import ARTIFACTS, CONFIG, ENVIRONMENT, LOCK, LOG
from nasplat.run.source import Source
from nasplat.search_space import SearchSpace
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.event_log import EventLog, recovering
from nasplat.storage.files import is_taken, new_folder, read_file, write_atomically
from nasplat.task import Measurement, Spent, encode_outcome

RETRAINING = "retraining"
"""The strategy of the runs that train again what others found."""
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
        # The plain functions take a name that cannot be for one that is not there.
        if not os.path.isfile(folder / LOG) or not os.path.isfile(folder / CONFIG):  # noqa: PTH113
            what = "is not a run directory" if os.path.exists(folder) else "does not exist"  # noqa: PTH110
            raise InputError(f"{folder} {what}; `nasplat runs` lists those below ./runs")
        self.folder = folder

    @classmethod
    def create(
        cls, folder: Path, config: SearchConfig, *, protocol: str = "", choice: str = "", source: Source | None = None
    ) -> Self:
        """Create a run directory with an empty log, completely or not at all.

        Args:
            folder: Must not exist.
            config: Resolved.
            protocol: The benchmark's protocol; it is recorded because it may change with the code.
            choice: The reasons for the strategy, if the configuration left it open.
            source: The origin of the members of a retraining.

        Raises:
            InputError: Something is there already, or the place cannot be written.
            StorageError: The disk is full.
        """
        if is_taken(folder):
            raise InputError(f"{folder} exists; choose another --out")
        with new_folder(folder) as draft:
            write_atomically(draft / CONFIG, config.to_yaml())
            recorded = environment() | {"protocol": protocol, "choice": choice}
            if source is not None:
                recorded["source"] = source.model_dump(mode="json")
            write_atomically(draft / ENVIRONMENT, json.dumps(recorded, indent=2) + "\n")
            EventLog.create(draft / LOG).close()
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
                f"{self.folder} is being written by another process; wait for it, or interrupt it"
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

    def benchmark(self) -> Benchmark:
        """The run's benchmark, not yet prepared.

        Raises:
            InputError: The configuration names a plug-in or an option that is not there.
        """
        return self.config.resolved().workload.make()

    @property
    def protocol(self) -> str:
        """One line on how the metrics were computed; empty if there is none, or it cannot be read."""
        return self._noted("protocol")

    @property
    def choice(self) -> str:
        """One line with the reasons for the strategy; empty if the configuration named it, or it cannot be read."""
        return self._noted("choice")

    @cached_property
    def source(self) -> Source | None:
        """Where the members of a retraining come from; None where it was told their codes alone, and in a search.

        Raises:
            RunError: What was recorded of it is missing or damaged.
        """
        recorded = self.environment.get("source") if self.config.strategy.name == RETRAINING else None
        if recorded is None:
            return None
        try:
            source = Source.model_validate(recorded)
            if (space := self._space) is not None:
                for code in source.members:
                    space.parse(code)
        except ValidationError as error:
            problem = explain(error, "source", Source)
        except InputError as error:
            problem = f"source.members names no member of {self.config.space.name}: {error}"
        else:
            return source
        raise RunError(f"{self.folder / ENVIRONMENT} is damaged: {problem}; {recovering(self.folder)}")

    @property
    def _space(self) -> SearchSpace | None:
        """The search space; None where its plug-in is gone, without which a run can still be looked at."""
        config = self.config.space
        try:
            make = SEARCH_SPACES.get(config.name)
            return make(**complete("space", make, config.options))
        except InputError:
            return None

    def _noted(self, name: str) -> str:
        try:
            return str(self.environment.get(name, ""))
        except RunError:
            return ""

    def keep(self, config: SearchConfig) -> None:
        """Make a configuration the run's own, as when it is resumed with a larger budget; for the writer alone.

        Raises:
            StorageError: It cannot be written, as when the disk is full.
        """
        if config != self.config:
            path = self.folder / CONFIG
            try:
                write_atomically(path, config.to_yaml())
            except OSError as error:
                raise StorageError(f"the configuration {path} cannot be written: {error.strerror}") from error
            del self.config

    @property
    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(self.folder / ARTIFACTS)

    @property
    def environment(self) -> dict[str, Any]:
        """What was recorded when the run was made."""
        return read_environment(self.folder)

    def final(self, measurement: Measurement, benchmark: Benchmark) -> Measurement:
        """A measurement's network on the test split, as `finals` gives it."""
        return self.finals([measurement], benchmark)[measurement.id]

    def finals(self, measurements: Sequence[Measurement], benchmark: Benchmark) -> dict[int, Measurement]:
        """The measurements' networks on the test split by trial: each measured once, and recorded in the log.

        What was measured before is not measured again. When that was stands in `spent.started`.

        Raises:
            InputError: Something is yet to be measured, and another process is writing this run; or nothing was left
                that could be tested; or it is a part of a retraining, whose length is not for test data to choose.
            RunError: It cannot be measured: the log names no member of the space, or its weights do not fit.
        """
        tested = self.history().tested
        if self.config.strategy.name == RETRAINING:
            for measurement in measurements:
                if measurement.id not in tested and measurement.task.fidelity < benchmark.fidelity:
                    raise InputError(
                        "test data is for networks that are trained to the end, since it is not to choose how long "
                        f"they are trained, but trial {measurement.id} of {self.folder} is after "
                        f"{measurement.task.fidelity} of {benchmark.fidelity} epochs; pick a trial after "
                        f"{benchmark.fidelity}, as best and all do once there is one"
                    )
        if any(measurement.id not in tested for measurement in measurements):
            with self.writing() as log:
                history = self.history()  # which may have gone on until now
                tested = history.tested
                for measurement in measurements:
                    if measurement.id not in tested:
                        final = self._final(measurement, benchmark)
                        body = encode_outcome(final, with_task=False)
                        log.append("test", body, elapsed=history.spending.seconds)
                        log.sync()  # test data is looked at once, be the next member killed
                        tested[measurement.id] = final
        return {measurement.id: tested[measurement.id] for measurement in measurements}

    def _final(self, measurement: Measurement, benchmark: Benchmark) -> Measurement:
        """The final measurement itself, with what it cost."""
        self.member(measurement, benchmark)
        device = "cuda" if cuda_is_available() else "cpu"
        started, clock = time.time(), time.perf_counter()
        try:
            final = benchmark.final(measurement, device=device, artifacts=self.artifacts)
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

    def member(self, measurement: Measurement, benchmark: Benchmark) -> Architecture:
        """A measurement's architecture, seen to be a member of the space before anything is built from it.

        Raises:
            RunError: It is none.
        """
        try:
            return benchmark.space.parse(measurement.architecture.code)
        except InputError as error:
            raise RunError(
                f"trial {measurement.id} of {self.folder} names no member of its space: {error}; "
                f"{recovering(self.folder)}"
            ) from error

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
        except OSError:  # no lock that anybody could hold, such as a folder of that name
            return False
        probe.release()
        return False

    def history(self) -> History:
        """The current content of the log."""
        return History(self)


def next_free(parent: Path, stem: str) -> Path:
    """The first of ``stem-1``, ``stem-2`` … that is not there yet."""
    taken = {path.name for path in parent.iterdir()} if parent.is_dir() else set()
    return next(parent / name for i in range(1, len(taken) + 2) if (name := f"{stem}-{i}") not in taken)


def read_environment(folder: Path) -> dict[str, Any]:
    """What was recorded of a run when it was made.

    Raises:
        RunError: It is missing or damaged.
    """
    path = folder / ENVIRONMENT
    try:
        recorded = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}; {recovering(folder)}") from error
    match recorded:
        case {"versions": dict(versions), "git": {"code": str() | None}} if all(
            isinstance(version, str | None) for version in versions.values()
        ):
            found: dict[str, Any] = recorded
            return found
    raise RunError(f"{path} is damaged: it is to hold versions and git.code, as text; {recovering(folder)}")
