"""Folders of adapters."""

from pathlib import Path

import pytest

from tests.server.engine.adapters.helpers import CONFIGS
from tests.server.engine.tiny import save_adapter


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(root / name, seed, **config) for seed, (name, config) in enumerate(CONFIGS.items())}
