"""Fixtures of the job tests: a folder of images and servers with jobs."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from tests.server.api.jobs.job_client import COUNT, connect_server


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn scenes, a copy of one of them, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(COUNT):
        draw_scene(5000 + seed, size=(200, 160)).image.save(folder / f"{seed:02}.png")
    (folder / "99 again.png").write_bytes((folder / "03.png").read_bytes())
    (folder / "50.jpg").write_bytes(b"not an image")
    return folder


@pytest.fixture
def client(engine: Engine, images: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with connect_server(engine, tmp_path / "jobs", images) as connected_client:
        yield connected_client


@pytest.fixture(scope="module")
def idle(engine: Engine, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server without jobs, for requests that are refused."""
    with connect_server(engine, tmp_path_factory.mktemp("idle"), images) as connected_client:
        yield connected_client
