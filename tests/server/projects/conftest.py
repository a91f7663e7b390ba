"""A tiny model with random weights."""

from collections.abc import Iterator

import pytest
import torch

from server.engine.config import EngineConfig
from server.engine.engine import Engine
from tests.server.engine.tiny import create_tiny_model, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a checkpoint."""
    return str(save_checkpoint(tmp_path_factory.mktemp("base"), create_tiny_model()))


@pytest.fixture(scope="module")
def engine(checkpoint: str) -> Iterator[Engine]:
    torch.set_num_threads(1)
    with Engine.load(EngineConfig(checkpoint, device="cpu")) as loaded:
        yield loaded
