"""Full-stack filters: what they compute, how few bits store them, and how they are fitted to weights."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from nasplat.nn.full_stack import FullStack, FullStackConv2d, correlation, fit
from nasplat.nn.reference_networks import vgg16
from nasplat.transforms import apply, cost

KINDS = [FullStack(ratio, masks) for ratio in (2, 3, 4, 16) for masks in ("individual", "shared")]


def convolution(outputs: int = 10, inputs: int = 3, kernel: int = 3, **options: object) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(outputs)
        return nn.Conv2d(inputs, outputs, kernel, **options)  # type: ignore[arg-type]


def by_hand(filters: Tensor, masks: Tensor, outputs: int, shared: bool) -> Tensor:
    """The weights, filter by filter."""
    made = [filters[j % len(filters)] * masks[j // len(filters) if shared else j] for j in range(outputs)]
    return torch.stack(made)


@pytest.mark.parametrize("stack", KINDS, ids=str)
def test_a_filter_is_a_full_stack_filter_times_its_mask(stack: FullStack) -> None:
    layer = FullStackConv2d(convolution(), stack, fitted=False)
    assert len(layer.filters) == math.ceil(10 / stack.ratio)
    masks = torch.where(layer.latent >= 0, 1.0, -1.0)
    assert torch.equal(layer.weight, by_hand(layer.filters, masks, 10, stack.masks == "shared"))
    if stack.masks == "shared":
        assert len(masks) <= stack.ratio
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(layer(images), nn.functional.conv2d(images, layer.weight, layer.bias))


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"padding": (1, 2), "padding_mode": "reflect", "bias": False},
        {"padding": 1, "padding_mode": "circular", "groups": 2, "inputs": 4},
    ],
    ids=str,
)
def test_the_geometry_is_that_of_the_convolution(options: dict[str, object]) -> None:
    inputs = int(str(options.get("inputs", 3)))
    plain = convolution(**options)  # type: ignore[arg-type]
    layer = FullStackConv2d(plain, FullStack(1, "individual"))
    images = torch.randn(2, inputs, 9, 9)
    torch.testing.assert_close(layer(images), plain(images))  # with a ratio of 1 the fit is exact


def test_stored_weights_have_the_bytes_of_the_formula_and_are_the_trained_ones_to_the_bit() -> None:
    rng = default_rng(0)
    for _ in range(200):
        outputs, inputs, kernel, ratio = (int(rng.integers(1, high)) for high in (70, 19, 6, 20))
        stack = FullStack(ratio, "shared" if rng.random() < 0.5 else "individual")
        layer = FullStackConv2d(convolution(outputs, inputs, kernel), stack, fitted=bool(rng.random() < 0.2))
        packed = layer.packed()
        stored = {name: tensor.numpy() for name, tensor in packed.state_dict().items() if name != "bias"}
        elements = inputs * kernel**2
        f = math.ceil(outputs / ratio)
        masks = outputs if stack.masks == "individual" else math.ceil(outputs / f)
        taken = sum(each.nbytes for each in stored.values())
        assert taken == 4 * f * elements + math.ceil(masks * elements / 8)
        assert taken == math.ceil(stack.bits(outputs, elements) / 8)
        assert layer.stored_bits() == stack.bits(outputs, elements) + 32 * outputs
        signs = np.unpackbits(stored["bits"], count=masks * elements).reshape(masks, inputs, kernel, kernel)
        weights = by_hand(packed.filters, torch.from_numpy(signs) * 2.0 - 1, outputs, stack.masks == "shared")
        assert torch.equal(weights, layer.weight)
        other = FullStackConv2d(convolution(outputs, inputs, kernel), stack, fitted=False)
        other.unpack(packed)
        assert torch.equal(other.weight, layer.weight)


@pytest.mark.parametrize("stack", KINDS, ids=str)
def test_a_packed_layer_computes_the_same(stack: FullStack) -> None:
    layer = FullStackConv2d(convolution(), stack, fitted=False)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(layer.packed()(images), layer(images))
    assert torch.equal(layer.packed().double()(images.double()), layer.double()(images.double()))


def test_bits_of_vgg_are_the_recounted_ones() -> None:
    shapes = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *2 * [(256, 256)], (256, 512), *5 * [(512, 512)]]
    others = 4 * sum(outputs for _, outputs in shapes) + 512 * 10 + 10  # batch norms with statistics, the classifier
    found = [
        (sum(stack.bits(outputs, 9 * inputs) for inputs, outputs in shapes) + 32 * others) / 8 / 2**20
        for stack in (FullStack(4, "shared"), FullStack(4, "individual"), FullStack(64, "individual"))
    ]
    assert found == pytest.approx([14.13, 15.87, 2.71], abs=0.005)  # published: 14.1, 16.0 and 2.7


def test_gradients_pass_straight_and_latent_values_stay_small() -> None:
    layer = FullStackConv2d(convolution(4), FullStack(2, "individual"), fitted=False)
    weights = torch.randn_like(layer.weight)
    torch.autograd.backward((layer.weight * weights).sum())
    assert layer.latent.grad is not None and layer.filters.grad is not None
    torch.testing.assert_close(layer.latent.grad, weights * layer.filters.detach().repeat(2, 1, 1, 1))
    signs = torch.where(layer.latent >= 0, 1.0, -1.0)
    torch.testing.assert_close(layer.filters.grad, (weights * signs).reshape(2, 2, *weights.shape[1:]).sum(0))
    with torch.no_grad():
        layer.latent.mul_(100)
    layer.after_step()
    assert layer.latent.abs().max() == 1
    assert torch.equal(torch.where(layer.latent >= 0, 1.0, -1.0), signs)


def test_correlation_is_zero_for_orthogonal_masks_alone() -> None:
    layer = FullStackConv2d(convolution(4, 1, 2), FullStack(4, "individual"), fitted=False)
    hadamard = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1.0]])
    with torch.no_grad():
        layer.latent.copy_(hadamard.reshape_as(layer.latent) / 3)
        assert correlation(layer.latent) == 0
        layer.latent.fill_(0.0)  # zero counts as positive
        assert correlation(layer.latent) == pytest.approx(12 / 16)


@pytest.mark.parametrize("stack", [each for each in KINDS if each.ratio < 10], ids=str)
def test_what_was_made_of_filters_and_masks_is_found(stack: FullStack) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = 11
    filters = torch.randn(stack.filters(outputs), 5, 3, 3, generator=generator)
    masks = torch.randn(stack.mask_count(outputs), 5, 3, 3, generator=generator).sign()
    weights = by_hand(filters, masks, outputs, stack.masks == "shared")
    found = fit(weights, stack)
    assert found.errors[-1] < 1e-12
    torch.testing.assert_close(by_hand(found.filters, found.masks, outputs, stack.masks == "shared"), weights)


@pytest.mark.parametrize("masks", ["individual", "shared"])
def test_a_fit_is_the_best_there_is_where_all_masks_can_be_tried(masks: str) -> None:
    stack = FullStack(3, masks)  # type: ignore[arg-type]
    weights = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grouped = weights.reshape(3, 2, 4)
    best = 0.0
    for element in range(4):
        errors = []
        for signs in itertools.product((1.0, -1.0), repeat=6 if masks == "individual" else 3):
            mask = torch.tensor(signs, dtype=torch.float64).reshape(3, -1)
            filters = (grouped[:, :, element] * mask).mean(0)
            errors.append(float((grouped[:, :, element] - mask * filters).square().sum()))
        best += min(errors)
    assert fit(weights, stack).errors[-1] == pytest.approx(best / float(weights.square().sum()))


def test_the_error_never_rises() -> None:
    for seed in range(20):
        weights = torch.randn(24, 6, 3, 3, generator=torch.Generator().manual_seed(seed))
        for stack in KINDS:
            errors = fit(weights, stack, seed=seed).errors
            assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors)), errors
            assert 0 <= errors[-1] < 1


def test_a_fitted_layer_is_the_fit() -> None:
    plain = convolution(12)
    for stack in KINDS:
        found, layer = fit(plain.weight.detach(), stack), FullStackConv2d(plain, stack)
        torch.testing.assert_close(layer.weight, by_hand(found.filters, found.masks, 12, stack.masks == "shared"))
        assert layer.latent.abs().max() < 1


@pytest.mark.slow  # it counts, which torch needs seconds to be ready for
def test_multiplications_of_vgg_are_the_recounted_ones() -> None:
    with torch.device("meta"):
        plain = vgg16(10)
    found = []
    for ratio, masks in ((4, "shared"), (4, "individual"), (64, "individual")):
        with torch.device("meta"):
            network = apply(plain, "full_stack", filters=ratio, masks=masks, stem=True).network
        parts = cost(network, (3, 32, 32)).parts
        layers = [part for name, part in parts.items() if isinstance(network.get_submodule(name), FullStackConv2d)]
        assert len(layers) == 13
        found.append(sum(part.metrics()["multiplications"] for part in layers) / 1e6)
        assert sum(part.metrics()["additions"] for part in layers) == sum(part.macs for part in layers)
    assert found == pytest.approx([78.3, 78.3, 4.89], abs=0.05)  # published: 78.5, 78.5 and 4.9
