"""Networks in packed form: the same outputs, and the trained weights again to the bit."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasplat.nn.full_stack import FullStack, FullStackConv2d, PackedFullStackConv2d
from nasplat.nn.packing import packed, packed_names, unpack
from nasplat.nn.rewritten import Rewritten, rewritten

INDIVIDUAL, SHARED = FullStack(4, "individual"), FullStack(3, "shared")


def convolution(inputs: int, outputs: int, stack: FullStack, **options: Any) -> FullStackConv2d:
    return FullStackConv2d(nn.Conv2d(inputs, outputs, 3, padding=1, **options), stack, fitted=False)


class Halved(Rewritten):
    """A layer that stores all it computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] / 2


class Twice(nn.Module):
    """A layer that is used in two places, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(4, 4, INDIVIDUAL)
        self.other = nn.Sequential(nn.ReLU(), self.first)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(self.first(x))
        return out


def sequence() -> nn.Module:
    network = nn.Sequential(
        convolution(4, 10, INDIVIDUAL), nn.BatchNorm2d(10), nn.ReLU(), nn.Sequential(convolution(10, 16, SHARED)),
        Halved(), nn.Conv2d(16, 8, 3), convolution(8, 7, SHARED, bias=False), nn.BatchNorm2d(7, affine=False),
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "sequence": sequence,
    "shared layer": Twice,
    "root": lambda: convolution(4, 13, SHARED),
    "float64": lambda: sequence().double(),
    "plain": lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)),
}


def made(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return NETWORKS[name]().eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_come_back_to_the_bit(name: str) -> None:
    network, other = made(name), made(name, seed=1)
    images = torch.randn(2, 4, 9, 9).to(next(network.parameters()).dtype)
    assert not torch.equal(other(images), network(images))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    form = packed(network)
    assert torch.equal(form(images), network(images))
    unpack(other, form.state_dict())
    assert torch.equal(other(images), network(images))
    latent = {f"{path}.latent".lstrip(".") for path, layer in other.named_modules(remove_duplicate=False)
              if isinstance(layer, FullStackConv2d)}  # fmt: skip
    after = other.state_dict()
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        if key in latent:
            assert torch.equal(after[key] >= 0, tensor >= 0)
        else:
            assert torch.equal(after[key], tensor)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_the_packed_form_is_a_copy_without_rewritten_layers_but_those_that_store_all() -> None:
    network = made("sequence")
    form = packed(network)
    assert [type(layer) for _, layer in rewritten(form)] == [Halved]
    assert sum(isinstance(module, PackedFullStackConv2d) for module in form.modules()) == 3
    storages = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    assert not storages & {tensor.untyped_storage().data_ptr() for tensor in form.state_dict().values()}


def test_a_layer_in_two_places_is_packed_once() -> None:
    form = packed(made("shared layer"))
    assert isinstance(form, Twice)
    assert isinstance(form.first, PackedFullStackConv2d) and form.other[1] is form.first
    assert packed_names(form) == {
        f"{path}.{name}" for path in ("first", "other.1") for name in ("filters", "bias", "bits", "powers")
    }
    assert isinstance(packed(made("root")), PackedFullStackConv2d)
    assert packed_names(packed(made("root"))) == {"filters", "bias", "bits", "powers"}
    assert packed_names(packed(made("plain"))) == set()


def test_a_state_has_the_bits_that_are_counted() -> None:
    network = made("sequence")
    rest = [*network[1].state_dict().values(), *network[5].state_dict().values(), *network[7].state_dict().values()]  # type: ignore[index]
    counted = sum(layer.stored_bits() or 32 * 16 for _, layer in rewritten(network))
    counted += sum(8 * tensor.nbytes for tensor in rest)
    assert 0 <= sum(8 * tensor.nbytes for tensor in packed(network).state_dict().values()) - counted < 3 * 8


@pytest.mark.parametrize("name", ["sequence", "plain"])
def test_another_state_is_refused_by_torch_and_changes_nothing(name: str) -> None:
    network = made(name)
    before = copy.deepcopy(network.state_dict())
    state = dict(packed(made(name, seed=1)).state_dict())
    missing = {key: tensor for key, tensor in state.items() if key != "0.bias"}
    with pytest.raises(RuntimeError, match=r"Missing key.*0\.bias"):
        unpack(network, missing)
    if name == "sequence":
        with pytest.raises(RuntimeError, match=r"size mismatch for 0\.bits"):
            unpack(network, state | {"0.bits": state["0.bits"][1:]})
        assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
