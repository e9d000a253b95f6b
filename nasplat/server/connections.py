"""Connections: how many one peer may have, and how long it may keep the server waiting.

Both hold before a request exists, so that they hold for those who have no token.
"""

import asyncio
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    b'{"error":{"code":"busy","message":"the server works for all connections that it allows, in all or from one '
    b'address; try again"}}'
)
SILENCE_IN_REQUEST = 0.1
"""What a second of silence within a request counts, compared with one between requests: uploads have pauses, and yet a
peer cannot fill its places with requests that it does not complete."""


@dataclass(slots=True)
class Limits:
    """The limits of connections, and the connections that each peer has.

    At a limit a new connection takes the place of one that keeps the server waiting. It belongs to the peer with the
    most connections, or to the newcomer's if none has more, and has been silent for longest. So a peer with few
    connections is answered, and loses none to those with many.

    Args:
        seconds: How long a peer may take for the head of a request, and for taking in what it is sent.
        per_peer: The number of connections that a peer may have open.
        total: The number of connections that all peers may have open.
    """

    seconds: float = 20.0
    per_peer: int = 250
    total: int = 1000
    peers: "dict[str, set[LimitedConnection]]" = field(default_factory=dict)

    def admit(self, new: "LimitedConnection") -> bool:
        """Count a new connection, or return whether there is none whose place it could take."""
        own = self.peers.get(new.peer, set())
        if len(own) >= self.per_peer:
            room = self._cut_off_one(own)
        elif sum(map(len, self.peers.values())) >= self.total:
            larger = (each for each in self.peers.values() if len(each) > len(own))
            room = self._cut_off_one(chain(own, *larger))
        else:
            room = True
        if room:
            self.peers.setdefault(new.peer, set()).add(new)
        return room

    def _cut_off_one(self, connections: "Iterable[LimitedConnection]") -> bool:
        """Cut off one of the connections that keep the server waiting, or return that none does."""
        victim = max((each for each in connections if each.keeps_waiting), key=self._precedence, default=None)
        if victim is not None:
            self.remove(victim)
            victim.transport.abort()
        return victim is not None

    def _precedence(self, connection: "LimitedConnection") -> tuple[int, float]:
        """The connection with the largest precedence is cut off first."""
        silence = connection.loop.time() - connection.since
        return len(self.peers[connection.peer]), silence * (SILENCE_IN_REQUEST if connection.in_request else 1.0)

    def remove(self, connection: "LimitedConnection") -> None:
        """Count a connection no more, if it was counted."""
        if connection in (own := self.peers.get(connection.peer, set())):
            own.remove(connection)
            if not own:
                del self.peers[connection.peer]


class LimitedConnection(H11Protocol):
    """A connection that is closed if its peer has too many, or keeps the server waiting for too long.

    Uvicorn has a time limit only for idle connections after a response; a single byte lifts it.
    """

    limits: Limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self.peer = peer_of(self.client[0] if self.client else "")
        self.since = self.loop.time()
        """When the peer last sent something, or its turn began or ended."""
        if not self.limits.admit(self):
            transport.write(FULL)
            transport.close()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()
        self.limits.remove(self)

    @property
    def keeps_waiting(self) -> bool:
        """Whether it is the peer's turn: to send the rest of a request, or to take what it is sent."""
        return self._deadline is not None or self.cycle.more_body

    @property
    def in_request(self) -> bool:
        """Whether the head of a request has come, and not all of its answer is sent."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        self.since = self.loop.time()
        super().data_received(data)

    def handle_events(self) -> None:
        """Process what has arrived; a request may be complete now."""
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def _watch(self) -> None:
        """Let the deadline run exactly while it is the peer's turn: to send a request, or to take what it is sent."""
        if self.in_request and not self.flow.write_paused:
            self._stop_watching()
        elif self._deadline is None:
            self.since = self.loop.time()
            self._deadline = self.loop.call_later(self.limits.seconds, self._end)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self.since = self.loop.time()

    def _end(self) -> None:
        """Close the connection; if that takes as long again, since its peer takes nothing, cut it off."""
        if self.transport.is_closing():
            self.transport.abort()
            return
        self.transport.close()
        self._deadline = self.loop.call_later(self.limits.seconds, self._end)


def limited(limits: Limits) -> type[LimitedConnection]:
    """The protocol with these limits, for uvicorn's option ``http``, which takes a class."""

    class Connection(LimitedConnection):
        pass

    Connection.limits = limits
    return Connection


def peer_of(host: str) -> str:
    """What counts as one peer: an IPv4 address, or the first half of an IPv6 address, which one site has whole.

    >>> peer_of("192.0.2.7"), peer_of("2001:db8::1"), peer_of("")
    ('192.0.2.7', '2001:db8::/64', '')
    """
    try:
        address: Any = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a socket without an address
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
