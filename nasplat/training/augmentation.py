"""Augmentation of batches as torchvision transforms. Each image is changed independently, in one batched operation."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from nasplat.data.examples import Examples


class RandomCropEach(v2.Transform):  # type: ignore[misc]  # torchvision has no type information
    """`v2.RandomCrop(side, padding)` for a batch, with an independent position for each image.

    torchvision's transform crops a whole batch at one position. Applied image by image, it takes longer than a small
    network.
    Draws from torch's global CPU generator, on every device.

    Args:
        padding: Pixels added on every side; a crop of the old size is cut from the result.
        fill: The value of the added pixels.
    """

    def __init__(self, padding: int, fill: float = 0) -> None:
        super().__init__()
        self.padding = padding
        self.fill = fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The position of each crop `[batch]`: its first row and its first column."""
        count = len(flat_inputs[0])
        top, left = torch.randint(2 * self.padding + 1, (2, count))
        return {"top": top, "left": left}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Images `[batch, channels, height, width]` cropped."""
        count, channels, height, width = inpt.shape
        padded = functional.pad(inpt, [self.padding], fill=self.fill)

        def steps(number: int, axis: int) -> Tensor:
            shape = [1, 1, 1, 1]
            shape[axis] = number
            return torch.arange(number, device=inpt.device).reshape(shape)

        rows = params["top"].to(inpt.device)[:, None, None, None] + steps(height, 2)
        columns = params["left"].to(inpt.device)[:, None, None, None] + steps(width, 3)
        cropped: Tensor = padded[steps(count, 0), steps(channels, 1), rows, columns]
        return cropped


class RandomHorizontalFlipEach(v2.Transform):  # type: ignore[misc]  # as above
    """`v2.RandomHorizontalFlip()` for a batch: each image is flipped independently with probability 1/2.

    Draws from torch's global CPU generator, on every device.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Which images are flipped, `[batch]`."""
        return {"flipped": torch.rand(len(flat_inputs[0])) < 0.5}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Images `[batch, channels, height, width]`, some of them flipped."""
        flipped = params["flipped"].to(inpt.device)[:, None, None, None]
        return torch.where(flipped, functional.horizontal_flip(inpt), inpt)


class CutoutEach(v2.Transform):  # type: ignore[misc]  # as above
    """Covers a square of each image of a batch (DeVries and Taylor, 2017, "Cutout").

    The center is anywhere in the image, so a part of the square may lie outside of the image. Draws from torch's
    global CPU generator, on every device.

    Args:
        side: The side of the square, in pixels. An even square reaches further up and left of its center.
        fill: The value in the square, of the images' type, or one value for each channel `[channels, 1, 1]`.
    """

    def __init__(self, side: int, fill: Tensor) -> None:
        super().__init__()
        self.side = side
        self.fill = fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The center of each square `[batch]`: its row and its column."""
        count, _, height, width = flat_inputs[0].shape
        return {"row": torch.randint(height, (count,)), "column": torch.randint(width, (count,))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Images `[batch, channels, height, width]`, each with a covered square."""

        def covered(centers: Tensor, size: int) -> Tensor:
            first = centers.to(inpt.device)[:, None] - self.side // 2
            places = torch.arange(size, device=inpt.device)
            return (first <= places) & (places < first + self.side)

        height, width = inpt.shape[2:]
        rows, columns = covered(params["row"], height), covered(params["column"], width)
        return torch.where(rows[:, None, :, None] & columns[:, None, None, :], self.fill.to(inpt.device), inpt)


def mean(examples: Examples) -> Tensor:
    """The mean of the images as stored, `[channels, 1, 1]`: rounded for uint8, 0 for standardized images."""
    if examples.scaling is None:
        return torch.zeros(examples.images.shape[1], 1, 1, device=examples.images.device)
    return examples.scaling.mean.round().to(examples.images.dtype)


def augmentation(images: Tensor, *, mirrored: bool) -> v2.Compose:
    """The usual augmentation of small images: a random crop after padding by an eighth of a side, and flips.

    Args:
        images: The training images `[n, channels, height, width]`, as stored. The padding value is the minimum of
            float images, and 0 for uint8.
        mirrored: Whether images may be flipped.
    """
    fill = images.min().item() if images.is_floating_point() else 0
    crop = RandomCropEach(max(1, min(images.shape[2:]) // 8), fill)
    return v2.Compose([crop, *([RandomHorizontalFlipEach()] if mirrored else [])])
