"""The history of a run from its log: outcomes, the front, and the measurements that a person picks."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from nasplat.driver.budget import Spending
from nasplat.errors import DamageError, InputError
from nasplat.objective import bins, knee
from nasplat.run.layout import CONFIG, LOG
from nasplat.run.log_validator import MALFORMED, LogValidator, describe
from nasplat.storage.event_log import EventLog, recovering
from nasplat.task import Evaluate, Failure, Incident, Measurement, Outcome, Task, Trained
from nasplat.units import shown_metrics

if TYPE_CHECKING:
    from nasplat.run.directory import RunDirectory

MOST_BINS = 1_000
"""Maximum M of ``bins:M``."""


class History:
    """The content of a run's log, read once.

    Args:
        run: The run.

    Attributes:
        outcomes: All outcomes in the order they were told.
        elapsed: Seconds of searching before each outcome.
        asked: All tasks by id.
        incidents: The incidents, in order.
        tested: The final measurements by trial; only these use test data, except in searches on a table of test data.
        ended: Why the search ended (``budget`` or ``strategy``), or None while it has not.
    """

    def __init__(self, run: "RunDirectory") -> None:
        self.run = run
        goal = run.config.goal
        validator = LogValidator(finite=goal.metrics, shown=shown_metrics(goal))
        log = EventLog.open(run.folder / LOG)
        try:
            with _garbage_left_alone():
                for event in log.events():
                    validator.take(event)
        except MALFORMED as error:
            raise DamageError(
                f"the event log of {run.folder} is damaged, or does not fit its {CONFIG}: event {validator.seq + 1} "
                f"{describe(error)}; {recovering(run.folder)}"
            ) from error
        finally:
            log.close()
        self.outcomes: list[Outcome] = validator.outcomes
        self.elapsed: list[float] = validator.elapsed
        self.asked: dict[int, Task] = validator.asked
        self.incidents: list[Incident] = validator.incidents
        self.tested: dict[int, Measurement] = validator.tested
        self.ended: str | None = validator.ended

    @cached_property
    def spending(self) -> Spending:
        """The budget spent so far."""
        spending = Spending(
            evaluations=sum(isinstance(task, Evaluate) for task in self.asked.values()),
            seconds=self.elapsed[-1] if self.elapsed else 0.0,
        )
        for outcome in self.outcomes:
            spending.add(outcome)
        spending.device_seconds += sum(incident.seconds for incident in self.incidents)
        return spending

    @property
    def status(self) -> str:
        """``finished``, ``running`` or ``interrupted``."""
        if self.ended is not None:
            return "finished"
        return "running" if self.run.is_being_written() else "interrupted"

    @cached_property
    def measurements(self) -> list[Measurement]:
        """All measurements, in the order they were told."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Measurement)]

    @cached_property
    def measured(self) -> list[Measurement]:
        """The measurements without cache hits."""
        return [measurement for measurement in self.measurements if measurement.cached_from is None]

    @cached_property
    def trained(self) -> list[Trained]:
        """All trainings of shared weights, in the order they were told."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Trained)]

    @cached_property
    def failures(self) -> list[Failure]:
        """All failures, in the order they were told."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]

    @cached_property
    def ranked(self) -> list[Measurement]:
        """The measurements without cache hits, the best first."""
        return self.run.config.goal.ranked(self.measured)

    @cached_property
    def fidelities(self) -> list[int]:
        """All fidelities that were measured, in epochs, rising; fronts are of the highest."""
        return sorted({measurement.task.fidelity for measurement in self.measured})

    @cached_property
    def complete(self) -> list[Measurement]:
        """The measurements at the most epochs, by trial, without cache hits."""
        return sorted((m for m in self.measured if m.task.fidelity == self.fidelities[-1]), key=lambda m: m.id)

    @cached_property
    def front(self) -> list[Measurement]:
        """The non-dominated measurements, sorted by the first objective."""
        return self.run.config.goal.front(self.measurements)

    def picks(self, which: str) -> list[Measurement]:
        """One measurement, as in `pick`, or several.

        ``front`` gives the front. ``bins:M`` gives some members of the front, from the smallest to the largest.
        ``all`` gives every measurement at the highest fidelity, sorted by trial.

        Raises:
            InputError: As in `pick`; or ``bins:M`` has no second objective to use as the size.
        """
        if which == "front":
            return self._pickable
        if which == "all":
            self._check_measured()
            return self.complete
        if not which.startswith("bins:"):
            return [self.pick(which)]
        number = int(match[1]) if (match := re.fullmatch(r"bins:0*([0-9]{1,4})", which)) else 0
        if not 1 <= number <= MOST_BINS:
            raise InputError(
                f"--pick bins:M takes a number of ranges from 1 to {MOST_BINS}, such as bins:4 (pick='bins:4'), but "
                f"got {which[:40]!r}"
            )
        return bins(self.run.config.goal, self._pickable, number)

    def pick(self, which: str) -> Measurement:
        """One measurement: ``best`` by the first objective, the front's ``knee``, or a trial's number.

        Raises:
            InputError: There is no such trial, or there are no measurements yet.
        """
        if which not in ("best", "knee") and not which.isdecimal():
            raise InputError(
                f"--pick must be best, knee or a trial's number, or bins:M, front or all for several "
                f"(pick=…), but got {which!r}"
            )
        if which.isdecimal():
            number = which.lstrip("0") or "0"  # compared as text, since Python limits the length of numbers
            for outcome in self.outcomes:
                if str(outcome.id) == number:
                    if isinstance(outcome, Measurement):
                        return outcome
                    raise InputError(f"trial {which} of {self.run.folder} has no measurement; pick another trial")
            raise InputError(f"{self.run.folder} has no finished trial {which}; it has {len(self.outcomes)} outcomes")
        return self._pickable[0] if which == "best" else knee(self.run.config.goal, self._pickable)

    @property
    def _pickable(self) -> list[Measurement]:
        """The front, which must not be empty.

        Raises:
            InputError: The front is empty.
        """
        self._check_measured()
        if not self.front:
            limits = ", ".join(map(str, self.run.config.goal.constraints))
            raise InputError(
                f"{self.run.folder} has no measurement that satisfies {limits}; pick a trial by its number"
            )
        return self.front

    def _check_measured(self) -> None:
        """Check that there is a measurement to pick.

        Raises:
            InputError: There is no measurement; the message gives the reason.
        """
        if self.measured:
            return
        why = "no trial has ended yet"
        if self.failures:
            first = self.failures[0]
            why = f"all {len(self.failures)} finished trials failed, such as trial {first.id} ({first.kind})"
        raise InputError(f"{self.run.folder} has no measurement to pick: {why}")


def names_several(pick: str) -> bool:
    """Whether a pick may give more than one measurement."""
    return pick in ("front", "all") or pick.startswith("bins:")


@contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """Disable garbage collection in the block: all new objects are kept, so it only makes the block a third slower."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
