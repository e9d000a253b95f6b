"""The options of latency that a benchmark takes."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nasplat.data.location import absolute
from nasplat.options import Options


class LatencyTableOptions(Options):
    """Where latency is told from.

    Args:
        table: A file that tells latency, as `nasplat benchmark build latency` makes them; ``latency_ms`` is then known
            without measuring, and only what the table tells of is feasible.
    """

    table: Annotated[str | None, AfterValidator(absolute)] = None


class LatencyOptions(LatencyTableOptions):
    """Whether latency is measured, or told by a table.

    Args:
        batch: If not 0, latency is measured too, with so many images in each pass; the benchmark then has the device
            to itself, and its measurements have ``latency_ms`` (median) and ``latency_iqr_ms`` (range of the middle
            half).
        threads: Threads of the engine while latency is measured.
        engine: What runs networks while latency is measured: torch, or onnxruntime as they are exported.
    """

    batch: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1)] = 1
    engine: Literal["torch", "onnxruntime"] = "torch"
