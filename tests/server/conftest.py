"""Fixtures of the server: an engine with the seedling, server processes, and databases of both kinds."""

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
from server.image_decoding import ImageDecoding
from server.settings import Settings
from tests.server.databases import Postgres, have_postgres
from tests.server.helpers import FloristProcess, StuckEngine, connect

# structlog's default tracebacks contain local variables, which takes seconds.
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


@pytest.fixture(scope="session")
def decoding() -> Iterator[ImageDecoding]:
    """Decoders that many tests use: each process takes a tenth of a second to start."""
    decoding = ImageDecoding(Settings())
    yield decoding
    decoding.close()


@pytest.fixture
async def client(engine: Engine, decoding: ImageDecoding) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(), engine)
    app.state.lifecycle.decoding = decoding
    async with connect(app) as connection:
        yield connection


@pytest.fixture
def start(model_name: str, tmp_path: Path) -> Iterator[Callable[..., FloristProcess]]:
    """Returns a function that starts a server process. The processes end with the test."""
    started: list[FloristProcess] = []

    def start_process(*options: str, model: str = model_name, **environment: str) -> FloristProcess:
        log = tmp_path / f"server-{len(started)}.log"
        started.append(FloristProcess(log, "--model", model, "--device", "cpu", *options, **environment))
        return started[-1]

    yield start_process
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if not have_postgres():
        pytest.skip("PostgreSQL is not installed: there is no initdb or postgres")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Returns a function that creates an empty database and returns its URL."""
    if request.param == "postgresql":
        database: Callable[[], str] = request.getfixturevalue("postgres").create_database
        return database
    names = (f"florist{n or ''}.db" for n in itertools.count())
    return lambda: f"sqlite:///{tmp_path / next(names)}"


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    """The URL of an empty database."""
    return new_database()
