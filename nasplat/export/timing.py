"""The latency of a found network on this machine, beside the one that its run was told by a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasplat.architecture import IO
from nasplat.benchmark import Benchmark
from nasplat.executors.executor import cuda_is_available
from nasplat.latency.conditions import Conditions, Engine, Origin, processor
from nasplat.latency.known import LatencyKnown
from nasplat.task import Measurement
from nasplat.units import milliseconds

if TYPE_CHECKING:
    from torch import nn

    from nasplat.latency.measuring import Latency


def conditions_of(
    benchmark: Benchmark, *, engine: Engine | None = None, threads: int | None = None, batch: int | None = None
) -> Conditions:
    """The conditions under which networks of a run are measured here, with the device.

    They are those of the run's latency, of its table or its options, unless others are given. A run that says nothing
    has torch with 1 thread and 1 image. A GPU is used if there is one, unless the run's latency is of the CPU.
    """
    found = (benchmark.latency_conditions if isinstance(benchmark, LatencyKnown) else None) or Conditions()
    engine = engine or found.engine
    gpu = found.device != "cpu" and cuda_is_available() and _runs_on_cuda(engine)
    return Conditions(engine, threads or found.threads, batch or found.batch, "cuda" if gpu else "cpu")


def measured(network: "nn.Module", io: IO, conditions: Conditions, onnx: Path | None = None) -> "Latency":
    """Measure a network here. Nothing else may use the device meanwhile.

    Args:
        network: The network.
        io: Its input and output shapes.
        conditions: The conditions, with a device.
        onnx: The network as an ONNX file, if there is one, which onnxruntime then runs on the CPU.
    """
    from nasplat.latency.measuring import measure_latency, onnx_latency

    batch, threads, device = conditions.batch, conditions.threads, conditions.device or "cpu"
    if conditions.engine == "onnxruntime" and device == "cpu" and onnx is not None:
        return onnx_latency(onnx.read_bytes(), io.input_shape, batch=batch, threads=threads)
    return measure_latency(network, io, batch=batch, threads=threads, device=device, engine=conditions.engine)


def latencies(
    benchmark: Benchmark,
    measurements: Sequence[Measurement],
    *,
    engine: Engine | None = None,
    batch: int | None = None,
    threads: int | None = None,
) -> "dict[int, Latency]":
    """The latency of each network on this machine, by trial; under the benchmark's conditions where none are given.

    Raises:
        InputError: A condition is invalid.
    """
    from nasplat.nn.counting import built
    from nasplat.training.seeding import seeded

    conditions = conditions_of(benchmark, engine=engine, batch=batch, threads=threads)
    found = {}
    for measurement in measurements:
        with seeded(0):  # fresh weights take as long as trained ones
            network = built(benchmark.space, measurement.architecture, benchmark.io)
        found[measurement.id] = measured(network, benchmark.io, conditions)
    return found


def described_table(benchmark: Benchmark) -> dict[str, Any] | None:
    """How a run's latency table was measured, as JSON values; None if it has none, or it cannot be read any more."""
    origin = benchmark.latency_origin if isinstance(benchmark, LatencyKnown) else None
    if origin is None:
        return None
    under = {} if origin.conditions is None else asdict(origin.conditions)
    return {**under, **{name: value for name, value in asdict(origin).items() if name != "conditions"}}


def described(latency: "Latency", benchmark: Benchmark, predicted_ms: float | None) -> dict[str, Any]:
    """A measured latency with the hardware, and with its difference to the table's prediction, as JSON values.

    ``difference`` is predicted / least measured - 1, since tables are of least latencies. ``agrees`` says whether it is
    at most the largest error that the table made when it was checked. Both are None if there is nothing to compare:
    no table, or one of other conditions or of another processor.
    """
    hardware = processor(latency.device)
    found: dict[str, Any] = {**asdict(latency), "hardware": hardware, "difference": None, "agrees": None}
    origin = benchmark.latency_origin if isinstance(benchmark, LatencyKnown) else None
    under = Conditions(latency.engine, latency.threads, latency.batch, latency.device)
    if predicted_ms is None or origin is None or (origin.conditions, origin.processor) != (under, hardware):
        return found
    found["difference"] = predicted_ms / latency.least_ms - 1
    if origin.largest_error is not None:
        found["agrees"] = abs(found["difference"]) <= origin.largest_error
    return found


def told(latency: Mapping[str, Any]) -> str:
    """The result of `described` for people, in one line."""
    under = Conditions(*(latency[name] for name in ("engine", "threads", "batch", "device")))
    median, least = (milliseconds(latency[name]) for name in ("median_ms", "least_ms"))
    return f"{median} (least {least}); {under}; {latency['hardware']}"


def told_table(table: Mapping[str, Any]) -> str:
    """The result of `described_table` for people, in one line."""
    conditions = None
    if "engine" in table:
        conditions = Conditions(*(table[name] for name in ("engine", "threads", "batch", "device")))
    names = ("processor", "median_error", "largest_error", "networks")
    return str(replace(Origin(**{name: table[name] for name in names}), conditions=conditions))


def disagreement(document: Mapping[str, Any]) -> str:
    """The warning that an export's measured latency is farther from its table than the table's errors; else empty."""
    latency, table = document.get("latency"), document.get("latency_table")
    if not latency or not table or latency["agrees"] is not False:
        return ""
    predicted, measured = document["analytic_metrics"]["latency_ms"], latency["least_ms"]
    return (
        f"the table predicts {milliseconds(predicted)}, but {milliseconds(measured)} "
        f"were measured, a difference of {100 * abs(latency['difference']):.1f} %, where the table was off by "
        f"{100 * table['largest_error']:.1f} % at most; measure again with the device to itself, or build the table "
        "again"
    )


def _runs_on_cuda(engine: Engine) -> bool:
    if engine == "torch":
        return True
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
