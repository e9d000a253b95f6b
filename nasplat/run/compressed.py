"""The results of a compression: each network as it was, as it was fitted, and fine-tuned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Self

from nasplat.architecture import Architecture
from nasplat.cost import EXPECTED, SPREAD
from nasplat.objective import Objective
from nasplat.run.history import History
from nasplat.run.retrained import MeanStd, spelt
from nasplat.task import Measurement
from nasplat.units import figure, milliseconds

ORIGINAL, FITTED, TUNED = "original", "as fitted", "fine-tuned"
"""The states of a network."""
COSTS = ("memory_bits", "multiplications", "additions", "bit_operations", "params")
"""The costs that are compared."""
EXPECTED_MACS = "expected MACs"
"""The column of the MACs that images take, if they differ; its spread is over images, other spreads are over seeds."""
BIT_OPERATIONS = COSTS[3]
"""The cost that a table leaves out where no network has any."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """A network as a file.

    Args:
        weights: The bytes of its weights, as safetensors.
        onnx: The bytes of its ONNX file.
        latency_ms: The median latency here, in milliseconds.
    """

    weights: int
    onnx: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class State:
    """A network in one of its states.

    Args:
        name: ``original``, ``as fitted`` or ``fine-tuned``.
        values: The first objective, one value for each seed; None if it is not measured yet.
        costs: Its costs by metric.
        shipped: Its files, if they were measured.
    """

    name: str
    values: MeanStd | None
    costs: Mapping[str, float]
    shipped: Shipped | None = None


@dataclass(frozen=True, slots=True)
class Compressed:
    """One network that was compressed.

    Args:
        architecture: Its architecture in the transformed space.
        states: Its states, in the order of time.
        errors: Of each layer that was fitted, the squared error of the weights, relative to the squared weights.
        best: The measurement of the fine-tuned network that is best by the first objective, if there is one.
    """

    architecture: Architecture
    states: tuple[State, ...]
    errors: Mapping[str, float] = field(default_factory=dict)
    best: Measurement | None = None


@dataclass(frozen=True)
class Compression:
    """All networks of a compression.

    Args:
        objective: The first objective.
        epochs: The epochs of the fine-tuning.
        members: The networks.
    """

    objective: Objective
    epochs: int
    members: tuple[Compressed, ...]

    @classmethod
    def of(cls, history: History) -> Self | None:
        """The compression of a run; None if the run is none, or nothing of it was measured yet.

        Raises:
            RunError: The record of the originals is damaged.
        """
        config, source = history.run.config, history.run.source
        if not config.strategy.options.get("originals") or source is None or not history.measured:
            return None
        objective = config.goal.objectives[0]
        epochs = config.benchmark.options.get("epochs")
        whole = max(epochs if isinstance(epochs, int) else 0, *history.fidelities)
        members = []
        for code, origin in source.members.items():
            measured = [m for m in history.measured if m.architecture.code == code]
            costs = {name: measured[0].metrics[name] for name in COSTS if measured and name in measured[0].metrics}
            fitted, tuned = ([m for m in measured if m.task.fidelity == epochs] for epochs in (0, whole))
            states = (
                State(ORIGINAL, _values(objective, [origin.metrics]), origin.metrics),
                *(
                    State(name, _values(objective, [m.metrics for m in of]), costs | _expected(of))
                    for name, of in ((FITTED, fitted), (TUNED, tuned))
                ),
            )
            if measured:
                best = max(tuned, key=lambda m: _better(objective, m), default=None)
                members.append(Compressed(measured[0].architecture, states, origin.errors, best))
        return cls(objective, whole, tuple(members))


def _values(objective: Objective, metrics: Sequence[Mapping[str, float]]) -> MeanStd | None:
    values = tuple(each[objective.metric] for each in metrics if objective.metric in each)
    return MeanStd(values) if values else None


def _expected(measured: Sequence[Measurement]) -> dict[str, float]:
    """The MACs that images take, in the mean over measurements, if images differ in them."""
    return {
        name: fmean(each.metrics[name] for each in measured)
        for name in (EXPECTED, SPREAD)
        if measured and all(name in each.metrics for each in measured)
    }


def _better(objective: Objective, measurement: Measurement) -> float:
    value = measurement.metrics[objective.metric]
    return value if objective.maximize else -value


def table(compression: Compression) -> tuple[list[str], list[list[str]]]:
    """The compression for people: the names of columns, and a row for each state of each network."""
    metric = compression.objective.metric
    shipped = any(state.shipped for member in compression.members for state in member.states)
    binary = any(state.costs.get(BIT_OPERATIONS) for member in compression.members for state in member.states)
    names = [name for name in COSTS[1:] if binary or name != BIT_OPERATIONS]
    varies = any(EXPECTED in state.costs for member in compression.members for state in member.states)
    columns = ["architecture", "", metric, *([EXPECTED_MACS] if varies else []), "memory"]
    columns += [name.replace("_", " ") for name in names]
    columns += ["weights file", "ONNX file", "latency"] if shipped else []
    rows = []
    for member in compression.members:
        for state in member.states:
            files, memory = state.shipped, state.costs.get(COSTS[0])
            costs = ["" if memory is None else _size(memory / 8)]
            costs += [figure(name, state.costs[name]) if name in state.costs else "" for name in names]
            row = [
                member.architecture.code if state.name == ORIGINAL else "",
                state.name,
                spelt(metric, state.values),
                *([_varying(state.costs)] if varies else []),
                *costs,
            ]
            if shipped:
                row += ["", "", ""] if files is None else _files(files)
            rows.append(row)
    return columns, rows


def described(compression: Compression) -> list[dict[str, Any]]:
    """The compression for machines."""
    return [
        {
            "architecture": member.architecture.code,
            "trial": member.best and member.best.id,
            "errors": dict(member.errors),
            "states": [
                {
                    "state": state.name,
                    compression.objective.metric: None if state.values is None else state.values.mean,
                    "values": None if state.values is None else list(state.values.values),
                    **{name: state.costs.get(name) for name in COSTS},
                    **{name: state.costs[name] for name in (EXPECTED, SPREAD) if name in state.costs},
                    "weights_bytes": state.shipped and state.shipped.weights,
                    "onnx_bytes": state.shipped and state.shipped.onnx,
                    "latency_ms": state.shipped and state.shipped.latency_ms,
                }
                for state in member.states
            ],
        }
        for member in compression.members
    ]


def _varying(costs: Mapping[str, float]) -> str:
    """The MACs of images, with the standard deviation if they differ."""
    if EXPECTED not in costs:
        return figure("macs", costs["macs"]) if "macs" in costs else ""
    spread = f" ± {figure('macs', costs[SPREAD])}" if costs.get(SPREAD) else ""
    return f"{figure('macs', costs[EXPECTED])}{spread}"


def _files(files: Shipped) -> list[str]:
    return [_size(files.weights), _size(files.onnx), milliseconds(files.latency_ms)]


def _size(count: float) -> str:
    """Bytes with a unit.

    >>> _size(2048), _size(14_816_000)
    ('2.0 KiB', '14.13 MiB')
    """
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
