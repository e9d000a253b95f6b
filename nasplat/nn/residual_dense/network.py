"""Residual dense networks for super-resolution, and their three kinds of blocks.

Song et al., 2020, "Efficient residual dense block search for image super-resolution", AAAI, sec. 3; details follow the
public code of that group. No layer has a bias and nothing is normalized, so an image twice as bright gives a result
twice as bright.
"""

import torch
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.nn.residual_dense.shapes import RECURSIONS, DenseBlock, ResidualDenseShape, check_scale


class Projected(nn.Module):
    """The body of a block with its projections, and the shortcut around it.

    The shortcut is the identity if the block has as many output channels as input channels. Else it is the input after
    the first projection, if that has as many channels. Else it is a 1x1 convolution.

    Args:
        shape: The block.
        inputs: The input channels; `[B, inputs, H, W]` becomes `[B, shape.outputs, H, W]`.
    """

    def __init__(self, shape: DenseBlock, inputs: int) -> None:
        super().__init__()
        self.shape = shape
        self.inputs = inputs
        self.project = nn.Identity() if inputs == shape.growth else _conv(inputs, shape.growth, 1)
        self.body = BODIES[shape.kind](shape)
        aside = shape.outputs not in (inputs, shape.growth)
        self.shortcut = _conv(inputs, shape.outputs, 1) if aside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(x)
        direct = projected if self.shape.outputs == self.shape.growth != self.inputs else self.shortcut(x)
        out: Tensor = direct + self.body(projected)
        return out


class Shrink(nn.Module):
    """Before every convolution except the first, a 1x1 convolution reduces all gathered channels to the growth.

    Args:
        shape: The block; `[B, growth, H, W]` becomes `[B, outputs, H, W]`.
    """

    recursions = 1

    def __init__(self, shape: DenseBlock) -> None:
        super().__init__()
        growth = shape.growth
        self.convolutions = nn.ModuleList(_conv(growth, growth, 3) for _ in range(shape.depth))
        self.shrinks = nn.ModuleList(_conv(layer * growth, growth, 1) for layer in range(2, shape.depth + 1))
        self.last = self._last(shape)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.gathered(x))
        return out

    def gathered(self, x: Tensor) -> Tensor:
        """The input and the outputs of all convolutions, concatenated: `[B, (depth + 1) * growth, H, W]`."""
        dense = [x]
        for number, convolution in enumerate(self.convolutions):
            if number:
                x = self.shrinks[number - 1](torch.cat(dense, 1))
            for _ in range(self.recursions):
                x = torch.relu(convolution(x))
            dense.append(x)
        return torch.cat(dense, 1)

    def _last(self, shape: DenseBlock) -> nn.Module:
        return _conv(shape.dense, shape.outputs, 1)


