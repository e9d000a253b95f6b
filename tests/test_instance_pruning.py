"""Convolutions that leave out channels for each image: against dense computation, loops, and counted MACs."""

import copy
import math
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from numpy.random import default_rng
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

import nasplat
from nasplat import transforms
from nasplat.architecture import IO
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Preprocessing
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.config import Workload
from nasplat.cost import counted_macs
from nasplat.errors import InputError, RunError, TrialFailed
from nasplat.export.formats import Format, verified
from nasplat.export.predicting import predict_script
from nasplat.nn.instance_pruning import InstancePrunedConv2d, Pruning, kept, norms
from nasplat.nn.nested import nested
from nasplat.nn.onnx import outputs_besides, write_onnx
from nasplat.nn.packing import packed, unpack
from nasplat.nn.rewritten import calibrate, check, expected_macs, penalty, sparing
from nasplat.nn.thresholds import pruned_layers, set_thresholds, spent, surveys
from nasplat.options import construct
from nasplat.registry import SEARCH_SPACES
from nasplat.report.page import render
from nasplat.run.layers import layers_of
from nasplat.search_spaces.transformed import TransformedSpace
from nasplat.task import Evaluate, Measurement
from nasplat.training.averaging import Average
from nasplat.training.fit import Training
from nasplat.training.seeding import seeded
from nasplat.training.super_resolution import Pair
from nasplat.transforms.instance_pruning import InstancePruning

SIDE = 9


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    torch.manual_seed(0)


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


