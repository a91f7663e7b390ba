"""Whatever is wrong, the answer is a problem that says what to do: never a 500, never a trace."""

import asyncio
import base64
import io
import json
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from server.api import examples
from server.api.auth import new_key
from server.api.problems import ProblemDetails
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.helpers import StuckEngine, connected

PICTURE = base64.b64encode(examples.picture()).decode()
ASK = {"image": PICTURE, "task": "<OD>"}


def problem(answered: httpx.Response, status: int, kind: str, field: str | None = None) -> ProblemDetails:
    """Checks the answer's form, and returns it."""
    assert answered.status_code == status, answered.text
    assert answered.headers["content-type"] == "application/problem+json"
    read = ProblemDetails.model_validate(answered.json())
    assert read.type == f"urn:florist:problem:{kind}"
    assert (read.status, read.field) == (status, field)
    assert read.request_id == answered.headers["x-request-id"]
    assert "Traceback" not in answered.text
    assert len(read.detail) > 10
    return read


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"task": "<OOD>"}, "invalid-prompt", "task"),
        ({"task": "detect cats"}, "invalid-prompt", "task"),
        ({"task": ""}, "invalid-prompt", "task"),
        ({"task": "<loc_5>"}, "invalid-prompt", "task"),
        ({"task": "<OD>" * 100_000}, "invalid-request", "task"),
        ({"task": None}, "invalid-request", None),
        ({"task": 5}, "invalid-request", "task"),
        ({"prompts": [{"task": "<OD>"}]}, "invalid-request", None),
        ({"task": None, "prompts": []}, "invalid-request", "prompts"),
        ({"task": None, "prompts": [{"task": "<OD>"}] * 33}, "invalid-request", "prompts"),
        ({"task": None, "prompts": [{}]}, "invalid-request", "prompts.0.task"),
        ({"task": None, "prompts": [{"task": "<OD>"}], "text": "x"}, "invalid-request", None),
        ({"task": None, "prompts": {"task": "<OD>"}}, "invalid-request", "prompts"),
        ({"text": "a cat"}, "invalid-prompt", "text"),
        ({"task": "<OPEN_VOCABULARY_DETECTION>"}, "invalid-prompt", "text"),
        ({"task": "<OPEN_VOCABULARY_DETECTION>", "text": " "}, "invalid-prompt", "text"),
        ({"task": "<OPEN_VOCABULARY_DETECTION>", "text": "</s>"}, "invalid-prompt", "text"),
        ({"task": "<OPEN_VOCABULARY_DETECTION>", "text": "cat " * 2000}, "invalid-prompt", "text"),
        ({"task": "<OPEN_VOCABULARY_DETECTION>", "text": "c" * 9000}, "invalid-prompt", "text"),
        ({"task": "<REGION_TO_OCR>"}, "invalid-prompt", "region"),
        ({"region": [1, 2, 3, 4]}, "invalid-prompt", "region"),
        ({"task": "<REGION_TO_OCR>", "region": [9, 9, 1, 1]}, "invalid-prompt", "region"),
        ({"task": "<REGION_TO_OCR>", "region": [0, 0, 640, 48]}, "invalid-prompt", "region"),
        ({"task": "<REGION_TO_OCR>", "region": [-1, 0, 6, 4]}, "invalid-prompt", "region"),
        ({"task": "<REGION_TO_OCR>", "region": [0, 0, 5]}, "invalid-request", "region.3"),
        ({"task": "<REGION_TO_OCR>", "region": "all"}, "invalid-request", "region"),
        ({"task": "<REGION_TO_OCR>", "region": [0, 0, 5, 10**400]}, "invalid-request", "region.3"),
        ({"max_new_tokens": 0}, "invalid-request", "max_new_tokens"),
        ({"max_new_tokens": 100_000}, "invalid-prompt", "max_new_tokens"),
        ({"max_new_tokens": 10**30}, "invalid-request", "max_new_tokens"),
        ({"max_new_tokens": 1.5}, "invalid-request", "max_new_tokens"),
        ({"num_beams": 999}, "invalid-prompt", "num_beams"),
        ({"min_score": 2}, "invalid-request", "min_score"),
        ({"tsk": "<OD>"}, "invalid-request", "tsk"),
        ({"image": None}, "invalid-request", "image"),
        ({"image": ""}, "invalid-request", "image"),
        ({"image": 5}, "invalid-request", "image"),
        ({"image": "!!!!"}, "invalid-picture", "image"),
        ({"image": "AAA"}, "invalid-picture", "image"),
        ({"image": "AA AA"}, "invalid-picture", "image"),
        ({"image": "é" * 4}, "invalid-picture", "image"),
        ({"image": "AAAA"}, "invalid-picture", "image"),
        ({"image": "data:image/png,abc"}, "invalid-picture", "image"),
        ({"image": "data:image/png;base64"}, "invalid-picture", "image"),
        ({"image": "data:;base64,"}, "invalid-picture", "image"),
        ({"image": "https://example.org/cat.jpg"}, "invalid-picture", "image"),
        ({"image_url": "https://example.org/cat.jpg"}, "invalid-request", "image"),
        ({"image": None, "image_url": "https://example.org/cat.jpg"}, "invalid-picture", "image_url"),
    ],
)
async def test_faults_of_a_request(
    client: httpx.AsyncClient, change: dict[str, Any], kind: str, field: str | None
) -> None:
    body = json.dumps({**ASK, **change})
    answered = await client.post("/v1/prompt", content=body, headers={"Content-Type": "application/json"})
    problem(answered, 422, kind, field)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"[]",
            b"null",
            b'"x"',
            b"{",
            b"{'a': 1}",
            b'{"task": "\xff"}',
            b'{"task": "\\ud800"}',
            b"\x00",
            b"\xef\xbb\xbf",
        ),
        *(b'{"min_score": NaN}', b'{"min_score": Infinity}', b'{"a":' * 100_000, b"[" * 100_000, b'{"a": 1} {}'),
        b'{"max_new_tokens": ' + b"9" * 10_000 + b"}",
    ],
)
async def test_bodies_that_are_no_json_object(client: httpx.AsyncClient, body: bytes) -> None:
    answered = await client.post("/v1/prompt", content=body, headers={"Content-Type": "application/json"})
    problem(answered, 400, "bad-body")


