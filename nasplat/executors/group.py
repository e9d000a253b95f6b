"""Process groups: the rendezvous of workers that train one supernet together."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

GROUP_SECONDS = 600.0
"""Timeout of a rank for the rendezvous and for each collective operation."""


@dataclass(frozen=True, slots=True)
class Rank:
    """The rank of a worker in a process group.

    Args:
        index: The number of the rank, from 0; the outcome of rank 0 is that of the group.
        size: Number of ranks.
        backend: The torch backend for communication.
    """

    index: int
    size: int
    backend: str


class Rendezvous:
    """The rendezvous of one process group; the process of rank 0 serves it as long as this object exists.

    Args:
        host: The host name of rank 0 for other nodes.
        port: The port of an existing rendezvous; 0 to serve a new one here, on a free port.
    """

    def __init__(self, host: str, port: int = 0) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, but not in __all__

        patience = timedelta(seconds=GROUP_SECONDS)
        self._store = TCPStore(host, port, is_master=port == 0, timeout=patience, wait_for_workers=False)
        self.address = f"{host}:{self._store.port}"

    @classmethod
    def at(cls, address: str) -> Self:
        """Connect to the rendezvous that another process serves."""
        host, _, port = address.rpartition(":")
        return cls(host, int(port))

    @contextmanager
    def joined(self, rank: Rank) -> Iterator["ProcessGroup"]:
        """Join the group inside the `with` block; the process is restored afterwards in any case.

        Other ranks that wait for this one when it leaves get an error.
        """
        import torch.distributed as dist

        hook = sys.excepthook  # which torch wraps anew with every group
        try:
            dist.init_process_group(
                rank.backend,
                store=self._store,
                rank=rank.index,
                world_size=rank.size,
                timeout=timedelta(seconds=GROUP_SECONDS),
            )
            assert dist.group.WORLD is not None
            yield dist.group.WORLD
        finally:
            sys.excepthook = hook
            if dist.is_initialized():
                dist.destroy_process_group()

    def fail(self) -> bool:
        """Report a failure before leaving; return whether it is the group's first, which may cause all others."""
        try:
            return bool(self._store.add("failures", 1) == 1)
        except RuntimeError:  # rank 0, which serves the rendezvous, failed before
            return False
