"""Human-readable values of metrics and durations."""

from collections.abc import Iterable

from nasplat.metric import FRACTION, Metric
from nasplat.objective import Goal
from nasplat.task import Incident, Measurement


def figure(name: str, value: float) -> str:
    """Format a metric's value: fractions in percent, decibels, counts with a unit prefix.

    >>> figure("accuracy", 0.91607), figure("params", 73306), figure("macs", 117883520), figure("loss", 0.25)
    ('91.61 %', '73.3 k', '117.9 M', '0.25')
    >>> figure("psnr_db", 33.66032), figure("latency_ms", 6482.3)
    ('33.660 dB', '6,482')
    """
    known = Metric.known(name)
    if known is not None and known.unit == FRACTION and known.maximize:
        return f"{100 * value:.2f} %"
    if name.endswith("_db"):
        return f"{value:.3f} dB"
    if name.endswith("_ms"):
        return _plain(value, 4)
    if abs(value) >= 1000:
        for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= factor:
                return f"{value / factor:.1f} {prefix}"
    return f"{value:.4g}"


def milliseconds(value: float, digits: int = 3) -> str:
    """Format milliseconds with a number of significant digits.

    >>> milliseconds(0.25191), milliseconds(6482.3)
    ('0.252 ms', '6,480 ms')
    """
    return f"{_plain(value, digits)} ms"


def _plain(value: float, digits: int) -> str:
    """A number with this many significant digits, without an exponent where it is large."""
    return f"{float(f'{value:.{digits}g}'):,.12g}"


def duration(seconds: float) -> str:
    """Format seconds.

    >>> duration(7.25), duration(75), duration(7322)
    ('7.2 s', '1:15 min', '2:02 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


def shown_metrics(goal: Goal, measurements: Iterable[Measurement] = ()) -> list[str]:
    """The metrics of a result table: the objectives first, then parameters and MACs, if the measurements have them."""
    known = [measurement.metrics for measurement in measurements]
    metrics = [objective.metric for objective in goal.objectives]
    return metrics + [
        name for name in ("params", "macs") if name not in metrics and all(name in each for each in known)
    ]


def spelt(incident: Incident) -> str:
    """Format an incident in one line.

    >>> spelt(Incident(kind="worker died", message="its process ended", action="tried again", trial=7, worker="a:12"))
    'worker died (trial 7, on a:12), tried again: its process ended'
    """
    struck = [f"trial {incident.trial}"] if incident.trial is not None else []
    place = ", ".join(struck + ([f"on {incident.worker}"] if incident.worker else []))
    return f"{incident.kind}{f' ({place})' if place else ''}, {incident.action}: {incident.message}"
