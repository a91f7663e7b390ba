"""Reads the shapes of LabelMe and of X-AnyLabeling, which has the same files.

Rectangles have two opposite corners (LabelMe) or four (X-AnyLabeling). Shapes of the type `rotation` or `quadrilateral`
are polygons of four corners. Circles become polygons, masks their outlines. Points and lines are left out.
"""

import io
import math
from typing import Any

import numpy as np
from PIL import Image

from labels import masks
from labels.geometry import bounds, box_to_ring, ellipse_to_ring
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.image_draft import ImageDraft
from labels.writing.categories import DESCRIPTION, REVIEW, WORD_CATEGORY
from prompts.annotations import Box

_POLYGONS = ("polygon", "rotation", "quadrilateral")
_UNUSED = ("point", "points", "line", "linestrip", "lines")
_UPRIGHT = 0.01  # pixels by which the sides of an upright rectangle are off


def read_shapes(document: dict[str, Any], draft: ImageDraft, where: str) -> None:
    """Adds the shapes of an image to its draft. `where` is the file."""
    groups: dict[Any, list[Any]] = {}
    for position, shape in enumerate(document["shapes"]):
        is_part = isinstance(shape, dict) and _get_type(shape) == "polygon" and not _find_words(shape)
        group = shape.get("group_id") if is_part else None
        # The rings of one object are polygons of one group.
        key = (group, shape.get("label")) if isinstance(group, int | str) else position
        groups.setdefault(str(key), []).append((position, shape))
    for shapes in groups.values():
        _read_object([shape for _, shape in shapes], draft, f"{where}: shape {shapes[0][0]}")
    description = document.get("description")
    for line in filter(str.strip, description.splitlines() if isinstance(description, str) else ()):
        draft.add(LabelKind.CAPTIONS, f"{where}: description", checks.check_caption, line)
    _note_unused(document, draft, where)


def _read_object(shapes: list[Any], draft: ImageDraft, source: str) -> None:
    first = shapes[0]
    if not isinstance(first, dict):
        draft.refuse_label(LabelKind.OBJECTS, source, "it is not a JSON object")
        return
    kind, words, label = _get_type(first), _find_words(first), first.get("label")
    if kind in _UNUSED and isinstance(label, str):
        draft.leave_out(source, f"a {kind} cannot be used; draw a rectangle or a polygon", label)
        return
    label_kind = LabelKind.WORDS if words else LabelKind.OBJECTS
    try:
        rings, problems = _read_rings(shapes, draft.size)
    except LabelError as error:
        draft.refuse_label(label_kind, source, str(error))
        return
    if words:
        added: object = draft.add(label_kind, source, checks.check_words, words, rings, draft.size)
        draft.leave_out_class(source, label)
    elif kind == "rectangle" and _is_upright(rings[0]):
        added = draft.add(label_kind, source, _check_rectangle, label, rings[0], draft.size)
    else:
        added = draft.add_outline(source, label, rings)
    draft.describe(source, added, _find_attributes(first, is_word=bool(words)))
    for problem in problems if added else ():
        draft.leave_out(source, f"{problem}; only its other rings are used")


def _find_attributes(shape: dict[str, Any], *, is_word: bool) -> dict[str, Any]:
    """Returns the attributes of a shape, and its description, which of a word is its text."""
    attributes = shape.get("attributes")
    found = dict(attributes) if isinstance(attributes, dict) else {}
    found.pop(REVIEW, None)
    if not is_word and shape.get("label") != WORD_CATEGORY and shape.get(DESCRIPTION):
        found[DESCRIPTION] = shape[DESCRIPTION]
    return found


def _read_rings(shapes: list[dict[str, Any]], size: Size) -> tuple[list[list[float]], list[str]]:
    """Returns the rings of an object, and why others cannot be used. Raises LabelError if there are none."""
    rings, problems = list[list[float]](), list[str]()
    for shape in shapes:
        try:
            rings += _read_shape(shape, size)
        except LabelError as error:
            problems.append(str(error))
    if not rings:
        raise LabelError(problems[0])
    return rings, problems


