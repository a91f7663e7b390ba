"""Both databases that jobs are kept in."""

import itertools
import sys
from collections.abc import Callable, Iterator
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
