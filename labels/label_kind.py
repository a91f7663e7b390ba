"""The kinds of labels that an image can have."""

from enum import StrEnum

from prompts.annotations import Annotation


class LabelKind(StrEnum):
    """A kind of label. A dataset can be complete for one kind and not for another."""

    OBJECTS = "objects"  # boxes and polygons
    WORDS = "words"  # quads with their text
    CAPTIONS = "captions"  # texts about the whole image


_KINDS = {
    "box": LabelKind.OBJECTS,
    "polygon": LabelKind.OBJECTS,
    "quad": LabelKind.WORDS,
    "text": LabelKind.CAPTIONS,
}


def get_label_kind(annotation: Annotation) -> LabelKind:
    """Returns the kind of label that an annotation is."""
    return _KINDS[annotation.kind]
