"""What a trial reports while it trains, who listens, and the rule that ends it early."""

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

from nasplat.storage.decoding import count, number, text, typed

Curve: TypeAlias = Mapping[int, Mapping[str, float]]
"""What a trial reported while it trained: values by metric name, by epoch in rising order."""

Listener: TypeAlias = Callable[[int, int | None], None]
"""Gets told how many epochs of the trial in work are complete, and of how many; None if that is unknown."""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
"""Who is told of the next trial."""
_OF_TRIAL: ContextVar[Listener | None] = ContextVar("listener of the trial", default=None)
"""Who is told of the trial in work."""


def reached(epoch: int, epochs: int | None) -> None:
    """Tell the listener how many epochs of the trial in work are complete; without one, nothing happens.

    No exception of the listener gets out: its fault is no failure of the trial.
    """
    if (listener := _OF_TRIAL.get()) is not None:
        with suppress(Exception):
            listener(epoch, epochs)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener told of the trials that this thread works on."""
    with _set(_LISTENER, listener):
        yield


@contextmanager
def trial() -> Iterator[None]:
    """Have the listener told of this trial alone: not of searches in it, and of no training outside of trials."""
    with _set(_OF_TRIAL, _LISTENER.get()), _set(_LISTENER, None):
        yield


@contextmanager
def _set(variable: ContextVar[Listener | None], listener: Listener | None) -> Iterator[None]:
    token = variable.set(listener)
    try:
        yield
    finally:
        variable.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When a trial ends before its time: at an epoch where its best value so far is worse than a threshold.

    The rule travels with the task, so that no worker waits for the driver, and a resumed search repeats it.

    Args:
        metric: The reported metric that counts.
        maximize: Whether higher values are better.
        thresholds: The worst value with which a trial goes on, by epoch.
    """

    metric: str
    maximize: bool
    thresholds: tuple[tuple[int, float], ...]

    def better(self, best: float | None, value: float) -> float:
        """The better one of the best value so far, None before the first, and a new value; NaN is worst."""
        if best is None or math.isnan(best):
            return value
        return value if (value > best if self.maximize else value < best) else best

    def misses(self, best: float, threshold: float) -> bool:
        """Whether a trial with this best value ends at a threshold; NaN misses every one."""
        return not (best >= threshold if self.maximize else best <= threshold)


def encode_curve(curve: Curve) -> list[Any]:
    """Encode a curve as JSON; `decode_curve` is the inverse."""
    return [[epoch, dict(metrics)] for epoch, metrics in curve.items()]


def decode_curve(points: Any) -> dict[int, dict[str, float]]:
    """Decode a curve from the result of `encode_curve`.

    Raises:
        KeyError, TypeError, ValueError: It is not an encoded curve.
    """
    curve: dict[int, dict[str, float]] = {}
    for point in typed({"curve": points}, "curve", list, "a list"):
        metrics = typed(point, 1, dict, "an object")
        curve[count(point, 0)] = {name: number(metrics, name) for name in metrics}
    return curve


def encode_rule(rule: StopRule) -> list[Any]:
    """Encode a rule as JSON; `decode_rule` is the inverse."""
    return [rule.metric, "max" if rule.maximize else "min", [list(pair) for pair in rule.thresholds]]


def decode_rule(body: Any) -> StopRule:
    """Decode a rule from the result of `encode_rule`.

    Raises:
        KeyError, TypeError, ValueError: It is not an encoded rule.
    """
    direction = text(body, 1)
    if direction not in ("max", "min"):
        raise ValueError(f"a direction must be max or min, but is {reprlib.repr(direction)}")
    pairs = typed(body, 2, list, "a list")
    return StopRule(
        metric=text(body, 0),
        maximize=direction == "max",
        thresholds=tuple((count(pair, 0), number(pair, 1)) for pair in pairs),
    )
