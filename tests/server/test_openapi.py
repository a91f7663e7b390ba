"""The OpenAPI document holds: schemathesis asks what it allows, and what it does not, of the app."""

from pathlib import Path
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
from starlette.testclient import TestClient

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
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "one.png").write_bytes(examples.picture())
    return folder


@pytest.fixture(scope="module")
def app(engine: Engine, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    # Short texts and few prompts: what counts here is the shape of questions, not the work.
    jobs = {"jobs_folder": tmp_path_factory.mktemp("jobs"), "jobs_sources": (str(pictures),)}
    jobs["projects_folder"] = tmp_path_factory.mktemp("projects")
    return create_app(Settings(max_prompts=3, max_text_length=100, **jobs), engine)


def map_path_parameters(context: Any, parameters: Any) -> Any:
    """The job or project that is there, for half of the requests about one."""
    if parameters and isinstance(parameters.get("id"), int) and parameters["id"] % 2 == 0:
        parameters["id"] = 1
    return parameters


def map_body(context: Any, body: Any) -> Any:
    """A real picture for half of the requests, or none would get past it."""
    if isinstance(body, dict) and isinstance(body.get("image"), str) and len(body["image"]) % 2 == 0:
        body["image"] = PICTURE
        if isinstance(body.get("max_new_tokens"), int):
            body["max_new_tokens"] = min(body["max_new_tokens"], 16)
    return body


@pytest.fixture(scope="module")
def api(app: FastAPI, pictures: Path) -> Any:
    def map_source(context: Any, body: Any) -> Any:
        if isinstance(body, dict) and isinstance(body.get("source"), str) and len(body["source"]) % 2 == 0:
            body["source"] = str(pictures)
            body["recipe"] = "caption" if isinstance(body.get("recipe"), str) else body.get("recipe")
        return body

    read = schemathesis.openapi.from_asgi("/openapi.json", app)
    for hook in (map_body, map_path_parameters):
        read.hook(hook)
    read.hook("map_body")(map_source)
    return read


@pytest.fixture(scope="module", autouse=True)
def job_and_project(app: FastAPI, pictures: Path) -> None:
    """The first ones. In the project too little is corrected for a fine-tune."""
    with TestClient(app) as client:
        begun = client.post("/v1/jobs", json={"source": str(pictures), "recipe": "caption", "output": "first"})
        made = client.post("/v1/projects", json={"name": "first"})
        corrected = client.post("/v1/projects/1/corrections", json=examples.correction())
    assert [answered.status_code for answered in (begun, made, corrected)] == [201, 201, 201]


@pytest.mark.parametrize(
    ("path", "method", "examples"),
    [
        ("/v1/prompt", "POST", 80),
        ("/v1/adapters/{name}", "PUT", 60),
        ("/v1/adapters/{name}", "DELETE", 10),
        ("/v1/adapters/{name}", "GET", 10),
        ("/v1/jobs", "POST", 30),
        ("/v1/jobs/{id}/results", "GET", 20),
        ("/v1/jobs/{id}/export", "GET", 20),
        *(
            (f"/v1/jobs/{{id}}{path}", "GET", 10)
            for path in ("", "/events", "/failures", "/summary", "/pictures/{position}")
        ),
        *((f"/v1/jobs/{{id}}/{action}", "POST", 10) for action in ("pause", "resume", "retry", "cancel")),
        ("/v1/jobs", "GET", 5),
        ("/v1/projects", "POST", 30),
        ("/v1/projects/{id}/corrections", "POST", 60),
        *(
            (f"/v1/projects/{{id}}/{action}", "POST", 20)
            for action in ("tune", "models", "backtests", "promote", "rollback")
        ),
        ("/v1/projects/{id}/corrections/job", "POST", 10),
        *((f"/v1/projects/{{id}}/runs/{{n}}/{action}", "POST", 5) for action in ("cancel", "resume")),
        *(
            (f"/v1/projects/{{id}}{path}", "GET", 5)
            for path in ("", "/next", "/corrections", "/runs", "/models", "/backtests")
        ),
        *((f"/v1/projects/{{id}}/{path}", "GET", 5) for path in ("runs/{n}", "runs/{n}/events", "backtests/{n}")),
        ("/v1/projects", "GET", 5),
        ("/v1/projects/{id}", "DELETE", 5),
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
    post = document["paths"]["/v1/jobs"]["post"]
    assert {"200", "201", "400", "401", "403", "409", "413", "415", "422", "503", "507"} <= post["responses"].keys()
    assert set(post["requestBody"]["content"]["application/json"]["examples"]) == set(examples.job_bodies())
    assert {"PromptRequest", "JobRequest", "Answer", "Answers", "ProblemDetails"} <= known.keys()
    assert "HTTPValidationError" not in known


def test_the_example_picture_can_be_pasted() -> None:
    assert len(PICTURE) < 500
