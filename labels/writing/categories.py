"""Names of categories: what formats that number their classes need."""

from labels.geometry import Shape
from prompts.annotations import Annotation, Quad

WORD_CATEGORY = "text"  # of words; their text is written beside it
UNNAMED_CATEGORY = "object"  # of shapes without a label


class CategoryIds:
    """Assigns numbers to category names, from `first` up, in the order in which the names are met."""

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self._ids: dict[str, int] = {}

    def id_of(self, name: str) -> int:
        """Returns the name's number; a new name gets a new number."""
        return self._ids.setdefault(name, self._first + len(self._ids))

    @property
    def by_name(self) -> dict[str, int]:
        """Name → number, in order."""
        return self._ids


def category_of(shape: Shape) -> str:
    """Returns the category of a shape: its label, or "text" for a word, whose label is what was read."""
    return WORD_CATEGORY if isinstance(shape, Quad) else shape.label or UNNAMED_CATEGORY


def describe_kind(annotation: Annotation) -> str:
    """Returns what reports call annotations of this kind."""
    return {"box": "boxes", "quad": "quads", "polygon": "polygons", "text": "captions"}[annotation.kind]
