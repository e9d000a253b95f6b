"""Whether supernets measure what is exported: path, extracted network, rebuilt network and ONNX model side by side.

    python performance/supernet_exactness.py [--architectures 50] [--only SPACE …] [--json]

The tests do the same with an oracle of another make, but export a handful only. About ten minutes on one core.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from numpy.random import default_rng

from nasplat.architecture import IO
from nasplat.errors import InputError
from nasplat.export import bundle
from nasplat.export.verification import TOLERANCE
from nasplat.nn.onnx import write_onnx
from nasplat.nn.supernet import recalibrate
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SupernetSpace
from nasplat.training.seeding import seeded

SPACES: dict[str, tuple[dict[str, int], IO]] = {
    "nasbench201": ({"channels": 4, "cells": 1}, IO.image(3, 8, 10)),
    "darts": ({"channels": 2, "cells": 4}, IO((3, 9, 8), 10)),
    "ghost/small": ({}, IO.image(1, 15, 10)),
    "ghost/cifar": ({}, IO.image(3, 32, 10)),
}
DEFINITIONS = """\
Random architectures, random weights. Each difference is the largest of any output, divided by 1 or the largest output,
whichever is more. "batch": path and extracted network on batch statistics, float64. "recalibrated": the same with
statistics recalibrated on three batches. "rebuilt": the extracted network and what the space builds, with its state
dict. "onnx": the recalibrated network in float32 and its ONNX model, run by onnxruntime. "params" counts architectures
whose price differs from the parameters extracted."""


@dataclass
class Differences:
    """The largest over all architectures of a space."""

    batch: float = 0.0
    recalibrated: float = 0.0
    rebuilt: float = 0.0
    onnx: float = 0.0
    params: int = 0

    def holds(self) -> bool:
        """Whether path, extracted and rebuilt network agree to 1e-6, ONNX to 1e-4, and every price is exact."""
        return max(self.batch, self.recalibrated, self.rebuilt) < 1e-6 and self.onnx <= 1e-4 and not self.params


def measure(name: str, architectures: int) -> Differences:
    """Compare all makes of random architectures of one space."""
    options, io = SPACES[name]
    space = SEARCH_SPACES.get(name)(**options)
    assert isinstance(space, SupernetSpace)
    generator = torch.Generator().manual_seed(0)
    images, *calibration = (torch.randn(8, *io.input_shape, generator=generator).double() for _ in range(4))
    with seeded(0):
        supernet = space.supernet(io).double()
        for parameter in supernet.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    worst = Differences()

    def note(figure: str, given: torch.Tensor, expected: torch.Tensor) -> None:
        difference = (given - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        setattr(worst, figure, max(getattr(worst, figure), difference if difference == difference else float("inf")))

    rng = default_rng(0)
    for number in range(architectures):
        if sys.stderr.isatty():
            print(f"{name} {number + 1} of {architectures} …", file=sys.stderr)
        architecture = space.sample(rng)
        supernet.train()
        extracted = supernet.extract(architecture)
        with torch.no_grad():
            note("batch", extracted(images), supernet(images, architecture))
            recalibrate(extracted, calibration)
            recalibrate(supernet.path(architecture), calibration)
            supernet.eval()
            note("recalibrated", extracted(images), supernet(images, architecture))
            with seeded(1):
                built = space.build(architecture, io).double().eval()
            built.load_state_dict(extracted.state_dict())
            note("rebuilt", built(images), extracted(images))
        params = sum(parameter.numel() for parameter in extracted.parameters())
        worst.params += space.cost(architecture, io).params != params
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write_onnx(extracted.float(), io.input_shape, path)
            verification = bundle.verify(extracted, io, path)
        worst.onnx = max(worst.onnx, verification.largest_difference * TOLERANCE / verification.allowed)
    return worst


def main() -> None:
    """Measure the spaces, and print one line for each; exit 1 if anything differs by more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--architectures", type=int, default=50, help="how many of each space")
    parser.add_argument("--only", nargs="+", choices=tuple(SPACES), default=list(SPACES))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    results = {name: measure(name, arguments.architectures) for name in arguments.only}
    if arguments.json:
        document = {name: asdict(result) for name, result in results.items()}
        print(json.dumps({"architectures": arguments.architectures, "results": document}, indent=2))
    else:
        print(f"{DEFINITIONS}\n\n{'':14} {'batch':>13} {'recalibrated':>13} {'rebuilt':>13} {'onnx':>13} {'params':>7}")
        for name, r in results.items():
            print(f"{name:14} {r.batch:13.2g} {r.recalibrated:13.2g} {r.rebuilt:13.2g} {r.onnx:13.2g} {r.params:7}")
        print(
            f"\n{arguments.architectures} architectures of each; Python {platform.python_version()}, "
            f"torch {torch.__version__}, {os.cpu_count()} cores"
        )
    if not all(result.holds() for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
