"""Corrections per 100 labels: by hand, against all pairings tried one by one, and adding up."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.evaluation.corrections import Kind, Tally, corrections, judged, labels, tallies, tally
from finetune.evaluation.matching import overlap, same
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import TASKS

quick = settings(derandomize=True, deadline=None, max_examples=150, database=None)


def box(label: str, x: float, y: float = 0, side: float = 10, score: float | None = None) -> Box:
    return Box(label=label, box=(x, y, x + side, y + side), score=score)


def word(text: str, x: float) -> Quad:
    return Quad(label=text, quad=(x, 0, x + 20, 0, x + 20, 10, x, 10))


def kinds(found: list[Annotation], true: list[Annotation]) -> list[Kind]:
    return sorted(correction.kind for correction in corrections(found, true))


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ([box("cat", 0)], [box("cat", 0)], []),
        ([box("Cat ", 1)], [box("cat", 0)], []),  # case makes no class, a pixel no place
        ([], [box("cat", 0)], [Kind.MISSED]),
        ([box("cat", 0)], [], [Kind.MADE_UP]),
        ([box("dog", 0)], [box("cat", 0)], [Kind.WRONG_CLASS]),
        ([box("cat", 5)], [box("cat", 0)], [Kind.WRONG_BOX]),  # IoU 1/3
        ([box("cat", 8.5)], [box("cat", 0)], [Kind.MADE_UP, Kind.MISSED]),  # IoU 0.08: nowhere near
        ([box("dog", 5)], [box("cat", 0)], [Kind.MADE_UP, Kind.MISSED]),  # both wrong: as much work as anew
        ([box("cat", 0), box("cat", 1)], [box("cat", 0)], [Kind.MADE_UP]),  # found twice
        ([word("STOP", 0)], [word("STOP", 1)], []),
        ([word("stop", 0)], [word("STOP", 0)], [Kind.MISREAD]),  # of words, case is part
        ([word("STOP", 0)], [box("STOP", 0)], [Kind.MADE_UP, Kind.MISSED]),
        ([Text(label="a cat")], [Text(label="a  cat ")], []),
        ([Text(label="a dog")], [Text(label="a cat"), Text(label="one cat")], [Kind.MISREAD]),
        ([Text(label="one cat")], [Text(label="a cat"), Text(label="one cat")], []),
        ([], [Text(label="a cat"), Text(label="one cat")], [Kind.MISSED]),
        ([Text(label="a cat")], [], [Kind.MADE_UP]),
        ([], [], []),
    ],
)
def test_each_thing_to_do_is_one_correction(
    found: list[Annotation], true: list[Annotation], expected: list[Kind]
) -> None:
    assert kinds(found, true) == expected


def test_an_outline_is_compared_by_its_pixels() -> None:
    square = Polygon(label="cat", polygons=[[0, 0, 40, 0, 40, 40, 0, 40]])
    triangle = Polygon(label="cat", polygons=[[0, 0, 40, 0, 0, 40]])
    far = Polygon(label="cat", polygons=[[1000, 1000, 1040, 1000, 1000, 1040]])
    assert overlap(square, triangle) == pytest.approx(0.5, abs=0.03)
    assert overlap(square, far) == 0
    assert overlap(triangle, Box(label="cat", box=(0, 0, 40, 40))) == 1  # a box is right around an outline
    assert kinds([triangle], [square]) in ([], [Kind.WRONG_BOX])
    assert kinds([far], [square]) == [Kind.MADE_UP, Kind.MISSED]


def test_a_right_answer_is_not_spent_on_another_thing() -> None:
    """The surest answer lies best on the dog; that the other is the dog, and this the cat, takes no correction."""
    cat, dog = box("cat", 0), box("dog", 4)
    found = [box("cat", 3, score=0.99), box("dog", 4, score=0.2)]
    assert kinds(found, [cat, dog]) == []


def test_the_class_of_a_correction_is_the_true_one() -> None:
    (wrong,) = corrections([box("dog", 0)], [box("cat", 0)])
    (made_up,) = corrections([box("dog", 0)], [])
    assert (wrong.label, made_up.label) == ("cat", "dog")


def test_per_hundred_labels() -> None:
    pictures = [
        ([box("cat", 0), box("dog", 100)], [box("cat", 0), box("cat", 50), box("dog", 105)]),
        ([box("cat", 0)], []),
        ([Text(label="a")], [Text(label="b"), Text(label="c")]),
    ]
    each = tallies(pictures)
    whole = sum(each, Tally())
    assert each[0] == Tally(missed=1, wrong_box=1, labels=3)
    assert whole == Tally(missed=1, wrong_box=1, made_up=1, misread=1, labels=4)
    assert whole.corrections == 4
    assert whole.per_hundred == 100
    assert math.isnan(each[1].per_hundred)
    assert tally([], []) == Tally()


def fewest(found: list[Annotation], true: list[Annotation]) -> int:
    """The corrections of the best pairing, by trying every one."""
    best = len(found) + len(true)
    for size in range(1, min(len(found), len(true)) + 1):
        for some in itertools.combinations(found, size):
            for others in itertools.permutations(true, size):
                cost = len(found) + len(true) - 2 * size
                for a, b in zip(some, others, strict=True):
                    named, iou = same(a.label, b.label), overlap(a, b)
                    cost += 0 if named and iou >= 0.5 else 1 if (iou >= 0.1 if named else iou >= 0.5) else 2
                best = min(best, cost)
    return best


shapes = st.lists(st.builds(box, st.sampled_from(["cat", "dog"]), st.integers(0, 20), st.integers(0, 6)), max_size=4)


@quick
@given(found=shapes, true=shapes)
def test_no_pairing_takes_fewer(found: list[Annotation], true: list[Annotation]) -> None:
    done = tally(found, true)
    assert done.corrections == fewest(found, true)
    assert done.labels == labels(true) == len(true)
    assert done.missed - done.made_up == len(true) - len(found)


@quick
@given(found=shapes, true=shapes)
def test_order_changes_nothing(found: list[Annotation], true: list[Annotation]) -> None:
    assert tally(found[::-1], true[::-1]).corrections == tally(found, true).corrections


def test_outlines_and_proposals_have_no_names() -> None:
    outline = Polygon(label="something", polygons=[[0, 0, 40, 0, 40, 40, 0, 40]])
    bare = outline.model_copy(update={"label": ""})
    assert tally([outline], [bare]).wrong_class == 1
    assert tally([outline], [bare], TASKS["<REGION_TO_SEGMENTATION>"]).corrections == 0
    assert tally([box("", 0)], [box("cat", 0)], TASKS["<REGION_PROPOSAL>"]).corrections == 0


def test_a_category_is_a_class() -> None:
    task = TASKS["<REGION_TO_CATEGORY>"]
    assert tally([Text(label="Cat")], [Text(label="cat")], task).corrections == 0
    assert tally([Text(label="dog")], [Text(label="cat")], task) == Tally(wrong_class=1, labels=1)


def test_writing_read_out_is_corrected_word_by_word() -> None:
    task = TASKS["<OCR>"]
    done = tally([Text(label="STOP here\nnow")], [Text(label="STOP there")], task)
    assert done == Tally(misread=1, made_up=1, labels=2)
    assert tally([], [Text(label="STOP there")], task) == Tally(missed=2, labels=2)
    assert tally([Text(label="STOP")], [], task) == Tally(made_up=1)


def test_judged_is_right_where_nobody_touches_it() -> None:
    right, wrong = box("cat", 0, score=0.9), box("dog", 50, score=0.2)
    assert judged([wrong, right], [box("cat", 1)]) == [(wrong, False), (right, True)]
    (one,) = judged([Text(label="STOP hier")], [Text(label="STOP here")], TASKS["<OCR>"])
    assert one[1] is False
