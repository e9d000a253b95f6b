"""Networks as graphs of operations: an encoding of architectures for predictors, the same for every space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nasplat.cost import Cost
from nasplat.errors import InputError

MOST_KINDS = 32_000
"""The most kinds of operations beside input and output; types are 16-bit numbers."""
MOST_FEATURES = 64
"""Of more features than this, `Graphs.of_features` has no nodes."""
ABSENT = -1
"""The type of a position without a node."""


class Role(StrEnum):
    """The kind of an operation."""

    INPUT = "input"
    OUTPUT = "output"
    CONVOLUTION = "convolution"
    POOLING = "pooling"
    IDENTITY = "identity"
    ZERO = "zero"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Operation:
    """One type of node.

    Args:
        name: The space's name for it, such as ``conv3x3``.
        role: Its kind; a zero outputs nothing, and an identity outputs its input.
        kernel: The side of its window, in pixels.
    """

    name: str
    role: Role
    kernel: int = 1


@dataclass(frozen=True, slots=True)
class Graphs:
    """Architectures of one space as directed acyclic graphs: operations are nodes, and data flows along edges.

    Nodes are numbered so that every edge leads to a higher number. Every graph has as many positions as the space's
    largest graph; a position without a node has the type `ABSENT`, no edges and no cost. A repeated part, such as a
    cell, is one subgraph, and the cost of each of its nodes is the sum over all repetitions.

    Args:
        operations: The operation of each type, the same for a whole space.
        types: Indices into `operations`, `[n, nodes]`.
        adjacency: Whether an edge leads from the first node to the second, `[n, nodes, nodes]`.
        params: Trainable parameters of each node, `[n, nodes]`.
        macs: Multiply-accumulates of each node, `[n, nodes]`.
    """

    operations: tuple[Operation, ...]
    types: NDArray[np.int16]
    adjacency: NDArray[np.bool_]
    params: NDArray[np.int64]
    macs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.types)

    def __getitem__(self, chosen: slice | NDArray[np.intp]) -> "Graphs":
        """Some of the graphs."""
        return Graphs(
            self.operations, self.types[chosen], self.adjacency[chosen], self.params[chosen], self.macs[chosen]
        )

    @classmethod
    def stack(cls, graphs: Sequence["Graphs"]) -> Self:
        """Join several batches of one space.

        Raises:
            InputError: There are no batches, or they are of different spaces.
        """
        if not graphs:
            raise InputError("graphs are stacked from at least one, but got none")
        if len({(each.operations, each.types.shape[1]) for each in graphs}) > 1:
            raise InputError("graphs are stacked within one space, but these have different operations or sizes")
        return cls(
            graphs[0].operations,
            np.concatenate([each.types for each in graphs]),
            np.concatenate([each.adjacency for each in graphs]),
            np.concatenate([each.params for each in graphs]),
            np.concatenate([each.macs for each in graphs]),
        )

    @classmethod
    def chains(cls, names: Sequence[str], places: int, chains: Sequence[Mapping[int, tuple[int, int, int]]]) -> Self:
        """Graphs in which each node leads to the next: the input, chosen nodes, the output.

        Args:
            names: The names of operations, of which no more is known.
            places: Number of places between input and output.
            chains: The nodes of each graph by their places, rising: name, parameters, multiply-accumulates.

        Raises:
            InputError: There are too many names.
        """
        if len(names) > MOST_KINDS:
            raise InputError(
                f"graphs must have at most {MOST_KINDS:,} kinds of operations, but got {len(names):,}; override graphs"
            )
        last, n = places + 1, len(chains)
        others = (Operation(name, Role.OTHER) for name in names)
        operations = (Operation("input", Role.INPUT), *others, Operation("output", Role.OUTPUT))
        types = np.full((n, last + 1), ABSENT, dtype=np.int16)
        types[:, 0], types[:, last] = 0, len(operations) - 1
        params, macs = np.zeros((2, n, last + 1), dtype=np.int64)
        adjacency = np.zeros((n, last + 1, last + 1), dtype=bool)
        for row, chain in enumerate(chains):
            for place, (name, node_params, node_macs) in chain.items():
                types[row, 1 + place], params[row, 1 + place], macs[row, 1 + place] = 1 + name, node_params, node_macs
            path = [0, *(1 + place for place in chain), last]
            adjacency[row, path[:-1], path[1:]] = True
        return cls(operations, types, adjacency, params, macs)

    @classmethod
    def of_features(cls, features: NDArray[np.float64], costs: Sequence[Cost]) -> Self:
        """Chains of the whole network, with its cost, and a node for each feature that is not zero, if they are few.

        Args:
            features: The features of each network, `[n, features]`.
            costs: The cost of each network.
        """
        if features.shape[1] > MOST_FEATURES:
            features = features[:, :0]  # a graph takes memory by the square of its nodes
        names = ["network", *(f"feature {i}" for i in range(features.shape[1]))]
        chains = [
            {0: (0, cost.params, cost.macs), **{1 + i: (1 + i, 0, 0) for i in np.flatnonzero(row).tolist()}}
            for row, cost in zip(features, costs, strict=True)
        ]
        return cls.chains(names, len(names), chains)

    def check(self) -> None:
        """Check that the arrays are graphs of this form.

        Raises:
            InputError: They are not; the message says what is wrong, and where.
        """
        n, nodes = self.types.shape
        for name, shape in (("adjacency", (n, nodes, nodes)), ("params", (n, nodes)), ("macs", (n, nodes))):
            if getattr(self, name).shape != shape:
                raise InputError(
                    f"{name} of {n} graphs of {nodes} nodes has the shape {shape}, but got {getattr(self, name).shape}"
                )
        if not ((self.types >= ABSENT) & (self.types < len(self.operations))).all():
            raise InputError(f"a type is {ABSENT} to {len(self.operations) - 1}, but got {np.unique(self.types)}")
        absent = self.types == ABSENT
        if np.tril(self.adjacency).any():
            raise InputError("an edge of a graph leads to a higher number, but there are others")
        if (self.adjacency & (absent[:, :, None] | absent[:, None, :])).any():
            raise InputError("an edge joins two nodes, but there are edges at places without a node")
        if any((cost < 0).any() or cost[absent].any() for cost in (self.params, self.macs)):
            raise InputError("the cost of a node is not negative, and places without a node cost nothing")
