"""Residual dense networks applied strip by strip to large images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.nn.residual_dense.network import Contextual, Group, Projected, ResidualDenseNetwork, Shrink
from nasplat.nn.streaming import Plan, Stages

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are exclusive."""
Crop = Callable[[Box], Tensor]


@dataclass(frozen=True, slots=True)
class Strips:
    """The application of a network to an image of a given size.

    Strips consist of rows for a high image and of columns for a wide image, so that rows or columns are short.

    Args:
        network: The network; it is not changed.
        plan: The plan of its stages, for the transposed image if strips consist of columns.
        mirrored: Whether strips consist of columns.
    """

    network: ResidualDenseNetwork
    plan: Plan
    mirrored: bool

    @classmethod
    def of(cls, network: ResidualDenseNetwork, height: int, width: int, memory: int) -> "Strips":
        """The widest strips within a limit of memory.

        Args:
            network: In any mode, on the device of the computation.
            height: The height of the image, in pixels.
            width: The width of the image, in pixels.
            memory: The limit, in bytes, for all memory that grows with the image, except the image itself and the
                result.

        Raises:
            InputError: The narrowest strips need more memory.
        """
        mirrored = width > height
        sides = (width, height) if mirrored else (height, width)
        stages = Translation(network, *sides, mirrored=mirrored).stages.all
        return cls(network, Plan.within(stages, memory, _weight(network)), mirrored)

    @torch.no_grad()
    def run(self, crop: Crop) -> Iterator[tuple[Box, Tensor]]:
        """The strips of the upscaled image, in sequence, with their positions.

        Args:
            crop: Gives the image's pixels in a box, as input of the network: `[channels, height, width]`.

        Yields:
            The position of each strip and its pixels, `[outputs, height, width]`.
        """
        width, like = self.plan.stages[0].width, _weight(self.network)

        def read(first: int, last: int) -> Tensor:
            box = (first, 0, last, width) if self.mirrored else (0, first, width, last)
            rows = crop(box).to(like)
            return rows.mT if self.mirrored else rows

        done, across = 0, self.plan.stages[-1].width
        for rows in self.plan.run(read, like):
            end = done + rows.shape[1]
            if self.mirrored:
                yield (done, 0, end, across), rows.mT
            else:
                yield (0, done, across, end), rows
            done = end


