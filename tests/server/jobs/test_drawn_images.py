"""Drawings of a dataset's pictures."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box
from server.jobs import drawn_images

LABELS = (TracedAnnotation(Box(label="cat", score=0.5, box=(8, 8, 30, 30)), "step"),)


def picture(name: str, kind: str, size: tuple[int, int] = (400, 300)) -> LabeledImage:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, kind)
    return LabeledImage.from_traces(name, *size, LABELS, file.getvalue, sha256="0" * 64)


def test_each_is_drawn_in_its_format_and_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    def gone() -> bytes:
        raise OSError("stale file handle")

    pictures = [
        picture("a/1.JPG", "JPEG"),
        picture("../2.tif", "TIFF"),
        replace(picture("3.png", "PNG"), read=gone),
        replace(picture("4.png", "PNG"), read=lambda: b"<html>"),
        picture("5.webp", "WEBP"),
    ]
    for _ in range(2):  # again, over what is there
        report = drawn_images.write_drawn_images(pictures, tmp_path / "drawn")
    assert (report.images, report.annotations, report.unreadable) == (3, 3, ["3.png", "4.png"])
    files = {path.name: path for path in tmp_path.rglob("*.*") if path.name != ".florist"}
    assert {name: Image.open(path).format for name, path in files.items()} == {
        "1.JPG": "JPEG",
        "2.tif.png": "PNG",
        "5.webp": "WEBP",
    }
    assert all(path.is_relative_to(tmp_path / "drawn") for path in files.values())
    assert len(set(Image.open(files["2.tif.png"]).get_flattened_data())) > 1
    assert json.loads((tmp_path / "drawn" / ".florist").read_text())["pictures"] == 3


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="name an empty or a new folder"):
        drawn_images.write_drawn_images([], tmp_path / "drawn")
