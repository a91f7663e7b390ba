"""Shapes moved and mirrored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labels.shapes import bounds, clipped, mirrored, moved
from prompts.annotations import Annotation, Polygon, Text
from tests.server.jobs.recipes.answering import box, polygon, quad, steady

WHOLE = st.integers(-2000, 2000).map(float)
SHAPES = st.one_of(
    st.tuples(*[WHOLE] * 4).map(lambda p: box("a", min(p[0], p[2]), min(p[1], p[3]), max(p[0], p[2]), max(p[1], p[3]))),
    st.tuples(*[WHOLE] * 8).map(lambda p: quad("a", *p)),
    st.lists(st.lists(WHOLE, min_size=3, max_size=4).map(lambda p: [*p, *p]), min_size=1, max_size=3).map(
        lambda rings: polygon(*rings)
    ),
    st.just(Text(label="a")),
)


@steady
@given(SHAPES, st.integers(0, 5000), st.integers(0, 5000))
def test_what_is_moved_comes_back_exactly(shape: Annotation, x: int, y: int) -> None:
    assert moved(moved(shape, x, y), -x, -y) == shape


@steady
@given(SHAPES)
def test_a_mirrors_mirror_image_is_the_shape(shape: Annotation) -> None:
    assert mirrored(mirrored(shape, 640), 640) == shape


def test_corners_stay_clockwise_in_the_mirror() -> None:
    assert mirrored(quad("", 10, 0, 30, 0, 30, 9, 10, 9), 100) == quad("", 70, 0, 90, 0, 90, 9, 70, 9)
    assert mirrored(polygon([10, 0, 30, 0, 30, 9]), 100) == polygon([70, 9, 70, 0, 90, 0])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (box("", 1, 2, 3, 4), (1, 2, 3, 4)),
        (quad("", 5, 0, 9, 5, 5, 9, 0, 5), (0, 0, 9, 9)),
        (polygon([0, 0, 2, 0, 2, 2], [7, 8, 9, 8, 9, 9]), (0, 0, 9, 9)),
        (Polygon(polygons=[]), None),
        (Polygon(polygons=[[], [1.0]]), None),
        (Text(label="x"), None),
    ],
)
def test_bounds(shape: Annotation, expected: tuple[float, ...] | None) -> None:
    assert bounds(shape) == expected


def test_a_region_is_clipped_to_the_picture() -> None:
    assert clipped((-5, 10, 50, 999), (40, 30)) == (0, 10, 40, 30)
    assert clipped((40, 0, 50, 9), (40, 30)) is None
    assert clipped((5, 5, 5, 9), (40, 30)) is None
