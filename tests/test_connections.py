"""Connections without a request: they are ended by a deadline, and one peer has only its share of them."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import chain
from typing import Any

import pytest
import uvicorn

from nasplat.server.connections import Limits, limited

PATIENCE = 60.0
"""Seconds after which a test stops waiting for a connection."""
LONG = 3600.0
"""A deadline that no test reaches."""
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER = b"x" * 5_000_000
"""More than the system keeps for a peer that does not read."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers every request; /long with more than fits into buffers, /body when it has come."""
    assert scope["type"] == "http"
    if scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]
                if scope["path"] == "/" else []})  # fmt: skip
    await send({"type": "http.response.body", "body": b"ok" if scope["path"] == "/" else ANSWER})


def served(limits: Limits, client: Callable[[int], Awaitable[None]], application: Any = application) -> None:
    """Run a client, which is given the port, beside a server with these limits."""

    async def both() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
            config = uvicorn.Config(application, http=limited(limits), lifespan="off", log_config=None, ws="none")
            server = uvicorn.Server(config)
            task = asyncio.create_task(server._serve([listening]))
            try:
                async with asyncio.timeout(PATIENCE):
                    await client(listening.getsockname()[1])
            finally:
                server.should_exit = server.force_exit = True
                await task

    asyncio.run(both())


