"""Stand-alone source: one readable file that needs torch alone computes what the network does, to the last digits."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import default_rng
from packaging.requirements import Requirement
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO
from nasplat.errors import RunError
from nasplat.export.code import quoted
from nasplat.export.formats import Format, verified, write_source
from nasplat.export.source import source
from nasplat.export.verification import compared, onnx_runner, random_inputs, source_network
from nasplat.nn.onnx import write_onnx
from nasplat.nn.program import is_pickled, read_program, write_program
from nasplat.registry import SEARCH_SPACES

pytestmark = pytest.mark.exports

LARGE = {"esrn/1m", "esrn/light", "esrn/small", "ghost/cifar", "ghost/imagenet"}
"""Presets of which the space has a smaller one; one of them is exported with each commit."""
SPACES = SEARCH_SPACES.names()
SMALL_AND_ONE_LARGE = [pytest.param(name, marks=pytest.mark.sweep(1) if name in LARGE else ()) for name in SPACES]
HUGE = {"esrn/1m", "esrn/light"}
"""Of sixteen blocks at least: half a minute for all forms, which only the whole suite takes."""
SMALL = {"nasbench201": {"channels": 4, "cells": 2}, "darts": {"channels": 4, "cells": 5}}
"""What makes a space's networks quick to run."""
RUFF = Path(sys.executable).with_name("ruff")


def member(name: str, number: int, *, small: bool = True, among: int = 1) -> tuple[nn.Module, IO]:
    """The network of the smallest of some random members, with statistics and weights that are no beginning's."""
    space = SEARCH_SPACES.get(name)(**(SMALL.get(name, {}) if small else {}))
    generator, io = default_rng([number, zlib.crc32(name.encode())]), space.reference_io
    sampled = [space.sample(generator) for _ in range(among)]
    architecture = min(sampled, key=lambda each: space.cost(each, io).params)
    with torch.random.fork_rng():
        torch.manual_seed(number)
        network = space.build(architecture, io).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network, io


def from_text(text: str, network: nn.Module, folder: Path) -> nn.Module:
    """The network of a source, with the weights of another."""
    (folder / "network.py").write_text(text, encoding="utf-8")
    save_file(network.state_dict(), folder / "weights.safetensors")
    return source_network(folder / "network.py")


def check_equal(network: nn.Module, other: nn.Module, *shapes: tuple[int, ...]) -> None:
    """Both give the same in float64."""
    assert list(other.state_dict()) == list(network.state_dict())
    assert not other.training
    network, other = network.double(), other.double()
    for number, shape in enumerate(shapes):
        images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            expected, given = network(images), other(images)
        assert given.shape == expected.shape
        assert (given - expected).abs().max().item() <= 1e-9
        assert expected.abs().max().item() > 0


