import math

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from labels import geometry
from prompts.annotations import Box, Polygon, Quad

SQUARE = [0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]
some = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def stars(draw: st.DrawFn) -> list[float]:
    """Rings that do not cross themselves, around a middle."""
    count = draw(st.integers(3, 30))
    radii = draw(st.lists(st.floats(1, 60), min_size=count, max_size=count))
    x, y = draw(st.integers(-20, 120)), draw(st.integers(-20, 120))
    turns = [2 * math.pi * i / count for i in range(count)]
    return [v for r, a in zip(radii, turns, strict=True) for v in (x + r * math.cos(a), y + r * math.sin(a))]


def polygon(ring: list[float]) -> shapely.Polygon:
    return shapely.Polygon(geometry.points(ring))


def test_area_tells_the_sense() -> None:
    assert geometry.area(SQUARE) == 100
    assert geometry.area(geometry.flat(reversed(geometry.points(SQUARE)))) == -100


def test_the_box_of_each_shape() -> None:
    assert geometry.box_of(Box(box=(5, 6, 1, 2))) == (1, 2, 5, 6)
    assert geometry.box_of(Quad(quad=(3, 0, 6, 3, 3, 6, 0, 3))) == (0, 0, 6, 6)
    assert geometry.box_of(Polygon(polygons=[SQUARE, [20, 5, 30, 5, 30, 9]])) == (0, 0, 30, 10)


@some
@given(stars())
def test_a_clipped_ring_is_what_lies_in_the_rectangle(ring: list[float]) -> None:
    box = (0.0, 0.0, 100.0, 80.0)
    found = geometry.clipped(ring, box)
    true = polygon(ring).intersection(shapely.box(*box))
    assert (abs(geometry.area(found)) if found else 0) == pytest.approx(true.area, abs=1e-6 * max(true.area, 1))
    assert all(0 <= x <= 100 and 0 <= y <= 80 for x, y in geometry.points(found))
    if true.area > 1e-6:
        assert geometry.bounds([found]) == pytest.approx(true.bounds, abs=1e-6)


def test_a_ring_inside_stays_as_it_is_and_one_outside_goes() -> None:
    assert geometry.clipped(SQUARE, (0, 0, 10, 10)) == SQUARE
    assert geometry.clipped(SQUARE, (20, 0, 30, 10)) == []


@some
@given(stars(), st.floats(0, 20))
def test_a_simplified_ring_stays_near(ring: list[float], tolerance: float) -> None:
    found = geometry.simplified(ring, tolerance)
    assert found[:2] == ring[:2]
    assert 6 <= len(found) <= len(ring)
    assert set(geometry.points(found)) <= set(geometry.points(ring))
    if len(found) > 6:
        outline = shapely.LinearRing(geometry.points(found))
        # From the line through two points, which the edge between them ends; so up to a longer way at the ends.
        assert all(outline.distance(shapely.Point(p)) <= tolerance * 2 + 1e-6 for p in geometry.points(ring))


def test_a_straight_edge_needs_no_points_between() -> None:
    ring = [0, 0, 2, 0, 4, 0.01, 10, 0, 10, 5, 10, 10, 0, 10]
    assert geometry.simplified(ring, 0.1) == SQUARE


@some
@given(st.lists(stars(), min_size=1, max_size=3), st.integers(0, 29))
def test_a_canonical_shape_is_the_same_however_it_was_drawn(rings: list[list[float]], turn: int) -> None:
    def redrawn(ring: list[float]) -> list[float]:
        corners = geometry.points(ring)
        turn_by = turn % len(corners)
        corners = corners[turn_by:] + corners[:turn_by]
        return geometry.flat(corners[::-1] if turn % 2 else corners)

    found = geometry.canonical(rings)
    assert geometry.canonical([redrawn(ring) for ring in rings]) == found
    for ring in found:
        assert geometry.area(ring) >= 0
        assert geometry.points(ring)[0] == min(geometry.points(ring), key=lambda point: (point[1], point[0]))
    areas = [geometry.area(ring) for ring in found]
    assert areas == sorted(areas, reverse=True)
