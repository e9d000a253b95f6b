"""What binary convolutions lose in accuracy on small tasks: balance, gates, warm start, distillation, other methods.

    python performance/balanced_binary.py [--seeds 1000 … 1004] [--data hard_digits …] [--networks vgg …]
        [--processes 1] [--out runs/balanced-binary.jsonl] [--json]
    python performance/balanced_binary.py --tune [--out …]

Two to three hours on one core. Every training is a line of the file as soon as it has ended, and a second call
goes on where the first was interrupted. `--tune` is how the learning rate was chosen: on a seed of its own and on
validation data.
"""

import argparse
import copy
import json
import os
import platform
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from fronts import Gain
from full_stack import DATA, loaded, points, trained, verdict
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO
from nasplat.cost import count
from nasplat.data.examples import Splits
from nasplat.errors import InputError
from nasplat.nn.binary import BinaryFilters, GatedResidual, entropy, sign
from nasplat.nn.convolution import Geometry
from nasplat.nn.rewriting import replaced
from nasplat.training.distillation import Distillation
from nasplat.training.fit import evaluate
from nasplat.training.options import RecipeOptions
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded
from nasplat.transforms.balanced_binary import BalancedBinary
from nasplat.transforms.full_stack import FullStackFilters
from searching import Row, kept

Widths = tuple[int, ...]
WIDTHS: dict[str, Widths] = {"vgg": (16, 32, 32, 64, 64, 64), "residual": (16, 16, 32, 64)}
POOLED = (0, 2)
"""The convolutions of the VGG-like network that are followed by pooling; the last one is followed by global pooling."""
ABOVE = 0.02
"""By how much the memory of a thinned network may exceed that which it is compared with, as a fraction."""
RATIO = 16
"""The filters that share a full-stack filter in the network of equal memory."""
TUNING_SEED = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """How every network is trained; what is not named is the platform's default. Chosen by `--tune`.

    Args:
        subset: The number of training and validation images.
        epochs: The passes over the training images, also for networks that begin with trained weights.
        rate: The highest learning rate of binary networks, with Adam.
        real_rate: The highest learning rate of networks with real activations, with SGD.
        warm: The part of the steps in which activations are real, in arms with a warm-up.
        distillation: The weight of the real network's loss, in arms with distillation.
        split: The part of the data that is measured.
    """

    subset: int = 3000
    epochs: int = 9
    rate: float = 0.03
    real_rate: float = 0.1
    warm: float = 0.5
    distillation: float = 0.5
    split: str = "test"


@dataclass(frozen=True, slots=True)
class Arm:
    """A network, and how it is trained.

    Args:
        kind: ``real``; ``binary`` for the transform; ``adabin`` for learned binary sets; or ``full_stack`` for
            full-stack filters in a network thinned to the memory of the binary one.
        balanced: Whether binary filters are balanced.
        gated: Whether binary convolutions have gated residuals.
        fitted: Whether training begins with the weights of the trained real network of the seed.
        warm: Whether activations are real first.
        distilled: Whether the real network of the seed teaches.
    """

    kind: Literal["real", "binary", "adabin", "full_stack"] = "binary"
    balanced: bool = False
    gated: bool = False
    fitted: bool = False
    warm: bool = False
    distilled: bool = False


BOTH = Arm(balanced=True, gated=True)
ARMS = {
    "real": Arm("real"),
    "fitted": replace(BOTH, fitted=True),
    "fitted, weights first": replace(BOTH, fitted=True, warm=True),
    "distilled": replace(BOTH, distilled=True),
    "fitted, distilled": replace(BOTH, fitted=True, distilled=True),
    "neither": Arm(),
    "balanced": Arm(balanced=True),
    "gated": Arm(gated=True),
    "both": BOTH,
    "adabin": Arm("adabin"),
    "adabin, gated": Arm("adabin", gated=True),
    "full-stack": Arm("full_stack"),
}
"""The arms by name; those that need the trained real network of a seed are next to it, so that it is trained once."""
PAIRS = {
    "gated less neither": -0.015,
    "both less balanced": -0.015,
    "both less neither": 0.0,
    "balanced less neither": 0.0,
    "both less gated": 0.0,
    "both less real": 0.0,
    "both less full-stack": 0.0,
    "adabin less neither": 0.0,
    "adabin, gated less both": 0.0,
    "fitted less both": 0.0,
    "fitted, weights first less fitted": 0.0,
    "distilled less both": 0.0,
    "fitted, distilled less fitted": 0.0,
}
"""What is compared, and by how much the first may be below the second; it must be above where that is negative."""


