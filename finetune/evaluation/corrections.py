"""Corrections per 100 labels: the work that is left for a person until the answers are correct.

Each annotation that must be added, relabeled, moved or deleted is one correction:

    missed              no answer shows a true object: it must be added
    wrong class         correct place (IoU of 0.5 or more), wrong label: it must be relabeled
    localization error  correct label, IoU from 0.1 to 0.5: it must be moved
    misread             correct place, or a text, with wrong words: it must be retyped
    false positive      the answer shows nothing true, or an object that another answer shows: it must be deleted

An answer with a wrong label and a wrong place is not matched: to delete it and add the correct one is as much work as
to relabel and move it. Answers and truth are paired so that the number of corrections is minimal, and among such
pairings the one with the largest overlap is taken (Hungarian method). Neither scores nor the order of answers matter.

The counts add up over images, so that a bootstrap can resample images (`finetune.evaluation.bootstrap`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from finetune.evaluation.matching import annotation_iou, is_same_class, normalize_class
from prompts.annotations import Annotation, Quad, Text
from prompts.tasks import AnswerKind, Task

CORRECT_IOU = 0.5  # the threshold of PASCAL VOC (Everingham et al. 2010, section 4.2)
MATCHING_IOU = 0.1  # below it a box is not about the object at all (the threshold of TIDE, Bolya et al. 2020)

READING_TASKS = ("<OCR>", "<REGION_TO_OCR>")  # the answer is words in reading order
UNLABELED_TASKS = ("<REGION_PROPOSAL>",)
CATEGORY_TASK = "<REGION_TO_CATEGORY>"  # the answer is the name of a class


class CorrectionKind(StrEnum):
    """What is wrong with an answer."""

    MISSED = "missed"
    WRONG_CLASS = "wrong class"
    LOCALIZATION_ERROR = "localization error"
    MISREAD = "misread"
    FALSE_POSITIVE = "false positive"


@dataclass(frozen=True, slots=True)
class RequiredCorrection:
    """One correction. `predicted` and `true` are the annotations that it is about; one of them may be None."""

    kind: CorrectionKind
    predicted: Annotation | None
    true: Annotation | None

    @property
    def label(self) -> str:
        """The class that the correction counts for: that of the true annotation if there is one."""
        annotation = self.true or self.predicted
        return annotation.label if annotation else ""


@dataclass(frozen=True, slots=True)
class CorrectionCounts:
    """Corrections of one or more images by kind, and `labels`: the number of true labels in these images."""

    missed: int = 0
    wrong_class: int = 0
    localization_error: int = 0
    misread: int = 0
    false_positive: int = 0
    labels: int = 0

    @property
    def total(self) -> int:
        """Corrections of all kinds."""
        return self.missed + self.wrong_class + self.localization_error + self.misread + self.false_positive

    @property
    def per_hundred(self) -> float:
        """Corrections per 100 true labels; nan if there are no labels."""
        return 100 * self.total / self.labels if self.labels else float("nan")

    def __add__(self, other: "CorrectionCounts") -> "CorrectionCounts":
        return CorrectionCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @classmethod
    def from_corrections(cls, corrections: Iterable[RequiredCorrection], labels: int) -> "CorrectionCounts":
        """Counts corrections by kind."""
        counts = Counter(correction.kind.name.lower() for correction in corrections)
        return cls(**counts, labels=labels)


def find_corrections(
    predicted: Sequence[Annotation], truth: Sequence[Annotation], task: Task | None = None
) -> list[RequiredCorrection]:
    """Returns what must be done to turn the answer to one prompt into the truth.

    Shapes are compared with shapes and texts with texts. If several texts are true, they are alternatives: one of them
    is enough. `task` decides what is compared: outlines and proposals have no labels, and in a reading task each word
    is a label.
    """
    if task and task.token in READING_TASKS:
        return _compare_words(predicted, truth)
    labeled = not task or (task.answer_kind is not AnswerKind.POLYGONS and task.token not in UNLABELED_TASKS)
    shapes = [[a for a in annotations if not isinstance(a, Text)] for annotations in (predicted, truth)]
    texts = [[a for a in annotations if isinstance(a, Text)] for annotations in (predicted, truth)]
    category = bool(task and task.token == CATEGORY_TASK)
    return _compare_shapes(shapes[0], shapes[1], labeled) + _compare_texts(texts[0], texts[1], category)


def count_labels(truth: Sequence[Annotation], task: Task | None = None) -> int:
    """Counts true labels: each shape is one, alternative texts together are one; in a reading task each word is one."""
    if task and task.token in READING_TASKS:
        return sum(len(annotation.label.split()) for annotation in truth)
    shapes = sum(not isinstance(annotation, Text) for annotation in truth)
    return shapes + any(isinstance(annotation, Text) for annotation in truth)


def count_corrections(
    predicted: Sequence[Annotation], truth: Sequence[Annotation], task: Task | None = None
) -> CorrectionCounts:
    """Counts the corrections of the answer to one prompt."""
    return CorrectionCounts.from_corrections(find_corrections(predicted, truth, task), count_labels(truth, task))


def mark_correct(
    predicted: Sequence[Annotation], truth: Sequence[Annotation], task: Task | None = None
) -> list[tuple[Annotation, bool]]:
    """Returns each predicted annotation, and whether it is correct: no correction changes it."""
    corrections = find_corrections(predicted, truth, task)
    if task and task.token in READING_TASKS:
        return [(annotation, not corrections) for annotation in predicted]
    changed = {id(correction.predicted) for correction in corrections}
    return [(annotation, id(annotation) not in changed) for annotation in predicted]


def _compare_shapes(
    predicted: Sequence[Annotation], truth: Sequence[Annotation], labeled: bool
) -> list[RequiredCorrection]:
    # A pair saves up to 2 corrections: to delete the prediction and to add the true shape.
    saved = np.zeros((len(predicted), len(truth)))
    ious = np.zeros_like(saved)
    kinds: dict[tuple[int, int], CorrectionKind | None] = {}
    for i, a in enumerate(predicted):
        for j, b in enumerate(truth):
            ious[i, j] = iou = annotation_iou(a, b)
            if iou < MATCHING_IOU or isinstance(a, Quad) is not isinstance(b, Quad):
                continue
            is_word = isinstance(b, Quad)
            same = not labeled or (a.label.strip() == b.label.strip() if is_word else is_same_class(a.label, b.label))
            if iou < CORRECT_IOU and not same:
                continue
            wrong_label = CorrectionKind.MISREAD if is_word else CorrectionKind.WRONG_CLASS
            wrong_place = None if iou >= CORRECT_IOU else CorrectionKind.LOCALIZATION_ERROR
            kinds[i, j] = wrong_place if same else wrong_label
            saved[i, j] = 2 if kinds[i, j] is None else 1
    # One saved correction outweighs the largest possible sum of IoUs.
    rows, columns = linear_sum_assignment(saved * (1 + min(saved.shape)) + ious * (saved > 0), maximize=True)
    pairs = {int(i): int(j) for i, j in zip(rows, columns, strict=True) if (int(i), int(j)) in kinds}
    changes = [RequiredCorrection(kind, predicted[i], truth[j]) for i, j in pairs.items() if (kind := kinds[i, j])]
    missed = [
        RequiredCorrection(CorrectionKind.MISSED, None, truth[j]) for j in range(len(truth)) if j not in pairs.values()
    ]
    surplus = [
        RequiredCorrection(CorrectionKind.FALSE_POSITIVE, predicted[i], None)
        for i in range(len(predicted))
        if i not in pairs
    ]
    return changes + missed + surplus


def _compare_words(predicted: Sequence[Annotation], truth: Sequence[Annotation]) -> list[RequiredCorrection]:
    """Compares word by word, with the fewest words retyped, added and deleted."""
    read, written = (
        [word for annotation in annotations for word in annotation.label.split()] for annotations in (predicted, truth)
    )
    kinds = {
        "replace": CorrectionKind.MISREAD, "insert": CorrectionKind.MISSED, "delete": CorrectionKind.FALSE_POSITIVE,
    }  # fmt: skip
    corrections = []
    for edit in Levenshtein.editops(read, written):
        kind = kinds[edit.tag]
        own = None if kind is CorrectionKind.MISSED else Text(label=read[edit.src_pos])
        true = None if kind is CorrectionKind.FALSE_POSITIVE else Text(label=written[edit.dest_pos])
        corrections.append(RequiredCorrection(kind, own, true))
    return corrections


def _compare_texts(
    predicted: Sequence[Annotation], truth: Sequence[Annotation], category: bool
) -> list[RequiredCorrection]:
    if not truth:
        return [RequiredCorrection(CorrectionKind.FALSE_POSITIVE, text, None) for text in predicted]
    if not predicted:
        return [RequiredCorrection(CorrectionKind.MISSED, None, truth[0])]
    normalize = normalize_class if category else _collapse_spaces
    accepted = {normalize(text.label) for text in truth}
    correct = next((i for i, text in enumerate(predicted) if normalize(text.label) in accepted), None)
    wrong = CorrectionKind.WRONG_CLASS if category else CorrectionKind.MISREAD
    first = [] if correct is not None else [RequiredCorrection(wrong, predicted[0], truth[0])]
    rest = [text for i, text in enumerate(predicted) if i != (correct or 0)]
    return first + [RequiredCorrection(CorrectionKind.FALSE_POSITIVE, text, None) for text in rest]


def _collapse_spaces(text: str) -> str:
    return " ".join(text.split())
