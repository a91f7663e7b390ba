"""Checks annotations that people send, so that every stored annotation can be used for training."""

from collections.abc import Sequence

from labels.geometry import bounding_box_or_none
from labels.label_kind import LabelKind, get_label_kind
from labels.reading.checks import LabelError, check_annotation
from prompts.annotations import Annotation, Polygon
from server.projects.errors import AnnotationProblem, InvalidAnnotationsError

MAX_ANNOTATIONS = 10_000  # of one kind in an image
MAX_COORDINATES = 250_000  # of all their shapes
MAX_CHARACTERS = 1_000_000  # of all their labels


def check_amount(annotations: Sequence[Annotation]) -> None:
    """Raises InvalidAnnotationsError for more annotations than one correction may hold."""
    coordinates = sum(len(ring) for each in annotations if isinstance(each, Polygon) for ring in each.polygons)
    characters = sum(len(annotation.label) for annotation in annotations)
    for count, limit, what in (
        (len(annotations), MAX_ANNOTATIONS, "annotations"),
        (coordinates, MAX_COORDINATES, "coordinates of polygons"),
        (characters, MAX_CHARACTERS, "characters in labels"),
    ):
        if count > limit:
            message = f"there are {count:,} {what}; the limit for an image is {limit:,}: leave some out"
            raise InvalidAnnotationsError([AnnotationProblem(None, message)])


def check_sizes(annotations: Sequence[Annotation]) -> None:
    """Raises InvalidAnnotationsError for shapes that are smaller than a pixel on both sides: probably a mistake of the
    person who sends them."""
    problems = []
    for index, annotation in enumerate(annotations):
        x1, y1, x2, y2 = bounding_box_or_none(annotation) or (0.0, 0.0, 1.0, 1.0)
        if x2 - x1 < 1 and y2 - y1 < 1:
            message = f"its {annotation.kind} is smaller than a pixel: coordinates are pixels, not fractions"
            problems.append(AnnotationProblem(index, message))
    if problems:
        raise InvalidAnnotationsError(problems)


def validate_annotations(
    annotations: Sequence[Annotation], size: tuple[int, int], kind: LabelKind | None = None
) -> tuple[LabelKind, tuple[Annotation, ...]]:
    """Returns the kind of the annotations, and the annotations as training uses them.

    They are clipped to the image, their spaces are normalized, and their scores are removed. `size`: of the image, as
    (width, height). `kind`: None for the one that all annotations have. Raises InvalidAnnotationsError.
    """
    check_amount(annotations)
    kinds = list(dict.fromkeys(map(get_label_kind, annotations)))
    if kind is None:
        if len(kinds) != 1:
            found = f"there are {' and '.join(kinds)}: send each kind separately" if kinds else "there are none"
            problem = AnnotationProblem(None, f"{found}; set `kind` to objects, words or captions")
            raise InvalidAnnotationsError([problem])
        kind = kinds[0]
    problems: list[AnnotationProblem] = []
    validated: list[Annotation] = []
    for index, annotation in enumerate(annotations):
        try:
            if get_label_kind(annotation) is not kind:
                raise LabelError(f"a {annotation.kind} does not belong to the kind {kind}; send it separately")
            validated.append(check_annotation(annotation, size))
        except LabelError as error:
            problems.append(AnnotationProblem(index, str(error)))
    if kind is LabelKind.CAPTIONS and not annotations:
        problems.append(AnnotationProblem(None, "an image needs at least one caption"))
    if problems:
        raise InvalidAnnotationsError(problems)
    return kind, tuple(validated)
