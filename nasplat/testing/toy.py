"""A tiny search space and benchmark, quick enough for thousands of trials in a test."""

import math
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.benchmark import Benchmark
from nasplat.block_space import Block, BlockSpace
from nasplat.cost import Cost
from nasplat.nn import costs
from nasplat.search_space import Gene, GeneSpace, SupernetSpace
from nasplat.task import Evaluate, Measurement

if TYPE_CHECKING:
    from torch import nn

    from nasplat.nn.supernet import Part, Supernet

WIDTHS = ("2", "4", "8", "16")


class ToySpace(GeneSpace, SupernetSpace, BlockSpace):
    """Multi-layer perceptrons with four hidden layers of one of four widths each: 256 members."""

    name: ClassVar[str] = "toy"
    genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(f"width {layer}", WIDTHS) for layer in range(1, 5))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """The linear layers', in order."""
        widths = self._widths(architecture, io)
        return Cost.total({f"layer {i}": costs.linear(*pair) for i, pair in enumerate(pairwise(widths), 1)})

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The perceptron, on flattened images."""
        from nasplat.nn.supernet import new_part

        return self._assembled(architecture, new_part, io)

    def supernet(self, io: IO) -> "Supernet":
        """One linear layer at each place for every width before and after it."""
        from nasplat.nn.supernet import Supernet

        # All pairs of widths side by side, in both orders.
        covering = (self.member([a, b, a, b]) for a in range(len(WIDTHS)) for b in range(len(WIDTHS)))
        return Supernet(partial(self._assembled, io=io), covering)

    def blocks(self, architecture: Architecture, io: IO) -> list[Block]:
        """The linear layers."""
        from torch import nn

        pairs = pairwise(self._widths(architecture, io))
        return [Block("linear", pair, partial(nn.Linear, *pair), pair[:1]) for pair in pairs]

    def _assembled(self, architecture: Architecture, part: "Part", /, io: IO) -> "nn.Module":
        from torch import nn

        layers: list[nn.Module] = [nn.Flatten()]
        for i, (before, after) in enumerate(pairwise(self._widths(architecture, io)), 1):
            layers += [part(f"layer {i} {before} to {after}", partial(nn.Linear, before, after)), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def _widths(self, architecture: Architecture, io: IO) -> list[int]:
        inputs = 1
        for side in io.input_shape:
            inputs *= side
        return [inputs, *(int(WIDTHS[choice]) for choice in self.choices(architecture)), io.outputs]


class ToyBenchmark(Benchmark):
    """An accuracy by formula: wide early layers increase it, and so do neighbouring layers of similar width."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    @property
    def io(self) -> IO:
        return IO.image(channels=1, side=4, outputs=3)

    @property
    def fidelity(self) -> int:
        return 9

    def prepare(self) -> None:
        pass  # a formula needs nothing

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(task=task, metrics={"accuracy": toy_accuracy(task.architecture)})

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        return Measurement(task=measurement.task, metrics=measurement.metrics, split="test")


def toy_accuracy(architecture: Architecture) -> float:
    """An accuracy in 0..1, for codes of any space. Symbols are weighted by place; steps between them reduce it."""
    values = [int(symbol, 36) for symbol in architecture.code]
    gain = sum(value / (place + 2) for place, value in enumerate(values))
    steps = sum(abs(a - b) for a, b in pairwise(values))
    return 1 / (1 + math.exp(0.2 * steps - 0.5 * gain))
