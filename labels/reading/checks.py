"""Converts untrusted values of a file to annotations, or raises LabelError with the reason."""

import base64
import binascii
import math
import re
from collections.abc import Sequence
from typing import Any

from labels.geometry import MIN_RING, NO_AREA, Rectangle, area, bounds, box_area, box_to_ring, clip_box, clip_ring
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.text import truncate
from prompts.vocabulary import find_special_token

MAX_LABEL = 200  # characters
MAX_TEXT = 4000  # characters of a caption, or of recognized text
MIN_INSIDE = 0.5  # share of a shape's area that must be inside the image; the rest is clipped
MIN_SIDE = 0.5  # pixels; thinner shapes are accidental clicks

_NUMBERS = frozenset({int, float})

Size = tuple[int, int]


class LabelError(ValueError):
    """A label cannot be used. The message says why."""


def check_label(value: object, what: str = "label", longest: int = MAX_LABEL) -> str:
    """Returns the text of a label with single spaces. Raises LabelError."""
    text = check_text(value, what, longest)
    if special := find_special_token(text):
        raise LabelError(f"its {what} {text[:60]!r} contains the reserved token {special}")
    return text


def check_text(value: object, what: str, longest: int) -> str:
    """Returns text that no model reads, such as an attribute, with single spaces. Raises LabelError."""
    if not isinstance(value, str):
        raise LabelError(f"its {what} is {_show(value)}, not text")
    text = " ".join(value.split())
    if not text:
        raise LabelError(f"its {what} is empty")
    if len(text) > longest:
        raise LabelError(f"its {what} has {len(text)} characters, more than the limit of {longest}: {text[:40]!r}…")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise LabelError(f"its {what} {text[:60]!r} contains half a character (a lone surrogate)")
    return text


def check_caption(value: object, what: str = "caption") -> Text:
    """Returns a caption. Raises LabelError."""
    return Text(label=check_label(value, what, MAX_TEXT))


def check_numbers(values: object, count: int | None = None) -> list[float]:
    """Returns finite numbers. Raises LabelError for anything else, and if there are not `count` of them."""
    if not isinstance(values, (list, tuple)) and (not isinstance(values, Sequence) or isinstance(values, str)):
        raise LabelError(f"its position is {_show(values)}, not a list of numbers")
    if count is not None and len(values) != count:
        raise LabelError(f"its position has {len(values)} numbers, not {count}")
    if _NUMBERS.issuperset(map(type, values)):  # the fast path: masks have hundreds of numbers
        try:
            numbers = list(map(float, values))
            if math.isfinite(sum(numbers)):
                return numbers
        except OverflowError:
            pass
    return [check_number(value) for value in values]


