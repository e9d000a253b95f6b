"""Time and memory of a calibration of many pictures, apart from the network's own passes.

    python performance/calibration_size.py [--pictures 50000] [--labels 1000] [--features 512] [--json]

Rounds of questions, the recommendation, all calibrators, their figures on all other pictures, the page, and the
calibrator as it ships. What the network gives is drawn at random, with errors that depend on the features.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from calibration import labelled_by
from numpy.typing import NDArray

from nasplat.calibration.asking import Labelled
from nasplat.calibration.comparison import compared
from nasplat.calibration.outputs import Outputs
from nasplat.calibration.rounds import Plan
from nasplat.calibration.stored import stored
from nasplat.report.calibration import write_page


def world(count: int, dimensions: int, seed: int = 0) -> tuple[Outputs, NDArray[np.int64]]:
    """Outputs of a network of ten classes that errs in a part of its feature space, and the true classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=count)
    centres = rng.normal(0, 1, (10, dimensions))
    features = np.maximum(centres[labels] + rng.normal(0, 1, (count, dimensions)), 0)
    logits = 3 * (features @ centres.T) / dimensions**0.5
    wrong = (features[:, 0] > np.quantile(features[:, 0], 0.7)) & (rng.random(count) < 0.8)
    labels = np.where(wrong, (logits.argmax(1) + 1) % 10, labels)
    return Outputs(logits, features), labels


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--pictures", type=int, default=50_000)
    options.add_argument("--labels", type=int, default=1000)
    options.add_argument("--features", type=int, default=512)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    outputs, labels = world(given.pictures, given.features)
    plan, seconds = Plan(given.labels), {}
    clock = time.perf_counter()
    rows, drawn = labelled_by(plan, outputs, labels)
    seconds["rounds"] = time.perf_counter() - clock
    rest = np.setdiff1d(np.arange(given.pictures), rows)
    images = np.zeros((1, 1, 8, 8), np.uint8)
    found = Labelled(outputs, images, rows, labels[rows], drawn, rest, labels[rest], None, {}, ())
    clock = time.perf_counter()
    result = compared(found, plan)
    seconds["calibrators"] = time.perf_counter() - clock
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        write_page(result, "size", Path(place, "page.html"))
    result.document()
    stored(result.shipped, result.calibrators[result.shipped])
    seconds["page and files"] = time.perf_counter() - clock
    seconds["all"] = sum(seconds.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if given.json:
        print(json.dumps({"seconds": seconds, "peak GiB": memory, "shipped": result.shipped}, indent=2))
        return
    print(f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}")
    print(", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()) + f"; {memory:.2f} GiB at most")
    print(f"shipped: {result.shipped}")


if __name__ == "__main__":
    main()
