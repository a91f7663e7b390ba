"""The checkpoints that the engine is tested with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from server.engine import checkpoint as checkpoints
from server.engine.checkpoint import Checkpoint
from tests.server.engine.tiny import MIXED, base_model, save, tiny_model

logging.disable_progress_bar()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The machine is shared, and tiny models lose time on threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints") / "tiny", tiny_model())


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Checkpoint:
    return checkpoints.load(str(tiny_folder))


@pytest.fixture(scope="session", params=[MIXED, 2, 16, 0, "base", "seedling"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Checkpoints whose answers are held against transformers': random ones by seed, one as wide
    as Florence-2-base, and the seedling itself."""
    if request.param == "seedling":
        return checkpoints.load("seedling")
    folder = tmp_path_factory.mktemp("checkpoints") / str(request.param)
    return checkpoints.load(str(save(folder, base_model() if request.param == "base" else tiny_model(request.param))))
