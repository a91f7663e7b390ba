"""What a file says of a label → an annotation, or the reason why it cannot be one."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from labels.geometry import NO_AREA, area, bounds, clipped, rectangle
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.vocabulary import special_in

LONGEST = 200  # characters of a label
LONGEST_TEXT = 4000  # of a caption, or of words that were read
LEAST_INSIDE = 0.5  # of a shape's area; one that reaches out less is clipped
LEAST_SIDE = 0.5  # pixels; what is thinner is a slip of the mouse

Size = tuple[int, int]


class LabelError(ValueError):
    """A label that cannot be used; the message says why."""


def label(value: object, what: str = "label", longest: int = LONGEST) -> str:
    """The words of a label, in single spaces. Raises LabelError."""
    if not isinstance(value, str):
        raise LabelError(f"its {what} is {_shown(value)}, not text")
    said = " ".join(value.split())
    if not said:
        raise LabelError(f"its {what} is empty")
    if len(said) > longest:
        raise LabelError(f"its {what} has {len(said)} characters; at most {longest} are taken: {said[:40]!r}…")
    if special := special_in(said):
        raise LabelError(f"its {what} {said[:60]!r} holds the reserved token {special}")
    if any("\ud800" <= letter <= "\udfff" for letter in said):
        raise LabelError(f"its {what} {said[:60]!r} holds half a character (a lone surrogate)")
    return said


def text(value: object, what: str = "caption") -> Text:
    """A caption. Raises LabelError."""
    return Text(label=label(value, what, LONGEST_TEXT))


def numbers(values: object, count: int | None = None) -> list[float]:
    """Finite numbers. Raises LabelError for anything else, and for other than `count` of them."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise LabelError(f"its place is {_shown(values)}, not a list of numbers")
    if count is not None and len(values) != count:
        raise LabelError(f"its place has {len(values)} numbers, not {count}")
    if set(map(type, values)) <= {int, float}:  # quickly, since masks have hundreds
        with suppress(OverflowError):
            found = list(map(float, values))
            if all(map(math.isfinite, found)):
                return found
    return [number(value) for value in values]


def size(width: object, height: object) -> Size | None:
    """What a file says of its picture's size; None where it says nothing of use."""
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def number(value: object) -> float:
    """A finite number, also one that is written as text. Raises LabelError."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        found = float(value)
    except (ValueError, OverflowError):
        raise LabelError(f"its place holds {_shown(value)}, which is no number") from None
    if not math.isfinite(found):
        raise LabelError(f"its place holds {found}, which is no finite number")
    return found


def box(name: object, corners: object, size: Size) -> Box:
    """x1, y1, x2, y2 in pixels of a picture of `size` (width, height), clipped to it. Raises LabelError."""
    x1, y1, x2, y2 = numbers(corners, 4)
    said = label(name)
    if x2 < x1 or y2 < y1:
        raise LabelError(f"its box {_list((x1, y1, x2, y2))} is inverted: it needs x1 < x2 and y1 < y2")
    if x2 - x1 < LEAST_SIDE or y2 - y1 < LEAST_SIDE:
        raise LabelError(f"its box {_list((x1, y1, x2, y2))} has no area")
    width, height = size
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    _check_inside(max(inside[2] - inside[0], 0) * max(inside[3] - inside[1], 0), (x2 - x1) * (y2 - y1), size)
    return Box(label=said, box=inside)


def polygon(name: object, rings: Sequence[object], size: Size) -> Polygon:
    """Rings x1, y1 … of one thing, clipped to the picture; rings without area are left out. Raises LabelError."""
    said = label(name)
    whole = [ring for ring in map(_ring, rings) if abs(area(ring)) >= LEAST_SIDE**2]
    if not whole:
        raise LabelError("its polygon has no area")
    border = (0.0, 0.0, float(size[0]), float(size[1]))
    parts = [part for part in (clipped(ring, border) for ring in whole) if len(part) >= 6 and abs(area(part)) > NO_AREA]
    _check_inside(sum(abs(area(part)) for part in parts), sum(abs(area(ring)) for ring in whole), size)
    return Polygon(label=said, polygons=parts)


def quad(words: object, corners: object, size: Size) -> Quad:
    """x1, y1 … x4, y4, clockwise from the words' top left; corners are moved to the border. Raises LabelError."""
    said = label(words, "text", LONGEST_TEXT)
    ring = numbers(corners, 8)
    if abs(area(ring)) < LEAST_SIDE**2:
        raise LabelError("its quadrangle has no area")
    part = clipped(ring, (0.0, 0.0, float(size[0]), float(size[1])))
    _check_inside(abs(area(part)) if part else 0.0, abs(area(ring)), size)
    x1, y1, x2, y2, x3, y3, x4, y4 = (min(max(v, 0.0), float(size[i % 2])) for i, v in enumerate(ring))
    return Quad(label=said, quad=(x1, y1, x2, y2, x3, y3, x4, y4))


def words_in(words: object, rings: Sequence[object], size: Size) -> Quad:
    """Words in any ring: one of four corners as it is, others by the upright rectangle around. Raises LabelError."""
    whole = [_ring(ring) for ring in rings]
    if not whole:
        raise LabelError("its place is empty")
    return quad(words, whole[0] if len(whole) == 1 and len(whole[0]) == 8 else rectangle(bounds(whole)), size)


def _ring(values: object) -> list[float]:
    ring = numbers(values)
    if len(ring) % 2:
        raise LabelError(f"its polygon has {len(ring)} numbers, an x without its y")
    if len(ring) < 6:
        raise LabelError(f"its polygon has {len(ring) // 2} points; it needs three")
    return ring


def _check_inside(inside: float, whole: float, size: Size) -> None:
    if inside < LEAST_INSIDE * whole:
        raise LabelError(f"it lies {1 - inside / whole:.0%} outside the picture of {size[0]}×{size[1]} pixels")


def _list(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{v:g}' for v in values)}]"


def _shown(value: Any) -> str:
    shown = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return shown if len(shown) <= 40 else shown[:39] + "…"