class Contextual(Shrink):
    """A shrink block at half the height and width, with each 3x3 convolution applied three times.

    The input is averaged over 2 by 2 pixels; at an odd edge, over the existing pixels. The gathered channels are
    rearranged to the full size, with a quarter as many channels (pixel shuffle). A surplus edge is cropped.
    """

    recursions = RECURSIONS

    def forward(self, x: Tensor) -> Tensor:
        half = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
        full = nn.functional.pixel_shuffle(self.gathered(half), 2)
        out: Tensor = self.last(full[..., : x.shape[-2], : x.shape[-1]])
        return out

    def _last(self, shape: DenseBlock) -> nn.Module:
        return _conv(shape.dense // 4, shape.outputs, 1)


class Group(nn.Module):
    """The input of every convolution is all gathered channels, shuffled and in up to four groups.

    Args:
        shape: The block; `[B, growth, H, W]` becomes `[B, outputs, H, W]`.
    """

    def __init__(self, shape: DenseBlock) -> None:
        super().__init__()
        growth = shape.growth
        self.convolutions = nn.ModuleList(
            _conv((layer + 1) * growth, growth, 3, groups=shape.groups(layer)) for layer in range(shape.depth)
        )
        self.last = _conv(shape.dense, shape.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        for number, convolution in enumerate(self.convolutions):
            # As many groups as gathered parts, so every group of the convolution has channels of each part.
            shuffled = nn.functional.channel_shuffle(x, number + 1) if number else x
            x = torch.cat([x, torch.relu(convolution(shuffled))], 1)
        out: Tensor = self.last(x)
        return out


BODIES = {"S": Shrink, "G": Group, "C": Contextual}


class ResidualDenseNetwork(nn.Module):
    """Shallow features, blocks whose outputs are all fused, a shortcut around them, and an upscaling tail.

    Images `[B, channels, H, W]` of any size to `[B, outputs, scale * H, scale * W]`. A new network interpolates (see
    `begin_as_interpolation`).

    Args:
        shape: All sizes that do not depend on the images.
        io: The channels of the images, and the scale.

    Raises:
        ValueError: There is no scale, or it is not 2, 3 or 4.
    """

    def __init__(self, shape: ResidualDenseShape, io: IO) -> None:
        super().__init__()
        check_scale(io)
        self.shape = shape
        self.scale = io.scale or 0
        self.shallow = shallow(shape, io)
        self.blocks = nn.ModuleList(
            Projected(block, inputs) for block, inputs in zip(shape.blocks, shape.inputs, strict=True)
        )
        self.fusion = fusion(shape)
        self.tail = tail(shape, io)
        begin_as_interpolation(self)

    def forward(self, pictures: Tensor) -> Tensor:
        first = self.shallow[0](pictures)
        x, outputs = self.shallow[1](first), []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        upscaled: Tensor = self.tail(first + self.fusion(torch.cat(outputs, 1)))
        return upscaled


def shallow(shape: ResidualDenseShape, io: IO) -> nn.Sequential:
    """The layers from images to shallow features."""
    return nn.Sequential(_conv(io.input_shape[0], shape.features, 3), _conv(shape.features, shape.features, 3))


def fusion(shape: ResidualDenseShape) -> nn.Sequential:
    """The layers from all blocks' concatenated outputs to the network's features."""
    return nn.Sequential(_conv(shape.fused, shape.features, 1), _conv(shape.features, shape.features, 3))


def tail(shape: ResidualDenseShape, io: IO) -> nn.Sequential:
    """The layers from features to the upscaled image."""
    layers: list[nn.Module] = []
    last = shape.features
    for inputs, outputs, scale in shape.tail(io.scale or 0):
        layers += [_conv(inputs, outputs, 3), nn.PixelShuffle(scale)]
        last = outputs // scale**2
    return nn.Sequential(*layers, _conv(last, io.outputs, 3))


@torch.no_grad()
def begin_as_interpolation(network: ResidualDenseNetwork) -> None:
    """Set initial weights with which the network interpolates linearly, as the start of training.

    The first features are the image itself. The shortcut passes them around the blocks, and the fusion of the blocks
    adds zero. Each stage of the tail interpolates these features. The last convolution copies them, and has a tenth of
    torch's initial weights for the other features. All other weights keep torch's initialization. The paper starts
    from uninformative weights, and needs some thousand steps more to reach the same quality.
    """
    first, fused, *stages, last = (
        layer
        for part in (network.shallow[:1], network.fusion[-1:], network.tail)
        for layer in part
        if isinstance(layer, nn.Conv2d)
    )
    colors = last.out_channels
    first.weight[:colors] = _passed(colors, first.in_channels)
    fused.weight.zero_()
    for stage, (*_, scale) in zip(stages, network.shape.tail(network.scale), strict=True):
        for color in range(colors):
            block = slice(color * scale**2, (color + 1) * scale**2)
            stage.weight[block] = 0.0
            stage.weight[block, color] = _linear(scale)
    last.weight.mul_(0.1)
    last.weight[:, :colors] = _passed(colors, colors)


def _passed(outputs: int, inputs: int) -> Tensor:
    """The filters `[outputs, inputs, 3, 3]` that copy each channel."""
    filters = torch.zeros(outputs, inputs, 3, 3)
    filters[:, :, 1, 1] = torch.eye(outputs, inputs)
    return filters


def _linear(scale: int) -> Tensor:
    """The filters `[scale ** 2, 3, 3]` of bilinear interpolation, one for each output pixel of an input pixel."""
    places = (torch.arange(scale) + 0.5) / scale - 0.5
    weights = (1 - (places[:, None] - torch.arange(-1, 2)).abs()).clamp(min=0)
    return torch.einsum("iy,jx->ijyx", weights, weights).reshape(scale**2, 3, 3)


def _conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
