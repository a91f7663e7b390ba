"""Geometry of shapes in pixels, y down. A ring is a closed outline: a flat list x1, y1, x2, y2 …

Labels from datasets, the boxes that a model answers and the views of augmentation all use these functions.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from operator import mul

import numpy as np
import shapely

from prompts.annotations import Annotation, Box, Polygon, Quad, Text

Ring = Sequence[float]
Rectangle = tuple[float, float, float, float]  # x1, y1, x2, y2
Point = tuple[float, float]
Shape = Box | Quad | Polygon
NO_AREA = 1e-6  # square pixels: a smaller area is a rounding error
MIN_RING = 6  # numbers in the smallest ring: three corners
_ELLIPSE_POINTS = 72
MAX_ANSWER_POINTS = 100  # of a polygon in an answer: 200 location tokens


# Rings and boxes


def to_points(ring: Ring) -> list[Point]:
    """Converts x1, y1, x2, y2 … to (x1, y1), (x2, y2) …"""
    return list(zip(ring[::2], ring[1::2], strict=True))


def to_ring(points: Iterable[Point]) -> list[float]:
    """Converts (x1, y1), (x2, y2) … to x1, y1, x2, y2 …"""
    return [value for point in points for value in point]


def to_rings(shape: Shape) -> list[list[float]]:
    """Returns the outlines of a shape. Rings of a polygon with fewer than three corners are left out."""
    match shape:
        case Box():
            return [box_to_ring(shape.box)]
        case Quad():
            return [list(shape.quad)]
        case Polygon():
            return [list(ring) for ring in shape.polygons if len(ring) >= MIN_RING and len(ring) % 2 == 0]


def box_to_ring(box: Rectangle) -> list[float]:
    """Returns the corners of a box, clockwise from the top left."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse_to_ring(center: Point, radius_x: float, radius_y: float) -> list[float]:
    """Returns points of an ellipse, clockwise from the right. They are off by at most a thousandth of its radius."""
    turns = [2 * math.pi * i / _ELLIPSE_POINTS for i in range(_ELLIPSE_POINTS)]
    return to_ring((center[0] + radius_x * math.cos(turn), center[1] + radius_y * math.sin(turn)) for turn in turns)


def bounds(rings: Iterable[Ring]) -> Rectangle:
    """Returns the smallest box around all rings. Raises ValueError if there is no point."""
    rings = list(rings)
    xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def bounding_box(shape: Shape) -> Rectangle:
    """Returns the smallest upright box around a shape. Raises ValueError for a polygon without points."""
    match shape:
        case Box(box=(x1, y1, x2, y2)):
            return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        case Quad():
            return bounds([shape.quad])
        case Polygon():
            return bounds(shape.polygons)


def bounding_box_or_none(annotation: Annotation) -> Rectangle | None:
    """Same as `bounding_box`, but returns None for a text and for a polygon without points."""
    if isinstance(annotation, Text):
        return None
    try:
        return bounding_box(annotation)
    except ValueError:
        return None


# Areas


def signed_area(ring: Ring) -> float:
    """Returns the area in square pixels by the shoelace formula: positive if the ring runs clockwise on screen."""
    xs, ys = list(ring[::2]), list(ring[1::2])
    return (sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1]))) / 2


def area(ring: Ring) -> float:
    """Returns the area of a ring of either direction, in square pixels."""
    return abs(signed_area(ring))


def box_area(box: Sequence[float]) -> float:
    """Returns the area of a box x1, y1, x2, y2."""
    return (box[2] - box[0]) * (box[3] - box[1])


def intersection_area(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the area that two boxes share."""
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    return max(width, 0.0) * max(height, 0.0)


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2; 0 if both are empty."""
    shared = intersection_area(a, b)
    union = box_area(a) + box_area(b) - shared
    return shared / union if union > 0 else 0.0


# Clipping


def clip_box(box: Rectangle, size: tuple[int, int]) -> Rectangle | None:
    """Returns the part of a box inside an image of `size` (width, height); None if that part has no area."""
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(size[0])), min(box[3], float(size[1]))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def clip_ring(ring: Ring, box: Rectangle) -> list[list[float]]:
    """Returns the parts of a ring inside a box, as rings that run the same way; none if nothing is inside.

    A ring that is inside is returned as it is. Holes, which only a ring that crosses itself has, are filled.
    """
    x1, y1, x2, y2 = box
    xs, ys = ring[::2], ring[1::2]
    if x1 <= min(xs) and max(xs) <= x2 and y1 <= min(ys) and max(ys) <= y2:
        return [list(ring)]
    polygon = shapely.Polygon(to_points(ring))
    with np.errstate(over="ignore", invalid="ignore"):  # huge coordinates
        if not polygon.is_valid:
            polygon = shapely.make_valid(polygon)
        clipped = shapely.intersection(polygon, shapely.box(*box))
    clockwise = signed_area(ring) > 0
    parts = []
    for part in shapely.get_parts(clipped):
        if isinstance(part, shapely.Polygon) and part.area > 0:
            corners = [(min(max(x, x1), x2), min(max(y, y1), y2)) for x, y in part.exterior.coords[:-1]]
            if (signed_area(to_ring(corners)) > 0) is not clockwise:
                corners.reverse()
            parts.append(to_ring(corners))
    return parts


