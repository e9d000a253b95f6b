"""Convolutions of a network, and other layers in their places."""

import copy
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from nasplat.convolution import Convolution, ConvolutionShape
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.nn.rewritten import Rewritten, rewritten
from nasplat.transform import Candidate, Rewriting, Transform

CACHED = 8192
"""Maximum number of shapes of convolutions of which reasons and costs are kept."""


class LayerTransform(Transform):
    """A transform that puts another layer in the place of each convolution that it can replace.

    Only an ordinary `nn.Conv2d` can be replaced: not a subclass, which may compute something else, and not one with
    hooks, which may change the weights. Layers inside of rewritten ones stay. By default the first convolution and the
    classifier stay too: the last layer, if it is a 1 x 1 convolution. Both are determined by the order of registration,
    which is the order of execution except in unusual networks; for those use `names`.
    """

    stem: bool = False
    """Whether the first convolution is replaced too."""

    classifier: bool = False
    """Whether the last layer is replaced too, if it is a 1 x 1 convolution. A linear layer is not changed."""

    @abstractmethod
    def refusal(self, layer: nn.Conv2d) -> str:
        """Why an ordinary convolution cannot be replaced, such as ``it has groups``; empty if it can."""

    @abstractmethod
    def replacement(self, layer: nn.Conv2d, *, fitted: bool) -> nn.Module:
        """The new layer for a convolution, of the same type, device and mode.

        Args:
            layer: The convolution. It is not changed.
            fitted: Whether the new weights are fitted to its weights; else they are drawn.
        """

    def error(self, layer: nn.Conv2d, replacement: nn.Module) -> float | None:
        """The squared error of a fitted layer's weights relative to the squared weights; None if nothing is fitted."""
        return None

    def added(self, shape: ConvolutionShape) -> Cost:
        """What the replacement of a convolution adds to the cost of one call; by default counted on both layers."""
        before = shape.cost(lambda layer: layer).metrics()
        after = shape.cost(lambda layer: self.replacement(layer, fitted=False)).metrics()
        more: dict[str, Any] = {
            name: int(after[name] - figure) for name, figure in before.items() if name != "operations"
        }
        return Cost(**more)  # which has the operations by its other figures

    def check(self, layers: Sequence[nn.Conv2d]) -> None:
        """Check that the options fit a network by those of its layers that can be replaced.

        Raises:
            InputError: They do not.
        """

    def leaves_alone(self, module: nn.Module) -> bool:
        """Whether a module stays, with all that is inside of it."""
        return isinstance(module, Rewritten)

    def candidates(self, network: nn.Module) -> Sequence[Candidate]:
        kept = {layer for module in network.modules() if self.leaves_alone(module) for layer in module.modules()}
        layers = {layer: name for layer, name in _convolutions(network).items() if layer not in kept}
        first, last = _first(network), _classifier(network)
        return [
            Candidate(name, layer.out_channels, self._reason(layer, stem=layer is first, classifier=layer is last))
            for layer, name in layers.items()
        ]

    def apply(self, network: nn.Module, names: Collection[str] | None = None, *, fitted: bool = False) -> Rewriting:
        fitted = fitted and self.fits
        candidates = self.candidates(network)
        able = [candidate.name for candidate in candidates if not candidate.reason]
        chosen = able if names is None else list(names)
        reasons = {candidate.name: candidate.reason for candidate in candidates}
        for name in chosen:
            if reason := reasons.get(name, "the network has no such convolution"):
                raise InputError(f"the layer {name!r} cannot be rewritten: {reason}; name one of {', '.join(able)}")
        if not chosen:
            raise InputError(none_eligible(type(network).__name__, candidates))
        if not any(rewritten(network)):  # else it has lost some of its widths; the transform before has checked them
            self.check([known for known, name in _convolutions(network).items() if name in set(able)])
        layers = {name: layer for layer, name in _convolutions(network).items() if name in set(chosen)}
        made = {layer: self.replacement(layer, fitted=fitted) for layer in layers.values()}
        errors = {
            name: error
            for name, layer in layers.items()
            if fitted and (error := self.error(layer, made[layer])) is not None
        }
        return Rewriting(replaced(network, made), errors)

    def eligible_of(self, convolutions: Sequence[Convolution]) -> list[str] | None:
        if type(self).leaves_alone is not LayerTransform.leaves_alone:
            return None  # sizes do not tell what a convolution is inside of
        return self.eligible_by_sizes(convolutions)

    def eligible_by_sizes(self, convolutions: Sequence[Convolution]) -> list[str]:
        """The names of the convolutions that can be replaced, if what they are inside of does not matter."""
        return [each.name for each, reason in self._told(convolutions) if not reason]

    def added_cost(self, convolutions: Sequence[Convolution], names: Collection[str] | None = None) -> Cost:
        told = list(self._told(convolutions))
        able = {each.name: each for each, reason in told if not reason}
        chosen = able.keys() if names is None else set(names)
        if others := chosen - able.keys():
            raise InputError(f"the layer {min(others)!r} cannot be rewritten; name one of {', '.join(able)}")
        if not chosen:
            raise InputError(none_eligible("network", [Candidate(e.name, e.shape.outputs, why) for e, why in told]))
        self.check([_made(each.shape) for each in able.values()])
        added = [(_added(self, able[name].shape), able[name].calls) for name in chosen]
        return Cost(
            params=sum(each.params for each, _ in added),
            macs=sum(calls * each.macs for each, calls in added),
            memory_bits=sum(each.memory_bits for each, _ in added),
            multiplications=sum(calls * (each.multiplications or 0) for each, calls in added),
            additions=sum(calls * (each.additions or 0) for each, calls in added),
            bit_operations=sum(calls * each.bit_operations for each, calls in added),
        )

    def _told(self, convolutions: Sequence[Convolution]) -> Iterator[tuple[Convolution, str]]:
        """The convolutions of a network, each with the reason why it cannot be replaced."""
        for number, each in enumerate(convolutions):
            yield each, _reason_of(self, each.shape, number == 0, each.last and each.shape.kernel == (1, 1))

    def _reason(self, layer: nn.Conv2d, *, stem: bool, classifier: bool) -> str:
        if type(layer) is not nn.Conv2d:
            return f"it is a {type(layer).__name__}, which may compute something else than nn.Conv2d"
        if any(hooks for name, hooks in vars(layer).items() if name.endswith(("_hooks", "_pre_hooks"))):
            return "it has hooks, which may change its weights"
        if stem and not self.stem:
            return "it is the first convolution; set stem=true to rewrite it too"
        if classifier and not self.classifier:
            return "it is the classifier; set classifier=true to rewrite it too"
        return self.refusal(layer)


