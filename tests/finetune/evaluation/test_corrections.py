"""Corrections per 100 labels: single cases, a comparison with all pairings, and sums."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.evaluation.corrections import (
    CorrectionCounts,
    CorrectionKind,
    count_corrections,
    count_labels,
    find_corrections,
    mark_correct,
)
from finetune.evaluation.matching import annotation_iou, is_same_class
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import TASKS

quick = settings(derandomize=True, deadline=None, max_examples=150, database=None)


def box(label: str, x: float, y: float = 0, side: float = 10, score: float | None = None) -> Box:
    return Box(label=label, box=(x, y, x + side, y + side), score=score)


def word(text: str, x: float) -> Quad:
    return Quad(label=text, quad=(x, 0, x + 20, 0, x + 20, 10, x, 10))


def list_kinds(predicted: list[Annotation], truth: list[Annotation]) -> list[CorrectionKind]:
    return sorted(correction.kind for correction in find_corrections(predicted, truth))


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ([box("cat", 0)], [box("cat", 0)], []),
        ([box("Cat ", 1)], [box("cat", 0)], []),  # neither case nor one pixel matters
        ([], [box("cat", 0)], [CorrectionKind.MISSED]),
        ([box("cat", 0)], [], [CorrectionKind.FALSE_POSITIVE]),
        ([box("dog", 0)], [box("cat", 0)], [CorrectionKind.WRONG_CLASS]),
        ([box("cat", 5)], [box("cat", 0)], [CorrectionKind.LOCALIZATION_ERROR]),  # IoU 1/3
        (
            [box("cat", 8.5)],
            [box("cat", 0)],
            [CorrectionKind.FALSE_POSITIVE, CorrectionKind.MISSED],
        ),  # IoU 0.08: not about the same object
        (
            [box("dog", 5)],
            [box("cat", 0)],
            [CorrectionKind.FALSE_POSITIVE, CorrectionKind.MISSED],
        ),  # both wrong: as much work as a new label
        ([box("cat", 0), box("cat", 1)], [box("cat", 0)], [CorrectionKind.FALSE_POSITIVE]),  # a duplicate
        ([word("STOP", 0)], [word("STOP", 1)], []),
        ([word("stop", 0)], [word("STOP", 0)], [CorrectionKind.MISREAD]),  # the case of words matters
        ([word("STOP", 0)], [box("STOP", 0)], [CorrectionKind.FALSE_POSITIVE, CorrectionKind.MISSED]),
        ([Text(label="a cat")], [Text(label="a  cat ")], []),
        ([Text(label="a dog")], [Text(label="a cat"), Text(label="one cat")], [CorrectionKind.MISREAD]),
        ([Text(label="one cat")], [Text(label="a cat"), Text(label="one cat")], []),
        ([], [Text(label="a cat"), Text(label="one cat")], [CorrectionKind.MISSED]),
        ([Text(label="a cat")], [], [CorrectionKind.FALSE_POSITIVE]),
        ([], [], []),
    ],
)
def test_each_error_is_one_correction(
    predicted: list[Annotation], truth: list[Annotation], expected: list[CorrectionKind]
) -> None:
    assert list_kinds(predicted, truth) == expected


def test_an_outline_is_compared_by_its_pixels() -> None:
    square = Polygon(label="cat", polygons=[[0, 0, 40, 0, 40, 40, 0, 40]])
    triangle = Polygon(label="cat", polygons=[[0, 0, 40, 0, 0, 40]])
    far = Polygon(label="cat", polygons=[[1000, 1000, 1040, 1000, 1000, 1040]])
    assert annotation_iou(square, triangle) == pytest.approx(0.5, abs=0.03)
    assert annotation_iou(square, far) == 0
    assert annotation_iou(triangle, Box(label="cat", box=(0, 0, 40, 40))) == 1  # a box around an outline is correct
    assert list_kinds([triangle], [square]) in ([], [CorrectionKind.LOCALIZATION_ERROR])
    assert list_kinds([far], [square]) == [CorrectionKind.FALSE_POSITIVE, CorrectionKind.MISSED]


def test_the_pairing_minimizes_corrections() -> None:
    """The answer with the highest score overlaps most with the dog, but it is the cat that it has to be paired with."""
    cat, dog = box("cat", 0), box("dog", 4)
    predicted = [box("cat", 3, score=0.99), box("dog", 4, score=0.2)]
    assert list_kinds(predicted, [cat, dog]) == []


def test_the_class_of_a_correction_is_the_true_one() -> None:
    (wrong,) = find_corrections([box("dog", 0)], [box("cat", 0)])
    (false,) = find_corrections([box("dog", 0)], [])
    assert (wrong.label, false.label) == ("cat", "dog")


def test_per_hundred_labels() -> None:
    images = [
        ([box("cat", 0), box("dog", 100)], [box("cat", 0), box("cat", 50), box("dog", 105)]),
        ([box("cat", 0)], []),
        ([Text(label="a")], [Text(label="b"), Text(label="c")]),
    ]
    counts = [count_corrections(predicted, truth) for predicted, truth in images]
    total = sum(counts, CorrectionCounts())
    assert counts[0] == CorrectionCounts(missed=1, localization_error=1, labels=3)
    assert total == CorrectionCounts(missed=1, localization_error=1, false_positive=1, misread=1, labels=4)
    assert total.total == 4
    assert total.per_hundred == 100
    assert math.isnan(counts[1].per_hundred)
    assert count_corrections([], []) == CorrectionCounts()


def count_fewest(predicted: list[Annotation], truth: list[Annotation]) -> int:
    """Returns the corrections of the best pairing, by trying all pairings."""
    best = len(predicted) + len(truth)
    for size in range(1, min(len(predicted), len(truth)) + 1):
        for some in itertools.combinations(predicted, size):
            for others in itertools.permutations(truth, size):
                cost = len(predicted) + len(truth) - 2 * size
                for a, b in zip(some, others, strict=True):
                    same, iou = is_same_class(a.label, b.label), annotation_iou(a, b)
                    cost += 0 if same and iou >= 0.5 else 1 if (iou >= 0.1 if same else iou >= 0.5) else 2
                best = min(best, cost)
    return best


shapes = st.lists(st.builds(box, st.sampled_from(["cat", "dog"]), st.integers(0, 20), st.integers(0, 6)), max_size=4)


@quick
@given(predicted=shapes, truth=shapes)
def test_no_pairing_needs_fewer_corrections(predicted: list[Annotation], truth: list[Annotation]) -> None:
    counts = count_corrections(predicted, truth)
    assert counts.total == count_fewest(predicted, truth)
    assert counts.labels == count_labels(truth) == len(truth)
    assert counts.missed - counts.false_positive == len(truth) - len(predicted)


@quick
@given(predicted=shapes, truth=shapes)
def test_the_order_does_not_matter(predicted: list[Annotation], truth: list[Annotation]) -> None:
    assert count_corrections(predicted[::-1], truth[::-1]).total == count_corrections(predicted, truth).total


def test_outlines_and_proposals_have_no_labels() -> None:
    outline = Polygon(label="something", polygons=[[0, 0, 40, 0, 40, 40, 0, 40]])
    bare = outline.model_copy(update={"label": ""})
    assert count_corrections([outline], [bare]).wrong_class == 1
    assert count_corrections([outline], [bare], TASKS["<REGION_TO_SEGMENTATION>"]).total == 0
    assert count_corrections([box("", 0)], [box("cat", 0)], TASKS["<REGION_PROPOSAL>"]).total == 0


def test_a_category_is_a_class() -> None:
    task = TASKS["<REGION_TO_CATEGORY>"]
    assert count_corrections([Text(label="Cat")], [Text(label="cat")], task).total == 0
    assert count_corrections([Text(label="dog")], [Text(label="cat")], task) == CorrectionCounts(
        wrong_class=1, labels=1
    )


def test_read_text_is_corrected_word_by_word() -> None:
    task = TASKS["<OCR>"]
    counts = count_corrections([Text(label="STOP here\nnow")], [Text(label="STOP there")], task)
    assert counts == CorrectionCounts(misread=1, false_positive=1, labels=2)
    assert count_corrections([], [Text(label="STOP there")], task) == CorrectionCounts(missed=2, labels=2)
    assert count_corrections([Text(label="STOP")], [], task) == CorrectionCounts(false_positive=1)


def test_an_answer_without_corrections_is_correct() -> None:
    correct, wrong = box("cat", 0, score=0.9), box("dog", 50, score=0.2)
    assert mark_correct([wrong, correct], [box("cat", 1)]) == [(wrong, False), (correct, True)]
    (one,) = mark_correct([Text(label="STOP hier")], [Text(label="STOP here")], TASKS["<OCR>"])
    assert one[1] is False
