"""Formats answers: annotations → the text that fine-tuning trains the model to generate. The inverse of `parsing`."""

from collections.abc import Iterable, Sequence

from prompts import locations
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.grammar import FILLER_PHRASES, MIN_RING_LOCATIONS, POLYGON_END, POLYGON_START, RING_SEPARATOR
from prompts.tasks import AnswerKind, Task
from prompts.vocabulary import find_special_token


def format_answer(task: Task, annotations: Iterable[Annotation], size: tuple[int, int]) -> str:
    """Returns the target text of a task. `parse_answer` parses it into the same annotations, except for quantization.

    The text does not preserve scores, white space around labels, and the order of a box's corners (the top left is
    written first). Consecutive boxes or polygons with the same label share it, as in the answers of the published
    checkpoints (`wheel<loc>×4<loc>×4`). Quads never share a label. Without annotations, the text is empty. A single
    polygon without a label is written without <poly>, where the task allows it.

    `size` is (width, height) in pixels. Coordinates outside the image are clamped to its border.

    Raises ValueError for annotations that the grammar cannot express: a shape of another kind, more than one text or
    an empty one, a polygon without rings or a ring with fewer than three points, a label that contains a control,
    structure or location token or a lone surrogate, a shape without a label after one with a label (it would be parsed
    with that label), and a filler phrase in a grounding.
    """
    annotations = list(annotations)
    if task.answer_kind is AnswerKind.TEXT and len(annotations) > 1:
        raise ValueError(f"the answer to {task.token} is one text, not {len(annotations)}")
    parts: list[str] = []
    previous = ""
    for annotation in annotations:
        label = _check_label(task, annotation)
        if previous and not label:
            raise ValueError(f"a shape without a label cannot follow one with the label {previous!r}")
        shared = label == previous and not isinstance(annotation, Quad)
        previous = label
        parts.append(("" if shared else label) + _format_shape(task, annotation, size))
    if task.answer_kind is AnswerKind.POLYGONS and len(parts) == 1 and not previous:
        return parts[0].removeprefix(POLYGON_START).removesuffix(POLYGON_END)
    return "".join(parts)


def _check_label(task: Task, annotation: Annotation) -> str:
    """Returns the label without surrounding white space. Raises ValueError when an answer cannot contain it."""
    label = annotation.label.strip()
    if not label.isascii() and any("\ud800" <= c <= "\udfff" for c in label):
        raise ValueError(f"the label {label[:60]!r} contains a lone surrogate, which has no UTF-8 encoding")
    if special := find_special_token(label):
        raise ValueError(f"the label {label[:60]!r} contains the reserved token {special}")
    if task.answer_kind is AnswerKind.PHRASES and label in FILLER_PHRASES:
        raise ValueError(f"the phrase {label!r} is a pronoun or filler, which cannot be grounded")
    if isinstance(annotation, Text) and not label:
        raise ValueError("a text cannot be empty; use no annotations for an empty answer")
    return label


def _format_shape(task: Task, annotation: Annotation, size: tuple[int, int]) -> str:
    match task.answer_kind, annotation:
        case AnswerKind.TEXT, Text():
            return ""
        case ((AnswerKind.BOXES | AnswerKind.PHRASES | AnswerKind.BOXES_OR_POLYGONS), Box()):
            x1, y1, x2, y2 = annotation.box
            return _format_points([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], size)
        case AnswerKind.QUADS, Quad():
            return _format_points(annotation.quad, size)
        case ((AnswerKind.POLYGONS | AnswerKind.BOXES_OR_POLYGONS), Polygon()):
            if not annotation.polygons:
                raise ValueError("a polygon needs a ring")
            rings = RING_SEPARATOR.join(_format_points(_check_ring(ring), size) for ring in annotation.polygons)
            return POLYGON_START + rings + POLYGON_END
        case _:
            raise ValueError(f"the answer to {task.token} is {task.answer_kind}; it cannot contain a {annotation.kind}")


def _format_points(points: Sequence[float], size: tuple[int, int]) -> str:
    return locations.format_locations(locations.quantize_points(points, *size))


def _check_ring(ring: Sequence[float]) -> Sequence[float]:
    """Returns the ring. Raises ValueError unless it has three or more points."""
    if len(ring) < MIN_RING_LOCATIONS or len(ring) % 2:
        raise ValueError(f"a ring needs three or more x, y pairs; got {len(ring)} numbers")
    return ring