async def test_a_number_too_large_for_a_float(client: httpx.AsyncClient) -> None:
    body = json.dumps({**ASK, "task": "<REGION_TO_OCR>"})[:-1] + ', "region": [0, 0, 1e999, 5]}'
    answered = await client.post("/v1/prompt", content=body, headers={"Content-Type": "application/json"})
    assert answered.status_code in (400, 422)
    assert answered.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("content_type", ["text/plain", "image/png", "application/x-www-form-urlencoded", "é", "/"])
async def test_content_types_that_are_not_read(client: httpx.AsyncClient, content_type: str) -> None:
    answered = await client.post(
        "/v1/prompt", content=b"task=<OD>", headers={"Content-Type": content_type.encode("latin-1")}
    )
    problem(answered, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"nothing of the kind"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x--"),
        ("multipart/form-data; boundary=\u00e9", b"--\xe9--"),
        (
            "multipart/form-data; charset=nope; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--',
        ),
    ],
)
async def test_forms_that_are_broken(client: httpx.AsyncClient, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type.encode("latin-1")}
    answered = await client.post("/v1/prompt", content=body, headers=headers)
    assert answered.status_code in (400, 422), answered.text
    assert answered.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("files", "data", "field"),
    [
        ([("image", b"")], {"task": "<OD>"}, "image"),
        ([("image", b"x"), ("image", b"y")], {"task": "<OD>"}, None),
        ([("mask", b"x")], {"task": "<OD>"}, "mask"),
        ([("image", b"x")], {"task": ["<OD>", "<OCR>"]}, "task"),
        ([("image", b"x")], {"prompts": "[{"}, "prompts"),
        ([("image", b"x")], {"prompts": "5"}, "prompts"),
        ([("image", b"x")], {"task": "<OD>", "num_beams": "three"}, "num_beams"),
        ([("image", b"x")], {"task": "<REGION_TO_OCR>", "region": "1,2"}, "region.2"),
        ([("image", b"x")], {f"f{i}": "x" for i in range(100)}, None),
    ],
)
async def test_forms_with_a_fault(client: httpx.AsyncClient, files: Any, data: Any, field: str | None) -> None:
    files = [(name, (f"{name}.png", content)) for name, content in files]
    answered = await client.post("/v1/prompt", files=files, data=data)
    assert answered.status_code in (400, 422), answered.text
    assert ProblemDetails.model_validate(answered.json()).field == field


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG that claims 60000×60000 pixels and holds none."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        parts += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content))]
    return b"".join(parts)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", examples.picture())
    return file.getvalue()


