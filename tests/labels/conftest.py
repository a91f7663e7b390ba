import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file below the test's folder: a dict, list or str; None is an image of `size`, each in a
    color of its own."""
    count = 0

    def save(path: str, content: Any = None, size: tuple[int, int] = (100, 80)) -> Path:
        nonlocal count
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            count += 1
            Image.new("RGB", size, (count * 40 % 256, count, 0)).save(file)
        elif isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return file

    return save
