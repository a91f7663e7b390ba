"""Helpers of the project tests: a client of a server with projects."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.problem_checks import check_problem
from tests.server.helpers import TIMEOUT, serve_app
from tests.server.projects.scenes import draw_scenes

QUICK = {
    "steps": 2,
    "batch_size": 2,
    "prompts_per_image": 1,
    "frozen_stages": 4,
    "metric": "loss",
    "replay_share": 0,
    "lora_rank": 4,
}
FINAL_STATES = ("done", "no-gain", "failed", "cancelled")


@contextmanager
def connect_server(engine: Engine, folder: Path, **settings: Any) -> Iterator[httpx.Client]:
    """Serves an app with its jobs and projects in `folder`. Yields a client."""
    chosen = Settings(jobs_folder=folder / "jobs", projects_folder=folder / "projects", **settings)
    with (
        serve_app(create_app(chosen, engine)) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT) as client,
    ):
        yield client


def create_project(client: httpx.Client, name: str, **fields: Any) -> str:
    """Creates a project and returns its path."""
    response = client.post("/v1/projects", json={"name": name, "holdout_share": 0.5, **fields})
    assert response.status_code == 201, response.text
    return str(response.headers["location"])


def get_json(client: httpx.Client, path: str, **params: Any) -> dict[str, Any]:
    response = client.get(path, params=params)
    assert response.status_code == 200, response.text
    return dict(response.json())


def post_json(client: httpx.Client, path: str, status: int = 200, **fields: Any) -> dict[str, Any]:
    response = client.post(path, json=fields)
    assert response.status_code == status, response.text
    return dict(response.json())


def wait_for_end(client: httpx.Client, path: str) -> dict[str, Any]:
    """Returns a run or a backtest when it has ended."""
    ends = time.monotonic() + 2 * TIMEOUT
    while (row := get_json(client, path))["state"] not in FINAL_STATES:
        assert time.monotonic() < ends, row
        time.sleep(0.3)
    return row


def check_details(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Checks that a response has problem details of this kind, and returns them as JSON."""
    return check_problem(response, status, kind).model_dump(exclude_none=True)


def create_box(label: str, *corners: float) -> dict[str, Any]:
    return {"kind": "box", "label": label, "box": corners}


@contextmanager
def run_job(engine: Engine, folder: Path, count: int) -> Iterator[tuple[httpx.Client, Path, int]]:
    """Serves an app and labels drawn scenes in a job. Yields a client, the folder of images, and the ID of the job."""
    images = folder / "images"
    images.mkdir()
    for number, scene in enumerate(draw_scenes(count)):
        (images / f"{number}.png").write_bytes(scene.data)
    with connect_server(engine, folder, jobs_sources=(str(images),)) as client:
        job = post_json(client, "/v1/jobs", 201, source=str(images), recipe="detect")["id"]
        wait_for_end(client, f"/v1/jobs/{job}")
        yield client, images, job
