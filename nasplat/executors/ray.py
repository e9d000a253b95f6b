"""The Ray executor: workers are actors that hold the benchmark, on one machine or a cluster."""

import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from nasplat.artifact import Artifacts, Handle, Parcel
from nasplat.benchmark import Benchmark
from nasplat.errors import ArtifactError, InputError, RunError
from nasplat.executors.executor import ARTIFACT_LOST, OUT_OF_MEMORY, Executor, Workload, perform
from nasplat.task import (
    Action,
    Evaluate,
    Failure,
    Incident,
    Json,
    Outcome,
    Spent,
    Task,
    decode_outcome,
    decode_task,
    encode_outcome,
    encode_task,
)

START_SECONDS = 180.0
"""How long a search without any worker waits for a process to come up, as when the only node is being replaced."""
DEATHS_PER_WORKER = 3
"""How many trials in a row, for each worker, may kill every worker they touch before the run ends."""
FAILED_STARTS = 5
"""How many rounds of starts in a row may fail before a place is given up."""
FIRST_PAUSE = 1.0
"""Seconds until a start that failed is repeated; doubled each time that fails as well."""
IDLE_SECONDS = 1.0
"""A worker that was idle for longer is asked whether it lives before it is given a task."""
NODE_LOSSES = 10
"""How many nodes may be lost under one trial before it is taken for the cause."""

RAYS_WORDS = {
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: ": "",
    "Worker unexpectedly exits with a connection error code 2. End of file.": "its process ended without a word",
    "The actor": "the worker",
}
"""What Ray says of a death, and what it comes down to."""

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
        self._workload = workload
        self._benchmark: Benchmark | None = None

    def name(self) -> str:
        """Which process this is, as ``host:pid``; the sign that it is up."""
        return f"{socket.gethostname()}:{os.getpid()}"

    def ready(self) -> bool:
        """True, once the benchmark is prepared, which may take its time."""
        if self._benchmark is None:
            benchmark = self._workload.make()
            benchmark.prepare()
            self._benchmark = benchmark
        return True

    def perform(self, task: Json, artifacts: dict[str, bytes]) -> tuple[Json, dict[str, bytes]]:
        """The outcome of a task, with the artifacts that came of it."""
        assert self._benchmark is not None, "no task is sent before the worker is ready"
        parcel = Parcel(artifacts)
        outcome = perform(decode_task(task), self._benchmark, device=self._device, artifacts=parcel)
        return encode_outcome(outcome, with_task=False), parcel.added


@dataclass(eq=False, slots=True)
class _Seat:
    """A place at which one worker sits: the actor, who it is once it is up, and since when it works or is idle."""

    actor: Any  # an actor's methods are made at run time, which types cannot follow
    worker: str = ""
    prepared: bool = False
    since: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return time.monotonic() - self.since


@dataclass(slots=True)
class _Struck:
    """How often workers died, and nodes were lost, under one task."""

    deaths: int = 0
    losses: int = 0


