"""Train every network of esrn/tiny, and make the table that the benchmark `super_resolution_table` looks up.

    python performance/super_resolution_table.py                    # all that is missing; --part I/N of it alone
    python performance/super_resolution_table.py --write            # the table of what is there
    python performance/super_resolution_table.py --check 3          # trains three again and compares

Training is on BSDS500's photographs, as `OPTIONS` says; PSNR and SSIM are of its validation
pictures, and of Set5. Some networks are trained with several seeds, to tell what a seed matters. Every training has a
line in the file, and a run goes on where the last one ended.
"""

import argparse
import csv
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.data.picture_sets import picture_set
from nasplat.options import construct
from nasplat.search_spaces.esrn import ESRNTiny
from nasplat.storage.files import write_atomically
from nasplat.task import Evaluate, derive_seed

OPTIONS: dict[str, Any] = {
    "dataset": "bsds500",
    "scale": 2,
    "epochs": 1,
    "steps": 800,
    "batch_size": 8,
    "patch": 16,
    "learning_rate": 3e-3,
    "schedule": "one_cycle",
    "augment": True,
}
SEED = 0
NAMES = "S_1_8_16", "S_4_8_16", "G_1_8_16", "G_4_8_16", "C_1_8_16", "C_4_8_16"
"""All sequences of these are trained; a group block of one convolution is a shrink block of one."""
FIGURES = ("psnr_db", "ssim", "gain_db")
TABLE = Path(__file__).parents[1] / "benchmarks" / "super_resolution_table.csv"


def plan() -> list[tuple[int, str]]:
    """The number and the blocks of every training: 258 trainings of 155 networks."""
    lengths = range(ESRNTiny.preset.least, ESRNTiny.preset.slots + 1)
    every = (names for length in lengths for names in itertools.product(NAMES, repeat=length))
    return [(number, ",".join(names).replace("G_1", "S_1")) for number, names in enumerate(every)]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What was trained with these settings; a last line that a kill cut short is left out."""
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if found["settings"] == settings():
                yield found


def settings() -> dict[str, Any]:
    """What decides the figures."""
    return {**OPTIONS, "seed": SEED, "space": ESRNTiny.name}


class Trainer:
    """Trains one network after another; the pictures are read once."""

    def __init__(self) -> None:
        from nasplat.training.super_resolution import Pair

        self.space = ESRNTiny()
        self.benchmark = construct("benchmark", SuperResolution, self.space, **OPTIONS)
        self.benchmark.check()
        self.benchmark.prepare()
        self.set5 = [Pair.of(picture, OPTIONS["scale"]) for picture in picture_set("set5").test]

    def __call__(self, number: int, blocks: str) -> dict[str, Any]:
        """One training as a line of the file."""
        from nasplat.training.super_resolution import evaluate

        architecture = self.space.parse(blocks)
        task = Evaluate(id=number, seed=derive_seed(SEED, number), architecture=architecture, fidelity=1)
        parcel = MemoryArtifacts()
        measurement = self.benchmark.measure(task, device="cpu", artifacts=parcel)
        network = self.space.build(architecture, self.benchmark.io)
        network.load_state_dict(self.benchmark.state_dict(measurement, artifacts=parcel))
        on_set5 = evaluate(network, self.set5, OPTIONS["scale"], "cpu")
        return {
            "settings": settings(),
            "number": number,
            "blocks": blocks,
            **{name: measurement.metrics[name] for name in FIGURES},
            **{f"set5_{name}": on_set5[name] for name in FIGURES},
        }


def write(path: Path) -> None:
    """Write the table of each network's first training, and tell what seeds matter."""
    found = {line["number"]: line for line in lines(path)}
    missing = [number for number, _ in plan() if number not in found]
    if missing:
        raise SystemExit(f"{len(missing)} trainings are missing; run without --write")
    trainings = defaultdict(list)
    for number, blocks in plan():
        trainings[blocks].append(found[number])
    columns = ["blocks", *FIGURES, *(f"set5_{name}" for name in FIGURES)]
    text = [",".join(columns)]
    for blocks, (row, *_) in trainings.items():
        text.append(",".join([blocks.replace(",", " "), *(f"{row[column]:.6f}" for column in columns[1:])]))
    write_atomically(TABLE, "\n".join(text) + "\n")
    values = [first["psnr_db"] for first, *_ in trainings.values()]
    several = [[row["psnr_db"] for row in rows] for rows in trainings.values() if len(rows) > 1]
    freedom = sum(len(rows) - 1 for rows in several)
    within = (sum(statistics.variance(rows) * (len(rows) - 1) for rows in several) / freedom) ** 0.5
    print(f"{len(values)} networks from {min(values):.3f} to {max(values):.3f} dB")
    print(f"deviation between networks {statistics.stdev(values):.4f} dB, between seeds of one {within:.4f} dB")


def check(path: Path, number: int) -> None:
    """Train some networks of the table again and compare."""
    with TABLE.open(newline="") as file:
        table = {row["blocks"].replace(" ", ","): row for row in csv.DictReader(file)}
    train = Trainer()
    first = list({blocks: (at, blocks) for at, blocks in reversed(plan())}.values())[::-1]
    for each in first[:: max(1, len(first) // number)][:number]:
        line, row = train(*each), table[each[1]]
        print(each[1], {name: round(line[name] - float(row[name]), 6) for name in FIGURES})


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("runs/super_resolution_table.jsonl"))
    parser.add_argument("--part", default="0/1", help="I/N: every N-th training, from the I-th on")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", type=int, default=0, metavar="N")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if given.write:
        return write(given.file)
    if given.check:
        return check(given.file, given.check)
    first, step = map(int, given.part.split("/"))
    there = {line["number"] for line in lines(given.file)}
    todo = [each for each in plan()[first::step] if each[0] not in there]
    train = Trainer()
    given.file.parent.mkdir(parents=True, exist_ok=True)
    for done, each in enumerate(todo, 1):
        line = json.dumps(train(*each))
        with given.file.open("a") as file:
            file.write(line + "\n")
        print(f"{done} of {len(todo)}: {each[1]} {json.loads(line)['psnr_db']:.3f} dB", flush=True)


if __name__ == "__main__":
    main()
