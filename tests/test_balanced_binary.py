"""Binary convolutions against brute force in float64, their bits, their training, and what is refused."""

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from nasplat import transforms
from nasplat.architecture import IO
from nasplat.cost import count
from nasplat.errors import InputError, RunError, TrialFailed
from nasplat.export import verification
from nasplat.export.formats import Format, verified, write_source
from nasplat.export.opening import WEIGHTS
from nasplat.export.verification import compared
from nasplat.nn.binary import (
    DIGITS,
    BinaryConv2d,
    BinaryFilters,
    GatedResidual,
    NormalizedSign,
    entropy,
    keeps_sides,
    sign,
    threshold,
)
from nasplat.nn.convolution import Geometry
from nasplat.nn.packing import packed, unpack
from nasplat.nn.rewritten import jumping, rewritten
from nasplat.training.fit import ClassifierTraining
from nasplat.training.options import RecipeOptions
from nasplat.training.seeding import seeded
from nasplat.transforms.balanced_binary import BalancedBinary


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    torch.manual_seed(0)


def filters(inputs: int = 3, outputs: int = 4, kernel: int = 3, *, balanced: bool = True) -> BinaryFilters:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, dtype=torch.float64)
    return BinaryFilters(convolution, balanced=balanced, gated=False, fitted=True)


@pytest.mark.parametrize("balanced", [True, False])
def test_signs_scales_and_outputs_are_those_of_loops(balanced: bool) -> None:
    layer = filters(balanced=balanced)
    x = sign(torch.randn(2, 3, 5, 6, dtype=torch.float64))
    outputs = layer(x).detach()
    assert layer.bias is not None
    biases = layer.bias.detach()
    padded = functional.pad(x, (1, 1, 1, 1))
    for j in range(4):
        latent = layer.latent[j].detach()
        centred = latent - (latent.sum() / 27 if balanced else 0.0)
        scale = float(centred.abs().sum()) / 27
        signs = torch.where(centred >= 0, 1.0, -1.0)
        for row, column in itertools.product(range(5), range(6)):
            for image in range(2):
                total = float((padded[image, :, row : row + 3, column : column + 3] * signs).sum())
                found = float(outputs[image, j, row, column]) - float(biases[j])
                assert found == pytest.approx(scale * total, rel=2.0**-DIGITS, abs=1e-12)


@pytest.mark.parametrize("balanced", [True, False])
def test_gradients_of_latent_weights_are_the_formula_and_sum_to_zero_if_balanced(balanced: bool) -> None:
    layer = filters(balanced=balanced)
    with torch.no_grad():
        layer.latent[0] *= 20  # some are beyond the clip
    x = sign(torch.randn(2, 3, 5, 6, dtype=torch.float64))
    direction = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.autograd.backward((layer(x) * direction).sum())
    # With y = a (x * s): dL/ds from an ordinary convolution, dL/da from the sums of signs.
    latent = layer.latent.detach()
    centred = latent - latent.mean((1, 2, 3), keepdim=True) * balanced
    signs = torch.where(centred >= 0, 1.0, -1.0).double().requires_grad_()
    sums = functional.conv2d(x, signs, padding=1)
    scale = centred.abs().mean((1, 2, 3))
    torch.autograd.backward((sums * direction).sum())
    assert signs.grad is not None and layer.latent.grad is not None
    of_scale = (sums.detach() * direction).sum((0, 2, 3))
    wanted = signs.grad * scale[:, None, None, None] * (centred.abs() <= 1)
    wanted = wanted + of_scale[:, None, None, None] * centred.sign() / 27
    if balanced:
        wanted = wanted - wanted.mean((1, 2, 3), keepdim=True)
        assert layer.latent.grad.sum((1, 2, 3)).abs().max() < 1e-10
    else:
        assert layer.latent.grad.sum((1, 2, 3)).abs().max() > 1e-3
    torch.testing.assert_close(layer.latent.grad, wanted, rtol=1e-4, atol=1e-6)  # the scale is rounded
    assert not (centred.abs() <= 1).all()


