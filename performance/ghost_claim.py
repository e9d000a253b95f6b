"""What Ghost modules cost and save on small tasks, beside the network they replace and one thinned to their price.

    python performance/ghost_claim.py [--seeds 1000 … 1004] [--file runs/ghost-claim.jsonl] [--json]
    python performance/ghost_claim.py --seeds 0 1 --split validation [--epochs N] [--learning-rate X] [--augment …]

About a quarter of an hour on one core to itself for five seeds; every training is a line of the file as soon as it has
ended, and a second call goes on where the first was interrupted. The settings were chosen in the second form: with
seed 0 on validation data, 12 epochs, learning rates of 0.05 and 0.1, with and without augmentation.
"""

import argparse
import json
import math
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO
from nasplat.data.dataset import Dataset, Source
from nasplat.data.datasets import dataset
from nasplat.data.examples import Examples
from nasplat.errors import InputError
from nasplat.nn.ghost.shapes import PLAIN, Operator
from nasplat.nn.ghost.supernet import GhostModule, conv_bn
from nasplat.training.augmentation import augmentation
from nasplat.training.fit import ClassifierTraining, evaluate
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded

WIDTHS = (24, 24, 48, 48, 64, 64)
STRIDES = (1, 2, 1, 2, 1, 1)
DATA = {"hard_digits": Source(), "fashion_mnist": Source(subset=6_000)}
ARMS = {"plain": PLAIN, "ghost 2": Operator(2, 3), "ghost 4": Operator(4, 3), "thin": PLAIN}
PAIRS = (("ghost 2", "plain"), ("ghost 2", "thin"), ("thin", "plain"), ("ghost 4", "ghost 2"))
CHEAPER, NEAR = 1.9, 0.03
BELOW_PLAIN, BELOW_THIN = 0.02, 0.01
EQUAL = 0.02
KERNELS = (1, 3, 5)
LOOKED_AT = 256
DEFINITIONS = f"""\
Six 3 x 3 convolutions of {"-".join(map(str, WIDTHS))} maps, each with batch norm and ReLU, of which the second and the
fourth halve the side (the first too where pictures are larger than 16 x 16), global pooling, a linear classifier.
"ghost s": all convolutions but the first are Ghost modules of ratio s with 3 x 3 cheap operations; these five are the
replaced layers. "thin": plain, with all widths shrunk alike until the whole network has as many MACs as "ghost 2".
Data: hard_digits whole (4,312 training, 720 test pictures); Fashion-MNIST, 5,000 training pictures and the whole
test split of 10,000. MACs are half of what torch.utils.flop_counter counts for one picture. Accuracy is that of the
split named, after the last epoch; intervals are Student's, 95 %, over seeds; differences are paired by seed. "At least
equal" is what lies with all its interval above -{100 * EQUAL:g} % of what it is compared with.
Redundancy, in the trained plain networks: how well one map of a layer is predicted by another of the same layer
through the best d x d filter and a constant, as mean squared error by variance, on {LOOKED_AT} validation pictures.
"pairs" is the median over all ordered pairs, "partner" the median over maps of the best of its pairs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How every network is trained; chosen with seed 0 by the validation accuracy of "plain" and "ghost 2".

    Args:
        epochs: Passes over the training pictures.
        batch_size: Pictures in each step.
        learning_rate: The highest of its one cycle.
        momentum: Of SGD.
        weight_decay: L2 penalty on all parameters.
        augment: Whose training pictures are cropped at random (and flipped where that makes sense).
    """

    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: tuple[str, ...] = ("hard_digits",)

    @property
    def recipe(self) -> Recipe:
        """The same as the trainer takes it."""
        return Recipe(self.batch_size, self.learning_rate, self.momentum, self.weight_decay)


