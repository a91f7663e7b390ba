from collections.abc import Callable
from pathlib import Path

import pytest

from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.opening import open_dataset
from prompts.annotations import Box, Polygon, Quad, Text

Save = Callable[..., Path]


def document(*shapes: str, name: str = "a.png") -> str:
    lines = "\n".join(shapes)
    return f'<annotations>\n<version>1.1</version>\n<image id="0" name="{name}" width="100" height="80">\n{lines}\n</image>\n</annotations>'  # noqa: E501


def box(place: str = 'xtl="10" ytl="20" xbr="30" ybr="40"', label: str = "cat", inner: str = "") -> str:
    return f'<box label="{label}" {place}>{inner}</box>'


def test_shapes_groups_words_and_captions(save: Save) -> None:
    save("images/a.png")
    said = '<attribute name="{}">{}</attribute>'
    path = save(
        "annotations.xml",
        document(
            box(),
            '<polygon label="dog" points="10,10;30,10;30,30" group_id="2"/>',
            '<polygon label="dog" points="50,10;60,10;60,30" group_id="2"/>',
            '<polygon label="dog" points="50,10;60,10;60,30" group_id="0"/>',
            f'<tag label="caption">{said.format("text", "a cat")}</tag>',
            box(label="text", inner=said.format("text", "STOP")),
            box('xtl="40" ytl="20" xbr="60" ybr="40" rotation="90.0"', "text", said.format("transcription", "GO")),
        ),
    )
    dataset = open_dataset(path.parent)
    assert dataset.unusable == ()
    (example,) = dataset.images
    assert set(map(type, example.annotations)) == {Box, Polygon, Quad, Text}
    polygons = [note for note in example.annotations if isinstance(note, Polygon)]
    assert sorted(len(polygon.polygons) for polygon in polygons) == [1, 2]
    stop, go = (note for note in example.annotations if isinstance(note, Quad))
    assert stop == Quad(label="STOP", quad=(10, 20, 30, 20, 30, 40, 10, 40))
    # A quarter turn clockwise: the words' top left is the upper right corner.
    assert go.quad == pytest.approx((60, 20, 60, 40, 40, 40, 40, 20))
    assert example.complete == {LabelKind.OBJECTS, LabelKind.WORDS}
    assert example.source == "annotations.xml:3"


def test_a_turned_box_is_a_polygon(save: Save) -> None:
    save("a.png")
    place = 'xtl="40" ytl="30" xbr="60" ybr="40" rotation="90"'
    (example,) = open_dataset(save("annotations.xml", document(box(place)))).images
    (note,) = example.annotations
    assert isinstance(note, Polygon)
    assert note.polygons[0] == pytest.approx([55, 25, 55, 45, 45, 45, 45, 25])


def test_what_cannot_be_used_is_listed_by_its_line(save: Save) -> None:
    save("a.png")
    shapes = [
        box(),
        box('xtl="10" ytl="20" xbr="30"'),
        box('xtl="10" ytl="20" xbr="5" ybr="40"'),
        '<polygon label="cat" points="1,2;3"/>',
        '<polygon label="cat" points=""/>',
        '<polyline label="cat" points="1,2;3,4"/>',
        '<points label="cat" points="1,2"/>',
        '<tag label="sunny"/>',
        box(label=""),
    ]
    dataset = open_dataset(save("annotations.xml", document(*shapes)))
    assert [each.source for each in dataset.unusable] == [f"annotations.xml:{line}" for line in range(5, 13)]
    with pytest.raises(DatasetError, match=r"there is no image 'b\.png'"):
        open_dataset(save("annotations.xml", document(box(), name="b.png")))


def test_a_video_must_be_exported_as_pictures(save: Save) -> None:
    path = save("annotations.xml", "<annotations><version>1.1</version><track/></annotations>")
    with pytest.raises(DatasetError, match="CVAT for images"):
        open_dataset(path)
