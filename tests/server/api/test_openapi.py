"""The server keeps to its OpenAPI document: schemathesis sends valid and invalid requests."""

import json
import re
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

from server.api.jobs.examples import create_job_examples
from server.api.projects.examples import create_correction_example
from server.api.prompt.examples import create_prompt_examples
from server.api.sample_image import draw_sample_image, encode_sample_image
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings

VERBS = {
    *("Add", "Cancel", "Change", "Check", "Combine", "Count", "Create", "Delete", "Download", "Extend", "Get"),
    *("Import", "List", "Load", "Pause", "Promote", "Read", "Remove", "Resume", "Retry", "Roll", "Send", "Start"),
    *("Upload", "View", "Watch", "Withdraw"),
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
IMAGE = encode_sample_image()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "one.png").write_bytes(draw_sample_image())
    return folder


@pytest.fixture(scope="module")
def app(engine: Engine, images: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    # Short texts and few prompts: this tests the shape of requests, not the model.
    jobs = {"jobs_folder": tmp_path_factory.mktemp("jobs"), "jobs_sources": (str(images),)}
    jobs["projects_folder"] = tmp_path_factory.mktemp("projects")
    return create_app(Settings(max_prompts=3, max_text_length=100, **jobs), engine)


def map_path_parameters(context: Any, parameters: Any) -> Any:
    """Replaces half of all IDs by the ID of the existing job or project."""
    if parameters and isinstance(parameters.get("id"), int) and parameters["id"] % 2 == 0:
        parameters["id"] = 1
    return parameters


def map_body(context: Any, body: Any) -> Any:
    """Replaces half of all images by a valid one. Otherwise no request would pass the decoder."""
    if isinstance(body, dict) and isinstance(body.get("image"), str) and len(body["image"]) % 2 == 0:
        body["image"] = IMAGE
        if isinstance(body.get("max_new_tokens"), int):
            body["max_new_tokens"] = min(body["max_new_tokens"], 16)
    return body


@pytest.fixture(scope="module")
def api(app: FastAPI, images: Path) -> Any:
    def map_source(context: Any, body: Any) -> Any:
        if isinstance(body, dict) and isinstance(body.get("source"), str) and len(body["source"]) % 2 == 0:
            body["source"] = str(images)
            body["recipe"] = "caption" if isinstance(body.get("recipe"), str) else body.get("recipe")
        return body

    read = schemathesis.openapi.from_asgi("/openapi.json", app)
    for hook in (map_body, map_path_parameters):
        read.hook(hook)
    read.hook("map_body")(map_source)
    return read


@pytest.fixture(scope="module", autouse=True)
def job_and_project(app: FastAPI, images: Path) -> None:
    """Creates a job and a project. The project has too few corrections for a run."""
    with TestClient(app) as client:
        job = client.post("/v1/jobs", json={"source": str(images), "recipe": "caption", "output": "first"})
        project = client.post("/v1/projects", json={"name": "first"})
        correction = client.post("/v1/projects/1/corrections", json=create_correction_example())
    assert [response.status_code for response in (job, project, correction)] == [201, 201, 201]


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
            for path in ("", "/events", "/failures", "/summary", "/images/{position}")
        ),
        *((f"/v1/jobs/{{id}}/{action}", "POST", 10) for action in ("pause", "resume", "extend", "retry", "cancel")),
        ("/v1/uploads", "POST", 30),
        ("/v1/uploads", "GET", 5),
        *(("/v1/uploads/{id}", method, 10) for method in ("POST", "GET", "DELETE")),
        ("/v1/jobs", "GET", 5),
        ("/v1/projects", "POST", 30),
        ("/v1/projects/{id}/corrections", "POST", 60),
        *(
            (f"/v1/projects/{{id}}/{action}", "POST", 20)
            for action in ("runs", "models", "backtests", "promote", "rollback")
        ),
        ("/v1/projects/{id}/corrections/job", "POST", 10),
        *((f"/v1/projects/{{id}}/runs/{{run_id}}/{action}", "POST", 5) for action in ("cancel", "resume")),
        *(
            (f"/v1/projects/{{id}}{path}", "GET", 5)
            for path in ("", "/next-images", "/corrections", "/runs", "/models", "/backtests")
        ),
        *(
            (f"/v1/projects/{{id}}/{path}", "GET", 5)
            for path in ("runs/{run_id}", "runs/{run_id}/events", "backtests/{backtest_id}")
        ),
        ("/v1/projects", "GET", 5),
        ("/v1/projects/{id}", "PATCH", 20),
        ("/v1/projects/{id}", "DELETE", 5),
        *(
            (path, "GET", 10)
            for path in ("/v1", "/v1/tasks", "/v1/models", "/v1/adapters", "/healthz", "/readyz", "/metrics")
        ),
    ],
)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_responses_match_the_document(api: Any, path: str, method: str, examples: int, mode: GenerationMode) -> None:
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
        def check_case(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        check_case()
    except Unsatisfiable:
        pytest.skip("there are no invalid requests")


def test_problems_and_examples_are_documented(app: FastAPI) -> None:
    document = app.openapi()
    post = document["paths"]["/v1/prompt"]["post"]
    assert {"400", "401", "413", "415", "422", "503", "504"} <= post["responses"].keys()
    for status, response in post["responses"].items():
        assert status == "200" or list(response["content"]) == ["application/problem+json"]
    assert set(post["requestBody"]["content"]["application/json"]["examples"]) == set(create_prompt_examples())
    known = document["components"]["schemas"]
    post = document["paths"]["/v1/jobs"]["post"]
    assert {"200", "201", "400", "401", "403", "409", "413", "415", "422", "503", "507"} <= post["responses"].keys()
    assert set(post["requestBody"]["content"]["application/json"]["examples"]) == set(create_job_examples())
    assert {"PromptRequest", "JobRequest", "PromptResponse", "PromptBatchResponse", "ProblemDetails"} <= known.keys()
    assert "HTTPValidationError" not in known


def test_the_sample_image_is_small_enough_for_examples() -> None:
    assert len(IMAGE) < 500


def list_operations(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns path, method and description of all operations."""
    return [
        (path, method, operation)
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    ]


def test_every_operation_has_a_summary_a_description_and_a_unique_id(app: FastAPI) -> None:
    operations = list_operations(app)
    for path, method, operation in operations:
        words = operation["summary"].split()
        assert len(words) >= 2, (method, path)
        assert words[0] in VERBS, (method, path)
        assert operation["description"], (method, path)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation["operationId"]), (method, path)
    ids = [operation["operationId"] for _, _, operation in operations]
    assert len(set(ids)) == len(ids)
    tags = {tag["name"] for tag in app.openapi()["tags"] if tag["description"]}
    assert {tag for _, _, operation in operations for tag in operation["tags"]} == tags


def test_every_error_is_a_problem(app: FastAPI) -> None:
    for path, method, operation in list_operations(app):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], (method, path, status)
    assert all(
        "401" in operation["responses"] for path, _, operation in list_operations(app) if path.startswith("/v1/")
    )


def test_no_name_contains_picture(app: FastAPI) -> None:
    document = app.openapi()
    names = json.dumps([document["paths"], document["components"]["schemas"]]).lower()
    assert "picture" not in names