def sequences() -> dict[str, nn.Module]:
    """Networks without a class of their own, as functions that build networks return them."""
    layers = nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    again = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x.relu() * self.scale

    class Named(nn.Sequential):
        pass

    return {
        "plain": nn.Sequential(nn.Flatten(), *layers),
        "one": nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(12, 5))),
        "nested": nn.Sequential(inner, again, Own(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
        "named": nn.Sequential(OrderedDict(flat=nn.Flatten(), own=Own(), head=nn.Linear(12, 5))),
        "subclass": Named(Own(), nn.Flatten(), nn.Dropout(), nn.Linear(12, 5)),
        "layer": nn.Linear(2, 5),
    }


@pytest.mark.parametrize("kind", sequences())
def test_a_network_without_a_class_of_its_own_is_a_function(kind: str, tmp_path: Path) -> None:
    network = sequences()[kind].eval()
    io = IO((2,) if kind == "layer" else (3, 2, 2), 5)
    text = source(network, io, ["A network."])
    wanted = "nn.Linear" if kind == "layer" else "nn.Sequential"
    assert f"def build() -> {wanted}:" in text and f'"weights.safetensors") -> {wanted}:' in text
    assert ("class " in text) == (kind not in ("plain", "one", "layer"))
    check_equal(network, from_text(text, network, tmp_path), (1, *io.input_shape), (3, *io.input_shape))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_a_source_computes_what_the_network_does_in_float64(name: str, tmp_path: Path) -> None:
    for number in range(2):
        network, io = member(name, number)
        if io.scale is None and name.startswith("darts"):
            io = IO((3, 15, 13), 10)
            network = SEARCH_SPACES.get(name)(**SMALL[name]).build(
                SEARCH_SPACES.get(name)().sample(default_rng(number)), io
            ).eval()  # fmt: skip
        other = from_text(source(network, io, ["A network."]), network, tmp_path)
        if io.scale is None:
            check_equal(network, other, (1, *io.input_shape), (3, *io.input_shape))
        else:
            check_equal(network, other, (1, 3, 7, 10), (2, 3, 12, 5))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.sweep(0 if name in HUGE else 1 if name in LARGE else 2)) for name in SPACES],
)
def test_all_forms_of_a_network_agree(name: str, tmp_path: Path) -> None:
    network, io = member(name, 3, among=20)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    onnx, program, written = (tmp_path / form.value for form in Format)
    write_onnx(network, io.input_shape, onnx, purpose=io.purpose)
    write_program(network, io.input_shape, program, upscales=io.scale is not None)
    write_source(network, io, written, ["A network."])
    assert compared(network, onnx_runner(onnx), random_inputs(io)).holds
    assert not is_pickled(program)
    for form, path in ((Format.PT2, program), (Format.SOURCE, written)):
        found = verified(form, network, io, path, real=torch.cat(random_inputs(io)[:1]))
        assert found["random"]["largest_difference"] <= found["random"]["allowed"]
        assert found["real"]["batches"] == (1,)
    assert found["random_float64"]["allowed"] == 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_AND_ONE_LARGE)
