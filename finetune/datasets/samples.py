"""Samples of an image: prompts of every task that its labels can train, with their true answers."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from finetune.datasets import wording
from finetune.datasets.image_labels import ImageLabels, ObjectOrder, ObjectShape
from labels.geometry import Rectangle, bounding_box, simplify_for_answer
from labels.labeled_image import LabeledImage
from labels.sample import CAPTION_TASKS, Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.grammar import FILLER_PHRASES
from prompts.tasks import TASKS

JITTER = 0.06  # how far a person misses each side of a region, as a share of the side
ABSENT_SHARE = 0.4  # of groundings that also contain a phrase for an absent class
EMPTY_SHARE = 0.33  # of open-vocabulary prompts for an absent class
NAMED_SHARE = 0.8  # of the classes that a grounding's caption contains
# Numbers of words from which a caption is a sample of the longer caption tasks. They are the geometric means of the
# mean lengths of FLD-5B's brief, detailed and more detailed texts: 8, 32 and 71 tokens (Florence-2, arXiv:2311.06242,
# table 2).
DETAILED_WORDS, MORE_DETAILED_WORDS = 16, 47
SEARCH_TASKS = ("<CAPTION_TO_PHRASE_GROUNDING>", "<OPEN_VOCABULARY_DETECTION>")
"""The tasks whose prompt can name an absent class."""


def find_trainable_tasks(image: LabeledImage) -> frozenset[str]:
    """Returns the tokens of the tasks that have samples of the image."""
    labels = ImageLabels.from_image(image, (), np.random.default_rng(0), "given")
    own = {sample.task.token for sample in image.samples}
    return frozenset(own | {token for token, (can_make, _) in _BUILDERS.items() if can_make(labels)})


def has_known_negatives(images: Iterable[LabeledImage], classes: Sequence[str]) -> bool:
    """Returns whether one of the images is known to lack one of the dataset's classes."""
    rng = np.random.default_rng(0)
    return any(ImageLabels.from_image(image, classes, rng, "given").absent_classes for image in images)


def make_samples(
    image: LabeledImage,
    tasks: Iterable[str],
    *,
    classes: Sequence[str],
    rng: np.random.Generator,
    order: ObjectOrder = "left-to-right",
) -> list[Sample]:
    """Makes one sample for each of `tasks` (tokens) that the labels allow, in this order.

    The image's own samples of a task come first. Choices that a task leaves open (which region, which class) are
    random. `classes`: those of the dataset, to prompt for absent ones; `order`: of objects in an answer (words keep
    their order). Answers are in pixels of the image; `format_answer` accepts them if it accepts the labels.
    """
    labels = ImageLabels.from_image(image, classes, rng, order)
    samples: list[Sample] = []
    for token in dict.fromkeys(tasks):
        samples += (sample for sample in image.samples if sample.task.token == token)
        if token in _BUILDERS:
            can_make, make = _BUILDERS[token]
            if can_make(labels) and (sample := make(labels)):
                samples.append(sample)
    return samples


def select_caption_task(caption: str) -> str:
    """Returns the token of the caption task whose answers have the length of this text."""
    count = len(caption.split())
    return CAPTION_TASKS[int(count >= DETAILED_WORDS) + int(count >= MORE_DETAILED_WORDS)]


def jitter_region(box: Rectangle, size: tuple[int, int], rng: np.random.Generator) -> Rectangle:
    """Returns the box as a person would draw it: each side off by up to JITTER, inside the image, never empty."""
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


def _to_box(shape: ObjectShape, label: str) -> Box:
    return Box(label=label, box=bounding_box(shape))


def _create_box_builder(token: str, get_label: Callable[[ObjectShape], str]) -> Callable[[ImageLabels], Sample]:
    def make(labels: ImageLabels) -> Sample:
        return Sample(TASKS[token], tuple(_to_box(shape, get_label(shape)) for shape in labels.objects))

    return make


def _make_region(token: str, shape: ObjectShape | Quad, answer: Annotation, labels: ImageLabels) -> Sample:
    return Sample(TASKS[token], (answer,), region=jitter_region(bounding_box(shape), labels.image.size, labels.rng))


def _create_region_text_builder(
    token: str, get_shapes: Callable[[ImageLabels], Sequence[ObjectShape | Quad]]
) -> Callable[[ImageLabels], Sample]:
    """Makes samples whose answer is the label of one of the shapes."""

    def make(labels: ImageLabels) -> Sample:
        shape = labels.choose(get_shapes(labels))
        return _make_region(token, shape, Text(label=shape.label), labels)

    return make


def _create_caption_builder(token: str) -> Callable[[ImageLabels], Sample]:
    def make(labels: ImageLabels) -> Sample:
        captions = [caption for caption in labels.captions if select_caption_task(caption) == token]
        return Sample(TASKS[token], (Text(label=labels.choose(captions)),))

    return make


def _has_caption(token: str) -> Callable[[ImageLabels], bool]:
    return lambda labels: any(select_caption_task(caption) == token for caption in labels.captions)


