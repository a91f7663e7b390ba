"""A model to serve (the seedling), and both databases that jobs and projects are kept in."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
import torch

from server.app import create_app
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.databases import Postgres, have_postgres
from tests.server.helpers import Process, StuckEngine, connected

# As the server's own: structlog's default shows the local variables of a trace, which takes seconds.
structlog.configure([structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])


@pytest.fixture(scope="session")
def model_name() -> str:
    return "seedling"


@pytest.fixture(scope="session")
def engine(model_name: str) -> Iterator[Engine]:
    torch.set_num_threads(1)
    with Engine.load(EngineConfig(model_name, device="cpu")) as loaded:
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if not have_postgres():
        pytest.skip("PostgreSQL's initdb and postgres are not here")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives databases, new and empty."""
    if request.param == "postgresql":
        database: Callable[[], str] = request.getfixturevalue("postgres").database
        return database
    names = (f"florist{n or ''}.db" for n in itertools.count())
    return lambda: f"sqlite:///{tmp_path / next(names)}"


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    """A database, new and empty."""
    return new_database()
