"""Ghost modules, squeeze-excite and bottlenecks against their definitions in float64, and costs against a counter."""

import numpy as np
import pytest
import torch
from numpy.random import Generator, default_rng
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.nn.ghost.shapes import (
    PLAIN,
    Bottleneck,
    GhostShape,
    Operator,
    bottleneck_costs,
    ghost_cost,
    make_divisible,
    network_costs,
    squeeze_cost,
)
from nasplat.nn.ghost.supernet import GhostBottleneck, GhostModule, GhostNetwork, SqueezeExcite


def measured(network: nn.Module, *shape: int) -> tuple[int, int]:
    """Parameters, and multiply-accumulates for one example."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        network.to("meta", torch.float32).eval()(torch.zeros(1, *shape))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


def figures(cost: Cost) -> tuple[int, int]:
    return cost.params, cost.macs


def operator(rng: Generator) -> Operator:
    return Operator(int(rng.choice([1, 2, 3, 4, 5])), int(rng.choice([1, 3, 5, 7])))


def stirred(network: nn.Module, seed: int) -> nn.Module:
    """Float64 and evaluating, with batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    network.double().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(generator=generator)
    return network


def maps_by_hand(x: Tensor, layers: nn.Module, stride: int, groups: int) -> Tensor:
    """Convolution, batch norm and maybe ReLU in numpy, one output position after the other."""
    weights = {name: tensor.numpy() for name, tensor in layers.state_dict().items()}
    kernel, image = weights["0.weight"], x.numpy()
    half, outputs = kernel.shape[-1] // 2, len(kernel)
    padded = np.pad(image, [(0, 0), (0, 0), (half, half), (half, half)])
    height, width = (-(-side // stride) for side in image.shape[2:])
    result = np.empty((len(image), outputs, height, width))
    inputs = image.shape[1] // groups
    for n in range(outputs):
        first = n // (outputs // groups) * inputs
        for i in range(height):
            for j in range(width):
                rows, columns = (slice(at * stride, at * stride + kernel.shape[-1]) for at in (i, j))
                patch = padded[:, first : first + inputs, rows, columns]
                result[:, n, i, j] = (patch * kernel[n]).sum(axis=(1, 2, 3))
    mean, variance, scale, shift = (
        weights[f"1.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    result = (result - mean) / np.sqrt(variance + 1e-5) * scale + shift
    with_relu = any(isinstance(layer, nn.ReLU) for layer in layers.children())
    return torch.from_numpy(np.maximum(result, 0) if with_relu else result)


@pytest.mark.parametrize("seed", range(30))
def test_a_ghost_module_is_what_the_paper_says_at_the_cost_of_the_formula(seed: int) -> None:
    rng = default_rng(seed)
    inputs, outputs = (int(n) for n in rng.integers(1, 12, size=2))
    chosen, kernel, stride = operator(rng), int(rng.choice([1, 3, 5])), int(rng.choice([1, 2]))
    relu = bool(rng.random() < 0.5)
    ghost = stirred(GhostModule(inputs, outputs, chosen, kernel=kernel, stride=stride, relu=relu), seed)
    side = int(rng.integers(4, 9))
    x = torch.from_numpy(rng.normal(size=(2, inputs, side, side)))
    expected = maps_by_hand(x, ghost.get_submodule("primary"), stride, 1)
    assert expected.shape[1] == -(-outputs // chosen.ratio)
    if chosen.ratio > 1:
        made = maps_by_hand(expected, ghost.get_submodule("cheap"), 1, expected.shape[1])
        expected = torch.cat([expected, made], dim=1)[:, :outputs]
    with torch.no_grad():
        torch.testing.assert_close(ghost(x), expected, rtol=0, atol=1e-9)
    assert expected.shape[1] == outputs
    assert (expected < 0).any() != relu
    pixels = expected.shape[2] ** 2
    assert measured(ghost, inputs, side, side) == figures(ghost_cost(inputs, outputs, chosen, pixels, kernel))


def test_two_ghosts_of_a_map_stand_side_by_side() -> None:
    """As a grouped convolution orders them; the maps left out are those of the last primary map."""
    ghost = GhostModule(1, 4, Operator(3, 1), relu=False).double().eval()
    primary, cheap = ghost.get_submodule("primary.0"), ghost.get_submodule("cheap.0")
    with torch.no_grad():
        for norm in (ghost.get_submodule("primary.1"), ghost.get_submodule("cheap.1")):
            assert isinstance(norm, nn.BatchNorm2d)
            norm.eps = 0.0
        assert isinstance(primary, nn.Conv2d) and isinstance(cheap, nn.Conv2d)
        primary.weight.copy_(torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1))
        cheap.weight.copy_(torch.tensor([5.0, 7.0, 11.0, 13.0]).reshape(4, 1, 1, 1))
        maps = ghost(torch.ones(1, 1, 1, 1, dtype=torch.float64)).flatten()
    assert maps.tolist() == [2, 3, 10, 14]


def test_squeeze_excite_weights_channels_by_a_hard_sigmoid() -> None:
    layer = stirred(SqueezeExcite(20), 0)
    weights = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    assert weights["reduce.weight"].shape == (8, 20, 1, 1), "a quarter is 5, and 4 would be less than nine tenths of it"
    x = default_rng(0).normal(size=(3, 20, 4, 5))
    hidden = np.maximum(x.mean(axis=(2, 3)) @ weights["reduce.weight"][:, :, 0, 0].T + weights["reduce.bias"], 0)
    gate = np.clip(hidden @ weights["expand.weight"][:, :, 0, 0].T + weights["expand.bias"] + 3, 0, 6) / 6
    assert {0.0, 1.0} < set(gate.ravel().tolist())
    with torch.no_grad():
        given = layer(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(given, x * gate[:, :, None, None], rtol=0, atol=1e-12)
    assert measured(layer, 20, 4, 5) == figures(squeeze_cost(20))


def bottleneck(rng: Generator, inputs: int) -> Bottleneck:
    stride = int(rng.choice([1, 1, 2]))
    outputs = inputs if rng.random() < 0.4 else int(rng.integers(1, 15))
    return Bottleneck(
        inputs, int(rng.integers(2, 30)), outputs, kernel=int(rng.choice([0, 3, 5, 7] if stride == 1 else [3, 5, 7])),
        stride=stride, squeeze=bool(rng.random() < 0.5), expand=operator(rng), project=operator(rng),
        shortcut_kernel=int(rng.choice([1, 3, 5])),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_bottleneck_adds_up_its_parts_and_costs_what_the_formula_says(seed: int) -> None:
    rng = default_rng(100 + seed)
    shape = bottleneck(rng, int(rng.integers(1, 15)))
    block = stirred(GhostBottleneck(shape), seed)
    side = int(rng.integers(5, 13))
    x = torch.from_numpy(rng.normal(size=(2, shape.inputs, side, side)))
    before = x.clone()
    parts = dict(block.named_children())
    with torch.no_grad():
        given = block(x)
        out = x
        for name in ("expand", "depthwise", "squeeze", "project"):
            out = parts[name](out) if name in parts else out
        expected = out + (x if shape.identity else parts["shortcut"](x))
    assert torch.equal(x, before), "the input was written into"
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-9)
    assert ("depthwise" in parts, "squeeze" in parts) == (shape.kernel > 0, shape.squeeze)
    assert given.shape == (2, shape.outputs, -(-side // shape.stride), -(-side // shape.stride))
    cost = Cost.total(bottleneck_costs(shape, side))
    assert measured(block, shape.inputs, side, side) == figures(cost)


@pytest.mark.parametrize("seed", range(5))
def test_a_network_costs_what_the_formula_says_and_resizes_what_it_is_given(seed: int) -> None:
    rng = default_rng(200 + seed)
    blocks, inputs = {}, 5
    for place in ("a", "b", "c"):
        blocks[place] = bottleneck(rng, inputs)
        inputs = blocks[place].outputs
    shape = GhostShape(int(rng.integers(9, 30)), 5, int(rng.choice([1, 2])), blocks, 12, 17)
    given = int(rng.choice([shape.side, 16]))
    network = GhostNetwork(shape, IO.image(2, given, 3))
    assert measured(network, 2, given, given) == figures(Cost.total(network_costs(shape, IO.image(2, given, 3))))


def test_gradients_pass_through_the_sum_that_is_made_in_place() -> None:
    block = GhostBottleneck(Bottleneck(3, 7, 3, squeeze=True, project=PLAIN)).double().train()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


@pytest.mark.parametrize(
    ("channels", "divisor", "expected"),
    [(16, 4, 16), (8, 4, 8), (20.8, 4, 20), (5, 4, 8), (1, 4, 4), (46.8, 4, 48), (17, 8, 16), (10.9, 8, 16)],
)
def test_widths_are_rounded_but_never_by_more_than_a_tenth_down(channels: float, divisor: int, expected: int) -> None:
    assert make_divisible(channels, divisor) == expected


@pytest.mark.parametrize(("ratio", "kernel"), [(0, 3), (-1, 3), (2, 2), (2, 0), (1, -1)])
def test_an_operator_keeps_the_size_of_images(ratio: int, kernel: int) -> None:
    with pytest.raises(InputError, match=f"ratio of at least 1 and an odd kernel, but got {ratio} and {kernel}"):
        Operator(ratio, kernel)
