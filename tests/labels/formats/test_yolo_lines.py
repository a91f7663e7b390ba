import pytest

from labels.formats.yolo_lines import read_line
from labels.reading.checks import LabelError
from prompts.annotations import Box, Polygon

NAMES = {0.0: "cat", 7.0: "dog"}
SIZE = (100, 50)
BOX = Box(label="cat", box=(40, 15, 60, 35))


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.2 0.4",
        "0.0\t.5   .5 2e-1 0.4 ",
        "0,0.5,0.5,0.2,0.4",
        " 0 , 0.5 ; 0.5, 0.2 , 0.4 ;",
        "0 0.5 0.5 0.2 0.4 0.87",
        "0 0.5 0.5 0.2 0.4 1",
    ],
)
def test_boxes(line: str) -> None:
    found = read_line(line, NAMES, False, SIZE)
    assert (found.label, found.kind) == ("cat", "box")
    assert isinstance(found, Box)
    assert found.box == pytest.approx(BOX.box)


def test_keypoints_are_not_a_polygon() -> None:
    line = "0 0.5 0.5 0.2 0.4 0.1 0.1 2"
    assert isinstance(read_line(line, NAMES, True, SIZE), Box)
    with pytest.raises(LabelError, match="7 numbers after the class"):
        read_line(line, NAMES, False, SIZE)


def test_oriented_boxes_and_polygons() -> None:
    found = read_line("7 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7", NAMES, False, SIZE)
    assert isinstance(found, Polygon)
    assert found.polygons[0] == pytest.approx([40, 15, 60, 15, 60, 35, 40, 35])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.2 0.4", "its class 1 has no name"),
        ("0.5 0.5 0.5 0.2 0.4", "its class 0.5 has no name"),
        ("cat 0.5 0.5 0.2 0.4", "'cat', which is not a number"),
        ("0 0,5 0,5 0,2 0,4", "both spaces and commas"),
        ("0 0.5, 0.5, 0.2, 0.4", "both spaces and commas"),
        ("0,,0.5,0.5,0.2,0.4", "both spaces and commas"),
        ("0 0.5 0.5 0.2 0.4 37", "its fifth number 37 is no confidence"),
        ("0 0.5 0.5 0.2 0.4 -0.1", "is no confidence"),
        ("0 0.5 0.5 0.2", "it has 3 numbers"),
        ("0", "it has 0 numbers"),
        ("0 0.5 0.5 0 0.4", "has no area"),
        ("0 50 50 20 40", "outside"),
    ],
)
def test_lines_that_cannot_be_used(line: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_line(line, NAMES, False, SIZE)
