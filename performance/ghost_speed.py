"""How fast our GhostNet is beside timm's `ghostnet_100` with the same weights, in torch and in onnxruntime.

    python performance/ghost_speed.py [--rounds 10] [--pairs 6] [--threads 1] [--processor-time] [--json]

timm, which the `test` extra installs, is needed. On the CPU; about three minutes on one core.
"""

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.nn.ghost.ghostnet import from_timm, ghostnet
from nasplat.nn.onnx import write_onnx

IMAGES = IO.image(3, 224, 1000)
BATCHES = (1, 16)
WARM_UP = 2
DEFINITIONS = """\
GhostNet 1.0x and timm's ghostnet_100 in evaluation mode, with the same random weights, on the same random images of
3 x 224 x 224; both ONNX files are written as an export writes them, with batch norm folded. A pair is one forward pass
of each, right after the other, in random order, all in one process. Where a network happens to lie in memory makes it
a percent or two faster or slower for good; so pairs are taken in rounds, each with new copies or sessions of both.
"ratio" is our time / timm's: the median over the pairs of a round, and of those the geometric mean over rounds, with
the 95 % t interval over rounds. As fast means that the interval includes or lies below 1."""

Run = Callable[[], object]
Make = Callable[[], Run]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """Our time over timm's.

    Args:
        runtime: What ran the networks.
        batch: Images in one pass.
        ratio: The mean over rounds.
        low: Lower end of its 95 % interval.
        high: Upper end.
        ours_ms: The median time of our passes.
        timm_ms: That of timm's.
    """

    runtime: str
    batch: int
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
    """A pass in eager mode, of a copy of the network."""
    network = copy.deepcopy(network)
    return lambda: network(images)


def in_onnxruntime(path: Path, images: Tensor, threads: int) -> Run:
    """A pass of an exported network, in a session of its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"images": images.numpy()}
    return lambda: session.run(None, feed)


def compare(make: Sequence[Make], rounds: int, pairs: int, clock: Clock, rng: Generator) -> NDArray[np.float64]:
    """The seconds that passes took: `[rounds, pairs, 2]`."""
    seconds = np.empty((rounds, pairs, len(make)))
    for of_round in seconds:
        runs = dict[int, Run]()
        for which in rng.permutation(len(make)):
            runs[which] = make[which]()
        for run in [*runs.values()] * WARM_UP:
            run()
        for pair in of_round:
            for which in rng.permutation(len(make)):
                began = clock()
                runs[which]()
                pair[which] = clock() - began
    return seconds


def summary(runtime: str, batch: int, seconds: NDArray[np.float64]) -> Ratio:
    """What the times of rounds and pairs say."""
    logs = np.median(np.log(seconds[..., 0] / seconds[..., 1]), axis=1)
    interval = stats.t.interval(0.95, len(logs) - 1, logs.mean(), stats.sem(logs))
    low, high = (float(end) for end in np.exp(interval))
    ours_ms, timm_ms = (float(each) for each in 1e3 * np.median(seconds, axis=(0, 1)))
    return Ratio(runtime, batch, float(np.exp(logs.mean())), low, high, ours_ms, timm_ms)


def measure(rounds: int, pairs: int, threads: int, clock: Clock) -> list[Ratio]:
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
            found: dict[str, list[Make]] = {
                "torch": [partial(in_torch, network, images) for network in both],
                "onnxruntime": [partial(in_onnxruntime, path, images, threads) for path in paths],
            }
            for runtime, make in found.items():
                print(f"{runtime}, batches of {batch} …", file=sys.stderr)
                results.append(summary(runtime, batch, compare(make, rounds, pairs, clock, rng)))
    return results


def main() -> None:
    """Measure, and print one line for each runtime and batch size; exit 1 if ours is slower in one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="for each runtime and batch size; at least 2")
    parser.add_argument("--pairs", type=int, default=6, help="in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--processor-time", action="store_true", help="for a machine that is busy with other things too"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.pairs < 1:
        parser.error("an interval takes at least 2 rounds of at least 1 pair")
    clock = time.process_time if arguments.processor_time else time.perf_counter
    results = measure(arguments.rounds, arguments.pairs, arguments.threads, clock)
    if arguments.json:
        print(json.dumps({"clock": clock.__name__, "results": [asdict(ratio) for ratio in results]}, indent=2))
    else:
        print(f"{DEFINITIONS}\n\n{'':12} {'batch':>5} {'ours ms':>9} {'timm ms':>9} {'ratio':>7}  95 % interval")
        for r in results:
            times = f"{r.ours_ms:9.2f} {r.timm_ms:9.2f}"
            print(f"{r.runtime:12} {r.batch:5} {times} {r.ratio:7.3f}  {r.low:.3f} to {r.high:.3f}")
        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "timm"))
        taken = f"{arguments.rounds} rounds of {arguments.pairs} pairs, {clock.__name__}"
        print(
            f"\n{taken}; Python {platform.python_version()}, {libraries}, {arguments.threads} of {os.cpu_count()} cores"
        )
    if not all(ratio.as_fast for ratio in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
