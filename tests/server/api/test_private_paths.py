"""No answer holds a path of the server that the client did not send, an address in memory, or a stack trace."""

import sys
import sysconfig
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from server.api.model_names import get_public_name
from server.api.sample_image import encode_sample_image
from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.helpers import ROOT, wait_until

IMAGE = encode_sample_image()
PROMPT = {"image": IMAGE, "task": "<OD>"}
BROKEN = b"\x89PNG\r\n\x1a\n broken"
BOX = {"kind": "box", "label": "bird", "box": [8, 22, 27, 41]}
FINAL = ("done", "failed", "cancelled")


def check(response: httpx.Response, *private: Path) -> str:
    text = response.text.replace("\\/", "/")
    folders = [*private, ROOT, Path.home(), Path(sys.prefix), Path(sysconfig.get_path("stdlib"))]
    for secret in (*map(str, folders), "site-packages", "Traceback", 'File "', 'File \\"', " object at 0x"):
        assert secret not in text, f"{response.request.method} {response.request.url}: {text[:2000]}"
    return text


def iter_failing_requests(world: Path) -> "list[tuple[str, str, dict[str, Any]]]":
    """Requests of every resource that fail in as many ways as possible."""
    archive = {"weights": ("adapter_model.safetensors", b"broken"), "config": ("adapter_config.json", b"{")}
    sources = [
        "relative", "./images", "..", "/", "/etc/passwd", str(world / "none"), str(world / "broken.zip"),
        str(world / "broken.csv"), str(world / "broken.json"), str(world / "broken.parquet"), str(world / "*.none"),
        str(world / "[.jpg"), "a\0b", "s3://bucket/none", "file:///etc", "http://localhost/a.zip", "memory://a",
        "zip://a::file:///etc", str(world / ("a" * 300)),
    ]  # fmt: skip
    return [
        *(("POST", "/v1/prompt", {"json": {"image": each, "task": "<OD>"}}) for each in ("", "!", "aGVsbG8=")),
        ("POST", "/v1/prompt", {"json": {**PROMPT, "task": "<NONE>"}}),
        ("POST", "/v1/prompt", {"json": {**PROMPT, "adapter": "../../etc/passwd"}}),
        ("POST", "/v1/prompt", {"json": {**PROMPT, "project": "none"}}),
        ("POST", "/v1/prompt", {"json": {**PROMPT, "constrain": {"labels": ["\0"]}}}),
        ("POST", "/v1/prompt", {"json": {"image_url": "http://localhost", "task": "<OD>"}}),
        ("POST", "/v1/prompt", {"files": {"image": BROKEN}, "data": {"task": "<OD>"}}),
        ("POST", "/v1/prompt", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        ("POST", "/v1/prompt", {"content": b"{", "headers": {"Content-Type": "multipart/form-data; boundary="}}),
        ("POST", "/v1/prompt", {"content": b"{", "headers": {"Content-Type": "multipart/form-data; charset=x"}}),
        ("PUT", "/v1/adapters/broken", {"files": archive}),
        ("PUT", "/v1/adapters/..%2f..%2fetc", {"files": archive}),
        ("DELETE", "/v1/adapters/none", {}),
        ("GET", "/v1/adapters/none", {}),
        *(("POST", "/v1/jobs", {"json": {"source": source, "recipe": "detect"}}) for source in sources),
        *(
            ("POST", "/v1/jobs", {"json": {"source": str(world), "recipe": recipe}})
            for recipe in ("none", "../../etc/passwd", "steps: [", "!!python/object:os.system {}", {"steps": [{}]})
        ),
        *(("GET", f"/v1/jobs/99{end}", {}) for end in ("", "/results", "/export", "/summary", "/images/0", "/events")),
        ("GET", "/v1/jobs/1/export?format=../../etc", {}),
        ("POST", "/v1/projects", {"json": {"name": "../../etc"}}),
        ("GET", "/v1/projects/99", {}),
        ("POST", "/v1/projects/99/runs", {"json": {}}),
        ("POST", "/v1/projects/1/runs", {"json": {}}),
        ("POST", "/v1/projects/1/runs", {"json": {"replay_dataset": "relative"}}),
        ("POST", "/v1/projects/1/runs", {"json": {"replay_dataset": "/etc"}}),
        ("POST", "/v1/projects/1/runs", {"json": {"initial_model": 99}}),
        ("POST", "/v1/projects/1/corrections", {"json": {"image": "aGVsbG8=", "annotations": [BOX]}}),
        ("POST", "/v1/projects/1/corrections", {"json": {"image": IMAGE, "annotations": [{"kind": "none"}]}}),
        ("GET", "/v1/projects/1/corrections/99", {}),
        ("GET", "/docs/..%2f..%2froutes.py", {}),
        ("GET", "/docs/../routes.py", {}),
        ("GET", "/docs/%00", {}),
        ("GET", "/docs/" + "a" * 300, {}),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", {}),
    ]


def test_answers_hold_no_paths_of_the_server(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, private = tmp_path / "world", tmp_path / "private"
    world.mkdir()
    for name in ("broken.zip", "broken.csv", "broken.json", "broken.parquet", "a.jpg", "b.png"):
        (world / name).write_bytes(BROKEN)
    settings = Settings(
        jobs_folder=private / "jobs", projects_folder=private / "projects", adapters_folder=private / "adapters",
        jobs_sources=(str(world),),
    )  # fmt: skip
    app = create_app(settings, engine)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/v1/projects", json={"name": "birds"}).status_code == 201
        statuses = set()
        for method, path, options in iter_failing_requests(world):
            response = client.request(method, path, **options)
            check(response, private)
            assert response.status_code < 500, (method, path, options, response.text)
            statuses.add(response.status_code)
        assert statuses >= {400, 403, 404, 422}

        # A job whose images are all broken: its failures, its page and its dataset.
        job = client.post("/v1/jobs", json={"source": str(world / "*.jpg"), "recipe": "detect"}).json()
        path = f"/v1/jobs/{job['id']}"
        wait_until(lambda: client.get(path).json()["state"] in FINAL)
        for end in ("", "/failures", "/results", "/summary", "/export", "/images/0"):
            check(client.get(path + end), private)

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError(f"{ROOT}/server/engine: secret of {private}")

        monkeypatch.setattr(engine, "submit", fail)
        failed = client.post("/v1/prompt", json=PROMPT)
        assert failed.status_code == 500
        assert "secret" not in check(failed, private)
        assert failed.json()["request_id"] == failed.headers["x-request-id"]


def test_the_name_of_the_model_is_not_its_path() -> None:
    assert get_public_name("/models/florence-2-large") == "florence-2-large"
    assert get_public_name("../florence-2-large/") == "florence-2-large"
    assert get_public_name("microsoft/Florence-2-large") == "microsoft/Florence-2-large"
    assert get_public_name("seedling") == "seedling"
    assert get_public_name("~/florence-2") == "florence-2"
