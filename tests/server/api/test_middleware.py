"""What holds for all routes: the limit of bodies, CORS, unknown paths, and unexpected errors."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from server.api.sample_image import encode_sample_image
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.problem_checks import check_field
from tests.server.helpers import connect

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