def test_the_sign_passes_gradients_from_minus_one_to_one_and_zero_is_positive() -> None:
    x = torch.tensor([-1.5, -1.0, -0.2, -0.0, 0.0, 0.3, 1.0, 1.1], dtype=torch.float64, requires_grad=True)
    y = sign(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    torch.autograd.backward(y, torch.arange(1.0, 9.0, dtype=torch.float64))
    assert x.grad is not None and x.grad.tolist() == [0, 2, 3, 4, 5, 6, 7, 0]


def drawn_norm(channels: int = 12, dtype: torch.dtype = torch.float32) -> NormalizedSign:
    layer = NormalizedSign(channels, dtype=dtype)
    assert layer.running_mean is not None and layer.running_var is not None
    with torch.no_grad():
        layer.weight.copy_(torch.randn(channels))
        layer.bias.copy_(torch.randn(channels))
        layer.running_mean.copy_(torch.randn(channels))
        layer.running_var.copy_(torch.rand(channels) + 0.1)
        layer.weight[:3] = 0.0
        layer.bias[:3] = torch.tensor([1.0, 0.0, -1.0])
    return layer.eval()


def test_thresholds_are_the_signs_of_batch_norm_in_float64() -> None:
    layer = drawn_norm()
    assert layer.running_mean is not None and layer.running_var is not None
    mean, variance, weight, bias = (
        each.detach().double() for each in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    x = torch.randn(50, 12, 4, 4)
    normalized = functional.batch_norm(x.double(), mean, variance, weight, bias, eps=layer.eps)
    clear = normalized.abs() > 1e-6
    wanted = torch.where(normalized >= 0, 1.0, -1.0)
    found = layer(x)
    assert torch.equal(found[clear], wanted[clear].float()) and clear.float().mean() > 0.9
    assert found[:, 0].min() == 1 and found[:, 1].min() == 1 and found[:, 2].max() == -1


def test_inputs_at_the_threshold_are_positive_in_either_direction() -> None:
    weight, zero, mean = torch.tensor([1.0, -1.0]), torch.zeros(2), torch.tensor([0.5, 0.5])
    layer = NormalizedSign(2).eval()
    assert layer.running_mean is not None
    layer.running_mean.copy_(mean)
    layer.weight.data.copy_(weight)
    below, above = (float(np.nextafter(np.float32(0.5), np.float32(side))) for side in (0, 1))
    x = torch.tensor([[below, 0.5, above]]).expand(2, 3).reshape(1, 2, 1, 3)
    assert layer(x).flatten().tolist() == [-1, 1, 1, 1, 1, -1]
    values, up = threshold(weight, zero, mean, torch.ones(2), 1e-5)
    assert up.tolist() == [True, False] and float(values[0]) == 0.5 and float(values[1]) == above


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride"), [(4, 4, 1), (4, 4, 2), (3, 8, 1), (3, 7, 2), (8, 4, 1), (7, 3, 2), (5, 5, 3)]
)
def test_gated_residuals_are_those_of_loops(inputs: int, outputs: int, stride: int) -> None:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, dtype=torch.float64)
    layer = GatedResidual(convolution)
    with torch.no_grad():
        layer.gate.copy_(torch.randn(outputs))
    x = torch.randn(2, inputs, 5, 7, dtype=torch.float64)
    found = layer(x)
    assert found.shape == convolution(x).shape
    terms = math.ceil(inputs / outputs)
    for j, row, column in itertools.product(range(outputs), range(found.shape[2]), range(found.shape[3])):
        rows, columns = (slice(stride * place, stride * (place + 1)) for place in (row, column))
        block = x[:, :, rows, columns].mean((2, 3))
        of = [j % inputs] if outputs >= inputs else range(j, inputs, outputs)
        wanted = layer.gate[j] * sum(block[:, i] for i in of) / (1 if outputs >= inputs else terms)
        torch.testing.assert_close(found[:, j, row, column], wanted)