class RayExecutor(Executor):
    """Tasks on Ray actors, one at a time on each; the loop asks for no more than there are workers.

    A Ray that runs in this process already, or the cluster at `address`, is used and left running; otherwise
    one is started on this machine and shut down again.

    What strikes a worker strikes one task. A worker that dies is replaced, and its task is tried again, with the
    same seed, up to `retries` times; then it fails alone. So does a task whose worker tells of memory that ran
    out, and lives on. The loss of a node is not held against the task. A task that takes longer than
    `trial_seconds` fails at once, for it would again, and its process is killed. A worker that cannot be started
    again and again loses its place; without any place left the run ends. Each of these is an incident.

    Args:
        workload: Which benchmark on which space.
        artifacts: The run's artifacts: what tasks refer to is sent along, what comes back is kept.
        workers: How many actors.
        cpus_per_worker: Logical CPUs that each reserves; also its number of threads.
        gpus_per_worker: GPUs that each reserves, as a fraction where several share one.
        address: An existing cluster (``auto``, ``host:port``), or None.
        retries: How often a task is tried again after its worker died or ran out of memory.
        trial_seconds: How long one try of a task may take; None for as long as it likes.

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
        retries: int = 2,
        trial_seconds: float | None = None,
    ) -> None:
        self._workload = workload
        self._artifacts = artifacts
        self._options: dict[str, Any] = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}
        self._device = "cuda" if gpus_per_worker else "cpu"
        self._places = workers
        self._retries = retries
        self._trial_seconds = trial_seconds
        self._busy: dict[Any, tuple[_Seat, Task]] = {}  # by the reference to what comes of it
        self._idle: deque[_Seat] = deque()
        self._starting: dict[Any, _Seat] = {}
        self._waiting: deque[Task] = deque()
        self._lost: list[Outcome] = []
        self._struck: dict[int, _Struck] = {}
        self._incidents: list[Incident] = []
        self._deaths_in_a_row = 0
        self._failed_starts = 0
        self._start_not_before = 0.0
        self._nobody_since: float | None = None
        self._last_death = ""
        self._started_ray = _connect(address, cpus=workers * cpus_per_worker)
        try:
            _require(CPU=workers * cpus_per_worker, GPU=workers * gpus_per_worker)
            self._fill_places()
            self._await_first_worker()
        except BaseException:
            self.close()
            raise

    @property
    def capacity(self) -> int:
        return max(1, self._places)

    def submit(self, task: Task) -> None:
        self._waiting.append(task)
        self._dispatch()

    def wait(self, timeout: float) -> list[Outcome]:
        self._fill_places()
        outcomes, self._lost = self._lost, []
        pending = [*self._busy, *self._starting]
        if pending and not outcomes:
            done, _ = ray.wait(pending, num_returns=1, timeout=self._until_overdue(timeout), fetch_local=True)
            outcomes += self._take(done)
        elif not outcomes and self._places:  # nothing can be started yet
            time.sleep(min(timeout, max(0.0, self._start_not_before - time.monotonic())))
        outcomes += self._end_overdue()
        for outcome in outcomes:
            self._struck.pop(outcome.id, None)
        self._dispatch()
        if self._busy or self._idle or any(seat.worker for seat in self._starting.values()):
            self._nobody_since = None
        elif self._nobody_since is None:
            self._nobody_since = time.monotonic()
        elif not outcomes:  # what has come in is handed over before anything is given up
            self._despair(time.monotonic() - self._nobody_since)
        return outcomes

    def incidents(self) -> list[Incident]:
        incidents, self._incidents = self._incidents, []
        return incidents

    def close(self) -> None:
        seats = [*self._idle, *self._starting.values(), *(seat for seat, _ in self._busy.values())]
        for forgotten in (self._idle, self._starting, self._busy, self._waiting):
            forgotten.clear()
        for seat in seats:
            with suppress(RayError, RuntimeError, ValueError):  # a cluster that is gone has no workers left to end
                ray.kill(seat.actor)
        if self._started_ray:
            self._started_ray = False
            ray.shutdown()

    def _fill_places(self) -> None:
        """Start a worker for every place that has none, unless that has just failed."""
        if time.monotonic() < self._start_not_before or self._deaths_in_a_row > DEATHS_PER_WORKER * self._places:
            return
        while len(self._idle) + len(self._busy) + len(self._starting) < self._places:
            actor: Any = ray.remote(Worker).options(**self._options).remote(self._workload, self._device)
            self._starting[actor.name.remote()] = _Seat(actor)

    def _await_first_worker(self) -> None:
        while not self._idle:
            self.wait(0.5)
            if self._last_death and not self._idle and not self._starting:
                raise RunError(f"a worker could not be started: {self._last_death}")

    def _take(self, done: list[Any]) -> list[Outcome]:
        """What has come in: workers that are up, and outcomes but of those tasks that are tried again."""
        outcomes = []
        for reference in done:
            if reference in self._starting:
                self._take_in(reference)
            elif (outcome := self._collect(reference)) is not None:
                outcomes.append(outcome)
        return outcomes

    def _take_in(self, reference: Any) -> None:
        """A worker is up, or is prepared, or lives as it was asked; or it does not."""
        seat = self._starting.pop(reference)
        try:
            answer = ray.get(reference)
        except RayError as error:
            ray.kill(seat.actor)
            self._after_failed_start(seat, error)
            return
        if not seat.worker:
            seat.worker = answer
            self._starting[seat.actor.ready.remote()] = seat
            return
        if not seat.prepared:
            seat.prepared = True
            self._failed_starts = 0
        self._rest(seat)

    def _after_failed_start(self, seat: _Seat, error: RayError) -> None:
        """Pause before the next start, longer from time to time, and give the place up in the end."""
        reason = _reason(error)
        if seat.prepared:  # it died while it was idle
            self._note("node lost" if _is_of_the_node(error) else "worker died", reason, "replaced", worker=seat.worker)
            return
        same_round = time.monotonic() < self._start_not_before
        if not same_round:
            self._start_not_before = time.monotonic() + FIRST_PAUSE * 2**self._failed_starts
        if _is_of_the_node(error):
            self._note("node lost", reason, "replaced", worker=seat.worker)
            return
        self._last_death = reason
        self._failed_starts += not same_round
        given_up = self._failed_starts >= FAILED_STARTS
        if given_up:
            self._places -= 1
            self._failed_starts = 0
        self._note("worker did not start", reason, "given up" if given_up else "replaced", worker=seat.worker)

    def _count_death(self, reason: str) -> None:
        self._deaths_in_a_row += 1
        self._last_death = reason

    def _note(
        self,
        kind: str,
        message: str,
        action: Action,
        *,
        trial: int | None = None,
        worker: str = "",
        seconds: float = 0.0,
    ) -> None:
        self._incidents.append(
            Incident(kind=kind, message=message, action=action, trial=trial, worker=worker, seconds=seconds)
        )

    def _despair(self, seconds: float) -> None:
        """Give up where there has been no worker for so long, or none can be expected any more."""
        if not self._starting and not self._places:
            raise RunError(f"no worker can be started, the last failed so: {self._last_death}")
        if not self._starting and self._deaths_in_a_row > DEATHS_PER_WORKER * self._places:
            raise RunError(
                f"{self._deaths_in_a_row} trials in a row killed every worker they touched, the last so: "
                f"{self._last_death}"
            )
        if seconds > START_SECONDS:
            raise RunError(f"no worker came up within {START_SECONDS:.0f} s, {_why_nobody(self._options)}")

    def _dispatch(self) -> None:
        while self._idle and self._waiting:
            seat = self._idle.popleft()
            if seat.seconds() > IDLE_SECONDS:
                # It may have died meanwhile, for which the task is not to answer.
                seat.since = time.monotonic()
                self._starting[seat.actor.ready.remote()] = seat
                continue
            task = self._waiting.popleft()
            try:
                referred = self._referred(task)
            except ArtifactError as error:
                self._idle.appendleft(seat)
                self._lost.append(Failure(task=task, kind=ARTIFACT_LOST, message=str(error)))
                continue
            seat.since = time.monotonic()
            self._busy[seat.actor.perform.remote(encode_task(task), referred)] = seat, task

    def _rest(self, seat: _Seat) -> None:
        seat.since = time.monotonic()
        self._idle.append(seat)

    def _collect(self, reference: Any) -> Outcome | None:
        """What came of a task; None if it is tried again."""
        seat, task = self._busy.pop(reference)
        try:
            body, artifacts = ray.get(reference)
        except RayTaskError as error:  # raised inside a worker that lives on
            failure = self._failure(seat, task, type(error).__name__, _reason(error), trace=str(error))
            self._rest(seat)
            return failure
        except RayError as error:
            ray.kill(seat.actor)
            return self._after_strike(seat, task, error)
        self._deaths_in_a_row = 0
        outcome = decode_outcome(body, task)
        if isinstance(outcome, Failure) and outcome.kind == OUT_OF_MEMORY:  # told by a worker that lives on
            again = self._after_death(seat, task, outcome, lives=True)
            self._rest(seat)
            return again
        self._rest(seat)
        for data in artifacts.values():
            self._artifacts.put(data)
        return outcome

    def _after_strike(self, seat: _Seat, task: Task, error: RayError) -> Outcome | None:
        """Decide on a task whose worker is gone."""
        kind = "worker died"
        if _is_of_the_node(error):
            struck = self._struck.setdefault(task.id, _Struck())
            struck.losses += 1
            if struck.losses <= NODE_LOSSES:
                self._try_again("node lost", _reason(error), seat, task)
                return None
            kind = "node lost"
        elif isinstance(error, OutOfMemoryError):
            kind = OUT_OF_MEMORY
        return self._after_death(seat, task, self._failure(seat, task, kind, _reason(error), trace=str(error)))

    def _after_death(self, seat: _Seat, task: Task, failure: Failure, *, lives: bool = False) -> Outcome | None:
        """Try a task again that may itself be the cause, or let it fail alone."""
        struck = self._struck.setdefault(task.id, _Struck())
        struck.deaths += 1
        if struck.deaths <= self._retries and failure.kind != "node lost":
            again = f"try {struck.deaths} of {self._retries + 1}: {failure.message}"
            self._try_again(failure.kind, again, seat, task)
            return None
        if not lives:
            self._count_death(failure.message)
        self._note(failure.kind, failure.message, "failed", trial=task.id, worker=seat.worker)
        return failure

    def _try_again(self, kind: str, message: str, seat: _Seat, task: Task) -> None:
        self._note(kind, message, "tried again", trial=task.id, worker=seat.worker, seconds=seat.seconds())
        self._waiting.append(task)

    def _until_overdue(self, timeout: float) -> float:
        """The timeout, or less if a task's time is up before."""
        if self._trial_seconds is None or not self._busy:
            return timeout
        longest = max(seat.seconds() for seat, _ in self._busy.values())
        return min(timeout, max(0.0, self._trial_seconds - longest))

    def _end_overdue(self) -> list[Outcome]:
        """Kill the processes of tasks whose time is up."""
        if self._trial_seconds is None:
            return []
        overdue = [reference for reference, (seat, _) in self._busy.items() if seat.seconds() > self._trial_seconds]
        if not overdue:
            return []
        # What has ended in time is not to suffer from a driver that looks late.
        done, late = ray.wait(overdue, num_returns=len(overdue), timeout=0, fetch_local=False)
        outcomes = self._take(done)
        for reference in late:
            seat, task = self._busy.pop(reference)
            message = f"it took longer than trial_seconds={self._trial_seconds:g}, and its process was killed"
            outcomes.append(self._failure(seat, task, "time limit", message))
            self._note("time limit", message, "failed", trial=task.id, worker=seat.worker)
            ray.kill(seat.actor)
        return outcomes

    def _failure(self, seat: _Seat, task: Task, kind: str, message: str, *, trace: str = "") -> Failure:
        seconds = seat.seconds()
        spent = Spent(seconds=seconds, device=self._device, worker=seat.worker, started=time.time() - seconds)
        return Failure(task=task, kind=kind, message=message, traceback=trace, spent=spent)

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


