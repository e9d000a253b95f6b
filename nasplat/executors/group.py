"""Process groups: how workers that train one supernet together find one another."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

GROUP_SECONDS = 600.0
"""How long a member waits for the others, to find them and in each operation, before it fails."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which share of the work a member does.

    Args:
        rank: The member's number; the first is 0, and its outcome is that of the group.
        size: How many members there are.
        backend: What torch calls the way in which they exchange tensors.
    """

    rank: int
    size: int
    backend: str


class Meeting:
    """Where the members of one group find one another; served by the first member's process for as long as it is held.

    Args:
        host: The name under which other nodes reach the first member's.
        port: Where it is served; 0 to serve it here, on a port that is free.
    """

    def __init__(self, host: str, port: int = 0) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, but not in __all__

        patience = timedelta(seconds=GROUP_SECONDS)
        self._store = TCPStore(host, port, is_master=port == 0, timeout=patience, wait_for_workers=False)
        self.address = f"{host}:{self._store.port}"

    @classmethod
    def at(cls, address: str) -> Self:
        """What another process serves there."""
        host, _, port = address.rpartition(":")
        return cls(host, int(port))

    @contextmanager
    def joined(self, share: Share) -> Iterator["ProcessGroup"]:
        """Be a member for as long as the `with` lasts; the process is left as it was, whatever happens.

        Other members that wait for this one when it leaves come free with an error.
        """
        import torch.distributed as dist

        hook = sys.excepthook  # which torch wraps anew with every group
        try:
            dist.init_process_group(
                share.backend,
                store=self._store,
                rank=share.rank,
                world_size=share.size,
                timeout=timedelta(seconds=GROUP_SECONDS),
            )
            assert dist.group.WORLD is not None
            yield dist.group.WORLD
        finally:
            sys.excepthook = hook
            if dist.is_initialized():
                dist.destroy_process_group()

    def fail(self) -> bool:
        """Tell of a failure before leaving; whether it is the group's first, which may be the cause of all others."""
        try:
            return bool(self._store.add("failures", 1) == 1)
        except RuntimeError:  # whoever served has failed before
            return False
