"""The files of corrected images."""

import hashlib
from pathlib import Path

from server.projects.image_store import ImageStore


def test_an_image_is_stored_once_under_its_hash(tmp_path: Path) -> None:
    images = ImageStore(tmp_path / "new")
    sha256 = images.add_image(b"image")
    assert sha256 == hashlib.sha256(b"image").hexdigest()
    assert images.add_image(b"image") == sha256
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == [sha256]
    assert images.get_path(sha256).read_bytes() == b"image"
