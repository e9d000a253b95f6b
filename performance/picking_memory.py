"""What picking from a pool takes: peak memory and time for pools of different sizes, and after a kill.

    python performance/picking_memory.py [--sizes 20000 200000] [--kill] [--work FOLDER] [--json]

Some ten minutes on two cores. Every pool has so many PNG files of 16 x 16 pixels, in folders of 1,000, and is read by
a process of its own. With `--kill`, the process of the largest pool is killed in the middle of the pass, and a second
one goes on: what it picks must be what one process picks.
"""

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from balanced_binary import Vgg
from PIL import Image

from nasplat.architecture import IO
from nasplat.data.picked import TABLE, Layout
from nasplat.data.pool_pass import MARKS
from nasplat.picking.feature_maps import FeatureMaps
from nasplat.picking.job import Choice, pick
from nasplat.picking.positives import Labelled, Positives
from nasplat.training.seeding import seeded

SIDE, CLASSES, LABELLED = 16, ("bright", "dark"), 20
WIDTHS = (16, 32, 32, 32, 32, 32)
"""Of a teacher that is not trained: its answers do not change what is read and kept."""


def image(rng: np.random.Generator, place: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise; one in five images belongs to the task, and is brighter."""
    return rng.integers(0, 200 + 56 * (place % 5 == 0), (SIDE, SIDE, 3)).astype(np.uint8)


def write_pool(folder: Path, count: int) -> None:
    """Write a pool."""
    rng = np.random.default_rng(count)
    for place in range(count):
        inner = folder / f"{place // 1000:04}"
        if place % 1000 == 0:
            inner.mkdir(parents=True)
        with io.BytesIO() as buffer:
            Image.fromarray(image(rng, place)).save(buffer, "PNG", compress_level=1)
            (inner / f"{place:07}.png").write_bytes(buffer.getvalue())


def picked(pool: Path, work: Path) -> None:
    """Pick from a pool, and print the peak of this process's memory in MiB, and the seconds."""
    import resource

    torch.set_num_threads(1)
    clock = time.perf_counter()
    layout = Layout(CLASSES, 3, SIDE, (100.0,) * 3, (58.0,) * 3)
    with seeded(0):
        teacher = Vgg(IO.image(3, SIDE, len(CLASSES)), WIDTHS).eval()
    rng = np.random.default_rng(0)
    images = np.stack([image(rng, 5 * place) for place in range(LABELLED)]).transpose(0, 3, 1, 2)
    some = Labelled(np.ascontiguousarray(images), np.arange(LABELLED) % 2)
    none = Labelled(some.images[:0], some.labels[:0])
    maps = FeatureMaps(teacher, None, layout.io.input_shape)
    positives = Positives("generated", some, some.take(np.arange(2)), none)
    pick(work, maps, layout, [str(pool)], positives, Choice(0.2, count=2000), most=10**6, told=lambda *_: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"MiB": peak, "seconds": time.perf_counter() - clock}))


def measured(pool: Path, work: Path, *, kill_at: int = 0) -> dict[str, float]:
    """The figures of a process that picks; with `kill_at`, of the one that goes on after a kill at so many images."""
    words = [sys.executable, str(Path(__file__).absolute()), "--pick", str(pool), str(work)]
    if kill_at:
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while child.poll() is None and not ((work / MARKS).exists() and (work / MARKS).stat().st_size >= kill_at):
            time.sleep(0.2)
        child.kill()
        child.wait()
    return dict(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    """Measure, and print the table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    options.add_argument("--kill", action="store_true")
    options.add_argument("--work", type=Path, help="where pools are written; by default a temporary folder")
    options.add_argument("--json", action="store_true")
    options.add_argument("--pick", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.pick:
        picked(*given.pick)
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=given.work) as place:
        for size in given.sizes:
            pool = Path(place, f"pool-{size}")
            write_pool(pool, size)
            found[f"{size:,} files"] = measured(pool, Path(place, f"work-{size}"))
            print(f"{size:,} files: {found[f'{size:,} files']}", file=sys.stderr, flush=True)
        if given.kill:
            size = max(given.sizes)
            again = Path(place, "killed")
            name = f"{size:,} files, after a kill in the middle"
            found[name] = measured(Path(place, f"pool-{size}"), again, kill_at=size // 2)
            same = (again / TABLE).read_bytes() == Path(place, f"work-{size}", TABLE).read_bytes()
            found[name]["same"] = same
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}"
    )
    for name, row in found.items():
        more = "" if "same" not in row else f", the same picked: {'yes' if row['same'] else 'NO'}"
        print(f"{name:40} {row['MiB']:6.0f} MiB {row['seconds']:6.0f} s{more}")


if __name__ == "__main__":
    main()
