"""What formats say of a shape: its rings, what bounds it, its area, its category."""

from collections.abc import Sequence

from prompts.annotations import Box, Polygon, Quad, Text

WORDS = "text"  # the category of words that were read; what they say stands beside it
NAMELESS = "object"  # of regions that have no name
CORNERS = 3

Shape = Box | Quad | Polygon


class Categories:
    """Names and their numbers from `first` up, in the order in which they are met."""

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The name's number, a new one for a new name."""
        return self._numbers.setdefault(name, self._first + len(self._numbers))

    def names(self) -> dict[str, int]:
        """Name → number, in order."""
        return self._numbers


def category(shape: Shape) -> str:
    """What it is one of: its label, unless that is the words that were read."""
    return WORDS if isinstance(shape, Quad) else shape.label or NAMELESS


def rings(shape: Shape) -> list[list[float]]:
    """Its outlines as flat lists x1, y1, x2, y2 …, each of three corners at least; a polygon may have none."""
    match shape:
        case Box():
            x1, y1, x2, y2 = shape.box
            return [[x1, y1, x2, y1, x2, y2, x1, y2]]
        case Quad():
            return [list(shape.quad)]
        case Polygon():
            return [list(ring) for ring in shape.polygons if len(ring) >= 2 * CORNERS and len(ring) % 2 == 0]


def bounds(outlines: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of what holds all rings, of which there is at least one."""
    xs, ys = [x for ring in outlines for x in ring[::2]], [y for ring in outlines for y in ring[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def area(ring: Sequence[float]) -> float:
    """Of a ring x1, y1, x2, y2 …, by the shoelace formula."""
    points = list(zip(ring[::2], ring[1::2], strict=True))
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2


def plural(annotation: Shape | Text) -> str:
    """What reports call annotations of its kind."""
    return {"box": "boxes", "quad": "quads", "polygon": "polygons", "text": "captions"}[annotation.kind]
