"""Features of images: the means of feature maps of a trained network, from several of its depths."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nasplat.errors import InputError, unknown
from nasplat.training.seeding import seeded

MOST_MAPS = 4
"""The largest number of feature maps that are taken by default: the last ones, one for each size."""


class FeatureMaps:
    """A trained network whose feature maps are averaged over height and width.

    Args:
        network: The network, in evaluation mode.
        names: The names of modules with feature maps, as in `named_modules`; by default the last module of each size
            of maps, for the last four sizes.
        shape: The shape of an image, `(channels, height, width)`.
        device: Where the network computes.

    Attributes:
        names: The names of the modules.
        dimensions: The number of features of an image.
        classes: The number of the network's outputs.

    Raises:
        InputError: A name is unknown, or a module has no feature maps; or the network has none, or is no classifier of
            such images.
    """

    def __init__(
        self, network: nn.Module, names: Sequence[str] | None, shape: tuple[int, ...], device: str = "cpu"
    ) -> None:
        self.network = network.to(device)
        self.device = device
        self._modules = dict(network.named_modules())
        for name in names or ():
            if name not in self._modules or not name:
                raise InputError(unknown("module of the teacher", name, filter(None, self._modules)))
        with seeded(0):
            example = torch.randn(2, *shape)
        found = self._sizes(example)
        if names:
            if without := [name for name in names if name not in found]:
                raise InputError(
                    f"features are means of feature maps [n, channels, height, width], but the module {without[0]!r} "
                    f"of the teacher gives none; modules that do: {', '.join(list(found)[-8:]) or 'none'}"
                )
            self.names = tuple(dict.fromkeys(names))
        else:
            last = {size: name for name, (size, _) in found.items()}
            several = {size: name for size, name in last.items() if size != (1, 1)} or last
            self.names = tuple(list(several.values())[-MOST_MAPS:])
        if not self.names:
            raise InputError(
                "the teacher has no feature maps [n, channels, height, width], whose means are the features of images; "
                "take a convolutional network, or, in Python, name its modules (features=[…])"
            )
        self.dimensions = sum(found[name][1] for name in self.names)
        with torch.no_grad():
            given = self.network(example.to(device))
        if not isinstance(given, Tensor) or given.ndim != 2:
            what = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise InputError(
                f"a teacher must give one number for each class, [n, classes], but gives {what}; take a classifier"
            )
        logits = given
        self.classes = logits.shape[1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs `[n, classes]` and the features `[n, dimensions]` of images, on the CPU, in float32.

        Raises:
            InputError: A number is not finite.
        """
        kept: dict[str, Tensor] = {}

        def keep(name: str, _module: nn.Module, _given: Any, output: Any) -> None:
            kept[name] = output.mean((2, 3))  # at once, since a later module may change the maps in place

        with ExitStack() as hooks:
            for name in self.names:
                hooks.callback(self._modules[name].register_forward_hook(partial(keep, name)).remove)
            logits = self.network(images.to(self.device))
        for name, given in {**kept, "": logits}.items():
            if not given.isfinite().all():
                what = f"the feature map {name!r}" if name else "the outputs"
                raise InputError(
                    f"what a teacher gives must be finite, but {what} of an image are not; check its weights, and the "
                    "mean and std of its preprocessing, or take other feature maps by --feature (features=[…])"
                )
        return logits.float().cpu(), torch.cat([kept[name] for name in self.names], 1).float().cpu()

    @torch.no_grad()
    def _sizes(self, example: Tensor) -> dict[str, tuple[tuple[int, int], int]]:
        """The height, width and channels of the maps of each module, in the order in which they end.

        Raises:
            InputError: The network does not take such images.
        """
        found: dict[str, tuple[tuple[int, int], int]] = {}

        def note(name: str, _module: nn.Module, _given: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and len(output) == len(example):
                found.pop(name, None)
                found[name] = (output.shape[2], output.shape[3]), output.shape[1]

        with ExitStack() as hooks:
            for name, module in self._modules.items():
                if name:
                    hooks.callback(module.register_forward_hook(partial(note, name)).remove)
            try:
                self.network(example.to(self.device))
            except (RuntimeError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())[:200]
                raise InputError(
                    f"the teacher does not take images {list(example.shape[1:])}: {said}; "
                    "give the preprocessing that it was trained with"
                ) from error
        return found
