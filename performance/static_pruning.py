"""Pruning that is the same for all images, beside which pruning by image is measured."""

import copy
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO
from nasplat.cost import counted_macs
from nasplat.data.examples import Examples
from nasplat.nn.instance_pruning import InstancePrunedConv2d, norms
from nasplat.nn.rewritten import sparing
from nasplat.nn.thresholds import HALVINGS, pruned_layers

BATCH = 250


@dataclass(frozen=True, slots=True)
class Measured:
    """What a network does on some images.

    Args:
        accuracy: The fraction of images that it classifies correctly.
        share: The mean part of its MACs.
        spread: The standard deviation of that over images.
        spearman: The rank correlation of the part that an image takes with its loss; 0 where all take the same.
    """

    accuracy: float
    share: float
    spread: float
    spearman: float


@torch.no_grad()
def measured(network: nn.Module, examples: Examples, dense: int, macs: int | None = None) -> Measured:
    """What a network does on examples.

    Args:
        network: The network.
        examples: The examples.
        dense: The MACs of which images take a part.
        macs: The MACs of an image for which nothing is left out; by default `dense`.
    """
    correct, losses = [], []
    with sparing(network.eval()) as spared:
        for first in range(0, len(examples), BATCH):
            images, labels = examples.batch(slice(first, first + BATCH))
            logits = network(images)
            correct.append(logits.argmax(1) == labels)
            losses.append(functional.cross_entropy(logits, labels, reduction="none"))
    saved = torch.cat(spared) if spared else torch.zeros(len(examples))
    part = (((dense if macs is None else macs) - saved.double()) / dense).numpy()
    found = float(spearmanr(part, torch.cat(losses).numpy()).statistic) if len(set(part)) > 1 else 0.0
    return Measured(float(torch.cat(correct).double().mean()), float(part.mean()), float(part.std()), found)


@contextmanager
def masked(layers: Mapping[str, InstancePrunedConv2d], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """A context in which the same channels are set to zero for all images, by masks `[channels]` of layers."""
    with ExitStack() as undo:
        for name, layer in layers.items():

            def zeroed(_: nn.Module, given: tuple[Tensor], mask: Tensor = masks[name]) -> tuple[Tensor]:
                return (given[0] * mask[:, None, None],)

            undo.callback(layer.register_forward_pre_hook(zeroed).remove)
        yield


@torch.no_grad()
def static(network: nn.Module, batches: Sequence[Tensor], examples: Examples, dense: int, share: float) -> Measured:
    """The network without the channels whose mean norm is low over training images, the same for all images.

    One threshold, relative to the mean of each layer, is found by halving, so that the part of the MACs is the given.
    """
    layers = pruned_layers(network)
    for layer in layers.values():
        layer.threshold.fill_(-torch.inf)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    macs: dict[str, int] = {}

    def look(layer: nn.Module, given: tuple[Tensor], result: Tensor, *, name: str) -> None:
        seen[name].append(norms(given[0]))
        sides = layers[name].geometry.kernel_size
        macs[name] = result[0].numel() * sides[0] * sides[1]  # for each input channel

    with ExitStack() as undo:
        for name, layer in layers.items():
            hook = layer.register_forward_hook(lambda a, b, c, name=name: look(a, b, c, name=name))
            undo.callback(hook.remove)
        for images in batches:
            network(images)
    strength = {name: torch.cat(each).mean(0) for name, each in seen.items()}

    def masks_at(threshold: float) -> dict[str, Tensor]:
        return {name: (norm > threshold * norm.mean()) | (norm == norm.max()) for name, norm in strength.items()}

    def part(masks: Mapping[str, Tensor]) -> float:
        return 1 - sum(int((~mask).sum()) * macs[name] for name, mask in masks.items()) / dense

    low, high = 0.0, float(max(layer.geometry.inputs for layer in layers.values()))
    for _ in range(2 * HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if part(masks_at(middle)) <= share else (middle, high)
    masks = masks_at(high)
    with masked(layers, {name: mask.float() for name, mask in masks.items()}):
        found = measured(network, examples, dense)
    return Measured(found.accuracy, part(masks), 0.0, 0.0)


def without_channels(plain: nn.Module, io: IO, dense: int, share: float) -> nn.Module:
    """A copy of a network from which torch-pruning cut the channels of the smallest weights.

    Groups of channels that belong together, as in residual networks, are ranked over all layers by the L2 norm of their
    weights. The part of the channels is the least one, by sixty-fourths, that leaves at most the share of the MACs.
    """
    import torch_pruning

    def cut(part: int) -> nn.Module:
        network = copy.deepcopy(plain).eval()
        classifier = next(layer for layer in network.modules() if isinstance(layer, nn.Linear))
        torch_pruning.pruner.BasePruner(
            network,
            torch.zeros(2, *io.input_shape),
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=part / 64,
            ignored_layers=[classifier],
        ).step()
        return network

    part = bisect_left(range(60), -share, key=lambda part: -counted_macs(cut(part), io) / dense)
    return cut(part)
