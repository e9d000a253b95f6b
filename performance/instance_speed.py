"""The time of networks that leave out channels by image beside that of the same networks without pruning.

    python performance/instance_speed.py [--rounds 10] [--pairs 40] [--profile] [--processor-time] [--json]

One image at a time, one thread, in torch and in onnxruntime. timm, which the `test` extra installs, is needed. About
two minutes on one core.
"""

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import cycle
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from full_stack import loaded, trained
from ghost_speed import Clock, Make, Run, compare
from instance_pruning import CALIBRATION, DECAYS, Settings, Vgg
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from nasplat import transforms
from nasplat.architecture import IO
from nasplat.cost import counted_macs
from nasplat.nn.onnx import write_onnx
from nasplat.nn.packing import packed
from nasplat.nn.thresholds import pruned_layers, set_thresholds, spent
from nasplat.training.options import RecipeOptions
from nasplat.training.seeding import seeded

DATA, SEED, SHARE, IMAGES = "hard_digits", 100, 0.6, 64
WIDE = 64, 128, 128, 256, 256
COLOR = IO.image(3, 64, 10)
DEFINITIONS = f"""\
"trained" is the VGG-like network of `instance_pruning.py`, trained with feature decay on {DATA}. "wide" is the same
with {", ".join(map(str, WIDE))} channels for images of 3 x 64 x 64, with random weights, on random images. Their
thresholds are for {100 * SHARE:g} % of the MACs in the mean. A pair is one pass of each network with the same image,
in random order. The ratio is the time of the pruned network by that of the network without pruning: the median over the
pairs of a round, and of those the geometric mean over rounds, with the 95 % t interval over rounds."""


@dataclass(frozen=True)
class Ratio:
    """The time of the pruned network over that of the other.

    Args:
        network: Which network.
        runtime: What ran it.
        share: The part of the MACs that the images take in the mean.
        ratio: The mean over rounds.
        low: Lower end of its 95 % interval.
        high: Upper end.
        pruned_ms: The median time of its passes.
        plain_ms: That of the network without pruning.
    """

    network: str
    runtime: str
    share: float
    ratio: float
    low: float
    high: float
    pruned_ms: float
    plain_ms: float

    @classmethod
    def of(cls, network: str, runtime: str, share: float, seconds: NDArray[np.float64]) -> "Ratio":
        """What the times of rounds and pairs say, `[rounds, pairs, 2]`."""
        logs = np.median(np.log(seconds[..., 0] / seconds[..., 1]), axis=1)
        interval = stats.t.interval(0.95, len(logs) - 1, logs.mean(), stats.sem(logs))
        low, high = (float(end) for end in np.exp(interval))
        pruned_ms, plain_ms = (float(each) for each in 1e3 * np.median(seconds, axis=(0, 1)))
        return cls(network, runtime, share, float(np.exp(logs.mean())), low, high, pruned_ms, plain_ms)


@dataclass(frozen=True)
class Subject:
    """A network without pruning and the same with it, as they are shipped.

    Args:
        pruned: With pruning.
        plain: Without.
        images: The images, `[N, C, H, W]`.
        share: The part of the MACs that they take in the mean.
    """

    pruned: nn.Module
    plain: nn.Module
    images: Tensor
    share: float


def subjects() -> dict[str, Subject]:
    """The networks that are timed."""
    data, splits = loaded(DATA, Settings().subset)
    with seeded(SEED):
        plain: nn.Module = Vgg(data.io)
        network = transforms.apply(plain, "instance_pruning", fitted=True, decay=DECAYS["vgg"]).network
        trained(network, splits, RecipeOptions().recipe(len(splits.training), "cpu"), Settings().epochs, SEED)
        plain.load_state_dict(network.state_dict(), strict=False)
        wide = Vgg(COLOR, WIDE)
        rewritten = transforms.apply(wide, "instance_pruning", fitted=True).network
        noise = [torch.randn(IMAGES, *COLOR.input_shape) for _ in range(2)]
    validation = splits.validation.batch(slice(0, IMAGES))[0]
    return {
        "trained": subject(plain, network, data.io, list(splits.training.sample(CALIBRATION)), validation),
        "wide": subject(wide, rewritten, COLOR, noise[:1], noise[1]),
    }


def subject(plain: nn.Module, network: nn.Module, io: IO, calibration: Sequence[Tensor], images: Tensor) -> Subject:
    """A network that is calibrated to the share of the MACs."""
    dense = counted_macs(plain, io)
    network.eval()
    set_thresholds(network, calibration, dense, SHARE, names=[*pruned_layers(network)])
    return Subject(packed(network).eval(), plain.eval(), images, spent(network, [images], dense).share)


