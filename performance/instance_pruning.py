"""What leaving out channels image by image costs in accuracy on small tasks, beside static pruning.

    python performance/instance_pruning.py [--seeds 1000 … 1004] [--data hard_digits …] [--networks vgg …]
        [--processes 1] [--out runs/instance-pruning.jsonl] [--json]
    python performance/instance_pruning.py --tune [--out …]

Every training is a line of the file as soon as it has ended, with all that is measured of the trained network, and a
second call goes on where the first was interrupted. `--tune` is how the weight of the feature decay was chosen: on a
seed of its own and on validation data.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import Gain
from full_stack import DATA, loaded, points, trained, verdict
from static_pruning import BATCH, measured, static, without_channels
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from nasplat import transforms
from nasplat.architecture import IO
from nasplat.cost import counted_macs
from nasplat.data.examples import Examples
from nasplat.errors import InputError
from nasplat.nn.instance_pruning import Rule
from nasplat.nn.thresholds import pruned_layers, set_thresholds, spent, surveys
from nasplat.training.fit import evaluate
from nasplat.training.options import RecipeOptions
from nasplat.training.seeding import seeded
from searching import Row, kept

SHARES = (0.6, 0.5)
"""The parts of the MACs."""
ALLOWED = {0.6: 0.01, 0.5: 0.015}
"""The loss of accuracy that is allowed at each part."""
WITHOUT = -0.05
"""By how much the feature decay must be better than the same gating without it: at least five points."""
DECAYS = {"vgg": 1.0, "resnet20": 0.2}
"""The weight of the feature decay of each network: the best of `--tune` at half of the MACs."""
SCHEDULE: dict[str, Any] = {"rise": 0.67, "rest": 0.33}
"""The part of the training in which the feature decay rises, and the part at the end without it."""
BOOSTED = (0.5,)
"""The parts of the MACs for which saliencies are learned."""
CLIPPED = 5.0
"""The norm to which gradients of saliencies are clipped; without it, one of ten trainings diverged."""
RULES: tuple[Rule, ...] = ("common", "layer")
CALIBRATION, TUNING_SEED = 512, 100


@dataclass(frozen=True, slots=True)
class Settings:
    """How every network is trained; what is not named is the platform's default.

    Args:
        subset: The number of training and validation images.
        epochs: The passes over the training images.
        decay: The weight of the feature decay, of `DECAYS` or 0.
        split: The part of the data that is measured.
        tuning: The passes that a network takes to get over static pruning by torch-pruning.
    """

    subset: int = 3000
    epochs: int = 9
    decay: float = 0.0
    split: str = "test"
    tuning: int = 3


class Vgg(nn.Sequential):
    """Five convolutions of 3 x 3 with batch norm and ReLU, two poolings, and a linear classifier.

    Args:
        io: The shapes of images and classes. The first convolution halves sides above 16 pixels.
        widths: The channels of the convolutions.
    """

    def __init__(self, io: IO, widths: Sequence[int] = (32, 64, 64, 64, 64)) -> None:
        channels, side, _ = io.input_shape
        layers: list[nn.Module] = []
        for number, width in enumerate(widths):
            stride = 2 if number == 0 and side > 16 else 1
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in (0, 2) else []
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, io.outputs))


class ResNet20(nn.Sequential):
    """The network of He et al., 2016, sec. 4.2: a convolution and nine blocks of 16, 32 and 64 channels.

    Args:
        io: The shapes of images and classes. The first convolution halves sides above 16 pixels.
    """

    def __init__(self, io: IO) -> None:
        channels, side, _ = io.input_shape
        first = nn.Conv2d(channels, 16, 3, 2 if side > 16 else 1, 1, bias=False)
        blocks, inputs = [], 16
        for outputs in (16, 32, 64):
            for number in range(3):
                stride = 2 if number == 0 and outputs > 16 else 1
                project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
                blocks.append(BasicBlock(inputs, outputs, stride, project if stride > 1 else None))
                inputs = outputs
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, io.outputs)
        super().__init__(first, nn.BatchNorm2d(16), nn.ReLU(), *blocks, *head)


NETWORKS: dict[str, Callable[[IO], nn.Module]] = {"vgg": Vgg, "resnet20": ResNet20}


class Boosted(nn.Module):
    """A convolution and batch norm that compute the channels with the largest saliencies, which scale them.

    After Gao et al., 2019, "Dynamic channel pruning: Feature boosting and suppression", sec. 3. Written from the
    formulas: saliencies are a linear function and ReLU of the mean absolute values of the input channels, and replace
    the weight of batch norm. All channels are computed here, and set to zero; what would be left out is counted. The
    small penalty on saliencies is left out.

    Args:
        layer: The convolution.
        norm: Its batch norm.
        part: The part of the channels that is computed.
    """

    def __init__(self, layer: nn.Conv2d, norm: nn.BatchNorm2d, part: float) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        norm.weight.requires_grad_(False)
        self.saliency = nn.Linear(layer.in_channels, layer.out_channels)
        nn.init.ones_(self.saliency.bias)
        self.channels = max(round(part * layer.out_channels), 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.saliency(x.abs().mean((2, 3))).relu()
        least = found.topk(self.channels, 1).values[:, -1:]
        scales: Tensor = found * (found >= least)
        outputs: Tensor = self.norm(self.layer(x)) * scales[:, :, None, None]
        return outputs


def boosted(network: nn.Module, part: float) -> nn.Module:
    """A network with `Boosted` in the place of each convolution and its batch norm, but for the first."""
    modules = list(network.named_modules())
    pairs = [
        (first, layer, second, norm)
        for (first, layer), (second, norm) in pairwise(modules)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and layer.in_channels > 3
    ]
    for first, layer, second, norm in pairs:
        network.set_submodule(first, Boosted(layer, norm, part))
        network.set_submodule(second, nn.Identity())
    return network


@torch.no_grad()
def boosted_share(network: nn.Module, images: Tensor, dense: int) -> float:
    """The mean part of the MACs that computed channels take of inputs that are not zero, and saliencies."""
    spared: list[float] = []

    def look(layer: nn.Module, given: tuple[Tensor], result: Tensor) -> None:
        assert isinstance(layer, Boosted)
        conv = layer.layer
        macs = result[0].numel() * conv.weight[0].numel()
        inputs = (given[0].abs().amax((2, 3)) > 0).float().mean(1)
        outputs = layer.channels / conv.out_channels
        spared.append(macs * (1 - outputs * float(inputs.mean())) - conv.in_channels * conv.out_channels)

    with ExitStack() as undo:
        for layer in network.modules():
            if isinstance(layer, Boosted):
                undo.callback(layer.register_forward_hook(look).remove)
        network.eval()(images)
    return 1 - sum(spared) / dense


def boosted_part(kind: str, io: IO, images: Tensor, dense: int, share: float, seed: int) -> float:
    """The part of the channels with which a new network takes a given part of the MACs, by sixty-fourths."""

    def at(part: float) -> float:
        with seeded(seed):
            return boosted_share(boosted(NETWORKS[kind](io), part), images, dense)

    return max((number / 64 for number in range(16, 64) if at(number / 64) <= share), default=16 / 64)


def job(kind: str, name: str, decay: float, settings: Settings, boosted_to: float = 0.0) -> Row:
    """The settings of a training, which say all about it."""
    row = {"network": kind, "data": name, **asdict(settings), "decay": decay, **(SCHEDULE if decay else {})}
    return {**row, "boosted_to": boosted_to, "gradient_norm": CLIPPED} if boosted_to else row


def work(given: Row, seed: int) -> Row:
    """Carry out a training and all measurements of the network, for `kept`. Accuracies are fractions.

    What concerns the feature decay alone is measured with it alone, and not in `--tune`.
    """
    torch.set_num_threads(1)
    settings = Settings(**{key: given[key] for key in asdict(Settings())})
    if "boosted_to" in given:
        return boosted_work(given["network"], given["data"], given["boosted_to"], settings, seed)
    data, splits = loaded(given["data"], settings.subset)
    clock = time.perf_counter()
    recipe = RecipeOptions().recipe(len(splits.training), "cpu")
    with seeded(seed):
        drawn = NETWORKS[given["network"]](data.io)
        dense = counted_macs(drawn, data.io)
        network = transforms.apply(drawn, "instance_pruning", fitted=True, decay=settings.decay, **SCHEDULE).network
        trained(network, splits, recipe, settings.epochs, seed)
    seconds = time.perf_counter() - clock
    network.eval()
    batches, examples = list(splits.training.sample(CALIBRATION)), getattr(splits, settings.split)
    row: Row = {"unpruned": asdict(measured(network, examples, dense)), "dense": dense, "seconds": seconds}
    row["variations"] = {name: each.variation for name, each in surveys(network, batches).items()}
    for share in SHARES:
        for rule in RULES:
            set_thresholds(network, batches, dense, share, names=[*pruned_layers(network)], rule=rule)
            row[f"{rule} {share}"] = asdict(measured(network, examples, dense))
    if not settings.decay or settings.split != "test":
        return row
    for share in SHARES:
        row[f"static {share}"] = asdict(static(network, batches, examples, dense, share))
    row |= by_variation(network, batches, examples, dense, row["variations"])
    plain = NETWORKS[given["network"]](data.io)
    missing, _ = plain.load_state_dict(network.state_dict(), strict=False)  # without thresholds
    assert not missing
    for share in SHARES:
        cut = without_channels(plain, data.io, dense, share)
        row[f"library {share}"] = asdict(measured(cut, examples, dense, counted_macs(cut, data.io)))
        with seeded(seed):
            trained(cut, splits, replace(recipe, schedule="cosine"), settings.tuning, seed)
        row[f"tuned library {share}"] = asdict(measured(cut, examples, dense, counted_macs(cut, data.io)))
    return row


def boosted_work(kind: str, name: str, share: float, settings: Settings, seed: int) -> Row:
    """The training of a network with learned saliencies that takes a part of the MACs."""
    data, splits = loaded(name, settings.subset)
    examples = getattr(splits, settings.split)
    (images,) = splits.training.sample(BATCH)
    clock = time.perf_counter()
    with seeded(seed):
        dense = counted_macs(NETWORKS[kind](data.io), data.io)
    part = boosted_part(kind, data.io, images, dense, share, seed)
    recipe = RecipeOptions(gradient_norm=CLIPPED).recipe(len(splits.training), "cpu")
    with seeded(seed):
        network = boosted(NETWORKS[kind](data.io), part)
        trained(network, splits, recipe, settings.epochs, seed)
    accuracy = evaluate(network, examples)["accuracy"]
    row = {"accuracy": accuracy, "share": boosted_share(network, images, dense), "part": part}
    return {**row, "seconds": time.perf_counter() - clock}


def by_variation(
    network: nn.Module, batches: Sequence[Tensor], examples: Examples, dense: int, found: Mapping[str, float]
) -> Row:
    """The half of the layers with high variation, and the other half, at the least MACs that both can reach."""
    ordered = sorted(found, key=lambda name: found[name])
    halves = {"low": ordered[: len(ordered) // 2], "high": ordered[len(ordered) - len(ordered) // 2 :]}
    reached = []
    for names in halves.values():
        for name, layer in pruned_layers(network).items():
            layer.threshold.fill_(1.0 if name in names else -torch.inf)  # leaves out all below the mean
        reached.append(spent(network, batches, dense).share)
    share = max(reached)
    row: Row = {}
    for which, names in halves.items():
        set_thresholds(network, batches, dense, share, names=names)
        row[which] = asdict(measured(network, examples, dense))
    return row


def summary(
    seeds: Sequence[int],
    names: Sequence[str],
    kinds: Sequence[str],
    settings: Settings,
    file: Path,
    processes: int,
) -> dict[str, Any]:
    """What the trainings come to; those that the file lacks are carried out."""
    for name in names:
        loaded(name, settings.subset)
    arms = ("decay", "none")
    cells = [(kind, name, seed, arm) for name in names for seed in seeds for kind in kinds for arm in arms]
    jobs = [(job(kind, name, DECAYS[kind] * (arm == "decay"), settings), seed) for kind, name, seed, arm in cells]
    learned = [(kind, name, seed, share) for name in names for seed in seeds for kind in kinds for share in BOOSTED]
    jobs += [(job(kind, name, 0.0, settings, share), seed) for kind, name, seed, share in learned]
    rows = dict(zip([*cells, *learned], kept(jobs, work, file, processes), strict=True))
    return {
        f"{kind}, {name}": summed(
            {arm: [rows[kind, name, seed, arm] for seed in seeds] for arm in arms},
            {share: [rows[kind, name, seed, share] for seed in seeds] for share in BOOSTED},
        )
        for name in names
        for kind in kinds
    }


def summed(arms: Mapping[str, list[Row]], learned: Mapping[float, list[Row]]) -> dict[str, Any]:
    """What the trainings of a network on a data set come to: means with intervals, and paired differences."""
    decayed, none = arms["decay"], arms["none"]
    figures = [key for key, value in decayed[0].items() if isinstance(value, dict) and "accuracy" in value]

    def column(rows: Sequence[Row], key: str, what: str = "accuracy") -> list[float]:
        return [row[key][what] for row in rows]

    lines = {
        arm: {
            key: {
                "accuracy": asdict(Gain.of(column(rows, key), [0.0] * len(rows))),
                **{what: float(np.mean(column(rows, key, what))) for what in ("share", "spread")},
                "spearman": asdict(Gain.of(column(rows, key, "spearman"), [0.0] * len(rows))),
            }
            for key in figures
            if key in rows[0]
        }
        for arm, rows in arms.items()
    }
    for share, rows in learned.items():
        accuracies = [row["accuracy"] for row in rows]
        lines.setdefault("boosted", {})[str(share)] = {
            "accuracy": asdict(Gain.of(accuracies, [0.0] * len(rows))),
            "share": float(np.mean([row["share"] for row in rows])),
            "spread": 0.0,
            "spearman": asdict(Gain.of([0.0] * len(rows), [0.0] * len(rows))),
        }
    pairs: dict[str, tuple[list[float], list[float], float]] = {
        "decay less none, both unpruned": (column(decayed, "unpruned"), column(none, "unpruned"), 0.0),
        "high less low variation": (column(decayed, "high"), column(decayed, "low"), 0.0),
    }
    for share, allowed in ALLOWED.items():
        for rule in RULES:
            key = f"{rule} {share}"
            mine = column(decayed, key)
            pairs[f"{key} less unpruned"] = (mine, column(decayed, "unpruned"), allowed)
            pairs[f"{key} less none, unpruned"] = (mine, column(none, "unpruned"), allowed)
            pairs[f"{key} less none, {key}"] = (mine, column(none, key), WITHOUT)
            for fixed in ("static", "library", "tuned library"):
                pairs[f"{key} less {fixed}"] = (mine, column(decayed, f"{fixed} {share}"), 0.0)
            if share in learned:
                pairs[f"{key} less boosted"] = (mine, [row["accuracy"] for row in learned[share]], 0.0)
    differences = {}
    for pair, (one, other, allowed) in pairs.items():
        gain = Gain.of(one, other)
        differences[pair] = {**asdict(gain), "allowed": allowed, "verdict": verdict(gain, allowed)}
    return {"arms": lines, "differences": differences}


def tuned(file: Path, processes: int) -> None:
    """Print what the decay was chosen by: accuracies on validation data, for a seed of its own."""
    decays = (0.0, 0.1, 0.2, 0.3, 1.0, 3.0)
    tries = [(decay, kind) for decay in decays for kind in NETWORKS]
    jobs = [
        (job(kind, DATA[0], decay, Settings(decay=decay, split="validation")), TUNING_SEED) for decay, kind in tries
    ]
    keys = ["unpruned", *(f"{rule} {share}" for share in SHARES for rule in RULES)]
    for (decay, kind), row in zip(tries, kept(jobs, work, file, processes), strict=True):
        said = ", ".join(f"{key} {100 * row[key]['accuracy']:.2f} ({row[key]['share']:.2f})" for key in keys)
        print(f"{DATA[0]}, {kind}, decay {decay:g}: {said}")


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    for name, part in found.items():
        print(f"\n{name}\n{'':8} {'':12} {'MACs':>7} {'spread':>7}   accuracy, %")
        for arm, lines in part["arms"].items():
            for key, line in lines.items():
                rank = points(line["spearman"], sign="+") if line["spread"] else ""
                print(f"{arm:8} {key:17} {line['share']:7.3f} {line['spread']:7.3f}   {points(line['accuracy'])}"
                      f"{'; rank correlation with loss, %: ' * bool(rank)}{rank}")  # fmt: skip
        print("paired by seed, points:")
        for pair, line in part["differences"].items():
            allowed = f", {100 * line['allowed']:g} allowed" if line["allowed"] else ""
            print(f"{pair:38} {points(line, sign='+')}{allowed}: {line['verdict']}")


def main() -> None:
    """Train what is missing, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1000, 1005)))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/instance-pruning.jsonl"), help="the rows, one a training"
    )
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
