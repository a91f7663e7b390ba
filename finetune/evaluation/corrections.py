"""Corrections per 100 labels: what a person still has to do until the answers are the truth.

Each thing that must be added, relabelled, moved or deleted is one correction:

    missed        a true thing that no answer shows: added by hand
    wrong class   in its place (IoU of 0.5 and more), under another name: relabelled
    wrong box     under its name, with an IoU of 0.1 to 0.5: moved
    misread       writing or a text in its place, with other words: retyped
    made up       an answer that shows nothing true, or what another shows already: deleted

What has both another name and another place is no match: to delete it and add the right one is as much work as to
relabel and move it. Answers and truth are paired so that the corrections are as few as can be, and among such pairings
the one of the greatest overlap is taken (the Hungarian method): a person finds the short way too, and scores and the
order of answers change nothing.

The counts add up over pictures, so that a bootstrap over pictures can be made (`finetune.evaluation.bootstrap`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from finetune.evaluation.matching import named, overlap, same
from prompts.annotations import Annotation, Quad, Text
from prompts.tasks import Gives, Task

RIGHT_PLACE = 0.5  # PASCAL VOC's line (Everingham et al. 2010, section 4.2)
SOME_PLACE = 0.1  # below it a box is nearer to nothing than to the thing (TIDE's line, Bolya et al. 2020)

READING = ("<OCR>", "<REGION_TO_OCR>")  # answers are words, one after the other
NAMELESS = ("<REGION_PROPOSAL>",)
CATEGORY = "<REGION_TO_CATEGORY>"  # its text is the name of a class


class Kind(StrEnum):
    """What is wrong."""

    MISSED = "missed"
    WRONG_CLASS = "wrong class"
    WRONG_BOX = "wrong box"
    MISREAD = "misread"
    MADE_UP = "made up"


@dataclass(frozen=True, slots=True)
class Correction:
    """One thing to do. `found`, `true`: what it is about, None where there is none."""

    kind: Kind
    found: Annotation | None
    true: Annotation | None

    @property
    def label(self) -> str:
        """The class that it counts under: the true one, where something true is meant."""
        note = self.true or self.found
        return note.label if note else ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Corrections of some pictures by kind, and `labels`, how many true ones the pictures have."""

    missed: int = 0
    wrong_class: int = 0
    wrong_box: int = 0
    misread: int = 0
    made_up: int = 0
    labels: int = 0

    @property
    def corrections(self) -> int:
        """All kinds together."""
        return self.missed + self.wrong_class + self.wrong_box + self.misread + self.made_up

    @property
    def per_hundred(self) -> float:
        """Corrections per 100 true labels; nan where nothing is labelled."""
        return 100 * self.corrections / self.labels if self.labels else float("nan")

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @classmethod
    def of(cls, corrections: Iterable[Correction], labels: int) -> "Tally":
        """The corrections counted."""
        counts = Counter(correction.kind.name.lower() for correction in corrections)
        return cls(**counts, labels=labels)


def corrections(found: Sequence[Annotation], true: Sequence[Annotation], task: Task | None = None) -> list[Correction]:
    """What must be done to one picture's answers to one question, so that they say what is true.

    Shapes are compared with shapes and texts with texts. Texts are alternatives where several are true: one of them
    said is right. `task`: what was asked, where it decides what is compared: outlines and proposals have no names, and
    of writing that is read out each word is a label.
    """
    if task and task.token in READING:
        return _read(found, true)
    names = not task or (task.gives is not Gives.POLYGONS and task.token not in NAMELESS)
    shapes = [[note for note in notes if not isinstance(note, Text)] for notes in (found, true)]
    texts = [[note for note in notes if isinstance(note, Text)] for notes in (found, true)]
    return _shapes(shapes[0], shapes[1], names) + _texts(texts[0], texts[1], bool(task and task.token == CATEGORY))


def labels(true: Sequence[Annotation], task: Task | None = None) -> int:
    """How many labels a truth counts as: each shape, all alternative texts together as one, each word read out."""
    if task and task.token in READING:
        return sum(len(note.label.split()) for note in true)
    shapes = sum(not isinstance(note, Text) for note in true)
    return shapes + any(isinstance(note, Text) for note in true)