def _why_nobody(options: Mapping[str, float]) -> str:
    """What keeps workers from coming up, as far as the cluster tells."""
    if not any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
        return "for no node of the cluster is left; start it again"
    return (
        f"where one needs {options['num_cpus']:g} CPUs and {options['num_gpus']:g} GPUs; "
        "the nodes that have them may be gone, or other work may hold them"
    )


def _is_of_the_node(error: RayError) -> bool:
    """Whether a whole node is gone rather than one worker.

    A node that lives reports the death of its workers. So a worker that merely cannot be reached any more, or
    a result that no node has any more, means that nobody is left to report.
    """
    gone = isinstance(error, ActorUnavailableError | NodeDiedError | ObjectLostError)
    return gone or (not isinstance(error, RayTaskError) and "its node has died" in str(error))


def _reason(error: RayError) -> str:
    """What a worker died of, in one line; an error in its own code stands at the end, Ray's verdict further up."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, RayTaskError) or "creation task" in str(error):
        return lines[-1]
    verdict = next(
        (line for line in lines if line.startswith(("The actor is dead because", "The actor died because"))), ""
    )
    verdict = verdict.partition(" Some common causes")[0] or lines[0]
    for ray_says, we_say in RAYS_WORDS.items():
        verdict = verdict.replace(ray_says, we_say, 1)
    return verdict


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
