"""What a person changes in an export that has a `details.jsonl`."""

from pathlib import Path

import pytest
from PIL import Image

from labels.formats import FORMATS
from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box, Polygon, Text

RING = [10.0, 10.0, 50.0, 10.0, 50.0, 40.0, 10.0, 50.0]
HAT = TracedAnnotation(Polygon(label="hat", score=0.9, polygons=[RING]), attributes={"description": "a red hat"})
CUP = TracedAnnotation(Box(label="cup", score=0.4, box=(60, 60, 80, 80)), review="score 0.40 is below 0.9")
CAPTION = TracedAnnotation(Text(label="a hat and a cup"))


def write(tmp_path: Path, format: str) -> Path:
    """Exports an image, and returns its labels file."""
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    image = LabeledImage.from_traces("a.png", 100, 100, [CAPTION, HAT, CUP])
    file = LabeledImage("a.png", "", 100, 100, image.annotations, ImageFile(tmp_path / "a.png"), traces=image.traces)
    FORMATS[format].write([file], tmp_path / "out", ImagePlacement.COPY)
    return tmp_path / "out/labels/train/a.txt"


def read(tmp_path: Path) -> tuple[list[tuple[str, str, dict[str, str]]], list[str]]:
    """Returns kind, label and attributes of the annotations, and the reasons of what is not used."""
    dataset = open_dataset(tmp_path / "out")
    (image,) = dataset.images
    found = [(each.annotation.kind, each.annotation.label, dict(each.attributes)) for each in image.traced_annotations]
    return sorted(found, key=lambda each: each[:2]), [entry.reason for entry in dataset.unusable]


DETAILED, PLAIN = {"description": "a red hat"}, dict[str, str]()
OTHERS = [("box", "cup", PLAIN), ("text", "a hat and a cup", PLAIN)]


@pytest.mark.parametrize(
    ("line", "hat", "reason"),
    [
        ("0 0.3 0.3 0.4 0.4", [("polygon", "hat", DETAILED)], ""),  # as it was
        ("1 0.3 0.3 0.4 0.4", [("polygon", "cup", DETAILED)], ""),  # another class
        ("0 0.4 0.3 0.4 0.4", [("box", "hat", PLAIN)], "elsewhere now"),  # moved
        ("", [], "or gone"),  # removed
    ],
)
def test_details_are_used_where_the_annotation_still_is(
    tmp_path: Path, line: str, hat: list[tuple[str, str, dict[str, str]]], reason: str
) -> None:
    labels = write(tmp_path, "yolo-detect")
    labels.write_text("\n".join([line, labels.read_text().splitlines()[1]]))
    found, reasons = read(tmp_path)
    assert found == sorted([*OTHERS, *hat], key=lambda each: each[:2])
    assert len(reasons) == bool(reason)
    assert all(reason in each for each in reasons)


def test_an_object_that_a_person_has_drawn_since_counts_once(tmp_path: Path) -> None:
    labels = write(tmp_path, "yolo-segment")
    assert read(tmp_path)[0] == [*OTHERS[:1], ("polygon", "hat", DETAILED), *OTHERS[1:]]
    cup = "1 0.61 0.6 0.8 0.62 0.78 0.79 0.62 0.8"
    (tmp_path / "out/data.yaml").write_text("train: images/train\nval: images/train\nnames: [hat, cup]\n")
    labels.write_text(f"{labels.read_text()}{cup}\n1 0.1 0.8 0.2 0.8 0.2 0.9\n")
    found, reasons = read(tmp_path)
    assert found == [("polygon", "cup", PLAIN)] * 2 + [("polygon", "hat", DETAILED), *OTHERS[1:]]
    assert reasons == ["somebody has drawn this object since, so the model's is not used"]


@pytest.mark.parametrize("format", FORMATS)
def test_attributes_may_be_called_like_what_means_something_in_a_format(tmp_path: Path, format: str) -> None:
    """A step may have any name, and its texts are attributes of that name."""
    names = ["score", "review", "text", "transcription", "rotation", "occluded", "source", "track_id", "label", "id"]
    attributes = dict.fromkeys(names, "seven")
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    hat = TracedAnnotation(Polygon(label="hat", polygons=[RING]), attributes=attributes)
    image = LabeledImage.from_traces("a.png", 100, 100, [hat], (tmp_path / "a.png").read_bytes)
    FORMATS[format].write([image], tmp_path / "out", ImagePlacement.COPY, as_folder=True)
    assert read(tmp_path) == ([("polygon", "hat", attributes)], [])
