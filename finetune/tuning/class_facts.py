"""What a run knows about its classes: how often they are in the training images, and whether the base knows them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune.evaluation.corrections import CorrectionKind, find_corrections
from finetune.evaluation.matching import normalize_class
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation, Quad, Text
from prompts.class_lists import ClassList, clean_class_names
from server.engine.adapters.class_list import read_class_list

FEW_IMAGES = 10
"""A class in fewer training images is rarely learned well."""
FoundObjects = Mapping[str, tuple[int, int]]
"""Class → how many of its objects in the holdout were found and named correctly, and how many there are."""


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """A class of a run.

    `images`: training images that show it; `objects`: its objects in them; `known`: whether the base knows it, None if
    that cannot be told; `found`: how many of its holdout objects the start found, and how many there are, if counted.
    """

    name: str
    images: int
    objects: int
    known: bool | None = None
    found: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `run.json`."""
        return asdict(self)


def choose_class_list(classes: Sequence[str], start_adapter: str) -> ClassList | None:
    """Returns the class list of the adapter that a run trains: the classes of its data, then those that its start
    adapter knows already. None if there are none. Raises ClassListFileError."""
    known = read_class_list(Path(start_adapter)) if start_adapter else ()
    names = clean_class_names((*classes, *known))
    return ClassList(names, "the training data") if names else None


def add_start_classes(known: Sequence[str] | None, start_adapter: str) -> tuple[str, ...] | None:
    """Returns what a base knows, with what the start adapter was trained on. None stays None: it is not known.

    Raises ClassListFileError.
    """
    if known is None or not start_adapter:
        return None if known is None else tuple(known)
    return (*known, *read_class_list(Path(start_adapter)))


def count_classes(
    images: Sequence[LabeledImage], classes: Sequence[str], known: Collection[str] | None = None
) -> list[ClassFacts]:
    """Returns the facts of each class, in order. `known`: what the base was trained on; None: it is not known."""
    shown, objects = Counter[str](), Counter[str]()
    for image in images:
        labels = [a.label for a in image.annotations if not isinstance(a, Text | Quad)]
        objects.update(labels)
        shown.update(set(labels))
    names = None if known is None else set(map(normalize_class, known))
    return [
        ClassFacts(name, shown[name], objects[name], None if names is None else normalize_class(name) in names)
        for name in classes
    ]


def add_found(facts: Iterable[ClassFacts], found: FoundObjects) -> list[ClassFacts]:
    """Returns the facts with what the start found. A base whose classes are unknown knows those that it found."""
    result = []
    for each in facts:
        own = found.get(each.name)
        known = bool(own[0]) if each.known is None and own else each.known
        result.append(replace(each, known=known, found=own))
    return result


def count_found(predicted: Sequence[Annotation], sample: Sample) -> dict[str, tuple[int, int]]:
    """Returns, for each class of a true answer, the objects that were found and named correctly, and all of them."""
    if not sample.task.answers_classes:
        return {}
    wrong = {
        id(correction.true)
        for correction in find_corrections(predicted, sample.answer, sample.task)
        if correction.kind in (CorrectionKind.MISSED, CorrectionKind.WRONG_CLASS)
    }
    found: dict[str, tuple[int, int]] = {}
    for annotation in sample.answer:
        right, total = found.get(annotation.label, (0, 0))
        found[annotation.label] = (right + (id(annotation) not in wrong), total + 1)
    return found


def add_counts(total: dict[str, tuple[int, int]], more: FoundObjects) -> None:
    """Adds counts of found objects to a total."""
    for name, (right, count) in more.items():
        before = total.get(name, (0, 0))
        total[name] = (before[0] + right, before[1] + count)


def list_new(facts: Iterable[ClassFacts]) -> list[ClassFacts]:
    """Returns the classes that are new to the base."""
    return [each for each in facts if each.known is False]


def list_rare(facts: Iterable[ClassFacts]) -> list[ClassFacts]:
    """Returns the classes in few training images: those that are new to the base first, then the rarest."""
    rare = [each for each in facts if each.images < FEW_IMAGES]
    return sorted(rare, key=lambda each: (each.known is not False, each.images))
