"""Handling of Ctrl-C (SIGINT), SIGTERM, and SIGHUP, which a closed terminal sends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from nasplat.task import Outcome

if TYPE_CHECKING:
    from nasplat.driver.loop import Search


def hangs_up() -> bool:
    """Whether a closed terminal is to end this process; not every system has the signal."""
    return hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


class Interruption:
    """Delays SIGINT, SIGTERM and SIGHUP until the work can be interrupted cleanly.

    A library that is starting up may swallow an exception or break on it. So the first signal is only recorded, and
    `arm` raises it later. A second signal is raised at once. After `arm`, every signal is raised when it arrives; and
    again after the next outcome, since a benchmark may have caught it: this is a watcher of the search.
    All are treated like Ctrl-C: the run stays resumable, and a message says how to resume it. Where SIGHUP is ignored,
    as `nohup` asks for, it stays so.

    Python handles signals in the main thread alone. A search in another thread leaves them as they are.
    """

    def __init__(self) -> None:
        self._noted = False
        self._armed = False
        self._closing = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up() else [])):
                self._before[each] = signal.signal(each, self._strike)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def check(self) -> None:
        """Raise the recorded signal, if there is one.

        Raises:
            KeyboardInterrupt: A signal was recorded.
        """
        if self._noted:
            raise KeyboardInterrupt

    def watch(self, search: "Search", outcome: Outcome | None) -> None:
        """Raise the recorded signal, if there is one; the search calls this after each outcome that it has told.

        Raises:
            KeyboardInterrupt: A signal was recorded.
        """
        self.check()

    def arm(self) -> None:
        """From now on, raise each signal when it arrives. This replaces signal handlers that a library has installed.

        Raises:
            KeyboardInterrupt: A signal was already recorded.
        """
        for each in self._before:
            signal.signal(each, self._strike)
        self._armed = True
        self.check()

    def disarm(self) -> None:
        """From now on, ignore signals, so that the cleanup is completed."""
        self._closing = True

    def _strike(self, signum: int, frame: FrameType | None) -> None:
        if self._closing:
            return
        again, self._noted = self._noted, True
        if self._armed or again:
            raise KeyboardInterrupt
