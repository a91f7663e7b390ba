import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from hypothesis import given
from hypothesis import strategies as st

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Quad, Text
from tests.labels.samples import (
    PNG,
    boxes,
    captions,
    category,
    datasets,
    example,
    export,
    near,
    polygons,
    quads,
    some,
)


def expected(label: TracedAnnotation) -> list[tuple[object, ...]]:
    note = label.annotation
    text = note.label if isinstance(note, Quad | Text) else None
    said = (None if note.score is None else str(note.score), text, label.review or None)
    if isinstance(note, Text):
        return [("caption", *said, ())]
    if isinstance(note, Box):
        return [(category(note), *said, near(note.box))]
    return [(category(note), *said, near(r)) for r in ([note.quad] if isinstance(note, Quad) else note.polygons)]


@some
@given(datasets(st.one_of(boxes(), quads(), polygons(), captions())))
def test_datumaro_reads_every_label(pictures: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("cvat", pictures, Path(folder, "out"))
        dataset = Dataset.import_from(folder + "/out", "cvat")
        names = [c.name for c in dataset.categories()[AnnotationType.label]]
        items = list(dataset)
        assert len(items) == len(pictures)
        by_number = {Path(item.media.path).name.split(" ")[0]: item for item in items}
        for picture in pictures:
            item = by_number[picture.name.split("/")[-1].split(" ")[0]]
            assert Path(item.media.path).read_bytes() == PNG
            said = [
                (
                    names[a.label],
                    *(a.attributes.get(name) for name in ("score", "text", "review")),
                    near(getattr(a, "points", ())),
                )
                for a in item.annotations
            ]
            assert said == [row for label in picture.traces for row in expected(label)]


def test_rings_of_one_thing_are_a_group(tmp_path: Path) -> None:
    export("cvat", example(), tmp_path / "out")
    polygons = ET.parse(tmp_path / "out/annotations.xml").getroot().findall("image/polygon")
    assert [polygon.get("group_id") for polygon in polygons] == [None, "3", "3"]


def test_names_with_line_breaks_are_kept(tmp_path: Path) -> None:
    name = 'a/"b"\n<c>.png'
    export("cvat", [LabeledImage.from_traces(name, 4, 4, sha256="0")], tmp_path / "out", copy_images=False)
    root = ET.parse(tmp_path / "out/annotations.xml").getroot()
    assert [image.get("name") for image in root.findall("image")] == [name]
