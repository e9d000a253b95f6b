"""How fast our GhostNet is beside timm's `ghostnet_100` with the same weights, in torch and in onnxruntime.

    python performance/ghost_speed.py [--pairs 100] [--threads 1] [--processor-time] [--json]

timm, which the `test` extra installs, is needed. On the CPU; about six minutes on one core.
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
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
from numpy.random import Generator, default_rng
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.nn.ghostnet import from_timm, ghostnet
from nasplat.nn.onnx import write_onnx

IMAGES = IO.image(3, 224, 1000)
BATCHES = (1, 16)
WARM_UP = 5
RESAMPLES = 10_000
DEFINITIONS = """\
GhostNet 1.0x and timm's ghostnet_100 in evaluation mode, with the same random weights, on the same random images of
3 x 224 x 224; both ONNX files are written as an export writes them, with batch norm folded. A pair is one forward pass
of each, right after the other, in random order, all in one process. "ratio" is the median over the pairs of our time /
timm's, with the 95 % interval of the bootstrap over pairs. As fast means that the interval includes or lies below 1."""

Run = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """Our time over timm's.

    Args:
        runtime: What ran the networks.
        batch: Images in one pass.
        pairs: How many pairs of passes.
        ratio: The median over pairs.
        low: Lower end of its 95 % interval.
        high: Upper end.
        ours_ms: The median time of our passes.
        timm_ms: That of timm's.
    """

    runtime: str
    batch: int
    pairs: int
    ratio: float
    low: float
    high: float
    ours_ms: float
    timm_ms: float

    @property
    def as_fast(self) -> bool:
        """Whether the interval includes or lies below 1."""
        return self.low <= 1


def networks() -> tuple[nn.Module, nn.Module]:
    """Ours and timm's, with the same weights and the statistics of a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs: nn.Module = timm.create_model("ghostnet_100").train()
        with torch.no_grad():
            theirs(torch.randn(16, *IMAGES.input_shape))
    ours = ghostnet()
    ours.load_state_dict(from_timm(theirs.state_dict()))
    return ours.eval(), theirs.eval()


def in_torch(network: nn.Module, images: Tensor) -> Run:
    """A pass in eager mode."""
    return lambda: network(images)


def in_onnxruntime(path: Path, images: Tensor, threads: int) -> Run:
    """A pass of an exported network, in a session of its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"images": images.numpy()}
    return lambda: session.run(None, feed)


def compare(
    runtime: str, batch: int, ours: Run, theirs: Run, pairs: int, clock: Callable[[], float], rng: Generator
) -> Ratio:
    """Passes of both, in turns."""
    runs = (ours, theirs)
    for _ in range(WARM_UP):
        for run in runs:
            run()
    seconds = np.empty((pairs, 2))
    for pair in seconds:
        for which in rng.permutation(2):
            began = clock()
            runs[which]()
            pair[which] = clock() - began
    logs = np.log(seconds[:, 0] / seconds[:, 1])
    medians = np.median(rng.choice(logs, (RESAMPLES, pairs)), axis=1)
    low, high = np.exp(np.quantile(medians, [0.025, 0.975]))
    ours_ms, timm_ms = 1e3 * np.median(seconds, axis=0)
    ratio = float(np.exp(np.median(logs)))
    return Ratio(runtime, batch, pairs, ratio, float(low), float(high), float(ours_ms), float(timm_ms))


def measure(pairs: int, threads: int, clock: Callable[[], float]) -> list[Ratio]:
    """Both runtimes at all batch sizes."""
    torch.set_num_threads(threads)
    rng, results = default_rng(0), []
    both = networks()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = [Path(folder) / name for name in ("ours.onnx", "timm.onnx")]
        for network, path in zip(both, paths, strict=True):
            write_onnx(network, IMAGES.input_shape, path)
        for batch in BATCHES:
            images = torch.randn(batch, *IMAGES.input_shape, generator=torch.Generator().manual_seed(batch))
            found = {
                "torch": [in_torch(network, images) for network in both],
                "onnxruntime": [in_onnxruntime(path, images, threads) for path in paths],
            }
            for runtime, (ours, theirs) in found.items():
                print(f"{runtime}, batches of {batch} …", file=sys.stderr)
                results.append(compare(runtime, batch, ours, theirs, pairs, clock, rng))
    return results


def main() -> None:
    """Measure, and print one line for each runtime and batch size; exit 1 if ours is slower in one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=100, help="pairs of passes for each runtime and batch size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--processor-time", action="store_true", help="for a machine that is busy with other things too"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.processor_time else time.perf_counter
    results = measure(arguments.pairs, arguments.threads, clock)
    if arguments.json:
        print(json.dumps({"clock": clock.__name__, "results": [asdict(ratio) for ratio in results]}, indent=2))
    else:
        print(f"{DEFINITIONS}\n\n{'':12} {'batch':>5} {'ours ms':>9} {'timm ms':>9} {'ratio':>7}  95 % interval")
        for r in results:
            times = f"{r.ours_ms:9.2f} {r.timm_ms:9.2f}"
            print(f"{r.runtime:12} {r.batch:5} {times} {r.ratio:7.3f}  {r.low:.3f} to {r.high:.3f}")
        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "timm"))
        print(
            f"\n{arguments.pairs} pairs each, {clock.__name__}; Python {platform.python_version()}, {libraries}, "
            f"{arguments.threads} of {os.cpu_count()} cores"
        )
    if not all(ratio.as_fast for ratio in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
