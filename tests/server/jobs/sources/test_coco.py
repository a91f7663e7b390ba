import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labels.formats import FORMATS
from labels.labeled_image import LabeledImage
from server.jobs.sources import ImageSource, SourceError, SourceImageFault, open_source

Fill = Callable[..., Path]
Read = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def document(*names: object) -> str:
    images = [{"id": i, "file_name": name, "width": 4, "height": 3} for i, name in enumerate(names)]
    notes = [{"id": 1, "image_id": 1, "bbox": [0.5, 1e3, 1, 1], "segmentation": None, "caption": "ünï"}]
    return json.dumps({"info": {"images": 3}, "annotations": notes, "images": images, "categories": []})


@pytest.mark.parametrize(
    ("where", "pictures"),
    [
        ("coco.json", "{}"),
        ("coco.json", "images/{}"),
        ("annotations/instances_val2017.json", "val2017/{}"),
        ("annotations/train.json", "images/{}"),
        ("annotations/instances_default.json", "{}"),
    ],
)
def test_pictures_where_coco_files_have_them(fill: Fill, read: Read, where: str, pictures: str) -> None:
    folder = fill(where, pictures.format("a.jpg"), pictures.format("d/é.png"))
    (folder / where).write_text(document("a.jpg", "d\\é.png", "gone.jpg", "a.jpg", 7))
    assert read(open_source(str(folder / where))) == {
        "a.jpg": pictures.format("a.jpg").encode(),
        "d/é.png": pictures.format("d/é.png").encode(),
        "gone.jpg": SourceImageFault.MISSING,
        "row 5": SourceImageFault.MISSING,
    }


def test_names_that_climb_do_not_leave_their_names(fill: Fill, read: Read) -> None:
    folder = fill("set/coco.json", "a.jpg")
    (folder / "set" / "coco.json").write_text(document("../a.jpg"))
    source = open_source(
        str(folder / "set" / "coco.json"), is_allowed=lambda path: path.startswith(str(folder / "set"))
    )
    assert read(source) == {"a.jpg": SourceImageFault.REFUSED}


def test_our_own_file_names_its_pictures(fill: Fill, read: Read) -> None:
    folder = fill("a.jpg")
    picture = LabeledImage.from_traces("a.jpg", 4, 3, read=lambda: b"a.jpg", sha256="0" * 64)
    FORMATS["coco"].write([picture], folder / "set", copy_images=True)
    written = folder / "set/annotations/instances_default.json"
    assert read(open_source(str(written))) == {"a.jpg": b"a.jpg"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (document(), "has no `images`"),
        ('{"annotations": []}', "has no `images`"),
        ("[]", "has no `images`"),
        ('"text"', "has no `images`"),
        ('{"images": [{"file_name": "a.jpg"}, {"fi', "broken or cut short"),
        ("nonsense", "broken or cut short"),
        (document("gone.jpg"), "none of what its 1 rows name is a file in"),
        (document(None, 3), "names no picture"),
    ],
)
def test_files_that_cannot_be_used(fill: Fill, content: str, message: str) -> None:
    folder = fill("a.jpg")
    (folder / "coco.json").write_text(content)
    with pytest.raises(SourceError, match=message):
        open_source(str(folder / "coco.json"))
