"""Zero-cost proxies, against their formulas worked out by brute force."""

import itertools
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.registry import SEARCH_SPACES
from nasplat.surrogates.zero_cost import (
    EPSILON,
    LEAST,
    MEASURED,
    MOST,
    PROXIES,
    Probe,
    Proxies,
    grad_norm,
    jacov,
    nwot,
    reduced,
    snip,
    synflow,
)
from nasplat.task import derive_seed
from nasplat.testing.common import global_generators_untouched
from nasplat.testing.toy import ToySpace
from nasplat.training.seeding import seeded

SMALL: dict[str, dict[str, Any]] = {
    "nasbench101": {"channels": 8, "cells": 1},
    "nasbench201": {"channels": 4, "cells": 1},
    "darts": {"channels": 2, "cells": 4},
}


def network_of(make: Callable[[], nn.Module]) -> nn.Module:
    """A network in float64 with weights that are always the same."""
    with seeded(3):
        return make().double()


def batch(*shape: int) -> Tensor:
    """Examples in float64 that are always the same."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def small() -> nn.Module:
    """A convolution, batch norm, ReLU, and a linear layer, for `[n, 2, 3, 3]`."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3)
    )


def without_dropout(network: nn.Module) -> nn.Module:
    """A copy in training mode, where dropout does nothing."""
    copy = deepcopy(network).train()
    for module in copy.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return copy


IMAGES, LABELS = batch(5, 2, 3, 3), torch.tensor([0, 2, 1, 1, 0])


def test_synflow_is_the_sum_over_all_paths_of_the_products_of_absolute_weights() -> None:
    network = network_of(
        lambda: nn.Sequential(
            nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(),
            nn.Linear(4, 2, bias=False), nn.ReLU(), nn.Linear(2, 3, bias=False),
        )
    )  # fmt: skip
    first, second, third = (network[i].weight.abs().tolist() for i in (0, 3, 5))  # type: ignore[index]
    paths = itertools.product(range(3), range(4), range(2), range(3))
    flow = sum(first[b][a] * second[c][b] * third[d][c] for a, b, c, d in paths)
    found = synflow(Probe(network, batch(4, 3), torch.zeros(4, dtype=torch.int64)))
    assert found == pytest.approx(math.log(3 * flow), abs=1e-12)  # each of three layers carries all of it


@pytest.mark.slow
def test_synflow_stays_finite_where_nothing_flows_and_where_too_much_does() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    closed = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(closed.weight)
    assert synflow(Probe(closed, torch.ones(2, 3), labels)) == LEAST
    deep = network_of(lambda: nn.Sequential(*[nn.Linear(64, 64) for _ in range(700)]))
    assert synflow(Probe(deep, torch.ones(2, 64), labels)) == MOST


@pytest.mark.parametrize(
    "relu",
    [nn.ReLU(), nn.ReLU(inplace=True), functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_],
    ids=["module", "in-place module", "functional", "torch", "torch in place", "method", "method in place"],
)
def test_nwot_counts_agreeing_relus_by_whatever_name_they_are_called(relu: Callable[[Tensor], Tensor]) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 3, 2), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return relu(self.second(relu(self.first(x)).flatten(1)))

    network = network_of(Chain)
    first = network.first(IMAGES).detach()  # type: ignore[operator]
    second = network.second(first.clamp(min=0).flatten(1)).detach()  # type: ignore[operator]
    patterns = torch.cat([first.flatten(1), second], 1).gt(0).tolist()
    kernel = np.array([[sum(a == b for a, b in zip(one, two, strict=True)) for two in patterns] for one in patterns])
    probe = Probe(network, IMAGES, LABELS)
    assert probe.agreement.tolist() == kernel.tolist()
    assert nwot(probe) == pytest.approx(np.linalg.slogdet(kernel + np.eye(5))[1], rel=1e-12)


def jacov_by_formula(jacobian: NDArray[np.float64]) -> float:
    """As Mellor et al. write it."""
    values = np.linalg.eigvalsh(np.corrcoef(jacobian))
    return -float(sum(math.log(v + EPSILON) + 1 / (v + EPSILON) for v in values))


