"""A model to serve: the seedling."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
import torch

from server.app import create_app
from server.engine.engine import Engine
from server.settings import Settings

# pytest's importlib mode leaves helpers beside the tests unfound.
sys.path.insert(0, str(Path(__file__).parent / "engine"))
sys.path.insert(0, str(Path(__file__).parent))
from helpers import Process, StuckEngine, connected

# As the server's own: structlog's default shows the local variables of a trace, which takes seconds.
structlog.configure([structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])


@pytest.fixture(scope="session")
def model_name() -> str:
    return "seedling"


@pytest.fixture(scope="session")
def engine(model_name: str) -> Iterator[Engine]:
    torch.set_num_threads(1)
    with Engine.load(model_name, device="cpu") as loaded:
        yield loaded


@pytest.fixture
def stuck() -> StuckEngine:
    return StuckEngine()


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with connected(create_app(Settings(), engine)) as connection:
        yield connection


@pytest.fixture
def start(model_name: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts server processes, which end with the test."""
    started: list[Process] = []

    def begin(*options: str, model: str = model_name, **environment: str) -> Process:
        log = tmp_path / f"server-{len(started)}.log"
        started.append(Process(log, "--model", model, "--device", "cpu", *options, **environment))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