# Transforms


def transform_rings(rings: Iterable[Ring], move: Callable[[float, float], Point]) -> list[list[float]]:
    """Returns the rings with every point moved by `move`."""
    return [to_ring(move(x, y) for x, y in to_points(ring)) for ring in rings]


def rotate_ring(ring: Ring, degrees: float, center: Point) -> list[float]:
    """Returns the ring rotated clockwise on screen around a point."""
    (x0, y0), cos, sin = center, math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (rotated,) = transform_rings(
        [ring], lambda x, y: (x0 + cos * (x - x0) - sin * (y - y0), y0 + sin * (x - x0) + cos * (y - y0))
    )
    return rotated


def translate(annotation: Annotation, x: float, y: float) -> Annotation:
    """Returns the annotation `x` pixels further right and `y` further down."""
    if not x and not y:
        return annotation

    def move(ring: Ring) -> list[float]:
        return [value + (y if i % 2 else x) for i, value in enumerate(ring)]

    match annotation:
        case Box():
            return annotation.model_copy(update={"box": tuple(move(annotation.box))})
        case Quad():
            return annotation.model_copy(update={"quad": tuple(move(annotation.quad))})
        case Polygon():
            return annotation.model_copy(update={"polygons": [move(ring) for ring in annotation.polygons]})
        case Text():
            return annotation


def mirror(annotation: Annotation, width: float) -> Annotation:
    """Returns the annotation in the mirror image of an image `width` pixels wide. Rings keep running the same way."""

    def reflect(ring: Ring) -> list[float]:
        return [value if i % 2 else width - value for i, value in enumerate(ring)]

    match annotation:
        case Box():
            x1, y1, x2, y2 = annotation.box
            return annotation.model_copy(update={"box": (width - x2, y1, width - x1, y2)})
        case Quad():
            x1, y1, x2, y2, x3, y3, x4, y4 = reflect(annotation.quad)
            return annotation.model_copy(update={"quad": (x2, y2, x1, y1, x4, y4, x3, y3)})
        case Polygon():
            pairs = [list(zip(ring[::2], ring[1::2], strict=False)) for ring in map(reflect, annotation.polygons)]
            return annotation.model_copy(update={"polygons": [to_ring(reversed(ring)) for ring in pairs]})
        case Text():
            return annotation


# Simplification


def simplify_ring(ring: Ring, tolerance: float) -> list[float]:
    """Returns the ring with fewer points, none of the removed ones further than `tolerance` pixels from it.

    Douglas and Peucker (1973). The result starts with the same point and has at least three.
    """
    points = to_points(ring)
    if len(points) <= 3:
        return list(ring)
    far = max(range(len(points)), key=lambda i: math.dist(points[0], points[i]))
    closed = [*points, points[0]]
    kept, spans = {0, far}, [(0, far), (far, len(points))]
    while spans:
        first, last = spans.pop()
        index, distance = _find_furthest(closed, first, last)
        if distance > tolerance:
            kept.add(index)
            spans += [(first, index), (index, last)]
    if len(kept) < 3:
        furthest = [_find_furthest(closed, first, last) for first, last in ((0, far), (far, len(points)))]
        kept.add(max(furthest, key=lambda found: found[1])[0])
    return to_ring(points[i] for i in sorted(kept))


def canonicalize_rings(rings: Iterable[Ring]) -> list[list[float]]:
    """Returns the rings in the canonical form that drawn scenes use, so that a shape has only one correct answer.

    The largest ring comes first; each runs clockwise from its topmost, then leftmost point.
    """
    result = []
    for ring in rings:
        points = to_points(ring)
        if signed_area(ring) < 0:
            points.reverse()
        first = min(range(len(points)), key=lambda i: (points[i][1], points[i][0]))
        result.append(to_ring(points[first:] + points[:first]))
    return sorted(result, key=lambda ring: -area(ring))


def simplify_for_answer(polygon: Polygon, size: tuple[int, int]) -> list[list[float]]:
    """Returns a polygon's rings as an answer contains them, for an image of `size` (width, height).

    The rings are canonical, without points that location bins (a thousandth of the longer side) cannot distinguish,
    and simplified further if there are more than MAX_ANSWER_POINTS.
    """
    tolerance = max(size) / 1000
    while True:
        rings = [simplify_ring(ring, tolerance) for ring in canonicalize_rings(polygon.polygons)]
        if sum(map(len, rings)) <= 2 * MAX_ANSWER_POINTS or all(len(ring) == MIN_RING for ring in rings):
            return rings[: MAX_ANSWER_POINTS // 3]
        tolerance *= 1.5


def _find_furthest(points: Sequence[Point], first: int, last: int) -> tuple[int, float]:
    """Returns the point between two others that is furthest from the line through them, and its distance.

    The distance is 0 if there is no point between them.
    """
    (x1, y1), (x2, y2) = points[first], points[last]
    length = math.hypot(x2 - x1, y2 - y1)
    best, greatest = first, 0.0
    for i in range(first + 1, last):
        x, y = points[i]
        cross = abs((x2 - x1) * (y1 - y) - (x1 - x) * (y2 - y1))
        distance = cross / length if length else math.hypot(x - x1, y - y1)
        if distance > greatest:
            best, greatest = i, distance
    return best, greatest
