"""One member of a search space, and the interface of the network it becomes."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeAlias

Purpose: TypeAlias = Literal["classification", "super-resolution", "generation"]
"""What networks are for."""


@dataclass(frozen=True, slots=True, order=True)
class Architecture:
    """One member of a search space: it is stored, looked up, costed, built and exported.

    Make one with `SearchSpace.parse` or `SearchSpace.sample`, which guarantee membership.

    Args:
        space: The registered name of the search space.
        code: The genotype as a short string of printable ASCII without white space.
    """

    space: str
    code: str

    def __str__(self) -> str:
        return f"{self.space}:{self.code}"


@dataclass(frozen=True, slots=True)
class IO:
    """The input and output shapes that a data set requires of a network.

    Args:
        input_shape: One example's shape without the batch; ``(channels, height, width)`` for images, ``(dimensions,)``
            for the latent vectors of generators.
        outputs: The number of outputs: of classes for classification, of channels for super-resolution, of numbers in
            a sample for generation.
        scale: The upscaling factor of super-resolution: the output image is this many times as high and wide as the
            input. None if the output is no image but numbers. Super-resolution networks take images of any size;
            costs are computed for the size given here.
        sample_shape: The shape of a generated sample, ``(channels, height, width)`` or ``(dimensions,)``; None if the
            network is no generator.
    """

    input_shape: tuple[int, ...]
    outputs: int
    scale: int | None = None
    sample_shape: tuple[int, ...] | None = None

    @classmethod
    def image(cls, channels: int, side: int, outputs: int) -> Self:
        """Square images of `side` pixels."""
        return cls((channels, side, side), outputs)

    @classmethod
    def upscaled(cls, height: int, width: int, scale: int, channels: int = 3) -> Self:
        """Super-resolution of images of `height` times `width` pixels, to be upscaled `scale` times."""
        return cls((channels, height, width), channels, scale)

    @classmethod
    def generated(cls, latents: int, sample_shape: tuple[int, ...]) -> Self:
        """Samples from latent vectors of so many dimensions."""
        return cls((latents,), math.prod(sample_shape), None, sample_shape)

    def to_json(self) -> dict[str, Any]:
        """The fields that are given, as JSON."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}

    @property
    def purpose(self) -> Purpose:
        """What the network is for."""
        if self.sample_shape is not None:
            return "generation"
        return "classification" if self.scale is None else "super-resolution"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one output, ``(outputs,)`` or, of an image, ``(channels, height, width)``."""
        if self.sample_shape is not None:
            return self.sample_shape
        if self.scale is None:
            return (self.outputs,)
        _, height, width = self.input_shape
        return self.outputs, self.scale * height, self.scale * width
