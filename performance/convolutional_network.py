"""A small convolutional network with choices, as users write them: the widths and operators of four layers."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import nasplat

WIDTHS = (4, 8, 16, 24)
STRIDES = (1, 2, 1, 2)


class ConvolutionalNetwork(nn.Module):
    """Four layers, each with a width, an operator, and perhaps a second convolution around which inputs are added.

    65,536 members, from 500 to 50,000 parameters for images of 16 x 16 pixels in ten classes.
    """

    def __init__(self, input_shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        channels = input_shape[0]
        layers: list[nn.Module] = []
        for number, stride in enumerate(STRIDES, start=1):
            width = nasplat.number(f"width {number}", WIDTHS)
            operators: dict[str, Callable[[], nn.Module]] = {
                "3 x 3": partial(_convolution, channels, width, 3, stride),
                "separable": partial(_separable, channels, width, stride),
            }
            layers.append(nasplat.choice(f"operator {number}", operators))
            inner: dict[str, Callable[[], nn.Module]] = {
                "none": nn.Identity,
                "residual": partial(_Residual, width),
            }
            layers.append(nasplat.choice(f"residual {number}", inner))
            channels = width
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(channels, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[n, outputs]` of images `[n, channels, height, width]`."""
        logits: Tensor = self.classify(self.layers(images).mean((2, 3)))
        return logits


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _separable(inputs: int, outputs: int, stride: int) -> nn.Module:
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(inputs), _convolution(inputs, outputs, 1, 1))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = torch.relu(features + self.inner(features))
        return added
