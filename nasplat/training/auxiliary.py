"""An auxiliary classifier at about two thirds of a network's depth. It shortens the path of gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nasplat.errors import TrialFailed

SIDE = 2
"""The height and width of the features after average pooling."""


@runtime_checkable
class HasAuxiliaryPosition(Protocol):
    """A network that defines the position of an auxiliary head."""

    @property
    def auxiliary_position(self) -> nn.Module:
        """The module whose output `[batch, channels, height, width]` is the input of the auxiliary head."""


class Auxiliary:
    """A second classifier beside a network in training (Szegedy et al., 2015, "Going deeper with convolutions").

    It is not part of the network. It reads the features with a hook.

    Args:
        network: The new network that is trained.
        shape: The shape of an image: channels, height and width.
        device: The device of the network.

    Raises:
        TrialFailed: The network does not define a position of the auxiliary head.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], device: torch.device) -> None:
        if not isinstance(network, HasAuxiliaryPosition):
            raise TrialFailed(
                "no auxiliary position",
                f"an auxiliary head needs features, but {type(network).__name__} has no `auxiliary_position`; "
                "add that to the space's networks, or leave out benchmark.recipe.auxiliary",
            )
        self._position = network.auxiliary_position
        self._features: list[Tensor] = []
        # The output for one image gives all sizes. Evaluation mode draws no random numbers and changes nothing.
        training = network.training
        network.eval()
        with torch.no_grad(), self.watching():
            outputs = network(torch.zeros(1, *shape, device=device)).shape[1]
            channels, *sides = self._features.pop().shape[1:]
        network.train(training)
        self.head = head(channels, sides, outputs).to(device)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside this context, the network's features are kept until `logits` reads them."""

        def keep(module: nn.Module, given: tuple[Tensor, ...], features: Tensor) -> None:
            self._features[:] = [features]

        handle = self._position.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()
            self._features.clear()

    def logits(self) -> Tensor:
        """The logits of the head for the features of the last batch: `[batch, classes]`."""
        found: Tensor = self.head(self._features.pop())
        return found


def head(channels: int, sides: list[int], outputs: int) -> nn.Sequential:
    """The auxiliary head of DARTS for CIFAR (Liu et al., 2019): `[B, channels, *sides]` to `[B, outputs]`.

    In DARTS, features have 8 x 8 pixels, and windows of 5 x 5 are averaged to 2 x 2. For other sides this is a
    generalization: equal parts of the image are averaged to 2 x 2.
    """
    pool = nn.AvgPool2d(5, stride=3) if sides == [8, 8] else nn.AdaptiveAvgPool2d(SIDE)
    return nn.Sequential(
        nn.ReLU(),
        pool,
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, SIDE, bias=False),
        nn.BatchNorm2d(768),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, outputs),
    )
