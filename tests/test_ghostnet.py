"""GhostNet against timm's implementation: sizes, names, and outputs in both modes."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.nn.ghost.ghostnet import TIMM, from_timm, ghostnet, ghostnet_shape
from nasplat.nn.ghost.shapes import network_costs

WIDTHS = tuple(TIMM)
PUBLISHED = {0.5: (2_587_292, 42_328_152), 1.0: (5_182_508, 141_150_512), 1.3: (7_358_820, 227_003_256)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def theirs(width: float, classes: int = 7, channels: int = 3, dropout: float = 0.2) -> nn.Module:
    """timm's network in float64, all tensors drawn afresh: as it comes, batch norm changes nothing in either mode."""
    network: nn.Module = timm.create_model(TIMM[width], num_classes=classes, in_chans=channels, drop_rate=dropout)
    network.double()
    chance = generator(int(10 * width))
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.dim() > 1:  # keeps the size of what passes through
                tensor.normal_(0, tensor[0].numel() ** -0.5, generator=chance)
            elif name.endswith(("running_var", "weight")):
                tensor.uniform_(0.5, 1.5, generator=chance)
            elif tensor.is_floating_point():
                tensor.uniform_(-0.5, 0.5, generator=chance)
    return network


def both(width: float, **options: int) -> tuple[nn.Module, nn.Module]:
    """timm's network and ours, with the same weights."""
    oracle = theirs(width, **options)
    ours = ghostnet(width, **{"classes": 7, **options}).double()
    ours.load_state_dict(from_timm(oracle.state_dict()))
    return oracle, ours


def images(batch: int, channels: int = 3, side: int = 64) -> Tensor:
    return torch.randn(batch, channels, side, side, dtype=torch.float64, generator=generator())


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_published_sizes_come_out_of_the_network_and_of_the_formula(width: float) -> None:
    with torch.device("meta"):
        network = ghostnet(width).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            network(torch.zeros(1, 3, 224, 224))
    counted = sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2
    assert counted == PUBLISHED[width]
    cost = Cost.total(network_costs(ghostnet_shape(width), IO.image(3, 224, 1000)))
    assert (cost.params, cost.macs) == PUBLISHED[width]


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 97, 224])
@pytest.mark.parametrize("width", WIDTHS)
def test_evaluating_it_gives_the_outputs_of_timm(width: float, side: int) -> None:
    oracle, ours = (network.eval() for network in both(width))
    with torch.no_grad():
        expected = oracle(images(2, side=side))
        torch.testing.assert_close(ours(images(2, side=side)), expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.01, "outputs that do not depend on anything would be equal as well"


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_training_it_gives_the_outputs_gradients_and_statistics_of_timm(width: float) -> None:
    oracle, ours = (network.train() for network in both(width))
    labels = torch.tensor([1, 0, 6, 3])
    outputs = []
    for network in (oracle, ours):
        with torch.random.fork_rng():
            torch.manual_seed(5)  # the same features are dropped
            outputs.append(network(images(4)))
        nn.functional.cross_entropy(outputs[-1], labels).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-6)
    after = ours.state_dict()
    for name, tensor in from_timm(oracle.state_dict()).items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)
    for network in (oracle, ours):
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.data = parameter.grad
    after = ours.state_dict()
    for name, gradient in from_timm(oracle.state_dict()).items():
        torch.testing.assert_close(after[name], gradient, rtol=0, atol=1e-6)


def test_dropout_is_what_training_leaves_out() -> None:
    ours = ghostnet(0.5, classes=3, dropout=0.0).train()
    x = torch.randn(2, 3, 32, 32, generator=generator())
    assert torch.equal(ours(x), ours(x))
    ours = ghostnet(0.5, classes=3, dropout=0.5).train()
    assert not torch.equal(ours(x), ours(x))


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "channels"), [(1, 3), (1000, 1), (21, 4)])
def test_weights_for_other_classes_and_channels_are_taken_over_too(classes: int, channels: int) -> None:
    oracle, ours = (network.eval() for network in both(0.5, classes=classes, channels=channels))
    with torch.no_grad():
        x = images(1, channels)
        torch.testing.assert_close(ours(x), oracle(x), rtol=0, atol=1e-6)


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.pop(name)


def reshaped(name: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("blocks.3.0.se.conv_reduce.bias"), r"has no 'blocks\.3\.0\.se\.conv_reduce\.bias'; only whole"),
        (lambda weights: weights.clear(), "has no 'blocks.0.0.*' and [0-9]{3} more; only whole"),
        (reshaped("blocks.0.0.short", 1), "has an unknown 'blocks.0.0.short'; only whole"),
        (reshaped("conv_stem.weight", 24, 3, 3, 3), r"'conv_stem.weight' has the shape \[24, 3, 3, 3\], which no"),
        (reshaped("conv_stem.weight", 16, 3, 7, 7), r"'conv_stem.weight' has the shape \[16, 3, 7, 7\], which no"),
        (reshaped("conv_stem.weight"), r"'conv_stem.weight' has the shape \[\], which no"),
        (
            reshaped("classifier.weight"),
            r"'classifier.weight' has the shape \[\], but must have \[5, 1280\] in ghostnet_100",
        ),
        (
            reshaped("conv_head.weight", 1280, 959, 1, 1),
            r"\[1280, 959, 1, 1\], but must have \[1280, 960, 1, 1\] in ghost",
        ),
        (
            reshaped("classifier.weight", 4, 1280),
            r"'classifier.weight' has the shape \[4, 1280\], but must have \[5, 1280\]",
        ),
    ],
)
def test_what_is_no_such_state_dict_is_refused(damage: Callable[[dict[str, Tensor]], object], message: str) -> None:
    with torch.device("meta"):
        weights = dict(timm.create_model("ghostnet_100", num_classes=5).state_dict())
    damage(weights)
    with pytest.raises(InputError, match=message):
        from_timm(weights)


@pytest.mark.parametrize("other", ["ghostnetv2_100", "mobilenetv3_small_050", "resnet18"])
def test_other_networks_of_timm_are_refused(other: str) -> None:
    with torch.device("meta"):
        weights = timm.create_model(other).state_dict()
    with pytest.raises(InputError, match=r"only whole state dicts of timm's ghostnet_050, ghostnet_100, ghostnet_130"):
        from_timm(weights)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_a_width_is_positive(width: float) -> None:
    with pytest.raises(InputError, match="must be positive"):
        ghostnet(width)
