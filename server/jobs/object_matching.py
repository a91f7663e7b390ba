"""Which shapes of two lists show the same object, and which object a phrase or a word belongs to."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from labels.geometry import Rectangle
from server.jobs.recipes.ontology import OntologyIndex, normalize_words
from server.jobs.recipes.overlaps import compute_box_overlap

SAME_OBJECT_IOU = 0.5  # from which two shapes of one class show the same object
SAME_PLACE_IOU = 0.9  # from which two answers to <OD> show one object, whatever they call it
_MIN_INSIDE = 0.8  # share of a word that its object contains

LabeledBox = tuple[Rectangle, str]


def match_shapes(known: Sequence[LabeledBox], found: Sequence[LabeledBox]) -> dict[int, int]:
    """Returns the positions in `known` of the same objects, by the positions in `found`: one for one, the highest IoU
    first.

    Two shapes are the same object if their labels are equal, or one has none, and their IoU is SAME_OBJECT_IOU or more.
    """
    if not known or not found:
        return {}
    ious = compute_box_overlap([box for box, _ in found], [box for box, _ in known])
    same = [[one == other or not one or not other for _, other in known] for _, one in found]
    return _match_greedily(np.where(np.array(same, bool), ious, 0.0), SAME_OBJECT_IOU)


def match_places(known: Sequence[Rectangle], found: Sequence[Rectangle]) -> dict[int, int]:
    """Same as `match_shapes` for shapes of any class, whose IoU is SAME_PLACE_IOU or more."""
    if not known or not found:
        return {}
    return _match_greedily(compute_box_overlap(found, known), SAME_PLACE_IOU)


def match_phrases(objects: Sequence[LabeledBox], phrases: Sequence[LabeledBox]) -> dict[int, int]:
    """Returns the positions of the objects that phrases are about, by the positions of the phrases.

    A phrase is about the object with the highest IoU, of SAME_OBJECT_IOU or more, whose class is the head of the
    phrase: "medium blue hat" is about a hat. Plurals count.
    """
    if not objects or not phrases:
        return {}
    classes = [normalize_words(label) for _, label in objects]
    index = _index_classes(dict.fromkeys(filter(None, classes)))
    heads = [index.find_label(phrase) if index else None for _, phrase in phrases]
    ious = compute_box_overlap([box for box, _ in phrases], [box for box, _ in objects])
    ious *= np.array([[head == name for name in classes] for head in heads], bool)
    return {position: int(row.argmax()) for position, row in enumerate(ious) if row.max() >= SAME_OBJECT_IOU}


def contain_words(objects: Sequence[Rectangle], words: Sequence[Rectangle]) -> list[tuple[int, int]]:
    """Returns pairs of an object and a word in it, in the order of the words: the smallest object that contains most of
    the word."""
    if not objects or not words:
        return []
    boxes, inner = np.array(objects, float), np.array(words, float)
    areas = _compute_areas(boxes)
    pairs = []
    for position, word in enumerate(inner):
        corners = np.concatenate([np.maximum(boxes[:, :2], word[:2]), np.minimum(boxes[:, 2:], word[2:])], axis=1)
        own = _compute_areas(word[None])[0]
        inside = (_compute_areas(corners) >= _MIN_INSIDE * own) & (own > 0)
        if inside.any():
            pairs.append((int(np.where(inside, areas, np.inf).argmin()), position))
    return pairs


def _match_greedily(ious: npt.NDArray[np.floating], min_iou: float) -> dict[int, int]:
    """Returns pairs of a row and a column, the highest values of `min_iou` or more first, each used once."""
    rows, columns = np.nonzero(ious >= min_iou)
    order = np.lexsort((columns, rows, -ious[rows, columns]))
    matches: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in matches and column not in taken:
            matches[row] = column
            taken.add(column)
    return matches


def _index_classes(classes: Mapping[str, None]) -> OntologyIndex:
    """Returns an index of the classes by their names and, unless that is another class, their plurals."""
    return OntologyIndex(
        {name: [name, *(form for form in _list_forms(name) if form not in classes)] for name in classes}
    )


def _list_forms(name: str) -> list[str]:
    """Returns the plurals of a name, or what it may be the plural of."""
    forms = [f"{name}s", f"{name}es"]
    if name.endswith("y"):
        forms.append(f"{name[:-1]}ies")
    if name.endswith("ies"):
        forms.append(f"{name[:-3]}y")
    if name.endswith("s") and len(name) > 2:
        forms += [name[:-1], *([name[:-2]] if name.endswith("es") else [])]
    return forms


def _compute_areas(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])
