"""Replaces a network's convolutions with Ghost modules (Han et al., 2020, "GhostNet", sec. 3.1 and 4.1).

A network has its own batch norm and activations after its convolutions. So the Ghost module that replaces a
convolution has neither, as in the authors' published Ghost-ResNet: it has a convolution, the ghosts of its maps, and
nothing else. Each map then has one batch norm, the network's. The recounted sizes of Ghost-ResNet-50 and -56 are for
this form. GhostNet's own modules (`nasplat.nn.ghost.supernet`) have batch norm inside, and no further batch norm
follows them.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nasplat.errors import InputError
from nasplat.nn.ghost.shapes import GHOST, Operator
from nasplat.nn.ghost.supernet import GhostModule

Where = Callable[[str, nn.Conv2d], bool]


class GhostConv2d(nn.Module):
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
    if operator.ratio < 2:
        raise InputError(
            f"Ghost modules must have a ratio of at least 2, but {operator!r} has {operator.ratio}; try Operator(2, 3)"
        )
    names = eligible(module, stem=stem, classifier=classifier, where=where)
    if not names:
        raise InputError(
            f"this {type(module).__name__} has no convolution that can be replaced; it must be an nn.Conv2d with one "
            "group and several output channels; give stem=True to replace the first convolution too, and "
            "classifier=True to replace a 1 x 1 convolution that is the last layer"
        )
    network = copy.deepcopy(module)
    ghosts: dict[nn.Module, nn.Module] = {}
    for name in names:
        convolution = network.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        ghosts[convolution] = GhostConv2d(convolution, operator)
    for name, part in list(network.named_modules(remove_duplicate=False)):
        if name and part in ghosts:
            place, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(place), leaf, ghosts[part])
    return ghosts.get(network, network)


def eligible(
    module: nn.Module, *, stem: bool = False, classifier: bool = False, where: Where | None = None
) -> list[str]:
    """The names of the convolutions that `ghostify` replaces, in order. A shared convolution has its first name.

    An ordinary `nn.Conv2d` with one group is eligible. Not eligible are depth-wise, grouped and transposed
    convolutions, subclasses, which may compute something else, and convolutions with hooks, which may change the
    weights. A single map has no ghosts, so there must be several. Ghost modules are not changed. The first convolution
    and the last layer are determined by the order of registration, which is the order of execution except in unusual
    networks. For those use `where` and `stem=True`.

    Args:
        module: Any network, or a convolution.
        stem: Whether the first convolution is eligible.
        classifier: Whether the last layer is eligible, if it is a 1 x 1 convolution.
        where: Decides from a convolution's name and the convolution whether it is eligible; by default all are.
    """
    layers = [layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None]
    convolutions = {layer: name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    kept = {layer for ghost in module.modules() if _has_ghosts(ghost) for layer in ghost.modules()}
    if not stem:
        kept |= set(list(convolutions)[:1])
    if not classifier:
        kept |= {layer for layer in layers[-1:] if getattr(layer, "kernel_size", None) == (1, 1)}
    return [
        name
        for layer, name in convolutions.items()
        if layer not in kept and _ordinary(layer) and (where is None or where(name, layer))
    ]


def _has_ghosts(module: nn.Module) -> bool:
    return isinstance(module, GhostConv2d) or (isinstance(module, GhostModule) and module.cheap is not None)


def _ordinary(layer: nn.Conv2d) -> bool:
    hooked = any(hooks for name, hooks in vars(layer).items() if name.endswith(("_hooks", "_pre_hooks")))
    return type(layer) is nn.Conv2d and layer.groups == 1 and layer.out_channels > 1 and not hooked
