"""The routes: prediction, ranking, description of the served predictor, and health."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from numpy.random import default_rng
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import nasplat
from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.options import rule_and_value, shortly
from nasplat.predictor import UncertainPredictor, options_of
from nasplat.server.batching import Batcher, OverfullError
from nasplat.server.guard import Guard, HeadAsGet, as_json, refusal
from nasplat.server.schema import Health, Model, Predictions, Ranking, Refusal, requests
from nasplat.surrogates.predictor_store import Predicted, StoredPredictor, best_first
from nasplat.surrogates.training_set import LONGEST, member

BATCH = 1024
"""The default limit of architectures in a request."""
WAITING = 32
"""The number of largest requests that may wait."""
BODY_SECONDS = 30.0
"""The time limit for receiving a body, in seconds."""
NOT_FINITE = "the predictor gave no finite value"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>NASPlat</title>
<h1>A predictor of NASPlat</h1>
<ul><li>POST /v1/predict<li>POST /v1/rank<li><a href="v1/model">GET /v1/model</a>
<li><a href="healthz">GET /healthz</a><li><a href="openapi.json">GET /openapi.json</a>, the full description</ul>
"""


class _Refused(Exception):
    """Ends a request with an error."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.response = refusal(status, code, message, headers)


def make_app(
    saved: StoredPredictor, *, batch: int = BATCH, token: str | None = None, hosts: frozenset[str] | None = None
) -> FastAPI:
    """The application that serves a predictor.

    Args:
        saved: What is served.
        batch: The limit of architectures in a request and in one call of the predictor.
        token: The token of all requests except ``/healthz``; None for no token.
        hosts: The names that a Host header may have; None for any.
    """
    space, metric = saved.space, saved.metric and saved.metric.as_json()
    batcher = Batcher(saved.predictor, saved.metric, largest=batch, waiting=WAITING * batch)
    body_bytes = (1 << 16) + batch * (LONGEST + 4)
    rng = default_rng(0)
    asked, ranked = requests(space.name, batch, [space.sample(rng).code for _ in range(2)])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()

    app = FastAPI(
        title="NASPlat predictor",
        version=nasplat.__version__,
        description=f"Estimates and ranks architectures of the search space {space.name} with a saved predictor "
        f"({saved.predictor.name}). Values are of {shortly(saved.unit)[1:-1]}. "
        f"A request can have at most {batch} architectures and {body_bytes:,} bytes.",
        docs_url=None,  # it would load scripts from foreign hosts
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )

    async def scored(body: Any) -> list[tuple[str, Predicted | None, str | None]]:
        """For every text: the architecture, its prediction, and the error if there is none."""
        read: list[Architecture | InputError] = [_read(saved, text) for text in body.architectures]
        try:
            found = iter(await batcher.predict([each for each in read if isinstance(each, Architecture)]))
        except OverfullError as error:
            raise _Refused(503, "busy", f"{error}; try again", {"Retry-After": "1"}) from None
        return [
            (_excerpt(text), None, str(each)) if isinstance(each, InputError) else _checked(each, next(found))
            for text, each in zip(body.architectures, read, strict=True)
        ]

    async def predict(request: Request) -> Response:
        """Estimate the metric of architectures. One that cannot be read has an error of its own."""
        items = await scored(await _body(request, asked, body_bytes))
        return as_json(
            {
                "metric": metric,
                "predictions": [
                    {
                        "architecture": code,
                        "value": predicted and predicted.value,
                        "deviation": predicted and predicted.deviation,
                        "error": error,
                    }
                    for code, predicted, error in items
                ],
            }
        )

    async def rank(request: Request) -> Response:
        """Rank architectures, the best first. Those that cannot be read are listed apart."""
        body: Any = await _body(request, ranked, body_bytes)
        items = list(enumerate(await scored(body)))
        placed = [(index, code, predicted) for index, (code, predicted, _) in items if predicted]
        order = best_first([predicted for _, _, predicted in placed], saved.metric)
        return as_json(
            {
                "metric": metric,
                "ranking": [
                    {
                        "rank": place,
                        "index": index,
                        "architecture": code,
                        "value": predicted.value,
                        "deviation": predicted.deviation,
                    }
                    for place, (index, code, predicted) in enumerate((placed[i] for i in order[: body.top]), 1)
                ],
                "errors": [
                    {"index": index, "architecture": code, "error": error} for index, (code, _, error) in items if error
                ],
            }
        )

    described = as_json(
        {
            "predictor": saved.predictor.name,
            "options": saved.predictor.options(),
            "space": {"name": space.name, "options": options_of(space)},
            "deviations": isinstance(saved.predictor, UncertainPredictor),
            "metric": metric,
            "values": saved.unit,
            "about": saved.about,
            "digest": saved.digest,
            "saved_with": saved.versions,
            "version": nasplat.__version__,
            "limits": {"batch": batch, "body_bytes": body_bytes, "code_characters": LONGEST},
        }
    )

    async def model(request: Request) -> Response:
        """Tell what is served."""
        return described

    async def health(request: Request) -> Response:
        """Tell that the server answers; needs no token."""
        return as_json({"status": "ok"})

    async def page(request: Request) -> Response:
        """List the routes, for people who come with a browser."""
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": "default-src 'none'"})

    for path, handler, answer, body in (
        ("/v1/predict", predict, Predictions, asked),
        ("/v1/rank", rank, Ranking, ranked),
        ("/v1/model", model, Model, None),
        ("/healthz", health, Health, None),
    ):
        app.add_api_route(
            path,
            handler,
            methods=["GET" if body is None else "POST"],
            response_class=Response,
            responses=_responses(answer, posts=body is not None, guarded=token is not None and handler is not health),
            openapi_extra=None if body is None else {"requestBody": _described_body(body)},
            operation_id=handler.__name__,
        )
    app.add_api_route("/", page, methods=["GET"], response_class=HTMLResponse, include_in_schema=False)
    app.add_exception_handler(_Refused, _told)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(Exception, _told)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Guard, hosts=hosts, token=token)
    if token is not None:
        _describe_token(app)
    return app


def _read(saved: StoredPredictor, text: str) -> Architecture | InputError:
    try:
        return member(saved.space, text)
    except InputError as error:
        return error


def _checked(architecture: Architecture, predicted: Predicted) -> tuple[str, Predicted | None, str | None]:
    finite = math.isfinite(predicted.value) and (predicted.deviation is None or math.isfinite(predicted.deviation))
    return (architecture.code, predicted, None) if finite else (architecture.code, None, NOT_FINITE)


def _excerpt(text: str) -> str:
    return shortly(text)[1:-1]


async def _body(request: Request, model: type[BaseModel], most: int) -> BaseModel:
    """The request's body, read up to the size limit and validated.

    Raises:
        _Refused: The body is too large, too slow or invalid.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _Refused(415, "not_json", f"the body must be of the type application/json, but got {shortly(kind)}")
    too_large = _Refused(413, "too_large", f"the body must have at most {most:,} bytes", {"Connection": "close"})
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 20 or int(length) > most:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise too_large
    except ClientDisconnect:
        raise _Refused(400, "cut_off", "the connection was closed before the end of the body") from None
    except TimeoutError:
        message = f"the body must arrive within {BODY_SECONDS:g} seconds"
        raise _Refused(408, "too_slow", message, {"Connection": "close"}) from None
    try:
        return model.model_validate_json(bytes(data))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        if problem["type"] == "json_invalid":
            raise _Refused(400, "not_json", f"the body must be JSON, but: {problem['msg'][:200]}") from None
        raise _Refused(422, "wrong_body", _said(problem)) from None


