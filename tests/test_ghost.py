"""The Ghost search spaces and their supernets, by an oracle of another make.

The oracle reads codes by a table of its own and computes with functions alone, in float64, slicing the supernet's
weights by name.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.nn.ghost.shapes import PLAIN, Operator, make_divisible
from nasplat.nn.ghost.supernet import GhostBottleneck, GhostModule, GhostNetwork, conv_bn
from nasplat.nn.nested import nested
from nasplat.nn.supernet import Supernet, recalibrate
from nasplat.search_spaces.ghost import GhostCIFAR, GhostImageNet, GhostSmall, GhostSpace
from nasplat.training.seeding import seeded

SMALL = IO.image(channels=2, side=12, outputs=4)


def symbols(code: str) -> Iterator[int]:
    """The numbers that a code's symbols stand for."""
    return iter(["0123456789".index(symbol) for symbol in code])


@dataclass
class Small:
    """What `ghost/small` computes: a stem of stride 2; stages of 8, 16 and 32 channels with 2, 3 and 3 bottlenecks."""

    weights: dict[str, Tensor]
    code: str
    params: int = 0
    norms: str = "batch"
    collected: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def __call__(self, images: Tensor) -> Tensor:
        self.params = 0
        take = partial(next, symbols(self.code))
        side = round(images.shape[-1] * (0.75, 1)[take()])
        if side != images.shape[-1]:
            images = functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
        width = (0.5, 0.75, 1, 1.5)[take()]
        x = self.conv_bn("stem", images, self.four(8 * width), 3, 2).relu()
        channels = 8
        for stage, (base, most) in enumerate(((8, 2), (16, 3), (32, 3)), 1):
            depth = 1 + take()
            for block in range(most):
                strided = stage > 1 and block == 0
                expansion, multiple = 1 + take(), (0.75, 1, 1.25)[take()]
                kernel = ((3, 5) if strided else (0, 3, 5))[take()]
                squeeze, expand, project = take(), take(), take()
                if block >= depth:
                    continue
                middle, out = self.four(expansion * channels * width), self.four(round(base * multiple) * width)
                place, stride = f"stage {stage} block {block}", 2 if strided else 1
                y = self.ghost(f"{place} expand", x, middle, expand, relu=True)
                if kernel:
                    y = self.conv_bn(f"{place} depthwise", y, middle, kernel, stride, groups=middle)
                if squeeze:
                    y = self.squeeze(f"{place} squeeze", y)
                y = self.ghost(f"{place} project", y, out, project, relu=False)
                if stride == 2 or x.shape[1] != out:
                    z = self.conv_bn(f"{place} shortcut.0", x, x.shape[1], kernel or 3, stride, groups=x.shape[1])
                    x = self.conv_bn(f"{place} shortcut.1", z, out, 1)
                x = x + y
                channels = round(base * multiple)
        x = self.conv_bn("head", x, self.four(64 * width), 1).relu().mean(dim=(2, 3))
        features = self.weights["features.weight"][:, : x.shape[1], 0, 0]
        x = (x @ features.T + self.weights["features.bias"]).relu()
        self.params += features.numel() + 64 + self.weights["classifier.weight"].numel() + 4
        return x @ self.weights["classifier.weight"].T + self.weights["classifier.bias"]

    @staticmethod
    def four(channels: float) -> int:
        """The nearest multiple of four, halves up, none less than nine tenths."""
        nearest = max(4, 4 * math.floor(channels / 4 + 0.5))
        return nearest if nearest >= 0.9 * channels else nearest + 4

    def conv_bn(self, name: str, x: Tensor, out: int, kernel: int, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.weights[f"{name}.0.weight"]
        edge = (weight.shape[-1] - kernel) // 2
        weight = weight[:out, : x.shape[1] // groups, edge : edge + kernel, edge : edge + kernel]
        self.params += weight.numel() + 2 * out
        return self.batch_norm(functional.conv2d(x, weight, None, stride, kernel // 2, 1, groups), f"{name}.1")

    def ghost(self, name: str, x: Tensor, out: int, operator: int, *, relu: bool) -> Tensor:
        ratio, kernel = (1, 1) if operator == 0 else (2 + (operator - 1) // 3, (1, 3, 5)[(operator - 1) % 3])
        intrinsic = math.ceil(out / ratio)
        x = self.conv_bn(f"{name} primary", x, intrinsic, 1)
        x = x.relu() if relu else x
        if ratio == 1:
            return x
        ghosts = self.conv_bn(f"{name} cheap {ratio}", x, intrinsic * (ratio - 1), kernel, groups=intrinsic)
        return torch.cat([x, ghosts.relu() if relu else ghosts], dim=1)[:, :out]

    def squeeze(self, name: str, x: Tensor) -> Tensor:
        channels, inner = x.shape[1], self.four(x.shape[1] / 4)
        reduce, expand = (self.weights[f"{name}.{layer}.weight"][:, :, 0, 0] for layer in ("reduce", "expand"))
        bias, offset = (self.weights[f"{name}.{layer}.bias"] for layer in ("reduce", "expand"))
        self.params += 2 * channels * inner + channels + inner
        gate = (x.mean(dim=(2, 3)) @ reduce[:inner, :channels].T + bias[:inner]).relu()
        gate = ((gate @ expand[:channels, :inner].T + offset[:channels] + 3) / 6).clamp(0, 1)
        return x * gate[:, :, None, None]

    def recalibrate(self, batches: list[Tensor]) -> None:
        self.norms = "collect"
        for images in batches:
            self(images)
        self.norms = "fixed"

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        if self.norms == "fixed":
            mean, variance = (torch.stack(each).mean(0) for each in zip(*self.collected[name], strict=True))
        else:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
            self.collected.setdefault(name, []).append((mean, x.var(dim=(0, 2, 3))))
        scale = self.weights[f"{name}.weight"][: x.shape[1]] / torch.sqrt(variance + 1e-5)
        shift = self.weights[f"{name}.bias"][: x.shape[1]] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    """In float64, all weights random, scales and shifts of batch norm included."""
    with seeded(0):
        found = GhostSmall().supernet(SMALL).double()
        for parameter in found.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return found


def batches(number: int, io: IO = SMALL) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, *io.input_shape, dtype=torch.float64, generator=generator) for _ in range(number)]


def samples(space: GhostSpace, number: int) -> list[Architecture]:
    rng = default_rng(7)
    return [space.sample(rng) for _ in range(number)]


def assert_close(given: Tensor, expected: Tensor, what: object) -> None:
    assert given.isfinite().all()
    assert (given - expected).abs().max().item() < 1e-9 * max(1.0, expected.abs().max().item()), what


# Evaluated is exported


@pytest.mark.exports
@pytest.mark.slow
def test_evaluated_is_exported(supernet: Supernet, part: Callable[..., Any]) -> None:
    space = GhostSmall()
    images, *calibration = batches(3)
    for architecture in part(samples(space, 50), 10):
        oracle = Small(supernet.parts.state_dict(), architecture.code)
        supernet.train()
        extracted = supernet.extract(architecture)
        with torch.no_grad():
            expected = oracle(images)
            assert_close(supernet(images, architecture), expected, architecture)
            assert_close(extracted(images), expected, architecture)
            oracle.collected.clear()
            oracle.recalibrate(calibration)
            expected = oracle(images)
            recalibrate(extracted, calibration)
            recalibrate(supernet.path(architecture), calibration)
            supernet.eval()
            assert_close(extracted(images), expected, architecture)
            assert_close(supernet(images, architecture), expected, architecture)
            with seeded(1):
                built = space.build(architecture, SMALL).double().eval()
            built.load_state_dict(extracted.state_dict())
            assert torch.equal(built(images), extracted(images))
        params = sum(parameter.numel() for parameter in extracted.parameters())
        assert oracle.params == params == space.cost(architecture, SMALL).params


@pytest.mark.slow
def test_the_gradient_of_a_path_is_that_of_its_network_and_zero_elsewhere(supernet: Supernet) -> None:
    space = GhostSmall()
    (images,) = batches(1)
    supernet.train()
    for architecture in samples(space, 8):
        supernet.zero_grad()
        network = supernet.extract(architecture)
        for loss in (supernet(images, architecture).square().sum(), network(images).square().sum()):
            torch.autograd.backward(loss)
        total = [0.0, 0.0]
        for ours, theirs in zip(supernet.path(architecture).parameters(), network.parameters(), strict=True):
            assert ours.grad is not None and theirs.grad is not None
            assert sum(p.shape == q.shape for p, q in ((ours, ours.grad), (theirs, theirs.grad))) == 2
            total[0] += ours.grad.square().sum().item()
            total[1] += theirs.grad.square().sum().item()
            part = ours.grad
            for axis, size in enumerate(theirs.shape):
                first = (part.shape[axis] - size) // 2 if axis > 1 else 0
                part = part.narrow(axis, first, size)
            assert torch.allclose(part, theirs.grad, rtol=1e-10, atol=1e-12)
        assert total[0] == pytest.approx(total[1], rel=1e-10)  # so that nothing is left for the other elements


@pytest.mark.slow
def test_every_member_has_a_path(supernet: Supernet, part: Callable[..., Any]) -> None:
    space = GhostSmall()
    for architecture in part(samples(space, 300), 60):
        names = space.build(architecture, SMALL).state_dict()
        assert {n: t.shape for n, t in supernet.path(architecture).state_dict().items()} == {
            n: t.shape for n, t in names.items()
        }


@pytest.mark.slow
def test_a_copied_supernet_shares_among_itself_and_with_nobody_else(supernet: Supernet) -> None:
    (architecture,) = samples(GhostSmall(), 1)
    (images,) = batches(1)
    with torch.no_grad():
        before = supernet.eval()(images, architecture)
        copied = copy.deepcopy(supernet)
        for parameter in copied.parameters():
            parameter.mul_(0.5)
        assert torch.equal(supernet(images, architecture), before)
        assert not torch.equal(copied(images, architecture), before)
        assert torch.equal(copied(images, architecture), copied.extract(architecture)(images))


# Nested layers


def test_a_nested_layer_is_the_middle_of_the_leading_channels() -> None:
    with seeded(0):
        whole = conv_bn(6, 8, 5)
        x = torch.randn(2, 4, 7, 7)
    small = nested(whole, partial(conv_bn, 4, 6, 3))
    state = small.state_dict()
    assert torch.equal(state["0.weight"], whole.state_dict()["0.weight"][:6, :4, 1:4, 1:4])
    assert {id(p) for p in small.parameters()} == {id(p) for p in whole.parameters()}
    apart = copy.deepcopy(small)
    assert isinstance(apart[0], nn.Conv2d) and apart[0].weight.shape == (6, 4, 3, 3)  # type: ignore[index]
    assert torch.equal(apart(x), small(x))
    assert nested(whole, partial(conv_bn, 6, 8, 5))[0] is whole[0]  # type: ignore[index]


def test_padding_is_the_small_layers_own() -> None:
    with seeded(0):
        whole = nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect")
        x = torch.randn(2, 2, 6, 6)
    small = nested(whole, partial(nn.Conv2d, 2, 3, 3, padding=1, padding_mode="reflect"))
    assert torch.equal(small(x), copy.deepcopy(small)(x))


class OwnConvolution(nn.Conv2d):
    """A layer of somebody else's."""


def test_only_layers_that_can_be_cut_are_nested() -> None:
    with pytest.raises(TypeError, match="OwnConvolution"):
        nested(OwnConvolution(4, 4, 1), partial(OwnConvolution, 2, 2, 1))
    with pytest.raises(TypeError, match="PReLU"):
        nested(nn.PReLU(4), partial(nn.PReLU, 2))


# The members


def test_ghostnet_is_a_member() -> None:
    space = GhostImageNet()
    found = {width: space.cost(space.ghostnet(width), space.reference_io) for width in ("0.5", "1", "1.3")}
    assert {width: (cost.params, cost.macs) for width, cost in found.items()} == {
        "0.5": (2_587_292, 42_328_152),
        "1": (5_182_508, 141_150_512),
        "1.3": (7_358_820, 227_003_256),
    }
    with pytest.raises(InputError, match=r"width.*'2'.*0\.5, 0\.75, 1, 1\.3"):
        space.ghostnet("2")


def test_genes_of_bottlenecks_that_are_not_there_decide_nothing() -> None:
    space, rng = GhostSmall(), default_rng(0)
    for architecture in samples(space, 50):
        alive = set(space.active_genes(architecture))
        dead = [gene for gene in range(len(space.genes)) if gene not in alive]
        code = list(architecture.code)
        for gene in dead:
            code[gene] = str(rng.integers(len(space.genes[gene].choices)))
        other = space.parse("".join(code))
        assert space.canonical_key(other) == space.canonical_key(architecture)
        assert space.cost(other, SMALL).metrics() == space.cost(architecture, SMALL).metrics()
        assert np.array_equal(space.features(other), space.features(architecture))
        mutant = space.mutate(architecture, rng)
        changed = [i for i, (a, b) in enumerate(zip(mutant.code, architecture.code, strict=True)) if a != b]
        assert len(changed) == 1 and changed[0] in alive


def test_keys_differ_exactly_where_shapes_do() -> None:
    space = GhostSmall()
    for architecture in samples(space, 10):
        for other in (*space.neighbors(architecture)[::3], space.parse(architecture.code)):
            same = space.shape(other, SMALL) == space.shape(architecture, SMALL)
            assert (space.canonical_key(other) == space.canonical_key(architecture)) is same, other


def test_mobile_networks_of_both_families_are_members() -> None:
    space = GhostCIFAR()
    common = {"resolution": "1", "width": "1", "depth": "2", "outputs": "1", "squeeze": "no"}
    mobile = space.alike(**common, expansion="6", depthwise="3", expand="plain", project="plain")
    ghost = space.alike(**common, expansion="3", depthwise="none", expand="ghost 2 3", project="ghost 2 3")
    shapes = [space.shape(architecture, space.reference_io) for architecture in (mobile, ghost)]
    assert all(block.kernel == 3 and block.expand == PLAIN for block in shapes[0].blocks.values())
    assert {block.kernel for block in shapes[1].blocks.values()} == {0, 3}
    assert {block.expand for block in shapes[1].blocks.values()} == {Operator(2, 3)}
    assert [len(shape.blocks) for shape in shapes] == [10, 10]
    with pytest.raises(InputError, match="choice of expansion"):
        space.alike(**common, expansion="5", depthwise="3", expand="plain", project="plain")


def test_images_are_to_be_square() -> None:
    with pytest.raises(ValueError, match="square"):
        GhostSmall().cost(samples(GhostSmall(), 1)[0], IO((1, 8, 9), 10))


@pytest.mark.slow
def test_a_fresh_supernet_is_near_the_identity_wherever_a_path_goes() -> None:
    with seeded(0):
        fresh = GhostSmall().supernet(SMALL).train()
        images = torch.randn(6, *SMALL.input_shape)
    with torch.no_grad():
        for architecture in samples(GhostSmall(), 10):
            network = fresh.path(architecture)
            assert isinstance(network, GhostNetwork)
            x = network.stem(network.resize(images))
            for block in network.blocks:
                assert isinstance(block, GhostBottleneck)
                bypassed = x if block.shortcut is None else block.shortcut(x)
                given = block(x)
                assert torch.equal(given, bypassed)
                if block.shortcut is not None:
                    stride = -(-x.shape[-1] // given.shape[-1])
                    kept = min(x.shape[1], given.shape[1])
                    middle = x[:, :kept, ::stride, ::stride]
                    for a, b in zip(given[:, :kept].transpose(0, 1), middle.transpose(0, 1), strict=True):
                        assert a.std() < 1e-3 or torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.999
                x = given


def test_widths_are_rounded_as_in_the_published_code() -> None:
    # values that MobileNetV2's rule gives: to the nearest, at least the divisor, never less than nine tenths
    assert [make_divisible(c) for c in (1, 5.9, 6, 8, 10, 10.4, 20.8, 72 * 1.3)] == [4, 8, 8, 8, 12, 12, 20, 92]


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("outputs", [1, 7, 12])
def test_a_ghost_module_gives_the_maps_that_are_wanted(ratio: int, outputs: int) -> None:
    with seeded(0):
        module = GhostModule(3, outputs, Operator(ratio, 3), kernel=3, stride=2).double()
        x = torch.randn(4, 3, 9, 8, dtype=torch.float64)
    given = module(x)
    assert given.shape == (4, outputs, 5, 4)
    primary = module.primary(x)
    assert torch.equal(given[:, : primary.shape[1]], primary[:, :outputs])
    assert primary.shape[1] == math.ceil(outputs / ratio)