def tally(found: Sequence[Annotation], true: Sequence[Annotation], task: Task | None = None) -> Tally:
    """One picture's corrections, counted."""
    return Tally.of(corrections(found, true, task), labels(true, task))


def tallies(
    pictures: Iterable[tuple[Sequence[Annotation], Sequence[Annotation]]], task: Task | None = None
) -> list[Tally]:
    """Of each picture's answers and truth; `sum(them, Tally())` is all of them."""
    return [tally(found, true, task) for found, true in pictures]


def judged(
    found: Sequence[Annotation], true: Sequence[Annotation], task: Task | None = None
) -> list[tuple[Annotation, bool]]:
    """Each answer, and whether it stays as it is: whether no correction touches it."""
    todo = corrections(found, true, task)
    if task and task.token in READING:
        return [(note, not todo) for note in found]
    touched = {id(correction.found) for correction in todo}
    return [(note, id(note) not in touched) for note in found]


def _shapes(found: Sequence[Annotation], true: Sequence[Annotation], names: bool) -> list[Correction]:
    saved = np.zeros((len(found), len(true)))  # corrections that a pair spares: 2 of deleting the one, adding the other
    shared = np.zeros_like(saved)
    kinds: dict[tuple[int, int], Kind | None] = {}
    for i, a in enumerate(found):
        for j, b in enumerate(true):
            shared[i, j] = iou = overlap(a, b)
            if iou < SOME_PLACE or isinstance(a, Quad) is not isinstance(b, Quad):
                continue
            written = isinstance(b, Quad)
            alike = not names or (a.label.strip() == b.label.strip() if written else same(a.label, b.label))
            if iou < RIGHT_PLACE and not alike:
                continue
            wrong = Kind.MISREAD if written else Kind.WRONG_CLASS
            kinds[i, j] = wrong if not alike else None if iou >= RIGHT_PLACE else Kind.WRONG_BOX
            saved[i, j] = 2 if kinds[i, j] is None else 1
    # One correction's worth outweighs all the overlap there can be.
    rows, columns = linear_sum_assignment(saved * (1 + min(saved.shape)) + shared * (saved > 0), maximize=True)
    pairs = {int(i): int(j) for i, j in zip(rows, columns, strict=True) if (int(i), int(j)) in kinds}
    todo = [Correction(kind, found[i], true[j]) for i, j in pairs.items() if (kind := kinds[i, j])]
    todo += [Correction(Kind.MISSED, None, true[j]) for j in range(len(true)) if j not in pairs.values()]
    return todo + [Correction(Kind.MADE_UP, found[i], None) for i in range(len(found)) if i not in pairs]


def _read(found: Sequence[Annotation], true: Sequence[Annotation]) -> list[Correction]:
    """Word for word, by the fewest words retyped, added and deleted."""
    said, written = ([word for note in notes for word in note.label.split()] for notes in (found, true))
    todo = []
    for edit in Levenshtein.editops(said, written):
        kind = {"replace": Kind.MISREAD, "insert": Kind.MISSED, "delete": Kind.MADE_UP}[edit.tag]
        told = None if kind is Kind.MISSED else Text(label=said[edit.src_pos])
        meant = None if kind is Kind.MADE_UP else Text(label=written[edit.dest_pos])
        todo.append(Correction(kind, told, meant))
    return todo


def _texts(found: Sequence[Annotation], true: Sequence[Annotation], category: bool) -> list[Correction]:
    if not true:
        return [Correction(Kind.MADE_UP, note, None) for note in found]
    if not found:
        return [Correction(Kind.MISSED, None, true[0])]
    spelled = named if category else _words
    said = {spelled(note.label) for note in true}
    right = next((i for i, note in enumerate(found) if spelled(note.label) in said), None)
    wrong = Kind.WRONG_CLASS if category else Kind.MISREAD
    first = [] if right is not None else [Correction(wrong, found[0], true[0])]
    rest = [note for i, note in enumerate(found) if i != (right or 0)]
    return first + [Correction(Kind.MADE_UP, note, None) for note in rest]


def _words(text: str) -> str:
    return " ".join(text.split())
