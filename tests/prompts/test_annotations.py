import math

import pytest
from pydantic import TypeAdapter, ValidationError

from prompts.annotations import Annotation, Box, Polygon, Quad, Text

ANNOTATIONS = [
    Box(label="cat", score=0.5, box=(1, 2, 3, 4)),
    Quad(label="STOP", quad=(1, 2, 3, 4, 5, 6, 7, 8)),
    Polygon(label="ひと", polygons=[[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]),
    Text(label="a line\nand another"),
]
adapter: TypeAdapter[Annotation] = TypeAdapter(Annotation)


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=lambda a: a.kind)
def test_an_annotation_survives_a_json_round_trip(annotation):
    assert adapter.validate_json(annotation.model_dump_json()) == annotation


@pytest.mark.parametrize("score", [0.0, 1.0, -0.1, math.nan])
def test_a_score_must_be_strictly_between_0_and_1(score):
    with pytest.raises(ValidationError):
        Box(box=(1, 2, 3, 4), score=score)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_coordinate_must_be_finite(value):
    with pytest.raises(ValidationError):
        Box(box=(value, 2, 3, 4))
    with pytest.raises(ValidationError):
        Polygon(polygons=[[1, 2, 3, value, 5, 6]])


def test_an_unknown_field_is_rejected():
    with pytest.raises(ValidationError, match="bbox"):
        adapter.validate_python({"kind": "box", "box": [1, 2, 3, 4], "bbox": [1, 2, 3, 4]})


def test_an_annotation_is_immutable():
    with pytest.raises(ValidationError):
        ANNOTATIONS[0].label = "dog"
