"""What a function of a user's own tells: the metrics that it returns, and figures while it trains."""

import operator
from collections.abc import Mapping
from typing import Any

from nasplat.curve import StopRule, reached
from nasplat.errors import InputError, TrialFailed
from nasplat.metric import Metric
from nasplat.options import shortly

MOST_EPOCHS = 10_000
"""Maximum number of epochs that a trial can report; the log keeps all of them."""


class TrialStopped(BaseException):
    """Ends a function whose trial is stopped; no `Exception`, so that the function does not take it for a fault."""


class Reporter:
    """Takes figures while a function trains: ``report(epoch, {"accuracy": 0.8})`` after each epoch.

    Args:
        name: The function's name in messages.
        stop: When the trial is stopped, if ever.
        epochs: The number of epochs of the trial, shown in the progress; None if it is unknown.

    Attributes:
        curve: What was reported, by epoch; two reports of one epoch are joined.
        images: The training images processed, as far as it was told.
        stopped: Why the trial was stopped; empty if it was not.
    """

    def __init__(self, name: str, stop: StopRule | None = None, *, epochs: int | None = None) -> None:
        self.curve: dict[int, dict[str, float]] = {}
        self.images = 0
        self.stopped = ""
        self._name = name
        self._stop = stop
        self._epochs = epochs
        self._thresholds = {} if stop is None else dict(stop.thresholds)
        self._best: float | None = None

    def __call__(self, epoch: int, metrics: Mapping[str, Any], *, images: int = 0) -> None:
        """Report the figures of an epoch. If the trial is to be stopped, this does not return.

        Args:
            epoch: The epoch, 0 or more; later calls may not name an earlier one. Count them alike in all trials.
            metrics: Figures by name, as the function returns them. NaN is allowed.
            images: The training images processed since the last report.

        Raises:
            TrialFailed: The epoch, the figures or the images are of another form.
        """
        try:
            number = operator.index(epoch)
        except TypeError:
            number = -1
        newest = next(reversed(self.curve), 0)
        if number < newest:
            raise TrialFailed(
                "wrong report",
                f"report must be told whole numbers of epochs that do not fall, but {self._name} reports {epoch!r} "
                f"after {newest}; call report(epoch, metrics) once at the end of each epoch",
            )
        if number not in self.curve and len(self.curve) >= MOST_EPOCHS:
            raise TrialFailed(
                "wrong report",
                f"a trial can report {MOST_EPOCHS:,} epochs, but {self._name} reports more; report epochs, not steps",
            )
        figures = numbers(metrics, self._name, "report")
        self.images += self._counted(images)
        self.curve[number] = self.curve.get(number, {}) | figures
        complete = number + (0 in self.curve)  # whether the function counts from 0 or from 1
        reached(complete, None if self._epochs is None or complete > self._epochs else self._epochs)
        rule = self._stop
        if rule is None or rule.metric not in figures:
            return
        self._best = rule.better(self._best, figures[rule.metric])
        threshold = self._thresholds.get(number)
        if threshold is not None and rule.misses(self._best, threshold):
            self.stopped = (
                f"by epoch {number}, {rule.metric} had not reached {threshold:.6g}, the median of the trials before"
            )
            raise TrialStopped

    def _counted(self, images: object) -> int:
        """A number of images.

        Raises:
            TrialFailed: It is none.
        """
        try:
            number = operator.index(images)  # type: ignore[arg-type]  # what it is for is found out here
        except TypeError:
            number = -1
        if number < 0:
            raise TrialFailed(
                "wrong report",
                f"report must be told a whole number of images, 0 or more, but {self._name} reports images="
                f"{shortly(images)}; give the training images processed since the last report",
            )
        return number


def numbers(metrics: object, name: str, how: str) -> dict[str, float]:
    """The metrics that a function gave as plain numbers.

    Args:
        metrics: What it gave.
        name: The name of the function.
        how: What it did with them: ``return`` or ``report``.

    Raises:
        TrialFailed: They are no mapping, or a value is no number, or one that its metric cannot have.
    """
    if not isinstance(metrics, Mapping) or not metrics:
        raise TrialFailed(
            "no metric",
            f"{name} must {how} its metrics by name, such as {{'accuracy': 0.9}}, but {how}s {shortly(metrics)}",
        )
    found = {}
    for key, value in metrics.items():
        if not isinstance(key, str):
            raise TrialFailed("no metric", f"{name} must name its metrics by text, but {how}s one as {shortly(key)}")
        found[key] = _number(value, key, name, how)
        known = Metric.known(key)
        if known is not None and found[key] == found[key]:  # NaN has its own failure, if it is an objective
            try:
                known.check(found[key])
            except InputError as error:
                raise TrialFailed("impossible metric", f"{name}: {error}") from None
    return found


def _number(value: Any, key: str, name: str, how: str) -> float:
    """A number, or the one of a tensor or array without dimensions, wherever it is."""
    kind, given = type(value).__name__, value
    try:
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            given = value.item()
        if isinstance(given, int | float) and not isinstance(given, bool):
            return float(given)
    except OverflowError:
        kind = "a whole number beyond the largest float"
    except RuntimeError:  # a tensor of the meta device has no value
        pass
    if hasattr(value, "shape"):
        kind = f"{kind} of shape {tuple(value.shape)}" + (f" on {value.device}" if hasattr(value, "device") else "")
    raise TrialFailed(
        "no number",
        f"{name} must {how} numbers, but {key} is {kind if kind != 'str' else shortly(value)}; {how} one number, such "
        f"as float({key}) or {key}.mean().item()",
    )
