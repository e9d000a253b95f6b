"""Generators of images and of points, and their discriminators (Goodfellow et al., 2014; Radford et al., 2016)."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

LEAK = 0.2
"""The slope of discriminators for negative values, as in DCGAN."""

NORMALIZATIONS = "none", "batch", "layer"
"""None, batch norm, or layer norm: over all channels of an image, or all numbers of a vector."""


def _activated(width: int, normalization: str, *, images: bool) -> list[nn.Module]:
    """The normalization of so many channels or numbers, if there is one, and a ReLU."""
    if normalization == "batch":
        return [nn.BatchNorm2d(width) if images else nn.BatchNorm1d(width), nn.ReLU()]
    if normalization == "layer":
        return [nn.GroupNorm(1, width) if images else nn.LayerNorm(width), nn.ReLU()]
    return [nn.ReLU()]


def _nearest(given: int, width: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(given, width, 3, padding=1)]


def _bilinear(given: int, width: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(given, width, 3, padding=1),
    ]


def _transposed(given: int, width: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(given, width, 4, stride=2, padding=1)]


def _shuffle(given: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(given, 4 * width, 3, padding=1), nn.PixelShuffle(2)]


UPSAMPLINGS: Mapping[str, Callable[[int, int], list[nn.Module]]] = {
    "nearest": _nearest,
    "bilinear": _bilinear,
    "transposed": _transposed,
    "shuffle": _shuffle,
}
"""The operators that double height and width, by name: of so many channels, to so many."""


class ImageGenerator(nn.Module):
    """Latent vectors to images in -1..1, by a linear layer and stages that double height and width.

    Stages begin with the smallest sides from which doubling reaches the image; what is too much is cut off around it.

    Args:
        latents: How many of the first numbers of a latent vector are used.
        sample_shape: The shape of an image, `(channels, height, width)`.
        widths: The channels after each stage; those of the first are also the channels before it.
        upsampling: A name of `UPSAMPLINGS`.
        normalization: A name of `NORMALIZATIONS`.
    """

    def __init__(
        self, latents: int, sample_shape: tuple[int, ...], widths: Sequence[int], upsampling: str, normalization: str
    ) -> None:
        super().__init__()
        channels, *self._sides = sample_shape
        self.latents = latents
        times = 2 ** len(widths)
        sides = [-(-side // times) for side in self._sides]
        self._begins = [(side * times - wanted) // 2 for side, wanted in zip(sides, self._sides, strict=True)]
        first = widths[0]
        self.head = nn.Sequential(
            nn.Linear(latents, first * sides[0] * sides[1]),
            nn.Unflatten(1, (first, *sides)),
            *_activated(first, normalization, images=True),
        )
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*UPSAMPLINGS[upsampling](given, width), *_activated(width, normalization, images=True))
                for given, width in pairwise([first, *widths])
            )
        )
        self.tail = nn.Sequential(nn.Conv2d(widths[-1], channels, 3, padding=1), nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """Images `[batch, channels, height, width]` of latent vectors `[batch, dimensions]`."""
        made = self.stages(self.head(latents[:, : self.latents]))
        (top, left), (height, width) = self._begins, self._sides
        images: Tensor = self.tail(made[:, :, top : top + height, left : left + width])
        return images


class VectorGenerator(nn.Module):
    """Latent vectors to samples of any shape, by linear layers. Images are in -1..1, vectors have no bounds.

    Args:
        latents: How many of the first numbers of a latent vector are used.
        sample_shape: The shape of a sample, `(channels, height, width)` or `(dimensions,)`.
        widths: The widths of the hidden layers.
        normalization: A name of `NORMALIZATIONS`.
    """

    def __init__(self, latents: int, sample_shape: tuple[int, ...], widths: Sequence[int], normalization: str) -> None:
        super().__init__()
        self.latents = latents
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(given, width), *_activated(width, normalization, images=False))
                for given, width in pairwise([latents, *widths])
            )
        )
        last: list[nn.Module] = [nn.Linear(widths[-1], math.prod(sample_shape))]
        if len(sample_shape) > 1:
            last += [nn.Tanh(), nn.Unflatten(1, sample_shape)]
        self.tail = nn.Sequential(*last)

    def forward(self, latents: Tensor) -> Tensor:
        """Samples `[batch, *sample_shape]` of latent vectors `[batch, dimensions]`."""
        samples: Tensor = self.tail(self.layers(latents[:, : self.latents]))
        return samples


def image_discriminator(sample_shape: tuple[int, ...], widths: Sequence[int]) -> nn.Module:
    """Images to logits `[batch, 1]`: convolutions that halve height and width, with these channels."""
    channels, *sides = sample_shape
    layers: list[nn.Module] = []
    for given, width in pairwise([channels, *widths]):
        stride = 2 if min(sides) > 1 else 1
        layers += [nn.Conv2d(given, width, 3, stride=stride, padding=1), nn.LeakyReLU(LEAK)]
        sides = [-(-side // stride) for side in sides]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * sides[0] * sides[1], 1))


def vector_discriminator(sample_shape: tuple[int, ...], widths: Sequence[int]) -> nn.Module:
    """Samples to logits `[batch, 1]`, by linear layers of these widths."""
    layers: list[nn.Module] = [nn.Flatten()]
    for given, width in pairwise([math.prod(sample_shape), *widths]):
        layers += [nn.Linear(given, width), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))