def _make_ocr(labels: ImageLabels) -> Sample:
    text = "\n".join(word.label for word in labels.words)
    return Sample(TASKS["<OCR>"], (Text(label=text),) if text else ())


def _make_ocr_with_region(labels: ImageLabels) -> Sample:
    words = tuple(Quad(label=word.label, quad=word.quad) for word in labels.words)
    return Sample(TASKS["<OCR_WITH_REGION>"], words)


def _make_grounding(labels: ImageLabels) -> Sample | None:
    """Makes a caption of most classes in the image, sometimes with an absent one, in any order."""
    phrases = {
        wording.make_phrase(label, len(group)): group
        for label, group in labels.by_class.items()
        if labels.happens(NAMED_SHARE)
    }
    absent = labels.absent_classes
    if absent and (labels.happens(ABSENT_SHARE) or not phrases):
        phrases.setdefault(wording.make_phrase(labels.choose(absent)), [])
    if not phrases and labels.by_class:
        label, group = next(iter(labels.by_class.items()))
        phrases = {wording.make_phrase(label, len(group)): group}
    chosen = [(phrase, group) for phrase, group in phrases.items() if phrase not in FILLER_PHRASES]
    if not chosen:
        return None
    if labels.happens(0.5):
        chosen = [chosen[i] for i in labels.rng.permutation(len(chosen))]
    boxes = tuple(_to_box(shape, phrase) for phrase, group in chosen for shape in group)
    text = wording.join_list([phrase for phrase, _ in chosen])
    return Sample(TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], boxes, text=text)


def _make_open_vocabulary(labels: ImageLabels) -> Sample | None:
    """Makes a prompt for all objects of one class, or for an absent class."""
    groups, absent = list(labels.by_class.items()), labels.absent_classes
    if absent and (labels.happens(EMPTY_SHARE) or not groups):
        label, group = labels.choose(absent), list[ObjectShape]()
    elif groups:
        label, group = labels.choose(groups)
    else:
        return None
    return Sample(TASKS["<OPEN_VOCABULARY_DETECTION>"], tuple(_to_box(shape, label) for shape in group), text=label)


def _to_outline(polygon: Polygon, labels: ImageLabels) -> Polygon:
    return Polygon(polygons=simplify_for_answer(polygon, labels.image.size))


def _make_referring(labels: ImageLabels) -> Sample:
    polygon = labels.choose(labels.unique_polygons)
    text = wording.make_expression(polygon.label)
    return Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (_to_outline(polygon, labels),), text=text)


def _make_region_polygon(labels: ImageLabels) -> Sample:
    polygon = labels.choose(labels.polygons)
    return _make_region("<REGION_TO_SEGMENTATION>", polygon, _to_outline(polygon, labels), labels)


# Task token → whether an image has a sample of it, and the function that makes one.
# fmt: off
_BUILDERS: dict[str, tuple[Callable[[ImageLabels], bool], Callable[[ImageLabels], Sample | None]]] = {
    **{token: (_has_caption(token), _create_caption_builder(token)) for token in CAPTION_TASKS},
    "<OCR>": (lambda labels: labels.has_all_words, _make_ocr),
    "<OCR_WITH_REGION>": (lambda labels: labels.has_all_words, _make_ocr_with_region),
    "<OD>": (
        lambda labels: labels.has_all_objects and labels.all_named,
        _create_box_builder("<OD>", lambda shape: shape.label),
    ),
    "<DENSE_REGION_CAPTION>": (
        lambda labels: (
            labels.has_all_objects and 0 < len(labels.objects) == len(labels.described_objects)
        ),
        _create_box_builder("<DENSE_REGION_CAPTION>", lambda shape: shape.label),
    ),
    "<REGION_PROPOSAL>": (
        lambda labels: labels.has_all_objects, _create_box_builder("<REGION_PROPOSAL>", lambda _: "")
    ),
    "<CAPTION_TO_PHRASE_GROUNDING>": (lambda labels: labels.can_search, _make_grounding),
    "<REFERRING_EXPRESSION_SEGMENTATION>": (lambda labels: bool(labels.unique_polygons), _make_referring),
    "<REGION_TO_SEGMENTATION>": (lambda labels: bool(labels.polygons), _make_region_polygon),
    "<OPEN_VOCABULARY_DETECTION>": (lambda labels: labels.can_search, _make_open_vocabulary),
    "<REGION_TO_CATEGORY>": (
        lambda labels: bool(labels.named_objects),
        _create_region_text_builder("<REGION_TO_CATEGORY>", lambda labels: labels.named_objects),
    ),
    "<REGION_TO_DESCRIPTION>": (
        lambda labels: bool(labels.described_objects),
        _create_region_text_builder("<REGION_TO_DESCRIPTION>", lambda labels: labels.described_objects),
    ),
    "<REGION_TO_OCR>": (
        lambda labels: bool(labels.words), _create_region_text_builder("<REGION_TO_OCR>", lambda labels: labels.words)
    ),
}
# fmt: on
