"""Replay of a log: restores strategy and accounts as they were when the search was interrupted."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from nasplat.driver.accounts import Accounts
from nasplat.errors import RunError, StrategyError
from nasplat.problem import Problem
from nasplat.storage.event_log import Event, EventLog
from nasplat.strategy import Strategy
from nasplat.task import Json, Measurement, Outcome, Task, decode_incident, decode_outcome, decode_task, encode_task

COSTED_AGAIN = 5
"""Number of logged measurements whose costs are computed again, to check that they are unchanged."""
RECOUNTED = frozenset({"memory_bits"})
"""Metrics that earlier versions counted otherwise. They are checked only where the search compares by them."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The end of a log.

    Args:
        seconds: Seconds of searching before the last event.
        snapshot: The event number of the newest snapshot; 0 without one.
        may_ask: Whether the strategy may have tasks: its last answer was not empty, or outcomes came after it.
    """

    seconds: float
    snapshot: int
    may_ask: bool


def replay(
    log: EventLog,
    strategy: Strategy,
    problem: Problem,
    accounts: Accounts,
    entered: Callable[[Outcome], None],
    ruled: Callable[[Task], Task] = lambda task: task,
) -> Replayed:
    """Restore the newest snapshot of the strategy, and repeat the events after it.

    Args:
        log: The run's log.
        strategy: The strategy, in its initial state.
        problem: The strategy's problem.
        accounts: Empty accounts; all events are added to them.
        entered: Called with every outcome of the log, in order.
        ruled: Completes a task of the strategy as the search did, by the outcomes so far.

    Raises:
        StrategyError: The strategy asks for other tasks than the log has.
        RunError: Costs have changed.
    """
    snapshot = log.snapshot()
    strategy_lives, seconds, may_ask = snapshot is None, 0.0, True
    for event in log.events("ask", "outcome", "incident"):
        if snapshot is not None and not strategy_lives and event.seq > snapshot[0]:
            strategy.restore(snapshot[1])
            strategy_lives = True
        seconds = event.elapsed
        if event.kind == "ask":
            logged: list[Json] = event.body["tasks"]
            if strategy_lives:
                _ask_again(strategy, ruled, event, logged, restored=snapshot is not None)
            accounts.ask([decode_task(body) for body in logged])
            may_ask = bool(logged)
        elif event.kind == "incident":
            accounts.spending.device_seconds += decode_incident(event.body).seconds
        else:
            outcome = decode_outcome(event.body, accounts.outstanding[event.body["id"]])
            if accounts.outcomes["measured"] < COSTED_AGAIN:
                _check_costs(problem, outcome)
            accounts.tell(outcome)
            entered(outcome)
            may_ask = True
            if strategy_lives:
                strategy.tell(outcome)
    if snapshot is not None and not strategy_lives:
        strategy.restore(snapshot[1])
    return Replayed(seconds, snapshot[0] if snapshot else 0, may_ask)


def _ask_again(
    strategy: Strategy, ruled: Callable[[Task], Task], event: Event, logged: list[Json], *, restored: bool
) -> None:
    asked = [encode_task(ruled(task)) for task in strategy.ask(event.body["n"])]
    if asked != logged:
        raise StrategyError(
            f"on resuming, {type(strategy).__name__} asked for other tasks than the log has at event {event.seq}: "
            f"{asked} instead of {logged}; resume with the version of NASPlat that began the run"
            + (", unless `nasplat recover` says that its snapshot is damaged" if restored else "")
        )


def _check_costs(problem: Problem, outcome: Outcome) -> None:
    """Refuse to continue if analytic metrics have changed, for example by another latency table.

    Checking the first few measurements is enough, since the source of costs is read as a whole.
    """
    if not isinstance(outcome, Measurement):
        return
    compared = set(problem.goal.metrics) | {limit.metric for limit in problem.limits}
    for metric, value in problem.cost(outcome.architecture).metrics().items():
        if metric in RECOUNTED - compared:
            continue
        logged = outcome.metrics.get(metric, value)
        if logged != value and not math.isnan(value):
            raise RunError(
                f"on resuming, {metric} of {outcome.architecture} is {value:g}, but it was {logged:g} when the search "
                "began, so old and new trials cannot be compared; restore the table or the version of NASPlat that "
                "the search began with"
            )
