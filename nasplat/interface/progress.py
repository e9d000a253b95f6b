"""Progress of a search: done, running, epoch, failed, best so far, rate, time left; and incidents as they happen."""

import math
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress

from nasplat.curve import listening
from nasplat.driver.loop import Search
from nasplat.interface.bars import LineColumn
from nasplat.task import Evaluate, Failure, Outcome
from nasplat.units import duration, figure, spelt

PER_SECOND = 5
"""How often the progress is drawn at most."""


class _TerminalBar:
    """A bar on a terminal; elsewhere nothing."""

    def __init__(self, console: Console) -> None:
        self.shown = console.is_terminal and not console.quiet
        self._bar = Progress(
            BarColumn(bar_width=24), LineColumn("{task.percentage:3.0f} %  {task.description}"), console=console,
            transient=True, disable=not self.shown, refresh_per_second=PER_SECOND,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=1.0)

    def start(self) -> None:
        self._bar.start()

    def stop(self) -> None:
        self._bar.stop()

    def update(self, fraction: float, text: str, *, at_once: bool) -> None:
        self._bar.update(self._task, completed=fraction, description=text)


class _NotebookLine:
    """A line below a cell of a notebook, which is replaced as the search goes on.

    Rich could draw its bar there, but only with another package, ipywidgets.
    """

    shown = True

    def __init__(self) -> None:
        self._handle: Any = None
        self._next = 0.0

    def start(self) -> None:
        from IPython.display import display

        self._handle = display({"text/plain": "starting"}, raw=True, display_id=True)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)

    def update(self, fraction: float, text: str, *, at_once: bool) -> None:
        if self._handle is not None and (at_once or time.monotonic() >= self._next):
            self._next = time.monotonic() + 1 / PER_SECOND
            self._handle.update({"text/plain": f"{100 * fraction:3.0f} %  {text}"}, raw=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """How far a search is between two outcomes.

    Args:
        fraction: The completed part of the search.
        evaluations: The completed part of the budget's evaluations; 0 if it has none, or a supernet is trained.
        evaluation: The part of them that one is; 0 likewise.
        before: The text before the epoch.
        after: The text after it.
    """

    fraction: float
    evaluations: float
    evaluation: float
    before: str
    after: str


class SearchProgress:
    """Shows the progress of a search on a terminal or in a notebook. Elsewhere it prints only what goes wrong.

    That is every incident, and the first failure of each kind. Epochs within a trial are shown where it runs in this
    process; a worker of Ray tells only the outcome.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        self._display = _NotebookLine() if console.is_jupyter and not console.quiet else _TerminalBar(console)
        self._before: tuple[int, float, float] | None = None
        self._console = console
        self._incidents = 0
        self._told: set[str] = set()
        self._standing: _Standing | None = None
        self._in_epoch = False
        self._listening = ExitStack()

    def __enter__(self) -> Self:
        self._display.start()
        if self._display.shown:
            self._listening.enter_context(listening(self._reached))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        with suppress(OSError):  # a terminal that was closed takes nothing more
            self._display.stop()

    def watch(self, search: Search, outcome: Outcome | None) -> None:
        """Update the display, which is redrawn only a few times a second."""
        for incident in search.incidents[self._incidents :]:
            self._console.print(f"[yellow]{escape(spelt(incident))}[/]")
        self._incidents = len(search.incidents)
        if isinstance(outcome, Failure) and outcome.kind not in self._told:
            self._told.add(outcome.kind)
            self._console.print(
                f"[yellow]trial {outcome.id} failed ({escape(outcome.kind)}):[/] {escape(outcome.message)}"
            )
        self._in_epoch = False  # whatever runs next tells its own
        if self._display.shown:
            self._standing = standing = self._describe(search)
            self._display.update(standing.fraction, standing.before + standing.after, at_once=False)

    def _reached(self, epoch: int, epochs: int | None) -> None:
        """Show the epoch that the trial in work is in.

        It is called within the trial, so it takes what was noted before and asks neither the search nor its strategy.
        """
        if (standing := self._standing) is None:
            return
        part = epoch / epochs if epochs else 0.0
        fraction = max(standing.fraction, standing.evaluations + part * standing.evaluation)
        place = f"{min(epoch + 1, epochs)} of {epochs}" if epochs else f"{epoch + 1}"
        first, self._in_epoch = not self._in_epoch, True  # which may last for long, with nothing drawn after it
        self._display.update(fraction, f"{standing.before} (epoch {place}){standing.after}", at_once=first)

    def _describe(self, search: Search) -> _Standing:
        count, fraction = search.outcomes, search.fraction
        done = sum(count.values()) - count["failed"]
        seconds = search.spending.seconds
        if self._before is None:  # a resumed search counts its rate from here
            self._before = done, seconds, fraction
        done_before, seconds_before, fraction_before = self._before
        parts = [f"{count['failed']} failed"]
        if search.best is not None:
            metric = search.problem.goal.objectives[0].metric
            parts.append(f"best {metric} {figure(metric, search.best.metrics[metric])}")
        passed = seconds - seconds_before
        if passed > 1 and done > done_before:
            parts.append(f"{(done - done_before) / passed:.2g}/s")
        if passed > 1 and fraction > fraction_before:
            parts.append(f"{duration(passed * (1 - fraction) / (fraction - fraction_before))} left")
        in_work = search.accounts.outstanding.values()
        evaluation = 1 / (search.budget.evaluations or math.inf)
        if not all(isinstance(task, Evaluate) for task in in_work):
            evaluation = 0.0
        return _Standing(
            fraction=fraction,
            evaluations=evaluation * (search.spending.evaluations - len(in_work)),
            evaluation=evaluation,
            before=f"{done} done  {search.running} running",
            after="".join(f"  {part}" for part in parts),
        )
