"""Counts of a built network, which the cost that its search space gives must equal.

Searches compare architectures by the cost that their space computes without building them. So a space that computes it
wrongly would win by its error. Whatever builds a network to measure it counts its parameters, and an export counts the
multiply-accumulates as well.
"""

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nasplat.architecture import IO, Architecture
from nasplat.errors import TrialFailed
from nasplat.search_space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def counted_params(network: "nn.Module") -> int:
    """The number of trainable parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def counted_macs(network: "nn.Module", io: IO) -> int:
    """The multiply-accumulates of convolutions and matrix products in evaluation, for one example.

    That is half of what torch's FlopCounterMode counts. Nothing is computed, if the network runs on the meta device.
    """
    import torch

    try:
        return _half_of_flops(copy.deepcopy(network).to("meta"), torch.zeros(1, *io.input_shape, device="meta"))
    except (RuntimeError, TypeError, ValueError):  # the network looks at values, or keeps tensors where it is
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        return _half_of_flops(copy.deepcopy(network), torch.zeros(1, *io.input_shape, device=device))


def _half_of_flops(network: "nn.Module", examples: "Tensor") -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(examples)
    return counter.get_total_flops() // 2


def _compare(what: str, claimed: int, counted: int, space: SearchSpace, architecture: Architecture) -> None:
    if counted != claimed:
        raise TrialFailed(
            "wrong cost",
            f"the search space {space.name} computes {claimed:,} {what} for {architecture.code}, but the network that "
            f"it builds has {counted:,}; correct cost or build of {type(space).__name__}, which "
            "nasplat.testing.SEARCH_SPACE_CHECKS compare",
        )