def test_jacov_is_of_the_gradients_that_each_example_has_by_itself() -> None:
    network = network_of(lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)))
    rows = [
        torch.autograd.functional.jacobian(lambda x: network(x[None]).sum(), image).flatten().numpy()  # type: ignore[no-untyped-call]
        for image in IMAGES
    ]
    assert jacov(Probe(network, IMAGES, LABELS)) == pytest.approx(jacov_by_formula(np.stack(rows)), rel=1e-9)


def test_jacov_with_batch_norm_uses_the_statistics_of_the_batch() -> None:
    network = network_of(small)
    ready = without_dropout(network)
    jacobian = torch.autograd.functional.jacobian(lambda x: ready(x).sum(), IMAGES)  # type: ignore[no-untyped-call]
    expected = jacov_by_formula(jacobian.flatten(1).numpy())
    assert jacov(Probe(network, IMAGES, LABELS)) == pytest.approx(expected, rel=1e-9)


def loss_of(network: nn.Module) -> float:
    """The cross-entropy, by its definition."""
    outputs = network(IMAGES).detach().numpy()
    chances = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    return -float(np.mean([math.log(row[label]) for row, label in zip(chances, LABELS.tolist(), strict=True)]))


def derivatives(network: nn.Module, place: int, step: float = 1e-6) -> list[float]:
    """Of the loss by each weight of a layer, by central differences."""
    weights = network[place].weight.data.view(-1)  # type: ignore[index]
    found = []
    for i in range(len(weights)):
        losses = []
        for sign in (1, -1):
            weights[i] += sign * step
            losses.append(loss_of(network))
            weights[i] -= sign * step
        found.append((losses[0] - losses[1]) / (2 * step))
    return found


def test_snip_and_grad_norm_agree_with_finite_differences() -> None:
    network = network_of(small)
    ready = without_dropout(network)
    weights = [network[i].weight.detach().flatten().numpy() for i in (0, 5)]  # type: ignore[index]
    layers = [(w, np.array(derivatives(ready, i))) for w, i in zip(weights, (0, 5), strict=True)]
    probe = Probe(network, IMAGES, LABELS)
    assert snip(probe) == pytest.approx(sum(np.abs(w * g).sum() for w, g in layers), rel=1e-6)
    assert grad_norm(probe) == pytest.approx(sum(np.linalg.norm(g) for _, g in layers), rel=1e-6)


def test_pictures_are_compared_by_the_mean_absolute_difference() -> None:
    network = network_of(lambda: nn.Conv2d(2, 2, 1, bias=False))
    targets = batch(5, 2, 3, 3).flip(0)
    signs = (network(IMAGES) - targets).detach().sign() / targets.numel()
    gradient = torch.einsum("nohw,nihw->oi", signs, IMAGES)
    (weight,) = network.parameters()
    expected = float((weight.detach()[:, :, 0, 0] * gradient).abs().sum())
    assert snip(Probe(network, IMAGES, targets)) == pytest.approx(expected, rel=1e-12)


def test_a_network_without_relus_is_the_worst_by_patterns_and_by_gradients() -> None:
    linear = network_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 3)))
    none = network_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 3)))
    for parameter in none.parameters():
        nn.init.zeros_(parameter)
    for network in (linear, none):
        probe = Probe(network, IMAGES, LABELS)
        assert nwot(probe) == 0
        assert jacov(probe) == pytest.approx(-4 * (math.log(EPSILON) + 1 / EPSILON), rel=1e-3)
        assert jacov(probe) < jacov(Probe(network_of(small), IMAGES, LABELS)) < 0


