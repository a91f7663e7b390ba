"""Finds annotations that repeat an earlier one: the same label at the same place."""

import math
from collections.abc import Sequence
from operator import mul

from prompts.annotations import Annotation, Box, Polygon, Quad

_TOLERANCE = 0.01  # pixels: what formats round to; two objects are never that close
_CELL = 8 * _TOLERANCE  # annotations are compared with those in the same cell, and in the next one at its border
_MARGIN = _TOLERANCE / _CELL


class AnnotationSet:
    """The annotations of one image. Two are the same if kind and label are equal and no coordinate differs by more than
    a hundredth of a pixel."""

    __slots__ = ("_by_place",)

    def __init__(self) -> None:
        # Without a list for each annotation: millions of them would double the time of the garbage collector.
        self._by_place: dict[tuple[object, ...], Annotation] = {}

    def add(self, annotation: Annotation) -> bool:
        """Adds an annotation. Returns whether it is new."""
        values = _list_coordinates(annotation)
        rings = [len(ring) for ring in annotation.polygons] if isinstance(annotation, Polygon) else []
        kind = (annotation.kind, annotation.label, *rings)
        key = kind
        for cell in _list_cells(values):
            number = 0
            while (other := self._by_place.get(key := (*kind, cell, number))) is not None:
                if all(abs(a - b) <= _TOLERANCE for a, b in zip(values, _list_coordinates(other), strict=True)):
                    return False
                number += 1
        self._by_place[key] = annotation
        return True


def _list_cells(values: Sequence[float]) -> Sequence[int]:
    """Returns the number of the cell that an annotation is in, after that of a cell that the same one may be in."""
    count = len(values)
    weighted = sum(map(mul, values, range(1, count + 1)))  # the mean would be the same for concentric boxes
    place = weighted / max(count * (count + 1) / 2, 1) / _CELL
    low, own, high = math.floor(place - _MARGIN), math.floor(place), math.floor(place + _MARGIN)
    return (own,) if low == high else (low + high - own, own)


def _list_coordinates(annotation: Annotation) -> Sequence[float]:
    match annotation:
        case Box():
            return annotation.box
        case Quad():
            return annotation.quad
        case Polygon():
            return [value for ring in annotation.polygons for value in ring]
        case _:
            return ()
