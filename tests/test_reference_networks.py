"""The sizes of the reference networks, counted by torch, beside the published ones."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasplat.nn.ghost.ghostify import GhostConv2d
from nasplat.nn.ghost.shapes import Operator
from nasplat.nn.reference_networks import (
    ghost_resnet50,
    ghost_resnet56,
    ghost_vgg16,
    resnet56,
    vgg16,
)

VGG_HEAD = 512 * 512 + 512 * 10


def counted(make: Callable[[], nn.Module], side: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        network = make().eval()
        with counter:
            network(torch.zeros(1, 3, side, side))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("ratio", "kernel", "params", "macs"),
    [
        (2, 3, 7.7, 158), (3, 3, 5.2, 107), (4, 3, 4.0, 80), (5, 3, 3.3, 65),
        (2, 1, 7.6, 157), (2, 5, 7.7, 160), (2, 7, 7.7, 163),
    ],
)  # fmt: skip
def test_ghost_vgg16_has_the_published_sizes(ratio: int, kernel: int, params: float, macs: int) -> None:
    given_params, given_macs = counted(lambda: ghost_vgg16(Operator(ratio, kernel)), 32)
    assert (round(given_params / 1e6, 1), round((given_macs - VGG_HEAD) / 1e6)) == (params, macs)


def test_the_plain_networks_have_the_published_sizes() -> None:
    params, macs = counted(vgg16, 32)
    assert (round(params / 1e6), round((macs - VGG_HEAD) / 1e6)) == (15, 313)
    params, macs = counted(resnet56, 32)
    assert (round(params / 1e6, 2), round(macs / 1e6)) == (0.85, 125)


@pytest.mark.parametrize(
    ("make", "side", "params", "macs"),
    [
        (ghost_vgg16, 32, 7_650_474, 158_109_696),
        (ghost_resnet56, 32, 438_154, 65_286_784),
        (ghost_resnet50, 224, 13_953_512, 2_151_023_360),
        (lambda: ghost_resnet50(Operator(4, 3)), 224, 8_151_752, 1_181_942_912),
    ],
)
def test_the_recounted_sizes(make: Callable[[], nn.Module], side: int, params: int, macs: int) -> None:
    assert counted(make, side) == (params, macs)


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (ghost_vgg16, set()),
        (ghost_resnet56, {"0.0"}),
        (ghost_resnet50, {"conv1"}),
    ],
)
def test_all_convolutions_are_ghost_modules_but_the_stem_of_residual_networks(
    make: Callable[[], nn.Module], plain: set[str]
) -> None:
    with torch.device("meta"):
        network = make()
    inside = {part for ghost in network.modules() if isinstance(ghost, GhostConv2d) for part in ghost.modules()}
    left = {name for name, part in network.named_modules() if isinstance(part, nn.Conv2d) and part not in inside}
    assert left == plain


@pytest.mark.slow
@pytest.mark.parametrize("make", [vgg16, ghost_vgg16, resnet56, ghost_resnet56])
def test_they_learn_a_batch_by_heart(make: Callable[..., nn.Module]) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make(classes=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_shortcut_of_a_residual_network_halves_the_image_and_fills_up_with_zeros() -> None:
    network = resnet56()
    block = network.get_submodule("1.9")
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.zeros_(norm.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, :16] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)
