"""The classes that projects declare: their check, and what of the corrections is outside of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labels.label_kind import LabelKind
from prompts.annotations import Annotation
from prompts.class_lists import ClassListError, check_class_names, find_nearest_class
from prompts.tasks import TASKS
from server.engine.errors import InvalidRequestError
from server.engine.request import Constraint
from server.projects.errors import AnnotationProblem, InvalidAnnotationsError, InvalidClassListError
from server.store.projects.records import Correction, Project

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class OutsideClass:
    """A class of corrections that the project does not declare: how many annotations and images have it."""

    name: str
    annotations: int
    images: int


def check_classes(classes: Sequence[str], engine: "Engine") -> tuple[str, ...]:
    """Returns the classes as a project declares them, with normalized spaces. Raises InvalidClassListError.

    Also compiles them, for which the engine's tokenizer must be able to write them. No classes: none are declared.
    """
    names = tuple(" ".join(name.split()) for name in classes)
    if not names:
        return ()
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise InvalidClassListError(f"the classes {other!r} and {name!r} differ only in case; list one of them")
    try:
        check_class_names(names)
        engine.compile_constraint(TASKS["<OD>"], Constraint(labels=names))
    except (ClassListError, InvalidRequestError) as error:
        raise InvalidClassListError(str(error)) from error
    return names


def check_annotated_classes(project: Project, kind: LabelKind, annotations: Sequence[Annotation]) -> None:
    """Raises InvalidAnnotationsError for objects of classes that the project does not declare, if it declares any."""
    if problems := [
        AnnotationProblem(index, describe_outside_class(project, annotation.label))
        for index, annotation in enumerate(annotations)
        if is_outside(project, kind, annotation)
    ]:
        raise InvalidAnnotationsError(problems)


def is_outside(project: Project, kind: LabelKind, annotation: Annotation) -> bool:
    """Returns whether an annotation is an object of a class that the project does not declare. Words and captions have
    no classes, nor have objects without a label."""
    is_object = kind is LabelKind.OBJECTS and bool(annotation.label)
    return bool(project.classes) and is_object and annotation.label not in project.classes


def describe_outside_class(project: Project, name: str) -> str:
    """Returns that a class is not one of the project's, with the nearest one and how to add it."""
    nearest = find_nearest_class(name, project.classes)
    hint = f"did you mean {nearest!r}? If not, " if nearest else ""
    add = f"add it: PATCH /v1/projects/{project.id} with `classes`, the whole new list"
    return f"{name[:60]!r} is not one of the {len(project.classes)} classes of {project.name}; {hint}{add}"


def count_outside(project: Project, corrections: Iterable[Correction]) -> list[OutsideClass]:
    """Returns the classes of corrections that the project does not declare, the most frequent first."""
    annotations, images = Counter[str](), Counter[str]()
    for correction in corrections:
        content = correction.content
        outside = [each.label for each in content.annotations if is_outside(project, content.label_kind, each)]
        annotations.update(outside)
        images.update(set(outside))
    return [OutsideClass(name, count, images[name]) for name, count in annotations.most_common()]