def test_sources_are_formatted_and_say_what_they_must(name: str, tmp_path: Path, part: Callable[..., Any]) -> None:
    if not RUFF.is_file():
        pytest.skip(f"{RUFF} is missing; install the dev extra")
    for number in part(range(20), 4):
        network, io = member(name, number, small=False)
        text = source(network, io, ["A network.", "Of some space."])
        ast.parse(text)
        (tmp_path / f"network_{number}.py").write_text(text, encoding="utf-8")
    for command in (["format", "--check", "--diff"], ["check"]):
        done = subprocess.run([RUFF, *command, "--isolated", tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_source_is_the_same_each_time() -> None:
    network, io = member("nasbench201", 0)
    assert source(network, io, ["A network."]) == source(network, io, ["A network."])


@pytest.mark.slow
def test_a_source_is_about_as_long_as_the_network_needs() -> None:
    text = source(*member("nasbench201", 1, small=False), ["A network."])
    assert len(text.splitlines()) < 150
    imported = {node.names[0].name for node in ast.parse(text).body if isinstance(node, ast.Import)}
    taken = {node.module for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)}
    assert imported | taken <= {"torch", "torch.nn"}


def links(folder: Path) -> None:
    """Links to the packages that torch and safetensors need, and to no others."""
    wanted, seen = ["torch", "safetensors"], set[str]()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
        for file in distribution.files or []:
            top = file.parts[0]
            target = Path(str(distribution.locate_file(top))).absolute()
            if top != ".." and target.exists() and not (folder / top).exists():
                (folder / top).symlink_to(target)
    assert not {"nasplat", "onnx", "numpy", "onnxruntime"} & seen


ALONE = """
import sys
sys.path[:0] = sys.argv[1:3]
import warnings
warnings.simplefilter("ignore")
import torch
import network
found = network.load()
assert not found.training
given = found(torch.load(sys.argv[3], weights_only=True))
torch.save(given.detach(), sys.argv[4])
print(sorted({name.partition(".")[0] for name in sys.modules} & {"nasplat", "numpy", "onnx", "onnxruntime"}))
"""


@pytest.mark.slow
def test_a_source_runs_where_there_is_nothing_but_torch_and_safetensors(tmp_path: Path) -> None:
    network, io = member("ghost/small", 0)
    packages, folder = tmp_path / "packages", tmp_path / "network"
    packages.mkdir()
    folder.mkdir()
    links(packages)
    images = torch.randn(3, *io.input_shape, generator=torch.Generator().manual_seed(0))
    expected = network(images).detach()
    from_text(source(network, io, ["A network."]), network, folder)
    torch.save(images, tmp_path / "images.pt")
    arguments = [packages, folder, tmp_path / "images.pt", tmp_path / "given.pt"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE, *map(str, arguments)],
        capture_output=True, text=True, cwd="/", env={"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"
    assert torch.allclose(torch.load(tmp_path / "given.pt", weights_only=True), expected, atol=1e-6)


# Networks that are nobody's of this project


class Gate(nn.Module):
    """Weights of its own. And a constant."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))
        self.shift: Tensor
        self.middle: Tensor
        self.register_buffer("shift", torch.rand(channels, 1, 1))
        self.register_buffer("middle", torch.tensor([0.5]), persistent=False)

    def forward(self, x: Tensor, *, negative: bool = False) -> Tensor:
        sign = -1 if negative else 1
        return sign * (self.scale * x + self.shift) ** 2 / (1 + self.middle)


class Branches(nn.Module):
    """Several ways, \\ with"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ways = nn.ModuleDict(
            {"wide": nn.Conv2d(channels, channels, (1, 3), padding="same"), "none": nn.Identity()}
        )
        self.gates = nn.ModuleList([Gate(channels), Gate(channels)])
        self.unused = nn.ReLU()
        self.aid = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first, second = x.chunk(2, dim=1)
        x = torch.cat([second, first], 1)
        gated = [gate(x, negative=bool(number)) for number, gate in enumerate(self.gates)]
        x = self.ways["none"](self.ways["wide"](x))
        x += gated[0]
        return x, gated


class Flattened(nn.Sequential):
    """A sequence by another name."""


class Strange(nn.Module):
    """Does many things that networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Flattened(nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.LeakyReLU(0.3, inplace=True))
        self.branches = nn.ModuleList([Branches(4), Branches(4), Branches(4)])
        self.classifier = nn.Linear(4 * 49, 5, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        assert height > 3 and width > 3
        x = self.stem(images)
        for branch in self.branches:
            before = x
            x, gated = branch(x)
            x = functional.relu6(x + gated[1], inplace=True) - before.mean((2, 3), keepdim=True)
        x = functional.interpolate(x, size=(7, 7), mode="nearest")
        logits: Tensor = self.classifier(x.reshape(batch, -1))
        return 3 - logits.softmax(-1)


def test_a_third_partys_network_is_written_as_well(tmp_path: Path) -> None:
    network = Strange().eval()
    io = IO((3, 17, 14), 5)
    text = source(network, io, ['Strange, with """quotes""" and a \\ in it"'])
    other = from_text(text, network, tmp_path)
    check_equal(network, other, (1, 3, 17, 14), (4, 3, 17, 14))
    assert "unused" not in text and "self.aid" in text and "Gate" in text


class Doubled(nn.Module):
    """Upscales, and cuts to what came in."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        larger = functional.interpolate(x, size=(2 * height + 1, 3 + 2 * width), mode="bilinear")
        return larger[:, :, : 2 * height, 3:]


def test_sides_stay_free_for_what_upscales(tmp_path: Path) -> None:
    network = nn.Sequential(Doubled(), nn.Conv2d(3, 3, 1))
    holder = Holder(network).eval()
    other = from_text(source(holder, IO.upscaled(20, 30, 2), ["A network."]), holder, tmp_path)
    check_equal(holder, other, (1, 3, 5, 9), (3, 3, 8, 4))


class Holder(nn.Module):
    """Calls what it holds."""

    def __init__(self, inside: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.inside(x)
        return given


LOOSE = torch.ones(3, 1, 1)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda x: x if x.sum() > 0 else -x, "values of a tensor"),
        (lambda x: x * x.shape[0] if x.shape[0] > 1 else x, "stay variable"),
        (lambda x: x * LOOSE, "neither its parameter nor its buffer"),
        (lambda x: x * x.max().item(), "plain value"),
        (lambda x: nn.Conv2d(3, 3, 1)(x), "not one of its registered modules"),
        (lambda x: x.no_such_thing(), "no_such_thing"),
    ],
)
def test_what_cannot_be_written_names_the_module_and_why(what: Callable[[Tensor], Tensor], said: str) -> None:
    outer = Holder(Holder(what))
    with pytest.raises(RunError, match=r"module inside \(Holder\) cannot be written") as refused:
        source(outer.eval(), IO((3, 4, 4), 3), ["A network."])
    assert said in str(refused.value)
    assert "--format onnx" in str(refused.value)


