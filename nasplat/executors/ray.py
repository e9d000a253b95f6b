"""The Ray executor: workers are actors that hold the benchmark, on one machine or a cluster."""

import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
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

from nasplat.artifact import Artifacts
from nasplat.errors import ArtifactError, InputError, RunError
from nasplat.executors.executor import ARTIFACT_LOST, OUT_OF_MEMORY, Executor, Workload
from nasplat.executors.group import Share
from nasplat.executors.objects import Objects
from nasplat.executors.worker import Worker
from nasplat.task import (
    Action,
    Failure,
    Incident,
    Outcome,
    Spent,
    Task,
    TrainSupernet,
    decode_outcome,
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
NAP_SECONDS = 0.1
"""How long the driver sleeps where there is nothing that could wake it."""
IDLE_SECONDS = 1.0
"""A worker that was idle for longer is asked whether it lives before it is given a task."""
NODE_LOSSES = 10
"""How many nodes may be lost under one trial before it is taken for the cause."""
GATHER_SECONDS = 60.0
"""How long a training waits, while nobody works, for processes to come up, before fewer workers share it."""
GRACE_SECONDS = 30.0
"""How long the others of a group may go on when one has failed, or the first has done its part."""

NODE_LOST = "node lost"
OBJECT_LOST = "object lost"

RAYS_WORDS = {
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: ": "",
    "Worker unexpectedly exits with a connection error code 2. End of file.": "its process ended without a word",
    "The actor": "the worker",
}
"""What Ray says of a death, and what it comes down to."""

KNOCK_SECONDS = 10.0
"""How long a cluster's address may take to answer."""


@dataclass(eq=False, slots=True)
class _Seat:
    """A place at which one worker sits: the actor, who it is once it is up, and since when it works or is idle."""

    actor: Any  # an actor's methods are made at run time, which types cannot follow
    worker: str = ""
    prepared: bool = False
    since: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return time.monotonic() - self.since


@dataclass(eq=False, slots=True)
class _Try:
    """One try of a task: the seats of those who share it, the first member's first, and what each has told of it.

    A task that is not shared has one seat. Where it is, the first member's success is that of all; otherwise
    what struck one of them counts before what any of them tells, and the cause before its effects.
    """

    task: Task
    seats: list[_Seat]
    until: float  # when those that are still at it are killed
    since: float = field(default_factory=time.monotonic)
    told: dict[_Seat, Outcome | RayError] = field(default_factory=dict)
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    culprit: _Seat | None = None  # who failed first

    @property
    def complete(self) -> bool:
        return len(self.told) == len(self.seats)

    @property
    def decided(self) -> bool:
        """Whether what the others may still tell can hardly change anything."""
        return self.seats[0] in self.told or any(isinstance(said, Failure | RayError) for said in self.told.values())

    @property
    def succeeded(self) -> bool:
        return not isinstance(self.told.get(self.seats[0], None), Failure | RayError | None)

    def strikes(self) -> list[tuple[_Seat, RayError]]:
        """Who was struck, and by what, in the order in which it became known."""
        return [(seat, said) for seat, said in self.told.items() if isinstance(said, RayError)]

    def seconds(self) -> float:
        """Device time of all who share it."""
        said = [self.told.get(seat) for seat in self.seats]
        elapsed = time.monotonic() - self.since
        return sum(elapsed if told is None or isinstance(told, RayError) else told.spent.seconds for told in said)


@dataclass(slots=True)
class _Struck:
    """How often workers died, and nodes were lost, under one task."""

    deaths: int = 0
    losses: int = 0


class RayExecutor(Executor):
    """Tasks on Ray actors, one at a time on each; the loop asks for no more than there are workers.

    An artifact that many tasks refer to travels once, through Ray's object store. The training of a supernet is
    divided among as many workers as the benchmark says, or all; it waits for them at the head of the queue.

    A Ray that runs in this process already, or the cluster at `address`, is used and left running; otherwise
    one is started on this machine and shut down again.

    What strikes a worker strikes one task. A worker that dies is replaced, and its task is tried again, with the
    same seed, up to `retries` times; then it fails alone. So does a task whose worker tells of memory that ran
    out, and lives on. The loss of a node is not held against the task. A task that takes longer than
    `trial_seconds` fails at once, for it would again, and its process is killed. What strikes one of several
    workers that share a task ends the try for all. A worker that cannot be started again and again loses its
    place; without any place left the run ends. Each of these is an incident.

    Args:
        workload: Which benchmark on which space.
        artifacts: The run's artifacts: what tasks refer to is put in the workers' reach, what comes back is kept.
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
        self._objects = Objects(artifacts)
        self._options: dict[str, Any] = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}
        self._device = "cuda" if gpus_per_worker else "cpu"
        # Members that share a device cannot use NCCL; between devices of their own nothing is faster.
        self._backend = "cpu:gloo,cuda:nccl" if gpus_per_worker >= 1 else "gloo"
        self._places = workers
        self._members = 1  # until a worker has said among how many a training can be divided
        self._retries = retries
        self._trial_seconds = trial_seconds
        self._busy: dict[Any, tuple[_Seat, _Try]] = {}  # by the reference to what the seat will tell
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
        self._gathering_since: float | None = None
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
        elif not outcomes and self._places:  # nothing can be started yet, or a training waits for what never comes
            patience = NAP_SECONDS if self._gathering_since is not None else 0.0
            time.sleep(min(timeout, max(patience, self._start_not_before - time.monotonic())))
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
        self._objects.clear()
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
            self._members = answer
            self._failed_starts = 0
        self._rest(seat)

    def _after_failed_start(self, seat: _Seat, error: RayError) -> None:
        """Pause before the next start, longer from time to time, and give the place up in the end."""
        reason = _reason(error)
        if seat.prepared:  # it died while it was idle
            self._note_death(seat, error)
            return
        same_round = time.monotonic() < self._start_not_before
        if not same_round:
            self._start_not_before = time.monotonic() + FIRST_PAUSE * 2**self._failed_starts
        if _is_of_the_node(error):
            self._note(NODE_LOST, reason, "replaced", worker=seat.worker)
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

    def _note_death(self, seat: _Seat, error: RayError) -> None:
        """A worker died, for which no trial is to answer."""
        kind = NODE_LOST if _is_of_the_node(error) else "worker died"
        self._note(kind, _reason(error), "replaced", worker=seat.worker)

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
        """Give what waits to who is idle, in order: what needs several workers is not overtaken."""
        while self._waiting and (seats := self._seats_for(self._waiting[0])):
            task = self._waiting.popleft()
            try:
                given = self._objects.named_by(task)
            except ArtifactError as error:
                self._idle.extendleft(reversed(seats))
                self._lost.append(Failure(task=task, kind=ARTIFACT_LOST, message=str(error)))
                continue
            self._begin(task, seats, given)

    def _seats_for(self, task: Task) -> list[_Seat]:
        """Idle workers that live, as many as are to share the task; none as long as it has to wait for them."""
        divided = isinstance(task, TrainSupernet) and task.architectures
        wanted = min(self._members, self._places) if divided else 1
        seats: list[_Seat] = []
        while self._idle and len(seats) < max(1, wanted):
            seat = self._idle.popleft()
            if seat.seconds() > IDLE_SECONDS:
                # It may have died meanwhile, for which the task is not to answer.
                seat.since = time.monotonic()
                self._starting[seat.actor.ready.remote()] = seat
            else:
                seats.append(seat)
        if len(seats) >= wanted or (seats and self._waited_in_vain()):
            self._gathering_since = None
            return seats
        self._idle.extendleft(reversed(seats))
        return []

    def _waited_in_vain(self) -> bool:
        """Whether those whom a training still waits for have not come up for so long that it begins without them."""
        if self._busy or any(seat.worker and not seat.prepared for seat in self._starting.values()):
            self._gathering_since = None  # they will come in time
            return False
        if self._gathering_since is None:
            self._gathering_since = time.monotonic()
        being_asked = any(seat.prepared for seat in self._starting.values())
        return not being_asked and time.monotonic() - self._gathering_since > GATHER_SECONDS

    def _begin(self, task: Task, seats: list[_Seat], given: Mapping[str, Any]) -> None:
        now, size, body = time.monotonic(), len(seats), encode_task(task)
        attempt = _Try(task, seats, until=now + (math.inf if self._trial_seconds is None else self._trial_seconds))
        # Its result is an argument of the others, so that each begins when the first can be found.
        address = seats[0].actor.serve.remote() if size > 1 else ""
        for rank, seat in enumerate(seats):
            seat.since = now
            share = Share(rank, size, self._backend) if size > 1 else None
            reference = seat.actor.perform.remote(body, share, address, list(given), *given.values())
            self._busy[reference] = seat, attempt

    def _rest(self, seat: _Seat) -> None:
        seat.since = time.monotonic()
        self._idle.append(seat)

    def _collect(self, reference: Any) -> Outcome | None:
        """What came of a task; None if others who share it have yet to tell, or it is tried again."""
        seat, attempt = self._busy.pop(reference)
        try:
            body, artifacts, its_own = ray.get(reference)
        except RayTaskError as error:  # raised inside a worker that lives on
            lost = isinstance(error, ObjectLostError)
            failure = self._failure(seat, attempt, type(error).__name__, _reason(error), trace=str(error))
            attempt.told[seat] = error if lost else failure
            self._rest(seat)
        except RayError as error:
            attempt.told[seat] = error
            ray.kill(seat.actor)
        else:
            attempt.told[seat] = decode_outcome(body, attempt.task)
            attempt.artifacts = artifacts or attempt.artifacts
            if its_own:
                attempt.culprit = seat
            self._rest(seat)
        if attempt.complete:
            return self._settle(attempt)
        if attempt.decided:
            attempt.until = min(attempt.until, time.monotonic() + GRACE_SECONDS)
        return None

    def _settle(self, attempt: _Try) -> Outcome | None:
        """What came of a task when all have told, or never will; None if it is tried again."""
        for seat, error in attempt.strikes():
            if not attempt.succeeded:
                return self._after_strike(seat, attempt, error)
            self._note_death(seat, error)
        self._deaths_in_a_row = 0
        failed = [seat for seat, said in attempt.told.items() if isinstance(said, Failure)]
        seat = attempt.seats[0] if attempt.succeeded else attempt.culprit or failed[0]
        outcome = attempt.told[seat]
        assert not isinstance(outcome, RayError)
        outcome = replace(outcome, spent=replace(outcome.spent, seconds=attempt.seconds()))
        if isinstance(outcome, Failure) and outcome.kind == OUT_OF_MEMORY:  # told by a worker that lives on
            return self._after_death(seat, attempt, outcome, lives=True)
        for data in attempt.artifacts.values():
            self._artifacts.put(data)
        return outcome

    def _after_strike(self, seat: _Seat, attempt: _Try, error: RayError) -> Outcome | None:
        """Decide on a task one of whose workers is gone, or what it was to work with."""
        kind, lives = "worker died", isinstance(error, RayTaskError)
        if lives or _is_of_the_node(error):
            kind = OBJECT_LOST if lives else NODE_LOST
            self._objects.forget(attempt.task)
            struck = self._struck.setdefault(attempt.task.id, _Struck())
            struck.losses += 1
            if struck.losses <= NODE_LOSSES:
                self._try_again(kind, _reason(error), seat, attempt)
                return None
        elif isinstance(error, OutOfMemoryError):
            kind = OUT_OF_MEMORY
        failure = self._failure(seat, attempt, kind, _reason(error), trace=str(error))
        return self._after_death(seat, attempt, failure, lives=lives)

    def _after_death(self, seat: _Seat, attempt: _Try, failure: Failure, *, lives: bool = False) -> Outcome | None:
        """Try a task again that may itself be the cause, or let it fail alone."""
        struck = self._struck.setdefault(failure.id, _Struck())
        struck.deaths += 1
        if struck.deaths <= self._retries and failure.kind not in (NODE_LOST, OBJECT_LOST):
            again = f"try {struck.deaths} of {self._retries + 1}: {failure.message}"
            self._try_again(failure.kind, again, seat, attempt)
            return None
        if not lives:
            self._count_death(failure.message)
        self._note(failure.kind, failure.message, "failed", trial=failure.id, worker=seat.worker)
        return failure

    def _try_again(self, kind: str, message: str, seat: _Seat, attempt: _Try) -> None:
        task = attempt.task
        self._note(kind, message, "tried again", trial=task.id, worker=seat.worker, seconds=attempt.seconds())
        self._waiting.append(task)

    def _until_overdue(self, timeout: float) -> float:
        """The timeout, or less if a task's time is up before."""
        soonest = min((attempt.until for _, attempt in self._busy.values()), default=math.inf)
        return min(timeout, max(0.0, soonest - time.monotonic()))

    def _end_overdue(self) -> list[Outcome]:
        """Kill the processes of tasks whose time is up."""
        now = time.monotonic()
        overdue = [reference for reference, (_, attempt) in self._busy.items() if attempt.until < now]
        if not overdue:
            return []
        # What has ended in time is not to suffer from a driver that looks late.
        done, _ = ray.wait(overdue, num_returns=len(overdue), timeout=0, fetch_local=False)
        outcomes = self._take(done)
        for attempt in dict.fromkeys(attempt for _, attempt in self._busy.values() if attempt.until < now):
            outcome = self._end(attempt)
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def _end(self, attempt: _Try) -> Outcome | None:
        """Kill those that still work on a task; what comes of it then."""
        late = {reference: seat for reference, (seat, other) in self._busy.items() if other is attempt}
        for reference, seat in late.items():
            del self._busy[reference]
            ray.kill(seat.actor)
            if attempt.decided:
                message = "it did not come free when its group had ended, and its process was killed"
                self._note("time limit", message, "replaced", trial=attempt.task.id, worker=seat.worker)
        if attempt.decided:
            return self._settle(attempt)
        message = f"it took longer than trial_seconds={self._trial_seconds:g}, and its process was killed"
        seat = attempt.seats[0]
        self._note("time limit", message, "failed", trial=attempt.task.id, worker=seat.worker)
        return self._failure(seat, attempt, "time limit", message)

    def _failure(self, seat: _Seat, attempt: _Try, kind: str, message: str, *, trace: str = "") -> Failure:
        started = time.time() - (time.monotonic() - attempt.since)
        spent = Spent(seconds=attempt.seconds(), device=self._device, worker=seat.worker, started=started)
        return Failure(task=attempt.task, kind=kind, message=message, traceback=trace, spent=spent)


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
