"""Connections without a request: they are ended by a deadline, and one peer has only its share of them."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
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
    """Answers every request; /long with more than fits into buffers."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]
                if scope["path"] == "/" else []})  # fmt: skip
    await send({"type": "http.response.body", "body": b"ok" if scope["path"] == "/" else ANSWER})


def served(limits: Limits, client: Callable[[int], Awaitable[None]]) -> None:
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


@pytest.mark.slow
def test_silent_connections_of_one_peer_leave_room_for_others() -> None:
    limits = Limits(seconds=LONG, per_peer=100)

    async def crowd(port: int) -> None:
        silent = [await opened(port) for _ in range(100)]
        assert (await answer(port, request=b"")).startswith(b"HTTP/1.1 503 ")
        assert await answer(port, "127.0.0.2") == b"HTTP/1.1 200 OK\r\n"
        for _, writer in silent[:2]:
            writer.close()
        while limits.peers["127.0.0.1"] > 99:
            await asyncio.sleep(0)
        assert await answer(port) == b"HTTP/1.1 200 OK\r\n"
        for _, writer in silent[2:]:
            writer.close()

    served(limits, crowd)
    assert not limits.peers


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
