"""What full-stack filters cost in accuracy and save in memory on small tasks, beside thinned networks and Ghost.

    python performance/full_stack.py [--seeds 1000 … 1004] [--data hard_digits …] [--out runs/full-stack.jsonl]
        [--picture FILE.svg] [--json]
    python performance/full_stack.py --tune [--out …]

An hour on half a core for five seeds. Every training is a line of the file as soon as it has ended, and a second call
goes on where the first was interrupted. `--tune` is how the settings were chosen: the epochs of the
plain network and the fine-tuning of fitted filters, on seeds of their own and on validation data.
"""

import argparse
import copy
import json
import os
import platform
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import Gain
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.cost import count
from nasplat.data.dataset import Dataset, Source
from nasplat.data.datasets import dataset
from nasplat.data.examples import Splits
from nasplat.errors import InputError
from nasplat.nn.full_stack import FullStackConv2d
from nasplat.registry import TRANSFORMS
from nasplat.training.distillation import Distillation
from nasplat.training.fit import ClassifierTraining, evaluate
from nasplat.training.options import RecipeOptions
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded
from nasplat.training.supernet import recalibrate_path
from searching import Row, kept

WIDTHS = (8, 32, 64, 64)
POOLED = (0, 1)
"""The convolutions that are followed by pooling; the last one is followed by global pooling."""
DATA = ("hard_digits", "fashion_mnist")
RATIOS = (2, 4, 8, 16, 64)
ABOVE = 0.02
"""By how much the memory of a thinned network may exceed that which it is compared with, as a fraction."""
ORTHOGONALITIES = (0.0, 0.1, 1.0)
WITHIN = 0.015
"""The loss of accuracy that is allowed for individual masks with s = 4."""
CALIBRATION = 512
"""The number of training images for the statistics of batch norm of fitted filters that are not trained."""
TUNING_SEEDS = (100, 101)
ACCURACIES = ("fitted", "recalibrated", "accuracy")
"""The accuracies in a row: after fitting, with statistics of batch norm recalibrated then, and after training."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How every network is trained; the recipe is the platform's default. Chosen by `--tune`.

    Args:
        subset: The number of training and validation images.
        epochs: The passes over the training images.
        distillation: The weight of the plain network's loss in fine-tuning; the temperature is the platform's default.
        rate: The highest learning rate of fine-tuning, as a fraction of that of a training.
        split: The part of the data that is measured.
    """

    subset: int = 3000
    epochs: int = 9
    distillation: float = 0.5
    rate: float = 1.0
    split: str = "test"

    @property
    def fine_tuning(self) -> int:
        """The epochs of fine-tuning."""
        return self.epochs // 3


@dataclass(frozen=True, slots=True)
class Arm:
    """A network, and how it is trained.

    Args:
        transform: The registered transform of the plain network; empty for none.
        options: The options of the transform.
        fitted: Whether filters are fitted to the trained plain network and fine-tuned, for a third of the epochs.
        thinned: The ratio of individual masks whose memory a narrower plain network has; 0 for full width.
    """

    transform: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    fitted: bool = False
    thinned: int = 0

    def network(self, io: IO) -> nn.Module:
        """A new network, drawn from torch's global generator."""
        return self.applied(Plain(io, thinned(io, self.thinned) if self.thinned else WIDTHS))

    def applied(self, network: nn.Module, *, fitted: bool = False) -> nn.Module:
        """A copy of a network with the transform, or the network itself without one."""
        if not self.transform:
            return network
        return TRANSFORMS.get(self.transform)(**self.options).apply(network, fitted=fitted).network


def full_stack(filters: int, masks: str = "individual", *, orthogonality: float = 0.0, fitted: bool = False) -> Arm:
    """The arm of full-stack filters of a ratio."""
    return Arm("full_stack", {"filters": filters, "masks": masks, "orthogonality": orthogonality}, fitted)


ARMS = {
    "plain": Arm(),
    "fitted 4": full_stack(4, fitted=True),
    "fitted 16": full_stack(16, fitted=True),
    **{f"individual {s}": full_stack(s) for s in RATIOS},
    "shared 4": full_stack(4, "shared"),
    **{f"thinned {s}": Arm(thinned=s) for s in RATIOS},
    **{f"ghost {s}": Arm("ghost", {"ratio": s}) for s in (2, 4)},
    **{f"orthogonal {s}, {x:g}": full_stack(s, orthogonality=x) for s in (4, 16) for x in ORTHOGONALITIES if x},
}
"""The arms by name; those that need the trained plain network of a seed are next to it, so that it is trained once."""

