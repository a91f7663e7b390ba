"""The checkpoints of the engine's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from tests.server.engine.engines import Gate
from tests.server.engine.tiny import MIXED_LENGTHS_SEED, create_base_model, create_tiny_model, save_checkpoint

logging.disable_progress_bar()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny models run slower with several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", create_tiny_model())


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_folder))


@pytest.fixture(scope="session", params=[MIXED_LENGTHS_SEED, 2, 16, 0, "base", "seedling"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Checkpoints whose answers are compared with transformers': random ones by seed, one with the widths of
    Florence-2-base, and the seedling."""
    if request.param == "seedling":
        return load_checkpoint("seedling")
    folder = tmp_path_factory.mktemp("checkpoints") / str(request.param)
    return load_checkpoint(
        str(
            save_checkpoint(
                folder, create_base_model() if request.param == "base" else create_tiny_model(request.param)
            )
        )
    )


@pytest.fixture
def engine(tiny: Checkpoint) -> Iterator[Engine]:
    with Engine(tiny, EngineConfig(max_batch=4, max_waiting=8)) as engine:
        yield engine
        for adapter in engine.list_adapters():  # the checkpoint is shared by all tests
            engine.unload_adapter(adapter.name)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)
