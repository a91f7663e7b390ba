"""A labelled picture → questions of every task that its labels can teach, with their true answers."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from finetune.datasets import wording
from labels.geometry import Rectangle, bounding_box, box_area, simplify_for_answer
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.sample import CAPTION_TASKS, Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.grammar import FILLER_PHRASES
from prompts.tasks import TASKS

Order = Literal["left-to-right", "size", "given", "random"]
Shape = Box | Polygon
T = TypeVar("T")

JITTER = 0.06  # how far off a person drags each side of a region, as a share of it
ABSENT = 0.4  # the share of groundings that also name what is not there
MISSED = 0.33  # the share of open-vocabulary questions whose answer is nothing
NAMED = 0.8  # the share of labels that a grounding's caption names
# Words from which a caption teaches the longer tasks: halfway, by ratio, between the mean lengths of FLD-5B's brief,
# detailed and more detailed texts, 8, 32 and 71 tokens (Florence-2, arXiv:2311.06242, table 2).
DETAILED, PARAGRAPH = 16, 47
SEEKING = ("<CAPTION_TO_PHRASE_GROUNDING>", "<OPEN_VOCABULARY_DETECTION>")  # they name what may not be there


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A picture with its labels by kind, the objects in the order in which they are told, and what chance decides."""

    example: LabeledImage
    objects: Sequence[Shape]
    words: Sequence[Quad]
    captions: Sequence[str]
    labels: Sequence[str]
    rng: np.random.Generator

    @property
    def polygons(self) -> list[Polygon]:
        return [shape for shape in self.objects if isinstance(shape, Polygon)]

    @property
    def everything(self) -> bool:
        """All objects are labelled."""
        return LabelKind.OBJECTS in self.example.complete

    @property
    def every_word(self) -> bool:
        quads = sum(isinstance(note, Quad) for note in self.example.annotations)
        return LabelKind.WORDS in self.example.complete and len(self.words) == quads

    @property
    def named(self) -> bool:
        return all(shape.label for shape in self.objects)

    @property
    def groups(self) -> dict[str, list[Shape]]:
        """Label → the objects that have it."""
        found: dict[str, list[Shape]] = {}
        for shape in self.objects:
            if shape.label:
                found.setdefault(shape.label, []).append(shape)
        return found

    @property
    def unique(self) -> list[Polygon]:
        """Polygons whose label no other object of the picture has."""
        counts = Counter(shape.label.casefold() for shape in self.objects)
        return [shape for shape in self.polygons if shape.label and counts[shape.label.casefold()] == 1]

    @property
    def absent(self) -> list[str]:
        """Labels of the dataset that are known not to be in the picture."""
        if not self.everything or not self.named:
            return []
        present = {label.casefold() for label in self.groups}
        return [label for label in self.labels if label.casefold() not in present]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def one(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.integers(len(choices)))]


def teachable(example: LabeledImage) -> frozenset[str]:
    """The tokens of the tasks that the picture can be asked."""
    lesson = _lesson(example, (), np.random.default_rng(0), "given")
    own = {question.task.token for question in example.samples}
    return frozenset(own | {token for token, (can, _) in _TEACH.items() if can(lesson)})


def knows_absence(examples: Iterable[LabeledImage], labels: Sequence[str]) -> bool:
    """Whether one of the pictures is known to lack one of the dataset's labels, so that it can be asked for in vain."""
    return any(_lesson(example, labels, np.random.default_rng(0), "given").absent for example in examples)


def questions(
    example: LabeledImage,
    tasks: Iterable[str],
    *,
    labels: Sequence[str],
    rng: np.random.Generator,
    order: Order = "left-to-right",
) -> list[Sample]:
    """A question for each of `tasks` (tokens) that the picture can be asked, and all that came with it for them, in
    the order of `tasks`. What a task leaves open (which object's region, what is looked for) is chance's.

    `labels`: the dataset's, to ask for what is not there. `order`: in which an answer tells the objects; words are
    told as they are given. Answers are in the picture's pixels, and pass `targets.answer` where the labels do.
    """
    lesson = _lesson(example, labels, rng, order)
    found: list[Sample] = []
    for token in dict.fromkeys(tasks):
        found += (question for question in example.samples if question.task.token == token)
        if token in _TEACH:
            can, ask = _TEACH[token]
            if can(lesson) and (question := ask(lesson)):
                found.append(question)
    return found


