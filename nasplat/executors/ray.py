"""The Ray executor: tasks are given to workers, which are actors on one machine or a cluster."""

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from nasplat.artifact import Artifacts
from nasplat.config import Workload
from nasplat.errors import ArtifactError
from nasplat.executors.attempt import Attempt
from nasplat.executors.executor import ARTIFACT_LOST, OUT_OF_MEMORY, Executor
from nasplat.executors.group import Rank
from nasplat.executors.objects import Objects
from nasplat.executors.ray_cluster import check_own_node, connect, kind_of, reason_of, require
from nasplat.executors.retrying import NODE_LOST, OBJECT_LOST, RetryPolicy
from nasplat.executors.sending import Sent
from nasplat.executors.worker_pool import Slot, WorkerPool
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

GRACE_SECONDS = 30.0
"""How long the other ranks of a group may continue after one has failed, or after rank 0 is done."""
TIME_LIMIT = "time limit"


class RayExecutor(Executor):
    """Runs tasks on Ray actors. Each actor runs one task at a time; the loop asks for at most one task per worker.

    An artifact is sent once through Ray's object store, even if many tasks refer to it. Several workers share the
    training of a supernet: as many as the benchmark allows, or all. It waits for them at the head of the queue.

    If Ray already runs in this process, or at `address`, that Ray is used and left running. Otherwise Ray is started
    on this machine and shut down at the end.

    A worker failure affects one task. A dead worker is replaced. Its task is tried again with the same seed, up to
    `retries` times; then only this task fails. The same holds if a live worker reports that memory ran out. The loss
    of a node does not count as an attempt. A task that takes longer than `trial_seconds` fails without a retry, and its
    process is killed. If several workers share a task, the failure of one ends the attempt of all. A worker slot is
    given up after repeated failed starts. The run ends if no slot is left. Each of these events is an incident. The run
    also ends if the node of this process is lost; what was at work is begun again when the run is resumed.

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
        InputError: The cluster cannot be reached, or lacks the CPUs or GPUs that the workers need; or the workload has
            a class that cannot be sent to them.
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
        sent = Sent(workload)
        self._artifacts = artifacts
        self._objects = Objects(artifacts)
        self._device = "cuda" if gpus_per_worker else "cpu"
        # Ranks that share a device cannot use NCCL. NCCL is the fastest backend if each rank has its own device.
        self._backend = "cpu:gloo,cuda:nccl" if gpus_per_worker >= 1 else "gloo"
        self._trial_seconds = trial_seconds
        self._busy: dict[Any, tuple[Slot, Attempt]] = {}  # by the reference to the outcome
        self._waiting: deque[Task] = deque()
        self._failed_before_start: list[Outcome] = []
        self._incidents: list[Incident] = []
        self._retry_policy = RetryPolicy(retries)
        self._pool = WorkerPool(
            sent,
            self._device,
            size=workers,
            options={"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker},
            incidents=self._incidents,
        )
        self._started_ray = connect(address, cpus=workers * cpus_per_worker)
        try:
            require(CPU=workers * cpus_per_worker, GPU=workers * gpus_per_worker)
            self._pool.fill()
            self._await_first_worker()
        except BaseException:
            self.close()
            raise

    @property
    def capacity(self) -> int:
        return max(1, self._pool.n_slots)

    def submit(self, task: Task) -> None:
        self._waiting.append(task)
        self._dispatch()

    def wait(self, timeout: float) -> list[Outcome]:
        self._pool.fill()
        outcomes, self._failed_before_start = self._failed_before_start, []
        pending = [*self._busy, *self._pool.starting]
        if pending and not outcomes:
            done, _ = ray.wait(pending, num_returns=1, timeout=self._until_overdue(timeout), fetch_local=True)
            outcomes += self._process(done)
        elif not outcomes:
            time.sleep(min(timeout, self._pool.pause_seconds()))
        outcomes += self._end_overdue()
        for outcome in outcomes:
            self._retry_policy.forget(outcome.id)
        self._dispatch()
        self._pool.check_workers(may_give_up=not outcomes)  # new outcomes are returned before the run is given up
        return outcomes

    def incidents(self) -> list[Incident]:
        incidents = self._incidents.copy()
        self._incidents.clear()  # the pool adds to the same list
        return incidents

    def close(self) -> None:
        self._busy.clear()
        self._waiting.clear()
        self._objects.clear()
        self._pool.close()
        if self._started_ray:
            self._started_ray = False
            ray.shutdown()

    def _await_first_worker(self) -> None:
        while not self._pool.idle:
            self.wait(0.5)
            self._pool.check_first_starts()

    # Dispatch

    def _dispatch(self) -> None:
        """Give waiting tasks to idle workers, in order: no task overtakes a task that needs several workers."""
        while self._waiting and (slots := self._pool.acquire(shared=_is_shared(self._waiting[0]))):
            task = self._waiting.popleft()
            try:
                references = self._objects.named_by(task)
            except ArtifactError as error:
                self._pool.put_back(slots)
                self._failed_before_start.append(Failure(task=task, kind=ARTIFACT_LOST, message=str(error)))
                continue
            self._begin(task, slots, references)

    def _begin(self, task: Task, slots: list[Slot], references: Mapping[str, Any]) -> None:
        """Start an attempt at a task on all of the slots; `references` are to the artifacts that the task names."""
        now, size, body = time.monotonic(), len(slots), encode_task(task)
        attempt = Attempt(task, slots, until=now + (math.inf if self._trial_seconds is None else self._trial_seconds))
        # The address is an argument for every rank, so each rank begins after rank 0 serves the rendezvous.
        address = slots[0].actor.serve.remote() if size > 1 else ""
        for index, slot in enumerate(slots):
            slot.since = now
            rank = Rank(index, size, self._backend) if size > 1 else None
            reference = slot.actor.perform.remote(body, rank, address, list(references), *references.values())
            self._busy[reference] = slot, attempt

    # Collect

    def _process(self, done: list[Any]) -> list[Outcome]:
        """Process the answers of workers; return the outcomes, except those of tasks that are tried again."""
        outcomes = []
        for reference in done:
            if reference in self._pool.starting:
                self._pool.receive(reference)
            elif (outcome := self._collect(reference)) is not None:
                outcomes.append(outcome)
        return outcomes

    def _collect(self, reference: Any) -> Outcome | None:
        """Record a worker's answer; return the outcome of its task, or None if the task is not done or is retried."""
        slot, attempt = self._busy.pop(reference)
        try:
            body, artifacts, failed_first = ray.get(reference)
        except RayTaskError as error:  # raised in a worker that is still alive
            lost = isinstance(error, ObjectLostError)
            failure = self._failure(slot, attempt, type(error).__name__, reason_of(error), trace=str(error))
            attempt.answers[slot] = error if lost else failure
            self._pool.release(slot)
        except RayError as error:
            check_own_node(error)
            attempt.answers[slot] = error
            self._pool.kill(slot)
        else:
            attempt.answers[slot] = decode_outcome(body, attempt.task)
            attempt.artifacts = artifacts or attempt.artifacts
            if failed_first:
                attempt.first_to_fail = slot
            self._pool.release(slot)
        if attempt.complete:
            return self._conclude(attempt)
        if attempt.decided:
            attempt.until = min(attempt.until, time.monotonic() + GRACE_SECONDS)
        return None

    def _conclude(self, attempt: Attempt) -> Outcome | None:
        """The outcome of a task after the last rank has answered or was killed; None if the task is tried again."""
        for slot, error in attempt.worker_failures():
            if not attempt.succeeded:
                return self._after_worker_failure(slot, attempt, error)
            self._pool.record_death(slot, error)
        self._pool.end_deadly_streak()
        failed = [slot for slot, answer in attempt.answers.items() if isinstance(answer, Failure)]
        slot = attempt.slots[0] if attempt.succeeded else attempt.first_to_fail or failed[0]
        outcome = attempt.answers[slot]
        assert not isinstance(outcome, RayError)
        outcome = replace(outcome, spent=replace(outcome.spent, seconds=attempt.seconds()))
        if isinstance(outcome, Failure) and outcome.kind == OUT_OF_MEMORY:  # reported by a live worker
            return self._retry_or_fail(slot, attempt, outcome, alive=True)
        for data in attempt.artifacts.values():
            self._artifacts.put(data)
        return outcome

    def _after_worker_failure(self, slot: Slot, attempt: Attempt, error: RayError) -> Outcome | None:
        """Retry or fail a task that lost a worker, or an artifact in the object store."""
        kind = kind_of(error)
        if kind in (NODE_LOST, OBJECT_LOST):
            self._objects.forget(attempt.task)  # so that the next attempt puts its artifacts there again
        failure = self._failure(slot, attempt, kind, reason_of(error), trace=str(error))
        return self._retry_or_fail(slot, attempt, failure, alive=kind == OBJECT_LOST)

    def _retry_or_fail(self, slot: Slot, attempt: Attempt, failure: Failure, *, alive: bool) -> Outcome | None:
        """Do what the retry policy decides: put the task into the queue again, or fail this task alone."""
        decision = self._retry_policy.decide(failure.id, failure.kind, failure.message)
        if decision.retry:
            seconds = attempt.seconds()
            self._record(failure.kind, decision.message, "tried again", attempt, slot, seconds=seconds)
            self._waiting.append(attempt.task)
            return None
        if not alive:
            self._pool.count_deadly_trial(failure.message)
        self._record(failure.kind, decision.message, "failed", attempt, slot)
        return failure

    def _failure(self, slot: Slot, attempt: Attempt, kind: str, message: str, *, trace: str = "") -> Failure:
        started = time.time() - (time.monotonic() - attempt.since)
        spent = Spent(seconds=attempt.seconds(), device=self._device, worker=slot.worker, started=started)
        return Failure(task=attempt.task, kind=kind, message=message, traceback=trace, spent=spent)

    # Time limits

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
        outcomes = self._process(done)
        for attempt in dict.fromkeys(attempt for _, attempt in self._busy.values() if attempt.until < now):
            outcome = self._end(attempt)
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def _end(self, attempt: Attempt) -> Outcome | None:
        """Kill the workers that still run a task; return its outcome, or None if it is tried again."""
        running = {reference: slot for reference, (slot, other) in self._busy.items() if other is attempt}
        for reference, slot in running.items():
            del self._busy[reference]
            self._pool.kill(slot)
            if attempt.decided:
                message = "it did not come free when its group had ended, and its process was killed"
                self._record(TIME_LIMIT, message, "replaced", attempt, slot)
        if attempt.decided:
            return self._conclude(attempt)
        message = f"it took longer than trial_seconds={self._trial_seconds:g}, and its process was killed"
        slot = attempt.slots[0]
        self._record(TIME_LIMIT, message, "failed", attempt, slot)
        return self._failure(slot, attempt, TIME_LIMIT, message)

    def _record(
        self, kind: str, message: str, action: Action, attempt: Attempt, slot: Slot, *, seconds: float = 0.0
    ) -> None:
        incident = Incident(
            kind=kind, message=message, action=action, trial=attempt.task.id, worker=slot.worker, seconds=seconds
        )
        self._incidents.append(incident)


def _is_shared(task: Task) -> bool:
    """Whether several workers share the task: the training of a supernet, but not that of the whole space."""
    return isinstance(task, TrainSupernet) and bool(task.architectures)
