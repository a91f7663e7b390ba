import pytest

from labels.reading.repetition import AnnotationSet
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

BOX = Box(label="cat", box=(10.0, 20.0, 30.0, 40.0))
RING = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]


def is_new(*annotations: Annotation) -> list[bool]:
    known = AnnotationSet()
    return [known.add(annotation) for annotation in annotations]


@pytest.mark.parametrize(
    "other",
    [
        Box(label="cat", box=(10.0, 20.0, 30.0, 40.0), score=0.5),
        # On the other sides of borders between two cells.
        Box(label="cat", box=(9.995, 19.995, 29.995, 39.995)),
        Box(label="cat", box=(10.009, 20.009, 30.009, 40.009)),
    ],
)
def test_the_same_place_is_a_repetition(other: Box) -> None:
    assert is_new(BOX, other) == [True, False]


@pytest.mark.parametrize(
    "other",
    [
        Box(label="dog", box=BOX.box),
        Box(label="cat", box=(10.0, 20.0, 30.0, 40.1)),
        Box(label="cat", box=(10.1, 19.9, 30.0, 40.0)),
        Box(label="cat", box=(10.2, 19.9, 30.0, 40.0)),  # in the same cell
        Quad(label="cat", quad=(10, 20, 30, 20, 30, 40, 10, 40)),
        Polygon(label="cat", polygons=[[10, 20, 30, 20, 30, 40, 10, 40]]),
        Text(label="cat"),
    ],
)
def test_another_place_label_or_kind_is_none(other: Annotation) -> None:
    assert is_new(BOX, other, other) == [True, True, False]


def test_the_same_numbers_in_other_rings_are_another_polygon() -> None:
    two = Polygon(label="cat", polygons=[RING, RING])
    assert is_new(two, Polygon(label="cat", polygons=[[*RING, *RING]]), two) == [True, True, False]
