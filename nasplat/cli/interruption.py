"""Ctrl-C and polite requests to terminate."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interruption:
    """Holds SIGINT and SIGTERM back until there is something that can be interrupted cleanly.

    Libraries that are starting up may swallow an exception or break on it. So a first signal is only noted
    until `arm` is called, which raises it then; a second one is raised at once. Armed, every signal is raised
    where it strikes. SIGTERM is treated like Ctrl-C: the run stays resumable and says how.
    """

    def __init__(self) -> None:
        self._noted = False
        self._armed = False
        self._closing = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM):
            self._before[each] = signal.signal(each, self._strike)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def check(self) -> None:
        """Raise a signal that was noted.

        Raises:
            KeyboardInterrupt: There was one.
        """
        if self._noted:
            raise KeyboardInterrupt

    def arm(self) -> None:
        """From here on signals are raised where they strike, whatever handlers a library has put in place.

        Raises:
            KeyboardInterrupt: There was one already.
        """
        for each in self._before:
            signal.signal(each, self._strike)
        self._armed = True
        self.check()

    def disarm(self) -> None:
        """From here on signals are ignored: what is being cleaned up is not to be left half-way."""
        self._closing = True

    def _strike(self, signum: int, frame: FrameType | None) -> None:
        if self._closing:
            return
        if self._armed or self._noted:
            raise KeyboardInterrupt
        self._noted = True
