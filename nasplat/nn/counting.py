"""Counts of a built network, which the cost that its search space gives must equal.

Searches compare architectures by the cost that their space computes without building them. So a space that computes it
wrongly would win by its error. Whatever builds a network to measure it counts its parameters, and an export counts the
multiply-accumulates as well.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nasplat.architecture import IO, Architecture
from nasplat.cost import counted_macs, counted_params
from nasplat.errors import TrialFailed
from nasplat.search_space import GeneSpace, SearchSpace

if TYPE_CHECKING:
    from torch import nn


CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux tells a container's limit of memory in bytes, or ``max``."""


def built(space: SearchSpace, architecture: Architecture, io: IO) -> "nn.Module":
    """A new network of the space, on the CPU, whose parameters were counted.

    Raises:
        TrialFailed: It has other parameters than the space computes for it, or more than fit into memory.
    """
    _check_memory(space.cost(architecture, io).params, architecture)
    network = space.build(architecture, io)
    check_params(network, space, architecture, io)
    return network


def _check_memory(params: int, architecture: Architecture) -> None:
    """Refuse a network before it is built, if its parameters alone exceed the memory; the system might end the process.

    Raises:
        TrialFailed: They do.
    """
    needed, present = 4 * params, memory_bytes()
    if needed > present:
        raise TrialFailed(
            "too large",
            f"the network of {architecture} has {params:,} parameters, which take {needed / 1e9:,.1f} GB, but there "
            f"are {present / 1e9:,.1f} GB of memory; choose a smaller network or smaller options of its space",
        )


def memory_bytes() -> int:
    """The memory that this process may use at most: the machine's, or the limit of its container."""
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = CONTAINER_LIMIT.read_text(encoding="ascii").strip()
    except OSError:  # another system, or no container
        return present
    return min(present, int(limit)) if limit.isdecimal() else present


def check_params(network: "nn.Module", space: SearchSpace, architecture: Architecture, io: IO) -> None:
    """Count the parameters of an architecture's network, in some hundred microseconds.

    Raises:
        TrialFailed: It has other parameters than the space computes for it.
    """
    _compare("parameters", space.cost(architecture, io).params, counted_params(network), space, architecture)


def check_macs(network: "nn.Module", space: SearchSpace, architecture: Architecture, io: IO) -> None:
    """Count the multiply-accumulates of an architecture's network, in tens of milliseconds.

    Raises:
        TrialFailed: It has other multiply-accumulates than the space computes for it.
    """
    _compare("multiply-accumulates", space.cost(architecture, io).macs, counted_macs(network, io), space, architecture)


def _compare(what: str, claimed: int, counted: int, space: SearchSpace, architecture: Architecture) -> None:
    if counted == claimed:
        return
    if isinstance(space, GeneSpace) and space.counts_its_networks:
        raise TrialFailed("not reproducible", space.irreproducible(architecture, f"{claimed:,} {what}", f"{counted:,}"))
    raise TrialFailed(
        "wrong cost",
        f"the search space {space.name} computes {claimed:,} {what} for {architecture.code}, but the network that "
        f"it builds has {counted:,}; correct cost or build of {type(space).__name__}, which "
        "nasplat.testing.SEARCH_SPACE_CHECKS compare",
    )
