"""Finds annotations that repeat an earlier one: the same label at the same place."""

import math
from collections import defaultdict
from collections.abc import Sequence

from prompts.annotations import Annotation, Box, Polygon, Quad

_TOLERANCE = 0.01  # pixels: what formats round to; two objects are never that close


class AnnotationSet:
    """The annotations of one image. Two are the same if kind and label are equal and no coordinate differs by more than
    a hundredth of a pixel."""

    def __init__(self) -> None:
        self._groups: defaultdict[tuple[object, ...], list[Sequence[float]]] = defaultdict(list)

    def add(self, annotation: Annotation) -> bool:
        """Adds an annotation. Returns whether it is new."""
        values = _list_coordinates(annotation)
        rings = [len(ring) for ring in annotation.polygons] if isinstance(annotation, Polygon) else []
        kind = (annotation.kind, annotation.label, *rings)
        # Equal annotations have nearly the same mean, so that few others have to be compared.
        group = math.floor(sum(values) / max(len(values), 1) / _TOLERANCE)
        for each in (group - 1, group, group + 1):
            for other in self._groups.get((*kind, each), ()):
                if all(abs(a - b) <= _TOLERANCE for a, b in zip(values, other, strict=True)):
                    return False
        self._groups[*kind, group].append(values)
        return True


def _list_coordinates(annotation: Annotation) -> list[float]:
    match annotation:
        case Box():
            return list(annotation.box)
        case Quad():
            return list(annotation.quad)
        case Polygon():
            return [value for ring in annotation.polygons for value in ring]
        case _:
            return []
