"""Names and numbers of categories, as the formats call classes."""

from labels.geometry import Shape
from prompts.annotations import Annotation, Quad

WORD_CATEGORY = "text"  # for all words; formats store the text of a word separately
REVIEW = "review"  # the attribute with the reason why a person should check an annotation
DESCRIPTION = "description"  # the attribute with the description of an object's region
UNNAMED_CATEGORY = "object"  # for shapes without a label


class CategoryIds:
    """Assigns numbers to category names, from `first` up, in the order of their first use."""

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self._ids: dict[str, int] = {}

    def get_id(self, name: str) -> int:
        """Returns the name's number; a new name gets a new number."""
        return self._ids.setdefault(name, self._first + len(self._ids))

    @property
    def by_name(self) -> dict[str, int]:
        """The numbers by name, in order."""
        return self._ids


def get_category(shape: Shape) -> str:
    """Returns the category of a shape: its label, or "text" for a word, because the label of a word is its text."""
    return WORD_CATEGORY if isinstance(shape, Quad) else shape.label or UNNAMED_CATEGORY


def describe_kind(annotation: Annotation) -> str:
    """Returns the plural name of the annotation's kind, for reports."""
    return {"box": "boxes", "quad": "words", "polygon": "polygons", "text": "captions"}[annotation.kind]
