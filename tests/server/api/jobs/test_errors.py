"""Requests for jobs that are refused."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.auth import create_key
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.jobs.job_client import connect_server, start_job, wait_for_end
from tests.server.api.problem_checks import check_problem
from tests.server.helpers import serve_app


@pytest.mark.parametrize(
    ("fields", "status", "kind", "field", "message"),
    [
        ({"source": "/etc"}, 403, "source-not-allowed", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "{images}/../../.."}, 403, "source-not-allowed", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "http://localhost/a.zip"}, 403, "source-not-allowed", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "file:///etc/passwd"}, 403, "source-not-allowed", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "/a\0b"}, 403, "source-not-allowed", "source", "FLORIST_JOBS_SOURCES"),
        ({"source": "{images}/none"}, 422, "invalid-source", "source", "there is no"),
        ({"source": "{images}/*.gif"}, 422, "invalid-source", "source", "matches no image"),
        ({"source": "{images}/" + "a" * 300}, 422, "invalid-source", "source", ""),
        ({"source": ""}, 422, "invalid-request", "source", ""),
        ({"source": None}, 422, "invalid-request", "source", ""),
        ({"recipe": "detekt"}, 422, "invalid-recipe", "recipe", "there are caption, dense, detect"),
        ({"recipe": "/etc/passwd"}, 422, "invalid-recipe", "recipe", ""),
        ({"recipe": "name: x\nsteps: 3\n"}, 422, "invalid-recipe", "recipe", "line 2:8"),
        ({"recipe": {"name": "x", "steps": []}}, 422, "invalid-recipe", "recipe", "steps"),
        (
            {"recipe": {"name": "x", "steps": [{"id": "a", "task": "<OD>", "adapter": "mine"}]}},
            *(422, "invalid-recipe", "recipe", "the adapter 'mine' is not loaded"),
        ),
        ({"recipe": 3}, 422, "invalid-request", "recipe", "name of a built-in recipe"),
        ({"output": "../out"}, 422, "invalid-request", "output", ""),
        ({"color": "red"}, 422, "invalid-request", "color", "there is no such field"),
    ],
)
def test_an_invalid_field_is_named(
    idle: httpx.Client, images: Path, fields: dict[str, Any], status: int, kind: str, field: str, message: str
) -> None:
    body: dict[str, Any] = {"source": str(images), "recipe": "detect"} | fields
    if isinstance(body["source"], str):
        body["source"] = body["source"].replace("{images}", str(images))
    refused = check_problem(idle.post("/v1/jobs", json=body), status, kind)
    assert refused.field == field
    assert message in refused.detail
    assert idle.get("/v1/jobs").json()["jobs"] == []


def test_invalid_bodies_are_refused(idle: httpx.Client) -> None:
    check_problem(idle.post("/v1/jobs", content=b"{"), 400, "bad-body")
    assert '"source"' in check_problem(idle.post("/v1/jobs", json=[]), 400, "bad-body").detail
    check_problem(idle.post("/v1/jobs", data={"source": "x"}), 415, "unsupported-media-type")
    check_problem(idle.post("/v1/jobs", json={"recipe": "x" * 2_000_000}), 413, "too-large")


def test_links_out_of_the_source_are_not_followed(engine: Engine, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "good.png").write_bytes((images / "00.png").read_bytes())
    (own / "link.png").symlink_to(images / "01.png")
    with connect_server(engine, tmp_path / "jobs", own) as client:
        assert wait_for_end(client, start_job(client, own)["id"])["failures"] == {"refused": 1}
        (own / "loop").symlink_to(own / "loop")
        refused = client.post("/v1/jobs", json={"source": str(own / "loop"), "recipe": "detect"})
        check_problem(refused, 422, "invalid-source")


@pytest.mark.parametrize("path", ["", "/events", "/results", "/failures", "/export", "/summary", "/images/0"])
def test_an_unknown_job_is_not_found(idle: httpx.Client, path: str) -> None:
    assert "GET /v1/jobs" in check_problem(idle.get(f"/v1/jobs/7{path}"), 404, "not-found").detail
    check_problem(idle.get(f"/v1/jobs/none{path}"), 422, "invalid-request")
    check_problem(idle.get(f"/v1/jobs/{2**64}{path}"), 422, "invalid-request")


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry", "extend"])
def test_an_unknown_job_cannot_be_changed(idle: httpx.Client, action: str) -> None:
    check_problem(idle.post(f"/v1/jobs/7/{action}"), 404, "not-found")


def test_jobs_are_disabled_without_a_folder(engine: Engine) -> None:
    with serve_app(create_app(Settings(), engine)) as url:
        for response in (
            httpx.get(f"{url}/v1/jobs"),
            httpx.get(f"{url}/v1/jobs/1"),
            httpx.post(f"{url}/v1/jobs", json={"source": "/", "recipe": "detect"}),
            httpx.post(f"{url}/v1/jobs/1/pause"),
        ):
            assert "FLORIST_JOBS_FOLDER" in check_problem(response, 403, "jobs-disabled").detail


def test_routes_require_a_key(engine: Engine, images: Path, tmp_path: Path) -> None:
    key, hashed = create_key()
    with connect_server(engine, tmp_path, images, key=key, api_keys=(hashed,)) as client:
        number = start_job(client, images / "00.png")["id"]
        wait_for_end(client, number)
        del client.headers["X-API-Key"]
        check_problem(client.get("/v1/jobs"), 401, "unauthorized")
        check_problem(client.post("/v1/jobs", json={}), 401, "unauthorized")
        check_problem(client.get(f"/v1/jobs/{number}/export"), 401, "unauthorized")
        check_problem(client.get(f"/v1/jobs/{number}/summary"), 401, "unauthorized")
