"""`nasplat serve`: a saved predictor over HTTP."""

import os
import resource
import signal
import socket
from copy import deepcopy
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nasplat.cli.console import err, out
from nasplat.errors import InputError
from nasplat.interface.interruption import hangs_up
from nasplat.storage.files import read_file
from nasplat.surrogates.predictor_store import StoredPredictor, open_predictor

TOKEN = "NASPLAT_TOKEN"
BACKLOG = 256
"""Maximum number of connections that the system holds ready, all of which may be accepted at once."""
FILES = 2048
"""The number of open files that suffices for all connections, those about to be closed, and what else is open."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def serve(
    predictor: Annotated[Path, typer.Option(help="The folder that a predictor was saved in.", show_default=False)],
    host: Annotated[str, typer.Option(help="The address to listen on; any but a loopback address needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any free port.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"A file with the token that requests must have. Default: the variable {TOKEN}, if it is set.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, max=100_000, help="Maximum number of architectures in a request.")
    ] = 1024,
    log: Annotated[bool, typer.Option("--log", help="Log every request to standard error.")] = False,
) -> None:
    """Serve a saved predictor over HTTP, until Ctrl-C.

    POST /v1/predict and /v1/rank take {"architectures": [CODE, …]}; GET /v1/model describes the
    predictor, GET /healthz shows that the server runs, and GET /openapi.json describes all routes.
    """
    from nasplat.server.guard import is_loopback

    token = _token(token_file)
    loopback = is_loopback(host)
    if not loopback and token is None:
        raise InputError(
            f"{host} can be reached from other machines, so it needs a token; give --token-file FILE or set {TOKEN}, "
            "or leave --host out"
        )
    saved = open_predictor(predictor)
    with _listening(host, port) as listening:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        hosts = LOOPBACK | {host.lower()} if loopback else None
        _announce(saved, address, token is not None)
        _serve(saved, listening, batch, token, hosts, log)


def _announce(saved: StoredPredictor, address: str, guarded: bool) -> None:
    learnt = saved.about.get("count")
    from_ = f", trained on {learnt} architectures" if isinstance(learnt, int) else ""
    out.print(f"serving {escape(saved.predictor.name)} of {escape(saved.space.name)}{from_}")
    out.print(f"  values   {escape(saved.unit)}")
    out.print(f"  address  {escape(address)}{'  (with the header Authorization: Bearer TOKEN)' if guarded else ''}")
    out.print(f"  routes   {escape(address)}/openapi.json")
    out.print("Ctrl-C ends it")
    out.file.flush()


def _serve(
    saved: StoredPredictor,
    listening: socket.socket,
    batch: int,
    token: str | None,
    hosts: frozenset[str] | None,
    log: bool,
) -> None:
    import uvicorn
    from uvicorn.config import LOGGING_CONFIG

    from nasplat.server.app import make_app
    from nasplat.server.connections import Limits, limited

    limits, files = Limits(), _open_files()
    limits.total = min(limits.total, files // 2)
    app = make_app(saved, batch=batch, token=token, hosts=hosts)
    logging = deepcopy(LOGGING_CONFIG)
    logging["filters"] = {"query": {"()": "nasplat.server.guard.WithoutQuery"}}
    logging["handlers"]["access"] |= {"stream": "ext://sys.stderr", "filters": ["query"]}
    config = uvicorn.Config(
        app,
        log_config=logging,
        log_level="info" if log else "error",
        access_log=log,
        lifespan="on",
        http=limited(limits),
        ws="none",
        server_header=False,
        backlog=min(BACKLOG, files // 8),  # some are accepted before those that they push out are closed
        timeout_graceful_shutdown=5,
    )
    # The server stops cleanly on SIGINT or SIGTERM and then raises the signal again. Both are interruptions, and so is
    # a closed terminal, of which the server does not know.
    # Shells start background jobs with SIGINT ignored, and Python then installs no handler for it.
    before = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGTERM)}
    if hangs_up():
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        err.print("interrupted; the server has ended")
        raise typer.Exit(130) from None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _listening(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is reported before any other message."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        known = isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno
        why = os.strerror(known) if known else str(error)
        raise InputError(f"cannot listen on {host}, port {port}: {why}; choose another --host or --port") from None


def _open_files() -> int:
    """The limit of open files, raised as far as it is needed and allowed; each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES:
        return FILES
    allowed = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def _token(file: Path | None) -> str | None:
    """The token, which no command line shows."""
    from nasplat.server.guard import SHORTEST_TOKEN

    if file is None:
        given, place = os.environ.get(TOKEN), f"the variable {TOKEN}"
    else:
        place = f"the token in {file}"
        try:
            given = read_file(file).decode().strip()
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
            raise InputError(f"the token file {file} cannot be read: {why}") from None
    if given is None:
        return None
    if len(given) < SHORTEST_TOKEN or not given.isascii() or not given.isprintable() or " " in given:
        raise InputError(
            f"a token must have at least {SHORTEST_TOKEN} characters, all printable ASCII without blanks, "
            f"but {place}, with {len(given)} characters, breaks this rule; make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return given