PAIRS = {
    "individual 4 less plain": WITHIN,
    "individual 4 less shared 4": 0.0,
    "fitted 4 less individual 4": 0.0,
    "fitted 16 less individual 16": 0.0,
    **{f"individual {s} less thinned {s}": 0.0 for s in RATIOS},
    "individual 2 less ghost 2": 0.0,
    "individual 4 less ghost 4": 0.0,
    **{f"orthogonal {s}, {x:g} less individual {s}": 0.0 for s in (4, 16) for x in ORTHOGONALITIES if x},
}
"""What is compared, and by how much the first may be below the second."""


class Plain(nn.Sequential):
    """The plain network: convolutions of 3 x 3 with batch norm and ReLU, pooling, and a linear classifier.

    Args:
        io: The shapes of images and classes. The first convolution halves sides above 16 pixels.
        widths: The channels of the convolutions.
    """

    def __init__(self, io: IO, widths: Sequence[int]) -> None:
        channels, side, _ = io.input_shape
        layers: list[nn.Module] = []
        for number, width in enumerate(widths):
            stride = 2 if number == 0 and side > 16 else 1
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in POOLED else []
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, io.outputs))


@lru_cache
def thinned(io: IO, ratio: int) -> tuple[int, ...]:
    """The widths whose memory is nearest to that of individual masks, and at most `ABOVE` more.

    All are scaled alike but the first, since the first convolution stays in the other networks too.
    """
    wanted = count(lambda: full_stack(ratio).network(io), io).memory_bits
    stem, *others = WIDTHS
    parts = (part / 200 for part in range(1, 201))
    candidates = list(dict.fromkeys((stem, *(max(round(part * width), 1) for width in others)) for part in parts))
    above = bisect_left(candidates, wanted, key=lambda widths: _memory(io, widths))
    near = [each for each in candidates[max(above - 1, 0) : above + 1] if _memory(io, each) <= (1 + ABOVE) * wanted]
    return min(near, key=lambda widths: abs(_memory(io, widths) - wanted))


@lru_cache
def _memory(io: IO, widths: Sequence[int]) -> int:
    """The bits that store a plain network."""
    return count(lambda: Plain(io, widths), io).memory_bits


@lru_cache
def loaded(name: str, subset: int) -> tuple[Dataset, Splits]:
    """A data set and its images."""
    data = dataset(name, Source(subset=subset))
    data.check()
    return data, data.load()


def trained(
    network: nn.Module, splits: Splits, recipe: Recipe, epochs: int, seed: int, teacher: Distillation | None = None
) -> nn.Module:
    """The network after training. To be called within `seeded`."""
    ClassifierTraining(network, splits.training, recipe, epochs=epochs, seed=seed, distillation=teacher).until(epochs)
    return network


@lru_cache(maxsize=len(TUNING_SEEDS))
def trained_plain(name: str, settings: Settings, seed: int) -> nn.Module:
    """The trained plain network of a seed. It must not be changed."""
    data, splits = loaded(name, settings.subset)
    with seeded(seed):
        return trained(Plain(data.io, WIDTHS), splits, recipe_for(splits), settings.epochs, seed)


def recipe_for(splits: Splits) -> Recipe:
    """The platform's default recipe."""
    return RecipeOptions().recipe(len(splits.training), "cpu")


def job(name: str, arm: Arm, settings: Settings) -> Row:
    """The settings of a training, which say all about it."""
    row = {"data": name, "arm": asdict(arm), "widths": list(WIDTHS), **asdict(settings)}
    fine_tuning = () if arm.fitted else ("distillation", "rate")
    return {key: value for key, value in row.items() if key not in fine_tuning}


def work(given: Row, seed: int) -> Row:
    """Carry out a training, for `kept`. Accuracies are fractions."""
    torch.set_num_threads(1)
    name, arm = given["data"], Arm(**given["arm"])
    settings = Settings(**{key: given[key] for key in asdict(Settings()) if key in given})
    data, splits = loaded(name, settings.subset)
    measured = getattr(splits, settings.split)
    clock, row = time.perf_counter(), {}
    if arm.fitted:
        plain = trained_plain(name, settings_of_plain(settings), seed)
        network = arm.applied(plain, fitted=True)
        row["fitted"] = evaluate(network, measured)["accuracy"]
        still = arm.applied(plain, fitted=True)
        recalibrate_path(still, "recalibrated", splits.training, CALIBRATION)
        row["recalibrated"] = evaluate(still, measured)["accuracy"]
        recipe = replace(recipe_for(splits), schedule="cosine")
        recipe = replace(recipe, learning_rate=settings.rate * recipe.learning_rate)
        # A copy, since a teacher's parameters take no gradients any more, nor would those of its later copies.
        teacher = Distillation(copy.deepcopy(plain), settings.distillation, RecipeOptions().temperature)
        before = masks(network)
        with seeded(seed):
            trained(network, splits, recipe, settings.fine_tuning, seed, teacher if settings.distillation else None)
    elif arm == ARMS["plain"]:
        network, before = trained_plain(name, settings_of_plain(settings), seed), []
    else:
        with seeded(seed):
            network = arm.network(data.io)
            before = masks(network)
            trained(network, splits, recipe_for(splits), settings.epochs, seed)
    row |= {"accuracy": evaluate(network, measured)["accuracy"], **mask_figures(before, masks(network))}
    row["seconds"] = time.perf_counter() - clock
    print(f"{name}, seed {seed}, {arm}: {row}", file=sys.stderr, flush=True)
    return row


