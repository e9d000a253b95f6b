"""Supernets: what is evaluated is what is exported, by an oracle of another make, and nothing else runs.

The oracle runs every operation on every edge and weights it by a mask of ones and zeros that it reads off the code by
itself, with functions alone and the supernet's weights by name. Public code of weight-sharing searches works so, and
has been seen to exchange the two kinds of cells, to drop the operation ``none``, and to export other edges than it
measured.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from numpy.random import default_rng
from torch import Tensor
from torch.nn import functional

from nasplat.architecture import IO, Architecture
from nasplat.export import bundle
from nasplat.nn.onnx import write_onnx
from nasplat.nn.supernet import Supernet, recalibrate
from nasplat.search_space import SupernetSpace
from nasplat.search_spaces.darts import DARTS
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.training.seeding import seeded

Edge = tuple[str, int, int]
"""The kind of cell, the node, and the input it is fed from."""


class Dense:
    """A forward pass over all operations, of which a mask leaves those of one architecture.

    Args:
        weights: The state dict of a supernet's parts.
        mask: One or zero for each operation on each edge.
        cells: The space's option.
    """

    def __init__(self, weights: Mapping[str, Tensor], mask: Mapping[Edge, Mapping[str, float]], cells: int) -> None:
        self.weights = weights
        self.mask = mask
        self.cells = cells
        self.norms: Literal["batch", "collect", "fixed"] = "batch"
        self.collected: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def recalibrate(self, batches: list[Tensor]) -> None:
        """From now on every batch norm uses the mean of the statistics that these batches have there."""
        self.norms = "collect"
        for images in batches:
            self(images)
        self.norms = "fixed"

    def edge(self, kind: str, node: int, source: int, place: str, x: Tensor, stride: int = 1) -> Tensor:
        """All operations on one edge, masked."""
        total = torch.zeros_like(x[:, :, ::stride, ::stride])
        for name, weight in self.mask[kind, node, source].items():
            total = total + weight * self.operation(name, f"{place} {node}<-{source} {name}", x, stride)
        return total

    def operation(self, name: str, part: str, x: Tensor, stride: int) -> Tensor:
        """One operation with the weights of its part."""
        match name:
            case "none":
                return 0 * x[:, :, ::stride, ::stride]
            case "skip_connect":
                return x if stride == 1 else self.halved(x, part)
            case "max_pool_3x3":
                return functional.max_pool2d(x, 3, stride, 1)
            case "avg_pool_3x3":
                return functional.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
            case "nor_conv_1x1" | "nor_conv_3x3":
                return self.relu_conv_bn(x, part)
            case "sep_conv_3x3" | "sep_conv_5x5":
                return self.separable(self.separable(x, part, 0, stride), part, 4)
            case "dil_conv_3x3" | "dil_conv_5x5":
                return self.separable(x, part, 0, stride, dilation=2)
        raise AssertionError(name)

    def relu_conv_bn(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.1.weight"]
        x = functional.conv2d(functional.relu(x), weight, stride=stride, padding=weight.shape[-1] // 2)
        return self.batch_norm(x, f"{name}.2")

    def separable(self, x: Tensor, part: str, first: int, stride: int = 1, dilation: int = 1) -> Tensor:
        each, mixing = (self.weights[f"{part}.{first + i}.weight"] for i in (1, 2))
        padding = each.shape[-1] // 2 * dilation
        x = functional.conv2d(functional.relu(x), each, None, stride, padding, dilation, groups=len(each))
        return self.batch_norm(functional.conv2d(x, mixing), f"{part}.{first + 3}")

    def halved(self, x: Tensor, part: str) -> Tensor:
        x = functional.relu(x)
        even, odd = x[:, :, ::2, ::2], functional.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        halves = [functional.conv2d(y, self.weights[f"{part}.{n}.weight"]) for n, y in (("even", even), ("odd", odd))]
        return self.batch_norm(torch.cat(halves, dim=1), f"{part}.norm")

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        if self.norms == "fixed":
            means, variances = zip(*self.collected[name], strict=True)
            mean, variance = torch.stack(means).mean(0), torch.stack(variances).mean(0)
        else:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
            if self.norms == "collect":
                self.collected.setdefault(name, []).append((mean, x.var(dim=(0, 2, 3))))
        scale = self.weights[f"{name}.weight"] / torch.sqrt(variance + 1e-5)
        shift = self.weights[f"{name}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def stem(self, images: Tensor) -> Tensor:
        return self.batch_norm(functional.conv2d(images, self.weights["stem.0.weight"], padding=1), "stem.1")


class DenseNASBench201(Dense):
    """Six edges, five operations on each."""

    names = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

    @classmethod
    def mask_of(cls, code: str) -> dict[Edge, dict[str, float]]:
        edges = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
        return {
            ("cell", node, source): {name: float(i == int(digit)) for i, name in enumerate(cls.names)}
            for (node, source), digit in zip(edges, code, strict=True)
        }

    def __call__(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in range(3):
            if stage:
                name = f"reduction {stage}"
                body = self.relu_conv_bn(self.relu_conv_bn(x, f"{name}.body.0", stride=2), f"{name}.body.1")
                pooled = functional.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
                x = body + functional.conv2d(pooled, self.weights[f"{name}.shortcut.1.weight"])
            for cell in range(self.cells):
                place, n0 = f"stage {stage} cell {cell}", x
                n1 = self.edge("cell", 1, 0, place, n0)
                n2 = self.edge("cell", 2, 0, place, n0) + self.edge("cell", 2, 1, place, n1)
                x = sum((self.edge("cell", 3, i, place, n) for i, n in enumerate((n0, n1, n2))), torch.zeros_like(x))
        x = functional.relu(self.batch_norm(x, "head.0")).mean(dim=(2, 3))
        return x @ self.weights["head.4.weight"].T + self.weights["head.4.bias"]


class DenseDARTS(Dense):
    """Two kinds of cells, fourteen edges, eight operations on each."""

    names = (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
    pairs: Mapping[int, str] = {2: "01", 3: "01 02 12", 4: "01 02 03 12 13 23", 5: "01 02 03 04 12 13 14 23 24 34"}

    @classmethod
    def mask_of(cls, code: str) -> dict[Edge, dict[str, float]]:
        mask = {}
        for kind, digits in (("normal", "0" + code[:11]), ("reduction", "0" + code[11:])):
            for node in (2, 3, 4, 5):
                pair, *operations = map(int, digits[3 * (node - 2) : 3 * (node - 1)])
                chosen = dict(zip(map(int, cls.pairs[node].split()[pair]), operations, strict=True))
                for source in range(node):
                    names = {name: float(chosen.get(source) == i) for i, name in enumerate(cls.names)}
                    mask[kind, node, source] = names
        return mask

    def __call__(self, images: Tensor) -> Tensor:
        x = y = self.stem(images)
        after_reduction = False
        for position in range(self.cells):
            place = f"cell {position}"
            reduces = position in (self.cells // 3, 2 * self.cells // 3)
            kind, stride = ("reduction", 2) if reduces else ("normal", 1)
            adapt = self.halved if after_reduction else self.relu_conv_bn
            states = [adapt(x, f"{place} input 0"), self.relu_conv_bn(y, f"{place} input 1")]
            for node in (2, 3, 4, 5):
                terms = [
                    self.edge(kind, node, source, place, state, stride if source < 2 else 1)
                    for source, state in enumerate(states)
                ]
                states.append(torch.stack(terms).sum(0))
            x, y, after_reduction = y, torch.cat(states[2:], dim=1), reduces
        return y.mean(dim=(2, 3)) @ self.weights["head.2.weight"].T + self.weights["head.2.bias"]


@dataclass(frozen=True)
class Case:
    """A space small enough to be swept, and the oracle that fits it."""

    space: SupernetSpace
    cells: int
    io: IO
    oracle: type[DenseNASBench201] | type[DenseDARTS]

    def supernet(self) -> Supernet:
        """A supernet in float64, all weights random, scales and shifts of batch norm included."""
        with seeded(0):
            supernet = self.space.supernet(self.io).double()
            for name, tensor in supernet.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.is_floating_point():
                    tensor.add_(0.2 * torch.randn_like(tensor))
        return supernet

    def dense(self, supernet: Supernet, architecture: Architecture) -> Dense:
        """The oracle for one architecture."""
        return self.oracle(supernet.parts.state_dict(), self.oracle.mask_of(architecture.code), self.cells)

    def batches(self, number: int, size: int = 6) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        shape = (size, *self.io.input_shape)
        return [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(number)]

    def samples(self, number: int) -> list[Architecture]:
        rng = default_rng(7)
        return [self.space.sample(rng) for _ in range(number)]


CASES = {
    "nasbench201": Case(NASBench201(channels=2, cells=1), 1, IO.image(2, 8, 4), DenseNASBench201),
    "nasbench201, odd sides": Case(NASBench201(channels=3, cells=2), 2, IO((1, 7, 9), 3), DenseNASBench201),
    "darts": Case(DARTS(channels=2, cells=3), 3, IO.image(2, 8, 4), DenseDARTS),
    "darts, odd sides": Case(DARTS(channels=1, cells=4), 4, IO((1, 7, 9), 3), DenseDARTS),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def assert_close(given: Tensor, expected: Tensor, what: str) -> None:
    assert given.isfinite().all()
    difference = (given - expected).abs().max().item()
    assert difference < 1e-6 * max(1.0, expected.abs().max().item()), what


# Evaluated is exported


@pytest.mark.exports
@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [(name, 10 if "odd" in name else 50) for name in CASES])
def test_evaluated_is_exported(name: str, number: int, part: Callable[..., Any]) -> None:
    case = CASES[name]
    supernet = case.supernet()
    images, *calibration = case.batches(3)
    for architecture in part(case.samples(number), 8):
        dense, extracted = case.dense(supernet, architecture), supernet.extract(architecture).train()
        with torch.no_grad():
            supernet.train()
            expected = dense(images)
            assert_close(supernet(images, architecture), expected, f"{architecture} on batch statistics")
            assert_close(extracted(images), expected, f"{architecture} extracted, on batch statistics")

            dense.recalibrate(calibration)
            expected = dense(images)
            recalibrate(extracted, calibration)
            recalibrate(supernet.path(architecture), calibration)
            supernet.eval()
            assert_close(extracted(images), expected, f"{architecture} extracted and recalibrated")
            assert_close(supernet(images, architecture), expected, f"{architecture} recalibrated")

            with seeded(1):
                built = case.space.build(architecture, case.io).double().eval()
            built.load_state_dict(extracted.state_dict())
            assert torch.equal(built(images), extracted(images))
        params = sum(parameter.numel() for parameter in extracted.parameters())
        assert case.space.cost(architecture, case.io).params == params


@pytest.mark.exports
@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["nasbench201", "darts", "darts, odd sides"])
def test_exported_models_compute_what_was_evaluated(name: str, tmp_path: Path, part: Callable[..., Any]) -> None:
    case = CASES[name]
    supernet = case.supernet()
    calibration = case.batches(2)
    for number, architecture in enumerate(part(case.samples(2), 1)):
        network = supernet.extract(architecture)
        recalibrate(network, calibration)
        network.float()
        path = tmp_path / f"{number}.onnx"
        write_onnx(network, case.io.input_shape, path)
        verification = bundle.verify(network, case.io, path)
        assert verification.largest_difference <= verification.allowed, architecture
        (images,) = case.batches(1)
        dense = case.dense(supernet, architecture)
        with torch.no_grad():
            dense.recalibrate(calibration)
            expected = dense(images)
            given = network(images.float()).double()
        assert (given - expected).abs().max().item() <= 1e-4 * max(1.0, expected.abs().max().item()), architecture


# Nothing else runs


@contextmanager
def counted_calls(supernet: Supernet) -> Iterator[Counter[str]]:
    """Counts the calls of each part."""
    calls: Counter[str] = Counter()

    def counter(name: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            calls[name] += 1

        return count

    hooks = [part.register_forward_hook(counter(name)) for name, part in supernet.parts.items()]
    yield calls
    for hook in hooks:
        hook.remove()


def parts_of(case: Case, supernet: Supernet, architecture: Architecture) -> set[str]:
    """The names of the parts that an architecture has, by its mask."""
    mask = case.oracle.mask_of(architecture.code)
    names = set()
    for name in supernet.parts:
        match name.split():
            case [*place, edge, operation] if "<-" in edge:
                node, source = map(int, edge.split("<-"))
                kind = "cell"
                if case.oracle is DenseDARTS:
                    reductions = (case.cells // 3, 2 * case.cells // 3)
                    kind = "reduction" if int(place[1]) in reductions else "normal"
                if mask[kind, node, source][operation]:
                    names.add(name)
            case _:
                names.add(name)
    return names


def carrying(case: Case) -> list[Architecture]:
    """Architectures in which everything carries something."""
    rng, spaces = random.Random(3), case.space
    codes = []
    for architecture in case.samples(10):
        digits = [rng.choice("1234") if digit == "0" else digit for digit in architecture.code]
        if case.oracle is DenseDARTS:  # whose genes of inputs may be 0 as well; the others may not
            genes = spaces.genes if isinstance(spaces, DARTS) else ()
            digits = [
                old if gene.name.endswith("inputs") else new
                for gene, old, new in zip(genes, architecture.code, digits, strict=True)
            ]
        codes.append("".join(digits))
    return [spaces.parse(code) for code in codes]


def test_exactly_the_parts_of_the_path_run_once_each(case: Case) -> None:
    supernet = case.supernet()
    (images,) = case.batches(1)
    for architecture in case.samples(20):
        expected = parts_of(case, supernet, architecture)
        assert len(expected) < len(supernet.parts) / 2
        with counted_calls(supernet) as calls, torch.no_grad():
            supernet(images, architecture)
        assert calls == dict.fromkeys(expected, 1)


@pytest.mark.slow
def test_exactly_the_parameters_of_the_path_get_the_gradients_of_the_network(case: Case) -> None:
    supernet = case.supernet()
    (images,) = case.batches(1)
    for architecture in carrying(case):
        names = parts_of(case, supernet, architecture)
        expected = {f"{part}.{name}" for part in names for name, _ in supernet.parts[part].named_parameters()}
        network = supernet.extract(architecture)
        supernet.zero_grad()
        for loss in (supernet(images, architecture).square().sum(), network(images).square().sum()):
            torch.autograd.backward(loss)
        given = {name for name, parameter in supernet.parts.named_parameters() if parameter.grad is not None}
        assert given == expected
        path = supernet.path(architecture)
        for ours, theirs in zip(path.parameters(), network.parameters(), strict=True):
            assert ours.grad is not None and theirs.grad is not None
            assert torch.equal(ours.grad, theirs.grad)


def test_what_carries_nothing_gets_no_gradient_either(case: Case) -> None:
    supernet = case.supernet()
    (images,) = case.batches(1)
    for architecture in case.samples(10):
        names = parts_of(case, supernet, architecture)
        supernet.zero_grad()
        torch.autograd.backward(supernet(images, architecture).square().sum())
        given = {name for name, part in supernet.parts.items() for p in part.parameters() if p.grad is not None}
        assert "head" in given
        assert given <= names


# Paths


def test_paths_are_in_the_mode_of_the_supernet_whatever_was_done_to_another(case: Case) -> None:
    supernet = case.supernet()
    first, second = case.samples(2)
    assert supernet.path(second).training
    recalibrate(supernet.path(first), case.batches(1))  # leaves it evaluating, and with it what it shares
    for mode in (True, False):
        supernet.train(mode)
        supernet.path(first).train(not mode)
        assert {module.training for module in supernet.path(second).modules()} == {mode}


def test_training_a_path_trains_the_supernet(case: Case) -> None:
    supernet = case.supernet()
    (images,) = case.batches(1)
    (architecture,) = case.samples(1)
    before = supernet.extract(architecture).train()
    torch.autograd.backward(supernet(images, architecture).square().sum())
    torch.optim.SGD(supernet.parameters(), lr=0.1).step()
    with torch.no_grad():
        assert torch.equal(supernet(images, architecture), supernet.extract(architecture)(images))
        assert not torch.equal(supernet(images, architecture), before(images))


@pytest.mark.slow
def test_more_paths_than_are_remembered_lose_nothing(case: Case) -> None:
    supernet = case.supernet().eval()
    (images,) = case.batches(1)
    architectures = case.samples(80)
    with torch.no_grad():
        first = [supernet(images, architecture) for architecture in architectures]
        again = [supernet(images, architecture) for architecture in architectures]
    assert all(map(torch.equal, first, again))