def _said(problem: Mapping[str, Any]) -> str:
    """One sentence on an error in a body."""
    place = ".".join(shortly(part)[1:-1] if isinstance(part, str) else str(part) for part in problem["loc"])
    return f"{place or 'the body'}: {rule_and_value(problem)}"


async def _told(request: Request, error: Exception) -> Response:
    """The response for an error that ends a request, in the common format."""
    if isinstance(error, _Refused):
        return error.response
    if not isinstance(error, HTTPException):
        return refusal(500, "failed", "the predictor failed on this request; see the server's log")
    if error.status_code == 404:
        return refusal(404, "no_such_route", "there is no such route; GET /openapi.json lists all routes")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "").replace("GET", "GET, HEAD")
        message = "this route does not allow the method; see the header Allow"
        return refusal(405, "wrong_method", message, {"Allow": allowed})
    return refusal(error.status_code, "refused", str(error.detail)[:200], error.headers)


def _responses(answer: type[BaseModel], *, posts: bool, guarded: bool) -> dict[int | str, dict[str, Any]]:
    """All answers of a route, for its documentation."""
    said = {400: "The Host header is not allowed" + ", or the body is not JSON." * posts}
    if guarded:
        said[401] = "The token is missing or wrong."
    if posts:
        said |= {
            408: "The body arrived too slowly.",
            413: "The body has too many bytes.",
            415: "The body is not of the type application/json.",
            422: "The body breaks a rule: too many architectures, another space, a wrong type, an unknown field.",
            503: "Too many architectures are waiting; the header Retry-After says when to try again.",
        }
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": Refusal, "description": text} for status, text in said.items()
    }
    return {200: {"model": answer, "description": (answer.__doc__ or "").strip()}, **errors}


def _described_body(body: type[BaseModel]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}


def _describe_token(app: FastAPI) -> None:
    """Document that a token is required."""
    document = app.openapi()  # kept by the application
    document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path == "/healthz" else [{"token": []}]
