"""Reads a line of a YOLO labels file: the number of the class, then fractions of the image's width and height.

Four fractions are a box (center, width, height), which may be followed by a confidence; eight are an oriented box; six,
ten or more a polygon. Numbers are separated by spaces or by commas.
"""

import re
from collections.abc import Mapping
from typing import Any

from labels.geometry import to_points, to_ring
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from prompts.annotations import Box, Polygon

_COMMAS = re.compile(r"\s*[,;]\s*")


def read_line(line: str, names: Mapping[float, Any], has_keypoints: bool, size: Size) -> Box | Polygon:
    """Returns the object of a line. `has_keypoints`: whether its box is followed by keypoints. Raises LabelError."""
    first, *others = _split_line(line)
    number = checks.check_number(first)
    if number not in names:
        raise LabelError(f"its class {first} has no name")
    name = names[number]
    values = [checks.check_number(part) for part in others]
    if len(values) in (4, 5) or (has_keypoints and len(values) > 5):
        if len(values) == 5 and not 0 <= values[4] <= 1:
            raise LabelError(f"its fifth number {values[4]:g} is no confidence: a box has 4 numbers")
        x, y, width, height = values[:4]
        checks.check_sides(values[:4], "center x, center y, width, height", width * size[0], height * size[1])
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        return checks.check_box(name, [v * size[i % 2] for i, v in enumerate(box)], size)
    if len(values) < 6 or len(values) % 2:
        raise LabelError(
            f"it has {len(values)} numbers after the class; a box has 4, a polygon 6, 8, 10 …, without a confidence"
        )
    return checks.check_polygon(name, _split_rings([v * size[i % 2] for i, v in enumerate(values)]), size)


def _split_line(line: str) -> list[str]:
    """Returns the numbers of a line. Raises LabelError if commas may be part of the numbers."""
    parts = _COMMAS.split(line.strip().rstrip(",; "))
    if len(parts) == 1:
        return line.split()
    if any(len(part.split()) != 1 for part in parts):
        raise LabelError(f"it has both spaces and commas between or in its numbers: {line.strip()[:60]!r}")
    return parts


def _split_rings(ring: list[float]) -> list[list[float]]:
    """Returns the rings of one line.

    The writer joins several rings by bridges without width, from the first corner of the first ring around another ring
    and back.
    """
    points = to_points(ring)
    start = points[0]
    at = [i for i, point in enumerate(points) if point == start]
    loops = [points[i + 1 : j] for i, j in zip(at[1:], [*at[2:], len(points)], strict=True)] if len(at) > 1 else []
    if not loops or any(len(loop) < 4 or loop[0] != loop[-1] for loop in loops) or at[1] < 3:
        return [ring]
    return [to_ring(points[: at[1]]), *(to_ring(loop[:-1]) for loop in loops)]
