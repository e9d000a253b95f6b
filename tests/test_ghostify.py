"""Ghost modules in place of convolutions: which, with what shapes and costs, and what stays as it was."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.random import Generator, default_rng
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasplat.errors import InputError
from nasplat.nn.ghost.ghostify import GhostConv2d, eligible, ghostify
from nasplat.nn.ghost.ghostnet import ghostnet
from nasplat.nn.ghost.shapes import PLAIN, Operator
from nasplat.nn.ghost.supernet import GhostModule


def counted(network: nn.Module, x: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(x)
    return int(counter.get_total_flops()) // 2


def random_convolution(rng: Generator) -> nn.Conv2d:
    """Any ordinary convolution, and small."""

    def pair(*choices: int) -> Any:
        return int(rng.choice(choices)) if rng.random() < 0.7 else tuple(int(n) for n in rng.choice(choices, 2))

    stride = pair(1, 1, 2, 3)
    mode: Any = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
    padding: Any = str(rng.choice(["same", "valid"])) if stride == 1 and rng.random() < 0.3 else pair(0, 1, 2, 3)
    return nn.Conv2d(
        int(rng.integers(1, 9)), int(rng.integers(2, 14)), pair(1, 3, 5, 7), stride, padding, pair(1, 1, 2),
        bias=bool(rng.random() < 0.5), padding_mode=mode, dtype=torch.float64,
    )  # fmt: skip


def by_hand(ghost: GhostConv2d, like: nn.Conv2d, x: Tensor, operator: Operator) -> Tensor:
    """The definition, map by map, on an image that is padded beforehand."""

    def padded(image: Tensor, sides: list[int]) -> Tensor:
        return functional.pad(image, sides, "constant" if like.padding_mode == "zeros" else like.padding_mode)

    weight, bias, shifts = ghost.primary.weight, ghost.primary.bias, ghost.cheap.bias
    if bias is None or shifts is None:
        assert like.bias is bias is shifts is None
        bias, shifts = weight.new_zeros(len(weight)), weight.new_zeros(len(ghost.cheap.weight))
    sides = []
    for axis in (1, 0):
        reach = like.dilation[axis] * (like.kernel_size[axis] - 1)
        match like.padding:
            case "same":
                sides += [reach // 2, reach - reach // 2]
            case "valid":
                sides += [0, 0]
            case widths:
                sides += [int(widths[axis])] * 2
    x = padded(x, sides)
    maps = [
        functional.conv2d(x, weight[i : i + 1], bias[i : i + 1], like.stride, 0, like.dilation)
        for i in range(len(weight))
    ]
    half = operator.kernel // 2
    for number in range(len(maps) * (operator.ratio - 1)):
        source = maps[number // (operator.ratio - 1)]
        kernel = ghost.cheap.weight[number][None]
        maps.append(functional.conv2d(padded(source, [half] * 4), kernel) + shifts[number])
    return torch.cat(maps[: like.out_channels], dim=1)


@pytest.mark.parametrize("seed", range(40))
def test_any_convolution_is_replaced_by_what_the_definition_says_at_the_cost_of_the_formula(seed: int) -> None:
    rng = default_rng(seed)
    like = random_convolution(rng)
    operator = Operator(int(rng.choice([2, 3, 4, 5])), int(rng.choice([1, 3, 5])))
    x = torch.from_numpy(rng.normal(size=(2, like.in_channels, *rng.integers(19, 24, size=2))))
    expected = like(x)
    ghost = ghostify(like, operator, stem=True, classifier=True)
    assert isinstance(ghost, GhostConv2d)
    given = ghost(x)
    assert given.shape == expected.shape
    torch.testing.assert_close(given, by_hand(ghost, like, x, operator), rtol=0, atol=1e-12)
    n, c, s, d = like.out_channels, like.in_channels, operator.ratio, operator.kernel
    intrinsic = int(np.ceil(n / s))
    weights = intrinsic * c * int(np.prod(like.kernel_size)) + intrinsic * (s - 1) * d**2
    pixels = expected.shape[2] * expected.shape[3]
    assert counted(ghost, x[:1]) == weights * pixels
    biases = intrinsic * s if like.bias is not None else 0
    assert sum(parameter.numel() for parameter in ghost.parameters()) == weights + biases


def test_a_single_image_without_a_batch_goes_through_as_it_did() -> None:
    like = nn.Conv2d(3, 5, 3)
    assert ghostify(like, stem=True)(torch.zeros(3, 8, 8)).shape == like(torch.zeros(3, 8, 8)).shape


class Twisted(nn.Module):
    """All that there is to be told apart."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Conv2d(8, 8, 3, padding=1)
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.once = shared
        self.again = nn.Sequential(nn.ReLU(), shared)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.transposed = nn.ConvTranspose2d(8, 8, 2)
        self.subclass = Scaled(8, 8, 1)
        self.hooked = nn.Conv2d(8, 8, 1)
        self.hooked.register_forward_hook(lambda module, arguments, output: output + 1)
        self.parametrized = nn.Conv2d(8, 8, 1)
        nn.utils.parametrizations.weight_norm(self.parametrized)
        self.single = nn.Conv2d(8, 1, 1)
        self.widen = nn.Conv2d(1, 7, 3)
        self.ghost = GhostModule(7, 6)
        self.plain = GhostModule(6, 6, PLAIN)
        self.classifier = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class Scaled(nn.Conv2d):
    """Computes something else than a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("stem", "classifier", "more"),
    [
        (False, False, set()),
        (True, False, {"stem"}),
        (False, True, {"classifier"}),
        (True, True, {"stem", "classifier"}),
    ],
)
def test_only_ordinary_convolutions_are_replaced_and_the_first_and_last_if_asked(
    stem: bool, classifier: bool, more: set[str]
) -> None:
    network = Twisted().double()
    before = copy.deepcopy(network.state_dict())
    expected = {"once", "widen", "plain.primary.0"} | more
    assert set(eligible(network, stem=stem, classifier=classifier)) == expected
    ghosts = ghostify(network, stem=stem, classifier=classifier)
    found = {name for name, part in ghosts.named_modules() if isinstance(part, GhostConv2d)}
    assert found == expected
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert ghosts(x).shape == network(x).shape
    after = ghosts.state_dict()
    inside = tuple(f"{name}." for name in expected | {"again.1"})
    for name, tensor in before.items():
        if not name.startswith(inside) and "running" not in name and "tracked" not in name:
            assert torch.equal(after[name], tensor), name
    assert not any(isinstance(part, GhostConv2d) for part in network.modules()), "the original changed"


def test_a_convolution_in_two_places_becomes_one_ghost_module_in_both() -> None:
    ghosts = ghostify(Twisted())
    assert isinstance(ghosts.get_submodule("once"), GhostConv2d)
    assert ghosts.get_submodule("once") is ghosts.get_submodule("again.1")


class Twice(nn.Module):
    """One convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.left = nn.Conv2d(4, 4, 3)
        self.right = self.left