class Assigning(nn.Module):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = 0
        return x


def test_assignments_to_parts_are_refused() -> None:
    with pytest.raises(RunError, match="assigns to a part"):
        source(Holder(Assigning()).eval(), IO((3, 4, 4), 3), ["A network."])


def test_modules_are_as_they_were_after_one_was_written() -> None:
    called, asked = nn.Module.__call__, nn.Module.__getattr__
    with pytest.raises(RunError):
        source(Holder(Assigning()).eval(), IO((3, 4, 4), 3), ["A network."])
    assert (nn.Module.__call__, nn.Module.__getattr__) == (called, asked)


def test_a_program_with_pickles_is_not_opened(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),))
    torch.export.save(program, tmp_path / "model.pt2")  # example inputs and all
    assert is_pickled(tmp_path / "model.pt2")
    with pytest.raises(RunError, match="contains pickles"):
        read_program(tmp_path / "model.pt2")


class Doing(nn.Module):
    """Has a weight, and does what it is told."""

    def __init__(self, what: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(3))
        self._what = what

    def forward(self, x: Tensor) -> Tensor:
        return self._what(self, x)


@pytest.mark.parametrize(
    "what",
    [
        lambda self, x: self.gamma[:, None, None] * x,
        lambda self, x: self.gamma[:, None] * x[:, :, 0],
        lambda self, x: x * x[:2].mean(),
        lambda self, x: x[None, :, :3][0],
        lambda self, x: x[..., :4] * x[:2, :3].sum(),
    ],
)
def test_parts_of_tensors_are_those_that_the_network_takes(
    what: Callable[[Any, Tensor], Tensor], tmp_path: Path
) -> None:
    network = Doing(what).eval()
    other = from_text(source(network, IO((3, 4, 3), 3), ["A network."]), network, tmp_path)
    check_equal(network, other, (1, 3, 4, 3), (5, 3, 4, 3))


def test_a_part_of_a_free_side_is_not_the_whole(tmp_path: Path) -> None:
    network = Doing(lambda self, x: x * x[:, :, :12, :16].mean()).eval()
    other = from_text(source(network, IO.upscaled(20, 30, 2), ["A network."]), network, tmp_path)
    check_equal(network, other, (1, 3, 12, 16), (2, 3, 15, 20))