def check_number(value: object) -> float:
    """Returns a finite number, which may be written as text. Raises LabelError."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise LabelError(f"its position contains {_show(value)}, which is not a number") from None
    if not math.isfinite(number):
        raise LabelError(f"its position contains {number}, which is not a finite number")
    return number


def decode_base64(data: object) -> bytes:
    """Returns the bytes of a file that a document contains in Base64, maybe as a data URI. Raises LabelError."""
    if not isinstance(data, str):
        raise LabelError("it is not Base64")
    text = "".join(data.split())
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LabelError(f"it is not Base64: {error}") from error


def parse_size(width: object, height: object) -> Size | None:
    """Returns the image size (width, height) that a file states, as numbers or text.

    Returns None if it is missing, invalid or zero, as tools write that do not know it.
    """
    sides = [_parse_side(value) for value in (width, height)]
    return (sides[0], sides[1]) if all(sides) else None


def _parse_side(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\.0*)?\s*", value, re.ASCII):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9 or value != int(value):
        return 0
    return int(value)


def check_box(label: object, corners: object, size: Size) -> Box:
    """Returns a box from x1, y1, x2, y2 in pixels, clipped to an image of `size` (width, height). Raises LabelError."""
    x1, y1, x2, y2 = check_numbers(corners, 4)
    whole = (x1, y1, x2, y2)
    name = check_label(label)
    if x2 < x1 or y2 < y1:
        raise LabelError(f"its box {_show_numbers(whole)} is inverted: it needs x1 < x2 and y1 < y2")
    if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
        raise LabelError(f"its box {_show_numbers(whole)} has no area")
    inside = clip_box(whole, size) or (0.0, 0.0, 0.0, 0.0)
    _check_inside(box_area(inside), box_area(whole), size)
    return Box(label=name, box=inside)


def check_sides(values: Sequence[float], names: str, width: float, height: float) -> None:
    """Raises LabelError if a box has no area, with the numbers that its file has.

    For formats that do not write x1, y1, x2, y2, of which `check_box` would speak. `names` says what the `values` are;
    `width` and `height` are in pixels.
    """
    if min(width, height) < MIN_SIDE:
        problem = "has a negative side" if min(width, height) < 0 else "has no area"
        raise LabelError(f"its box {_show_numbers(values)} ({names}) {problem}")


def check_polygon(label: object, rings: Sequence[object], size: Size) -> Polygon:
    """Returns a polygon from the rings x1, y1 … of one object, clipped to the image.

    Rings without area are left out. Raises LabelError.
    """
    name = check_label(label)
    whole = [ring for ring in map(_check_ring, rings) if area(ring) >= MIN_SIDE**2]
    if not whole:
        raise LabelError("its polygon has no area")
    return clip_polygon(name, whole, size)


def clip_polygon(label: object, rings: Sequence[list[float]], size: Size) -> Polygon:
    """Same as `check_polygon`, for rings that `split_rings` has returned."""
    name = check_label(label)
    x1, y1, x2, y2 = bounds(rings)
    if min(x1, y1) >= 0 and x2 <= size[0] and y2 <= size[1]:
        return Polygon(label=name, polygons=[list(ring) for ring in rings])
    parts = [part for ring in rings for part in clip_ring(ring, _to_rectangle(size)) if area(part) > NO_AREA]
    _check_inside(sum(map(area, parts)), sum(map(area, rings)), size)
    return Polygon(label=name, polygons=parts)


def split_rings(rings: Sequence[object]) -> tuple[list[list[float]], list[str]]:
    """Returns the rings that outline an area, and why each of the others does not."""
    good, reasons = [], []
    for values in rings:
        try:
            ring = _check_ring(values)
            if area(ring) < MIN_SIDE**2:
                raise LabelError("its polygon has no area")
            good.append(ring)
        except LabelError as error:
            reasons.append(str(error))
    return good, reasons


def check_quad(words: object, corners: object, size: Size) -> Quad:
    """Returns words in a quad from x1, y1 … x4, y4, clockwise from the top left of the text.

    Corners outside the image are moved to its border. Raises LabelError.
    """
    text = check_label(words, "text", MAX_TEXT)
    ring = check_numbers(corners, 8)
    if area(ring) < MIN_SIDE**2:
        raise LabelError("its quadrangle has no area")
    _check_inside(sum(map(area, clip_ring(ring, _to_rectangle(size)))), area(ring), size)
    x1, y1, x2, y2, x3, y3, x4, y4 = (min(max(v, 0.0), float(size[i % 2])) for i, v in enumerate(ring))
    return Quad(label=text, quad=(x1, y1, x2, y2, x3, y3, x4, y4))


def check_words(words: object, rings: Sequence[object], size: Size) -> Quad:
    """Returns words in a quad: a single ring of four corners, or the bounding box of the rings. Raises LabelError."""
    whole = [_check_ring(ring) for ring in rings]
    if not whole:
        raise LabelError("its position is empty")
    is_quad = len(whole) == 1 and len(whole[0]) == 8
    return check_quad(words, whole[0] if is_quad else box_to_ring(bounds(whole)), size)


def check_annotation(annotation: Annotation, size: Size) -> Annotation:
    """Returns an annotation that is valid for an image of `size`, without its score. Raises LabelError."""
    match annotation:
        case Box():
            return check_box(annotation.label, annotation.box, size)
        case Polygon():
            return check_polygon(annotation.label, annotation.polygons, size)
        case Quad():
            return check_quad(annotation.label, annotation.quad, size)
        case Text():
            return check_caption(annotation.label)


def check_pairs(pairs: object) -> list[float]:
    """Returns the ring of a list of [x, y] pairs. Raises LabelError."""
    if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        raise LabelError("its points are not a list of x and y")
    return [check_number(value) for pair in pairs for value in pair]


def _check_ring(values: object) -> list[float]:
    ring = check_numbers(values)
    if len(ring) % 2:
        raise LabelError(f"its polygon has {len(ring)} numbers, an x without its y")
    if len(ring) < MIN_RING:
        raise LabelError(f"its polygon has {len(ring) // 2} points; it needs three")
    return ring


def _to_rectangle(size: Size) -> Rectangle:
    return 0.0, 0.0, float(size[0]), float(size[1])


def _check_inside(inside: float, whole: float, size: Size) -> None:
    if inside < MIN_INSIDE * whole:
        raise LabelError(f"it lies {1 - inside / whole:.0%} outside the image of {size[0]}×{size[1]} pixels")


def _show_numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{v:g}' for v in values)}]"


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return truncate(text, 40)
