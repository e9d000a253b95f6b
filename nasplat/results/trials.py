"""A finished trial in plain values, as tables and other tools take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeAlias

from nasplat.architecture import Architecture
from nasplat.curve import Curve
from nasplat.errors import InputError, printable
from nasplat.search_space import GeneSpace, SearchSpace
from nasplat.task import Evaluate, Failure, Measurement, Outcome

Status: TypeAlias = Literal["measured", "cached", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial that has ended. A run may be somebody else's: texts have no control characters.

    Args:
        number: The number of the trial, as every command names it.
        code: The code of the architecture.
        genes: The choice of every gene by the gene's name, in the order of the space; empty for a space without genes.
        status: ``cached`` is a cache hit, which repeats an earlier measurement.
        failure: The kind of failure; empty otherwise.
        message: What failed, in one line; empty otherwise.
        fidelity: The epochs of the measurement.
        replicate: Distinguishes repeated measurements of one architecture.
        seed: All randomness of the trial came from it.
        metrics: Values by metric name, with the unit in the name; empty for a failure.
        split: The split of the metrics: ``validation`` or ``test``; empty for a failure.
        seconds: Seconds of work on one device; if several devices shared the work, the sum over them.
        images: Training images processed.
        device: ``cpu`` or ``cuda``; empty if no worker did it.
        worker: The process that did it, as ``host:pid``.
        started: When the work began, in UTC; None if no worker did it.
        finished: `seconds` after that.
        cached_from: The trial whose measurement a cache hit repeats.
        curve: Metrics while the trial trained, by epoch; empty if it reported none.
    """

    number: int
    code: str
    genes: Mapping[str, str] = field(default_factory=dict)
    status: Status
    failure: str = ""
    message: str = ""
    fidelity: int
    replicate: int
    seed: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    split: str = ""
    seconds: float
    images: int
    device: str
    worker: str
    started: datetime | None
    finished: datetime | None
    cached_from: int | None = None
    curve: Curve = field(default_factory=dict)

    @classmethod
    def of(cls, outcome: Outcome, space: SearchSpace | None) -> Self | None:
        """The trial of an outcome; None for a training of a supernet, which is no trial.

        Args:
            outcome: An outcome of the run.
            space: The run's space, for the genes; None if its plug-in is missing.
        """
        task, spent = outcome.task, outcome.spent
        if not isinstance(task, Evaluate) or not isinstance(outcome, Measurement | Failure):
            return None
        details: dict[str, Any] = {"status": "failed"}
        if isinstance(outcome, Measurement):
            details = {
                "status": "measured" if outcome.cached_from is None else "cached",
                "metrics": _printable(outcome.metrics),
                "split": outcome.split,
                "cached_from": outcome.cached_from,
            }
        else:
            details |= {"failure": printable(outcome.kind), "message": printable(outcome.message)}
        return cls(
            number=task.id,
            code=printable(task.architecture.code),
            genes=genes_of(task.architecture, space),
            fidelity=task.fidelity,
            replicate=task.replicate,
            seed=task.seed,
            seconds=spent.seconds,
            images=spent.images,
            device=printable(spent.device),
            worker=printable(spent.worker),
            started=_instant(spent.started),
            finished=_instant(spent.started and spent.started + spent.seconds),
            curve={epoch: _printable(metrics) for epoch, metrics in outcome.curve.items()},
            **details,
        )


def genes_of(architecture: Architecture, space: SearchSpace | None) -> dict[str, str]:
    """The choice of every gene by name; empty if the space has no genes, or is not there, or lacks the architecture."""
    if not isinstance(space, GeneSpace):
        return {}
    try:
        choices = space.choices(space.parse(architecture.code))
    except InputError:
        return {}
    return {gene.name: gene.choices[choice] for gene, choice in zip(space.genes, choices, strict=True)}


def _printable(metrics: Mapping[str, float]) -> dict[str, float]:
    return {printable(name): value for name, value in metrics.items()}


def _instant(seconds: float) -> datetime | None:
    """A time from seconds since 1970; None without one, or if no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (OverflowError, OSError, ValueError):
        return None
