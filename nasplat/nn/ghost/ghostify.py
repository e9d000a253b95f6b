"""Replaces a network's convolutions with Ghost modules (Han et al., 2020, "GhostNet", sec. 3.1 and 4.1).

A network has its own batch norm and activations after its convolutions. So the Ghost module that replaces a
convolution has neither, as in the authors' published Ghost-ResNet: it has a convolution, the ghosts of its maps, and
nothing else. Each map then has one batch norm, the network's. The recounted sizes of Ghost-ResNet-50 and -56 are for
this form. GhostNet's own modules (`nasplat.nn.ghost.supernet`) have batch norm inside, and no further batch norm
follows them.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nasplat.errors import InputError
from nasplat.nn.ghost.shapes import GHOST, Operator
from nasplat.nn.ghost.supernet import GhostModule
from nasplat.nn.rewriting import LayerTransform
from nasplat.nn.rewritten import Rewritten

Where = Callable[[str, nn.Conv2d], bool]


class GhostConv2d(Rewritten):
    """A Ghost module that can replace a convolution: it is linear, and its output has the same shape.

    The first ⌈n/ratio⌉ of the n maps are from an ordinary convolution, with the stride, padding, dilation and padding
    mode of the replaced one. Each of the other maps is made from one of these by a small convolution, with the same
    padding mode. Torch cannot reflect an image that is not larger than half the small kernel. Maps have a bias if
    and only if the replaced convolution had one. Weights are new, of the same type and on the same device.

    Args:
        convolution: The convolution to replace, with one group.
        operator: The ratio of ghosts and their kernel.
    """

    def __init__(self, convolution: nn.Conv2d, operator: Operator = GHOST) -> None:
        super().__init__()
        self.out_channels = convolution.out_channels
        intrinsic = -(-self.out_channels // operator.ratio)
        ghosts = intrinsic * (operator.ratio - 1)
        as_before: dict[str, Any] = {
            "bias": convolution.bias is not None,
            "padding_mode": convolution.padding_mode,
            "device": convolution.weight.device,
            "dtype": convolution.weight.dtype,
        }
        geometry: dict[str, Any] = {
            name: getattr(convolution, name) for name in ("kernel_size", "stride", "padding", "dilation")
        }
        self.primary = nn.Conv2d(convolution.in_channels, intrinsic, **geometry, **as_before)
        self.cheap = nn.Conv2d(
            intrinsic, ghosts, operator.kernel, padding=operator.kernel // 2, groups=intrinsic, **as_before
        )
        self.train(convolution.training)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], dim=-3)[..., : self.out_channels, :, :]


class GhostRewriting(LayerTransform):
    """Puts a Ghost module in the place of each convolution that can be replaced.

    Not replaced are depth-wise, grouped and transposed convolutions, and what is inside of Ghost modules. A single map
    has no ghosts, so there must be several. Weights are new.

    Args:
        operator: The ratio of ghosts and their kernel.
        stem: Whether the first convolution is replaced too.
        classifier: Whether the last layer is replaced too, if it is a 1 x 1 convolution.

    Raises:
        InputError: The operator makes no ghosts.
    """

    fits: ClassVar[bool] = False

    def __init__(self, operator: Operator = GHOST, *, stem: bool = False, classifier: bool = False) -> None:
        if operator.ratio < 2:
            raise InputError(
                f"Ghost modules must have a ratio of at least 2, but {operator!r} has {operator.ratio}; "
                "try Operator(2, 3)"
            )
        self.operator = operator
        self.stem = stem
        self.classifier = classifier

    def leaves_alone(self, module: nn.Module) -> bool:
        return super().leaves_alone(module) or (isinstance(module, GhostModule) and module.cheap is not None)

    def refusal(self, layer: nn.Conv2d) -> str:
        if layer.groups > 1:
            return f"it has {layer.groups} groups"
        return "it has a single output channel, which can have no ghosts" if layer.out_channels == 1 else ""

    def replacement(self, layer: nn.Conv2d, *, fitted: bool) -> nn.Module:
        return GhostConv2d(layer, self.operator)


def ghostify(
    module: nn.Module,
    operator: Operator = GHOST,
    *,
    stem: bool = False,
    classifier: bool = False,
    where: Where | None = None,
) -> nn.Module:
    """A copy of a network with a Ghost module in place of each convolution that is `eligible`.

    A convolution that the network shares in several places becomes one Ghost module in all of them. All other layers
    keep their weights. Weights of Ghost modules are new, drawn from torch's global generator as in other layers.

    Args:
        module: Any network, or a convolution. It is not changed.
        operator: The ratio of ghosts and their kernel.
        stem: Whether the first convolution is replaced too.
        classifier: Whether the last layer is replaced, if it is a 1 x 1 convolution. A linear layer is not changed.
        where: Decides from a convolution's name and the convolution whether it is replaced; by default all are.

    Raises:
        InputError: No convolution is eligible, or the operator makes no ghosts.
    """
    rewriting = GhostRewriting(operator, stem=stem, classifier=classifier)
    names = None if where is None else eligible(module, stem=stem, classifier=classifier, where=where)
    return rewriting.apply(module, names).network


def eligible(
    module: nn.Module, *, stem: bool = False, classifier: bool = False, where: Where | None = None
) -> list[str]:
    """The names of the convolutions that `ghostify` replaces, in order. A shared convolution has its first name.

    Args:
        module: Any network, or a convolution.
        stem: Whether the first convolution is eligible.
        classifier: Whether the last layer is eligible, if it is a 1 x 1 convolution.
        where: Decides from a convolution's name and the convolution whether it is eligible; by default all are.
    """
    names = GhostRewriting(stem=stem, classifier=classifier).eligible(module)
    return [name for name in names if where is None or where(name, module.get_submodule(name))]  # type: ignore[arg-type]
