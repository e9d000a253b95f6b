"""The search loop: ask, log, run, log, tell, until the budget is spent or the strategy is finished."""

import math
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from nasplat.driver import collection
from nasplat.driver.accounts import Accounts
from nasplat.driver.budget import Budget, Spending
from nasplat.driver.cache import Cache
from nasplat.driver.collection import Collector
from nasplat.driver.replay import replay
from nasplat.driver.stopping import MedianStopping
from nasplat.errors import InputError, RunError, StrategyError
from nasplat.executors.executor import Executor
from nasplat.problem import Problem
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.storage.event_log import EventLog
from nasplat.strategy import Strategy
from nasplat.task import (
    Evaluate,
    Failure,
    Incident,
    Measurement,
    Outcome,
    Task,
    TrainSupernet,
    encode_incident,
    encode_outcome,
    encode_task,
)

SNAPSHOT_EVENTS = 2_000
"""Minimum number of events between snapshots."""
SNAPSHOT_GROWTH = 0.5
"""Beyond that, a snapshot is taken each time the log has grown by this part, so that their cost is proportional."""
WAIT_SECONDS = 0.5
PARKED = 4
"""Maximum number of outstanding tasks for each worker, including tasks that wait for equal work."""
FAILURES = 100
"""Maximum number of failures in a row of tasks that no limit of the budget is certain to end; then the run ends."""


class Watcher(Protocol):
    """Gets notified of the search's progress: what shows it, and what tracks it elsewhere."""

    def watch(self, search: "Search", outcome: Outcome | None) -> None:
        """Called after every outcome that was told; and with None when tasks were submitted, and every half second."""


