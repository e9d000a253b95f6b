"""Networks as `torch.export` programs. Torch runs a program without the source of the network."""

import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from nasplat.errors import RunError
from nasplat.nn.onnx import SIDES

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

PLAIN_SIZE = re.compile(r"-?\d+|[su]\d+|Symbol\('[su]\d+'(, (positive|nonnegative|integer)=True)*\)")
"""A size that is a number, or a free one by its name."""
LEAST = 3
"""The smallest side, in pixels, of an image that a program upscales. At half the size, two pixels remain."""


def write_program(network: "nn.Module", input_shape: tuple[int, ...], path: Path, *, upscales: bool = False) -> None:
    """Write a network as a program with a free batch size.

    Args:
        network: The network in evaluation mode, on the CPU.
        input_shape: The shape of one input example.
        path: The file to write.
        upscales: Whether the network upscales images. The program then accepts any height and width from `LEAST` on.

    Raises:
        RunError: The file would contain pickled objects.
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
    torch.export.save(program, path)
    if is_pickled(path):
        raise RunError(
            "torch.export would write some tensors of the network as pickles, and opening a pickle can run any code; "
            "export with --format onnx (format='onnx') or source"
        )


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


def is_pickled(path: Path) -> bool:
    """Whether a program contains pickles, which `torch.export.load` would execute."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "/sample_inputs/" in name and archive.getinfo(name).file_size:
                return True
            if name.endswith(("weights_config.json", "constants_config.json")):
                tensors = json.loads(archive.read(name))["config"].values()
                if any(tensor["use_pickle"] for tensor in tensors):
                    return True
    return False


def check_sizes(path: Path) -> None:
    """Check that the sizes of a program are numbers or names. Torch evaluates them as text, which could run any code.

    Raises:
        RunError: One is anything else.
    """
    with zipfile.ZipFile(path) as archive:
        waiting: list[object] = [json.loads(archive.read(n)) for n in archive.namelist() if n.endswith(".json")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            size = part.get("expr_str")
            if size is not None and not (isinstance(size, str) and PLAIN_SIZE.fullmatch(size)):
                raise RunError(
                    f"{path} was not opened, since a size in it is no number and no name: {str(size)[:80]!r}"
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
