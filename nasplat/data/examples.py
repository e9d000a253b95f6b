"""Images and labels in memory, and their three splits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RESIDENT_BYTES = 2 * 2**30
"""The largest split, in bytes, that is kept on the device. A larger split stays on the host and is copied by batch."""


SAMPLED_BATCH = 256
"""The largest number of images in each batch of a sample."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """The standardization of uint8 images to float32, by the pixels of the training split.

    Args:
        mean: The mean of each channel `[channels, 1, 1]`, in 0..255.
        std: The standard deviation, likewise; 1 where all pixels are equal.
    """

    mean: "Tensor"
    std: "Tensor"

    @classmethod
    def of(cls, images: "Tensor") -> "Scaling":
        """The scaling of uint8 images `[n, channels, height, width]` to mean 0 and standard deviation 1."""
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


@dataclass(frozen=True)
class Examples:
    """Decoded images and their labels, in the compact form in which they are stored.

    Args:
        images: `[n, channels, height, width]`: standardised float32, or uint8 if there is a scaling.
        labels: Class numbers `[n]`, int64. Computation is on the device of the labels; the images may still be on the
            host.
        scaling: Standardises a batch of images.
        given: Whether each label was given by people, bool `[n]`, on the device of the labels; None if all were. Other
            labels are the answers of a teacher.
    """

    images: "Tensor"
    labels: "Tensor"
    scaling: Scaling | None = None
    given: "Tensor | None" = None

    def to(self, device: "torch.device | str") -> "Examples":
        """The same examples for a device. The images move there if they take at most `RESIDENT_BYTES`."""
        images = self.images.to(device) if self.images.nbytes <= RESIDENT_BYTES else self.images
        given = None if self.given is None else self.given.to(device)
        return Examples(images, self.labels.to(device), self.scaling and self.scaling.to(device), given)

    def batch(
        self, rows: "Tensor | slice", augment: "Callable[[Tensor], Tensor] | None" = None
    ) -> "tuple[Tensor, Tensor]":
        """Standardised images and labels of some rows, on the device of the labels.

        Args:
            rows: The rows; a tensor may be on either device.
            augment: A function that changes the images before standardization.
        """
        device = self.labels.device
        if isinstance(rows, slice):
            images, labels = self.images[rows], self.labels[rows]
        else:
            images, labels = self.images[rows.to(self.images.device)], self.labels[rows.to(device)]
        if images.device != device:  # pinned memory lets the copy overlap with computation on the previous batch
            images = images.pin_memory().to(device, non_blocking=True)
        if augment is not None:
            images = augment(images)
        return (images if self.scaling is None else self.scaling(images)), labels

    def sample(self, count: int) -> "Iterator[Tensor]":
        """Standardised images of a sample, stratified by class: so many, or all, in batches of nearly one size.

        Batches often have equal weight, so none is much smaller than the others.
        """
        last = min(count, len(self))
        number = -(-last // SAMPLED_BATCH)
        edges = [last * i // number for i in range(number + 1)]
        return (self.batch(self.order[slice(*edge)])[0] for edge in pairwise(edges))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def order(self) -> "Tensor":
        """All rows in an order of which every beginning is a sample, stratified by class; always the same."""
        import torch

        from nasplat.data.splitting import stratified_order

        return torch.from_numpy(stratified_order(self.labels.cpu().numpy()))


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts: training fits weights, validation guides the search, test is measured once.

    Args:
        training: The training part, already read.
        validation: The validation part, already read.
        read_test: Reads the test part, which is not used before the final measurement.
    """

    training: Examples
    validation: Examples
    read_test: Callable[[], Examples]

    @cached_property
    def test(self) -> Examples:
        """The test part, read on first use."""
        return self.read_test()

    def to(self, device: str) -> "Splits":
        return Splits(self.training.to(device), self.validation.to(device), lambda: self.test.to(device))