def test_bytes_are_those_of_the_formula_and_unpacked_weights_are_the_trained_ones_to_the_bit() -> None:
    rng = default_rng(0)
    torch.manual_seed(0)
    for number in range(200):
        groups = int(rng.choice([1, 1, 2, 3]))
        inputs, outputs = groups * int(rng.integers(2, 20)), groups * int(rng.integers(1, 30))
        kernel = tuple(int(side) for side in rng.choice([1, 2, 3, 5], 2))
        convolution = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=bool(rng.integers(2)))  # type: ignore[arg-type]
        options = {"balanced": bool(rng.integers(2)), "gated": False}
        layer = BinaryConv2d(convolution, **options, fitted=bool(number % 2)).eval()
        layer.sign = drawn_norm(inputs) if inputs > 3 else layer.sign
        form = packed(layer)
        elements = inputs // groups * kernel[0] * kernel[1]
        state = form.state_dict()
        assert state["filters.bits"].nbytes == math.ceil(outputs * elements / 8)
        assert state["sign.bits"].nbytes == math.ceil(inputs / 8)
        real = outputs * (1 + (convolution.bias is not None)) + inputs  # scales, biases, thresholds
        assert sum(each.nbytes for name, each in state.items() if not name.endswith("bits")) == 4 * real
        again = BinaryConv2d(convolution, **options, fitted=False).eval()
        unpack(again, state)
        assert torch.equal(again.filters.weight, layer.filters.weight), (number, convolution)
        x = torch.randn(2, inputs, 6, 6)
        with torch.no_grad():
            assert torch.equal(again(x), layer(x)) and torch.equal(form(x), layer(x))


def test_a_filter_without_weights_packs() -> None:
    convolution = nn.Conv2d(4, 2, 1)
    nn.init.zeros_(convolution.weight)
    layer, again = (BinaryConv2d(convolution, fitted=True).eval() for _ in range(2))
    unpack(again, packed(layer).state_dict())
    assert torch.equal(again.filters.weight, layer.filters.weight) and not again.filters.weight.any()


@pytest.mark.parametrize("bias", [0.05, -0.05])
def test_balancing_keeps_the_entropy_of_signs_when_latent_weights_are_biased(bias: float) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(32, 32, 3)
    with torch.no_grad():
        convolution.weight += bias
    balanced, plain = (BinaryFilters(convolution, balanced=each, gated=False, fitted=True) for each in (True, False))
    for layer, low, high in ((balanced, 0.99, 1.0), (plain, 0.0, 0.8)):
        positive = (packed(layer).true()).flatten(1).double().mean(1)  # type: ignore[operator]
        found = entropy(layer.latent.detach(), balanced=layer.balanced)
        by_hand = [-p * math.log2(p) - (1 - p) * math.log2(1 - p) if 0 < p < 1 else 0.0 for p in positive.tolist()]
        assert found.tolist() == pytest.approx(by_hand)
        assert low <= float(found.mean()) <= high


def test_weights_pushed_to_one_side_in_training_stay_balanced() -> None:
    found = []
    for balanced in (True, False):
        torch.manual_seed(0)
        layer = BinaryFilters(nn.Conv2d(16, 16, 3, bias=False), balanced=balanced, gated=False, fitted=True)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.2)
        for _ in range(40):  # the loss wants every weight to be positive
            optimizer.zero_grad()
            (-layer(torch.ones(1, 16, 3, 3)).sum()).backward()
            optimizer.step()
        found.append(float(entropy(layer.latent.detach(), balanced=balanced).mean()))
    assert found[0] >= 0.99 and found[1] < 0.8


def test_activations_are_real_in_the_warm_up_and_binary_wherever_something_is_measured() -> None:
    layer = NormalizedSign(3, warmup=2).train()
    x = torch.randn(8, 3, 4, 4, requires_grad=True)
    for step in range(3):
        values = layer(x).detach().unique()
        real = len(values) > 2
        assert real == (step < 2) and float(values.abs().max()) <= 1
        with torch.no_grad():
            assert torch.equal(layer(x).unique(), values)
            layer.momentum = None  # as when statistics are recalibrated
            assert len(layer(x).unique()) == 2
            layer.momentum = 0.1
            layer.after_step()
    assert len(NormalizedSign(3, warmup=2).eval()(x).unique()) == 2


@pytest.mark.parametrize("gated", [True, False])
def test_what_is_not_a_number_stays_so_in_every_state(gated: bool) -> None:
    with seeded(0):
        network = transforms.apply(small_network(), "balanced_binary", gated=gated).network.eval()
    images = torch.randn(3, 1, 8, 8)
    images[1, 0, 4, 4] = math.nan
    with torch.no_grad():
        forms = network, packed(network), network.train()
        for form in forms[:2]:
            assert form.eval()(images).isnan().any(1).tolist() == [False, True, False]
        assert forms[2].train()(images).isnan().all()  # batch norm spreads it
        assert network.eval()(images.nan_to_num()).isnan().all()  # and its statistics keep it
    with pytest.raises(InputError, match="not numbers"):
        packed(network)


