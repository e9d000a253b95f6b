"""Exported folders without a run, with the files that `nasplat.export.bundle.load` reads."""

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
        folder: The new folder; it must not exist.
        architecture: An architecture of a registered space without options.
        io: The input and output shapes of the network.
        network: The network of the weights.
    """
    from safetensors.torch import save_file

    from nasplat.nn.packing import packed

    folder.mkdir()
    save_file(packed(network).state_dict(), folder / WEIGHTS)
    description = {
        "format": FORMAT,
        "space": {"name": architecture.space},
        "architecture": architecture.code,
        **io.to_json(),
    }
    (folder / ARCHITECTURE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
