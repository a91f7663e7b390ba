"""Image files below a folder."""

from pathlib import Path

import pytest
from PIL import Image

from labels import image_index
from labels.image_index import ImageIndex, ImageNotFoundError, list_image_files


def test_images_are_listed_by_suffix_or_content(tmp_path: Path) -> None:
    for name in ("b", "a.odd", "d/c.JFIF", ".hidden.jpg", "labels/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / name, "JPEG")
    for name in ("notes.txt", "program", "e.dng", "f.heic"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "d" / "loop").symlink_to(tmp_path)

    def list_names(skip_labels: bool) -> list[str]:
        paths = list_image_files(tmp_path, skip_labels=skip_labels)
        return [path.relative_to(tmp_path).as_posix() for path in paths]

    assert list_names(skip_labels=False) == ["a.odd", "b", "d/c.JFIF", "e.dng", "f.heic", "labels/x.jpg"]
    assert list_names(skip_labels=True) == ["a.odd", "b", "d/c.JFIF", "e.dng", "f.heic"]


def test_too_many_files_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_index, "MAX_INDEXED_FILES", 2)
    for number in range(3):
        (tmp_path / f"{number}.jpg").touch()
    index = ImageIndex(tmp_path)
    with pytest.raises(ImageNotFoundError, match="more than 2 files below"):
        list(index.find("0.jpg", by_stem=False))
