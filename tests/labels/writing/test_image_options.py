import json
from pathlib import Path

import pytest

from labels.formats import FORMATS
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.writing.image_options import ImageOptions, ImagePlacement
from prompts.annotations import Box
from tests.labels.samples import PNG, make_example_images

PREFIX = "https://example.org/pictures/"


@pytest.mark.parametrize(
    ("prefix", "name", "url"),
    [
        (PREFIX, "a/b.png", PREFIX + "a/b.png"),
        (PREFIX, "é #1?%41&.png", PREFIX + "%C3%A9%20%231%3F%2541%26.png"),
        ("http://host/get?file=", "a b.png", "http://host/get?file=a%20b.png"),
        (PREFIX, "\udcff.png", PREFIX + "%FF.png"),
        ("s3://bucket/é/", "a b.png", "s3://bucket/é/a b.png"),
        ("GS://bucket/", "100%.png", "GS://bucket/100%.png"),
        ("azure-blob://container/", "a.png", "azure-blob://container/a.png"),
    ],
)
def test_the_address_of_an_image_is_the_prefix_and_its_name(prefix: str, name: str, url: str) -> None:
    assert ImageOptions(url_prefix=prefix).make_url(name) == url
    assert ImageOptions().make_url(name) is None


def make_images() -> list[LabeledImage]:
    trace = TracedAnnotation(Box(label="cat", box=(1, 2, 300, 400)), "detect")
    names = ["a/b c.png", "a.png", "a.jpg", "back\\slash.png"]
    return [LabeledImage.from_traces(name, 640, 480, [trace], lambda: PNG, sha256="0" * 64) for name in names]


@pytest.mark.parametrize("placement", [ImagePlacement.NONE, ImagePlacement.COPY])
def test_label_studio_and_coco_hold_addresses(placement: ImagePlacement, tmp_path: Path) -> None:
    for name in ("label-studio", "coco"):
        FORMATS[name].write(make_images(), tmp_path / name, placement, image_url=PREFIX)
    tasks = json.loads((tmp_path / "label-studio/tasks.json").read_text())
    addresses = [task["data"]["image"] for task in tasks]
    # The address is that of the image as it is called in the dataset.
    last = "back%5Cslash.png" if placement is ImagePlacement.NONE else "back_slash.png"
    assert addresses == [PREFIX + name for name in ("a/b%20c.png", "a.png", "a.jpg", last)]
    coco = json.loads((tmp_path / "coco/annotations/instances_default.json").read_text())
    assert [image["coco_url"] for image in coco["images"]] == addresses
    copies = list((tmp_path / "label-studio").rglob("*.*g"))
    assert len(copies) == (4 if placement is ImagePlacement.COPY else 0)


def test_images_are_found_by_their_addresses(tmp_path: Path) -> None:
    FORMATS["label-studio"].write(make_images()[:1], tmp_path / "out", image_url=PREFIX)
    (tmp_path / "out/images/a").mkdir(parents=True)
    (tmp_path / "out/images/a/b c.png").write_bytes(PNG)
    (image,) = open_dataset(tmp_path / "out").images
    assert image.annotations == (Box(label="cat", box=(1, 2, 300, 400)),)


def test_formats_without_a_place_for_addresses_refuse_them(tmp_path: Path) -> None:
    for name in ("yolo-detect", "jsonl", "cvat"):
        with pytest.raises(ValueError, match="has no place for the addresses of images"):
            FORMATS[name].write(make_example_images(), tmp_path / "out", image_url=PREFIX)
    assert not (tmp_path / "out").exists()
