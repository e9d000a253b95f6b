"""Validation of a log: each event is checked against the events before it."""

import math
from collections.abc import Sequence

from nasplat.storage.decoding import count
from nasplat.storage.event_log import Event
from nasplat.task import (
    MOST_ASKED,
    Incident,
    Json,
    Measurement,
    Outcome,
    Task,
    decode_incident,
    decode_outcome,
    decode_task,
)

MALFORMED = (KeyError, TypeError, ValueError)
"""The exceptions that a malformed event raises."""


def describe(error: Exception) -> str:
    """Describe the error in an event; in messages, the text follows the event number."""
    return f"lacks {error}" if isinstance(error, KeyError) else str(error)


class LogValidator:
    """Takes events in order, and refuses the first that cannot follow the events before it.

    Args:
        finite: Metrics that every measurement has, and has a finite number for.
        shown: Metrics that every measurement has, if the first one does: a table of others need not have their costs.

    Attributes:
        seq: The number of the last event taken.
        asked: All tasks by id.
        outcomes: All outcomes in the order they were told.
        elapsed: Seconds of searching before each outcome.
        incidents: The incidents, in order.
        tested: The final measurements by trial.
        ended: Why the search ended, or None while it has not.
    """

    def __init__(self, *, finite: Sequence[str] = (), shown: Sequence[str] = ()) -> None:
        self.seq = 0
        self.asked: dict[int, Task] = {}
        self.outcomes: list[Outcome] = []
        self.elapsed: list[float] = []
        self.incidents: list[Incident] = []
        self.tested: dict[int, Measurement] = {}
        self.ended: str | None = None
        self._finite = finite
        self._shown = shown
        self._open: set[int] = set()
        self._measured: set[int] = set()
        self._newest = -1

    def take(self, event: Event) -> None:
        """Add the next event; a refused event changes nothing.

        Raises:
            KeyError, TypeError, ValueError: The event cannot follow the events before it.
        """
        if event.seq != self.seq + 1:
            raise ValueError(f"is missing; the next one is {event.seq}")
        match event.kind:
            case "ask":
                tasks = [decode_task(body) for body in _list(event.body["tasks"])]
                newest = self._newest
                for task in tasks:
                    if task.id <= newest:
                        raise ValueError(f"asks for task {task.id} after task {newest}, but ids must rise")
                    newest = task.id
                if len(tasks) > count(event.body, "n", most=max(MOST_ASKED, len(tasks))):
                    raise ValueError(f"has {len(tasks)} new tasks, but at most {event.body['n']} were asked for")
                self.asked.update((task.id, task) for task in tasks)
                self._open.update(task.id for task in tasks)
                self._newest = newest
                self.ended = None
            case "outcome":
                number = event.body["id"]
                if not _is_count(number) or number not in self._open:
                    raise ValueError(f"is the outcome of task {number!r}, which is not outstanding")
                outcome = decode_outcome(event.body, self.asked[number])
                self._check(outcome)
                self._open.remove(number)
                self._measured.update([number] if isinstance(outcome, Measurement) else [])
                self.outcomes.append(outcome)
                self.elapsed.append(event.elapsed)
            case "incident":
                self.incidents.append(decode_incident(event.body))
            case "test":
                tested = self._final(event.body)
                self.tested[tested.id] = tested
            case "end":
                if not isinstance(event.body["reason"], str):
                    raise TypeError("gives no reason for the end")
                self.ended = event.body["reason"]
            case "session":
                pass
            case _:
                raise ValueError(f"is of the unknown kind {event.kind[:40]!r}")
        self.seq = event.seq

    def _final(self, body: Json) -> Measurement:
        """The final measurement that an event records; every network has at most one."""
        number = body["id"]
        if not _is_count(number) or number not in self._measured:
            raise ValueError(f"tests trial {number!r}, which has no measurement")
        if number in self.tested:
            raise ValueError(f"tests trial {number} a second time")
        final = decode_outcome(body, self.asked[number])
        if not isinstance(final, Measurement) or final.split != "test":
            raise ValueError(f"tests trial {number} on another split than test")
        return final

    def _check(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Measurement):
            return
        shown = self._shown if self._measured else [name for name in self._shown if name in outcome.metrics]
        for name in (*self._finite, *shown):
            if name not in outcome.metrics:
                raise ValueError(f"measures task {outcome.id} without the metric {name!r}")
        for name in self._finite:
            if not math.isfinite(outcome.metrics[name]):
                raise ValueError(f"has {outcome.metrics[name]} as {name!r} of task {outcome.id}, but it must be finite")
        self._shown = shown


def _list(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        raise TypeError(f"has {type(value).__name__} instead of a list of tasks")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
