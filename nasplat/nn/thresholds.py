"""Thresholds of instance-wise pruned convolutions, calibrated to a part of the network's MACs.

Which layers are worth it is told by the coefficient of variation of channel norms: the standard deviation over the
channels of an image, divided by their mean, in the mean over images (Liu et al., 2019, as summarized by others). In
layers where it is low, all channels are about as strong, and leaving out the weakest changes the outputs.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.cost import count, counted_macs
from nasplat.cost import layers as parts
from nasplat.errors import InputError, TrialFailed
from nasplat.nn.instance_pruning import InstancePrunedConv2d, Rule, kept, norms
from nasplat.nn.rewritten import sparing

HALVINGS = 16
"""The number of halvings of the interval of a threshold."""
LEVELS = 12
"""The number of thresholds of a layer that are tried, one after the other."""
CURVE_IMAGES = 128
"""The number of images on which each of these is tried."""
LEAST = 1e-9
"""A part of the MACs that is none."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the inputs of a layer are like.

    Args:
        norms: The mean norm of each channel, `[inputs]`.
        variation: The coefficient of variation of an image's channel norms, in the mean over images.
        kept: The part of the channels that are computed with, in the mean over images.
    """

    norms: Tensor
    variation: float
    kept: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What a pruned network computes.

    Args:
        macs: The MACs of each image, `[images]`, as they are when it is evaluated alone.
        dense: The MACs of an image for which nothing is left out.
    """

    macs: Tensor
    dense: int

    @property
    def share(self) -> float:
        """The mean part of the MACs."""
        return float(self.macs.double().mean()) / self.dense


def check(network: nn.Module, io: IO) -> None:
    """Check the options of a network's pruned layers against the network.

    Args:
        network: In evaluation mode, trained or not.
        io: The shapes of its inputs and outputs.

    Raises:
        TrialFailed: The layers are no layers of the network, ask for different MACs, or cannot reach so few.
    """
    layers = pruned_layers(network)
    # How the layers were trained may differ.
    pruning, *others = dict.fromkeys(replace(layer.pruning, decay=0.0, rise=0.0, rest=0.0) for layer in layers.values())
    if others:
        raise TrialFailed(
            "several prunings",
            f"all pruned layers of a network must agree but for decay, rise and rest, but got {pruning} "
            f"and {others[0]}; give the same to all",
        )
    if strangers := [name for name in pruning.layers if name not in layers]:
        raise TrialFailed(
            "no such layer",
            f"layers must name pruned layers of the network, but {strangers[0]!r} is none; choose among "
            f"{', '.join(layers)}",
        )
    cost = count(lambda: network, io, parts, check=False)
    # At least one channel is computed with.
    spared = sum(cost.parts[name].macs * (1 - 1 / layers[name].geometry.inputs) for name in pruning.layers or layers)
    least = 1 - spared / cost.macs
    if least > pruning.macs:
        raise TrialFailed("macs not reached", _unreachable(pruning.macs, least))


def calibrated(network: nn.Module, images: Callable[[int], Sequence[Tensor]]) -> None:
    """Set the thresholds of a trained network as its layers say, on training images.

    Args:
        network: In evaluation mode.
        images: Gives so many images in batches.

    Raises:
        TrialFailed: As in `check`, or because norms vary too little in too many layers.
    """
    layers = pruned_layers(network)
    pruning = next(iter(layers.values())).pruning
    batches = images(pruning.images)
    for layer in layers.values():
        layer.threshold.fill_(-math.inf)
    io = IO(tuple(batches[0].shape[1:]), 0)
    check(network, io)
    seen = surveys(network, batches)
    if unclear := [name for name, each in seen.items() if not each.norms.isfinite().all()]:
        raise TrialFailed("diverged", f"the norms of channels of the layer {unclear[0]} are not finite")
    names = pruning.layers or [name for name, each in seen.items() if each.variation >= pruning.variation]
    if not names and pruning.macs < 1:
        most = max((each.variation for each in seen.values()), default=0.0)
        raise TrialFailed(
            "macs not reached",
            f"no layer is pruned: channel norms must vary by at least variation={pruning.variation:g}, but the most "
            f"that those of a layer vary is {most:.3g}; lower it, or name layers",
        )
    try:
        set_thresholds(network, batches, counted_macs(network, io), pruning.macs, names=names, rule=pruning.thresholds)
    except InputError as error:
        raise TrialFailed("macs not reached", str(error)) from None
    for name, after in surveys(network, batches).items():
        before = seen[name]
        layers[name].keep(
            {
                "norms": before.norms,
                "variation_of_norms": torch.tensor(before.variation),
                "channels_kept": torch.tensor(after.kept),
            }
        )