HOSTILE = {
    "truncated": saved(Image.effect_noise((64, 64), 50))[:900],
    "header only": examples.picture()[:20],
    "bomb": bomb(),
    "zip": zipped(),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": b"<!doctype html><script>alert(1)</script>",
    "pdf": b"%PDF-1.7\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "noise": bytes(range(256)) * 4,
    "too many pixels": saved(Image.new("1", (9000, 9000))),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_pictures_that_are_refused(client: httpx.AsyncClient, name: str) -> None:
    answered = await client.post("/v1/prompt", files={"image": HOSTILE[name]}, data={"task": "<OD>"})
    problem(answered, 422, "invalid-picture", "image")


def odd_pictures() -> dict[str, bytes]:
    palette = Image.open(io.BytesIO(examples.picture()))
    grey16 = Image.frombytes("I;16", (20, 10), bytes(range(200)) * 2)
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    return {
        "1×1": saved(Image.new("RGB", (1, 1), "red")),
        "30000×1": saved(Image.new("RGB", (30_000, 1))),
        "1×30000": saved(Image.new("L", (1, 30_000))),
        "16 bit": saved(grey16),
        "CMYK": saved(Image.new("CMYK", (20, 20)), "JPEG"),
        "palette with alpha": saved(palette, transparency=0),
        "alpha": saved(Image.new("RGBA", (20, 20), (1, 2, 3, 0))),
        "bits": saved(Image.new("1", (20, 20))),
        "animated": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "webp": saved(frames[0], "WEBP"),
        "tiff": saved(frames[0], "TIFF"),
        "bmp": saved(frames[0], "BMP"),
    }


@pytest.mark.parametrize("name", odd_pictures())
async def test_odd_pictures_are_answered(client: httpx.AsyncClient, name: str) -> None:
    data = {"task": "<OD>", "max_new_tokens": 8}
    answered = await client.post("/v1/prompt", files={"image": odd_pictures()[name]}, data=data)
    assert answered.status_code == 200, answered.text


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
async def test_addresses_and_methods(client: httpx.AsyncClient, method: str, path: str, status: int, kind: str) -> None:
    answered = await client.request(method, path, json=ASK)
    problem(answered, status, kind, "stream" if "stream" in path else None)
    assert status != 405 or answered.headers["allow"]


async def chunks(count: int, begin: bytes = b"") -> AsyncIterator[bytes]:
    yield begin
    for _ in range(count):
        yield b"x" * 1000


async def test_large_bodies_are_refused_by_length_and_while_reading(engine: Engine) -> None:
    async with connected(create_app(Settings(max_body_bytes=10_000), engine)) as client:
        declared = await client.post("/v1/prompt", content=b"x" * 10_001)
        problem(declared, 413, "too-large")
        json_type = {"Content-Type": "application/json"}
        problem(await client.post("/v1/prompt", content=chunks(100), headers=json_type), 413, "too-large")
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        begin = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        problem(await client.post("/v1/prompt", content=chunks(100, begin), headers=form), 413, "too-large")
        problem(await client.get("/v1/tasks", headers={"Content-Length": "9" * 50}), 413, "too-large")


async def test_api_keys(engine: Engine) -> None:
    (key, hashed), (other, other_hashed) = new_key(), new_key()
    settings = Settings(api_keys=(hashed, other_hashed))
    async with connected(create_app(settings, engine)) as client:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        for path in ("/v1/tasks", "/v1/models", "/metrics"):
            refused = await client.get(path)
            problem(refused, 401, "unauthorized")
            assert refused.headers["www-authenticate"].startswith("Bearer")
        wrong = ["Bearer", f"Bearer {key}x", f"Basic {key}", key, f"Bearer {hashed}", "Bearer é", "\xff"]
        for value in wrong:
            refused = await client.get("/v1/tasks", headers={"Authorization": value.encode("latin-1")})
            problem(refused, 401, "unauthorized")
        problem(await client.post("/v1/prompt", content=b"{"), 401, "unauthorized")
        for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer {other}"}, {"X-API-Key": key}):
            assert (await client.get("/v1/tasks", headers=headers)).status_code == 200
    assert key not in repr(settings)


async def test_cors(engine: Engine) -> None:
    async with connected(create_app(Settings(cors_origins=("https://labels.example",)), engine)) as client:
        mine = await client.post("/v1/prompt", content=b"{", headers={"Origin": "https://labels.example"})
        assert mine.headers["access-control-allow-origin"] == "https://labels.example"
        other = await client.get("/v1/tasks", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_too_many_waiting(stuck: StuckEngine) -> None:
    stuck.room = 2
    async with connected(create_app(Settings(), stuck)) as client:  # type: ignore[arg-type]
        refused = await client.post("/v1/prompt", json={"image": PICTURE, "prompts": [{"task": "<OD>"}] * 3})
        problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "8"
        assert all(handle.done() for handle in stuck.handles), "what was asked of it is given up"
        assert 'florist_prompts_total{outcome="overloaded"' in (await client.get("/metrics")).text


async def test_an_answer_that_takes_too_long(stuck: StuckEngine) -> None:
    async with connected(create_app(Settings(timeout=0.1), stuck)) as client:  # type: ignore[arg-type]
        problem(await client.post("/v1/prompt", json=ASK), 504, "timed-out")
        streamed = await client.post("/v1/prompt?stream=1", json=ASK)
        assert "event: error" in streamed.text
        assert "timed-out" in streamed.text
        assert "event: result" not in streamed.text
    assert all(handle.cancelled for handle in stuck.handles)


async def test_a_prompt_on_which_the_model_fails(stuck: StuckEngine) -> None:
    async with connected(create_app(Settings(), stuck)) as client:  # type: ignore[arg-type]
        asked = asyncio.create_task(client.post("/v1/prompt", json=ASK))
        while not stuck.handles:
            await asyncio.sleep(0.01)
        stuck.handles[0].set_exception(RuntimeError("secret of the machine"))
        assert "secret" not in problem(await asked, 500, "failed").detail


async def test_what_nobody_foresaw_is_a_problem_too() -> None:
    app: FastAPI = create_app(Settings(), object())  # type: ignore[arg-type]
    async with connected(app) as client:
        problem(await client.post("/v1/prompt", json=ASK), 500, "failed")
