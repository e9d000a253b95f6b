"""Networks as ONNX files, for exports and for latency measurements with onnxruntime."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nasplat.architecture import Purpose
from nasplat.errors import InputError

if TYPE_CHECKING:
    from onnx_ir import Node
    from torch import Tensor, nn
    from torch.onnx import ONNXProgram

FEATURES = "features"
"""The name of the output that is the input of the last linear layer."""

NAMES: Mapping[Purpose, tuple[str, str]] = {
    "classification": ("images", "logits"),
    "super-resolution": ("images", "upscaled"),
    "generation": ("latents", "samples"),
}
"""The names of the input and of the first output, by what a network is for."""

USED = "used"
"""The name of the output that is the part of the multiply-accumulates that an image takes."""

SIDES = 12, 16
"""The height and width of the example image for networks that accept any size."""


def write_onnx(
    network: "nn.Module",
    input_shape: tuple[int, ...],
    path: Path,
    *,
    purpose: Purpose = "classification",
    features: bool = False,
    used_of: int | None = None,
) -> None:
    """Export with a free batch size; `NAMES` has the names of input and output.

    Args:
        network: In evaluation mode, on the CPU.
        input_shape: The shape of one input example.
        path: The file to write.
        purpose: What it is for. A network for super-resolution accepts any height and width.
        features: Whether it also outputs ``features``, the input of its last linear layer, `[batch, n]`.
        used_of: The multiply-accumulates of the network; it then also outputs ``used``, the part of them that each
            image takes, `[batch]`.

    Raises:
        InputError: Features are requested, but there is no such layer.
    """
    import torch

    from nasplat.nn.packing import packed_names

    input_name, output_name = NAMES[purpose]
    outputs = [output_name]
    if features:
        network = with_features(network, input_shape)
        outputs.append(FEATURES)
    if used_of is not None:
        network = with_used(network, used_of)
        outputs.append(USED)

    free: dict[int, object] = {0: torch.export.Dim("batch")}
    if purpose == "super-resolution":
        free |= {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
        input_shape = input_shape[0], *SIDES

    kept = packed_names(network)
    with quiet_exporter():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *input_shape),),
            dynamo=True,
            dynamic_shapes=(free,),
            input_names=[input_name],
            output_names=outputs,
            external_data=False,
            optimize=not kept,  # also folds batch norm into the convolution before it
            verbose=False,
        )
    assert program is not None
    if kept:
        _optimize(program, kept)
    program.save(path)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without the exporter's messages on optional packages and on successful steps."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        yield
    finally:
        exporter.setLevel(level)


def _optimize(program: "ONNXProgram", kept: Collection[str]) -> None:
    """Optimize as torch does, but compute nothing in advance from the tensors with the given names.

    Notes on the origin of each node are dropped. They may take more than the packed weights.
    """
    from onnxscript.optimizer import optimize_ir

    def should_fold(node: "Node") -> bool | None:
        return False if any(value is not None and value.name in kept for value in node.inputs) else None

    optimize_ir(program.model, should_fold=should_fold)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()


def with_features(network: "nn.Module", input_shape: tuple[int, ...]) -> "nn.Module":
    """A network that also outputs the input of its last linear layer.

    Args:
        network: In evaluation mode; it is not copied.
        input_shape: The shape of one input example.

    Raises:
        InputError: It has no linear layer, or the input of the last one is not a vector.
    """
    import torch
    from torch import nn

    def taken(images: "Tensor", layers: "list[nn.Linear]") -> "tuple[Tensor, list[tuple[nn.Linear, Tensor]]]":
        """The network's output, and the inputs of the given layers, in the order of execution."""
        seen: list[tuple[nn.Linear, Tensor]] = []
        hooks = [
            layer.register_forward_pre_hook(lambda layer, given: seen.append((layer, given[0]))) for layer in layers
        ]
        try:
            return network(images), seen
        finally:
            for hook in hooks:
                hook.remove()

    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        _, seen = taken(torch.zeros(2, *input_shape), linear)
    if not seen or seen[-1][1].ndim != 2:
        raise InputError(
            "features are the input of the last linear layer, but this network has no linear layer that takes "
            "vectors; leave out --features (features=…)"
        )
    last = seen[-1][0]

    class WithFeatures(nn.Module):
        """The network and its features."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: "Tensor") -> "tuple[Tensor, Tensor]":
            result, found = taken(images, [last])
            return result, found[-1][1]

    return WithFeatures().eval()


def outputs_besides(
    network: "nn.Module", input_shape: tuple[int, ...], *, features: bool, used_of: int | None = None
) -> "dict[str, Callable[[Tensor], Tensor]]":
    """What `write_onnx` adds to the outputs of a network with the same arguments, by name, as torch computes it."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    if features:
        featured = with_features(network, input_shape)
        found[FEATURES] = lambda images: featured(images)[1]
    if used_of is not None:
        sparing = with_used(network, used_of)
        found[USED] = lambda images: sparing(images)[1]
    return found


def with_used(network: "nn.Module", macs: int) -> "nn.Module":
    """A network that also outputs the part of its multiply-accumulates that each image takes, `[batch]`.

    Args:
        network: In evaluation mode, with layers that spare images some; it is not copied.
        macs: The multiply-accumulates of an image that is spared nothing.
    """
    from torch import nn

    from nasplat.nn.rewritten import sparing

    class WithUsed(nn.Module):
        """The network and what it used."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: "Tensor") -> "tuple[Tensor, ...]":
            with sparing(self.network) as spared:
                result = self.network(images)
            used = 1 - spared[0].to(images.dtype) / macs
            return (*result, used) if isinstance(result, tuple) else (result, used)

    return WithUsed().eval()