def test_evaluation_passes_the_gradients_of_training_with_the_same_statistics() -> None:
    norm = NormalizedSign(3).double()
    x = torch.randn(64, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn_like(x)
    norm.momentum = 1.0  # of the last batch alone
    norm(x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = (norm.running_var + norm.eps).sqrt()
    normalized = (x - norm.running_mean[:, None, None]) / deviation[:, None, None]
    expected = normalized * norm.weight[:, None, None] + norm.bias[:, None, None]
    inside = expected.detach().abs() <= 1
    inputs = x, norm.weight, norm.bias
    by_hand = torch.autograd.grad((expected * wanted * inside).sum(), inputs)
    outputs = norm.eval()(x)
    with torch.no_grad():
        assert torch.equal(outputs, norm(x)) and torch.equal(outputs, torch.where(expected >= 0, 1.0, -1.0))
    for given, right in zip(torch.autograd.grad((outputs * wanted).sum(), inputs), by_hand, strict=True):
        torch.testing.assert_close(given, right, rtol=1e-12, atol=1e-12)


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def test_latent_weights_and_gates_take_no_weight_decay() -> None:
    with seeded(0):
        network = transforms.apply(small_network(), "balanced_binary").network
    undecayed = {id(getattr(layer, name)) for _, layer in rewritten(network) for name in layer.undecayed}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in undecayed}
    assert names == {"3.filters.latent", "3.gate.gate"}


def test_costs_count_bits_apart_from_real_operations() -> None:
    convolution = nn.Conv2d(6, 8, 3, 2, padding=1)
    layer = BinaryConv2d(convolution)
    found = count(
        lambda: nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()), IO.image(channels=6, side=9, outputs=8)
    )
    outputs, weights = 5 * 5 * 8, 8 * 6 * 9
    assert (found.macs, found.bit_operations) == (25 * weights, 25 * weights)
    assert found.metrics()["multiplications"] == 2 * outputs  # by scales and by gates
    assert found.metrics()["additions"] == outputs
    assert found.operations == 1.5 * outputs + 25 * weights / 64
    assert found.memory_bits == weights + 32 * (8 + 8 + 8) + 33 * 6  # scales, biases, gates; thresholds
    assert found.params == weights + 8 + 8 + 2 * 6