def _read_shape(shape: dict[str, Any], size: Size) -> list[list[float]]:
    kind = _get_type(shape)
    if kind not in (*_POLYGONS, "rectangle", "circle", "mask"):
        raise LabelError(f"a {kind} cannot be used; draw a rectangle or a polygon")
    ring = checks.check_pairs(shape.get("points"))
    if kind in _POLYGONS:
        return [ring]
    if kind == "rectangle" and len(ring) == 8:
        return [ring]
    if len(ring) != 4:
        if kind == "rectangle":
            raise LabelError(f"its rectangle has {len(ring) // 2} corners, not two opposite ones or four")
        raise LabelError(f"its {kind} has {len(ring) // 2} points, not two")
    x1, y1, x2, y2 = ring
    if kind == "circle":  # its center, and a point on it
        radius = math.hypot(x2 - x1, y2 - y1)
        return [ellipse_to_ring((x1, y1), radius, radius)]
    if kind == "mask":
        return _read_mask(shape.get("mask"), round(x1), round(y1), size)
    return [box_to_ring((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))]  # it may be drawn from any corner


def _read_mask(data: object, left: int, top: int, size: Size) -> list[list[float]]:
    """Returns the rings of a mask, a PNG whose top left corner is at `left`, `top`. Raises LabelError."""
    try:
        with Image.open(io.BytesIO(checks.decode_base64(data)), formats=("PNG",)) as image:
            width, height = image.size
            if min(left, top) < 0 or left + width > size[0] or top + height > size[1]:
                raise LabelError(f"its mask lies outside the image of {size[0]}×{size[1]} pixels")
            covered = np.asarray(image.convert("L")) > 0
    except LabelError:
        raise
    except Exception as error:  # whatever a broken PNG raises
        raise LabelError("its mask cannot be read: it is not a PNG, or a broken one") from error
    return masks.trace_mask(covered, left, top)


def _check_rectangle(label: object, ring: list[float], size: Size) -> Box:
    return checks.check_box(label, bounds([ring]), size)


def _is_upright(ring: list[float]) -> bool:
    """Returns whether four corners are those of an upright box, in any order."""
    x1, y1, x2, y2 = bounds([ring])
    corners = zip(ring[::2], ring[1::2], strict=True)
    found = {(abs(x - x1) <= _UPRIGHT, abs(y - y1) <= _UPRIGHT) for x, y in corners if _is_side(x, x1, x2, y, y1, y2)}
    return len(found) == 4 or x1 == x2 or y1 == y2


def _is_side(x: float, x1: float, x2: float, y: float, y1: float, y2: float) -> bool:
    return min(abs(x - x1), abs(x - x2)) <= _UPRIGHT and min(abs(y - y1), abs(y - y2)) <= _UPRIGHT


def _find_words(shape: dict[str, Any]) -> str:
    is_word = shape.get("label") == WORD_CATEGORY
    return str(shape.get("description") or "").partition("\n")[0] if is_word else ""


def _get_type(shape: dict[str, Any]) -> Any:
    return shape.get("shape_type") or "polygon"


def _note_unused(document: dict[str, Any], draft: ImageDraft, where: str) -> None:
    """Records what else the file says about the image and its shapes."""
    shapes = [shape for shape in document["shapes"] if isinstance(shape, dict)]
    flags = {str(name) for each in (document, *shapes) for name in _list_set(each.get("flags"))}
    if any(shape.get("difficult") is True for shape in shapes):
        flags.add("difficult")  # of X-AnyLabeling
    flags.discard(REVIEW)  # florist's own
    if flags:
        draft.leave_out(where, f"its flags {', '.join(sorted(flags))} are not used")
    if any(shape.get("kie_linking") for shape in shapes):
        draft.leave_out(where, "its links between shapes are not used")


def _list_set(values: Any) -> list[Any]:
    return (
        [name for name, value in values.items() if value not in (False, None, "")] if isinstance(values, dict) else []
    )