def pruned_layers(network: nn.Module) -> dict[str, InstancePrunedConv2d]:
    """The pruned convolutions of a network by name, each once."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, InstancePrunedConv2d)}


@torch.no_grad()
def surveys(network: nn.Module, batches: Sequence[Tensor]) -> dict[str, Survey]:
    """What the inputs of each pruned layer that runs are like, with the thresholds as they are.

    Args:
        network: In evaluation mode.
        batches: Images.
    """
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def look(layer: nn.Module, given: tuple[Tensor], *, into: list[tuple[Tensor, Tensor]]) -> None:
        assert isinstance(layer, InstancePrunedConv2d)
        into.append((norms(given[0]).double(), kept(given[0], layer.threshold)))

    with ExitStack() as undo:
        for name, layer in pruned_layers(network).items():
            into = seen.setdefault(name, [])
            undo.callback(layer.register_forward_pre_hook(partial(look, into=into)).remove)
        for images in batches:
            network(images)
    found = {}
    for name, each in seen.items():
        if not each:  # evaluations do without the layer
            continue
        norm, used = (torch.cat(column) for column in zip(*each, strict=True))
        mean = norm.mean(1)
        variation = torch.where(mean > 0, norm.std(1, correction=0) / mean, 0.0)
        found[name] = Survey(norm.mean(0), float(variation.mean()), float(used.double().mean()))
    return found


@torch.no_grad()
def spent(network: nn.Module, batches: Sequence[Tensor], dense: int) -> Spent:
    """The MACs of each image.

    Args:
        network: In evaluation mode.
        batches: Images.
        dense: The MACs of the network without pruning.
    """
    with sparing(network) as spared:
        for images in batches:
            network(images)
    saved = torch.cat(spared) if spared else torch.zeros(sum(map(len, batches)), dtype=torch.long)
    return Spent(dense - saved, dense)


@torch.no_grad()
def set_thresholds(
    network: nn.Module,
    batches: Sequence[Tensor],
    dense: int,
    share: float,
    *,
    names: Collection[str],
    rule: Rule = "common",
) -> Spent:
    """Set the thresholds of some layers, so that images take a given part of the MACs in the mean, or little less.

    The others leave nothing out. With ``common``, all have one threshold. With ``layer``, thresholds are raised one
    after the other: that of the layer whose next step changes the outputs least for the MACs that it saves. Both are
    measured while no other layer leaves anything out.

    Args:
        network: In evaluation mode.
        batches: Images, of the training data.
        dense: The MACs of the network without pruning.
        share: The part, from 0 to 1.
        names: The layers.
        rule: How thresholds are chosen.

    Raises:
        InputError: So few MACs cannot be reached with these layers.
    """
    layers = pruned_layers(network)
    for layer in layers.values():
        layer.threshold.fill_(-math.inf)
    chosen = [layer for name, layer in layers.items() if name in names]
    run = _common if rule == "common" else _by_layer
    return spent(network, batches, dense) if share >= 1 else run(network, batches, dense, share, chosen)


def _common(
    network: nn.Module, batches: Sequence[Tensor], dense: int, share: float, layers: Sequence[InstancePrunedConv2d]
) -> Spent:
    def at(threshold: float) -> Spent:
        for layer in layers:
            layer.threshold.fill_(threshold)
        return spent(network, batches, dense)

    low, high = 0.0, 1.0
    # No norm is above the mean times the number of channels: from there on, one channel is computed with.
    most = float(max((layer.geometry.inputs for layer in layers), default=1))
    while at(high).share > share:
        if high >= most:
            raise InputError(_unreachable(share, at(most).share))
        low, high = high, min(2 * high, most)
    return _halved(lambda: spent(network, batches, dense), share, layers, low, high)


def _halved(
    spends: Callable[[], Spent], share: float, layers: Sequence[InstancePrunedConv2d], low: float, high: float
) -> Spent:
    """The least threshold of some layers with which images take at most a part of the MACs; it is at most `high`."""

    def at(threshold: float) -> Spent:
        for layer in layers:
            layer.threshold.fill_(threshold)
        return spends()

    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle).share <= share else (middle, high)
    return at(high)


def _by_layer(
    network: nn.Module, batches: Sequence[Tensor], dense: int, share: float, layers: Sequence[InstancePrunedConv2d]
) -> Spent:
    few = _first(batches, CURVE_IMAGES)
    outputs = [network(images) for images in few]

    def measured(layer: InstancePrunedConv2d, threshold: float) -> tuple[float, float]:
        """The part of the MACs that the layer saves, and the sum of the squares of the changes of outputs."""
        layer.threshold.fill_(threshold)
        with sparing(network) as spared:
            moved = [(network(images) - before).square().sum() for images, before in zip(few, outputs, strict=True)]
        layer.threshold.fill_(-math.inf)
        return float(torch.cat(spared).double().sum()) / dense, float(torch.stack(moved).sum())

    levels = _levels(network, batches, layers)
    layers = [*levels]
    curves = [[(0.0, 0.0), *(measured(layer, each) for each in levels[layer][1:])] for layer in layers]
    reached, steps = [0] * len(layers), list[tuple[InstancePrunedConv2d, int]]()

    def price(place: int) -> float:
        """The change of outputs for each part of the MACs that the next step of a layer saves."""
        (saved, moved), (more, further) = curves[place][reached[place] : reached[place] + 2]
        return (further - moved) / max(more - saved, LEAST)

    while left := [place for place, curve in enumerate(curves) if reached[place] + 1 < len(curve)]:
        place = min(left, key=price)
        reached[place] += 1
        steps.append((layers[place], reached[place]))

    def after(count: int) -> Spent:
        for layer in layers:
            layer.threshold.fill_(-math.inf)
        for layer, level in steps[:count]:
            layer.threshold.fill_(levels[layer][level])
        return spent(network, batches, dense)

    if (least := after(len(steps)).share) > share:
        raise InputError(_unreachable(share, least))
    count = bisect_left(range(len(steps)), -share, key=lambda count: -after(count).share)
    after(count)
    layer, level = steps[count - 1]  # this step may go too far
    low, high = levels[layer][level - 1 : level + 1]
    return _halved(lambda: spent(network, batches, dense), share, [layer], max(low, 0.0), high)


def _levels(
    network: nn.Module, batches: Sequence[Tensor], layers: Sequence[InstancePrunedConv2d]
) -> dict[InstancePrunedConv2d, list[float]]:
    """Thresholds of each layer that runs, each of which leaves out about as many more channels, up to all but one."""
    found: dict[InstancePrunedConv2d, list[Tensor]] = {layer: [] for layer in layers}

    def look(layer: nn.Module, given: tuple[Tensor]) -> None:
        assert isinstance(layer, InstancePrunedConv2d)
        norm = norms(given[0]).double()
        found[layer].append((norm / norm.mean(1, keepdim=True)).nan_to_num().flatten())

    with ExitStack() as undo:
        for layer in layers:
            undo.callback(layer.register_forward_pre_hook(look).remove)
        for images in batches:
            network(images)
    parts = [level / LEVELS for level in range(1, LEVELS)]
    return {
        layer: [-math.inf, *sorted({0.0, *np.quantile(torch.cat(each).cpu(), parts), float(layer.geometry.inputs)})]
        for layer, each in found.items()
        if each
    }


def _first(batches: Sequence[Tensor], count: int) -> list[Tensor]:
    """So many images, or all if they are fewer."""
    taken: list[Tensor] = []
    for images in batches:
        if (missing := count - sum(map(len, taken))) > 0:
            taken.append(images[:missing])
    return taken


def _unreachable(share: float, least: float) -> str:
    return (
        "the share of MACs must be one that can be reached with the pruned layers, at least "
        f"{math.ceil(1000 * least) / 1000:.3f} here, but is {share:g}; raise it, or prune more layers"
    )
