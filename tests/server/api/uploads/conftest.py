"""Fixtures of the upload tests: drawn images, and servers with jobs."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from tests.server.api.jobs.job_client import connect_server

COUNT = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of small drawn scenes, by name."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(COUNT):
        draw_scene(6000 + seed, size=(160, 120)).image.save(folder / f"{seed}.png")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def client(engine: Engine, tmp_path: Path) -> Iterator[httpx.Client]:
    with connect_server(engine, tmp_path / "jobs") as connected_client:
        yield connected_client


@pytest.fixture(scope="module")
def shared(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server that allows few bytes, for requests that are refused."""
    folder = tmp_path_factory.mktemp("shared") / "jobs"
    with connect_server(engine, folder, max_upload_bytes=200_000, max_upload_images=4) as connected_client:
        yield connected_client