def with_child(name: str, forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A network of a module by any name."""
    network = Doing(forward)
    network.add_module(name, nn.Conv2d(3, 3, 1))
    return network


def named_sequence() -> nn.Module:
    """A sequence whose modules have names, one of them a number that is not its place."""
    network = Doing(lambda self, x: self.seq.conv(self.seq[1](x)) + list(self.seq)[2](x))
    network.seq = nn.Sequential(OrderedDict({"conv": nn.Conv2d(3, 3, 1), "act": nn.ReLU(), "0": nn.Conv2d(3, 3, 1)}))
    return network


def lists() -> nn.Module:
    """Lists of parameters, and of modules of which one is empty."""
    network = Doing(lambda self, x: self.layers[1](self.layers[0](x)) * self.p[0] + self.p[1])
    network.p = nn.ParameterList([torch.rand(1), torch.rand(3, 1, 1)])
    network.layers = nn.ModuleList([nn.Sequential(), nn.Conv2d(3, 3, 1)])
    return network


class OwnSequence(nn.Sequential):
    """Goes through its modules in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = x + module(x)
        return x


class OwnList(nn.ModuleList):
    """A list that can be called."""

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self[1](self[0](x))
        return given


def constants() -> nn.Module:
    """Has buffers of all kinds of numbers."""
    network = Doing(lambda self, x: x.clamp(self.limits[0], self.limits[1]) * self.rough.to(x.dtype) + self.weight)
    network.register_buffer("limits", torch.tensor([-float("inf"), float("inf"), float("nan")]), persistent=False)
    network.register_buffer("rough", torch.rand(3, 1, 1).half())
    network.weight = nn.Parameter(torch.rand(1, dtype=torch.float64))
    return network


def odd_names() -> nn.Module:
    """Names that are no Python names, or other ones."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = getattr(self, "a-b")(x) * getattr(self, "in") + getattr(self, 'say "x"\n')
        given: Tensor = self.ways['the "other" \\ way'](x) + self.ways["it's"](x) + getattr(self, "__own")(x)
        return given

    network = with_child("a-b", forward)
    network.register_parameter("in", nn.Parameter(torch.rand(1)))
    network.register_buffer('say "x"\n', torch.rand(1))
    network.add_module("__own", nn.Conv2d(3, 3, 1))
    network.ways = nn.ModuleDict({'the "other" \\ way': nn.Conv2d(3, 3, 1), "it's": nn.Conv2d(3, 3, 1)})
    return network


class Shadowing(nn.Module):
    """Its argument is called like a module."""

    def forward(self, torch: Tensor, torch_: Tensor) -> Tensor:
        return (torch > 0.5) * torch_ + torch


def shadowing() -> nn.Module:
    """Has an argument that is called as torch is."""
    network = Doing(lambda self, x: self.inside(torch=x.abs(), torch_=x.abs()))
    network.inside = Shadowing()
    return network


class Sized(nn.Module):
    """Has a child with the name of a number that its forward needs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = nn.Conv2d(3, 3, 1)
        self._by = size

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.size(x) * self._by
        return given


def of_class(name: str, size: int) -> nn.Module:
    """A network of a class by any name, which does something with a number."""
    network: nn.Module = type(name, (Sized,), {})(size)
    return network


class Another(nn.Module):
    """Is written otherwise than those that are called the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x.neg()


def classes() -> nn.Module:
    """Classes with names that others have, that are none, or that mean something else."""
    others = [type(name, (Another,), {})() for name in ("Block", "BlockA", "super", "class", "_1net", "__", "Path")]
    return Holder(nn.Sequential(*others, of_class("Block", 2), of_class("Block", 3), of_class("load_file", 5)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_child("lambda", lambda self, x: getattr(self, "lambda")(x)), named_sequence, lists,
        lambda: Holder(OwnSequence(nn.Conv2d(3, 3, 1), nn.ReLU())),
        lambda: Holder(OwnList([nn.Conv2d(3, 3, 1), nn.ReLU()])),
        constants, odd_names, shadowing, lambda: Holder(nn.Sequential(of_class("One", 2), of_class("One", 3))), classes,
        lambda: of_class("super", 2), lambda: of_class("network", 2),
    ],
)  # fmt: skip
def test_names_strings_and_numbers_are_written_as_python_reads_them(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    network = make().eval()
    other = from_text(source(network, IO((3, 4, 3), 3), ["A network."]), network, tmp_path)
    types = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in other.state_dict().items()} == types
    check_equal(network, other, (1, 3, 4, 3), (5, 3, 4, 3))
    if RUFF.is_file():
        subprocess.run([RUFF, "format", "--check", "--isolated", tmp_path / "network.py"], check=True)


@pytest.mark.parametrize("text", ["", "plain", "😀cat", 'a "b"', "it's", "\"'", "a\\b\n\t\0", "\ud83d", "äß"])
def test_strings_are_quoted_for_any_file(text: str) -> None:
    assert ast.literal_eval(quoted(text)) == text
    assert quoted(text).isascii()


def test_what_is_done_in_training_alone_asks_whether_it_is(tmp_path: Path) -> None:
    network = Doing(lambda self, x: functional.dropout(x, 0.5, self.training)).eval()
    other = from_text(source(network, IO((3, 4, 3), 3), ["A network."]), network, tmp_path)
    images = torch.ones(1, 3, 40, 40)
    assert torch.equal(other(images), images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert 0.4 < (other.train()(images) == 0).float().mean().item() < 0.6
    assert network.training is False


@pytest.mark.parametrize("line", ["no_such_name", "torch.no_such_function(x)", "x = x[9]"])
def test_a_source_that_fails_is_refused_with_a_remedy(line: str, tmp_path: Path) -> None:
    network, io = Holder(nn.Conv2d(3, 3, 1)).eval(), IO((3, 4, 3), 3)
    text = source(network, io, ["A network."])
    changed = text.replace("        return", f"        {line}\n        return")
    assert changed != text
    (tmp_path / "network.py").write_text(changed)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(RunError, match=r"the source fails when it is run: \w+Error: .*choose another --format"):
        verified(Format.SOURCE, network, io, tmp_path / "network.py", None)
