import math

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from labels import geometry
from labels.geometry import bounding_box_or_none, clip_box, mirror, translate
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

SQUARE = [0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]
some = settings(max_examples=60, deadline=None, derandomize=True)


def make_box(label: str, x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box(label=label, box=(x1, y1, x2, y2))


def make_quad(label: str, *corners: float) -> Quad:
    return Quad(label=label, quad=corners)  # type: ignore[arg-type]


def make_polygon(*rings: list[float]) -> Polygon:
    return Polygon(polygons=list(rings))


WHOLE = st.integers(-2000, 2000).map(float)
SHAPES = st.one_of(
    st.tuples(*[WHOLE] * 4).map(
        lambda p: make_box("a", min(p[0], p[2]), min(p[1], p[3]), max(p[0], p[2]), max(p[1], p[3]))
    ),
    st.tuples(*[WHOLE] * 8).map(lambda p: make_quad("a", *p)),
    st.lists(st.lists(WHOLE, min_size=3, max_size=4).map(lambda p: [*p, *p]), min_size=1, max_size=3).map(
        lambda rings: make_polygon(*rings)
    ),
    st.just(Text(label="a")),
)


@st.composite
def stars(draw: st.DrawFn) -> list[float]:
    """Rings around a center that do not cross themselves."""
    count = draw(st.integers(3, 30))
    radii = draw(st.lists(st.floats(1, 60), min_size=count, max_size=count))
    x, y = draw(st.integers(-20, 120)), draw(st.integers(-20, 120))
    turns = [2 * math.pi * i / count for i in range(count)]
    return [v for r, a in zip(radii, turns, strict=True) for v in (x + r * math.cos(a), y + r * math.sin(a))]


def to_shapely(ring: list[float]) -> shapely.Polygon:
    return shapely.Polygon(geometry.to_points(ring))


def test_the_sign_of_an_area_is_the_direction() -> None:
    backward = geometry.to_ring(reversed(geometry.to_points(SQUARE)))
    assert geometry.signed_area(SQUARE) == 100
    assert geometry.signed_area(backward) == -100
    assert geometry.area(SQUARE) == geometry.area(backward) == 100


def test_bounding_box_of_each_shape() -> None:
    assert geometry.bounding_box(Box(box=(5, 6, 1, 2))) == (1, 2, 5, 6)
    assert geometry.bounding_box(Quad(quad=(3, 0, 6, 3, 3, 6, 0, 3))) == (0, 0, 6, 6)
    assert geometry.bounding_box(Polygon(polygons=[SQUARE, [20, 5, 30, 5, 30, 9]])) == (0, 0, 30, 10)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (make_box("", 1, 2, 3, 4), (1, 2, 3, 4)),
        (make_quad("", 5, 0, 9, 5, 5, 9, 0, 5), (0, 0, 9, 9)),
        (make_polygon([0, 0, 2, 0, 2, 2], [7, 8, 9, 8, 9, 9]), (0, 0, 9, 9)),
        (Polygon(polygons=[]), None),
        (Polygon(polygons=[[], [1.0]]), None),
        (Text(label="x"), None),
    ],
)
def test_annotations_without_points_have_no_bounding_box(shape: Annotation, expected: tuple[float, ...] | None) -> None:
    assert bounding_box_or_none(shape) == expected


@some
@given(stars())
def test_a_clipped_ring_is_what_lies_in_the_rectangle(ring: list[float]) -> None:
    box = (0.0, 0.0, 100.0, 80.0)
    found = geometry.clip_ring(ring, box)
    true = to_shapely(ring).intersection(shapely.box(*box))
    assert sum(map(geometry.area, found)) == pytest.approx(true.area, abs=1e-6 * max(true.area, 1))
    assert all(0 <= x <= 100 and 0 <= y <= 80 for part in found for x, y in geometry.to_points(part))
    assert all(geometry.signed_area(part) * geometry.signed_area(ring) > 0 for part in found)
    if true.area > 1e-6:
        assert geometry.bounds(found) == pytest.approx(true.bounds, abs=1e-6)


def test_a_ring_inside_stays_unchanged_and_one_outside_disappears() -> None:
    assert geometry.clip_ring(SQUARE, (0, 0, 10, 10)) == [SQUARE]
    assert geometry.clip_ring(SQUARE, (20, 0, 30, 10)) == []


