"""Fixtures of the adapter tests: a tiny model and two adapters."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import torch

from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from tests.server.api.adapters.adapter_client import (
    TARGETS,
    connect_server,
    find_loaded,
)
from tests.server.engine.tiny import create_tiny_model, save_adapter, save_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    return load_checkpoint(str(save_checkpoint(tmp_path_factory.mktemp("tiny"), create_tiny_model())))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(root / name, seed, target_modules=modules)
        for seed, (name, modules) in enumerate(TARGETS.items())
    }


@pytest.fixture
def engine(tiny: Checkpoint) -> Iterator[Engine]:
    with Engine(tiny, EngineConfig(max_adapter_bytes=1 << 24)) as created:
        yield created
    for adapter in created.list_adapters():
        created.unload_adapter(adapter.name)
    assert not find_loaded(tiny)


@pytest.fixture
def saved_folder(tmp_path: Path) -> Path:
    return tmp_path / "saved_folder"


@pytest.fixture
async def client(engine: Engine, saved_folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with connect_server(engine, saved_folder) as connection:
        yield connection
