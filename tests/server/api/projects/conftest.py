"""Fixtures of the project tests."""

from collections.abc import Iterator

import httpx
import pytest

from server.engine.engine import Engine
from server.projects import tuner
from tests.server.api.projects.project_client import connect_server, create_project


@pytest.fixture(autouse=True, scope="module")
def run_at_normal_priority() -> Iterator[None]:
    """Runs fine-tuning at normal priority. With the lowest one it would wait for all other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "NICENESS", 0)
        yield


@pytest.fixture(scope="module")
def client(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with connect_server(engine, tmp_path_factory.mktemp("server")) as connected_client:
        yield connected_client


@pytest.fixture(scope="module")
def idle(client: httpx.Client) -> str:
    """A project without corrections."""
    return create_project(client, "idle")
