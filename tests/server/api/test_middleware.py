"""What holds for all routes: the limit of bodies, CORS, unknown paths, and unexpected errors."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from server.api.sample_image import encode_sample_image
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.problem_checks import check_field
from tests.server.helpers import StuckEngine, connect

IMAGE = encode_sample_image()
BODY = {"image": IMAGE, "task": "<OD>"}


async def generate_chunks(count: int, start: bytes = b"") -> AsyncIterator[bytes]:
    yield start
    for _ in range(count):
        yield b"x" * 1000


async def test_large_bodies_are_refused_by_their_length_and_while_they_are_read(engine: Engine) -> None:
    async with connect(create_app(Settings(max_body_bytes=10_000), engine)) as client:
        declared = await client.post("/v1/prompt", content=b"x" * 10_001)
        check_field(declared, 413, "too-large")
        json_type = {"Content-Type": "application/json"}
        check_field(await client.post("/v1/prompt", content=generate_chunks(100), headers=json_type), 413, "too-large")
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        check_field(
            await client.post("/v1/prompt", content=generate_chunks(100, start), headers=form), 413, "too-large"
        )
        check_field(await client.get("/v1/tasks", headers={"Content-Length": "9" * 50}), 413, "too-large")


async def test_the_bodies_of_all_requests_together_are_limited(stuck: StuckEngine) -> None:
    app = create_app(Settings(max_body_bytes=1024), stuck)  # type: ignore[arg-type]
    opened, closed = asyncio.Event(), asyncio.Event()
    waiting = 0

    async def generate_slowly() -> AsyncIterator[bytes]:
        nonlocal waiting
        yield b'{"image": "' + b"a" * 1000
        waiting += 1
        if waiting == 16:
            opened.set()
        await closed.wait()
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    async with connect(app) as client:
        slow = [client.post("/v1/prompt", content=generate_slowly(), headers=headers) for _ in range(16)]
        pending = asyncio.gather(*slow)
        await opened.wait()
        refused = await client.post("/v1/prompt", content=b"{" + b" " * 1000, headers=headers)
        check_field(refused, 503, "busy")
        assert refused.headers["retry-after"]
        closed.set()
        assert {response.status_code for response in await pending} == {422}
        check_field(await client.post("/v1/prompt", content=b"{" + b" " * 1000, headers=headers), 400, "bad-body")


async def test_the_log_has_the_start_of_a_long_path(client: httpx.AsyncClient) -> None:
    with capture_logs() as lines:
        await client.get("/v1/jobs/" + "9" * 10_000)
    assert [line["path"] for line in lines] == ["/v1/jobs/" + "9" * 191]


async def test_head_is_answered_as_get(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/docs", "/openapi.json", "/v1/tasks"):
        response = await client.head(path)
        assert (response.status_code, response.content) == (200, b"")
    assert 'method="HEAD",route="/healthz",status="200"' in (await client.get("/metrics")).text
    check_head = await client.head("/v1/prompt")
    assert check_head.status_code == 405


async def test_browsers_may_neither_guess_nor_frame_nor_run_anything(client: httpx.AsyncClient) -> None:
    for path in ("/v1/tasks", "/nothing", "/docs", "/docs/initializer.js"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]


async def test_cors_headers_are_sent_to_allowed_origins(engine: Engine) -> None:
    async with connect(create_app(Settings(cors_origins=("https://labels.example",)), engine)) as client:
        mine = await client.post("/v1/prompt", content=b"{", headers={"Origin": "https://labels.example"})
        assert mine.headers["access-control-allow-origin"] == "https://labels.example"
        other = await client.get("/v1/tasks", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_an_unexpected_error_is_a_problem() -> None:
    app: FastAPI = create_app(Settings(), object())  # type: ignore[arg-type]
    async with connect(app) as client:
        check_field(await client.post("/v1/prompt", json=BODY), 500, "internal-error")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/v1/prompt/", 404, "not-found"),
        ("GET", "/v1/%2e%2e/%00", 404, "not-found"),
        ("GET", "/v1/prompt", 405, "method-not-allowed"),
        ("DELETE", "/v1/tasks", 405, "method-not-allowed"),
        ("BREW", "/healthz", 405, "method-not-allowed"),
        ("POST", "/v1/prompt?stream=maybe", 422, "invalid-request"),
    ],
)
async def test_unknown_paths_and_methods_are_problems(
    client: httpx.AsyncClient, method: str, path: str, status: int, kind: str
) -> None:
    response = await client.request(method, path, json=BODY)
    check_field(response, status, kind, "stream" if "stream" in path else None)
    assert status != 405 or response.headers["allow"]