def test_two_names_within_one_module_stay_two_names() -> None:
    ghosts = ghostify(Twice())
    assert isinstance(ghosts.get_submodule("right"), GhostConv2d)
    assert ghosts.get_submodule("left") is ghosts.get_submodule("right")


def test_where_chooses_by_name_and_by_convolution() -> None:
    seen = []

    def wide(name: str, convolution: nn.Conv2d) -> bool:
        seen.append(name)
        return convolution.out_channels > 64

    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 64, 3), nn.Conv2d(64, 65, 3), nn.Conv2d(65, 66, 3))
    assert eligible(network, where=wide) == ["2", "3"]
    assert seen == ["1", "2", "3"]
    assert isinstance(ghostify(network, where=wide)[1], nn.Conv2d)  # type: ignore[index]


@pytest.mark.parametrize("training", [True, False])
def test_type_device_and_mode_are_kept(training: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).to(torch.bfloat16)
    network.train(training)
    ghosts = ghostify(network)
    assert {tensor.dtype for tensor in ghosts.parameters()} == {torch.bfloat16}
    assert all(part.training is training for part in ghosts.modules())
    assert {tensor.device.type for tensor in ghostify(network.to("meta")).parameters()} == {"meta"}


def test_a_network_without_eligible_convolutions_is_an_error_that_says_what_would_help() -> None:
    for network in (nn.Linear(2, 2), nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1))):
        with pytest.raises(
            InputError,
            match=r"a convolution that can be replaced, but this (Linear|Conv2d|Sequential) has no",
        ):
            ghostify(network)
    with pytest.raises(InputError, match=r"no convolution|none that is chosen"):
        ghostify(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), where=lambda name, convolution: False)
    with pytest.raises(InputError, match=r"no convolution|none that is chosen"):
        ghostify(ghostify(nn.Conv2d(3, 4, 3), stem=True), stem=True)


def test_an_operator_without_ghosts_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"Ghost modules must have a ratio of at least 2, but .* has 1; try Operator\(2, 3\)"
    ):
        ghostify(nn.Conv2d(3, 4, 3), PLAIN, stem=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("squeezenet1_1", {"features.0", "classifier.1"}),
        ("densenet121", {"features.conv0"}),
        ("googlenet", {"conv1.conv"}),
    ],
)
def test_networks_of_torchvision_keep_stem_and_classifier_and_run(name: str, kept: set[str]) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        network = getattr(torchvision.models, name)(weights=None, **options).eval()
        ghosts = ghostify(network, Operator(3, 3)).eval()
        plain = {key for key, part in network.named_modules() if isinstance(part, nn.Conv2d)}
        assert plain - set(eligible(network)) == kept
        x = torch.zeros(1, 3, 224, 224)
        assert ghosts(x).shape == (1, 1000)
        assert 1.7 < counted(network, x) / counted(ghosts, x) < 3


def test_depthwise_convolutions_of_a_mobile_network_stay() -> None:
    with torch.device("meta"):
        network = torchvision.models.mobilenet_v3_small(weights=None).eval()
    names = eligible(network)
    left = [part for key, part in network.named_modules() if isinstance(part, nn.Conv2d) and key not in names]
    assert names and all(part.groups == part.in_channels for part in left[1:])


def test_a_network_of_ghost_modules_has_only_what_is_not_one_replaced() -> None:
    with torch.device("meta"):
        names = eligible(ghostnet(0.5))
    assert names
    assert not any("expand.primary" in name or "project" in name for name in names)
    assert {"head.0", "features", "blocks.1.shortcut.1.0", "blocks.3.squeeze.reduce"} <= set(names)


def test_the_ghosts_are_trained_with_the_rest() -> None:
    network = ghostify(nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)))
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
