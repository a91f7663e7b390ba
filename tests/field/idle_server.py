"""A server that is asked about everything but the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
from fastapi import FastAPI

from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings
from server.store.pages import MAX_PAGE_BYTES
from tests.server.helpers import TIMEOUT, StuckEngine, serve_app


class IdleEngine(StuckEngine):
    """An engine for servers that are asked about everything but the model."""

    def __init__(self) -> None:
        super().__init__()
        self.checkpoint.sha256 = "b" * 64

    def list_adapters(self) -> list[Any]:
        return []


def create_server(folder: Path, **settings: Any) -> FastAPI:
    chosen = Settings(jobs_folder=folder / "jobs", projects_folder=folder / "projects", **settings)
    return create_app(chosen, cast(Engine, IdleEngine()))


@contextmanager
def serve(folder: Path, **settings: Any) -> Iterator[tuple[httpx.Client, FastAPI]]:
    app = create_server(folder, **settings)
    with serve_app(app) as url, httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        yield client, app


def create_project(client: httpx.Client, name: str) -> str:
    response = client.post("/v1/projects", json={"name": name})
    assert response.status_code == 201, response.text
    return str(response.headers["location"])


def list_all(client: httpx.Client, path: str, name: str, limit: int = 1000) -> list[dict[str, Any]]:
    """Returns the entries of all pages. Each page must be small."""
    entries: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        response = client.get(path, params={"limit": limit, "after": after})
        assert response.status_code == 200, response.text
        assert len(response.content) < MAX_PAGE_BYTES + (1 << 20)
        entries += response.json()[name]
        after = response.json()["next"]
    return entries
