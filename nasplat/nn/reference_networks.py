"""The networks in which Ghost modules were published, and their Ghost versions (Han et al., 2020, sec. 4.1, 4.2).

The paper names VGG-16 and ResNet-56 for CIFAR-10 without their layers. The layers here reproduce the paper's sizes.
`performance/ghost_counts.py` compares the sizes with the published ones.
"""

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from nasplat.nn.ghost.ghostify import ghostify
from nasplat.nn.ghost.shapes import GHOST, Operator
from nasplat.nn.ghost.supernet import conv_bn

VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Width and number of convolutions between poolings."""


def vgg16(classes: int = 10) -> nn.Sequential:
    """VGG-16 for CIFAR: `[batch, 3, 32, 32]` to `[batch, classes]`, with batch norm and a head 512-512-classes.

    Simonyan and Zisserman, 2015, configuration D; the two layers of 4,096 are replaced by one layer, as the published
    sizes require.
    """

    def layers() -> Iterator[nn.Module]:
        inputs = 3
        for width, repeats in VGG16:
            for _ in range(repeats):
                yield from conv_bn(inputs, width, 3, relu=True)
                inputs = width
            yield nn.MaxPool2d(2)

    head = [nn.Flatten(), nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Linear(512, classes)]
    return nn.Sequential(nn.Sequential(*layers()), nn.Sequential(*head))


def ghost_vgg16(operator: Operator = GHOST, classes: int = 10) -> nn.Module:
    """Ghost-VGG-16 for CIFAR: all thirteen convolutions of `vgg16`, including the first, are Ghost modules."""
    return ghostify(vgg16(classes), operator, stem=True)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, which is subsampled and padded with zero channels where necessary.

    `[B, inputs, H, W]` becomes `[B, outputs, ⌈H/stride⌉, ⌈W/stride⌉]` (He et al., 2016, sec. 4.2, shortcut A).

    Args:
        inputs: The input channels.
        outputs: The output channels, at least as many.
        stride: The stride of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride, relu=True)
        self.second = conv_bn(outputs, outputs, 3)
        self.stride = stride
        self.missing = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x))
        if self.missing or self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
        return functional.relu(out + x)


def resnet56(classes: int = 10) -> nn.Sequential:
    """ResNet-56 for CIFAR: `[batch, 3, 32, 32]` to `[batch, classes]` (He et al., 2016, sec. 4.2, with n = 9)."""
    widths = [16] + [width for width in (16, 32, 64) for _ in range(9)]
    blocks = [
        ResidualBlock(inputs, outputs, stride=1 if inputs == outputs else 2) for inputs, outputs in pairwise(widths)
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(conv_bn(3, 16, 3, relu=True), nn.Sequential(*blocks), nn.Sequential(*head))


def ghost_resnet56(operator: Operator = GHOST, classes: int = 10) -> nn.Module:
    """Ghost-ResNet-56 for CIFAR: all convolutions of `resnet56` except the first are Ghost modules."""
    return ghostify(resnet56(classes), operator)


def ghost_resnet50(operator: Operator = GHOST, classes: int = 1000) -> nn.Module:
    """Ghost-ResNet-50: torchvision's network with Ghost modules for all convolutions except the first.

    Convolutions of shortcuts are replaced too, as in the authors' published code. The classifier is ordinary.
    """
    from torchvision.models import resnet50

    network: nn.Module = resnet50(weights=None, num_classes=classes)
    return ghostify(network, operator)
