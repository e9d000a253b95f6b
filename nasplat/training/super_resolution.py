"""Training networks that enlarge pictures, on small patches with their large ones; and measuring such networks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.data.picture_sets import Picture, central
from nasplat.data.resolution import agreement, as_tensor, bicubic_agreement, shrunk, whole
from nasplat.errors import InputError
from nasplat.training.fit import Recipe, Training

SYMMETRIES = 8
"""Of a square: four turns, and the same in a mirror."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture, and what is left of it when it is shrunk whole.

    Args:
        name: What errors call it.
        small: `[3, height, width]`, float32 in about 0..1, not rounded.
        large: `[3, scale * height, scale * width]`, uint8.
        grey: Whether its file is.
    """

    name: str
    small: Tensor
    large: Tensor
    grey: bool

    @classmethod
    def of(cls, picture: Picture, scale: int, *, side: int | None = None) -> "Pair":
        """Read a picture, crop it to multiples of the scale and shrink it.

        Args:
            picture: What is read.
            scale: How many times it is shrunk.
            side: If given, only the middle of a larger picture is taken, so many pixels in height and width.

        Raises:
            InputError: It cannot be read, or has fewer pixels a side than the scale.
        """
        pixels = picture.read() if side is None else central(picture.read(), side)
        original, grey = as_tensor(pixels)
        large = whole(original, scale).contiguous()
        if not large.numel():
            raise InputError(f"the picture {picture.name} has fewer than {scale} pixels a side; remove it")
        return cls(picture.name, (shrunk(large, scale) / 255).to(torch.float32), large, grey)


def symmetric(picture: Tensor, number: int) -> Tensor:
    """A picture `[..., height, width]` turned by some quarters, and seen in a mirror or not.

    Args:
        picture: Not changed.
        number: Which of the `SYMMETRIES`.
    """
    turned = torch.rot90(picture, number % 4, (-2, -1))
    return turned.flip(-1) if number >= 4 else turned


class Patches:
    """Patches of small pictures with what they were shrunk from, cut at random.

    Pictures are shrunk whole, so that a patch has around it what a whole picture has. They stay on the host, since
    a set of large ones takes more memory than a device may have; patches follow batch by batch.

    Args:
        pairs: What they are cut from; a picture serves as often as any other, however large it is.
        scale: How many times larger a patch's large one is.
        side: Of a small patch, in pixels.
        augment: Whether patches are turned and mirrored at random.

    Raises:
        InputError: A small picture is smaller than a patch.
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
                    f"the picture {pair.name} has {width} x {height} pixels when it is shrunk by {scale}, but a patch "
                    f"has {side} a side; give a smaller benchmark.patch, or sets without such pictures"
                )

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Patches `[count, 3, side, side]` and their large ones, both float32 in about 0..1, on the CPU."""
        rows = torch.rand(count, 4, dtype=torch.float64, generator=generator).tolist()
        small, large = (torch.stack(patches) for patches in zip(*(self._cut(*row) for row in rows), strict=True))
        return small, large.to(torch.float32) / 255

    def _cut(self, which: float, down: float, right: float, turn: float) -> tuple[Tensor, Tensor]:
        """One patch; where and how is given by numbers from 0 to 1."""
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
    """A network that enlarges pictures, in training with the mean absolute difference on random patches.

    Args:
        model: Trained in place; on the device.
        patches: What it learns from.
        recipe: How; an epoch's batches have `recipe.batch_size` patches.
        device: Where the model is.
        epochs: Of the whole training.
        steps: In each epoch.
        seed: Draws the patches.
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
    """What a network makes of small pictures, one at a time, compared with the originals by the protocol.

    In float32, however it was trained, since that is how it is stored and exported.

    Returns:
        ``psnr_db``, ``ssim`` and ``gain_db`` (over bicubic), means over the pictures; not a number where what the
        network gives is not.

    Raises:
        InputError: A picture is too small to be compared.
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
        raise InputError(f"the picture {pair.name} is too small: {error}") from None
    return {**found, "gain_db": found["psnr_db"] - bicubic["psnr_db"]}
