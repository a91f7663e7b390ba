"""Shapes in pixels: their upright boxes, moved and mirrored."""

from collections.abc import Sequence

from prompts.annotations import Annotation, Box, Polygon, Quad, Text

Rectangle = tuple[float, float, float, float]  # x1, y1, x2, y2


def bounds(annotation: Annotation) -> Rectangle | None:
    """The upright box around a shape; None of a text, and of a polygon without points."""
    match annotation:
        case Box():
            return annotation.box
        case Quad():
            rings: Sequence[Sequence[float]] = [annotation.quad]
        case Polygon():
            rings = annotation.polygons
        case Text():
            return None
    xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
    return (min(xs), min(ys), max(xs), max(ys)) if xs and ys else None


def clipped(box: Rectangle, size: tuple[int, int]) -> Rectangle | None:
    """What of a box lies in a picture of `size`; None where that has no area."""
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(size[0])), min(box[3], float(size[1]))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def moved(annotation: Annotation, x: float, y: float) -> Annotation:
    """The shape `x` pixels to the right and `y` down."""
    if not x and not y:
        return annotation

    def move(points: Sequence[float]) -> list[float]:
        return [value + (y if i % 2 else x) for i, value in enumerate(points)]

    match annotation:
        case Box():
            return annotation.model_copy(update={"box": tuple(move(annotation.box))})
        case Quad():
            return annotation.model_copy(update={"quad": tuple(move(annotation.quad))})
        case Polygon():
            return annotation.model_copy(update={"polygons": [move(ring) for ring in annotation.polygons]})
        case Text():
            return annotation


def mirrored(annotation: Annotation, width: float) -> Annotation:
    """The shape of a picture `width` pixels wide as its mirror image shows it, corners and rings clockwise again."""

    def turn(points: Sequence[float]) -> list[float]:
        return [value if i % 2 else width - value for i, value in enumerate(points)]

    match annotation:
        case Box():
            x1, y1, x2, y2 = annotation.box
            return annotation.model_copy(update={"box": (width - x2, y1, width - x1, y2)})
        case Quad():
            x1, y1, x2, y2, x3, y3, x4, y4 = turn(annotation.quad)
            return annotation.model_copy(update={"quad": (x2, y2, x1, y1, x4, y4, x3, y3)})
        case Polygon():
            rings = [turn(ring) for ring in annotation.polygons]
            pairs = [list(zip(ring[::2], ring[1::2], strict=False)) for ring in rings]
            back = [[value for pair in reversed(ring) for value in pair] for ring in pairs]
            return annotation.model_copy(update={"polygons": back})
        case Text():
            return annotation
