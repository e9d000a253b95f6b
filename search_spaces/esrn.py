"""Residual dense networks for super-resolution (Song et al., 2020, "Efficient residual dense block search", AAAI)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import comb
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.random import Generator

from nasplat.architecture import IO, Architecture
from nasplat.block_space import Block, BlockSpace
from nasplat.convolution import Convolution
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.graph import ABSENT, Graphs, Operation, Role
from nasplat.nn.residual_dense.convolutions import network_convolutions
from nasplat.nn.residual_dense.shapes import KINDS, SCALES, DenseBlock, ResidualDenseShape, network_costs
from nasplat.search_space import Gene, GeneSpace

if TYPE_CHECKING:
    from torch import nn

PARTS = ("type", "depth", "growth", "width")
"""The components of the name of a block."""
SWAPPED = 1 / 5, 1 / 2
"""A crossover swaps at least the first fraction of the slots and less than the second: 4 to 9 of 20, as published."""


@dataclass(frozen=True, slots=True)
class Preset:
    """The choices of a space and the fixed outer shape of its networks.

    Args:
        slots: The number of places for blocks, in sequence.
        least: The minimum number of slots with an active block.
        depths: The numbers of convolutions that a block may have.
        growths: The numbers of channels that each convolution may add.
        widths: The numbers of output channels of a block, no fewer than its growth.
        features: The number of channels before and after the blocks.
    """

    slots: int
    least: int
    depths: tuple[int, ...]
    growths: tuple[int, ...]
    widths: tuple[int, ...]
    features: int

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of all blocks that a slot may hold.

        A group block with one convolution equals a shrink block with one, and is left out.
        """
        return tuple(
            str(DenseBlock(kind, depth, growth, width))
            for kind, depth, growth, width in product(KINDS, self.depths, self.growths, self.widths)
            if width >= growth and (kind, depth) != ("G", 1)
        )

    def genes(self) -> tuple[Gene, ...]:
        """Two genes for each slot: whether it is active, and its block."""
        blocks = self.blocks
        return tuple(
            gene
            for slot in range(1, self.slots + 1)
            for gene in (Gene(f"slot {slot} active", ("no", "yes")), Gene(f"slot {slot} block", blocks, PARTS))
        )


