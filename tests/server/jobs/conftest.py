"""Both databases that jobs are kept in."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from databases import Postgres, have_postgres


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
