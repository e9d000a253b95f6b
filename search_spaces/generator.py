"""Generators of images by convolutions, and of images or points by linear layers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.generation.space import GenerativeSpace
from nasplat.search_space import Gene, GeneSpace

if TYPE_CHECKING:
    from torch import nn

LATENTS, DEPTH, WIDTHS = 0, 1, slice(2, 5)
"""The places of the genes."""


class _Generators(GenerativeSpace, GeneSpace):
    """What generators have in common: a number of latents, a depth, and a width for each step of it."""

    fixed: ClassVar[tuple[int, ...]]
    """The widths of the discriminator that is the same for all."""

    def used_latents(self, architecture: Architecture) -> int:
        return int(self.genes[LATENTS].choices[self.choices(architecture)[LATENTS]])

    def widths(self, architecture: Architecture) -> list[int]:
        """The width of each step, as many as the depth."""
        named = [gene.choices[choice] for gene, choice in zip(self.genes, self.choices(architecture), strict=True)]
        return [int(width) for width in named[WIDTHS][: int(named[DEPTH])]]

    def active_genes(self, architecture: Architecture) -> Sequence[int]:
        """All but the widths of steps beyond the depth."""
        depth = len(self.widths(architecture))
        return [gene for gene in range(len(self.genes)) if gene < WIDTHS.start + depth or gene >= WIDTHS.stop]

    def check_io(self, io: IO) -> None:
        if io.purpose == "generation":  # before networks are counted, which needs shapes that fit
            self._check_shapes(io)
        super().check_io(io)

    def _check_shapes(self, io: IO) -> None:
        if io.input_shape != (self.latents,):
            raise InputError(
                f"the networks of {self.name} take latent vectors of {self.latents} numbers, but got the input shape "
                f"{list(io.input_shape)}; make it with IO.generated({self.latents}, shape)"
            )

    def _normalization(self, architecture: Architecture) -> str:
        return self.genes[-1].choices[self.choices(architecture)[-1]]


def _genes(latents: tuple[str, ...], widths: tuple[str, ...]) -> tuple[Gene, ...]:
    return (
        Gene("latents", latents),
        Gene("depth", ("1", "2", "3")),
        *(Gene(f"width {step}", widths) for step in (1, 2, 3)),
    )


class ImageGenerators(_Generators):
    """Generators of images: a linear layer and one to three doubling stages.

    The genes are the number of latents, the depth, the channels of each stage, the operator that doubles the sides
    (nearest or bilinear interpolation with a convolution, a transposed convolution, or pixel shuffle), and the
    normalization. The discriminator of all has two convolutions of stride 2; one like a generator has its widths in
    reverse.
    """

    name: ClassVar[str] = "generator"
    latents: ClassVar[int] = 32
    reference_io: ClassVar[IO] = IO.generated(32, (1, 28, 28))
    fixed: ClassVar[tuple[int, ...]] = (32, 64)
    genes: ClassVar[tuple[Gene, ...]] = (
        *_genes(("4", "8", "16", "32"), ("8", "16", "32", "64")),
        Gene("upsampling", ("nearest", "bilinear", "transposed", "shuffle")),
        Gene("normalization", ("none", "batch", "layer")),
    )

    def _check_shapes(self, io: IO) -> None:
        super()._check_shapes(io)
        if len(io.output_shape) != 3:
            raise InputError(
                f"the networks of {self.name} generate images (channels, height, width), but samples have the shape "
                f"{list(io.output_shape)}; take --space generator/linear (space='generator/linear')"
            )

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The network: latent vectors `[B, 32]` to images `[B, *io.sample_shape]` in -1..1."""
        from nasplat.nn.generators import ImageGenerator

        upsampling = self.genes[-2].choices[self.choices(architecture)[-2]]
        return ImageGenerator(
            self.used_latents(architecture),
            io.output_shape,
            self.widths(architecture),
            upsampling,
            self._normalization(architecture),
        )

    def discriminator(self, io: IO, like: Architecture | None = None) -> "nn.Module":
        from nasplat.nn.generators import image_discriminator

        return image_discriminator(io.output_shape, self.fixed if like is None else self.widths(like)[::-1])


class LinearGenerators(_Generators):
    """Generators of images or points: one to three hidden layers.

    The genes are the number of latents, the depth, the width of each hidden layer, and the normalization. The
    discriminator of all has two hidden layers of 64; one like a generator has its widths in reverse.
    """

    name: ClassVar[str] = "generator/linear"
    latents: ClassVar[int] = 16
    reference_io: ClassVar[IO] = IO.generated(16, (2,))
    fixed: ClassVar[tuple[int, ...]] = (64, 64)
    genes: ClassVar[tuple[Gene, ...]] = (
        *_genes(("2", "4", "8", "16"), ("16", "32", "64", "128")),
        Gene("normalization", ("none", "batch", "layer")),
    )

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The network: latent vectors `[B, 16]` to samples `[B, *io.sample_shape]`."""
        from nasplat.nn.generators import VectorGenerator

        return VectorGenerator(
            self.used_latents(architecture),
            io.output_shape,
            self.widths(architecture),
            self._normalization(architecture),
        )

    def discriminator(self, io: IO, like: Architecture | None = None) -> "nn.Module":
        from nasplat.nn.generators import vector_discriminator

        return vector_discriminator(io.output_shape, self.fixed if like is None else self.widths(like)[::-1])