def none_eligible(network: str, candidates: Sequence[Candidate]) -> str:
    """The message for a network without a layer to rewrite."""
    said = [f"{candidate.name or 'it'}: {candidate.reason}" for candidate in candidates if candidate.reason]
    more = [f"and {len(said) - 3} more"] if len(said) > 3 else []
    why = f" ({'; '.join([*said[:3], *more])})" if said else ""
    return (
        f"a network to transform must have a convolution that can be replaced, but this {network} has "
        f"{'none that is chosen' if candidates else 'no convolution'}{why}; transform another network"
    )


def replaced(network: nn.Module, layers: Mapping[Any, nn.Module]) -> nn.Module:
    """A copy of a network with other modules in the places of its own.

    A module that the network has in several places is replaced in all of them. What is not replaced is copied.

    Args:
        network: The network; it is not changed.
        layers: The new modules by the old ones, which are modules of the network.
    """
    if network in layers:
        return layers[network]
    # The copy has the new modules where the old ones would be copied to, so these are not copied.
    copied: nn.Module = copy.deepcopy(network, {id(old): new for old, new in layers.items()})
    return copied


def squared_error(weights: Tensor, others: Tensor) -> float:
    """The squared error of other weights, relative to the squared weights."""
    exact = weights.detach().double()
    total = float(exact.square().sum())
    return float((exact - others.detach().double()).square().sum()) / total if total else 0.0


@lru_cache(maxsize=CACHED)
def _made(shape: ConvolutionShape) -> nn.Conv2d:
    if shape.sides != (1, 1):
        return _made(replace(shape, sides=(1, 1)))  # a layer has no sides
    with torch.device("meta"):
        return shape.make()


@lru_cache(maxsize=CACHED)
def _reason_of(transform: LayerTransform, shape: ConvolutionShape, stem: bool, classifier: bool) -> str:
    return transform._reason(_made(shape), stem=stem, classifier=classifier)


@lru_cache(maxsize=CACHED)
def _added(transform: LayerTransform, shape: ConvolutionShape) -> Cost:
    return transform.added(shape)


def _convolutions(network: nn.Module) -> dict[nn.Conv2d, str]:
    return {layer: name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}


def _first(network: nn.Module) -> nn.Module | None:
    """The first convolution, or the rewritten layer that is in its place."""
    return next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d | Rewritten)), None)


def _classifier(network: nn.Module) -> nn.Module | None:
    """The last layer with weights of its own, if it is a 1 x 1 convolution."""
    layers = [layer for layer in network.modules() if next(layer.parameters(recurse=False), None) is not None]
    last = layers[-1] if layers else None
    return last if isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1) else None
