"""Layers that a transform put in the place of others: what training, costs and exports must know about them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.cost import EXPECTED, SPREAD, Operations, Sparing


class Rewritten(nn.Module):
    """A layer that stands in the place of another one, with the same inputs and outputs.

    A layer made of ordinary layers needs none of this. The defaults are those of an ordinary layer.
    """

    undecayed: ClassVar[frozenset[str]] = frozenset()
    """The names of its own parameters that take no weight decay."""

    jumps: ClassVar[bool] = False
    """Whether its outputs jump where inputs cross some value. What differs by rounding then may differ by more."""

    def penalty(self) -> Tensor | None:
        """The term that it adds to the loss of a batch, a scalar with its weight; None for none."""
        return None

    def before_training(self, steps: int) -> None:
        """Called before a training of so many steps, begun or resumed.

        Raises:
            TrialFailed: The layer does not fit it.
        """

    def after_step(self) -> None:
        """Called after each step of the optimizer; without gradients."""

    @classmethod
    def check(cls, network: nn.Module, io: IO) -> None:
        """Check before a training that `calibrate` can succeed after it; called once for each class of such layers.

        Args:
            network: In evaluation mode, not trained.
            io: The shapes of its inputs and outputs.

        Raises:
            TrialFailed: It cannot, whatever the weights become.
        """

    @classmethod
    def calibrate(cls, network: nn.Module, images: Callable[[int], Sequence[Tensor]]) -> None:
        """Set what its layers in a trained network take from data; called once for each class of such layers.

        Args:
            network: In evaluation mode.
            images: Gives so many training images, or as many as there are, in batches.

        Raises:
            TrialFailed: It cannot be set.
        """

    def statistics(self) -> Mapping[str, Tensor]:
        """What is worth keeping of its calibration besides the weights, by name. A name is an identifier."""
        return {}

    def stored_bits(self) -> int | None:
        """The bits that store its own parameters and buffers; None for those of ordinary ones."""
        return None

    def operations(self, macs: int) -> Operations:
        """What computes its multiply-accumulates."""
        return Operations(macs, macs)

    def packed(self) -> nn.Module:
        """The layer as it is stored and shipped, an independent module without gradients for what is packed.

        Its state dict has as many bits as `stored_bits` says, and its outputs are those of this layer. By default it is
        a copy. A layer that stores less than it computes with is `Packed`.
        """
        return copy.deepcopy(self)

    def dense(self) -> nn.Module | None:
        """An ordinary layer that computes the same, for what reads the weights of a network; None if there is none."""
        return None

    def unpack(self, packed: nn.Module) -> None:
        """Take the weights of a module that `packed` made, with weights loaded into it. By default they are copied."""
        self.load_state_dict(packed.state_dict())


class Packed(nn.Module):
    """A layer that computes larger weights from its tensors whenever it runs.

    Exported formats keep its tensors as they are, and compute nothing from them in advance.
    """

    jumps: ClassVar[bool] = False
    """As for a `Rewritten`."""


def rewritten(network: nn.Module) -> Iterator[tuple[str, Rewritten]]:
    """The rewritten layers of a network by name, each once."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, Rewritten))


def jumping(network: nn.Module) -> list[nn.Module]:
    """The layers of a network whose outputs jump, rewritten or packed."""
    return [layer for layer in network.modules() if isinstance(layer, Rewritten | Packed) and layer.jumps]


@contextmanager
def sparing(network: nn.Module) -> Iterator[list[Tensor]]:
    """A context in which the multiply-accumulates that images are spared are kept: `[B]` for each call of the network.

    Nothing is kept if none of its layers spares any.
    """
    found: list[Tensor] = []

    def begin(_: nn.Module, given: tuple[Tensor]) -> None:
        found.append(torch.zeros(given[0].shape[0], dtype=torch.long, device=given[0].device))

    def look(layer: nn.Module, given: tuple[Tensor], result: Tensor) -> None:
        assert isinstance(layer, Sparing)
        found[-1] = found[-1] + layer.spared(*given, result)

    layers = [layer for layer in network.modules() if isinstance(layer, Sparing)]
    with ExitStack() as undo:
        if layers:
            undo.callback(network.register_forward_pre_hook(begin).remove)
        for layer in layers:
            undo.callback(nn.Module.register_forward_hook(cast(nn.Module, layer), look).remove)
        yield found


def spares(network: nn.Module) -> bool:
    """Whether the network computes less for some images than for others."""
    return any(isinstance(layer, Sparing) for layer in network.modules())


def expected_macs(spared: Sequence[Tensor], macs: int, of: Sequence[int] = ()) -> dict[str, float]:
    """The mean and the standard deviation of the multiply-accumulates that images take, by metric.

    Args:
        spared: What the images were spared, as `sparing` gives it.
        macs: The multiply-accumulates of an image that is spared nothing.
        of: Those of each image, where images have other sizes than the one that `macs` is of. The part that an image
            takes is then that of `macs`.
    """
    total = torch.cat([*spared]).double().cpu() if spared else torch.zeros((), dtype=torch.float64)
    taken = macs * (1 - total / torch.tensor(of, dtype=torch.float64)) if of else macs - total
    return {EXPECTED: float(taken.mean()), SPREAD: float(taken.std(correction=0))}


def check(network: nn.Module, io: IO) -> None:
    """Check before a training that the layers of a network can be calibrated after it.

    Args:
        network: It is put in evaluation mode.
        io: The shapes of its inputs and outputs.

    Raises:
        TrialFailed: They cannot, whatever the weights become.
    """
    network.eval()
    for kind in dict.fromkeys(type(layer) for _, layer in rewritten(network)):
        kind.check(network, io)


def calibrate(network: nn.Module, images: Callable[[int], Sequence[Tensor]]) -> dict[str, Tensor]:
    """Let the layers of a trained network take what they need from data.

    Args:
        network: It is put in evaluation mode.
        images: Gives so many training images, or as many as there are, in batches.

    Returns:
        What is worth keeping of it besides the weights: the statistics of layers, as ``LAYER.NAME``.

    Raises:
        TrialFailed: A layer cannot be calibrated.
    """
    network.eval()
    for kind in dict.fromkeys(type(layer) for _, layer in rewritten(network)):
        kind.calibrate(network, images)
    return {f"{name}.{what}": value for name, layer in rewritten(network) for what, value in layer.statistics().items()}


def penalty(network: nn.Module) -> Tensor | None:
    """The sum of the penalties of a network's layers, a scalar; None if they have none."""
    found = [term for _, layer in rewritten(network) if (term := layer.penalty()) is not None]
    return torch.stack(found).sum() if found else None
