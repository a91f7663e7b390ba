"""Annotations that people send: normalized, or refused with a reason."""

from typing import Any

import pytest

from labels.label_kind import LabelKind
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from server.projects.annotation_validation import validate_annotations
from server.projects.errors import InvalidAnnotationsError

SIZE = (64, 48)


def box(label: str, *corners: float) -> Box:
    return Box(label=label, box=corners)  # type: ignore[arg-type]


def test_they_are_clipped_and_lose_their_scores() -> None:
    sent = Box(label=" a  bird ", box=(-2.0, 5.0, 30.0, 50.0), score=0.5)
    assert validate_annotations([sent], SIZE) == (LabelKind.OBJECTS, (box("a bird", 0, 5, 30, 48),))
    ring = [1.0, 1.0, 30.0, 1.0, 30.0, 30.0]
    both: list[Annotation] = [box("bird", 0, 5, 30, 48), Polygon(label="bird", polygons=[ring])]
    assert validate_annotations(both, SIZE)[0] is LabelKind.OBJECTS
    assert validate_annotations([Text(label="A bird.")], SIZE) == (LabelKind.CAPTIONS, (Text(label="A bird."),))
    assert validate_annotations([], SIZE, LabelKind.WORDS) == (LabelKind.WORDS, ())


@pytest.mark.parametrize(
    ("annotations", "kind", "index", "message"),
    [
        ([box("bird", 30, 5, 3, 40)], None, 0, "inverted"),
        ([box("bird", 3, 5, 3.2, 40)], None, 0, "no area"),
        ([box("bird", 60, 5, 90, 40)], None, 0, "outside the image of 64×48"),
        ([box("bird", 1, 5, 9, 40), box("<od>", 1, 5, 9, 40)], None, 1, "reserved token <od>"),
        ([box("<loc_5>", 1, 5, 9, 40)], None, 0, "reserved token"),
        ([box(" ", 1, 5, 9, 40)], None, 0, "is empty"),
        ([box("b" * 201, 1, 5, 9, 40)], None, 0, "201 characters"),
        ([Polygon(label="bird", polygons=[[1, 1, 5, 5]])], None, 0, "needs three"),
        ([Quad(label="word", quad=(1, 1, 1, 1, 1, 1, 1, 1))], None, 0, "no area"),
        ([Text(label="<s>")], None, 0, "reserved token"),
        ([box("bird", 1, 5, 9, 40), Text(label="A bird.")], None, None, "send each kind separately"),
        ([box("bird", 1, 5, 9, 40)], LabelKind.WORDS, 0, "does not belong to the kind words"),
        ([], None, None, "there are none; set `kind`"),
        ([box("bird", 1, 5, 9, 40)] * 10_001, None, None, "there are 10,001 annotations; the limit .* 10,000"),
        ([Text(label="a" * 4000)] * 251, None, None, "1,004,000 characters in labels; the limit .* 1,000,000"),
        (
            [Polygon(label="bird", polygons=[[1.0, 2.0] * 60, [1.0, 2.0] * 65])] * 1001,
            *(None, None, "250,250 coordinates of polygons; the limit .* 250,000"),
        ),
        ([], LabelKind.CAPTIONS, None, "at least one caption"),
    ],
)
def test_annotations_that_cannot_be_trained_on_are_refused(
    annotations: Any, kind: LabelKind | None, index: int | None, message: str
) -> None:
    with pytest.raises(InvalidAnnotationsError, match=message) as caught:
        validate_annotations(annotations, SIZE, kind)
    assert [problem.index for problem in caught.value.problems] == [index]
