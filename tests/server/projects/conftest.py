"""A store of projects in either database."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from server.engine.engine import Engine
from server.store import Store
from server.store.project_records import Project
from server.store.projects import ProjectStore
from server.store.registry import Registry

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
sys.path.insert(0, str(Path(__file__).parent))
from databases import Postgres, have_postgres
from tiny import save, tiny_model


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if not have_postgres():
        pytest.skip("PostgreSQL's initdb and postgres are not here")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database, new and empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'florist.db'}"
    return str(request.getfixturevalue("postgres").database())


@pytest.fixture
def store(url: str) -> Iterator[ProjectStore]:
    with Store(url) as opened:
        yield ProjectStore(opened, "here")


@pytest.fixture
def registry(store: ProjectStore) -> Registry:
    return Registry(store)


@pytest.fixture
def birds(store: ProjectStore) -> Project:
    """A project."""
    return store.create(Project(0, "birds", "b" * 64, ("<OD>", "<CAPTION>"), 0.25, "folder", 0.0))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of random weights."""
    return str(save(tmp_path_factory.mktemp("base"), tiny_model()))


@pytest.fixture(scope="module")
def tiny(base: str) -> Iterator[Engine]:
    torch.set_num_threads(1)
    with Engine.load(base, device="cpu") as loaded:
        yield loaded
