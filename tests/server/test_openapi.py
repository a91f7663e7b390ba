"""The OpenAPI document holds: schemathesis asks what it allows, and what it does not, of the app."""

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.api import examples
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
PICTURE = examples.body()["detect"]["value"]["image"]


@pytest.fixture(scope="module")
def app(engine: Engine) -> FastAPI:
    # Short texts and few prompts: what counts here is the shape of questions, not the work.
    return create_app(Settings(max_prompts=3, max_text_length=100), engine)


def map_body(context: Any, body: Any) -> Any:
    """A real picture for half of the requests, or none would get past it."""
    if isinstance(body, dict) and isinstance(body.get("image"), str) and len(body["image"]) % 2 == 0:
        body["image"] = PICTURE
        if isinstance(body.get("max_new_tokens"), int):
            body["max_new_tokens"] = min(body["max_new_tokens"], 16)
    return body


@pytest.fixture(scope="module")
def api(app: FastAPI) -> Any:
    read = schemathesis.openapi.from_asgi("/openapi.json", app)
    read.hook(map_body)
    return read


@pytest.mark.parametrize(
    ("path", "method", "examples"),
    [
        ("/v1/prompt", "POST", 150),
        ("/v1/adapters/{name}", "PUT", 60),
        ("/v1/adapters/{name}", "DELETE", 10),
        ("/v1/adapters/{name}", "GET", 10),
        *((path, "GET", 10) for path in ("/v1/tasks", "/v1/models", "/v1/adapters", "/healthz", "/readyz", "/metrics")),
    ],
)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not allowed"])
def test_the_document_holds(api: Any, path: str, method: str, examples: int, mode: GenerationMode) -> None:
    operation = api[path][method]
    try:
        strategy = operation.as_strategy(generation_mode=mode)

        @given(case=strategy)
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def hold(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        hold()
    except Unsatisfiable:
        pytest.skip("there is nothing to get wrong")


def test_problems_and_examples_are_documented(app: FastAPI) -> None:
    document = app.openapi()
    post = document["paths"]["/v1/prompt"]["post"]
    assert {"400", "401", "413", "415", "422", "503", "504"} <= post["responses"].keys()
    for status, response in post["responses"].items():
        assert status == "200" or list(response["content"]) == ["application/problem+json"]
    assert set(post["requestBody"]["content"]["application/json"]["examples"]) == set(examples.body())
    known = document["components"]["schemas"]
    assert {"PromptRequest", "Answer", "Answers", "ProblemDetails"} <= known.keys()
    assert "HTTPValidationError" not in known


def test_the_example_picture_can_be_pasted() -> None:
    assert len(PICTURE) < 500
