"""Bodies that are small to send and large to parse."""

import json

import pytest

from server.app import create_app
from server.settings import Settings
from tests.server.helpers import StuckEngine, connect

JSON = "application/json"
FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n'


@pytest.mark.situation("H8", "bodies that are small to send and large to parse")
@pytest.mark.parametrize(
    ("media_type", "body", "kind"),
    [
        (JSON, b'{"image": [' + b"[]," * 3_000_000 + b"[]]}", "too-large"),
        (JSON, b'{"image": [' + b"0," * 3_000_000 + b"0]}", "too-large"),
        (JSON, json.dumps(dict.fromkeys(map(str, range(600_000)), 0)).encode(), "too-large"),
        (JSON, json.dumps(dict.fromkeys(map(str, range(100_000)), 0)).encode(), "invalid-request"),
        (JSON, b'{"image": ' + b"[" * 100_000, "bad-body"),
        (JSON, b'{"image": ' + b"9" * 1_000_000 + b"}", "bad-body"),
        (JSON, b'{"prompts": [' + b"{}," * 100_000 + b"{}]}", "invalid-request"),
        (FORM, (PART + b"\r\n\r\n") * 100_000, "bad-body"),
        (FORM, PART + b"A: b\r\n" * 1_000_000 + b"\r\n\r\n--x--\r\n", "bad-body"),
        (FORM, PART.replace(b'"a"', b'"' + b"a" * 8_000_000 + b'"') + b"\r\n\r\n--x--\r\n", "bad-body"),
        (FORM, PART + b"\r\n" + b"\r\n-" * 2_000_000 + b"\r\n--x--\r\n", "invalid-request"),
        ("multipart/form-data; boundary=" + "x" * 10_000, b"--x\r\n", "bad-body"),
        ("multipart/form-data", b"--x\r\n", "bad-body"),
    ],
    ids=range(13),
)
async def test_costly_bodies_are_refused(media_type: str, body: bytes, kind: str) -> None:
    async with connect(create_app(Settings(), StuckEngine())) as client:  # type: ignore[arg-type]
        response = await client.post("/v1/prompt", content=body, headers={"Content-Type": media_type})
    assert response.json()["type"] == f"urn:florist:problem:{kind}"
    assert len(response.content) < 10_000