def test_a_clipped_ring_can_have_several_parts() -> None:
    comb = [0, 0, 30, 0, 30, 20, 20, 20, 20, 5, 10, 5, 10, 20, 0, 20]
    assert sorted(map(geometry.area, geometry.clip_ring(comb, (0, 10, 30, 20)))) == [100, 100]


def test_a_ring_that_crosses_itself_is_clipped() -> None:
    bow = [0, 0, 20, 10, 20, 0, 0, 10]
    assert sum(map(geometry.area, geometry.clip_ring(bow, (0, 0, 10, 10)))) == pytest.approx(50)


def test_a_region_is_clipped_to_the_image() -> None:
    assert clip_box((-5, 10, 50, 999), (40, 30)) == (0, 10, 40, 30)
    assert clip_box((40, 0, 50, 9), (40, 30)) is None
    assert clip_box((5, 5, 5, 9), (40, 30)) is None


@some
@given(SHAPES, st.integers(0, 5000), st.integers(0, 5000))
def test_translating_back_restores_the_shape_exactly(shape: Annotation, x: int, y: int) -> None:
    assert translate(translate(shape, x, y), -x, -y) == shape


@some
@given(SHAPES)
def test_mirroring_twice_restores_the_shape(shape: Annotation) -> None:
    assert mirror(mirror(shape, 640), 640) == shape


def test_corners_stay_clockwise_in_the_mirror_image() -> None:
    assert mirror(make_quad("", 10, 0, 30, 0, 30, 9, 10, 9), 100) == make_quad("", 70, 0, 90, 0, 90, 9, 70, 9)
    assert mirror(make_polygon([10, 0, 30, 0, 30, 9]), 100) == make_polygon([70, 9, 70, 0, 90, 0])


@some
@given(stars(), st.floats(0, 20))
def test_a_simplified_ring_stays_near(ring: list[float], tolerance: float) -> None:
    found = geometry.simplify_ring(ring, tolerance)
    assert found[:2] == ring[:2]
    assert 6 <= len(found) <= len(ring)
    assert set(geometry.to_points(found)) <= set(geometry.to_points(ring))
    if len(found) > 6:
        outline = shapely.LinearRing(geometry.to_points(found))
        # The tolerance is from the line through two points, not from the edge between them: at its ends it is more.
        assert all(outline.distance(shapely.Point(p)) <= tolerance * 2 + 1e-6 for p in geometry.to_points(ring))


def test_a_straight_edge_needs_no_points_between_its_ends() -> None:
    ring = [0, 0, 2, 0, 4, 0.01, 10, 0, 10, 5, 10, 10, 0, 10]
    assert geometry.simplify_ring(ring, 0.1) == SQUARE


@some
@given(st.lists(stars(), min_size=1, max_size=3), st.integers(0, 29))
def test_canonical_rings_do_not_depend_on_how_the_shape_was_drawn(rings: list[list[float]], turn: int) -> None:
    def redraw(ring: list[float]) -> list[float]:
        corners = geometry.to_points(ring)
        turn_by = turn % len(corners)
        corners = corners[turn_by:] + corners[:turn_by]
        return geometry.to_ring(corners[::-1] if turn % 2 else corners)

    found = geometry.canonicalize_rings(rings)
    assert geometry.canonicalize_rings([redraw(ring) for ring in rings]) == found
    for ring in found:
        assert geometry.signed_area(ring) >= 0
        assert geometry.to_points(ring)[0] == min(geometry.to_points(ring), key=lambda point: (point[1], point[0]))
    areas = [geometry.area(ring) for ring in found]
    assert areas == sorted(areas, reverse=True)


def test_an_ellipse_is_a_ring_of_its_size() -> None:
    ring = geometry.ellipse_to_ring((50, 40), 30, 20)
    assert geometry.bounds([ring]) == pytest.approx((20, 20, 80, 60))
    assert geometry.signed_area(ring) == pytest.approx(math.pi * 30 * 20, rel=2e-3)  # clockwise
    assert all(abs(math.hypot((x - 50) / 30, (y - 40) / 20) - 1) < 1e-9 for x, y in geometry.to_points(ring))
