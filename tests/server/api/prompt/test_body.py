"""Every invalid request gets problem details that say what to do: never a 500 or a traceback."""

import json
from typing import Any

import httpx
import pytest

from server.api.problems import ProblemDetails
from server.api.sample_image import encode_sample_image
from tests.server.api.problem_checks import check_field

IMAGE = encode_sample_image()
BODY = {"image": IMAGE, "task": "<OD>"}


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
        ({"image": "!!!!"}, "invalid-image", "image"),
        ({"image": "AAA"}, "invalid-image", "image"),
        ({"image": "AA AA"}, "invalid-image", "image"),
        ({"image": "é" * 4}, "invalid-image", "image"),
        ({"image": "AAAA"}, "invalid-image", "image"),
        ({"image": "data:image/png,abc"}, "invalid-image", "image"),
        ({"image": "data:image/png;base64"}, "invalid-image", "image"),
        ({"image": "data:;base64,"}, "invalid-image", "image"),
        ({"image": "https://example.org/cat.jpg"}, "invalid-image", "image"),
        ({"image_url": "https://example.org/cat.jpg"}, "invalid-request", "image"),
        ({"image": None, "image_url": "https://example.org/cat.jpg"}, "invalid-image", "image_url"),
    ],
)
async def test_an_invalid_field_is_named(
    client: httpx.AsyncClient, change: dict[str, Any], kind: str, field: str | None
) -> None:
    body = json.dumps({**BODY, **change})
    response = await client.post("/v1/prompt", content=body, headers={"Content-Type": "application/json"})
    check_field(response, 422, kind, field)


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
async def test_bodies_that_are_not_json_objects_are_refused(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/prompt", content=body, headers={"Content-Type": "application/json"})
    check_field(response, 400, "bad-body")


async def test_a_number_that_overflows_a_float_is_refused(client: httpx.AsyncClient) -> None:
    body = json.dumps({**BODY, "task": "<REGION_TO_OCR>"})[:-1] + ', "region": [0, 0, 1e999, 5]}'
    response = await client.post("/v1/prompt", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("content_type", ["text/plain", "image/png", "application/x-www-form-urlencoded", "é", "/"])
async def test_unsupported_content_types_are_refused(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post(
        "/v1/prompt", content=b"task=<OD>", headers={"Content-Type": content_type.encode("latin-1")}
    )
    check_field(response, 415, "unsupported-media-type")


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
async def test_malformed_forms_are_refused(client: httpx.AsyncClient, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type.encode("latin-1")}
    response = await client.post("/v1/prompt", content=body, headers=headers)
    assert response.status_code in (400, 422), response.text
    assert response.headers["content-type"] == "application/problem+json"


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
async def test_invalid_fields_of_forms_are_named(
    client: httpx.AsyncClient, files: Any, data: Any, field: str | None
) -> None:
    files = [(name, (f"{name}.png", content)) for name, content in files]
    response = await client.post("/v1/prompt", files=files, data=data)
    assert response.status_code in (400, 422), response.text
    assert ProblemDetails.model_validate(response.json()).field == field


@pytest.mark.parametrize(
    ("files", "data", "detail"),
    [
        ([("image", b"x"), ("image", b"y")], {}, "the form has too many files; send one file"),
        ([("image", b"x")], {f"f{i}": "x" for i in range(100)}, "the form has too many fields; send at most 32"),
    ],
)
async def test_forms_that_are_too_large_are_refused_in_plain_words(
    client: httpx.AsyncClient, files: Any, data: Any, detail: str
) -> None:
    response = await client.post("/v1/prompt", files=[(n, (f"{n}.png", c)) for n, c in files], data=data)
    assert ProblemDetails.model_validate(response.json()).detail == detail
