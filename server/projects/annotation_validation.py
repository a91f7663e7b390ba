"""What a person says that a picture shows: checked, one problem a label."""

from collections.abc import Sequence
from dataclasses import dataclass

from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.checks import LabelError
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

_KINDS = {"box": LabelKind.OBJECTS, "polygon": LabelKind.OBJECTS, "quad": LabelKind.WORDS, "text": LabelKind.CAPTIONS}


@dataclass(frozen=True, slots=True)
class AnnotationProblem:
    """What is wrong with one of the annotations: its `index`, None where it is all of them together."""

    index: int | None
    reason: str


class InvalidAnnotationsError(ValueError):  # noqa: N818
    """Annotations that cannot be taught; each of the faults says what is wrong."""

    def __init__(self, faults: Sequence[AnnotationProblem]) -> None:
        super().__init__(
            "; ".join(f.reason if f.index is None else f"annotation {f.index}: {f.reason}" for f in faults)
        )
        self.faults = list(faults)


def kind_of(annotation: Annotation) -> LabelKind:
    """What kind of label it is."""
    return _KINDS[annotation.kind]


def checked(
    annotations: Sequence[Annotation], size: tuple[int, int], kind: LabelKind | None = None
) -> tuple[LabelKind, tuple[Annotation, ...]]:
    """The kind of all of them, and they as they are taught: clipped to the picture of `size` (width, height), their
    words in single spaces, without scores. Raises InvalidLabels."""
    kinds = list(dict.fromkeys(map(kind_of, annotations)))
    if kind is None:
        if len(kinds) != 1:
            why = f"they are {' and '.join(kinds)}: send each kind by itself" if kinds else "say of which kind none are"
            raise InvalidAnnotationsError([AnnotationProblem(None, f"{why}; `kind` is objects, words or captions")])
        kind = kinds[0]
    faults, notes = [], []
    for index, annotation in enumerate(annotations):
        try:
            if kind_of(annotation) is not kind:
                raise LabelError(f"a {annotation.kind} is none of the {kind}; send it by itself")
            notes.append(_checked(annotation, size))
        except LabelError as error:
            faults.append(AnnotationProblem(index, str(error)))
    if kind is LabelKind.CAPTIONS and not annotations:
        faults.append(AnnotationProblem(None, "a picture's captions are one at least"))
    if faults:
        raise InvalidAnnotationsError(faults)
    return kind, tuple(notes)


def _checked(annotation: Annotation, size: tuple[int, int]) -> Annotation:
    match annotation:
        case Box():
            return checks.box(annotation.label, annotation.box, size)
        case Polygon():
            return checks.polygon(annotation.label, annotation.polygons, size)
        case Quad():
            return checks.quad(annotation.label, annotation.quad, size)
        case Text():
            return checks.text(annotation.label)
