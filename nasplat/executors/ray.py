"""The Ray executor: workers are actors that hold the benchmark, on one machine or a cluster."""

import math
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayError, RayTaskError

from nasplat.artifact import Artifacts
from nasplat.config import Workload
from nasplat.errors import ArtifactError, RunError
from nasplat.executors.attempt import Attempt, Slot, WorkerFailures
from nasplat.executors.executor import ARTIFACT_LOST, OUT_OF_MEMORY, Executor
from nasplat.executors.group import Share
from nasplat.executors.objects import Objects
from nasplat.executors.ray_cluster import connect, is_node_lost, reason_of, require, why_no_worker
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
"""How long a search without any worker waits for one to start, for example while the only node is replaced."""
DEATHS_PER_WORKER = 3
"""Maximum number of trials in a row, for each worker, that kill every worker they run on, before the run ends."""
FAILED_STARTS = 5
"""Maximum number of failed starts in a row before a worker slot is given up."""
FIRST_PAUSE = 1.0
"""Seconds until a failed start is repeated; doubled after each further failure."""
NAP_SECONDS = 0.1
"""How long the driver sleeps if there is no event to wait for."""
IDLE_SECONDS = 1.0
"""A worker that was idle for longer is probed before it is given a task."""
NODE_LOSSES = 10
"""Maximum number of nodes lost under one trial before the trial counts as the cause."""
GATHER_SECONDS = 60.0
"""How long a training waits for workers to start, while no worker is busy, before fewer workers share it."""
GRACE_SECONDS = 30.0
"""How long the other ranks of a group may continue after one has failed, or after rank 0 is done."""

NODE_LOST = "node lost"
OBJECT_LOST = "object lost"


