"""What to correct next: what is doubted most, once, and nothing that was corrected."""

from collections.abc import Sequence

import pytest

from finetune.active_learning import NOTHING_FOUND
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Annotation, Box, Quad, Text
from server.projects.review_queue import candidates


def box(score: float, label: str = "bird") -> Box:
    return Box(label=label, box=(1.0, 2.0, 30.0, 40.0), score=score)


def picture(sha256: str, *annotations: Annotation) -> LabeledImage:
    return LabeledImage.from_traces(
        f"{sha256}.png", 64, 48, tuple(TracedAnnotation(note, "objects") for note in annotations), sha256=sha256
    )


def chosen(
    pictures: Sequence[LabeledImage], corrected: str = "", count: int = 10, tasks: Sequence[str] = ("<OD>",),
    known: Sequence[str] = (),
) -> str:  # fmt: skip
    found, left = candidates(enumerate(pictures), set(corrected), known, tasks, count)
    assert left == len({each.sha256 for each in pictures} - set(corrected))
    assert all(pictures[each.position].sha256 == each.picture.sha256 for each in found)
    return "".join(each.picture.sha256 for each in found)


def test_the_most_doubtful_come_first_and_of_equals_the_first() -> None:
    other = box(0.8, "cow")
    pictures = [picture("a", box(0.9)), picture("b", box(0.4), other), picture("c", box(0.9)), picture("d")]
    assert chosen(pictures) == "bdac"
    assert chosen(pictures, count=2) == "bd"
    (first, second), _ = candidates(enumerate(pictures), (), (), ["<OD>"], 2)
    assert first.doubt == pytest.approx(0.8)
    assert second.doubt == NOTHING_FOUND


def test_names_that_were_corrected_or_chosen_are_worth_less() -> None:
    pictures = [picture("a", box(0.2)), picture("b", box(0.3)), picture("c", box(0.5, "cow"))]
    assert chosen(pictures) == "acb"
    assert chosen(pictures, known=["bird", "bird"]) == "cab"
    assert chosen(pictures, count=1, known=["bird"]) == "c"


def test_what_is_corrected_is_left_out_and_a_picture_counts_once() -> None:
    pictures = [picture("a", box(0.2)), picture("b", box(0.3)), picture("a", box(0.1)), picture("c", box(0.4))]
    assert chosen(pictures) == "abc"
    assert chosen(pictures, corrected="bz") == "ac"
    assert chosen(pictures, corrected="abc") == ""


def test_only_labels_that_the_project_learns_from_raise_doubt() -> None:
    caption, word = Text(label="A bird.", score=0.1), Quad(label="bird", quad=(1, 1, 9, 1, 9, 9, 1, 9), score=0.2)
    pictures = [picture("a", box(0.9), caption, word), picture("b", box(0.7)), picture("c", box(0.95), word, word)]
    assert chosen(pictures) == "bac"
    assert chosen(pictures, tasks=["<OCR_WITH_REGION>"]) == "cba"
    assert chosen(pictures, tasks=["<OCR>"]) == "cba"
    assert chosen(pictures, tasks=["<CAPTION>"]) == "abc"
    about_a_region = LabeledImage.from_traces(
        "d", 64, 48, (TracedAnnotation(box(0.99), "objects"), TracedAnnotation(caption, "words", parent=0)), sha256="d"
    )
    assert chosen([*pictures, about_a_region], tasks=["<CAPTION>"]) == "abcd"
