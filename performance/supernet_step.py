"""What a training step of a supernet costs, beside the same step of the extracted network.

    python performance/supernet_step.py [--architectures 20] [--repetitions 5] [--processor-time] [--json]

Only the chosen path of a supernet runs, so both ratios should be near 1. On the CPU; about ten minutes on one core.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from numpy.random import default_rng
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.nn.supernet import Supernet
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SupernetSpace
from nasplat.training.seeding import seeded

BATCH = 32
CIFAR = IO.image(3, 32, 10)
SPACES: dict[str, dict[str, int]] = {
    "nasbench201": {"channels": 16, "cells": 2},
    "darts": {"channels": 16, "cells": 8},
    "ghost/cifar": {},
}
ALLOWED = 1.15
Clock = Callable[[], float]
DEFINITIONS = f"""\
Random architectures, {BATCH} images of 3 x 32 x 32. A step is zero_grad, forward, cross-entropy, backward, and SGD with
momentum: over all parameters of the supernet, or over those of the extracted network, which has an optimizer of its
own. Steps take turns in one process; of each kind the quickest counts, as whatever disturbs one only makes it slower.
"time" is supernet / extracted; "new path" the same where the supernet must first put the path together, as it does for
an architecture that it has not seen lately. "memory" compares the most that a step holds beyond parameters, gradients
and optimizer state: those lie ready before, and torch's profiler, which sees what every kernel allocates and frees
(also inside of backward, where no dispatch mode looks), is asked for the largest sum since. Each figure is the median
over the architectures, and the largest of them; medians should not be above {ALLOWED}."""


@dataclass(frozen=True)
class Ratios:
    """Supernet over extracted network, for one architecture.

    Args:
        time: Of the quickest steps.
        new_path: The same, where the path is put together within the step.
        memory: Of the peaks.
        milliseconds: What the extracted network's step takes.
        megabytes: What it holds at its peak.
    """

    time: float
    new_path: float
    memory: float
    milliseconds: float
    megabytes: float


class Step:
    """A training step, always on the same images.

    Args:
        forward: Gives the logits.
        network: What the optimizer trains.
        clock: Tells the time in seconds.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], network: nn.Module, clock: Clock) -> None:
        self.clock = clock
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCH, *CIFAR.input_shape, generator=generator)
        self.labels = torch.randint(CIFAR.outputs, (BATCH,), generator=generator)
        self.forward = forward
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=1e-3, momentum=0.9)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self._rest()

    def _rest(self) -> None:
        torch.autograd.backward(functional.cross_entropy(self.forward(self.images), self.labels))
        self.optimizer.step()

    def seconds(self) -> float:
        """The time of one step."""
        began = self.clock()
        self()
        return self.clock() - began

    def peak_bytes(self) -> int:
        """The most that one step holds beyond what is there before; gradients are, as zeros."""
        self()
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self._rest()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            events = json.loads(path.read_text())["traceEvents"]
        held = peak = 0
        for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda event: float(event["ts"])):
            held += event["args"]["Bytes"]
            peak = max(peak, held)
        return peak


def compare(supernet: Supernet, architecture: Architecture, repetitions: int, clock: Clock) -> Ratios:
    """Steps of the supernet on one path, and of that path extracted."""
    extracted = supernet.extract(architecture)
    alone = Step(extracted, extracted, clock)
    shared = Step(lambda images: supernet(images, architecture), supernet, clock)

    def on_a_new_path() -> float:
        supernet._paths.clear()
        return shared.seconds()

    measured: dict[str, list[float]] = {"alone": [], "shared": [], "new": []}
    steps = {"alone": alone.seconds, "shared": shared.seconds, "new": on_a_new_path}
    for take in steps.values():  # momentum is laid out in the first step, and caches are filled
        take()
    for repetition in range(repetitions):
        for name in list(steps)[:: 1 if repetition % 2 else -1]:
            measured[name].append(steps[name]())
    quickest = {name: min(seconds) for name, seconds in measured.items()}
    peak = alone.peak_bytes()
    return Ratios(
        time=quickest["shared"] / quickest["alone"],
        new_path=quickest["new"] / quickest["alone"],
        memory=shared.peak_bytes() / peak,
        milliseconds=1e3 * quickest["alone"],
        megabytes=peak / 1e6,
    )


def measure(name: str, architectures: int, repetitions: int, clock: Clock) -> list[Ratios]:
    """Random architectures of one space."""
    space = SEARCH_SPACES.get(name)(**SPACES[name])
    assert isinstance(space, SupernetSpace)
    with seeded(0):
        supernet = space.supernet(CIFAR)
    rng, results = default_rng(0), []
    for number in range(architectures):
        print(f"{name} {number + 1} of {architectures} …", file=sys.stderr)
        results.append(compare(supernet, space.sample(rng), repetitions, clock))
    return results


def main() -> None:
    """Measure the spaces, and print one line for each; exit 1 if a median is above what is allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--architectures", type=int, default=20, help="how many of each space")
    parser.add_argument("--repetitions", type=int, default=5, help="timed steps of each kind for every architecture")
    parser.add_argument(
        "--processor-time", action="store_true", help="for a machine that is busy with other things too"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(SPACES), default=list(SPACES))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.processor_time else time.perf_counter
    results = {name: measure(name, arguments.architectures, arguments.repetitions, clock) for name in arguments.only}
    if arguments.json:
        document = {name: [asdict(ratios) for ratios in of_space] for name, of_space in results.items()}
        print(
            json.dumps({"repetitions": arguments.repetitions, "clock": clock.__name__, "results": document}, indent=2)
        )
    else:
        print(f"{DEFINITIONS}\n\n{'':14} {'time':>14} {'new path':>14} {'memory':>14} {'ms':>8} {'MB':>8}")
        for name, of_space in results.items():
            figures = [[getattr(r, field) for r in of_space] for field in ("time", "new_path", "memory")]
            columns = [f"{f'{median(values):.3f} ({max(values):.3f})':>14}" for values in figures]
            columns += [
                f"{median(getattr(r, field) for r in of_space):8.1f}" for field in ("milliseconds", "megabytes")
            ]
            print(f"{name:14} {' '.join(columns)}")
        print(
            f"\n{arguments.architectures} architectures of each, {arguments.repetitions} repetitions, "
            f"{clock.__name__}; "
            f"Python {platform.python_version()}, torch {torch.__version__}, "
            f"{torch.get_num_threads()} of {os.cpu_count()} cores"
        )
    medians = [median(getattr(r, f) for r in rs) for rs in results.values() for f in ("time", "new_path", "memory")]
    if max(medians) > ALLOWED:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