def settings_of_plain(settings: Settings) -> Settings:
    """The settings without what concerns fine-tuning or measuring, so that a plain network is trained once."""
    return Settings(subset=settings.subset, epochs=settings.epochs)


def masks(network: nn.Module) -> list[Tensor]:
    """The masks of each layer, `[masks, elements]`, plus and minus one."""
    return [
        torch.where(layer.latent.detach() >= 0, 1.0, -1.0).flatten(1)
        for layer in network.modules()
        if isinstance(layer, FullStackConv2d)
    ]


def mask_figures(before: Sequence[Tensor], after: Sequence[Tensor]) -> Row:
    """Figures of masks before and after training, means over layers; none without masks.

    Returns:
        The squared correlation of masks as the term of the loss has it, the absolute correlation of two different
        masks, and the fraction of elements that training has changed.
    """
    if not after:
        return {}
    squared, absolute = [], []
    for signs in after:
        products = signs @ signs.T / signs.shape[1] - torch.eye(len(signs))
        squared.append(float(products.square().mean()))
        absolute.append(float(products.abs().sum()) / (len(signs) * (len(signs) - 1)))
    changed = [float((one != other).float().mean()) for one, other in zip(before, after, strict=True)]
    figures = {"squared": squared, "absolute": absolute, "changed": changed}
    return {name: float(np.mean(each)) for name, each in figures.items()}


def summary(seeds: Sequence[int], names: Sequence[str], settings: Settings, file: Path) -> dict[str, Any]:
    """What the trainings of all arms come to on each data set; those that the file lacks are carried out."""
    cells = [(name, seed, arm) for seed in seeds for name in names for arm in ARMS]
    rows = kept([(job(name, ARMS[arm], settings), seed) for name, seed, arm in cells], work, file)
    found: dict[str, dict[str, list[Row]]] = {name: {arm: [] for arm in ARMS} for name in names}
    for (name, _, arm), row in zip(cells, rows, strict=True):
        found[name][arm].append(row)
    return {name: summed(loaded(name, settings.subset)[0].io, arms) for name, arms in found.items()}


def summed(io: IO, arms: dict[str, list[Row]]) -> dict[str, Any]:
    """What the trainings of a data set come to: memory, accuracy, correlations, and paired differences."""
    lines: dict[str, Any] = {}
    for name, rows in arms.items():
        cost = count(lambda arm=ARMS[name]: arm.network(io), io)  # type: ignore[misc]
        figures = {key: [row[key] for row in rows] for key in rows[0]}
        lines[name] = {
            "memory_bits": cost.memory_bits,
            "multiplications": cost.metrics()["multiplications"],
            "widths": thinned(io, ARMS[name].thinned) if ARMS[name].thinned else WIDTHS,
            **{key: float(np.mean(values)) for key, values in figures.items() if key not in ACCURACIES},
            **{key: asdict(Gain.of(figures[key], [0.0] * len(rows))) for key in ACCURACIES if key in figures},
            "accuracies": figures["accuracy"],
        }
    differences: dict[str, Any] = {}
    for pair, allowed in PAIRS.items():
        one, other = pair.split(" less ")
        gain = Gain.of(lines[one]["accuracies"], lines[other]["accuracies"])
        differences[pair] = {**asdict(gain), "allowed": allowed, "verdict": verdict(gain, allowed)}
        if one.startswith("orthogonal"):
            squared = ([row["squared"] for row in arms[arm]] for arm in (one, other))
            differences[pair]["squared"] = asdict(Gain.of(*squared))
    return {"arms": lines, "differences": differences}


def verdict(gain: Gain, allowed: float) -> str:
    """Whether a 95 % interval shows that the loss is at most what is allowed, shows the contrary, or neither."""
    if gain.low >= -allowed:
        return "better" if gain.low > 0 else "holds"
    return "fails" if gain.high < -allowed else "not decided"