class RayExecutor(Executor):
    """Runs tasks on Ray actors. Each actor runs one task at a time; the loop asks for at most one task per worker.

    An artifact is sent once through Ray's object store, even if many tasks refer to it. Several workers share the
    training of a supernet: as many as the benchmark allows, or all. It waits for them at the head of the queue.

    If Ray already runs in this process, or at `address`, that Ray is used and left running. Otherwise Ray is started
    on this machine and shut down at the end.

    A worker failure affects one task. A dead worker is replaced. Its task is tried again with the same seed, up to
    `retries` times; then only this task fails. The same holds if a live worker reports that memory ran out. The loss
    of a node does not count as a try. A task that takes longer than `trial_seconds` fails without a retry, and its
    process is killed. If several workers share a task, the failure of one ends the attempt of all. A worker slot is
    given up after repeated failed starts. The run ends if no slot is left. Each of these events is an incident.

    Args:
        workload: The benchmark and the search space.
        artifacts: The run's artifact store: artifacts of tasks are sent to workers, and returned ones are stored.
        workers: Number of actors.
        cpus_per_worker: Logical CPUs that each actor reserves; also its number of threads.
        gpus_per_worker: GPUs that each actor reserves; a fraction if several actors share one GPU.
        address: The address of an existing cluster (``auto``, ``host:port``), or None.
        retries: Number of further attempts of a task after its worker died or ran out of memory.
        trial_seconds: Maximum time of one attempt of a task; None for no limit.

    Raises:
        InputError: The cluster cannot be reached, or lacks the CPUs or GPUs that the workers need.
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
        # Ranks that share a device cannot use NCCL. NCCL is the fastest backend if each rank has its own device.
        self._backend = "cpu:gloo,cuda:nccl" if gpus_per_worker >= 1 else "gloo"
        self._places = workers
        self._members = 1  # until a worker reports how many workers can share a training
        self._retries = retries
        self._trial_seconds = trial_seconds
        self._busy: dict[Any, tuple[Slot, Attempt]] = {}  # by the reference to the outcome
        self._idle: deque[Slot] = deque()
        self._starting: dict[Any, Slot] = {}
        self._waiting: deque[Task] = deque()
        self._failed_before_start: list[Outcome] = []
        self._worker_failures: dict[int, WorkerFailures] = {}
        self._incidents: list[Incident] = []
        self._deaths_in_a_row = 0
        self._failed_starts = 0
        self._start_not_before = 0.0
        self._nobody_since: float | None = None
        self._gathering_since: float | None = None
        self._last_death = ""
        self._started_ray = connect(address, cpus=workers * cpus_per_worker)
        try:
            require(CPU=workers * cpus_per_worker, GPU=workers * gpus_per_worker)
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
        outcomes, self._failed_before_start = self._failed_before_start, []
        pending = [*self._busy, *self._starting]
        if pending and not outcomes:
            done, _ = ray.wait(pending, num_returns=1, timeout=self._until_overdue(timeout), fetch_local=True)
            outcomes += self._take(done)
        elif not outcomes and self._places:  # a pause before the next start, or a training waits for workers
            patience = NAP_SECONDS if self._gathering_since is not None else 0.0
            time.sleep(min(timeout, max(patience, self._start_not_before - time.monotonic())))
        outcomes += self._end_overdue()
        for outcome in outcomes:
            self._worker_failures.pop(outcome.id, None)
        self._dispatch()
        if self._busy or self._idle or any(slot.worker for slot in self._starting.values()):
            self._nobody_since = None
        elif self._nobody_since is None:
            self._nobody_since = time.monotonic()
        elif not outcomes:  # new outcomes are returned before the run is given up
            self._give_up(time.monotonic() - self._nobody_since)
        return outcomes

    def incidents(self) -> list[Incident]:
        incidents, self._incidents = self._incidents, []
        return incidents

    def close(self) -> None:
        slots = [*self._idle, *self._starting.values(), *(slot for slot, _ in self._busy.values())]
        for forgotten in (self._idle, self._starting, self._busy, self._waiting):
            forgotten.clear()
        self._objects.clear()
        for slot in slots:
            with suppress(RayError, RuntimeError, ValueError):  # a lost cluster has no workers to end
                ray.kill(slot.actor)
        if self._started_ray:
            self._started_ray = False
            ray.shutdown()

    def _fill_places(self) -> None:
        """Start a worker for every empty slot, except in the pause after a failed start or after too many deaths."""
        if time.monotonic() < self._start_not_before or self._deaths_in_a_row > DEATHS_PER_WORKER * self._places:
            return
        while len(self._idle) + len(self._busy) + len(self._starting) < self._places:
            actor: Any = ray.remote(Worker).options(**self._options).remote(self._workload, self._device)
            self._starting[actor.name.remote()] = Slot(actor)

    def _await_first_worker(self) -> None:
        while not self._idle:
            self.wait(0.5)
            if self._last_death and not self._idle and not self._starting:
                raise RunError(f"a worker could not be started: {self._last_death}")

    def _take(self, done: list[Any]) -> list[Outcome]:
        """Process the answers of workers; return the outcomes, except those of tasks that are tried again."""
        outcomes = []
        for reference in done:
            if reference in self._starting:
                self._take_in(reference)
            elif (outcome := self._collect(reference)) is not None:
                outcomes.append(outcome)
        return outcomes

    def _take_in(self, reference: Any) -> None:
        """Process the answer of a worker without a task: it started, prepared or answered a probe, or it failed."""
        slot = self._starting.pop(reference)
        try:
            answer = ray.get(reference)
        except RayError as error:
            ray.kill(slot.actor)
            self._after_failed_start(slot, error)
            return
        if not slot.worker:
            slot.worker = answer
            self._starting[slot.actor.ready.remote()] = slot
            return
        if not slot.prepared:
            slot.prepared = True
            self._members = answer
            self._failed_starts = 0
        self._rest(slot)

    def _after_failed_start(self, slot: Slot, error: RayError) -> None:
        """Pause before the next start, longer after each failure; give up the worker slot after too many failures."""
        reason = reason_of(error)
        if slot.prepared:  # it died while it was idle
            self._note_death(slot, error)
            return
        same_round = time.monotonic() < self._start_not_before
        if not same_round:
            self._start_not_before = time.monotonic() + FIRST_PAUSE * 2**self._failed_starts
        if is_node_lost(error):
            self._note(NODE_LOST, reason, "replaced", worker=slot.worker)
            return
        self._last_death = reason
        self._failed_starts += not same_round
        given_up = self._failed_starts >= FAILED_STARTS
        if given_up:
            self._places -= 1
            self._failed_starts = 0
        self._note("worker did not start", reason, "given up" if given_up else "replaced", worker=slot.worker)

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

    def _note_death(self, slot: Slot, error: RayError) -> None:
        """Record the death of a worker that no trial caused."""
        kind = NODE_LOST if is_node_lost(error) else "worker died"
        self._note(kind, reason_of(error), "replaced", worker=slot.worker)

    def _give_up(self, seconds: float) -> None:
        """End the run if no worker can be started, or if there was no worker for `seconds` and that is too long."""
        if not self._starting and not self._places:
            raise RunError(f"no worker can be started, the last failed so: {self._last_death}")
        if not self._starting and self._deaths_in_a_row > DEATHS_PER_WORKER * self._places:
            raise RunError(
                f"{self._deaths_in_a_row} trials in a row killed every worker they touched, the last so: "
                f"{self._last_death}"
            )
        if seconds > START_SECONDS:
            raise RunError(f"no worker came up within {START_SECONDS:.0f} s, {why_no_worker(self._options)}")

    def _dispatch(self) -> None:
        """Give waiting tasks to idle workers, in order: no task overtakes a task that needs several workers."""
        while self._waiting and (slots := self._slots_for(self._waiting[0])):
            task = self._waiting.popleft()
            try:
                given = self._objects.named_by(task)
            except ArtifactError as error:
                self._idle.extendleft(reversed(slots))
                self._failed_before_start.append(Failure(task=task, kind=ARTIFACT_LOST, message=str(error)))
                continue
            self._begin(task, slots, given)

    def _slots_for(self, task: Task) -> list[Slot]:
        """The slots of the idle workers that will share the task; empty while the task waits for workers."""
        divided = isinstance(task, TrainSupernet) and task.architectures
        wanted = min(self._members, self._places) if divided else 1
        slots: list[Slot] = []
        while self._idle and len(slots) < max(1, wanted):
            slot = self._idle.popleft()
            if slot.seconds() > IDLE_SECONDS:
                # The worker may have died while it was idle; this death must not count against the task.
                slot.since = time.monotonic()
                self._starting[slot.actor.ready.remote()] = slot
            else:
                slots.append(slot)
        if len(slots) >= wanted or (slots and self._waited_in_vain()):
            self._gathering_since = None
            return slots
        self._idle.extendleft(reversed(slots))
        return []

    def _waited_in_vain(self) -> bool:
        """Whether a training has waited so long for workers to start that it begins without them."""
        if self._busy or any(slot.worker and not slot.prepared for slot in self._starting.values()):
            self._gathering_since = None  # these workers will be free in time
            return False
        if self._gathering_since is None:
            self._gathering_since = time.monotonic()
        being_asked = any(slot.prepared for slot in self._starting.values())
        return not being_asked and time.monotonic() - self._gathering_since > GATHER_SECONDS

    def _begin(self, task: Task, slots: list[Slot], given: Mapping[str, Any]) -> None:
        now, size, body = time.monotonic(), len(slots), encode_task(task)
        attempt = Attempt(task, slots, until=now + (math.inf if self._trial_seconds is None else self._trial_seconds))
        # The address is an argument for every rank, so each rank begins after rank 0 serves the rendezvous.
        address = slots[0].actor.serve.remote() if size > 1 else ""
        for rank, slot in enumerate(slots):
            slot.since = now
            share = Share(rank, size, self._backend) if size > 1 else None
            reference = slot.actor.perform.remote(body, share, address, list(given), *given.values())
            self._busy[reference] = slot, attempt

    def _rest(self, slot: Slot) -> None:
        slot.since = time.monotonic()
        self._idle.append(slot)

    def _collect(self, reference: Any) -> Outcome | None:
        """Record a worker's answer; return the outcome of its task, or None if the task is not done or is retried."""
        slot, attempt = self._busy.pop(reference)
        try:
            body, artifacts, its_own = ray.get(reference)
        except RayTaskError as error:  # raised in a worker that is still alive
            lost = isinstance(error, ObjectLostError)
            failure = self._failure(slot, attempt, type(error).__name__, reason_of(error), trace=str(error))
            attempt.told[slot] = error if lost else failure
            self._rest(slot)
        except RayError as error:
            attempt.told[slot] = error
            ray.kill(slot.actor)
        else:
            attempt.told[slot] = decode_outcome(body, attempt.task)
            attempt.artifacts = artifacts or attempt.artifacts
            if its_own:
                attempt.culprit = slot
            self._rest(slot)
        if attempt.complete:
            return self._settle(attempt)
        if attempt.decided:
            attempt.until = min(attempt.until, time.monotonic() + GRACE_SECONDS)
        return None

    def _settle(self, attempt: Attempt) -> Outcome | None:
        """The outcome of a task after the last rank has answered or was killed; None if the task is tried again."""
        for slot, error in attempt.worker_failures():
            if not attempt.succeeded:
                return self._after_worker_failure(slot, attempt, error)
            self._note_death(slot, error)
        self._deaths_in_a_row = 0
        failed = [slot for slot, said in attempt.told.items() if isinstance(said, Failure)]
        slot = attempt.slots[0] if attempt.succeeded else attempt.culprit or failed[0]
        outcome = attempt.told[slot]
        assert not isinstance(outcome, RayError)
        outcome = replace(outcome, spent=replace(outcome.spent, seconds=attempt.seconds()))
        if isinstance(outcome, Failure) and outcome.kind == OUT_OF_MEMORY:  # reported by a live worker
            return self._retry_or_fail(slot, attempt, outcome, lives=True)
        for data in attempt.artifacts.values():
            self._artifacts.put(data)
        return outcome

    def _after_worker_failure(self, slot: Slot, attempt: Attempt, error: RayError) -> Outcome | None:
        """Decide whether to retry a task that lost a worker or an artifact in the object store."""
        kind, lives = "worker died", isinstance(error, RayTaskError)
        if lives or is_node_lost(error):
            kind = OBJECT_LOST if lives else NODE_LOST
            self._objects.forget(attempt.task)
            failures = self._worker_failures.setdefault(attempt.task.id, WorkerFailures())
            failures.losses += 1
            if failures.losses <= NODE_LOSSES:
                self._try_again(kind, reason_of(error), slot, attempt)
                return None
        elif isinstance(error, OutOfMemoryError):
            kind = OUT_OF_MEMORY
        failure = self._failure(slot, attempt, kind, reason_of(error), trace=str(error))
        return self._retry_or_fail(slot, attempt, failure, lives=lives)

    def _retry_or_fail(self, slot: Slot, attempt: Attempt, failure: Failure, *, lives: bool = False) -> Outcome | None:
        """Retry a task that may itself be the cause of the failure; after the last retry only this task fails."""
        failures = self._worker_failures.setdefault(failure.id, WorkerFailures())
        failures.deaths += 1
        if failures.deaths <= self._retries and failure.kind not in (NODE_LOST, OBJECT_LOST):
            again = f"try {failures.deaths} of {self._retries + 1}: {failure.message}"
            self._try_again(failure.kind, again, slot, attempt)
            return None
        if not lives:
            self._count_death(failure.message)
        self._note(failure.kind, failure.message, "failed", trial=failure.id, worker=slot.worker)
        return failure

    def _try_again(self, kind: str, message: str, slot: Slot, attempt: Attempt) -> None:
        task = attempt.task
        self._note(kind, message, "tried again", trial=task.id, worker=slot.worker, seconds=attempt.seconds())
        self._waiting.append(task)

    def _until_overdue(self, timeout: float) -> float:
        """Seconds to wait: the timeout, or less if a task reaches its time limit earlier."""
        soonest = min((attempt.until for _, attempt in self._busy.values()), default=math.inf)
        return min(timeout, max(0.0, soonest - time.monotonic()))

    def _end_overdue(self) -> list[Outcome]:
        """Kill the processes of tasks that exceed their time limit; return the outcomes."""
        now = time.monotonic()
        overdue = [reference for reference, (_, attempt) in self._busy.items() if attempt.until < now]
        if not overdue:
            return []
        # A task that ended in time must not fail because the driver checks late.
        done, _ = ray.wait(overdue, num_returns=len(overdue), timeout=0, fetch_local=False)
        outcomes = self._take(done)
        for attempt in dict.fromkeys(attempt for _, attempt in self._busy.values() if attempt.until < now):
            outcome = self._end(attempt)
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def _end(self, attempt: Attempt) -> Outcome | None:
        """Kill the workers that still run a task; return its outcome, or None if it is tried again."""
        late = {reference: slot for reference, (slot, other) in self._busy.items() if other is attempt}
        for reference, slot in late.items():
            del self._busy[reference]
            ray.kill(slot.actor)
            if attempt.decided:
                message = "it did not come free when its group had ended, and its process was killed"
                self._note("time limit", message, "replaced", trial=attempt.task.id, worker=slot.worker)
        if attempt.decided:
            return self._settle(attempt)
        message = f"it took longer than trial_seconds={self._trial_seconds:g}, and its process was killed"
        slot = attempt.slots[0]
        self._note("time limit", message, "failed", trial=attempt.task.id, worker=slot.worker)
        return self._failure(slot, attempt, "time limit", message)

    def _failure(self, slot: Slot, attempt: Attempt, kind: str, message: str, *, trace: str = "") -> Failure:
        started = time.time() - (time.monotonic() - attempt.since)
        spent = Spent(seconds=attempt.seconds(), device=self._device, worker=slot.worker, started=started)
        return Failure(task=attempt.task, kind=kind, message=message, traceback=trace, spent=spent)
