"""What was exported, run beside torch on the same inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nasplat.architecture import IO

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Runner: TypeAlias = Callable[[Tensor], Tensor]

TOLERANCE = 1e-4
"""What float32 may differ by, for outputs up to 1; for larger ones in proportion."""
TOLERANCE_DOUBLE = 1e-9
"""What float64 may differ by."""
BATCHES = 1, 5
REAL = 16
"""So many real inputs are tried, in batches of those sizes and one of the rest."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How far what was exported is from torch on the same inputs.

    Args:
        largest_difference: The largest absolute difference of any output.
        allowed: 1e-4 · max(1, largest absolute output); for float64 1e-9 of that.
        batches: The batch sizes that were tried.
        dtype: What was computed in.
    """

    largest_difference: float
    allowed: float
    batches: tuple[int, ...]
    dtype: str = "float32"

    @property
    def holds(self) -> bool:
        """Whether the difference is allowed; that of what is no number is not."""
        return self.largest_difference <= self.allowed


def compared(network: Runner, run: Runner, inputs: Sequence[Tensor]) -> Verification:
    """Run a network and what was exported of it.

    Args:
        network: In evaluation mode, or what else is to be given.
        run: What was exported.
        inputs: Batches, all of one type.
    """
    import torch

    largest, scale = 0.0, 1.0
    for images in inputs:
        with torch.no_grad():
            expected, given = network(images), run(images)
        difference = (given - expected).abs().max().item() if given.shape == expected.shape else float("inf")
        largest = max(largest, difference) if difference == difference else difference  # a NaN is the largest
        scale = max(scale, expected.abs().max().item())
    double = inputs[0].dtype == torch.float64
    allowed = TOLERANCE_DOUBLE if double else TOLERANCE * scale
    return Verification(largest, allowed, tuple(map(len, inputs)), "float64" if double else "float32")


def random_inputs(io: IO, *, batches: Sequence[int] = BATCHES, seed: int = 0) -> list[Tensor]:
    """Random inputs of some batch sizes; pictures of odd sides, and others than exporters saw, where any will do."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, *(io.input_shape if io.scale is None else (io.input_shape[0], 8 + 5 * batch, 23 - batch)),
                    generator=generator)
        for batch in batches
    ]  # fmt: skip


def real_batches(inputs: Tensor) -> list[Tensor]:
    """Real inputs in batches of several sizes."""
    sizes = [*BATCHES, len(inputs)]
    batches, begin = [], 0
    for size in sizes:
        batches.append(inputs[begin : begin + size])
        begin += size
    return [batch for batch in batches if len(batch)]


def verify_source(network: nn.Module, path: Path, inputs: Sequence[Tensor]) -> Verification:
    """Compare a network's source, which is run here, with torch in float64.

    Args:
        network: In evaluation mode; it is not changed.
        path: The source; the weights lie beside it.
        inputs: Batches.
    """
    own, other = copy.deepcopy(network).double(), source_network(path).double()
    return compared(own, other, [images.double() for images in inputs])


def source_network(path: Path) -> nn.Module:
    """The network of a source that lies beside its weights."""
    names: dict[str, object] = {"__file__": str(path), "__name__": "network"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    load = names["load"]
    assert callable(load)
    network: nn.Module = load()
    return network


def onnx_runner(path: Path) -> Runner:
    """What runs an ONNX file with onnxruntime; of several outputs the first."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return run


def features_runner(path: Path) -> Runner:
    """What gives the features of an ONNX file that has them."""
    import onnxruntime
    import torch

    from nasplat.nn.onnx import FEATURES

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([FEATURES], {"images": images.numpy()})[0])
