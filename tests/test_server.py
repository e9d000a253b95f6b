"""The predictor over HTTP: right answers, refused requests, and a steady server under load."""

import asyncio
import http.client
import json
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.predictor import UncertainPredictor
from nasplat.server.app import make_app
from nasplat.server.batching import Batcher, OverfullError
from nasplat.surrogates.predictor_store import StoredPredictor, open_predictor, scored

PATIENCE = 300.0
"""Seconds after which a test stops waiting for a process."""

with warnings.catch_warnings():  # newer versions would rather have another HTTP client than the one that is installed
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TOKEN = "correct-horse-battery-staple"
BATCH = 64
METRIC = {"name": "accuracy", "direction": "max", "unit": "fraction"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def saved(learnt: Path, demo_ridge: None) -> StoredPredictor:
    """The predictor that is served."""
    return open_predictor(learnt)


@pytest.fixture
def client(saved: StoredPredictor) -> Iterator[TestClient]:
    """A client of a server of one predictor, without token."""
    with TestClient(make_app(saved, batch=BATCH), raise_server_exceptions=False) as client:
        yield client


def codes(saved: StoredPredictor, number: int, seed: int = 0) -> list[str]:
    """Some members of the space."""
    rng = default_rng(seed)
    return [saved.space.sample(rng).code for _ in range(number)]


def scores(saved: StoredPredictor, named: list[str]) -> list[float]:
    """What the predictor says by itself."""
    return [each.value for each in scored(saved.predictor, [saved.space.parse(code) for code in named])]


def refused(response: Any, status: int, code: str) -> str:
    """Check the one shape of errors; the message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == code
    assert len(response.text) < 700
    assert "<" not in response.text
    return str(body["error"]["message"])


# Right answers


def test_predictions_come_in_order_with_an_error_for_each_that_cannot_be_read(
    client: TestClient, saved: StoredPredictor
) -> None:
    good = codes(saved, 3)
    asked = [good[0], "00000x", f"nasbench201:{good[1]}", "<script>" * 300, good[2], "", "darts:0", "../etc", "0\0"]
    response = client.post("/v1/predict", json={"architectures": asked, "space": "nasbench201"})
    assert response.status_code == 200
    items = response.json()["predictions"]
    assert [items[i]["architecture"] for i in (0, 2, 4)] == good
    np.testing.assert_allclose([items[i]["value"] for i in (0, 2, 4)], scores(saved, good), rtol=1e-12)
    assert [items[i]["error"] for i in (0, 2, 4)] == [None] * 3
    assert "gene 6 (3<-2)" in items[1]["error"]
    assert items[6]["error"] == "'darts:0' is of the space darts, not of nasbench201"
    for i in (1, 3, 5, 6, 7, 8):
        assert items[i]["value"] is None
        assert len(items[i]["architecture"]) <= 110
        assert 0 < len(items[i]["error"]) < 400
    assert "<" not in response.text


def test_an_official_string_is_read_and_its_code_returned(client: TestClient) -> None:
    official = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|nor_conv_3x3~0|skip_connect~1|nor_conv_1x1~2|"
    items = client.post("/v1/predict", json={"architectures": [official]}).json()["predictions"]
    assert items[0]["architecture"] == "334312"


def test_a_ranking_is_best_first_and_lists_apart_what_has_no_rank(client: TestClient, saved: StoredPredictor) -> None:
    asked = [*codes(saved, 30), "nonsense"]
    body = client.post("/v1/rank", json={"architectures": asked}).json()
    truth = scores(saved, asked[:-1])
    assert [each["index"] for each in body["ranking"]] == sorted(range(30), key=lambda i: -truth[i])
    assert [each["rank"] for each in body["ranking"]] == list(range(1, 31))
    assert all(each["architecture"] == asked[each["index"]] for each in body["ranking"])
    assert [(each["index"], each["architecture"]) for each in body["errors"]] == [(30, "nonsense")]
    top = client.post("/v1/rank", json={"architectures": asked, "top": 3}).json()
    assert top == {"metric": METRIC, "ranking": body["ranking"][:3], "errors": body["errors"]}


def test_nothing_asked_is_nothing_answered(client: TestClient) -> None:
    assert client.post("/v1/predict", json={"architectures": []}).json() == {"metric": METRIC, "predictions": []}
    assert client.post("/v1/rank", json={"architectures": ["x"]}).json()["ranking"] == []


def test_it_says_what_it_serves(client: TestClient, saved: StoredPredictor) -> None:
    model = client.get("/v1/model").json()
    assert (model["predictor"], model["options"]) == ("demo_ridge", {"alpha": 1.0})
    assert model["space"] == {"name": "nasbench201", "options": {"channels": 16, "cells": 5}}
    assert (model["about"], model["digest"]) == (saved.about, saved.digest)
    assert model["limits"]["batch"] == BATCH
    assert (model["metric"], model["values"]) == (METRIC, "accuracy (a fraction of 0 to 1, higher is better)")
    assert model["values"] in client.get("/openapi.json").json()["info"]["description"]
    assert client.get("/healthz").json() == {"status": "ok"}
    assert "http" not in re.sub(r"charset.*?>", "", client.get("/").text)  # no foreign hosts


class Unsure(UncertainPredictor):
    """Knows how unsure it is, and of one cell nothing."""

    name = "unsure"

    def predict_with_deviation(self, architectures: Any) -> Any:
        values = np.array([np.nan if a.code == "000000" else float(a.code) for a in architectures])
        return values, values / 10

    def fit(self, architectures: Any, scores: Any) -> Any:
        raise NotImplementedError

    get_state = set_state = fit  # type: ignore[assignment]


def test_deviations_are_told_and_what_is_not_finite_is_an_error(saved: StoredPredictor) -> None:
    with TestClient(make_app(replace(saved, predictor=Unsure(saved.space)))) as client:
        items = client.post("/v1/predict", json={"architectures": ["000020", "000000"]}).json()["predictions"]
        assert client.get("/v1/model").json()["deviations"]
    assert items[0] == {"architecture": "000020", "value": 20.0, "deviation": 2.0, "error": None}
    assert items[1]["value"] is None
    assert items[1]["error"] == "the predictor gave no finite value"


def test_a_predictor_that_fails_is_an_error_of_the_server_that_tells_nothing_of_it(
    saved: StoredPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(architectures: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr(saved.predictor, "predict", fail)
    with TestClient(make_app(saved), raise_server_exceptions=False) as client:
        assert "secret" not in refused(client.post("/v1/predict", json={"architectures": ["000000"]}), 500, "failed")


# Refused requests

BODIES: list[tuple[str | bytes, int, str, str]] = [
    ("", 400, "not_json", "EOF"),
    ("{", 400, "not_json", "EOF"),
    (b"\xff", 400, "not_json", ""),
    ("[" * 10_000, 400, "not_json", "recursion"),
    ('{"architectures": ["\\ud800"]}', 400, "not_json", "hex escape"),
    ("[]", 422, "wrong_body", "object"),
    ("{}", 422, "wrong_body", "architectures: field required"),
    ('{"architectures": "000000"}', 422, "wrong_body", "valid array"),
    ('{"architectures": [1, 2]}', 422, "wrong_body", "architectures.0: input should be a valid string, but got 1"),
    ('{"architectures": [NaN]}', 422, "wrong_body", "nan"),
    ('{"architectures": [null]}', 422, "wrong_body", "None"),
    ('{"architectures": [], "top": 1}', 422, "wrong_body", "top: extra inputs"),
    ('{"architectures": [], "' + "<b>" * 2000 + '": 1}', 422, "wrong_body", "extra inputs"),
    ('{"architectures": [], "space": "nasbench101"}', 422, "wrong_body", "'nasbench201', but got 'nasbench101'"),
    ('{"architectures": [], "space": "../../\\u0007<i>"}', 422, "wrong_body", "\\x07"),
    ('{"architectures": [' + '"0",' * BATCH + '"0"]}', 422, "wrong_body", f"at most {BATCH} items"),
    ('{"architectures": [' + "1," * 50_000 + "1]}", 422, "wrong_body", "valid string"),
    ('{"architectures": ["' + "0" * 300_000 + '"]}', 413, "too_large", "the body must have at most"),
]


@pytest.mark.parametrize(("body", "status", "code", "said"), BODIES, ids=[str(i) for i in range(len(BODIES))])
def test_a_wrong_body_is_refused_with_the_rule(
    body: str | bytes, status: int, code: str, said: str, client: TestClient
) -> None:
    message = refused(client.post("/v1/predict", content=body, headers=JSON), status, code)
    assert said in message


@pytest.mark.parametrize("top", ["0", "-1", "1.5", "true", '"1"', "NaN", "1e999"])
def test_a_wrong_number_of_the_best_is_refused(top: str, client: TestClient) -> None:
    body = f'{{"architectures": [], "top": {top}}}'
    assert client.post("/v1/rank", content=body, headers=JSON).status_code in (400, 422)


def test_a_body_in_pieces_is_read_no_further_than_it_may_go(client: TestClient) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 10_000

    refused(client.post("/v1/predict", content=pieces(), headers=JSON), 413, "too_large")


def test_routes_methods_and_types_are_refused_in_json(client: TestClient) -> None:
    refused(client.get("/nowhere"), 404, "no_such_route")
    refused(client.get("/docs"), 404, "no_such_route")
    refused(client.get("/v1/predict/"), 404, "no_such_route")
    response = client.get("/v1/predict")
    refused(response, 405, "wrong_method")
    assert response.headers["allow"] == "POST"
    refused(client.post("/v1/predict", content="{}", headers={"Content-Type": "text/plain"}), 415, "not_json")


def test_head_is_answered_as_get_without_the_body(client: TestClient) -> None:
    for path in ("/", "/healthz", "/v1/model", "/openapi.json"):
        asked, got = client.head(path), client.get(path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers == got.headers
    response = client.head("/v1/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert client.put("/healthz").headers["allow"] == "GET, HEAD"


def test_a_token_opens_everything_and_health_needs_none(saved: StoredPredictor) -> None:
    with TestClient(make_app(saved, token=TOKEN)) as client:
        for path in ("/v1/model", "/openapi.json", "/", "/nowhere"):
            for header in (b"", f"Bearer {TOKEN}x".encode(), TOKEN.encode(), b"Basic eDp5", b"Bearer \xff"):
                response = client.get(path, headers={b"Authorization": header} if header else None)
                assert TOKEN not in refused(response, 401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
        refused(client.post("/v1/predict", json={"architectures": []}), 401, "unauthorized")
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/v1/model", headers=bearer).status_code == 200
        assert client.get("/healthz").status_code == 200
        document = client.get("/openapi.json", headers=bearer).json()
    assert document["paths"]["/v1/predict"]["post"]["security"] == [{"token": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []


def test_a_strange_host_is_refused_where_only_this_machine_may_ask(saved: StoredPredictor) -> None:
    hosts = frozenset({"localhost", "127.0.0.1", "::1"})
    with TestClient(make_app(saved, hosts=hosts)) as client:
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.evil.example"):
            refused(client.get("/healthz", headers={"Host": host}), 400, "wrong_host")
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200


# Schemathesis makes requests of the schema, right and wrong, and holds the answers to it.


@pytest.mark.sweep(1)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("token", [None, TOKEN])
def test_requests_made_of_the_schema_find_nothing_undocumented(saved: StoredPredictor, token: str | None) -> None:
    import hypothesis

    app = make_app(saved, batch=BATCH, token=token)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    tried = []
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]

        @hypothesis.given(case=operation.as_strategy() | operation.as_strategy(
            generation_mode=schemathesis.GenerationMode.NEGATIVE))  # fmt: skip
        @hypothesis.settings(
            max_examples=60, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        def check(case: Any) -> None:
            tried.append(case.call_and_validate(headers=headers).status_code)

        check()
    assert len(tried) > 100
    assert {200, 422} <= set(tried)
    assert max(tried) < 500


# Waiting together


class Slow(Unsure):
    """Takes its time, notes what it was asked together, and fails on one cell."""

    def __init__(self, space: Any) -> None:
        super().__init__(space)
        self.calls: list[int] = []

    def predict_with_deviation(self, architectures: Any) -> Any:
        self.calls.append(len(architectures))
        time.sleep(0.02)
        if any(a.code == "poison" for a in architectures):
            raise RuntimeError("poisoned")
        return super().predict_with_deviation(architectures)


def part(*numbers: int) -> list[Architecture]:
    """Cells that score these numbers."""
    return [Architecture("nasbench201", str(number)) for number in numbers]


def test_what_waits_is_predicted_together_and_everybody_gets_his_own(saved: StoredPredictor) -> None:
    slow = Slow(saved.space)

    async def all_at_once() -> list[list[float]]:
        batcher = Batcher(slow, largest=10, waiting=100)
        answers = await asyncio.gather(*(batcher.predict(part(*range(i, i + 4))) for i in range(8)))
        batcher.close()
        return [[each.value for each in answer] for answer in answers]

    assert asyncio.run(all_at_once()) == [[float(j) for j in range(i, i + 4)] for i in range(8)]
    assert slow.calls == [8, 8, 8, 8]  # never more than ten


def test_one_that_fails_harms_no_other(saved: StoredPredictor) -> None:
    async def with_poison() -> list[Any]:
        batcher = Batcher(Slow(saved.space), largest=10, waiting=100)
        bad = [Architecture("nasbench201", "poison")]
        answers = await asyncio.gather(
            *(batcher.predict(each) for each in (part(1), part(2), bad, part(3))), return_exceptions=True
        )
        batcher.close()
        return answers

    answers = asyncio.run(with_poison())
    assert isinstance(answers[2], RuntimeError)
    assert [answers[i][0].value for i in (0, 1, 3)] == [1.0, 2.0, 3.0]


def test_more_than_may_wait_is_refused_and_later_there_is_room_again(saved: StoredPredictor) -> None:
    async def crowd() -> list[Any]:
        batcher = Batcher(Slow(saved.space), largest=4, waiting=8)
        answers: list[Any] = await asyncio.gather(
            *(batcher.predict(part(1, 2, 3)) for _ in range(4)), return_exceptions=True
        )
        answers.append(await batcher.predict(part(1, 2, 3, 4)))
        gone = asyncio.create_task(batcher.predict(part(1)))
        await asyncio.sleep(0)
        gone.cancel()
        answers.append(await batcher.predict(part(5)))
        assert batcher._waiting == 0
        batcher.close()
        return answers

    answers = asyncio.run(crowd())
    assert [isinstance(answer, OverfullError) for answer in answers] == [False, False, True, True, False, False]


def test_an_overfull_server_says_when_to_come_back(saved: StoredPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasplat.server.app.WAITING", 0)
    with TestClient(make_app(saved)) as client:
        response = client.post("/v1/predict", json={"architectures": ["000000"]})
    assert "try again" in refused(response, 503, "busy")
    assert response.headers["retry-after"] == "1"


# A real server


@contextmanager
def serving(
    installed: dict[str, str], learnt: Path, *options: str, files: int | None = None, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server process on a free port, with a limit of open files."""
    limited = () if files is None else ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")
    process = subprocess.Popen(
        [*limited, sys.executable, "-m", "nasplat", "serve", "--predictor", str(learnt), "--port", "0", *options],
        env={**installed, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        printed = ""
        while "Ctrl-C" not in printed:
            line = process.stdout.readline()
            assert line or process.poll() is None, process.stderr and process.stderr.read()
            printed += line
        found = re.search(r"address  http://\S+:(\d+)", printed)
        assert found is not None
        assert "openapi.json" in printed
        assert "demo_ridge of nasbench201, trained on 50 architectures" in printed
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def post(port: int, body: Any, **headers: str) -> tuple[int, Any]:
    """One request over a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("POST", "/v1/predict", json.dumps(body), {**JSON, **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.slow
@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_server_answers_and_ends_cleanly(
    sign: signal.Signals, installed: dict[str, str], learnt: Path, saved: StoredPredictor
) -> None:
    named = codes(saved, 5)
    with serving(installed, learnt) as (process, port):
        status, body = post(port, {"architectures": named})
        assert status == 200
        np.testing.assert_allclose([p["value"] for p in body["predictions"]], scores(saved, named), rtol=1e-12)
        assert post(port, {"architectures": []}, Host="evil.example")[0] == 400
        process.send_signal(sign)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert (out, err) == ("", "interrupted; the server has ended\n")


@pytest.mark.slow
def test_a_body_without_end_or_a_lying_length_is_cut_off(installed: dict[str, str], learnt: Path) -> None:
    head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with serving(installed, learnt, "--batch", "1") as (_, port):
        for length, start in (("Transfer-Encoding: chunked", chunk), ("Content-Length: 99999999999", b"x" * 100)):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                connection.sendall(f"{head}{length}\r\n\r\n".encode() + start)
                try:
                    for _ in range(200 if "chunked" in length else 0):  # 13 MB, were it read
                        connection.sendall(chunk)
                except OSError:
                    pass
                received = b""
                try:
                    while part := connection.recv(65536):
                        received += part
                except ConnectionResetError:
                    pass
                assert b" 413 " in received[:20] or (not received and "chunked" in length)
        assert post(port, {"architectures": ["000000"]})[0] == 200


@pytest.mark.slow
def test_a_token_is_asked_for_and_never_shown(installed: dict[str, str], learnt: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with serving(installed, learnt, "--log", "--host", "0.0.0.0", "--token-file", str(file)) as (process, port):
        assert post(port, {"architectures": []})[0] == 401
        assert post(port, {"architectures": []}, Authorization=f"Bearer {TOKEN}", Host="any.example")[0] == 200
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
            connection.request("GET", f"/v1/model?token={TOKEN}")
            assert connection.getresponse().status == 401
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert '"POST /v1/predict HTTP/1.1" 200' in err
    assert '"GET /v1/model HTTP/1.1" 401' in err
    assert TOKEN not in err
    with serving(installed, learnt, NASPLAT_TOKEN=TOKEN) as (_, port):  # asked for on loopback too, once there is one
        assert post(port, {"architectures": []})[0] == 401


@pytest.mark.slow
def test_what_cannot_be_served_is_refused(installed: dict[str, str], learnt: Path, tmp_path: Path) -> None:
    def refusing(*options: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "nasplat", "serve", *options],
            env={**installed, **environment}, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
        return done.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "Address already in use; choose another" in refusing("--predictor", str(learnt), "--port", port)
    assert "needs a token; give --token-file" in refusing("--predictor", str(learnt), "--host", "0.0.0.0")
    said = refusing("--predictor", str(learnt), NASPLAT_TOKEN="short-secret")
    assert "a token must have at least 16 characters" in said
    assert "short-secret" not in said
    assert "cannot be read" in refusing("--predictor", str(learnt), "--token-file", str(tmp_path / "none"))
    assert "the predictor in " in refusing("--predictor", str(tmp_path))


# Load


def resident(process: int) -> int:
    """The bytes of memory that a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hammer(port: int, bodies: Sequence[str], times: list[float], errors: list[str]) -> None:
    """Ask one thing after another over one connection; the seconds of each request, and what went wrong."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        for body in bodies:
            if errors:
                break
            began = time.monotonic()
            connection.request("POST", "/v1/predict", body, JSON)
            response = connection.getresponse()
            data = response.read()
            times.append(time.monotonic() - began)
            if response.status != 200 or data.count(b'"error":null') != 64:
                errors.append(f"{response.status}: {data[:200]!r}")


@pytest.mark.slow
def test_a_client_that_goes_in_the_middle_of_a_body_is_no_failure(installed: dict[str, str], learnt: Path) -> None:
    with serving(installed, learnt) as (process, port):
        with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as connection:
            head = "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            time.sleep(0.5)
        time.sleep(0.5)
        process.terminate()
        _, told = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in told


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process open 2,000 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted, unlimited = 2000, resource.RLIM_INFINITY
    if hard != unlimited and hard < wanted:
        pytest.skip(f"a process may have {hard} open files here, and the test needs {wanted}")
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_a_burst_of_connections_is_survived_where_few_files_may_be_open(
    installed: dict[str, str], learnt: Path
) -> None:
    with serving(installed, learnt, files=256) as (process, port), ExitStack() as silent:
        for _ in range(500):
            connection = silent.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as health:
            health.request("GET", "/healthz")
            assert health.getresponse().status == 200
        process.terminate()
        _, told = process.communicate(timeout=PATIENCE)
    assert told.splitlines() == ["interrupted; the server has ended"]


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_a_thousand_silent_connections_and_two_hundred_clients_of_one_address(
    installed: dict[str, str], learnt: Path
) -> None:
    times: list[float] = []
    errors: list[str] = []
    body = json.dumps({"architectures": 64 * ["000000"]})
    with serving(installed, learnt) as (_, port), ExitStack() as silent:
        for _ in range(1050):
            connection = silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        for method in ("GET", "HEAD"):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as health:
                health.request(method, "/healthz")
                assert health.getresponse().status == 200
        clients = [threading.Thread(target=hammer, args=(port, [body], times, errors)) for _ in range(200)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert errors == []
    assert len(times) == 200


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_sixteen_clients_leave_memory_flat_and_wait_for_each_other_alone(
    installed: dict[str, str], learnt: Path, saved: StoredPredictor, part: Callable[..., Any]
) -> None:
    clients, turns = 16, part(range(600), 40)
    batches = [codes(saved, 64, seed) for seed in range(50)]
    bodies = [json.dumps({"architectures": batch}) for batch in batches]
    alone: list[float] = []
    afterwards: list[float] = []
    times: list[float] = []
    errors: list[str] = []
    with serving(installed, learnt) as (process, port):
        hammer(port, 2 * bodies, alone, errors)  # whatever is made once is there
        before = resident(process.pid)
        threads = [
            threading.Thread(target=hammer, args=(port, [bodies[(i + turn) % 50] for turn in turns], times, errors))
            for i in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = resident(process.pid)
        hammer(port, bodies, afterwards, errors)
    assert errors == []
    assert len(times) == clients * len(turns)
    assert after < before + (24 << 20)
    # A turn waits for those of all clients and no longer; three times that is for sixteen threads on a busy machine.
    assert statistics.median(times) < 3 * clients * max(map(statistics.median, (alone, afterwards)))
