"""Networks as ONNX files, as exports ship them and onnxruntime times them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


SIDES = 12, 16
"""The picture that a network which takes any is looked at with."""


def write_onnx(network: "nn.Module", input_shape: tuple[int, ...], path: Path, *, enlarges: bool = False) -> None:
    """Export with a free batch size, input ``images`` and output ``logits``.

    Args:
        network: In evaluation mode, on the CPU.
        input_shape: The shape of one example that it takes.
        path: The file to write.
        enlarges: Whether it makes pictures larger; then it takes any height and width, and gives ``enlarged``.
    """
    import torch

    free: dict[int, object] = {0: torch.export.Dim("batch")}
    if enlarges:
        free |= {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
        input_shape = input_shape[0], *SIDES

    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it reports on optional packages and on steps that succeeded
    try:
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *input_shape),),
            dynamo=True,
            dynamic_shapes=(free,),
            input_names=["images"],
            output_names=["enlarged" if enlarges else "logits"],
            external_data=False,
            optimize=True,  # also folds batch norm into the convolution before it
            verbose=False,
        )
    finally:
        exporter.setLevel(level)
    assert program is not None
    program.save(path)