class Network(nn.Module):
    """The plain network, or the same with Ghost modules from the second convolution on.

    Args:
        io: Pictures and classes.
        widths: Maps of the six convolutions.
        operator: Of all but the first.
    """

    def __init__(self, io: IO, widths: tuple[int, ...], operator: Operator) -> None:
        super().__init__()
        self.stem = conv_bn(io.input_shape[0], widths[0], 3, STRIDES[0] + (io.input_shape[1] > 16), relu=True)
        self.replaced = nn.Sequential(
            *(
                GhostModule(inputs, outputs, operator, kernel=3, stride=stride)
                for inputs, outputs, stride in zip(widths, widths[1:], STRIDES[1:], strict=False)
            )
        )
        self.classifier = nn.Linear(widths[-1], io.outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.replaced(self.stem(x)).mean((2, 3)))
        return logits


def macs(network: nn.Module, io: IO) -> tuple[int, int]:
    """Of one picture, by torch's counter: the whole network's and the replaced layers'."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, *io.input_shape))
    counts = counter.get_flop_counts()
    return sum(counts["Global"].values()) // 2, sum(counts["Network.replaced"].values()) // 2


def formula(widths: tuple[int, ...], operator: Operator, side: int) -> float:
    """MACs of the replaced layers by section 3.2 of the paper: n/s maps by convolution, s - 1 times as many cheaply."""
    total, ratio, cheap = 0.0, operator.ratio, operator.kernel**2
    for inputs, outputs, stride in zip(widths, widths[1:], STRIDES[1:], strict=False):
        side = -(-side // stride)
        total += outputs / ratio * side**2 * (inputs * 9 + (ratio - 1) * cheap)
    return total


def thinned(io: IO) -> tuple[int, ...]:
    """The widths, shrunk alike, that cost most nearly what Ghost modules of ratio 2 cost."""
    wanted, _ = macs(Network(io, WIDTHS, ARMS["ghost 2"]), io)
    candidates = {tuple(round(part / 1000 * width) for width in WIDTHS) for part in range(500, 1000)}
    return min(sorted(candidates), key=lambda widths: abs(macs(Network(io, widths, PLAIN), io)[0] - wanted))


def costs(io: IO) -> dict[str, dict[str, Any]]:
    """What the arms cost on such pictures, beside the formula."""
    found: dict[str, dict[str, Any]] = {}
    side = io.input_shape[1] if io.input_shape[1] <= 16 else -(-io.input_shape[1] // 2)
    for arm, operator in ARMS.items():
        widths = thinned(io) if arm == "thin" else WIDTHS
        network = Network(io, widths, operator)
        whole, replaced = macs(network, io)
        found[arm] = {
            "widths": widths,
            "params": sum(parameter.numel() for parameter in network.parameters()),
            "macs": whole,
            "replaced_macs": replaced,
            "ratio": found["plain"]["replaced_macs"] / replaced if found else 1.0,
            "formula": formula(WIDTHS, PLAIN, side) / formula(widths, operator, side),
        }
    return found


def train(
    data: Dataset, loaded: dict[str, Examples], arm: str, widths: tuple[int, ...], seed: int, settings: Settings
) -> Network:
    """One network, trained."""
    training = loaded["training"]
    augment = augmentation(training.images, mirrored=data.mirrored) if data.name in settings.augment else None
    with seeded(seed):
        network = Network(data.io, widths, ARMS[arm])
        trainer = ClassifierTraining(
            network, training, settings.recipe, epochs=settings.epochs, seed=seed, augment=augment
        )
        trainer.until(settings.epochs)
    return network


@torch.no_grad()
def redundancy(network: Network, images: Tensor) -> list[dict[str, Any]]:
    """For each convolution and each size of filter, how well maps `[n, maps, side, side]` foretell each other."""
    found = []
    x = images
    for number, layer in enumerate([network.stem, *network.replaced], 1):
        x = layer(x)
        for kernel in KERNELS:
            errors = foretold(x, kernel)
            others = errors[~torch.eye(len(errors), dtype=torch.bool)].reshape(len(errors), -1)
            figures = {"pairs": others.median().item(), "partner": others.min(1).values.median().item()}
            found.append({"layer": number, "kernel": kernel, **figures})
    return found


def foretold(maps: Tensor, kernel: int) -> Tensor:
    """Relative errors `[to, from]` of the best filters between living maps; by normal equations in float64."""
    maps = maps.double()
    maps = maps[:, maps.var((0, 2, 3)) > 1e-8]
    count = maps.shape[1]
    targets = maps.transpose(0, 1).reshape(count, -1)
    targets = targets - targets.mean(1, keepdim=True)
    errors = torch.empty(count, count, dtype=torch.float64)
    for source in range(count):
        patches = functional.unfold(maps[:, [source]], kernel, padding=kernel // 2)
        inputs = patches.transpose(0, 1).reshape(kernel**2, -1)
        inputs = inputs - inputs.mean(1, keepdim=True)
        filters = torch.linalg.lstsq(inputs @ inputs.T, inputs @ targets.T, driver="gelsd").solution
        errors[:, source] = (targets - filters.T @ inputs).square().sum(1) / targets.square().sum(1)
    return errors


def rows(seeds: list[int], file: Path, split: str, settings: Settings) -> list[dict[str, Any]]:
    """All trainings; those that the file lacks are done and added to it."""
    key = {"split": split, **asdict(settings), "augment": [*settings.augment], "widths": [*WIDTHS]}
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = [row for row in known if row["key"] == key]
    have = {(row["data"], row["arm"], row["seed"]) for row in known}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        for name, source in DATA.items():
            data = dataset(name, source)
            data.check()
            splits = data.load()
            loaded = {part: getattr(splits, part) for part in ("training", "validation", "test")}
            widths = {arm: cost["widths"] for arm, cost in costs(data.io).items()}
            for seed in seeds:
                for arm in ARMS:
                    if (name, arm, seed) in have:
                        continue
                    print(f"{name}, seed {seed}, {arm} …", file=sys.stderr, flush=True)
                    network = train(data, loaded, arm, widths[arm], seed, settings)
                    row = {"data": name, "arm": arm, "seed": seed, **evaluate(network, loaded[split]), "key": key}
                    if arm == "plain":
                        row["redundancy"] = redundancy(network, loaded["validation"].batch(slice(LOOKED_AT))[0])
                    known.append(row)
                    lines.write(json.dumps(row) + "\n")
                    lines.flush()
    return [row for row in known if row["seed"] in seeds]


def interval(values: "np.ndarray[Any, np.dtype[np.float64]]") -> list[float]:
    """The mean and its 95 % interval by Student's distribution."""
    mean = float(values.mean())
    if len(values) < 2 or not values.std():
        return [mean, math.nan, math.nan]
    low, high = stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))
    return [mean, float(low), float(high)]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Each arm, what lies between arms, and redundancy, for each data set."""
    result = {}
    for name, source in DATA.items():
        these = [row for row in found if row["data"] == name]
        accuracy = {
            arm: np.array([row["accuracy"] for row in sorted(these, key=lambda row: row["seed"]) if row["arm"] == arm])
            for arm in ARMS
        }
        plain = [row["redundancy"] for row in these if row["arm"] == "plain"]
        arms = {
            arm: {**cost, "accuracy": interval(accuracy[arm]), "accuracies": accuracy[arm].tolist()}
            for arm, cost in costs(dataset(name, source).io).items()
        }
        result[name] = {
            "arms": arms,
            "differences": {f"{a} - {b}": interval(accuracy[a] - accuracy[b]) for a, b in PAIRS},
            "redundancy": [
                {
                    **{field: cells[0][field] for field in ("layer", "kernel")},
                    **{field: float(np.mean([cell[field] for cell in cells])) for field in ("pairs", "partner")},
                }
                for cells in zip(*plain, strict=True)
            ],
            "verdicts": verdicts(arms),
        }
    return result


def verdicts(arms: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """What was wanted beforehand, and whether it is so."""
    ghost, plain, thin = (arms[arm] for arm in ("ghost 2", "plain", "thin"))
    mean = {arm: figures["accuracy"][0] for arm, figures in arms.items()}
    return {
        f"ghost 2 has at least {CHEAPER} times fewer MACs in replaced layers": ghost["ratio"] >= CHEAPER,
        f"ratios of MACs are within {NEAR:.0%} of the formula": all(
            abs(arms[arm]["ratio"] / arms[arm]["formula"] - 1) <= NEAR for arm in ("ghost 2", "ghost 4")
        ),
        f"thin has the MACs of ghost 2 within {NEAR:.0%}": abs(thin["macs"] / ghost["macs"] - 1) <= NEAR,
        f"ghost 2 is at most {100 * BELOW_PLAIN:g} points below plain": mean["ghost 2"] >= mean["plain"] - BELOW_PLAIN,
        f"ghost 2 is at most {100 * BELOW_THIN:g} point below thin": mean["ghost 2"] >= mean["thin"] - BELOW_THIN,
        "ghost 4 has fewer MACs than ghost 2": arms["ghost 4"]["macs"] < ghost["macs"] < plain["macs"],
    }


def points(figures: list[float], *, sign: str = "") -> str:
    """A mean and its interval, in per cent."""
    mean, low, high = (f"{100 * figure:{sign}.2f}" for figure in figures)
    return f"{mean} ({low} to {high})"


def show(found: dict[str, Any]) -> None:
    """The tables."""
    print(DEFINITIONS)
    for name, part in found.items():
        head = f"{'params':>8} {'MACs':>9} {'replaced':>9} {'ratio':>6} {'formula':>8}   accuracy"
        print(f"\n{name:14} {'widths':18} {head}")
        for arm, line in part["arms"].items():
            print(
                f"{arm:14} {'-'.join(map(str, line['widths'])):18} {line['params']:8,} {line['macs']:9,} "
                f"{line['replaced_macs']:9,} {line['ratio']:6.3f} {line['formula']:8.3f}   {points(line['accuracy'])} %"
            )
        for pair, figures in part["differences"].items():
            equal = figures[1] > -EQUAL * part["arms"][pair.partition(" - ")[2]]["accuracy"][0]
            print(f"{pair:20} {points(figures, sign='+')} points, {'at least equal' if equal else 'not shown equal'}")
        print("redundancy: layer " + " ".join(f"{'d = ' + str(kernel):>17}" for kernel in KERNELS))
        print(f"{'':17} " + " ".join(f"{'pairs':>8} {'partner':>8}" for _ in KERNELS))
        for layer in range(1, len(WIDTHS) + 1):
            cells = [cell for cell in part["redundancy"] if cell["layer"] == layer]
            print(f"{layer:17} " + " ".join(f"{cell['pairs']:8.3f} {cell['partner']:8.3f}" for cell in cells))
        for wanted, holds in part["verdicts"].items():
            print(f"wanted: {wanted}: {'so it is' if holds else 'NOT so'}")


def main() -> None:
    """Train what is missing, and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002, 1003, 1004])
    parser.add_argument("--file", type=Path, default=Path("runs/ghost-claim.jsonl"))
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--epochs", type=int, default=Settings().epochs)
    parser.add_argument("--learning-rate", type=float, default=Settings().learning_rate)
    parser.add_argument("--augment", choices=[*DATA], nargs="*", default=Settings().augment)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(arguments.epochs, learning_rate=arguments.learning_rate, augment=tuple(arguments.augment))
    found = summary(rows(arguments.seeds, arguments.file, arguments.split, settings))
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
        print(f"\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")
    sys.exit(not all(all(part["verdicts"].values()) for part in found.values()))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
