"""Exported folders without a run: what `nasplat.export.bundle.load` reads of one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from nasplat.architecture import IO, Architecture
from nasplat.export.opening import ARCHITECTURE, FORMAT, WEIGHTS

if TYPE_CHECKING:
    from torch import nn


def write_export(folder: Path, architecture: Architecture, io: IO, network: "nn.Module") -> None:
    """Write a network's description and its weights; there is no ONNX model.

    Args:
        folder: Must not exist.
        architecture: Of a space that is known by name, and made without options.
        io: What the network takes and gives.
        network: Whose weights are written.
    """
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(network.state_dict(), folder / WEIGHTS)
    description = {
        "format": FORMAT,
        "space": {"name": architecture.space},
        "architecture": architecture.code,
        "input_shape": list(io.input_shape),
        "outputs": io.outputs,
        **({} if io.scale is None else {"scale": io.scale}),
    }
    (folder / ARCHITECTURE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
