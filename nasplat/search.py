"""The search loop: ask, log, run, log, tell, until the budget is spent or the strategy is finished."""

import math
import os
import socket
import time
from dataclasses import replace
from typing import Protocol, TypeAlias

from nasplat.architecture import Architecture
from nasplat.budget import Budget, Spending
from nasplat.errors import RunError, StrategyError
from nasplat.executors.executor import Executor
from nasplat.problem import Problem
from nasplat.run.event_log import Event, EventLog
from nasplat.run.shelf import Shelf
from nasplat.strategy import Strategy, named_digests
from nasplat.task import (
    STATE,
    Evaluate,
    Failure,
    Incident,
    Json,
    Measurement,
    Outcome,
    Task,
    Trained,
    decode_incident,
    decode_outcome,
    decode_task,
    encode_incident,
    encode_outcome,
    encode_task,
    needed_by,
)

SNAPSHOT_EVENTS = 2_000
"""How many events may have to be replayed at least before another snapshot is worth its while."""
SNAPSHOT_GROWTH = 0.5
"""Past that, snapshots come each time the log has grown by this part, so that their cost stays in proportion."""
COLLECT_BYTES = 256 * 2**20
"""How much must have come to the artifacts before it is worth looking which of them are still needed."""
COLLECT_GROWTH = 0.5
"""Past that, it must be this part of what was needed the last time."""
PRICED_AGAIN = 5
"""So many of the logged measurements are priced again, to see that prices are what they were."""
WAIT_SECONDS = 0.5
PARKED = 4
"""How many times the workers' number may be outstanding, tasks that wait for the same work included."""

Work: TypeAlias = tuple[str, int, int]


class Watcher(Protocol):
    """Is shown the search as it goes."""

    def watch(self, search: "Search", outcome: Outcome | None) -> None:
        """Called after every outcome was told, and every half second with None."""


