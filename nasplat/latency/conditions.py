"""What a latency stands for: the engine that runs networks, its threads, the batch size, and the device."""

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

Engine: TypeAlias = Literal["torch", "onnxruntime"]
"""The engine that runs a network."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a measurement of latency. Latencies under other conditions do not compare.

    Args:
        engine: The engine that runs the network.
        threads: The number of threads of the engine on the CPU.
        batch: The number of images in each pass.
        device: ``cpu`` or ``cuda``; None for the device of the process that measures.
    """

    engine: Engine = "torch"
    threads: int = 1
    batch: int = 1
    device: str | None = None

    def __str__(self) -> str:
        """For people.

        >>> str(Conditions()), str(Conditions("onnxruntime", 2, 8, "cpu"))
        ('torch, 1 thread, batch 1', 'onnxruntime, 2 threads, batch 8, cpu')
        """
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        device = "" if self.device is None else f", {self.device}"
        return f"{self.engine}, {threads}, batch {self.batch}{device}"


@dataclass(frozen=True, slots=True)
class Origin:
    """How a latency table was measured, as far as its comments tell.

    Args:
        conditions: The conditions of all its latencies; None if they are unknown, as in a table from elsewhere.
        processor: The processor or the GPU; empty if it is unknown.
        median_error: The median of |predicted / measured - 1| over networks that had no part in the table; None if it
            is unknown.
        largest_error: The maximum of the same.
        networks: The number of these networks.
    """

    conditions: Conditions | None = None
    processor: str = ""
    median_error: float | None = None
    largest_error: float | None = None
    networks: int = 0

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Self:
        """Read the comments of a table. What is missing or of another form is unknown."""
        conditions, errors = None, []
        match facts.get("plan"):
            case {"engine": str(engine), "threads": int(threads), "batch": int(batch), "device": str(device)}:
                if engine in get_args(Engine):
                    conditions = Conditions(engine, threads, batch, device)  # type: ignore[arg-type]
        with suppress(TypeError, KeyError, ZeroDivisionError, OverflowError):
            checked = facts.get("networks", ())
            errors = sorted(abs(float(each["predicted_ms"]) / float(each["measured_ms"]) - 1) for each in checked)
        match facts.get("machine"):
            case {"processor": str(processor)}:
                pass
            case _:
                processor = ""
        if not errors:
            return cls(conditions, processor)
        middle = (errors[(len(errors) - 1) // 2] + errors[len(errors) // 2]) / 2
        return cls(conditions, processor, middle, errors[-1], len(errors))

    @property
    def error(self) -> str:
        """The error of the table's predictions, for people; empty if it is unknown."""
        if self.median_error is None or self.largest_error is None:
            return ""
        return (
            f"off by {100 * self.median_error:.1f} % in the median and {100 * self.largest_error:.1f} % at most, "
            f"of {self.networks} networks"
        )

    def __str__(self) -> str:
        found = [str(self.conditions or "with an engine that the table does not name"), self.processor, self.error]
        return "; ".join(part for part in found if part)


def processor(device: str = "cpu") -> str:
    """The name of this machine's processor, or of its GPU for ``cuda``."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name") and (name := line.partition(":")[2].strip()):
                return name
    return platform.processor() or platform.machine() or "an unknown processor"