def test_the_given_network_and_batch_stay_as_they_are() -> None:
    network, images = network_of(small).train(), IMAGES.clone()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with global_generators_untouched():
        probe = Probe(network, images, LABELS)
        for proxy in MEASURED.values():
            proxy(probe)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(images, IMAGES) and not images.requires_grad and images.grad is None
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCH_SPACES.names())
def test_every_space_has_finite_proxies_that_repeat_in_any_order(name: str) -> None:
    space = SEARCH_SPACES.get(name)(**SMALL.get(name, {}))
    io = reduced(space.reference_io, 8)
    first, second = (space.sample(default_rng(seed)) for seed in (0, 1))
    with global_generators_untouched():
        there, back = Proxies(space, io, batch=4), Proxies(space, io, batch=4)
        found = [there(first), there(second)]
        again = [back(second), back(first)]
    assert found == again[::-1]
    for architecture, figures in zip((first, second), found, strict=True):
        assert list(figures) == list(PROXIES) and all(map(math.isfinite, figures.values()))
        assert figures["params"] == space.cost(architecture, io).params
        assert figures["macs"] == space.cost(architecture, io).macs
    assert found[0] != found[1]


def test_a_cell_that_carries_nothing_has_finite_proxies_below_those_of_others() -> None:
    space = SEARCH_SPACES.get("nasbench201")(**SMALL["nasbench201"])
    proxies = Proxies(space, reduced(space.reference_io, 8), batch=8)
    nothing, something = (proxies(space.parse(code)) for code in ("000000", "333333"))
    assert nothing["synflow"] == LEAST
    for name in PROXIES[:3]:
        assert math.isfinite(nothing[name]) and nothing[name] < something[name]


def test_initializations_are_averaged() -> None:
    space, io = ToySpace(), IO.image(channels=1, side=4, outputs=3)
    architecture = space.parse("0213")
    proxies = Proxies(space, io, batch=6, initializations=2, seed=4)
    values = []
    for number in range(2):
        with seeded(derive_seed(4, number)):
            network = space.build(architecture, io)
        values.append(nwot(Probe(network, proxies.images, proxies.labels)))
    assert values[0] != values[1]
    assert proxies(architecture)["nwot"] == pytest.approx(sum(values) / 2, rel=1e-12)


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    space, io = ToySpace(), IO.image(channels=1, side=4, outputs=3)
    architecture = space.parse("0213")
    whole, part = Proxies(space, io, batch=4), Proxies(space, io, batch=4, names=("macs", "jacov"))
    assert part(architecture) == {name: whole(architecture)[name] for name in ("macs", "jacov")}

    def unbuilt(architecture: Architecture, io: IO) -> nn.Module:
        raise AssertionError("costs take no network")

    monkeypatch.setattr(space, "build", unbuilt)
    assert Proxies(space, io, names=("params",))(architecture) == {"params": space.cost(architecture, io).params}


def test_pictures_of_ones_own_count_and_random_labels_stand_in() -> None:
    space, io = ToySpace(), IO.image(channels=1, side=4, outputs=3)
    images, labels = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    architecture = space.parse("3213")
    given = Proxies(space, io, images=images, labels=labels)(architecture)
    drawn = Proxies(space, io, images=images)(architecture)
    other = Proxies(space, io, batch=5)(architecture)
    same = {name for name in PROXIES if given[name] == drawn[name]}
    assert same == {"synflow", "nwot", "jacov", "params", "macs"}  # the others look at labels
    assert {name for name in PROXIES if given[name] == other[name]} == {"synflow", "params", "macs"}


def test_what_cannot_be_is_refused() -> None:
    space, io = ToySpace(), IO.image(channels=1, side=4, outputs=3)
    with pytest.raises(InputError, match="no zero-cost proxy is named 'synflo'; did you mean 'synflow'"):
        Proxies(space, io, names=("synflo",))
    with pytest.raises(InputError, match="named only once, but got nwot, nwot"):
        Proxies(space, io, names=("nwot", "nwot"))
    with pytest.raises(InputError, match="at least 2 images"):
        Proxies(space, io, batch=1)
    with pytest.raises(InputError, match="5 images, 4 labels"):
        Proxies(space, io, images=torch.rand(5, 1, 4, 4), labels=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match="the data is for super-resolution"):
        Proxies(space, IO.upscaled(4, 4, 2))
    with pytest.raises(ValueError, match="without patterns"):
        nwot(Probe(network_of(small), IMAGES, LABELS, patterns=False))
