"""Training of super-resolution networks on pairs of low- and high-resolution patches, and their evaluation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.data.picture_sets import Picture, central
from nasplat.data.resolution import agreement, as_tensor, bicubic_agreement, shrunk, whole
from nasplat.errors import InputError
from nasplat.training.fit import Training
from nasplat.training.recipe import Recipe

SAMPLED_BATCH = 64
"""The largest number of patches in each batch of a sample."""
SYMMETRIES = 8
"""The number of symmetries of a square: four rotations, each with and without a reflection."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A high-resolution image, and its downscaled version.

    Args:
        name: Its name in errors.
        small: `[3, height, width]`, float32 in about 0..1, not rounded.
        large: `[3, scale * height, scale * width]`, uint8.
        grey: Whether its file is grey.
    """

    name: str
    small: Tensor
    large: Tensor
    grey: bool

    @classmethod
    def of(cls, picture: Picture, scale: int, *, side: int | None = None) -> "Pair":
        """Read an image, crop it to multiples of the scale and downscale it.

        Args:
            picture: The image to read.
            scale: The factor of the downscaling.
            side: If given, a larger image is center-cropped to this height and width, in pixels.

        Raises:
            InputError: The image cannot be read, or a side has fewer pixels than the scale.
        """
        pixels = picture.read() if side is None else central(picture.read(), side)
        original, grey = as_tensor(pixels)
        large = whole(original, scale).contiguous()
        if not large.numel():
            raise InputError(f"the image {picture.name} has fewer than {scale} pixels a side; remove it")
        return cls(picture.name, (shrunk(large, scale) / 255).to(torch.float32), large, grey)


def symmetric(picture: Tensor, number: int) -> Tensor:
    """An image `[..., height, width]`, rotated by a multiple of 90 degrees and optionally mirrored.

    Args:
        picture: Not changed.
        number: The number of the symmetry, less than `SYMMETRIES`.
    """
    turned = torch.rot90(picture, number % 4, (-2, -1))
    return turned.flip(-1) if number >= 4 else turned


class Patches:
    """Randomly cropped low-resolution patches with their high-resolution originals.

    Whole images are downscaled before cropping, so the borders of patches have no artifacts. Images stay on the host,
    since a set of large images may exceed the memory of a device. Patches are moved to the device batch by batch.

    Args:
        pairs: The images. Each has the same probability, whatever its size.
        scale: The ratio of the sides of a high-resolution and a low-resolution patch.
        side: The side of a low-resolution patch, in pixels.
        augment: Whether patches are randomly rotated and mirrored.

    Raises:
        InputError: A low-resolution image is smaller than a patch.
    """

    def __init__(self, pairs: Sequence[Pair], *, scale: int, side: int, augment: bool) -> None:
        self.pairs = pairs
        self.scale = scale
        self.side = side
        self.augment = augment
        for pair in pairs:
            height, width = pair.small.shape[1:]
            if min(height, width) < side:
                raise InputError(
                    f"the image {pair.name}, downscaled by {scale}, has {width} x {height} pixels, but a patch has "
                    f"{side} a side; set a smaller benchmark.recipe.patch, or remove the image"
                )

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Low-resolution patches `[count, 3, side, side]` and their originals, float32 in about 0..1, on the CPU."""
        rows = torch.rand(count, 4, dtype=torch.float64, generator=generator).tolist()
        small, large = (torch.stack(patches) for patches in zip(*(self._cut(*row) for row in rows), strict=True))
        return small, large.to(torch.float32) / 255

    def sample(self, count: int, *, seed: int, device: str) -> list[Tensor]:
        """Low-resolution patches `[n, 3, side, side]`, so many in all, in batches."""
        generator = torch.Generator().manual_seed(seed)
        whole, rest = divmod(count, SAMPLED_BATCH)
        return [self.draw(n, generator)[0].to(device) for n in [SAMPLED_BATCH] * whole + [rest] * (rest > 0)]

    def _cut(self, which: float, down: float, right: float, turn: float) -> tuple[Tensor, Tensor]:
        """One patch. Numbers from 0 to 1 give the image, the position and the symmetry."""
        pair = self.pairs[int(which * len(self.pairs))]
        height, width = pair.small.shape[1:]
        top, left = int(down * (height - self.side + 1)), int(right * (width - self.side + 1))
        number = int(turn * SYMMETRIES) if self.augment else 0
        small, large = (
            symmetric(picture[:, top * by : (top + self.side) * by, left * by : (left + self.side) * by], number)
            for picture, by in ((pair.small, 1), (pair.large, self.scale))
        )
        return small, large


class SuperResolutionTraining(Training):
    """A super-resolution network in training, with the mean absolute difference on random patches as its loss.

    Args:
        model: Trained in place; on the device.
        patches: The training patches.
        recipe: The recipe of the training. Batches have `recipe.batch_size` patches.
        device: The device of the model.
        epochs: The epochs of the whole training.
        steps: The number of steps in each epoch.
        seed: The seed for drawing the patches.
    """

    def __init__(
        self, model: nn.Module, patches: Patches, recipe: Recipe, *, device: str, epochs: int, steps: int, seed: int
    ) -> None:
        super().__init__(
            model,
            recipe,
            device=torch.device(device),
            epochs=epochs,
            steps=steps,
            batch=recipe.batch_size,
            seed=seed,
        )
        self.patches = patches

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self._steps):
            small, large = self.patches.draw(self._batch, self._generator)
            yield small.to(self.device), large.to(self.device)

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._recipe.bfloat16):
            given = network(images)
        return functional.l1_loss(given.to(torch.float32), targets)


@torch.no_grad()
def evaluate(network: nn.Module, pairs: Iterable[Pair], scale: int, device: str) -> dict[str, float]:
    """Compare a network's upscaled images with the originals, one image at a time, by the protocol.

    Computed in float32, at any training precision, since the network is stored and exported in float32.

    Returns:
        ``psnr_db``, ``ssim`` and ``gain_db`` (over bicubic), means over the images; NaN if the network's output is
        NaN.

    Raises:
        InputError: An image is too small for the comparison.
    """
    network.eval()
    figures = [_figures(network, pair, scale, device) for pair in pairs]
    return {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}


def _figures(network: nn.Module, pair: Pair, scale: int, device: str) -> dict[str, float]:
    result = network(pair.small[None].to(device))[0].cpu()
    try:
        found = agreement(result, pair.large, scale, grey=pair.grey)
        bicubic = bicubic_agreement(pair.large, scale, grey=pair.grey)
    except InputError as error:
        raise InputError(f"the image {pair.name} is too small: {error}") from None
    return {**found, "gain_db": found["psnr_db"] - bicubic["psnr_db"]}