class Search:
    """One search: a strategy, an executor, and the log that lets it go on where it was killed.

    Every ask and every outcome is logged before it takes effect. A new `Search` on a log that already has
    events replays them: it restores the newest snapshot, repeats what follows, checks that the strategy asks
    for the same, and submits again what was asked for and never answered.

    Args:
        problem: What the strategy was given.
        strategy: Proposes tasks; fresh, made with `problem`.
        executor: Runs them.
        log: The run's log.
        budget: When to stop asking.
        watcher: Is shown the progress.
        artifacts: Where the executor keeps artifacts, to be cleared of what nothing can refer to any more. Kept
            are what measurements left but the states that only a further task could use, and every artifact
            that the strategy's state or a task in flight names. Of shared weights there are kept the newest, those
            named so, and those behind the measurements of the highest fidelity, which fronts are made of; what
            measurements with shared weights left is kept as long as these are. Where a strategy `replaces_parts`, what
            a measurement left goes when another has continued it.

    Attributes:
        spending: What was spent so far.
        best: The measurement with the best first objective so far.
        outcomes: The number of outcomes by what they are: ``measured``, ``remembered``, ``trained``, ``failed``.
        incidents: What went wrong around the work since this search was made.
    """

    def __init__(
        self,
        problem: Problem,
        strategy: Strategy,
        executor: Executor,
        log: EventLog,
        budget: Budget,
        watcher: Watcher | None = None,
        artifacts: Shelf | None = None,
    ) -> None:
        self.problem = problem
        self.strategy = strategy
        self.executor = executor
        self.log = log
        self.budget = budget
        self.watcher = watcher
        self.artifacts = artifacts
        self.spending = Spending()
        self.outcomes = {"measured": 0, "remembered": 0, "trained": 0, "failed": 0}
        self.incidents: list[Incident] = []
        self.best: Measurement | None = None
        self._outstanding: dict[int, Task] = {}
        self._submitted: set[int] = set()
        self._known: dict[Work, Measurement] = {}
        self._awaited: dict[Work, list[Evaluate]] = {}
        self._left: set[str] = set()
        self._parts: dict[tuple[Architecture, int], set[str]] = {}
        self._shared: list[tuple[str, Measurement]] = []
        self._newest_supernet: str | None = None
        self._may_ask = True
        self._snapshot_at = 0
        self._clock = time.monotonic()
        self._seconds_before = 0.0

    @property
    def running(self) -> int:
        """How many tasks are being worked on."""
        return len(self._submitted)

    @property
    def fraction(self) -> float:
        """The part of the budget that is spent, or of the strategy's own plan that is carried out if that is more."""
        return max(self.spending.fraction(self.budget), self.strategy.progress or 0.0)

    def run(self) -> None:
        """Search until the budget is spent or the strategy is finished, and the work in flight has come in.

        Raises:
            StrategyError: The strategy broke its contract.
            RunError: The log cannot be written, or no worker can be had any more.
        """
        self._replay()
        self._collect(at_least=0)
        self.log.append(
            "session",
            {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()},
            elapsed=self._elapsed(),
        )
        for task in list(self._outstanding.values()):
            self._route(task)
        while True:
            while self._ask():
                pass  # what memory answered has left room for more
            if not self._submitted:
                break
            try:
                outcomes = self.executor.wait(WAIT_SECONDS)
            finally:
                self._note_incidents()
            for outcome in outcomes:
                self._submitted.discard(outcome.id)
                self._settle(outcome)
            self._collect(at_least=COLLECT_BYTES)
            if not outcomes:
                self._notify(None)
                self.log.sync()  # while events come in, the log sees to it itself
        self._collect(at_least=0)
        self.log.append("end", {"reason": "budget" if self._spent() else "strategy"}, elapsed=self._elapsed())
        self.log.sync()

    def _note_incidents(self) -> None:
        for incident in self.executor.incidents():
            self.log.append("incident", encode_incident(incident), elapsed=self._elapsed())
            self.incidents.append(incident)
            self.spending.device_seconds += incident.seconds

    def _elapsed(self) -> float:
        self.spending.seconds = self._seconds_before + time.monotonic() - self._clock
        return self.spending.seconds

    def _spent(self) -> bool:
        self._elapsed()
        return self.spending.fraction(self.budget) >= 1.0

    def _ask(self) -> bool:
        """Ask for as many tasks as there is room for; whether there were any."""
        capacity = self.executor.capacity
        room = min(capacity - len(self._submitted), PARKED * capacity - len(self._outstanding))
        if self.budget.evaluations is not None:
            room = min(room, self.budget.evaluations - self.spending.evaluations)
        if room <= 0 or not self._may_ask or self._spent():
            return False
        tasks = self.strategy.ask(room)
        self._check(tasks, room)
        self.log.append("ask", {"n": room, "tasks": [encode_task(task) for task in tasks]}, elapsed=self._elapsed())
        self._note_asked(tasks)
        for task in tasks:
            self._route(task)
        return bool(tasks)

    def _note_asked(self, tasks: list[Task]) -> None:
        self._may_ask = bool(tasks)  # after an empty answer only an outcome can change the strategy's mind
        for task in tasks:
            self._outstanding[task.id] = task
            self.spending.evaluations += isinstance(task, Evaluate)

    def _check(self, tasks: list[Task], room: int) -> None:
        name = type(self.strategy).__name__
        if len(tasks) > room:
            raise StrategyError(f"{name} was asked for at most {room} tasks, but gave {len(tasks)}")
        for task in tasks:
            if isinstance(task, Evaluate) and not self.problem.feasible(task.architecture):
                limits = ", ".join(map(str, self.problem.limits)) or "membership in the benchmark"
                raise StrategyError(f"{name} proposed {task.architecture}, which is not feasible under {limits}")

    def _route(self, task: Task) -> None:
        """Answer a task from memory, let it wait for the same work in flight, or submit it."""
        work = self._work(task)
        if work is not None and isinstance(task, Evaluate):
            known = self._known.get(work)
            if known is not None:
                # The answer repeats figures, not the network: weights and costs stay with the code they belong to.
                answer = Measurement(task=task, metrics=known.metrics, split=known.split, remembered=known.id)
                self._settle(answer)
                return
            if work in self._awaited:
                self._awaited[work].append(task)
                return
            self._awaited[work] = []
        self._submitted.add(task.id)
        self.executor.submit(task)

    def _settle(self, outcome: Outcome) -> None:
        """Log an outcome and tell it, then see to the tasks that waited for it."""
        outcome = self._completed(outcome)
        self.log.append("outcome", encode_outcome(outcome, with_task=False), elapsed=self._elapsed())
        self._take(outcome)
        self.strategy.tell(outcome)
        self._notify(outcome)
        self._snapshot()
        work = self._work(outcome.task)
        if work is not None:
            for task in self._awaited.pop(work, []):
                self._route(task)

    def _completed(self, outcome: Outcome) -> Outcome:
        """A measurement with the costs known for free, or a failure if an objective is not finite."""
        if not isinstance(outcome, Measurement):
            return outcome
        metrics = {**outcome.metrics, **self.problem.cost(outcome.architecture).metrics()}
        for metric in self.problem.goal.metrics:
            if not math.isfinite(metrics.get(metric, math.nan)):
                return Failure(
                    task=outcome.task,
                    kind="non-finite",
                    message=f"{metric} is {metrics.get(metric, 'missing')}",
                    spent=outcome.spent,
                )
        return replace(outcome, metrics=metrics)

    def _take(self, outcome: Outcome) -> None:
        """Enter an outcome into memory and accounts, now or in replay."""
        task = self._outstanding.pop(outcome.id)
        self._may_ask = True
        self.spending.add(outcome)
        match outcome:
            case Measurement(remembered=None):
                self.outcomes["measured"] += 1
                if self.best is None or self.problem.goal.better_first(outcome, self.best):
                    self.best = outcome
                work = self._work(task)
                if work is not None:
                    self._known.setdefault(work, outcome)
                if outcome.task.weights is None:
                    self._keep(outcome)
                else:
                    self._shared.append((outcome.task.weights.digest, outcome))
            case Measurement():
                self.outcomes["remembered"] += 1
            case Failure():
                self.outcomes["failed"] += 1
            case Trained():
                self.outcomes["trained"] += 1
                self._newest_supernet = outcome.weights.digest

    def _keep(self, measurement: Measurement) -> None:
        """Keep what a measurement left for good; of parts that continue one another only the last, if that is said."""
        if not self.strategy.replaces_parts:
            self._left |= _lasting(measurement)
            return
        parts = self._parts.setdefault((measurement.architecture, measurement.task.replicate), set())
        if measurement.task.continues is not None:
            parts.clear()
        parts |= _lasting(measurement)

    def _work(self, task: Task) -> Work | None:
        """What makes two evaluations the same work; None for work that is never the same."""
        if not isinstance(task, Evaluate) or needed_by(task):
            return None
        return self.problem.key(task.architecture), task.fidelity, task.replicate

    def _notify(self, outcome: Outcome | None) -> None:
        if self.watcher is not None:
            self._elapsed()
            self.watcher.watch(self, outcome)

    def _snapshot(self) -> None:
        since = self.log.last - self._snapshot_at
        if since >= max(SNAPSHOT_EVENTS, SNAPSHOT_GROWTH * self._snapshot_at):
            self.log.save_snapshot(self.strategy.state())
            self._snapshot_at = self.log.last

    def _collect(self, *, at_least: int) -> None:
        """Delete the artifacts that no later task can name, if enough have come in to make it worth while.

        A strategy knows what it was told, and whatever of that it can still use is in its state. So what
        neither the state nor a task in flight names is out of its reach for good.
        """
        shelf = self.artifacts
        if shelf is None or shelf.added < at_least or (at_least and shelf.added < COLLECT_GROWTH * shelf.kept):
            return
        if not shelf.folder.is_dir():
            return
        wanted = self._left.union({self._newest_supernet or ""}, *self._parts.values())
        wanted |= named_digests(self.strategy)
        for task in self._outstanding.values():
            wanted |= needed_by(task)
        wanted |= self._left_with_shared(wanted)
        self.log.sync()  # what a power cut could take back might need again what is deleted now
        shelf.collect(wanted)

    def _left_with_shared(self, named: set[str]) -> set[str]:
        """The shared weights behind the highest fidelity, and what was left with them or with `named` ones.

        What was left with others is forgotten.
        """
        highest = max((m.task.fidelity for _, m in self._shared), default=0)
        weights = named | {digest for digest, m in self._shared if m.task.fidelity == highest}
        self._shared = [(digest, m) for digest, m in self._shared if digest in weights]
        return {each for digest, m in self._shared for each in (digest, *_lasting(m))}

    def _replay(self) -> None:
        """Bring strategy, memory and spending to where the log ends."""
        snapshot = self.log.snapshot()
        self._snapshot_at = snapshot[0] if snapshot else 0
        strategy_lives = snapshot is None
        for event in self.log.events("ask", "outcome", "incident"):
            if snapshot is not None and not strategy_lives and event.seq > snapshot[0]:
                self.strategy.restore(snapshot[1])
                strategy_lives = True
            self._seconds_before = event.elapsed
            if event.kind == "ask":
                self._replay_ask(event, repeat=strategy_lives)
            elif event.kind == "incident":
                self.spending.device_seconds += decode_incident(event.body).seconds
            else:
                outcome = decode_outcome(event.body, self._outstanding[event.body["id"]])
                self._check_price(outcome)
                self._take(outcome)
                if strategy_lives:
                    self.strategy.tell(outcome)
        if snapshot is not None and not strategy_lives:
            self.strategy.restore(snapshot[1])
        self._clock = time.monotonic()

    def _check_price(self, outcome: Outcome) -> None:
        """Refuse to go on where what is known beforehand has changed, as by another table of latency.

        The first few measurements tell: whatever prices are made of is read as a whole.
        """
        if not isinstance(outcome, Measurement) or self.outcomes["measured"] >= PRICED_AGAIN:
            return
        for metric, value in self.problem.cost(outcome.architecture).metrics().items():
            logged = outcome.metrics.get(metric, value)
            if logged != value and not math.isnan(value):
                raise RunError(
                    f"resuming, {metric} of {outcome.architecture} is {value:g}, but it was {logged:g} when the search "
                    "began, so that old trials and new ones would not compare; put back the table or the version that "
                    "it began with"
                )

    def _replay_ask(self, event: Event, *, repeat: bool) -> None:
        logged: list[Json] = event.body["tasks"]
        if repeat:
            asked = [encode_task(task) for task in self.strategy.ask(event.body["n"])]
            if asked != logged:
                raise StrategyError(
                    f"resuming, {type(self.strategy).__name__} asked for other tasks than the log has at event "
                    f"{event.seq}: {asked} instead of {logged}; resume with the version that began the run"
                )
        self._note_asked([decode_task(body) for body in logged])


def _lasting(measurement: Measurement) -> set[str]:
    """The digests of what a measurement left for good, be it as long as shared weights last."""
    return {handle.digest for role, handle in measurement.artifacts.items() if role != STATE}