class Search:
    """One search: a strategy, an executor, and the log from which a killed search resumes.

    Every ask and every outcome is logged before it takes effect. A new `Search` on a log that already has
    events replays them: it restores the newest snapshot, repeats the events after it, checks that the strategy asks
    for the same tasks, and submits again the tasks without an outcome.

    Args:
        problem: The strategy's problem.
        strategy: Proposes tasks; made with `problem`, in its initial state.
        executor: Runs the tasks.
        log: The run's log.
        budget: When to stop asking.
        watchers: Get notified of the progress, in this order.
        artifacts: The executor's artifact store, from which unreachable artifacts are deleted; see
            `nasplat.driver.collection`.
        stopping: Gives tasks the rules by which their trials end early; None if none does.
        replaces_parts: Whether a measurement that continues another one replaces it, as in a retraining.

    Attributes:
        accounts: The tasks, their outcomes, and their cost.
        incidents: The incidents since this search was made.
    """

    def __init__(
        self,
        problem: Problem,
        strategy: Strategy,
        executor: Executor,
        log: EventLog,
        budget: Budget,
        watchers: Sequence[Watcher] = (),
        artifacts: ArtifactStore | None = None,
        stopping: MedianStopping | None = None,
        *,
        replaces_parts: bool = False,
    ) -> None:
        self.problem = problem
        self.strategy = strategy
        self.executor = executor
        self.log = log
        self.budget = budget
        self.watchers = tuple(watchers)
        self.stopping = stopping
        self.accounts = Accounts(problem.goal)
        self.incidents: list[Incident] = []
        self._cache = Cache(problem)
        self._collector = Collector(artifacts, strategy, replaces_parts=replaces_parts)
        self._submitted: set[int] = set()
        self._may_ask = True
        self._failures = 0  # in a row, and in this session: a resumed run tries as often again
        self._last_failure = ""
        self._snapshot_at = 0
        self._clock = time.monotonic()
        self._seconds_before = 0.0

    @property
    def spending(self) -> Spending:
        """The budget spent so far."""
        return self.accounts.spending

    @property
    def outcomes(self) -> dict[str, int]:
        """The number of outcomes by kind: ``measured``, ``cached``, ``trained``, ``failed``."""
        return self.accounts.outcomes

    @property
    def best(self) -> Measurement | None:
        """The measurement with the best first objective so far."""
        return self.accounts.best

    @property
    def running(self) -> int:
        """Number of tasks in work."""
        return len(self._submitted)

    @property
    def fraction(self) -> float:
        """The completed part of the budget, or of the strategy's own plan, whichever is larger."""
        in_work = sum(isinstance(task, Evaluate) for task in self.accounts.outstanding.values())
        completed = replace(self.spending, evaluations=self.spending.evaluations - in_work)
        return max(completed.fraction(self.budget), self.strategy.progress or 0.0)

    def run(self) -> None:
        """Search until the budget is spent or the strategy is finished, and no work is in flight.

        Raises:
            StrategyError: The strategy broke its contract.
            RunError: The log cannot be written, no worker is left, or only failures come that no limit counts.
        """
        self.begin()
        while self.fill():
            self._notify(None)
            try:
                outcomes = self.executor.wait(WAIT_SECONDS)
            finally:
                self._note_incidents()
            self.take(outcomes)
        self.end()

    def begin(self) -> None:
        """Replay the log, and submit the tasks that have no outcome; the first part of `run`."""
        self.replay()
        self.collect()
        self.log.append(
            "session",
            {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()},
            elapsed=self._elapsed(),
        )
        for task in list(self.accounts.outstanding.values()):
            self._route(task)

    def fill(self) -> bool:
        """Ask for and submit as many tasks as there is room for; return whether any is in work."""
        while self._ask():
            pass  # cache hits leave room for more tasks
        if not self._submitted:
            self._check_failures()
        return bool(self._submitted)

    def take(self, outcomes: Sequence[Outcome]) -> None:
        """Log the outcomes of the executor and tell them; none means that time has passed."""
        for outcome in outcomes:
            self._submitted.discard(outcome.id)
            self._settle(outcome)
        self.collect(at_least=collection.COLLECT_BYTES)
        if not outcomes:
            self.log.sync()  # while events come in, the log syncs itself

    def end(self) -> None:
        """Log that the search has come to its end; the last part of `run`."""
        self.collect()
        self.log.append("end", {"reason": "budget" if self.spent() else "strategy"}, elapsed=self._elapsed())
        self.log.sync()

    def completed(self, outcome: Outcome) -> Outcome:
        """Add the analytic (free) metrics to a measurement; it becomes a failure if an objective is not finite."""
        if not isinstance(outcome, Measurement):
            return outcome
        try:
            metrics = {**outcome.metrics, **self.problem.cost(outcome.architecture).metrics()}
        except InputError as error:  # what is measured need not be the network
            return Failure(
                task=outcome.task, kind="no cost", message=str(error), spent=outcome.spent, curve=outcome.curve
            )
        for metric in self.problem.goal.metrics:
            if metric not in metrics:
                return Failure(
                    task=outcome.task,
                    kind="no metric",
                    message=f"a measurement must have every metric of objectives and constraints, but {metric} is "
                    f"missing from {', '.join(sorted(outcome.metrics))}; return it, or name another objective",
                    spent=outcome.spent,
                    curve=outcome.curve,
                )
            if not math.isfinite(metrics[metric]):
                return Failure(
                    task=outcome.task,
                    kind="non-finite",
                    message=f"{metric} is {metrics[metric]}, but must be a finite number in objectives and "
                    "constraints; the training may have diverged",
                    spent=outcome.spent,
                    curve=outcome.curve,
                )
        return replace(outcome, metrics=metrics)

    def spent(self) -> bool:
        """Whether the budget is spent, so that no more is asked for."""
        self._elapsed()
        return self.spending.fraction(self.budget) >= 1.0

    def replay(self) -> None:
        """Bring strategy, cache and accounts to the end of the log; `run` does this first."""
        done = replay(self.log, self.strategy, self.problem, self.accounts, self._enter, self._ruled)
        self._seconds_before, self._snapshot_at, self._may_ask = done.seconds, done.snapshot, done.may_ask
        self._clock = time.monotonic()

    def collect(self, *, at_least: int = 0) -> None:
        """Delete the artifacts that no later task can name, if there are at least this many new bytes."""
        self._collector.collect(self.accounts.outstanding.values(), self.log.sync, at_least=at_least)

    def _note_incidents(self) -> None:
        for incident in self.executor.incidents():
            self.log.append("incident", encode_incident(incident), elapsed=self._elapsed())
            self.incidents.append(incident)
            self.spending.device_seconds += incident.seconds

    def _elapsed(self) -> float:
        self.spending.seconds = self._seconds_before + time.monotonic() - self._clock
        return self.spending.seconds

    def _ask(self) -> bool:
        """Ask for as many tasks as there is room for; return whether there were any."""
        capacity = self.executor.capacity
        room = min(capacity - len(self._submitted), PARKED * capacity - len(self.accounts.outstanding))
        if self.budget.evaluations is not None:
            room = min(room, self.budget.evaluations - self.spending.evaluations)
        if room <= 0 or not self._may_ask or self._failures >= FAILURES or self.spent():
            return False
        tasks = self.strategy.ask(room)
        self._check(tasks, room)
        tasks = [self._ruled(task) for task in tasks]
        self.log.append("ask", {"n": room, "tasks": [encode_task(task) for task in tasks]}, elapsed=self._elapsed())
        self.accounts.ask(tasks)
        self._may_ask = bool(tasks)  # after an empty answer, new tasks need a new outcome
        for task in tasks:
            self._route(task)
        return bool(tasks)

    def _check(self, tasks: list[Task], room: int) -> None:
        name = type(self.strategy).__name__
        if len(tasks) > room:
            raise StrategyError(f"{name} was asked for at most {room} tasks, but gave {len(tasks)}")
        for task in tasks:
            if deleted := self._collector.deleted_artifacts(task):
                raise StrategyError(
                    f"{name} asked for task {task.id}, which needs the artifact {min(deleted)}, but it was deleted, "
                    "since handles() did not name it before; have handles() name all that a later task may need"
                )
            if isinstance(task, Evaluate) and not self.problem.feasible(task.architecture):
                limits = ", ".join(map(str, self.problem.limits))
                why = f"is not feasible under {limits}" if limits else "cannot be measured by the benchmark"
                raise StrategyError(f"{name} proposed {task.architecture}, which {why}")

    def _route(self, task: Task) -> None:
        """Answer a task from the cache, let it wait for equal work in flight, or submit it."""
        answer = self._cache.hit(task)
        if answer is not None:
            self._settle(answer)
        elif not self._cache.waits(task):
            self._submitted.add(task.id)
            self.executor.submit(task)

    def _settle(self, outcome: Outcome) -> None:
        """Log an outcome and tell it, then handle the tasks that waited for it."""
        outcome = self.completed(outcome)
        self.log.append("outcome", encode_outcome(outcome, with_task=False), elapsed=self._elapsed())
        self.accounts.tell(outcome)
        self._enter(outcome)
        self._may_ask = True
        self._count_failures(outcome)
        self.strategy.tell(outcome)
        self._notify(outcome)
        self._snapshot()
        for task in self._cache.release(outcome.task):
            self._route(task)

    def _count_failures(self, outcome: Outcome) -> None:
        """Count a failure that no limit counts: such tasks may fail at once, and a strategy ask for them for ever."""
        if not isinstance(outcome, Failure):
            self._failures = 0
        elif isinstance(outcome.task, TrainSupernet) or not self.budget.ends:
            self._failures += 1
            self._last_failure = f"{outcome.kind}: {outcome.message}"

    def _check_failures(self) -> None:
        if self._failures >= FAILURES and not self.spent():
            raise RunError(
                f"{self._failures} tasks in a row failed that no limit of the budget counts, as supernet trainings; "
                f"the last cause: {self._last_failure}; remove the cause and resume the run"
            )

    def _enter(self, outcome: Outcome) -> None:
        """Add an outcome to the cache, the stopping rules and the collector; also used in replay."""
        if isinstance(outcome, Measurement) and outcome.cached_from is None:
            self._cache.add(outcome)
        self._collector.add(outcome)
        if self.stopping is not None:
            self.stopping.enter(outcome)

    def _ruled(self, task: Task) -> Task:
        """A task of the strategy, with the rule by which its trial ends early."""
        return task if self.stopping is None else self.stopping.ruled(task)

    def _notify(self, outcome: Outcome | None) -> None:
        self._elapsed()
        for watcher in self.watchers:
            watcher.watch(self, outcome)

    def _snapshot(self) -> None:
        since = self.log.last - self._snapshot_at
        if since >= max(SNAPSHOT_EVENTS, SNAPSHOT_GROWTH * self._snapshot_at):
            self.log.save_snapshot(self.strategy.state())
            self._snapshot_at = self.log.last
