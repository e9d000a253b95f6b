"""Networks as `torch.export` programs. Torch runs a program without the source of the network."""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nasplat.errors import RunError
from nasplat.nn.onnx import SIDES
from nasplat.storage.files import write_atomically

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

PLAIN_SIZE = re.compile(r"-?\d+|[su]\d+|Symbol\('[su]\d+'(, (positive|nonnegative|integer)=True)*\)")
"""A size that is a number, or a free one by its name."""
LEAST = 3
"""The smallest side, in pixels, of an image that a program upscales. At half the size, two pixels remain."""


def write_program(network: "nn.Module", input_shape: tuple[int, ...], path: Path, *, upscales: bool = False) -> None:
    """Write a network as a program, complete or not at all; see `program_of`.

    Raises:
        RunError: The program would contain pickled objects.
        OSError: The file cannot be written.
    """
    write_atomically(path, program_of(network, input_shape, upscales=upscales))


def program_of(network: "nn.Module", input_shape: tuple[int, ...], *, upscales: bool = False) -> bytes:
    """The file of a program with a free batch size.

    Args:
        network: The network in evaluation mode, on the CPU.
        input_shape: The shape of one input example.
        upscales: Whether the network upscales images. The program then accepts any height and width from `LEAST` on.

    Raises:
        RunError: The program would contain pickled objects.
    """
    import torch

    free: dict[int, object] = {0: torch.export.Dim("batch")}
    if upscales:
        free |= {2: torch.export.Dim("height", min=LEAST), 3: torch.export.Dim("width", min=LEAST)}
        input_shape = input_shape[0], *SIDES
    program = torch.export.export(
        network,
        (torch.zeros(2, *input_shape),),
        dynamic_shapes=(free,),
        # Torch cannot prove some conditions on odd sides. They become checks in the program instead of errors now.
        prefer_deferred_runtime_asserts_over_guards=upscales,
    )
    if upscales:
        _drop_checks(program)
    # Torch would pickle only the example inputs.
    program.example_inputs = None
    with io.BytesIO() as file:  # torch tells a full disk as an error of its own
        torch.export.save(program, file)
        if is_pickled(file):
            raise RunError(
                "torch.export would write some tensors of the network as pickles, and opening a pickle can run any "
                "code; export with --format onnx (format='onnx') or source"
            )
        return file.getvalue()


def _drop_checks(program: "ExportedProgram") -> None:
    """Remove the checks of sizes.

    The checks state the memory layout of tensors, so they hold only for the example's sizes. The outputs for other
    sizes are compared with torch after every export.
    """
    import torch

    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def is_pickled(file: Path | BinaryIO) -> bool:
    """Whether a program contains pickles, which `torch.export.load` would execute."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if "/sample_inputs/" in name and archive.getinfo(name).file_size:
                return True
            if name.endswith(("weights_config.json", "constants_config.json")):
                tensors = json.loads(archive.read(name))["config"].values()
                if any(tensor["use_pickle"] for tensor in tensors):
                    return True
    return False


def check_sizes(file: Path | BinaryIO) -> None:
    """Check that the sizes of a program are numbers or names. Torch evaluates them as text, which could run any code.

    Raises:
        RunError: One is anything else.
    """
    with zipfile.ZipFile(file) as archive:
        waiting: list[object] = [json.loads(archive.read(n)) for n in archive.namelist() if n.endswith(".json")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            size = part.get("expr_str")
            if size is not None and not (isinstance(size, str) and PLAIN_SIZE.fullmatch(size)):
                named = file if isinstance(file, Path) else "the program"
                raise RunError(
                    f"{named} was not opened, since a size in it is no number and no name: {str(size)[:80]!r}"
                )
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def read_program(path: Path) -> "GraphModule":
    """The network of a program without pickles.

    Raises:
        RunError: The program contains pickles.
    """
    import torch

    if is_pickled(path):
        raise RunError(
            f"{path} was not opened, since it contains pickles, which can run any code; export the network again"
        )
    return torch.export.load(path).module()
