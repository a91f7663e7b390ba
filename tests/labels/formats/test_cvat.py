import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from hypothesis import given
from hypothesis import strategies as st

from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box, Polygon, Quad, Text
from tests.labels.samples import (
    PNG,
    boxes,
    captions,
    expect_category,
    export,
    lists_of_images,
    make_example_images,
    polygons,
    quads,
    round_values,
    some,
)

Save = Callable[..., Path]


def make_document(*shapes: str, name: str = "a.png") -> str:
    lines = "\n".join(shapes)
    return f'<annotations>\n<version>1.1</version>\n<image id="0" name="{name}" width="100" height="80">\n{lines}\n</image>\n</annotations>'  # noqa: E501


def format_box(place: str = 'xtl="10" ytl="20" xbr="30" ybr="40"', label: str = "cat", inner: str = "") -> str:
    return f'<box label="{label}" {place}>{inner}</box>'


def test_shapes_groups_words_and_captions_are_read(save: Save) -> None:
    save("images/a.png")
    attributes = '<attribute name="{}">{}</attribute>'
    path = save(
        "annotations.xml",
        make_document(
            format_box(),
            '<polygon label="dog" points="10,10;30,10;30,30" group_id="2"/>',
            '<polygon label="dog" points="50,10;60,10;60,30" group_id="2"/>',
            '<polygon label="dog" points="50,10;60,10;60,30" group_id="0"/>',
            f'<tag label="caption">{attributes.format("text", "a cat")}</tag>',
            format_box(label="text", inner=attributes.format("text", "STOP")),
            format_box(
                'xtl="40" ytl="20" xbr="60" ybr="40" rotation="90.0"', "text", attributes.format("transcription", "GO")
            ),
        ),
    )
    dataset = open_dataset(path.parent)
    assert dataset.unusable == ()
    (example,) = dataset.images
    assert set(map(type, example.annotations)) == {Box, Polygon, Quad, Text}
    polygons = [annotation for annotation in example.annotations if isinstance(annotation, Polygon)]
    assert sorted(len(polygon.polygons) for polygon in polygons) == [1, 2]
    stop, go = (annotation for annotation in example.annotations if isinstance(annotation, Quad))
    assert stop == Quad(label="STOP", quad=(10, 20, 30, 20, 30, 40, 10, 40))
    # A quarter turn clockwise: the words' top left is the upper right corner.
    assert go.quad == pytest.approx((60, 20, 60, 40, 40, 40, 40, 20))
    assert example.complete == {LabelKind.OBJECTS, LabelKind.WORDS}
    assert example.source == "annotations.xml:3"


def test_a_rotated_box_becomes_a_polygon(save: Save) -> None:
    save("a.png")
    place = 'xtl="40" ytl="30" xbr="60" ybr="40" rotation="90"'
    (example,) = open_dataset(save("annotations.xml", make_document(format_box(place)))).images
    (annotation,) = example.annotations
    assert isinstance(annotation, Polygon)
    assert annotation.polygons[0] == pytest.approx([55, 25, 55, 45, 45, 45, 45, 25])


def test_unusable_entries_name_the_line(save: Save) -> None:
    save("a.png")
    shapes = [
        format_box(),
        format_box('xtl="10" ytl="20" xbr="30"'),
        format_box('xtl="10" ytl="20" xbr="5" ybr="40"'),
        '<polygon label="cat" points="1,2;3"/>',
        '<polygon label="cat" points=""/>',
        '<polyline label="cat" points="1,2;3,4"/>',
        '<points label="cat" points="1,2"/>',
        '<tag label="sunny"/>',
        format_box(label=""),
    ]
    dataset = open_dataset(save("annotations.xml", make_document(*shapes)))
    assert [each.source for each in dataset.unusable] == [f"annotations.xml:{line}" for line in range(5, 13)]
    with pytest.raises(DatasetError, match=r"there is no image 'b\.png'"):
        open_dataset(save("annotations.xml", make_document(format_box(), name="b.png")))


def test_a_video_must_be_exported_as_images(save: Save) -> None:
    path = save("annotations.xml", "<annotations><version>1.1</version><track/></annotations>")
    with pytest.raises(DatasetError, match="CVAT for images"):
        open_dataset(path)


# Writing


def expect_elements(label: TracedAnnotation) -> list[tuple[object, ...]]:
    annotation = label.annotation
    text = annotation.label if isinstance(annotation, Quad | Text) else None
    attributes = (None if annotation.score is None else str(annotation.score), text, label.review or None)
    if isinstance(annotation, Text):
        return [("caption", *attributes, ())]
    if isinstance(annotation, Box):
        return [(expect_category(annotation), *attributes, round_values(annotation.box))]
    return [
        (expect_category(annotation), *attributes, round_values(r))
        for r in ([annotation.quad] if isinstance(annotation, Quad) else annotation.polygons)
    ]


@some
@given(lists_of_images(st.one_of(boxes(), quads(), polygons(), captions())))
def test_datumaro_reads_every_label(images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("cvat", images, Path(folder, "out"))
        dataset = Dataset.import_from(folder + "/out", "cvat")
        names = [c.name for c in dataset.categories()[AnnotationType.label]]
        items = list(dataset)
        assert len(items) == len(images)
        by_number = {Path(item.media.path).name.split(" ")[0]: item for item in items}
        for image in images:
            item = by_number[image.name.split("/")[-1].split(" ")[0]]
            assert Path(item.media.path).read_bytes() == PNG
            attributes = [
                (
                    names[a.label],
                    *(a.attributes.get(name) for name in ("score", "text", "review")),
                    round_values(getattr(a, "points", ())),
                )
                for a in item.annotations
            ]
            assert attributes == [row for label in image.traces for row in expect_elements(label)]


def test_the_rings_of_one_object_are_a_group(tmp_path: Path) -> None:
    export("cvat", make_example_images(), tmp_path / "out")
    polygons = ET.parse(tmp_path / "out/annotations.xml").getroot().findall("image/polygon")
    assert [polygon.get("group_id") for polygon in polygons] == [None, "3", "3"]


def test_names_with_line_breaks_are_kept(tmp_path: Path) -> None:
    name = 'a/"b"\n<c>.png'
    export("cvat", [LabeledImage.from_traces(name, 4, 4, sha256="0")], tmp_path / "out", placement=ImagePlacement.NONE)
    root = ET.parse(tmp_path / "out/annotations.xml").getroot()
    assert [image.get("name") for image in root.findall("image")] == [name]