def tuned(file: Path) -> None:
    """Print what the settings were chosen by: accuracies on validation data, for seeds of their own."""
    for name in DATA:
        for epochs in (8, 12, 16):
            settings = Settings(epochs=epochs, split="validation")
            show_tuned(f"{name}, plain, {epochs} epochs", [job(name, ARMS["plain"], settings)], file)
        for rate in (1.0, 1 / 3):
            settings = Settings(rate=rate, split="validation")
            jobs = [job(name, ARMS[arm], settings) for arm in ("fitted 4", "fitted 16")]
            show_tuned(f"{name}, fitted 4 and 16, {rate:.2f} of the highest rate", jobs, file)


def show_tuned(what: str, jobs: list[Row], file: Path) -> None:
    """Print the accuracies of trainings, for each of the seeds for tuning."""
    rows = kept([(each, seed) for each in jobs for seed in TUNING_SEEDS], work, file)
    accuracies = [row["accuracy"] for row in rows]
    print(f"{what}: {', '.join(f'{100 * each:.2f}' for each in accuracies)}; mean {100 * np.mean(accuracies):.2f} %")


def points(figures: Row, *, sign: str = "", digits: int = 2) -> str:
    """A mean and its interval, in percent."""
    mean, low, high = (f"{100 * figures[key]:{sign}.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    for name, part in found.items():
        plain = part["arms"]["plain"]
        print(f"\n{name:19} {'widths':12} {'kbit':>7} {'of plain':>8} {'mult.':>9}   accuracy, %")
        for arm, line in part["arms"].items():
            widths, share = "-".join(map(str, line["widths"])), line["memory_bits"] / plain["memory_bits"]
            more = "".join(f"; {key} {points(line[key])}" for key in ("fitted", "recalibrated") if key in line)
            if "squared" in line:
                squared, absolute, changed = (line[key] for key in ("squared", "absolute", "changed"))
                more += f"; masks: {squared:.5f} squared, {absolute:.4f} absolute, {changed:.4f} changed"
            costs = f"{line['memory_bits'] / 1000:7.1f} {share:8.3f} {line['multiplications']:9,.0f}"
            print(f"{arm:19} {widths:12} {costs}   {points(line['accuracy'])}{more}")
        print("paired by seed, points:")
        for pair, line in part["differences"].items():
            allowed = f", {100 * line['allowed']:g} allowed" if line["allowed"] else ""
            print(f"{pair:38} {points(line, sign='+')}{allowed}: {line['verdict']}")
            if squared := line.get("squared"):
                print(
                    f"    squared correlation {squared['mean']:+.5f} ({squared['low']:+.5f} to {squared['high']:+.5f})"
                )


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw a picture: accuracy over memory, a panel for each data set."""
    from matplotlib import use

    use("svg")
    from matplotlib import pyplot, rc_context

    with rc_context({"svg.hashsalt": "nasplat", "svg.fonttype": "none"}):
        figure, panels = pyplot.subplots(1, len(found), figsize=(4.8 * len(found), 3.8), squeeze=False)
        for axes, (name, part) in zip(panels[0], found.items(), strict=True):
            for kind, label in (
                ("individual", "individual masks"),
                ("shared", "shared masks"),
                ("thinned", "thinned"),
                ("ghost", "Ghost"),
                ("plain", "plain"),
            ):
                lines = [line for arm, line in part["arms"].items() if arm.partition(" ")[0] == kind]
                lines.sort(key=lambda line: line["memory_bits"])
                means = [100 * line["accuracy"]["mean"] for line in lines]
                below = [100 * (line["accuracy"]["mean"] - line["accuracy"]["low"]) for line in lines]
                style: dict[str, Any] = {"color": "black", "linewidth": 2.5} if kind == "individual" else {}
                bits = [line["memory_bits"] / 8000 for line in lines]
                axes.errorbar(bits, means, below, marker="o", markersize=4, capsize=2, label=label, **style)
            axes.set_xscale("log")
            ticks = [16, 32, 64, 128, 256]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel("memory of the network, kB")
            axes.set_title(name)
        panels[0][0].set_ylabel("test accuracy, %")
        panels[0][-1].legend(fontsize="small", loc="lower right")
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Train what is missing, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1000, 1005)))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--out", type=Path, default=Path("runs/full-stack.jsonl"), help="the rows, one a training")
    parser.add_argument("--tune", action="store_true", help="print what the settings were chosen by, and end")
    parser.add_argument("--picture", type=Path, help="an SVG file to draw")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    if arguments.tune:
        tuned(arguments.out)
        return
    found = summary(arguments.seeds, arguments.data, Settings(), arguments.out)
    if arguments.picture:
        draw(found, arguments.picture)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    show(found)
    print(f"\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except InputError as error:
        sys.exit(f"error: {error}")
