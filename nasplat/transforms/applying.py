"""Transforms of any torch network: what they can rewrite, the rewritten network, its cost, and its packed weights."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasplat.architecture import IO
from nasplat.cost import Cost, count, layers
from nasplat.errors import InputError
from nasplat.options import construct
from nasplat.registry import TRANSFORMS
from nasplat.transform import Candidate, Rewriting, Transform

if TYPE_CHECKING:
    from torch import Tensor, nn


def apply(
    network: "nn.Module",
    transform: str | Transform,
    *,
    names: str | Collection[str] | None = None,
    fitted: bool = False,
    **options: Any,
) -> Rewriting:
    """A copy of a network with rewritten layers, and the errors of fitted weights.

    Args:
        network: Any network. It is not changed.
        transform: The name of a transform, or a transform.
        names: The layers to rewrite, of `candidates`; by default all that can be.
        fitted: Whether new weights are fitted to the network's, which is then trained; else they are drawn from torch's
            global generator.
        options: Options of a transform that is given by its name.

    Raises:
        InputError: The transform or an option is unknown, no layer can be rewritten, or the options fit none of them.
    """
    chosen = [names] if isinstance(names, str) else names
    return _made(transform, options).apply(network, chosen, fitted=fitted)


def candidates(network: "nn.Module", transform: str | Transform, **options: Any) -> Sequence[Candidate]:
    """The layers that a transform looks at, in order, each with the reason why it cannot be rewritten, if there is one.

    Raises:
        InputError: The transform or an option is unknown.
    """
    return _made(transform, options).candidates(network)


def cost(network: "nn.Module", input_shape: Sequence[int]) -> Cost:
    """The cost of a network for one example, by layer: parameters, MACs, bits as stored, operations.

    Args:
        network: The network; it is put in evaluation mode.
        input_shape: The shape of one example, ``(channels, height, width)`` for images.

    Raises:
        RuntimeError: The network does not take such an example.
    """
    return count(lambda: network, IO(tuple(input_shape), 0), layers, check=False)


def pack(network: "nn.Module") -> "nn.Module":
    """A copy of a network as it is stored and shipped, with binary weights as bits; it computes the same."""
    from nasplat.nn.packing import packed

    return packed(network)


def unpack(network: "nn.Module", state: "Mapping[str, Tensor]") -> None:
    """Load the state dict of a packed network into one with trainable layers.

    Raises:
        RuntimeError: The state is of another network.
    """
    from nasplat.nn.packing import unpack as unpacked

    unpacked(network, state)


def _made(transform: str | Transform, options: Mapping[str, Any]) -> Transform:
    if isinstance(transform, str):
        made: Transform = construct("transform", TRANSFORMS.get(transform), **options)
        return made
    if options:
        raise InputError(
            f"options belong to a transform that is given by its name, but got {', '.join(options)} beside "
            f"{type(transform).__name__}; make it with them"
        )
    return transform