def residual() -> nn.Sequential:
    project = nn.Sequential(nn.Conv2d(12, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), BasicBlock(12, 12),
        BasicBlock(12, 16, 2, project), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


NETWORKS = {"plain": plain, "residual": residual}


def network_and_images(name: str, threshold: float = -math.inf) -> tuple[nn.Module, nn.Module, Tensor]:
    """A network with statistics of batch norm, the pruned one with a threshold, and images; all in float64."""
    network = NETWORKS[name]().double()
    images = (
        torch.randn(6, 3, SIDE, SIDE, dtype=torch.float64) * torch.tensor([1, 0.1, 3, 1, 1, 1])[:, None, None, None]
    )
    network.train()(images)
    pruned = transforms.apply(network.eval(), "instance_pruning", fitted=True).network
    for layer in pruned_layers(pruned).values():
        layer.threshold.fill_(threshold)
    return network, pruned, images


def with_zeros(network: nn.Module, names: list[str], threshold: float, images: Tensor) -> Tensor:
    """The outputs of a dense network, with the channels set to zero that the rule by loops leaves out."""

    def zeroed(layer: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        x = given[0].clone()
        for image in x:
            found = [math.sqrt(float(channel.square().mean())) for channel in image]
            for channel, norm in zip(image, found, strict=True):
                if norm <= threshold * sum(found) / len(found):
                    channel.zero_()
        return (x,)

    other = copy.deepcopy(network)
    for name in names:
        other.get_submodule(name).register_forward_pre_hook(zeroed)
    outputs: Tensor = other(images)
    return outputs


@pytest.mark.parametrize("threshold", [0.0, 0.7, 1.0, 1.3, 100.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_a_dense_network_with_channels_of_zeros(name: str, threshold: float) -> None:
    network, pruned, images = network_and_images(name, threshold)
    names = list(pruned_layers(pruned))
    assert names == InstancePruning().eligible(network) and len(names) == {"plain": 2, "residual": 5}[name]
    with torch.no_grad():
        wanted = with_zeros(network, names, threshold, images)
        for form in (pruned, packed(pruned)):
            torch.testing.assert_close(form(images), wanted, rtol=0, atol=1e-12)
            for image, alone in zip(images, wanted, strict=True):
                torch.testing.assert_close(form(image[None]), alone[None], rtol=0, atol=1e-12)
        single = pruned.float()(images.float())
    torch.testing.assert_close(single.double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_threshold_nothing_is_left_out_nor_of_images_without_content(name: str) -> None:
    network, pruned, images = network_and_images(name)
    with torch.no_grad():
        assert torch.equal(pruned(images), network(images))
    assert kept(torch.zeros(2, 3, 4, 4), torch.tensor(-math.inf)).all()
    assert not kept(torch.zeros(2, 3, 4, 4), torch.tensor(0.0)).any()


@pytest.mark.parametrize("threshold", [-math.inf, 0.0, 0.8, 1.2, 100.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_macs_are_those_that_a_counter_sees_image_by_image(name: str, threshold: float) -> None:
    network, pruned, images = network_and_images(name, threshold)

    def counted(each: nn.Module, image: Tensor) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            each(image[None])
        flops: int = counter.get_total_flops()
        return flops // 2

    dense = counted(network, images[0])
    found = spent(pruned, [images[:4], images[4:]], dense)
    assert found.macs.tolist() == [counted(pruned, image) for image in images]
    assert found.share == pytest.approx(sum(counted(pruned, image) for image in images) / dense / len(images))
    assert transforms.cost(pruned.float(), (3, SIDE, SIDE)).macs == dense  # the most that an image takes
    if threshold == -math.inf:
        assert found.share == 1


def test_what_is_not_a_number_stays_so() -> None:
    _, pruned, images = network_and_images("plain", 0.9)
    images[2, 1, 3, 3] = math.nan
    with torch.no_grad():
        assert pruned(images).isnan().any(1).tolist() == [each == 2 for each in range(6)]
    x = torch.rand(2, 3, 4, 4)
    x[1, 1] = 1e30  # whose norm overflows
    assert kept(x, torch.tensor(5.0)).tolist() == [[False] * 3, [False, True, False]]
    assert kept(1e30 * x, torch.tensor(5.0)).all()


def test_weights_that_are_not_numbers_are_called_so() -> None:
    _, pruned, _ = network_and_images("plain")
    next(iter(pruned_layers(pruned.float()).values())).weight.data.fill_(math.nan)
    with pytest.raises(TrialFailed, match="of the layer 6 are not finite"):
        calibrate(pruned, images_of(pruned))


def test_thresholds_are_no_part_of_an_average_of_weights() -> None:
    _, pruned, _ = network_and_images("plain")
    average = Average(pruned, 0.9)
    average.update(0)
    assert all(float(layer.threshold) == -math.inf for layer in pruned_layers(average.network).values())
    for layer in pruned_layers(pruned).values():
        layer.threshold.fill_(0.5)
    average.update(1)
    assert all(float(layer.threshold) == 0.5 for layer in pruned_layers(average.network).values())


def test_what_is_of_the_whole_network_is_no_choice_of_stages() -> None:
    def space(**transform: Any) -> None:
        options = {"channels": 4, "cells": 1, "transform": {"per": "stage", **transform}}
        construct("space", SEARCH_SPACES.get("nasbench201+instance_pruning"), **options)

    with pytest.raises(InputError, match="macs of instance_pruning must be one value"):
        space(macs=[0.6, 0.8])
    space(decay=[0.1, 0.3])
    _, pruned, _ = network_and_images("plain")
    for number, layer in enumerate(pruned_layers(pruned.float()).values()):
        layer.pruning = Pruning(macs=0.9, decay=float(number))
    check(pruned, IO.image(3, SIDE, 4))


def test_the_feature_decay_is_the_mean_norm_by_hand_and_has_a_schedule() -> None:
    layer = InstancePrunedConv2d(nn.Conv2d(3, 4, 3).double(), Pruning(decay=0.2, rise=0.5, rest=0.25)).train()
    layer.before_training(8)
    x = torch.randn(5, 3, 6, 7, dtype=torch.float64)
    x[1, 2] = 0
    by_hand = sum(x[i, k].square().sum().sqrt() for i in range(5) for k in range(3)) / 15 / math.sqrt(42)
    x.requires_grad_()
    for step in range(8):
        layer(x)
        term = layer.penalty()
        weight = 0.2 * min(step / 4, 1) * (step < 6)
        assert term is not None and term.item() == pytest.approx(weight * float(by_hand), rel=1e-12)
        assert layer.penalty() is None  # it is told once
        layer.after_step()
    layer.before_training(0)  # without a schedule
    layer(x)
    term = penalty(nn.Sequential(layer))
    assert term is not None
    (gradient,) = torch.autograd.grad(term, x)
    norm = x.detach().square().sum((2, 3), keepdim=True).sqrt()
    wanted = 0.2 * torch.where(norm > 0, x.detach() / norm, 0) / 15 / math.sqrt(42)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-15)
    layer(x)
    assert copy.deepcopy(layer).penalty() is None
    with torch.no_grad():
        layer(x)
    assert layer.penalty() is None and layer.eval()(x).requires_grad and layer.penalty() is None


def test_variations_are_those_of_loops() -> None:
    _, pruned, images = network_and_images("residual")
    seen: dict[str, Tensor] = {}
    for name, layer in pruned_layers(pruned).items():
        layer.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: norms(given[0]).detach()}))
    found = {name: each.variation for name, each in surveys(pruned, [images]).items()}
    assert seen
    for name, norm in seen.items():
        wanted = [float(row.std(correction=0) / row.mean()) for row in norm]
        assert found[name] == pytest.approx(sum(wanted) / len(wanted), rel=1e-12)


@pytest.mark.parametrize("rule", ["common", "layer"])
def test_calibration_reaches_the_share_with_the_layers_that_are_named(rule: str) -> None:
    network, pruned, images = network_and_images("residual")
    names = list(pruned_layers(pruned))
    dense = transforms.cost(network.float(), (3, SIDE, SIDE)).macs
    for share in (1.0, 0.8, 0.6):
        found = set_thresholds(pruned, [images[:3], images[3:]], dense, share, names=names[1:], rule=rule)  # type: ignore[arg-type]
        assert share - 0.12 < found.share <= share
        assert torch.equal(found.macs, spent(pruned, [images], dense).macs)
        thresholds = [float(layer.threshold) for layer in pruned_layers(pruned).values()]
        assert thresholds[0] == -math.inf
        if rule == "common":
            assert len(set(thresholds[1:])) == 1
        if share < 1:  # and a little lower, they leave out too little
            for layer in pruned_layers(pruned).values():
                layer.threshold -= 1e-3
            assert spent(pruned, [images], dense).share > share
    with pytest.raises(InputError, match="raise it, or prune more layers"):
        set_thresholds(pruned, [images], dense, 0.05, names=names[1:], rule=rule)  # type: ignore[arg-type]


class Branches(nn.Module):
    """Two convolutions side by side, of which one counts for nothing, and one that never runs."""

    def __init__(self, idle: str) -> None:
        super().__init__()
        self.first, self.unused = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.left, self.right = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.idle = idle

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        left, right = self.left(x), self.right(x)
        outputs: Tensor = (left + 0 * right if self.idle == "right" else 0 * left + right).mean((2, 3))
        return outputs


@pytest.mark.parametrize("idle", ["left", "right"])
def test_layers_are_pruned_first_that_change_the_outputs_least(idle: str) -> None:
    network = Branches(idle).eval()
    pruned = transforms.apply(network, "instance_pruning", fitted=True, macs=0.7, thresholds="layer").network
    calibrate(pruned, images_of(pruned))
    found = pruned_layers(pruned)
    other = found["left" if idle == "right" else "right"]
    assert float(other.threshold) <= 0 and float(found["unused"].threshold) == -math.inf  # with 0, what is 0 anyway
    assert float(found[idle].threshold) > 0 and found[idle].statistics() and not found["unused"].statistics()
    pruned = transforms.apply(network, "instance_pruning", fitted=True, macs=0.7).network
    calibrate(pruned, images_of(pruned))
    assert len({float(pruned_layers(pruned)[name].threshold) for name in ("left", "right")}) == 1


class Looking(nn.Module):
    """A network that looks at a value, so that it cannot be counted without any."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = plain()

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x) * (1.0 if x.sum().item() == 0 else 2.0)
        return outputs


def test_a_calibrated_network_that_looks_at_values_counts_as_if_nothing_is_left_out() -> None:
    network = Looking().eval()
    dense = transforms.cost(network, (3, SIDE, SIDE))
    pruned = transforms.apply(network, "instance_pruning", fitted=True).network
    for layer in pruned_layers(pruned).values():
        layer.threshold.fill_(0.9)
    found = transforms.cost(pruned, (3, SIDE, SIDE))
    assert (found.macs, found.multiplications, found.additions) == (dense.macs, dense.multiplications, dense.additions)
    for form in (pruned, packed(pruned)):
        assert counted_macs(form, IO.image(3, SIDE, 4)) == dense.macs


def test_a_part_of_a_layer_prunes_as_its_copy_does() -> None:
    def layer(inputs: int, outputs: int) -> InstancePrunedConv2d:
        return InstancePrunedConv2d(nn.Conv2d(inputs, outputs, 3, padding=1), Pruning(decay=0.3, rise=0.0))

    whole = layer(8, 12)
    whole.threshold.fill_(0.9)
    part = nested(whole, lambda: layer(5, 7))
    alone = copy.deepcopy(part)
    assert isinstance(alone, InstancePrunedConv2d) and not isinstance(part, InstancePrunedConv2d)
    x = torch.randn(4, 5, SIDE, SIDE)
    for each in (part, alone):
        each.train()(x)
    terms = [penalty(each) for each in (part, alone)]
    assert terms[0] is not None and float(terms[0]) > 0
    torch.testing.assert_close(terms[0], terms[1], rtol=0, atol=0)
    seen = []
    for each in (part, alone):
        network = nn.Sequential(each.eval())
        with torch.no_grad(), sparing(network) as spared:
            seen.append((network(x), spared))
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1][0], seen[1][1][0])
    assert seen[0][1][0].max() > 0


@pytest.mark.exports
def test_an_onnx_model_tells_what_each_image_used(tmp_path: Path) -> None:
    network, pruned, _ = network_and_images("plain", 0.9)
    dense = transforms.cost(network.float(), (3, SIDE, SIDE)).macs
    write_onnx(packed(pruned.float()).eval(), (3, SIDE, SIDE), tmp_path / "model.onnx", used_of=dense)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        images = torch.randn(batch, 3, SIDE, SIDE)
        logits, used = session.run(["logits", "used"], {"images": images.numpy()})
        macs = spent(pruned, [images], dense).macs
        assert macs.min() > 0 and macs.max() < dense
        assert torch.tensor(used).tolist() == pytest.approx((macs / dense).tolist(), rel=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(logits), pruned(images), rtol=0, atol=1e-6)
    io = IO.image(3, SIDE, 4)
    besides = outputs_besides(pruned, io.input_shape, features=False, used_of=dense)
    checks = verified(Format.ONNX, pruned, io, tmp_path / "model.onnx", None, besides)
    assert checks["random_used"]["largest_difference"] < 1e-5
    with pytest.raises(
        RunError, match="the output used of the ONNX model differs"
    ):  # as of a network with twice the MACs
        besides = outputs_besides(pruned, io.input_shape, features=False, used_of=2 * dense)
        verified(Format.ONNX, pruned, io, tmp_path / "model.onnx", None, besides)
    seen = Preprocessing(channels=3, height=SIDE, width=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3, classes=tuple("abcd"))
    (tmp_path / "predict.py").write_text(predict_script(seen, None) or "")
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "teal.png")
    told = subprocess.run(
        [sys.executable, tmp_path / "predict.py", tmp_path / "teal.png"], capture_output=True, text=True
    )
    assert re.search(r"; \d+ % of the network used", told.stdout), told.stderr


def test_what_is_stored_comes_back() -> None:
    _, pruned, images = network_and_images("plain", 0.9)
    again = transforms.apply(plain().double().eval(), "instance_pruning").network
    unpack(again, packed(pruned).state_dict())
    with torch.no_grad():
        assert torch.equal(again(images), pruned(images))


def test_what_cannot_be_pruned_says_why() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 1, 1),
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3),
    )  # fmt: skip
    reasons = {each.name: each.reason for each in InstancePruning().candidates(network)}
    assert [name for name, reason in reasons.items() if not reason] == ["3", "5"]
    assert "first" in reasons["0"] and "depth-wise" in reasons["1"]
    assert "2 groups" in reasons["2"] and "single" in reasons["4"]


class Twice(nn.Module):
    """A convolution that is used for two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.shared(self.shared(self.first(x).relu()).relu()).mean((2, 3))
        return outputs


def test_macs_of_a_layer_that_is_used_twice_count_twice() -> None:
    pruned = transforms.apply(Twice().eval(), "instance_pruning", fitted=True).network
    images = torch.randn(3, 3, SIDE, SIDE)
    for layer in pruned_layers(pruned).values():
        layer.threshold.fill_(1.0)
    found = spent(pruned, [images], 10**6)
    for image, macs in zip(images, found.macs, strict=True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            pruned(image[None])
        dense = transforms.cost(pruned, (3, SIDE, SIDE)).macs
        assert 10**6 - int(macs) == dense - counter.get_total_flops() // 2


def images_of(network: nn.Module) -> Callable[[int], list[Tensor]]:
    """Training images for a calibration."""
    generator = torch.Generator().manual_seed(1)
    return lambda count: [torch.randn(count, 3, SIDE, SIDE, generator=generator)]


def test_a_trained_network_is_calibrated_as_its_layers_say() -> None:
    network, _, _ = network_and_images("residual")
    names = InstancePruning().eligible(network)
    dense = transforms.cost(network.float(), (3, SIDE, SIDE)).macs
    for options, wanted in (
        ({"macs": 0.8}, names),
        ({"macs": 0.9, "layers": f"{names[1]}, {names[2]}"}, names[1:3]),
        ({"macs": 0.9, "thresholds": "layer"}, None),
    ):
        pruned = transforms.apply(network, "instance_pruning", fitted=True, images=40, **options).network
        calibrate(pruned.train(), images_of(pruned))
        assert not pruned.training
        share = spent(pruned, images_of(pruned)(40), dense).share
        assert options["macs"] - 0.1 < share <= options["macs"]  # type: ignore[operator]
        found = [name for name, layer in pruned_layers(pruned).items() if layer.threshold > -math.inf]
        assert wanted is None or found == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "3.conv9"}, "must name pruned layers .* but '3.conv9' is none; choose among 3.conv1"),
        ({"macs": 0.05}, "raise it, or prune more layers"),
        ({"variation": 99.0}, "but the most .* is 0.559; lower it, or name layers"),  # known after the training only
    ],
)
def test_what_cannot_be_calibrated_says_why(options: dict[str, Any], message: str) -> None:
    network, _, _ = network_and_images("residual")
    pruned = transforms.apply(network.float(), "instance_pruning", fitted=True, images=8, **options).network
    with nullcontext() if "variation" in options else pytest.raises(TrialFailed, match=message):
        check(pruned, IO.image(3, SIDE, 10))
    with pytest.raises(TrialFailed, match=message):
        calibrate(pruned, images_of(pruned))
    layer = next(iter(pruned_layers(pruned).values()))
    layer.pruning = Pruning(macs=0.7)
    with pytest.raises(TrialFailed, match="must agree but for decay, rise and rest"):
        check(pruned, IO.image(3, SIDE, 10))


