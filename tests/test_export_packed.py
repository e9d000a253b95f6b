"""Exports of networks with rewritten layers: as small as their weights are stored, in all formats."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import nasplat
from nasplat.architecture import IO, Architecture
from nasplat.data.datasets import dataset
from nasplat.errors import InputError
from nasplat.export.formats import Format, verified, write_source
from nasplat.export.verification import source_network
from nasplat.nn.full_stack import FullStack, FullStackConv2d
from nasplat.nn.onnx import write_onnx
from nasplat.nn.packing import packed
from nasplat.nn.program import write_program
from nasplat.nn.reference_networks import vgg16
from nasplat.nn.rewritten import rewritten
from nasplat.search_space import Gene, GeneSpace
from nasplat.training.seeding import seeded

pytestmark = [pytest.mark.exports, pytest.mark.slow]

CIFAR = IO.image(3, 32, 10)


def stacked(inputs: int, outputs: int, stack: FullStack, **options: Any) -> FullStackConv2d:
    return FullStackConv2d(nn.Conv2d(inputs, outputs, 3, **options), stack, fitted=False)


class Stacks(GeneSpace):
    """Small networks of full-stack filters, with an ordinary convolution among them."""

    genes: ClassVar[tuple[Gene, ...]] = (
        Gene("width", ("5", "6", "8")), Gene("ratio", ("2", "4")), Gene("masks", ("individual", "shared")),
    )  # fmt: skip

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        chosen = self.chosen(architecture)
        width = int(chosen["width"])
        stack = FullStack(int(chosen["ratio"]), chosen["masks"])
        layers = [
            stacked(io.input_shape[0], width, stack, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(),
            stacked(6, width, stack, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        ]  # fmt: skip
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, io.outputs))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[nasplat.Run, Path]]:
    """A run of two such networks, and the best of them in all formats."""
    out = tmp_path_factory.mktemp("runs")
    run = nasplat.search(
        space=Stacks(), benchmark="classification", objectives=["accuracy:max", "params:min"], evaluations=2,
        strategy="random_search", options={"benchmark.dataset": "digits", "benchmark.epochs": 1}, out=out / "run",
        progress=False,
    )  # fmt: skip
    yield run, run.export(out=out / "network", format="all", features=True, latency=False)


def trained(run: nasplat.Run) -> nn.Module:
    """The measured network with the weights that training left, by the artifact alone."""
    directory = run.directory
    measurement = directory.history().pick("best")
    network = Stacks().build(measurement.architecture, IO.image(1, 8, 10))
    network.load_state_dict(directory.artifacts.get_tensors(measurement.artifacts["weights"]))
    return network.eval()


def test_all_formats_give_what_the_trained_network_gives(exported: tuple[nasplat.Run, Path]) -> None:
    run, folder = exported
    images = dataset("digits").load().validation.images[:7]
    network = trained(run)
    with torch.no_grad():
        expected = network(images)
        loaded = nasplat.load(folder, space=Stacks())
        assert torch.equal(loaded(images), expected)
        program = torch.export.load(folder / "model.pt2").module()(images)
        source = source_network(folder / "network.py")
        assert (source.double()(images.double()) - network.double()(images.double())).abs().max() <= 1e-9
        source = source.float()(images)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(["logits"], {"images": images.numpy()})
    for other in (program, source, torch.from_numpy(given)):
        assert (other - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max().item())
    assert len(list(rewritten(loaded))) == 2  # it can be trained further
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    checks = json.loads((folder / "verify.json").read_text())["formats"]
    assert {name: set(kinds) for name, kinds in checks.items()} == {
        "onnx": {"random", "real", "random_features", "real_features"}, "pt2": {"random", "real"},
        "source": {"random", "real", "random_float64"},
    }  # fmt: skip


def test_the_weights_are_those_of_the_packed_network(exported: tuple[nasplat.Run, Path]) -> None:
    run, folder = exported
    stored, network = load_file(folder / "weights.safetensors"), packed(trained(run))
    assert stored.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in network.state_dict().items())
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.uint8} == {"0.bits", "6.bits"}


def test_weights_that_do_not_fit_are_refused(exported: tuple[nasplat.Run, Path], tmp_path: Path) -> None:
    _, folder = exported
    stored = load_file(folder / "weights.safetensors")
    (tmp_path / "architecture.json").write_text((folder / "architecture.json").read_text())
    changes = (
        (stored | {"0.bits": stored["0.bits"][:-1]}, r"size mismatch for 0\.bits"),
        ({name: tensor for name, tensor in stored.items() if name != "6.filters"}, "size mismatch, the network has"),
    )
    for changed, why in changes:
        save_file(changed, tmp_path / "weights.safetensors")
        with pytest.raises(InputError, match=rf"weights\.safetensors does not fit architecture\.json: .*{why}"):
            nasplat.load(tmp_path, space=Stacks())


def test_the_script_classifies_a_picture(exported: tuple[nasplat.Run, Path], tmp_path: Path) -> None:
    run, folder = exported
    digits = dataset("digits").load()
    image = digits.validation.images[0]
    preprocessing = json.loads((folder / "architecture.json").read_text())["preprocessing"]
    pixels = (image[0] * preprocessing["std"][0] + preprocessing["mean"][0]) / preprocessing["white"] * 255
    Image.fromarray(pixels.round().to(torch.uint8).numpy()).save(tmp_path / "digit.png")
    done = subprocess.run(
        [sys.executable, "-W", "error", folder / "predict.py", tmp_path / "digit.png"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        probabilities = trained(run)(image[None]).softmax(1)[0]
    likely = probabilities.argmax().item()
    assert f"digit.png: {preprocessing['classes'][likely]} {100 * probabilities[likely]:.0f}"[:-1] in done.stdout


@pytest.mark.parametrize(
    ("outputs", "stack", "options"),
    [
        (10, FullStack(4, "individual"), {"bias": False}),
        (13, FullStack(4, "shared"), {"padding": 1, "padding_mode": "reflect"}),
        (6, FullStack(2, "shared"), {"groups": 3, "stride": 2}),
        (8, FullStack(1, "individual"), {"padding": "same", "dilation": 2}),
    ],
    ids=str,
)
def test_every_layer_is_written(outputs: int, stack: FullStack, options: dict[str, Any], tmp_path: Path) -> None:
    io = IO.image(3, 9, outputs)
    layer = stacked(3, outputs, stack, **options)
    network = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    shipped = packed(network)
    save_file(shipped.state_dict(), tmp_path / "weights.safetensors")
    write_onnx(shipped, io.input_shape, tmp_path / "model.onnx")
    write_program(shipped, io.input_shape, tmp_path / "model.pt2")
    write_source(shipped, io, tmp_path / "network.py", ["A network."])
    for form in Format:
        verified(form, network, io, tmp_path / form.value, None)
    stored = onnx.load(tmp_path / "model.onnx").graph.initializer
    assert [each.data_type for each in stored if each.name == "0.bits"] == [onnx.TensorProto.UINT8]
    assert torch.export.load(tmp_path / "model.pt2").state_dict["0.bits"].dtype == torch.uint8


def test_the_onnx_model_folds_what_is_ordinary_and_nothing_that_is_packed(exported: tuple[nasplat.Run, Path]) -> None:
    _, folder = exported
    graph = onnx.load(folder / "model.onnx").graph
    kept = load_file(folder / "weights.safetensors")
    initializers = {each.name: tuple(each.dims) for each in graph.initializer}
    for name in ("network.0.filters", "network.0.bits", "network.6.filters", "network.6.bits"):
        assert initializers[name] == tuple(kept[name.removeprefix("network.")].shape)
    made_by = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    computed = [node.input[1] in made_by for node in convolutions]
    assert computed == [True, False, True]
    norms = [made_by[node.input[0]] for node in graph.node if node.op_type == "BatchNormalization"]
    assert norms == [convolutions[0], convolutions[2]]  # the one behind the ordinary convolution is folded into it
    floats = sum(np.prod(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT)
    assert floats <= sum(tensor.numel() for tensor in kept.values() if tensor.is_floating_point())


def test_a_large_network_is_as_small_as_its_formula(tmp_path: Path) -> None:
    stack = FullStack(64, "individual")
    with seeded(0):
        network = vgg16().eval()
        features = network.get_submodule("0")
        for name, layer in list(features.named_children()):
            if isinstance(layer, nn.Conv2d):
                features.register_module(name, FullStackConv2d(layer, stack, fitted=False))
            if isinstance(layer, nn.BatchNorm2d):  # of equal tensors an ONNX file has one only
                assert layer.running_mean is not None and layer.running_var is not None
                for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)
    layers = [layer for _, layer in rewritten(network)]
    assert len(layers) == 13
    others = sum(
        tensor.numel()
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d | nn.Linear)
        for name, tensor in module.state_dict().items()
        if name != "num_batches_tracked"
    )
    least = (sum(layer.stored_bits() or 0 for layer in layers) + 32 * others) // 8
    shipped = packed(network)
    save_file(shipped.state_dict(), tmp_path / "weights.safetensors")
    assert least <= (tmp_path / "weights.safetensors").stat().st_size <= least + 20_000
    write_onnx(shipped, CIFAR.input_shape, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size <= min(1.03 * least, least + 100_000)
    check = verified(Format.ONNX, network, CIFAR, tmp_path / "model.onnx", None)
    assert check["random"]["largest_difference"] <= check["random"]["allowed"]
