"""The pruned graph: zeros and dead edges are dropped, and skip connections are contracted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasplat.graph import ABSENT, Graphs, Role


@dataclass(frozen=True, slots=True)
class PrunedGraphs:
    """The live nodes of graphs, and the number of connections between each pair of them.

    Args:
        graphs: The original graphs.
        live: Whether a node is on a path from an input to an output and is not a skip connection, `[n, nodes]`.
        edges: Number of paths from one live node to another over skip connections only, `[n, nodes, nodes]`.
    """

    graphs: Graphs
    live: NDArray[np.bool_]
    edges: NDArray[np.int64]

    @classmethod
    def of(cls, graphs: Graphs) -> "PrunedGraphs":
        """Drop zeros, contract skip connections, and drop nodes that are on no path from input to output."""
        present = graphs.types != ABSENT
        zero, skip, start, end = (roles(graphs, role) for role in (Role.ZERO, Role.IDENTITY, Role.INPUT, Role.OUTPUT))
        flows = present & ~zero
        edges = (graphs.adjacency & flows[:, :, None] & flows[:, None, :]).astype(np.int64)
        nodes = edges.shape[1]
        for k in np.flatnonzero(skip.any(axis=0)):  # in topological order, so that chains of skips are contracted
            through = np.where(skip[:, k, None], edges[:, :, k], 0)
            edges += through[:, :, None] * edges[:, k, None, :]
            edges[skip[:, k], :, k] = 0
            edges[skip[:, k], k, :] = 0
        fed, used = start & flows, end & flows
        for j in range(nodes):
            fed[:, j] |= ((edges[:, :, j] > 0) & fed).any(axis=1)
        for i in reversed(range(nodes)):
            used[:, i] |= ((edges[:, i] > 0) & used).any(axis=1)
        live = fed & used & ~skip
        edges *= live[:, :, None] & live[:, None, :]
        return cls(graphs, live, edges)


def roles(graphs: Graphs, role: Role) -> NDArray[np.bool_]:
    """Whether each position has a node of the role, `[n, nodes]`."""
    wanted = [operation.role is role for operation in graphs.operations]
    return np.array([*wanted, False])[graphs.types]  # the last stands for `ABSENT`
