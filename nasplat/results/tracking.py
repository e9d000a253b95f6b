"""Tracking of a search by other tools while it goes on: what is common to TensorBoard and MLflow.

A tracker is a watcher of the search. It only puts outcomes in a queue; a thread writes them, so that a slow disk or
server does not hold the search up. What fails there is said once, and tracking stops: the search goes on.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from nasplat.driver.loop import Search, Watcher
from nasplat.errors import InputError, printable
from nasplat.results.extras import needed
from nasplat.results.trials import Trial
from nasplat.run.directory import RunDirectory
from nasplat.task import Outcome

if TYPE_CHECKING:
    from nasplat.objective import Goal

WAITING = 20_000
"""Maximum number of outcomes that wait to be written. Beyond it the tool cannot keep up, and tracking stops."""
STALLED_SECONDS = 30.0
"""How long a single trial may take to be written once the search has ended."""
PATIENT_SECONDS = 2.0
"""After how long waiting for what is not written yet is explained."""
INTERRUPTED_SECONDS = 5.0
"""How long an interrupted search waits for what is not written yet. The next `--log-to` of the run makes up for it."""

Warn = Callable[[str], None]


class Sink(Protocol):
    """Where a tracker writes the trials of one run; used by one thread."""

    def open(self) -> set[int]:
        """Connect, and return the numbers of the trials that are there already, from earlier sessions of the run."""

    def write(self, trial: Trial, place: int, best: float | None) -> None:
        """Write one trial, completely or in a way that `open` does not take for complete.

        Args:
            trial: The trial.
            place: How many trials of the run ended before it.
            best: The best value of the first objective so far; None before the first measurement.
        """

    def close(self, *, finished: bool) -> None:
        """End the session; `finished` says that the search ended by itself."""


class Target(NamedTuple):
    """What `--log-to` names.

    Args:
        tool: ``tensorboard`` or ``mlflow``.
        place: The folder, or the tracking URI.
    """

    tool: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``tensorboard:DIR`` or ``mlflow:URI``, and import what it needs.

        Raises:
            InputError: The text has another form, or the tool's extra is not installed.
        """
        tool, _, place = text.partition(":")
        if tool not in ("tensorboard", "mlflow") or not place:
            raise InputError(
                "--log-to (log_to=…) takes tensorboard:DIR or mlflow:URI, such as tensorboard:logs or "
                f"mlflow:sqlite:///mlflow.db, but got {text!r}"
            )
        if tool == "tensorboard":
            needed("tensorboard", "tensorboard")  # torch would report another error
            needed("torch.utils.tensorboard", "tensorboard")
        else:
            from nasplat.results.mlflow import imported

            imported()
        return cls(tool, place)

    def sink(self, run: RunDirectory) -> Sink:
        """The sink for the trials of a run."""
        if self.tool == "tensorboard":
            from nasplat.results.tensorboard import TensorBoard

            return TensorBoard(Path(self.place), run)
        from nasplat.results.mlflow import MLflow

        return MLflow(self.place, run)


class Tracker:
    """A watcher that writes every trial of a run into a sink, those of earlier sessions included.

    Args:
        name: What is told of, such as ``mlflow``.
        sink: Where trials are written.
        run: The run.
        past: The outcomes of earlier sessions, in the order of the log.
        warn: Told in one line if tracking stops early, once, and if it goes on after the search has ended.
    """

    def __init__(self, name: str, sink: Sink, run: RunDirectory, past: Sequence[Outcome], warn: Warn) -> None:
        self._name = name
        self._sink = sink
        self._goal: Goal = run.config.goal
        self._space = run.space
        self._warn = warn
        self._queue: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        for outcome in past:
            self._queue.put(outcome)
        self._allowed = WAITING + len(past)
        self._stopped = threading.Event()
        self._warning = threading.Lock()
        self._finished = False
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"nasplat {name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def watch(self, search: Search, outcome: Outcome | None) -> None:
        """Queue an outcome; this takes microseconds."""
        if outcome is None or self._stopped.is_set():
            return
        if self._queue.qsize() >= self._allowed:
            self._stop(f"it cannot keep up: {self._queue.qsize():,} trials wait to be written")
        else:
            self._queue.put(outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished = error is None
        self._progress = time.monotonic()
        self._queue.put(None)
        begun, told = self._progress, False
        while self._thread.is_alive() and not self._stopped.is_set():
            self._thread.join(0.1)
            now = time.monotonic()
            if not told and now - begun > PATIENT_SECONDS:
                told = True
                self._warn(f"{self._name}: {self._queue.qsize():,} trials of the search are still being written")
            if now - self._progress > STALLED_SECONDS or (error is not None and now - begun > INTERRUPTED_SECONDS):
                self._stop(f"{self._queue.qsize():,} trials are not written yet")

    def _work(self) -> None:
        """Write trials until the search has ended or something fails; runs in the thread."""
        place, best = 0, None
        try:
            there: set[int] | None = None
            while (outcome := self._queue.get()) is not None and not self._stopped.is_set():
                trial = Trial.of(outcome, self._space)
                if trial is None:
                    continue
                if there is None:  # not before the log has its first event, which identifies the run
                    there = self._sink.open()
                best = self._better(best, trial)
                if trial.number not in there:
                    self._sink.write(trial, place, best)
                place += 1
                self._progress = time.monotonic()
            if there is not None and not self._stopped.is_set():
                self._sink.close(finished=self._finished)
        except Exception as error:  # noqa: BLE001  whatever the tool raises, the search goes on
            self._stop(f"{type(error).__name__}: {error}")

    def _better(self, best: float | None, trial: Trial) -> float | None:
        first = self._goal.objectives[0]
        value = trial.metrics.get(first.metric)
        if value is None or (best is not None and (value <= best if first.maximize else value >= best)):
            return best
        return value

    def _stop(self, why: str) -> None:
        """Stop tracking, and say so once."""
        with self._warning:
            if self._stopped.is_set():
                return
            self._stopped.set()
        reason = printable(" ".join(why.split()))[:300]
        self._warn(f"{self._name} is no longer written, and the search goes on: {reason}")


@contextmanager
def tracking(run: RunDirectory, targets: Sequence[Target], warn: Warn) -> Iterator[list[Watcher]]:
    """Watchers that write the trials of a run to these targets; at the end of the block they write what is queued.

    What earlier sessions of the run measured is written first, unless it is there already.
    """
    past = run.history().outcomes if targets else []
    with ExitStack() as stack:
        yield [stack.enter_context(Tracker(target.tool, target.sink(run), run, past, warn)) for target in targets]