class Vgg(nn.Sequential):
    """Convolutions of 3 x 3 with batch norm and ReLU, pooling, and a linear classifier.

    Args:
        io: The shapes of images and classes. The first convolution halves sides above 16 pixels.
        widths: The channels of the convolutions.
    """

    def __init__(self, io: IO, widths: Widths) -> None:
        channels, side, _ = io.input_shape
        layers: list[nn.Module] = []
        for number, width in enumerate(widths):
            stride = 2 if number == 0 and side > 16 else 1
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in POOLED else []
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, io.outputs))


class Block(nn.Module):
    """Two convolutions with batch norm and a shortcut (He et al., 2016); it is a 1 x 1 convolution if shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        project = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut = nn.Sequential(*(project if inputs != outputs else []))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class Residual(nn.Sequential):
    """A convolution and three blocks, the last two of stride 2, with a linear classifier.

    Args:
        io: The shapes of images and classes. The first convolution halves sides above 16 pixels.
        widths: The channels of the convolution and of the blocks.
    """

    def __init__(self, io: IO, widths: Widths) -> None:
        channels, side, _ = io.input_shape
        stem, *blocks = widths
        first = nn.Conv2d(channels, stem, 3, 2 if side > 16 else 1, 1, bias=False)
        made = [
            Block(inputs, outputs, 1 if number == 0 else 2)
            for number, (inputs, outputs) in enumerate(zip(widths, blocks, strict=False))
        ]
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], io.outputs)
        super().__init__(first, nn.BatchNorm2d(stem), nn.ReLU(), *made, *head)


NETWORKS: dict[str, Callable[[IO, Widths], nn.Module]] = {"vgg": Vgg, "residual": Residual}


class AdaBinConv2d(nn.Module):
    """A convolution of learned binary sets, after Tu et al., 2022, "AdaBin: Improving binary neural networks".

    The weights of a filter are mean ± deviation, as their equations 6 and 7 have it; activations are the nearer of
    center ± distance, both learned for the layer (equations 9 to 12). Written from the formulas; the Maxout activation
    and the training recipe of the paper are left out. Gradients pass straight through the signs of all weights, and of
    activations at most a distance from the center. Inputs are normalized first, as in the other binary layers.

    Args:
        convolution: The convolution to replace.
        gated: Whether there is a gated residual too.
    """

    def __init__(self, convolution: nn.Conv2d, *, gated: bool) -> None:
        super().__init__()
        self.geometry = Geometry.of(convolution)
        self.latent = nn.Parameter(convolution.weight.detach().clone())
        self.norm = nn.BatchNorm2d(convolution.in_channels)
        self.center, self.distance = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))
        self.gate = GatedResidual(convolution) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        mean = self.latent.mean((1, 2, 3), keepdim=True)
        deviation = (self.latent - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
        normalized = (self.latent - mean) / deviation
        weight = (normalized + (sign(normalized) - normalized).detach()) * deviation + mean
        activations = sign((self.norm(x) - self.center) / self.distance) * self.distance + self.center
        result = self.geometry.convolved(activations, weight, None)
        return result if self.gate is None else result + self.gate(x)


def network_of(kind: str, arm: Arm, io: IO, real: nn.Module | None = None, warmup: int = 0) -> nn.Module:
    """The network of an arm: of the trained real one if it begins with its weights, else drawn.

    Args:
        kind: The key in `NETWORKS`.
        arm: The arm.
        io: The shapes of images and classes.
        real: The trained real network.
        warmup: The steps with real activations, if the arm has a warm-up.
    """
    widths = thinned(kind, io) if arm.kind == "full_stack" else WIDTHS[kind]
    drawn = NETWORKS[kind](io, widths)
    if arm.kind == "real":
        return drawn
    if arm.kind == "full_stack":
        return FullStackFilters(filters=RATIO).apply(drawn).network
    transform = BalancedBinary(balanced=arm.balanced, gated=arm.gated, warmup=warmup if arm.warm else 0)
    if arm.kind == "adabin":
        layers = [drawn.get_submodule(name) for name in transform.eligible(drawn)]
        return replaced(drawn, {layer: AdaBinConv2d(layer, gated=arm.gated) for layer in layers})  # type: ignore[arg-type]
    return transform.apply(real if arm.fitted and real is not None else drawn, fitted=arm.fitted).network


@lru_cache
def thinned(kind: str, io: IO) -> Widths:
    """The widths with which full-stack filters have the memory of the binary network, at most `ABOVE` more.

    All are scaled alike but the first, since the first convolution stays as it is.
    """
    wanted = count(lambda: network_of(kind, BOTH, io), io).memory_bits
    stem, *others = WIDTHS[kind]

    def memory(widths: Widths) -> int:
        return count(lambda: FullStackFilters(filters=RATIO).apply(NETWORKS[kind](io, widths)).network, io).memory_bits

    parts = (part / 50 for part in range(13, 51))
    candidates = list(dict.fromkeys((stem, *(max(round(part * width), RATIO) for width in others)) for part in parts))
    above = bisect_left(candidates, wanted, key=memory)
    near = [each for each in candidates[max(above - 1, 0) : above + 1] if memory(each) <= (1 + ABOVE) * wanted]
    return min(near or candidates[:1], key=lambda widths: abs(memory(widths) - wanted))


@lru_cache(maxsize=2)
def trained_real(kind: str, name: str, settings: Settings, seed: int) -> nn.Module:
    """The trained real network of a seed. It must not be changed."""
    data, splits = loaded(name, settings.subset)
    with seeded(seed):
        network = NETWORKS[kind](data.io, WIDTHS[kind])
        return trained(network, splits, recipe_for(ARMS["real"], settings, splits), settings.epochs, seed)


def recipe_for(arm: Arm, settings: Settings, splits: Splits) -> Recipe:
    """The platform's default recipe for real activations; for binary ones with Adam, at a rate of their own."""
    if arm.kind in ("real", "full_stack"):
        options = RecipeOptions(learning_rate=settings.real_rate)
    else:
        options = RecipeOptions(optimizer="adam", learning_rate=settings.rate, weight_decay=0.0)
    return options.recipe(len(splits.training), "cpu")


