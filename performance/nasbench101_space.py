"""All 423,624 cells of NAS-Bench-101: their hashes must differ, and the time that graphs, tensors and hashes take.

    python performance/nasbench101_space.py CELLS.npz

The file has the arrays `num_vertices`, `adj_bits` (bit b of the number is the edge `PAIRS[b]`) and `ops` (0 conv3x3,
1 conv1x1, 2 maxpool3x3, 255 unused).
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

from nasplat.registry import SEARCH_SPACES

CELLS = 423_624
CHUNK = 20_000


def cell_codes(file: Path) -> list[str]:
    """The codes of all cells in a file of arrays."""
    with np.load(file) as held:
        cells = zip(held["adj_bits"].tolist(), held["num_vertices"].tolist(), held["ops"].tolist(), strict=True)
        return [f"{bits:06x}:{''.join('31m'[each] for each in ops[: n - 2])}" for bits, n, ops in cells]


def main() -> None:
    """Print one line for each part; exit 1 unless there are as many hashes as cells."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cells", type=Path, help="the cells, as arrays")
    codes = cell_codes(parser.parse_args().cells)
    space = SEARCH_SPACES.get("nasbench101")()
    clock = time.perf_counter()

    def done(what: str) -> None:
        nonlocal clock
        print(f"{what:40} {time.perf_counter() - clock:7.1f} s")
        clock = time.perf_counter()

    members = [space.parse(code) for code in codes]
    done(f"parse {len(members):,} codes")
    space.graphs(members)
    done("graphs, all at once")
    for start in range(0, len(members), CHUNK):
        space.tensors(members[start : start + CHUNK])
    done(f"tensors, {CHUNK:,} at once")
    keys = len({space.canonical_key(member) for member in members})
    done(f"{keys:,} different hashes")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {os.cpu_count()} cores")
    if not keys == len(members) == CELLS:
        sys.exit(1)


if __name__ == "__main__":
    main()