def ordered(shapes: Sequence[Shape], order: Order, rng: np.random.Generator) -> list[Shape]:
    """Objects in the order in which an answer tells them: by x1, then y1; the largest first; as given; at random."""
    match order:
        case "left-to-right":
            return sorted(shapes, key=bounding_box)
        case "size":
            return sorted(shapes, key=lambda shape: (-box_area(bounding_box(shape)), bounding_box(shape)))
        case "random":
            return [shapes[i] for i in rng.permutation(len(shapes))]
        case "given":
            return list(shapes)


def caption_task(caption: str) -> str:
    """The token of the caption task that a text of this length answers."""
    count = len(caption.split())
    return CAPTION_TASKS[int(count >= DETAILED) + int(count >= PARAGRAPH)]


def jittered(box: Rectangle, size: tuple[int, int], rng: np.random.Generator) -> Rectangle:
    """The box as a person would drag it: each side off by up to JITTER of it, inside the picture, never empty."""
    width, height = size
    x1, y1, x2, y2 = box
    dx1, dy1, dx2, dy2 = rng.uniform(-JITTER, JITTER, 4).tolist()
    w, h = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    left, right = max(x1 + dx1 * w, 0.0), min(x2 + dx2 * w, float(width))
    top, bottom = max(y1 + dy1 * h, 0.0), min(y2 + dy2 * h, float(height))
    return (
        min(left, width - 1.0),
        min(top, height - 1.0),
        max(right, min(left, width - 1.0) + 0.5),
        max(bottom, min(top, height - 1.0) + 0.5),
    )


def _lesson(example: LabeledImage, labels: Sequence[str], rng: np.random.Generator, order: Order) -> _Lesson:
    notes = example.annotations
    return _Lesson(
        example,
        ordered([note for note in notes if isinstance(note, Box | Polygon)], order, rng),
        [note for note in notes if isinstance(note, Quad) and note.label.strip()],
        [note.label for note in notes if isinstance(note, Text) and note.label.strip()],
        labels,
        rng,
    )


def _box(shape: Shape, label: str) -> Box:
    return Box(label=label, box=bounding_box(shape))


def _boxes(token: str, told: Callable[[Shape], str]) -> Callable[[_Lesson], Sample]:
    def ask(lesson: _Lesson) -> Sample:
        return Sample(TASKS[token], tuple(_box(shape, told(shape)) for shape in lesson.objects))

    return ask


def _region(token: str, shape: Shape | Quad, answer: Annotation, lesson: _Lesson) -> Sample:
    return Sample(TASKS[token], (answer,), region=jittered(bounding_box(shape), lesson.example.size, lesson.rng))


def _region_text(token: str, among: Callable[[_Lesson], Sequence[Shape | Quad]]) -> Callable[[_Lesson], Sample]:
    """What one of the shapes is called, or says."""

    def ask(lesson: _Lesson) -> Sample:
        shape = lesson.one(among(lesson))
        return _region(token, shape, Text(label=shape.label), lesson)

    return ask


def _caption(token: str) -> Callable[[_Lesson], Sample]:
    def ask(lesson: _Lesson) -> Sample:
        told = [caption for caption in lesson.captions if caption_task(caption) == token]
        return Sample(TASKS[token], (Text(label=lesson.one(told)),))

    return ask


def _captioned(token: str) -> Callable[[_Lesson], bool]:
    return lambda lesson: any(caption_task(caption) == token for caption in lesson.captions)


def _ocr(lesson: _Lesson) -> Sample:
    text = "\n".join(word.label for word in lesson.words)
    return Sample(TASKS["<OCR>"], (Text(label=text),) if text else ())


def _ocr_with_region(lesson: _Lesson) -> Sample:
    return Sample(TASKS["<OCR_WITH_REGION>"], tuple(Quad(label=w.label, quad=w.quad) for w in lesson.words))


