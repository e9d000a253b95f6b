"""Comparison of exported formats with torch on the same inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nasplat.architecture import IO

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Runner: TypeAlias = Callable[[Tensor], Tensor]

TOLERANCE = 1e-4
"""The tolerance for float32, for outputs up to 1; for larger outputs in proportion."""
TOLERANCE_DOUBLE = 1e-9
"""The tolerance for float64."""
BATCHES = 1, 5
MOVED, MOVED_DOUBLE = 1e-5, 1e-13
"""How far the inputs of signs are moved, relative to the largest one; more than rounding moves them."""
MOVES = 2
"""The number of draws of such moves; each is made in either direction, so that it crosses every threshold in reach."""
REAL = 16
"""The number of real inputs for the comparison, in batches of those sizes and one of the rest."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The difference between an exported format and torch on the same inputs.

    Where activations are binary, rounding may change a sign, and outputs then differ by more than rounding. So more is
    allowed of inputs whose outputs move when the inputs of all signs are moved by as much as rounding may move them:
    twice as far as they then move. What is told is of the input that comes nearest to what is allowed of it, which is
    the one with the largest difference if nothing jumps. In deep networks that may be true of all inputs. So some
    input must agree without it.

    Args:
        largest_difference: The largest absolute difference of any of its outputs.
        allowed: 1e-4 · max(1, largest absolute output of all), for float64 1e-9 of that, and what is allowed besides.
        batches: The batch sizes of the comparison.
        dtype: The data type of the computation.
        unsteady: The number of inputs of which more is allowed.
        agreeing: The number of inputs whose difference is within what is allowed of all.
    """

    largest_difference: float
    allowed: float
    batches: tuple[int, ...]
    dtype: str = "float32"
    unsteady: int = 0
    agreeing: int = 0

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance. NaN is not."""
        return self.largest_difference <= self.allowed


def compared(
    network: Runner, run: Runner, inputs: Sequence[Tensor], *, jumping: Sequence[nn.Module] = ()
) -> Verification:
    """Compare a network with an exported format of it.

    Args:
        network: In evaluation mode, or another reference function.
        run: The exported format.
        inputs: Batches, all of one type.
        jumping: The layers of the network whose outputs jump.
    """
    import torch

    scale, differences, spreads = 1.0, [], []
    for images in inputs:
        with torch.no_grad():
            expected, given = network(images), run(images)
            same = given.shape == expected.shape
            apart = (given - expected).abs() if same else torch.full_like(expected, math.inf)
            differences.append(apart.reshape(len(images), -1).amax(1))
            spreads.append(_spread(network, images, expected, jumping))
        scale = max(scale, expected.abs().max().item())
    double = inputs[0].dtype == torch.float64
    difference, spread = torch.cat(differences), torch.cat(spreads)
    tolerance = TOLERANCE_DOUBLE if double else TOLERANCE * scale
    allowed = tolerance + 2 * spread
    nearest = int((difference / allowed).nan_to_num(math.inf, math.inf).argmax())  # a NaN is the largest
    return Verification(
        difference[nearest].item(),
        allowed[nearest].item(),
        tuple(map(len, inputs)),
        "float64" if double else "float32",
        int((spread > 0).sum()),
        int((difference <= tolerance).sum()),
    )


def _moved(layer: nn.Module, given: tuple[Tensor, ...], *, by: float, generator: torch.Generator) -> tuple[Tensor]:
    """The inputs of a layer, moved by a part of the largest one, each in a direction of its own."""
    import torch

    (x,) = given
    return (x + by * x.abs().max() * (torch.randint(2, x.shape, generator=generator).to(x) * 2 - 1),)


def _spread(network: Runner, images: Tensor, expected: Tensor, jumping: Sequence[nn.Module]) -> Tensor:
    """How far the outputs of each image `[batch]` move with the inputs of layers that jump."""
    import torch

    found = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    if not jumping:
        return found
    relative = MOVED_DOUBLE if images.dtype == torch.float64 else MOVED
    for seed, way in itertools.product(range(MOVES), (relative, -relative)):
        move = partial(_moved, by=way, generator=torch.Generator().manual_seed(seed))
        hooks = [layer.register_forward_pre_hook(move) for layer in jumping]
        try:
            moved = network(images)
        finally:
            for hook in hooks:
                hook.remove()
        found = found.maximum((moved - expected).abs().reshape(len(images), -1).amax(1).double())
    return torch.where(found > (TOLERANCE_DOUBLE if images.dtype == torch.float64 else TOLERANCE), found, 0.0)


def random_inputs(io: IO, *, batches: Sequence[int] = BATCHES, seed: int = 0) -> list[Tensor]:
    """Random inputs of some batch sizes. If any size is accepted: images of odd sides, and of sizes other than the
    exporter's."""
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
    """Compare a network's source, which is executed here, with torch in float64.

    Args:
        network: In evaluation mode; it is not changed.
        path: The source, with the weights in the same folder.
        inputs: Batches.
    """
    from nasplat.nn.packing import packed
    from nasplat.nn.rewritten import jumping

    # Packed first, since what is packed from numbers of float64 is not what the file has.
    own, other = packed(network).double(), source_network(path).double()
    return compared(own, other, [images.double() for images in inputs], jumping=jumping(own))


def source_network(path: Path) -> nn.Module:
    """The network of a source file with its weights in the same folder."""
    names: dict[str, object] = {"__file__": str(path), "__name__": "network"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    load = names["load"]
    assert callable(load)
    network: nn.Module = load()
    return network


def onnx_runner(path: Path) -> Runner:
    """A function that runs an ONNX file with onnxruntime and returns the first output."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {given.name: inputs.numpy()})[0])

    return run


def output_runner(path: Path, name: str) -> Runner:
    """A function that returns an output of an ONNX file by its name, `[batch, n]` or `[batch]`."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([name], {"images": images.numpy()})[0])