async def opened(port: int, host: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from an address of this machine."""
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))


async def answer(port: int, host: str = "127.0.0.1", request: bytes = REQUEST) -> bytes:
    """The first line of the answer to a request over a connection of its own."""
    reader, writer = await opened(port, host)
    with suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
    try:
        return await reader.readline()
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait until the server has ended a connection, whatever it sent before."""
    with suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


async def aged(limits: Limits, *, in_request: bool) -> None:
    """Let all connections have been silent for a minute, once they are in a request, or not."""
    while not all(each.in_request == in_request for each in chain(*limits.peers.values())):
        await asyncio.sleep(0)
    for each in chain(*limits.peers.values()):
        each.since -= 60


HALF = {
    "nothing": b"",
    "half of a head": REQUEST[:9],
    "half of a body": b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123",
}
"""What a peer sends that keeps the server waiting for the rest."""


@pytest.mark.slow
@pytest.mark.parametrize("start", HALF.values(), ids=HALF)
@pytest.mark.parametrize(("per_peer", "hosts"), [(60, 1), (50, 3)], ids=["one peer", "all peers"])
def test_silent_connections_make_room_for_requests(start: bytes, per_peer: int, hosts: int) -> None:
    limits = Limits(seconds=LONG, per_peer=per_peer, total=100)

    async def crowd(port: int) -> None:
        silent = [await opened(port, f"127.0.0.{2 + number % hosts}") for number in range(50 * hosts)]
        for _, writer in silent:
            writer.write(start)
            await writer.drain()
        await aged(limits, in_request=start.startswith(b"POST"))
        for host in ("127.0.0.1", "127.0.0.2"):
            answers = await asyncio.gather(*(answer(port, host) for _ in range(20)))
            assert answers == 20 * [b"HTTP/1.1 200 OK\r\n"]
        await ended(silent[0][0])  # the oldest
        assert sum(map(len, limits.peers.values())) <= 100
        for _, writer in silent:
            writer.close()

    served(limits, crowd)
    assert not limits.peers


@pytest.mark.slow
@pytest.mark.parametrize("start", HALF.values(), ids=HALF)
def test_a_peer_with_few_connections_keeps_them(start: bytes) -> None:
    limits = Limits(seconds=LONG, per_peer=25, total=100)

    async def honest(port: int) -> None:
        kept, keeping = await opened(port)
        keeping.write(REQUEST)
        await kept.readuntil(b"ok")
        upload, uploading = await opened(port)
        uploading.write(HALF["half of a body"])
        await uploading.drain()
        crowd = [await opened(port, f"127.0.0.{2 + number % 4}") for number in range(300)]
        for _, writer in crowd:
            with suppress(ConnectionError):
                writer.write(start)
                await writer.drain()
        await ended(crowd[0][0])
        uploading.write(b"456789")
        assert await upload.readline() == b"HTTP/1.1 200 OK\r\n"
        keeping.write(REQUEST)
        assert await kept.readline() == b"HTTP/1.1 200 OK\r\n"
        for writer in (keeping, uploading, *(writer for _, writer in crowd)):
            writer.close()

    served(limits, honest)


@pytest.mark.parametrize(
    ("silence", "cut"),
    [({"upload": 9, "other": 8, "idle": 1}, "idle"), ({"upload": 9, "other": 12, "idle": 1}, "other")],
)
def test_a_pause_within_a_request_is_borne_for_longer(silence: dict[str, float], cut: str) -> None:
    limits = Limits(seconds=LONG, per_peer=3)

    async def paused(port: int) -> None:
        clients = {}
        for name, seconds in silence.items():
            before = set(chain(*limits.peers.values()))
            _, writer = clients[name] = await opened(port)
            while not (new := set(chain(*limits.peers.values())) - before):
                await asyncio.sleep(0)
            (connection,) = new
            if name != "idle":
                writer.write(HALF["half of a body"])
                while not connection.in_request:
                    await asyncio.sleep(0)
            connection.since -= seconds
        assert await answer(port) == b"HTTP/1.1 200 OK\r\n"
        await ended(clients[cut][0])
        for name in {"upload", "other"} - {cut}:
            reader, writer = clients[name]
            writer.write(b"456789")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for _, writer in clients.values():
            writer.close()

    served(limits, paused)


def test_what_a_peer_sends_ends_its_silence() -> None:
    limits = Limits(seconds=LONG)

    async def sending(port: int) -> None:
        _, writer = await opened(port)
        writer.write(HALF["half of a body"])
        while "127.0.0.1" not in limits.peers:
            await asyncio.sleep(0)
        await aged(limits, in_request=True)
        (connection,) = limits.peers["127.0.0.1"]
        before = connection.since
        writer.write(b"4")
        while connection.since < before + 60:
            await asyncio.sleep(0)
        writer.close()

    served(limits, sending)


@pytest.mark.parametrize("options", [{"per_peer": 2}, {"total": 2}], ids=["one peer", "all peers"])
def test_nobody_is_cut_off_whom_the_server_works_for(options: dict[str, Any]) -> None:
    at_work: list[asyncio.Event] = []

    async def working(scope: Any, receive: Any, send: Any) -> None:
        at_work.append(asyncio.Event())
        await at_work[-1].wait()
        await application(scope, receive, send)

    async def busy(port: int) -> None:
        asked = [await opened(port) for _ in range(2)]
        for _, writer in asked:
            writer.write(REQUEST)
        while len(at_work) < 2:
            await asyncio.sleep(0)
        assert (await answer(port, request=b"")).startswith(b"HTTP/1.1 503 ")
        for event in at_work:
            event.set()
        for reader, writer in asked:
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            writer.close()

    served(Limits(**options), busy, working)


@pytest.mark.parametrize(
    "start",
    [b"", REQUEST[:9], REQUEST + REQUEST[:9], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123"],
    ids=["nothing", "half of a head", "half of a second head", "half of a body that nobody waits for"],
)  # fmt: skip
def test_a_connection_that_asks_nothing_is_ended(start: bytes) -> None:
    limits = Limits(seconds=0.05)

    async def silent(port: int) -> None:
        reader, writer = await opened(port)
        writer.write(start)
        await ended(reader)
        writer.close()
        limits.seconds = LONG
        assert await answer(port) == b"HTTP/1.1 200 OK\r\n"

    served(limits, silent)


def test_bytes_that_complete_nothing_do_not_move_the_deadline() -> None:
    async def dripping(port: int) -> None:
        reader, writer = await opened(port)
        writer.write(b"GET / HTTP/1.1\r\n")
        end = asyncio.create_task(ended(reader))
        while not end.done():
            with suppress(ConnectionError):
                writer.write(b"a: b\r\n")
                await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    served(Limits(seconds=0.05), dripping)


def test_a_peer_that_takes_nothing_of_its_answer_is_cut_off() -> None:
    limits = Limits(seconds=0.05)

    async def deaf(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not limits.peers:
                await asyncio.sleep(0.001)
            while limits.peers:
                await asyncio.sleep(0.001)

    served(limits, deaf)
