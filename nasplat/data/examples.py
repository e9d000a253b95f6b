"""Images and labels in memory, and their three splits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RESIDENT_BYTES = 2 * 2**30
"""A split of up to so many bytes is kept on the device; a larger one stays on the host and follows batch by batch."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """What makes uint8 images standardised float32, by the pixels of the training split.

    Args:
        mean: For each channel `[channels, 1, 1]`, in 0..255.
        std: Likewise; 1 where all pixels are alike.
    """

    mean: "Tensor"
    std: "Tensor"

    @classmethod
    def of(cls, images: "Tensor") -> "Scaling":
        """The scaling that gives these uint8 images `[n, channels, height, width]` mean 0 and deviation 1."""
        import torch

        total = torch.zeros(2, images.shape[1], dtype=torch.float64)
        for part in torch.split(images, 4096):  # a few at a time: float64 takes eight times the memory
            pixels = part.to(torch.float32)
            for row, values in zip(total, (pixels, pixels.square()), strict=True):
                row += values.sum((0, 2, 3), dtype=torch.float64)
        mean, square = total / (images.numel() / images.shape[1])
        std = (square - mean.square()).clamp(min=0).sqrt()
        std[std < 1e-3] = 1
        return cls(*(figure.to(torch.float32)[:, None, None] for figure in (mean, std)))

    def to(self, device: "torch.device | str") -> "Scaling":
        return Scaling(self.mean.to(device), self.std.to(device))

    def __call__(self, images: "Tensor") -> "Tensor":
        return (images - self.mean) / self.std


@dataclass(frozen=True, slots=True)
class Examples:
    """Images and their labels, decoded, as small as they are kept.

    Args:
        images: `[n, channels, height, width]`: standardised float32, or uint8 if there is a scaling.
        labels: Class numbers `[n]`, int64. Work is done on their device; the images may still be on the host.
        scaling: Standardises a batch of images.
    """

    images: "Tensor"
    labels: "Tensor"
    scaling: Scaling | None = None

    def to(self, device: "torch.device | str") -> "Examples":
        """The same for work on a device, which keeps the images if they take no more than `RESIDENT_BYTES`."""
        images = self.images.to(device) if self.images.nbytes <= RESIDENT_BYTES else self.images
        return Examples(images, self.labels.to(device), self.scaling and self.scaling.to(device))

    def batch(
        self, rows: "Tensor | slice", augment: "Callable[[Tensor], Tensor] | None" = None
    ) -> "tuple[Tensor, Tensor]":
        """Standardised images and labels of some rows, on the device of the labels.

        Args:
            rows: Which; a tensor may be on either device.
            augment: What is done to the images before they are standardised.
        """
        device = self.labels.device
        if isinstance(rows, slice):
            images, labels = self.images[rows], self.labels[rows]
        else:
            images, labels = self.images[rows.to(self.images.device)], self.labels[rows.to(device)]
        if images.device != device:  # pinned memory lets the copy go on beside the work on the batch before
            images = images.pin_memory().to(device, non_blocking=True)
        if augment is not None:
            images = augment(images)
        return (images if self.scaling is None else self.scaling(images)), labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts: training fits weights, validation guides the search, test is measured once.

    Args:
        training: Read already.
        validation: Likewise.
        read_test: Reads the test part, which nobody asks for before the final measurement.
    """

    training: Examples
    validation: Examples
    read_test: Callable[[], Examples]

    @cached_property
    def test(self) -> Examples:
        """The test part, read when it is first asked for."""
        return self.read_test()

    def to(self, device: str) -> "Splits":
        return Splits(self.training.to(device), self.validation.to(device), lambda: self.test.to(device))
