"""A store of projects in either database."""

from collections.abc import Iterator

import pytest
import torch

from server.engine.config import EngineConfig
from server.engine.engine import Engine
from tests.server.engine.tiny import create_tiny_model, save_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of random weights."""
    return str(save_checkpoint(tmp_path_factory.mktemp("base"), create_tiny_model()))


@pytest.fixture(scope="module")
def tiny(base: str) -> Iterator[Engine]:
    torch.set_num_threads(1)
    with Engine.load(EngineConfig(base, device="cpu")) as loaded:
        yield loaded
