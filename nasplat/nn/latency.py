"""How long a network takes for a batch, measured here and now."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasplat.architecture import IO

if TYPE_CHECKING:
    from torch import nn

SECONDS = 0.5
"""A measurement goes on for at least so long, after warming up."""
BLOCKS = 5
"""And takes at least so many timed blocks, for a spread to be seen."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one forward pass in evaluation mode, without gradients; inputs lie on the device already.

    Args:
        median_ms: The median of the timed blocks, milliseconds for each pass.
        iqr_ms: Their interquartile range.
        runs: Passes that were timed.
        batch: Images in each pass.
        threads: Threads of torch on the CPU.
        device: ``cpu`` or ``cuda``.
    """

    median_ms: float
    iqr_ms: float
    runs: int
    batch: int
    threads: int
    device: str


def measure_latency(model: "nn.Module", io: IO, *, batch: int, threads: int, device: str) -> Latency:
    """Measure a network with random images; meaningful while nothing else uses the device.

    torch's own timer warms up, chooses how many passes to time at once, and waits for CUDA to have finished. The
    model is left on the device in the mode that it came in.

    Args:
        model: With any weights; they do not matter for time.
        io: What it takes.
        batch: Images in each pass.
        threads: Threads of torch on the CPU.
        device: ``cpu`` or ``cuda``.
    """
    import torch

    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)  # on being imported it remarks on compilers, which this does not need
    try:
        from torch.utils.benchmark import Measurement, Timer
    finally:
        logger.setLevel(level)

    images = torch.randn(batch, *io.input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    training = model.training
    model.to(device).eval()
    timer = Timer("model(images)", globals={"model": model, "images": images}, num_threads=threads)
    blocks: list[Measurement] = []
    with torch.no_grad():
        while sum(len(block.times) for block in blocks) < BLOCKS:
            blocks.append(timer.blocked_autorange(min_run_time=SECONDS))
    model.train(training)
    (merged,) = Measurement.merge(blocks)
    return Latency(
        median_ms=merged.median * 1e3,
        iqr_ms=merged.iqr * 1e3,
        runs=sum(len(block.times) * block.number_per_run for block in blocks),
        batch=batch,
        threads=threads,
        device=device,
    )
