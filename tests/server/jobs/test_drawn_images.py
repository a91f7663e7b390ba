"""A folder of images with their annotations drawn."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from labels.image_files import DeferredImage, ImageBytes
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box
from server.jobs import drawn_images

TRACES = (TracedAnnotation(Box(label="cat", score=0.5, box=(8, 8, 30, 30)), "step"),)


def make_image(name: str, format: str, size: tuple[int, int] = (400, 300)) -> LabeledImage:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, format)
    return LabeledImage.from_traces(name, *size, TRACES, file.getvalue, sha256="0" * 64)


def test_images_keep_their_format_and_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    def fail_to_read() -> bytes:
        raise OSError("stale file handle")

    images = [
        make_image("a/1.JPG", "JPEG"),
        make_image("../2.tif", "TIFF"),
        replace(make_image("3.png", "PNG"), open=DeferredImage(fail_to_read)),
        replace(make_image("4.png", "PNG"), open=ImageBytes(b"<html>")),
        make_image("5.webp", "WEBP"),
    ]
    for _ in range(2):  # the second time replaces the first
        report = drawn_images.write_drawn_images(images, tmp_path / "drawn")
    assert (report.images, report.annotations, report.unreadable) == (3, 3, ["3.png", "4.png"])
    files = {path.name: path for path in tmp_path.rglob("*.*") if path.name not in (".florist", "renamed.csv")}
    assert {name: Image.open(path).format for name, path in files.items()} == {
        "1.JPG": "JPEG",
        "2.tif.png": "PNG",
        "5.webp": "WEBP",
    }
    assert all(path.is_relative_to(tmp_path / "drawn") for path in files.values())
    assert report.renamed_examples == [("../2.tif", "2.tif.png")]
    assert (tmp_path / "drawn/renamed.csv").read_text() == "name,new_name\n../2.tif,2.tif.png\n"
    assert len(set(Image.open(files["2.tif.png"]).get_flattened_data())) > 1
    assert json.loads((tmp_path / "drawn" / ".florist").read_text())["images"] == 3


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="choose an empty or new folder"):
        drawn_images.write_drawn_images([], tmp_path / "drawn")