def job(kind: str, name: str, arm: Arm, settings: Settings) -> Row:
    """The settings of a training, which say all about it."""
    row = {"network": kind, "data": name, "arm": asdict(arm), "widths": list(WIDTHS[kind]), **asdict(settings)}
    unused = set()
    if not arm.warm:
        unused.add("warm")
    if not arm.distilled:
        unused.add("distillation")
    if arm.kind in ("real", "full_stack"):
        unused.add("rate")
    elif not (arm.fitted or arm.distilled):
        unused.add("real_rate")
    return {key: value for key, value in row.items() if key not in unused}


def work(given: Row, seed: int) -> Row:
    """Carry out a training, for `kept`. Accuracies are fractions."""
    torch.set_num_threads(1)
    kind, name, arm = given["network"], given["data"], Arm(**given["arm"])
    settings = Settings(**{key: given[key] for key in asdict(Settings()) if key in given})
    of_real = Settings(subset=settings.subset, epochs=settings.epochs, real_rate=settings.real_rate)
    data, splits = loaded(name, settings.subset)
    clock, row = time.perf_counter(), {}
    if arm.kind == "real":
        network = trained_real(kind, name, of_real, seed)
    else:
        recipe = recipe_for(arm, settings, splits)
        steps = settings.epochs * (len(splits.training) // recipe.batch_size)
        real = trained_real(kind, name, of_real, seed) if arm.fitted or arm.distilled else None
        with seeded(seed):
            network = network_of(kind, arm, data.io, real, round(settings.warm * steps))
            # A copy, since a teacher's parameters take no gradients any more, nor would those of its later copies.
            teacher = None
            if arm.distilled:
                teacher = Distillation(copy.deepcopy(real), settings.distillation, RecipeOptions().temperature)  # type: ignore[arg-type]
            trained(network, splits, recipe, settings.epochs, seed, teacher)
    row["accuracy"] = evaluate(network, getattr(splits, settings.split))["accuracy"]
    filters = [layer for layer in network.modules() if isinstance(layer, BinaryFilters)]
    if filters:
        bits = [entropy(layer.latent.detach(), balanced=layer.balanced) for layer in filters]
        row["entropy"] = float(torch.cat(bits).mean())
    row["seconds"] = time.perf_counter() - clock
    print(f"{kind}, {name}, seed {seed}, {arm}: {row}", file=sys.stderr, flush=True)
    return row


@dataclass(frozen=True, slots=True)
class Line:
    """An arm on a network and a data set.

    Args:
        memory_bits: The bits that store the network; None for learned binary sets, which are not packed here.
        operations: Real operations and a sixty-fourth of the bit operations; None as well.
        accuracy: The mean with its interval.
        accuracies: By seed.
        entropy: The mean entropy of a filter's signs, in bits; None without binary filters.
        seconds: The mean time of a training.
    """

    memory_bits: int | None
    operations: float | None
    accuracy: Gain
    accuracies: list[float]
    entropy: float | None
    seconds: float


def summary(
    seeds: Sequence[int],
    names: Sequence[str],
    kinds: Sequence[str],
    settings: Settings,
    file: Path,
    processes: int,
) -> dict[str, Any]:
    """What the trainings of all arms come to; those that the file lacks are carried out."""
    for name in names:
        loaded(name, settings.subset)
    cells = [(kind, name, seed, arm) for name in names for seed in seeds for kind in kinds for arm in ARMS]
    jobs = [(job(kind, name, ARMS[arm], settings), seed) for kind, name, seed, arm in cells]
    rows = dict(zip(cells, kept(jobs, work, file, processes), strict=True))
    return {
        f"{kind}, {name}": summed(
            kind,
            loaded(name, settings.subset)[0].io,
            {arm: [rows[kind, name, seed, arm] for seed in seeds] for arm in ARMS},
        )
        for name in names
        for kind in kinds
    }


def summed(kind: str, io: IO, arms: dict[str, list[Row]]) -> dict[str, Any]:
    """What the trainings of a network on a data set come to: costs, accuracies, and paired differences."""
    lines: dict[str, Any] = {}
    for name, rows in arms.items():
        arm, accuracies = ARMS[name], [row["accuracy"] for row in rows]
        cost = None if arm.kind == "adabin" else count(lambda: network_of(kind, arm, io), io)  # noqa: B023
        lines[name] = asdict(
            Line(
                None if cost is None else cost.memory_bits,
                None if cost is None else cost.operations,
                Gain.of(accuracies, [0.0] * len(rows)),
                accuracies,
                float(np.mean([row["entropy"] for row in rows])) if "entropy" in rows[0] else None,
                float(np.mean([row["seconds"] for row in rows])),
            )
        )
    differences = {}
    for pair, allowed in PAIRS.items():
        one, other = pair.split(" less ")
        gain = Gain.of(lines[one]["accuracies"], lines[other]["accuracies"])
        differences[pair] = {**asdict(gain), "allowed": allowed, "verdict": verdict(gain, allowed)}
    return {"arms": lines, "differences": differences}


def tuned(file: Path, processes: int) -> None:
    """Print what the learning rate was chosen by: accuracies on validation data, for a seed of its own."""
    for rate in (0.01, 0.03, 0.1):
        settings = Settings(rate=rate, split="validation")
        jobs = [(job(kind, DATA[0], BOTH, settings), TUNING_SEED) for kind in NETWORKS]
        accuracies = [row["accuracy"] for row in kept(jobs, work, file, processes)]
        said = ", ".join(f"{100 * each:.2f}" for each in accuracies)
        print(f"{DATA[0]}, rate {rate:g}: {said}; mean {100 * np.mean(accuracies):.2f} %")


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    for name, part in found.items():
        print(f"\n{name:26} {'kbit':>7} {'operations':>10} {'entropy':>8}   accuracy, %")
        for arm, line in part["arms"].items():
            memory = "" if line["memory_bits"] is None else f"{line['memory_bits'] / 1000:.1f}"
            operations = "" if line["operations"] is None else f"{line['operations']:,.0f}"
            bits = "" if line["entropy"] is None else f"{line['entropy']:.4f}"
            print(f"{arm:26} {memory:>7} {operations:>10} {bits:>8}   {points(line['accuracy'])}")
        print("paired by seed, points:")
        for pair, line in part["differences"].items():
            wanted = f", {-100 * line['allowed']:g} wanted" if line["allowed"] else ""
            print(f"{pair:38} {points(line, sign='+')}{wanted}: {line['verdict']}")


def main() -> None:
    """Train what is missing, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1000, 1005)))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path("runs/balanced-binary.jsonl"), help="the rows, one a training")
    parser.add_argument("--processes", type=int, default=1, help="how many networks are trained at a time")
    parser.add_argument("--tune", action="store_true", help="print what the settings were chosen by, and end")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    if arguments.tune:
        tuned(arguments.out, arguments.processes)
        return
    found = summary(arguments.seeds, arguments.data, arguments.networks, Settings(), arguments.out, arguments.processes)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    show(found)
    print(f"\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread each")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except InputError as error:
        sys.exit(f"error: {error}")