class Translation:
    """The stages of a network.

    Args:
        network: The network; it is not changed. Its weights are shared, or transposed copies.
        height: The number of rows.
        width: The length of rows, in pixels.
        mirrored: Whether the rows are the image's columns.
    """

    def __init__(self, network: ResidualDenseNetwork, height: int, width: int, *, mirrored: bool) -> None:
        self._mirrored = mirrored
        first, second = _convolutions(network.shallow)
        self.stages = Stages(first.in_channels, height, width)
        x = self._fused(network, self._conv(second, [self._conv(first, [0])]))
        x = self._conv(_convolutions(network.fusion)[1], [x])
        # The first features are computed twice: they need little work, but much memory until the blocks are done.
        x = self.stages.add(torch.add, (self._conv(first, [0]), x), first.out_channels)
        *stages, last = _convolutions(network.tail)
        for layer, (*_, scale) in zip(stages, network.shape.tail(network.scale), strict=True):
            x = self._conv(layer, [x], up=scale)
        self._conv(last, [x])

    def _fused(self, network: ResidualDenseNetwork, x: int) -> int:
        """All blocks, and the first layer of their fusion.

        The contribution of each block is added when the block is done. Only the sum is held, not the outputs of all
        blocks.
        """
        weight = _convolutions(network.fusion)[0].weight
        fused, begin = -1, 0
        for block in network.blocks:
            assert isinstance(block, Projected)
            x = self._block(block, x)
            end = begin + block.shape.outputs
            add = partial(_share, weight[:, begin:end])
            fused = self.stages.add(add, (x,) if fused < 0 else (x, fused), len(weight), early=True)
            begin = end
        return fused

    def _block(self, block: Projected, x: int) -> int:
        shape = block.shape
        projected = self._point(block.project, [x]) if isinstance(block.project, nn.Conv2d) else x
        dense = self._group(block.body, projected) if isinstance(block.body, Group) else self._dense(block, projected)
        body = self._laid_out(block, dense, projected)
        if isinstance(block.shortcut, nn.Conv2d):
            direct = self._point(block.shortcut, [x])
        else:
            direct = x if shape.outputs == block.inputs else projected
        return self.stages.add(torch.add, (direct, body), shape.outputs)

    def _dense(self, block: Projected, x: int) -> list[int]:
        """The gathered stages of a shrink block, or of a contextual block at half the size."""
        body, growth = block.body, block.shape.growth
        assert isinstance(body, Shrink)
        shrinks = _convolutions(body.shrinks)
        if isinstance(body, Contextual):
            x = self.stages.add(partial(functional.avg_pool2d, kernel_size=2, ceil_mode=True), (x,), growth, down=2)
        dense = [x]
        for number, convolution in enumerate(_convolutions(body.convolutions)):
            if number:
                x = self._point(shrinks[number - 1], dense)
            for _ in range(body.recursions):
                x = self._conv(convolution, [x], active=True)
            dense.append(x)
        return dense

    def _group(self, body: Group, x: int) -> list[int]:
        """The gathered stages of a group block."""
        dense = [x]
        for convolution in _convolutions(body.convolutions):
            dense.append(self._conv(convolution, dense, active=True))
        return dense

    def _laid_out(self, block: Projected, dense: list[int], projected: int) -> int:
        """The output of a block's body, from all its gathered stages."""
        assert isinstance(block.body, Group | Shrink)
        (last,) = _convolutions([block.body.last])
        if not isinstance(block.body, Contextual):
            return self._point(last, dense)

        def run(*rows: Tensor) -> Tensor:
            return functional.conv2d(self._larger(torch.cat(rows, 1), 2), last.weight)

        return self.stages.add(run, dense, last.out_channels, up=2, like=projected)

    def _point(self, layer: nn.Conv2d, sources: Sequence[int]) -> int:
        """A 1x1 convolution."""
        return self.stages.add(partial(_point, layer.weight), sources, layer.out_channels)

    def _conv(self, layer: nn.Conv2d, sources: Sequence[int], *, active: bool = False, up: int = 1) -> int:
        """A 3x3 convolution of its sources, shuffled if there are several, and the operations on each pixel.

        Args:
            layer: The convolution.
            sources: The numbers of the stages.
            active: Whether a ReLU follows.
            up: The upscaling factor of the pixel shuffle of its output.
        """
        weight = layer.weight.mT.contiguous() if self._mirrored else layer.weight

        def run(*rows: Tensor) -> Tensor:
            x = functional.channel_shuffle(torch.cat(rows, 1), len(rows)) if len(rows) > 1 else rows[0]
            # Rows above and below are given, from the image or zeros; only the sides need padding.
            x = functional.conv2d(x, weight, padding=(0, 1), groups=layer.groups)
            return self._larger(x.relu_() if active else x, up)

        return self.stages.add(run, sources, layer.out_channels // up**2, halo=1, up=up)

    def _larger(self, x: Tensor, up: int) -> Tensor:
        """Pixel shuffle of channels; for a transposed image, the result is transposed accordingly."""
        if up == 1:
            return x
        return functional.pixel_shuffle(x.mT, up).mT if self._mirrored else functional.pixel_shuffle(x, up)


def _point(weight: Tensor, *rows: Tensor) -> Tensor:
    return functional.conv2d(torch.cat(rows, 1) if len(rows) > 1 else rows[0], weight)


def _share(weight: Tensor, rows: Tensor, before: Tensor | None = None) -> Tensor:
    share = functional.conv2d(rows, weight)
    return share if before is None else share.add_(before)


def _convolutions(layers: Iterable[nn.Module]) -> list[nn.Conv2d]:
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)]


def _weight(network: ResidualDenseNetwork) -> Tensor:
    """A tensor with the data type and the device of the computation."""
    return next(network.parameters())