@pytest.mark.parametrize("kind", ["plain", "residual", "twice"])
def test_the_fewest_macs_are_known_before_a_training(kind: str) -> None:
    network = Twice() if kind == "twice" else network_and_images(kind)[0].float()
    pruned = transforms.apply(network.eval(), "instance_pruning", fitted=True).network
    dense = transforms.cost(network, (3, SIDE, SIDE)).macs
    for layer in pruned_layers(pruned).values():
        layer.threshold.fill_(layer.geometry.inputs)  # one channel is left
    least = spent(pruned, [torch.randn(1, 3, SIDE, SIDE)], dense).share
    for macs, refused in ((least + 1e-6, False), (least - 1e-6, True)):
        asking = transforms.apply(network, "instance_pruning", fitted=True, macs=macs).network
        told = f"at least {math.ceil(1000 * least) / 1000:.3f}"
        with pytest.raises(TrialFailed, match=told) if refused else nullcontext():
            check(asking, IO.image(3, SIDE, 10))


def test_macs_that_cannot_be_reached_are_refused_before_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Workload(
        "nasbench201+instance_pruning",
        "classification",
        {"channels": 4, "cells": 1, "transform": {"macs": 0.05}},
        {"epochs": 1, "data": {"subset": 100}},
    ).make()
    monkeypatch.setattr(Training, "until", lambda *_: pytest.fail("it trained"))
    task = Evaluate(id=0, seed=0, architecture=made.space.parse("333333"), fidelity=1)
    with pytest.raises(TrialFailed, match="raise it, or prune more layers"):
        made.measure(task, device="cpu", artifacts=MemoryArtifacts())