def _grounding(lesson: _Lesson) -> Sample | None:
    """A caption of what is there, sometimes less, sometimes with what is not there, in any order."""
    phrases = {
        wording.phrase(label, len(group)): group for label, group in lesson.groups.items() if lesson.chance(NAMED)
    }
    absent = lesson.absent
    if absent and (lesson.chance(ABSENT) or not phrases):
        phrases.setdefault(wording.phrase(lesson.one(absent)), [])
    if not phrases and lesson.groups:
        label, group = next(iter(lesson.groups.items()))
        phrases = {wording.phrase(label, len(group)): group}
    told = [(phrase, group) for phrase, group in phrases.items() if phrase not in FILLER_PHRASES]
    if not told:
        return None
    if lesson.chance(0.5):
        told = [told[i] for i in lesson.rng.permutation(len(told))]
    boxes = tuple(_box(shape, phrase) for phrase, group in told for shape in group)
    text = wording.listed([phrase for phrase, _ in told])
    return Sample(TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], boxes, text=text)


def _open_vocabulary(lesson: _Lesson) -> Sample | None:
    """All boxes of one label, or none of one that is not there."""
    groups, absent = list(lesson.groups.items()), lesson.absent
    if absent and (lesson.chance(MISSED) or not groups):
        label, group = lesson.one(absent), list[Shape]()
    elif groups:
        label, group = lesson.one(groups)
    else:
        return None
    return Sample(TASKS["<OPEN_VOCABULARY_DETECTION>"], tuple(_box(shape, label) for shape in group), text=label)


def _bare(polygon: Polygon, lesson: _Lesson) -> Polygon:
    return Polygon(polygons=simplify_for_answer(polygon, lesson.example.size))


def _referring(lesson: _Lesson) -> Sample:
    polygon = lesson.one(lesson.unique)
    text = wording.expression(polygon.label)
    return Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (_bare(polygon, lesson),), text=text)


def _region_polygon(lesson: _Lesson) -> Sample:
    polygon = lesson.one(lesson.polygons)
    return _region("<REGION_TO_SEGMENTATION>", polygon, _bare(polygon, lesson), lesson)


def _labelled(lesson: _Lesson) -> list[Shape]:
    return [shape for shape in lesson.objects if shape.label]


def _described(lesson: _Lesson) -> list[Shape]:
    return [shape for shape in lesson.objects if wording.is_phrase(shape.label)]


def _nameable(lesson: _Lesson) -> bool:
    """There is something to look for, or it is known that nothing is there."""
    return bool(lesson.groups) or (lesson.everything and lesson.named)


# Token → whether a picture can be asked, and how it is.
# fmt: off
_TEACH: dict[str, tuple[Callable[[_Lesson], bool], Callable[[_Lesson], Sample | None]]] = {
    **{t: (_captioned(t), _caption(t)) for t in CAPTION_TASKS},
    "<OCR>": (lambda known: known.every_word, _ocr),
    "<OCR_WITH_REGION>": (lambda known: known.every_word, _ocr_with_region),
    "<OD>": (lambda known: known.everything and known.named, _boxes("<OD>", lambda shape: shape.label)),
    "<DENSE_REGION_CAPTION>": (
        lambda known: known.everything and bool(known.objects) and len(_described(known)) == len(known.objects),
        _boxes("<DENSE_REGION_CAPTION>", lambda shape: shape.label),
    ),
    "<REGION_PROPOSAL>": (lambda known: known.everything, _boxes("<REGION_PROPOSAL>", lambda _: "")),
    "<CAPTION_TO_PHRASE_GROUNDING>": (_nameable, _grounding),
    "<REFERRING_EXPRESSION_SEGMENTATION>": (lambda known: bool(known.unique), _referring),
    "<REGION_TO_SEGMENTATION>": (lambda known: bool(known.polygons), _region_polygon),
    "<OPEN_VOCABULARY_DETECTION>": (_nameable, _open_vocabulary),
    "<REGION_TO_CATEGORY>": (lambda known: bool(_labelled(known)), _region_text("<REGION_TO_CATEGORY>", _labelled)),
    "<REGION_TO_DESCRIPTION>": (
        lambda known: bool(_described(known)), _region_text("<REGION_TO_DESCRIPTION>", _described)
    ),
    "<REGION_TO_OCR>": (lambda known: bool(known.words), _region_text("<REGION_TO_OCR>", lambda known: known.words)),
}
# fmt: on
