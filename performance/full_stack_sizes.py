"""The files of VGG-16 with full-stack filters beside the bits that they need, and how fast onnxruntime runs them.

    python performance/full_stack_sizes.py [--rounds 5] [--json]

About three minutes on one core. All thirteen convolutions of VGG-16 for CIFAR are of full-stack filters, with fresh
weights; the classifier is one layer of 512 x 10. Every file is compared with torch.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import onnx
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import nn

from nasplat.architecture import IO
from nasplat.export.formats import Format, verified, write_source
from nasplat.latency.measuring import onnx_latency
from nasplat.nn.full_stack import FullStack, FullStackConv2d
from nasplat.nn.onnx import write_onnx
from nasplat.nn.packing import packed
from nasplat.nn.program import write_program
from nasplat.nn.reference_networks import vgg16
from nasplat.nn.rewritten import rewritten
from nasplat.training.seeding import seeded

CIFAR = IO.image(3, 32, 10)
STACKS = None, FullStack(4, "shared"), FullStack(4, "individual"), FullStack(64, "individual")
FILES = "weights.safetensors", *(form.value for form in Format)
DEFINITIONS = """\
Sizes in bytes. "formula": 32 bits for each real number of filters, batch norm with its statistics, and the classifier,
and one bit for each element of a mask. "ms": median latency of one image in onnxruntime on one thread, median of the
rounds, in which the networks take turns. "session": seconds until onnxruntime can run the file. "unpacks": whether
operations on bits remain in the graph that onnxruntime runs, after its own optimization."""


@dataclass
class Sizes:
    """What one network takes.

    Args:
        name: The filters of the network.
        formula: The bytes that store its numbers and masks.
        files: The bytes of each file.
        latency_ms: The median latency of each round.
        session_s: The seconds that creating a session took in each round.
        unpacks: Whether masks are unpacked whenever the network runs.
    """

    name: str
    formula: int
    files: dict[str, int]
    latency_ms: list[float]
    session_s: list[float]
    unpacks: bool


def network(stack: FullStack | None) -> nn.Module:
    """VGG-16, plain if there is no stack, in evaluation mode."""
    with seeded(0):
        features = vgg16().get_submodule("0")
        for name, layer in list(features.named_children()):
            if stack is not None and isinstance(layer, nn.Conv2d):
                features.register_module(name, FullStackConv2d(layer, stack, fitted=False))
            if isinstance(layer, nn.BatchNorm2d):
                unlike_others(layer)
        return nn.Sequential(features, nn.Flatten(), nn.Linear(512, 10)).eval()


def unlike_others(norm: nn.BatchNorm2d) -> None:
    """Give a batch norm numbers of its own, as training does. Of equal tensors an ONNX file has one only."""
    assert norm.running_mean is not None and norm.running_var is not None
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)


def formula(made: nn.Module) -> int:
    """The bytes that store the numbers and the masks of a network."""
    layers = {name: layer.stored_bits() for name, layer in rewritten(made)}
    bits = sum(each for each in layers.values() if each is not None)
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point() and layers.get(name.rpartition(".")[0]) is None:
            bits += 32 * tensor.numel()
    return bits // 8


def written(made: nn.Module, folder: Path) -> dict[str, int]:
    """The bytes of all files of a network, each of which was compared with torch."""
    shipped = packed(made)
    save_file(shipped.state_dict(), folder / FILES[0])
    write_onnx(shipped, CIFAR.input_shape, folder / Format.ONNX.value)
    write_program(shipped, CIFAR.input_shape, folder / Format.PT2.value)
    write_source(shipped, CIFAR, folder / Format.SOURCE.value, ["VGG-16."])
    for form in Format:
        verified(form, made, CIFAR, folder / form.value, None)
    return {name: (folder / name).stat().st_size for name in FILES}


def unpacks(path: Path) -> bool:
    """Whether operations on bits remain in a file after the optimization of onnxruntime."""
    optimized = path.with_suffix(".optimized")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3  # it warns that the optimized file fits this machine only
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return any(node.op_type == "BitwiseAnd" for node in onnx.load(optimized).graph.node)


def session_s(path: Path) -> float:
    """The seconds that creating a session takes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    began = time.perf_counter()
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return time.perf_counter() - began


def measure(rounds: int) -> list[Sizes]:
    """Write all networks, then measure them in turn."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for stack in STACKS:
            name = "plain" if stack is None else f"{stack.masks}, s = {stack.ratio}"
            paths.append(Path(folder) / name)
            paths[-1].mkdir()
            made = network(stack)
            sizes = written(made, paths[-1])
            found.append(Sizes(name, formula(made), sizes, [], [], unpacks(paths[-1] / Format.ONNX.value)))
        for _ in range(rounds):
            for each, path in zip(found, paths, strict=True):
                model = path / Format.ONNX.value
                each.session_s.append(session_s(model))
                latency = onnx_latency(model.read_bytes(), CIFAR.input_shape, batch=1, threads=1)
                each.latency_ms.append(latency.median_ms)
    return found


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of latencies")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return
    print(f"{DEFINITIONS}\n\n{'':20} {'MiB':>6} {'formula':>11}", *(f"{name:>19}" for name in FILES), end="")
    print(f" {'ms':>7} {'session':>8} unpacks")
    for each in found:
        sizes = " ".join(f"{each.files[name]:19,}" for name in FILES)
        times = f"{median(each.latency_ms):7.2f} {median(each.session_s):8.3f}"
        print(f"{each.name:20} {each.formula / 2**20:6.2f} {each.formula:11,} {sizes} {times} {each.unpacks}")


if __name__ == "__main__":
    main()
