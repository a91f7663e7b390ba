"""The answer grammar, written: annotations → the text that fine-tuning teaches. The inverse of `grammar`."""

from collections.abc import Iterable, Sequence

from prompts import locations
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.grammar import FILLERS, SEPARATOR, UNWRAP, WRAP
from prompts.tasks import Gives, Task
from prompts.vocabulary import special_in


def answer(task: Task, annotations: Iterable[Annotation], size: tuple[int, int]) -> str:
    """The text a model should say: what `grammar` reads back as the same annotations, to the bin.

    What does not come back: scores, white space around labels, and the order of a box's corners, which is written top
    left first. Boxes and polygons in a row that have the same label are written under one, as the published
    checkpoints answer (`wheel<loc>×4<loc>×4`); quads never are. No annotations are the empty answer. A lone polygon
    without a label is written bare, where the task allows it.

    `size` is (width, height) in pixels; what lies outside the picture is clamped to its border.

    Raises ValueError for what could not be read back: an annotation that the task's grammar cannot hold, more than
    one text or an empty one, a polygon without rings or a ring without three points, a label that holds a control,
    structure or location token or a lone surrogate, a shape without a label after one that has a label (it would be
    read as another of that label), and a phrase that grounding leaves out as a filler.
    """
    annotations = list(annotations)
    if task.gives is Gives.TEXT and len(annotations) > 1:
        raise ValueError(f"{task.token} gives one text, not {len(annotations)}")
    parts: list[str] = []
    latest = ""
    for note in annotations:
        label = _label(task, note)
        if latest and not label:
            raise ValueError(f"a shape without a label cannot follow one labelled {latest!r}")
        shared = label == latest and not isinstance(note, Quad)
        latest = label
        parts.append(("" if shared else label) + _placed(task, note, size))
    if task.gives is Gives.POLYGONS and len(parts) == 1 and not latest:
        return parts[0].removeprefix(WRAP).removesuffix(UNWRAP)
    return "".join(parts)


def _label(task: Task, note: Annotation) -> str:
    label = note.label.strip()
    if not label.isascii() and any("\ud800" <= c <= "\udfff" for c in label):
        raise ValueError(f"the label {label[:60]!r} holds half a character (a lone surrogate), which has no UTF-8")
    if special := special_in(label):
        raise ValueError(f"the label {label[:60]!r} holds the reserved token {special}")
    if task.gives is Gives.PHRASES and label in FILLERS:
        raise ValueError(f"the phrase {label!r} is a pronoun or filler, which a grounding leaves out")
    if isinstance(note, Text) and not label:
        raise ValueError("a text needs letters; an empty answer is no annotations")
    return label


def _placed(task: Task, note: Annotation, size: tuple[int, int]) -> str:
    match task.gives, note:
        case Gives.TEXT, Text():
            return ""
        case ((Gives.BOXES | Gives.PHRASES | Gives.ANY), Box()):
            x1, y1, x2, y2 = note.box
            return _written([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], size)
        case Gives.QUADS, Quad():
            return _written(note.quad, size)
        case ((Gives.POLYGONS | Gives.ANY), Polygon()):
            if not note.polygons:
                raise ValueError("a polygon needs a ring")
            return WRAP + SEPARATOR.join(_written(_ring(ring), size) for ring in note.polygons) + UNWRAP
        case _:
            raise ValueError(f"{task.token} gives {task.gives}; it cannot hold a {note.kind}")


def _written(points: Sequence[float], size: tuple[int, int]) -> str:
    return locations.write(locations.quantize_points(points, *size))


def _ring(ring: Sequence[float]) -> Sequence[float]:
    if len(ring) < 6 or len(ring) % 2:
        raise ValueError(f"a ring needs three or more x, y pairs; got {len(ring)} numbers")
    return ring
