"""Rings: flat lists x1, y1, x2, y2 … in pixels, y down."""

import math
from collections.abc import Callable, Iterable, Sequence
from operator import mul

from prompts.annotations import Box, Polygon, Quad

Rectangle = tuple[float, float, float, float]
Point = tuple[float, float]
NO_AREA = 1e-6  # square pixels, which rounding can leave of nothing


def points(ring: Sequence[float]) -> list[Point]:
    """x1, y1, x2, y2 … → (x1, y1), (x2, y2) …"""
    return list(zip(ring[::2], ring[1::2], strict=True))


def flat(corners: Iterable[Point]) -> list[float]:
    """The inverse of `points`."""
    return [v for corner in corners for v in corner]


def area(ring: Sequence[float]) -> float:
    """By the shoelace formula; positive where the ring runs clockwise as it is seen, negative otherwise."""
    xs, ys = list(ring[::2]), list(ring[1::2])
    return (sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1]))) / 2


def bounds(rings: Sequence[Sequence[float]]) -> Rectangle:
    """x1, y1, x2, y2 of what holds all rings. Raises ValueError where there is no point."""
    xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def box_of(shape: Box | Polygon | Quad) -> Rectangle:
    """The upright rectangle around a shape, its corners in order."""
    match shape:
        case Box(box=(x1, y1, x2, y2)):
            return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        case Quad():
            return bounds([shape.quad])
        case Polygon():
            return bounds(shape.polygons)


def extent(box: Sequence[float]) -> float:
    """Area of a box x1, y1, x2, y2."""
    return (box[2] - box[0]) * (box[3] - box[1])


def common(one: Sequence[float], other: Sequence[float]) -> float:
    """Common area of two boxes."""
    width, height = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
    return max(0.0, width) * max(0.0, height)


def rectangle(box: Rectangle) -> list[float]:
    """Its corners as a ring, clockwise from the top left."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def clipped(ring: Sequence[float], box: Rectangle) -> list[float]:
    """What of a ring lies in the rectangle (Sutherland and Hodgman 1974); empty where none does.

    Parts of a concave ring that fall asunder stay joined by edges along the border, which have no area; edges that go
    along it and back to the same part are taken away, since they would stretch the box around it.
    """
    x1, y1, x2, y2 = box
    xs, ys = ring[::2], ring[1::2]
    if x1 <= min(xs) and max(xs) <= x2 and y1 <= min(ys) and max(ys) <= y2:
        return list(ring)
    corners = points(ring)
    for axis, border, sign in ((0, x1, 1), (0, x2, -1), (1, y1, 1), (1, y2, -1)):
        corners = _half(corners, axis, border, sign)
    return flat(_without_spikes(corners))


def _half(corners: Sequence[Point], axis: int, border: float, sign: int) -> list[Point]:
    """The part where sign · coordinate ≥ sign · border."""
    kept: list[Point] = []
    for before, here in zip([*corners[-1:], *corners[:-1]], corners, strict=True):
        inside, was = (sign * (corner[axis] - border) >= 0 for corner in (here, before))
        if inside != was:
            share = (border - before[axis]) / (here[axis] - before[axis])
            other = before[1 - axis] + share * (here[1 - axis] - before[1 - axis])
            kept.append((border, other) if axis == 0 else (other, border))
        if inside:
            kept.append(here)
    return kept


def _without_spikes(corners: Sequence[Point]) -> list[Point]:
    """Without points from which the ring goes back the way it came."""
    kept = list(corners)
    i = since = 0
    while len(kept) >= 3 and since < len(kept):
        i %= len(kept)
        (x0, y0), (x1, y1), (x2, y2) = kept[i - 1], kept[i], kept[(i + 1) % len(kept)]
        along, across = (x1 - x0) * (x2 - x1) + (y1 - y0) * (y2 - y1), (x1 - x0) * (y2 - y1) - (y1 - y0) * (x2 - x1)
        if across == 0 and (along < 0 or (x0, y0) == (x1, y1)):
            del kept[i]
            i, since = i - 1, 0
        else:
            i, since = i + 1, since + 1
    return kept if len(kept) >= 3 else []


def moved(rings: Iterable[Sequence[float]], move: Callable[[float, float], Point]) -> list[list[float]]:
    """Every point of every ring moved."""
    return [flat(move(x, y) for x, y in points(ring)) for ring in rings]


def simplified(ring: Sequence[float], tolerance: float) -> list[float]:
    """The ring with fewer points, none of those left out further than `tolerance` pixels from it (Douglas and Peucker
    1973); never fewer than three. It begins with the same point."""
    corners = points(ring)
    if len(corners) <= 3:
        return list(ring)
    far = max(range(len(corners)), key=lambda i: math.dist(corners[0], corners[i]))
    closed = [*corners, corners[0]]
    kept, spans = {0, far}, [(0, far), (far, len(corners))]
    while spans:
        first, last = spans.pop()
        at, distance = _furthest(closed, first, last)
        if distance > tolerance:
            kept.add(at)
            spans += [(first, at), (at, last)]
    if len(kept) < 3:
        kept.add(max((_furthest(closed, first, last) for first, last in ((0, far), (far, len(corners)))),
                     key=lambda found: found[1])[0])  # fmt: skip
    return flat(corners[i] for i in sorted(kept))


def _furthest(corners: Sequence[Point], first: int, last: int) -> tuple[int, float]:
    """The point between two others that is furthest from the line through them, and how far; 0 where there is none."""
    (x1, y1), (x2, y2) = corners[first], corners[last]
    length = math.hypot(x2 - x1, y2 - y1)
    best, most = first, 0.0
    for i in range(first + 1, last):
        x, y = corners[i]
        cross = abs((x2 - x1) * (y1 - y) - (x1 - x) * (y2 - y1))
        distance = cross / length if length else math.hypot(x - x1, y - y1)
        if distance > most:
            best, most = i, distance
    return best, most


def canonical(rings: Iterable[Sequence[float]]) -> list[list[float]]:
    """The rings as drawn scenes tell them, so that one shape has one answer: the largest first, each clockwise from
    its topmost, then leftmost point."""
    turned = []
    for ring in rings:
        corners = points(ring)
        if area(ring) < 0:
            corners.reverse()
        first = min(range(len(corners)), key=lambda i: (corners[i][1], corners[i][0]))
        turned.append(flat(corners[first:] + corners[:first]))
    return sorted(turned, key=lambda ring: -abs(area(ring)))


def turned(ring: Sequence[float], degrees: float, around: Point) -> list[float]:
    """The ring turned clockwise, as it is seen."""
    (x0, y0), cos, sin = around, math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (found,) = moved([ring], lambda x, y: (x0 + cos * (x - x0) - sin * (y - y0), y0 + sin * (x - x0) + cos * (y - y0)))
    return found