def test_macs_of_upscalers_are_the_mean_share_of_images_of_any_size() -> None:
    space = construct("space", SEARCH_SPACES.get("esrn/tiny+instance_pruning"))
    assert isinstance(space, TransformedSpace)
    made = SuperResolution(space, width=64, height=48)
    architecture = space.sample(default_rng(0))
    with seeded(0):
        network = space.build(architecture, made.io).eval()
    for layer in pruned_layers(network).values():
        layer.threshold.fill_(0.9)
    small = [torch.rand(3, *sides) for sides in ((25, 31), (24, 24), (25, 31), (17, 40))]
    large = [torch.zeros(3, 2 * each.shape[1], 2 * each.shape[2], dtype=torch.uint8) for each in small]
    pairs = [Pair("", *both, False) for both in zip(small, large, strict=True)]
    shares = []
    for each in small:
        counts = []
        for form in (network, space.below.build(space.base(architecture), made.io).eval()):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                form(each[None])
            counts.append(counter.get_total_flops())
        shares.append(counts[0] / counts[1])
    found = made._measured(architecture, network, pairs, "cpu")
    macs = space.cost(architecture, made.io).macs
    assert found["macs_expected"] == pytest.approx(macs * sum(shares) / len(shares), rel=1e-9)
    assert 0 < found["macs_spread"] < 0.2 * macs