def in_torch(network: nn.Module, images: Tensor) -> Run:
    """A pass in eager mode of a copy of the network, with one image after the other."""
    network, one = copy.deepcopy(network), cycle(images[:, None])
    return lambda: network(next(one))


def in_onnxruntime(path: Path, images: Tensor) -> Run:
    """A pass of an exported network in a session of its own, with one image after the other."""
    session, one = session_of(path), cycle(images.numpy()[:, None])
    return lambda: session.run(None, {"images": next(one)})


def session_of(path: Path, profile: str = "") -> onnxruntime.InferenceSession:
    """A session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling, options.profile_file_prefix = bool(profile), profile
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def profiled(of: Subject, paths: Sequence[Path], folder: str) -> dict[str, dict[str, float]]:
    """The milliseconds that each kind of operation takes for an image, by runtime and network."""
    found: dict[str, dict[str, float]] = {}
    for name, network, path in zip(("pruned", "plain"), (of.pruned, of.plain), paths, strict=True):
        run = in_torch(network, of.images)
        run()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(IMAGES):
                run()
        times = {each.key: each.self_cpu_time_total for each in profile.key_averages()}
        found[f"torch, {name}"] = _largest(times)
        session = session_of(path, str(Path(folder) / name))
        for image in of.images.numpy()[:, None]:
            session.run(None, {"images": image})
        total = Counter[str]()
        for event in json.loads(Path(session.end_profiling()).read_text()):
            if event.get("cat") == "Node":
                total[event["args"]["op_name"]] += event["dur"]
        found[f"onnxruntime, {name}"] = _largest(total)
    return found


def _largest(microseconds: dict[str, float] | Counter[str]) -> dict[str, float]:
    largest = sorted(microseconds.items(), key=lambda item: -item[1])[:8]
    return {name: time / IMAGES / 1e3 for name, time in largest}


def measure(rounds: int, pairs: int, clock: Clock, profile: bool) -> tuple[list[Ratio], dict[str, object]]:
    """Both networks in both runtimes, and what takes the time."""
    torch.set_num_threads(1)
    rng, results, profiles = default_rng(0), list[Ratio](), dict[str, object]()
    for name, of in subjects().items():
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            paths = [Path(folder) / f"{kind}.onnx" for kind in ("pruned", "plain")]
            for network, path in zip((of.pruned, of.plain), paths, strict=True):
                write_onnx(network, tuple(of.images.shape[1:]), path)
            makes: dict[str, Sequence[Make]] = {
                "torch": [partial(in_torch, network, of.images) for network in (of.pruned, of.plain)],
                "onnxruntime": [partial(in_onnxruntime, path, of.images) for path in paths],
            }
            for runtime, make in makes.items():
                print(f"{name}, {runtime} …", file=sys.stderr)
                results.append(Ratio.of(name, runtime, of.share, compare(make, rounds, pairs, clock, rng)))
            if profile:
                profiles[name] = profiled(of, paths, folder)
    return results, profiles


def main() -> None:
    """Measure, and print a line for each network and runtime."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="for each network and runtime; at least 2")
    parser.add_argument("--pairs", type=int, default=40, help="in each round")
    parser.add_argument("--profile", action="store_true", help="print the operations that take the most time too")
    parser.add_argument("--processor-time", action="store_true", help="for a machine that is busy with other things")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.pairs < 1:
        parser.error("an interval takes at least 2 rounds of at least 1 pair")
    clock: Callable[[], float] = time.process_time if arguments.processor_time else time.perf_counter
    results, profiles = measure(arguments.rounds, arguments.pairs, clock, arguments.profile)
    if arguments.json:
        print(json.dumps({"results": [asdict(each) for each in results], "profiles": profiles}, indent=2))
        return
    print(f"{DEFINITIONS}\n\n{'':20} {'MACs':>6} {'pruned ms':>10} {'plain ms':>9} {'ratio':>6}  95 % interval")
    for r in results:
        times = f"{r.share:6.3f} {r.pruned_ms:10.3f} {r.plain_ms:9.3f}"
        print(f"{r.network:8} {r.runtime:11} {times} {r.ratio:6.3f}  {r.low:.3f} to {r.high:.3f}")
    for name, found in profiles.items():
        print(f"\n{name}: {json.dumps(found, indent=2)}")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    print(f"\n{arguments.rounds} rounds of {arguments.pairs} pairs, {clock.__name__}; Python "
          f"{platform.python_version()}, {libraries}, 1 of {os.cpu_count()} cores")  # fmt: skip


if __name__ == "__main__":
    main()