class SqueezeExcitation(nn.Module):
    """Two convolutions that weigh channels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)))
        return weighted


def test_what_cannot_be_binary_says_why() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 3), SqueezeExcitation(),
        nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 1, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 2, padding=0),
    )  # fmt: skip
    reasons = {each.name: each.reason for each in BalancedBinary().candidates(network)}
    assert [name for name, reason in reasons.items() if not reason] == ["4", "5"]
    assert "first convolution" in reasons["0"] and "depth-wise" in reasons["1"] and "depth-wise" in reasons["6"]
    assert "gated=false" in reasons["2"] and "gated=false" in reasons["7"] and "3.fc1" not in reasons
    able = BalancedBinary(gated=False, squeeze_excite=True).eligible(network)
    assert able == ["2", "3.fc1", "3.fc2", "4", "5", "7"]
    halves = [layer.reason for layer in BalancedBinary().candidates(network.bfloat16()) if layer.name in ("4", "5")]
    assert len(halves) == 2 and all("bfloat16" in reason for reason in halves)
    network.float()
    with pytest.raises(InputError, match="sides of maps"):
        transforms.apply(network[:3], "balanced_binary")
    with pytest.raises(InputError, match="greater than or equal to 0"):
        transforms.apply(network, "balanced_binary", warmup=-1)


def test_sides_are_kept_where_padding_fits() -> None:
    for kernel, padding, stride, dilation in itertools.product((1, 2, 3, 5), (0, 1, 2, "valid"), (1, 2, 3), (1, 2)):
        layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)  # type: ignore[arg-type]
        sides = [
            tuple(layer(torch.zeros(1, 1, side, side)).shape[2:]) == (math.ceil(side / stride),) * 2
            for side in range(9, 16)
        ]
        assert keeps_sides(Geometry.of(layer)) <= all(sides), layer
        if stride == 1:
            assert keeps_sides(Geometry.of(layer)) == all(sides), layer


def test_a_changed_bit_is_found_but_a_sign_that_rounding_changes_is_not_held_against_a_format() -> None:
    with seeded(0):
        network = transforms.apply(small_network(), "balanced_binary").network.eval()
    assert isinstance(network, nn.Sequential)
    network[2] = nn.Identity()  # many inputs of a sign would be zero else
    norm = network.get_submodule("3.sign")
    assert isinstance(norm, NormalizedSign) and norm.running_mean is not None
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        inputs = network[:3](images)
        norm.running_mean.copy_(inputs[0, :, 3, 3])  # signs of one place are at their threshold
    layers = jumping(network)
    assert layers == [norm]
    steady = compared(network, network, [images[1:]], jumping=layers)
    assert steady.unsteady == 0 and steady.holds

    def rounded(x: Tensor) -> Tensor:
        hook = norm.register_forward_pre_hook(lambda layer, given: (given[0] - 1e-6,))
        try:
            result: Tensor = network(x)
        finally:
            hook.remove()
        return result

    assert not compared(network, rounded, [images]).holds
    allowed = compared(network, rounded, [images], jumping=layers)
    assert allowed.holds and allowed.unsteady == 1
    form = packed(network).eval()
    form.get_buffer("3.filters.bits")[0] ^= 255
    assert not compared(network, form, [images], jumping=layers).holds


def test_resnet_18_has_the_size_of_published_binary_networks_and_trains() -> None:
    resnet = resnet18()
    # Projections stay real, as in published networks; this transform would make them binary too.
    names = [each for each in BalancedBinary().eligible(resnet) if "downsample" not in each]
    convolutions = [resnet.get_submodule(name) for name in names]
    with seeded(0):
        network = transforms.apply(resnet, "balanced_binary", names=names, fitted=True).network
    cost = transforms.cost(network, (3, 224, 224))
    plain = transforms.cost(resnet, (3, 224, 224))
    assert len(convolutions) == 16 and all(isinstance(layer, nn.Conv2d) for layer in convolutions)
    sizes = [layer.weight.shape for layer in convolutions if isinstance(layer, nn.Conv2d)]
    weights = sum(size.numel() for size in sizes)
    real = sum(2 * size[0] for size in sizes)  # scales and gates
    thresholds = sum(33 * size[1] for size in sizes)
    assert cost.memory_bits == plain.memory_bits - 31 * weights + 32 * real + thresholds
    stem, head = 7 * 7 * 3 * 64 * 112 * 112, 512 * 1000
    projections = 3 * 128 * 64 * 28 * 28
    assert cost.bit_operations == plain.macs - stem - head - projections
    # Liu et al., 2018, "Bi-Real Net", table 3: 33.6 Mbit and 163 M operations.
    assert cost.memory_bits / 1e6 == pytest.approx(33.6, rel=0.02)
    assert cost.operations / 1e6 == pytest.approx(163, rel=0.02)
    outputs = network.train()(torch.randn(2, 3, 64, 64))
    torch.autograd.backward(outputs.square().mean())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        assert torch.equal(packed(network.eval())(images), network(images))


def test_a_sign_within_rounding_of_its_threshold_is_always_unsteady() -> None:
    norm = NormalizedSign(64).eval()
    network = nn.Sequential(norm, nn.Flatten())
    for place in range(64):
        images = torch.ones(1, 64, 1, 1)
        images[0, place] = -1e-7
        found = compared(network, network, [images], jumping=[norm])
        assert found.unsteady == 1, place


def test_a_format_that_agrees_on_no_input_is_refused_however_much_signs_could_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = IO.image(channels=1, side=8, outputs=3)
    with seeded(0):
        network = transforms.apply(small_network(), "balanced_binary").network.eval()
    form = packed(network).eval()
    form.get_parameter("3.filters.scale").data.mul_(1.1)
    path = tmp_path / Format.SOURCE.value
    write_source(form, io, path, ["A network."])
    monkeypatch.setattr(verification, "MOVED", 10.0)  # all signs may change
    save_file(packed(network).state_dict(), tmp_path / WEIGHTS)
    assert verified(Format.SOURCE, network, io, path, None)["random"]["agreeing"] == 6
    save_file(form.state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(RunError, match="agrees with torch on none of 22 random inputs"):
        verified(Format.SOURCE, network, io, path, None)


def test_errors_are_those_of_signs_and_scales_by_hand() -> None:
    network = small_network()
    weight = network.get_parameter("3.weight").detach()
    for balanced in (True, False):
        errors = transforms.apply(network, "balanced_binary", fitted=True, balanced=balanced).errors
        centred = weight - weight.mean((1, 2, 3), keepdim=True) * balanced
        binary = torch.where(centred >= 0, 1.0, -1.0) * centred.abs().mean((1, 2, 3), keepdim=True)
        wanted = float((weight - binary).square().sum() / weight.square().sum())
        assert errors == {"3": pytest.approx(wanted, rel=1e-4)}


def test_sources_of_many_filters_agree_in_float64(tmp_path: Path) -> None:
    io = IO.image(channels=1, side=8, outputs=3)
    with seeded(0):
        drawn = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4000, 1), nn.Conv2d(4000, 8, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip
        network = transforms.apply(drawn, "balanced_binary").network.eval()
    save_file(packed(network).state_dict(), tmp_path / WEIGHTS)
    write_source(packed(network).eval(), io, tmp_path / Format.SOURCE.value, ["A network."])
    found = verified(Format.SOURCE, network, io, tmp_path / Format.SOURCE.value, None)
    assert found["random_float64"]["largest_difference"] <= found["random_float64"]["allowed"]


@pytest.mark.slow
def test_a_training_that_is_resumed_in_its_warm_up_ends_with_the_same_weights() -> None:
    from nasplat.data.examples import Examples

    generator = torch.Generator().manual_seed(0)
    examples = Examples(torch.randn(64, 1, 8, 8, generator=generator), torch.randint(3, (64,), generator=generator))
    recipe = RecipeOptions(batch_size=16, learning_rate=0.05).recipe(64, "cpu")

    def training(warmup: int = 6) -> ClassifierTraining:
        with seeded(0):
            network = transforms.apply(small_network(), "balanced_binary", warmup=warmup).network
        return ClassifierTraining(network, examples, recipe, epochs=3, seed=0)

    whole, first, second = training(), training(), training()
    for steps in (12, 13):
        with pytest.raises(TrialFailed, match=f"whole training, 12 here, but is {steps}"):
            training(warmup=steps)
    whole.until(3)
    first.until(1)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    second.until(3)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert int(whole.model.state_dict()["3.sign.steps"]) == 12


def test_signs_scales_and_gradients_are_those_of_brevitas() -> None:
    pytest.importorskip("brevitas", reason="brevitas is not installed; pip install nasplat[brevitas]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own warnings are not ours
        from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant
        from brevitas.core.scaling import ConstScaling
        from brevitas.core.stats import AbsAve

        class Scale(nn.Module):
            """Their mean of absolute values, for each filter."""

            def forward(self, weights: Tensor) -> Tensor:
                scale: Tensor = AbsAve(stats_reduce_dim=1)(weights.flatten(1))
                return scale[:, None, None, None]

        ours = BinaryFilters(nn.Conv2d(3, 4, 3, padding=1, bias=False), balanced=False, gated=False, fitted=True)
        latent = ours.latent.detach().clone().requires_grad_()
        weights = BinaryQuant(Scale())(latent)[0]
        x, direction = sign(torch.randn(2, 3, 6, 6)), torch.randn(2, 4, 6, 6)
        outputs = ours(x), functional.conv2d(x, weights, padding=1)
        torch.testing.assert_close(*outputs, rtol=2.0**-DIGITS, atol=1e-6)
        for each in outputs:
            torch.autograd.backward((each * direction).sum())
        assert latent.grad is not None
        torch.testing.assert_close(ours.latent.grad, latent.grad, rtol=1e-3, atol=1e-4)
        activations = [torch.linspace(-2, 2, 41).requires_grad_() for _ in range(2)]
        results = sign(activations[0]), ClampedBinaryQuant(ConstScaling(1.0))(activations[1])[0]
        assert torch.equal(*results)
        for result in results:
            torch.autograd.backward(result.sum())
        assert torch.equal(activations[0].grad, activations[1].grad)  # type: ignore[arg-type]