class ResidualDenseSpace(GeneSpace, BlockSpace):
    """Slots in a row, each of which is active or not and holds a residual dense block: shrink, group or contextual.

    The blocks of active slots make the network, in order. The blocks of inactive slots have no effect until the slots
    are activated. The name of a block has type, convolutions, growth and width, as in ``G_8_16_24``. Instead of a
    code, `parse` also accepts comma-separated names of blocks.
    """

    preset: ClassVar[Preset]
    reference_io: ClassVar[IO] = IO.upscaled(height=360, width=640, scale=2)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.genes = cls.preset.genes()
        cls._blocks = tuple(map(DenseBlock.parse, cls.preset.blocks))

    _blocks: ClassVar[tuple[DenseBlock, ...]]

    def check_io(self, io: IO) -> None:
        super().check_io(io)
        if io.scale not in SCALES or io.outputs != io.input_shape[0]:
            raise InputError(
                f"the networks of {self.name} upscale images 2, 3 or 4 times and keep the number of channels, but got "
                f"scale={io.scale} with {io.input_shape[0]} input channels and {io.outputs} output channels"
            )

    def violation(self, choices: Sequence[int]) -> str | None:
        active = sum(choices[::2])
        if active >= self.preset.least:
            return None
        return f"has {active} active slots, but at least {self.preset.least} of {self.preset.slots} are needed"

    def active_genes(self, architecture: Architecture) -> Sequence[int]:
        """The genes for the activity of slots, and for the blocks of the active slots."""
        choices = self.choices(architecture)
        return [gene for gene in range(len(choices)) if not gene % 2 or choices[gene - 1]]

    def sample(self, rng: Generator) -> Architecture:
        """An architecture drawn uniformly: first the number of active slots, weighted by the number of members, then
        the slots, then their blocks."""
        slots, least = self.preset.slots, self.preset.least
        ways = np.array([comb(slots, number) for number in range(least, slots + 1)], dtype=np.float64)
        number = least + int(rng.choice(len(ways), p=ways / ways.sum()))
        active = np.zeros(slots, dtype=np.int64)
        active[rng.choice(slots, size=number, replace=False)] = 1
        blocks = rng.integers(len(self._blocks), size=slots)
        return self.member(np.stack([active, blocks], axis=1).ravel().tolist())

    def parse(self, code: str) -> Architecture:
        return self.of([name.strip() for name in code.split(",")]) if "_" in code else super().parse(code)

    def of(self, blocks: Sequence[str]) -> Architecture:
        """The architecture whose first slots hold the named blocks and are active, and whose other slots are inactive.

        Raises:
            InputError: A block is not in the space, or there are too many or too few.

        >>> ESRNSmall().of(["S_2_8_8", "C_4_8_16"]).code
        '100115000000000000'
        """
        names = self.preset.blocks
        text = ",".join(blocks)
        for block in blocks:
            if block not in names:
                DenseBlock.parse(block)  # raises its own error for an invalid name
                raise InputError(
                    f"{self.name} has no block {block!r} of {text!r}; its depths are {self.preset.depths}, growths "
                    f"{self.preset.growths} and widths {self.preset.widths}, and the width of a block must be at least "
                    "its growth"
                )
        if len(blocks) > self.preset.slots:
            raise InputError(f"{self.name} has {self.preset.slots} slots, but {text!r} has {len(blocks)} blocks")
        choices = [choice for block in blocks for choice in (1, names.index(block))]
        choices += [0] * (2 * self.preset.slots - len(choices))
        reason = self.violation(choices)
        if reason is not None:
            raise InputError(f"{self.name} code {text!r} {reason}")
        return self.member(choices)

    def crossover(self, a: Architecture, b: Architecture, rng: Generator) -> Architecture:
        """The first parent, with a segment of slots from the second.

        If too few slots are then active, further slots that are active in either parent are activated, in random
        order.
        """
        slots, least = self.preset.slots, self.preset.least
        one, other = (np.array(self.choices(parent)).reshape(slots, 2) for parent in (a, b))
        fewest, most = (round(slots * part) for part in SWAPPED)
        length = int(rng.integers(max(1, fewest), max(2, most)))
        start = int(rng.integers(slots - length + 1))
        child = one.copy()
        child[start : start + length] = other[start : start + length]
        asleep = rng.permutation(np.flatnonzero((child[:, 0] == 0) & ((one[:, 0] == 1) | (other[:, 0] == 1))))
        child[asleep[: max(0, least - child[:, 0].sum())], 0] = 1
        return self.member(child.ravel().tolist())

    def canonical_key(self, architecture: Architecture) -> str:
        """The active blocks in order."""
        return ",".join(map(str, self.shape(architecture).blocks))

    def shape(self, architecture: Architecture) -> ResidualDenseShape:
        """All sizes of an architecture's network."""
        return ResidualDenseShape(self.preset.features, tuple(block for _, block in self._active(architecture)))

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """A chain of blocks between shallow features and fusion. Each block also leads to the fusion.

        The shallow features also lead to the tail.
        """
        names = ["shallow", *self.preset.blocks, "fusion", "tail"]
        operations = (
            Operation("input", Role.INPUT),
            *(Operation(name, Role.CONVOLUTION, kernel=3) for name in names),
            Operation("output", Role.OUTPUT),
        )
        kinds = {operation.name: kind for kind, operation in enumerate(operations)}
        n, slots = len(architectures), self.preset.slots
        size = slots + 5
        fixed = {0: "input", 1: "shallow", slots + 2: "fusion", slots + 3: "tail", slots + 4: "output"}
        types = np.full((n, size), ABSENT, dtype=np.int16)
        for node, name in fixed.items():
            types[:, node] = kinds[name]
        adjacency = np.zeros((n, size, size), dtype=bool)
        params, macs = np.zeros((n, size), dtype=np.int64), np.zeros((n, size), dtype=np.int64)
        for row, architecture in enumerate(architectures):
            active = self._active(architecture)
            chain = [0, 1, *(slot + 1 for slot, _ in active)]
            edges = [*pairwise(chain), *((node, slots + 2) for node in chain[2:])]
            edges += [(1, slots + 3), (slots + 2, slots + 3), (slots + 3, slots + 4)]
            for source, target in edges:
                adjacency[row, source, target] = True
            for slot, block in active:
                types[row, slot + 1] = kinds[str(block)]
            places = {_place(slot): slot + 1 for slot, _ in active}
            places |= {name: node for node, name in fixed.items()}
            for part, cost in self.cost(architecture, self.reference_io).parts.items():
                params[row, places[part]], macs[row, places[part]] = cost.params, cost.macs
        return Graphs(operations, types, adjacency, params, macs)

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """Parameters, MACs and bits of shallow features, each active slot, fusion and tail."""
        places = [_place(slot) for slot, _ in self._active(architecture)]
        return Cost.total(network_costs(self.shape(architecture), io, places))

    def convolutions_of(self, architecture: Architecture, io: IO) -> Sequence[Convolution]:
        return network_convolutions(self.shape(architecture), io)

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The network: images `[B, C, H, W]` of any size to `[B, C, scale * H, scale * W]`."""
        from nasplat.nn.residual_dense.network import ResidualDenseNetwork

        return ResidualDenseNetwork(self.shape(architecture), io)

    def stages_of(self, architecture: Architecture) -> Mapping[str, Sequence[str]]:
        """The block of each slot, which an inactive slot lacks, and what follows the blocks."""
        numbers = {slot: number for number, (slot, _) in enumerate(self._active(architecture))}
        slots = range(1, self.preset.slots + 1)
        found = {f"slot {slot}": [f"blocks.{numbers[slot]}"] if slot in numbers else [] for slot in slots}
        return {**found, "reconstruction": ["fusion", "tail"]}

    def blocks(self, architecture: Architecture, io: IO) -> list[Block]:
        """Shallow features, each residual dense block, fusion and tail."""
        from nasplat.nn.residual_dense.blocks import network_blocks

        return network_blocks(self.shape(architecture), io)

    def _active(self, architecture: Architecture) -> list[tuple[int, DenseBlock]]:
        """The numbers of the active slots, from 1, and their blocks."""
        choices = self.choices(architecture)
        pairs = zip(choices[::2], choices[1::2], strict=True)
        return [(slot, self._blocks[block]) for slot, (active, block) in enumerate(pairs, 1) if active]


def _place(slot: int) -> str:
    return f"slot {slot} block"


class ESRNLight(ResidualDenseSpace):
    """Super-resolution networks of 315 k to 325 k parameters.

    Networks have at least 16 blocks of 90 kinds. The published light model has 324 k parameters.
    """

    name: ClassVar[str] = "esrn/light"
    limits: ClassVar[tuple[str, ...]] = ("params>=315e3", "params<=325e3")
    preset: ClassVar[Preset] = Preset(
        slots=20, least=16, depths=(4, 6, 8), growths=(8, 16, 24, 32), widths=(8, 16, 24, 32), features=32
    )


class ESRN1M(ResidualDenseSpace):
    """Super-resolution networks of 1.01 M to 1.02 M parameters.

    The range is published. The 48 features and the growths up to 48 are this project's choice.
    """

    name: ClassVar[str] = "esrn/1m"
    limits: ClassVar[tuple[str, ...]] = ("params>=1.01e6", "params<=1.02e6")
    preset: ClassVar[Preset] = Preset(
        slots=20, least=16, depths=(4, 6, 8), growths=(16, 24, 32, 48), widths=(16, 24, 32, 48), features=48
    )


class ESRNSmall(ResidualDenseSpace):
    """Super-resolution networks of ten thousand parameters; a CPU trains one in minutes."""

    name: ClassVar[str] = "esrn/small"
    preset: ClassVar[Preset] = Preset(
        slots=6, least=2, depths=(2, 3, 4), growths=(8, 16), widths=(8, 16, 24), features=16
    )


class ESRNTiny(ResidualDenseSpace):
    """All 155 super-resolution networks of three slots and five kinds of blocks.

    All of them were trained, since they are few.
    """

    name: ClassVar[str] = "esrn/tiny"
    preset: ClassVar[Preset] = Preset(slots=3, least=1, depths=(1, 4), growths=(8,), widths=(16,), features=16)
