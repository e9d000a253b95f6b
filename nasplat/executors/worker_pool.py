"""The pool of Ray workers: it starts, probes, lends and replaces them, and gives up worker slots."""

import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from nasplat.errors import RunError
from nasplat.executors.ray_cluster import check_own_node, is_node_lost, reason_of, why_no_worker
from nasplat.executors.retrying import NODE_LOST, WORKER_DIED
from nasplat.executors.sending import Sent
from nasplat.executors.worker import Worker
from nasplat.task import Incident

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
GATHER_SECONDS = 60.0
"""How long a training waits for workers to start, while no worker is busy, before fewer workers share it."""


@dataclass(eq=False, slots=True)
class Slot:
    """A worker slot: the actor, the worker's name once it is up, and the time since which it works or is idle."""

    actor: Any  # an actor's methods are made at run time, which types cannot follow
    worker: str = ""
    prepared: bool = False
    since: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """How long the worker has been at work, or idle."""
        return time.monotonic() - self.since


class WorkerPool:
    """A fixed number of worker slots. Each slot is empty, or its worker is starting, idle or busy.

    A starting worker is one that was asked something other than a task: its name, to prepare, or a probe. The caller
    waits for these answers (the keys of `starting`) together with the answers to tasks, and passes them to `receive`.

    Args:
        sent: The benchmark and the search space.
        device: The torch device of each worker.
        size: Number of worker slots.
        options: Ray's options for an actor: the CPUs and GPUs that it reserves.
        incidents: The list to which incidents are added.
    """

    def __init__(
        self,
        sent: Sent,
        device: str,
        *,
        size: int,
        options: Mapping[str, float],
        incidents: list[Incident],
    ) -> None:
        self.n_slots = size  # those that are not given up
        self.idle: deque[Slot] = deque()
        self.busy: set[Slot] = set()
        self.starting: dict[Any, Slot] = {}  # by the reference to the answer
        self._sent = sent
        self._device = device
        self._options = options
        self._incidents = incidents
        self._max_ranks = 1  # until a worker reports how many workers can share a training
        self._deaths_in_a_row = 0
        self._last_death = ""
        self._failed_starts = 0
        self._start_not_before = 0.0
        self._no_worker_since: float | None = None
        self._gathering_since: float | None = None

    def fill(self) -> None:
        """Start a worker for every empty slot, except in the pause after a failed start or after too many deaths."""
        if time.monotonic() < self._start_not_before or self._too_many_deaths():
            return
        while len(self.idle) + len(self.busy) + len(self.starting) < self.n_slots:
            actor: Any = ray.remote(Worker).options(**self._options).remote(self._sent, self._device)
            self.starting[actor.name.remote()] = Slot(actor)

    def receive(self, reference: Any) -> None:
        """Process the answer of a starting worker: it is up, has prepared or answered a probe, or it failed."""
        slot = self.starting.pop(reference)
        try:
            answer = ray.get(reference)
        except RayError as error:
            check_own_node(error)
            ray.kill(slot.actor)
            self._after_failed_start(slot, error)
            return
        if not slot.worker:
            slot.worker = answer
            self._ask_ready(slot)
            return
        if not slot.prepared:
            slot.prepared = True
            self._max_ranks = answer
            self._failed_starts = 0
        self.release(slot)

    def acquire(self, *, shared: bool) -> list[Slot]:
        """Take idle workers for a task; they are busy until they are released, put back or killed.

        Args:
            shared: Whether several workers share the task: as many as the benchmark allows.

        Returns:
            The slots; empty while the task waits for workers.
        """
        wanted = min(self._max_ranks, self.n_slots) if shared else 1
        slots: list[Slot] = []
        while self.idle and len(slots) < max(1, wanted):
            slot = self.idle.popleft()
            if slot.seconds() > IDLE_SECONDS:
                # The worker may have died while it was idle; this death must not count against the task.
                slot.since = time.monotonic()
                self._ask_ready(slot)
            else:
                slots.append(slot)
        if len(slots) >= wanted or (slots and self._has_gathered_long_enough()):
            self._gathering_since = None
            self.busy.update(slots)
            return slots
        self.idle.extendleft(reversed(slots))
        return []

    def put_back(self, slots: list[Slot]) -> None:
        """Return workers that were acquired, but not given the task."""
        self.busy.difference_update(slots)
        self.idle.extendleft(reversed(slots))

    def release(self, slot: Slot) -> None:
        """Mark a worker as idle after its work."""
        self.busy.discard(slot)
        slot.since = time.monotonic()
        self.idle.append(slot)

    def kill(self, slot: Slot) -> None:
        """End the process of a busy worker; its slot is empty then."""
        self.busy.discard(slot)
        ray.kill(slot.actor)

    def close(self) -> None:
        """End all workers."""
        slots = [*self.idle, *self.starting.values(), *self.busy]
        for collection in (self.idle, self.starting, self.busy):
            collection.clear()
        for slot in slots:
            with suppress(RayError, RuntimeError, ValueError):  # a lost cluster has no workers to end
                ray.kill(slot.actor)

    def pause_seconds(self) -> float:
        """How long to sleep if no answer is pending: a start is paused, or a training waits for workers."""
        if not self.n_slots:
            return 0.0
        nap = NAP_SECONDS if self._gathering_since is not None else 0.0
        return max(nap, self._start_not_before - time.monotonic())

    def record_death(self, slot: Slot, error: RayError) -> None:
        """Record the death of a worker that no trial caused."""
        kind = NODE_LOST if is_node_lost(error) else WORKER_DIED
        incident = Incident(kind=kind, message=reason_of(error), action="replaced", worker=slot.worker)
        self._incidents.append(incident)

    def count_deadly_trial(self, reason: str) -> None:
        """Count a trial that failed because it killed every worker it ran on."""
        self._deaths_in_a_row += 1
        self._last_death = reason

    def end_deadly_streak(self) -> None:
        """Start the count of such trials again, because a worker survived a trial."""
        self._deaths_in_a_row = 0

    def check_first_starts(self) -> None:
        """Raise a `RunError` if all workers that were started first have failed to start."""
        if self._last_death and not self.idle and not self.starting:
            modules = (
                "; workers find modules of your own in the working directory, beside the script, or on PYTHONPATH"
                if "ModuleNotFoundError" in self._last_death
                else ""
            )
            raise RunError(f"a worker could not be started: {self._last_death}{modules}")

    def check_workers(self, *, may_give_up: bool) -> None:
        """Measure how long there has been no worker; raise a `RunError` if none can start, or if it is too long.

        Args:
            may_give_up: Whether to raise now; otherwise only the time is measured.
        """
        if self.busy or self.idle or any(slot.worker for slot in self.starting.values()):
            self._no_worker_since = None
        elif self._no_worker_since is None:
            self._no_worker_since = time.monotonic()
        elif may_give_up:
            self._give_up(time.monotonic() - self._no_worker_since)

    def _give_up(self, seconds: float) -> None:
        """End the run if no worker can be started, or if there was no worker for `seconds` and that is too long."""
        if not self.starting and not self.n_slots:
            raise RunError(f"no worker can be started, the last cause: {self._last_death}")
        if not self.starting and self._too_many_deaths():
            raise RunError(
                f"{self._deaths_in_a_row} trials in a row killed every worker they touched, the last cause: "
                f"{self._last_death}"
            )
        if seconds > START_SECONDS:
            raise RunError(f"no worker came up within {START_SECONDS:.0f} s, {why_no_worker(self._options)}")

    def _too_many_deaths(self) -> bool:
        return self._deaths_in_a_row > DEATHS_PER_WORKER * self.n_slots

    def _ask_ready(self, slot: Slot) -> None:
        """Let a worker prepare, or probe a worker that has prepared."""
        self.starting[slot.actor.ready.remote()] = slot

    def _after_failed_start(self, slot: Slot, error: RayError) -> None:
        """Pause before the next start, longer after each failure; give up the worker slot after too many failures."""
        if slot.prepared:  # it died while it was idle
            self.record_death(slot, error)
            return
        # Workers that start together often fail together, for one reason: they count as one failure.
        same_round = time.monotonic() < self._start_not_before
        if not same_round:
            self._start_not_before = time.monotonic() + FIRST_PAUSE * 2**self._failed_starts
        if is_node_lost(error):
            self.record_death(slot, error)
            return
        self._last_death = reason_of(error)
        self._failed_starts += not same_round
        given_up = self._failed_starts >= FAILED_STARTS
        if given_up:
            self.n_slots -= 1
            self._failed_starts = 0
        self._incidents.append(
            Incident(
                kind="worker did not start",
                message=self._last_death,
                action="given up" if given_up else "replaced",
                worker=slot.worker,
            )
        )

    def _has_gathered_long_enough(self) -> bool:
        """Whether a training has waited so long for workers to start that it begins without them."""
        if self.busy or any(slot.worker and not slot.prepared for slot in self.starting.values()):
            self._gathering_since = None  # these workers will be free in time
            return False
        if self._gathering_since is None:
            self._gathering_since = time.monotonic()
        being_probed = any(slot.prepared for slot in self.starting.values())
        return not being_probed and time.monotonic() - self._gathering_since > GATHER_SECONDS
