"""The answer grammar, written: annotations → the text that fine-tuning teaches. The inverse of `grammar`."""

from collections.abc import Iterable, Sequence

from prompts import locations
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import ADDED_TOKENS, CONTROL, Gives, Task

_RESERVED = (*CONTROL, *ADDED_TOKENS)


def answer(task: Task, annotations: Iterable[Annotation], size: tuple[int, int]) -> str:
    """The text a model should say: what `grammar` reads back as the same annotations, to the bin.

    `size` is (width, height) in pixels. Raises ValueError for an annotation that the task's grammar
    cannot hold, for a label that holds a control, structure or location token, and for a box without a label after one
    that has a label (it would be read as another box of that label).
    """
    parts: list[str] = []
    labelled = False
    for note in annotations:
        label = _label(note.label)
        if not isinstance(note, Text) and not isinstance(note, Polygon) and labelled and not label:
            raise ValueError("a shape without a label cannot follow one that has a label")
        labelled = labelled or bool(label)
        match task.gives, note:
            case Gives.TEXT, Text():
                parts.append(label)
            case ((Gives.BOXES | Gives.PHRASES | Gives.ANY), Box()):
                parts.append(label + _points(note.box, size))
            case Gives.QUADS, Quad():
                parts.append(label + _points(note.quad, size))
            case ((Gives.POLYGONS | Gives.ANY), Polygon()):
                parts.append(f"{label}<poly>{'<sep>'.join(_points(_ring(r), size) for r in note.polygons)}</poly>")
            case _:
                raise ValueError(f"{task.token} gives {task.gives}; it cannot hold a {note.kind}")
    if task.gives is Gives.POLYGONS and len(parts) == 1 and not labelled:
        return parts[0].removeprefix("<poly>").removesuffix("</poly>")
    return "".join(parts)


def _points(points: Sequence[float], size: tuple[int, int]) -> str:
    return locations.write(locations.quantize_points(points, *size))


def _ring(ring: Sequence[float]) -> Sequence[float]:
    if len(ring) < 6 or len(ring) % 2:
        raise ValueError(f"a ring needs three or more x, y pairs; got {len(ring)} numbers")
    return ring


def _label(label: str) -> str:
    for token in _RESERVED:
        if token in label:
            raise ValueError(f"the label {label[:60]!r} holds the reserved token {token}")
    return label.strip()
