"""Progress of a search: done, running, failed, best so far, rate, time left; and incidents as they happen."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from nasplat.driver.loop import Search
from nasplat.task import Outcome
from nasplat.units import duration, figure, spelt


class SearchProgress:
    """Shows the progress of a search on a terminal. Without a terminal, it prints only incidents.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            BarColumn(bar_width=24), TextColumn("{task.percentage:3.0f} %  {task.description}"), console=console,
            transient=True, disable=not console.is_terminal, refresh_per_second=5,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=1.0)
        self._before: tuple[int, float, float] | None = None
        self._console = console
        self._incidents = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def watch(self, search: Search, outcome: Outcome | None) -> None:
        """Update the display. The terminal is redrawn only a few times a second."""
        for incident in search.incidents[self._incidents :]:
            self._console.print(f"[yellow]{escape(spelt(incident))}[/]")
        self._incidents = len(search.incidents)
        if not self._bar.disable:
            fraction = search.fraction
            self._bar.update(self._task, completed=fraction, description=self._describe(search, fraction))

    def _describe(self, search: Search, fraction: float) -> str:
        count = search.outcomes
        done = sum(count.values()) - count["failed"]
        seconds = search.spending.seconds
        if self._before is None:  # a resumed search counts its rate from here
            self._before = done, seconds, fraction
        done_before, seconds_before, fraction_before = self._before
        parts = [f"{done} done", f"{search.running} running", f"{count['failed']} failed"]
        if search.best is not None:
            metric = search.problem.goal.objectives[0].metric
            parts.append(f"best {metric} {figure(metric, search.best.metrics[metric])}")
        passed = seconds - seconds_before
        if passed > 1 and done > done_before:
            parts.append(f"{(done - done_before) / passed:.2g}/s")
        if passed > 1 and fraction > fraction_before:
            parts.append(f"{duration(passed * (1 - fraction) / (fraction - fraction_before))} left")
        return "  ".join(parts)
