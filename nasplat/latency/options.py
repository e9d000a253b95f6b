"""The latency options of a benchmark."""

from typing import Annotated

from pydantic import AfterValidator, Field

from nasplat.data.location import absolute
from nasplat.latency.conditions import Engine
from nasplat.options import Options


class LatencyTableOptions(Options):
    """The table from which latency is read.

    Args:
        table: A latency table, as made by `nasplat benchmark build latency`. ``latency_ms`` is then known without
            measuring, and only architectures that the table covers are feasible.
    """

    table: Annotated[str | None, AfterValidator(absolute)] = None


class LatencyOptions(LatencyTableOptions):
    """Whether latency is measured or read from a table.

    Args:
        batch: If not 0, latency is measured too, with this number of images in each pass. The benchmark then has
            exclusive use of the device. Its measurements have ``latency_ms`` (median) and ``latency_iqr_ms``
            (interquartile range).
        threads: The number of threads of the engine for latency measurements.
        engine: The engine for latency measurements: torch, or onnxruntime with the exported networks. `nasplat show`
            and `nasplat export` measure with it too.
    """

    batch: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1)] = 1
    engine: Engine = "torch"
