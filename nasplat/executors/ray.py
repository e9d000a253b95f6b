"""The Ray executor: workers are actors that hold the benchmark, on one machine or a cluster."""

import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from nasplat.artifact import Artifacts, Handle, Parcel
from nasplat.errors import InputError, RunError
from nasplat.executors.executor import Executor, Workload, perform
from nasplat.task import (
    Evaluate,
    Failure,
    Json,
    Outcome,
    Task,
    decode_outcome,
    decode_task,
    encode_outcome,
    encode_task,
)

START_SECONDS = 180.0
"""How long a search with no worker at all waits for one to come up."""
DEATHS_PER_WORKER = 3
"""How many deaths in a row, for each worker, end the run."""

KNOCK_SECONDS = 10.0
"""How long a cluster's address may take to answer."""


class Worker:
    """What runs on a Ray actor: a prepared benchmark, made from names and options alone.

    Args:
        workload: Which benchmark on which space.
        device: A torch device.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        self._device = device
        self._benchmark = workload.make()
        self._benchmark.prepare()

    def ready(self) -> bool:
        """True, once the benchmark is prepared."""
        return True

    def perform(self, task: Json, artifacts: dict[str, bytes]) -> tuple[Json, dict[str, bytes]]:
        """The outcome of a task, with the artifacts that came of it."""
        parcel = Parcel(artifacts)
        outcome = perform(decode_task(task), self._benchmark, device=self._device, artifacts=parcel)
        return encode_outcome(outcome, with_task=False), parcel.added


class RayExecutor(Executor):
    """Tasks on Ray actors, one at a time on each; the loop asks for no more than there are workers.

    A Ray that runs in this process already, or the cluster at `address`, is used and left running; otherwise
    one is started on this machine and shut down again. A worker that dies is replaced, and its task fails.

    Args:
        workload: Which benchmark on which space.
        artifacts: The run's artifacts: what tasks refer to is sent along, what comes back is kept.
        workers: How many actors.
        cpus_per_worker: Logical CPUs that each reserves; also its number of threads.
        gpus_per_worker: GPUs that each reserves, as a fraction where several share one.
        address: An existing cluster (``auto``, ``host:port``), or None.

    Raises:
        InputError: The cluster cannot be reached, or has not the CPUs or GPUs that the workers need.
    """

    def __init__(
        self,
        workload: Workload,
        artifacts: Artifacts,
        *,
        workers: int,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        address: str | None = None,
    ) -> None:
        self._workload = workload
        self._artifacts = artifacts
        self._options: dict[str, Any] = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}
        self._device = "cuda" if gpus_per_worker else "cpu"
        # An actor's methods are made at run time, which types cannot follow: handles and references are Any.
        self._busy: dict[Any, tuple[Any, Task]] = {}
        self._idle: deque[Any] = deque()
        self._starting: dict[Any, Any] = {}
        self._waiting: deque[Task] = deque()
        self._workers = workers
        self._deaths_in_a_row = 0
        self._last_death = ""
        self._started_ray = _connect(address, cpus=workers * cpus_per_worker)
        try:
            _require(CPU=workers * cpus_per_worker, GPU=workers * gpus_per_worker)
            for _ in range(workers):
                self._start_worker()
            self._await_first_worker()
        except BaseException:
            self.close()
            raise

    @property
    def capacity(self) -> int:
        return self._workers

    def submit(self, task: Task) -> None:
        self._waiting.append(task)
        self._dispatch()

    def wait(self, timeout: float) -> list[Outcome]:
        pending = [*self._busy, *self._starting]
        if not pending:
            self._despair()
            return []
        done, _ = ray.wait(pending, num_returns=1, timeout=timeout, fetch_local=True)
        if done:  # whatever else has come in meanwhile is taken along
            done, _ = ray.wait(pending, num_returns=len(pending), timeout=0, fetch_local=True)
        outcomes = []
        for reference in done:
            if reference in self._starting:
                self._take_in(reference)
            else:
                outcomes.append(self._collect(reference))
        self._dispatch()
        if not outcomes:  # what has come in is handed over before anything is given up
            self._despair()
        return outcomes

    def close(self) -> None:
        for actor in (*self._idle, *(actor for actor, _ in (*self._starting.values(), *self._busy.values()))):
            ray.kill(actor)
        self._idle.clear()
        self._starting.clear()
        self._busy.clear()
        self._waiting.clear()
        if self._started_ray:
            self._started_ray = False
            ray.shutdown()

    def _start_worker(self) -> None:
        actor: Any = ray.remote(Worker).options(**self._options).remote(self._workload, self._device)
        self._starting[actor.ready.remote()] = actor, time.monotonic()

    def _await_first_worker(self) -> None:
        while not self._idle:
            self.wait(0.5)
            if self._deaths_in_a_row and not self._idle:
                raise RunError(f"a worker could not be started: {self._last_death}")

    def _take_in(self, reference: Any) -> None:
        """A worker has come up, or has failed to."""
        actor, _ = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._replace(actor, error)
        else:
            self._idle.append(actor)

    def _replace(self, actor: Any, error: RayError) -> None:
        """Bury a worker and start another, unless too many have died with nothing done between."""
        ray.kill(actor)
        self._deaths_in_a_row += 1
        self._last_death = _reason(error)
        if self._deaths_in_a_row <= DEATHS_PER_WORKER * self._workers:
            self._start_worker()

    def _despair(self) -> None:
        """Give up where no task can be run any more."""
        if self._busy or self._idle:
            return
        if not self._starting:
            raise RunError(f"{self._deaths_in_a_row} workers died in a row, the last so: {self._last_death}")
        if time.monotonic() - min(since for _, since in self._starting.values()) > START_SECONDS:
            raise RunError(
                f"no worker came up within {START_SECONDS:.0f} s; other work may hold the cluster's "
                f"{self._options['num_cpus']:g} CPUs and {self._options['num_gpus']:g} GPUs that one needs"
            )

    def _dispatch(self) -> None:
        while self._idle and self._waiting:
            actor, task = self._idle.popleft(), self._waiting.popleft()
            reference = actor.perform.remote(encode_task(task), self._referred(task))
            self._busy[reference] = (actor, task)

    def _collect(self, reference: Any) -> Outcome:
        actor, task = self._busy.pop(reference)
        try:
            body, artifacts = ray.get(reference)
        except RayTaskError as error:  # raised inside a worker that lives on
            self._idle.append(actor)
            return Failure(task=task, kind=type(error).__name__, message=_reason(error), traceback=str(error))
        except RayError as error:
            self._replace(actor, error)
            kind = "out of memory" if isinstance(error, OutOfMemoryError) else "worker died"
            return Failure(task=task, kind=kind, message=_reason(error), traceback=str(error))
        self._deaths_in_a_row = 0
        self._idle.append(actor)
        for data in artifacts.values():
            self._artifacts.put(data)
        return decode_outcome(body, task)

    def _referred(self, task: Task) -> Mapping[str, bytes]:
        """The artifacts that a task names, to travel with it."""
        continues = task.continues if isinstance(task, Evaluate) else None
        handles: list[Handle] = [handle for handle in (task.weights, continues) if handle is not None]
        return {handle.digest: self._artifacts.get(handle) for handle in handles}


def _connect(address: str | None, *, cpus: float) -> bool:
    """Make Ray available; returns whether it was started or joined here, to be left again."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            # Workers share this machine as the user says, even with more of them than there are cores.
            # A cluster that happens to run on it already is left alone unless its address is given.
            logical = max(os.cpu_count() or 1, math.ceil(cpus))
            ray.init(address="local", num_cpus=logical, include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if address is None:
            raise InputError(f"Ray cannot be started here: {_last_line(error)}") from error
        raise InputError(
            f"the Ray cluster at {address!r} cannot be reached: {_last_line(error)}; "
            "check the address, and set RAY_AUTH_MODE=token if the cluster asks for a token"
        ) from error
    return True


def _knock(address: str) -> None:
    """Fail at once where nobody listens; Ray itself would try for minutes.

    Raises:
        OSError: Nobody listens at ``HOST:PORT``; other forms of addresses are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def _require(**wanted: float) -> None:
    """Refuse to wait for resources that the whole cluster does not have."""
    present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for resource, amount in wanted.items():
        if amount > present.get(resource, 0.0) + 1e-9:
            raise InputError(
                f"the workers need {amount:g} {resource}s together, but Ray has {present.get(resource, 0.0):g}; "
                f"use fewer --workers or a smaller --{resource.lower()}s-per-worker"
            )


def _reason(error: RayError) -> str:
    """What a worker died of, in one line; an error in its own code stands at the end, Ray's verdict at the start."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = isinstance(error, RayTaskError) or "creation task" in str(error)
    return (lines[-1] if own else lines[0]) if lines else type(error).__name__


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
