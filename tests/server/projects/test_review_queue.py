"""What to correct next: the most uncertain images, each once, without those that are corrected."""

from collections.abc import Sequence

import pytest

from finetune.active_learning import EMPTY_UNCERTAINTY
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Annotation, Box, Quad, Text
from server.projects.review_queue import select_candidates


def box(score: float, label: str = "bird") -> Box:
    return Box(label=label, box=(1.0, 2.0, 30.0, 40.0), score=score)


def image(sha256: str, *annotations: Annotation) -> LabeledImage:
    traces = [TracedAnnotation(annotation, "objects") for annotation in annotations]
    return LabeledImage.from_traces(f"{sha256}.png", 64, 48, traces, sha256=sha256)


def select(
    images: Sequence[LabeledImage], corrected: str = "", count: int = 10, tasks: Sequence[str] = ("<OD>",),
    known_labels: Sequence[str] = (),
) -> str:  # fmt: skip
    """Returns the hashes, of one letter each, of the selected images."""
    candidates, left = select_candidates(enumerate(images), set(corrected), known_labels, tasks, count)
    assert left == len({each.sha256 for each in images} - set(corrected))
    assert all(images[candidate.position].sha256 == candidate.sha256 for candidate in candidates)
    return "".join(candidate.sha256 for candidate in candidates)


def test_the_most_uncertain_come_first_and_the_first_of_equals() -> None:
    other = box(0.8, "cow")
    images = [image("a", box(0.9)), image("b", box(0.4), other), image("c", box(0.9)), image("d")]
    assert select(images) == "bdac"
    assert select(images, count=2) == "bd"
    (first, second), _ = select_candidates(enumerate(images), (), (), ["<OD>"], 2)
    assert first.uncertainty == pytest.approx(0.8)
    assert second.uncertainty == EMPTY_UNCERTAINTY


def test_labels_that_were_corrected_or_selected_count_less() -> None:
    images = [image("a", box(0.2)), image("b", box(0.3)), image("c", box(0.5, "cow"))]
    assert select(images) == "acb"
    assert select(images, known_labels=["bird", "bird"]) == "cab"
    assert select(images, count=1, known_labels=["bird"]) == "c"


def test_corrected_images_are_left_out_and_an_image_counts_once() -> None:
    images = [image("a", box(0.2)), image("b", box(0.3)), image("a", box(0.1)), image("c", box(0.4))]
    assert select(images) == "abc"
    assert select(images, corrected="bz") == "ac"
    assert select(images, corrected="abc") == ""


def test_only_annotations_that_the_project_trains_on_count() -> None:
    caption, word = Text(label="A bird.", score=0.1), Quad(label="bird", quad=(1, 1, 9, 1, 9, 9, 1, 9), score=0.2)
    images = [image("a", box(0.9), caption, word), image("b", box(0.7)), image("c", box(0.95), word, word)]
    assert select(images) == "bac"
    assert select(images, tasks=["<OCR_WITH_REGION>"]) == "cba"
    assert select(images, tasks=["<OCR>"]) == "cba"
    assert select(images, tasks=["<CAPTION>"]) == "abc"
    traces = [TracedAnnotation(box(0.99), "objects"), TracedAnnotation(caption, "words", parent=0)]
    about_a_region = LabeledImage.from_traces("d", 64, 48, traces, sha256="d")
    assert select([*images, about_a_region], tasks=["<CAPTION>"]) == "abcd"
