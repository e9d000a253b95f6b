"""How much memory `nasplat upscale` takes for a large picture, how long, and how much work it does twice.

    python performance/upscale_memory.py [--spaces esrn/small esrn/light] [--size 4000 3000] [--memory 1024] [--json]

Networks are the first random ones that keep their space's window and have contextual blocks, with fresh weights to
which noise is added, since the fusion of new networks is zero. Each picture is upscaled twice by the command, in a
process of its own. About two minutes for esrn/small and ten for esrn/light on two cores.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO, Architecture
from nasplat.nn.residual_dense.network import ResidualDenseNetwork
from nasplat.nn.residual_dense.streaming import Strips
from nasplat.registry import SEARCH_SPACES
from nasplat.testing.exports import write_export
from nasplat.training.seeding import seeded

SCALE = 2
SMALL = 360, 640
"""The height and width of the picture on which the work is counted, as a whole and in strips."""
MIB = 2**20
CHILD = """
import json, resource, sys
from pathlib import Path
from nasplat.cli.app import app
from nasplat.export import bundle, side_by_side, upscaling

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()

network = bundle.opened(sys.argv[2])
loaded = resident()
app(sys.argv[1:], standalone_mode=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"loaded": loaded, "peak": peak}))
"""


def member(name: str) -> Architecture:
    """A random member inside the space's window, with contextual blocks, at least three where there are many."""
    space, rng = SEARCH_SPACES.get(name)(), default_rng(0)
    low, high = (315e3, 325e3) if name == "esrn/light" else (0.0, np.inf)
    while True:
        drawn = space.sample(rng)
        contextual = sum(block.kind == "C" for block in space.shape(drawn).blocks)  # type: ignore[attr-defined]
        if contextual >= 3 and low <= space.cost(drawn, space.reference_io).params <= high:
            return drawn


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth noise with edges, the same every time."""
    rng = default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(200):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        pixels[top : top + int(rng.integers(20, 400)), left : left + int(rng.integers(20, 400))] = rng.integers(
            0, 256, 3
        )
    return pixels


def network(architecture: Architecture, io: IO) -> ResidualDenseNetwork:
    """Fresh weights with noise."""
    with seeded(0), torch.no_grad():
        made = SEARCH_SPACES.get(architecture.space)().build(architecture, io).eval()
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1 / weight[0].numel() ** 0.5)
    assert isinstance(made, ResidualDenseNetwork)
    return made


def work(made: ResidualDenseNetwork, memory: int) -> dict[str, Any]:
    """What strips do more than the whole, and by how much their results differ."""
    height, width = SMALL
    small = torch.from_numpy(picture(width, height)).permute(2, 0, 1) / 255
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        expected = made(small[None])[0]
    given = torch.empty_like(expected)
    with FlopCounterMode(display=False) as strips:
        for (left, top, right, bottom), pixels in Strips.of(made, height, width, memory).run(
            lambda box: small[:, box[1] : box[3], box[0] : box[2]]
        ):
            given[:, top:bottom, left:right] = pixels
    return {
        "work": strips.get_total_flops() / whole.get_total_flops(),
        "largest_difference": (given - expected).abs().max().item(),
    }


def measure(name: str, width: int, height: int, memory: int) -> dict[str, Any]:
    """Upscale a large picture by a network of a space."""
    architecture, io = member(name), IO.upscaled(height, width, SCALE)
    space = SEARCH_SPACES.get(name)()
    made = network(architecture, io)
    with tempfile.TemporaryDirectory() as folder:
        model, file = Path(folder) / "model", Path(folder) / "picture.png"
        write_export(model, architecture, io, made)
        Image.fromarray(picture(width, height)).save(file, compress_level=1)
        words = ["upscale", str(model), str(file), "--memory", str(memory), "--json"]
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", CHILD, *words], check=True, capture_output=True, text=True)
        seconds = time.monotonic() - began
    *document, last = done.stdout.strip().splitlines()
    used, told = json.loads(last), json.loads("\n".join(document))
    cost = space.cost(architecture, io)
    return {
        "space": name,
        "architecture": architecture.code,
        "blocks": [str(block) for block in made.shape.blocks],
        "params": cost.params,
        "reach": made.shape.reach,
        "planned_mib": Strips.of(made, height, width, memory * MIB).plan.values * 4 / MIB,
        "loaded_mib": used["loaded"] / MIB,
        "above_mib": (used["peak"] - used["loaded"]) / MIB,
        "seconds": told["seconds"],
        "all_seconds": seconds,
        "gmacs_per_second": cost.macs / told["seconds"] / 1e9,
        **work(made, memory * MIB),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["esrn/small", "esrn/light"])
    parser.add_argument("--size", nargs=2, type=int, default=[4000, 3000], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--memory", type=int, default=1024, help="MiB, as for the command")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    width, height = given.size
    found = [measure(name, width, height, given.memory) for name in given.spaces]
    if given.json:
        print(json.dumps({"machine": platform.machine(), "threads": torch.get_num_threads(), "found": found}, indent=2))
        return
    threads = torch.get_num_threads()
    for each in found:
        print(f"{each['space']}: {each['params']:,} parameters, reach {each['reach']}, {' '.join(each['blocks'])}")
        print(f"  memory   {each['above_mib']:.0f} MiB above the loaded {each['loaded_mib']:.0f}")
        print(f"  planned  {each['planned_mib']:.0f} of {given.memory} MiB for the network")
        print(f"  time     {each['seconds']:.1f} s, {each['gmacs_per_second']:.2f} GMAC/s on {threads} threads")
        print(f"  in all   {each['all_seconds']:.1f} s, with the start of the program and files")
        print(f"  work     {each['work']:.4f} times that of the whole picture, at {SMALL[1]} x {SMALL[0]}")
        print(f"  differs  {each['largest_difference']:.1e} at most from the whole picture's result")


if __name__ == "__main__":
    main()
