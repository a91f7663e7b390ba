"""Helpers of the job tests: a client of a server with jobs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.helpers import TIMEOUT, serve_app, wait_until

COUNT = 6  # images in the folder that can be labeled, without the copy
FINAL_STATES = ("done", "failed", "cancelled")


@contextmanager
def connect_server(
    engine: Engine, folder: Path, *sources: Path | str, key: str | None = None, **settings: Any
) -> Iterator[httpx.Client]:
    """Serves an app with its jobs in `folder`. Yields a client."""
    chosen = Settings(jobs_folder=folder, jobs_sources=tuple(map(str, sources)), **settings)
    headers = {"X-API-Key": key} if key else {}
    with (
        serve_app(create_app(chosen, engine)) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT, headers=headers) as client,
    ):
        yield client


def start_job(client: httpx.Client, source: Path | str, recipe: Any = "detect", **fields: Any) -> dict[str, Any]:
    """Starts a job and returns it."""
    response = client.post("/v1/jobs", json={"source": str(source), "recipe": recipe, **fields})
    assert response.status_code == 201, response.text
    job: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def get_job(client: httpx.Client, number: int) -> dict[str, Any]:
    response = client.get(f"/v1/jobs/{number}")
    assert response.status_code == 200, response.text
    return dict(response.json())


def wait_for_end(client: httpx.Client, number: int) -> dict[str, Any]:
    """Returns the job when it has ended."""
    wait_until(lambda: get_job(client, number)["state"] in FINAL_STATES)
    return get_job(client, number)


def list_results(client: httpx.Client, number: int, limit: int = 100) -> list[dict[str, Any]]:
    """Returns the results of all pages."""
    found, after = [], None
    while True:
        page = client.get(f"/v1/jobs/{number}/results", params={"limit": limit} | ({"after": after} if after else {}))
        assert page.status_code == 200, page.text
        found += page.json()["images"]
        after = page.json()["next"]
        assert len(page.json()["images"]) == limit or after is None
        if after is None:
            return found


def read_events(stream: httpx.Response) -> list[tuple[str, Any]]:
    """Returns the events of a stream that ends."""
    lines = [line for line in stream.iter_lines() if line.startswith(("event: ", "data: "))]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]
