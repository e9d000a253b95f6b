"""Graphs of networks with a choice for each stage."""

from collections.abc import Mapping, Sequence

import numpy as np

from nasplat.graph import ABSENT, Graphs, Operation, Role
from nasplat.search_spaces.transform_choices import Choice


def with_stages(
    below: Graphs, nodes: Sequence[Mapping[int, int]], stages: int, alternatives: Sequence[Choice]
) -> Graphs:
    """Graphs with nodes for stages: a chain from the input to the output, which costs nothing of its own.

    Args:
        below: The graphs, whose first node is an input.
        nodes: For each graph the choice of each stage that has modules.
        stages: The number of stages.
        alternatives: The choices.
    """
    n, size = below.types.shape
    operations = (*below.operations, *(Operation(f"stage {each.name}", Role.OTHER) for each in alternatives))
    old = np.array([0, *range(1 + stages, size + stages)])  # the stages' places are behind the first
    types = np.full((n, size + stages), ABSENT, dtype=np.int16)
    params, macs = np.zeros((2, n, size + stages), dtype=np.int64)
    adjacency = np.zeros((n, size + stages, size + stages), dtype=bool)
    types[:, old], params[:, old], macs[:, old] = below.types, below.params, below.macs
    adjacency[:, old[:, None], old] = below.adjacency
    ends = np.array([operation.role is Role.OUTPUT for operation in below.operations])
    for row, chosen in enumerate(nodes):
        places = [1 + stage for stage in chosen]
        types[row, places] = [len(below.operations) + choice for choice in chosen.values()]
        outputs = [place for place in old if types[row, place] != ABSENT and ends[types[row, place]]]
        path = [0, *places, *outputs[:1]]
        adjacency[row, path[:-1], path[1:]] = True
    return Graphs(operations, types, adjacency, params, macs)
