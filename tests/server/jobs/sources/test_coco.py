"""The images of a COCO file."""

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from labels.formats import FORMATS
from labels.labeled_image import LabeledImage
from labels.writing.image_options import ImagePlacement
from server.jobs.sources import ImageSource, SourceError, SourceImageFault, coco, open_source

WriteFiles = Callable[..., Path]
ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def make_document(*names: object) -> str:
    images = [{"id": i, "file_name": name, "width": 4, "height": 3} for i, name in enumerate(names)]
    annotations = [{"id": 1, "image_id": 1, "bbox": [0.5, 1e3, 1, 1], "segmentation": None, "caption": "ünï"}]
    return json.dumps({"info": {"images": 3}, "annotations": annotations, "images": images, "categories": []})


@pytest.mark.parametrize(
    ("path", "images"),
    [
        ("coco.json", "{}"),
        ("coco.json", "images/{}"),
        ("annotations/instances_val2017.json", "val2017/{}"),
        ("annotations/train.json", "images/{}"),
        ("annotations/instances_default.json", "{}"),
    ],
)
def test_images_are_found_in_the_usual_folders(
    write_files: WriteFiles, read_all: ReadAll, path: str, images: str
) -> None:
    folder = write_files(path, images.format("a.jpg"), images.format("d/é.png"))
    (folder / path).write_text(make_document("a.jpg", "d\\é.png", "gone.jpg", "a.jpg", 7))
    assert read_all(open_source(str(folder / path))) == {
        "a.jpg": images.format("a.jpg").encode(),
        "d/é.png": images.format("d/é.png").encode(),
        "gone.jpg": SourceImageFault.MISSING,
        "row 5": SourceImageFault.MISSING,
    }


def test_a_path_outside_of_the_allowed_folder_is_refused(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("set/coco.json", "a.jpg")
    (folder / "set" / "coco.json").write_text(make_document("../a.jpg"))
    source = open_source(
        str(folder / "set" / "coco.json"), is_allowed=lambda path: path.startswith(str(folder / "set"))
    )
    assert read_all(source) == {"a.jpg": SourceImageFault.REFUSED}


def test_an_exported_coco_file_is_a_source(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg")
    image = LabeledImage.from_traces("a.jpg", 4, 3, read=lambda: b"a.jpg", sha256="0" * 64)
    FORMATS["coco"].write([image], folder / "set", placement=ImagePlacement.COPY)
    path = folder / "set/annotations/instances_default.json"
    assert read_all(open_source(str(path))) == {"a.jpg": b"a.jpg"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make_document(), "has no `images`"),
        ('{"annotations": []}', "has no `images`"),
        ("[]", "has no `images`"),
        ('"text"', "has no `images`"),
        ('{"images": [{"file_name": "a.jpg"}, {"fi', "broken or truncated"),
        ("nonsense", "broken or truncated"),
        (make_document("gone.jpg"), "none of its 1 rows names a file in"),
        (make_document(None, 3), "names no image"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported(write_files: WriteFiles, content: str, message: str) -> None:
    folder = write_files("a.jpg")
    (folder / "coco.json").write_text(content)
    with pytest.raises(SourceError, match=message):
        open_source(str(folder / "coco.json"))


def test_a_crash_of_the_parser_is_reported_while_a_server_still_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    class SlowFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(8000) or bytes(ended.wait(10) and 0)

    (tmp_path / "process.py").write_text("import os, sys\nsys.stdin.buffer.read(4096)\nos._exit(3)\n")
    monkeypatch.setattr(coco, "_PROCESS", tmp_path / "process.py")
    monkeypatch.setattr(coco.addresses, "open_file", lambda address, is_allowed: SlowFile(bytes(16_000)))
    with pytest.raises(SourceError, match=r"ended \(exit code 3\)"):
        coco.open_coco("https://images.test/coco.json")
    ended.set()