@pytest.mark.slow
def test_searches_measure_the_macs_that_images_take(tmp_path: Path) -> None:
    run = nasplat.search(
        space="nasbench201",
        transform={"name": "instance_pruning", "macs": 0.7},
        benchmark="classification",
        strategy="random_search",
        objectives=["accuracy:max", "macs_expected:min"],
        evaluations=2,
        options={"space.channels": 4, "space.cells": 1, "benchmark.epochs": 1, "benchmark.data.subset": 200},
        out=tmp_path / "run",
        progress=False,
    )
    for trial in run.trials():
        assert isinstance(trial, Measurement)
        assert 0.3 < trial.metrics["macs_expected"] / trial.metrics["macs"] < 0.8 and trial.metrics["macs_spread"] > 0
    assert expected_macs([], 50) == {"macs_expected": 50, "macs_spread": 0}  # of a member that has no pruned layer
    names = ["norms", "variation_of_norms", "channels_kept"]
    layers = layers_of(run.best, run.directory.artifacts)
    assert layers and all(sorted(layer.values) == sorted(names) for layer in layers)
    for layer in layers:
        assert layer.values["norms"].ndim == 1 and float(layer.values["norms"].min()) >= 0
        assert layer.figures["variation_of_norms"] > 0 and 0 < layer.figures["channels_kept"] <= 1
    page = render(run.directory, run.directory.history())
    assert f"layers of trial {run.best.id}</title>" in page and "<th>variation of norms</th>" in page
    assert all(f"<td>{layer.name}</td>" in page for layer in layers)
    run.directory.artifacts.path(run.best.artifacts["layers"]).write_bytes(b"damaged")
    page = render(run.directory, run.directory.history())
    assert "were calibrated on training images cannot be shown" in page and "variation of norms" not in page
    pruned = run.best.metrics
    tested = run.test()[0]
    assert tested.split == "test" and tested.metrics["macs_expected"] != pruned["macs_expected"]
