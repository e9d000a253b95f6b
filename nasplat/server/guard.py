"""What comes before the routes: the Host header and the token are checked, and HEAD becomes GET.

After them comes the log, which is shown no query.
"""

import ipaddress
import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

SHORTEST_TOKEN = 16
OPEN = "/healthz"
"""The path that needs no token."""


def is_loopback(host: str) -> bool:
    """Whether an address is a loopback address, which no other computer can reach.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response in JSON, which browsers do not interpret as another type."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign, spelt in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(sign, spelt)
    kept = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **(headers or {})}
    return Response(text, status, kept, "application/json")


def refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The common format of all errors: ``{"error": {"code": …, "message": …}}``."""
    return as_json({"error": {"code": code, "message": message}}, status, headers)


class Guard:
    """Passes requests with an allowed Host header and the right token.

    A foreign web page in a browser on this machine can reach a loopback address under its own host name. The Host
    header reveals this. For other addresses, the token keeps such pages out.

    Args:
        app: The guarded application.
        hosts: The names that a Host header may have, without port; None for any.
        token: The required token of the Authorization header; None for no token.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, token: str | None) -> None:
        self._app = app
        self._hosts = hosts
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refused := self._refuse(scope)) is not None:
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, scope: Scope) -> Response | None:
        given: dict[bytes, bytes] = dict(scope["headers"])
        if self._hosts is not None and _name(given.get(b"host", b"")) not in self._hosts:
            return refusal(400, "wrong_host", f"the Host header must be one of {', '.join(sorted(self._hosts))}")
        if self._token is None or scope["path"] == OPEN:
            return None
        scheme, _, token = given.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and secrets.compare_digest(token.strip(), self._token):
            return None
        return refusal(
            401,
            "unauthorized",
            "this server requires a token; send the header Authorization: Bearer TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )


class HeadAsGet:
    """Answers HEAD as GET: the server leaves out the body of the answer, which it knows from the request.

    As a middleware, so that no route is described twice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        await self._app({**scope, "method": "GET"} if head else scope, receive, send)


class WithoutQuery(logging.Filter):
    """Strips the query from uvicorn's lines on requests: no route has one, but some clients send their token in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(each.partition("?")[0] if isinstance(each, str) else each for each in record.args)
        return True


def _name(host: bytes) -> str:
    """A Host header without its port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
